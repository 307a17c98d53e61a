//! The cluster with the indexes that make a decision cost what changed, not what is there.
//!
//! Owns: which tasks belong to a service or a node, and what they hold of it. Leaves alone: every decision.
//! Holds: the indexes are a function of the cluster; `set` keeps them so, one object at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
    sync::Arc,
};

use imbl::{OrdMap, OrdSet};
use ipnet::Ipv4Net;
use raftup_proto::{
    api::NodeState,
    id::{NetworkId, NodeId, ServiceId, StackId, TaskId},
    name::ServiceName,
    spec::{Amounts, Dependency},
    unit::{CpuMillis, MemBytes},
};

use crate::model::{Cluster, Desired, Network, Node, Object, ObjectKey, Service, Slot, Task};

/// A cluster and its indexes. Cloning costs a few pointers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    cluster: Cluster,
    by_service: OrdMap<ServiceId, OrdMap<(Slot, TaskId), Arc<Task>>>,
    by_stack: OrdSet<(StackId, ServiceId)>,
    /// The services that wait for another one of their stack, by the name of that one (`depends_on`).
    dependents: OrdSet<(StackId, ServiceName, ServiceId)>,
    /// The services that keep apart from another one of their stack, by the name of that one.
    apart: OrdSet<(StackId, ServiceName, ServiceId)>,
    by_node: OrdMap<NodeId, OrdSet<TaskId>>,
    held: OrdMap<TaskId, Held>,
    usage: OrdMap<NodeId, Usage>,
    pending: OrdSet<(ServiceId, TaskId)>,
    handing_over: OrdSet<(ServiceId, TaskId)>,
    /// The tasks that should run and are to replace another: that one first.
    successors: OrdSet<(TaskId, TaskId)>,
    /// The addresses that tasks have on networks; those of tasks that are over last.
    addresses: OrdSet<(NetworkId, Ipv4Addr, Over, TaskId)>,
    /// Tasks with an address that an older task has as well. None, but for what an older release left.
    clashing: OrdSet<(ServiceId, TaskId)>,
    /// The blocks that nodes have of networks.
    blocks: OrdMap<(NetworkId, Ipv4Net), NodeId>,
    /// Networks with blocks that were given back and may still be routed to the nodes that had them.
    returning: OrdSet<NetworkId>,
    /// Networks that are being removed.
    leaving: OrdSet<(Option<StackId>, NetworkId)>,
    global: OrdSet<ServiceId>,
    waiting: OrdSet<ServiceId>,
}

/// A task has ended: it holds no address any more.
type Over = bool;

/// What a task takes of its node.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    node: NodeId,
    reserved: Amounts,
    generic: BTreeMap<String, u64>,
}

/// What the tasks of a node take of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tasks that may hold a container there.
    pub tasks: u32,
    /// Memory that they reserve.
    pub memory: MemBytes,
    /// CPU time that they reserve.
    pub cpu: CpuMillis,
    /// Generic resources that they reserve, by kind; none of which nothing is reserved.
    pub generic: BTreeMap<String, u64>,
}

/// Nothing is taken.
static UNUSED: Usage = Usage { tasks: 0, memory: MemBytes(0), cpu: CpuMillis(0), generic: BTreeMap::new() };

/// What a change of state makes worth looking at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agenda {
    /// Services.
    pub services: BTreeSet<ServiceId>,
    /// Stacks, with their networks and volumes.
    pub stacks: BTreeSet<StackId>,
    /// Networks of no stack.
    pub networks: BTreeSet<NetworkId>,
}

impl Agenda {
    /// Nothing is to be looked at.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.stacks.is_empty() && self.networks.is_empty()
    }

    /// Everything in `cluster`.
    pub fn everything(cluster: &Cluster) -> Self {
        let alone = cluster.networks.values().filter(|network| network.stack.is_none());
        Self {
            services: cluster.services.keys().copied().collect(),
            stacks: cluster.stacks.keys().copied().collect(),
            networks: alone.map(|network| network.id).collect(),
        }
    }

    /// Adds what `other` has.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.stacks.extend(other.stacks);
        self.networks.extend(other.networks);
    }
}

