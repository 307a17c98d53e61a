//! Which slots of a service to fill and which tasks to stop.
//!
//! A replicated service has as many slots as replicas; which numbers they bear follows from what is there, new ones
//! get the lowest that are free. A global service has one slot on each node that it may stay on.
//!
//! A job's tasks stay in their slots when they are complete, so that they are not run twice. A change of the job takes all
//! of them away at once, and the slots are filled anew, no more of them at a time than it asks for.
//!
//! A slot with two tasks of which neither replaces the other, and a task with another's address, are what a decision made
//! twice leaves. They are mended before anything else is counted.
//!
//! Owns: the count of tasks. Leaves alone: versions and places of tasks (`rollout`), nodes (`assign`).
//! Holds: at most one task that should run in each slot, besides one that replaces it; equal inputs, equal answers.

use std::{cmp::Reverse, sync::Arc};

use raftup_proto::{
    peer::TaskState,
    spec::{Mode, SlotOrder},
};

use crate::model::{Desired, Slot, Task};

use super::{
    placement,
    restart::{self, Verdict},
    review::{Attempt, Review},
    rollout, start_order,
};

/// Of several tasks that should run in one slot, the best one stays, with the best of those that are to replace it.
pub(super) fn doubles(review: &mut Review<'_, '_>) {
    let wanted: Vec<_> = review.wanted().collect();
    let of_slots = wanted.chunk_by(|one, other| one.slot == other.slot);
    let several =
        of_slots.filter(|tasks| tasks.len() > 1 || tasks.iter().any(|task| task.replaces.is_some()));
    let several: Vec<Vec<Arc<Task>>> =
        several.map(|tasks| tasks.iter().map(|task| Arc::clone(task)).collect()).collect();
    for mut tasks in several {
        if review.is_full() {
            return;
        }
        tasks.sort_by_cached_key(|task| (Reverse(worth_of(review, task)), task.meta.created, task.id));
        let replaced =
            |task: &Task| tasks.iter().find(|old| Some(old.id) == task.replaces && old.replaces.is_none());
        let (beside, heads): (Vec<_>, Vec<_>) = tasks.iter().partition(|task| replaced(task).is_some());
        let Some((stays, doubles)) = heads.split_first() else { continue };
        if stays.replaces.is_some() {
            review.draft.task(stays, |task| task.replaces = None);
        }
        let mut successors = beside.iter().filter(|task| task.replaces == Some(stays.id));
        let kept = successors.next().map(|task| task.id);
        let too_many = beside.iter().filter(|task| Some(task.id) != kept).chain(doubles);
        for task in too_many {
            review.still(task).iter().for_each(|task| review.retire(task));
        }
    }
}

/// Tasks with an address that an older one has as well are replaced.
pub(super) fn clashes(review: &mut Review<'_, '_>) {
    let clashing = review.draft.world().clashing(review.service.id);
    let clashing: Vec<_> = clashing.filter(|task| task.is_live()).cloned().collect();
    for task in clashing {
        if review.is_full() {
            return;
        }
        replace_at_once(review, &task);
    }
}

/// Tasks that were lost with their node are replaced at once: it was not their fault. Those of a global service stay:
/// they could only run there.
pub(super) fn lost(review: &mut Review<'_, '_>) {
    let is_lost = |task: &&Arc<Task>| {
        let lost = task.holds_node() && task.desired < Desired::Stop && review.is_lost(task);
        lost && !(matches!(task.slot, Slot::Node(_)) && task.desired == Desired::Run)
    };
    let lost: Vec<_> = review.tasks().filter(is_lost).cloned().collect();
    for task in lost {
        if review.is_full() {
            return;
        }
        match task.desired {
            Desired::Run => replace_at_once(review, &task),
            Desired::Drain | Desired::Stop | Desired::Remove => review.retire(&task),
        }
    }
}

