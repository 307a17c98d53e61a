//! Who speaks for each member, and who may.
//!
//! Owns: the last process known of each member, when it was heard, and what each acknowledged to this leader in its term.
//! Leaves alone: what was acknowledged in earlier terms and agreed on, which the log keeps.
//! Holds: one storage, and one process at a time, for a member. Wiped, copied and restored directories give themselves
//! away here, by an incarnation that changed, by a second process, or by a start or a log that is older than one seen
//! before; they are turned away at the door, for inside Raft they would crash a leader or lose what was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    format::Life,
    types::{LeaderId, LogId, Vote},
};

/// A process that was heard within this time still runs. Members that share a leader hear from it in each heartbeat.
const ALIVE: Duration = Duration::from_millis(1500);

/// Why a process may not speak for a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Declined {
    /// The storage is not the one that the member has had.
    #[error(
        "member {member} has lost its storage: it was made anew under the old number; demote the node and promote it again"
    )]
    Wiped { member: u64 },
    /// A copy of the storage that is older than what ran before.
    #[error(
        "member {member} runs from an old copy of its storage; remove the copy, or demote the node and promote it again"
    )]
    OldCopy { member: u64 },
    /// Another process speaks for the member.
    #[error(
        "member {member} was heard from another process a moment ago: it has just been restarted, or its storage was copied and runs twice"
    )]
    Twice { member: u64 },
    /// Its log ends before what it acknowledged.
    #[error("member {member} has lost entries that it acknowledged; demote the node and promote it again")]
    Backwards { member: u64 },
}

impl Declined {
    /// The member's storage is not to be trusted any more; else another process merely has the word.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Wiped { .. } | Self::OldCopy { .. } | Self::Backwards { .. } => true,
            Self::Twice { .. } => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    life: Life,
    heard: Option<Instant>,
}

#[derive(Debug, Default)]
struct Inner {
    known: BTreeMap<u64, Known>,
    acknowledged: BTreeMap<u64, (LeaderId, LogId)>,
    declined: BTreeMap<u64, (Life, Declined)>,
}

/// Where a member's log ends, said in answer to a greeting, and where it had to end at least when that was sent.
///
/// What the member acknowledged later does not count: the answer may have been on its way by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) last: Option<u64>,
    pub(super) floor: Option<u64>,
}

/// What is known of all members.
#[derive(Debug, Default)]
pub(super) struct Peers {
    inner: Mutex<Inner>,
}

