//! Nodes and addresses for the tasks of a service that have none.
//!
//! Owns: a task's step from new or pending to assigned. Leaves alone: which node is best (`placement`).
//! Holds: a task gets its node and all of its addresses at once, and keeps them; it is not placed before its
//! predecessor in the slot has stopped, or was lost with its node, unless it replaces one that goes later.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;
use raftup_proto::{
    id::{NetworkId, NodeId},
    peer::{TaskState, TaskStatus},
    spec::{Mount, MountSource, SlotOrder},
};

use crate::model::{Network, Node, ObjectKey, Slot, Task};

use super::{
    addresses,
    drain::DRAIN_LIMIT,
    placement::{self, Past, Places},
    replicas::said,
    review::{Review, name_slots},
    rollout, start_order,
};

/// Places what can be placed, and says why of the rest. Of a set that is full, only what is part of it already.
pub(super) fn all(review: &mut Review<'_, '_>) {
    let waiting = review.tasks().filter(|task| task.is_live() && task.node.is_none());
    let waiting: Vec<_> = waiting.cloned().collect();
    let mut search = Search::default();
    let next = next_in_order(review);
    for task in waiting {
        if !review.draft.has(ObjectKey::Task(task.id)) && review.is_full() {
            continue;
        }
        let why = match task.not_before.filter(|at| *at > review.draft.now) {
            Some(at) => {
                review.look_again(at);
                let ended = rollout::last_failure(review.draft.world(), &task);
                let message = format!(
                    "waits to be started again: {}",
                    ended.map(|ended| said(ended)).unwrap_or_default()
                );
                review.waits(task.slot, &message);
                Hold::Later(message)
            }
            None if next.is_some_and(|next| next < task.slot) => {
                let why = format!("waits for {} to be ready", name_slots(next.into_iter().collect()));
                review.waits(task.slot, &why);
                Hold::Later(why)
            }
            None if is_busy(review, &task) => Hold::Later("waits for its predecessor to stop".to_owned()),
            None => match search.depends(review, &task) {
                Some(why) => {
                    review.waits(task.slot, &why);
                    Hold::Later(why)
                }
                None => match search.place(review, &task) {
                    Ok(()) => continue,
                    Err(why) => why,
                },
            },
        };
        hold(review, &task, why);
    }
}

