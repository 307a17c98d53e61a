//! How a node stays in: a new certificate in the middle of each one's life.
//!
//! Every renewal is for a fresh key. Holds: a certificate is on disk before it is used; whatever the clocks of this node
//! and of the managers say, renewals are hours apart (`Schedule`).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use raftup_proto::{
    peer::{Reply, Request},
    unit::UnixMillis,
};
use tokio::{sync::watch, time::sleep};

use super::{
    CallError, Identity, Net, Peer,
    ca::{self, CaError, KeyRequest},
    identity::IdentityError,
};

/// Longest wait between two looks at the wall clock, which may jump.
const LOOK: Duration = Duration::from_secs(600);

/// Waits after all managers failed: the first one, and the longest. Each is twice the one before.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3600));

/// Longest wait after all managers failed, when the certificate has ended by this node's clock.
const RETRY_EXPIRED: Duration = Duration::from_secs(60);

/// Time between two renewals: at least, and at most when they do not help. Certificates of a shorter life than
/// [`ca::NODE_LIFE`] have it in proportion.
const PAUSE: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));

/// A renewal that failed; the present certificate stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The manager did not give a certificate.
    #[error("asking {peer:?} for a new certificate")]
    Ask {
        /// The manager.
        peer: Peer,
        /// Why.
        source: CallError,
    },
    /// The manager gave something else.
    #[error("{peer:?} answered with something else than a certificate of this node")]
    Answer {
        /// The manager.
        peer: Peer,
    },
    /// No key could be made.
    #[error("making a key")]
    Key(#[from] CaError),
    /// The certificate cannot be kept.
    #[error(transparent)]
    Keep(#[from] IdentityError),
    /// The certificate cannot be used.
    #[error("using the new certificate")]
    Use(#[from] rustls::Error),
    /// The new certificate ends before the one in use.
    #[error(
        "the certificate that {peer:?} gave ends before the one in use: its clock is behind; compare the clocks"
    )]
    Shorter {
        /// The manager.
        peer: Peer,
    },
    /// There is nothing to renew.
    #[error("this node is not part of a cluster")]
    NoIdentity,
}

