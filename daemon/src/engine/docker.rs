//! The real engine, over its socket.
//!
//! Owns: the connection and its API version. Holds: only few fields of an answer are read and each may be missing,
//! since engines of many years answer here; refusals are told apart by their status alone.

mod ask;
mod named;
mod read;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    API_DEFAULT_VERSION, Docker,
    exec::StartExecResults,
    models::ContainerSummaryStateEnum,
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder,
        InspectContainerOptions, ListContainersOptionsBuilder, ListNetworksOptions, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
    },
};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use raftup_proto::{api::Credential, id::ClusterId, peer::Platform, spec::Hook, unit::UnixMillis};

use super::{
    Condition, Container, ContainerSettings, Engine, EngineError, Event, Image, LogOptions, LogPart, Network,
    NetworkSettings, Ran, STOPPING, Setup, labels, version::Version,
};

/// Most time until a call is answered, but for those that wait for something to happen.
const CALL: Duration = Duration::from_secs(120);
/// Most time until a ping is answered.
const PING: Duration = Duration::from_secs(10);
/// Added to a container's grace period before a stop counts as unanswered.
const STOP_MARGIN: Duration = Duration::from_secs(60);

/// An engine on this host. Cheap to clone; connects when it is first used, and anew once the engine went away.
#[derive(Clone, Debug)]
pub struct DockerEngine {
    socket: PathBuf,
    client: Arc<Mutex<Option<Docker>>>,
}

