//! Who is here, and who has gone quiet.
//!
//! Each node sends what it knows of the life of all nodes to a few others, four times a second, so that news of each
//! reaches all. chitchat holds that knowledge, and answers (`engine`); it is given nothing that was not checked before.
//! Owns: what is heard and said, and the [`Sightings`] that come of it. Leaves alone: routing, and whether a node
//! counts as down; gossip is one witness of several. Knows no transport: messages go out through a function and come in
//! through [`Gossip::receive`], from senders that the transport has authenticated.
//!
//! Holds: no message ends the gossip task, or takes more time or memory than its size and the limits of `limit` and
//! `wire` allow. What is said of a node counts if it says so itself, else within narrow bounds (`watcher`). A node that
//! was paused itself, or has just lost most of the others at once, accuses nobody ([`Sightings::impaired`]). The
//! addresses that it sends to never come from gossip, only from the peers that were given and from those who called.
//! A cluster has at most [`MAX_NODES`] nodes: all of them have to fit into a message.

mod engine;
mod exchange;
mod limit;
#[cfg(test)]
mod tests;
mod watcher;
mod wire;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use engine::Engine;
use exchange::Exchange;
use limit::Limits;
use raftup_proto::id::{ClusterId, NodeId};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::{Malformed, Message};

use crate::plan::nodes::MAX_NODES;

/// How often a node gossips with a few others, and judges who is alive.
const INTERVAL: Duration = Duration::from_millis(250);

/// See [`Sighting::silent`]: four times that a healthy node gossips.
pub const SILENT: Duration = INTERVAL.saturating_mul(4);

/// Nodes that gossip: chitchat's messages hold an entry for each, and have 64 KiB. Clusters have no more.
const MOST_NODES: usize = MAX_NODES;

/// Wait before chitchat is started again after it has ended.
const RESTART: Duration = Duration::from_secs(1);

/// Nodes that are heard although the state does not have them yet: those that have just joined.
const NEWCOMERS: usize = 64;

/// Messages that wait for the gossip task; more are dropped, newer ones say the same.
const INBOX: usize = 256;

/// Messages of more bytes are read on a thread for that, so that a crowd of them does not hold up the worker.
const LARGE: usize = 16 << 10;

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
    cluster: String,
    me: NodeId,
    peers: watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>>,
    send: SendMessage,
    /// What this node says of itself.
    values: Mutex<BTreeMap<String, String>>,
    /// Moves when they change.
    changed: watch::Sender<()>,
    limits: Limits,
    /// Leads to the gossip task.
    inbox: mpsc::Sender<Letter>,
    view: watch::Sender<Arc<Sightings>>,
}

/// A message on its way to the gossip task.
struct Letter {
    from: NodeId,
    addr: SocketAddr,
    message: Box<[u8]>,
}

impl Gossip {
    /// Begins to gossip. Must be called within a tokio runtime.
    pub fn start(config: GossipConfig) -> Self {
        let GossipConfig { cluster, me, peers, send, values } = config;
        let begun = Sightings { nodes: BTreeMap::new(), impaired: true };
        let (sender, view) = watch::channel(Arc::new(begun));
        let (inbox, letters) = mpsc::channel(INBOX);
        let shared = Arc::new(Shared {
            cluster: cluster.to_string(),
            me,
            peers,
            send,
            values: Mutex::default(),
            changed: watch::channel(()).0,
            limits: Limits::default(),
            inbox,
            view: sender,
        });
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(run(Arc::clone(&shared), letters)));
        let gossip = Self { shared, view, _end: Arc::new(end.drop_guard()) };
        values.into_iter().for_each(|(key, value)| gossip.set(&key, value));
        gossip
    }

    /// Takes in a message that came from a node of the cluster. Never blocks; drops what is malformed or too much.
    pub fn receive(&self, from: NodeId, addr: SocketAddr, message: &[u8]) {
        let (shared, now) = (&self.shared, Instant::now());
        if from == shared.me {
            return;
        }
        if message.len() > wire::max_len() {
            return shared.limits.log(now, from, &Malformed::TooLarge);
        }
        let nodes = shared.peers.borrow().len();
        if !shared.limits.admit(now, from, message.len(), nodes) {
            return shared.limits.log(now, from, &"it sends more than a node may");
        }
        if shared.inbox.try_send(Letter { from, addr, message: message.into() }).is_err() {
            shared.limits.done(from);
            shared.limits.log(now, from, &"too much gossip waits to be read");
        }
    }

    /// Says something of this node. A value that is longer than a node may publish is logged and not published.
    pub fn set(&self, key: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        let mut values = self.shared.values();
        let fits = key.len() <= wire::MAX_KEY && value.len() <= wire::MAX_VALUE;
        if !fits || (values.len() >= wire::MAX_VALUES && !values.contains_key(key)) {
            return tracing::warn!(
                key,
                bytes = value.len(),
                "a value is not gossiped: too long, or too many"
            );
        }
        values.insert(key.to_owned(), value);
        self.shared.changed.send_replace(());
    }

    /// What is known of the other nodes, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<Arc<Sightings>> {
        self.view.clone()
    }
}

