//! What is forgotten: ended tasks beyond the history, services, networks, volumes and stacks that are being removed.
//!
//! Owns: deletion. Leaves alone: containers, which agents remove with the tasks that they belong to.
//! Holds: a task is forgotten only when its container is seen to have ended, or its node is down (it will find the task
//! gone when it is back); a service goes after its tasks, a network after its services, a stack last.

use std::{collections::BTreeSet, sync::Arc};

use raftup_proto::{
    api::UpdateState,
    id::{NetworkId, StackId},
    spec::SlotOrder,
    unit::UnixMillis,
};

use crate::model::{Desired, Network, Node, ObjectKey, Service, Task, Version};

use super::{
    Draft, Facts, World, addresses, blobs,
    drain::{self, DRAIN_LIMIT, Left},
    review::{Looked, Review},
};

/// Versions of a service that are kept besides those that tasks have.
pub(super) const VERSIONS_KEPT: usize = 10;

/// Forgets ended tasks: of a slot that is filled all but the newest few, of one that is not all.
pub(super) fn history(review: &mut Review<'_, '_>) {
    let info = review.draft.world().cluster().info.as_ref();
    let limit = info.map_or(0, |info| info.task_history as usize);
    let tasks: Vec<_> = review.tasks().collect();
    let mut gone: Vec<Arc<Task>> = Vec::new();
    for of_slot in tasks.chunk_by(|one, other| one.slot == other.slot) {
        let filled = of_slot.iter().any(|task| task.desired == Desired::Run);
        let keep = if filled { limit } else { 0 };
        let is_history = |task: &&&Arc<Task>| match task.desired {
            Desired::Drain | Desired::Stop => task.status.state.is_over(),
            Desired::Run | Desired::Remove => false,
        };
        let mut ended: Vec<_> = of_slot.iter().filter(is_history).collect();
        if ended.len() > keep {
            ended.sort_unstable_by_key(|task| std::cmp::Reverse((task.meta.created, task.id)));
            gone.extend(ended.into_iter().skip(keep).map(|task| Arc::clone(task)));
        }
        gone.extend(
            of_slot.iter().filter(|task| task.desired == Desired::Remove).map(|task| Arc::clone(task)),
        );
    }
    for task in gone {
        if review.is_full() {
            return;
        }
        match task.desired {
            Desired::Remove => remove(review.draft, &task),
            Desired::Run | Desired::Drain | Desired::Stop => review.draft.delete(ObjectKey::Task(task.id)),
        }
    }
}

/// The versions that stay, if not all do: those that tasks have, and the newest.
pub(super) fn versions<'a>(
    service: &Service,
    tasks: impl Iterator<Item = &'a Arc<Task>>,
) -> Option<Vec<Version>> {
    let newest = service.versions.len().checked_sub(VERSIONS_KEPT + 1).filter(|newest| *newest > 0)?;
    let used: BTreeSet<u64> = tasks.map(|task| task.version).collect();
    let stays = |(index, version): &(usize, &Version)| *index >= newest || used.contains(&version.number);
    let kept: Vec<_> =
        service.versions.iter().enumerate().filter(stays).map(|(_, version)| version).collect();
    (kept.len() < service.versions.len()).then(|| kept.into_iter().cloned().collect())
}

/// Takes a service that is being removed a step further, and says when to look again. Its tasks are told to stop once
/// every node has forgotten its routes.
pub(super) fn service(draft: &mut Draft<'_>, service: &Service, facts: Facts) -> Looked {
    let tasks: Vec<_> = draft.world().tasks_of(service.id).cloned().collect();
    let mut looked = Looked { due: None, cut_short: false };
    // Where slots come in their order, the last one goes first.
    let holds = |task: &&Arc<Task>| task.holds_node() && draft.world().live_node(task).is_some();
    let ordered = service.current().spec.order == SlotOrder::Slots;
    let last = tasks.iter().filter(holds).map(|task| task.slot).max().filter(|_| ordered);
    for task in tasks {
        if task.holds_node() && last.is_some_and(|last| task.slot < last) {
            continue;
        }
        if draft.is_full() {
            looked.cut_short = true;
            return looked;
        }
        match drain::left_routes(&task, facts, draft.now) {
            Left::Yes => remove(draft, &task),
            Left::Until(limit) => {
                looked.due = Some(looked.due.map_or(limit, |due: UnixMillis| due.min(limit)));
            }
            Left::Serves if draft.world().live_node(&task).is_none() => remove(draft, &task),
            Left::Serves => draft.task(&task, |task| task.desired = Desired::Drain),
        }
    }
    if draft.world().tasks_of(service.id).next().is_none() {
        draft.delete(ObjectKey::Service(service.id));
    }
    looked
}

