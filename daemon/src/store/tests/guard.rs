//! Directories that were wiped, copied or restored: turned away, and the leader lives on.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use openraft::{
    RaftNetworkV2, RaftSnapshotBuilder,
    network::RPCOption,
    raft::AppendEntriesRequest,
    storage::{RaftLogStorage, RaftStateMachine},
};
use raftup_proto::id::NodeId;
use tokio::io::DuplexStream;

use super::{
    sample,
    web::{Web, id, leader, site, until},
};
use crate::store::{
    Pipe, ProposeError, Store, Transport, create,
    dir::Dir,
    files,
    format::Life,
    link::{Link, Office},
    parts::Transfers,
    peers::Peers,
    types::{Command, Entry, LeaderId, LogId, Vote},
    wire::{self, Appended, Ask, Greeting, Inbox, Tell, Welcome, Welcomed},
};

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to.join("raft")).unwrap();
    for name in ["manager", "progress", "raft/identity", "raft/log.redb", "raft/snapshot"] {
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
    // The log alone went back: the files do not belong together.
    fs::copy(old.join("raft/log.redb"), web.dir(3).join("raft/log.redb")).unwrap();
    let message = format!("{:#}", web.start_in(3, &web.dir(3)).await.err().unwrap());
    assert!(message.contains("older") && message.contains("demote"), "{message}");
    // All files went back, with more starts than the leader has seen: they belong together.
    copy(&old, &web.dir(3));
    for _ in 0..3 {
        files::start_and_stop(&Dir::new(&web.dir(3)), id(3)).unwrap();
    }
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
        files::start_and_stop(&Dir::new(&copied), id(3)).unwrap();
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
        let greeting: Option<Greeting> = Inbox::default().read(&mut far).await.unwrap();
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
    let office = Arc::new(Office {
        me: store.inner.office.me,
        peers,
        log,
        transport: Arc::new(ends.clone()),
        states: store.inner.machine.states(),
        transfers: Transfers::default(),
    });
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
    Inbox::default().read::<Ask>(&mut early).await.unwrap().unwrap();
    wire::write(&mut early, &Tell::Appended(Appended::Success)).await.unwrap();
    sent.await.unwrap().unwrap();
    assert_eq!(office.peers.last_acknowledged(2), Some(entry));
    wire::write(&mut late, &welcome(5)).await.unwrap();
    Inbox::default().read::<Ask>(&mut late).await.unwrap().unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_member_acknowledged_is_known_after_a_restart_of_the_leader() {
    let web = Web::new();
    let (mut stores, lead) = three(&web).await;
    web.kill(3, stores.remove(2)).await;
    let old = web.dir(9);
    copy(&web.dir(3), &old);
    let third = web.start(3).await;
    for task in 10..20 {
        lead.propose(sample::one_task(task)).await.unwrap();
    }
    let last = lead.inner.office.log.last();
    until(|| lead.inner.office.log.floor(3) == last.map(|last| last.index)).await;
    // The next commit takes along what is known of the others.
    lead.propose(sample::one_task(20)).await.unwrap();
    web.kill(3, third).await;
    let me = lead.inner.office.me.member;
    drop(lead);
    let at = stores.iter().position(|store| store.inner.office.me.member == me).unwrap();
    web.kill(me, stores.remove(at)).await;
    let restarted = web.start(me).await;
    assert!(restarted.inner.office.log.floor(3) >= last.map(|last| last.index));
    stores.push(restarted);
    let at = leader(&stores).await;
    if stores[at].inner.office.me.member != me {
        stores[at].hand_over(Some(me)).await.unwrap();
    }
    let lead = stores.pop().unwrap();
    until(|| lead.leadership().borrow().here).await;
    copy(&old, &web.dir(3));
    for _ in 0..3 {
        files::start_and_stop(&Dir::new(&web.dir(3)), id(3)).unwrap();
    }
    let back = web.start_in(3, &web.dir(3)).await.unwrap();
    until(|| lead.members().lost.contains(&3)).await;
    still_leads(&lead, 30).await;
    assert_eq!(back.snapshot().tasks.len(), 0, "it was let in");
}

/// 1 and 2 acknowledge without 3; then 2 loses its log, 1 is away, and 3 is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_whose_log_is_gone_helps_nobody_to_lead() {
    let web = Web::new();
    let mut stores = web.cluster(3).await;
    until(|| stores[0].leadership().borrow().leader.is_some()).await;
    let at = leader(&stores).await;
    if at != 0 {
        stores[at].hand_over(Some(1)).await.unwrap();
    }
    leader(&stores[..1]).await;
    web.kill(3, stores.pop().unwrap()).await;
    for task in 30..40 {
        stores[0].propose(sample::one_task(task)).await.unwrap();
    }
    web.kill(2, stores.pop().unwrap()).await;
    web.kill(1, stores.pop().unwrap()).await;
    let log = web.dir(2).join("raft/log.redb");
    let good = fs::read(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let third = web.start(3).await;
    let message = format!("{:#}", web.start_in(2, &web.dir(2)).await.err().unwrap());
    assert!(message.contains("log.redb is gone") && message.contains("demote"), "{message}");
    // With its log, it has what was acknowledged, and so has whoever leads.
    fs::write(&log, good).unwrap();
    let both = [web.start(2).await, third];
    let at = leader(&both).await;
    assert_eq!(both[at].read().await.unwrap().tasks.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_state_too_large_for_a_snapshot_keeps_its_log() {
    let web = Web::new();
    let stores = web.cluster(1).await;
    let mut machine = stores[0].inner.machine.clone();
    machine.snapshot_max = 10;
    for task in 10..15 {
        stores[0].propose(sample::one_task(task)).await.unwrap();
    }
    let built = machine.build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, None);
    assert!(!web.dir(1).join("raft/snapshot").exists());
    assert!(machine.try_create_snapshot_builder(false).await.is_none(), "it is tried again at once");
    assert!(machine.try_create_snapshot_builder(true).await.is_some());
    drop(machine);
    let mut stores = stores;
    web.kill(1, stores.remove(0)).await;
    assert_eq!(web.start(1).await.read().await.unwrap().tasks.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn entries_of_many_bytes_may_take_long_to_be_acknowledged() {
    let web = Web::new();
    let store = web.start(1).await;
    let (ends, log) = (Ends::default(), store.inner.office.log.clone());
    let peers = Peers::new(Vec::new());
    let office = Arc::new(Office {
        me: store.inner.office.me,
        peers,
        log,
        transport: Arc::new(ends.clone()),
        states: store.inner.machine.states(),
        transfers: Transfers::default(),
    });
    let vote = Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true };
    store.inner.office.log.clone().save_vote(&vote).await.unwrap();
    let mut set = sample::one_task(5);
    let mut task = sample::task(6);
    task.status.message = Some("x".repeat(3 << 20));
    set.create(task);
    let entry = Entry {
        log_id: LogId::new(vote.leader_id, 0),
        payload: openraft::EntryPayload::Normal(Command(Arc::new(set))),
    };
    let append = AppendEntriesRequest { vote, prev_log_id: None, entries: vec![entry], leader_commit: None };
    let mut link = Link::new(office.clone(), 2, site(2));
    let sent =
        tokio::spawn(
            async move { link.append_entries(append, RPCOption::new(Duration::from_millis(400))).await },
        );
    let mut end = ends.greeted().await;
    let life = Life { member: 2, incarnation: 9, starts: 4, process: 77 };
    wire::write(&mut end, &Welcome::Ok(Welcomed { life, last: None })).await.unwrap();
    Inbox::default().read::<Ask>(&mut end).await.unwrap().unwrap();
    // Longer than Raft would have it, and shorter than a member may be silent.
    tokio::time::sleep(Duration::from_secs(1)).await;
    wire::write(&mut end, &Tell::Appended(Appended::Success)).await.unwrap();
    sent.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_above_the_limit_is_refused_with_its_size() {
    let web = Web::new();
    let stores = web.cluster(1).await;
    let mut set = sample::one_task(5);
    let mut task = sample::task(6);
    task.status.message = Some("x".repeat(17 << 20));
    set.create(task);
    match stores[0].propose(set).await {
        Err(ProposeError::TooLarge { bytes, limit }) => assert!(bytes > limit),
        other => panic!("{other:?}"),
    }
    assert!(stores[0].snapshot().tasks.is_empty());
    stores[0].propose(sample::one_task(5)).await.unwrap();
}