impl World {
    /// Indexes all of `cluster`. Cost: one pass.
    pub fn new(cluster: Cluster) -> Self {
        let mut world = Self { cluster, ..Self::default() };
        for service in world.cluster.services.clone().values() {
            world.index_service(None, Some(service));
        }
        for node in world.cluster.nodes.clone().values() {
            world.index_node(None, Some(node));
        }
        for network in world.cluster.networks.clone().values() {
            world.index_network(None, Some(network));
        }
        for task in world.cluster.tasks.clone().values() {
            world.index_task(None, Some(task));
        }
        world
    }

    /// What is indexed.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Moves on to `after`, which differs in no more than `keys` (any order, repeats allowed), and says what is worth
    /// looking at now. Cost: by the number of keys, and of services that wait where resources came free.
    pub fn advance(&mut self, after: &Cluster, keys: &[ObjectKey]) -> Agenda {
        let mut agenda = Agenda::default();
        // In the order of keys services come before tasks, whose reservations are looked up in them.
        for key in keys.iter().copied().collect::<BTreeSet<_>>() {
            let (old, new) = (self.cluster.get(key), after.get(key));
            if old != new {
                self.note(&mut agenda, old.as_ref(), new.as_ref());
                self.set(key, new);
            }
        }
        self.cluster = after.clone();
        agenda
    }

    /// Puts one object in place, or takes it away.
    pub(super) fn set(&mut self, key: ObjectKey, new: Option<Object>) {
        let cluster = &mut self.cluster;
        match (key, new) {
            (ObjectKey::Service(id), Some(Object::Service(new))) => {
                let old = cluster.services.insert(id, new.clone());
                self.index_service(old.as_ref(), Some(&new));
            }
            (ObjectKey::Service(id), _) => {
                let old = cluster.services.remove(&id);
                self.index_service(old.as_ref(), None);
            }
            (ObjectKey::Task(id), Some(Object::Task(new))) => {
                let old = cluster.tasks.insert(id, new.clone());
                self.index_task(old.as_ref(), Some(&new));
            }
            (ObjectKey::Task(id), _) => {
                let old = cluster.tasks.remove(&id);
                self.index_task(old.as_ref(), None);
            }
            (ObjectKey::Node(id), Some(Object::Node(new))) => {
                let old = cluster.nodes.insert(id, new.clone());
                self.index_node(old.as_ref(), Some(&new));
            }
            (ObjectKey::Node(id), _) => {
                let old = cluster.nodes.remove(&id);
                self.index_node(old.as_ref(), None);
            }
            (ObjectKey::Network(id), Some(Object::Network(new))) => {
                let old = cluster.networks.insert(id, new.clone());
                self.index_network(old.as_ref(), Some(&new));
            }
            (ObjectKey::Network(id), _) => {
                let old = cluster.networks.remove(&id);
                self.index_network(old.as_ref(), None);
            }
            (ObjectKey::Cluster, Some(Object::Cluster(new))) => cluster.info = Some(new),
            (ObjectKey::Cluster, _) => cluster.info = None,
            (ObjectKey::Stack(id), Some(Object::Stack(new))) => _ = cluster.stacks.insert(id, new),
            (ObjectKey::Stack(id), _) => _ = cluster.stacks.remove(&id),
            (ObjectKey::Volume(id), Some(Object::Volume(new))) => _ = cluster.volumes.insert(id, new),
            (ObjectKey::Volume(id), _) => _ = cluster.volumes.remove(&id),
            (ObjectKey::Blob(id), Some(Object::Blob(new))) => _ = cluster.blobs.insert(id, new),
            (ObjectKey::Blob(id), _) => _ = cluster.blobs.remove(&id),
        }
    }

    /// The tasks of a service, history included, by slot, then id.
    pub fn tasks_of(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.by_service.get(&service).into_iter().flat_map(|tasks| tasks.values())
    }

    /// How many tasks a service has, history included.
    pub(super) fn count_of(&self, service: ServiceId) -> usize {
        self.by_service.get(&service).map_or(0, |tasks| tasks.len())
    }

    /// The tasks of one slot of a service, history included, by id.
    pub(super) fn tasks_in(&self, service: ServiceId, slot: Slot) -> impl Iterator<Item = &Arc<Task>> {
        let of_slot = (slot, TaskId::MIN)..=(slot, TaskId::MAX);
        let tasks = self.by_service.get(&service).into_iter();
        tasks.flat_map(move |tasks| tasks.range(of_slot.clone())).map(|(_, task)| task)
    }

