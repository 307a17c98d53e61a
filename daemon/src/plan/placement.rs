//! Which node a task goes to: filters, order of preference, explanation.
//!
//! Filters: ready, availability, an engine that answers, constraints, the most tasks on one node, tasks of other services,
//! ports of the node itself, memory, CPU, generic resources. Order: where the slot's named volumes are, the values of the
//! spread's labels with the fewest tasks of the service, fewest tasks of the service, not where the slot's last task failed,
//! most free reservation, fewest tasks, lowest id. Each node is counted under the first filter that turned it away.
//!
//! What stands beside other services (`with`, `apart_from`) is decided when a task gets its node; what runs stays where it
//! is when others move.
//!
//! Owns: the choice. Leaves alone: whether the task should be there at all (`replicas`, `rollout`), its addresses.
//! Holds: equal inputs, equal answers.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use raftup_proto::{
    api::{Availability, NodeState},
    id::NodeId,
    name::ServiceName,
    spec::{Constraint, NodeAttribute, ServiceSpec, ip_range},
    unit::{CpuMillis, MemBytes},
};

use crate::model::{Node, Service, Slot};

use super::{
    Usage, World,
    ports::{listed, taken_on},
};

/// How many nodes each filter turned away, and what was asked of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoPlace {
    not_ready: u32,
    paused: u32,
    drained: u32,
    no_engine: u32,
    unmet: BTreeMap<String, u32>,
    /// Ports of their own that tasks there have, and the names of those nodes.
    ports: BTreeMap<String, Vec<String>>,
    /// With as many tasks of the service as one node may have.
    full: u32,
    /// Services of which they have no task, and should.
    without: BTreeMap<ServiceName, u32>,
    /// Services of which they have a task, and should not.
    beside: BTreeMap<ServiceName, u32>,
    memory: Short<MemBytes>,
    cpu: Short<CpuMillis>,
    /// By kind.
    generic: BTreeMap<String, Short<u64>>,
    /// Of those that are not ready, or without an engine now, how many would fit, empty; and those that other services are in
    /// the way on, which may move.
    may_return: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Short<T> {
    nodes: u32,
    needs: T,
    most_free: T,
}

impl<T: Ord + Copy> Short<T> {
    fn count(&mut self, needs: T, free: T) {
        self.nodes += 1;
        self.needs = needs;
        self.most_free = self.most_free.max(free);
    }
}

impl NoPlace {
    /// No node that is away would change it by coming back: constraints or resources are in the way on each.
    pub fn is_hopeless(&self) -> bool {
        self.may_return == 0
    }
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let counts = [
            (self.not_ready, "not ready"),
            (self.paused, "paused"),
            (self.drained, "drained"),
            (self.no_engine, "whose engine does not answer"),
        ];
        parts.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
        parts.extend(self.unmet.iter().map(|(constraint, n)| format!("{n} not `{constraint}`")));
        match self.full {
            0 => {}
            1 => parts.push("1 has max_replicas_per_node reached".to_owned()),
            n => parts.push(format!("{n} have max_replicas_per_node reached")),
        }
        parts.extend(self.without.iter().map(|(name, n)| format!("{n} without a task of `{name}`")));
        parts.extend(self.beside.iter().map(|(name, n)| format!("{n} with a task of `{name}`")));
        parts.extend(
            self.ports.iter().map(|(port, nodes)| format!("port {port} is taken on {}", listed(nodes))),
        );
        if self.memory.nodes > 0 {
            let Short { nodes, needs, most_free } = self.memory;
            parts.push(format!("{nodes} short of memory (needs {needs}, most free {most_free})"));
        }
        if self.cpu.nodes > 0 {
            let Short { nodes, needs, most_free } = self.cpu;
            parts.push(format!("{nodes} short of CPU (needs {needs}, most free {most_free})"));
        }
        for (kind, Short { nodes, needs, most_free }) in &self.generic {
            parts.push(format!("{nodes} short of {kind} (needs {needs}, most free {most_free})"));
        }
        if parts.is_empty() {
            return f.write_str("no node fits: there is none");
        }
        write!(f, "no node fits: {}", parts.join(", "))
    }
}

/// What a slot's past says about its next node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Its named volumes are there: it comes back if the node still fits.
    pub volumes: Option<NodeId>,
    /// Its last task failed there: another node is better, where it is as good otherwise.
    pub failed: Option<NodeId>,
}

