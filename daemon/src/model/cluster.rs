//! The whole state, and the one object about the cluster itself.

use std::sync::Arc;

use imbl::OrdMap;
use ipnet::Ipv4Net;
use raftup_proto::{
    api::{FabricMode, Managers},
    id::{BlobId, ClusterId, NetworkId, NodeId, ServiceId, StackId, TaskId, VolumeId},
    peer::Level,
    unit::UnixMillis,
    view::Revision,
};
use serde::{Deserialize, Serialize};

use super::{
    Blob, Handled, Meta, Network, Node, Object, ObjectKey, RequestKey, Service, Stack, Task, Volume,
};

/// All objects. Cloning costs a few pointers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Index of the last log entry that it holds.
    pub revision: Revision,
    /// None until the first entry of the log, written by `init`.
    pub info: Option<Arc<ClusterInfo>>,
    /// The nodes.
    pub nodes: OrdMap<NodeId, Arc<Node>>,
    /// The stacks.
    pub stacks: OrdMap<StackId, Arc<Stack>>,
    /// The services.
    pub services: OrdMap<ServiceId, Arc<Service>>,
    /// The tasks, those of the history included.
    pub tasks: OrdMap<TaskId, Arc<Task>>,
    /// The networks.
    pub networks: OrdMap<NetworkId, Arc<Network>>,
    /// The volumes.
    pub volumes: OrdMap<VolumeId, Arc<Volume>>,
    /// The cluster's clock at the newest entry. It only moves forwards, whatever the clocks of its leaders say.
    #[serde(default)]
    pub clock: UnixMillis,
    /// Clients' requests that were carried out lately, by revision.
    #[serde(default)]
    pub handled: OrdMap<Revision, Arc<Handled>>,
    /// The secrets and configs, those included that services may go back to.
    #[serde(default)]
    pub blobs: OrdMap<BlobId, Arc<Blob>>,
}

impl Cluster {
    /// What became of a client's request, and the revision that it made; none if it was not carried out lately.
    /// Cost: one pass over the requests that are remembered.
    pub fn handled(&self, request: RequestKey) -> Option<(Revision, &Handled)> {
        let mut all = self.handled.iter().rev();
        all.find(|(_, handled)| handled.request == request).map(|(revision, handled)| (*revision, &**handled))
    }

    /// The object under `key`.
    pub fn get(&self, key: ObjectKey) -> Option<Object> {
        match key {
            ObjectKey::Cluster => self.info.clone().map(Object::Cluster),
            ObjectKey::Node(id) => self.nodes.get(&id).cloned().map(Object::Node),
            ObjectKey::Stack(id) => self.stacks.get(&id).cloned().map(Object::Stack),
            ObjectKey::Service(id) => self.services.get(&id).cloned().map(Object::Service),
            ObjectKey::Task(id) => self.tasks.get(&id).cloned().map(Object::Task),
            ObjectKey::Network(id) => self.networks.get(&id).cloned().map(Object::Network),
            ObjectKey::Volume(id) => self.volumes.get(&id).cloned().map(Object::Volume),
            ObjectKey::Blob(id) => self.blobs.get(&id).cloned().map(Object::Blob),
        }
    }

    /// The tasks of a service, history included, by id. Cost: one pass over all tasks.
    pub fn tasks_of(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().filter(move |task| task.service == service)
    }

    /// The tasks on a node, history included, by id. Cost: one pass over all tasks.
    pub fn tasks_on(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().filter(move |task| task.node == Some(node))
    }
}

/// Settings and counters of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Its id.
    pub id: ClusterId,
    /// See [`Meta`].
    pub meta: Meta,
    /// All addresses of networks, VIPs and the fabric come from here.
    pub pool: Ipv4Net,
    /// How many managers it keeps.
    pub managers: Managers,
    /// What nodes send each other packets of containers through.
    pub fabric: FabricMode,
    /// Certificate of its authority, DER.
    pub ca_certificate: Vec<u8>,
    /// Private key of its authority, sealed with the managers' key.
    pub ca_key_sealed: Vec<u8>,
    /// What is kept of the join tokens.
    pub tokens: TokenHashes,
    /// Number of the next node.
    pub next_node: u64,
    /// Number of the next member of Raft; a node gets a fresh one each time that it becomes a manager.
    pub next_member: u64,
    /// Ended tasks that are kept for each slot.
    pub task_history: u32,
    /// What every node understands: nothing is written that needs more.
    #[serde(default)]
    pub level: Level,
}

/// The join tokens: their digests, to check one, and themselves sealed, to show them again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenHashes {
    /// SHA-256 of the secret of the manager token.
    pub manager: [u8; 32],
    /// SHA-256 of the secret of the worker token.
    pub worker: [u8; 32],
    /// Both secrets, manager first, sealed with the managers' key.
    pub sealed: Vec<u8>,
}
