//! Which other nodes cannot be reached from here.
//!
//! The leader's word that a node is down comes after seconds: it has to be sure, for tasks are replaced. Until then new
//! connections are led elsewhere by this suspicion, which costs nothing where it is wrong. A node whose daemon is away
//! is reached all the same: its kernel is asked, on the way that containers' packets take.
//!
//! Owns: the suspicion. Leaves alone: what becomes of endpoints (`mesh`), and of tasks (the leader).

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use raftup_proto::{id::NodeId, view::View};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use crate::{fabric, gossip::Sightings};

/// How long a host may take to answer.
const ANSWER: Duration = Duration::from_millis(400);

/// Pause before silent nodes are asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// Follows gossip, asks those who are silent, and keeps `unreachable` current. Ends with one of the two that it follows.
pub async fn follow(
    node: NodeId,
    mut view: watch::Receiver<Arc<View>>,
    mut gossip: watch::Receiver<Arc<Sightings>>,
    unreachable: watch::Sender<BTreeSet<NodeId>>,
) {
    loop {
        let silent = silent(node, &view.borrow_and_update(), &gossip.borrow_and_update());
        let answers: FuturesUnordered<_> = silent
            .into_iter()
            .map(|(node, host)| async move { (node, fabric::ping(host, ANSWER).await) })
            .collect();
        let none_silent = answers.is_empty();
        let lost: BTreeSet<NodeId> =
            answers.filter_map(|(node, answered)| async move { (!answered).then_some(node) }).collect().await;
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
