//! What nodes report of their tasks, put into the state in batches.
//!
//! Owns: reports between a session and the state; a newer one of a task takes the place of an older. Leaves alone: which
//! reports count (`plan::nodes`).
//! Holds: a report is kept until the state has it, or the reign ends; then the node reports everything anew.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use raftup_proto::{
    id::{NodeId, TaskId},
    peer::{TaskReport, TaskStatus},
};
use tokio::{sync::Notify, time::sleep};
use tracing::warn;

use crate::plan::nodes;

use super::reign::Reign;

/// Name on the board.
const NAME: &str = "reports";

/// How long reports are gathered: one entry of the log then holds those of many tasks.
const GATHER: Duration = Duration::from_millis(10);

/// Wait after a batch that failed.
const PAUSE: Duration = Duration::from_millis(200);

type Batch = BTreeMap<TaskId, (NodeId, TaskStatus)>;

/// Reports that the state does not have yet; bounded by the number of tasks.
#[derive(Default)]
pub(super) struct Reports {
    waiting: Mutex<Batch>,
    added: Notify,
}

impl Reports {
    /// Takes over what a node reports.
    pub(super) fn add(&self, node: NodeId, reports: Vec<TaskReport>) {
        self.waiting().extend(reports.into_iter().map(|report| (report.task, (node, report.status))));
        self.added.notify_one();
    }

    /// Keeps what could not be carried out, unless there is newer.
    fn put_back(&self, batch: Batch) {
        let mut waiting = self.waiting();
        for (task, report) in batch {
            waiting.entry(task).or_insert(report);
        }
        self.added.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Batch> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries reports out for as long as the reign lasts.
pub(super) async fn run(reign: &Reign) {
    loop {
        reign.reports.added.notified().await;
        sleep(GATHER).await;
        let batch = std::mem::take(&mut *reign.reports.waiting());
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
