//! How each step of a task is done on the engine.
//!
//! Owns: how many containers are made and started at a time, and trying again. Leaves alone: which step comes when
//! (`task`). Holds: while the engine does not answer nothing is decided; a step that was cut off is looked at before
//! it is repeated, so that no container is started twice.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use raftup_proto::{
    id::{ClusterId, NodeId, TaskId},
    spec::{Healthcheck, MountSource, PullPolicy},
    view::{Item, Key, NetworkItem, TaskItem, View},
};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    files::Files,
    hooks::Outcome,
    images::{How, Images},
    networks::Networks,
    owner::Told,
    task::{Effect, Event},
};
use crate::{
    engine::{Attachment, Condition, ContainerSettings, Engine, EngineError},
    mesh::forget_ended,
};

/// Containers made at a time for each core, and as many started. Engines do part of it one by one: measured, more are no
/// faster (20.10 on two cores: 15 s, 9.4 s, 7.3 s, 7.7 s, 8.1 s for 20 containers, 1, 2, 4, 8, 20 at a time), and
/// they stand in the way of a stop.
const TURNS_PER_CORE: usize = 2;
const TURNS_MOST: usize = 16;
/// First and longest wait before something is tried again.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// What was led to a task by the routes of before may be on its way for so long: over a busy link, in the queue of a busy
/// host, or behind a first packet that was lost. Many servers refuse what comes after they were told to stop.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// That a task is unhealthy reaches the routes of all nodes within this, on a busy cluster as well. Until then it may as
/// well serve.
const SPREADS: Duration = Duration::from_secs(2);
/// A task says what it waits for after this.
const PATIENCE: Duration = Duration::from_millis(500);

/// Does the steps of all tasks of a node.
pub(super) struct Launcher {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) images: Images,
    pub(super) networks: Networks,
    pub(super) files: Files,
    pub(super) view: watch::Receiver<Arc<View>>,
    /// The engine answers.
    pub(super) up: watch::Receiver<bool>,
    creates: Semaphore,
    starts: Semaphore,
}

/// A task of this node as its steps need it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) task: TaskId,
    /// The container's name.
    pub(super) name: String,
    pub(super) grace: Duration,
    pub(super) item: TaskItem,
}

impl Job {
    pub(super) fn of(item: &TaskItem) -> Self {
        Self {
            task: item.task,
            name: item.container_name(),
            grace: item.container.stop_grace(),
            item: item.clone(),
        }
    }
}

