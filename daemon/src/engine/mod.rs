//! Docker Engine, as far as a node needs it.
//!
//! Owns: how things are said to the engine and how its answers are read. Leaves alone: what should run (`agent`).
//! Holds: every object that is made carries the labels of [`labels`]; nothing without them is changed. All calls
//! can be repeated: what is there already, or gone already, is no error.

mod docker;
mod error;
mod fake;
pub mod labels;
mod settings;
#[cfg(test)]
pub(crate) mod tests;
pub mod version;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use ipnet::Ipv4Net;
use raftup_proto::{
    api::Credential,
    id::{ClusterId, NetworkId, TaskId},
    peer::Platform,
    spec::Hook,
    unit::UnixMillis,
};

pub use docker::DockerEngine;
pub use error::EngineError;
pub use fake::FakeEngine;
pub use settings::{Attachment, ContainerSettings};

/// An engine that does not answer a call within this is about to end, if it has just ended a container.
const STOPPING: Duration = Duration::from_secs(2);

/// What the engine is asked to do. Containers are named by their name or id.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// What the engine and its host are.
    async fn info(&self) -> Result<Platform, EngineError>;

    /// How it was set up.
    async fn setup(&self) -> Result<Setup, EngineError>;

    /// It answers. Cheap.
    async fn ping(&self) -> Result<(), EngineError>;

    /// All containers of the cluster, also those that have ended.
    async fn containers(&self, cluster: ClusterId) -> Result<Vec<Container>, EngineError>;

    /// What happens to containers of the cluster from `since` on. Ends when the engine does; the caller then
    /// lists anew.
    fn events(&self, cluster: ClusterId, since: UnixMillis)
    -> BoxStream<'static, Result<Event, EngineError>>;

    /// Makes a container and returns its id. One of the same name and task is that container already.
    async fn create(&self, settings: &ContainerSettings) -> Result<String, EngineError>;

    /// Starts a container.
    async fn start(&self, container: &str) -> Result<(), EngineError>;

    /// Stops a container with its own signal and within its own grace period, or what is `left` of it.
    async fn stop(&self, container: &str, grace: Duration, left: Option<Duration>)
    -> Result<(), EngineError>;

    /// Runs a command in a container to its end, however long that takes. Errors: the container does not run
    /// ([`EngineError::Conflict`], [`EngineError::NotFound`]), or the command cannot be started.
    async fn exec(&self, container: &str, hook: &Hook) -> Result<Ran, EngineError>;

    /// Lets a paused container go on. One that is not paused, or not there, stays as it is.
    async fn unpause(&self, container: &str) -> Result<(), EngineError>;

    /// Kills a container, if it runs, and removes it with its anonymous volumes.
    async fn remove(&self, container: &str) -> Result<(), EngineError>;

    /// How a container is; none if it is not there.
    async fn inspect(&self, container: &str) -> Result<Option<Condition>, EngineError>;

    /// Process id of a container's first process; none while it does not run.
    async fn process(&self, container: &str) -> Result<Option<u32>, EngineError>;

    /// Ids of the networks that a container is on; none if the container is not there.
    async fn networks_of(&self, container: &str) -> Result<Option<BTreeSet<String>>, EngineError>;

    /// The engine is about to end: it takes no new calls, though its events may go on. Takes two seconds at most.
    async fn is_stopping(&self) -> bool;

    /// Containers go on running while the engine is stopped (`live-restore`).
    async fn outlived(&self) -> Result<bool, EngineError>;

    /// The user and group of the host that root is in containers: others than 0 where the engine has users mapped
    /// (`userns-remap`).
    async fn root(&self) -> Result<(u32, u32), EngineError>;

    /// What a container wrote.
    fn logs(&self, container: &str, options: LogOptions) -> BoxStream<'static, Result<LogPart, EngineError>>;

    /// All networks.
    async fn networks(&self) -> Result<Vec<Network>, EngineError>;

    /// Makes a network and returns its id.
    async fn create_network(&self, settings: &NetworkSettings) -> Result<String, EngineError>;

    /// Removes a network. Errors: a container is on it.
    async fn remove_network(&self, id: &str) -> Result<(), EngineError>;

    /// An image; none if it is not on this host.
    async fn image(&self, image: &str) -> Result<Option<Image>, EngineError>;

    /// The digest that the registry has for an image now, as `sha256:..`. Nothing is pulled.
    async fn digest(&self, image: &str, credential: Option<&Credential>) -> Result<String, EngineError>;

    /// Pulls an image, for a platform that is not the host's if one is named, with what its registry asks for.
    async fn pull(
        &self,
        image: &str,
        platform: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<(), EngineError>;
}

