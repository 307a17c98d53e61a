//! The cluster with the indexes that make a decision cost what changed, not what is there.
//!
//! Owns: which tasks belong to a service or a node, and what they hold of it. Leaves alone: every decision.
//! Holds: the indexes are a function of the cluster; `set` keeps them so, one object at a time.

use std::collections::BTreeSet;

use imbl::{OrdMap, OrdSet};
use raftup_proto::{
    api::NodeState,
    id::{NodeId, ServiceId, StackId, TaskId},
    spec::{Amounts, Mode},
    unit::{CpuMillis, MemBytes},
};

use crate::model::{Cluster, Desired, Node, Object, ObjectKey, Service, Task};
use std::sync::Arc;

/// A cluster and its indexes. Cloning costs a few pointers.
#[derive(Clone, Debug, Default)]
pub struct World {
    cluster: Cluster,
    by_service: OrdMap<ServiceId, OrdSet<TaskId>>,
    by_node: OrdMap<NodeId, OrdSet<TaskId>>,
    held: OrdMap<TaskId, Held>,
    usage: OrdMap<NodeId, Usage>,
    pending: OrdSet<(ServiceId, TaskId)>,
    handing_over: OrdSet<(ServiceId, TaskId)>,
    global: OrdSet<ServiceId>,
    waiting: OrdSet<ServiceId>,
}

/// What a task takes of its node.
#[derive(Clone, Copy, Debug)]
struct Held {
    node: NodeId,
    reserved: Amounts,
}

/// What the tasks of a node take of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tasks that may hold a container there.
    pub tasks: u32,
    /// Memory that they reserve.
    pub memory: MemBytes,
    /// CPU time that they reserve.
    pub cpu: CpuMillis,
}

/// What a change of state makes worth looking at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agenda {
    /// Services.
    pub services: BTreeSet<ServiceId>,
    /// Stacks, with their networks and volumes.
    pub stacks: BTreeSet<StackId>,
}

impl Agenda {
    /// Nothing is to be looked at.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.stacks.is_empty()
    }

    /// Everything in `cluster`.
    pub fn everything(cluster: &Cluster) -> Self {
        Self {
            services: cluster.services.keys().copied().collect(),
            stacks: cluster.stacks.keys().copied().collect(),
        }
    }

    /// Adds what `other` has.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.stacks.extend(other.stacks);
    }
}

impl World {
    /// Indexes all of `cluster`. Cost: one pass.
    pub fn new(cluster: Cluster) -> Self {
        let mut world = Self { cluster, ..Self::default() };
        for service in world.cluster.services.clone().values() {
            world.index_service(None, Some(service));
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
            (ObjectKey::Cluster, Some(Object::Cluster(new))) => cluster.info = Some(new),
            (ObjectKey::Cluster, _) => cluster.info = None,
            (ObjectKey::Node(id), Some(Object::Node(new))) => _ = cluster.nodes.insert(id, new),
            (ObjectKey::Node(id), _) => _ = cluster.nodes.remove(&id),
            (ObjectKey::Stack(id), Some(Object::Stack(new))) => _ = cluster.stacks.insert(id, new),
            (ObjectKey::Stack(id), _) => _ = cluster.stacks.remove(&id),
            (ObjectKey::Network(id), Some(Object::Network(new))) => _ = cluster.networks.insert(id, new),
            (ObjectKey::Network(id), _) => _ = cluster.networks.remove(&id),
            (ObjectKey::Volume(id), Some(Object::Volume(new))) => _ = cluster.volumes.insert(id, new),
            (ObjectKey::Volume(id), _) => _ = cluster.volumes.remove(&id),
        }
    }

    /// The tasks of a service, history included, by id.
    pub fn tasks_of(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        let ids = self.by_service.get(&service);
        ids.into_iter().flat_map(|ids| ids.iter()).filter_map(|id| self.cluster.tasks.get(id))
    }

