//! Log and vote on disk.
//!
//! Owns: one redb file, the record of what was promised beside it (`progress`), and the one thread that writes it: whatever has come in since the last commit goes into the next,
//! so a commit is one sync for all of them. Leaves alone: what the entries mean.
//! Holds: a vote and an entry are on disk before anyone is told so; each record has a checksum of its own, and all of them
//! are checked at start; a write or a sync that fails ends the process, for what is on disk is then not known.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use openraft::{
    LogState, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, Table, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use super::{
    dir::WAY_BACK,
    fatal,
    format::{self, Life},
    progress::{Progress, Promise},
    types::{Entry, LogId, TypeConfig, Vote, with_entries},
};

/// Entries by index.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

/// Single records, by the names below.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// Whose log it is, and how often it was started.
const OWNER: &str = "owner";

/// Which snapshot belongs to the log.
const SNAPSHOT: &str = "snapshot";

/// What each member acknowledged to this one as its leader, as far as it was agreed on: this and the member's number.
const FLOOR: &str = "floor ";

/// The last known process of each member.
const LIVES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lives");

/// Pages that redb keeps in memory, in bytes: the log is read in order and short, so a few are enough.
const CACHE: usize = 4 << 20;

/// Bytes of entries that are read at once to be sent to a member, the last entry aside.
const READ_BYTES: usize = 512 << 10;

/// Writes that wait for the thread; whoever comes later waits too.
const QUEUE: usize = 1024;

/// Writes that share one sync.
const BATCH: usize = 256;

/// Log and vote. Clones share them.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    db: Arc<Database>,
    queue: mpsc::Sender<Write>,
    heads: Arc<Mutex<Heads>>,
    synced: Duration,
    /// Milliseconds that the next commit is held up, and each one.
    #[cfg(test)]
    stall: Arc<[std::sync::atomic::AtomicU64; 2]>,
}

/// What must be answered at once.
#[derive(Default)]
struct Heads {
    /// Entries that were taken and are not on disk yet.
    pending: BTreeMap<u64, Entry>,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    /// Not worth a sync of its own: the next commit takes it along.
    committed: Option<LogId>,
    /// Entries that members acknowledged and that were agreed on, the last of each. Written like `committed`.
    floors: BTreeMap<u64, LogId>,
}

type Done = oneshot::Sender<()>;

enum Write {
    Append(Vec<(LogId, Vec<u8>)>, IOFlushed<TypeConfig>),
    Vote(Vote, Done),
    TruncateAfter(Option<LogId>, Done),
    Purge(LogId, Done),
    Life(Life, Done),
    /// The last entry is that of the snapshot, if it is on disk.
    Snapshots(Snapshots, Option<LogId>, Done),
    Close(Done),
}

/// Tells a file from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    crc: u32,
    bytes: u64,
}

impl Sum {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { crc: crc32fast::hash(bytes), bytes: bytes.len() as u64 }
    }
}

/// The snapshots that may be on disk: the one that was kept, or the one that is about to take its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshots {
    pub(super) kept: Option<Sum>,
    pub(super) next: Option<Sum>,
}

