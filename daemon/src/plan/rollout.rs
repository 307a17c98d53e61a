//! How tasks are replaced: those of an older version by the service's update policy, those in a place where they may
//! not stay as soon as others serve in their stead.
//!
//! A slot is *settled* when its task is of the current version, serves, and was watched for as long as the policy says.
//! With stop-first, as many slots as the policy's parallelism are unsettled at a time. With start-first a slot has two
//! tasks: the new one names the one that it replaces, and that one goes when the new one was watched and every node
//! leads connections to it. Tasks that have the same ports of their own nodes are replaced stop-first, whatever it says.
//!
//! ```text
//! Updating -> Completed            RollbackStarted -> RollbackCompleted
//!    |  too many failed                   |  too many failed
//!    +-> Paused | RollbackStarted         +-> RollbackPaused
//! ```
//!
//! Owns: when a slot may change, and what is said of that. Leaves alone: the count of slots (`replicas`), nodes
//! (`assign`), what a version is (`versions`).
//! Holds: never fewer tasks that serve than slots less the parallelism, with start-first than slots, as far as it lies
//! with the replacement.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use raftup_proto::{
    api::{Availability, UpdateState, UpdateStatus},
    peer::TaskState,
    spec::{FailureAction, Healthcheck, MountSource, ServiceSpec, UpdateOrder, UpdatePolicy},
    unit::UnixMillis,
};

use crate::model::{Rollout, Service, Slot, Task};

use super::{
    liveness::DAEMON_GRACE,
    placement::{self, Past},
    ports,
    replicas::said,
    restart::{self, Verdict},
    review::Review,
    versions,
};

/// A node that does not say that it leads connections to a new task holds the end of the old one up for so long at
/// most: longer than until it counts as down.
pub(super) const HANDOVER_LIMIT: Duration = DAEMON_GRACE.saturating_add(Duration::from_secs(10));

/// The task's containers are not those of the current version.
pub(super) fn is_outdated(review: &Review<'_, '_>, task: &Task) -> bool {
    !review.service.is_current(task.version)
}

/// The task may not stay where it is.
pub(super) fn is_misplaced(review: &Review<'_, '_>, task: &Task) -> bool {
    let node = task.node.and_then(|id| review.draft.world().cluster().nodes.get(&id));
    node.is_some_and(|node| !placement::may_stay(node, &review.spec()))
}

/// The version of the next task of a slot: the current one, or while an update is paused the one that is there.
pub(super) fn next_version(review: &Review<'_, '_>, task: &Task) -> u64 {
    let paused = review.service.update_state().is_some_and(UpdateState::is_paused);
    if paused && review.service.version(task.version).is_some() {
        task.version
    } else {
        review.service.current().number
    }
}

/// Counts new tasks that ended while they were watched, and does what the policy says if they are too many.
pub(super) fn judge(review: &mut Review<'_, '_>) {
    for task in review.wanted() {
        let Some(rollout) = review.service.rollout.clone().filter(|rollout| rollout.status.state.is_active())
        else {
            return;
        };
        if rollout.failed.contains(&task.slot) || !failed_early(review, &rollout, &task) {
            continue;
        }
        let mut rollout = rollout;
        rollout.failed.insert(task.slot);
        let failed = u32::try_from(rollout.failed.len()).unwrap_or(u32::MAX);
        let policy = policy(&review.service);
        let too_many = policy.max_failure_ratio.is_exceeded_by(failed, rollout.slots.max(1));
        let rolling_back = rollout.status.state.is_rollback();
        let why = format!("due to failure or early termination of task {}: {}", task.id, said(&task));
        match (too_many, policy.failure_action) {
            (false, _) | (true, FailureAction::Continue) => note(review, rollout),
            (true, FailureAction::Rollback) if !rolling_back => go_back(review, rollout, &why),
            (true, FailureAction::Pause | FailureAction::Rollback) => pause(review, rollout, &why),
        }
    }
}

