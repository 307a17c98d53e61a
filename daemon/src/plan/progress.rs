//! How far a change has come, and whether it will get there by itself.
//!
//! Done: every slot has a task of the newest version that runs, or that ended well and is not started again, and none
//! of an older version should run. Failed: the restart policy gave up, the newest version keeps failing, or no node can
//! ever take a task as things are. Not failed: a node that would fit is not ready.
//!
//! Owns: the verdict that `stack deploy` exits with. Leaves alone: time limits, which are the caller's.

use std::{collections::BTreeMap, sync::Arc};

use raftup_proto::{
    api::{Outcome, Progress, ServiceProgress},
    id::{NodeId, ServiceId, StackId},
    peer::TaskState,
    refusal::{Code, Refusal},
    spec::Mode,
};

use crate::model::{Cluster, Desired, Service, Slot, Task};

use super::{World, placement, replicas::said, restart, rollout::last_failure, show};

/// Restarts in a row after which the newest version counts as failing; one that its node could not even make fails for
/// the same reason each time.
const FAILING_AFTER: u32 = 3;
const REJECTED_AFTER: u32 = 2;

/// Whose progress is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// All services of a stack.
    Stack(StackId),
    /// One service.
    Service(ServiceId),
}

/// How far the selected services have come. Errors: there is nothing of that id, or nothing any more.
/// Cost: one pass over tasks.
pub fn progress(cluster: &Cluster, selector: Selector) -> Result<Progress, Refusal> {
    let services: Vec<&Arc<Service>> = match selector {
        Selector::Stack(id) if !cluster.stacks.contains_key(&id) => return Err(gone("stack", id)),
        Selector::Stack(id) => cluster.services.values().filter(|service| service.stack == id).collect(),
        Selector::Service(id) => vec![cluster.services.get(&id).ok_or_else(|| gone("service", id))?],
    };
    let world = World::new(cluster.clone());
    let removing =
        matches!(selector, Selector::Stack(id) if cluster.stacks.get(&id).is_some_and(|s| s.removing));
    let mut all = Vec::new();
    let mut outcome = if removing { Outcome::Running } else { Outcome::Done };
    for service in services {
        let (progress, own) = of_service(&world, service);
        all.push(progress);
        outcome = match (outcome, own) {
            (failed @ Outcome::Failed { .. }, _) | (_, failed @ Outcome::Failed { .. }) => failed,
            (Outcome::Done, Outcome::Done) => Outcome::Done,
            (Outcome::Running | Outcome::Done, Outcome::Running | Outcome::Done) => Outcome::Running,
        };
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Progress { services: all, outcome })
}

fn gone(noun: &str, id: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::NotFound, format!("no {noun} `{id}`"))
}

fn of_service(world: &World, service: &Arc<Service>) -> (ServiceProgress, Outcome) {
    let name = service.full_name();
    let tasks: Vec<_> = world.tasks_of(service.id).cloned().collect();
    if service.removing {
        let waiting = vec![format!("{} tasks are still there", tasks.len())];
        return (ServiceProgress { name, running: 0, desired: 0, waiting }, Outcome::Running);
    }
    let own = || tasks.iter().map(|task| &**task);
    let newest = service.current().number;
    let desired = show::count(world.cluster(), service, own()).desired;
    let wanted: Vec<_> =
        tasks.iter().filter(|task| task.desired == Desired::Run && counts(world, task)).collect();
    let good = wanted.iter().filter(|task| task.version == newest && is_good(world, service, task)).count();
    let running = u32::try_from(good).unwrap_or(u32::MAX);
    let outcome = match failure(world, service, &tasks) {
        Some(reason) => Outcome::Failed { reason: format!("service `{name}`: {reason}") },
        None if running == desired && wanted.len() == good => Outcome::Done,
        None => Outcome::Running,
    };
    let waiting = if outcome == Outcome::Done { Vec::new() } else { waiting(service, &tasks) };
    (ServiceProgress { name, running, desired, waiting }, outcome)
}

