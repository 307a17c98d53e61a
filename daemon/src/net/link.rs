//! One connection to a peer, and the set of them.
//!
//! Both ends of a connection may open streams, so who dialled does not matter. Holds: a node's links all belong to one
//! process of it; when another process of the node shows up, it either takes over (the old one is silent, or had the
//! same address) or is refused as a duplicate. When a process says that its host has moved, the links of before are gone.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::Connection;
use raftup_proto::{
    id::NodeId,
    peer::{Hello, Role},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    Caller,
    ca::{self, Name},
    error::Close,
};

/// A peer that was heard so recently is alive.
const ALIVE: Duration = Duration::from_secs(2);

/// A link without a stream that nobody used for so long is closed.
const UNUSED: Duration = Duration::from_secs(10);

/// Connections of one node at a time; with more, the oldest is closed.
const MAX_LINKS: usize = 8;

/// Gossip messages that wait to be written to one peer; more are dropped, newer ones say the same.
const GOSSIP_QUEUE: usize = 8;

/// Who speaks at an end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Speaker {
    /// Drawn at random by the process.
    pub(super) process: u64,
    /// How often the address of its host has changed meanwhile.
    pub(super) moves: u32,
}

impl Speaker {
    /// What this one says makes the links of `other`, of the same node, void: they lead to a process that is gone, or to
    /// where it is no more.
    fn replaces(self, other: Self) -> bool {
        self.process != other.process || self.moves > other.moves
    }
}

/// A connection to a node of the cluster whose greeting was heard.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) caller: Caller,
    speaker: Speaker,
    /// When the peer's certificate ends.
    certificate: Name,
    pub(super) gossip: mpsc::Sender<Bytes>,
    /// Streams of each kind that the peer has open, on all of its links together.
    kinds: Arc<[AtomicUsize; KINDS]>,
    /// Streams that are open, of both sides.
    open: AtomicUsize,
    used: Mutex<Instant>,
    /// Packets heard so far, and when the count last moved.
    heard: Mutex<(u64, Instant)>,
    /// Kept for the streams that it has; new ones go elsewhere.
    retired: AtomicBool,
    /// Which of two connections that were dialled at the same time both ends use.
    preferred: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// A link, and the queue of gossip to be written to it.
    pub(super) fn new(
        connection: Connection,
        certificate: Name,
        speaker: Speaker,
        preferred: bool,
    ) -> (Self, mpsc::Receiver<Bytes>) {
        let (gossip, queue) = mpsc::channel(GOSSIP_QUEUE);
        let addr = connection.remote_address();
        let link = Self {
            caller: Caller { node: certificate.node, role: certificate.role, addr },
            connection,
            speaker,
            certificate,
            gossip,
            kinds: Arc::default(),
            open: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
            heard: Mutex::new((0, Instant::now())),
            retired: AtomicBool::new(false),
            preferred,
        };
        (link, queue)
    }

    fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// A packet came from the peer not long ago.
    fn is_alive(&self) -> bool {
        let count = self.connection.stats().udp_rx.datagrams;
        let mut heard = lock(&self.heard);
        if heard.0 != count {
            *heard = (count, Instant::now());
        }
        self.is_open() && heard.1.elapsed() < ALIVE
    }

    /// Use for a message that is no stream.
    pub(super) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    pub(super) fn close(&self, why: Close, words: &str) {
        self.connection.close(why.code(), words.as_bytes());
    }

    fn is_unused(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && lock(&self.used).elapsed() > UNUSED
    }
}

/// Kinds of streams that are counted.
const KINDS: usize = 7;

/// The place of a kind in the counts, and how many streams of it one node may have open.
fn kind(hello: &Hello) -> (usize, usize) {
    match hello {
        Hello::Join => (0, 8),
        Hello::ForwardedJoin { .. } => (6, 32),
        Hello::Rpc => (1, 64),
        Hello::Session => (2, 4),
        Hello::Gossip => (3, 16),
        Hello::Raft => (4, 32),
        Hello::Api => (5, 128),
    }
}

/// Keeps a link in use while a stream lives.
#[derive(Clone)]
pub(super) struct Hold {
    _held: Arc<Held>,
}

struct Held {
    link: Arc<Link>,
    kind: Option<usize>,
}

impl Hold {
    /// For a stream that this node opened.
    pub(super) fn ours(link: &Arc<Link>) -> Self {
        link.open.fetch_add(1, Ordering::Relaxed);
        Self { _held: Arc::new(Held { link: link.clone(), kind: None }) }
    }

