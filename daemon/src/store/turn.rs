//! Changes of the replicated state, one at a time.
//!
//! Owns: the order of changes that begin on this manager, and how long a caller waits for one. Leaves alone: what Raft does
//! with an entry (`raft`).
//! Holds: a change is computed from a state that contains every change that was proposed before it ([`Turn`]).

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use openraft::errors::{Fatal, RaftError};
use raftup_proto::{
    id::NodeId,
    refusal::{Code, Refusal},
    unit::UnixMillis,
    view::Revision,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::MutexGuard, time::timeout};

use super::{
    Rejected, format,
    raft::{AGREE_LIMIT, Store, WriteError},
    types::{Command, TypeConfig},
};
use crate::{
    compute,
    model::{ChangeSet, Cluster, Handled, RequestKey},
};

/// Longest answer to a client's request that is remembered, in bytes of JSON.
const ANSWER_MAX: usize = 16 << 10;

/// Largest change set, in bytes.
const CHANGE_MAX: u64 = 16 << 20;

/// A change that has not moved for so long is given up by whoever waits for it. More than a sync takes on any disk.
const STUCK: Duration = Duration::from_secs(30);

/// How often it is looked whether a change still moves.
const LOOK: Duration = Duration::from_millis(100);

/// Why nobody waits any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stuck {
    /// These voters were not heard, and the others are no majority.
    #[error("no majority of the managers answers")]
    Silent(Vec<NodeId>),
    /// This manager leads no more.
    #[error("this manager leads no more")]
    Deposed,
    /// Nothing moves.
    #[error("a disk or a link of the managers is slow")]
    Slow,
}

pub(super) type Written = openraft::raft::ClientWriteResponse<TypeConfig>;

/// Change sets on their way, of one term: those of an earlier one are applied or gone before the next leader is `here`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pending {
    term: u64,
    sets: usize,
}

impl Pending {
    fn add(&mut self, term: u64) {
        if self.term != term {
            *self = Self { term, sets: 0 };
        }
        self.sets += 1;
    }

    fn settle(&mut self, term: u64) {
        if self.term == term {
            self.sets = self.sets.saturating_sub(1);
        }
    }

    fn is_settled(&self, term: u64) -> bool {
        self.term != term || self.sets == 0
    }
}

/// The right to work out the next change, from the newest state. One at a time has it, and only once all that was put
/// into the log before is applied: so no two decisions are made from one state, also where one takes long to be agreed
/// upon. `apply` refuses such a set besides, by its base.
pub struct Turn<'a> {
    store: &'a Store,
    cluster: Cluster,
    now: UnixMillis,
    _only: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// The newest state.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The cluster's clock.
    pub fn now(&self) -> UnixMillis {
        self.now
    }

    /// Makes `set`, which was worked out from [`Turn::cluster`]. The state here has it when this returns.
    ///
    /// Errors: see [`ProposeError`].
    pub async fn propose(self, set: ChangeSet) -> Result<Revision, ProposeError> {
        self.store.propose(ChangeSet { base: Some(self.cluster.revision), ..set }).await
    }
}