/// The task is one of those that the rollout brought, and ended by itself while it was watched.
fn failed_early(review: &Review<'_, '_>, rollout: &Rollout, task: &Task) -> bool {
    let state = task.status.state;
    if !state.is_over()
        || state == TaskState::Orphaned
        || is_outdated(review, task)
        || task.meta.created < rollout.status.started
    {
        return false;
    }
    // A health check that vouched for it lets the next one go, but does not make a death a success.
    let monitor = policy(&review.service).monitor;
    let early = task.ready.is_none_or(|at| task.meta.updated < at.plus(monitor));
    early && restart::verdict(&review.spec().restart, task) != Verdict::Finished
}

fn note(review: &mut Review<'_, '_>, rollout: Rollout) {
    let service = Service { rollout: Some(rollout), ..Service::clone(&review.service) };
    review.change_service(service);
}

fn pause(review: &mut Review<'_, '_>, mut rollout: Rollout, why: &str) {
    let (state, word) = match rollout.status.state.is_rollback() {
        true => (UpdateState::RollbackPaused, "rollback"),
        false => (UpdateState::Paused, "update"),
    };
    rollout.status.state = state;
    rollout.status.message = format!("{word} paused {why}");
    note(review, rollout);
}

/// To the newest version with other containers.
fn go_back(review: &mut Review<'_, '_>, rollout: Rollout, why: &str) {
    let service = review.service.clone();
    let others = service.versions.iter().rev();
    let target = others.into_iter().find(|version| version.containers != service.current().containers);
    let Some(target) = target else {
        return pause(review, rollout, &format!("{why}; there is no version to roll back to"));
    };
    let cause = format!("update rolled back {why}");
    let now = review.draft.now;
    match versions::go_back(review.draft.world().cluster(), &service, target, (cause, true), now) {
        Ok((service, networks)) => {
            review.change_service(service);
            networks.into_iter().for_each(|network| review.draft.put(network));
        }
        Err(refusal) => pause(review, rollout, &format!("{why}; not rolled back: {}", refusal.message)),
    }
}

/// Replaces what may be replaced now.
pub(super) fn step(review: &mut Review<'_, '_>) {
    hand_over(review);
    move_away(review);
    let active = review.service.update_state().is_some_and(|state| state.is_active() || state.is_paused());
    if !active && !old(review).is_empty() {
        let mut service = Service::clone(&review.service);
        let now = review.draft.now;
        versions::begin_update(review.draft.world().cluster(), &mut service, now);
        review.change_service(service);
    }
    if review.service.update_state().is_some_and(UpdateState::is_active) {
        advance(review);
        finish(review);
    }
}

/// Slots with two tasks: the older one goes if the newer one serves everywhere, the newer one if it is no longer wanted.
fn hand_over(review: &mut Review<'_, '_>) {
    for new in review.wanted() {
        let Some(old) = review.replaced_by(&new) else { continue };
        let version = next_version(review, &old);
        let containers = |number| review.service.version(number).map(|version| version.containers);
        let wanted = containers(version) == containers(new.version);
        let same = containers(old.version) == containers(new.version);
        let needless = !is_outdated(review, &old) && !is_misplaced(review, &old);
        if !wanted || is_misplaced(review, &new) || (needless && !new.is_ready()) {
            let better = new.is_ready() && !old.is_ready();
            review.retire(if better { &old } else { &new });
        } else if !old.is_ready() {
            review.retire(&old);
        } else if let Some(ready) = new.ready.filter(|_| new.is_ready()) {
            let watched = if same { ready } else { ready.plus(monitor(review)) };
            let limit = ready.plus(HANDOVER_LIMIT).max(watched);
            let in_force = review.in_force(new.meta.revision);
            if review.draft.now >= watched && (in_force || review.draft.now >= limit) {
                review.retire(&old);
            } else {
                review.look_again(if review.draft.now < watched { watched } else { limit });
            }
        }
    }
}