/// Whether a node may run a task of the service in `slot`. Errors: none; [`NoPlace`] counts the nodes that each filter
/// turned away. Cost: one pass over nodes, and over the tasks of the services that decide; of a slot of a global service,
/// no pass over nodes.
pub fn find(world: &World, service: &Service, spec: &ServiceSpec, slot: Slot) -> Result<(), Box<NoPlace>> {
    let mut away = NoPlace::default();
    let nodes = &world.cluster().nodes;
    let placed = match spec.placement.max_per_node {
        Some(_) => placed(world, service),
        None => BTreeMap::new(),
    };
    let others = Others::of(world, service, spec);
    let mut admit = |node: &Node| admit(world, node, spec, (&others, &placed), &mut away);
    let fits = match slot {
        Slot::Replica(_) => nodes.values().any(|node| admit(node)),
        Slot::Node(id) => nodes.get(&id).is_some_and(|node| admit(node)),
    };
    if fits { Ok(()) } else { Err(Box::new(away)) }
}

/// The tasks of a service by node, those that are on their way out not counted.
pub(super) fn placed(world: &World, service: &Service) -> BTreeMap<NodeId, u32> {
    let mut placed = BTreeMap::new();
    for node in world.tasks_of(service.id).filter(|task| task.is_live()).filter_map(|task| task.node) {
        *placed.entry(node).or_default() += 1;
    }
    placed
}

/// Where the services are that decide where another one may be.
struct Others {
    with: Vec<(ServiceName, BTreeSet<NodeId>)>,
    apart_from: Vec<(ServiceName, BTreeSet<NodeId>)>,
}

impl Others {
    /// Those that the service names, and those that name it: who keeps apart from it does so whichever came first.
    fn of(world: &World, service: &Service, spec: &ServiceSpec) -> Self {
        let named = |name: &ServiceName| world.service_named(service.stack, name);
        let with = spec.placement.with.iter().map(|name| {
            let tasks = named(name).into_iter().flat_map(|other| world.tasks_of(other.id));
            (name.clone(), tasks.filter(|task| task.is_live()).filter_map(|task| task.node).collect())
        });
        let keeping = world.keeping_apart_from(service);
        let apart = spec.placement.apart_from.iter().filter_map(named).chain(keeping);
        let apart: BTreeMap<_, _> = apart.map(|other| (other.name.clone(), other.id)).collect();
        let apart_from = apart.into_iter().map(|(name, id)| {
            let tasks = world.tasks_of(id).filter(|task| task.holds_node());
            (name, tasks.filter_map(|task| task.node).collect())
        });
        Self { with: with.collect(), apart_from: apart_from.collect() }
    }
}

/// The nodes that may run tasks of one version of a replicated service, in their order, while tasks are placed on them.
///
/// Holds: the order is that of the world and the counts that were last given, for each node that was named since.
pub(super) struct Places {
    spec: Arc<ServiceSpec>,
    others: Others,
    /// All that fit.
    ranks: BTreeMap<NodeId, Rank>,
    spread: Spread,
    /// Why no node fits; of the present world.
    away: Option<NoPlace>,
}

/// Tasks of the service, the slot's last task failed there, free reservation, tasks, id: the least is the best.
type Rank = (u32, bool, Reverse<u64>, u32, NodeId);

impl Places {
    /// `placed` counts the tasks of the service by node. Cost: one pass over nodes.
    pub(super) fn new(
        world: &World,
        service: &Service,
        spec: Arc<ServiceSpec>,
        placed: &BTreeMap<NodeId, u32>,
    ) -> Self {
        let mut away = NoPlace::default();
        let others = Others::of(world, service, &spec);
        let (mut ranks, mut spread) = (BTreeMap::new(), Spread::default());
        for node in world.cluster().nodes.values() {
            spread.add(node, &spec.placement.spread, placed.get(&node.id).copied().unwrap_or(0));
            if admit(world, node, &spec, (&others, placed), &mut away) {
                let rank = rank(world, node, placed);
                spread.insert(rank);
                ranks.insert(node.id, rank);
            }
        }
        let away = ranks.is_empty().then_some(away);
        Self { spec, others, ranks, spread, away }
    }

    /// A task was placed on the node.
    pub(super) fn placed_on(&mut self, world: &World, id: NodeId, placed: &BTreeMap<NodeId, u32>) {
        self.spread.count(id);
        let Some(old) = self.ranks.remove(&id) else { return };
        let has_addresses = self.spread.remove(&old);
        let node = world.cluster().nodes.get(&id);
        let fits = |node: &&Arc<Node>| {
            admit(world, node, &self.spec, (&self.others, placed), &mut NoPlace::default())
        };
        if let Some(node) = node.filter(fits) {
            let rank = rank(world, node, placed);
            self.ranks.insert(id, rank);
            if has_addresses {
                self.spread.insert(rank);
            }
        }
    }

