//! Directories that were wiped, copied or restored: turned away, and the leader lives on.

use std::{fs, path::Path, time::Duration};

use super::{
    sample,
    web::{Web, id, leader, until},
};
use crate::store::{Store, create};

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to.join("raft")).unwrap();
    for name in ["manager", "raft/identity", "raft/log.redb", "raft/snapshot"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// A cluster of three whose leader is not node 3.
async fn three(web: &Web) -> (Vec<Store>, Store) {
    let stores = web.cluster(3).await;
    let mut at = leader(&stores).await;
    if at == 2 {
        stores[2].hand_over(Some(1)).await.unwrap();
        at = leader(&stores[..2]).await;
    }
    let lead = stores[at].clone();
    (stores, lead)
}

async fn still_leads(lead: &Store, task: u64) {
    let term = lead.leadership().borrow().term;
    for task in task..task + 5 {
        lead.propose(sample::one_task(task)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(lead.leadership().borrow().term, term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wiped_directory_is_refused_and_the_leader_lives() {
    let web = Web::new();
    let (mut stores, lead) = three(&web).await;
    for task in 10..20 {
        lead.propose(sample::one_task(task)).await.unwrap();
    }
    web.kill(3, stores.remove(2)).await;
    fs::remove_dir_all(web.dir(3).join("raft")).unwrap();
    let message = format!("{:#}", web.start_in(3, &web.dir(3)).await.err().unwrap());
    assert!(message.contains("gone"), "{message}");
    // Wiped whole, and made anew under the old number, which nothing of ours does.
    fs::remove_dir_all(web.dir(3)).unwrap();
    create(&web.dir(3), id(3), 3).unwrap();
    let wiped = web.start_in(3, &web.dir(3)).await.unwrap();
    still_leads(&lead, 30).await;
    until(|| lead.members().lost.contains(&3)).await;
    assert_eq!(wiped.snapshot().tasks.len(), 0, "it was let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_old_copy_is_refused_and_the_leader_lives() {
    let web = Web::new();
    let (mut stores, lead) = three(&web).await;
    web.kill(3, stores.remove(2)).await;
    let old = web.dir(9);
    copy(&web.dir(3), &old);
    let third = web.start(3).await;
    for task in 10..20 {
        lead.propose(sample::one_task(task)).await.unwrap();
    }
    until(|| third.snapshot().tasks.len() == 10).await;
    web.kill(3, third).await;
    // As many starts as before, and fewer entries.
    let copied = web.start_in(3, &old).await.unwrap();
    still_leads(&lead, 30).await;
    until(|| lead.members().lost.contains(&3)).await;
    assert_eq!(copied.snapshot().tasks.len(), 0, "it was let in");
    web.kill(3, copied).await;
    // The right one is let in again.
    let third = web.start(3).await;
    until(|| third.snapshot().tasks.len() == 15).await;
    assert!(lead.members().lost.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_that_went_backwards_is_refused_and_the_leader_lives() {
    let web = Web::new();
    let (mut stores, lead) = three(&web).await;
    let third = stores.remove(2);
    let old = web.dir(9);
    web.kill(3, third).await;
    copy(&web.dir(3), &old);
    let third = web.start(3).await;
    for task in 10..20 {
        lead.propose(sample::one_task(task)).await.unwrap();
    }
    // That it has them is not enough: the leader must have heard so.
    let last = lead.inner.office.log.last();
    until(|| lead.inner.office.peers.last_acknowledged(3) == last).await;
    web.kill(3, third).await;
    // The log alone went back: the count of starts cannot tell.
    fs::copy(old.join("raft/log.redb"), web.dir(3).join("raft/log.redb")).unwrap();
    let back = web.start_in(3, &web.dir(3)).await.unwrap();
    still_leads(&lead, 30).await;
    until(|| lead.members().lost.contains(&3)).await;
    assert_eq!(back.snapshot().tasks.len(), 0, "it was let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_that_runs_beside_the_original_is_turned_away() {
    let web = Web::new();
    let (mut stores, lead) = three(&web).await;
    let third = stores.remove(2);
    web.kill(3, third).await;
    let copied = web.dir(9);
    copy(&web.dir(3), &copied);
    let third = web.start(3).await;
    lead.propose(sample::one_task(10)).await.unwrap();
    until(|| third.snapshot().tasks.len() == 1).await;
    // It is given more starts than the original has had.
    for _ in 0..3 {
        crate::store::dir::Dir::new(&copied).start(id(3)).unwrap();
    }
    let twin = web.start_in(3, &copied).await.unwrap();
    let before = lead.members();
    still_leads(&lead, 30).await;
    until(|| third.snapshot().tasks.len() == 6).await;
    assert!(before.lost.is_empty() && lead.members().lost.is_empty(), "the original is in good standing");
    // Calls that reach the copy are not answered as the member; the original goes on.
    assert_eq!(twin.snapshot().tasks.len(), 0, "it was let in");
}
