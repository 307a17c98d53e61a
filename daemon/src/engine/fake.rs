//! An engine in memory, for tests and the simulator.
//!
//! Its containers understand `sh -c` with `echo WORDS`, `sleep SECONDS` and `exit STATUS`, parted by `;`, as their
//! command and as their health check. It passes the same tests as the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use raftup_proto::{
    api::Credential,
    id::{ClusterId, TaskId},
    peer::Platform,
    spec::{Healthcheck, Hook},
    unit::{CpuMillis, MemBytes, UnixMillis},
};
use tokio::sync::watch;

use super::{
    Condition, Container, ContainerSettings, Engine, EngineError, Event, EventKind, Exit, Health, Image,
    LogOptions, LogPart, Network, NetworkSettings, Ran, Setup, labels,
};

/// Exit status of a container that was killed, and of one that ended when it was asked to.
const KILLED: i64 = 137;
const TERMINATED: i64 = 143;
const SIGTERM: i32 = 15;
/// Where a health check does not say; as on the real engine.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
const CHECK_RETRIES: u32 = 3;

/// An engine in memory; clones are the same engine.
#[derive(Clone)]
pub struct FakeEngine {
    state: Arc<Mutex<State>>,
    /// Moves with every change of the state.
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    down: bool,
    /// Containers end with it.
    takes_all_along: bool,
    /// Times that it went down; a stream of events ends when this moves.
    downs: u64,
    /// Of the engine; `fake` if none was set.
    version: Option<String>,
    made: u64,
    images: BTreeMap<String, Image>,
    pullable: BTreeMap<String, Duration>,
    private: BTreeMap<String, Credential>,
    digests: BTreeMap<String, String>,
    pulls: u64,
    containers: BTreeMap<String, FakeContainer>,
    networks: BTreeMap<String, FakeNetwork>,
    events: Vec<(UnixMillis, ClusterId, Event)>,
}

struct FakeContainer {
    settings: ContainerSettings,
    condition: Condition,
    log: Vec<LogPart>,
    paused: bool,
    stop: watch::Sender<Option<i64>>,
    starts: u32,
}

struct FakeNetwork {
    network: Network,
    settings: NetworkSettings,
}

impl Default for FakeEngine {
    fn default() -> Self {
        Self { state: Arc::default(), moved: watch::Sender::new(0) }
    }
}

impl FakeEngine {
    /// An engine without images, networks or containers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an image there.
    pub fn add_image(&self, image: &str) {
        self.lock().images.insert(image.to_owned(), Image { checked: false });
    }

    /// Puts an image into the registry; a pull of it takes so long.
    pub fn add_remote_image(&self, image: &str, takes: Duration) {
        self.lock().pullable.insert(image.to_owned(), takes);
    }

    /// Puts an image into the registry that is pulled with that credential only.
    pub fn add_private_image(&self, image: &str, credential: Credential) {
        self.add_remote_image(image, Duration::from_secs(1));
        self.lock().private.insert(image.to_owned(), credential);
    }

    /// Has the registry answer with that digest for an image.
    pub fn set_digest(&self, image: &str, digest: &str) {
        self.lock().digests.insert(image.to_owned(), digest.to_owned());
    }

    /// Takes an image from this host.
    pub fn remove_image(&self, image: &str) {
        self.lock().images.remove(image);
    }

    /// Kills the engine, or starts it again; containers live on.
    pub fn set_down(&self, down: bool) {
        let mut state = self.lock();
        state.down = down;
        state.downs += u64::from(down);
        drop(state);
        self.moved.send_modify(|count| *count += 1);
    }

    /// Has no `live-restore` from now on.
    pub fn end_containers_with_it(&self) {
        self.lock().takes_all_along = true;
    }

    /// Stops the engine as a package's upgrade does, without `live-restore`: first nobody is answered any more, then
    /// all containers end, with this exit status.
    pub fn stop_with_containers(&self, code: i64) {
        self.set_down(true);
        for name in self.names() {
            self.end(&name, Exit { code, ..Exit::default() });
        }
    }

    /// A container's process ends by itself, also while the engine is down.
    pub fn exit(&self, name: &str, exit: Exit) {
        self.end(name, exit);
    }

    /// The engine is of this version now, and closes the networks that are there to other hosts.
    pub fn upgrade(&self, version: &str) {
        let mut state = self.lock();
        state.version = Some(version.to_owned());
        state.networks.values_mut().for_each(|network| network.network.outdated = true);
    }

