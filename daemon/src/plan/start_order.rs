//! Start order: which other services of the stack a service waits for (`depends_on`).
//!
//! Before any task of a version has served, all slots of the services that it depends on have to be as the condition says,
//! in their current version, and no update of them may be under way: a migration is complete before the application of the
//! same deploy starts. Afterwards, when a task is started again, one slot is enough, so that a dependency that lost one of
//! three tasks with a host does not hold others up.
//!
//! Owns: why a task without a node, and an update, waits for another service. Leaves alone: everything else about both.
//! Holds: only what is yet to start waits; nothing that runs is stopped because a dependency ended.

use std::sync::Arc;

use raftup_proto::{
    api::UpdateState,
    peer::TaskState,
    spec::{Condition, Dependency},
};

use crate::model::{Desired, Service, Task};

use super::{
    World,
    replicas::said,
    review::Review,
    versions::{self, How, Pinned},
};

/// What a task of this version of the service waits for, in one line; none if it may start.
pub(super) fn waits_for(review: &Review<'_, '_>, version: u64) -> Option<String> {
    let spec = review.spec_of(version);
    let first = !has_served(review, version);
    let world = review.draft.world();
    spec.depends_on.iter().find_map(|(name, dependency)| {
        let Some(service) = world.service_named(review.service.stack, name) else {
            return dependency.required.then(|| format!("waits for service `{name}`, {NOT_THERE}"));
        };
        // What was lost with its node serves nobody, whatever its last state was.
        let tasks = world.tasks_of(service.id).map(AsRef::as_ref);
        let serves_nobody = |task: &Task| !task.status.state.is_over() && review.is_lost(task);
        let heads: Vec<&Task> = tasks.filter(|task| is_head(task) && !serves_nobody(task)).collect();
        unmet(service, &heads, *dependency, first)
    })
}

/// A task with the containers of this version has served.
fn has_served(review: &Review<'_, '_>, version: u64) -> bool {
    let containers = |number| review.service.version(number).map(|version| version.containers);
    review.tasks().any(|task| task.ready.is_some() && containers(task.version) == containers(version))
}

fn is_head(task: &Task) -> bool {
    task.desired == Desired::Run && task.replaces.is_none()
}

/// Why the service is not as the dependency asks, if it is not.
fn unmet(service: &Service, heads: &[&Task], dependency: Dependency, first: bool) -> Option<String> {
    let name = &service.name;
    // What a job has done need not be there any more.
    let done = |task: &Task| service.current().spec.mode.is_job() && task.status.state == TaskState::Complete;
    let is_met = |task: &&&Task| match dependency.condition {
        Condition::Started => {
            matches!(task.status.state, TaskState::Starting | TaskState::Running) || done(task)
        }
        Condition::Healthy => task.is_ready() || done(task),
        Condition::Completed => task.status.state == TaskState::Complete,
    };
    let failed = heads.iter().find(|task| task.status.state.is_over() && !is_met(task));
    if !dependency.required && failed.is_some() {
        return None;
    }
    let what = match dependency.condition {
        Condition::Started => "start",
        Condition::Healthy => "be ready",
        Condition::Completed => "complete",
    };
    let mut wait = format!("waits for service `{name}` to {what}");
    if !first {
        // What completed once for these containers need not do so again.
        let met = dependency.condition == Condition::Completed || heads.iter().any(|task| is_met(&task));
        return (!met && !is_empty(service)).then_some(wait);
    }
    if service.update_state().is_some_and(UpdateState::is_active) {
        return Some(format!("waits for service `{name}`: its update is in progress"));
    }
    let is_current = |task: &Task| {
        let made_from = service.version(task.version).map(|version| version.containers);
        made_from == Some(service.current().containers)
    };
    let met = heads.iter().filter(|task| is_met(task) && is_current(task)).count();
    let (all, known) = match service.current().spec.mode.slots() {
        Some(slots) => (slots as usize, true),
        // How many there are is known once the service was looked at.
        None => (heads.len(), !heads.is_empty()),
    };
    if met >= all && known {
        return None;
    }
    if let Some(failed) = failed {
        wait.push_str(&format!(": {}", said(failed)));
    } else if all > 1 {
        wait.push_str(&format!(": {met} of {all}"));
    }
    Some(wait)
}

/// Whether a reason to wait usually passes by itself: another service of the stack is yet to start.
pub(super) fn passes(reason: &str) -> bool {
    reason.contains("waits for service `") && !reason.ends_with(NOT_THERE)
}

/// How a reason ends where nobody starts the other service.
const NOT_THERE: &str = "which is not there";

fn is_empty(service: &Service) -> bool {
    service.current().spec.mode.slots() == Some(0)
}

/// Services whose tasks have to be replaced, as an update of the reviewed one is complete (`restart: true`).
pub(super) fn restart_dependents(review: &mut Review<'_, '_>) {
    let world = review.draft.world();
    let name = &review.service.name;
    let restarts = |service: &&Arc<Service>| {
        service.current().spec.depends_on.get(name).is_some_and(|dependency| dependency.restart)
    };
    let dependents: Vec<Service> = world
        .dependents(&review.service)
        .filter_map(|id| world.cluster().services.get(&id))
        .filter(restarts)
        .map(|service| Service::clone(service))
        .collect();
    // One that is yet to start does so after this one anyway.
    let has_started = |world: &World, service: &Service| {
        let current = |task: &Arc<Task>| task.node.is_some() && service.is_current(task.version);
        world.tasks_of(service.id).any(current)
    };
    for mut service in dependents {
        if service.removing || !has_started(review.draft.world(), &service) {
            continue;
        }
        let spec = service.current().spec.clone();
        let how = How { force: true, resume: false };
        let cluster = review.draft.world().cluster();
        versions::change(cluster, &mut service, (&spec, &Pinned::new()), how, review.draft.now);
        review.draft.put(service);
    }
}