    /// The node has no address for a task.
    pub(super) fn has_no_address(&mut self, id: NodeId) {
        if let Some(rank) = self.ranks.get(&id) {
            self.spread.remove(rank);
        }
    }

    /// Why there is no node, if not for want of addresses.
    pub(super) fn away(&mut self, world: &World, service: &Service) -> Option<&NoPlace> {
        if !self.ranks.is_empty() {
            return None;
        }
        let compute = || *find(world, service, &self.spec, Slot::Replica(1)).err().unwrap_or_default();
        Some(self.away.get_or_insert_with(compute))
    }

    /// The nodes that fit, best first. `leaves` is the node of the task that goes once this one serves: its place is as
    /// good as empty.
    pub(super) fn in_order(&self, past: Past, leaves: Option<NodeId>) -> impl Iterator<Item = NodeId> {
        let there = |id: &NodeId| self.ranks.get(id).is_some_and(|rank| self.spread.has(rank));
        let home = past.volumes.filter(there);
        let odd: BTreeSet<NodeId> = past.failed.into_iter().chain(leaves).filter(there).collect();
        let ranks = odd.iter().filter_map(|id| self.ranks.get(id)).map(|(own, _, free, tasks, id)| {
            let own = own.saturating_sub(u32::from(leaves == Some(*id)));
            (own, past.failed == Some(*id), *free, *tasks, *id)
        });
        let mut odd_ranks: Vec<Rank> = ranks.collect();
        odd_ranks.sort_unstable();
        let all = self.spread.in_order(odd_ranks, leaves);
        home.into_iter().chain(all.map(|rank| rank.4).filter(move |id| home != Some(*id)))
    }
}

/// Nodes by the values of the labels that tasks are spread over, as a tree: the tasks of the service are counted at each
/// value of each level, and the nodes that fit are kept at the leaves. Without such labels there is one leaf.
#[derive(Default)]
struct Spread {
    /// Tasks of the service at each value, whether its nodes fit or not.
    tasks: Vec<u32>,
    /// The place in `tasks` of each way through the levels.
    ways: BTreeMap<Vec<String>, usize>,
    leaves: Vec<Leaf>,
    /// The leaf of each way through all levels.
    ends: BTreeMap<Vec<String>, usize>,
    leaf_of: BTreeMap<NodeId, usize>,
}

#[derive(Default)]
struct Leaf {
    /// Places in `tasks` of the values that lead to it, the outermost first.
    path: Vec<usize>,
    /// The nodes that fit and have addresses.
    order: BTreeSet<Rank>,
}

impl Spread {
    fn add(&mut self, node: &Node, levels: &[NodeAttribute], placed: u32) {
        let (mut way, mut path) = (Vec::new(), Vec::new());
        for level in levels {
            way.push(label(node, level).unwrap_or_default().to_owned());
            let next = self.tasks.len();
            let at = *self.ways.entry(way.clone()).or_insert(next);
            if at == next {
                self.tasks.push(0);
            }
            path.push(at);
        }
        path.iter().filter_map(|at| self.tasks.get_mut(*at).map(|tasks| *tasks += placed)).count();
        let leaf = *self.ends.entry(way).or_insert_with(|| {
            self.leaves.push(Leaf { path, order: BTreeSet::new() });
            self.leaves.len() - 1
        });
        self.leaf_of.insert(node.id, leaf);
    }

    fn leaf(&mut self, id: NodeId) -> Option<&mut Leaf> {
        self.leaves.get_mut(*self.leaf_of.get(&id)?)
    }

    /// A task was placed on the node.
    fn count(&mut self, id: NodeId) {
        let path = self.leaf(id).map(|leaf| leaf.path.clone()).unwrap_or_default();
        path.iter().filter_map(|at| self.tasks.get_mut(*at).map(|tasks| *tasks += 1)).count();
    }

    fn insert(&mut self, rank: Rank) {
        if let Some(leaf) = self.leaf(rank.4) {
            leaf.order.insert(rank);
        }
    }

    fn remove(&mut self, rank: &Rank) -> bool {
        self.leaf(rank.4).is_some_and(|leaf| leaf.order.remove(rank))
    }

    fn has(&self, rank: &Rank) -> bool {
        let leaf = self.leaf_of.get(&rank.4).and_then(|at| self.leaves.get(*at));
        leaf.is_some_and(|leaf| leaf.order.contains(rank))
    }

