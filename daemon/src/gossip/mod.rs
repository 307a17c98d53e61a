//! Who is here, and who has gone quiet.
//!
//! Owns: the chitchat instance of this node and what it makes of it, the [`Sightings`]. Leaves alone: routing, and
//! whether a node counts as down; gossip is one witness of several. Knows no transport: messages go out through a
//! function and come in through [`Gossip::receive`]. Holds: a node that was paused itself, or has just lost most of the
//! others at once, accuses nobody ([`Sightings::impaired`]); the addresses that it sends to never come from gossip, only from
//! the peers that were given and from those who called.

#[cfg(test)]
mod tests;
mod watcher;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use raftup_proto::id::{ClusterId, NodeId};
use rand::seq::IteratorRandom;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use watcher::{Seen, Watcher};
use wire::Wire;

/// How often a node gossips with a few others.
const INTERVAL: Duration = Duration::from_millis(250);

/// How often the sightings are worked out anew; part of the time until a death is seen.
const LOOK: Duration = Duration::from_millis(250);

/// How often peers that were never heard, or not lately, are tried.
const TRY_QUIET: Duration = Duration::from_secs(1);

/// How many of them at a time.
const TRY_COUNT: usize = 3;

/// Silence, in mean times between two signs of life, after which a node has gone quiet.
const PHI: f64 = 8.0;

/// Signs of life that the mean is taken of.
const WINDOW: usize = 100;

/// Longer silences are no part of the mean, or a node that was paused would be believed alive for long afterwards.
const LONGEST: Duration = Duration::from_secs(2);

/// See [`Sighting::silent`]: four times that a healthy node gossips.
pub const SILENT: Duration = INTERVAL.saturating_mul(4);

/// How long a quiet node is remembered.
const REMEMBER: Duration = Duration::from_secs(3600);

/// How long until a gossip task that died is started again.
const RESTART: Duration = Duration::from_millis(500);

/// Names of values.
pub mod key {
    /// Host name.
    pub const HOSTNAME: &str = "hostname";
    /// Address of the control port.
    pub const CONTROL: &str = "control";
    /// Address and port of the fabric.
    pub const FABRIC: &str = "fabric";
    /// Version of `raftupd`.
    pub const VERSION: &str = "version";
    /// How busy the node is.
    pub const LOAD: &str = "load";
}

/// What is known of one other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// It gave a sign of life lately. False also for one that never did since this process began.
    pub alive: bool,
    /// Since when that is so.
    pub since: Instant,
    /// It gave no sign of life for [`SILENT`]. Long before it counts as quiet, and no proof of anything: a reason to look.
    pub silent: bool,
    /// What it says of itself, by [`key`].
    pub values: Arc<BTreeMap<String, String>>,
}

/// What is known of the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// By node, without this one.
    pub nodes: BTreeMap<NodeId, Sighting>,
    /// This node was paused, has just begun, or has just lost most of the others at once: it is no witness against
    /// anybody. Nobody newly counts as quiet while it is set.
    pub impaired: bool,
}

impl Sighting {
    /// For how long it has not been alive; zero while it is.
    pub fn silence(&self) -> Duration {
        // Not zero even in the moment in which it begins.
        if self.alive { Duration::ZERO } else { self.since.elapsed().max(Duration::from_millis(1)) }
    }
}

impl Sightings {
    /// This node is a witness, and the other one gave no sign of life lately.
    pub fn is_quiet(&self, node: NodeId) -> bool {
        !self.impaired && self.nodes.get(&node).is_none_or(|sighting| !sighting.alive)
    }
}

/// Sends one message to a node at an address. Must not block; may drop.
pub type SendMessage = Arc<dyn Fn(NodeId, SocketAddr, Bytes) + Send + Sync>;

/// What gossip starts with.
pub struct GossipConfig {
    /// Messages of other clusters are not heard.
    pub cluster: ClusterId,
    /// This node.
    pub me: NodeId,
    /// All other nodes and their control addresses, from the replicated state; this node among them does no harm.
    pub peers: watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>>,
    /// The way out.
    pub send: SendMessage,
    /// What this node says of itself, by [`key`].
    pub values: BTreeMap<String, String>,
}

/// Gossip of this node. Ends when the last handle is dropped.
#[derive(Clone)]
pub struct Gossip {
    shared: Arc<Shared>,
    view: watch::Receiver<Arc<Sightings>>,
    _end: Arc<DropGuard>,
}

struct Shared {
    cluster: ClusterId,
    me: NodeId,
    wire: Wire,
    /// What this node says of itself, to be said again after a restart of the task.
    values: Mutex<BTreeMap<String, String>>,
    /// Moves when they change.
    changed: watch::Sender<()>,
    view: watch::Sender<Arc<Sightings>>,
}

