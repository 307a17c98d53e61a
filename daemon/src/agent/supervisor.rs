//! Which containers there should be: brings the view, the engine and the owners of containers together.
//!
//! Owns: starting and telling owners; containers that no task names. Leaves alone: what an owner does.
//! Woken by a view, by the engine's news, and by owners that have ended. Holds: containers are taken as they are
//! found; none is removed unless a manager of this process's time has sent a view without its task.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use raftup_proto::{
    id::{NetworkId, TaskId},
    spec::STOP_GRACE,
    view::{Goal, TaskItem, View},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    follow::News,
    launch::Job,
    owner::{Owner, Shared, Told},
    task::{Event as Step, Phase, begin},
};
use crate::engine::{Condition, Container, Event, EventKind, Exit, Health};

/// A view from disk may be old: tasks that were never started wait so long for a manager to say otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// Exit status of what was killed; whether for memory, only a closer look says.
const KILLED: i64 = 137;
/// The engine's word that it was for memory comes so much later than that of its end, at most.
const LATE: Duration = Duration::from_millis(500);

pub(super) struct Supervisor {
    pub(super) shared: Shared,
    pub(super) view: watch::Receiver<Arc<View>>,
    /// A manager has sent the view, or a part of it, to this process.
    pub(super) fresh: watch::Receiver<bool>,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) gone: mpsc::Receiver<TaskId>,
    pub(super) sweep: Arc<Notify>,
}

/// What changes while it runs.
#[derive(Default)]
struct Held {
    owners: BTreeMap<TaskId, Owner>,
    /// Whether the owner was told to stop.
    stopped: BTreeSet<TaskId>,
    /// Containers without an owner, as last seen; none before the first list.
    loose: Option<BTreeMap<TaskId, Container>>,
    /// The cluster's networks, when those of the engine were last looked at.
    networks: BTreeSet<NetworkId>,
    /// Told when the engine says that a task has used up its memory.
    out_of_memory: BTreeMap<TaskId, Arc<Notify>>,
    /// No manager came in time; the view that is there has to do.
    waited: bool,
    /// Tasks that were not started yet were told that they may.
    may_start: bool,
}

