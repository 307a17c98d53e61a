//! What to believe of the other nodes; pure, time and chance are arguments.
//!
//! A message of the node itself is first-hand: the transport has checked the sender's certificate. What others say of it
//! is hearsay, which any member can invent. It is needed all the same: in a large cluster, a node is called by each other
//! node only now and then. So hearsay counts within bounds:
//!
//! - It is about nodes of the cluster only. Others are tracked only if they call themselves, and only a few of them.
//! - It can say that a node still lives, for [`Watcher::hearsay`] after its last own message, three times as long as
//!   it takes to call everybody once. A dead node cannot be kept alive for longer.
//! - A heartbeat is a clock that begins with the process. One that is ahead of what the node's own messages allow is
//!   refused, so a forged one cannot make the true ones look old.
//! - It cannot replace the process that a node's own messages named, until that process has gone quiet.
//! - It does not carry values.
//! - Nodes that are known by hearsay alone do not count in the judgement that most of the others went quiet at once.
//!
//! What remains possible for a hostile member: it can claim for that limited time that a node lives which does not, and
//! it can do so for a node that this one has not heard yet. It cannot make a node that this one hears look dead. Detection
//! of the death of a node by [`super::Sighting::alive`] can thus be delayed; the leader does not wait for it
//! (`plan::liveness`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use raftup_proto::id::NodeId;
use tokio::time::Instant;

use super::{
    INTERVAL, NEWCOMERS, SILENT, Sighting, Sightings,
    wire::{Entry, MAX_VALUES, Published},
};

/// Silence, in mean times between two signs of life, after which a node has gone quiet.
const PHI: f64 = 6.0;

/// Signs of life that the mean is taken of.
const WINDOW: f64 = 100.0;

/// Weight of [`INTERVAL`] in the mean, in signs of life: young nodes have few.
const PRIOR: f64 = 5.0;

/// Longer silences are no part of the mean, or a node that was paused would be believed alive for long afterwards.
const LONGEST: Duration = Duration::from_secs(2);

/// A node that gave a sign of life so recently is alive. In a small cluster the mean is so short that a busy moment
/// looks like a death.
const LEAST_SILENCE: Duration = Duration::from_millis(1750);

/// A node that has just called, or was just called, is not called.
const FRESH: Duration = Duration::from_millis(200);

/// How far a heartbeat may be ahead of the clock that the node's own messages show: the time that those took.
const AHEAD_MS: i128 = 500;

/// See [`Watcher::hearsay`].
const HEARSAY_LEAST: Duration = Duration::from_secs(2);

/// See [`Watcher::hearsay`]. A node calls three others in each interval, and three call it: after a 24th of a
/// second for each node, everybody was in contact with everybody.
const HEARSAY_EACH: Duration = Duration::from_millis(125);

/// Entries are given on for so long after they last moved.
const CURRENT: Duration = Duration::from_secs(10);

/// A newcomer that is silent for so long is forgotten.
const NEWCOMER: Duration = Duration::from_secs(60);

/// Two looks that are further apart mean that this process was paused or starved. The looks are `super::INTERVAL` apart.
const LATE: Duration = Duration::from_millis(1100);

/// After a pause, and at the start, others get so long to be heard before they can count as quiet.
const GATHER: Duration = Duration::from_millis(2500);

/// How long this node doubts itself when most of the others went quiet within [`AT_ONCE`].
const DOUBT: Duration = Duration::from_secs(5);

/// See [`DOUBT`].
const AT_ONCE: Duration = Duration::from_secs(2);

/// Remembers what was heard.
pub(super) struct Watcher {
    begun: Instant,
    tracks: BTreeMap<NodeId, Track>,
    /// Nodes of the cluster among the tracks.
    peers: u32,
    looked: Instant,
    /// This node is no witness before.
    witness_from: Instant,
    /// How many others were alive, at each look of the last [`AT_ONCE`].
    counts: VecDeque<(Instant, usize)>,
}

struct Track {
    /// It is a node of the cluster; else it is a newcomer that called.
    peer: bool,
    born: Instant,
    process: Option<Process>,
    /// Its last own message.
    met: Option<Instant>,
    /// Where that came from.
    addr: Option<SocketAddr>,
    /// When it last began an exchange with this node.
    greeted: Option<Instant>,
    /// When this node last began one with it.
    called: Option<Instant>,
    /// Its last sign of life.
    moved: Option<Instant>,
    /// Seconds between two signs of life, and how many they are the mean of.
    mean: f64,
    weight: f64,
    alive: bool,
    silent: bool,
    since: Instant,
    version: u64,
    values: Arc<BTreeMap<String, String>>,
}

/// The process that is believed to be the node.
struct Process {
    generation: u64,
    heartbeat: u64,
    /// When the heartbeat last moved.
    at: Instant,
    /// How many milliseconds its heartbeat is ahead of this node's clock, at most; none if it is known by hearsay alone.
    ahead: Option<i128>,
}

