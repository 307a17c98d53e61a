//! The state as people see it, in the order in which it is listed.
//!
//! Owns: the API's views of nodes, stacks, services and tasks. Leaves alone: who may see them, how they are printed.

use std::collections::{BTreeMap, BTreeSet};

use raftup_proto::{
    api::{ManagerState, NodeState, NodeView, ServiceView, StackView, TaskView, VersionView},
    id::{NodeId, ServiceId, StackId},
    peer::TaskState,
};

use crate::model::{Cluster, Desired, Node, Service, Slot, Stack, Task, Version};

use super::{
    claims, placement, ports,
    restart::{self, Verdict},
};

/// How many tasks of a service run and should run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Running and meant to.
    pub running: u32,
    /// Meant to run.
    pub desired: u32,
    /// Ended well, and not started again.
    pub complete: u32,
}

/// Which tasks are listed; what is not given does not narrow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Of this stack.
    pub stack: Option<StackId>,
    /// Of this service.
    pub service: Option<ServiceId>,
    /// On this node.
    pub node: Option<NodeId>,
}

/// All nodes, by id. `here` is the node that answers, `managers` what members of Raft do.
pub fn nodes(cluster: &Cluster, here: NodeId, managers: &BTreeMap<NodeId, ManagerState>) -> Vec<NodeView> {
    let mut tasks: BTreeMap<NodeId, u32> = BTreeMap::new();
    for node in cluster.tasks.values().filter(|task| task.is_live()).filter_map(|task| task.node) {
        *tasks.entry(node).or_default() += 1;
    }
    let view = |node: &Node| NodeView {
        id: node.id,
        hostname: node.info.hostname.clone(),
        state: node.state,
        message: node.state_message.clone(),
        availability: node.availability,
        role: node.role,
        pinned: node.pinned,
        manager: managers.get(&node.id).copied(),
        addr: node.info.control,
        labels: node.labels.clone(),
        version: node.info.version.clone(),
        platform: node.info.platform.clone(),
        tasks: tasks.get(&node.id).copied().unwrap_or(0),
        created: node.meta.created,
        problems: claims::problems(cluster, node).into_iter().chain(ports::problems_of(node)).collect(),
        this: node.id == here,
    };
    cluster.nodes.values().map(|node| view(node)).collect()
}

