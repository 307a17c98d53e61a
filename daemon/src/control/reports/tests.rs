use std::sync::Arc;

use raftup_proto::{peer::TaskState, unit::UnixMillis};

use super::*;
use crate::{
    model::Task,
    store::{self, sample},
};

const OWNER: NodeId = NodeId::new(1);
const OTHER: NodeId = NodeId::new(2);

fn id(number: u64) -> TaskId {
    TaskId::from_random(number << 8)
}

/// Tasks of [`OWNER`] that are starting.
fn cluster(tasks: u64) -> Cluster {
    let mut cluster = Cluster { info: Some(Arc::new(sample::info())), ..Cluster::default() };
    for number in 1..=tasks {
        let status = TaskStatus::new(TaskState::Starting, UnixMillis(5));
        let task = Task { id: id(number), node: Some(OWNER), status, ready: None, ..sample::task(1) };
        cluster.tasks.insert(task.id, Arc::new(task));
    }
    cluster
}

fn report(number: u64, state: TaskState) -> TaskReport {
    TaskReport { task: id(number), status: TaskStatus::new(state, UnixMillis(9)) }
}

/// What is in the state after everything that waits was put there.
fn carried_out(reports: &Reports, cluster: &Cluster) -> Cluster {
    let (batch, again) = reports.waiting().take(Instant::now());
    assert_eq!(again, None);
    let set = nodes::reports(cluster, &batch, UnixMillis(100));
    if set.is_empty() {
        cluster.clone()
    } else {
        store::apply(cluster, cluster.revision.0 + 1, &set).unwrap()
    }
}

#[tokio::test]
async fn another_nodes_report_displaces_nothing_and_takes_no_memory() {
    let cluster = cluster(2);
    for owner_first in [true, false] {
        let reports = Reports::default();
        let owner = || reports.add(&cluster, OWNER, vec![report(1, TaskState::Running)]);
        if owner_first {
            assert_eq!(owner(), 0);
        }
        let forged: Vec<_> = (0..100_000).map(|n| report(n % 5000 + 1, TaskState::Failed)).collect();
        assert_eq!(
            reports.add(&cluster, OTHER, forged),
            40,
            "tasks 1 and 2 are another node's, 20 times each"
        );
        if !owner_first {
            owner();
        }
        assert_eq!(reports.len(), 1);
        let after = carried_out(&reports, &cluster);
        let state = |number| after.tasks[&id(number)].status.state;
        assert_eq!((state(1), state(2)), (TaskState::Running, TaskState::Starting));
    }
}

/// The owner may have changed, or the task may be gone, between the report and its batch.
#[test]
fn ownership_is_looked_at_again_when_a_report_is_carried_out() {
    let cluster = cluster(1);
    let status = TaskStatus::new(TaskState::Failed, UnixMillis(9));
    let both = nodes::Reports::from([
        ((OTHER, id(1)), status.clone()),
        ((OWNER, id(1)), TaskStatus::new(TaskState::Running, UnixMillis(9))),
        ((OTHER, id(7)), status),
    ]);
    let set = nodes::reports(&cluster, &both, UnixMillis(100));
    assert_eq!(set.changes.len(), 1);
    let after = store::apply(&cluster, 1, &set).unwrap();
    assert_eq!(after.tasks[&id(1)].status.state, TaskState::Running);
}

#[tokio::test]
async fn what_is_old_or_known_is_not_kept() {
    let (cluster, reports) = (cluster(3), Reports::default());
    let add = |some: Vec<TaskReport>| {
        reports.add(&cluster, OWNER, some);
        reports.len()
    };
    let again = report(1, TaskState::Starting);
    assert_eq!(add(vec![again; 1000]), 0, "the state has it, by whatever clock");
    assert_eq!(add(vec![report(1, TaskState::Preparing)]), 0, "backwards");
    assert_eq!(add(vec![report(1, TaskState::Failed), report(2, TaskState::Running)]), 2);
    assert_eq!(add(vec![report(1, TaskState::Running)]), 2, "sent again after the newer one");
    let after = carried_out(&reports, &cluster);
    assert_eq!(after.tasks[&id(1)].status.state, TaskState::Failed);
    assert_eq!(add(Vec::new()), 0);
    reports.add(&after, OWNER, vec![report(1, TaskState::Running), report(1, TaskState::Complete)]);
    assert_eq!(reports.len(), 0, "it has ended");
}

