//! How far a change has come, and whether it will get there by itself.
//!
//! Done: every slot has a task of the newest version that runs, or that ended well and is not started again, none of an
//! older version should run, and the update is complete. Failed: it is paused or was undone, the restart policy gave up, the newest version keeps failing, or no node can
//! ever take a task as things are. Not failed: a node that would fit is not ready.
//!
//! Owns: the verdict that `stack deploy` exits with. Leaves alone: time limits, which are the caller's.

use std::{collections::BTreeMap, sync::Arc};

use raftup_proto::{
    api::{Availability, NodeState, Outcome, Progress, ServiceProgress, UpdateState},
    id::{NodeId, ServiceId, StackId},
    peer::TaskState,
    refusal::{Code, Refusal},
    spec::{Mode, ServiceSpec},
};

use crate::model::{Desired, Service, Slot, Task, Version};

use super::{
    World, placement,
    replicas::{given_up, said},
    restart,
    rollout::last_failure,
    show,
};

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
    /// What a node that is being drained still runs.
    Node(NodeId),
}

/// The versions that a change asked for, by service.
pub type Asked = BTreeMap<ServiceId, u64>;

/// How far the selected services have come. With `asked` it is that of a change that asked for these versions: it has failed
/// if another version took the place of one of them. Errors: there is nothing of that id, or nothing any more.
/// Cost: one pass over services and the tasks of those selected.
pub fn progress(world: &World, selector: Selector, asked: &Asked) -> Result<Progress, Refusal> {
    let mut progress = of_selected(world, selector)?;
    if let Some(reason) = asked.iter().find_map(|(id, number)| overtaken(world, *id, *number)) {
        progress.outcome = Outcome::Failed { reason };
    }
    Ok(progress)
}

/// What took the place of a version that was asked for; another number of replicas does not. An update that was undone by itself is told as a failure of its own.
fn overtaken(world: &World, id: ServiceId, number: u64) -> Option<String> {
    let service = world.cluster().services.get(&id).filter(|service| !service.removing);
    let Some(service) = service else {
        let name =
            world.cluster().services.get(&id).map(|service| format!("service `{}`", service.full_name()));
        return Some(format!("{} was removed meanwhile", name.as_deref().unwrap_or("a service of it")));
    };
    let current = service.current();
    let undone = service.rollout.as_ref().is_some_and(|rollout| rollout.automatic);
    let scaled = |asked: &Version| is_scaled(asked, current);
    if current.number == number || undone || service.version(number).is_some_and(scaled) {
        return None;
    }
    let (name, image) = (service.full_name(), &current.image);
    let by_hand = service.update_state().is_some_and(UpdateState::is_rollback);
    Some(match by_hand {
        true => format!("service `{name}` was rolled back by hand meanwhile, to image {image}"),
        false => {
            format!(
                "service `{name}` was changed meanwhile: version {} with image {image} is asked for",
                current.number
            )
        }
    })
}

/// The same but for the number of replicas: what was asked for still runs.
fn is_scaled(asked: &Version, current: &Version) -> bool {
    let replicated = |version: &Version| matches!(version.spec.mode, Mode::Replicated { .. });
    let but_for_mode =
        |version: &Version| ServiceSpec { mode: current.spec.mode, ..ServiceSpec::clone(&version.spec) };
    (asked.containers, &asked.image) == (current.containers, &current.image)
        && replicated(asked)
        && replicated(current)
        && but_for_mode(asked) == *current.spec
}

fn of_selected(world: &World, selector: Selector) -> Result<Progress, Refusal> {
    let cluster = world.cluster();
    let services: Vec<&Arc<Service>> = match selector {
        Selector::Stack(id) if !cluster.stacks.contains_key(&id) => return Err(gone("stack", id)),
        Selector::Stack(id) => cluster.services.values().filter(|service| service.stack == id).collect(),
        Selector::Service(id) => vec![cluster.services.get(&id).ok_or_else(|| gone("service", id))?],
        Selector::Node(id) => return of_node(world, id),
    };
    let removing =
        matches!(selector, Selector::Stack(id) if cluster.stacks.get(&id).is_some_and(|s| s.removing));
    let mut all = Vec::new();
    let mut outcome = if removing { Outcome::Running } else { Outcome::Done };
    for service in services {
        let (progress, own) = of_service(world, service);
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
        return (
            ServiceProgress {
                name,
                running: 0,
                complete: 0,
                desired: 0,
                waiting,
                update: None,
                problems: Vec::new(),
            },
            Outcome::Running,
        );
    }
    let own = || tasks.iter().map(|task| &**task);
    let desired = show::count(world.cluster(), service, own()).desired;
    let wanted: Vec<_> =
        tasks.iter().filter(|task| task.desired == Desired::Run && counts(world, service, task)).collect();
    let good = wanted
        .iter()
        .filter(|task| service.is_current(task.version) && is_good(world, service, task))
        .count();
    let running = u32::try_from(good).unwrap_or(u32::MAX);
    let complete = show::count(world.cluster(), service, own()).complete.min(running);
    let updating = service.update_state().is_some_and(UpdateState::is_active);
    let outcome = match failure(world, service, &tasks) {
        Some(reason) => Outcome::Failed { reason: format!("service `{name}`: {reason}") },
        // A job may have been done on nodes that take no tasks any more.
        None if running >= desired && wanted.len() == good && !updating => Outcome::Done,
        None => Outcome::Running,
    };
    let waiting = if outcome == Outcome::Done { Vec::new() } else { waiting(service, &tasks) };
    let update = service.rollout.as_ref().map(|rollout| rollout.status.clone());
    let problems = show::problems(world.cluster(), service);
    (ServiceProgress { name, running, complete, desired, waiting, update, problems }, outcome)
}

