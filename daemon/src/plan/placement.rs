//! Which node a task goes to: filters, order of preference, explanation.
//!
//! Filters: ready, availability, an engine that answers, constraints, ports of the node itself, memory, CPU. Order: where
//! the slot's named volumes are, fewest tasks of the service, not where the slot's last task failed, most free
//! reservation, fewest tasks, lowest id. Each node is counted under the first filter that turned it away.
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
    spec::{Constraint, NodeAttribute, ServiceSpec},
    unit::{CpuMillis, MemBytes},
};

use crate::model::{Node, Slot};

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
    memory: Short<MemBytes>,
    cpu: Short<CpuMillis>,
    /// Of those that are not ready, or without an engine now, how many would fit, empty.
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
/// turned away. Cost: one pass over nodes; of a slot of a global service, none.
pub fn find(world: &World, spec: &ServiceSpec, slot: Slot) -> Result<(), NoPlace> {
    let mut away = NoPlace::default();
    let nodes = &world.cluster().nodes;
    let fits = match slot {
        Slot::Replica(_) => nodes.values().any(|node| admit(world, node, spec, &mut away)),
        Slot::Node(id) => nodes.get(&id).is_some_and(|node| admit(world, node, spec, &mut away)),
    };
    if fits { Ok(()) } else { Err(away) }
}

/// The nodes that may run tasks of one version of a replicated service, in their order, while tasks are placed on them.
///
/// Holds: the order is that of the world and the counts that were last given, for each node that was named since.
pub(super) struct Places {
    spec: Arc<ServiceSpec>,
    /// All that fit.
    ranks: BTreeMap<NodeId, Rank>,
    /// Those of them that have addresses.
    order: BTreeSet<Rank>,
    /// Why no node fits; of the present world.
    away: Option<NoPlace>,
}

/// Tasks of the service, the slot's last task failed there, free reservation, tasks, id: the least is the best.
type Rank = (u32, bool, Reverse<u64>, u32, NodeId);

impl Places {
    /// `placed` counts the tasks of the service by node. Cost: one pass over nodes.
    pub(super) fn new(world: &World, spec: Arc<ServiceSpec>, placed: &BTreeMap<NodeId, u32>) -> Self {
        let mut away = NoPlace::default();
        let fit = world.cluster().nodes.values().filter(|node| admit(world, node, &spec, &mut away));
        let ranks: BTreeMap<NodeId, Rank> = fit.map(|node| (node.id, rank(world, node, placed))).collect();
        let order = ranks.values().copied().collect();
        let away = ranks.is_empty().then_some(away);
        Self { spec, ranks, order, away }
    }

    /// A task was placed on the node.
    pub(super) fn placed_on(&mut self, world: &World, id: NodeId, placed: &BTreeMap<NodeId, u32>) {
        let Some(old) = self.ranks.remove(&id) else { return };
        let has_addresses = self.order.remove(&old);
        let node = world.cluster().nodes.get(&id);
        let fits = |node: &&Arc<Node>| admit(world, node, &self.spec, &mut NoPlace::default());
        if let Some(node) = node.filter(fits) {
            let rank = rank(world, node, placed);
            self.ranks.insert(id, rank);
            if has_addresses {
                self.order.insert(rank);
            }
        }
    }

    /// The node has no address for a task.
    pub(super) fn has_no_address(&mut self, id: NodeId) {
        if let Some(rank) = self.ranks.get(&id) {
            self.order.remove(rank);
        }
    }

    /// Why there is no node, if not for want of addresses.
    pub(super) fn away(&mut self, world: &World) -> Option<&NoPlace> {
        if !self.ranks.is_empty() {
            return None;
        }
        let compute = || find(world, &self.spec, Slot::Replica(1)).err().unwrap_or_default();
        Some(self.away.get_or_insert_with(compute))
    }

    /// The nodes that fit, best first. `leaves` is the node of the task that goes once this one serves: its place is as
    /// good as empty.
    pub(super) fn in_order(&self, past: Past, leaves: Option<NodeId>) -> impl Iterator<Item = NodeId> {
        let there = |id: &NodeId| self.ranks.get(id).is_some_and(|rank| self.order.contains(rank));
        let home = past.volumes.filter(there);
        let odd: BTreeSet<NodeId> = past.failed.into_iter().chain(leaves).filter(there).collect();
        let ranks = odd.iter().filter_map(|id| self.ranks.get(id)).map(|(own, _, free, tasks, id)| {
            let own = own.saturating_sub(u32::from(leaves == Some(*id)));
            (own, past.failed == Some(*id), *free, *tasks, *id)
        });
        let mut odd_ranks: Vec<Rank> = ranks.collect();
        odd_ranks.sort_unstable();
        let mut odd_ranks = odd_ranks.into_iter().peekable();
        let mut others = self.order.iter().copied().filter(move |rank| !odd.contains(&rank.4)).peekable();
        let merged = std::iter::from_fn(move || {
            let odd_first = match (odd_ranks.peek(), others.peek()) {
                (Some(odd), Some(other)) => odd < other,
                (odd, _) => odd.is_some(),
            };
            if odd_first { odd_ranks.next() } else { others.next() }
        });
        home.into_iter().chain(merged.map(|rank| rank.4).filter(move |id| home != Some(*id)))
    }
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

fn admit(world: &World, node: &Node, spec: &ServiceSpec, away: &mut NoPlace) -> bool {
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
        Availability::Active => return admit_needs(world, node, spec, away),
    }
    false
}

/// The task would fit on the node if nothing else were there.
fn would_fit(node: &Node, spec: &ServiceSpec) -> bool {
    let (needs, platform) = (spec.resources.reservations, &node.info.platform);
    let large_enough =
        needs.memory.unwrap_or_default() <= platform.memory && needs.cpu.unwrap_or_default() <= platform.cpu;
    large_enough && may_stay(node, spec)
}

fn admit_needs(world: &World, node: &Node, spec: &ServiceSpec, away: &mut NoPlace) -> bool {
    if let Some(constraint) = unmet(node, spec) {
        *away.unmet.entry(constraint.to_string()).or_default() += 1;
        return false;
    }
    if let Some(port) = taken_on(world, node, spec) {
        away.ports.entry(port.to_string()).or_default().push(node.info.hostname.clone());
        return false;
    }
    let (free_memory, free_cpu) = free(world.usage(node.id), node);
    let needs = spec.resources.reservations;
    match (needs.memory, needs.cpu) {
        (Some(memory), _) if memory > free_memory => away.memory.count(memory, free_memory),
        (_, Some(cpu)) if cpu > free_cpu => away.cpu.count(cpu, free_cpu),
        (_, _) => return true,
    }
    false
}

fn free(usage: Usage, node: &Node) -> (MemBytes, CpuMillis) {
    let platform = &node.info.platform;
    (
        MemBytes(platform.memory.0.saturating_sub(usage.memory.0)),
        CpuMillis(platform.cpu.0.saturating_sub(usage.cpu.0)),
    )
}

/// Thousandths of the node that are not reserved, of the resource that is scarcer there.
fn free_share(usage: Usage, node: &Node) -> u64 {
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
        NodeAttribute::Role => is(if node.membership.is_some() { "manager" } else { "worker" }),
        NodeAttribute::Os => is(&platform.os),
        NodeAttribute::Arch => is(&platform.arch),
        NodeAttribute::Label(key) => node.labels.get(key).is_some_and(|value| is(value)),
        NodeAttribute::EngineLabel(key) => platform
            .engine_labels
            .iter()
            .filter_map(|label| label.split_once('='))
            .any(|(name, value)| name == key && is(value)),
    };
    equal == constraint.equal
}