    /// All ranks, best first: the leaf with the fewest tasks of the service at each level, and in it the least rank. Those
    /// in `odd`, in order, stand for those of their nodes; the task on `leaves` is not counted. Cost: by the leaves, and by
    /// what is taken of it.
    fn in_order(&self, odd: Vec<Rank>, leaves: Option<NodeId>) -> impl Iterator<Item = Rank> {
        let left = leaves.and_then(|id| self.leaves.get(*self.leaf_of.get(&id)?));
        let mut all = Vec::new();
        for (at, leaf) in self.leaves.iter().enumerate() {
            let there = |rank: &&Rank| self.leaf_of.get(&rank.4) == Some(&at);
            let odd: Vec<Rank> = odd.iter().filter(there).copied().collect();
            let tasks = leaf.path.iter().map(|at| {
                let goes = left.is_some_and(|left| left.path.contains(at));
                self.tasks.get(*at).copied().unwrap_or(0).saturating_sub(u32::from(goes))
            });
            let tasks: Vec<u32> = tasks.collect();
            let mut ranks = merged(&leaf.order, odd).peekable();
            if let Some(best) = ranks.peek().copied() {
                all.push(((tasks, best), ranks));
            }
        }
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all.into_iter().flat_map(|(_, ranks)| ranks)
    }
}

/// `order`, with the ranks of `odd`, which are in order, in place of those of their nodes.
fn merged(order: &BTreeSet<Rank>, odd: Vec<Rank>) -> impl Iterator<Item = Rank> {
    let nodes: BTreeSet<NodeId> = odd.iter().map(|rank| rank.4).collect();
    let mut odd = odd.into_iter().peekable();
    let mut others = order.iter().copied().filter(move |rank| !nodes.contains(&rank.4)).peekable();
    std::iter::from_fn(move || {
        let odd_first = match (odd.peek(), others.peek()) {
            (Some(odd), Some(other)) => odd < other,
            (odd, _) => odd.is_some(),
        };
        if odd_first { odd.next() } else { others.next() }
    })
}

fn rank(world: &World, node: &Node, placed: &BTreeMap<NodeId, u32>) -> Rank {
    let own = placed.get(&node.id).copied().unwrap_or(0);
    let usage = world.usage(node.id);
    (own, false, Reverse(free_share(usage, node)), usage.tasks, node.id)
}

/// Tasks of the service may stay on the node, whether it is alive or not.
pub fn may_stay(node: &Node, spec: &ServiceSpec) -> bool {
    node.availability != Availability::Drain && unmet(node, spec).is_none()
}

/// New tasks of the service may come to the node as far as it itself is concerned, resources aside.
pub fn may_come(node: &Node, spec: &ServiceSpec) -> bool {
    let willing = node.state == NodeState::Ready && node.availability == Availability::Active;
    willing && node.info.platform.engine.is_some() && unmet(node, spec).is_none()
}

fn unmet<'a>(node: &Node, spec: &'a ServiceSpec) -> Option<&'a Constraint> {
    spec.placement.constraints.iter().find(|constraint| !holds(node, constraint))
}

/// `around` is where other services are, and how many tasks of this one each node has.
fn admit(
    world: &World,
    node: &Node,
    spec: &ServiceSpec,
    around: (&Others, &BTreeMap<NodeId, u32>),
    away: &mut NoPlace,
) -> bool {
    match node.state {
        NodeState::New | NodeState::Down => {
            away.not_ready += 1;
            away.may_return += u32::from(would_fit(node, spec));
            return false;
        }
        NodeState::Ready => {}
    }
    match node.availability {
        Availability::Pause => away.paused += 1,
        Availability::Drain => away.drained += 1,
        Availability::Active if node.info.platform.engine.is_none() => {
            away.no_engine += 1;
            away.may_return += u32::from(would_fit(node, spec));
        }
        Availability::Active => return admit_needs(world, node, spec, around, away),
    }
    false
}

/// The task would fit on the node if nothing else were there.
fn would_fit(node: &Node, spec: &ServiceSpec) -> bool {
    let (needs, platform) = (spec.resources.reservations, &node.info.platform);
    let large_enough =
        needs.memory.unwrap_or_default() <= platform.memory && needs.cpu.unwrap_or_default() <= platform.cpu;
    let mut generic = spec.resources.generic.iter();
    let has_kinds = generic.all(|(kind, count)| platform.generic.get(kind).is_some_and(|all| count <= all));
    large_enough && has_kinds && may_stay(node, spec)
}

