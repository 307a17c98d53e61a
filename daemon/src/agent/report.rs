//! What became of this node's tasks, for the leader to read.
//!
//! Owns: the last status of each task. Holds: a later session gets everything again; nothing is lost with a
//! connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use raftup_proto::{
    id::TaskId,
    peer::{TaskReport, TaskStatus},
};
use tokio::sync::watch;

/// The last status of each task of this node.
#[derive(Debug)]
pub(super) struct Reports {
    held: Mutex<Held>,
    moved: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Held {
    all: BTreeMap<TaskId, TaskStatus>,
    news: BTreeSet<TaskId>,
}

impl Reports {
    /// Begins with what was last saved.
    pub(super) fn new(saved: Vec<TaskReport>) -> Self {
        let all = saved.into_iter().map(|report| (report.task, report.status)).collect();
        Self { held: Mutex::new(Held { all, news: BTreeSet::new() }), moved: watch::Sender::new(()) }
    }

    /// The last status of a task.
    pub(super) fn get(&self, task: TaskId) -> Option<TaskStatus> {
        self.lock().all.get(&task).cloned()
    }

    /// Puts a status there; one that says nothing new is no news.
    pub(super) fn set(&self, task: TaskId, status: TaskStatus) {
        let mut held = self.lock();
        if held.all.get(&task) != Some(&status) {
            held.all.insert(task, status);
            held.news.insert(task);
            self.moved.send_replace(());
        }
    }

    /// The cluster does not know the task any more.
    pub(super) fn forget(&self, task: TaskId) {
        let mut held = self.lock();
        held.news.remove(&task);
        if held.all.remove(&task).is_some() {
            self.moved.send_replace(());
        }
    }

    /// The last status of every task. What was news until now is told with it.
    pub(super) fn take_all(&self) -> Vec<TaskReport> {
        let mut held = self.lock();
        held.news.clear();
        reports(&held.all).collect()
    }

    /// What has changed since the last take.
    pub(super) fn take_news(&self) -> Vec<TaskReport> {
        let mut held = self.lock();
        let news = std::mem::take(&mut held.news);
        reports(&held.all).filter(|report| news.contains(&report.task)).collect()
    }

    /// The last status of every task, to be saved.
    pub(super) fn all(&self) -> Vec<TaskReport> {
        reports(&self.lock().all).collect()
    }

    /// Moves with every change.
    pub(super) fn moved(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reports(all: &BTreeMap<TaskId, TaskStatus>) -> impl Iterator<Item = TaskReport> {
    all.iter().map(|(task, status)| TaskReport { task: *task, status: status.clone() })
}