impl Snapshots {
    /// Whether the snapshot that was found is one of them.
    pub(super) fn allow(&self, found: Option<Sum>) -> bool {
        found == self.kept || (found.is_some() && found == self.next)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for sum in [self.kept, self.next] {
            bytes.push(u8::from(sum.is_some()));
            let sum = sum.unwrap_or(Sum { crc: 0, bytes: 0 });
            bytes.extend(sum.crc.to_be_bytes());
            bytes.extend(sum.bytes.to_be_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let (body, sum) = record.split_at_checked(record.len().checked_sub(4)?)?;
        if body.len() != 26 || crc32fast::hash(body).to_be_bytes() != sum {
            return None;
        }
        let sum = |at: usize| {
            let crc = u32::from_be_bytes(body[at + 1..at + 5].try_into().ok()?);
            let bytes = u64::from_be_bytes(body[at + 5..at + 13].try_into().ok()?);
            (body[at] == 1).then_some(Sum { crc, bytes })
        };
        Some(Self { kept: sum(0), next: sum(13) })
    }
}

/// A log that was read and checked, and is not in use yet.
pub(super) struct Found {
    db: Database,
    heads: Heads,
    /// How long the first sync took.
    synced: Duration,
    /// Whose log it is; none if an older raftupd made it.
    pub(super) owner: Option<Life>,
    pub(super) snapshots: Snapshots,
}

impl Found {
    pub(super) fn vote(&self) -> Option<Vote> {
        self.heads.vote
    }

    /// Where the log ends: its last entry, or the last that was purged.
    pub(super) fn last(&self) -> Option<LogId> {
        self.heads.last.max(self.heads.purged)
    }

    /// The last entry that was purged.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.heads.purged
    }

    /// Says whose log it is from now on, and which snapshot belongs to it. On disk when it returns.
    pub(super) fn own(&mut self, owner: Life, snapshots: Snapshots) -> anyhow::Result<()> {
        let begun = Instant::now();
        own(&self.db, &owner, snapshots)?;
        self.synced = begun.elapsed();
        (self.owner, self.snapshots) = (Some(owner), snapshots);
        Ok(())
    }

    /// Takes the log into use. `promise` is what `progress` says.
    pub(super) fn start(self, progress: Progress, promise: Promise) -> anyhow::Result<Log> {
        Log::start(self.db, self.heads, self.synced, Beside { progress, promise })
    }
}

fn own(db: &Database, owner: &Life, snapshots: Snapshots) -> anyhow::Result<()> {
    let write = db.begin_write()?;
    {
        let mut records = write.open_table(RECORDS)?;
        records.insert(OWNER, format::life(owner).as_slice())?;
        records.insert(SNAPSHOT, snapshots.encode().as_slice())?;
    }
    Ok(write.commit()?)
}

impl Log {
    /// Makes an empty log for `owner`. On disk when it returns.
    pub(super) fn create(path: &Path, owner: &Life) -> anyhow::Result<()> {
        let db = Database::builder().set_cache_size(CACHE).create(path);
        let db = db.with_context(|| format!("making {}", path.display()))?;
        own(&db, owner, Snapshots::default())
    }

    /// Reads the log at `path` and checks every record in it.
    ///
    /// Errors: the file is not there, in use, cannot be read, or damaged.
    pub(super) fn read_file(path: &Path) -> anyhow::Result<Found> {
        let mut db = match Database::builder().set_cache_size(CACHE).open(path) {
            Ok(db) => db,
            Err(error @ DatabaseError::DatabaseAlreadyOpen) => {
                return Err(error).with_context(|| format!("opening {}", path.display()));
            }
            Err(DatabaseError::Storage(StorageError::Io(error)))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                bail!("{} is gone: refusing to start ({WAY_BACK})", path.display());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be used ({WAY_BACK})", path.display()));
            }
        };
        let checked =
            check(&mut db).with_context(|| format!("{} cannot be used ({WAY_BACK})", path.display()));
        let (heads, owner, snapshots) = checked?;
        Ok(Found { db, heads, synced: Duration::ZERO, owner, snapshots })
    }

