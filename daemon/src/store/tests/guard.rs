//! Directories that were wiped, copied or restored: turned away, and the leader lives on.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use openraft::{RaftNetworkV2, network::RPCOption, raft::AppendEntriesRequest, storage::RaftLogStorage};
use raftup_proto::id::NodeId;
use tokio::io::DuplexStream;

use super::{
    sample,
    web::{Web, id, leader, site, until},
};
use crate::store::{
    Pipe, Store, Transport, create,
    format::Life,
    link::{Link, Office},
    peers::Peers,
    types::{Entry, LeaderId, LogId, Vote},
    wire::{self, Appended, Ask, Greeting, Tell, Welcome, Welcomed},
};

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

/// Hands out the far ends of streams that are opened.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<DuplexStream>>>);

#[async_trait]
impl Transport for Ends {
    async fn open(&self, _: NodeId, _: SocketAddr) -> io::Result<Box<dyn Pipe>> {
        let (near, far) = tokio::io::duplex(1 << 20);
        self.0.lock().unwrap().push(far);
        Ok(Box::new(near))
    }
}

impl Ends {
    /// The next stream that is opened, whose greeting was read.
    async fn greeted(&self) -> DuplexStream {
        until(|| !self.0.lock().unwrap().is_empty()).await;
        let mut far = self.0.lock().unwrap().remove(0);
        let greeting: Option<Greeting> = wire::read(&mut far).await.unwrap();
        assert_eq!(greeting.unwrap().to, 2);
        far
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_welcome_that_comes_late_does_not_make_a_sound_member_lost() {
    let web = Web::new();
    let store = web.start(1).await;
    let (ends, log) = (Ends::default(), store.inner.office.log.clone());
    let peers = Peers::new(Vec::new());
    let office =
        Arc::new(Office { me: store.inner.office.me, peers, log, transport: Arc::new(ends.clone()) });
    let vote = Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true };
    let (before, entry) = (LogId::new(vote.leader_id, 5), LogId::new(vote.leader_id, 6));
    let append =
        |entries| AppendEntriesRequest { vote, prev_log_id: Some(before), entries, leader_commit: None };
    let option = || RPCOption::new(Duration::from_millis(450));
    store.inner.office.log.clone().save_vote(&vote).await.unwrap();
    let life = Life { member: 2, incarnation: 9, starts: 4, process: 77 };
    let welcome = |last| Welcome::Ok(Welcomed { life, last: Some(last) });

    // Two streams; the member has five entries when it welcomes both.
    let (mut beats, mut entries) =
        (Link::new(office.clone(), 2, site(2)), Link::new(office.clone(), 2, site(2)));
    let beat = append(Vec::new());
    let beat = tokio::spawn(async move { beats.append_entries(beat, option()).await });
    let mut late = ends.greeted().await;
    let sent = append(vec![Entry { log_id: entry, payload: openraft::EntryPayload::Blank }]);
    let sent = tokio::spawn(async move { entries.append_entries(sent, option()).await });
    let mut early = ends.greeted().await;
    wire::write(&mut early, &welcome(5)).await.unwrap();
    wire::read::<Ask>(&mut early).await.unwrap().unwrap();
    wire::write(&mut early, &Tell::Appended(Appended::Success)).await.unwrap();
    sent.await.unwrap().unwrap();
    assert_eq!(office.peers.last_acknowledged(2), Some(entry));
    wire::write(&mut late, &welcome(5)).await.unwrap();
    wire::read::<Ask>(&mut late).await.unwrap().unwrap();
    wire::write(&mut late, &Tell::Appended(Appended::Success)).await.unwrap();
    beat.await.unwrap().unwrap();
    assert!(office.peers.declined().is_empty());

    // One that is greeted afterwards must have six.
    let mut link = Link::new(office.clone(), 2, site(2));
    let beat = append(Vec::new());
    let beat = tokio::spawn(async move { link.append_entries(beat, option()).await });
    wire::write(&mut ends.greeted().await, &welcome(5)).await.unwrap();
    beat.await.unwrap().unwrap_err();
    assert!(office.peers.declined().contains_key(&2));
}