    /// Names of all containers.
    pub fn names(&self) -> BTreeSet<String> {
        self.lock().containers.values().map(|container| container.settings.name.clone()).collect()
    }

    /// How often a container was started.
    pub fn starts(&self, name: &str) -> u32 {
        let state = self.lock();
        find(&state, name).map_or(0, |id| state.containers[&id].starts)
    }

    /// How many pulls there were.
    pub fn pulls(&self) -> u64 {
        self.lock().pulls
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.lock();
        if state.down { Err(EngineError::Down { reason: "the fake is down".to_owned() }) } else { Ok(state) }
    }

    fn emit(&self, state: &mut State, id: &str, kind: EventKind) {
        let Some(container) = state.containers.get(id) else { return };
        let label = |key| container.settings.labels.get(key);
        let (Some(cluster), Some(task)) = (label(labels::CLUSTER), label(labels::TASK)) else { return };
        let (Ok(cluster), Ok(task)) = (cluster.parse(), task.parse::<TaskId>()) else { return };
        state.events.push((now(), cluster, Event { container: id.to_owned(), task: Some(task), kind }));
        self.moved.send_modify(|count| *count += 1);
    }

    fn end(&self, container: &str, exit: Exit) {
        let mut state = self.lock();
        let Some(id) = find(&state, container) else { return };
        let Some(found) = state.containers.get_mut(&id) else { return };
        if !matches!(found.condition, Condition::Running(_)) {
            return;
        }
        let code = exit.code;
        found.paused = false;
        found.condition = Condition::Exited(exit);
        found.stop.send_replace(Some(code));
        self.emit(&mut state, &id, EventKind::Died { code });
    }

    /// Somebody freezes a container.
    pub fn pause(&self, container: &str) {
        let mut state = self.lock();
        let Some(id) = find(&state, container) else { return };
        state.containers.entry(id.clone()).and_modify(|found| found.paused = true);
        self.emit(&mut state, &id, EventKind::Paused);
    }

    /// A container is frozen.
    pub fn is_paused(&self, container: &str) -> bool {
        let state = self.lock();
        find(&state, container).is_some_and(|id| state.containers[&id].paused)
    }

    /// Somebody gives a container another name.
    pub fn rename(&self, container: &str, name: &str) {
        let mut state = self.lock();
        let Some(id) = find(&state, container) else { return };
        state.containers.entry(id).and_modify(|found| found.settings.name = name.to_owned());
    }

    /// Somebody takes a container off its networks.
    pub fn disconnect(&self, container: &str) {
        let mut state = self.lock();
        let Some(id) = find(&state, container) else { return };
        state.containers.entry(id.clone()).and_modify(|found| found.settings.networks.clear());
        self.emit(&mut state, &id, EventKind::Detached);
    }

    /// The kernel has killed some of a container; told before or after its end.
    pub fn out_of_memory(&self, container: &str) {
        let mut state = self.lock();
        let Some(id) = find(&state, container) else { return };
        self.emit(&mut state, &id, EventKind::OutOfMemory);
    }

    fn set_health(&self, id: &str, health: Health) {
        let mut state = self.lock();
        let Some(found) = state.containers.get_mut(id) else { return };
        let Condition::Running(old) = &mut found.condition else { return };
        let kind = match &health {
            Health::Healthy if *old != health => Some(EventKind::Healthy),
            Health::Unhealthy { .. } if *old != health => Some(EventKind::Unhealthy),
            Health::Unchecked | Health::Starting | Health::Healthy | Health::Unhealthy { .. } => None,
        };
        *old = health;
        if let Some(kind) = kind {
            self.emit(&mut state, id, kind);
        }
    }

    fn write(&self, id: &str, text: &str) {
        let at_nanos = i64::try_from(now().0).unwrap_or_default().saturating_mul(1_000_000);
        if let Some(found) = self.lock().containers.get_mut(id) {
            found.log.push(LogPart { stderr: false, at_nanos, line: text.to_owned() });
        }
        self.moved.send_modify(|count| *count += 1);
    }

    /// Plays a container's command until it ends or is stopped.
    async fn play(self, id: String, line: String, mut stop: watch::Receiver<Option<i64>>) {
        let script = async {
            for step in line.split(';').map(str::trim) {
                match step.split_once(' ') {
                    Some(("echo", words)) => self.write(&id, words),
                    Some(("sleep", seconds)) => {
                        tokio::time::sleep(Duration::from_secs_f64(seconds.parse().unwrap_or(1e6))).await;
                    }
                    Some(("exit", code)) => return code.parse().unwrap_or_default(),
                    _ => {}
                }
            }
            0
        };
        // Cancel-safe: the script is dropped with the container's end.
        let code = tokio::select! {
            code = script => code,
            _ = stop.wait_for(Option::is_some) => return,
        };
        self.end(&id, Exit { code, ..Exit::default() });
    }