/// A global service keeps its tasks on nodes that are not ready; they are not asked for.
fn counts(world: &World, task: &Task) -> bool {
    match task.slot {
        Slot::Replica(_) => true,
        Slot::Node(_) => on_ready_node(world, task),
    }
}

fn on_ready_node(world: &World, task: &Task) -> bool {
    let ready = |id: NodeId| {
        let node = world.cluster().nodes.get(&id);
        node.is_some_and(|node| node.state == raftup_proto::api::NodeState::Ready)
    };
    match task.slot {
        Slot::Replica(_) => task.node.is_some_and(ready),
        Slot::Node(id) => ready(id),
    }
}

/// It is where it should come to.
fn is_good(world: &World, service: &Service, task: &Task) -> bool {
    let spec = &service.current().spec;
    let node = task.node.and_then(|id| world.cluster().nodes.get(&id));
    let stays = node.is_some_and(|node| placement::may_stay(node, spec));
    match task.status.state {
        TaskState::Running => stays && on_ready_node(world, task),
        TaskState::Complete => restart::verdict(&spec.restart, task) == restart::Verdict::Finished,
        TaskState::New
        | TaskState::Pending
        | TaskState::Assigned
        | TaskState::Accepted
        | TaskState::Preparing
        | TaskState::Ready
        | TaskState::Starting
        | TaskState::Shutdown
        | TaskState::Failed
        | TaskState::Rejected
        | TaskState::Orphaned => false,
    }
}

/// Why the newest version will not get there by itself.
fn failure(world: &World, service: &Service, tasks: &[Arc<Task>]) -> Option<String> {
    let spec = &service.current().spec;
    let newest = |task: &&Arc<Task>| task.desired == Desired::Run && task.version == service.current().number;
    for task in tasks.iter().filter(newest) {
        if task.status.state.is_over() {
            if let restart::Verdict::GivenUp { .. } = restart::verdict(&spec.restart, task) {
                return Some(format!("{}: {}", name(task), said(task)));
            }
        } else if !task.is_ready()
            && let Some(last) = last_failure(tasks, task)
        {
            let rejected = last.status.state == TaskState::Rejected;
            let limit = if rejected { REJECTED_AFTER } else { FAILING_AFTER };
            if task.restarts >= limit {
                return Some(format!("{} keeps failing: {}", name(task), said(last)));
            }
        }
    }
    no_place(world, service, tasks)
}

fn name(task: &Task) -> String {
    match task.slot {
        Slot::Replica(slot) => format!("slot {slot}"),
        Slot::Node(node) => format!("on {node}"),
    }
}

/// No node can take a task, and nothing that is under way may change that.
fn no_place(world: &World, service: &Service, tasks: &[Arc<Task>]) -> Option<String> {
    let moving = |task: &Arc<Task>| {
        task.desired != Desired::Run && task.holds_node() && world.live_node(task).is_some()
    };
    let stuck = tasks.iter().find(|task| task.is_live() && task.status.state == TaskState::Pending)?;
    if world.cluster().tasks.values().any(moving) {
        return None;
    }
    let found = placement::candidates(
        world,
        &service.current().spec,
        stuck.slot,
        &BTreeMap::new(),
        Default::default(),
    );
    let away = found.err().filter(|away| away.is_hopeless())?;
    Some(format!("{}: {away}", name(stuck)))
}

/// The reasons that the controllers noted, and else what tasks are at.
fn waiting(service: &Service, tasks: &[Arc<Task>]) -> Vec<String> {
    let mut lines = service.waiting.clone();
    let mut states: BTreeMap<TaskState, u32> = BTreeMap::new();
    let unready = tasks.iter().filter(|task| task.is_live() && !task.is_ready());
    for task in unready.filter(|task| task.status.state != TaskState::Pending) {
        *states.entry(task.status.state).or_default() += 1;
    }
    lines.extend(states.into_iter().map(|(state, count)| format!("{count} {state}")));
    if let Mode::Replicated { .. } = service.current().spec.mode {
        let newest = service.current().number;
        let old = tasks.iter().filter(|task| task.is_live() && task.version != newest).count();
        if old > 0 {
            lines.push(format!("{old} to be updated"));
        }
    }
    lines
}
