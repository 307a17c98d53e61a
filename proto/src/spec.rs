//! What a user asks for, with every default filled in: the answer of the compose loader, the body of a deploy,
//! and what the cluster keeps.
//!
//! Stored as JSON (see [`crate::codec::spec`]): fields may be added with `#[serde(default)]`, never renamed.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    name::{NetworkName, ServiceName, StackName, VolumeName},
    unit::{CpuMillis, MemBytes},
};

/// Most replicas that one service may ask for.
pub const MAX_REPLICAS: u32 = 10_000;

/// A whole stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackSpec {
    /// Its name, part of the full name of everything in it.
    pub name: StackName,
    /// Its services.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// Its networks; `default` is there if any service is on it.
    pub networks: BTreeMap<NetworkName, NetworkSpec>,
    /// Its named volumes.
    pub volumes: BTreeMap<VolumeName, VolumeSpec>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// How many tasks, and where.
    pub mode: Mode,
    /// The container of each task.
    pub container: ContainerSpec,
    /// The networks of each task, by their key in the stack, the primary one first.
    pub networks: Vec<NetworkAttachment>,
    /// Ports that nodes answer on.
    pub ports: Vec<PortSpec>,
    /// What its name stands for.
    #[serde(default, skip_serializing_if = "EndpointMode::is_vip")]
    pub endpoint_mode: EndpointMode,
    /// What happens when a task ends.
    pub restart: RestartPolicy,
    /// Which nodes may run it.
    pub placement: Placement,
    /// What a task needs and may use.
    pub resources: Resources,
    /// Labels of the service itself (`deploy.labels`), not of its containers.
    pub labels: BTreeMap<String, String>,
    /// How its tasks are replaced by those of a newer version.
    #[serde(default, skip_serializing_if = "UpdatePolicy::is_default")]
    pub update: UpdatePolicy,
    /// The same on the way back.
    #[serde(default, skip_serializing_if = "UpdatePolicy::is_default")]
    pub rollback: UpdatePolicy,
    /// Which of its tasks gets a new connection.
    #[serde(default, skip_serializing_if = "Routing::is_default")]
    pub routing: Routing,
    /// Services of the stack that its tasks wait for before they are started.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<ServiceName, Dependency>,
}

/// How a service depends on another one of its stack. Source: Compose Specification, `depends_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// What has to be true of the other service.
    pub condition: Condition,
    /// When an update of the other service is complete, the tasks of this one are replaced.
    #[serde(default)]
    pub restart: bool,
    /// Without it, the other service may be missing or fail.
    #[serde(default = "yes")]
    pub required: bool,
}

impl Default for Dependency {
    fn default() -> Self {
        Self { condition: Condition::default(), restart: false, required: true }
    }
}

fn yes() -> bool {
    true
}

/// What a service waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The container of the other service runs, healthy or not.
    #[default]
    #[serde(rename = "service_started")]
    Started,
    /// It runs and, where it has a health check, is healthy.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// It ended with exit status 0.
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

/// How many tasks a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// So many, spread over the nodes; at most [`MAX_REPLICAS`].
    Replicated {
        /// The number of slots.
        replicas: u32,
    },
    /// One on each node that fits.
    Global,
}

/// What is in a container. Two tasks with equal container specs need no replacement of one by the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The image as it was asked for, such as `nginx:1.27`.
    pub image: String,
    /// Replaces the image's command where given.
    pub command: Option<Vec<String>>,
    /// Replaces the image's entrypoint where given; an empty list clears it.
    pub entrypoint: Option<Vec<String>>,
    /// The environment, sorted by name; values may be empty.
    pub env: BTreeMap<String, String>,
    /// Host name inside the container; service and slot by default, as in `web-2`.
    pub hostname: Option<String>,
    /// `user[:group]` to run as.
    pub user: Option<String>,
    /// Directory to start in.
    pub working_dir: Option<String>,
    /// Signal that asks the container to stop, such as `SIGTERM`.
    pub stop_signal: Option<String>,
    /// Time between that signal and a kill; [`STOP_GRACE`] where not given.
    pub stop_grace: Option<Duration>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// Run an init process as the container's first one.
    pub init: bool,
    /// The container's root file system cannot be written.
    pub read_only: bool,
    /// What is mounted where, in the order of the file.
    pub mounts: Vec<Mount>,
    /// How to tell whether it is healthy; the image's own check where not given.
    pub healthcheck: Option<Healthcheck>,
}

/// Time between the stop signal and the kill where the file does not say.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

impl ContainerSpec {
    /// Time between the stop signal and the kill.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace.unwrap_or(STOP_GRACE)
    }
}

/// One thing mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// It cannot be written.
    pub read_only: bool,
}

