//! Heartbeats of the leader, and who leads.
//!
//! Owns: [`Leadership`], when heartbeats are sent, and whether Raft's election timer runs. Leaves alone: elections
//! themselves.
//! Holds: a leader that no majority answers is silent for longer than an election takes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use openraft::{Instant as _, ServerState, async_runtime::WatchReceiver, errors::Fatal};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::{
    fatal,
    raft::{Inner, Leadership},
    types::TypeConfig,
};

/// Time between two heartbeats of a leader. Raft's own timer would tick twice as often, on every manager: it runs only
/// where an election may be due.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(200);

/// A follower waits the lease and then a random time in this range before it stands for election: 1.42 to 1.6 seconds
/// after the last heartbeat, six of which must have been lost. So a killed leader is replaced in 1.5 s at the median,
/// and a leader that stalls for less than 1.2 s goes on to lead. The shorter one is also the limit of time for votes, the
/// longer one also the lease: how long a leader is not replaced after its last heartbeat.
const ELECTION: (Duration, Duration) = (Duration::from_millis(620), Duration::from_millis(800));

/// A disk that syncs within this time holds no election up.
const PROMPT: Duration = Duration::from_millis(200);

/// Syncs are not taken to last longer.
const SLOWEST: Duration = Duration::from_secs(4);

/// How long elections wait, by what this manager's disk takes: a vote counts once it is on disk, so one that is given less
/// time never arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// See [`ELECTION`].
    pub(super) election: (Duration, Duration),
    silence: Duration,
}

impl Timing {
    /// For a disk whose syncs take `sync`.
    pub(super) fn for_disk(sync: Duration) -> Self {
        // A vote may wait for the sync before its own.
        let extra = if sync > PROMPT { sync.min(SLOWEST) * 5 / 2 } else { Duration::ZERO };
        Self { election: (ELECTION.0 + extra, ELECTION.1 + extra * 5 / 4), silence: SILENCE + 3 * extra }
    }

    fn lease(self) -> Duration {
        self.election.1
    }
}

/// Heartbeats in a row that no majority answered, after which a leader is silent for [`SILENCE`]: one that can only be
/// heard would otherwise hold its followers for ever.
const UNANSWERED: u32 = 7;

/// Longer than followers take to elect another leader.
const SILENCE: Duration = Duration::from_secs(3);

type AnsweredAt = openraft::alias::InstantOf<TypeConfig>;

/// When a leader sends heartbeats: always, but for a silence after each [`UNANSWERED`] that no majority answered.
///
/// Counts heartbeats and not time, so the time in which this process stood still does not matter.
#[derive(Debug, Default)]
struct Pulse {
    answered: Option<AnsweredAt>,
    unanswered: u32,
    silent_until: Option<Instant>,
}

impl Pulse {
    /// Notes when a majority answered last.
    fn hear(&mut self, answered: Option<AnsweredAt>) {
        if answered > self.answered {
            *self = Self { answered, ..Self::default() };
        }
    }

    /// Whether to send a heartbeat now.
    fn beat(&mut self, now: Instant, silence: Duration) -> bool {
        match self.silent_until {
            Some(until) if now < until => return false,
            Some(_) => self.silent_until = None,
            None if self.unanswered > 0 && self.unanswered.is_multiple_of(UNANSWERED) => {
                self.silent_until = Some(now + silence);
                return false;
            }
            None => {}
        }
        self.unanswered += 1;
        true
    }

    /// A majority answers.
    fn is_answered(&self) -> bool {
        self.answered.is_some() && self.silent_until.is_none() && self.unanswered <= UNANSWERED
    }
}

impl Inner {
    /// Whether a majority has answered this leader, and when it did last.
    fn answered(&self) -> Option<AnsweredAt> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        if metrics.membership_config.voter_ids().count() == 1 {
            return Some(AnsweredAt::now());
        }
        let answered = self.raft.data_metrics().borrow_watched().last_quorum_acked;
        answered.map(|at| *at)
    }

    /// Who leads now. `here` holds back until the leader's first own entry is applied, and ends when no majority answers.
    fn look(&self, pulse: &Pulse) -> Leadership {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let members = metrics.membership_config.membership();
        let site = metrics.current_leader.and_then(|id| members.get_node(&id));
        let leads = metrics.state == ServerState::Leader;
        let applied = self.machine.current().last;
        let caught_up = applied.is_some_and(|last| last.leader_id == metrics.vote.leader_id);
        Leadership {
            term: metrics.vote.leader_id.term,
            leader: site.map(|site| site.node),
            leader_addr: site.map(|site| site.addr),
            here: leads && caught_up && pulse.is_answered() && !self.leaving.load(Ordering::Relaxed),
        }
    }
}