    fn start(db: Database, heads: Heads, synced: Duration, beside: Beside) -> anyhow::Result<Self> {
        let (db, heads) = (Arc::new(db), Arc::new(Mutex::new(heads)));
        let (queue, writes) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            db,
            queue,
            heads,
            synced,
            #[cfg(test)]
            stall: Arc::default(),
        });
        // Not all of `shared`: the thread ends when nobody is left to write.
        let (db, heads) = (shared.db.clone(), shared.heads.clone());
        #[cfg(test)]
        let stall = shared.stall.clone();
        let before_commit = move || {
            #[cfg(test)]
            {
                let [once, each] = &*stall;
                let millis = once.swap(0, std::sync::atomic::Ordering::Relaxed)
                    + each.load(std::sync::atomic::Ordering::Relaxed);
                thread::sleep(Duration::from_millis(millis));
            }
        };
        thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || run(&db, &heads, beside, writes, before_commit))
            .context("starting the thread that writes the log")?;
        Ok(Self { shared })
    }

    /// Notes that `member` has told this leader that its log holds `last`.
    pub(super) fn acknowledged(&self, member: u64, last: LogId) {
        let mut heads = self.heads();
        // Both are in this leader's log, and what was agreed on stays in all logs that have it.
        if let Some(agreed) = heads.committed.map(|committed| committed.min(last)) {
            let floor = heads.floors.entry(member).or_insert(agreed);
            *floor = agreed.max(*floor);
        }
    }

    /// Where the log of `member` ends at least: it acknowledged as much, and it was agreed on.
    pub(super) fn floor(&self, member: u64) -> Option<u64> {
        self.heads().floors.get(&member).map(|floor| floor.index)
    }

    /// Holds the next commit up, as a slow disk does.
    #[cfg(test)]
    pub(super) fn stall(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.shared.stall[0].store(millis, std::sync::atomic::Ordering::Relaxed);
    }

    /// Holds each commit from now on up.
    #[cfg(test)]
    pub(super) fn slow(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.shared.stall[1].store(millis, std::sync::atomic::Ordering::Relaxed);
    }

    /// How long the first sync of this process took.
    pub(super) fn synced(&self) -> Duration {
        self.shared.synced
    }

    /// The vote on disk.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.heads().vote
    }

    /// Where the log ends: its last entry, or the last that was purged.
    pub(super) fn last(&self) -> Option<LogId> {
        let heads = self.heads();
        heads.last.max(heads.purged)
    }

    /// The last entry that was purged.
    #[cfg(test)]
    pub(super) fn purged(&self) -> Option<LogId> {
        self.heads().purged
    }

    /// Keeps what is known of a member's process. On disk when it returns.
    pub(super) async fn keep_life(&self, life: Life) -> io::Result<()> {
        self.write(|done| Write::Life(life, done)).await
    }

    /// Says which snapshots may be on disk; one whose `last` entry is given is. On disk when it returns. Blocks.
    pub(super) fn keep_snapshots(&self, snapshots: Snapshots, last: Option<LogId>) -> io::Result<()> {
        let closed = || io::Error::other("the log is closed");
        let (done, is_done) = oneshot::channel();
        let write = Write::Snapshots(snapshots, last, done);
        self.shared.queue.blocking_send(write).map_err(|_| closed())?;
        is_done.blocking_recv().map_err(|_| closed())
    }

    /// The last known processes of all members.
    pub(super) fn lives(&self) -> anyhow::Result<Vec<Life>> {
        let read = self.shared.db.begin_read()?;
        let lives = read.open_table(LIVES)?.range::<u64>(..)?.map(|row| {
            let (_, record) = row?;
            Ok(format::read_life(record.value())?)
        });
        lives.collect()
    }

    /// Writes what waits and closes the file once all clones are gone.
    pub(super) async fn close(&self) {
        // Closed before is closed too.
        let _ = self.write(Write::Close).await;
    }

    fn heads(&self) -> MutexGuard<'_, Heads> {
        lock(&self.shared.heads)
    }

    /// Errors: the log was closed, and nothing is written any more.
    async fn write(&self, write: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let closed = || io::Error::other("the log is closed");
        let (done, is_done) = oneshot::channel();
        self.shared.queue.send(write(done)).await.map_err(|_| closed())?;
        is_done.await.map_err(|_| closed())
    }

    /// The entries of `range`, up to the one with which their records have `most` bytes. What is not on disk yet is small
    /// against that, or one entry.
    fn read(&self, range: impl RangeBounds<u64>, most: usize) -> anyhow::Result<Vec<Entry>> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(bounds) {
            return Ok(Vec::new());
        }
        // Taken before the file is read: what leaves `pending` in between is in the file by then.
        let pending: Vec<Entry> =
            self.heads().pending.range(bounds).map(|(_, entry)| entry.clone()).collect();
        let mut entries = BTreeMap::new();
        let mut bytes = 0;
        let read = self.shared.db.begin_read()?;
        for row in read.open_table(ENTRIES)?.range(bounds)? {
            let (index, record) = row?;
            let index = index.value();
            let entry = format::read_entry(record.value());
            entries.insert(index, entry.with_context(|| format!("entry {index}"))?);
            bytes += record.value().len();
            if bytes >= most {
                return Ok(entries.into_values().collect());
            }
        }
        entries.extend(pending.into_iter().map(|entry| (entry.log_id.index, entry)));
        Ok(entries.into_values().collect())
    }
}

fn lock(heads: &Mutex<Heads>) -> MutexGuard<'_, Heads> {
    // What is inside is whole after each statement.
    heads.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No index lies between the bounds; redb and maps panic on those that cross.
