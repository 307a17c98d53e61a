//! Which slots of a service to fill and which tasks to stop.
//!
//! A replicated service has as many slots as replicas; which numbers they bear follows from what is there, new ones
//! get the lowest that are free. A global service has one slot on each node that it may stay on.
//!
//! Owns: the count of tasks. Leaves alone: versions and places of tasks (`rollout`), nodes (`assign`).
//! Holds: at most one task that should run in each slot, besides one that replaces it; equal inputs, equal answers.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use raftup_proto::{peer::TaskState, spec::Mode};

use crate::model::{Desired, Slot, Task};

use super::{
    placement,
    restart::{self, Verdict},
    review::Review,
    rollout,
};

/// Tasks that were lost with their node are replaced at once: it was not their fault. Those of a global service stay:
/// they could only run there.
pub(super) fn lost(review: &mut Review<'_, '_>) {
    for task in review.tasks() {
        let lost = task.holds_node() && task.desired < Desired::Stop && review.is_lost(&task);
        if !lost || (matches!(task.slot, Slot::Node(_)) && task.desired == Desired::Run) {
            continue;
        }
        let (replaces, successor) = (review.replaced_by(&task), review.successor(&task));
        review.retire(&task);
        if task.desired == Desired::Run && successor.is_none() {
            let version = rollout::next_version(review, &task);
            let restarts = if rollout::is_outdated(review, &task) { 0 } else { task.restarts };
            start_again(review, &task, replaces, (version, None, restarts));
        }
    }
}

/// Stops what is too much: of a replicated service those that serve least, then the highest slots; of a global one
/// those on nodes that it may not stay on.
pub(super) fn surplus(review: &mut Review<'_, '_>) {
    let mut wanted = review.heads();
    match review.spec().mode {
        Mode::Replicated { replicas } => {
            wanted.sort_by_key(|task| (worth(review, task), Reverse(task.slot)));
            let excess = wanted.len().saturating_sub(replicas as usize);
            wanted.truncate(excess);
        }
        Mode::Global => wanted.retain(|task| !has_place(review, task.slot)),
    }
    for task in wanted {
        review.successor(&task).iter().for_each(|successor| review.retire(successor));
        review.retire(&task);
    }
}

/// The order in which slots are given up: ended, without a node, not running, outdated, good.
fn worth(review: &Review<'_, '_>, task: &Task) -> u8 {
    let successor = review.successor(task).map(|successor| worth_of(review, &successor));
    worth_of(review, task).max(successor.unwrap_or(0))
}

fn worth_of(review: &Review<'_, '_>, task: &Task) -> u8 {
    if task.status.state.is_over() {
        0
    } else if task.node.is_none() {
        1
    } else if task.status.state != TaskState::Running {
        2
    } else if rollout::is_outdated(review, task) || rollout::is_misplaced(review, task) {
        3
    } else {
        4
    }
}

fn has_place(review: &Review<'_, '_>, slot: Slot) -> bool {
    match slot {
        Slot::Replica(_) => false,
        Slot::Node(id) => {
            let node = review.draft.world().cluster().nodes.get(&id);
            node.is_some_and(|node| placement::may_stay(node, &review.spec()))
        }
    }
}

/// Tasks that ended by themselves: started again by the restart policy; at once if a newer version was asked for
/// meanwhile, or if the node is gone for good. One that was to be replaced leaves its slot to the one that comes.
pub(super) fn ended(review: &mut Review<'_, '_>) {
    let policy = review.spec().restart;
    for task in review.wanted() {
        // The end of another task of its slot may have settled this one.
        let Some(task) = review.still(&task).filter(|task| task.status.state.is_over()) else { continue };
        let old = review.replaced_by(&task);
        let version = rollout::next_version(review, &task);
        let outdated = rollout::is_outdated(review, &task) && version != task.version;
        if review.successor(&task).is_some() || (old.is_some() && outdated) {
            review.retire(&task);
            continue;
        }
        if outdated || task.status.state == TaskState::Orphaned {
            replace(review, &task, old, (version, None, 0));
            continue;
        }
        match restart::verdict(&policy, &task) {
            Verdict::Again { at, restarts } => {
                let not_before = (at > review.draft.now).then_some(at);
                replace(review, &task, old, (version, not_before, restarts));
            }
            Verdict::Finished => old.iter().for_each(|old| review.retire(old)),
            Verdict::GivenUp { restarts } => {
                let tried = match restarts {
                    0 => "not started again".to_owned(),
                    1 => "given up after 1 restart".to_owned(),
                    n => format!("given up after {n} restarts"),
                };
                review.waits(task.slot, format!("{tried}: {}", said(&task)));
            }
        }
    }
}

/// Version, time and restarts of an attempt.
type Attempt = (u64, Option<raftup_proto::unit::UnixMillis>, u32);

fn replace(review: &mut Review<'_, '_>, task: &Arc<Task>, old: Option<Arc<Task>>, attempt: Attempt) {
    review.retire(task);
    start_again(review, task, old, attempt);
}

/// A further attempt at the slot of `task`, which was to replace `old`.
fn start_again(review: &mut Review<'_, '_>, task: &Task, old: Option<Arc<Task>>, attempt: Attempt) {
    let (version, not_before, restarts) = attempt;
    match old {
        Some(old) => review.start_beside(&old, version, not_before, restarts),
        None => _ = review.start(task.slot, version, not_before, restarts),
    }
}

/// What there is to say of how a task ended.
pub(super) fn said(task: &Task) -> String {
    match (&task.status.message, task.status.exit_code) {
        (Some(message), _) => message.clone(),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => task.status.state.to_string(),
    }
}

/// Fills the slots that have no task which should run.
pub(super) fn missing(review: &mut Review<'_, '_>) {
    let taken: BTreeSet<Slot> = review.wanted().iter().map(|task| task.slot).collect();
    let spec = review.spec();
    let empty: Vec<Slot> = match spec.mode {
        Mode::Replicated { replicas } => {
            let count = (replicas as usize).saturating_sub(taken.len());
            (1..).map(Slot::Replica).filter(|slot| !taken.contains(slot)).take(count).collect()
        }
        Mode::Global => {
            let nodes = review.draft.world().cluster().nodes.values();
            let fit = nodes.filter(|node| placement::may_come(node, &spec));
            fit.map(|node| Slot::Node(node.id)).filter(|slot| !taken.contains(slot)).collect()
        }
    };
    let current = review.service.current().number;
    for slot in empty {
        review.start(slot, current, None, 0);
    }
}
