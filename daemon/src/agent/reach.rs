//! Which other nodes cannot be reached from here.
//!
//! The leader's word that a node is down comes after seconds: it has to be sure, for tasks are replaced. Until then new
//! connections are led elsewhere by this suspicion, which costs nothing where it is wrong. A node whose daemon is away
//! is reached all the same: its kernel is asked, on the way that containers' packets take. Connections that last are cut
//! later than that, once a node is surely lost: their clients would wait for minutes, and can come again.
//!
//! Owns: the suspicion, and when connections are given up. Leaves alone: what becomes of endpoints (`mesh`), and of tasks
//! (the leader).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use raftup_proto::{id::NodeId, view::View};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{fabric, gossip::Sightings, mesh::cut_connections};

/// How long a host may take to answer.
const ANSWER: Duration = Duration::from_millis(400);

/// Pause before silent nodes are asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// How long a node is out of reach until connections to its tasks are cut, though the leader still counts on it. TCP
/// bridges a shorter gap: what was sent is sent again 1.4 and 3 seconds later, this is between the two.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Follows gossip, asks those who are silent, and keeps `unreachable` current. Ends with one of the two that it follows.
pub async fn follow(
    node: NodeId,
    mut view: watch::Receiver<Arc<View>>,
    mut gossip: watch::Receiver<Arc<Sightings>>,
    unreachable: watch::Sender<BTreeSet<NodeId>>,
) {
    let mut connections = Connections::default();
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        let silent = silent(node, &now, &gossip.borrow_and_update());
        let answers: FuturesUnordered<_> = silent
            .into_iter()
            .map(|(node, host)| async move { (node, fabric::ping(host, ANSWER).await) })
            .collect();
        let none_silent = answers.is_empty();
        let lost: BTreeSet<NodeId> =
            answers.filter_map(|(node, answered)| async move { (!answered).then_some(node) }).collect().await;
        let counted_on = now.peers().filter(|peer| peer.alive).map(|peer| peer.node).collect();
        let hopeless = connections.look(Instant::now(), &lost, &counted_on, |node| endpoints(&now, node));
        unreachable.send_if_modified(|known| {
            for node in lost.difference(known) {
                warn!(%node, "cannot be reached from here; new connections go elsewhere");
            }
            for node in known.difference(&lost) {
                info!(%node, "is no longer out of reach");
            }
            let differs = *known != lost;
            *known = lost;
            differs
        });
        cut_connections(hopeless).await;
        // Watches and timers lose nothing when a wait on them is dropped.
        let moved = tokio::select! {
            changed = view.changed() => changed,
            changed = gossip.changed() => changed,
            () = sleep(AGAIN), if !none_silent => Ok(()),
        };
        if moved.is_err() {
            return;
        }
    }
}

/// Nodes that the leader counts on and gossip has not heard for a moment, and where to ask them.
fn silent(me: NodeId, view: &View, gossip: &Sightings) -> Vec<(NodeId, Ipv4Addr)> {
    let heard = |node: NodeId| gossip.nodes.get(&node).is_some_and(|sighting| !sighting.silent);
    let counted_on = view.peers().filter(|peer| peer.alive && peer.node != me);
    counted_on.filter(|peer| !heard(peer.node)).map(|peer| (peer.node, peer.fabric)).collect()
}

/// Connections to nodes that are out of reach.
#[derive(Default)]
struct Connections(BTreeMap<NodeId, Waiting>);

struct Waiting {
    since: Instant,
    /// Where they lead; nowhere once they are cut.
    endpoints: Vec<Ipv4Addr>,
}

impl Connections {
    /// Takes in who is out of reach now, of those whom the leader counts on. Answers the endpoints of nodes that are surely
    /// lost, once.
    fn look(
        &mut self,
        now: Instant,
        lost: &BTreeSet<NodeId>,
        counted_on: &BTreeSet<NodeId>,
        endpoints: impl Fn(NodeId) -> Vec<Ipv4Addr>,
    ) -> Vec<Ipv4Addr> {
        for node in lost {
            self.0.entry(*node).or_insert_with(|| Waiting { since: now, endpoints: endpoints(*node) });
        }
        let mut hopeless = Vec::new();
        self.0.retain(|node, waiting| {
            let waits = lost.contains(node);
            // A node that the leader has given up is not asked any more.
            if !counted_on.contains(node) || (waits && now.duration_since(waiting.since) >= PATIENCE) {
                hopeless.append(&mut waiting.endpoints);
            }
            waits
        });
        hopeless
    }
}

/// Where connections to the tasks of a node lead.
fn endpoints(view: &View, node: NodeId) -> Vec<Ipv4Addr> {
    let tasks = view.endpoints().filter(|task| task.node == node);
    tasks.flat_map(|task| &task.addresses).map(|(_, address)| *address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEDGE: Duration = Duration::from_millis(1);

    #[test]
    fn connections_are_cut_once_and_not_for_a_gap() {
        let all = BTreeSet::from([1, 2, 3].map(NodeId::new));
        let (none, two, three) =
            (BTreeSet::new(), BTreeSet::from([NodeId::new(2)]), BTreeSet::from([NodeId::new(3)]));
        let address = |node: NodeId| Ipv4Addr::new(10, 64, 32, node.number() as u8);
        let (mut connections, start) = (Connections::default(), Instant::now());
        let mut at = |after: Duration, lost: &BTreeSet<NodeId>, counted_on: &BTreeSet<NodeId>| {
            connections.look(start + after, lost, counted_on, |node| vec![address(node)])
        };
        assert!(at(Duration::ZERO, &two, &all).is_empty());
        assert!(at(PATIENCE - LEDGE, &two, &all).is_empty());
        assert!(at(PATIENCE, &none, &all).is_empty(), "it answered in time");
        assert!(at(PATIENCE, &two, &all).is_empty(), "a new gap begins");
        assert_eq!(at(PATIENCE * 2, &two, &all), [address(NodeId::new(2))]);
        assert!(at(PATIENCE * 2 + LEDGE, &two, &all).is_empty(), "once");
        assert!(at(PATIENCE * 3, &three, &all).is_empty());
        let without = all.difference(&three).copied().collect();
        assert_eq!(at(PATIENCE * 3 + LEDGE, &none, &without), [address(NodeId::new(3))], "given up");
        assert!(at(PATIENCE * 4, &none, &without).is_empty(), "once");
    }
}
