//! Objects for tests.

use std::collections::BTreeMap;

use raftup_proto::{
    api::{Availability, FabricMode, Managers, NodeState, UpdateState, UpdateStatus},
    id::{BlobId, ClusterId, NetworkId, NodeId, ServiceId, StackId, TaskId, VolumeId},
    peer::{FabricKey, NodeInfo, Platform, Role, TaskState, TaskStatus},
    spec::{
        BlobKind, ContainerSpec, Mode, NetworkSpec, Placement, Resources, RestartPolicy, ServiceSpec,
        VolumeSpec,
    },
    unit::UnixMillis,
};

use crate::model::{
    Blob, ChangeSet, ClusterInfo, Desired, Membership, Meta, Network, Node, Rollout, Sealed, Service, Slot,
    Stack, Task, TokenHashes, Version, Volume,
};

const AT: UnixMillis = UnixMillis(1_700_000_000_000);

pub(crate) fn info() -> ClusterInfo {
    ClusterInfo {
        id: ClusterId::from_random(1),
        meta: Meta::default(),
        pool: "10.64.0.0/11".parse().unwrap(),
        managers: Managers::Auto,
        fabric: FabricMode::Wireguard,
        ca_certificate: vec![1, 2],
        ca_key_sealed: vec![3, 4],
        tokens: TokenHashes { manager: [5; 32], worker: [6; 32], sealed: vec![7] },
        next_node: 2,
        next_member: 2,
        task_history: 1,
        level: Default::default(),
    }
}

pub(crate) fn node(number: u64) -> Node {
    Node {
        id: NodeId::new(number),
        meta: Meta::default(),
        role: Role::Manager,
        pinned: None,
        membership: Some(Membership { member: number }),
        availability: Availability::Active,
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        info: NodeInfo {
            hostname: format!("h{number}"),
            control: format!("10.0.0.{number}:7238").parse().unwrap(),
            underlay: format!("10.0.0.{number}").parse().unwrap(),
            fabric_port: 7239,
            fabric_keys: vec![FabricKey([8; 32])],
            version: "0.1.0".to_owned(),
            level: Default::default(),
            platform: Platform::default(),
            deaf: Vec::new(),
            troubles: Vec::new(),
        },
        attempt: 9,
        state: NodeState::Ready,
        state_message: None,
        state_since: AT,
        fabric_turn: 0,
        fabric: "10.64.0.1".parse().unwrap(),
        blocks: BTreeMap::from([(NetworkId::from_random(3), vec!["10.64.32.0/26".parse().unwrap()])]),
        attached: BTreeMap::from([(NetworkId::from_random(4), "10.64.64.0/26".parse().unwrap())]),
        unaccepted: Default::default(),
    }
}

pub(crate) fn stack(id: u64, name: &str) -> Stack {
    Stack {
        id: StackId::from_random(id),
        meta: Meta::default(),
        name: name.parse().unwrap(),
        credentials_sealed: vec![8],
        removing: false,
    }
}

pub(crate) fn service(id: u64) -> Service {
    let spec = ServiceSpec {
        mode: Mode::Replicated { replicas: 2 },
        container: ContainerSpec { image: "nginx".to_owned(), ..ContainerSpec::default() },
        networks: Vec::new(),
        ports: Vec::new(),
        endpoint_mode: Default::default(),
        restart: RestartPolicy::default(),
        placement: Placement::default(),
        resources: Resources::default(),
        labels: BTreeMap::new(),
        update: Default::default(),
        rollback: Default::default(),
        routing: Default::default(),
        order: Default::default(),
        depends_on: BTreeMap::new(),
        any_ports: Vec::new(),
        build: None,
    };
    Service {
        id: ServiceId::from_random(id),
        meta: Meta::default(),
        stack: StackId::from_random(1),
        stack_name: "shop".parse().unwrap(),
        name: "web".parse().unwrap(),
        versions: vec![Version {
            number: 1,
            containers: 1,
            at: AT,
            image: "nginx@sha256:0".to_owned(),
            spec: spec.into(),
            proven: false,
        }],
        rollout: Some(Rollout {
            status: UpdateStatus {
                state: UpdateState::Completed,
                started: AT,
                completed: Some(AT),
                message: "update completed".to_owned(),
            },
            automatic: false,
            slots: 2,
            failed: [Slot::Replica(1)].into(),
        }),
        networks: vec![NetworkId::from_random(3)],
        vips: BTreeMap::from([(NetworkId::from_random(3), "10.64.63.1".parse().unwrap())]),
        volumes: BTreeMap::from([("data".parse().unwrap(), "shop_data".to_owned())]),
        removing: false,
        waiting: vec!["no node".to_owned()],
    }
}

pub(crate) fn task(id: u64) -> Task {
    Task {
        id: TaskId::from_random(id),
        meta: Meta::default(),
        service: ServiceId::from_random(1),
        version: 1,
        slot: Slot::Replica(1),
        node: Some(NodeId::new(1)),
        networks: vec![(NetworkId::from_random(3), "10.64.32.2".parse().unwrap())],
        desired: Desired::Run,
        status: TaskStatus::new(TaskState::Running, AT).because("healthy"),
        not_before: Some(AT),
        replaces: None,
        ready: Some(AT),
        restarts: 1,
        awaited: false,
    }
}

pub(crate) fn network(id: u64) -> Network {
    Network {
        id: NetworkId::from_random(id),
        meta: Meta::default(),
        stack: Some(StackId::from_random(1)),
        stack_name: Some("shop".parse().unwrap()),
        name: "default".parse().unwrap(),
        subnet: "10.64.32.0/19".parse().unwrap(),
        spec: NetworkSpec::default(),
        removing: false,
        returning: Vec::new(),
    }
}

pub(crate) fn volume(id: u64) -> Volume {
    Volume {
        id: VolumeId::from_random(id),
        meta: Meta::default(),
        stack: StackId::from_random(1),
        stack_name: "shop".parse().unwrap(),
        name: "data".parse().unwrap(),
        spec: VolumeSpec::default(),
    }
}

pub(crate) fn blob(id: u64) -> Blob {
    Blob {
        id: BlobId::from_random(id),
        meta: Meta::default(),
        kind: BlobKind::Secret,
        name: "shop_key".to_owned(),
        stack: Some(StackId::from_random(1)),
        stack_name: Some("shop".parse().unwrap()),
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        sealed: Sealed(vec![9, 200, 255]),
        replaced: false,
    }
}

/// A cluster of one node.
pub(crate) fn first() -> ChangeSet {
    let mut set = ChangeSet::new(AT);
    set.create(info());
    set.create(node(1));
    set
}

/// One object of each kind.
pub(crate) fn everything() -> ChangeSet {
    let mut set = first();
    set.create(stack(1, "shop"));
    set.create(service(1));
    set.create(task(1));
    set.create(network(3));
    set.create(volume(1));
    set
}

/// One more task.
pub(crate) fn one_task(id: u64) -> ChangeSet {
    let mut set = ChangeSet::new(AT);
    set.create(task(id));
    set
}
