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

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use raftup_proto::{
    api::{Availability, UpdateState, UpdateStatus},
    peer::TaskState,
    spec::{FailureAction, Healthcheck, MountSource, ServiceSpec, SlotOrder, UpdateOrder, UpdatePolicy},
    unit::UnixMillis,
};

use crate::model::{Desired, Rollout, Service, Slot, Task};

use super::{
    World,
    liveness::DAEMON_GRACE,
    placement::{self, NoPlace},
    ports,
    replicas::said,
    restart::{self, Verdict},
    review::{Attempt, Review, name_slots},
    start_order, versions,
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
    node.is_some_and(|node| !placement::may_stay(node, review.spec()))
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
    if !review.service.update_state().is_some_and(UpdateState::is_active) {
        return;
    }
    let ended: Vec<_> = review.wanted().filter(|task| task.status.state.is_over()).cloned().collect();
    for task in ended {
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
        let why = format!(
            "due to failure or early termination of the task of {}: {}",
            name_slots(vec![task.slot]),
            said(&task)
        );
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

/// To the newest version with other containers that is known to have worked.
fn go_back(review: &mut Review<'_, '_>, rollout: Rollout, why: &str) {
    let service = review.service.clone();
    let others = service.versions.iter().rev();
    let others: Vec<_> =
        others.filter(|version| version.containers != service.current().containers).collect();
    let Some(target) = others.iter().find(|version| service.is_proven(version.containers)) else {
        let why_not = match others.is_empty() {
            true => "there is no version to roll back to",
            false => "no earlier version is known to have worked",
        };
        return pause(review, rollout, &format!("{why}; {why_not}"));
    };
    let cause = format!("update rolled back {why}");
    let (now, world) = (review.draft.now, review.draft.world());
    let tasks = world.tasks_of(service.id);
    match versions::go_back(world.cluster(), tasks, &service, target, (cause, true), now) {
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
    if review.spec().mode.is_job() {
        return;
    }
    let active = review.service.update_state().is_some_and(|state| state.is_active() || state.is_paused());
    if !active && old(review).next().is_some() {
        let mut service = Service::clone(&review.service);
        versions::begin_update(&mut service, review.tasks(), review.draft.now);
        review.change_service(service);
    }
    if review.service.update_state().is_some_and(UpdateState::is_active) {
        advance(review);
        finish(review);
    }
}

/// Slots with two tasks: the older one goes if the newer one serves everywhere, the newer one if it is no longer wanted.
fn hand_over(review: &mut Review<'_, '_>) {
    let newer: Vec<_> = review.wanted().filter(|task| task.replaces.is_some()).cloned().collect();
    for new in newer {
        if review.is_full() {
            return;
        }
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
    let has_to_go = |task: &&Arc<Task>| {
        let waits_for_update = updating && is_outdated(review, task);
        is_misplaced(review, task)
            && !task.status.state.is_over()
            && !review.is_lost(task)
            && !waits_for_update
            && review.successor(task).is_none()
    };
    let misplaced: Vec<_> = review.heads().filter(has_to_go).cloned().collect();
    let mut places = BTreeMap::new();
    let mut coming = None;
    for task in misplaced {
        if review.is_full() {
            return;
        }
        let version = next_version(review, &task);
        let attempt = Attempt::of(version);
        // Of a job, two tasks would do the work twice.
        if !task.is_ready() || review.spec().mode.is_job() {
            review.retire(&task);
            review.start(task.slot, Attempt { awaited: task.awaited, ..attempt });
            continue;
        }
        if !is_tied(&review.spec_of(version)) && review.spec().order == SlotOrder::Any {
            review.start_beside(&task, attempt);
            continue;
        }
        // Nobody leaves a node in this pass: the answer is the same for all slots of a version.
        let of_slot = matches!(task.slot, Slot::Node(_)).then_some(task.slot);
        let place = places.entry((version, of_slot)).or_insert_with(|| elsewhere(review, &task, version));
        if let Err(away) = place {
            let reason = format!("cannot leave its node: {away}");
            review.waits(task.slot, reason);
        } else if !*coming.get_or_insert_with(|| review.heads().any(|other| is_coming(review, other))) {
            review.retire(&task);
            review.start(task.slot, Attempt { awaited: true, ..attempt });
            coming = Some(true);
        }
    }
}

/// It has data on its node that nobody else may write while it runs, or that is not elsewhere.
fn is_tied(spec: &ServiceSpec) -> bool {
    spec.container.mounts.iter().any(|mount| match mount.source {
        MountSource::Volume { .. } => true,
        MountSource::Bind { .. } => !mount.read_only,
        MountSource::Anonymous | MountSource::Tmpfs { .. } | MountSource::Image { .. } => false,
    })
}

fn elsewhere(review: &Review<'_, '_>, task: &Task, version: u64) -> Result<(), Box<NoPlace>> {
    placement::find(review.draft.world(), &review.service, &review.spec_of(version), task.slot)
}

/// On its way to serve; one that has no place or keeps failing is not waited for.
fn is_coming(review: &Review<'_, '_>, task: &Task) -> bool {
    let stuck = task.status.state == TaskState::Pending || task.restarts > 0;
    task.is_live() && !task.is_ready() && !stuck && !review.is_lost(task)
}

/// No node fits, and that is not the update's doing: the slot served nobody before.
fn has_no_place(task: &Task) -> bool {
    task.status.state == TaskState::Pending && task.node.is_none() && !task.awaited
}

/// Tasks of older versions that nothing replaces yet. A global service keeps its task on a node that is down; it is
/// looked at when the node is back.
fn old<'r>(review: &'r Review<'_, '_>) -> impl Iterator<Item = &'r Arc<Task>> {
    let old = review.heads().filter(|task| is_outdated(review, task) && !review.is_lost(task));
    old.filter(|task| review.successor(task).is_none())
}

/// Replaces tasks of older versions, as many as the policy allows; those that serve nobody at once.
fn advance(review: &mut Review<'_, '_>) {
    let (mut serving, idle): (Vec<_>, Vec<_>) = old(review).cloned().partition(|task| task.is_ready());
    let current = Attempt::of(review.service.current().number);
    for task in idle {
        if review.is_full() {
            return;
        }
        review.retire(&task);
        review.start(task.slot, Attempt { awaited: task.awaited, ..current });
    }
    if serving.is_empty() {
        return;
    }
    // What serves stays until what comes in its stead may start.
    if let Some(why) = start_order::waits_for(review, current.version) {
        serving.iter().for_each(|task| review.waits(task.slot, &why));
        return;
    }
    let ordered = review.spec().order == SlotOrder::Slots;
    let policy = policy(&review.service);
    let most = match policy.parallelism {
        _ if ordered => 1,
        0 => usize::MAX,
        some => some as usize,
    };
    let free = most.saturating_sub(unsettled(review, policy.delay.max(monitor(review))));
    if free == 0 {
        return;
    }
    // What an earlier version has just brought may still fail by itself, and so comes first; then nodes that are being emptied.
    let watched = monitor(review);
    let proven = |task: &Task| task.ready.is_some_and(|ready| ready.plus(watched) <= review.draft.now);
    serving.sort_by_cached_key(|task| (proven(task), !on_drained_node(review, task), task.slot, task.id));
    if ordered {
        serving.sort_by_key(|task| Reverse(task.slot));
    }
    for task in serving.into_iter().take(free) {
        if review.is_full() {
            return;
        }
        // Both cannot be on one node, and often there is no other.
        let alone = ports::exclude(&review.spec_of(task.version), review.spec()) || is_full(review, &task);
        match if alone || ordered { UpdateOrder::StopFirst } else { policy.order } {
            UpdateOrder::StopFirst => {
                review.retire(&task);
                review.start(task.slot, Attempt { awaited: true, ..current });
            }
            UpdateOrder::StartFirst => review.start_beside(&task, current),
        }
    }
}

/// All nodes have as many tasks of the service as one may have, so a new one comes once an old one has gone.
fn is_full(review: &Review<'_, '_>, task: &Task) -> bool {
    review.spec().placement.max_per_node.is_some()
        && elsewhere(review, task, review.service.current().number).is_err()
}

fn on_drained_node(review: &Review<'_, '_>, task: &Task) -> bool {
    let node = task.node.and_then(|id| review.draft.world().cluster().nodes.get(&id));
    node.is_some_and(|node| node.availability == Availability::Drain)
}

/// Slots that are on their way, or whose task has not served for `wait` since it came. Those that failed, and were
/// allowed to, are not waited for, nor those that no node had a place for before.
fn unsettled(review: &mut Review<'_, '_>, wait: Duration) -> usize {
    let Some(rollout) = &review.service.rollout else { return 0 };
    let (mut count, mut next) = (0, None);
    for task in review.heads() {
        let being_replaced = review.successor(task).is_some();
        if rollout.failed.contains(&task.slot)
            || review.is_lost(task)
            || (!being_replaced && (is_outdated(review, task) || has_no_place(task)))
        {
            continue;
        }
        match settled_at(review, rollout, task, wait) {
            Some(at) if !being_replaced && at <= review.draft.now => {}
            Some(at) => {
                count += 1;
                if !being_replaced {
                    next = Some(next.map_or(at, |next: UnixMillis| next.min(at)));
                }
            }
            None => count += 1,
        }
    }
    next.into_iter().for_each(|at| review.look_again(at));
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

/// Notes that the rollout is complete, if it is, and else which slots hold it up. Slots that no node had a place for before
/// do not; they get the new version when there is one.
fn finish(review: &mut Review<'_, '_>) {
    let wait = monitor(review);
    let on_the_way = review.heads().any(|task| is_outdated(review, task) && !review.is_lost(task));
    let on_the_way = on_the_way || unsettled(review, wait) > 0;
    let no_place = |awaited: bool| -> Vec<Slot> {
        let pending =
            review.heads().filter(|task| task.node.is_none() && task.status.state == TaskState::Pending);
        pending.filter(|task| task.awaited == awaited).map(|task| task.slot).collect()
    };
    let (held_up, left_out) = (no_place(true), no_place(false));
    let serves = |task: &Arc<Task>| {
        let finished = || restart::verdict(&review.spec().restart, task) == Verdict::Finished;
        task.is_ready() || (task.status.state.is_over() && finished())
    };
    let works = review.heads().any(|task| serves(task) && !is_outdated(review, task));
    let Some(mut rollout) = review.service.rollout.clone() else { return };
    let UpdateStatus { state, completed, message, .. } = &mut rollout.status;
    if on_the_way || (!left_out.is_empty() && !works) {
        let rolling_back = state.is_rollback();
        let waits: Vec<_> = if works { held_up } else { held_up.into_iter().chain(left_out).collect() };
        let now = match waits.is_empty() {
            true => versions::IN_PROGRESS.to_owned(),
            false => format!("{}; no node fits for {}", versions::IN_PROGRESS, name_slots(waits)),
        };
        if !rolling_back && *message != now {
            *message = now;
            note(review, rollout);
        }
        return;
    }
    *completed = Some(review.draft.now);
    let mut told = match (state.is_rollback(), rollout.automatic) {
        (true, true) => format!("rollback completed; {message}"),
        (true, false) => "rollback completed".to_owned(),
        (false, _) => "update completed".to_owned(),
    };
    if !left_out.is_empty() {
        told.push_str(&format!("; no node fits for {}", name_slots(left_out)));
    }
    *message = told;
    *state = if state.is_rollback() { UpdateState::RollbackCompleted } else { UpdateState::Completed };
    let mut service = Service { rollout: Some(rollout), ..Service::clone(&review.service) };
    if works {
        versions::prove_current(&mut service);
    }
    review.change_service(service);
    start_order::restart_dependents(review);
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
pub(super) fn last_failure<'w>(world: &'w World, task: &Task) -> Option<&'w Arc<Task>> {
    let of_slot = world.tasks_in(task.service, task.slot).filter(|old| old.version == task.version);
    let ended = of_slot.filter(|old| old.status.state.is_over());
    ended.max_by_key(|old| (old.meta.created, old.id))
}

/// Slots whose tasks, ended ones included, are not of the current version.
pub(super) fn outdated_slots<'a>(service: &Service, tasks: impl Iterator<Item = &'a Arc<Task>>) -> u32 {
    let old = tasks.filter(|task| task.desired == Desired::Run && !service.is_current(task.version));
    let slots: std::collections::BTreeSet<Slot> = old.map(|task| task.slot).collect();
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}