    /// The tasks that should run and are to replace `task`: one at most.
    pub(super) fn successors(&self, task: TaskId) -> impl Iterator<Item = &Arc<Task>> {
        let of_task = (task, TaskId::MIN)..=(task, TaskId::MAX);
        self.successors.range(of_task).filter_map(|(_, id)| self.cluster.tasks.get(id))
    }

    /// The tasks of a service with an address that an older task has as well.
    pub(super) fn clashing(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        let of_service = (service, TaskId::MIN)..=(service, TaskId::MAX);
        self.clashing.range(of_service).filter_map(|(_, id)| self.cluster.tasks.get(id))
    }

    /// The services that depend on this one.
    pub(super) fn dependents(&self, on: &Service) -> impl Iterator<Item = ServiceId> {
        let least = (on.stack, on.name.clone(), ServiceId::MIN);
        let most = (on.stack, on.name.clone(), ServiceId::MAX);
        self.dependents.range(least..=most).map(|(_, _, id)| *id)
    }

    /// The services that keep apart from this one.
    pub(super) fn keeping_apart_from(&self, service: &Service) -> impl Iterator<Item = &Arc<Service>> {
        let least = (service.stack, service.name.clone(), ServiceId::MIN);
        let most = (service.stack, service.name.clone(), ServiceId::MAX);
        self.apart.range(least..=most).filter_map(|(_, _, id)| self.cluster.services.get(id))
    }

    /// The service of that name in a stack. Cost: by the services of the stack.
    pub(super) fn service_named(&self, stack: StackId, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services_of(stack).find(|service| service.name == *name)
    }

    /// The services of a stack, by id.
    pub(super) fn services_of(&self, stack: StackId) -> impl Iterator<Item = &Arc<Service>> {
        let of_stack = (stack, ServiceId::MIN)..=(stack, ServiceId::MAX);
        self.by_stack.range(of_stack).filter_map(|(_, id)| self.cluster.services.get(id))
    }

    /// The networks that are being removed, with their stacks.
    pub(super) fn leaving(&self) -> impl Iterator<Item = (Option<StackId>, NetworkId)> {
        self.leaving.iter().copied()
    }

    /// The networks with blocks that were given back and may still be routed to the nodes that had them.
    pub(super) fn returning(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.returning.iter().filter_map(|id| self.cluster.networks.get(id))
    }

    /// The blocks of a network that nodes have, by address, with the nodes.
    pub(super) fn blocks_of(&self, network: NetworkId) -> impl Iterator<Item = (Ipv4Net, NodeId)> {
        let (first, last) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        let of_network = (network, Ipv4Net::new_assert(first, 0))..=(network, Ipv4Net::new_assert(last, 32));
        self.blocks.range(of_network).map(|((_, block), node)| (*block, *node))
    }

    /// The addresses in `range` that tasks have on a network, by address, and whether the task is over.
    pub(super) fn addresses_in(
        &self,
        network: NetworkId,
        range: RangeInclusive<Ipv4Addr>,
    ) -> impl Iterator<Item = (Ipv4Addr, bool)> {
        let least = (network, *range.start(), false, TaskId::MIN);
        let most = (network, *range.end(), true, TaskId::MAX);
        self.addresses.range(least..=most).map(|(_, address, over, _)| (*address, *over))
    }

    /// The tasks on a node, history included, by id.
    pub fn tasks_on(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let ids = self.by_node.get(&node);
        ids.into_iter().flat_map(|ids| ids.iter()).filter_map(|id| self.cluster.tasks.get(id))
    }

    /// What the tasks of a node take of it.
    pub fn usage(&self, node: NodeId) -> &Usage {
        self.usage.get(&node).unwrap_or(&UNUSED)
    }

    /// The node of a task, unless it is down or gone.
    pub fn live_node(&self, task: &Task) -> Option<&Arc<Node>> {
        self.cluster.nodes.get(&task.node?).filter(|node| node.state != NodeState::Down)
    }

    /// Services with a task that waits for routes to be in force: it takes no new connections and is not told to stop yet,
    /// is to replace another, or has no node while blocks of a network are on their way back.
    pub fn handing_over(&self) -> BTreeSet<ServiceId> {
        let pending = self.pending.iter().filter(|_| !self.returning.is_empty());
        self.handing_over.iter().chain(pending).map(|(service, _)| *service).collect()
    }