impl Peers {
    /// Begins with what was kept on disk.
    pub(super) fn new(lives: Vec<Life>) -> Self {
        let known = lives.into_iter().map(|life| (life.member, Known { life, heard: None })).collect();
        Self { inner: Mutex::new(Inner { known, ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is inside is whole after each statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether `life` may speak for its member; true if it is new and must be kept on disk before it is answered.
    /// `extent` is given if the process has said where its log ends.
    pub(super) fn admit(&self, life: Life, extent: Option<Extent>, now: Instant) -> Result<bool, Declined> {
        let mut inner = self.lock();
        let member = life.member;
        let mut verdict = judge(inner.known.get(&member), life, now);
        if verdict.is_ok() {
            let before = inner.declined.get(&member).filter(|(declined, _)| *declined == life);
            let backwards = match (extent, before) {
                (Some(extent), _) => extent.last < extent.floor,
                // It has not said anything better since.
                (None, Some((_, declined))) => *declined == Declined::Backwards { member },
                (None, None) => false,
            };
            if backwards {
                verdict = Err(Declined::Backwards { member });
            }
        }
        match &verdict {
            Ok(_) => {
                inner.known.insert(member, Known { life, heard: Some(now) });
                inner.declined.remove(&member);
            }
            Err(declined) => drop(inner.declined.insert(member, (life, declined.clone()))),
        }
        verdict
    }

    /// Notes that the process was heard. False if another one speaks for the member by now.
    pub(super) fn heard(&self, life: Life, now: Instant) -> bool {
        let mut inner = self.lock();
        match inner.known.get_mut(&life.member) {
            Some(known) if known.life == life => {
                known.heard = Some(now);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The process speaks for its member, as far as is known.
    pub(super) fn speaks(&self, life: Life) -> bool {
        self.lock().known.get(&life.member).is_some_and(|known| known.life == life)
    }

    /// The time since the member was heard; none if it never was.
    pub(super) fn silence(&self, member: u64, now: Instant) -> Option<Duration> {
        let heard = self.lock().known.get(&member)?.heard?;
        Some(now.saturating_duration_since(heard))
    }

    /// Notes that `member` has told the leader of `vote` that its log holds `last`.
    pub(super) fn acknowledged(&self, member: u64, vote: &Vote, last: LogId) {
        let mut inner = self.lock();
        let entry = inner.acknowledged.entry(member).or_insert((vote.leader_id, last));
        if entry.0 != vote.leader_id || entry.1.index < last.index {
            *entry = (vote.leader_id, last);
        }
    }

    /// The last entry that `member` acknowledged to the leader of `vote`.
    pub(super) fn floor(&self, member: u64, vote: &Vote) -> Option<u64> {
        let inner = self.lock();
        let (leader, last) = inner.acknowledged.get(&member)?;
        (*leader == vote.leader_id).then_some(last.index)
    }

    #[cfg(test)]
    pub(super) fn last_acknowledged(&self, member: u64) -> Option<LogId> {
        self.lock().acknowledged.get(&member).map(|(_, last)| *last)
    }

    /// Members that were turned away and have not come back since in a way that is right.
    pub(super) fn declined(&self) -> BTreeMap<u64, Declined> {
        let inner = self.lock();
        inner.declined.iter().map(|(member, (_, declined))| (*member, declined.clone())).collect()
    }
}

fn judge(known: Option<&Known>, life: Life, now: Instant) -> Result<bool, Declined> {
    let member = life.member;
    let Some(known) = known else {
        return Ok(true);
    };
    if known.life == life {
        return Ok(false);
    }
    if known.life.incarnation != life.incarnation {
        return Err(Declined::Wiped { member });
    }
    if known.heard.is_some_and(|heard| now.saturating_duration_since(heard) < ALIVE) {
        return Err(Declined::Twice { member });
    }
    if life.starts <= known.life.starts {
        return Err(Declined::OldCopy { member });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(starts: u64, process: u64) -> Life {
        Life { member: 2, incarnation: 9, starts, process }
    }

    #[test]
    fn one_process_speaks_for_a_member() {
        let peers = Peers::default();
        let start = Instant::now();
        let later = start + ALIVE;
        assert_eq!(peers.admit(life(1, 1), None, start), Ok(true));
        assert_eq!(peers.admit(life(1, 1), None, start), Ok(false));
        assert_eq!(peers.admit(life(2, 2), None, start), Err(Declined::Twice { member: 2 }));
        assert!(peers.declined().contains_key(&2));
        assert!(peers.heard(life(1, 1), later));
        assert_eq!(peers.admit(life(2, 2), None, later), Err(Declined::Twice { member: 2 }));
        assert_eq!(peers.admit(life(2, 2), None, later + ALIVE), Ok(true));
        assert!(!peers.heard(life(1, 1), later + ALIVE));
        assert_eq!(peers.admit(life(2, 3), None, later + 2 * ALIVE), Err(Declined::OldCopy { member: 2 }));
        assert_eq!(peers.admit(life(1, 4), None, later + 3 * ALIVE), Err(Declined::OldCopy { member: 2 }));
        let wiped = Life { incarnation: 8, ..life(5, 5) };
        assert_eq!(peers.admit(wiped, None, later + 3 * ALIVE), Err(Declined::Wiped { member: 2 }));
    }

    #[test]
    fn what_is_known_outlives_a_restart() {
        let peers = Peers::new(vec![life(4, 1)]);
        assert_eq!(peers.admit(life(3, 2), None, Instant::now()), Err(Declined::OldCopy { member: 2 }));
        assert_eq!(peers.admit(life(5, 2), None, Instant::now()), Ok(true));
    }

    #[test]
    fn a_log_that_went_backwards_is_noticed() {
        let peers = Peers::default();
        let leader = LeaderId { term: 3, node_id: 1 };
        let vote = Vote { leader_id: leader, committed: true };
        assert_eq!(peers.floor(2, &vote), None);
        peers.acknowledged(2, &vote, LogId::new(leader, 10));
        peers.acknowledged(2, &vote, LogId::new(leader, 8));
        assert_eq!(peers.floor(2, &vote), Some(10));
        let next = Vote { leader_id: LeaderId { term: 4, node_id: 1 }, committed: true };
        assert_eq!(peers.floor(2, &next), None);
        let now = Instant::now();
        let extent = |last, floor| Some(Extent { last, floor });
        assert_eq!(peers.admit(life(1, 1), extent(Some(10), Some(10)), now), Ok(true));
        let backwards = Err(Declined::Backwards { member: 2 });
        assert_eq!(peers.admit(life(1, 1), extent(Some(9), Some(10)), now), backwards);
        // What calls here has not said more, and is turned away as well; the next process is looked at anew.
        assert_eq!(peers.admit(life(1, 1), None, now), backwards);
        assert!(peers.declined().contains_key(&2));
        assert_eq!(peers.admit(life(2, 2), None, now + ALIVE), Ok(true));
        assert_eq!(peers.admit(life(2, 2), extent(None, None), now + ALIVE), Ok(false));
        assert!(peers.declined().is_empty());
    }
}
