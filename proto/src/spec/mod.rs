//! What a user asks for, with every default filled in: the answer of the compose loader, the body of a deploy,
//! and what the cluster keeps.
//!
//! The superset of the Compose Specification's model and of the engine's service model, one module for each subject.
//! Stored as JSON (see [`crate::codec::spec`]): fields may be added with `#[serde(default)]`, never renamed. What is new
//! is left out of the JSON where it says nothing, and [`StackSpec::level`] tells which release understands the rest.

mod blob;
mod build;
mod container;
mod depends;
mod level;
mod limits;
mod mount;
mod namespaces;
mod network;
mod placement;
mod policy;
mod port;
mod privileges;
mod resources;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{BlobName, NetworkName, ServiceName, StackName, VolumeName};

pub use blob::{BlobData, BlobKind, BlobMount, BlobSpec, blob_name};
pub use build::{BuildSecret, BuildSpec};
pub use container::{ContainerSpec, Healthcheck, Hook, Logging, PullPolicy, STOP_GRACE};
pub use depends::{Condition, Dependency};
pub use level::{OPTIONS, PLACEMENT, SECRETS};
pub use limits::{BlockIo, BlockRate, BlockWeight, CpuTuning, MemoryTuning, Swap, Ulimit};
pub use mount::{Mount, MountOptions, MountSource, Recursive, Relabel, SLOT, VolumeConfig, VolumeSpec};
pub use namespaces::{Names, Namespaces};
pub use network::{EndpointSpec, NetworkAttachment, NetworkSpec, Subnet};
pub use placement::{Constraint, NodeAttribute, Placement, ip_range};
pub use policy::{FailureAction, MONITOR, Ratio, RestartCondition, RestartPolicy, UpdateOrder, UpdatePolicy};
pub use port::{AnyPort, PortSpec, Protocol, PublishMode};
pub use privileges::{DeviceMapping, DeviceRequest, Privileges};
pub use resources::{Amounts, Resources};

/// The field says nothing that its absence would not say.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

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
    /// The secrets that its services use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<BlobName, BlobSpec>,
    /// The configs that its services use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<BlobName, BlobSpec>,
}

impl StackSpec {
    /// Its secrets or its configs.
    pub fn blobs(&self, kind: BlobKind) -> &BTreeMap<BlobName, BlobSpec> {
        match kind {
            BlobKind::Secret => &self.secrets,
            BlobKind::Config => &self.configs,
        }
    }
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
    /// In which order its tasks are started, replaced and stopped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub order: SlotOrder,
    /// Services of the stack that its tasks wait for before they are started.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<ServiceName, Dependency>,
    /// Ports in the container that are published on a port of the cluster's choice. The cluster adds what it chose to
    /// `ports`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub any_ports: Vec<AnyPort>,
    /// How its image is built. Kept for tools that build; nodes pull the image.
    #[serde(default, skip_serializing_if = "is_default")]
    pub build: Option<Box<BuildSpec>>,
}

/// In which order the tasks of a replicated service come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotOrder {
    /// All at a time, as far as the policies allow.
    #[default]
    Any,
    /// One after the other: started from the first slot on, each once those before it are ready; replaced and stopped from
    /// the last slot on, each once the one before has ended.
    Slots,
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
    /// Tasks that end: so many have to complete, at most [`MAX_REPLICAS`].
    ReplicatedJob {
        /// The number of slots.
        completions: u32,
        /// So many of them run at a time.
        concurrent: u32,
    },
    /// A task that ends, once on each node that fits.
    GlobalJob,
}

impl Mode {
    /// Its tasks end by themselves, and are not started again once they are complete.
    pub fn is_job(self) -> bool {
        matches!(self, Self::ReplicatedJob { .. } | Self::GlobalJob)
    }

    /// Each node that fits has one slot.
    pub fn is_global(self) -> bool {
        matches!(self, Self::Global | Self::GlobalJob)
    }

    /// The number of slots, where it does not follow from the nodes.
    pub fn slots(self) -> Option<u32> {
        match self {
            Self::Replicated { replicas } => Some(replicas),
            Self::ReplicatedJob { completions, .. } => Some(completions),
            Self::Global | Self::GlobalJob => None,
        }
    }
}

/// As in a compose file.
impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Replicated { .. } => "replicated",
            Self::Global => "global",
            Self::ReplicatedJob { .. } => "replicated-job",
            Self::GlobalJob => "global-job",
        })
    }
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