#[tokio::test]
async fn texts_of_a_report_are_cut_and_cleaned() {
    let (cluster, reports) = (cluster(1), Reports::default());
    let mut said = report(1, TaskState::Failed);
    said.status.message = Some(format!("\u{1b}[2J\u{202e}exit\n1 {}", "é".repeat(100_000)));
    said.status.container = Some("c0ffee\u{7}".to_owned());
    said.status.since = UnixMillis(u64::MAX);
    reports.add(&cluster, OWNER, vec![said]);
    let after = carried_out(&reports, &cluster);
    let status = &after.tasks[&id(1)].status;
    let message = status.message.as_deref().unwrap();
    assert!(message.starts_with(" [2J exit 1 é") && message.len() <= 1024, "{message}");
    assert_eq!(status.container.as_deref(), Some("c0ffee "));
    assert_eq!(status.since, UnixMillis(100), "a clock that is ahead");
}

fn full(waiting: &mut Waiting, node: u64, count: u64) {
    let status = |number| (id(number), TaskStatus::new(TaskState::Running, UnixMillis(9)));
    waiting.add(NodeId::new(node), (1..=count).map(status).collect());
}

fn of(batch: &nodes::Reports, node: u64) -> usize {
    batch.keys().filter(|(of, _)| *of == NodeId::new(node)).count()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_floods_delays_its_own_reports_alone() {
    let mut waiting = Waiting::default();
    full(&mut waiting, 2, 10_000);
    full(&mut waiting, 3, 5);
    let begun = Instant::now();
    let (batch, mut again) = waiting.take(begun);
    assert_eq!((of(&batch, 2), of(&batch, 3)), (SHARE_MAX, 5));
    let mut taken = SHARE_MAX;
    while again.is_some_and(|again| again == begun) {
        let (batch, next) = waiting.take(begun);
        taken += batch.len();
        again = next;
    }
    assert!(taken < 3000, "{taken} at once");
    full(&mut waiting, 3, 1);
    let (batch, _) = waiting.take(begun);
    assert_eq!((of(&batch, 2), of(&batch, 3)), (0, 1), "others need not wait");
    while let Some(at) = again {
        let (batch, next) = waiting.take(at);
        taken += batch.len();
        assert!(!batch.is_empty() && next.is_none_or(|next| next >= at));
        again = next;
    }
    assert_eq!(taken, 10_000, "nothing is lost");
    let (_, none) = waiting.take(begun + Duration::from_secs(3600));
    assert!(none.is_none() && waiting.nodes.is_empty(), "nothing is kept of nodes that are quiet");
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_the_log_is_bounded_and_all_nodes_have_their_turn() {
    let mut waiting = Waiting::default();
    (1..=40).for_each(|node| full(&mut waiting, node, SHARE_MAX as u64));
    let (now, mut served) = (Instant::now(), BTreeMap::<NodeId, usize>::new());
    for _ in 0..10 {
        let (batch, _) = waiting.take(now);
        assert_eq!(batch.len(), BATCH_MAX);
        batch.keys().for_each(|(node, _)| *served.entry(*node).or_default() += 1);
        // The first ones have more at once.
        full(&mut waiting, 1, SHARE_MAX as u64);
    }
    assert_eq!(served.len(), 40);
    assert!(served.values().all(|count| *count == SHARE_MAX), "{served:?}");
}

#[tokio::test]
async fn what_could_not_be_carried_out_waits_unless_there_is_newer() {
    let (cluster, reports) = (cluster(2), Reports::default());
    reports.add(&cluster, OWNER, vec![report(1, TaskState::Running), report(2, TaskState::Running)]);
    let (batch, _) = reports.waiting().take(Instant::now());
    reports.add(&cluster, OWNER, vec![report(1, TaskState::Failed)]);
    reports.put_back(batch);
    let after = carried_out(&reports, &cluster);
    let state = |number| after.tasks[&id(number)].status.state;
    assert_eq!((state(1), state(2)), (TaskState::Failed, TaskState::Running));
}
