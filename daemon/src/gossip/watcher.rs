//! What to believe of what gossip shows; pure, time is an argument.
//!
//! chitchat's detector adapts to the mean time between signs of life, which in a small cluster is so short that a busy
//! moment looks like a death; so a node is quiet only when the detector says so and [`LEAST_SILENCE`] has passed too.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use chitchat::NodeState;
use raftup_proto::id::NodeId;
use tokio::time::Instant;

use super::{SILENT, Sighting, Sightings};

/// A node that gave a sign of life so recently is alive.
const LEAST_SILENCE: Duration = Duration::from_millis(1750);

/// Two looks that are further apart mean that this process was paused or starved. The looks are `super::LOOK` apart.
const LATE: Duration = Duration::from_millis(1100);

/// After a pause, and at the start, others get so long to be heard before they can count as quiet.
const GATHER: Duration = Duration::from_millis(2500);

/// How long this node doubts itself when most of the others went quiet within [`AT_ONCE`].
const DOUBT: Duration = Duration::from_secs(5);

/// See [`DOUBT`].
const AT_ONCE: Duration = Duration::from_secs(2);

/// What gossip shows of one node.
pub(super) struct Seen<'a> {
    /// Its process and heartbeat; any change is a sign of life.
    pub(super) sign: (u64, u64),
    /// chitchat's detector says that it lives.
    pub(super) live: bool,
    /// Moves when its values change.
    pub(super) version: u64,
    /// Holds its values.
    pub(super) state: &'a NodeState,
}

/// Remembers what was seen.
pub(super) struct Watcher {
    tracks: BTreeMap<NodeId, Track>,
    looked: Instant,
    /// This node is no witness before.
    witness_from: Instant,
    /// How many others were alive, at each look of the last [`AT_ONCE`].
    counts: VecDeque<(Instant, usize)>,
}

struct Track {
    sign: Option<(u64, u64)>,
    /// Its last sign of life, if it gave one since this process began.
    moved: Option<Instant>,
    version: (u64, u64),
    alive: bool,
    silent: bool,
    since: Instant,
    values: Arc<BTreeMap<String, String>>,
}

impl Watcher {
    pub(super) fn new(now: Instant) -> Self {
        Self { tracks: BTreeMap::new(), looked: now, witness_from: now + GATHER, counts: VecDeque::new() }
    }

    /// Takes in what gossip shows now. Nodes that are neither among `peers` nor seen are forgotten.
    pub(super) fn look(
        &mut self,
        now: Instant,
        seen: BTreeMap<NodeId, Seen<'_>>,
        peers: &BTreeSet<NodeId>,
    ) -> Sightings {
        if now.duration_since(self.looked) > LATE {
            tracing::warn!(paused = ?now.duration_since(self.looked), "this process was paused; it accuses nobody");
            self.witness_from = now + GATHER;
        }
        self.looked = now;
        self.tracks.retain(|node, _| peers.contains(node) || seen.contains_key(node));
        for node in peers {
            self.tracks.entry(*node).or_insert_with(|| Track::new(now));
        }
        let mut alive = BTreeSet::new();
        for (node, seen) in &seen {
            let track = self.tracks.entry(*node).or_insert_with(|| Track::new(now));
            track.take_in(now, seen);
            let heard =
                track.moved.is_some_and(|moved| seen.live || now.duration_since(moved) < LEAST_SILENCE);
            if heard {
                alive.insert(*node);
            }
        }
        self.doubt(now, alive.len());
        let impaired = now < self.witness_from;
        for (node, track) in &mut self.tracks {
            track.settle(now, alive.contains(node), impaired);
        }
        Sightings {
            nodes: self.tracks.iter().map(|(node, track)| (*node, track.sighting())).collect(),
            impaired,
        }
    }

    /// Doubts itself if most of the others went quiet at once, but not for ever: they may really be gone.
    fn doubt(&mut self, now: Instant, alive: usize) {
        self.counts.push_back((now, alive));
        while self.counts.front().is_some_and(|(at, _)| now.duration_since(*at) > AT_ONCE) {
            self.counts.pop_front();
        }
        let before = self.counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
        // With one other node, its death and this node's deafness cannot be told apart.
        if before >= 2 && alive * 2 < before {
            self.witness_from = self.witness_from.max(now + DOUBT);
            // Whatever is heard from now on is the new measure.
            self.counts.clear();
        }
    }

    /// Nodes that give no sign of life.
    pub(super) fn silent(&self) -> BTreeSet<NodeId> {
        self.tracks.iter().filter(|(_, track)| !track.alive).map(|(node, _)| *node).collect()
    }
}

impl Track {
    fn new(now: Instant) -> Self {
        Self {
            sign: None,
            moved: None,
            version: (0, 0),
            alive: false,
            silent: true,
            since: now,
            values: Arc::default(),
        }
    }

    fn take_in(&mut self, now: Instant, seen: &Seen<'_>) {
        match self.sign.replace(seen.sign) {
            // News of a node may be old; only what moves lives.
            None => {}
            Some(before) if before == seen.sign => {}
            Some(_) => self.moved = Some(now),
        }
        let version = (seen.sign.0, seen.version);
        if self.version != version {
            self.version = version;
            let values = seen.state.key_values().map(|(key, value)| (key.to_owned(), value.to_owned()));
            self.values = Arc::new(values.collect());
        }
    }

    fn settle(&mut self, now: Instant, alive: bool, impaired: bool) {
        let alive = alive || (impaired && self.alive);
        self.silent = self.moved.is_none_or(|moved| now.duration_since(moved) >= SILENT);
        if self.alive != alive {
            self.alive = alive;
            self.since = now;
        }
    }

    fn sighting(&self) -> Sighting {
        Sighting { alive: self.alive, since: self.since, silent: self.silent, values: self.values.clone() }
    }
}
