use std::fs;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt as _,
};

use super::*;
use crate::store::{dir::Dir, machine::Machine, types::LeaderId};

struct Builder;

impl StoreBuilder<TypeConfig, Log, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<TypeConfig>> {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path());
        fs::create_dir(temp.path().join("raft")).unwrap();
        let log = open(&dir.log()).unwrap();
        Ok((temp, log.clone(), Machine::new(dir.snapshot(), log, None)))
    }
}

/// What openraft asks of every log and state machine.
#[tokio::test(flavor = "multi_thread")]
async fn openraft_is_content() {
    Suite::test_all(Builder).await.unwrap();
}

/// Opens the log at `path`, or makes it; what was promised beside it is not looked at.
fn open(path: &Path) -> anyhow::Result<Log> {
    let owner = Life { member: 1, incarnation: 2, starts: 3, process: 4 };
    if !path.exists() {
        Log::create(path, &owner)?;
    }
    let found = Log::read_file(path)?;
    let promise = Promise { member: 1, incarnation: 2, starts: 3, vote: found.vote(), last: found.last() };
    let beside = path.with_extension("progress");
    Progress::create(&beside, &promise)?;
    found.start(Progress::open(&beside)?.unwrap().0, promise)
}

/// Makes the log look as if a raftup had written it that did not say whose it is.
pub(in crate::store) fn disown(path: &Path) {
    let db = Database::open(path).unwrap();
    let transaction = db.begin_write().unwrap();
    {
        let mut records = transaction.open_table(RECORDS).unwrap();
        records.remove(OWNER).unwrap();
        records.remove(SNAPSHOT).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn snapshots_are_known_by_their_sums() {
    let (one, two) = (Sum::of(b"one"), Sum::of(b"two"));
    let first = Snapshots { kept: None, next: Some(one) };
    assert!(first.allow(None) && first.allow(Some(one)) && !first.allow(Some(two)));
    let kept = Snapshots { kept: Some(one), next: None };
    assert!(!kept.allow(None) && kept.allow(Some(one)) && !kept.allow(Some(two)));
    let second = Snapshots { kept: Some(one), next: Some(two) };
    assert!(!second.allow(None) && second.allow(Some(one)) && second.allow(Some(two)));
    for snapshots in [first, kept, second, Snapshots::default()] {
        let record = snapshots.encode();
        assert_eq!(Snapshots::decode(&record), Some(snapshots));
        for at in 0..record.len() {
            let mut flipped = record.clone();
            flipped[at] ^= 1;
            assert_eq!(Snapshots::decode(&flipped), None);
            assert_eq!(Snapshots::decode(&record[..at]), None);
        }
    }
}

fn blank(index: u64) -> Entry {
    Entry { log_id: id(index), payload: openraft::EntryPayload::Blank }
}

fn id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 1, node_id: 1 }, index)
}

async fn append(log: &mut Log, range: std::ops::Range<u64>) {
    let (done, is_done) = TypeConfig::oneshot();
    log.append(range.map(blank), IOFlushed::signal(done)).await.unwrap();
    is_done.await.unwrap().unwrap();
}

async fn close(log: Log) {
    log.close().await;
    let file = Arc::downgrade(&log.shared.db);
    drop(log);
    while file.strong_count() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    // Dropping the last of them takes a moment.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_restart_finds_everything() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("log.redb");
    let vote = Vote { leader_id: LeaderId { term: 3, node_id: 2 }, committed: true };
    let life = Life { member: 2, incarnation: 3, starts: 4, process: 5 };
    let mut log = open(&path).unwrap();
    append(&mut log, 1..10).await;
    log.save_vote(&vote).await.unwrap();
    log.purge(id(3)).await.unwrap();
    log.truncate_after(Some(id(8))).await.unwrap();
    log.save_committed(Some(id(7))).await.unwrap();
    log.keep_life(life).await.unwrap();
    assert!(open(&path).is_err(), "two cannot have it open");
    close(log).await;

    let mut log = open(&path).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!((log.purged(), log.last()), (Some(id(3)), Some(id(8))));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(7)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), (4..9).map(blank).collect::<Vec<_>>());
    assert_eq!(log.lives().unwrap(), vec![life]);
    close(log).await;
}

#[tokio::test]
async fn a_record_in_the_wrong_place_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("log.redb");
    let mut log = open(&path).unwrap();
    append(&mut log, 1..10).await;
    close(log).await;
    type Entries<'a> = Table<'a, u64, &'static [u8]>;
    let edit = |edit: &dyn Fn(&mut Entries<'_>)| {
        let db = Database::open(&path).unwrap();
        let transaction = db.begin_write().unwrap();
        edit(&mut transaction.open_table(ENTRIES).unwrap());
        transaction.commit().unwrap();
    };
    let good = format::entry(&blank(5));
    edit(&|entries| drop(entries.remove(5).unwrap()));
    let message = format!("{:#}", open(&path).err().unwrap());
    assert!(message.contains("entry 6") && message.contains("demote"), "{message}");
    edit(&|entries| drop(entries.insert(5, format::entry(&blank(4)).as_slice()).unwrap()));
    assert!(open(&path).is_err());
    let mut flipped = good.clone();
    flipped[12] ^= 1;
    edit(&|entries| drop(entries.insert(5, flipped.as_slice()).unwrap()));
    let message = format!("{:#}", open(&path).err().unwrap());
    assert!(message.contains("checksum"), "{message}");
    edit(&|entries| drop(entries.insert(5, good.as_slice()).unwrap()));
    close(open(&path).unwrap()).await;
}

/// Every so many bytes of a closed log are flipped, and it is cut at as many lengths: what then opens holds what was
/// written, and all else is refused.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_refused_or_harmless() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("log.redb");
    let mut log = open(&path).unwrap();
    append(&mut log, 1..200).await;
    close(log).await;
    let good = fs::read(&path).unwrap();
    let (mut refused, mut harmless, mut panicked) = (0, 0, 0);
    let step = good.len() / 400 + 1;
    let damaged = (0..good.len()).step_by(step).flat_map(|at| {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        [(at, flipped), (at, good[..at].to_vec())]
    });
    for (at, bytes) in damaged {
        let path = temp.path().join("damaged.redb");
        fs::write(&path, &bytes).unwrap();
        match std::panic::catch_unwind(|| open(&path)) {
            Ok(Ok(log)) => {
                let entries = log.read(.., usize::MAX).unwrap();
                let written = (1..200).map(blank).collect::<Vec<_>>();
                assert!(written.starts_with(&entries), "byte {at}: {} entries", entries.len());
                if entries.len() < written.len() && bytes.len() == good.len() {
                    println!("byte {at}: lost {}", written.len() - entries.len());
                }
                harmless += 1;
            }
            Ok(Err(_)) => refused += 1,
            Err(_) => panicked += 1,
        }
    }
    println!("{} bytes: {refused} refused, {harmless} harmless, {panicked} stopped by a panic", good.len());
}