/// Why a change set was not made.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was made from a state that is not the newest. Nothing was changed.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The client's request was carried out before. Nothing was changed.
    #[error("this was done before")]
    Repeated,
    /// Earlier changes are still being written; this one was not begun.
    #[error("earlier changes are still being written")]
    Busy,
    /// Another manager leads, or none. Nothing was changed.
    #[error("this manager does not lead")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// A majority of the managers does not answer.
    #[error("no majority of the managers answers")]
    NoQuorum {
        /// Those that were not heard.
        missing: Vec<NodeId>,
        /// It may be made yet, once they are back.
        pending: bool,
    },
    /// It is in the log, and a majority is there, but writing it takes longer than anybody should wait.
    #[error("the change is still being written")]
    Slow {
        /// How far it is on its way to others, if that is known.
        way: Option<String>,
    },
    /// The leader changed meanwhile; whether it was made is not known.
    #[error("the leader changed meanwhile")]
    Unknown,
    /// It is too large to be made at once. Nothing was changed; parts of it can be made.
    #[error("a change of {bytes} bytes is too large, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The largest size.
        limit: u64,
    },
    /// It can never be made.
    #[error(transparent)]
    Refused(Refusal),
    /// The store was stopped.
    #[error("the replicated state is being closed")]
    Stopped,
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Conflict => {
                Self::new(Code::Conflict, "the cluster's state has changed meanwhile").hint("try again")
            }
            ProposeError::Repeated => Self::new(Code::Conflict, "this was done before"),
            ProposeError::Busy => Self::new(
                Code::Unavailable,
                "earlier changes are still being written: a disk or a link of the managers is slow",
            )
            .hint("try again in a few seconds"),
            ProposeError::NotLeader { leader: Some(leader) } => {
                Self::new(Code::Unavailable, format!("manager {leader} leads, not this one"))
                    .hint("try again")
            }
            ProposeError::NotLeader { leader: None } => {
                Self::new(Code::Unavailable, "no manager leads at the moment")
                    .hint("try again in a few seconds")
            }
            ProposeError::NoQuorum { missing, pending } => no_quorum(&missing, pending),
            ProposeError::Slow { way } => {
                let why = match way {
                    Some(way) => format!("a link between managers is slow: {way}"),
                    None => "a disk of a manager is slow".to_owned(),
                };
                Self::new(Code::Unavailable, format!("the change is still being written: {why}"))
                    .hint("it will be made once it is written; look, and try again if it was not")
            }
            ProposeError::Unknown => Self::new(
                Code::Unavailable,
                "the leader changed meanwhile, the change may have been made or not",
            )
            .hint("look, and try again if it was not"),
            ProposeError::TooLarge { bytes, limit } => {
                Self::new(Code::Invalid, format!("a change of {bytes} bytes is too large"))
                    .hint(format!("at most {limit} bytes can be changed at once"))
            }
            ProposeError::Refused(refusal) => refusal,
            ProposeError::Stopped => {
                Self::new(Code::Unavailable, "this manager is shutting down").hint("try again")
            }
        }
    }
}

pub(super) fn no_quorum(missing: &[NodeId], pending: bool) -> Refusal {
    let names: Vec<String> = missing.iter().map(NodeId::to_string).collect();
    let what = match names.as_slice() {
        [] => "no majority of the managers answers".to_owned(),
        names => format!("no majority of the managers answers: {} missing", names.join(", ")),
    };
    let hint = match pending {
        true => "running containers are not affected; the change may still be made once they are back",
        false => "running containers are not affected; bring the missing managers back",
    };
    Refusal::new(Code::Unavailable, what).hint(hint)
}

impl Store {
    /// Makes `set`, on the leader. The state here has it when this returns.
    ///
    /// Errors: see [`ProposeError`]; without a majority within two seconds. It waits while the change moves. Not to be dropped half-way where it matters
    /// whether the set was made.
    pub(super) async fn propose(&self, set: ChangeSet) -> Result<Revision, ProposeError> {
        let inner = &self.inner;
        if inner.leaving.load(Ordering::Relaxed) {
            return Err(ProposeError::NotLeader { leader: None });
        }
        let size = format::size(&set);
        if size > CHANGE_MAX {
            return Err(ProposeError::TooLarge { bytes: size, limit: CHANGE_MAX });
        }
        match self.patiently(self.write(set)).await {
            Ok(Ok(written)) => written.data.map_err(|rejected| match rejected {
                Rejected::Conflict { .. } | Rejected::Stale { .. } => ProposeError::Conflict,
                Rejected::Repeated => ProposeError::Repeated,
                invalid @ Rejected::Invalid { .. } => ProposeError::Refused(Refusal::new(
                    Code::Internal,
                    format!("a change was refused: {invalid}"),
                )),
            }),
            Ok(Err(error)) => Err(inner.not_written(error)),
            Err(Stuck::Silent(missing)) => Err(ProposeError::NoQuorum { missing, pending: true }),
            Err(Stuck::Deposed) => Err(ProposeError::Unknown),
            Err(Stuck::Slow) => Err(ProposeError::Slow { way: inner.office.transfers.describe() }),
        }
    }

    /// Waits for `work` as long as it may come to its end: while a majority is heard, and bytes arrive or a disk writes.
    pub(super) async fn patiently<T>(&self, work: impl Future<Output = T>) -> Result<T, Stuck> {
        let inner = &self.inner;
        tokio::pin!(work);
        let begun = Instant::now();
        let mut led = begun;
        loop {
            if let Ok(done) = timeout(LOOK, &mut work).await {
                return Ok(done);
            }
            let now = Instant::now();
            if now.duration_since(begun) < AGREE_LIMIT {
                continue;
            }
            if let Some(missing) = inner.lost_majority() {
                return Err(Stuck::Silent(missing));
            }
            if inner.leadership.borrow().here {
                led = now;
            } else if now.duration_since(led) >= AGREE_LIMIT {
                return Err(Stuck::Deposed);
            }
            let moved = inner.office.transfers.last_moved().map_or(begun, |moved| moved.max(begun));
            if now.duration_since(moved) >= STUCK {
                return Err(Stuck::Slow);
            }
        }
    }