impl Supervisor {
    pub(super) async fn run(mut self) {
        let mut held = Held::default();
        let patience = Instant::now() + PATIENCE;
        loop {
            // Cancel-safe: messages stay in their queues, the latest value in its place.
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(News::List(list)) => self.list(&mut held, list).await,
                    Some(News::Event(event)) => self.event(&mut held, event).await,
                    None => return,
                },
                task = self.gone.recv() => {
                    if let Some(task) = task {
                        held.owners.remove(&task);
                        held.stopped.remove(&task);
                        held.out_of_memory.remove(&task);
                        self.shared.reports.forget(task);
                        self.sweep.notify_one();
                    }
                }
                changed = self.view.changed() => if changed.is_err() { return },
                changed = self.fresh.changed() => if changed.is_err() { return },
                () = sleep_until(patience), if !held.waited => held.waited = true,
                () = self.shared.stop.cancelled() => return,
            }
            self.reconcile(&mut held).await;
        }
    }

    /// Everything that the engine has.
    async fn list(&self, held: &mut Held, list: Vec<Container>) {
        let mut loose: BTreeMap<_, _> =
            list.into_iter().map(|container| (container.task, container)).collect();
        for (task, owner) in &held.owners {
            match loose.remove(task) {
                Some(container) => {
                    let item = self.item(*task);
                    if let Some(told) = seen(&container.condition, item.as_ref()) {
                        owner.tell(told.container(container.id)).await;
                    }
                }
                None if owner.phase().may_have_container() => self.look(*task, owner.clone(), None),
                None => {}
            }
        }
        held.loose = Some(loose);
        self.sweep.notify_one();
    }

    async fn event(&self, held: &mut Held, event: Event) {
        let Some(owner) = held.owners.get(&event.task) else {
            if let Some(loose) = &mut held.loose {
                match event.kind {
                    EventKind::Removed => _ = loose.remove(&event.task),
                    EventKind::Died { code } => {
                        if let Some(container) = loose.get_mut(&event.task) {
                            container.condition = Condition::Exited(Exit { code, ..Exit::default() });
                        }
                    }
                    EventKind::OutOfMemory | EventKind::Healthy | EventKind::Unhealthy => {}
                }
            }
            return;
        };
        match event.kind {
            EventKind::Healthy => owner.tell(Told::event(Step::Healthy)).await,
            EventKind::Removed => owner.tell(vanished()).await,
            EventKind::Died { code } if code != KILLED || owner.phase().is_ending() => {
                let Some(item) = self.item(event.task) else { return };
                owner.tell(Told::exited(&Exit { code, ..Exit::default() }, &item)).await;
            }
            // A later wait for it finds it.
            EventKind::OutOfMemory => held.out_of_memory.entry(event.task).or_default().notify_one(),
            EventKind::Died { .. } => {
                let word = Arc::clone(held.out_of_memory.entry(event.task).or_default());
                self.look(event.task, owner.clone(), Some(word));
            }
            EventKind::Unhealthy => self.look(event.task, owner.clone(), None),
        }
    }

    /// Looks closer at a task's container, beside the loop, and tells its owner. One that was killed, and may have been for
    /// its memory, has until [`LATE`] for the engine's word on that.
    fn look(&self, task: TaskId, owner: Owner, out_of_memory: Option<Arc<Notify>>) {
        let Some(item) = self.item(task) else { return };
        let launcher = self.shared.launcher.clone();
        let look = async move {
            let name = item.container_name();
            match launcher.answered(|| launcher.engine.inspect(&name)).await {
                Ok(Some(mut condition)) => {
                    if let (Condition::Exited(exit), Some(word)) = (&mut condition, out_of_memory)
                        && exit.code == KILLED
                        && !exit.out_of_memory
                        && item.resources.limits.memory.is_some()
                    {
                        exit.out_of_memory = timeout(LATE, word.notified()).await.is_ok();
                    }
                    if let Some(told) = seen(&condition, Some(&item)) {
                        owner.tell(told).await;
                    }
                }
                Ok(None) => owner.tell(vanished()).await,
                Err(error) => tracing::warn!(%task, %error, "container cannot be looked at"),
            }
        };
        self.shared.tracker.spawn(self.shared.stop.clone().run_until_cancelled_owned(look));
    }

    /// Brings the owners to what the view says.
    async fn reconcile(&self, held: &mut Held) {
        let Held {
            owners,
            stopped,
            loose: Some(loose),
            waited,
            may_start,
            networks: swept,
            out_of_memory: _,
        } = held
        else {
            return;
        };
        let fresh = *self.fresh.borrow();
        let view = self.view.borrow().clone();
        let may_start_before = std::mem::replace(may_start, *waited || fresh);
        for item in view.tasks() {
            let Some(owner) = owners.get(&item.task) else {
                let owner = self.take(item, loose.remove(&item.task), *may_start);
                owners.insert(item.task, owner);
                if item.goal == Goal::Stop {
                    stopped.insert(item.task);
                }
                continue;
            };
            if item.goal == Goal::Stop && stopped.insert(item.task) {
                owner.tell(Told::event(Step::Stop)).await;
            } else if item.goal == Goal::Run && *may_start && !may_start_before {
                owner.tell(Told::event(Step::Go)).await;
            }
        }
        if !fresh {
            return;
        }
        for (task, owner) in owners.iter() {
            let known = view.items.contains_key(&raftup_proto::view::Key::Task(*task));
            if !known && !matches!(owner.phase(), Phase::Removing(_) | Phase::Gone(_)) {
                owner.tell(Told::event(Step::Forget)).await;
            }
        }
        for (task, container) in std::mem::take(loose) {
            self.remove(task, container);
        }
        let networks: BTreeSet<_> = view.networks().map(|item| item.network).collect();
        if networks != *swept {
            *swept = networks;
            self.sweep.notify_one();
        }
    }

    /// Starts the owner of a task, with its container if there is one.
    fn take(&self, item: &TaskItem, found: Option<Container>, may_start: bool) -> Owner {
        let last = self.shared.reports.get(item.task).map(|status| status.state);
        let condition = found.as_ref().map(|container| &container.condition);
        let (phase, events) = begin(condition, last, item.goal);
        let mut first: Vec<_> = found.iter().map(|container| Told::found(container.id.clone())).collect();
        first.extend(events.into_iter().map(|event| match (event, condition) {
            (Step::Exited { .. }, Some(Condition::Exited(exit))) => Told::exited(exit, item),
            (Step::Unhealthy, Some(Condition::Running(Health::Unhealthy { output }))) => {
                Told::event(event).because(unhealthy(output))
            }
            (Step::Vanished, _) => vanished(),
            (event, _) => Told::event(event),
        }));
        if may_start && phase == Phase::Accepted && item.goal == Goal::Run {
            first.push(Told::event(Step::Go));
        }
        Owner::spawn(&self.shared, Job::of(item), phase, first)
    }

    /// Removes a container whose task the cluster does not have any more.
    fn remove(&self, task: TaskId, container: Container) {
        tracing::info!(%task, container = container.id, "container of no task is removed");
        let (launcher, sweep) = (self.shared.launcher.clone(), self.sweep.clone());
        self.shared.reports.forget(task);
        let removal = async move {
            let running = matches!(container.condition, Condition::Running(_));
            launcher.remove(task, &container.id, running.then_some(STOP_GRACE)).await;
            sweep.notify_one();
        };
        self.shared.tracker.spawn(self.shared.quit.clone().run_until_cancelled_owned(removal));
    }

    fn item(&self, task: TaskId) -> Option<TaskItem> {
        self.view.borrow().tasks().find(|item| item.task == task).cloned()
    }
}

const GONE: &str = "its container is gone";

fn vanished() -> Told {
    Told::event(Step::Vanished).because(GONE.to_owned())
}

fn unhealthy(output: &str) -> String {
    if output.is_empty() { "unhealthy".to_owned() } else { format!("unhealthy: {output}") }
}

/// What a container's owner is told of how it was found; nothing if that says nothing new.
fn seen(condition: &Condition, item: Option<&TaskItem>) -> Option<Told> {
    match condition {
        Condition::Created | Condition::Running(Health::Unchecked | Health::Starting) => None,
        Condition::Running(Health::Healthy) => Some(Told::event(Step::Healthy)),
        Condition::Running(Health::Unhealthy { output }) => {
            Some(Told::event(Step::Unhealthy).because(unhealthy(output)))
        }
        Condition::Exited(exit) => item.map(|item| Told::exited(exit, item)),
    }
}