/// Where mounted data comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A named volume of the stack, on the disk of the node that runs the task.
    Volume {
        /// Its key in the stack.
        name: VolumeName,
        /// Do not copy what the image has at the target into a new volume.
        nocopy: bool,
    },
    /// A fresh volume that goes with the container.
    Anonymous,
    /// A path of the node.
    Bind {
        /// Absolute path on the node.
        path: String,
        /// Make it where it does not exist.
        create: bool,
        /// Mount propagation such as `rslave`.
        propagation: Option<String>,
    },
    /// Memory.
    Tmpfs {
        /// Its limit.
        size: Option<MemBytes>,
        /// Permission bits.
        mode: Option<u32>,
    },
}

/// How to tell whether a container is healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Healthcheck {
    /// Switch the image's own check off.
    Disabled,
    /// Run a command in the container.
    Check {
        /// `["CMD", ...]` or `["CMD-SHELL", line]`; the image's own test where not given.
        test: Option<Vec<String>>,
        /// Time between checks.
        interval: Option<Duration>,
        /// Time for one check.
        timeout: Option<Duration>,
        /// Failures in a row that make it unhealthy.
        retries: Option<u32>,
        /// Time at the start in which failures do not count.
        start_period: Option<Duration>,
        /// Time between checks during the start period (engines 25 and newer).
        start_interval: Option<Duration>,
    },
}

/// A service on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Key of the network in the stack.
    pub network: NetworkName,
    /// Further names of the service on it.
    pub aliases: Vec<String>,
}

impl ServiceSpec {
    /// The ports that every node answers on.
    pub fn ingress_ports(&self) -> impl Iterator<Item = &PortSpec> {
        self.ports.iter().filter(|port| port.mode == PublishMode::Ingress)
    }

    /// The ports that only the nodes of its tasks answer on.
    pub fn host_ports(&self) -> impl Iterator<Item = &PortSpec> {
        self.ports.iter().filter(|port| port.mode == PublishMode::Host)
    }
}

/// What the name of a service stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointMode {
    /// One virtual address on each of its networks.
    #[default]
    Vip,
    /// The addresses of its tasks, in turn.
    Dnsrr,
}

impl EndpointMode {
    fn is_vip(&self) -> bool {
        *self == Self::Vip
    }
}

/// A port that nodes answer on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortSpec {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the nodes, not 0.
    pub published: u16,
    /// The port in the container, not 0.
    pub target: u16,
    /// The one address that it is on, wherever a node has it; all of a node's addresses where not given.
    #[serde(default)]
    pub host_ip: Option<Ipv4Addr>,
    /// Which nodes answer.
    #[serde(default)]
    pub mode: PublishMode,
}

impl PortSpec {
    /// A port of all addresses of all nodes.
    pub fn new(protocol: Protocol, published: u16, target: u16) -> Self {
        Self { protocol, published, target, host_ip: None, mode: PublishMode::Ingress }
    }

    /// One node cannot have both: they are one port, of an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        address && (self.protocol, self.published) == (other.protocol, other.published)
    }

    /// Two services cannot have both: some node would have to. Ports of tasks' own nodes are kept apart by placement.
    pub fn clashes(&self, other: &Self) -> bool {
        self.overlaps(other) && (self.mode, other.mode) != (PublishMode::Host, PublishMode::Host)
    }
}

/// As people write it: `8080/tcp`, `127.0.0.1:8080/tcp`.
impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.host_ip {
            write!(f, "{address}:")?;
        }
        write!(f, "{}/{}", self.published, self.protocol)
    }
}

/// Which nodes answer on a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishMode {
    /// Every node, whichever nodes run the tasks.
    #[default]
    Ingress,
    /// Those that run a task, each for its own.
    Host,
}

/// A transport protocol that can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Which task of a service gets a new connection, through a published port or its virtual address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// Any.
    #[default]
    Any,
    /// One on the node that the connection comes to; any where that node has none.
    Local,
    /// The same for all connections of one client address, through whichever node.
    Sticky,
}

