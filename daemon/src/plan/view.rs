//! What each node is told, item by item.
//!
//! Owns: which part of the state a node sees, and which change of state touches which item. Leaves alone: sending.
//! Holds: an item is a function of the cluster, the node and the key; a node sees no task but its own.
//!
//! A service and each of its endpoints are items of their own: a change of one task moves one small item on all nodes.
//! An endpoint is listed from the moment that its task runs until it has ended, and is ready while the task should run
//! and its node is not down: a route loses an endpoint on suspicion, never the task itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use raftup_proto::{
    api::{FabricMode, NodeState},
    id::{NodeId, ServiceId},
    peer::TaskState,
    spec::{EndpointMode, PortSpec, SLOT},
    view::{
        ClusterItem, Endpoint, Goal, Item, Key, NetworkItem, PeerItem, Revision, RouteItem, ServiceAddress,
        TaskItem, ViewUpdate,
    },
};

use crate::model::{Cluster, ClusterInfo, Desired, Node, ObjectKey, Service, Task, Version};

use super::World;

/// The item under `key` in the view of `node`; none if it has no such item.
pub fn item(world: &World, node: NodeId, key: Key) -> Option<Item> {
    let cluster = world.cluster();
    let info = cluster.info.as_ref();
    match key {
        Key::Cluster => info.map(|info| Item::Cluster(settings(info))),
        Key::Peer(id) => cluster.nodes.get(&id).map(|node| Item::Peer(peer(node))),
        Key::Network(id) => cluster.networks.get(&id).map(|network| {
            Item::Network(NetworkItem {
                network: id,
                stack: network.stack_name.clone(),
                name: network.name.clone(),
                subnet: network.subnet,
                internal: network.spec.internal,
                attachable: network.spec.attachable,
                plain: network.spec.is_plain()
                    && info.is_some_and(|info| info.fabric == FabricMode::Wireguard),
            })
        }),
        Key::Route(id) => {
            let service = cluster.services.get(&id).filter(|service| !service.removing)?;
            Some(Item::Route(route(service)))
        }
        Key::Endpoint(id, _, task) => {
            let service = cluster.services.get(&id).filter(|service| !service.removing)?;
            let task = cluster.tasks.get(&task).filter(|task| task.service == id)?;
            Some(Item::Endpoint(id, endpoint(world, service, task)?))
        }
        Key::Task(id) => {
            let task = cluster.tasks.get(&id).filter(|task| task.node == Some(node))?;
            let service = cluster.services.get(&task.service)?;
            Some(Item::Task(Box::new(task_item(task, service, service.version(task.version)?))))
        }
    }
}

/// The keys that every node's view has.
pub fn shared_keys(cluster: &Cluster) -> impl Iterator<Item = Key> {
    std::iter::once(Key::Cluster)
        .chain(cluster.nodes.keys().copied().map(Key::Peer))
        .chain(cluster.networks.keys().copied().map(Key::Network))
        .chain(cluster.services.keys().copied().map(Key::Route))
        .chain(cluster.tasks.values().map(|task| endpoint_key(task)))
}

/// The key of a task as an endpoint of its service, whether it is one or not.
pub fn endpoint_key(task: &Task) -> Key {
    Key::Endpoint(task.service, task.slot.number(), task.id)
}

/// All keys of the view of `node`.
pub fn keys(world: &World, node: NodeId) -> Vec<Key> {
    let own = world.tasks_on(node).map(|task| Key::Task(task.id));
    shared_keys(world.cluster()).chain(own).collect()
}

/// What a node needs before its first session: the settings and the nodes. Older than all views, so that it counts as
/// none of them.
pub fn first(cluster: &Cluster) -> ViewUpdate {
    let settings = cluster.info.iter().map(|info| Item::Cluster(settings(info)));
    let peers = cluster.nodes.values().map(|node| Item::Peer(peer(node)));
    ViewUpdate {
        base: None,
        generation: Revision::default(),
        put: settings.chain(peers).collect(),
        remove: Vec::new(),
    }
}

/// The whole view of `node`, as an update that replaces whatever it holds. Cost: one pass over everything.
pub fn full(world: &World, node: NodeId) -> ViewUpdate {
    ViewUpdate {
        base: None,
        generation: world.cluster().revision,
        put: keys(world, node).into_iter().filter_map(|key| item(world, node, key)).collect(),
        remove: Vec::new(),
    }
}

/// Items that a change of state may have touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// In every node's view.
    pub shared: BTreeSet<Key>,
    /// In one node's view only.
    pub own: BTreeMap<NodeId, BTreeSet<Key>>,
}

