//! Objects as version 1 of the format wrote them: by position, so these shapes never change.
//!
//! Enums are those of today, as they only grow at their end. What is read here is written with named fields and read
//! again as today's types, which have a default for every field that came later.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ipnet::Ipv4Net;
use raftup_proto::{
    api::{Availability, FabricMode, Managers, NodeState, UpdateState},
    id::{ClusterId, NetworkId, NodeId, ServiceId, StackId, TaskId, VolumeId},
    name::{NetworkName, ServiceName, StackName, VolumeName},
    peer::{DeafTo, FabricKey, Role, TaskState},
    spec::Protocol,
    unit::{CpuMillis, MemBytes, UnixMillis},
    view::Revision,
};
use serde::{Deserialize, Serialize};

use crate::model::{Desired, ObjectKey, Slot};

#[derive(Serialize, Deserialize)]
pub(super) struct ChangeSet {
    at: UnixMillis,
    changes: Vec<Change>,
}

#[derive(Serialize, Deserialize)]
enum Change {
    Create(Object),
    Update(Object),
    Delete(ObjectKey, Revision),
}

#[derive(Serialize, Deserialize)]
enum Object {
    Cluster(ClusterInfo),
    Node(Node),
    Stack(Stack),
    Service(Service),
    Task(Task),
    Network(Network),
    Volume(Volume),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Cluster {
    revision: Revision,
    info: Option<ClusterInfo>,
    nodes: BTreeMap<NodeId, Node>,
    stacks: BTreeMap<StackId, Stack>,
    services: BTreeMap<ServiceId, Service>,
    tasks: BTreeMap<TaskId, Task>,
    networks: BTreeMap<NetworkId, Network>,
    volumes: BTreeMap<VolumeId, Volume>,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    revision: Revision,
    created: UnixMillis,
    updated: UnixMillis,
}

#[derive(Serialize, Deserialize)]
struct ClusterInfo {
    id: ClusterId,
    meta: Meta,
    pool: Ipv4Net,
    managers: Managers,
    fabric: FabricMode,
    ca_certificate: Vec<u8>,
    ca_key_sealed: Vec<u8>,
    tokens: TokenHashes,
    next_node: u64,
    next_member: u64,
    task_history: u32,
}

#[derive(Serialize, Deserialize)]
struct TokenHashes {
    manager: [u8; 32],
    worker: [u8; 32],
    sealed: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Node {
    id: NodeId,
    meta: Meta,
    role: Role,
    pinned: Option<bool>,
    membership: Option<Membership>,
    availability: Availability,
    labels: BTreeMap<String, String>,
    info: NodeInfo,
    attempt: u64,
    state: NodeState,
    state_message: Option<String>,
    state_since: UnixMillis,
    fabric_turn: u64,
    fabric: Ipv4Addr,
    blocks: BTreeMap<NetworkId, Vec<Ipv4Net>>,
    attached: BTreeMap<NetworkId, Ipv4Net>,
}

#[derive(Serialize, Deserialize)]
struct Membership {
    member: u64,
}

#[derive(Serialize, Deserialize)]
struct NodeInfo {
    hostname: String,
    control: SocketAddr,
    underlay: IpAddr,
    fabric_port: u16,
    fabric_keys: Vec<FabricKey>,
    version: String,
    platform: Platform,
    deaf: Vec<Deaf>,
}

#[derive(Serialize, Deserialize)]
struct Platform {
    os: String,
    arch: String,
    kernel: String,
    engine: Option<String>,
    engine_labels: Vec<String>,
    cpu: CpuMillis,
    memory: MemBytes,
}

#[derive(Serialize, Deserialize)]
struct Deaf {
    protocol: Protocol,
    published: u16,
    host_ip: Option<Ipv4Addr>,
    why: DeafTo,
}

#[derive(Serialize, Deserialize)]
struct Stack {
    id: StackId,
    meta: Meta,
    name: StackName,
    credentials_sealed: Vec<u8>,
    removing: bool,
}

#[derive(Serialize, Deserialize)]
struct Service {
    id: ServiceId,
    meta: Meta,
    stack: StackId,
    stack_name: StackName,
    name: ServiceName,
    versions: Vec<Version>,
    rollout: Option<Rollout>,
    networks: Vec<NetworkId>,
    vips: BTreeMap<NetworkId, Ipv4Addr>,
    volumes: BTreeMap<VolumeName, String>,
    removing: bool,
    waiting: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Version {
    number: u64,
    containers: u64,
    at: UnixMillis,
    image: String,
    /// JSON, as in today's type.
    spec: String,
}

#[derive(Serialize, Deserialize)]
struct Rollout {
    status: UpdateStatus,
    automatic: bool,
    slots: u32,
    failed: BTreeSet<Slot>,
}

#[derive(Serialize, Deserialize)]
struct UpdateStatus {
    state: UpdateState,
    started: UnixMillis,
    completed: Option<UnixMillis>,
    message: String,
}

#[derive(Serialize, Deserialize)]
struct Task {
    id: TaskId,
    meta: Meta,
    service: ServiceId,
    version: u64,
    slot: Slot,
    node: Option<NodeId>,
    networks: Vec<(NetworkId, Ipv4Addr)>,
    desired: Desired,
    status: TaskStatus,
    not_before: Option<UnixMillis>,
    replaces: Option<TaskId>,
    ready: Option<UnixMillis>,
    restarts: u32,
}

#[derive(Serialize, Deserialize)]
struct TaskStatus {
    state: TaskState,
    since: UnixMillis,
    message: Option<String>,
    container: Option<String>,
    exit_code: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct Network {
    id: NetworkId,
    meta: Meta,
    stack: StackId,
    stack_name: StackName,
    name: NetworkName,
    subnet: Ipv4Net,
    /// JSON, as in today's type.
    spec: String,
    removing: bool,
}

#[derive(Serialize, Deserialize)]
struct Volume {
    id: VolumeId,
    meta: Meta,
    stack: StackId,
    stack_name: StackName,
    name: VolumeName,
    /// JSON, as in today's type.
    spec: String,
}