    fn index_service(&mut self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        if let Some(old) = old {
            self.global.remove(&old.id);
            self.waiting.remove(&old.id);
        }
        if old.map(depends_on) != new.map(depends_on) {
            let key = |service: &Arc<Service>, name: &ServiceName| (service.stack, name.clone(), service.id);
            if let Some(old) = old {
                depends_on(old).keys().for_each(|name| _ = self.dependents.remove(&key(old, name)));
            }
            if let Some(new) = new {
                self.dependents.extend(depends_on(new).keys().map(|name| key(new, name)));
            }
        }
        if old.map(apart_from) != new.map(apart_from) {
            let key = |service: &Arc<Service>, name: &ServiceName| (service.stack, name.clone(), service.id);
            if let Some(old) = old {
                apart_from(old).iter().for_each(|name| _ = self.apart.remove(&key(old, name)));
            }
            if let Some(new) = new {
                self.apart.extend(apart_from(new).iter().map(|name| key(new, name)));
            }
        }
        match (old, new) {
            (None, Some(new)) => _ = self.by_stack.insert((new.stack, new.id)),
            (Some(old), None) => _ = self.by_stack.remove(&(old.stack, old.id)),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if let Some(new) = new
            && new.current().spec.mode.is_global()
        {
            self.global.insert(new.id);
        }
        if let Some(new) = new.filter(|new| !new.waiting.is_empty()) {
            self.waiting.insert(new.id);
        }
    }

    fn index_node(&mut self, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>) {
        let same = |old: &Node, new: &Node| old.blocks == new.blocks && old.attached == new.attached;
        if old.zip(new).is_some_and(|(old, new)| same(old, new)) {
            return;
        }
        if let Some(old) = old {
            for block in
                blocks(old).filter(|block| self.blocks.get(block) == Some(&old.id)).collect::<Vec<_>>()
            {
                self.blocks.remove(&block);
            }
        }
        if let Some(new) = new {
            self.blocks.extend(blocks(new).map(|block| (block, new.id)));
        }
    }

    fn index_network(&mut self, old: Option<&Arc<Network>>, new: Option<&Arc<Network>>) {
        if let Some(old) = old {
            self.leaving.remove(&(old.stack, old.id));
            self.returning.remove(&old.id);
        }
        if let Some(new) = new.filter(|new| new.removing) {
            self.leaving.insert((new.stack, new.id));
        }
        if let Some(new) = new.filter(|new| !new.returning.is_empty()) {
            self.returning.insert(new.id);
        }
    }

    fn index_task(&mut self, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>) {
        if let Some(new) = new {
            self.by_service.entry(new.service).or_default().insert((new.slot, new.id), new.clone());
        }
        if let Some(old) = old.filter(|old| new.is_none_or(|new| place(old) != place(new)))
            && let Some(tasks) = self.by_service.get_mut(&old.service)
        {
            tasks.remove(&(old.slot, old.id));
            if tasks.is_empty() {
                self.by_service.remove(&old.service);
            }
        }
        let node = |task: &Arc<Task>| task.node;
        if old.and_then(node) != new.and_then(node) {
            if let Some((task, node)) = old.and_then(|old| Some((old.id, old.node?))) {
                drop_member(&mut self.by_node, node, task);
            }
            if let Some((task, node)) = new.and_then(|new| Some((new.id, new.node?))) {
                self.by_node.entry(node).or_default().insert(task);
            }
        }
        differ(&mut self.pending, old.and_then(pending), new.and_then(pending));
        differ(&mut self.handing_over, old.and_then(handing_over), new.and_then(handing_over));
        differ(&mut self.successors, old.and_then(successor), new.and_then(successor));
        self.index_reservation(old, new);
        self.index_addresses(old, new);
    }

    /// What was counted is taken back as it was counted: the service may be gone by now.
    fn index_reservation(&mut self, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>) {
        let on = |task: &Arc<Task>| task.node.filter(|_| task.holds_node()).map(|node| (node, task.version));
        if old.and_then(on) == new.and_then(on) {
            return;
        }
        if let Some(old) = old
            && let Some(Held { node, reserved, generic }) = self.held.remove(&old.id)
        {
            let usage = self.usage.entry(node).or_default();
            for (kind, count) in generic {
                if let Some(left) = usage.generic.remove(&kind).map(|known| known - count)
                    && left > 0
                {
                    usage.generic.insert(kind, left);
                }
            }
            usage.tasks -= 1;
            usage.memory.0 -= reserved.memory.unwrap_or_default().0;
            usage.cpu.0 -= reserved.cpu.unwrap_or_default().0;
            if *usage == Usage::default() {
                self.usage.remove(&node);
            }
        }
        if let Some((new, (node, _))) = new.and_then(|new| Some((new, on(new)?))) {
            let service = self.cluster.services.get(&new.service);
            let version = service.and_then(|service| service.version(new.version));
            let resources = version.map(|version| version.spec.resources.clone()).unwrap_or_default();
            let (reserved, generic) = (resources.reservations, resources.generic);
            let usage = self.usage.entry(node).or_default();
            for (kind, count) in &generic {
                *usage.generic.entry(kind.clone()).or_default() += count;
            }
            self.held.insert(new.id, Held { node, reserved, generic });
            usage.tasks += 1;
            usage.memory.0 += reserved.memory.unwrap_or_default().0;
            usage.cpu.0 += reserved.cpu.unwrap_or_default().0;
        }
    }

    fn index_addresses(&mut self, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>) {
        let same = |old: &Task, new: &Task| {
            old.networks == new.networks && old.status.state.is_over() == new.status.state.is_over()
        };
        if old.zip(new).is_some_and(|(old, new)| same(old, new)) {
            return;
        }
        if let Some(task) = old {
            for (network, address) in &task.networks {
                self.addresses.remove(&(*network, *address, task.status.state.is_over(), task.id));
                self.find_clashes(*network, *address);
            }
            self.clashing.remove(&(task.service, task.id));
        }
        if let Some(task) = new {
            for (network, address) in &task.networks {
                self.addresses.insert((*network, *address, task.status.state.is_over(), task.id));
            }
            for (network, address) in &task.networks {
                self.find_clashes(*network, *address);
            }
        }
    }

    /// Of several tasks that have one address, all but the oldest clash.
    fn find_clashes(&mut self, network: NetworkId, address: Ipv4Addr) {
        let least = (network, address, false, TaskId::MIN);
        let most = (network, address, false, TaskId::MAX);
        let mut ids = self.addresses.range(least..=most).map(|(_, _, _, id)| *id);
        let Some(first) = ids.next() else { return };
        let others: Vec<_> = ids.collect();
        if others.is_empty() && self.clashing.is_empty() {
            return;
        }
        let tasks = std::iter::once(first).chain(others).filter_map(|id| self.cluster.tasks.get(&id));
        let mut tasks: Vec<_> = tasks.cloned().collect();
        tasks.sort_unstable_by_key(|task| (task.meta.created, task.id));
        for task in tasks {
            let key = (task.service, task.id);
            match task.networks.iter().any(|on| self.is_older_there(&task, *on)) {
                true => _ = self.clashing.insert(key),
                false => _ = self.clashing.remove(&key),
            }
        }
    }

    /// An older task than `task` has the address as well.
    fn is_older_there(&self, task: &Task, (network, address): (NetworkId, Ipv4Addr)) -> bool {
        let least = (network, address, false, TaskId::MIN);
        let most = (network, address, false, TaskId::MAX);
        let others = self.addresses.range(least..=most).map(|(_, _, _, id)| id).filter(|id| **id != task.id);
        let mut others = others.filter_map(|id| self.cluster.tasks.get(id));
        others.any(|other| (other.meta.created, other.id) < (task.meta.created, task.id))
    }

    /// Adds what the change of one object makes worth looking at; the indexes are still those of before.
    fn note(&self, agenda: &mut Agenda, old: Option<&Object>, new: Option<&Object>) {
        match (old, new) {
            (Some(Object::Task(task)), None) => {
                agenda.services.insert(task.service);
                self.note_pending(agenda);
            }
            (old, Some(Object::Task(task))) => {
                agenda.services.insert(task.service);
                let held = matches!(old, Some(Object::Task(old)) if old.holds_node());
                // Less room is no way out for those that wait, but their reasons say how much there is.
                if held != task.holds_node() {
                    self.note_pending(agenda);
                }
                self.note_dependents(agenda, task.service);
            }
            (Some(Object::Node(old)), Some(Object::Node(new))) if same_for_tasks(old, new) => {}
            (_, Some(Object::Node(node))) | (Some(Object::Node(node)), None) => {
                self.note_pending(agenda);
                agenda.services.extend(self.global.iter().copied());
                agenda.services.extend(self.tasks_on(node.id).map(|task| task.service));
            }
            (_, Some(Object::Service(service))) | (Some(Object::Service(service)), None) => {
                agenda.services.insert(service.id);
                agenda.stacks.insert(service.stack);
                agenda.services.extend(self.dependents(service));
            }
            (_, Some(Object::Stack(stack))) => _ = agenda.stacks.insert(stack.id),
            (_, Some(Object::Network(network))) => {
                _ = match network.stack {
                    Some(stack) => agenda.stacks.insert(stack),
                    None => agenda.networks.insert(network.id),
                }
            }
            (_, Some(Object::Blob(blob))) => agenda.stacks.extend(blob.stack),
            (Some(Object::Network(_)), None) => self.note_pending(agenda),
            (_, Some(Object::Cluster(_) | Object::Volume(_)))
            | (Some(Object::Cluster(_) | Object::Stack(_) | Object::Volume(_) | Object::Blob(_)), None)
            | (None, None) => {}
        }
    }

    fn note_dependents(&self, agenda: &mut Agenda, service: ServiceId) {
        if let Some(service) = self.cluster.services.get(&service) {
            agenda.services.extend(self.dependents(service));
        }
    }

    fn note_pending(&self, agenda: &mut Agenda) {
        agenda.services.extend(self.pending.iter().map(|(service, _)| *service));
        // A task that cannot leave its node waits for room elsewhere as well.
        agenda.services.extend(self.waiting.iter().copied());
    }
}

/// Nothing that decides over tasks differs.
fn same_for_tasks(old: &Node, new: &Node) -> bool {
    old.state == new.state
        && old.availability == new.availability
        && old.labels == new.labels
        && old.info.hostname == new.info.hostname
        && old.info.platform == new.info.platform
        && old.info.control.ip() == new.info.control.ip()
        && old.membership.is_some() == new.membership.is_some()
}

/// The services that one waits for.
fn depends_on(service: &Arc<Service>) -> &BTreeMap<ServiceName, Dependency> {
    &service.current().spec.depends_on
}

/// The services that one keeps apart from.
fn apart_from(service: &Arc<Service>) -> &BTreeSet<ServiceName> {
    &service.current().spec.placement.apart_from
}

fn place(task: &Task) -> (ServiceId, Slot) {
    (task.service, task.slot)
}

fn pending(task: &Arc<Task>) -> Option<(ServiceId, TaskId)> {
    (task.node.is_none() && task.is_live()).then_some((task.service, task.id))
}

fn handing_over(task: &Arc<Task>) -> Option<(ServiceId, TaskId)> {
    let drains = task.desired == Desired::Drain;
    (drains || successor(task).is_some()).then_some((task.service, task.id))
}

fn successor(task: &Arc<Task>) -> Option<(TaskId, TaskId)> {
    task.replaces.filter(|_| task.desired == Desired::Run).map(|old| (old, task.id))
}

/// The blocks of a node, those that its engine gives addresses from included.
fn blocks(node: &Node) -> impl Iterator<Item = (NetworkId, Ipv4Net)> {
    let of_tasks =
        node.blocks.iter().flat_map(|(network, blocks)| blocks.iter().map(|block| (*network, *block)));
    of_tasks.chain(node.attached.iter().map(|(network, block)| (*network, *block)))
}

/// The member of an index that was `old` is `new`.
fn differ<T: Ord + Clone>(index: &mut OrdSet<T>, old: Option<T>, new: Option<T>) {
    if old == new {
        return;
    }
    if let Some(old) = old {
        index.remove(&old);
    }
    if let Some(new) = new {
        index.insert(new);
    }
}

fn drop_member<K: Ord + Clone>(index: &mut OrdMap<K, OrdSet<TaskId>>, key: K, member: TaskId) {
    if let Some(members) = index.get_mut(&key) {
        members.remove(&member);
        if members.is_empty() {
            index.remove(&key);
        }
    }
}
