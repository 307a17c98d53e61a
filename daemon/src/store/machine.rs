//! The state in memory: entries that Raft has agreed on, applied in order, and snapshots of what came out.
//!
//! Owns: the current [`Cluster`] and the snapshot's file. Leaves alone: the log.
//! Holds: readers take a snapshot and never wait; what was answered is in the next snapshot that anyone takes. A restart
//! begins with the snapshot on disk and applies the log after it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt};
use openraft::{
    RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use raftup_proto::{unit::UnixMillis, view::Revision};
use tokio::sync::{broadcast, watch};
use tracing::error;

use super::{
    apply::apply,
    dir::WAY_BACK,
    fatal, format,
    log::{Log, Snapshots, Sum},
    types::{
        Command, Entry, LogId, Outcome, Payload, Snapshot, SnapshotMeta, StoredMembers, TypeConfig,
        with_entries,
    },
};
use crate::{
    disk,
    model::{Cluster, ObjectKey},
    plan::level,
};

/// Largest snapshot that is written, read, or taken from another manager, in bytes. A larger one is not written, and the
/// log is kept instead.
pub(super) const SNAPSHOT_MAX: u64 = 512 << 20;

/// Entries after which a snapshot that was too large is tried again.
const TOO_LARGE_PAUSE: u64 = 4000;

/// Changes that a slow reader may be behind before it is told to look at everything.
const FEED: usize = 1024;

const MODE: u32 = 0o600;

/// What changed.
#[derive(Clone, Debug)]
pub struct Touched {
    /// The state that has it.
    pub revision: Revision,
    /// The objects; none if some news were missed, or too much changed at once: look at everything.
    pub keys: Option<Arc<[ObjectKey]>>,
}

/// All that applied entries have led to.
#[derive(Clone, Default)]
pub(super) struct Applied {
    pub(super) last: Option<LogId>,
    pub(super) members: StoredMembers,
    pub(super) cluster: Cluster,
    /// When the entry that moved the cluster's clock last was applied here; before any, when the snapshot was read.
    clock_heard: Option<Instant>,
}

impl Applied {
    /// The cluster's clock as it runs here: what the newest entry says, and the time since it was applied. So it never
    /// runs backwards from one leader to the next, nor jumps with a wall clock. It stands still while no manager runs.
    pub(super) fn now(&self) -> UnixMillis {
        match (self.cluster.clock, self.clock_heard) {
            // Written by a release without this clock.
            (UnixMillis(0), _) | (_, None) => wall_clock(),
            (clock, Some(heard)) => clock.plus(heard.elapsed()),
        }
    }
}

/// This host's clock.
pub fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The snapshot on disk.
#[derive(Default)]
struct Kept {
    last: Option<LogId>,
    sum: Option<Sum>,
}

/// A snapshot that was read from disk.
pub(super) struct Found {
    applied: Applied,
    pub(super) sum: Sum,
}

impl Found {
    /// Its last entry.
    pub(super) fn last(&self) -> Option<LogId> {
        self.applied.last
    }
}

/// Reads the snapshot at `path`, if there is one. Errors: it cannot be read, or is damaged.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<Found>> {
    let read = || -> anyhow::Result<_> {
        let Some(record) = disk::read(path, SNAPSHOT_MAX)? else {
            return Ok(None);
        };
        let (meta, cluster) = format::read_snapshot(&record)?;
        level::check(&cluster).map_err(anyhow::Error::msg)?;
        let applied = Applied {
            last: meta.last_log_id,
            members: meta.last_membership,
            cluster,
            clock_heard: Some(Instant::now()),
        };
        Ok(Some(Found { applied, sum: Sum::of(&record) }))
    };
    read().with_context(|| format!("{} cannot be used ({WAY_BACK})", path.display()))
}