/// All stacks, by name.
pub fn stacks(cluster: &Cluster) -> Vec<StackView> {
    let counts = counts(cluster);
    let mut views: Vec<_> =
        cluster.stacks.values().map(|stack| stack_view(cluster, stack, &counts)).collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

fn stack_view(cluster: &Cluster, stack: &Stack, counts: &BTreeMap<ServiceId, Count>) -> StackView {
    let services: Vec<_> = cluster.services.values().filter(|service| service.stack == stack.id).collect();
    let sum =
        |of: fn(&Count) -> u32| services.iter().filter_map(|service| counts.get(&service.id)).map(of).sum();
    let updated =
        services.iter().map(|service| service.versions.last().map_or(stack.meta.updated, |newest| newest.at));
    StackView {
        id: stack.id,
        name: stack.name.clone(),
        services: u32::try_from(services.len()).unwrap_or(u32::MAX),
        running: sum(|count| count.running),
        desired: sum(|count| count.desired.saturating_sub(count.complete)),
        removing: stack.removing,
        created: stack.meta.created,
        updated: updated.max().unwrap_or(stack.meta.updated),
    }
}

/// The services of a stack, or all, by full name.
pub fn services(cluster: &Cluster, stack: Option<StackId>) -> Vec<ServiceView> {
    let counts = counts(cluster);
    let wanted = cluster.services.values().filter(|service| stack.is_none_or(|stack| service.stack == stack));
    let mut views: Vec<_> = wanted
        .map(|service| service_view(cluster, service, counts.get(&service.id).copied().unwrap_or_default()))
        .collect();
    views.sort_by(|a, b| (&a.stack, &a.name, a.id).cmp(&(&b.stack, &b.name, b.id)));
    views
}

/// One service.
pub fn service(cluster: &Cluster, id: ServiceId) -> Option<ServiceView> {
    let service = cluster.services.get(&id)?;
    Some(service_view(cluster, service, count(cluster, service, cluster.tasks_of(id).map(|task| &**task))))
}

fn service_view(cluster: &Cluster, service: &Service, count: Count) -> ServiceView {
    let current = service.current();
    ServiceView {
        id: service.id,
        stack: service.stack_name.clone(),
        name: service.name.clone(),
        mode: current.spec.mode,
        running: count.running,
        desired: count.desired,
        complete: count.complete,
        image: current.image.clone(),
        ports: current.spec.ports.clone(),
        removing: service.removing,
        waiting: service.waiting.clone(),
        problems: problems(cluster, service),
        update: service.rollout.as_ref().map(|rollout| rollout.status.clone()),
        version: current.number,
        versions: service.versions.iter().rev().map(version_view).collect(),
        spec: (*current.spec).clone(),
        created: service.meta.created,
        updated: current.at,
    }
}

/// Where the service does not answer although its tasks run. Cost: one pass over tasks if it has ports of tasks' nodes.
pub(super) fn problems(cluster: &Cluster, service: &Service) -> Vec<String> {
    let mut running_on = Vec::new();
    if service.current().spec.host_ports().next().is_some() {
        let running = cluster.tasks_of(service.id).filter(|task| task.is_ready());
        running_on.extend(running.filter_map(|task| task.node));
    }
    ports::problems(cluster, service, &running_on)
}

fn version_view(version: &Version) -> VersionView {
    let image = version.image.clone();
    VersionView { number: version.number, at: version.at, image }
}

/// Tasks, history included, by service, slot, and age: the newest first.
pub fn tasks(cluster: &Cluster, filter: TaskFilter) -> Vec<TaskView> {
    let wanted = cluster.tasks.values().filter(|task| {
        let in_stack =
            |stack| cluster.services.get(&task.service).is_some_and(|service| service.stack == stack);
        filter.service.is_none_or(|service| task.service == service)
            && filter.node.is_none_or(|node| task.node == Some(node))
            && filter.stack.is_none_or(in_stack)
    });
    let mut views: Vec<_> =
        wanted.filter_map(|task| Some((task.meta.created, task_view(cluster, task)?))).collect();
    views.sort_by(|(a_made, a), (b_made, b)| {
        let place =
            |view: &TaskView| (view.stack.clone(), view.service_name.clone(), view.slot, !view.desired);
        (place(a), b_made, a.id).cmp(&(place(b), a_made, b.id))
    });
    views.into_iter().map(|(_, view)| view).collect()
}

fn task_view(cluster: &Cluster, task: &Task) -> Option<TaskView> {
    let service = cluster.services.get(&task.service)?;
    let node = task.node.and_then(|id| cluster.nodes.get(&id));
    let image = service.version(task.version).map(|version| version.image.clone());
    Some(TaskView {
        id: task.id,
        service: task.service,
        stack: service.stack_name.clone(),
        service_name: service.name.clone(),
        slot: task.slot.number(),
        image: image.unwrap_or_default(),
        node: task.node,
        hostname: node.map(|node| node.info.hostname.clone()),
        desired: task.is_live(),
        lost: task.holds_node() && node.is_none_or(|node| node.state == NodeState::Down),
        state: task.status.state,
        since: task.status.since,
        message: task.status.message.clone(),
        container: task.status.container.clone(),
        exit_code: task.status.exit_code,
    })
}

/// How many tasks of one service run and should run; `tasks` are its own.
pub fn count<'a>(cluster: &Cluster, service: &Service, tasks: impl Iterator<Item = &'a Task>) -> Count {
    if service.removing {
        return Count::default();
    }
    let spec = &service.current().spec;
    let on_live_node = |task: &Task| {
        let node = task.node.and_then(|id| cluster.nodes.get(&id));
        node.is_some_and(|node| node.state == raftup_proto::api::NodeState::Ready)
    };
    let (mut running, mut complete, mut done) = (0, 0, BTreeSet::new());
    for task in tasks.filter(|task| task.desired == Desired::Run) {
        let finished = || restart::verdict(&spec.restart, task) == Verdict::Finished;
        running += u32::from(task.status.state == TaskState::Running && on_live_node(task));
        if task.status.state == TaskState::Complete && finished() {
            complete += 1;
            done.insert(task.slot);
        }
    }
    let desired = spec.mode.slots().unwrap_or_else(|| {
        let nodes = cluster.nodes.values().filter(|node| placement::may_come(node, spec));
        let mut slots: BTreeSet<_> = nodes.map(|node| Slot::Node(node.id)).collect();
        if spec.mode.is_job() {
            slots.extend(done);
        }
        u32::try_from(slots.len()).unwrap_or(u32::MAX)
    });
    Count { running, desired, complete }
}

fn counts(cluster: &Cluster) -> BTreeMap<ServiceId, Count> {
    let mut by_service: BTreeMap<ServiceId, Vec<&Task>> = BTreeMap::new();
    for task in cluster.tasks.values() {
        by_service.entry(task.service).or_default().push(task);
    }
    let services = cluster.services.values();
    let of = |id| by_service.get(&id).into_iter().flatten().copied();
    services.map(|service| (service.id, count(cluster, service, of(service.id)))).collect()
}