    /// For a stream that the peer opened. None: it has too many of the kind.
    pub(super) fn theirs(link: &Arc<Link>, hello: &Hello) -> Option<Self> {
        let (kind, most) = kind(hello);
        // Counted before it is compared, so that streams that come at once do not pass together.
        if link.kinds[kind].fetch_add(1, Ordering::Relaxed) >= most {
            link.kinds[kind].fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        link.open.fetch_add(1, Ordering::Relaxed);
        Some(Self { _held: Arc::new(Held { link: link.clone(), kind: Some(kind) }) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(kind) = self.kind {
            self.link.kinds[kind].fetch_sub(1, Ordering::Relaxed);
        }
        self.link.open.fetch_sub(1, Ordering::Relaxed);
        self.link.touch();
    }
}

/// All links of a node.
#[derive(Default)]
pub(super) struct Links(Mutex<BTreeMap<NodeId, Vec<Arc<Link>>>>);

/// A process of a node that shows up while another one is alive elsewhere.
pub(super) struct Duplicate {
    /// Where the first one is.
    pub(super) first: SocketAddr,
}

impl Links {
    /// Adds a link. Errors: the node's identity is in use from another address, by another process.
    pub(super) fn add(&self, mut link: Link) -> Result<Arc<Link>, Duplicate> {
        let mut all = lock(&self.0);
        let links = all.entry(link.caller.node).or_default();
        links.retain(|link| link.is_open());
        let elsewhere = |old: &&Arc<Link>| {
            old.speaker.process != link.speaker.process && old.caller.addr != link.caller.addr
        };
        if let Some(old) = links.iter().filter(elsewhere).find(|old| old.is_alive()) {
            return Err(Duplicate { first: old.caller.addr });
        }
        if let Some(old) = links.last() {
            link.kinds = old.kinds.clone();
        }
        for old in links.iter().filter(|old| link.speaker.replaces(old.speaker)) {
            old.close(Close::Unused, "the node was restarted, or has another address now");
        }
        links.retain(|old| !link.speaker.replaces(old.speaker));
        if links.len() >= MAX_LINKS {
            links.remove(0).close(Close::Busy, "the node has opened too many connections");
        }
        let link = Arc::new(link);
        links.push(link.clone());
        Ok(link)
    }

    /// The link to use for the node: one that is alive, the one that both ends prefer, the newest.
    pub(super) fn get(&self, node: NodeId) -> Option<Arc<Link>> {
        let all = lock(&self.0);
        let usable = |link: &&Arc<Link>| !link.retired.load(Ordering::Relaxed) && link.is_alive();
        all.get(&node)?.iter().filter(usable).max_by_key(|link| link.preferred).cloned()
    }

    /// Closes the links of one node.
    pub(super) fn close(&self, node: NodeId, why: Close, words: &str) {
        for link in lock(&self.0).remove(&node).unwrap_or_default() {
            link.close(why, words);
        }
    }

    /// Closes all links.
    pub(super) fn close_all(&self, why: Close, words: &str) {
        for link in std::mem::take(&mut *lock(&self.0)).into_values().flatten() {
            link.close(why, words);
        }
    }

    /// Opens no more streams on the present links; they end with the streams that they have.
    pub(super) fn retire(&self) {
        for link in lock(&self.0).values().flatten() {
            link.retired.store(true, Ordering::Relaxed);
        }
    }

    /// Closes links that nobody uses, of nodes that `may` says no to, and with expired certificates. Gives the nodes that
    /// were turned away.
    pub(super) fn sweep(&self, may: impl Fn(NodeId, Role) -> bool) -> Vec<NodeId> {
        let mut all = lock(&self.0);
        let (now, mut removed) = (ca::now(), Vec::new());
        all.retain(|node, links| {
            for link in links.iter() {
                let welcome = may(*node, link.caller.role);
                // Looked at often, so that it is known when the peer was last heard.
                link.is_alive();
                if !welcome {
                    removed.push(*node);
                    link.close(Close::Removed, "the node was removed from the cluster");
                } else if link.certificate.not_after < now {
                    link.close(Close::Expired, "the certificate has expired");
                } else if link.is_unused() {
                    link.close(Close::Unused, "unused");
                }
            }
            links.retain(|link| link.is_open());
            !links.is_empty()
        });
        removed
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        lock(&self.0).values().flatten().filter(|link| link.is_open()).count()
    }
}
