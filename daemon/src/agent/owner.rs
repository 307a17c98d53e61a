//! The one owner of a container: waits for events, has steps done beside itself, reports.
//!
//! Holds: the phase changes nowhere else; a stop is heard while a pull or a start is under way.

use std::sync::Arc;

use raftup_proto::{id::TaskId, peer::TaskStatus, view::TaskItem};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    launch::{Job, Launcher},
    now,
    report::Reports,
    task::{Effect, End, Event, Phase, step},
};
use crate::engine::Exit;

/// Events that wait for an owner; it is never busy for long, so more would mean that it is stuck.
const INBOX: usize = 64;

/// What an owner is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    event: Option<Event>,
    message: Option<String>,
    container: Option<String>,
    exit_code: Option<i64>,
}

impl Told {
    pub(super) fn event(event: Event) -> Self {
        Self { event: Some(event), ..Self::default() }
    }

    /// How a container ended.
    pub(super) fn exited(exit: &Exit, item: &TaskItem) -> Self {
        if exit.with_engine {
            let message = Some("ended because Docker Engine or the host was stopped".to_owned());
            return Self { event: Some(Event::Lost), message, container: None, exit_code: Some(exit.code) };
        }
        let limit = item.resources.limits.memory;
        let message = match (exit.out_of_memory, limit, exit.code) {
            (true, Some(limit), _) => Some(format!("killed: it used up its {limit} of memory")),
            (true, None, _) => Some("killed: the host was out of memory".to_owned()),
            (false, _, _) if !exit.error.is_empty() => Some(exit.error.clone()),
            (false, _, 0) => None,
            (false, _, 137) => Some("killed (exit status 137)".to_owned()),
            (false, _, code) => Some(format!("exit status {code}")),
        };
        let event = Some(Event::Exited { success: exit.code == 0 && !exit.out_of_memory });
        Self { event, message, container: None, exit_code: Some(exit.code) }
    }

    /// Its container ended because somebody stopped or killed it with the engine's own means: no end of its own, whatever
    /// its exit status.
    pub(super) fn stopped_by_hand(code: i64) -> Self {
        let message = format!("somebody stopped its container by hand (exit status {code})");
        let event = Some(Event::Exited { success: false });
        Self { event, message: Some(message), container: None, exit_code: Some(code) }
    }

    /// Its container was started.
    pub(super) fn is_start(&self) -> bool {
        matches!(self.event, Some(Event::Started { .. }))
    }

    /// Its container, found as it was expected.
    pub(super) fn found(id: String) -> Self {
        Self { container: Some(id), ..Self::default() }
    }

    /// A word on what is waited for.
    fn note(message: String) -> Self {
        Self { message: Some(message), ..Self::default() }
    }

    pub(super) fn because(mut self, message: String) -> Self {
        self.message = Some(message);
        self
    }

    pub(super) fn container(mut self, id: String) -> Self {
        self.container = Some(id);
        self
    }
}

/// Handle of an owner. Dropping all of them ends it; its container stays.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    inbox: mpsc::Sender<Told>,
    phase: watch::Receiver<Phase>,
}

/// What all owners share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) launcher: Arc<Launcher>,
    pub(super) reports: Arc<Reports>,
    /// Told each task of which nothing is left.
    pub(super) gone: mpsc::Sender<TaskId>,
    pub(super) tracker: TaskTracker,
    /// Ends all owners, and steps that have not begun.
    pub(super) stop: CancellationToken,
    /// Breaks off steps that have begun.
    pub(super) quit: CancellationToken,
}

impl Owner {
    /// Starts an owner in `phase` that hears `first` first.
    pub(super) fn spawn(shared: &Shared, job: Job, phase: Phase, first: Vec<Told>) -> Self {
        let (inbox, heard) = mpsc::channel(INBOX);
        let (phase, phase_now) = watch::channel(phase);
        let status = shared.reports.get(job.task);
        let run = Run {
            shared: shared.clone(),
            job: Arc::new(job),
            phase,
            status,
            // Weak: notes of a step must not keep the owner alive.
            inbox: inbox.downgrade(),
            work: None,
            healthy: false,
        };
        shared.tracker.spawn(run.run(heard, first));
        Self { inbox, phase: phase_now }
    }

