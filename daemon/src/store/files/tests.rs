//! Every file of a manager gone, cut off, emptied, replaced by an older copy or by another node's, and combinations.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use openraft::{
    RaftSnapshotBuilder,
    storage::{IOFlushed, RaftLogStorage, RaftStateMachine},
    type_config::TypeConfigExt as _,
};

use super::*;
use crate::store::types::{Entry, LeaderId, LogId, TypeConfig, Vote};

const NODE: NodeId = NodeId::new(3);

const FILES: [&str; 5] = ["manager", "progress", "raft/identity", "raft/log.redb", "raft/snapshot"];

type Copy = BTreeMap<&'static str, Vec<u8>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    Gone,
    Empty,
    Cut,
    /// From before the last start.
    OldStart,
    /// From the same run, some entries ago.
    OldRun,
    /// Of another node of the same cluster, with more in it.
    Other,
}

const BAD: [State; 6] = [State::Gone, State::Empty, State::Cut, State::OldStart, State::OldRun, State::Other];

fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: 1 }, committed: true }
}

fn entry(term: u64, index: u64) -> Entry {
    Entry { log_id: LogId::new(vote(term).leader_id, index), payload: openraft::EntryPayload::Blank }
}

fn copy(root: &Path) -> Copy {
    FILES.into_iter().map(|name| (name, fs::read(root.join(name)).unwrap())).collect()
}

async fn append(log: &mut Log, term: u64, range: std::ops::RangeInclusive<u64>) {
    let (done, is_done) = TypeConfig::oneshot();
    let entries: Vec<Entry> = range.map(|index| entry(term, index)).collect();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    is_done.await.unwrap().unwrap();
}

