//! How much gossip one node may send.
//!
//! Owns: a budget of messages and bytes for each sender, and how many of its messages wait. Holds: what is dropped is
//! logged once a minute for each sender; memory is bounded by the number of nodes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use raftup_proto::id::NodeId;
use tokio::time::Instant;

use super::NEWCOMERS;

/// Messages a second. Two nodes that only have each other exchange eight.
const MESSAGES: f64 = 40.0;

/// Messages at once, after a pause.
const MESSAGES_AT_ONCE: f64 = 80.0;

/// Bytes a second. Two nodes that only have each other, among a thousand, exchange half of that.
const BYTES: f64 = 1_000_000.0;

/// Bytes at once, after a pause.
const BYTES_AT_ONCE: f64 = 2_000_000.0;

/// Messages of one sender that wait for the gossip task.
const WAITING: usize = 8;

/// What is wrong with a sender is logged so often at most.
const LOG: Duration = Duration::from_secs(60);

/// A sender that was silent for so long is forgotten when room is needed.
const FORGET: Duration = Duration::from_secs(60);

/// The budgets.
#[derive(Default)]
pub(super) struct Limits(Mutex<BTreeMap<NodeId, Sender>>);

struct Sender {
    /// When the budgets were last filled up.
    at: Instant,
    messages: f64,
    bytes: f64,
    waiting: usize,
    logged: Option<Instant>,
}

impl Limits {
    /// Whether a message of `bytes` bytes may be taken in now; [`Self::done`] must follow then. `nodes`: size of the cluster.
    pub(super) fn admit(&self, now: Instant, from: NodeId, bytes: usize, nodes: usize) -> bool {
        let mut senders = self.senders();
        if !senders.contains_key(&from) && senders.len() >= nodes + NEWCOMERS {
            senders.retain(|_, sender| sender.waiting > 0 || now.duration_since(sender.at) < FORGET);
            if senders.len() >= nodes + NEWCOMERS {
                return false;
            }
        }
        senders.entry(from).or_insert_with(|| Sender::new(now)).admit(now, bytes)
    }

    /// A message that was admitted no longer waits.
    pub(super) fn done(&self, from: NodeId) {
        if let Some(sender) = self.senders().get_mut(&from) {
            sender.waiting = sender.waiting.saturating_sub(1);
        }
    }

    /// Logs that something of `from` was dropped, unless that was logged lately.
    pub(super) fn log(&self, now: Instant, from: NodeId, why: &dyn std::fmt::Display) {
        let mut senders = self.senders();
        let logged = senders.get_mut(&from).map(|sender| &mut sender.logged);
        match logged {
            Some(Some(at)) if now.duration_since(*at) < LOG => return,
            Some(logged) => *logged = Some(now),
            // There are more senders than nodes; the line would come with every message.
            None => return tracing::debug!(node = %from, %why, "gossip dropped"),
        }
        tracing::warn!(node = %from, %why, "gossip of a node is dropped; logged once a minute");
    }

    fn senders(&self) -> MutexGuard<'_, BTreeMap<NodeId, Sender>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    fn new(now: Instant) -> Self {
        Self { at: now, messages: MESSAGES_AT_ONCE, bytes: BYTES_AT_ONCE, waiting: 0, logged: None }
    }

    fn admit(&mut self, now: Instant, bytes: usize) -> bool {
        let since = now.duration_since(std::mem::replace(&mut self.at, now)).as_secs_f64();
        self.messages = (self.messages + since * MESSAGES).min(MESSAGES_AT_ONCE);
        self.bytes = (self.bytes + since * BYTES).min(BYTES_AT_ONCE);
        let bytes = bytes as f64;
        let admitted = self.messages >= 1.0 && self.bytes >= bytes && self.waiting < WAITING;
        if admitted {
            self.messages -= 1.0;
            self.bytes -= bytes;
            self.waiting += 1;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(2);

    /// Messages of `bytes` bytes that get through in `time`, one after the other and `each` apart.
    fn admitted(bytes: usize, each: Duration, time: Duration) -> u32 {
        let (limits, start) = (Limits::default(), Instant::now());
        let sent = time.as_micros() / each.as_micros();
        let mut count = 0;
        for n in 0..sent {
            let now = start + each * u32::try_from(n).unwrap();
            if limits.admit(now, NODE, bytes, 3) {
                limits.done(NODE);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_flood_is_cut_to_the_rate() {
        let minute = Duration::from_secs(60);
        assert_eq!(
            admitted(100, Duration::from_millis(1), minute),
            (60.0 * MESSAGES + MESSAGES_AT_ONCE) as u32 - 1
        );
        let large = admitted(100_000, Duration::from_millis(1), minute);
        assert!((600..=620).contains(&large), "{large} messages of 100 kB");
    }

    #[test]
    fn a_node_of_a_cluster_of_a_thousand_is_within_its_budget() {
        // Eight a second of a digest each, if two nodes have only each other left.
        assert_eq!(admitted(60_000, Duration::from_millis(125), Duration::from_secs(60)), 480);
    }

    #[test]
    fn few_messages_of_one_sender_wait() {
        let (limits, now) = (Limits::default(), Instant::now());
        let waiting = (0..100).filter(|_| limits.admit(now, NODE, 1, 3)).count();
        assert_eq!(waiting, WAITING);
        assert!(limits.admit(now, NodeId::new(3), 1, 3), "another sender has room");
        limits.done(NODE);
        assert!(limits.admit(now, NODE, 1, 3));
    }

    #[test]
    fn senders_are_bounded_and_forgotten() {
        let (limits, now) = (Limits::default(), Instant::now());
        for n in 1..1000 {
            limits.admit(now, NodeId::new(n), 1, 3);
            limits.done(NodeId::new(n));
        }
        assert_eq!(limits.senders().len(), 3 + NEWCOMERS);
        assert!(limits.admit(now + FORGET, NodeId::new(5000), 1, 3));
        assert_eq!(limits.senders().len(), 1);
    }
}