/// Another task does what `task` did, unless there is one already.
fn replace_at_once(review: &mut Review<'_, '_>, task: &Arc<Task>) {
    // What became of another task of its slot may have changed it.
    let Some(task) = review.still(task) else { return };
    let (replaces, successor) = (review.replaced_by(&task), review.successor(&task));
    review.retire(&task);
    if successor.is_none() {
        let version = rollout::next_version(review, &task);
        let restarts = if rollout::is_outdated(review, &task) { 0 } else { task.restarts };
        start_again(review, &task, replaces, Attempt { restarts, ..Attempt::of(version) });
    }
}

/// Tasks of a job that has changed go, complete or not: it is run again.
pub(super) fn run_again(review: &mut Review<'_, '_>) {
    if !review.spec().mode.is_job() {
        return;
    }
    let outdated = |task: &&Arc<Task>| rollout::is_outdated(review, task);
    let outdated: Vec<_> = review.wanted().filter(outdated).cloned().collect();
    let changed = !outdated.is_empty();
    for task in outdated {
        if review.is_full() {
            return;
        }
        review.still(&task).iter().for_each(|task| review.retire(task));
    }
    if changed {
        start_order::restart_dependents(review);
    }
}

/// Stops what is too much: of a replicated service those that serve least, then the highest slots; of a global one
/// those on nodes that it may not stay on.
pub(super) fn surplus(review: &mut Review<'_, '_>) {
    let mode = review.spec().mode;
    let excess = match mode.slots() {
        Some(slots) => {
            let excess = review.heads().count().saturating_sub(slots as usize);
            let mut heads: Vec<_> = review.heads().filter(|_| excess > 0).cloned().collect();
            if review.spec().order == SlotOrder::Slots {
                // The next one once the one before it has ended.
                heads.sort_by_key(|task| (Reverse(task.slot), task.id));
                heads.truncate(usize::from(excess > 0 && !is_leaving(review)));
                heads
            } else {
                heads.sort_by_cached_key(|task| (worth(review, task), Reverse(task.slot), task.id));
                heads.truncate(excess);
                heads
            }
        }
        // What a job has done on a node stays done, whatever becomes of the node meanwhile.
        None => {
            let done =
                |task: &Task| mode.is_job() && task.status.state.is_over() && is_known(review, task.slot);
            review.heads().filter(|task| !done(task) && !has_place(review, task.slot)).cloned().collect()
        }
    };
    for task in excess {
        if review.is_full() {
            return;
        }
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
    if task.status.state.is_over() || review.is_lost(task) {
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

/// A task is on its way out.
pub(super) fn is_leaving(review: &Review<'_, '_>) -> bool {
    let leaves =
        |task: &Arc<Task>| task.desired != Desired::Run && task.holds_node() && !review.is_lost(task);
    review.tasks().any(leaves)
}

fn is_known(review: &Review<'_, '_>, slot: Slot) -> bool {
    matches!(slot, Slot::Node(id) if review.draft.world().cluster().nodes.contains_key(&id))
}

fn has_place(review: &Review<'_, '_>, slot: Slot) -> bool {
    match slot {
        Slot::Replica(_) => false,
        Slot::Node(id) => {
            let node = review.draft.world().cluster().nodes.get(&id);
            node.is_some_and(|node| placement::may_stay(node, review.spec()))
        }
    }
}

/// Tasks that ended by themselves: started again by the restart policy; at once if a newer version was asked for
/// meanwhile, or if the node is gone for good. One that was to be replaced leaves its slot to the one that comes.
pub(super) fn ended(review: &mut Review<'_, '_>) {
    let policy = review.spec().restart;
    let ended: Vec<_> = review.wanted().filter(|task| task.status.state.is_over()).cloned().collect();
    for task in ended {
        if review.is_full() {
            return;
        }
        // The end of another task of its slot may have settled this one.
        let Some(task) = review.still(&task) else { continue };
        let old = review.replaced_by(&task);
        let version = rollout::next_version(review, &task);
        let outdated = rollout::is_outdated(review, &task) && version != task.version;
        if review.successor(&task).is_some() || (old.is_some() && outdated) {
            review.retire(&task);
            continue;
        }
        let gone = |id| !review.draft.world().cluster().nodes.contains_key(&id);
        if outdated || (task.status.state == TaskState::Orphaned && task.node.is_none_or(gone)) {
            replace(review, &task, old, Attempt::of(version));
            continue;
        }
        match restart::verdict(&policy, &task) {
            Verdict::Again { at, restarts } => {
                let not_before = (at > review.draft.now).then_some(at);
                replace(review, &task, old, Attempt { not_before, restarts, ..Attempt::of(version) });
            }
            Verdict::Finished => old.iter().for_each(|old| review.retire(old)),
            // Somebody has asked for the update to go on since it ended.
            Verdict::GivenUp { .. } if is_asked_again(review, &task) => {
                replace(review, &task, old, Attempt::of(version));
            }
            Verdict::GivenUp { restarts } => {
                review.waits(task.slot, format!("{}: {}", given_up(restarts), said(&task)));
            }
        }
    }
}

fn is_asked_again(review: &Review<'_, '_>, task: &Task) -> bool {
    let rollout = review.service.rollout.as_ref().filter(|rollout| rollout.status.state.is_active());
    rollout.is_some_and(|rollout| task.meta.updated < rollout.status.started)
}

/// That the restart policy asks for no more.
pub(super) fn given_up(restarts: u32) -> String {
    match restarts {
        0 => "not started again".to_owned(),
        1 => "given up after 1 restart".to_owned(),
        n => format!("given up after {n} restarts"),
    }
}

fn replace(review: &mut Review<'_, '_>, task: &Arc<Task>, old: Option<Arc<Task>>, attempt: Attempt) {
    review.retire(task);
    start_again(review, task, old, attempt);
}

/// A further attempt at the slot of `task`, which was to replace `old`. It is awaited as `task` was, as long as no task
/// has served since.
fn start_again(review: &mut Review<'_, '_>, task: &Task, old: Option<Arc<Task>>, attempt: Attempt) {
    match old {
        Some(old) => review.start_beside(&old, attempt),
        None => {
            let awaited = task.awaited && task.ready.is_none();
            review.start(task.slot, Attempt { awaited, ..attempt });
        }
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

/// So many slots may be filled now, as far as it lies with the number of a job's tasks that run at a time. Those that are on
/// their way out count until they have ended.
fn may_begin(review: &Review<'_, '_>, mode: Mode) -> usize {
    let Mode::ReplicatedJob { concurrent, .. } = mode else { return usize::MAX };
    let runs = |task: &&Arc<Task>| task.is_live() || (task.holds_node() && !review.is_lost(task));
    (concurrent as usize).saturating_sub(review.tasks().filter(runs).count())
}

/// Fills the slots that have no task which should run.
pub(super) fn missing(review: &mut Review<'_, '_>) {
    let mut taken: Vec<Slot> = review.wanted().map(|task| task.slot).collect();
    taken.dedup();
    let is_free = |slot: &Slot| taken.binary_search(slot).is_err();
    let mode = review.spec().mode;
    let empty: Vec<Slot> = match mode.slots() {
        Some(slots) => {
            let count = (slots as usize).saturating_sub(taken.len());
            let count = count.min(may_begin(review, mode));
            if count == 0 {
                Vec::new()
            } else {
                (1..).map(Slot::Replica).filter(is_free).take(count).collect()
            }
        }
        None => {
            let nodes = &review.draft.world().cluster().nodes;
            let fit = nodes.values().filter(|node| placement::may_come(node, review.spec()));
            let empty = fit.map(|node| Slot::Node(node.id)).filter(is_free).collect();
            review.nodes_looked_at += nodes.len();
            empty
        }
    };
    let current = review.service.current().number;
    for slot in empty {
        if review.is_full() {
            return;
        }
        review.start(slot, Attempt::of(current));
    }
}