fn admit_needs(
    world: &World,
    node: &Node,
    spec: &ServiceSpec,
    (others, placed): (&Others, &BTreeMap<NodeId, u32>),
    away: &mut NoPlace,
) -> bool {
    if let Some(constraint) = unmet(node, spec) {
        *away.unmet.entry(constraint.to_string()).or_default() += 1;
        return false;
    }
    let own = placed.get(&node.id).copied().unwrap_or(0);
    if spec.placement.max_per_node.is_some_and(|most| own >= most.get()) {
        away.full += 1;
        return false;
    }
    if let Some((name, _)) = others.with.iter().find(|(_, nodes)| !nodes.contains(&node.id)) {
        *away.without.entry(name.clone()).or_default() += 1;
        away.may_return += 1;
        return false;
    }
    if let Some((name, _)) = others.apart_from.iter().find(|(_, nodes)| nodes.contains(&node.id)) {
        *away.beside.entry(name.clone()).or_default() += 1;
        away.may_return += 1;
        return false;
    }
    if let Some(port) = taken_on(world, node, spec) {
        away.ports.entry(port.to_string()).or_default().push(node.info.hostname.clone());
        return false;
    }
    let usage = world.usage(node.id);
    let (free_memory, free_cpu) = free(usage, node);
    let needs = spec.resources.reservations;
    match (needs.memory, needs.cpu) {
        (Some(memory), _) if memory > free_memory => away.memory.count(memory, free_memory),
        (_, Some(cpu)) if cpu > free_cpu => away.cpu.count(cpu, free_cpu),
        (_, _) => return admit_generic(usage, node, spec, away),
    }
    false
}

fn admit_generic(usage: &Usage, node: &Node, spec: &ServiceSpec, away: &mut NoPlace) -> bool {
    for (kind, count) in &spec.resources.generic {
        let all = node.info.platform.generic.get(kind).copied().unwrap_or(0);
        let free = all.saturating_sub(usage.generic.get(kind).copied().unwrap_or(0));
        if *count > free {
            away.generic.entry(kind.clone()).or_default().count(*count, free);
            return false;
        }
    }
    true
}

fn free(usage: &Usage, node: &Node) -> (MemBytes, CpuMillis) {
    let platform = &node.info.platform;
    (
        MemBytes(platform.memory.0.saturating_sub(usage.memory.0)),
        CpuMillis(platform.cpu.0.saturating_sub(usage.cpu.0)),
    )
}

/// Thousandths of the node that are not reserved, of the resource that is scarcer there.
fn free_share(usage: &Usage, node: &Node) -> u64 {
    let (memory, cpu) = free(usage, node);
    let share = |free: u64, all: u64| free.saturating_mul(1000).checked_div(all).unwrap_or(1000);
    share(memory.0, node.info.platform.memory.0).min(share(cpu.0, node.info.platform.cpu.0))
}

/// The constraint is met. `node.role` is what the node does now: `manager` if it is a member of Raft.
fn holds(node: &Node, constraint: &Constraint) -> bool {
    let is = |value: &str| value.eq_ignore_ascii_case(&constraint.value);
    let platform = &node.info.platform;
    let equal = match &constraint.attribute {
        NodeAttribute::Id => is(&node.id.to_string()),
        NodeAttribute::Hostname => is(&node.info.hostname),
        NodeAttribute::Ip => {
            ip_range(&constraint.value).is_some_and(|range| range.contains(&node.info.control.ip()))
        }
        NodeAttribute::Role => is(if node.membership.is_some() { "manager" } else { "worker" }),
        NodeAttribute::Os => is(&platform.os),
        NodeAttribute::Arch => is(&platform.arch),
        label @ (NodeAttribute::Label(_) | NodeAttribute::EngineLabel(_)) => {
            self::label(node, label).is_some_and(is)
        }
    };
    equal == constraint.equal
}

/// The value of a label of the node; none of what is no label.
fn label<'n>(node: &'n Node, attribute: &NodeAttribute) -> Option<&'n str> {
    match attribute {
        NodeAttribute::Label(key) => node.labels.get(key).map(String::as_str),
        NodeAttribute::EngineLabel(key) => {
            let labels = node.info.platform.engine_labels.iter().filter_map(|label| label.split_once('='));
            labels.filter(|(name, _)| name == key).map(|(_, value)| value).next()
        }
        NodeAttribute::Id
        | NodeAttribute::Hostname
        | NodeAttribute::Ip
        | NodeAttribute::Role
        | NodeAttribute::Os
        | NodeAttribute::Arch => None,
    }
}