async fn opened(dir: &Dir, node: NodeId) -> (Life, Log, Machine) {
    loop {
        match open(dir, node) {
            Err(error) if format!("{error:#}").contains("already open") => {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

async fn close(log: Log, machine: Machine, dir: &Dir) {
    log.close().await;
    drop((log, machine));
    let file = fs::File::open(dir.log()).unwrap();
    while file.try_lock().is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Applies the entry and keeps a snapshot of the state.
async fn snapshot(machine: &mut Machine, entry: Entry) {
    machine.apply(futures_util::stream::iter([Ok((entry, None))])).await.unwrap();
    machine.build_snapshot().await.unwrap();
}

/// Files of one member: from before its last start, from its last run, and the newest.
struct Copies {
    start: Copy,
    run: Copy,
    good: Copy,
    life: Life,
}

async fn copies(node: NodeId, member: u64, more: u64) -> Copies {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::new(temp.path());
    dir.create(node, member).unwrap();
    let (_, mut log, mut machine) = opened(&dir, node).await;
    log.save_vote(&vote(1)).await.unwrap();
    append(&mut log, 1, 0..=9 + more).await;
    snapshot(&mut machine, entry(1, 3 + more)).await;
    close(log, machine, &dir).await;
    let (_, log, machine) = opened(&dir, node).await;
    close(log, machine, &dir).await;
    let start = copy(temp.path());

    let (_, mut log, mut machine) = opened(&dir, node).await;
    append(&mut log, 1, 10 + more..=12 + more).await;
    log.save_vote(&vote(2)).await.unwrap();
    let run = copy(temp.path());
    append(&mut log, 2, 13 + more..=20 + more).await;
    snapshot(&mut machine, entry(2, 15 + more)).await;
    log.save_vote(&vote(3)).await.unwrap();
    let life = Life { starts: 3, ..log_owner(&dir) };
    close(log, machine, &dir).await;
    // As after `kill -9`: what was not synced is there all the same.
    Copies { start, run, good: copy(temp.path()), life }
}

fn log_owner(dir: &Dir) -> Life {
    let identity = dir.read_identity(dir.read_marker().unwrap().unwrap().node).unwrap();
    Life { member: identity.member, incarnation: identity.incarnation, starts: identity.starts, process: 0 }
}

fn put(root: &Path, mine: &Copies, other: &Copies, states: &[State; 5]) {
    for (name, state) in FILES.into_iter().zip(states) {
        let path: PathBuf = root.join(name);
        let good = &mine.good[name];
        match state {
            State::Good => fs::write(path, good).unwrap(),
            State::Gone => drop(fs::remove_file(path)),
            State::Empty => fs::write(path, b"").unwrap(),
            State::Cut => fs::write(path, &good[..good.len() / 2]).unwrap(),
            State::OldStart => fs::write(path, &mine.start[name]).unwrap(),
            State::OldRun => fs::write(path, &mine.run[name]).unwrap(),
            State::Other => fs::write(path, &other.good[name]).unwrap(),
        }
    }
}

/// All files good but for one or two; and all that share one fault, in every selection of files.
fn combinations() -> Vec<[State; 5]> {
    let mut all = vec![[State::Good; 5]];
    for first in 0..5 {
        for second in first..5 {
            for a in BAD {
                for b in BAD.into_iter().filter(|b| first != second || *b == a) {
                    let mut states = [State::Good; 5];
                    (states[first], states[second]) = (a, b);
                    all.push(states);
                }
            }
        }
    }
    for state in BAD {
        for chosen in 0..32_u32 {
            all.push(std::array::from_fn(|at| if chosen >> at & 1 == 1 { state } else { State::Good }));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_missing_damaged_older_or_copied_are_refused_in_every_combination() {
    let (mine, other) = (copies(NODE, 7, 0).await, copies(NodeId::new(4), 8, 5).await);
    let newest = (Some(vote(3)), Some(entry(2, 20).log_id));
    let (mut refused, mut sound) = (0, 0);
    for states in combinations() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("raft")).unwrap();
        put(temp.path(), &mine, &other, &states);
        let dir = Dir::new(temp.path());
        let found = std::panic::catch_unwind(|| open(&dir, NODE));
        match found {
            Ok(Ok((life, log, machine))) => {
                let has = (log.vote(), log.last());
                // Where nothing that knows better is left, the other managers notice it. `identity` is the same for all
                // of a run.
                let whole_copy = states[1..4] == [State::OldStart; 3]
                    || (states[1], states[3]) == (State::OldRun, State::OldRun);
                if whole_copy {
                    assert!(life.starts <= mine.life.starts || has < newest, "{states:?}");
                } else {
                    assert_eq!(has, newest, "{states:?}");
                    assert!(life.starts > mine.life.starts, "{states:?}: {life:?}");
                    assert_eq!((life.member, life.incarnation), (mine.life.member, mine.life.incarnation));
                    assert_eq!(machine.current().last, Some(entry(2, 15).log_id), "{states:?}");
                }
                sound += 1;
                log.close().await;
            }
            Ok(Err(error)) => {
                let message = format!("{error:#}");
                assert_ne!(states, [State::Good; 5], "{message}");
                let is_no_manager = states[0] == State::Gone;
                assert!(is_no_manager || message.contains("demote"), "{states:?}: {message}");
                assert!(is_no_manager || message.contains(temp.path().to_str().unwrap()), "{message}");
                refused += 1;
            }
            // The database trusts its pages; a start catches that and refuses.
            Err(_) => refused += 1,
        }
    }
    println!("{refused} combinations refused, {sound} sound");
    assert!(refused > 300 && sound > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_file_is_refused_unless_it_only_knows_less() {
    let (mine, other) = (copies(NODE, 7, 0).await, copies(NodeId::new(4), 8, 5).await);
    let mut sound = Vec::new();
    for at in 0..5 {
        for bad in BAD {
            let temp = tempfile::tempdir().unwrap();
            fs::create_dir(temp.path().join("raft")).unwrap();
            let mut states = [State::Good; 5];
            states[at] = bad;
            put(temp.path(), &mine, &other, &states);
            let dir = Dir::new(temp.path());
            if let Ok(Ok(_)) = std::panic::catch_unwind(|| open(&dir, NODE)) {
                sound.push(format!("{} {bad:?}", FILES[at]));
            }
        }
    }
    // The marker had the same bytes all along.
    expect_test::expect![[r#"
        [
            "manager OldStart",
            "manager OldRun",
            "progress OldStart",
            "progress OldRun",
            "raft/identity OldStart",
            "raft/identity OldRun",
        ]
    "#]]
    .assert_debug_eq(&sound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_cut_off_anywhere_is_begun_again() {
    let mine = copies(NODE, 7, 0).await;
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("raft")).unwrap();
    put(temp.path(), &mine, &mine, &[State::Good; 5]);
    let dir = Dir::new(temp.path());
    let before = copy(temp.path());
    let first = start_and_stop(&dir, NODE).unwrap();
    // The log is written first; the others may not have been.
    for names in [&["raft/identity", "progress"][..], &["progress"][..]] {
        for name in names {
            fs::write(temp.path().join(name), &before[name]).unwrap();
        }
        let again = start_and_stop(&dir, NODE).unwrap();
        assert!(again.starts > first.starts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_a_new_leader_replaced_may_be_gone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::new(temp.path());
    dir.create(NODE, 7).unwrap();
    let (_, mut log, machine) = opened(&dir, NODE).await;
    log.save_vote(&vote(1)).await.unwrap();
    append(&mut log, 1, 0..=9).await;
    log.truncate_after(Some(entry(1, 4).log_id)).await.unwrap();
    close(log, machine, &dir).await;
    let (_, mut log, machine) = opened(&dir, NODE).await;
    assert_eq!(log.last(), Some(entry(1, 4).log_id));
    log.save_vote(&vote(2)).await.unwrap();
    append(&mut log, 2, 5..=6).await;
    log.truncate_after(None).await.unwrap();
    close(log, machine, &dir).await;
    let (_, log, machine) = opened(&dir, NODE).await;
    assert_eq!((log.last(), log.vote()), (None, Some(vote(2))));
    close(log, machine, &dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_raftup_that_kept_no_second_record_are_taken_over_once() {
    let mine = copies(NODE, 7, 0).await;
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("raft")).unwrap();
    put(temp.path(), &mine, &mine, &[State::Good; 5]);
    fs::remove_file(temp.path().join("progress")).unwrap();
    crate::store::log::tests::disown(&temp.path().join("raft/log.redb"));
    let old = fs::read(temp.path().join("raft/log.redb")).unwrap();
    let dir = Dir::new(temp.path());
    let life = start_and_stop(&dir, NODE).unwrap();
    assert_eq!((life.starts, life.incarnation), (mine.life.starts + 1, mine.life.incarnation));
    start_and_stop(&dir, NODE).unwrap();
    // From then on, the log of before is an old copy.
    while Log::read_file(&dir.log()).is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    fs::write(dir.log(), &old).unwrap();
    let message = format!("{:#}", start_and_stop(&dir, NODE).unwrap_err());
    assert!(message.contains("older") && message.contains("demote"), "{message}");
}
