//! Changes one at a time, requests that are asked again, and the cluster's clock.

use std::time::Duration;

use raftup_proto::unit::UnixMillis;

use super::{
    sample,
    web::{Web, addr, leader, until},
};
use crate::{
    model::{ChangeSet, Cluster, ClusterInfo, RequestKey},
    store::ProposeError,
};

fn count(cluster: &Cluster, now: UnixMillis) -> (ChangeSet, u64) {
    let mut info = ClusterInfo::clone(cluster.info.as_ref().unwrap());
    info.next_node += 1;
    let number = info.next_node;
    let mut set = ChangeSet::new(now);
    set.update(info);
    (set, number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_waits_for_one_that_is_on_its_way() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    let lead = stores[leader(&stores).await].clone();
    let term = lead.leadership().borrow().term;
    (1..=3).for_each(|node| web.cut_off(node));
    let pending = lead.propose(sample::one_task(70)).await;
    assert!(matches!(pending, Err(ProposeError::NoQuorum { pending: true, .. })), "{pending:?}");
    let refused = lead.turn().await.map(|_| ());
    assert!(
        matches!(
            refused,
            Err(ProposeError::NoQuorum { pending: false, .. } | ProposeError::NotLeader { .. })
        ),
        "{refused:?}"
    );
    web.heal();
    // Whoever has the next turn sees what was on its way, wherever it leads by now.
    let at = leader(&stores).await;
    let turn = loop {
        match stores[at].turn().await {
            Ok(turn) => break turn,
            Err(error) => assert!(!matches!(error, ProposeError::Stopped), "{error}"),
        }
    };
    let same_leader = stores[at].leadership().borrow().term == term;
    let made = turn.cluster().tasks.contains_key(&raftup_proto::id::TaskId::from_random(70));
    assert!(made || !same_leader, "the turn came before the set that was pending");
    let base = turn.cluster().revision;
    assert!(turn.propose(sample::one_task(71)).await.unwrap() > base);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_is_asked_again_at_the_next_leader_takes_effect_once() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    let at = leader(&stores).await;
    let (one, other) = (RequestKey([1; 16]), RequestKey([2; 16]));
    let ask = |at: usize, key| stores[at].change_once(key, |cluster, now| Ok(count(cluster, now)));
    let first = ask(at, one).await.unwrap();
    assert_eq!(ask(at, one).await.unwrap(), first, "at the same leader");
    stores[at].hand_over(None).await.unwrap();
    until(|| stores.iter().enumerate().any(|(n, store)| n != at && store.leadership().borrow().here)).await;
    let next = leader(&stores).await;
    assert_ne!(next, at);
    assert_eq!(ask(next, one).await.unwrap(), first, "at the next one");
    let second = ask(next, other).await.unwrap();
    assert_eq!(second.1, first.1 + 1, "another request has its own effect");
    assert_eq!(stores[next].snapshot().info.as_ref().unwrap().next_node, second.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_was_pending_is_not_made_twice() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    let at = leader(&stores).await;
    let before = stores[at].snapshot().info.as_ref().unwrap().next_node;
    let key = RequestKey([3; 16]);
    (1..=3).for_each(|node| web.cut_off(node));
    assert!(stores[at].change_once(key, |cluster, now| Ok(count(cluster, now))).await.is_err());
    web.heal();
    let number = loop {
        let at = leader(&stores).await;
        if let Ok((_, number)) = stores[at].change_once(key, |cluster, now| Ok(count(cluster, now))).await {
            break number;
        }
    };
    assert_eq!(number, before + 1);
    until(|| stores.iter().all(|store| store.snapshot().info.as_ref().unwrap().next_node == before + 1))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_clock_goes_on_from_leader_to_leader_whatever_their_clocks_say() {
    let web = Web::new();
    let stores = web.cluster(3).await;
    // A leader whose clock is a day ahead of this host's, then one whose clock is years behind that.
    let ahead = UnixMillis(crate::store::wall_clock().0 + 86_400_000);
    for round in 0..3_u64 {
        let at = leader(&stores).await;
        let set =
            ChangeSet { at: UnixMillis(ahead.0 * u64::from(round == 0)), ..sample::one_task(80 + round) };
        stores[at].propose(set).await.unwrap();
        let now = stores[at].now();
        assert!(now >= ahead, "{now:?} is before {ahead:?}");
        assert!(now.since(ahead) < Duration::from_secs(60), "{now:?}");
        stores[at].hand_over(None).await.unwrap();
        until(|| stores.iter().enumerate().any(|(n, store)| n != at && store.leadership().borrow().here))
            .await;
        let next = leader(&stores).await;
        // What passes between two managers is the time that an entry takes.
        assert!(stores[next].now().plus(Duration::from_secs(2)) > now);
        stores[next].tick(Duration::ZERO).await.unwrap();
        assert!(stores[next].snapshot().clock >= ahead);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_clock_goes_on_after_a_restart() {
    let web = Web::new();
    let store = web.start(1).await;
    store.initialize(addr(1), sample::first()).await.unwrap();
    let ahead = UnixMillis(crate::store::wall_clock().0 + 86_400_000);
    store.propose(ChangeSet { at: ahead, ..sample::one_task(5) }).await.unwrap();
    web.kill(1, store).await;
    let store = web.start(1).await;
    until(|| store.leadership().borrow().here).await;
    let now = store.now();
    assert!(now >= ahead && now.since(ahead) < Duration::from_secs(60), "{now:?}");
    web.kill(1, store).await;
}