fn remove(draft: &mut Draft<'_>, task: &Arc<Task>) {
    if !task.holds_node() || draft.world().live_node(task).is_none() {
        draft.delete(ObjectKey::Task(task.id));
    } else if task.desired != Desired::Remove {
        draft.task(task, |task| task.desired = Desired::Remove);
    }
}

/// Takes the networks of a stack, and the stack itself, as far as they are being removed and nothing uses them. Cost: by the
/// services of the stack, if there is anything to remove.
pub(super) fn stack(draft: &mut Draft<'_>, id: StackId) {
    let world = draft.world();
    let Some(stack) = world.cluster().stacks.get(&id).cloned() else { return };
    let going = world.leaving().filter(|(of, _)| *of == Some(id));
    let going: Vec<_> = going.filter_map(|(_, id)| world.cluster().networks.get(&id).cloned()).collect();
    for network in going {
        if !is_used(draft.world(), &network) {
            forget_network(draft, network.id);
        }
    }
    let replaced =
        draft.world().cluster().blobs.values().filter(|blob| blob.stack == Some(id) && blob.replaced);
    let unused = replaced.filter(|blob| !blobs::is_named(draft.world().cluster(), blob.id));
    for blob in unused.map(|blob| blob.id).collect::<Vec<_>>() {
        draft.delete(ObjectKey::Blob(blob));
    }
    if !stack.removing || draft.world().services_of(id).next().is_some() {
        return;
    }
    let cluster = draft.world().cluster().clone();
    if !cluster.networks.values().any(|network| network.stack == Some(id)) {
        for volume in cluster.volumes.values().filter(|volume| volume.stack == id) {
            draft.delete(ObjectKey::Volume(volume.id));
        }
        for blob in cluster.blobs.values().filter(|blob| blob.stack == Some(id)) {
            draft.delete(ObjectKey::Blob(blob.id));
        }
        draft.delete(ObjectKey::Stack(id));
    }
}

/// Takes a network of no stack, if it is being removed and nothing uses it. Cost: by the services, if it is.
pub(super) fn network(draft: &mut Draft<'_>, id: NetworkId) {
    let found = draft.world().cluster().networks.get(&id).cloned();
    let going = found.filter(|network| network.removing && network.stack.is_none());
    if going.is_some_and(|network| !is_used(draft.world(), &network)) {
        forget_network(draft, id);
    }
}

/// A service of its stack names it, or may go back by itself to a version that did, or a task still has an address on it.
fn is_used(world: &World, network: &Network) -> bool {
    let id = network.id;
    let named = network.stack.into_iter().flat_map(|stack| world.services_of(stack)).any(|service| {
        let unfinished = |state: UpdateState| state.is_active() || state.is_paused();
        let may_return = !service.removing && service.update_state().is_some_and(unfinished);
        let names = |version: &Version| version.spec.networks.iter().any(|on| on.network == network.name);
        service.networks.contains(&id) || (may_return && service.versions.iter().any(names))
    });
    // A service of another stack may be on it; whether it could come to be on it was checked when the network was to go.
    let joined = || world.cluster().services.values().any(|service| service.networks.contains(&id));
    named || joined() || addresses::is_held(world, id, network.subnet)
}

fn forget_network(draft: &mut Draft<'_>, network: NetworkId) {
    let nodes: BTreeSet<_> = draft.world().blocks_of(network).map(|(_, node)| node).collect();
    draft.delete(ObjectKey::Network(network));
    for id in nodes {
        let Some(mut node) = draft.world().cluster().nodes.get(&id).map(|node| Node::clone(node)) else {
            continue;
        };
        node.blocks.remove(&network);
        node.attached.remove(&network);
        draft.put(node);
    }
}

/// Blocks that nodes have given back are free once no node routes to where they were.
pub(super) fn returned_blocks(draft: &mut Draft<'_>, facts: Facts) {
    let returned = |network: &&Arc<Network>| {
        let in_force = facts.in_force.is_none_or(|revision| revision >= network.meta.revision);
        in_force || network.meta.updated.plus(DRAIN_LIMIT) <= draft.now
    };
    let networks: Vec<_> = draft.world().returning().filter(returned).cloned().collect();
    for network in networks {
        draft.put(Network { returning: Vec::new(), ..Network::clone(&network) });
    }
}
