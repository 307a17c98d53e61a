//! Which nodes are down.
//!
//! A node is down when gossip and its session both say so, and a probe through another node fails too. A leader that was
//! just elected takes gossip's word after [`ELECTION_GRACE`]: it inherits the view and gives no second grace. It accuses
//! nobody while it was paused itself or hears too few of the others. That gossip hears a node puts the probe off for
//! [`HEARSAY`] and no longer: most of gossip is hearsay, which a hostile member can invent.
//!
//! Owns: the suspicion. Leaves alone: the probe (`control::nodes`), what becomes of the tasks (`replicas`).

use std::{collections::BTreeMap, time::Duration};

use raftup_proto::{api::NodeState, id::NodeId};

use crate::model::Cluster;

/// A session that was silent for so long may be dead: two beats.
pub const SESSION_QUIET: Duration = Duration::from_secs(2);

/// A node whose host answers although its daemon does not is left alone for so long: containers run on, the data plane
/// is in force, and a daemon that is upgraded or was killed is back within seconds.
pub const DAEMON_GRACE: Duration = Duration::from_secs(20);

/// Time that a new leader leaves nodes to open their sessions before their silence counts.
pub const ELECTION_GRACE: Duration = Duration::from_millis(1500);

/// A node that gossip hears is probed all the same when its session has been silent for so much longer.
pub const HEARSAY: Duration = Duration::from_secs(3);

/// What the leader knows about the others now.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The leader itself; it never suspects itself.
    pub here: Option<NodeId>,
    /// How long it has led.
    pub led_for: Duration,
    /// It was paused, or hears too few.
    pub impaired: bool,
    /// For how long gossip has not heard a node; zero while it does, absent if it knows nothing of it.
    pub gossip: BTreeMap<NodeId, Duration>,
    /// For how long each node that has had a session with this leader was silent in it.
    pub quiet: BTreeMap<NodeId, Duration>,
}

impl Evidence {
    fn is_heard(&self, node: NodeId) -> bool {
        self.gossip.get(&node).is_some_and(Duration::is_zero)
    }
}

/// Nodes to probe now: their session and gossip are both silent, or their session is for long. Second: when to look again
/// although nothing happened.
pub fn suspects(cluster: &Cluster, evidence: &Evidence) -> (Vec<NodeId>, Option<Duration>) {
    let mut suspects = Vec::new();
    let mut again: Option<Duration> = None;
    let ready = cluster.nodes.values().filter(|node| node.state == NodeState::Ready);
    for id in ready.map(|node| node.id).filter(|id| Some(*id) != evidence.here) {
        let more = if evidence.is_heard(id) { HEARSAY } else { Duration::ZERO };
        let left = match evidence.quiet.get(&id) {
            Some(quiet) => (SESSION_QUIET + more).saturating_sub(*quiet),
            None => (ELECTION_GRACE + more).saturating_sub(evidence.led_for),
        };
        if left > Duration::ZERO {
            again = Some(again.map_or(left, |again| again.min(left)));
        } else if !evidence.impaired {
            suspects.push(id);
        }
    }
    (suspects, again)
}

/// The host of a suspect answers: whether it is down all the same. Time counts that passed under an earlier leader.
pub fn is_without_daemon(evidence: &Evidence, node: NodeId) -> bool {
    // That gossip hears it does not count against the probe, which has just found no daemon.
    let unheard = || evidence.gossip.get(&node).filter(|silence| !silence.is_zero());
    let silence = evidence.quiet.get(&node).or_else(unheard);
    silence.copied().unwrap_or(evidence.led_for) >= DAEMON_GRACE
}

/// Who may be asked to probe `about`: nodes that gossip hears, the best known first. At most `count`.
pub fn witnesses(cluster: &Cluster, evidence: &Evidence, about: NodeId, count: usize) -> Vec<NodeId> {
    let ready = cluster.nodes.values().filter(|node| node.state == NodeState::Ready);
    let others = ready.map(|node| node.id).filter(|id| *id != about && Some(*id) != evidence.here);
    let heard = others.filter(|id| evidence.is_heard(*id));
    let mut by_silence: Vec<_> =
        heard.map(|id| (evidence.quiet.get(&id).copied().unwrap_or(Duration::MAX), id)).collect();
    by_silence.sort_unstable();
    by_silence.into_iter().map(|(_, id)| id).take(count).collect()
}

#[cfg(test)]
mod tests;