    /// The tasks on a node, history included, by id.
    pub fn tasks_on(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let ids = self.by_node.get(&node);
        ids.into_iter().flat_map(|ids| ids.iter()).filter_map(|id| self.cluster.tasks.get(id))
    }

    /// What the tasks of a node take of it.
    pub fn usage(&self, node: NodeId) -> Usage {
        self.usage.get(&node).copied().unwrap_or_default()
    }

    /// The node of a task, unless it is down or gone.
    pub fn live_node(&self, task: &Task) -> Option<&Arc<Node>> {
        self.cluster.nodes.get(&task.node?).filter(|node| node.state != NodeState::Down)
    }

    /// Services with a task that waits for routes to be in force: it takes no new connections and is not told to stop yet,
    /// or is to replace another.
    pub fn handing_over(&self) -> BTreeSet<ServiceId> {
        self.handing_over.iter().map(|(service, _)| *service).collect()
    }

    fn index_service(&mut self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        if let Some(old) = old {
            self.global.remove(&old.id);
            self.waiting.remove(&old.id);
        }
        if let Some(new) = new
            && new.current().spec.mode == Mode::Global
        {
            self.global.insert(new.id);
        }
        if let Some(new) = new.filter(|new| !new.waiting.is_empty()) {
            self.waiting.insert(new.id);
        }
    }

    fn index_task(&mut self, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>) {
        if let Some(old) = old {
            self.forget_task(old);
        }
        let Some(new) = new else { return };
        self.by_service.entry(new.service).or_default().insert(new.id);
        if let Some(node) = new.node {
            self.by_node.entry(node).or_default().insert(new.id);
        }
        if new.node.is_none() && new.is_live() {
            self.pending.insert((new.service, new.id));
        }
        if new.desired == Desired::Drain || (new.desired == Desired::Run && new.replaces.is_some()) {
            self.handing_over.insert((new.service, new.id));
        }
        if new.holds_node()
            && let Some(node) = new.node
        {
            let service = self.cluster.services.get(&new.service);
            let version = service.and_then(|service| service.version(new.version));
            let reserved = version.map(|version| version.spec.resources.reservations).unwrap_or_default();
            self.held.insert(new.id, Held { node, reserved });
            let usage = self.usage.entry(node).or_default();
            usage.tasks += 1;
            usage.memory.0 += reserved.memory.unwrap_or_default().0;
            usage.cpu.0 += reserved.cpu.unwrap_or_default().0;
        }
    }

    fn forget_task(&mut self, old: &Task) {
        drop_member(&mut self.by_service, old.service, old.id);
        if let Some(node) = old.node {
            drop_member(&mut self.by_node, node, old.id);
        }
        self.pending.remove(&(old.service, old.id));
        self.handing_over.remove(&(old.service, old.id));
        // What was counted is taken back as it was counted: the service may be gone by now.
        if let Some(Held { node, reserved }) = self.held.remove(&old.id) {
            let usage = self.usage.entry(node).or_default();
            usage.tasks -= 1;
            usage.memory.0 -= reserved.memory.unwrap_or_default().0;
            usage.cpu.0 -= reserved.cpu.unwrap_or_default().0;
            if *usage == Usage::default() {
                self.usage.remove(&node);
            }
        }
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
            }
            (_, Some(Object::Stack(stack))) => _ = agenda.stacks.insert(stack.id),
            (_, Some(Object::Network(network))) => _ = agenda.stacks.insert(network.stack),
            (Some(Object::Network(_)), None) => self.note_pending(agenda),
            (_, Some(Object::Cluster(_) | Object::Volume(_)))
            | (Some(Object::Cluster(_) | Object::Stack(_) | Object::Volume(_)), None)
            | (None, None) => {}
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
        && old.membership.is_some() == new.membership.is_some()
}

fn drop_member<K: Ord + Clone>(index: &mut OrdMap<K, OrdSet<TaskId>>, key: K, member: TaskId) {
    if let Some(members) = index.get_mut(&key) {
        members.remove(&member);
        if members.is_empty() {
            index.remove(&key);
        }
    }
}