impl DockerEngine {
    /// The engine behind `socket`. It need not be there yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), client: Arc::default() }
    }

    /// A client that speaks a version of the API that the engine knows.
    pub(super) async fn client(&self) -> Result<Docker, EngineError> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let path = self.socket.display().to_string();
        let client = Docker::connect_with_unix(&path, CALL.as_secs(), API_DEFAULT_VERSION)?;
        let client = client.negotiate_version().await?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// The engine's version now; none if it names no number. Asked each time, as it may have been upgraded.
    async fn version(&self) -> Result<Option<Version>, EngineError> {
        let version = self.client().await?.version().await;
        Ok(self.answer(version)?.version.as_deref().and_then(Version::parse))
    }

    /// Makes a container under a name.
    async fn create_as(
        &self,
        client: &Docker,
        settings: &ContainerSettings,
        name: &str,
    ) -> Result<String, EngineError> {
        let mut options = CreateContainerOptionsBuilder::new().name(name);
        if let Some(platform) = &settings.spec.platform {
            options = options.platform(platform);
        }
        let options = options.build();
        let mut again = true;
        loop {
            let created = client.create_container(Some(options.clone()), ask::container(settings)).await;
            let error = match self.answer(created) {
                Ok(created) => return Ok(created.id),
                // Made before an answer was lost. An older engine complains of other things first, all of them final.
                Err(error @ EngineError::Conflict { .. }) => error,
                Err(error) => return Err(error),
            };
            let inspect = client.inspect_container(name, None::<InspectContainerOptions>).await;
            let found = self.answer(inspect)?;
            let theirs = found.config.and_then(|config| config.labels).unwrap_or_default();
            let same = labels::task(&theirs).map(|task| task.to_string());
            match found.id {
                Some(id) if same.as_ref() == settings.labels.get(labels::TASK) => return Ok(id),
                Some(_) | None => {}
            }
            let cluster = settings.labels.get(labels::CLUSTER).map_or("", String::as_str);
            let chosen = settings.spec.container_name.is_some();
            if !(chosen && std::mem::take(&mut again) && self.take_name(client, name, cluster).await?) {
                return Err(error);
            }
        }
    }

    /// Sees to a volume before a container is made that mounts it.
    async fn volume(&self, client: &Docker, volume: ask::VolumeToMake) -> Result<(), EngineError> {
        let asked = match volume {
            ask::VolumeToMake::Make(asked) => asked,
            ask::VolumeToMake::Find(name) => {
                return match self.answer(client.inspect_volume(&name).await) {
                    Ok(_) => Ok(()),
                    Err(EngineError::NotFound { .. }) => {
                        let message = format!(
                            "the volume `{name}` is not on this node, and as an `external` one nobody else makes it: \
                             `docker volume create {name}`"
                        );
                        Err(EngineError::Refused { message })
                    }
                    Err(error) => Err(error),
                };
            }
        };
        let (name, driver) = (asked.name.clone().unwrap_or_default(), asked.driver.clone());
        let wanted = asked.driver_opts.clone().unwrap_or_default();
        let made = match self.answer(client.create_volume(*asked).await) {
            Ok(made) => made,
            Err(error) if error.is_down() => return Err(error),
            Err(error) => return Err(EngineError::Refused { message: format!("volume `{name}`: {error}") }),
        };
        if made.options != wanted || Some(&made.driver) != driver.as_ref() {
            let message = format!(
                "the volume `{name}` is on this node with another driver or other options than the file says: \
                 `docker volume rm {name}` there, or give it another `name`"
            );
            return Err(EngineError::Refused { message });
        }
        Ok(())
    }

    /// A call about the container of a task's name. One that the engine does not know may have another name there.
    async fn on<T, F>(
        &self,
        client: &Docker,
        task_name: &str,
        call: impl Fn(Docker, String) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        match self.answer(call(client.clone(), task_name.to_owned()).await) {
            Err(error @ EngineError::NotFound { .. }) => match self.by_label(client, task_name).await? {
                Some(id) => self.answer(call(client.clone(), id).await),
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// What to name a container by, whose task has this name.
    async fn id(&self, client: &Docker, task_name: &str) -> Result<String, EngineError> {
        let found = self
            .on(client, task_name, |client, container| async move {
                client.inspect_container(&container, None::<InspectContainerOptions>).await
            })
            .await?;
        Ok(found.id.unwrap_or_else(|| task_name.to_owned()))
    }

    /// The answer to a call. An engine that gave none may come back as another version.
    fn answer<T>(&self, answer: Result<T, bollard::errors::Error>) -> Result<T, EngineError> {
        answer.map_err(EngineError::from).inspect_err(|error| {
            if error.is_down() {
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        })
    }
}

#[async_trait]
impl Engine for DockerEngine {
    async fn info(&self) -> Result<Platform, EngineError> {
        let info = self.client().await?.info().await;
        self.answer(info).map(read::platform)
    }

    async fn setup(&self) -> Result<Setup, EngineError> {
        let info = self.client().await?.info().await;
        self.answer(info).map(read::setup)
    }

    async fn ping(&self) -> Result<(), EngineError> {
        let client = self.client().await?.with_timeout(PING);
        let pong = client.ping().await;
        self.answer(pong).map(drop)
    }

    async fn containers(&self, cluster: ClusterId) -> Result<Vec<Container>, EngineError> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&of_cluster(cluster)).build();
        let listed = self.client().await?.list_containers(Some(options)).await;
        let mut containers = Vec::new();
        for summary in self.answer(listed)? {
            let (Some(id), Some(labels)) = (summary.id.clone(), &summary.labels) else { continue };
            let Some(task) = labels::task(labels) else { continue };
            // The list says little about those that have ended; there are few.
            let condition = match read::listed(&summary) {
                Some(condition) => Some(condition),
                None => self.inspect(&id).await?,
            };
            let paused = summary.state == Some(ContainerSummaryStateEnum::PAUSED);
            let networks = read::listed_networks(&summary);
            let container = |condition| Container { id, task, condition, paused, networks };
            containers.extend(condition.map(container));
        }
        Ok(containers)
    }

    fn events(
        &self,
        cluster: ClusterId,
        since: UnixMillis,
    ) -> BoxStream<'static, Result<Event, EngineError>> {
        let engine = self.clone();
        let mut of_containers = of_cluster(cluster);
        of_containers.insert("type", vec!["container".to_owned()]);
        // Events of networks have no labels of the containers.
        let of_networks =
            [("type", vec!["network".to_owned()]), ("event", vec!["disconnect".to_owned()])].into();
        let since = format!("{}.{:03}000000", since.0 / 1000, since.0 % 1000);
        let events = move |filters: &HashMap<&str, Vec<String>>| {
            let options = EventsOptionsBuilder::new().since(&since).filters(filters).build();
            let engine = engine.clone();
            let opened = async move { Ok::<_, EngineError>(engine.client().await?.events(Some(options))) };
            stream::once(opened).map_ok(|events| events.map_err(EngineError::from)).try_flatten()
        };
        let containers = events(&of_containers).map_ok(read::event);
        let networks = events(&of_networks).map_ok(read::detached);
        // The end of either is the end of both.
        let ends = |stream: BoxStream<'static, Result<Option<Event>, EngineError>>| {
            stream.map(Some).chain(stream::once(async { None }))
        };
        let both = stream::select(ends(containers.boxed()), ends(networks.boxed()));
        both.take_while(|event| std::future::ready(event.is_some()))
            .filter_map(|event| async { event })
            .try_filter_map(|event| async move { Ok(event) })
            .boxed()
    }

    async fn create(&self, settings: &ContainerSettings) -> Result<String, EngineError> {
        let client = self.client().await?;
        if let Some(message) = ask::unmet(settings, client.client_version().minor_version) {
            return Err(EngineError::Refused { message });
        }
        for volume in ask::volumes(settings) {
            self.volume(&client, volume).await?;
        }
        let id = match &settings.spec.container_name {
            None => self.create_as(&client, settings, &settings.name).await?,
            // Made before an answer was lost; its name may have gone to another since.
            Some(name) => match self.by_label(&client, &settings.name).await? {
                Some(id) => id,
                None => self.create_as(&client, settings, name).await?,
            },
        };
        // Engines before 25 take one network at first.
        for attachment in settings.networks.iter().skip(1) {
            let connected =
                client.connect_network(&attachment.network, ask::connection(&id, attachment)).await;
            match self.answer(connected) {
                Ok(()) => {}
                Err(EngineError::Refused { message } | EngineError::Conflict { message })
                    if message.contains("already exists in network") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(id)
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        let client = self.client().await?;
        self.on(&client, container, |client, container| async move {
            client.start_container(&container, None::<StartContainerOptions>).await
        })
        .await
    }

    async fn stop(
        &self,
        container: &str,
        grace: Duration,
        left: Option<Duration>,
    ) -> Result<(), EngineError> {
        let client = self.client().await?.with_timeout(grace.saturating_add(STOP_MARGIN));
        // The engine counts whole seconds.
        let seconds = left.map(|left| i32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i32::MAX));
        let options = seconds.map(|seconds| StopContainerOptionsBuilder::new().t(seconds).build());
        let stopped = self
            .on(&client, container, |client, container| {
                let options = options.clone();
                async move { client.stop_container(&container, options).await }
            })
            .await;
        gone_is_fine(stopped)
    }

    async fn exec(&self, container: &str, hook: &Hook) -> Result<Ran, EngineError> {
        let client = self.client().await?;
        let made = self
            .on(&client, container, |client, container| {
                let options = ask::exec(hook);
                async move { client.create_exec(&container, options).await }
            })
            .await?;
        let mut output = read::Tail::default();
        if let StartExecResults::Attached { output: mut parts, .. } =
            self.answer(client.start_exec(&made.id, None).await)?
        {
            while let Some(part) = parts.next().await {
                output.take(&self.answer(part)?.into_bytes());
            }
        }
        let found = self.answer(client.inspect_exec(&made.id).await)?;
        // One that was cut off with its container has none.
        let code = found.exit_code.unwrap_or(-1);
        Ok(Ran { code, output: output.text() })
    }

    async fn unpause(&self, container: &str) -> Result<(), EngineError> {
        let unpaused = self.client().await?.unpause_container(container).await;
        match gone_is_fine(self.answer(unpaused)) {
            // It is not paused, or does not run.
            Err(EngineError::Conflict { .. } | EngineError::Refused { .. }) => Ok(()),
            other => other,
        }
    }

    async fn remove(&self, container: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let client = self.client().await?;
        let removed = self
            .on(&client, container, |client, container| {
                let options = options.clone();
                async move { client.remove_container(&container, Some(options)).await }
            })
            .await;
        gone_is_fine(removed)
    }

    async fn inspect(&self, container: &str) -> Result<Option<Condition>, EngineError> {
        let client = self.client().await?;
        let inspected = self
            .on(&client, container, |client, container| async move {
                client.inspect_container(&container, None::<InspectContainerOptions>).await
            })
            .await;
        match inspected {
            Ok(found) => Ok(found.state.map(read::condition)),
            Err(EngineError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn process(&self, container: &str) -> Result<Option<u32>, EngineError> {
        let client = self.client().await?;
        let inspected = self
            .on(&client, container, |client, container| async move {
                client.inspect_container(&container, None::<InspectContainerOptions>).await
            })
            .await;
        match inspected {
            Ok(found) => Ok(found.state.and_then(read::process)),
            Err(EngineError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn networks_of(&self, container: &str) -> Result<Option<BTreeSet<String>>, EngineError> {
        let inspected =
            self.client().await?.inspect_container(container, None::<InspectContainerOptions>).await;
        match self.answer(inspected) {
            Ok(found) => {
                let networks = found.network_settings.and_then(|settings| settings.networks);
                let networks = networks.unwrap_or_default();
                Ok(Some(networks.values().filter_map(read::network_id).collect()))
            }
            Err(EngineError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn is_stopping(&self) -> bool {
        // A new connection: one that is open is still served.
        let path = self.socket.display().to_string();
        let client = Docker::connect_with_unix(&path, CALL.as_secs(), API_DEFAULT_VERSION);
        let Ok(client) = client else { return true };
        !matches!(tokio::time::timeout(STOPPING, client.ping()).await, Ok(Ok(_)))
    }

    async fn outlived(&self) -> Result<bool, EngineError> {
        let info = self.client().await?.info().await;
        Ok(self.answer(info)?.live_restore_enabled.unwrap_or_default())
    }

    async fn root(&self) -> Result<(u32, u32), EngineError> {
        let info = self.client().await?.info().await;
        self.answer(info).map(|info| read::root(&info))
    }

    fn logs(&self, container: &str, options: LogOptions) -> BoxStream<'static, Result<LogPart, EngineError>> {
        let engine = self.clone();
        let container = container.to_owned();
        let mut ask =
            LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).follow(options.follow);
        if let Some(lines) = options.tail {
            ask = ask.tail(&lines.to_string());
        }
        if let Some(since) = options.since {
            ask = ask.since(i32::try_from(since.0 / 1000).unwrap_or(i32::MAX));
        }
        let ask = ask.build();
        let opened = async move {
            let client = engine.client().await?;
            let id = engine.id(&client, &container).await?;
            Ok::<_, EngineError>(client.logs(&id, Some(ask)))
        };
        let parts = stream::once(opened).map_ok(|output| output.map_err(EngineError::from)).try_flatten();
        let mut lines = read::Lines::default();
        // The last line need not have an end.
        let parts = parts.map_ok(Some).chain(stream::once(async { Ok(None) }));
        parts.map_ok(move |part| stream::iter(lines.take(part)).map(Ok)).try_flatten().boxed()
    }

    async fn networks(&self) -> Result<Vec<Network>, EngineError> {
        let version = self.version().await?;
        let listed = self.client().await?.list_networks(None::<ListNetworksOptions>).await;
        Ok(self.answer(listed)?.into_iter().filter_map(|network| read::network(network, version)).collect())
    }

    async fn create_network(&self, settings: &NetworkSettings) -> Result<String, EngineError> {
        let version = self.version().await?;
        let created = self.client().await?.create_network(ask::network(settings, version)).await;
        self.answer(created).map(|created| created.id)
    }

    async fn remove_network(&self, id: &str) -> Result<(), EngineError> {
        let removed = self.client().await?.remove_network(id).await;
        gone_is_fine(self.answer(removed))
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, EngineError> {
        let inspected = self.client().await?.inspect_image(&ask::reference(image)).await;
        match self.answer(inspected) {
            Ok(found) => Ok(Some(read::image(&found))),
            Err(EngineError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn digest(&self, image: &str, credential: Option<&Credential>) -> Result<String, EngineError> {
        let credential = credential.map(|credential| ask::credential(image, credential));
        let found = self.client().await?.inspect_registry_image(image, credential).await;
        let unnamed = || EngineError::Refused { message: "its registry names no digest".to_owned() };
        self.answer(found)?.descriptor.digest.ok_or_else(unnamed)
    }

    async fn pull(
        &self,
        image: &str,
        platform: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<(), EngineError> {
        let (name, tag) = ask::split_image(image);
        let mut options = CreateImageOptionsBuilder::new().from_image(name).tag(tag);
        if let Some(platform) = platform {
            options = options.platform(platform);
        }
        let options = options.build();
        let credential = credential.map(|credential| ask::credential(image, credential));
        let mut progress = self.client().await?.create_image(Some(options), None, credential);
        while let Some(step) = progress.next().await {
            self.answer(step)?;
        }
        Ok(())
    }
}

fn of_cluster(cluster: ClusterId) -> HashMap<&'static str, Vec<String>> {
    [("label", vec![format!("{}={cluster}", labels::CLUSTER)])].into()
}

fn gone_is_fine(answer: Result<(), EngineError>) -> Result<(), EngineError> {
    match answer {
        Err(EngineError::NotFound { .. }) => Ok(()),
        // Another removal of it is under way.
        Err(EngineError::Conflict { message }) if message.contains("already in progress") => Ok(()),
        other => other,
    }
}