    /// Tells it something. An owner that has ended needs to hear nothing.
    pub(super) async fn tell(&self, told: Told) {
        let _ = self.inbox.send(told).await;
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

struct Run {
    shared: Shared,
    job: Arc<Job>,
    phase: watch::Sender<Phase>,
    /// What was last reported.
    status: Option<TaskStatus>,
    inbox: mpsc::WeakSender<Told>,
    work: Option<Work>,
    /// The health check passed while hooks of the start were still run.
    healthy: bool,
}

/// A step under way.
struct Work {
    cancel: CancellationToken,
    handle: JoinHandle<Option<Told>>,
}

impl Run {
    async fn run(mut self, mut inbox: mpsc::Receiver<Told>, first: Vec<Told>) {
        self.let_go(*self.phase.borrow());
        if first.is_empty() {
            let phase = *self.phase.borrow();
            self.report(phase, Told::default());
        }
        let mut first = first.into_iter();
        loop {
            let told = match first.next() {
                Some(told) => told,
                // Cancel-safe: a message stays in its queue, a step goes on beside us.
                None => tokio::select! {
                    told = inbox.recv() => match told {
                        Some(told) => told,
                        None => return,
                    },
                    told = finished(&mut self.work) => told,
                    () = self.shared.stop.cancelled() => return,
                },
            };
            self.hear(told);
            if let Phase::Gone(_) = *self.phase.borrow() {
                break;
            }
        }
        let _ = self.shared.gone.send(self.job.task).await;
    }

    fn hear(&mut self, mut told: Told) {
        let before = *self.phase.borrow();
        // The start is not over before its hooks are.
        let hooks = self.work.is_some() && !self.job.item.container.post_start.is_empty();
        match told.event {
            Some(Event::Healthy) if hooks && before == Phase::Starting => {
                self.healthy = true;
                told.event = None;
            }
            Some(Event::Started { checked: true }) if self.healthy => told.event = Some(Event::Healthy),
            _ => {}
        }
        let (to, effect) = match told.event {
            Some(event) => step(before, event),
            None => (before, None),
        };
        if to != before {
            tracing::debug!(task = %self.job.task, event = ?told.event, phase = ?to, "task moves");
        }
        self.phase.send_replace(to);
        self.let_go(to);
        let container = told.container.clone();
        let container =
            container.or_else(|| self.status.as_ref().and_then(|status| status.container.clone()));
        match effect {
            Some(effect) => self.begin(effect, container),
            None if matches!(to, Phase::Over(_)) => self.cancel(),
            None => {}
        }
        self.report(before, told);
    }

    /// Drops the files of a task that will not run any more.
    fn let_go(&self, phase: Phase) {
        if matches!(phase, Phase::Over(_) | Phase::Gone(_))
            && self.job.item.container.blobs().next().is_some()
        {
            self.shared.launcher.files.forget(self.job.task);
        }
    }

    /// Begins a step, on `container` where it is known: somebody may have given it another name. A step that is under way is
    /// cancelled where that leaves nothing half done, else waited for.
    fn begin(&mut self, effect: Effect, container: Option<String>) {
        self.cancel();
        let before = self.work.take();
        let cancel = self.shared.stop.child_token();
        let (launcher, job) = (self.shared.launcher.clone(), self.job.clone());
        let (inbox, token) = (self.inbox.clone(), cancel.clone());
        let work = async move {
            if let Some(before) = before {
                // Whatever came of it, this step sees it on the engine.
                let _ = before.handle.await;
            }
            let say = move |message| {
                if let Some(inbox) = inbox.upgrade() {
                    // A word that does not fit in is no loss.
                    let _ = inbox.try_send(Told::note(message));
                }
            };
            let container = container.unwrap_or_else(|| job.name.clone());
            launcher.perform((&job, &container), effect, &token, &say).await
        };
        let quit = self.shared.quit.clone();
        let handle =
            self.shared.tracker.spawn(async move { quit.run_until_cancelled_owned(work).await.flatten() });
        self.work = Some(Work { cancel, handle });
    }

    fn cancel(&self) {
        if let Some(work) = &self.work {
            work.cancel.cancel();
        }
    }

    /// Reports what is new since `before`.
    fn report(&mut self, before: Phase, told: Told) {
        let phase = *self.phase.borrow();
        let mut status = self.status.clone();
        if let Some(state) = phase.state() {
            // A daemon that was restarted may be behind what it had reported.
            let same = status.as_ref().is_some_and(|status| status.state >= state);
            if !same {
                let old = status.take();
                let mut new = TaskStatus::new(state, now());
                // What ends for a reason was told the reason before.
                if let Some(old) = old {
                    new.container = old.container;
                    new.exit_code = old.exit_code;
                    new.message = old.message.filter(|_| before == Phase::Stopping(End::Failed));
                }
                status = Some(new);
            }
        }
        let Some(status) = &mut status else { return };
        // What is said of a stop that was done stands beside no other reason.
        let stopped = told.event == Some(Event::Stopped) && status.message.is_none();
        if told.message.is_some() && (stopped || !before.is_ending()) && told.event != Some(Event::Stop) {
            status.message = told.message;
        }
        status.container = told.container.or(status.container.take());
        status.exit_code = told.exit_code.or(status.exit_code);
        self.shared.reports.set(self.job.task, status.clone());
        self.status = Some(status.clone());
    }
}

/// What a step ended with; never, while there is none or it was cancelled.
async fn finished(work: &mut Option<Work>) -> Told {
    if let Some(under_way) = work {
        let told = (&mut under_way.handle).await;
        *work = None;
        match told {
            Ok(Some(told)) => return told,
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "a step of a task broke off"),
        }
    }
    std::future::pending().await
}
