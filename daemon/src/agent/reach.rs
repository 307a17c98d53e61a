//! Which other nodes cannot be reached from here.
//!
//! The leader's word that a node is down comes after seconds: it has to be sure, for tasks are replaced. Until then new
//! connections are led elsewhere by this suspicion, which costs nothing where it is wrong. A node whose daemon is away
//! is reached all the same: its kernel is asked, on the way that containers' packets take. Connections that last are cut
//! later than that, once a node is surely lost: their clients would wait for minutes, and can come again.
//!
//! Nodes that gossip hears are asked as well, every few seconds: a firewall may let gossip pass and not what containers
//! send. Connections to such a node are not cut, as they go on once the way is open.
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
use raftup_proto::{
    id::NodeId,
    view::{PeerItem, View},
};
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

/// How often nodes that gossip hears are asked.
const LOOK: Duration = Duration::from_secs(2);

/// How long one of them may take to answer: its host may be busy.
const BUSY: Duration = Duration::from_secs(1);

/// Times in a row that one of them does not answer before new connections go elsewhere.
const MISSED: u32 = 2;

/// Of the nodes that gossip hears, so many are asked at a time, in turn.
const AT_A_TIME: usize = 16;

/// Follows gossip, asks those who are silent, and keeps `unreachable` current. Ends with one of the two that it follows.
pub async fn follow(
    node: NodeId,
    view: watch::Receiver<Arc<View>>,
    gossip: watch::Receiver<Arc<Sightings>>,
    unreachable: watch::Sender<BTreeSet<NodeId>>,
) {
    let (cut_off, cut_off_now) = watch::channel(BTreeSet::new());
    // Both end with what they follow; neither leaves anything half done.
    tokio::select! {
        () = ask_heard(node, view.clone(), gossip.clone(), cut_off) => {}
        () = ask_silent(node, view, gossip, cut_off_now, unreachable) => {}
    }
}