impl Shared {
    fn values(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends to the address of the state; a node that the state does not have is answered where it called from.
    fn send(&self, to: NodeId, caller: Option<SocketAddr>, message: &Message) {
        let known = self.peers.borrow().get(&to).copied();
        if let Some(addr) = known.or(caller) {
            (self.send)(to, addr, message.encode(self.me, to, &self.cluster));
        }
    }

    /// Starts chitchat as a new process of this node.
    async fn start(&self, exchange: &mut Exchange) -> anyhow::Result<Engine> {
        let generation = generation();
        exchange.begin_anew(generation);
        let values = exchange.publish(&self.values());
        Engine::start(self.cluster.clone(), self.me, generation, values).await
    }

    /// Reads a message.
    async fn open(self: &Arc<Self>, letter: Letter) -> Option<Message> {
        let Letter { from, message, .. } = letter;
        let decoded = if message.len() > LARGE {
            let shared = Arc::clone(self);
            let read = move || Message::decode(&message, from, &shared.cluster);
            // Fails only in a runtime that ends.
            tokio::task::spawn_blocking(read).await.ok()?
        } else {
            Message::decode(&message, from, &self.cluster)
        };
        self.limits.done(from);
        match decoded {
            Ok((message, 0)) => return Some(message),
            Ok((message, dropped)) => {
                self.limits.log(Instant::now(), from, &format_args!("{dropped} entries name no node"));
                return Some(message);
            }
            Err(error) => self.limits.log(Instant::now(), from, &error),
        }
        None
    }

    fn show(&self, sightings: Sightings) {
        self.view.send_if_modified(|view| {
            let differs = **view != sightings;
            if differs {
                *view = Arc::new(sightings);
            }
            differs
        });
    }
}

/// A number that differs from start to start.
fn generation() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Gossips for as long as it is not dropped; starts chitchat again should it end.
async fn run(shared: Arc<Shared>, mut letters: mpsc::Receiver<Letter>) -> Infallible {
    let mut exchange = Exchange::new(Instant::now(), shared.me, 0);
    loop {
        match shared.start(&mut exchange).await {
            Ok(engine) => converse(&shared, &mut letters, &mut exchange, engine).await,
            Err(error) => tracing::error!(error = format!("{error:#}"), "gossip does not start"),
        }
        tracing::error!("gossip has ended; it is started again");
        sleep(RESTART).await;
    }
}

/// Returns when chitchat has ended.
async fn converse(
    shared: &Arc<Shared>,
    letters: &mut mpsc::Receiver<Letter>,
    exchange: &mut Exchange,
    mut engine: Engine,
) {
    let (mut changed, mut peers) = (shared.changed.subscribe(), shared.peers.clone());
    exchange.set_peers(Instant::now(), peers.borrow_and_update().keys().copied());
    let mut tick = interval(INTERVAL);
    // Due at the moments when chitchat's own timer is, which began just now: one wake for both.
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        // Cancel-safe: a letter or message is taken only by the branch that is then run, and the others hold nothing.
        tokio::select! {
            _ = tick.tick() => {
                let now = Instant::now();
                shared.show(exchange.look(now));
                exchange.call(now, &mut rand::random).into_iter().for_each(|node| engine.call(node));
            }
            Some(letter) = letters.recv() => {
                let (from, addr) = (letter.from, letter.addr);
                let Some(message) = shared.open(letter).await else { continue };
                if exchange.is_full() {
                    exchange.set_known(engine.processes().await);
                }
                if let Some(message) = exchange.receive(Instant::now(), from, addr, message) {
                    engine.give(from, &message.encode(from, shared.me, &shared.cluster));
                }
            }
            sent = engine.next() => {
                let Some((to, bytes)) = sent else { return };
                // What it says of values is replaced, compressed or not.
                let message = match Message::decode(&bytes, shared.me, &shared.cluster) {
                    Ok((message, _)) => message,
                    Err(error) => {
                        tracing::error!(%error, "chitchat sends what cannot be read");
                        continue;
                    }
                };
                if let Some(message) = exchange.send(Instant::now(), to, message) {
                    shared.send(to, exchange.caller(to), &message);
                }
            }
            Ok(()) = changed.changed() => {
                let news = exchange.publish(&shared.values());
                for (key, value) in news {
                    engine.set(&key, &value).await;
                }
            }
            Ok(()) = peers.changed() => {
                let now = Instant::now();
                exchange.set_peers(now, peers.borrow_and_update().keys().copied());
                shared.show(exchange.look(now));
            }
        }
    }
}
