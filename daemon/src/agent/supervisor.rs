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
    peer::{TaskStatus, UNHEALTHY},
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
    task::{Event as Step, Phase, begin, with_hooks},
};
use crate::engine::{Condition, Container, Event, EventKind, Exit, Health};

/// A view from disk may be old: tasks that were never started wait so long for a manager to say otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// Exit status of what was killed; whether for memory, only a closer look says.
const KILLED: i64 = 137;
/// Signals that programs take for messages (`HUP`, `USR1`, `USR2`, `WINCH`), unless one is to stop them.
const MESSAGES: [i32; 4] = [1, 10, 12, 28];
/// What an engine may add to a grace period.
const MARGIN: Duration = Duration::from_secs(5);
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
    /// Tasks whose containers were sent a signal that ends most programs, not by us, and when.
    signalled: BTreeMap<TaskId, Instant>,
    /// Told when the engine says that a task has used up its memory.
    out_of_memory: BTreeMap<TaskId, Arc<Notify>>,
    /// No manager came in time; the view that is there has to do.
    waited: bool,
    /// Tasks that were not started yet were told that they may.
    may_start: bool,
    /// Files of tasks that an earlier process left, and that are gone since, were removed.
    files_swept: bool,
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
                        held.signalled.remove(&task);
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
        let mut loose: BTreeMap<TaskId, Container> = BTreeMap::new();
        for container in list {
            let known = self.shared.reports.get(container.task).and_then(|status| status.container);
            let stranger = match loose.get(&container.task) {
                _ if known.as_ref().is_some_and(|known| *known != container.id) => Some(container),
                Some(_) if known.is_none() => Some(container),
                Some(_) | None => loose.insert(container.task, container),
            };
            if let Some(stranger) = stranger.filter(|stranger| runs(&stranger.condition)) {
                self.halt(stranger.task, stranger.id, "a second container of a task is stopped");
            }
        }
        for (task, owner) in &held.owners {
            match loose.remove(task) {
                Some(container) => {
                    let item = self.item(*task);
                    if runs(&container.condition) {
                        self.check(&container, owner, item.as_ref()).await;
                    }
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
        let Some(task) = event.task.or_else(|| self.task_of(&event.container)) else { return };
        let Some(owner) = held.owners.get(&task) else {
            if let Some(loose) = &mut held.loose {
                match event.kind {
                    EventKind::Removed => _ = loose.remove(&task),
                    EventKind::Died { code } => {
                        if let Some(container) = loose.get_mut(&task) {
                            container.condition = Condition::Exited(Exit { code, ..Exit::default() });
                        }
                    }
                    EventKind::Started
                    | EventKind::Signalled { .. }
                    | EventKind::Paused
                    | EventKind::Detached
                    | EventKind::OutOfMemory
                    | EventKind::Healthy
                    | EventKind::Unhealthy => {}
                }
            }
            return;
        };
        let known = self.shared.reports.get(task).and_then(|status| status.container);
        if known.is_some_and(|known| known != event.container) {
            // Another one with the labels of the task: copied by somebody, or by a program that renews containers.
            if event.kind == EventKind::Started {
                self.halt(task, event.container, "a second container of a task is stopped");
            }
            return;
        }
        let phase = owner.phase();
        match event.kind {
            EventKind::Started if matches!(phase, Phase::Over(_)) => {
                self.halt(
                    task,
                    event.container,
                    "a container whose task has ended was started again; it is stopped",
                );
            }
            EventKind::Signalled { signal } => {
                let ends = !MESSAGES.contains(&signal) || self.is_stop_signal(task, signal);
                if ends && !phase.is_ending() {
                    held.signalled.insert(task, Instant::now());
                }
            }
            EventKind::Paused if !phase.is_ending() => self.unpause(task, event.container),
            EventKind::Detached if phase == Phase::Running => {
                self.look_at_networks(task, event.container, owner.clone());
            }
            EventKind::Started | EventKind::Paused | EventKind::Detached => {}
            EventKind::Died { code } if self.by_hand(held.signalled.remove(&task), task, phase) => {
                self.ask_who_stopped(code, task, owner.clone());
            }
            EventKind::Healthy => owner.tell(Told::event(Step::Healthy)).await,
            EventKind::Removed => owner.tell(vanished()).await,
            EventKind::Died { code } if code != KILLED || phase.is_ending() => {
                let Some(item) = self.item(task) else { return };
                owner.tell(Told::exited(&Exit { code, ..Exit::default() }, &item)).await;
            }
            // A later wait for it finds it.
            EventKind::OutOfMemory => held.out_of_memory.entry(task).or_default().notify_one(),
            EventKind::Died { .. } => {
                let word = Arc::clone(held.out_of_memory.entry(task).or_default());
                self.look(task, owner.clone(), Some(word));
            }
            EventKind::Unhealthy => self.look(task, owner.clone(), None),
        }
    }

    /// What else may be wrong with a task's container that runs: it should not, or somebody has changed it.
    async fn check(&self, container: &Container, owner: &Owner, item: Option<&TaskItem>) {
        let phase = owner.phase();
        if matches!(phase, Phase::Over(_)) {
            let what = "a container whose task has ended runs; it is stopped";
            return self.halt(container.task, container.id.clone(), what);
        }
        if container.paused && !phase.is_ending() {
            self.unpause(container.task, container.id.clone());
        }
        let Some(item) = item.filter(|_| phase == Phase::Running) else { return };
        // The list may be older than the container's networks: what seems wrong is looked at again.
        if !self.shared.launcher.missing(item, &container.networks).is_empty() {
            self.look_at_networks(container.task, container.id.clone(), owner.clone());
        }
    }

    /// Stops a container that should not run, beside the loop.
    fn halt(&self, task: TaskId, container: String, what: &'static str) {
        tracing::warn!(%task, container, "{what}");
        let grace = self.item(task).map_or(STOP_GRACE, |item| item.container.stop_grace());
        let launcher = self.shared.launcher.clone();
        let halt = async move { launcher.halt(task, &container, grace).await };
        self.shared.tracker.spawn(self.shared.stop.clone().run_until_cancelled_owned(halt));
    }

    /// Lets a container go on that somebody has paused: its task should run.
    fn unpause(&self, task: TaskId, container: String) {
        tracing::warn!(%task, container, "somebody paused a container; it goes on");
        let launcher = self.shared.launcher.clone();
        let unpause = async move { launcher.unpause(task, &container).await };
        self.shared.tracker.spawn(self.shared.stop.clone().run_until_cancelled_owned(unpause));
    }

    /// A task whose container somebody took off a network cannot serve there: it has failed.
    fn look_at_networks(&self, task: TaskId, container: String, owner: Owner) {
        let Some(item) = self.item(task) else { return };
        let launcher = self.shared.launcher.clone();
        let look = async move {
            let left = launcher.left_networks(&item, &container).await;
            // One that has ended meanwhile has left all of them.
            let runs = matches!(launcher.engine.inspect(&container).await, Ok(Some(Condition::Running(_))));
            if let Some(network) = left.first().filter(|_| runs) {
                let why = format!("somebody took its container off network `{network}` by hand");
                owner.tell(Told::event(Step::Unhealthy).because(why)).await;
            }
        };
        self.shared.tracker.spawn(self.shared.stop.clone().run_until_cancelled_owned(look));
    }

    /// A container ended after a signal of the engine's: because somebody stopped it, or because the engine stops all.
    fn ask_who_stopped(&self, code: i64, task: TaskId, owner: Owner) {
        let Some(item) = self.item(task) else { return };
        let launcher = self.shared.launcher.clone();
        let ask = async move {
            let told = if launcher.engine.is_stopping().await {
                Told::exited(&Exit { code, with_engine: true, ..Exit::default() }, &item)
            } else {
                Told::stopped_by_hand(code)
            };
            owner.tell(told).await;
        };
        self.shared.tracker.spawn(self.shared.stop.clone().run_until_cancelled_owned(ask));
    }

    /// The task whose container that is, as was reported.
    fn task_of(&self, container: &str) -> Option<TaskId> {
        let all = self.shared.reports.all();
        let of = |status: &TaskStatus| status.container.as_deref() == Some(container);
        all.into_iter().find(|report| of(&report.status)).map(|report| report.task)
    }

    /// It ended within its grace period after somebody else's signal.
    fn by_hand(&self, signalled: Option<Instant>, task: TaskId, phase: Phase) -> bool {
        let grace = self.item(task).map_or(STOP_GRACE, |item| item.container.stop_grace());
        !phase.is_ending() && signalled.is_some_and(|at| at.elapsed() <= grace.max(STOP_GRACE) + MARGIN)
    }

    fn is_stop_signal(&self, task: TaskId, signal: i32) -> bool {
        let wanted = self.item(task).and_then(|item| item.container.stop_signal);
        let names = [(1, "HUP"), (10, "USR1"), (12, "USR2"), (28, "WINCH")];
        wanted.is_some_and(|wanted| {
            let wanted = wanted.trim_start_matches("SIG").to_owned();
            wanted == signal.to_string() || names.contains(&(signal, &wanted))
        })
    }

    /// Looks closer at a task's container, beside the loop, and tells its owner. One that was killed, and may have been for
    /// its memory, has until [`LATE`] for the engine's word on that.
    fn look(&self, task: TaskId, owner: Owner, out_of_memory: Option<Arc<Notify>>) {
        let Some(item) = self.item(task) else { return };
        let launcher = self.shared.launcher.clone();
        let known = self.shared.reports.get(task).and_then(|status| status.container);
        let look = async move {
            let name = known.unwrap_or_else(|| item.container_name());
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
            signalled: _,
            out_of_memory: _,
            files_swept,
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
        if !std::mem::replace(files_swept, true) {
            let tasks = owners.keys().chain(loose.keys()).copied().collect();
            self.shared.launcher.files.sweep(&tasks);
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
        let (phase, events) = match item.container.post_start.is_empty() {
            true => (phase, events),
            false => with_hooks(phase, events, condition, last),
        };
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

/// It runs, as far as is known.
fn runs(condition: &Condition) -> bool {
    matches!(condition, Condition::Running(_))
}

const GONE: &str = "its container is gone";

fn vanished() -> Told {
    Told::event(Step::Vanished).because(GONE.to_owned())
}

fn unhealthy(output: &str) -> String {
    // One line, as tables have it.
    let output = output.split_whitespace().collect::<Vec<_>>().join(" ");
    if output.is_empty() { UNHEALTHY.to_owned() } else { format!("{UNHEALTHY}: {output}") }
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
