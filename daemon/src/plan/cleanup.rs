//! What is forgotten: ended tasks beyond the history, services, networks, volumes and stacks that are being removed.
//!
//! Owns: deletion. Leaves alone: containers, which agents remove with the tasks that they belong to.
//! Holds: a task is forgotten only when its container is seen to have ended, or its node is down (it will find the task
//! gone when it is back); a service goes after its tasks, a network after its services, a stack last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use raftup_proto::{
    api::UpdateState,
    id::{NetworkId, StackId},
    unit::UnixMillis,
};

use crate::model::{Desired, Network, Node, ObjectKey, Service, Slot, Task, Version};

use super::{
    Draft, Facts,
    drain::{self, Left},
    review::Review,
};

/// Versions of a service that are kept besides those that tasks have.
pub(super) const VERSIONS_KEPT: usize = 10;

/// Forgets ended tasks: of a slot that is filled all but the newest few, of one that is not all.
pub(super) fn history(review: &mut Review<'_, '_>) {
    let info = review.draft.world().cluster().info.as_ref();
    let limit = info.map_or(0, |info| info.task_history as usize);
    let mut ended: BTreeMap<Slot, Vec<Arc<Task>>> = BTreeMap::new();
    let mut filled = BTreeSet::new();
    for task in review.tasks() {
        match task.desired {
            Desired::Run => _ = filled.insert(task.slot),
            Desired::Drain | Desired::Stop if task.status.state.is_over() => {
                ended.entry(task.slot).or_default().push(task);
            }
            Desired::Drain | Desired::Stop => {}
            Desired::Remove => remove(review.draft, &task),
        }
    }
    for (slot, mut tasks) in ended {
        tasks.sort_by_key(|task| std::cmp::Reverse((task.meta.created, task.id)));
        let keep = if filled.contains(&slot) { limit } else { 0 };
        for task in tasks.iter().skip(keep) {
            review.draft.delete(ObjectKey::Task(task.id));
        }
    }
}

/// The versions that stay: those that tasks have, and the newest.
pub(super) fn versions(service: &Service, tasks: &[Arc<Task>]) -> Vec<Version> {
    let used: BTreeSet<u64> = tasks.iter().map(|task| task.version).collect();
    let newest = service.versions.len().saturating_sub(VERSIONS_KEPT + 1);
    let stays = |(index, version): &(usize, &Version)| *index >= newest || used.contains(&version.number);
    service.versions.iter().enumerate().filter(stays).map(|(_, version)| version.clone()).collect()
}

/// Takes a service that is being removed a step further, and says when to look again. Its tasks are told to stop once
/// every node has forgotten its routes.
pub(super) fn service(draft: &mut Draft<'_>, service: &Service, facts: Facts) -> Option<UnixMillis> {
    let tasks: Vec<_> = draft.world().tasks_of(service.id).cloned().collect();
    let mut due = None;
    for task in tasks {
        match drain::left_routes(&task, facts, draft.now) {
            Left::Yes => remove(draft, &task),
            Left::Until(limit) => due = Some(due.map_or(limit, |due: UnixMillis| due.min(limit))),
            Left::Serves if draft.world().live_node(&task).is_none() => remove(draft, &task),
            Left::Serves => draft.task(&task, |task| task.desired = Desired::Drain),
        }
    }
    if draft.world().tasks_of(service.id).next().is_none() {
        draft.delete(ObjectKey::Service(service.id));
    }
    due
}

fn remove(draft: &mut Draft<'_>, task: &Arc<Task>) {
    if !task.holds_node() || draft.world().live_node(task).is_none() {
        draft.delete(ObjectKey::Task(task.id));
    } else if task.desired != Desired::Remove {
        draft.task(task, |task| task.desired = Desired::Remove);
    }
}

/// Takes the networks of a stack, and the stack itself, as far as they are being removed and nothing uses them.
pub(super) fn stack(draft: &mut Draft<'_>, id: StackId) {
    let cluster = draft.world().cluster().clone();
    let Some(stack) = cluster.stacks.get(&id) else { return };
    let going = cluster.networks.values().filter(|network| network.stack == id && network.removing);
    for network in going {
        if !is_used(draft, id, network) {
            forget_network(draft, network.id);
        }
    }
    let empty = !cluster.services.values().any(|service| service.stack == id)
        && !draft.world().cluster().networks.values().any(|network| network.stack == id);
    if stack.removing && empty {
        for volume in cluster.volumes.values().filter(|volume| volume.stack == id) {
            draft.delete(ObjectKey::Volume(volume.id));
        }
        draft.delete(ObjectKey::Stack(id));
    }
}

/// A service of its stack names it, or may go back to a version that did, or a task of an older version of one still has
/// an address on it.
fn is_used(draft: &Draft<'_>, stack: StackId, network: &Network) -> bool {
    let (world, id) = (draft.world(), network.id);
    world.cluster().services.values().filter(|service| service.stack == stack).any(|service| {
        let goes_on = !service.removing && service.update_state().is_some_and(UpdateState::is_active);
        let may_return =
            |version: &Version| version.spec.networks.iter().any(|on| on.network == network.name);
        service.networks.contains(&id)
            || (goes_on && service.previous().is_some_and(may_return))
            || world
                .tasks_of(service.id)
                .any(|task| task.holds_node() && task.networks.iter().any(|(on, _)| *on == id))
    })
}

fn forget_network(draft: &mut Draft<'_>, network: NetworkId) {
    draft.delete(ObjectKey::Network(network));
    let nodes = draft.world().cluster().nodes.clone();
    let has = |node: &&Arc<Node>| node.blocks.contains_key(&network) || node.attached.contains_key(&network);
    for node in nodes.values().filter(has) {
        let mut node = Node::clone(node);
        node.blocks.remove(&network);
        node.attached.remove(&network);
        draft.put(node);
    }
}