/// The state machine. Clones share the state.
#[derive(Clone)]
pub(super) struct Machine {
    path: PathBuf,
    log: Log,
    /// Held while a snapshot is written.
    kept: Arc<Mutex<Kept>>,
    /// Largest snapshot that is written.
    pub(super) snapshot_max: u64,
    /// No snapshot is tried before this entry is applied: the last one was too large.
    too_large_until: Arc<AtomicU64>,
    current: Arc<ArcSwap<Applied>>,
    last: watch::Sender<Option<LogId>>,
    revision: watch::Sender<Revision>,
    feed: broadcast::Sender<Touched>,
    #[cfg(test)]
    observer: Arc<Mutex<Option<Observer>>>,
}

/// Sees each state and the one after it.
#[cfg(test)]
pub(crate) type Observer = Arc<dyn Fn(&Cluster, &Cluster) + Send + Sync>;

impl Machine {
    #[cfg(test)]
    pub(super) fn observe(&self, see: Observer) {
        *self.observer.lock().unwrap_or_else(PoisonError::into_inner) = Some(see);
    }

    /// Begins with the snapshot that was found at `path`; `log` is told of each that is written there.
    pub(super) fn new(path: PathBuf, log: Log, found: Option<Found>) -> Self {
        let sum = found.as_ref().map(|found| found.sum);
        let applied = found.map(|found| found.applied).unwrap_or_default();
        Self {
            path,
            log,
            kept: Arc::new(Mutex::new(Kept { last: applied.last, sum })),
            snapshot_max: SNAPSHOT_MAX,
            too_large_until: Arc::default(),
            last: watch::Sender::new(applied.last),
            revision: watch::Sender::new(applied.cluster.revision),
            current: Arc::new(ArcSwap::from_pointee(applied)),
            feed: broadcast::Sender::new(FEED),
            #[cfg(test)]
            observer: Arc::default(),
        }
    }

    /// The state as it is here. Cheap.
    pub(super) fn current(&self) -> Arc<Applied> {
        self.current.load_full()
    }

    /// The state as it is here, whenever it is looked at.
    pub(super) fn states(&self) -> Arc<ArcSwap<Applied>> {
        self.current.clone()
    }

    /// The last applied entry.
    pub(super) fn watch_last(&self) -> watch::Receiver<Option<LogId>> {
        self.last.subscribe()
    }

    /// The revision of the state.
    pub(super) fn watch_revision(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// What changes from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Touched> {
        self.feed.subscribe()
    }

    fn step(&self, entry: Entry) -> Outcome {
        let now = self.current.load_full();
        let mut next = Applied { last: Some(entry.log_id), ..Applied::clone(&now) };
        let mut touched = None;
        let outcome = match entry.payload {
            Payload::Blank => Ok(now.cluster.revision),
            Payload::Membership(members) => {
                next.members = StoredMembers::new(Some(entry.log_id), members);
                Ok(now.cluster.revision)
            }
            Payload::Normal(Command(set)) => match apply(&now.cluster, entry.log_id.index, &set) {
                Ok(cluster) => {
                    #[cfg(test)]
                    if let Some(see) = &*self.observer.lock().unwrap_or_else(PoisonError::into_inner) {
                        see(&now.cluster, &cluster);
                    }
                    next.clock_heard = Some(Instant::now());
                    touched = Some(set.changes.iter().map(|change| change.key()).collect());
                    if let Err(reason) = level::check(&cluster) {
                        fatal("applying a change", &anyhow::anyhow!(reason));
                    }
                    next.cluster = cluster;
                    Ok(next.cluster.revision)
                }
                Err(rejected) => Err(rejected),
            },
        };
        self.publish(next, touched.map(Some));
        outcome
    }

    fn publish(&self, next: Applied, touched: Option<Option<Arc<[ObjectKey]>>>) {
        let (last, revision) = (next.last, next.cluster.revision);
        self.current.store(Arc::new(next));
        self.last.send_replace(last);
        // A set that only moves the clock touches nothing.
        if let Some(keys) = touched.filter(|keys| keys.as_ref().is_none_or(|keys| !keys.is_empty())) {
            self.revision.send_replace(revision);
            // Nobody may be listening.
            let _ = self.feed.send(Touched { revision, keys });
        }
    }