impl Launcher {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        (cluster, node): (ClusterId, NodeId),
        (images, networks, files): (Images, Networks, Files),
        view: watch::Receiver<Arc<View>>,
        up: watch::Receiver<bool>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = (cores * TURNS_PER_CORE).clamp(TURNS_PER_CORE, TURNS_MOST);
        let (creates, starts) = (Semaphore::new(turns), Semaphore::new(turns));
        Self { engine, cluster, node, images, networks, files, view, up, creates, starts }
    }

    /// Does one step. None if it was cancelled before it had changed anything; what has begun is ended first.
    pub(super) async fn perform(
        &self,
        (job, container): (&Job, &str),
        effect: Effect,
        cancel: &CancellationToken,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Option<Told> {
        match effect {
            Effect::Prepare => cancel.run_until_cancelled(self.prepare(job, say)).await,
            Effect::Create => {
                let _turn = cancel.run_until_cancelled(self.creates.acquire()).await?;
                Some(self.create(job, say).await)
            }
            Effect::Start => {
                let turn = cancel.run_until_cancelled(self.starts.acquire()).await?;
                // The host may have been started anew since it was made.
                if let Err(why) = cancel.run_until_cancelled(self.files(job)).await? {
                    return Some(Told::event(Event::Impossible).because(why));
                }
                let started = self.start(job, container).await;
                if job.item.container.post_start.is_empty() || !started.is_start() {
                    return Some(started);
                }
                drop(turn);
                match cancel.run_until_cancelled(self.post_start(job, container, say)).await? {
                    Outcome::Done => Some(started),
                    // Its end is told by the engine.
                    Outcome::Dead => None,
                    Outcome::Failed(why) => Some(Told::event(Event::Unhealthy).because(why)),
                }
            }
            Effect::Stop { served, sudden } => {
                if served && !job.item.networks.is_empty() {
                    for (_, address) in &job.item.networks {
                        forget_ended(*address).await;
                    }
                    let wait = if sudden { SPREADS + UNDER_WAY } else { UNDER_WAY };
                    cancel.run_until_cancelled(sleep(wait)).await?;
                }
                Some(self.stop(job, container).await)
            }
            Effect::Remove { running } => {
                if running {
                    self.stop(job, container).await;
                }
                self.remove(job.task, container, None).await;
                Some(Told::event(Event::Removed))
            }
        }
    }

    async fn stop(&self, job: &Job, container: &str) -> Told {
        let (left, said) = self.pre_stop(job, container).await;
        self.insist("stop", job.task, || self.engine.stop(container, job.grace, left)).await;
        let told = Told::event(Event::Stopped);
        match said {
            Some(why) => told.because(why),
            None => told,
        }
    }

    /// Stops a container that should not run, whoever started it.
    pub(super) async fn halt(&self, task: TaskId, container: &str, grace: Duration) {
        self.insist("stop", task, || self.engine.stop(container, grace, None)).await;
    }

    /// Lets a container go on that somebody has paused.
    pub(super) async fn unpause(&self, task: TaskId, container: &str) {
        self.insist("unpause", task, || self.engine.unpause(container)).await;
    }

    /// The networks of a task that its container is not on any more, by name.
    pub(super) async fn left_networks(&self, item: &TaskItem, container: &str) -> Vec<String> {
        let Ok(Some(on)) = self.answered(|| self.engine.networks_of(container)).await else {
            return Vec::new();
        };
        self.missing(item, &on)
    }

    /// The networks of a task that are not among `on`, by name; those that the engine has no id for yet do not count.
    pub(super) fn missing(&self, item: &TaskItem, on: &BTreeSet<String>) -> Vec<String> {
        let view = self.view.borrow().clone();
        let gone = item.networks.iter().filter(|(id, _)| {
            let known = self.networks.known(*id);
            known.is_some_and(|known| !on.contains(&known))
        });
        let name = |id| match view.get(Key::Network(id)) {
            Some(Item::Network(network)) => network.engine_name(),
            _ => id.to_string(),
        };
        gone.map(|(id, _)| name(*id)).collect()
    }

    /// Removes a container, after a stop within the time given, if any.
    pub(super) async fn remove(&self, task: TaskId, container: &str, grace: Option<Duration>) {
        if let Some(grace) = grace {
            self.insist("stop", task, || self.engine.stop(container, grace, None)).await;
        }
        self.insist("remove", task, || self.engine.remove(container)).await;
        self.files.forget(task);
    }

    /// The files of the task's secrets and configs.
    async fn files(&self, job: &Job) -> Result<(), String> {
        if job.item.container.blobs().next().is_none() {
            return Ok(());
        }
        let root = match job.item.container.namespaces.user.as_deref() {
            Some("host") => (0, 0),
            Some(_) | None => {
                self.answered(|| self.engine.root()).await.map_err(|error| format!("{error}"))?
            }
        };
        self.files.ensure(&job.item, root).await
    }

    async fn prepare(&self, job: &Job, say: &(dyn Fn(String) + Send + Sync)) -> Told {
        let image = &job.item.image;
        // One that is named by its digest is what it was.
        if job.item.container.pull_policy == PullPolicy::Always && !image.contains('@') {
            let pull = self.answered(|| self.images.renew(image, job.task, how(job)));
            if let Err(error) = slowly(pull, || say(format!("image `{image}` is pulled"))).await {
                let why = format!("image `{image}` cannot be pulled: {error}");
                return Told::event(Event::Impossible).because(why);
            }
        }
        match self.needs(job, say).await {
            Ok(_) => Told::event(Event::Prepared),
            Err(why) => Told::event(Event::Impossible).because(why),
        }
    }

    /// Whether the image brings a check along, and the networks. Files of secrets and configs are there then.
    async fn needs(
        &self,
        job: &Job,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(bool, Vec<Attachment>), String> {
        let image = &job.item.image;
        let mounted = job.item.container.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Image { image } => Some(image),
            MountSource::Volume { .. }
            | MountSource::Anonymous
            | MountSource::Bind { .. }
            | MountSource::Tmpfs { .. } => None,
        });
        let mounted: Vec<&String> = mounted.collect();
        let pull = async {
            let mut checked = false;
            for (image, main) in
                std::iter::once((image, true)).chain(mounted.into_iter().map(|image| (image, false)))
            {
                let how = if main { how(job) } else { How::default() };
                let look = self.answered(|| self.images.ensure(image, job.task, how));
                let found = slowly(look, || say(format!("image `{image}` is pulled"))).await;
                let found = found.map_err(|error| format!("image `{image}` cannot be pulled: {error}"))?;
                checked |= main && found.checked;
            }
            Ok(checked)
        };
        let networks = async {
            let mut attachments = Vec::new();
            let mut options = job.item.container.endpoints.iter();
            for (id, address) in &job.item.networks {
                let options = options.next().cloned().unwrap_or_default();
                let wait = async {
                    let item = self.network(Key::Network(*id)).await;
                    self.answered(|| self.networks.ensure(&item))
                        .await
                        .map_err(|error| format!("network `{}` cannot be made: {error}", item.engine_name()))
                };
                let network = slowly(wait, || say(format!("network {id} is not there yet"))).await?;
                attachments.push(Attachment { network, address: *address, options });
            }
            Ok(attachments)
        };
        let files = async {
            let waits = || say("a secret or config has not come from the leader yet".to_owned());
            slowly(self.files(job), waits).await
        };
        let (checked, networks, ()) = tokio::try_join!(pull, networks, files)?;
        Ok((checked, networks))
    }

    /// A network, once the view has it.
    async fn network(&self, key: Key) -> NetworkItem {
        let mut view = self.view.clone();
        loop {
            if let Some(Item::Network(item)) = view.borrow_and_update().get(key) {
                return item.clone();
            }
            if view.changed().await.is_err() {
                // The agent ends, and this step with it.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn create(&self, job: &Job, say: &(dyn Fn(String) + Send + Sync)) -> Told {
        let failed = |why| Told::event(Event::Impossible).because(why);
        let mut again = true;
        loop {
            let networks = match self.needs(job, say).await {
                Ok((_, networks)) => networks,
                Err(why) => return failed(why),
            };
            let primary = job.item.networks.first().map(|(id, _)| Key::Network(*id));
            let gateway = match primary {
                Some(key) => Some(self.network(key).await.gateway()),
                None => None,
            };
            let mut settings = ContainerSettings::of(self.cluster, self.node, &job.item, networks, gateway);
            settings.spec.mounts.extend(self.files.mounts(&job.item));
            match self.answered(|| self.engine.create(&settings)).await {
                Ok(id) => return Told::event(Event::Created).container(id),
                // The image or a network was removed since it was last seen.
                Err(EngineError::NotFound { .. }) if std::mem::take(&mut again) => {
                    self.images.forget(&job.item.image);
                    job.item.networks.iter().for_each(|(id, _)| self.networks.forget(*id));
                }
                Err(error) => return failed(format!("container cannot be made: {error}")),
            }
        }
    }

    async fn start(&self, job: &Job, container: &str) -> Told {
        let mut wait = Backoff::default();
        loop {
            match self.engine.start(container).await {
                Ok(()) => return self.started(job).await,
                Err(error) if error.is_down() => {}
                Err(error) => {
                    let why = format!("container cannot be started: {error}");
                    return Told::event(Event::Impossible).because(why);
                }
            }
            self.back(&mut wait).await;
            match self.answered(|| self.engine.inspect(container)).await {
                Ok(Some(Condition::Exited(exit))) => return Told::exited(&exit, &job.item),
                Ok(Some(Condition::Running(_))) => return self.started(job).await,
                Ok(Some(Condition::Created) | None) | Err(_) => {}
            }
        }
    }

    async fn started(&self, job: &Job) -> Told {
        let checked = match &job.item.container.healthcheck {
            Some(Healthcheck::Disabled) => false,
            Some(Healthcheck::Check { test: Some(_), .. }) => true,
            Some(Healthcheck::Check { test: None, .. }) | None => {
                let look = || self.images.ensure(&job.item.image, job.task, how(job));
                let image = self.answered(look).await;
                image.is_ok_and(|image| image.checked)
            }
        };
        Told::event(Event::Started { checked })
    }

    /// The engine's answer, however long it stays away.
    pub(super) async fn answered<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let mut wait = Backoff::default();
        loop {
            match call().await {
                Err(error) if error.is_down() => self.back(&mut wait).await,
                answer => return answer,
            }
        }
    }

    /// Calls until it is done: what cannot be stopped or removed now can be later.
    async fn insist<F>(&self, what: &str, task: TaskId, mut call: impl FnMut() -> F)
    where
        F: Future<Output = Result<(), EngineError>>,
    {
        let mut wait = Backoff::default();
        while let Err(error) = call().await {
            if !error.is_down() {
                tracing::warn!(%task, what, %error, "the engine refuses, trying again");
            }
            self.back(&mut wait).await;
        }
    }

    async fn back(&self, wait: &mut Backoff) {
        sleep(wait.next()).await;
        // An error means that the agent ends, and this step with it.
        let _ = self.up.clone().wait_for(|up| *up).await;
    }
}

/// Which image a task wants, and when it is pulled.
fn how(job: &Job) -> How<'_> {
    let container = &job.item.container;
    How { platform: container.platform.as_deref(), policy: container.pull_policy }
}

/// Waits between tries.
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(RETRY)
    }
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = now.saturating_mul(2).min(RETRY_MOST);
        now
    }
}

/// The outcome of `work`; `late` is called once if it takes a while.
async fn slowly<T>(work: impl Future<Output = T>, late: impl FnOnce()) -> T {
    let mut work = std::pin::pin!(work);
    // Cancel-safe: the work is only borrowed.
    tokio::select! {
        done = &mut work => return done,
        () = sleep(PATIENCE) => late(),
    }
    work.await
}
