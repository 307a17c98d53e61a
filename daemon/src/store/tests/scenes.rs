//! What a cluster does when all is well, and when members go.

use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use raftup_proto::{refusal::Code, view::Revision};

use super::{
    sample,
    web::{Web, addr, leader, site, until},
};
use crate::{
    model::ChangeSet,
    store::{ProposeError, Store},
};

/// Proposes until it is accepted, and gives the time that took.
async fn first_write(stores: &[Store], task: u64) -> Duration {
    let start = Instant::now();
    loop {
        for store in stores {
            if store.leadership().borrow().here && store.propose(sample::one_task(task)).await.is_ok() {
                return start.elapsed();
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_member_keeps_what_it_acknowledged() {
    let web = Web::new();
    let store = web.start(1).await;
    store.initialize(addr(1), sample::first()).await.unwrap();
    let mut changes = store.changes();
    let revision = store.propose(sample::one_task(5)).await.unwrap();
    let touched = changes.next().await.unwrap();
    assert_eq!((touched.revision, touched.keys.unwrap().len()), (revision, 1));
    assert!(matches!(store.propose(sample::one_task(5)).await, Err(ProposeError::Conflict)));
    assert_eq!(*store.watch().borrow(), revision);
    let before = store.read().await.unwrap();
    assert_eq!(before.tasks.len(), 1);
    web.kill(1, store).await;

    let store = web.start(1).await;
    let after = store.read().await.unwrap();
    assert_eq!(after, before);
    web.kill(1, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_are_worked_out_one_at_a_time() {
    let web = Web::new();
    let store = web.start(1).await;
    store.initialize(addr(1), sample::first()).await.unwrap();
    let count = |store: Store| async move {
        let work = |cluster: &crate::model::Cluster, now| {
            let mut info = crate::model::ClusterInfo::clone(cluster.info.as_ref().unwrap());
            info.next_node += 1;
            let mut set = ChangeSet::new(now);
            let number = info.next_node;
            set.update(info);
            Ok((set, number))
        };
        store.change(work).await.unwrap().1
    };
    let counted: Vec<_> = (0..20).map(|_| tokio::spawn(count(store.clone()))).collect();
    let mut numbers = Vec::new();
    for one in counted {
        numbers.push(one.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (3..23).collect::<Vec<_>>());
    let (revision, ()) = store.change(|_, now| Ok((ChangeSet::new(now), ()))).await.unwrap();
    assert_eq!(revision, store.snapshot().revision);
    web.kill(1, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_leader_is_replaced_and_nothing_is_lost() {
    let web = Web::new();
    let mut stores = web.cluster(3).await;
    let mut acknowledged = Vec::new();
    let mut times = Vec::new();
    for round in 0..5_u64 {
        let at = leader(&stores).await;
        for task in 0..10 {
            let id = 100 * (round + 1) + task;
            stores[at].propose(sample::one_task(id)).await.unwrap();
            acknowledged.push(raftup_proto::id::TaskId::from_random(id));
        }
        let killed = stores.remove(at);
        let node = killed.inner.office.me.member;
        web.kill(node, killed).await;
        times.push(first_write(&stores, 9000 + round).await);
        stores.push(web.start(node).await);
        let all = stores.last().unwrap();
        until(|| acknowledged.iter().all(|task| all.snapshot().tasks.contains_key(task))).await;
    }
    times.sort();
    println!("first write after a killed leader: {times:?}");
    assert!(times[times.len() / 2] < Duration::from_millis(2000), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leadership_is_handed_over_without_an_election_time_out() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    let at = leader(&stores).await;
    let start = Instant::now();
    stores[at].step_down().await;
    let rest: Vec<_> = stores.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, s)| s.clone()).collect();
    first_write(&rest, 50).await;
    println!("handed over in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(700));
    assert!(matches!(stores[at].propose(sample::one_task(51)).await, Err(ProposeError::NotLeader { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_see_what_was_acknowledged_on_any_manager() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    let at = leader(&stores).await;
    for task in 10..60 {
        stores[at].propose(sample::one_task(task)).await.unwrap();
        let reader = &stores[task as usize % 3];
        let seen = reader.read().await.unwrap();
        assert!(seen.tasks.contains_key(&raftup_proto::id::TaskId::from_random(task)), "task {task}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_majority_writes_and_reads_are_refused_in_two_seconds() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    let at = leader(&stores).await;
    let lead = &stores[at];
    web.cut_off(lead.inner.office.me.member);
    let start = Instant::now();
    let refused = lead.change(|_, _| Ok((sample::one_task(70), ()))).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(refused.code, Code::Unavailable);
    assert!(refused.message.contains("missing"), "{refused}");
    until(|| !lead.leadership().borrow().here).await;
    let start = Instant::now();
    let refused = lead.change(|_, _| Ok((sample::one_task(71), ()))).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(100));
    let others: Vec<u64> = (1..=3).filter(|node| *node != lead.inner.office.me.member).collect();
    for node in others {
        assert!(refused.message.contains(&format!("n{node}")), "{refused}");
    }
    let start = Instant::now();
    lead.read().await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // The others go on, and the old leader follows them once it hears them.
    let rest: Vec<_> = stores.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, s)| s.clone()).collect();
    first_write(&rest, 72).await;
    let term = rest[0].leadership().borrow().term;
    web.heal();
    until(|| lead.snapshot().tasks.len() == rest[0].snapshot().tasks.len()).await;
    lead.read().await.unwrap();
    assert_eq!(rest[0].leadership().borrow().term, term, "a healed member must not force an election");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_come_back_from_disk() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    let at = leader(&stores).await;
    for task in 10..40 {
        stores[at].propose(sample::one_task(task)).await.unwrap();
    }
    let before = stores[at].snapshot();
    for (node, store) in (1..).zip(stores) {
        web.kill(node, store).await;
    }
    let mut stores = Vec::new();
    for node in 1..=3 {
        stores.push(web.start(node).await);
    }
    leader(&stores).await;
    for store in &stores {
        assert_eq!(store.read().await.unwrap(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_far_behind_gets_a_snapshot() {
    let web = Web::new();
    let mut stores = web.cluster(3).await;
    let at = leader(&stores).await;
    let behind = (at + 1) % 3;
    let node = stores[behind].inner.office.me.member;
    let store = stores.remove(behind);
    web.kill(node, store).await;
    let lead = stores[leader(&stores).await].clone();
    for task in 10..30 {
        lead.propose(sample::one_task(task)).await.unwrap();
    }
    let raft = &lead.inner.raft;
    raft.trigger().snapshot().await.unwrap();
    let last = lead.inner.machine.current().last.unwrap().index;
    until(|| raft.metrics().borrow_watched().snapshot.is_some_and(|snapshot| snapshot.index >= last)).await;
    raft.trigger().purge_log(last).await.unwrap();
    until(|| lead.inner.office.log.purged().is_some_and(|purged| purged.index >= last)).await;
    let late = web.start(node).await;
    until(|| late.snapshot() == lead.snapshot()).await;
    // What came by snapshot is there after a restart, too.
    web.kill(node, late).await;
    let late = web.start(node).await;
    assert_eq!(late.snapshot().tasks.len(), 20);
    until(|| late.snapshot() == lead.snapshot()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_come_and_go() {
    let web = Web::new();
    let mut stores = web.cluster(3).await;
    let mut lead = stores[leader(&stores).await].clone();
    lead.propose(sample::one_task(5)).await.unwrap();
    for node in [4, 5] {
        stores.push(web.start(node).await);
        lead.add_learner(node, site(node)).await.unwrap();
    }
    until(|| [4, 5].iter().all(|node| lead.members().members[node].caught_up)).await;
    lead.set_voters((1..=5).collect()).await.unwrap();
    assert_eq!(lead.members().members.values().filter(|member| member.voter).count(), 5);
    // The leader goes itself: it hands over first.
    let me = lead.inner.office.me.member;
    let rest: std::collections::BTreeSet<u64> = (1..=5).filter(|node| *node != me).take(3).collect();
    assert!(lead.set_voters(rest.clone()).await.is_err());
    lead.hand_over(Some(*rest.first().unwrap())).await.unwrap();
    lead = stores[leader(&stores).await].clone();
    assert_eq!(lead.inner.office.me.member, *rest.first().unwrap());
    lead.set_voters(rest.clone()).await.unwrap();
    let members = lead.members();
    assert_eq!(members.members.keys().copied().collect::<std::collections::BTreeSet<_>>(), rest);
    // What Raft reports follows what it does.
    until(|| !lead.members().changing).await;
    assert!(lead.propose(sample::one_task(6)).await.unwrap() > Revision(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_stalls_delays_an_acknowledgement() {
    let web = Web::new();
    let stores = web.cluster(1).await;
    web.stall_disk(1, Duration::from_millis(300));
    let start = Instant::now();
    stores[0].propose(sample::one_task(10)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_link_that_stalls_for_a_moment_delays_a_write_and_loses_nothing() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    let lead = stores[leader(&stores).await].clone();
    web.stall_link(lead.inner.office.me.member, Duration::from_millis(300));
    let start = Instant::now();
    lead.propose(sample::one_task(11)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
    until(|| stores.iter().all(|store| store.snapshot().tasks.len() == 1)).await;
}
