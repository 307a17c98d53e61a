//! What all objects share, and the changes that can be made to them.

use std::sync::Arc;

use raftup_proto::{
    id::{BlobId, NetworkId, NodeId, ServiceId, StackId, TaskId, VolumeId},
    unit::UnixMillis,
    view::Revision,
};
use serde::{Deserialize, Serialize};

use super::{Blob, ClusterInfo, Network, Node, Service, Stack, Task, Volume};

/// What all objects have. Set by `apply` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Index of the log entry that last changed the object.
    pub revision: Revision,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// Names one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKey {
    /// The one [`ClusterInfo`].
    Cluster,
    /// A node.
    Node(NodeId),
    /// A stack.
    Stack(StackId),
    /// A service.
    Service(ServiceId),
    /// A task.
    Task(TaskId),
    /// A network.
    Network(NetworkId),
    /// A volume.
    Volume(VolumeId),
    /// A secret or config.
    Blob(BlobId),
}

/// One whole object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// Under [`ObjectKey::Cluster`].
    Cluster(Arc<ClusterInfo>),
    /// Under [`ObjectKey::Node`].
    Node(Arc<Node>),
    /// Under [`ObjectKey::Stack`].
    Stack(Arc<Stack>),
    /// Under [`ObjectKey::Service`].
    Service(Arc<Service>),
    /// Under [`ObjectKey::Task`].
    Task(Arc<Task>),
    /// Under [`ObjectKey::Network`].
    Network(Arc<Network>),
    /// Under [`ObjectKey::Volume`].
    Volume(Arc<Volume>),
    /// Under [`ObjectKey::Blob`].
    Blob(Arc<Blob>),
}

impl Object {
    /// The key that the object stands under.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Cluster(_) => ObjectKey::Cluster,
            Self::Node(node) => ObjectKey::Node(node.id),
            Self::Stack(stack) => ObjectKey::Stack(stack.id),
            Self::Service(service) => ObjectKey::Service(service.id),
            Self::Task(task) => ObjectKey::Task(task.id),
            Self::Network(network) => ObjectKey::Network(network.id),
            Self::Volume(volume) => ObjectKey::Volume(volume.id),
            Self::Blob(blob) => ObjectKey::Blob(blob.id),
        }
    }

    /// What it has in common with all others.
    pub fn meta(&self) -> Meta {
        match self {
            Self::Cluster(cluster) => cluster.meta,
            Self::Node(node) => node.meta,
            Self::Stack(stack) => stack.meta,
            Self::Service(service) => service.meta,
            Self::Task(task) => task.meta,
            Self::Network(network) => network.meta,
            Self::Volume(volume) => volume.meta,
            Self::Blob(blob) => blob.meta,
        }
    }
}

macro_rules! from_object {
    ($($name:ident => $variant:ident),*) => {
        $(impl From<$name> for Object {
            fn from(object: $name) -> Self {
                Self::$variant(Arc::new(object))
            }
        })*
    };
}

from_object!(
    ClusterInfo => Cluster, Node => Node, Stack => Stack, Service => Service, Task => Task, Network => Network,
    Volume => Volume, Blob => Blob
);

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The object is new. Refused if its key is taken.
    Create(Object),
    /// The object takes the place of the one it was made from: its `meta.revision` must still be the current one.
    Update(Object),
    /// The object is gone. Refused if its revision is not the current one.
    Delete(ObjectKey, Revision),
}

impl Change {
    /// The object that changes.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Create(object) | Self::Update(object) => object.key(),
            Self::Delete(key, _) => *key,
        }
    }
}

/// Names a client's request: the same bytes asked again under the same id have the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestKey(pub [u8; 16]);

/// A client's request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// The request.
    pub request: RequestKey,
    /// What was answered, JSON; empty where that was too long to keep.
    pub answer: String,
}

/// Changes that are made together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// The cluster's clock when the leader made the set.
    pub at: UnixMillis,
    /// The state that it was worked out from: it is refused in any other. None in the first set of a cluster.
    #[serde(default)]
    pub base: Option<Revision>,
    /// The client's request that it carries out: it is refused if that was done before.
    #[serde(default)]
    pub handled: Option<Handled>,
    /// What is changed; no object twice.
    pub changes: Vec<Change>,
}

impl ChangeSet {
    /// An empty set, made at `at`.
    pub fn new(at: UnixMillis) -> Self {
        Self { at, ..Self::default() }
    }

    /// Nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds a new object.
    pub fn create(&mut self, object: impl Into<Object>) {
        self.changes.push(Change::Create(object.into()));
    }

    /// Adds a new version of an object.
    pub fn update(&mut self, object: impl Into<Object>) {
        self.changes.push(Change::Update(object.into()));
    }

    /// Removes an object, as it is in `meta`.
    pub fn delete(&mut self, key: ObjectKey, meta: Meta) {
        self.changes.push(Change::Delete(key, meta.revision));
    }
}
