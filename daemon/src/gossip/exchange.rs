//! Which messages to send, and what to answer; pure, time is an argument.
//!
//! An exchange is up to three messages: both ends tell what they know of the life of all nodes, and each gets the values
//! that it lacks of the other one. Owns: what this node publishes. Leaves alone: what to believe (`watcher`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use raftup_proto::id::NodeId;
use tokio::time::Instant;

use super::{
    MOST_ENTRIES, Sightings,
    watcher::Watcher,
    wire::{Entry, Message, Published, Value},
};

/// Nodes that are called in each interval.
const CALLS: usize = 3;

/// How often nodes that were never heard, or not lately, are called.
const CALL_QUIET: Duration = Duration::from_secs(1);

/// How many of them at a time.
const CALLS_QUIET: usize = 3;

/// Gossip of this node.
pub(super) struct Exchange {
    me: NodeId,
    begun: Instant,
    /// When quiet nodes were last called.
    tried: Instant,
    published: Published,
    watcher: Watcher,
}

impl Exchange {
    pub(super) fn new(now: Instant, me: NodeId, generation: u64) -> Self {
        let published = Published { generation, values: Vec::new() };
        Self { me, begun: now, tried: now, published, watcher: Watcher::new(now) }
    }

    pub(super) fn set_peers(&mut self, now: Instant, peers: impl Iterator<Item = NodeId>) {
        let peers: BTreeSet<NodeId> = peers.filter(|node| *node != self.me).collect();
        self.watcher.set_peers(now, &peers);
    }

    /// Publishes the values of this node.
    pub(super) fn publish(&mut self, values: &BTreeMap<String, String>) {
        for (key, value) in values {
            let same = |published: &&Value| published.key == *key;
            if self.published.values.iter().find(same).is_some_and(|published| published.value == *value) {
                continue;
            }
            let version = self.version() + 1;
            self.published.values.retain(|published| published.key != *key);
            self.published.values.push(Value { key: key.clone(), value: value.clone(), version });
        }
    }

    /// What to send now, and to whom. Called once in each interval.
    pub(super) fn begin(&mut self, now: Instant) -> Vec<(NodeId, Message)> {
        let mut nodes = self.watcher.call(now, CALLS);
        if now.duration_since(self.tried) >= CALL_QUIET {
            self.tried = now;
            nodes.extend(self.watcher.call_quiet(now, CALLS_QUIET));
            nodes.sort_unstable();
            nodes.dedup();
        }
        nodes.into_iter().map(|to| (to, Message::Syn { entries: self.entries(now, to) })).collect()
    }

    /// Takes in a message of another node, and answers it.
    pub(super) fn receive(&mut self, now: Instant, from: NodeId, message: Message) -> Option<Message> {
        match message {
            Message::Syn { entries } => {
                let lacking = self.hear(now, from, true, &entries)?;
                let entries = self.entries(now, from);
                Some(Message::SynAck { entries, published: lacking })
            }
            Message::SynAck { entries, published } => {
                let lacking = self.hear(now, from, false, &entries)?;
                published.into_iter().for_each(|published| self.watcher.take(from, published));
                lacking.map(|published| Message::Ack { published: Some(published) })
            }
            Message::Ack { published } => {
                if self.watcher.hear(now, from, false, None) {
                    published.into_iter().for_each(|published| self.watcher.take(from, published));
                }
                None
            }
        }
    }

    pub(super) fn look(&mut self, now: Instant) -> Sightings {
        self.watcher.look(now)
    }

    /// Takes in entries, and returns what the sender lacks of this node's values. None: the message is dropped.
    fn hear(
        &mut self,
        now: Instant,
        from: NodeId,
        begins: bool,
        entries: &[Entry],
    ) -> Option<Option<Published>> {
        let of = |node: NodeId| entries.iter().find(|entry| entry.node == node);
        if !self.watcher.hear(now, from, begins, of(from)) {
            return None;
        }
        for entry in entries.iter().filter(|entry| entry.node != from && entry.node != self.me) {
            self.watcher.hear_of(now, entry);
        }
        let about_me = of(self.me).filter(|entry| entry.generation == self.published.generation);
        let lacks = about_me.map_or(0, |entry| entry.version) < self.version();
        Some(lacks.then(|| self.published.clone()))
    }

    fn entries(&self, now: Instant, to: NodeId) -> Vec<Entry> {
        let since = now.duration_since(self.begun).as_millis();
        // Not 0, which stands for "none yet" in earlier versions.
        let heartbeat = u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1);
        let (node, generation, version) = (self.me, self.published.generation, self.version());
        let mut entries = self.watcher.entries(now, to, MOST_ENTRIES as usize - 1);
        entries.push(Entry { node, generation, heartbeat, version });
        entries
    }

    fn version(&self) -> u64 {
        self.published.values.last().map_or(0, |value| value.version)
    }

    #[cfg(test)]
    pub(super) fn tracked(&self) -> usize {
        self.watcher.tracked()
    }
}