/// Keeps `unreachable` current: nodes that are silent and do not answer, and those that are `cut_off`.
async fn ask_silent(
    node: NodeId,
    mut view: watch::Receiver<Arc<View>>,
    mut gossip: watch::Receiver<Arc<Sightings>>,
    mut cut_off: watch::Receiver<BTreeSet<NodeId>>,
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
        let cut_off_now = cut_off.borrow_and_update().clone();
        let lost: BTreeSet<NodeId> = lost.union(&cut_off_now).copied().collect();
        unreachable.send_if_modified(|known| {
            for node in lost.difference(known) {
                warn!(%node, heard = cut_off_now.contains(node), "cannot be reached from here; new connections go elsewhere");
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
            changed = cut_off.changed() => changed,
            () = sleep(AGAIN), if !none_silent => Ok(()),
        };
        if moved.is_err() {
            return;
        }
    }
}

/// Keeps `cut_off` current: nodes that gossip hears, and whose kernel does not answer over the fabric.
async fn ask_heard(
    node: NodeId,
    view: watch::Receiver<Arc<View>>,
    gossip: watch::Receiver<Arc<Sightings>>,
    cut_off: watch::Sender<BTreeSet<NodeId>>,
) {
    let mut missed = Missed::default();
    while !cut_off.is_closed() {
        let (now, heard_now) = (Arc::clone(&view.borrow()), Arc::clone(&gossip.borrow()));
        let heard: BTreeMap<NodeId, Ipv4Addr> = counted_on(node, &now)
            .filter(|peer| is_heard(&heard_now, peer.node))
            .map(|peer| (peer.node, peer.fabric))
            .collect();
        let asked = missed.next(&heard);
        let answered = fabric::answering(asked.values().copied(), BUSY).await;
        let silent = missed.take(asked.iter().map(|(node, host)| (*node, answered.contains(host))));
        cut_off.send_if_modified(|known| {
            let differs = *known != silent;
            *known = silent;
            differs
        });
        sleep(if missed.is_unsure() { AGAIN } else { LOOK }).await;
    }
}

/// Nodes that did not answer when they were last asked, how often in a row, and who was asked last.
#[derive(Default)]
struct Missed {
    times: BTreeMap<NodeId, u32>,
    last: Option<NodeId>,
}

impl Missed {
    /// Whom to ask of the nodes that gossip hears: those that did not answer, and the next few of the others. Nodes that
    /// are not heard any more are forgotten.
    fn next(&mut self, heard: &BTreeMap<NodeId, Ipv4Addr>) -> BTreeMap<NodeId, Ipv4Addr> {
        self.times.retain(|node, _| heard.contains_key(node));
        let last = self.last;
        let after = heard.iter().filter(|(node, _)| last.is_none_or(|last| **node > last));
        let before = heard.iter().filter(|(node, _)| last.is_some_and(|last| **node <= last));
        let next: Vec<_> = after.chain(before).take(AT_A_TIME).collect();
        self.last = next.last().map(|(node, _)| **node);
        let again = heard.iter().filter(|(node, _)| self.times.contains_key(node));
        next.into_iter().chain(again).map(|(node, host)| (*node, *host)).collect()
    }

    /// Takes in who has answered. Returns the nodes that have missed too many times in a row.
    fn take(&mut self, answers: impl Iterator<Item = (NodeId, bool)>) -> BTreeSet<NodeId> {
        for (node, answered) in answers {
            if answered {
                self.times.remove(&node);
            } else {
                *self.times.entry(node).or_default() += 1;
            }
        }
        self.times.iter().filter(|(_, times)| **times >= MISSED).map(|(node, _)| *node).collect()
    }

    /// One has missed, and not often enough.
    fn is_unsure(&self) -> bool {
        self.times.values().any(|times| *times < MISSED)
    }
}

/// Nodes that the leader counts on and gossip has not heard for a moment, and where to ask them.
fn silent(me: NodeId, view: &View, gossip: &Sightings) -> Vec<(NodeId, Ipv4Addr)> {
    let silent = counted_on(me, view).filter(|peer| !is_heard(gossip, peer.node));
    silent.map(|peer| (peer.node, peer.fabric)).collect()
}

/// The other nodes that the leader counts on.
fn counted_on(me: NodeId, view: &View) -> impl Iterator<Item = &PeerItem> {
    view.peers().filter(move |peer| peer.alive && peer.node != me)
}

/// Gossip has heard a node within the last moment.
pub(super) fn is_heard(gossip: &Sightings, node: NodeId) -> bool {
    gossip.nodes.get(&node).is_some_and(|sighting| !sighting.silent)
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

    #[test]
    fn a_node_is_cut_off_once_it_has_missed_twice_in_a_row() {
        let (one, two) = (NodeId::new(1), NodeId::new(2));
        let heard =
            BTreeMap::from([one, two].map(|node| (node, Ipv4Addr::new(10, 64, 0, node.number() as u8))));
        let mut missed = Missed::default();
        let mut ask = |answers: [bool; 2]| {
            assert_eq!(missed.next(&heard).len(), 2);
            missed.take([one, two].into_iter().zip(answers))
        };
        assert!(ask([true, false]).is_empty(), "one loss is none");
        assert!(ask([true, true]).is_empty());
        assert!(ask([true, false]).is_empty());
        assert_eq!(ask([true, false]), BTreeSet::from([two]));
        assert_eq!(ask([false, false]), BTreeSet::from([two]));
        assert_eq!(ask([true, true]), BTreeSet::new());
    }

    #[test]
    fn all_nodes_are_asked_in_turn_and_those_that_missed_each_time() {
        let count = AT_A_TIME as u64 * 2 + 3;
        let one = NodeId::new(1);
        let heard: BTreeMap<_, _> =
            (1..=count).map(|number| (NodeId::new(number), Ipv4Addr::from(number as u32))).collect();
        let (mut missed, mut asked) = (Missed::default(), BTreeSet::new());
        for _ in 0..3 {
            let next = missed.next(&heard);
            assert!(next.len() <= AT_A_TIME + 1 && next.contains_key(&one), "{}", next.len());
            asked.extend(next.into_keys());
            missed.take([(one, false)].into_iter());
        }
        assert_eq!(asked.len(), heard.len());
        assert!(missed.next(&BTreeMap::new()).is_empty() && missed.times.is_empty(), "nobody is heard");
    }
}