    /// Puts `set` into the log. That goes on when nobody waits for it any more; until then it counts as pending.
    async fn write(&self, set: ChangeSet) -> Result<Written, WriteError> {
        let (inner, term) = (self.inner.clone(), self.inner.leadership.borrow().term);
        inner.pending.send_modify(|pending| pending.add(term));
        let written = tokio::spawn(async move {
            let written = inner.write(Command(Arc::new(set))).await;
            inner.pending.send_modify(|pending| pending.settle(term));
            written
        });
        written.await.unwrap_or(Err(RaftError::Fatal(Fatal::Stopped)))
    }

    /// Waits for the turn to change something, on the leader.
    ///
    /// Errors: this manager does not lead, no majority answers for two seconds, or what was begun before does not move.
    pub async fn turn(&self) -> Result<Turn<'_>, ProposeError> {
        let inner = &self.inner;
        let mut leadership = inner.leadership.subscribe();
        let free = async {
            let only = inner.changing.lock().await;
            let term = inner.leadership.borrow().term;
            // Lasts as long as the store.
            let _ = inner.pending.subscribe().wait_for(|pending| pending.is_settled(term)).await;
            only
        };
        // What the wait gives is a lock on the channel, which must not last into the answer: that reads the channel again,
        // and a writer that waits in between would stop both for ever.
        let lost = async { drop(leadership.wait_for(|now| !now.here).await) };
        // Nothing is lost when one of these is dropped: a lock, a time-out, and watch channels.
        let only = tokio::select! {
            biased;
            () = lost => return Err(inner.not_leader()),
            only = self.patiently(free) => only,
        };
        let only = match only {
            Ok(only) => only,
            Err(Stuck::Silent(missing)) => return Err(ProposeError::NoQuorum { missing, pending: false }),
            Err(Stuck::Deposed) => return Err(inner.not_leader()),
            Err(Stuck::Slow) => return Err(ProposeError::Busy),
        };
        // It may have changed with the last step.
        if !inner.leadership.borrow().here {
            return Err(inner.not_leader());
        }
        let applied = inner.machine.current();
        Ok(Turn { store: self, now: applied.now(), cluster: applied.cluster.clone(), _only: only })
    }

    /// Moves the cluster's clock in the state on, if nothing else has for `period`: a manager that begins after that
    /// knows how late it is.
    pub async fn tick(&self, period: Duration) -> Result<(), ProposeError> {
        let turn = self.turn().await?;
        if turn.now.since(turn.cluster.clock) >= period {
            let now = turn.now;
            turn.propose(ChangeSet::new(now)).await?;
        }
        Ok(())
    }

    /// Works out a change set from the newest state and the cluster's clock, and makes it, on the leader; one at a time.
    ///
    /// An empty set is not proposed. Errors: what `work` refuses, and what [`Store::turn`] and [`Turn::propose`] do.
    pub async fn change<T>(
        &self,
        work: impl FnOnce(&Cluster, UnixMillis) -> Result<(ChangeSet, T), Refusal> + Send,
    ) -> Result<(Revision, T), Refusal> {
        let turn = self.turn().await?;
        let (set, answer) = compute::in_place(|| work(&turn.cluster, turn.now))?;
        if set.is_empty() {
            return Ok((turn.cluster.revision, answer));
        }
        Ok((turn.propose(set).await?, answer))
    }

    /// The same for what a client asks: asked again, at this leader or a later one, it takes effect once and is answered
    /// alike. The last 512 requests are remembered.
    pub async fn change_once<T: Serialize + DeserializeOwned + Default>(
        &self,
        request: RequestKey,
        work: impl FnOnce(&Cluster, UnixMillis) -> Result<(ChangeSet, T), Refusal> + Send,
    ) -> Result<(Revision, T), Refusal> {
        let turn = self.turn().await?;
        if let Some((revision, handled)) = turn.cluster.handled(request) {
            return Ok((revision, serde_json::from_str(&handled.answer).unwrap_or_default()));
        }
        let (mut set, answer) = compute::in_place(|| work(&turn.cluster, turn.now))?;
        if set.is_empty() {
            return Ok((turn.cluster.revision, answer));
        }
        let text = serde_json::to_string(&answer).unwrap_or_default();
        let text = if text.len() > ANSWER_MAX { String::new() } else { text };
        set.handled = Some(Handled { request, answer: text });
        Ok((turn.propose(set).await?, answer))
    }
}