    /// Puts a snapshot on disk, unless a newer one is there: the log may be gone up to that. A failure ends the process:
    /// Raft counts on it. The log names the snapshot before and after, so that no other file is taken for it. Blocks.
    ///
    /// Errors: the log was closed.
    fn keep(&self, last: Option<LogId>, record: &[u8]) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.last > last {
            return Ok(());
        }
        let sum = Some(Sum::of(record));
        self.log.keep_snapshots(Snapshots { kept: kept.sum, next: sum }, None)?;
        if let Err(error) = disk::write(&self.path, record, MODE) {
            fatal("writing a snapshot", &error.into());
        }
        self.log.keep_snapshots(Snapshots { kept: sum, next: None }, last)?;
        *kept = Kept { last, sum };
        Ok(())
    }
}

fn meta(applied: &Applied) -> SnapshotMeta {
    SnapshotMeta { last_log_id: applied.last, last_membership: applied.members.clone() }
}

/// The snapshot on disk with its bytes, if there is one.
fn read_kept(path: &Path) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
    let Some(record) = disk::read(path, SNAPSHOT_MAX)? else {
        return Ok(None);
    };
    let (meta, _) = format::read_snapshot(&record).map_err(damaged)?;
    Ok(Some((meta, record)))
}

fn damaged(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = Arc<[u8]>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let machine = self.clone();
        let build = move || {
            let applied = machine.current();
            let meta = meta(&applied);
            let record = format::snapshot(&meta, &applied.cluster);
            if record.len() as u64 > machine.snapshot_max {
                let (bytes, limit) = (record.len(), machine.snapshot_max);
                error!(
                    bytes,
                    limit, "the replicated state is too large for a snapshot; its log is kept and grows"
                );
                let next = applied.last.map_or(0, |last| last.index) + TOO_LARGE_PAUSE;
                machine.too_large_until.store(next, Ordering::Relaxed);
                // The one before: Raft purges nothing for one that it knows.
                let (kept, record) = read_kept(&machine.path)?.unwrap_or_default();
                return Ok(Snapshot { meta: kept, snapshot: record.into() });
            }
            machine.keep(meta.last_log_id, &record)?;
            Ok(Snapshot { meta, snapshot: record.into() })
        };
        tokio::task::spawn_blocking(build).await.map_err(io::Error::other)?
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Arc<[u8]>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembers), io::Error> {
        let applied = self.current();
        Ok((applied.last, applied.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let outcome = with_entries([&entry.clone()], || self.step(entry));
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self> {
        let last = self.current().last.map_or(0, |last| last.index);
        (force || last >= self.too_large_until.load(Ordering::Relaxed)).then(|| self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: Arc<[u8]>) -> Result<(), io::Error> {
        let machine = self.clone();
        let install = move || {
            let (meta, cluster) = format::read_snapshot(&snapshot).map_err(damaged)?;
            if let Err(reason) = level::check(&cluster) {
                fatal("installing a snapshot", &anyhow::anyhow!(reason));
            }
            machine.keep(meta.last_log_id, &snapshot)?;
            let applied = Applied {
                last: meta.last_log_id,
                members: meta.last_membership,
                cluster,
                clock_heard: Some(Instant::now()),
            };
            machine.publish(applied, Some(None));
            Ok(())
        };
        tokio::task::spawn_blocking(install).await.map_err(io::Error::other)?
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let path = self.path.clone();
        let read =
            tokio::task::spawn_blocking(move || read_kept(&path)).await.map_err(io::Error::other)??;
        Ok(read.map(|(meta, record)| Snapshot { meta, snapshot: record.into() }))
    }
}