impl Gossip {
    /// Begins to gossip. Must be called within a tokio runtime.
    pub fn start(config: GossipConfig) -> Self {
        let GossipConfig { cluster, me, peers, send, values } = config;
        let begun = Sightings { nodes: BTreeMap::new(), impaired: true };
        let (sender, view) = watch::channel(Arc::new(begun));
        let shared = Arc::new(Shared {
            cluster,
            me,
            wire: Wire::new(me, peers, send),
            values: Mutex::new(values),
            changed: watch::channel(()).0,
            view: sender,
        });
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(keep_running(shared.clone())));
        Self { shared, view, _end: Arc::new(end.drop_guard()) }
    }

    /// Takes in a message that came from a node of the cluster. Never blocks; drops what is malformed or too much.
    pub fn receive(&self, from: NodeId, addr: SocketAddr, message: &[u8]) {
        self.shared.wire.receive(from, addr, message);
    }

    /// Says something of this node. Values should stay under a kilobyte; each goes to every node.
    pub fn set(&self, key: &str, value: impl std::fmt::Display) {
        self.shared.values().insert(key.to_owned(), value.to_string());
        self.shared.changed.send_replace(());
    }

    /// What is known of the other nodes, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<Arc<Sightings>> {
        self.view.clone()
    }
}

impl Shared {
    fn values(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> ChitchatConfig {
        // A number that grows from start to start: others take the highest for the present process.
        let generation = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
        let addr = wire::addr_of(self.me);
        ChitchatConfig {
            chitchat_id: ChitchatId::new(self.me.to_string(), generation, addr),
            cluster_id: self.cluster.to_string(),
            gossip_interval: INTERVAL,
            listen_addr: addr,
            // Peers come and go; `try_quiet` looks for them instead.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                sampling_window_size: WINDOW,
                max_interval: LONGEST,
                // The default would make young clusters slow to see a death.
                initial_interval: INTERVAL,
                dead_node_grace_period: REMEMBER,
            },
            marked_for_deletion_grace_period: REMEMBER,
            catchup_callback: None,
            extra_liveness_predicate: None,
        }
    }
}

/// Runs chitchat, again when its task died.
async fn keep_running(shared: Arc<Shared>) {
    let mut watcher = Watcher::new(Instant::now());
    loop {
        let values = shared.values().clone().into_iter().collect();
        match spawn_chitchat(shared.config(), values, &shared.wire).await {
            Ok(handle) => {
                let handle = Running(handle);
                tokio::select! {
                    // Cancel-safe: both are started anew.
                    ended = handle.0.termination_watcher() => tracing::error!(?ended, "gossip task died"),
                    () = look(&shared, &handle.0, &mut watcher) => {}
                }
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "gossip does not start"),
        }
        sleep(RESTART).await;
    }
}

/// Ends the task with its owner; the handle alone would leave it running.
struct Running(ChitchatHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Works out the sightings again and again, and tells what this node says of itself.
async fn look(shared: &Shared, handle: &ChitchatHandle, watcher: &mut Watcher) {
    let chitchat = handle.chitchat();
    let mut changed = shared.changed.subscribe();
    let mut tick = interval(LOOK);
    // Due at the moments when chitchat's own timer is, which began just now: one wake for both.
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut tried = Instant::now();
    loop {
        // Cancel-safe: neither holds anything.
        tokio::select! {
            _ = tick.tick() => {}
            told = changed.changed() => match told {
                Ok(()) => tell(shared, &mut *chitchat.lock().await),
                Err(_) => return,
            },
        }
        let sightings = {
            let chitchat = chitchat.lock().await;
            watcher.look(Instant::now(), seen(shared.me, &chitchat), &shared.wire.peers())
        };
        if tried.elapsed() >= TRY_QUIET {
            tried = Instant::now();
            try_quiet(handle, watcher.silent());
        }
        shared.view.send_if_modified(|view| {
            let differs = **view != sightings;
            if differs {
                *view = Arc::new(sightings);
            }
            differs
        });
    }
}

fn tell(shared: &Shared, chitchat: &mut Chitchat) {
    let state = chitchat.self_node_state();
    for (key, value) in shared.values().iter() {
        if state.get(key) != Some(value) {
            state.set(key, value);
        }
    }
}

/// What chitchat holds of the other nodes: of each, the process that lives, else the latest.
fn seen(me: NodeId, chitchat: &Chitchat) -> BTreeMap<NodeId, Seen<'_>> {
    let live: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
    let mut all: BTreeMap<NodeId, Seen<'_>> = BTreeMap::new();
    for (id, state) in chitchat.node_states() {
        let Ok(node) = id.node_id.parse::<NodeId>() else { continue };
        let sign = (id.generation_id, u64::from(state.heartbeat()));
        let seen = Seen { sign, live: live.contains(id), version: state.max_version(), state };
        // Wall clocks go back at times, so the highest generation is not always the latest.
        let better = |held: &Seen<'_>| (held.live, held.sign.0) < (seen.live, sign.0);
        if node != me && all.get(&node).is_none_or(better) {
            all.insert(node, seen);
        }
    }
    all
}

/// Tries a few of the peers that give no sign of life; chitchat alone would not find those that it never heard of.
fn try_quiet(handle: &ChitchatHandle, silent: BTreeSet<NodeId>) {
    for node in silent.into_iter().sample(&mut rand::rng(), TRY_COUNT) {
        // Fails only when the task is over, which is seen elsewhere.
        let _ = handle.gossip(wire::addr_of(node));
    }
}