/// How the engine was set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Where images, containers and volumes are; empty where the engine does not say.
    pub root: PathBuf,
    /// Ranges that it gives its own networks subnets from, where they are set.
    pub pools: Vec<Ipv4Net>,
}

/// A container of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The engine's id.
    pub id: String,
    /// The task that its labels name.
    pub task: TaskId,
    /// How it is.
    pub condition: Condition,
    /// Its processes are frozen (`docker pause`); it counts as running.
    pub paused: bool,
    /// Ids of the engine's networks that it is on. Empty where the engine does not say.
    pub networks: BTreeSet<String>,
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Made, never started.
    Created,
    /// It runs.
    Running(Health),
    /// It ended.
    Exited(Exit),
}

/// What the health check of a running container says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// There is no check.
    Unchecked,
    /// It has not passed yet.
    Starting,
    /// It passed.
    Healthy,
    /// It failed too often.
    Unhealthy {
        /// What the last check wrote.
        output: String,
    },
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit status of its first process; 128 and the number of the signal that killed it.
    pub code: i64,
    /// It was killed because it used up its memory.
    pub out_of_memory: bool,
    /// What the engine says went wrong; empty if nothing did.
    pub error: String,
    /// When it was last started, by the host's clock, where the engine says so.
    pub started: Option<UnixMillis>,
    /// It ended because the engine or its host was stopped. Found out by the caller: an engine does not say.
    pub with_engine: bool,
}

/// What came of a command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status.
    pub code: i64,
    /// The end of what it wrote, at most [`OUTPUT_MAX`] bytes.
    pub output: String,
}

/// Most bytes that are kept of a command's output.
pub const OUTPUT_MAX: usize = 512;

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The container's id.
    pub container: String,
    /// The task that its labels name; none for [`EventKind::Detached`], which comes without labels.
    pub task: Option<TaskId>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was started, by whomever.
    Started,
    /// The engine was told to send it a signal: to stop it, to kill it, or as a message.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// Its processes were frozen.
    Paused,
    /// It was taken off a network, as it also is when it ends.
    Detached,
    /// It ended, with this exit status.
    Died {
        /// The exit status.
        code: i64,
    },
    /// The kernel killed of it what used up its memory. The engine tells this and its end in either order.
    OutOfMemory,
    /// Its health check passed after it had not.
    Healthy,
    /// Its health check failed too often.
    Unhealthy,
    /// It was removed.
    Removed,
}

/// A network on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The engine's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The cluster's network that its labels say it is.
    pub of: Option<(ClusterId, NetworkId)>,
    /// Made by an older engine: this one drops what other hosts send to it.
    pub outdated: bool,
}

/// A network to make: a plain bridge over all of the network's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Name of the bridge's device.
    pub bridge: String,
    /// All of its addresses.
    pub subnet: Ipv4Net,
    /// The part that the engine gives addresses from where none is asked for.
    pub range: Ipv4Net,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// Most bytes of a packet.
    pub mtu: u16,
}

/// An image on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// It brings a health check along.
    pub checked: bool,
}

/// Which part of a container's output is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what it will write.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<u32>,
    /// Only what was written since.
    pub since: Option<UnixMillis>,
}

/// A line that a container wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPart {
    /// It went to standard error.
    pub stderr: bool,
    /// When, in nanoseconds since 1970.
    pub at_nanos: i64,
    /// The line without its end; bytes that are no text are replaced.
    pub line: String,
}
