//! What nodes report of their tasks, put into the state in batches.
//!
//! Owns: reports between a session and the state, by node and task; a newer one of a task takes the place of an older.
//! Leaves alone: which reports count (`plan::nodes`).
//! Holds: a report is kept until the state has it, or the reign ends; then the node reports everything anew. No more is
//! kept of a node than it has tasks, and a node that reports without end delays its own reports alone.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use raftup_proto::{
    id::{NodeId, TaskId},
    peer::{TaskReport, TaskStatus},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tracing::warn;

use crate::{model::Cluster, plan::nodes};

use super::reign::Reign;

/// Name on the board.
const NAME: &str = "reports";

/// How long reports are gathered: one entry of the log then holds those of many tasks.
const GATHER: Duration = Duration::from_millis(10);

/// Wait after a batch that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Most reports in one entry of the log, about 2 MiB of tasks with the longest messages.
const BATCH_MAX: usize = 1024;

/// Most of them from one node, so that others are in the same entry.
const SHARE_MAX: usize = 256;

/// What a node may add to the log: an entry every so often and as many reports, and [`BURST`] of that at once. A node
/// that starts a thousand containers stays below.
const PER_ENTRY: Duration = Duration::from_millis(40);
const PER_REPORT: Duration = Duration::from_millis(2);
const BURST: Duration = Duration::from_secs(3);

/// Reports that the state does not have yet.
#[derive(Default)]
pub(super) struct Reports {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Default)]
struct Waiting {
    nodes: BTreeMap<NodeId, Queue>,
    /// The node that was served last; the next batch begins after it.
    last: Option<NodeId>,
}

/// Reports of one node.
struct Queue {
    reports: BTreeMap<TaskId, TaskStatus>,
    /// The allowance is used up to this time, which may be [`BURST`] ahead.
    used: Instant,
}

impl Reports {
    /// Takes over what a node reports, as far as it is news to `cluster`. Answers how many reports are about tasks of
    /// other nodes.
    pub(super) fn add(&self, cluster: &Cluster, node: NodeId, reports: Vec<TaskReport>) -> usize {
        let mut foreign = 0;
        let mut news = BTreeMap::new();
        for report in reports {
            let owner = cluster.tasks.get(&report.task).and_then(|task| task.node);
            foreign += usize::from(owner.is_some_and(|owner| owner != node));
            if let Some(status) = nodes::news(cluster, node, report.task, &report.status) {
                news.insert(report.task, status);
            }
        }
        if !news.is_empty() {
            self.waiting().add(node, news);
            self.added.notify_one();
        }
        foreign
    }

    /// Keeps what could not be carried out, unless there is newer.
    fn put_back(&self, batch: nodes::Reports) {
        let mut waiting = self.waiting();
        for ((node, task), status) in batch {
            waiting.queue(node).reports.entry(task).or_insert(status);
        }
        self.added.notify_one();
    }

    /// How many reports wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting().nodes.values().map(|queue| queue.reports.len()).sum()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn queue(&mut self, node: NodeId) -> &mut Queue {
        self.nodes.entry(node).or_insert_with(|| Queue { reports: BTreeMap::new(), used: Instant::now() })
    }

    fn add(&mut self, node: NodeId, news: BTreeMap<TaskId, TaskStatus>) {
        let reports = &mut self.queue(node).reports;
        for (task, status) in news {
            // Reports of a task come in order, unless they are sent again.
            if reports.get(&task).is_none_or(|waits| waits.state <= status.state) {
                reports.insert(task, status);
            }
        }
    }

    /// The next batch, and when there may be another one; none if nothing waits.
    fn take(&mut self, now: Instant) -> (nodes::Reports, Option<Instant>) {
        self.nodes.retain(|_, queue| !queue.reports.is_empty() || queue.used > now);
        let (mut batch, mut again) = (nodes::Reports::new(), None);
        let after = |node: &NodeId| Some(*node) > self.last;
        let (first, then): (Vec<_>, Vec<_>) = self.nodes.keys().copied().partition(after);
        for node in first.into_iter().chain(then) {
            let Some(queue) = self.nodes.get_mut(&node).filter(|queue| !queue.reports.is_empty()) else {
                continue;
            };
            let may = queue.used.checked_sub(BURST).unwrap_or(now);
            let room = if may > now { 0 } else { SHARE_MAX.min(BATCH_MAX - batch.len()) };
            let mut taken = 0;
            while taken < room
                && let Some((task, status)) = queue.reports.pop_first()
            {
                batch.insert((node, task), status);
                taken += 1;
            }
            if taken > 0 {
                let cost = PER_ENTRY + PER_REPORT.saturating_mul(u32::try_from(taken).unwrap_or(u32::MAX));
                queue.used = queue.used.max(now) + cost;
                self.last = Some(node);
            }
            if !queue.reports.is_empty() {
                let may = queue.used.checked_sub(BURST).unwrap_or(now).max(now);
                again = Some(again.map_or(may, |again: Instant| again.min(may)));
            }
        }
        (batch, again)
    }
}

/// Carries reports out for as long as the reign lasts.
pub(super) async fn run(reign: &Reign) {
    let mut again: Option<Instant> = None;
    loop {
        // Both lose nothing when a wait on them is dropped.
        tokio::select! {
            () = reign.reports.added.notified() => sleep(GATHER).await,
            () = async { sleep_until(again.unwrap_or_else(Instant::now)).await }, if again.is_some() => {}
        }
        let (batch, next) = reign.reports.waiting().take(Instant::now());
        again = next;
        if batch.is_empty() {
            continue;
        }
        let begun = Instant::now();
        let done = reign.store.change(|cluster, now| Ok((nodes::reports(cluster, &batch, now), ()))).await;
        let last = match done {
            Ok(_) => format!("{} reports", batch.len()),
            Err(reason) => {
                warn!(%reason, reports = batch.len(), "reports of nodes wait");
                reign.reports.put_back(batch);
                sleep(PAUSE).await;
                format!("failed, will be tried again: {reason}")
            }
        };
        reign.board.note(NAME, "report", begun.elapsed(), last);
    }
}

#[cfg(test)]
mod tests;