fn is_empty((from, to): (Bound<u64>, Bound<u64>)) -> bool {
    let first = match from {
        Bound::Included(first) => first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match to {
        Bound::Included(last) => first > last,
        Bound::Excluded(end) => first >= end,
        Bound::Unbounded => false,
    }
}

/// Reads all of the file. Errors: a record that is damaged, missing, or not where it belongs.
fn check(db: &mut Database) -> anyhow::Result<(Heads, Option<Life>, Snapshots)> {
    if !db.check_integrity()? {
        bail!("its pages are damaged");
    }
    let write = db.begin_write()?;
    write.open_table(ENTRIES)?;
    write.open_table(RECORDS)?;
    write.open_table(LIVES)?;
    write.commit()?;
    let read = db.begin_read()?;
    let records = read.open_table(RECORDS)?;
    let record = |name: &'static str| -> anyhow::Result<_> { Ok(records.get(name)?) };
    let place = |name: &'static str| -> anyhow::Result<Option<LogId>> {
        let found = record(name)?.map(|found| format::read_log_id(found.value())).transpose();
        found.with_context(|| format!("record `{name}`"))
    };
    let vote = record(VOTE)?.map(|found| format::read_vote(found.value())).transpose().context("the vote")?;
    let owner =
        record(OWNER)?.map(|found| format::read_life(found.value())).transpose().context("its owner")?;
    let snapshots = match record(SNAPSHOT)? {
        Some(found) => Snapshots::decode(found.value()).context("the record of its snapshot is damaged")?,
        None => Snapshots::default(),
    };
    let mut heads = Heads { vote, committed: place(COMMITTED)?, purged: place(PURGED)?, ..Heads::default() };
    for row in records
        .range(FLOOR..)?
        .take_while(|row| row.as_ref().map_or(true, |(name, _)| name.value().starts_with(FLOOR)))
    {
        let (name, record) = row?;
        let member = name.value().trim_start_matches(FLOOR).parse().context("a member's number")?;
        let floor = format::read_log_id(record.value());
        heads.floors.insert(member, floor.with_context(|| format!("what member {member} acknowledged"))?);
    }
    for row in read.open_table(ENTRIES)?.range::<u64>(..)? {
        let (index, record) = row?;
        let index = index.value();
        let entry = format::read_entry(record.value()).with_context(|| format!("entry {index}"))?;
        let before = heads.last.or(heads.purged).map(|id| id.index);
        if entry.log_id.index != index || before.is_some_and(|before| before + 1 != index) {
            bail!("entry {index} is not the one after entry {before:?}");
        }
        heads.last = Some(entry.log_id);
    }
    for row in read.open_table(LIVES)?.range::<u64>(..)? {
        let (member, record) = row?;
        format::read_life(record.value())
            .with_context(|| format!("what is known of member {}", member.value()))?;
    }
    // It may have been on disk before the entry itself was.
    heads.committed = heads.committed.min(heads.last.max(heads.purged));
    Ok((heads, owner, snapshots))
}

/// What is written beside the log.
struct Beside {
    progress: Progress,
    promise: Promise,
}

impl Beside {
    /// Before the log gives entries up: they are no longer promised.
    fn before(&mut self, batch: &[Write]) -> io::Result<()> {
        let kept = batch.iter().filter_map(|write| match write {
            Write::TruncateAfter(last, _) => Some(*last),
            Write::Append(..)
            | Write::Vote(..)
            | Write::Purge(..)
            | Write::Life(..)
            | Write::Snapshots(..)
            | Write::Close(_) => None,
        });
        match kept.min() {
            Some(last) if last < self.promise.last => {
                self.promise.last = last;
                self.progress.write(&self.promise)?;
                self.progress.sync()
            }
            Some(_) | None => Ok(()),
        }
    }

    /// After the commit, before anyone is told of it.
    fn after(&mut self, batch: &[Write]) -> io::Result<()> {
        let before = self.promise;
        let Promise { vote, last, .. } = &mut self.promise;
        for write in batch {
            match write {
                Write::Append(new, _) => *last = new.last().map(|(id, _)| *id).or(*last),
                Write::Vote(new, _) => *vote = Some(*new),
                Write::TruncateAfter(to, _) => *last = *to,
                Write::Purge(upto, _) => *last = (*last).max(Some(*upto)),
                Write::Snapshots(_, upto, _) => *last = (*last).max(*upto),
                Write::Life(..) | Write::Close(_) => {}
            }
        }
        if self.promise != before {
            self.progress.write(&self.promise)?;
        }
        if batch.iter().any(|write| matches!(write, Write::Close(_))) {
            self.progress.sync()?;
        }
        Ok(())
    }
}