impl Routing {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens when a task ends. Source: Compose Deploy Specification, `restart_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// When it is started again.
    pub condition: RestartCondition,
    /// Time before the first restart; further ones of a task that keeps failing back off from it.
    pub delay: Duration,
    /// Give up after so many restarts within the window.
    pub max_attempts: Option<u32>,
    /// The window in which attempts count; without it they count for ever.
    pub window: Option<Duration>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: None,
            window: None,
        }
    }
}

/// When a task that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Never.
    None,
    /// After an exit status other than 0.
    OnFailure,
    /// Always.
    Any,
}

/// How tasks are replaced by those of another version. Source: Compose Deploy Specification, `update_config`; the
/// defaults are Docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatePolicy {
    /// So many slots change at a time; 0 for all.
    pub parallelism: u32,
    /// Time from a task that is ready to the next that is replaced.
    pub delay: Duration,
    /// Which comes first, the end of the old task or the start of the new one.
    pub order: UpdateOrder,
    /// A new task that ends within that time after it came to serve counts as failed; the next one waits for so long,
    /// unless a health check has vouched for it.
    pub monitor: Duration,
    /// What happens when too many have failed.
    pub failure_action: FailureAction,
    /// Of the slots that change, as many may fail.
    pub max_failure_ratio: Ratio,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            order: UpdateOrder::StopFirst,
            monitor: MONITOR,
            failure_action: FailureAction::Pause,
            max_failure_ratio: Ratio(0),
        }
    }
}

impl UpdatePolicy {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How long a new task is watched where the file does not say, or says 0, as in Swarm.
pub const MONITOR: Duration = Duration::from_secs(5);

/// Which comes first when a task is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old task stops, then the new one starts.
    StopFirst,
    /// The new task starts; once connections reach it on every node, the old one stops.
    StartFirst,
}

impl fmt::Display for UpdateOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StopFirst => "stop-first",
            Self::StartFirst => "start-first",
        })
    }
}

impl std::str::FromStr for UpdateOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop-first" => Ok(Self::StopFirst),
            "start-first" => Ok(Self::StartFirst),
            _ => Err("neither `stop-first` nor `start-first`".to_owned()),
        }
    }
}

/// What happens when too many tasks of a new version have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// No further task is replaced.
    Pause,
    /// The others are replaced all the same.
    Continue,
    /// The service goes back to the version before.
    Rollback,
}

impl fmt::Display for FailureAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pause => "pause",
            Self::Continue => "continue",
            Self::Rollback => "rollback",
        })
    }
}

impl std::str::FromStr for FailureAction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pause" => Ok(Self::Pause),
            "continue" => Ok(Self::Continue),
            "rollback" => Ok(Self::Rollback),
            _ => Err("none of `pause`, `continue` and `rollback`".to_owned()),
        }
    }
}

/// A share of a whole, in millionths: 0 to 1,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(pub u32);

impl Ratio {
    /// All of it.
    pub const WHOLE: u32 = 1_000_000;

    /// `part` of `whole` is more than this share.
    pub fn is_exceeded_by(self, part: u32, whole: u32) -> bool {
        u64::from(part) * u64::from(Self::WHOLE) > u64::from(self.0) * u64::from(whole)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&(f64::from(self.0) / f64::from(Self::WHOLE)).to_string())
    }
}

impl std::str::FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => {
                Ok(Self((share * f64::from(Self::WHOLE)).round() as u32))
            }
            Ok(_) => Err("not between 0 and 1".to_owned()),
            Err(_) => Err("not a number such as `0.25`".to_owned()),
        }
    }
}

/// Which nodes may run a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// All of them must hold.
    pub constraints: Vec<Constraint>,
}

/// One condition on a node, such as `node.labels.disk == ssd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// What is looked at.
    pub attribute: NodeAttribute,
    /// Whether it must be equal (`==`) or must not (`!=`).
    pub equal: bool,
    /// The value, compared without regard to case, as Swarm does.
    pub value: String,
}

/// What a constraint can look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAttribute {
    /// `node.id`
    Id,
    /// `node.hostname`
    Hostname,
    /// `node.role`
    Role,
    /// `node.platform.os`
    Os,
    /// `node.platform.arch`
    Arch,
    /// `node.labels.KEY`
    Label(String),
    /// `engine.labels.KEY`
    EngineLabel(String),
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.equal { "==" } else { "!=" };
        write!(f, "{} {sign} {}", self.attribute, self.value)
    }
}

impl fmt::Display for NodeAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("node.id"),
            Self::Hostname => f.write_str("node.hostname"),
            Self::Role => f.write_str("node.role"),
            Self::Os => f.write_str("node.platform.os"),
            Self::Arch => f.write_str("node.platform.arch"),
            Self::Label(key) => write!(f, "node.labels.{key}"),
            Self::EngineLabel(key) => write!(f, "engine.labels.{key}"),
        }
    }
}

/// What a task needs and may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// What the engine holds it to.
    pub limits: Amounts,
    /// What the scheduler sets aside for it.
    pub reservations: Amounts,
    /// Most processes in it.
    pub pids: Option<u32>,
}

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// CPU time.
    pub cpu: Option<CpuMillis>,
    /// Memory.
    pub memory: Option<MemBytes>,
}

/// A network of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether what goes between hosts is encrypted; as the cluster's fabric is, where not given. One that is plain
    /// cannot give more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Its containers reach each other and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Containers that are not the cluster's may be on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attachable: bool,
}

impl NetworkSpec {
    /// What goes between hosts need not be encrypted.
    pub fn is_plain(&self) -> bool {
        self.encrypted == Some(false)
    }
}

/// A named volume of a stack, on the disk of each node that runs a task with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `encrypted` was a switch, and written only where it was on.
    #[test]
    fn networks_of_the_first_version_are_read() {
        let read = |text: &str| serde_json::from_str::<NetworkSpec>(text).unwrap();
        let on = read(r#"{"labels":{},"encrypted":true}"#);
        assert_eq!((on.encrypted, on.is_plain()), (Some(true), false));
        assert_eq!(read(r#"{"labels":{}}"#), NetworkSpec::default());
    }
}