impl Watcher {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            tracks: BTreeMap::new(),
            peers: 0,
            looked: now,
            witness_from: now + GATHER,
            counts: VecDeque::new(),
        }
    }

    /// The nodes of the cluster, without this one. Others are forgotten; a newcomer that is now among them keeps its track.
    pub(super) fn set_peers(&mut self, now: Instant, peers: &BTreeSet<NodeId>) {
        self.peers = u32::try_from(peers.len()).unwrap_or(u32::MAX);
        let before = self.tracks.len();
        self.tracks.retain(|node, track| peers.contains(node) || !track.peer);
        if self.tracks.len() < before {
            // Those who left did not go quiet.
            self.counts.clear();
        }
        for node in peers {
            self.tracks.entry(*node).or_insert_with(|| Track::new(now, true)).peer = true;
        }
    }

    /// For how long after a node's last own message others are believed that it lives.
    fn hearsay(&self) -> Duration {
        HEARSAY_LEAST + HEARSAY_EACH * self.peers
    }

    /// Takes in a message of `from`; `begins`: it begins an exchange; `own`: what it says of itself. False: there are too
    /// many newcomers already.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        from: NodeId,
        addr: SocketAddr,
        begins: bool,
        own: Option<&Entry>,
    ) -> bool {
        if !self.tracks.contains_key(&from) && self.newcomers() >= NEWCOMERS {
            tracing::debug!(node = %from, "too many nodes call that the state does not have; gossip dropped");
            return false;
        }
        let now_ms = self.ms(now);
        let track = self.tracks.entry(from).or_insert_with(|| Track::new(now, false));
        track.met = Some(now);
        track.addr = Some(addr);
        track.greeted = if begins { Some(now) } else { track.greeted };
        track.moves(now);
        let Some(own) = own else { return true };
        let ahead = i128::from(own.heartbeat) - now_ms;
        let same = track.process.take().filter(|process| process.generation == own.generation);
        if same.is_none() {
            track.version = 0;
        }
        // Of the last few messages, the one that was quickest on its way tells best how far the clock is.
        let ahead = match same.and_then(|process| process.ahead) {
            Some(before) if before > ahead => before - (before - ahead) / 8,
            Some(_) | None => ahead,
        };
        let (generation, heartbeat) = (own.generation, own.heartbeat);
        track.process = Some(Process { generation, heartbeat, at: now, ahead: Some(ahead) });
        true
    }

    /// Takes in what another node says of one. False: it is not believed, and not passed on.
    pub(super) fn hear_of(&mut self, now: Instant, entry: &Entry) -> bool {
        let now_ms = self.ms(now);
        let Some(track) = self.tracks.get_mut(&entry.node).filter(|track| track.peer) else { return false };
        match &mut track.process {
            Some(process) if process.generation == entry.generation => {
                let limit = process.ahead.map(|ahead| now_ms + ahead + AHEAD_MS);
                let possible = limit.is_none_or(|limit| i128::from(entry.heartbeat) <= limit);
                if entry.heartbeat > process.heartbeat && possible {
                    (process.heartbeat, process.at) = (entry.heartbeat, now);
                    track.moves(now);
                }
                possible
            }
            Some(process) if process.generation > entry.generation || track.alive => false,
            // News of a node may be old; only what moves lives.
            Some(_) | None => {
                let (generation, heartbeat) = (entry.generation, entry.heartbeat);
                track.process = Some(Process { generation, heartbeat, at: now, ahead: None });
                track.version = 0;
                true
            }
        }
    }

    /// Takes in what a node publishes of itself. False: it says nothing new, or more than it may.
    pub(super) fn take(&mut self, from: NodeId, published: &Published) -> bool {
        let Some(track) = self.tracks.get_mut(&from) else { return false };
        let known = track.process.as_ref().is_some_and(|process| process.generation == published.generation);
        let version = published.values.iter().map(|value| value.version).max().unwrap_or(0);
        if !known || version <= track.version {
            return false;
        }
        let mut values = if track.version == 0 { BTreeMap::new() } else { BTreeMap::clone(&track.values) };
        let news = published.values.iter();
        values.extend(news.map(|value| (value.key.clone(), value.value.clone())));
        if values.len() > MAX_VALUES {
            // Values are never taken back, so the node has published more than it may.
            tracing::debug!(node = %from, "a node publishes too many values; they are dropped");
            return false;
        }
        track.version = version;
        if *track.values != values {
            track.values = Arc::new(values);
        }
        true
    }

    /// Others may be told that of a node: the state has it, it is what is believed, and it has moved lately.
    pub(super) fn is_current(&self, now: Instant, entry: &Entry) -> bool {
        let track = self.tracks.get(&entry.node).filter(|track| track.peer);
        let process = track.and_then(|track| track.process.as_ref());
        process.is_some_and(|process| {
            process.generation == entry.generation && now.duration_since(process.at) < CURRENT
        })
    }

    /// Where a node called from.
    pub(super) fn caller(&self, node: NodeId) -> Option<SocketAddr> {
        self.tracks.get(&node)?.addr
    }

    /// Whom to call now: those who are alive and were in contact longest ago, or any if none is alive.
    pub(super) fn call(&mut self, now: Instant, most: usize, chance: &mut dyn FnMut() -> u32) -> Vec<NodeId> {
        let fresh = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < FRESH);
        let none_alive = !self.tracks.values().any(|track| track.peer && track.alive);
        let due = self.tracks.iter().filter(|(_, track)| {
            track.peer && (track.alive || none_alive) && !fresh(track.greeted) && !fresh(track.called)
        });
        let mut due: Vec<_> =
            due.map(|(node, track)| (track.met.max(track.called), chance(), *node)).collect();
        if due.len() > most {
            due.select_nth_unstable(most);
            due.truncate(most);
        }
        self.calls(now, due.into_iter().map(|(_, _, node)| node).collect())
    }

    /// Some of those that give no sign of life, to try whether they are back.
    pub(super) fn call_quiet(
        &mut self,
        now: Instant,
        most: usize,
        chance: &mut dyn FnMut() -> u32,
    ) -> Vec<NodeId> {
        let mut quiet: Vec<_> = self
            .tracks
            .iter()
            .filter(|(_, track)| track.peer && !track.alive)
            .map(|(node, _)| (chance(), *node))
            .collect();
        quiet.sort_unstable();
        self.calls(now, quiet.into_iter().take(most).map(|(_, node)| node).collect())
    }

    fn calls(&mut self, now: Instant, nodes: Vec<NodeId>) -> Vec<NodeId> {
        for node in &nodes {
            if let Some(track) = self.tracks.get_mut(node) {
                track.called = Some(now);
            }
        }
        nodes
    }

    /// Judges who is alive now.
    pub(super) fn look(&mut self, now: Instant) -> Sightings {
        if now.duration_since(self.looked) > LATE {
            tracing::warn!(paused = ?now.duration_since(self.looked), "this process was paused; it accuses nobody");
            self.witness_from = now + GATHER;
        }
        self.looked = now;
        self.tracks.retain(|_, track| track.peer || track.met.is_some_and(|met| now - met < NEWCOMER));
        let hearsay = self.hearsay();
        let alive = self.tracks.values().filter(|track| track.peer && track.met.is_some());
        self.doubt(now, alive.filter(|track| track.is_heard(now, hearsay)).count());
        let impaired = now < self.witness_from;
        for track in self.tracks.values_mut() {
            track.settle(now, hearsay, impaired);
        }
        let peers = self.tracks.iter().filter(|(_, track)| track.peer);
        Sightings { nodes: peers.map(|(node, track)| (*node, track.sighting())).collect(), impaired }
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

    fn newcomers(&self) -> usize {
        self.tracks.len().saturating_sub(usize::try_from(self.peers).unwrap_or(usize::MAX))
    }

    fn ms(&self, now: Instant) -> i128 {
        i128::try_from(now.duration_since(self.begun).as_millis()).unwrap_or(i128::MAX)
    }

    #[cfg(test)]
    pub(super) fn tracked(&self) -> usize {
        self.tracks.len()
    }
}