    /// Plays a health check until the container ends.
    async fn check(self, id: String, check: Healthcheck, mut stop: watch::Receiver<Option<i64>>) {
        let Healthcheck::Check { test, interval, retries, .. } = check else { return };
        let line = test.and_then(|mut test| test.pop()).unwrap_or_default();
        let mut failures = 0;
        loop {
            // Cancel-safe: nothing but time is lost.
            tokio::select! {
                () = tokio::time::sleep(interval.unwrap_or(CHECK_INTERVAL)) => {}
                _ = stop.wait_for(Option::is_some) => return,
            }
            let words = line.split(';').find_map(|step| step.trim().strip_prefix("echo "));
            if line.contains("exit 1") {
                failures += 1;
            } else {
                failures = 0;
                self.set_health(&id, Health::Healthy);
            }
            if failures >= retries.unwrap_or(CHECK_RETRIES) {
                self.set_health(&id, Health::Unhealthy { output: words.unwrap_or_default().to_owned() });
            }
        }
    }
}

fn find(state: &State, container: &str) -> Option<String> {
    let is = |entry: &(&String, &FakeContainer)| entry.0 == container || entry.1.settings.name == container;
    state.containers.iter().find(is).map(|(id, _)| id.clone())
}

fn missing(what: &str, name: &str) -> EngineError {
    EngineError::NotFound { message: format!("No such {what}: {name}") }
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[async_trait]
impl Engine for FakeEngine {
    async fn info(&self) -> Result<Platform, EngineError> {
        let version = self.up()?.version.clone().unwrap_or_else(|| "fake".to_owned());
        Ok(Platform {
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            kernel: "6.0".to_owned(),
            engine: Some(version),
            engine_labels: Vec::new(),
            cpu: CpuMillis(4000),
            memory: MemBytes(8 << 30),
            generic: Default::default(),
        })
    }

    async fn setup(&self) -> Result<Setup, EngineError> {
        self.up().map(|_| Setup::default())
    }

    async fn ping(&self) -> Result<(), EngineError> {
        self.up().map(drop)
    }

    async fn containers(&self, cluster: ClusterId) -> Result<Vec<Container>, EngineError> {
        let state = self.up()?;
        let ours = state.containers.iter().filter_map(|(id, container)| {
            let label = |key| container.settings.labels.get(key);
            let task = label(labels::TASK)?.parse().ok()?;
            let same = *label(labels::CLUSTER)? == cluster.to_string();
            same.then(|| Container {
                id: id.clone(),
                task,
                condition: container.condition.clone(),
                paused: container.paused,
                networks: container.settings.networks.iter().map(|on| on.network.clone()).collect(),
            })
        });
        Ok(ours.collect())
    }

    fn events(
        &self,
        cluster: ClusterId,
        since: UnixMillis,
    ) -> BoxStream<'static, Result<Event, EngineError>> {
        let engine = self.clone();
        let (mut next, downs) = {
            let state = self.lock();
            (state.events.partition_point(|(at, ..)| *at < since), state.downs)
        };
        let mut take = move |state: &State| {
            if state.downs != downs || state.down {
                return Some(None);
            }
            while let Some((_, of, event)) = state.events.get(next) {
                next += 1;
                if *of == cluster {
                    return Some(Some(Ok(event.clone())));
                }
            }
            None
        };
        let moved = self.moved.subscribe();
        follow(moved, move || take(&engine.lock())).boxed()
    }

    async fn create(&self, settings: &ContainerSettings) -> Result<String, EngineError> {
        let mut state = self.up()?;
        if let Some(id) = find(&state, &settings.name) {
            let same =
                state.containers[&id].settings.labels.get(labels::TASK) == settings.labels.get(labels::TASK);
            let message = format!("The container name \"/{}\" is already in use", settings.name);
            return if same { Ok(id) } else { Err(EngineError::Conflict { message }) };
        }
        if !state.images.contains_key(&settings.image) {
            return Err(missing("image", &settings.image));
        }
        if let Some(gone) = settings.networks.iter().find(|on| !state.networks.contains_key(&on.network)) {
            return Err(missing("network", &gone.network));
        }
        state.made += 1;
        let id = format!("{:064x}", state.made);
        let container = FakeContainer {
            settings: settings.clone(),
            condition: Condition::Created,
            log: Vec::new(),
            paused: false,
            stop: watch::Sender::new(None),
            starts: 0,
        };
        state.containers.insert(id.clone(), container);
        Ok(id)
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        let mut state = self.up()?;
        let id = find(&state, container).ok_or_else(|| missing("container", container))?;
        let taken = |of: &FakeContainer| matches!(of.condition, Condition::Running(_));
        let wanted = state.containers[&id].settings.networks.clone();
        let clash = state.containers.iter().any(|(other, of)| {
            *other != id && taken(of) && of.settings.networks.iter().any(|on| wanted.contains(on))
        });
        if clash {
            return Err(EngineError::Refused { message: "Address already in use".to_owned() });
        }
        let Some(found) = state.containers.get_mut(&id) else { return Err(missing("container", container)) };
        if taken(found) {
            return Ok(());
        }
        let check = found.settings.spec.healthcheck.clone();
        let checked = matches!(check, Some(Healthcheck::Check { .. }));
        found.condition = Condition::Running(if checked { Health::Starting } else { Health::Unchecked });
        found.starts += 1;
        found.stop.send_replace(None);
        let stop = found.stop.subscribe();
        let line = found.settings.spec.command.as_ref().and_then(|words| words.last().cloned());
        self.emit(&mut state, &id, EventKind::Started);
        drop(state);
        if let Some(check) = check {
            tokio::spawn(self.clone().check(id.clone(), check, stop.clone()));
        }
        tokio::spawn(self.clone().play(id, line.unwrap_or_else(|| "sleep 1e6".to_owned()), stop));
        Ok(())
    }

    async fn stop(&self, container: &str, _: Duration, _: Option<Duration>) -> Result<(), EngineError> {
        let mut state = self.up()?;
        if let Some(id) = find(&state, container)
            && matches!(state.containers[&id].condition, Condition::Running(_))
        {
            self.emit(&mut state, &id, EventKind::Signalled { signal: SIGTERM });
        }
        drop(state);
        self.end(container, Exit { code: TERMINATED, ..Exit::default() });
        Ok(())
    }

    async fn exec(&self, container: &str, hook: &Hook) -> Result<Ran, EngineError> {
        let id = {
            let state = self.up()?;
            let id = find(&state, container).ok_or_else(|| missing("container", container))?;
            if !matches!(state.containers[&id].condition, Condition::Running(_)) {
                return Err(EngineError::Conflict { message: format!("container {id} is not running") });
            }
            id
        };
        let line = hook.command.last().cloned().unwrap_or_default();
        let (mut code, mut output) = (0, String::new());
        for step in line.split(';').map(str::trim) {
            match step.split_once(' ') {
                Some(("echo", words)) => {
                    self.write(&id, words);
                    output = words.to_owned();
                }
                Some(("sleep", seconds)) => {
                    tokio::time::sleep(Duration::from_secs_f64(seconds.parse().unwrap_or(1e6))).await;
                }
                Some(("exit", status)) => code = status.parse().unwrap_or_default(),
                _ => {}
            }
        }
        Ok(Ran { code, output })
    }

    async fn unpause(&self, container: &str) -> Result<(), EngineError> {
        let mut state = self.up()?;
        if let Some(id) = find(&state, container) {
            state.containers.entry(id).and_modify(|found| found.paused = false);
        }
        Ok(())
    }

    async fn networks_of(&self, container: &str) -> Result<Option<BTreeSet<String>>, EngineError> {
        let state = self.up()?;
        let on = |id: String| state.containers[&id].settings.networks.iter().map(|on| on.network.clone());
        Ok(find(&state, container).map(|id| on(id).collect()))
    }

    async fn is_stopping(&self) -> bool {
        self.up().is_err()
    }

    async fn outlived(&self) -> Result<bool, EngineError> {
        Ok(!self.up()?.takes_all_along)
    }

    async fn root(&self) -> Result<(u32, u32), EngineError> {
        self.up().map(|_| (0, 0))
    }

    async fn remove(&self, container: &str) -> Result<(), EngineError> {
        drop(self.up()?);
        self.end(container, Exit { code: KILLED, ..Exit::default() });
        let mut state = self.lock();
        if let Some(id) = find(&state, container) {
            self.emit(&mut state, &id, EventKind::Removed);
            state.containers.remove(&id);
        }
        Ok(())
    }

    async fn inspect(&self, container: &str) -> Result<Option<Condition>, EngineError> {
        let state = self.up()?;
        Ok(find(&state, container).map(|id| state.containers[&id].condition.clone()))
    }

    async fn process(&self, _: &str) -> Result<Option<u32>, EngineError> {
        drop(self.up()?);
        Ok(None)
    }

    fn logs(&self, container: &str, options: LogOptions) -> BoxStream<'static, Result<LogPart, EngineError>> {
        let state = self.lock();
        let Some(id) = find(&state, container) else {
            return stream::iter([Err(missing("container", container))]).boxed();
        };
        let log = &state.containers[&id].log;
        let from = options.tail.map_or(0, |tail| log.len().saturating_sub(tail as usize));
        let since =
            options.since.map_or(i64::MIN, |since| i64::try_from(since.0 * 1_000_000).unwrap_or(i64::MAX));
        let mut next = from;
        let engine = self.clone();
        drop(state);
        let take = move || {
            let state = engine.lock();
            let Some(found) = state.containers.get(&id) else { return Some(None) };
            while let Some(part) = found.log.get(next) {
                next += 1;
                if part.at_nanos >= since {
                    return Some(Some(Ok(part.clone())));
                }
            }
            let over = !matches!(found.condition, Condition::Running(_));
            (over || !options.follow).then_some(None)
        };
        follow(self.moved.subscribe(), take).boxed()
    }

    async fn networks(&self) -> Result<Vec<Network>, EngineError> {
        Ok(self.up()?.networks.values().map(|network| network.network.clone()).collect())
    }

    async fn create_network(&self, settings: &NetworkSettings) -> Result<String, EngineError> {
        let mut state = self.up()?;
        let overlaps = |one: &FakeNetwork| {
            one.settings.subnet.contains(&settings.subnet) || settings.subnet.contains(&one.settings.subnet)
        };
        if state.networks.values().any(overlaps) {
            let message = "Pool overlaps with other one on this address space".to_owned();
            return Err(EngineError::Refused { message });
        }
        state.made += 1;
        let id = format!("{:064x}", state.made);
        let of = labels::network(&settings.labels.clone().into_iter().collect());
        let network = Network { id: id.clone(), name: settings.name.clone(), of, outdated: false };
        state.networks.insert(id.clone(), FakeNetwork { network, settings: settings.clone() });
        Ok(id)
    }

    async fn remove_network(&self, id: &str) -> Result<(), EngineError> {
        let mut state = self.up()?;
        let on = |of: &FakeContainer| {
            matches!(of.condition, Condition::Running(_))
                && of.settings.networks.iter().any(|at| at.network == id)
        };
        if state.containers.values().any(on) {
            return Err(EngineError::Refused { message: "network has active endpoints".to_owned() });
        }
        state.networks.remove(id);
        Ok(())
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, EngineError> {
        Ok(self.up()?.images.get(image).cloned())
    }

    async fn digest(&self, image: &str, credential: Option<&Credential>) -> Result<String, EngineError> {
        let state = self.up()?;
        let denied = state.private.get(image).is_some_and(|needed| Some(needed) != credential);
        let found = state.digests.get(image).filter(|_| !denied).cloned();
        found.ok_or_else(|| EngineError::NotFound { message: format!("no such image: {image}") })
    }

    async fn pull(
        &self,
        image: &str,
        _platform: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<(), EngineError> {
        let takes = {
            let mut state = self.up()?;
            state.pulls += 1;
            let denied = state.private.get(image).is_some_and(|needed| Some(needed) != credential);
            state.pullable.get(image).copied().filter(|_| !denied)
        };
        let message = format!("pull access denied for {image}, repository does not exist");
        tokio::time::sleep(takes.ok_or(EngineError::NotFound { message })?).await;
        self.up()?.images.insert(image.to_owned(), Image { checked: false });
        Ok(())
    }
}

/// A stream of what `take` finds: something, the end (`Some(None)`), or nothing yet until `moved` changes.
fn follow<T: Send + 'static>(
    moved: watch::Receiver<u64>,
    take: impl FnMut() -> Option<Option<T>> + Send + 'static,
) -> impl futures_util::Stream<Item = T> + Send {
    stream::unfold((take, moved), |(mut take, mut moved)| async move {
        loop {
            moved.mark_unchanged();
            match take() {
                Some(Some(item)) => return Some((item, (take, moved))),
                Some(None) => return None,
                None => moved.changed().await.ok()?,
            }
        }
    })
}
