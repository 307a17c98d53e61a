//! Processes that are killed, and disks that are full: in a child, which is this test program again.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use raftup_proto::id::TaskId;

use super::{
    sample,
    web::{Web, addr},
};
use crate::model::ChangeSet;

/// The child's state directory.
const CHILD: &str = "RAFTUP_TEST_STORE";

/// Writes for ever and prints the number of each task that was acknowledged. Does nothing unless it is the child.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let web = Web::new();
    crate::store::create(dir.as_ref(), super::web::id(1), 1).unwrap();
    let store = web.start_in(1, dir.as_ref()).await.unwrap();
    super::web::until(|| store.leadership().borrow().here || store.snapshot().info.is_none()).await;
    if store.snapshot().info.is_none() {
        store.initialize(addr(1), sample::first()).await.unwrap();
    }
    let first = store.snapshot().tasks.len() as u64;
    for id in first.. {
        let mut task = sample::task(id);
        task.status.message = Some("x".repeat(10_000));
        let mut set = ChangeSet::new(task.status.since);
        set.create(task);
        store.propose(set).await.unwrap();
        println!("\nacknowledged {id}");
    }
}

fn spawn(dir: &std::path::Path, limit: &str) -> Child {
    let script =
        format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" --exact store::tests::disk::child --nocapture");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env(CHILD, dir);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// Reads what the child prints until it ends, or until `enough` are acknowledged; gives the last one.
fn acknowledged(child: &mut Child, enough: usize) -> Option<u64> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ids = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    ids.take(enough).last()
}

async fn holds_all(dir: &std::path::Path, last: u64) {
    let web = Web::new();
    let store = web.start_in(1, dir).await.unwrap();
    let cluster = store.read().await.unwrap();
    for id in 0..=last {
        assert!(cluster.tasks.contains_key(&TaskId::from_random(id)), "task {id} of {last} is lost");
    }
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for enough in [3, 20, 57] {
        let mut child = spawn(dir.path(), "unlimited");
        last = acknowledged(&mut child, enough).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(last > 70, "{last}");
    holds_all(dir.path(), last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_ends_the_process_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Blocks of 512 bytes: 2 MiB.
    let mut child = spawn(dir.path(), "4096");
    let last = acknowledged(&mut child, usize::MAX).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(crate::store::EXIT_IO));
    assert!(last > 10, "{last}");
    holds_all(dir.path(), last).await;
}