/// The writer thread: ends when the log is closed or nobody is left to write.
fn run(
    db: &Database,
    heads: &Mutex<Heads>,
    mut beside: Beside,
    mut writes: mpsc::Receiver<Write>,
    before_commit: impl Fn(),
) {
    let mut floors = lock(heads).floors.clone();
    while let Some(first) = writes.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = writes.try_recv()
        {
            batch.push(next);
        }
        before_commit();
        let (committed, raised) = {
            let heads = lock(heads);
            let raised = heads.floors.iter().filter(|(member, floor)| floors.get(member) != Some(floor));
            (heads.committed, raised.map(|(member, floor)| (*member, *floor)).collect::<Vec<_>>())
        };
        if let Err(error) = beside.before(&batch) {
            fatal("writing what was promised", &error.into());
        }
        if let Err(error) = commit(db, &batch, committed, &raised) {
            fatal("writing the log", &error.into());
        }
        if let Err(error) = beside.after(&batch) {
            fatal("writing what was promised", &error.into());
        }
        floors.extend(raised);
        let closing = batch.iter().any(|write| matches!(write, Write::Close(_)));
        for write in batch {
            finish(heads, write);
        }
        if closing {
            return;
        }
    }
}

fn commit(
    db: &Database,
    batch: &[Write],
    committed: Option<LogId>,
    floors: &[(u64, LogId)],
) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut records = transaction.open_table(RECORDS)?;
        if let Some(committed) = committed {
            records.insert(COMMITTED, format::log_id(&committed).as_slice())?;
        }
        for (member, floor) in floors {
            records.insert(format!("{FLOOR}{member}").as_str(), format::log_id(floor).as_slice())?;
        }
        for write in batch {
            match write {
                Write::Append(new, _) => {
                    for (id, record) in new {
                        entries.insert(id.index, record.as_slice())?;
                    }
                }
                Write::Vote(vote, _) => drop(records.insert(VOTE, format::vote(vote).as_slice())?),
                Write::TruncateAfter(last, _) => {
                    remove(&mut entries, last.map_or(0, |last| last.index + 1)..)?;
                }
                Write::Purge(upto, _) => {
                    remove(&mut entries, ..=upto.index)?;
                    records.insert(PURGED, format::log_id(upto).as_slice())?;
                }
                Write::Life(life, _) => {
                    let mut lives = transaction.open_table(LIVES)?;
                    lives.insert(life.member, format::life(life).as_slice())?;
                }
                Write::Snapshots(snapshots, _, _) => {
                    records.insert(SNAPSHOT, snapshots.encode().as_slice())?;
                }
                Write::Close(_) => {}
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn remove(entries: &mut Table<'_, u64, &[u8]>, range: impl RangeBounds<u64>) -> Result<(), StorageError> {
    let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
    entries.retain_in(bounds, |_, _| false)
}

/// Tells whoever waits that the write is on disk.
fn finish(heads: &Mutex<Heads>, write: Write) {
    match write {
        Write::Append(new, flushed) => {
            let mut heads = lock(heads);
            for (id, _) in new {
                // A later entry may have taken the place; it is still on its way.
                if heads.pending.get(&id.index).is_some_and(|entry| entry.log_id == id) {
                    heads.pending.remove(&id.index);
                }
            }
            drop(heads);
            flushed.io_completed(Ok(()));
        }
        Write::Vote(_, done)
        | Write::TruncateAfter(_, done)
        | Write::Purge(_, done)
        | Write::Life(_, done)
        | Write::Snapshots(_, _, done)
        | Write::Close(done) => {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(range, usize::MAX).map_err(|error| io::Error::other(format!("{error:#}")))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, READ_BYTES).map_err(|error| io::Error::other(format!("{error:#}")))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.heads().vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let heads = self.heads();
        Ok(LogState { last_purged_log_id: heads.purged, last_log_id: heads.last.max(heads.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.write(|done| Write::Vote(vote, done)).await?;
        self.heads().vote = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.heads().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.heads().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let encode = || entries.iter().map(|entry| (entry.log_id, format::entry(entry))).collect();
        let records = with_entries(&entries, encode);
        {
            let mut heads = self.heads();
            for entry in entries {
                heads.last = Some(entry.log_id);
                heads.pending.insert(entry.log_id.index, entry);
            }
        }
        let closed = || io::Error::other("the log is closed");
        self.shared.queue.send(Write::Append(records, flushed)).await.map_err(|_| closed())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let index = last.map(|last| last.index);
        {
            let mut heads = self.heads();
            heads.pending.retain(|pending, _| Some(*pending) <= index);
            heads.last = heads.last.min(last);
        }
        self.write(|done| Write::TruncateAfter(last, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.write(|done| Write::Purge(upto, done)).await?;
        let mut heads = self.heads();
        heads.pending.retain(|pending, _| *pending > upto.index);
        heads.purged = heads.purged.max(Some(upto));
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