/// How far a node is from running nothing. Errors: it is gone.
fn of_node(world: &World, id: NodeId) -> Result<Progress, Refusal> {
    let cluster = world.cluster();
    let node = cluster.nodes.get(&id).ok_or_else(|| gone("node", id))?;
    let mut left: BTreeMap<ServiceId, Vec<&Arc<Task>>> = BTreeMap::new();
    // Those of a node that is down are replaced already.
    let up = node.state != NodeState::Down;
    for task in world.tasks_on(id).filter(|task| up && task.holds_node()) {
        left.entry(task.service).or_default().push(task);
    }
    let mut outcome = if left.is_empty() { Outcome::Done } else { Outcome::Running };
    let mut all = Vec::new();
    for (service, here) in left {
        let Some(service) = cluster.services.get(&service) else { continue };
        let tasks: Vec<_> = world.tasks_of(service.id).cloned().collect();
        let name = service.full_name();
        let stuck = here.iter().find_map(|task| stays(world, service, task)).or_else(|| {
            let to_go = here.iter().any(|task| task.desired == Desired::Run);
            failure(world, service, &tasks).filter(|_| to_go)
        });
        if let Some(reason) = stuck {
            outcome = Outcome::Failed { reason: format!("service `{name}`: {reason}") };
        }
        all.push(ServiceProgress {
            name,
            running: u32::try_from(here.len()).unwrap_or(u32::MAX),
            complete: 0,
            desired: 0,
            waiting: waiting(service, &tasks),
            update: service.rollout.as_ref().map(|rollout| rollout.status.clone()),
            problems: Vec::new(),
        });
    }
    if node.availability != Availability::Drain {
        let reason = format!("node {id} ({}) is not to be drained any more", node.info.hostname);
        outcome = Outcome::Failed { reason };
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Progress { services: all, outcome })
}

/// Why no other node can ever take over from `task`, as things are.
fn stays(world: &World, service: &Service, task: &Task) -> Option<String> {
    if task.desired != Desired::Run || matches!(task.slot, Slot::Node(_)) {
        return None;
    }
    let spec = service.version(task.version).map(|version| &version.spec)?;
    let away = placement::find(world, service, spec, task.slot).err().filter(|away| away.is_hopeless())?;
    Some(format!("{}: {away}", name(task)))
}

/// A global service keeps its tasks on nodes that are not ready; they are not asked for. What a job has done is.
fn counts(world: &World, service: &Service, task: &Task) -> bool {
    match task.slot {
        Slot::Node(_) if service.current().spec.mode.is_job() && task.status.state.is_over() => true,
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
        TaskState::Running => !spec.mode.is_job() && stays && on_ready_node(world, task),
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
    if let Some(rollout) = &service.rollout
        && (rollout.status.state.is_paused()
            || (rollout.automatic && rollout.status.state == UpdateState::RollbackCompleted))
    {
        return Some(rollout.status.message.clone());
    }
    let newest = |task: &&Arc<Task>| task.desired == Desired::Run && service.is_current(task.version);
    for task in tasks.iter().filter(newest) {
        if task.status.state.is_over() {
            if let restart::Verdict::GivenUp { restarts } = restart::verdict(&spec.restart, task) {
                return Some(format!("{}: {}: {}", name(task), given_up(restarts), said(task)));
            }
        } else if !task.is_ready()
            && let Some(last) = last_failure(world, task)
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
    let away = placement::find(world, service, &service.current().spec, stuck.slot)
        .err()
        .filter(|away| away.is_hopeless())?;
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
    if !service.current().spec.mode.is_global() {
        let old = tasks.iter().filter(|task| task.is_live() && !service.is_current(task.version)).count();
        if old > 0 {
            lines.push(format!("{old} to be updated"));
        }
    }
    lines
}