/// Keeps [`Leadership`] current, sends the leader's heartbeats, has Raft's timer run where no leader was heard for
/// the lease, and ends the process when Raft has ended by itself.
pub(super) async fn follow(inner: Arc<Inner>) {
    let mut servers = inner.raft.server_metrics();
    let mut applied = inner.machine.watch_last();
    let mut led = inner.led.subscribe();
    let mut beat = interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut data = inner.raft.data_metrics();
    let mut pulse = Pulse::default();
    let timing = inner.timing;
    loop {
        data.borrow_watched();
        // Not held over the next look: Raft waits to write there, and further readers wait behind it.
        let state = servers.borrow_watched().state;
        match state {
            ServerState::Leader => pulse.hear(inner.answered()),
            ServerState::Learner | ServerState::Follower | ServerState::Candidate | ServerState::Shutdown => {
                pulse = Pulse::default();
            }
        }
        let seen = inner.look(&pulse);
        inner.leadership.send_if_modified(|known| std::mem::replace(known, seen) != seen);
        if let Err(error) = &inner.raft.metrics().borrow_watched().running_state
            && !matches!(error, Fatal::Stopped)
        {
            fatal("running Raft", &anyhow::anyhow!("{error}"));
        }
        let leads = servers.borrow_watched().state == ServerState::Leader;
        let until = led.borrow_and_update().map(|heard| heard + timing.lease());
        let calm = until.filter(|until| !leads && *until > Instant::now());
        inner.raft.runtime_config().tick(!leads && calm.is_none());
        // Cancel-safe: watch channels lose no value, and all of them are read again above.
        tokio::select! {
            changed = servers.changed() => if changed.is_err() { return },
            changed = applied.changed(), if leads && !seen.here => if changed.is_err() { return },
            changed = data.changed(), if leads && !seen.here => if changed.is_err() { return },
            _ = beat.tick(), if leads => {
                if pulse.beat(Instant::now(), timing.silence) {
                    // Why Raft has ended is looked at above.
                    let _ = inner.raft.trigger().heartbeat().await;
                }
            }
            changed = led.changed(), if !leads => {
                if changed.is_err() {
                    return;
                }
                inner.parts.expire(Instant::now());
            }
            () = sleep_until(calm.unwrap_or_else(Instant::now).into()), if calm.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::raft::ANSWER_LIMIT;

    /// Heartbeats that are sent within `time`, when none is answered.
    fn beats(pulse: &mut Pulse, start: Instant, time: Duration) -> usize {
        let ticks = u32::try_from(time.as_millis() / HEARTBEAT.as_millis()).unwrap();
        (1..=ticks).filter(|tick| pulse.beat(start + HEARTBEAT * *tick, SILENCE)).count()
    }

    #[test]
    fn a_leader_that_nobody_answers_is_silent_for_longer_than_an_election_takes() {
        let start = Instant::now();
        let mut pulse = Pulse::default();
        assert!(!pulse.is_answered());
        pulse.hear(Some(AnsweredAt::now()));
        assert!(pulse.is_answered());
        let until_silent = HEARTBEAT * (UNANSWERED + 1);
        assert_eq!(beats(&mut pulse, start, until_silent), UNANSWERED as usize);
        assert!(!pulse.is_answered());
        assert_eq!(beats(&mut pulse, start + until_silent, SILENCE - HEARTBEAT), 0);
        for sync in [0, 300, 2000, 60_000].map(Duration::from_millis) {
            let timing = Timing::for_disk(sync);
            assert!(timing.silence > timing.lease() + timing.election.1 + ANSWER_LIMIT, "{timing:?}");
            assert!(timing.election.0 > sync.min(SLOWEST) * 2, "{timing:?}");
        }
        // It is heard again, but does not lead before it is answered.
        assert!(pulse.beat(start + until_silent + SILENCE, SILENCE));
        assert!(!pulse.is_answered());
        pulse.hear(Some(AnsweredAt::now() + SILENCE));
        assert!(pulse.is_answered());
    }

    #[test]
    fn time_in_which_a_leader_stood_still_is_no_silence_of_its_followers() {
        let start = Instant::now();
        let mut pulse = Pulse::default();
        pulse.hear(Some(AnsweredAt::now()));
        assert!(pulse.beat(start + HEARTBEAT, SILENCE));
        assert!(pulse.beat(start + Duration::from_secs(60), SILENCE));
        assert!(pulse.is_answered());
    }
}
