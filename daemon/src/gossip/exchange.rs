//! What chitchat is given of the messages of others, and what is sent of its own; pure, time and chance are arguments.
//!
//! An exchange is up to three messages: both ends tell what they know of the life of all nodes, and each gets the values
//! that it lacks of the other one. chitchat holds what was heard and answers; what it hears is checked here, and its own
//! words are brought into a form that others can check: this node's heartbeat is a clock (`watcher` says why), values are
//! those of this node alone, and nothing is compressed.
//!
//! Owns: what this node publishes, and which processes chitchat may know. Leaves alone: what to believe (`watcher`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use raftup_proto::id::NodeId;
use tokio::time::Instant;

use super::{
    MOST_NODES, Sightings,
    watcher::Watcher,
    wire::{Entry, Message, Published, Value, entry_len},
};

/// Nodes that are called in each interval.
const CALLS: usize = 3;

/// How often nodes that were never heard, or not lately, are called.
const CALL_QUIET: Duration = Duration::from_secs(1);

/// How many of them at a time.
const CALLS_QUIET: usize = 3;

/// Bytes of the entries of all processes that chitchat may know. All of them go into each of its messages, of at most 65,507
/// bytes, and what is left for values must not be less than 100: chitchat ends by an assertion otherwise.
const ROOM: usize = 64_000;

/// Gossip of this node.
pub(super) struct Exchange {
    me: NodeId,
    begun: Instant,
    /// When quiet nodes were last called.
    tried: Instant,
    /// Versions are chitchat's: it counts one up with each value that it is told.
    published: Published,
    watcher: Watcher,
    /// Processes that chitchat was told of.
    known: BTreeSet<(NodeId, u64)>,
    /// Those who lack some of this node's values.
    lacking: BTreeSet<NodeId>,
}

impl Exchange {
    pub(super) fn new(now: Instant, me: NodeId, generation: u64) -> Self {
        Self {
            me,
            begun: now,
            tried: now,
            published: Published { generation, values: Vec::new() },
            watcher: Watcher::new(now),
            known: BTreeSet::new(),
            lacking: BTreeSet::new(),
        }
    }

    /// chitchat begins anew, as another process of this node: it has published nothing and knows nobody.
    pub(super) fn begin_anew(&mut self, generation: u64) {
        self.published = Published { generation, values: Vec::new() };
        self.known = BTreeSet::from([(self.me, generation)]);
        self.lacking.clear();
    }

    /// The nodes of the cluster. With more than [`MOST_NODES`], those with the highest ids are left out.
    pub(super) fn set_peers(&mut self, now: Instant, peers: impl Iterator<Item = NodeId>) {
        let peers: BTreeSet<NodeId> = peers.filter(|node| *node != self.me).take(MOST_NODES - 1).collect();
        self.watcher.set_peers(now, &peers);
    }

    /// Takes over the values of this node; returns those that chitchat has to be told, in this order.
    pub(super) fn publish(&mut self, values: &BTreeMap<String, String>) -> Vec<(String, String)> {
        let mut news = Vec::new();
        for (key, value) in values {
            let same = |published: &&Value| published.key == *key;
            if self.published.values.iter().find(same).is_some_and(|published| published.value == *value) {
                continue;
            }
            let version = self.version() + 1;
            self.published.values.retain(|published| published.key != *key);
            self.published.values.push(Value { key: key.clone(), value: value.clone(), version });
            news.push((key.clone(), value.clone()));
        }
        news
    }

    /// Whom to call now. Called once in each interval.
    pub(super) fn call(&mut self, now: Instant, chance: &mut dyn FnMut() -> u32) -> Vec<NodeId> {
        let mut nodes = self.watcher.call(now, CALLS, chance);
        if now.duration_since(self.tried) >= CALL_QUIET {
            self.tried = now;
            nodes.extend(self.watcher.call_quiet(now, CALLS_QUIET, chance));
            nodes.sort_unstable();
            nodes.dedup();
        }
        nodes
    }

