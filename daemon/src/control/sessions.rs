//! Who is heard, since when, and which routes are in force there.
//!
//! Owns: one seat for each node that has had a session with this leader; it stays when the session ends, as the memory of
//! when the node was last heard. Leaves alone: the session's frames.
//! Holds: one process a node; one that was there first and still speaks wins over a copy of its data directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use raftup_proto::{
    id::NodeId,
    refusal::{Code, Refusal},
    view::Revision,
};
use tokio::{sync::watch, time::Instant, time::sleep_until};
use tokio_util::sync::CancellationToken;

use crate::net::Caller;

/// A process that was silent for so long gives way to another of the same node: more than a beat. The other one waits
/// as long for its answer, and has it before it gives up on this manager.
const GIVES_WAY: Duration = Duration::from_millis(1500);

/// How often a node may change what it says of itself, and how many changes may come at once: each is an entry of the
/// log and news for every node. Faster changes are taken over later, the newest of them.
const CLAIM_EVERY: Duration = Duration::from_secs(3);
const CLAIMS_AT_ONCE: u32 = 5;

/// The sessions of this reign.
#[derive(Default)]
pub(super) struct Sessions {
    seats: Mutex<BTreeMap<NodeId, Seat>>,
    in_force: watch::Sender<()>,
}

struct Seat {
    process: u64,
    addr: SocketAddr,
    heard: Instant,
    /// None once the session has ended.
    session: Option<CancellationToken>,
    routes: Routes,
    /// The allowance of [`CLAIM_EVERY`] is used up to this time. It outlasts the session.
    claimed: Instant,
    /// What it did that no node of ours does, as far as that is in the log already. It outlasts the session.
    faults: BTreeSet<&'static str>,
}

/// How far a node is with its routes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Routes {
    /// Generation of the last update that it was sent.
    pub(super) sent: Revision,
    /// Nothing up to there was left out of what it was sent.
    pub(super) looked: Revision,
    /// Generation that it says is in force.
    pub(super) applied: Revision,
}

impl Routes {
    /// The state whose routes are in force: what came after the last update is nothing to the node.
    fn in_force(self) -> Revision {
        if self.sent > Revision(0) && self.applied >= self.sent {
            self.looked.max(self.applied)
        } else {
            self.applied
        }
    }
}

impl Sessions {
    /// Takes the node's seat for a process; the returned token is cancelled when another takes it.
    ///
    /// Errors: another process of the node is alive at another address.
    pub(super) async fn take(&self, caller: &Caller, process: u64) -> Result<CancellationToken, Refusal> {
        let until = Instant::now() + GIVES_WAY;
        loop {
            let wait_until = match self.try_take(caller, process) {
                Ok(token) => return Ok(token),
                Err(wait_until) => wait_until,
            };
            if Instant::now() >= until {
                return Err(duplicate(caller.node));
            }
            sleep_until(wait_until.min(until)).await;
        }
    }

    fn try_take(&self, caller: &Caller, process: u64) -> Result<CancellationToken, Instant> {
        let mut seats = self.seats();
        if let Some(seat) = seats.get(&caller.node) {
            // A port is bound once: at the same address it is a restart. A copy runs elsewhere.
            let rival = seat.session.is_some() && seat.process != process && seat.addr != caller.addr;
            if rival && seat.heard.elapsed() < GIVES_WAY {
                return Err(seat.heard + GIVES_WAY);
            }
            if let Some(old) = &seat.session {
                old.cancel();
            }
        }
        let token = CancellationToken::new();
        let old = seats.remove(&caller.node);
        let (claimed, faults) =
            old.map_or_else(|| (Instant::now(), BTreeSet::new()), |old| (old.claimed, old.faults));
        let seat = Seat {
            process,
            addr: caller.addr,
            heard: Instant::now(),
            session: Some(token.clone()),
            routes: Routes::default(),
            claimed,
            faults,
        };
        seats.insert(caller.node, seat);
        Ok(token)
    }

    /// The node said something.
    pub(super) fn heard(&self, node: NodeId) {
        if let Some(seat) = self.seats().get_mut(&node) {
            seat.heard = Instant::now();
        }
    }

    /// Notes what the node did that no node of ours does. Answers whether that is new and belongs in the log.
    pub(super) fn is_new_fault(&self, node: NodeId, fault: &'static str) -> bool {
        self.seats().get_mut(&node).is_some_and(|seat| seat.faults.insert(fault))
    }

    /// Uses up a part of the node's allowance for changes of what it says of itself. Errors: when there is some again.
    pub(super) fn claim(&self, node: NodeId) -> Result<(), Instant> {
        let now = Instant::now();
        let mut seats = self.seats();
        let Some(seat) = seats.get_mut(&node) else { return Ok(()) };
        let may = seat.claimed.checked_sub(CLAIM_EVERY * (CLAIMS_AT_ONCE - 1)).unwrap_or(now);
        if may > now {
            return Err(may);
        }
        seat.claimed = seat.claimed.max(now) + CLAIM_EVERY;
        Ok(())
    }

    /// Something is new about a node's routes.
    pub(super) fn routes(&self, node: NodeId, change: impl FnOnce(&mut Routes)) {
        if let Some(seat) = self.seats().get_mut(&node) {
            change(&mut seat.routes);
        }
        self.in_force.send_replace(());
    }

    /// The session that `token` was for has ended.
    pub(super) fn leave(&self, node: NodeId, token: &CancellationToken) {
        if let Some(seat) = self.seats().get_mut(&node)
            // Cancelled: another session has the seat.
            && !token.is_cancelled()
        {
            seat.session = None;
        }
        self.in_force.send_replace(());
    }

    /// The least generation that is known to be in force on any of `nodes`; none without nodes.
    pub(super) fn in_force(&self, nodes: impl Iterator<Item = NodeId>) -> Option<Revision> {
        let seats = self.seats();
        let of = |node| seats.get(&node).map(|seat| seat.routes.in_force()).unwrap_or_default();
        nodes.map(of).min()
    }

    /// Moves when [`Sessions::in_force`] may have.
    pub(super) fn watch_in_force(&self) -> watch::Receiver<()> {
        self.in_force.subscribe()
    }

    /// For how long each node that had a session was silent.
    pub(super) fn silence(&self) -> BTreeMap<NodeId, Duration> {
        self.seats().iter().map(|(node, seat)| (*node, seat.heard.elapsed())).collect()
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<NodeId, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn duplicate(node: NodeId) -> Refusal {
    Refusal::new(Code::Conflict, format!("another raftupd already runs as node {node}"))
        .hint("the data directory was copied: clear this one, then join as a new node")
}
