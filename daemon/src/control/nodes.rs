//! Finds nodes that are down: gathers the evidence, probes the suspects, writes down who is.
//!
//! Owns: the probes. Leaves alone: whom to suspect (`plan::liveness`); a node is ready again with its next session.
//! Holds: a node is not down as long as anybody reaches it.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use raftup_proto::{
    id::NodeId,
    peer::{Reply, Request},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tracing::{debug, info, warn};

use crate::{
    fabric,
    gossip::Sightings,
    model::Cluster,
    net::{Net, Peer},
    plan::liveness::{self, Evidence},
    plan::nodes,
};

use super::reign::Reign;

/// Name on the board.
const NAME: &str = "nodes";

/// How long a suspect may take to answer.
const DIRECT_LIMIT: Duration = Duration::from_millis(500);

/// How long another node may take to find out; its own dial included.
const WITNESS_LIMIT: Duration = Duration::from_millis(900);

/// Other nodes that are asked about a suspect.
const WITNESSES: usize = 2;

/// A suspect that was reached is not probed again before.
const CALM: Duration = Duration::from_secs(1);

/// Watches over the nodes for as long as the reign lasts.
pub(super) async fn run(reign: &Reign) {
    let mut gossip = reign.gossip.clone();
    let mut probes = JoinSet::new();
    let mut probed = BTreeSet::new();
    loop {
        let cluster = reign.store.snapshot();
        let evidence = evidence(reign, &gossip.borrow_and_update());
        let (suspects, again) = liveness::suspects(&cluster, &evidence);
        for node in suspects {
            if probed.insert(node) {
                let host = cluster.nodes.get(&node).map(|node| node.fabric);
                probes.spawn(probe(reign.net.clone(), asked(&cluster, &evidence, node), node, host));
            }
        }
        // Watches, timers and the set of probes lose nothing when a wait on them is dropped.
        tokio::select! {
            moved = gossip.changed() => if moved.is_err() { return },
            () = sleep(again.unwrap_or_default()), if again.is_some() => {}
            Some(done) = probes.join_next() => {
                // A probe that panicked has ended the process.
                let Ok((node, outcome)) = done else { continue };
                match outcome {
                    Outcome::Reached => {
                        info!(%node, "a silent node answers a probe");
                        probes.spawn(async move { sleep(CALM).await; (node, Outcome::Calm) });
                    }
                    Outcome::Calm => _ = probed.remove(&node),
                    Outcome::HostOnly if !liveness::is_without_daemon(&evidence, node) => {
                        debug!(%node, "the host of a silent node answers; its daemon is waited for");
                        probes.spawn(async move { sleep(CALM).await; (node, Outcome::Calm) });
                    }
                    Outcome::HostOnly => {
                        probed.remove(&node);
                        conclude(reign, node, &gossip, "its host answers, but raftupd there does not").await;
                    }
                    Outcome::Silent => {
                        probed.remove(&node);
                        conclude(reign, node, &gossip, "neither its session nor gossip hears it, and nobody reaches it").await;
                    }
                }
            }
        }
    }
}

/// What became of a suspicion.
enum Outcome {
    /// Somebody reached the node: it is left alone for a while.
    Reached,
    /// That while is over.
    Calm,
    /// Its kernel answers on the fabric, and nothing else does.
    HostOnly,
    /// Nobody reached it.
    Silent,
}

fn evidence(reign: &Reign, sightings: &Sightings) -> Evidence {
    Evidence {
        here: reign.net.identity().map(|identity| identity.node()),
        led_for: reign.since.elapsed(),
        impaired: sightings.impaired,
        gossip: sightings.nodes.iter().map(|(node, sighting)| (*node, sighting.silence())).collect(),
        quiet: reign.sessions.silence(),
    }
}

/// Whom to ask, and the suspect itself first.
fn asked(cluster: &Cluster, evidence: &Evidence, about: NodeId) -> Vec<Peer> {
    let others = liveness::witnesses(cluster, evidence, about, WITNESSES);
    let nodes = std::iter::once(about).chain(others).filter_map(|id| cluster.nodes.get(&id));
    nodes.map(|node| Peer { node: node.id, addr: node.info.control }).collect()
}

/// Whether anybody reaches the node: it is asked itself, its kernel is, and others are asked about it, all at once.
async fn probe(net: Net, asked: Vec<Peer>, about: NodeId, host: Option<Ipv4Addr>) -> (NodeId, Outcome) {
    let Some(at) = asked.first().map(|suspect| suspect.addr) else { return (about, Outcome::Silent) };
    let mut answers: JoinSet<bool> = JoinSet::new();
    for peer in asked {
        let net = net.clone();
        answers.spawn(async move {
            let limit = if peer.node == about { DIRECT_LIMIT } else { WITNESS_LIMIT };
            match net.call_within(limit, peer, Request::Probe { about, at }).await {
                Ok(Reply::Probed { reachable }) => reachable || peer.node == about,
                // Whatever it says, the suspect itself is there if it answers.
                Ok(
                    Reply::Done
                    | Reply::Certificate { .. }
                    | Reply::Credential(_)
                    | Reply::Examined { .. }
                    | Reply::Blob(_),
                ) => peer.node == about,
                Err(error) => matches!(error, crate::net::CallError::Refused(_)) && peer.node == about,
            }
        });
    }
    let kernel = async { matches!(host, Some(host) if fabric::ping(host, DIRECT_LIMIT).await) };
    let reached = async {
        while let Some(answer) = answers.join_next().await {
            if answer.unwrap_or(false) {
                return true;
            }
        }
        false
    };
    let outcome = match tokio::join!(reached, kernel) {
        (true, _) => Outcome::Reached,
        (false, true) => Outcome::HostOnly,
        (false, false) => Outcome::Silent,
    };
    (about, outcome)
}

/// Writes down that a node is down, unless it was heard meanwhile.
async fn conclude(reign: &Reign, node: NodeId, gossip: &watch::Receiver<Arc<Sightings>>, why: &str) {
    let begun = Instant::now();
    let evidence = evidence(reign, &gossip.borrow());
    let done = reign.store.change(|cluster, now| {
        let (suspects, _) = liveness::suspects(cluster, &evidence);
        let set = match suspects.contains(&node) {
            true => nodes::down(cluster, node, why, now),
            false => crate::model::ChangeSet::default(),
        };
        let down = !set.is_empty();
        Ok((set, down))
    });
    let last = match done.await {
        Ok((_, true)) => {
            warn!(%node, why, "node is down; its tasks are replaced");
            format!("node {node} is down")
        }
        Ok((_, false)) => format!("node {node} was heard again"),
        Err(reason) => format!("node {node} could not be written down: {reason}"),
    };
    reign.board.note(NAME, "silence", begun.elapsed(), last);
}