    /// Takes in a message of another node, which called from `addr`; returns what chitchat may see of it.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        from: NodeId,
        addr: SocketAddr,
        message: Message,
    ) -> Option<Message> {
        let (begins, entries): (_, &[Entry]) = match &message {
            Message::Syn { entries } => (true, entries),
            Message::SynAck { entries, .. } => (false, entries),
            Message::Ack { .. } => (false, &[]),
        };
        let of = |node: NodeId| entries.iter().find(|entry| entry.node == node);
        if !self.watcher.hear(now, from, addr, begins, of(from)) {
            return None;
        }
        let about_me = of(self.me).filter(|entry| entry.generation == self.published.generation);
        if !matches!(message, Message::Ack { .. }) {
            let lacks = about_me.map_or(0, |entry| entry.version) < self.version();
            let _ = if lacks { self.lacking.insert(from) } else { self.lacking.remove(&from) };
        }
        let mut kept: Vec<Entry> = about_me.into_iter().copied().collect();
        let mut told = BTreeSet::from([self.me]);
        for entry in entries {
            // The first one counts, if there are several.
            let sound = told.insert(entry.node) && (entry.node == from || self.watcher.hear_of(now, entry));
            if sound && self.admits(entry.node, entry.generation) {
                kept.push(*entry);
            }
        }
        Some(match message {
            Message::Syn { .. } => Message::Syn { entries: kept },
            Message::SynAck { published, .. } => {
                Message::SynAck { entries: kept, published: self.take(from, published) }
            }
            Message::Ack { published } => Message::Ack { published: self.take(from, published) },
        })
    }

    fn take(&mut self, from: NodeId, published: Option<Published>) -> Option<Published> {
        let published = published?;
        let taken = self.watcher.take(from, &published) && self.known.contains(&(from, published.generation));
        taken.then_some(published)
    }

    fn used(&self) -> usize {
        self.known.iter().map(|(node, _)| entry_len(*node)).sum()
    }

    /// Whether chitchat may know the process.
    fn admits(&mut self, node: NodeId, generation: u64) -> bool {
        let admitted = self.known.contains(&(node, generation)) || { self.used() + entry_len(node) <= ROOM };
        if admitted {
            self.known.insert((node, generation));
        }
        admitted
    }

    /// No further process may be known until chitchat has forgotten some.
    pub(super) fn is_full(&self) -> bool {
        self.used() + entry_len(NodeId::new(u64::MAX)) > ROOM
    }

    /// Chitchat has forgotten some processes: these are left.
    pub(super) fn set_known(&mut self, known: BTreeSet<(NodeId, u64)>) {
        self.known = known;
    }

    /// What is sent to `to` of a message of chitchat; nothing if it says nothing new.
    pub(super) fn send(&mut self, now: Instant, to: NodeId, message: Message) -> Option<Message> {
        let published = self.lacking.contains(&to).then(|| self.published.clone());
        Some(match message {
            Message::Syn { entries } => Message::Syn { entries: self.entries(now, to, entries) },
            Message::SynAck { entries, .. } => {
                Message::SynAck { entries: self.entries(now, to, entries), published }
            }
            Message::Ack { .. } => Message::Ack { published: Some(published?) },
        })
    }

    /// Of chitchat's entries those that are still current, that about the receiver for the version of its values, and this
    /// node's own with its clock.
    fn entries(&self, now: Instant, to: NodeId, mut entries: Vec<Entry>) -> Vec<Entry> {
        entries.retain(|entry| {
            entry.node != self.me && (entry.node == to || self.watcher.is_current(now, entry))
        });
        let since = now.duration_since(self.begun).as_millis();
        // Not 0, which stands for "none yet".
        let heartbeat = u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1);
        let (node, generation, version) = (self.me, self.published.generation, self.version());
        entries.push(Entry { node, generation, heartbeat, version });
        entries
    }

    pub(super) fn look(&mut self, now: Instant) -> Sightings {
        self.watcher.look(now)
    }

    /// Where a node called from that the state does not have yet.
    pub(super) fn caller(&self, node: NodeId) -> Option<SocketAddr> {
        self.watcher.caller(node)
    }

    fn version(&self) -> u64 {
        self.published.values.last().map_or(0, |value| value.version)
    }

    #[cfg(test)]
    pub(super) fn tracked(&self) -> usize {
        self.watcher.tracked()
    }
}