/// What the way from `before` to `after`, which differ in no more than `keys`, may have touched. Some of it may have
/// come out as it was.
pub fn touched(before: &World, after: &World, keys: &[ObjectKey]) -> Touched {
    let mut touched = Touched::default();
    for key in keys {
        match *key {
            ObjectKey::Cluster => _ = touched.shared.insert(Key::Cluster),
            ObjectKey::Node(id) => {
                touched.shared.insert(Key::Peer(id));
                let alive = |world: &World| world.cluster().nodes.get(&id).is_some_and(|node| is_alive(node));
                if alive(before) != alive(after) {
                    let tasks = [before, after].into_iter().flat_map(|world| world.tasks_on(id));
                    touched.shared.extend(tasks.map(|task| endpoint_key(task)));
                }
            }
            ObjectKey::Network(id) => _ = touched.shared.insert(Key::Network(id)),
            ObjectKey::Service(id) => {
                touched.shared.insert(Key::Route(id));
                if endpoints_differ(service(before, id), service(after, id)) {
                    let tasks = [before, after].into_iter().flat_map(|world| world.tasks_of(id));
                    touched.shared.extend(tasks.map(|task| endpoint_key(task)));
                }
            }
            ObjectKey::Task(id) => {
                for world in [before, after] {
                    let Some(task) = world.cluster().tasks.get(&id) else { continue };
                    touched.shared.insert(endpoint_key(task));
                    if let Some(node) = task.node {
                        touched.own.entry(node).or_default().insert(Key::Task(id));
                    }
                }
            }
            ObjectKey::Stack(_) | ObjectKey::Volume(_) | ObjectKey::Blob(_) => {}
        }
    }
    touched
}

fn service(world: &World, id: ServiceId) -> Option<&Arc<Service>> {
    world.cluster().services.get(&id)
}

/// A change of the service itself may change its endpoints: they come and go with it, and have the ports of the version
/// that they were made from. Versions never change.
fn endpoints_differ(before: Option<&Arc<Service>>, after: Option<&Arc<Service>>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => {
            let kept = |version: &Version| after.version(version.number).is_some();
            before.removing != after.removing || !before.versions.iter().all(kept)
        }
        (before, after) => before.is_some() != after.is_some(),
    }
}

/// New connections may be led to the node: it is not down.
fn is_alive(node: &Node) -> bool {
    node.state != NodeState::Down
}

fn settings(info: &ClusterInfo) -> ClusterItem {
    ClusterItem { pool: info.pool, fabric: info.fabric }
}

fn peer(node: &Node) -> PeerItem {
    let mut blocks: Vec<_> = node.blocks.values().flatten().copied().collect();
    blocks.sort_unstable();
    let mut attached: Vec<_> = node.attached.values().copied().collect();
    attached.sort_unstable();
    PeerItem {
        node: node.id,
        hostname: node.info.hostname.clone(),
        control: node.info.control,
        underlay: node.info.underlay,
        fabric_port: node.info.fabric_port,
        fabric_keys: node.info.fabric_keys.clone(),
        fabric_turn: node.fabric_turn,
        fabric: node.fabric,
        manager: node.membership.is_some(),
        alive: is_alive(node),
        blocks,
        attached,
    }
}

fn route(service: &Service) -> RouteItem {
    let spec = &service.current().spec;
    let aliases = |index: usize| spec.networks.get(index).map(|on| on.aliases.clone()).unwrap_or_default();
    let networks = service.networks.iter().enumerate().filter_map(|(index, id)| {
        let vip = service.vips.get(id).copied();
        let complete = vip.is_some() || spec.endpoint_mode == EndpointMode::Dnsrr;
        complete.then(|| (*id, ServiceAddress { vip, aliases: aliases(index) }))
    });
    RouteItem {
        service: service.id,
        stack: service.stack_name.clone(),
        name: service.name.clone(),
        networks: networks.collect(),
        ports: spec.ingress_ports().copied().collect(),
        routing: spec.routing,
    }
}

fn endpoint(world: &World, service: &Service, task: &Task) -> Option<Endpoint> {
    let node = task.node.filter(|_| task.status.state == TaskState::Running && !task.networks.is_empty())?;
    Some(Endpoint {
        task: task.id,
        slot: task.slot.number(),
        node,
        addresses: task.networks.clone(),
        ready: task.is_ready() && !task.status.is_unhealthy() && world.live_node(task).is_some(),
        host_ports: host_ports(service, task).copied().collect(),
    })
}

/// The ports of its own node that a task has, by the version that it was made from.
fn host_ports<'a>(service: &'a Service, task: &Task) -> impl Iterator<Item = &'a PortSpec> {
    service.version(task.version).into_iter().flat_map(|version| version.spec.host_ports())
}

fn task_item(task: &Task, service: &Service, version: &Version) -> TaskItem {
    let runs = match task.desired {
        Desired::Run | Desired::Drain => !task.status.state.is_over(),
        Desired::Stop | Desired::Remove => false,
    };
    let spec = &version.spec;
    let mut container = spec.container.clone();
    for name in container.mounts.iter_mut().filter_map(|mount| mount.options.volume.name.as_mut()) {
        *name = name.replace(SLOT, &task.slot.number().to_string());
    }
    // By the version's own mounts: the service's map is that of the newest.
    let volumes = container.mounts.iter().filter_map(|mount| mount.volume(&service.stack_name));
    TaskItem {
        task: task.id,
        service: service.id,
        stack: service.stack_name.clone(),
        name: service.name.clone(),
        slot: task.slot.number(),
        goal: if runs { Goal::Run } else { Goal::Stop },
        image: version.image.clone(),
        resources: spec.resources.clone(),
        networks: task.networks.clone(),
        volumes: volumes.collect(),
        container,
    }
}