impl Track {
    fn new(now: Instant, peer: bool) -> Self {
        Self {
            peer,
            born: now,
            process: None,
            met: None,
            addr: None,
            greeted: None,
            called: None,
            moved: None,
            mean: INTERVAL.as_secs_f64(),
            weight: PRIOR,
            alive: false,
            silent: true,
            since: now,
            version: 0,
            values: Arc::default(),
        }
    }

    /// A sign of life.
    fn moves(&mut self, now: Instant) {
        let gap = self.moved.replace(now).map(|before| now.duration_since(before));
        if let Some(gap) = gap.filter(|gap| *gap <= LONGEST) {
            self.weight = (self.weight + 1.0).min(WINDOW + PRIOR);
            self.mean += (gap.as_secs_f64() - self.mean) / self.weight;
        }
    }

    /// It gave a sign of life within `time`, and one of its own within the bound of hearsay.
    fn moved_within(&self, now: Instant, time: Duration, hearsay: Duration) -> bool {
        let own = self.met.unwrap_or(self.born);
        let moved = self.moved.is_some_and(|moved| now.duration_since(moved) < time);
        moved && now.duration_since(own) < hearsay
    }

    fn is_heard(&self, now: Instant, hearsay: Duration) -> bool {
        let patience = Duration::from_secs_f64(self.mean * PHI).max(LEAST_SILENCE);
        self.moved_within(now, patience, hearsay)
    }

    fn settle(&mut self, now: Instant, hearsay: Duration, impaired: bool) {
        let alive = self.is_heard(now, hearsay) || (impaired && self.alive);
        self.silent = !self.moved_within(now, SILENT, hearsay);
        if self.alive != alive {
            self.alive = alive;
            self.since = now;
            if !alive {
                (self.mean, self.weight) = (INTERVAL.as_secs_f64(), PRIOR);
            }
        }
    }

    fn sighting(&self) -> Sighting {
        Sighting { alive: self.alive, since: self.since, silent: self.silent, values: self.values.clone() }
    }
}