/// Tasks that may not stay where they are. What serves goes when another serves in its stead, unless what it has on the
/// disk of its node ties it to it: then it goes first, one at a time, and only if there is another place.
fn move_away(review: &mut Review<'_, '_>) {
    let updating = review.service.update_state().is_some_and(UpdateState::is_active);
    for task in review.heads() {
        let waits_for_update = updating && is_outdated(review, &task);
        if !is_misplaced(review, &task)
            || task.status.state.is_over()
            || review.is_lost(&task)
            || waits_for_update
            || review.successor(&task).is_some()
        {
            continue;
        }
        let version = next_version(review, &task);
        if !task.is_ready() {
            review.retire(&task);
            review.start(task.slot, version, None, 0);
        } else if !is_tied(&review.spec_of(version)) {
            review.start_beside(&task, version, None, 0);
        } else if let Err(away) = elsewhere(review, &task, version) {
            review.waits(task.slot, format!("cannot leave its node: {away}"));
        } else if !review.heads().iter().any(|other| is_coming(review, other)) {
            review.retire(&task);
            review.start(task.slot, version, None, 0);
        }
    }
}

/// It has data on its node that nobody else may write while it runs, or that is not elsewhere.
fn is_tied(spec: &ServiceSpec) -> bool {
    spec.container.mounts.iter().any(|mount| match mount.source {
        MountSource::Volume { .. } => true,
        MountSource::Bind { .. } => !mount.read_only,
        MountSource::Anonymous | MountSource::Tmpfs { .. } => false,
    })
}

fn elsewhere(review: &Review<'_, '_>, task: &Task, version: u64) -> Result<(), placement::NoPlace> {
    let spec = review.spec_of(version);
    let none = BTreeMap::new();
    placement::candidates(review.draft.world(), &spec, task.slot, &none, Past::default()).map(|_| ())
}

/// On its way to serve; one that has no place or keeps failing is not waited for.
fn is_coming(review: &Review<'_, '_>, task: &Task) -> bool {
    let stuck = task.status.state == TaskState::Pending || task.restarts > 0;
    task.is_live() && !task.is_ready() && !stuck && !review.is_lost(task)
}

/// Tasks of older versions that nothing replaces yet. A global service keeps its task on a node that is down; it is
/// looked at when the node is back.
fn old(review: &Review<'_, '_>) -> Vec<Arc<Task>> {
    let heads = review.heads().into_iter();
    let old = heads.filter(|task| is_outdated(review, task) && !review.is_lost(task));
    old.filter(|task| review.successor(task).is_none()).collect()
}

/// Replaces tasks of older versions, as many as the policy allows; those that serve nobody at once.
fn advance(review: &mut Review<'_, '_>) {
    let (mut serving, idle): (Vec<_>, Vec<_>) = old(review).into_iter().partition(|task| task.is_ready());
    let current = review.service.current().number;
    for task in idle {
        review.retire(&task);
        review.start(task.slot, current, None, 0);
    }
    // Nodes that are being emptied come first.
    serving.sort_by_key(|task| (!on_drained_node(review, task), task.slot, task.id));
    let policy = policy(&review.service);
    let most = if policy.parallelism == 0 { usize::MAX } else { policy.parallelism as usize };
    let free = most.saturating_sub(unsettled(review, policy.delay.max(monitor(review))));
    for task in serving.into_iter().take(free) {
        // Both cannot be on one node, and often there is no other.
        let alone = ports::exclude(&review.spec_of(task.version), &review.spec_of(current));
        match if alone { UpdateOrder::StopFirst } else { policy.order } {
            UpdateOrder::StopFirst => {
                review.retire(&task);
                review.start(task.slot, current, None, 0);
            }
            UpdateOrder::StartFirst => review.start_beside(&task, current, None, 0),
        }
    }
}