/// Where slots come in their order: the first one that is not ready. Those after it wait.
fn next_in_order(review: &Review<'_, '_>) -> Option<Slot> {
    let ordered = review.spec().order == SlotOrder::Slots;
    let mut heads = review.heads().filter(|_| ordered);
    heads.find(|task| !task.is_ready() && task.status.state != TaskState::Complete).map(|task| task.slot)
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

/// Another task of the slot, besides the one that it is to replace, has not ended.
fn is_busy(review: &Review<'_, '_>, task: &Task) -> bool {
    let mut others = review.draft.world().tasks_in(task.service, task.slot);
    others.any(|other| other.holds_node() && Some(other.id) != task.replaces && !review.is_lost(other))
}

/// What the slot's last task before `task` says about where to go. Source of the volumes' rule: they are local.
fn past(review: &Review<'_, '_>, task: &Task) -> Past {
    let before = review.draft.world().tasks_in(task.service, task.slot).filter(|old| old.node.is_some());
    let Some(last) = before.max_by_key(|old| (old.meta.created, old.id)) else { return Past::default() };
    let named = |mount: &Mount| matches!(mount.source, MountSource::Volume { .. });
    if review.spec_of(task.version).container.mounts.iter().any(named) {
        return Past { volumes: last.node, failed: None };
    }
    let failed = matches!(last.status.state, TaskState::Failed | TaskState::Rejected);
    Past { volumes: None, failed: last.node.filter(|_| failed) }
}

/// What was found out about nodes for the tasks of one service.
#[derive(Default)]
struct Search {
    /// The service's tasks by node, those that are on their way out not counted.
    placed: Option<BTreeMap<NodeId, u32>>,
    /// By version.
    places: BTreeMap<u64, Places>,
    /// What tasks wait for of other services, by version.
    depends: BTreeMap<u64, Option<String>>,
    /// Why nodes that fit have no address.
    no_address: Option<NoAddress>,
    /// Blocks were asked back already.
    asked_back: bool,
}

#[derive(Clone)]
struct NoAddress {
    network: Arc<Network>,
    reason: String,
}

impl Search {
    /// What a task waits for of other services, if it does.
    fn depends(&mut self, review: &Review<'_, '_>, task: &Task) -> Option<String> {
        let version = task.version;
        self.depends.entry(version).or_insert_with(|| start_order::waits_for(review, version)).clone()
    }

    fn place(&mut self, review: &mut Review<'_, '_>, task: &Arc<Task>) -> Result<(), Hold> {
        if let Slot::Node(id) = task.slot {
            let spec = review.spec_of(task.version);
            placement::find(review.draft.world(), &review.service, &spec, task.slot)
                .map_err(|away| Hold::NoPlace(away.to_string()))?;
            let given = give_addresses(review, id);
            return match given {
                Ok(given) => {
                    assign(review, task, id, given);
                    Ok(())
                }
                Err(no_address) => Err(self.ask_back(review, &no_address)),
            };
        }
        let leaves = review.replaced_by(task).filter(|old| old.is_live()).and_then(|old| old.node);
        let past = past(review, task);
        let placed =
            self.placed.get_or_insert_with(|| placement::placed(review.draft.world(), &review.service));
        let places = match self.places.entry(task.version) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let world = review.draft.world();
                review.nodes_looked_at += world.cluster().nodes.len();
                new.insert(Places::new(world, &review.service, review.spec_of(task.version), placed))
            }
        };
        if let Some(away) = places.away(review.draft.world(), &review.service) {
            return Err(Hold::NoPlace(away.to_string()));
        }
        let mut without = Vec::new();
        let found = places.in_order(past, leaves).find_map(|id| match give_addresses(review, id) {
            Ok(given) => Some((id, given)),
            Err(no_address) => {
                without.push(id);
                self.no_address = Some(no_address);
                None
            }
        });
        review.nodes_looked_at += without.len();
        without.into_iter().for_each(|id| places.has_no_address(id));
        if let Some((id, given)) = found {
            assign(review, task, id, given);
            *placed.entry(id).or_default() += 1;
            let world = review.draft.world();
            self.places.values_mut().for_each(|places| places.placed_on(world, id, placed));
            return Ok(());
        }
        match self.no_address.clone() {
            Some(no_address) => Err(self.ask_back(review, &no_address)),
            None => Err(Hold::NoPlace("no node has an address left".to_owned())),
        }
    }

    /// Blocks of the network that no task needs come back from the nodes that have them; until no node routes to where
    /// they were, the task waits.
    fn ask_back(&mut self, review: &mut Review<'_, '_>, no_address: &NoAddress) -> Hold {
        let network = &no_address.network;
        let world = review.draft.world();
        let network = world.cluster().networks.get(&network.id).unwrap_or(network).clone();
        let unused = match self.asked_back {
            true => Vec::new(),
            false => addresses::unused_blocks(world, &network),
        };
        self.asked_back = true;
        let later = "waits for addresses that other nodes give back";
        if unused.is_empty() && network.returning.is_empty() {
            return Hold::NoPlace(no_address.reason.clone());
        }
        if unused.is_empty() {
            review.look_again(network.meta.updated.plus(DRAIN_LIMIT).max(review.draft.now));
            return Hold::Later(later.to_owned());
        }
        for (block, id) in &unused {
            let Some(mut node) = review.draft.world().cluster().nodes.get(id).map(|node| Node::clone(node))
            else {
                continue;
            };
            if let Some(blocks) = node.blocks.get_mut(&network.id) {
                blocks.retain(|own| own != block);
                if blocks.is_empty() {
                    node.blocks.remove(&network.id);
                }
            }
            review.draft.put(node);
        }
        let mut network = Network::clone(&network);
        network.returning.extend(unused.into_iter().map(|(block, _)| block));
        network.returning.sort_unstable();
        review.draft.put(network);
        review.look_again(review.draft.now.plus(DRAIN_LIMIT));
        Hold::Later(later.to_owned())
    }
}

/// The addresses that a task gets, and the blocks that its node needs for that.
#[derive(Default)]
struct Given {
    addresses: Vec<(NetworkId, Ipv4Addr)>,
    blocks: Vec<(NetworkId, Ipv4Net)>,
}

fn assign(review: &mut Review<'_, '_>, task: &Arc<Task>, id: NodeId, given: Given) {
    let node = review.draft.world().cluster().nodes.get(&id).filter(|_| !given.blocks.is_empty());
    if let Some(mut node) = node.map(|node| Node::clone(node)) {
        for (network, block) in given.blocks {
            let blocks = node.blocks.entry(network).or_default();
            blocks.push(block);
            blocks.sort_unstable();
        }
        review.draft.put(node);
    }
    let status = TaskStatus::new(TaskState::Assigned, review.draft.now);
    review.draft.task(task, |task| {
        task.node = Some(id);
        task.networks = given.addresses;
        task.status = status;
    });
}

/// One address on each network of the service; out of a further block where the node's own are full.
fn give_addresses(review: &Review<'_, '_>, id: NodeId) -> Result<Given, NoAddress> {
    let world = review.draft.world();
    let mut given = Given::default();
    let node = world.cluster().nodes.get(&id);
    for network in review.service.networks.iter().filter_map(|id| world.cluster().networks.get(id)) {
        let own = node.and_then(|node| node.blocks.get(&network.id)).map(Vec::as_slice).unwrap_or_default();
        let address = match addresses::address(world, network.id, network.subnet, own) {
            Some(address) => Some(address),
            None => {
                let block = addresses::block(world, network).map_err(|error| {
                    let name = network.full_name();
                    let reason = format!("no address on network `{name}`: {error}");
                    NoAddress { network: network.clone(), reason }
                })?;
                given.blocks.push((network.id, block));
                addresses::address(world, network.id, network.subnet, &[block])
            }
        };
        given.addresses.extend(address.map(|address| (network.id, address)));
    }
    Ok(given)
}