/// Renews the node's certificate, kept in `dir`, whenever half of its life is over. Ends when the node stops.
///
/// `managers` are asked in turn; a node asks itself only if it is the only one. Drop the future to end it sooner.
pub async fn run(net: Net, dir: PathBuf, managers: watch::Receiver<Arc<[Peer]>>) {
    let mut turn = 0_usize;
    let mut schedule = Schedule::new(Instant::now());
    loop {
        let wait = match net.identity() {
            None => LOOK,
            Some(identity) => match schedule.next(Times::of(&identity), ca::now(), Instant::now()) {
                Next::Wait(wait) => wait,
                Next::Renew => {
                    turn = turn.wrapping_add(1);
                    let managers = others_first(&managers.borrow(), &identity, turn);
                    try_all(&net, &dir, &managers, &identity, &mut schedule).await;
                    continue;
                }
            },
        };
        if net.inner.stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// The managers to ask, in turn. A manager whose clock is wrong would give itself what nobody else accepts.
fn others_first(managers: &[Peer], identity: &Identity, turn: usize) -> Vec<Peer> {
    let mut others: Vec<_> = managers.iter().filter(|peer| peer.node != identity.node()).copied().collect();
    if others.is_empty() {
        return managers.to_vec();
    }
    let first = turn % others.len();
    others.rotate_left(first);
    others
}

/// Asks each manager until one gives a certificate, and has the schedule know.
async fn try_all(net: &Net, dir: &Path, managers: &[Peer], identity: &Identity, schedule: &mut Schedule) {
    for peer in managers {
        match once(net, dir, *peer).await {
            Ok(()) => {
                let new = net.identity().map_or(Times::of(identity), |new| Times::of(&new));
                let helped = schedule.renewed(new, ca::now(), Instant::now(), rand::random());
                if !helped {
                    tracing::warn!(
                        node = %peer.node,
                        again_in_s = schedule.pause.as_secs(),
                        "the new certificate is due for renewal again already: the clock of this node or of that manager \
                         is wrong; compare them (`timedatectl`)"
                    );
                }
                return;
            }
            Err(error) => {
                let (node, times) = (peer.node, schedule.failures + 1);
                let error = format!("{:#}", anyhow::Error::new(error));
                // Tries become rare, and lines in the log with them.
                if times.is_power_of_two() {
                    tracing::warn!(%node, %error, times, "the certificate was not renewed");
                } else {
                    tracing::debug!(%node, %error, times, "the certificate was not renewed");
                }
            }
        }
    }
    schedule.failed(Times::of(identity), ca::now(), Instant::now(), rand::random());
}

/// When a certificate is valid, by the clock of the manager that gave it.
#[derive(Clone, Copy, Debug)]
struct Times {
    not_before: UnixMillis,
    renew_at: UnixMillis,
    not_after: UnixMillis,
}

impl Times {
    fn of(identity: &Identity) -> Self {
        Self {
            not_before: identity.not_before(),
            renew_at: identity.renew_at(),
            not_after: identity.not_after(),
        }
    }

    fn half_life(&self) -> Duration {
        self.not_after.since(self.renew_at)
    }

    /// By the wall clock. A certificate that is not valid yet was given by one whose clock is far ahead of ours, and may end
    /// before ours gets to the middle of its life.
    fn is_due(&self, now: UnixMillis) -> bool {
        now >= self.renew_at || now < self.not_before
    }
}

/// When to renew. What is due the wall clock says, and how long a certificate has been in use; how soon something is
/// tried again, the monotonic clock alone.
#[derive(Debug)]
struct Schedule {
    /// Since when the present certificate has been in use, as far as this process knows.
    since: Instant,
    /// Nothing is tried before.
    not_before: Instant,
    /// Time between the last renewal and the next.
    pause: Duration,
    /// Tries in a row that failed.
    failures: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Renew,
    Wait(Duration),
}

impl Schedule {
    fn new(now: Instant) -> Self {
        Self { since: now, not_before: now, pause: Duration::ZERO, failures: 0 }
    }

    fn next(&mut self, certificate: Times, wall: UnixMillis, now: Instant) -> Next {
        let used = now.saturating_duration_since(self.since);
        let left = certificate.half_life().saturating_sub(used);
        if !certificate.is_due(wall) && !left.is_zero() {
            self.failures = 0;
            return Next::Wait(certificate.renew_at.since(wall).min(left).min(LOOK));
        }
        match self.not_before.saturating_duration_since(now) {
            Duration::ZERO => Next::Renew,
            // Looked at again meanwhile: a clock that was corrected makes the wait needless, and its reason.
            wait => Next::Wait(wait.min(LOOK)),
        }
    }

    /// A certificate was given. Returns whether that helped: it is not due again soon. `chance` spreads the nodes of a
    /// cluster.
    fn renewed(&mut self, new: Times, wall: UnixMillis, now: Instant, chance: u8) -> bool {
        let part = new.half_life() / 10;
        let (least, most) = (PAUSE.0.min(part), PAUSE.1.min(new.half_life()));
        let helped = !new.is_due(wall) && !new.is_due(wall.plus(new.half_life() / 4));
        self.pause = if helped { least } else { (self.pause * 2).clamp(least, most) };
        (self.since, self.failures) = (now, 0);
        self.not_before = now + spread(self.pause, chance);
        helped
    }

    /// No manager gave a certificate.
    fn failed(&mut self, present: Times, wall: UnixMillis, now: Instant, chance: u8) {
        self.failures = self.failures.saturating_add(1);
        let left = present.not_after.since(wall);
        let longest = if left.is_zero() { RETRY_EXPIRED } else { (left / 20).clamp(RETRY.0, RETRY.1) };
        let wait = RETRY.0.saturating_mul(1 << (self.failures - 1).min(16)).min(longest);
        self.not_before = now + spread(wait, chance);
    }
}

/// Up to a quarter more than `wait`.
fn spread(wait: Duration, chance: u8) -> Duration {
    wait + wait * u32::from(chance) / 1024
}

/// Asks one manager for a new certificate, keeps it in `dir` and uses it. Also the way to a certificate of another role.
pub async fn once(net: &Net, dir: &Path, peer: Peer) -> Result<(), RenewError> {
    let old = net.identity().ok_or(RenewError::NoIdentity)?;
    let KeyRequest { key, csr } = KeyRequest::generate()?;
    let reply = net.call(peer, Request::Renew { csr }).await;
    let certificate = match reply.map_err(|source| RenewError::Ask { peer, source })? {
        Reply::Certificate { certificate } => certificate,
        Reply::Done
        | Reply::Probed { .. }
        | Reply::Credential(_)
        | Reply::Examined { .. }
        | Reply::Blob(_) => {
            return Err(RenewError::Answer { peer });
        }
    };
    let new = Identity::new(certificate, old.ca().to_vec(), key)?;
    if (new.cluster(), new.node()) != (old.cluster(), old.node()) {
        return Err(RenewError::Answer { peer });
    }
    // One for another role is wanted whenever it ends.
    if new.role() == old.role() && new.not_after() < old.not_after() {
        return Err(RenewError::Shorter { peer });
    }
    super::tls::server(&new)?;
    let new = Arc::new(new);
    save(new.clone(), dir.to_owned()).await?;
    net.set_identity(new.clone())?;
    tracing::info!(node = %new.node(), role = %new.role(), "certificate renewed");
    Ok(())
}

async fn save(identity: Arc<Identity>, dir: PathBuf) -> Result<(), IdentityError> {
    let path = dir.clone();
    let saved = tokio::task::spawn_blocking(move || identity.save(&dir)).await;
    saved.unwrap_or_else(|error| Err(IdentityError::Io { path, source: error.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const START: u64 = 1_800_000_000_000;

    fn given_at(wall: UnixMillis) -> Times {
        let (not_before, not_after) = (UnixMillis(wall.0 - 600_000), wall.plus(ca::NODE_LIFE));
        Times { not_before, renew_at: wall.plus(ca::NODE_LIFE / 2), not_after }
    }

    /// What becomes of a node in `days`, whose clock is `ahead` of true time by so many days at each of them, where
    /// managers answer if `answers` says so. Returns the times of renewals and of failed tries, in true time.
    fn live(
        days: u32,
        ahead: impl Fn(f64) -> f64,
        answers: impl Fn(f64) -> bool,
    ) -> (Vec<Duration>, Vec<Duration>) {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let truth = |at: Duration| UnixMillis(START).plus(at);
        let mut certificate = given_at(truth(Duration::ZERO));
        let (mut at, mut renewed, mut failed) = (Duration::ZERO, Vec::new(), Vec::new());
        while at < DAY * days {
            let day = at.as_secs_f64() / DAY.as_secs_f64();
            let wall = UnixMillis((truth(at).0 as f64 + ahead(day) * 86_400_000.0) as u64);
            match schedule.next(certificate, wall, start + at) {
                Next::Wait(wait) => at += wait.max(Duration::from_millis(1)),
                Next::Renew if answers(day) => {
                    certificate = given_at(truth(at));
                    schedule.renewed(certificate, wall, start + at, 7);
                    renewed.push(at);
                }
                Next::Renew => {
                    schedule.failed(certificate, wall, start + at, 7);
                    failed.push(at);
                }
            }
        }
        (renewed, failed)
    }

    #[test]
    fn right_clocks_renew_at_half_of_each_life() {
        let (renewed, failed) = live(365, |_| 0.0, |_| true);
        assert_eq!((renewed.len(), failed.len()), (8, 0));
        assert_eq!(renewed[0], ca::NODE_LIFE / 2);
    }

    #[test]
    fn a_wrong_clock_does_not_renew_without_end() {
        for ahead in [44.99, 45.0, 46.0, 60.0, 89.99, 91.0, 400.0, -1.0, -45.0, -89.0, -400.0] {
            let (renewed, _) = live(30, |_| ahead, |_| true);
            assert!(renewed.len() < 45, "{ahead} days ahead: {} in 30 days", renewed.len());
            assert!(renewed.windows(2).all(|two| two[1] - two[0] >= PAUSE.0), "{ahead}: {renewed:?}");
        }
    }

    #[test]
    fn a_clock_that_is_behind_renews_before_the_certificate_ends_for_others() {
        for behind in [0.001, 10.0, 44.0, 60.0, 400.0] {
            let (renewed, _) = live(365, |_| -behind, |_| true);
            let starts = std::iter::once(Duration::ZERO).chain(renewed.iter().copied());
            let longest = starts.zip(&renewed).map(|(from, to)| *to - from).max();
            assert!(longest.is_some_and(|longest| longest < ca::NODE_LIFE * 2 / 3), "{behind}: {longest:?}");
        }
    }

    #[test]
    fn a_clock_that_jumps_and_comes_back_costs_a_few_tries() {
        let jump = |day: f64| if (10.0..10.5).contains(&day) { 400.0 } else { 0.0 };
        let (renewed, failed) = live(60, jump, |day| !(10.0..10.5).contains(&day));
        assert_eq!(renewed.len(), 1, "at half of the life, by the right clock");
        assert!(failed.len() < 12 * 60 + 20, "{}", failed.len());
        // Others accept it meanwhile.
        let (renewed, _) = live(60, jump, |_| true);
        assert!(renewed.len() < 12, "{renewed:?}");
    }

    #[test]
    fn managers_that_refuse_are_asked_less_and_less() {
        let (renewed, failed) = live(80, |_| 0.0, |day| day > 75.0);
        assert_eq!(renewed.len(), 1);
        assert!(renewed[0] < DAY * 76, "soon after they do: {renewed:?}");
        assert!(failed.len() < 30 * 24 + 30, "{}", failed.len());
        assert!(failed[4] - failed[0] < Duration::from_secs(10), "quickly at first");
    }

    #[test]
    fn short_lives_are_renewed_in_time() {
        let start = Instant::now();
        let wall = UnixMillis(START);
        let times = |from: UnixMillis| Times {
            not_before: UnixMillis(from.0 - 600_000),
            renew_at: from.plus(Duration::from_millis(1500)),
            not_after: from.plus(Duration::from_secs(3)),
        };
        let mut schedule = Schedule::new(start);
        assert!(schedule.renewed(times(wall), wall, start, u8::MAX));
        let later = Duration::from_millis(1500);
        assert_eq!(schedule.next(times(wall), wall.plus(later), start + later), Next::Renew);
    }
}
