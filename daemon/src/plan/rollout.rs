//! How tasks of an old version, or in a place where they may not stay, are replaced: one at a time, stop first.
//!
//! A task that serves nobody is replaced at once. One that serves is replaced when every other task of the newest
//! version serves, and the last to start has done so for a while; so a version that does not come up costs one task,
//! and the rollout stands, with the reason on the service.
//!
//! Owns: when a slot may change. Leaves alone: the count of slots (`replicas`), nodes (`assign`).
//! Holds: at most one slot is out of service for the sake of a rollout.

use std::{sync::Arc, time::Duration};

use raftup_proto::{api::Availability, peer::TaskState, spec::Healthcheck, unit::UnixMillis};

use crate::model::{Slot, Task};

use super::{placement, replicas::said, review::Review};

/// How long a new task must run before the next one is replaced, where no health check vouches for it.
pub(super) const MONITOR: Duration = Duration::from_secs(2);

/// The same for a task whose predecessors of the same version failed: it has to prove itself.
pub(super) const MONITOR_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// The task is of an old version, or may not stay where it is.
pub(super) fn is_outdated(review: &Review<'_, '_>, task: &Task) -> bool {
    let current = review.service.current();
    let misplaced = || {
        let node = task.node.and_then(|id| review.draft.world().cluster().nodes.get(&id));
        node.is_some_and(|node| !placement::may_stay(node, &current.spec))
    };
    task.version != current.number || misplaced()
}

/// Replaces what may be replaced now.
pub(super) fn step(review: &mut Review<'_, '_>) {
    let live: Vec<_> = review.wanted().into_iter().filter(|task| task.is_live()).collect();
    let (mut old, new): (Vec<_>, Vec<_>) = live.into_iter().partition(|task| is_outdated(review, task));
    // A global service keeps its task on a node that is down; it is looked at when the node is back.
    old.retain(|task| !review.is_lost(task));
    if old.is_empty() {
        return;
    }
    let (serving, idle): (Vec<_>, Vec<_>) = old.into_iter().partition(|task| task.is_ready());
    for task in &idle {
        succeed(review, task);
    }
    // Nodes that are being emptied come first.
    let Some(next) = serving.iter().min_by_key(|task| (!on_drained_node(review, task), task.slot, task.id))
    else {
        return;
    };
    match gate(review, &new, on_drained_node(review, next)) {
        Gate::Open if idle.is_empty() => succeed(review, next),
        // Those that were just replaced come to serve first.
        Gate::Open | Gate::Moving => {}
        Gate::Until(at) => review.look_again(at),
        Gate::Paused { slot, why, until } => {
            review.waits(slot, why);
            until.into_iter().for_each(|at| review.look_again(at));
        }
    }
}

fn succeed(review: &mut Review<'_, '_>, task: &Arc<Task>) {
    review.retire(task);
    review.start(task.slot, None, 0);
}

fn on_drained_node(review: &Review<'_, '_>, task: &Task) -> bool {
    let node = task.node.and_then(|id| review.draft.world().cluster().nodes.get(&id));
    node.is_some_and(|node| node.availability == Availability::Drain)
}

/// Whether a further task may be taken out of service.
enum Gate {
    Open,
    /// A new task is on its way.
    Moving,
    /// A new task serves, but not for long enough yet.
    Until(UnixMillis),
    /// A new task in that slot keeps failing, or did and has yet to prove itself.
    Paused {
        slot: Slot,
        why: String,
        until: Option<UnixMillis>,
    },
}

/// `emptying`: the next one leaves a node that an operator wants empty. Tasks that were in trouble before do not hold
/// that up.
fn gate(review: &Review<'_, '_>, new: &[Arc<Task>], emptying: bool) -> Gate {
    let (mut until, mut moving) = (None, false);
    for task in new.iter().filter(|task| !review.is_lost(task)) {
        let placeless = task.status.state == TaskState::Pending;
        if emptying && (placeless || task.restarts > 0) {
            continue;
        }
        // By the leader's clock: `since` is the node's.
        let proven = task.is_ready().then(|| task.meta.updated.plus(monitor(review, task)));
        match proven {
            Some(at) if at <= review.draft.now => {}
            _ if task.restarts > 0 => {
                return Gate::Paused { slot: task.slot, why: standstill(review, task), until: proven };
            }
            Some(at) => until = until.max(Some(at)),
            None => moving = true,
        }
    }
    if moving {
        return Gate::Moving;
    }
    until.map_or(Gate::Open, Gate::Until)
}

fn monitor(review: &Review<'_, '_>, task: &Task) -> Duration {
    let vouched = matches!(review.spec().container.healthcheck, Some(Healthcheck::Check { .. }));
    match task.restarts {
        0 if vouched => Duration::ZERO,
        0 => MONITOR,
        _ => MONITOR_AFTER_FAILURE,
    }
}

fn standstill(review: &Review<'_, '_>, task: &Task) -> String {
    match last_failure(&review.tasks(), task) {
        Some(failed) => format!("update paused, the new version fails: {}", said(failed)),
        None => "update paused, the new version fails".to_owned(),
    }
}

/// The newest task of the same slot and version that ended.
pub(super) fn last_failure<'a>(tasks: &'a [Arc<Task>], task: &Task) -> Option<&'a Arc<Task>> {
    let of_slot = |old: &&Arc<Task>| old.slot == task.slot && old.version == task.version;
    let ended = tasks.iter().filter(of_slot).filter(|old| old.status.state.is_over());
    ended.max_by_key(|old| (old.meta.created, old.id))
}