fn on_drained_node(review: &Review<'_, '_>, task: &Task) -> bool {
    let node = task.node.and_then(|id| review.draft.world().cluster().nodes.get(&id));
    node.is_some_and(|node| node.availability == Availability::Drain)
}

/// Slots that are on their way, or whose task has not served for `wait` since it came. Those that failed, and were
/// allowed to, are not waited for.
fn unsettled(review: &mut Review<'_, '_>, wait: Duration) -> usize {
    let Some(rollout) = review.service.rollout.clone() else { return 0 };
    let mut count = 0;
    for task in review.heads() {
        let being_replaced = review.successor(&task).is_some();
        if rollout.failed.contains(&task.slot)
            || review.is_lost(&task)
            || (is_outdated(review, &task) && !being_replaced)
        {
            continue;
        }
        match settled_at(review, &rollout, &task, wait) {
            Some(at) if !being_replaced && at <= review.draft.now => {}
            Some(at) => {
                count += 1;
                if !being_replaced {
                    review.look_again(at);
                }
            }
            None => count += 1,
        }
    }
    count
}

/// Since when the task of a slot needs no more attention, if it serves, or ended as it should.
fn settled_at(review: &Review<'_, '_>, rollout: &Rollout, task: &Task, wait: Duration) -> Option<UnixMillis> {
    if task.status.state.is_over() {
        let finished = restart::verdict(&review.spec().restart, task) == Verdict::Finished;
        return finished.then_some(task.meta.updated);
    }
    let ready = task.ready.filter(|_| task.is_ready())?;
    Some(if ready < rollout.status.started { ready } else { ready.plus(wait) })
}

/// Notes that the rollout is complete, if it is.
fn finish(review: &mut Review<'_, '_>) {
    let wait = monitor(review);
    let outdated = |task: &Arc<Task>| is_outdated(review, task) && !review.is_lost(task);
    if review.heads().iter().any(outdated) || unsettled(review, wait) > 0 {
        return;
    }
    let Some(mut rollout) = review.service.rollout.clone() else { return };
    let UpdateStatus { state, completed, message, .. } = &mut rollout.status;
    *completed = Some(review.draft.now);
    if state.is_rollback() {
        *state = UpdateState::RollbackCompleted;
        *message = if rollout.automatic {
            format!("rollback completed; {message}")
        } else {
            "rollback completed".to_owned()
        };
    } else {
        *state = UpdateState::Completed;
        *message = "update completed".to_owned();
    }
    note(review, rollout);
}

/// What holds for the rollout: on the way back, what the version that it goes back to says of that.
fn policy(service: &Service) -> UpdatePolicy {
    let spec = &service.current().spec;
    if service.update_state().is_some_and(UpdateState::is_rollback) { spec.rollback } else { spec.update }
}

/// How long a new task is watched before it is relied on. A health check has vouched for it by then.
fn monitor(review: &Review<'_, '_>) -> Duration {
    match review.spec().container.healthcheck {
        Some(Healthcheck::Check { .. }) => Duration::ZERO,
        Some(Healthcheck::Disabled) | None => policy(&review.service).monitor,
    }
}

/// The newest task of the same slot and version that ended.
pub(super) fn last_failure<'a>(tasks: &'a [Arc<Task>], task: &Task) -> Option<&'a Arc<Task>> {
    let of_slot = |old: &&Arc<Task>| old.slot == task.slot && old.version == task.version;
    let ended = tasks.iter().filter(of_slot).filter(|old| old.status.state.is_over());
    ended.max_by_key(|old| (old.meta.created, old.id))
}

/// Slots whose live tasks are not of the current version.
pub(super) fn outdated_slots<'a>(service: &Service, tasks: impl Iterator<Item = &'a Arc<Task>>) -> u32 {
    let old = tasks.filter(|task| task.is_live() && !service.is_current(task.version));
    let slots: std::collections::BTreeSet<Slot> = old.map(|task| task.slot).collect();
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}
