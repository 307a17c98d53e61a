//! Nodes and addresses for the tasks of a service that have none.
//!
//! Owns: a task's step from new or pending to assigned. Leaves alone: which node is best (`placement`).
//! Holds: a task gets its node and all of its addresses at once, and keeps them; it is not placed before its
//! predecessor in the slot has stopped, or was lost with its node, unless it replaces one that goes later.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use raftup_proto::{
    id::{NetworkId, NodeId},
    peer::{TaskState, TaskStatus},
    spec::{Mount, MountSource},
};

use crate::model::{Node, Task};

use super::{
    addresses,
    placement::{self, Past},
    replicas::said,
    review::Review,
    rollout,
};

/// Places what can be placed, and says why of the rest.
pub(super) fn all(review: &mut Review<'_, '_>) {
    let tasks = review.tasks();
    let waiting = tasks.iter().filter(|task| task.is_live() && task.node.is_none());
    let mut placed = placed(&tasks);
    let held: Vec<_> = tasks.iter().filter(|task| task.holds_node() && !review.is_lost(task)).collect();
    let busy =
        |task: &Task| held.iter().any(|other| other.slot == task.slot && Some(other.id) != task.replaces);
    for task in waiting {
        let why = match task.not_before.filter(|at| *at > review.draft.now) {
            Some(at) => {
                review.look_again(at);
                let ended = rollout::last_failure(&tasks, task).map(|ended| said(ended)).unwrap_or_default();
                let message = format!("waits to be started again: {ended}");
                review.waits(task.slot, &message);
                Hold::Later(message)
            }
            None if busy(task) => Hold::Later("waits for its predecessor to stop".to_owned()),
            None => match place(
                review,
                task,
                &without_replaced(review, &placed, task),
                past(review, &tasks, task),
            ) {
                Ok(node) => {
                    *placed.entry(node).or_default() += 1;
                    continue;
                }
                Err(reason) => Hold::NoPlace(reason),
            },
        };
        hold(review, task, why);
    }
}

enum Hold {
    Later(String),
    NoPlace(String),
}

fn hold(review: &mut Review<'_, '_>, task: &Arc<Task>, why: Hold) {
    let (state, message) = match why {
        Hold::Later(message) => (TaskState::New, message),
        Hold::NoPlace(message) => {
            review.waits(task.slot, &message);
            (TaskState::Pending, message)
        }
    };
    // States only move forwards: one that was pending stays so.
    let state = state.max(task.status.state);
    if task.status.state != state || task.status.message.as_ref() != Some(&message) {
        let since = if task.status.state == state { task.status.since } else { review.draft.now };
        review.draft.task(task, |task| task.status = TaskStatus::new(state, since).because(message));
    }
}

/// The service's tasks by node, those that are on their way out not counted.
fn placed(tasks: &[Arc<Task>]) -> BTreeMap<NodeId, u32> {
    let mut placed = BTreeMap::new();
    for node in tasks.iter().filter(|task| task.is_live()).filter_map(|task| task.node) {
        *placed.entry(node).or_default() += 1;
    }
    placed
}

/// The one that `task` replaces will go: its place is as good as empty.
fn without_replaced(
    review: &Review<'_, '_>,
    placed: &BTreeMap<NodeId, u32>,
    task: &Task,
) -> BTreeMap<NodeId, u32> {
    let mut placed = placed.clone();
    let old = review.replaced_by(task).filter(|old| old.is_live()).and_then(|old| old.node);
    if let Some(count) = old.and_then(|node| placed.get_mut(&node)) {
        *count -= 1;
    }
    placed
}

/// What the slot's last task before `task` says about where to go. Source of the volumes' rule: they are local.
fn past(review: &Review<'_, '_>, tasks: &[Arc<Task>], task: &Task) -> Past {
    let before = tasks.iter().filter(|old| old.slot == task.slot && old.node.is_some());
    let Some(last) = before.max_by_key(|old| (old.meta.created, old.id)) else { return Past::default() };
    let named = |mount: &Mount| matches!(mount.source, MountSource::Volume { .. });
    if review.spec_of(task.version).container.mounts.iter().any(named) {
        return Past { volumes: last.node, failed: None };
    }
    let failed = matches!(last.status.state, TaskState::Failed | TaskState::Rejected);
    Past { volumes: None, failed: last.node.filter(|_| failed) }
}

fn place(
    review: &mut Review<'_, '_>,
    task: &Arc<Task>,
    placed: &BTreeMap<NodeId, u32>,
    past: Past,
) -> Result<NodeId, String> {
    let found =
        placement::candidates(review.draft.world(), &review.spec_of(task.version), task.slot, placed, past);
    let mut full = String::new();
    for id in found.map_err(|reason| reason.to_string())? {
        let Some(mut node) = review.draft.world().cluster().nodes.get(&id).map(|node| Node::clone(node))
        else {
            continue;
        };
        match give_addresses(review, &mut node) {
            Err(reason) => full = reason,
            Ok(networks) => {
                review.draft.put(node);
                let status = TaskStatus::new(TaskState::Assigned, review.draft.now);
                review.draft.task(task, |task| {
                    task.node = Some(id);
                    task.networks = networks;
                    task.status = status;
                });
                return Ok(id);
            }
        }
    }
    Err(full)
}

/// One address on each network of the service; the node gets a further block where it needs one.
fn give_addresses(review: &Review<'_, '_>, node: &mut Node) -> Result<Vec<(NetworkId, Ipv4Addr)>, String> {
    let world = review.draft.world();
    let mut given = Vec::new();
    for id in &review.service.networks {
        let Some(network) = world.cluster().networks.get(id) else { continue };
        let tasks = || world.tasks_on(node.id).map(|task| &**task);
        let mut address = addresses::address(node, *id, network.subnet, tasks());
        if address.is_none() {
            let block = addresses::block(world.cluster(), *id, network.subnet).map_err(|error| {
                format!("no address on network `{}_{}`: {error}", network.stack_name, network.name)
            })?;
            let blocks = node.blocks.entry(*id).or_default();
            blocks.push(block);
            blocks.sort_unstable();
            address = addresses::address(node, *id, network.subnet, tasks());
        }
        given.extend(address.map(|address| (*id, address)));
    }
    Ok(given)
}
