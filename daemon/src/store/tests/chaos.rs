//! Disks and links that stall at random: nothing that was acknowledged is lost, and all managers go through the same states.
//!
//! `RAFTUP_CHAOS_SEED` repeats a run as far as its timing allows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use raftup_proto::{id::TaskId, view::Revision};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    sample,
    web::{Web, until},
};
use crate::{model::Cluster, store::Store};

type States = Arc<Mutex<BTreeMap<Revision, Cluster>>>;

/// Compares each state of `store` with that of the others at the same revision.
async fn watch(store: Store, states: States) {
    let mut changes = store.changes();
    let mut last = Revision(0);
    while changes.next().await.is_some() {
        let cluster = store.snapshot();
        assert!(cluster.revision >= last, "the state went back from {last} to {}", cluster.revision);
        last = cluster.revision;
        let mut states = states.lock().unwrap();
        let known = states.entry(cluster.revision).or_insert_with(|| cluster.clone());
        assert_eq!(*known, cluster, "two managers disagree on {last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn disks_and_links_that_stall_for_a_second_lose_nothing() {
    run(200, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "minutes; `make chaos`"]
async fn disks_and_links_that_stall_for_five_seconds_lose_nothing() {
    run(1000, Duration::from_secs(5)).await;
}

/// Has `changes` acknowledged while nodes stall for up to `stall` at random.
async fn run(changes: usize, stall: Duration) {
    let seed = std::env::var("RAFTUP_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("RAFTUP_CHAOS_SEED={seed}");
    let web = Web::new();
    let stores = web.cluster(3).await;
    let states = States::default();
    let watchers: Vec<_> =
        stores.iter().map(|store| tokio::spawn(watch(store.clone(), states.clone()))).collect();
    let stalls = {
        let web = web.clone();
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            loop {
                let (node, time) = (random.random_range(1..=3), stall.mul_f64(random.random()));
                match random.random() {
                    true => web.stall_disk(node, time),
                    false => web.stall_link(node, time),
                }
                sleep(stall.mul_f64(0.6 * random.random::<f64>())).await;
            }
        })
    };
    let (mut acknowledged, mut unknown, mut refused) = (Vec::new(), 0, 0);
    let start = Instant::now();
    for task in 100.. {
        let Some(lead) = stores.iter().find(|store| store.leadership().borrow().here) else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        match lead.propose(sample::one_task(task)).await {
            Ok(revision) => {
                assert!(lead.snapshot().revision >= revision);
                acknowledged.push(task);
            }
            Err(
                crate::store::ProposeError::NoQuorum { pending: true, .. }
                | crate::store::ProposeError::Unknown,
            ) => {
                unknown += 1;
            }
            Err(_) => refused += 1,
        }
        assert!(start.elapsed() < Duration::from_secs(900), "{} changes in 15 minutes", acknowledged.len());
        if acknowledged.len() == changes {
            break;
        }
    }
    stalls.abort();
    let last = *acknowledged.last().unwrap();
    let has_all = |cluster: &Cluster| {
        cluster.tasks.contains_key(&TaskId::from_random(last))
            && acknowledged.iter().all(|task| cluster.tasks.contains_key(&TaskId::from_random(*task)))
    };
    until(|| stores.iter().all(|store| has_all(&store.snapshot()))).await;
    until(|| stores.iter().all(|store| store.snapshot() == stores[0].snapshot())).await;
    assert!(watchers.iter().all(|watcher| !watcher.is_finished()), "a manager went through other states");
    assert!(changes < 1000 || unknown + refused > 0, "no stall was felt");
    let terms = stores[0].term();
    println!(
        "{changes} acknowledged in {:?}, {unknown} unknown, {refused} refused, term {terms}",
        start.elapsed()
    );
}
