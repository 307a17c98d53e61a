//! Which nodes hold the replicated state, and the next single step towards that.
//!
//! Owns: seats in Raft, and every node's `membership`. Leaves alone: roles and pins, which operators set.
//! Holds: an odd number of voters wherever there is a choice; no voter is moved without need; a member's number is used
//! once; nothing here is remembered between two calls, so another leader goes on where the last one stopped.
//!
//! ```text
//! node without a number -> Appoint -> Enlist (it learns) -> Vote -> sits
//! sits, not wanted      -> Vote without it (HandOver first, if it leads) -> Dismiss -> node without a number
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use raftup_proto::{
    api::{Managers, NodeState},
    id::NodeId,
    peer::Role,
    unit::UnixMillis,
};

use crate::model::{Cluster, Node};

/// A voter that was down for longer is replaced, if another node can take its place.
const GONE_AFTER: Duration = Duration::from_secs(600);

/// The label of a node that says which of its kind fail together.
const ZONE: &str = "zone";

/// A member of Raft, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its node.
    pub node: NodeId,
    /// Where Raft reaches it.
    pub addr: SocketAddr,
    /// It votes; else it learns.
    pub voter: bool,
    /// It has nearly all entries.
    pub caught_up: bool,
}

/// The members of Raft.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Council {
    /// All of them, by number.
    pub seats: BTreeMap<u64, Seat>,
    /// The one that leads.
    pub leader: u64,
    /// A change of members has begun and is not finished.
    pub changing: bool,
    /// Numbers whose storage was lost or is a copy; they are never let in again.
    pub lost: BTreeSet<u64>,
    /// Nodes that failed to do what they were told lately. Until their back-off ends, they are not told anything, and
    /// are not chosen for seats that they do not have.
    pub failing: BTreeSet<NodeId>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is as it should be, or nothing can be done now.
    Rest,
    /// Finish a change of members that was begun.
    Finish,
    /// Raft must reach the member elsewhere.
    Move {
        /// The member.
        member: u64,
        /// Its node.
        node: NodeId,
        /// Where it is now.
        addr: SocketAddr,
    },
    /// Give the node a number that was never used.
    Appoint {
        /// The node.
        node: NodeId,
    },
    /// Tell the node to hold the state, and let it learn.
    Enlist {
        /// The node.
        node: NodeId,
        /// Its number.
        member: u64,
        /// Its control address.
        addr: SocketAddr,
    },
    /// These vote from now on, and no others are members except those that learn.
    Vote {
        /// Their numbers.
        voters: BTreeSet<u64>,
    },
    /// Another member must lead before this one can go.
    HandOver {
        /// It.
        to: u64,
    },
    /// Remove a member that learns.
    Expel {
        /// Its number.
        member: u64,
    },
    /// Tell the node that it holds the state no more, and take its number away.
    Dismiss {
        /// The node.
        node: NodeId,
        /// Its number.
        member: u64,
    },
}

/// The next step, and what waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do now.
    pub step: Step,
    /// What cannot be done yet, and why.
    pub waiting: Vec<String>,
}

/// Works the next step out.
pub fn decide(cluster: &Cluster, council: &Council, now: UnixMillis) -> Plan {
    let mut waiting = Vec::new();
    let step = next(cluster, council, now, &mut waiting);
    Plan { step, waiting }
}

fn next(cluster: &Cluster, council: &Council, now: UnixMillis, waiting: &mut Vec<String>) -> Step {
    if council.changing {
        return Step::Finish;
    }
    let choice = choose(cluster, council, now);
    if choice.nodes.len() < choice.size {
        let (size, ready) = (choice.size, choice.nodes.len());
        waiting.push(format!("{size} managers are wanted, {ready} nodes are ready for it"));
    }
    for node in &council.failing {
        waiting.push(format!("{node} failed to do what it was told, and is tried again later"));
    }
    let step = moved(cluster, council)
        .or_else(|| enlist(cluster, council, &choice))
        .or_else(|| vote(cluster, council, &choice, waiting))
        .or_else(|| expel(cluster, council, &choice))
        .or_else(|| dismiss(cluster, council, &choice, waiting));
    step.unwrap_or(Step::Rest)
}

/// The nodes that should hold the state; fewer than `size` if no more are ready.
struct Choice {
    nodes: BTreeSet<NodeId>,
    size: usize,
}

impl Choice {
    fn complete(&self) -> bool {
        self.nodes.len() == self.size
    }
}

/// How many managers `settings` asks for among `eligible` nodes, `pinned` of them chosen by an operator: odd, where there
/// is a choice.
fn size(settings: Managers, eligible: usize, pinned: usize) -> usize {
    let wanted = match settings {
        Managers::Fixed(count) => usize::from(count),
        Managers::Auto if eligible <= 2 => 1,
        Managers::Auto if eligible <= 6 => 3,
        Managers::Auto => 5,
    };
    let odd = |count: usize| if count.is_multiple_of(2) { count.saturating_sub(1).max(1) } else { count };
    let mut size = odd(wanted.min(eligible));
    while size < pinned && size + 2 <= eligible {
        size += 2;
    }
    size
}

/// How many managers there would be of `nodes` nodes if operators left that to the cluster.
pub(super) fn size_of(cluster: &Cluster, nodes: usize) -> usize {
    let settings = cluster.info.as_ref().map_or(Managers::Auto, |info| info.managers);
    let workers = cluster.nodes.values().filter(|node| node.role != Role::Manager).count();
    // A cluster with workers was meant to have few managers.
    if workers > 0 {
        size(settings, nodes.saturating_sub(workers).max(1), 0)
    } else {
        size(settings, nodes, 0)
    }
}

fn eligible(node: &Node) -> bool {
    node.role == Role::Manager && node.pinned != Some(false)
}

/// The node's seat, if its number has one that is still good.
fn seat<'a>(council: &'a Council, node: &Node) -> Option<&'a Seat> {
    let member = node.membership?.member;
    council.seats.get(&member).filter(|seat| seat.node == node.id && !council.lost.contains(&member))
}

fn choose(cluster: &Cluster, council: &Council, now: UnixMillis) -> Choice {
    let settings = cluster.info.as_ref().map_or(Managers::Auto, |info| info.managers);
    let all: Vec<&Arc<Node>> = cluster.nodes.values().filter(|node| eligible(node)).collect();
    let pinned = all.iter().filter(|node| node.pinned == Some(true)).count();
    let size = size(settings, all.len(), pinned);
    let mut left: Vec<(Rank, &Arc<Node>)> =
        all.into_iter().filter_map(|node| Some((rank(council, node, now)?, node))).collect();
    let mut chosen = BTreeSet::new();
    let mut zones: BTreeMap<Option<&String>, usize> = BTreeMap::new();
    while chosen.len() < size {
        let crowd = |node: &Node| zones.get(&node.labels.get(ZONE)).copied().unwrap_or(0);
        let best = left.iter().enumerate().min_by_key(|(_, (rank, node))| (*rank, crowd(node), node.id));
        let Some((at, _)) = best else {
            break;
        };
        let (_, node) = left.swap_remove(at);
        chosen.insert(node.id);
        *zones.entry(node.labels.get(ZONE)).or_default() += 1;
    }
    Choice { nodes: chosen, size }
}

/// How much speaks for a node; the lowest is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Pinned,
    Leads,
    Sits,
    /// It votes and is down, but not for long.
    Away,
    Learns,
    Ready,
    /// It votes and is gone; kept where nobody can take its place.
    Gone,
}

fn rank(council: &Council, node: &Node, now: UnixMillis) -> Option<Rank> {
    let seat = seat(council, node);
    let sits = seat.is_some_and(|seat| seat.voter);
    let ready = node.state == NodeState::Ready;
    let leads = node.membership.is_some_and(|membership| membership.member == council.leader);
    match (sits, ready) {
        (false, false) => None,
        (false, true) if council.failing.contains(&node.id) => None,
        (true, false) if node.state == NodeState::Down && now.since(node.state_since) > GONE_AFTER => {
            Some(Rank::Gone)
        }
        _ if node.pinned == Some(true) => Some(Rank::Pinned),
        (true, _) if leads => Some(Rank::Leads),
        (true, true) => Some(Rank::Sits),
        (true, false) => Some(Rank::Away),
        (false, true) if seat.is_some() => Some(Rank::Learns),
        (false, true) => Some(Rank::Ready),
    }
}

fn moved(cluster: &Cluster, council: &Council) -> Option<Step> {
    council.seats.iter().find_map(|(member, seat)| {
        let node = cluster.nodes.get(&seat.node)?;
        let addr = node.info.control;
        (addr != seat.addr).then_some(Step::Move { member: *member, node: seat.node, addr })
    })
}

fn enlist(cluster: &Cluster, council: &Council, choice: &Choice) -> Option<Step> {
    let chosen = choice.nodes.iter().filter_map(|id| cluster.nodes.get(id));
    let mut ready = chosen.filter(|node| node.state == NodeState::Ready);
    ready.find_map(|node| match node.membership {
        None => Some(Step::Appoint { node: node.id }),
        Some(membership) if council.seats.contains_key(&membership.member) => None,
        Some(membership) if council.lost.contains(&membership.member) => {
            Some(Step::Appoint { node: node.id })
        }
        Some(membership) => {
            Some(Step::Enlist { node: node.id, member: membership.member, addr: node.info.control })
        }
    })
}

/// The numbers that should vote now: the chosen ones once all of them can; until then those that do and are still good.
fn voters(cluster: &Cluster, council: &Council, choice: &Choice, waiting: &mut Vec<String>) -> BTreeSet<u64> {
    let mut able = BTreeSet::new();
    for node in choice.nodes.iter().filter_map(|id| cluster.nodes.get(id)) {
        match (node.membership, seat(council, node)) {
            (Some(membership), Some(seat)) if seat.voter || seat.caught_up => {
                able.insert(membership.member);
            }
            _ => waiting.push(format!("{} learns the state before it votes", node.id)),
        }
    }
    if choice.complete() && able.len() == choice.size {
        return able;
    }
    let good = |(_, seat): &(&u64, &Seat)| seat.voter;
    let still = council.seats.iter().filter(good).filter(|(member, seat)| {
        let node = cluster.nodes.get(&seat.node);
        let own = node.and_then(|node| node.membership).is_some_and(|own| own.member == **member);
        own && !council.lost.contains(member)
    });
    still.map(|(member, _)| *member).collect()
}

fn vote(cluster: &Cluster, council: &Council, choice: &Choice, waiting: &mut Vec<String>) -> Option<Step> {
    let wanted = voters(cluster, council, choice, waiting);
    let current: BTreeSet<u64> =
        council.seats.iter().filter(|(_, seat)| seat.voter).map(|(member, _)| *member).collect();
    if wanted == current || wanted.is_empty() {
        return None;
    }
    if wanted.contains(&council.leader) {
        return Some(Step::Vote { voters: wanted });
    }
    let ready = |member: &u64| {
        let seat = council.seats.get(member);
        let node = seat.filter(|seat| seat.caught_up).and_then(|seat| cluster.nodes.get(&seat.node));
        node.is_some_and(|node| node.state == NodeState::Ready && !council.failing.contains(&node.id))
    };
    if let Some(to) = wanted.intersection(&current).find(|member| ready(member)) {
        return Some(Step::HandOver { to: *to });
    }
    // Its heirs do not vote yet: they join it first, and it goes then.
    let mut together = wanted;
    together.insert(council.leader);
    if together != current {
        return Some(Step::Vote { voters: together });
    }
    waiting.push("the leader stays until another manager is ready to lead".to_owned());
    None
}

fn expel(cluster: &Cluster, council: &Council, choice: &Choice) -> Option<Step> {
    let mut learners = council.seats.iter().filter(|(_, seat)| !seat.voter);
    learners.find_map(|(member, seat)| {
        let node = cluster.nodes.get(&seat.node);
        let own = node.filter(|node| node.membership.is_some_and(|own| own.member == *member));
        let stays =
            own.is_some_and(|node| choice.nodes.contains(&node.id) || (eligible(node) && !choice.complete()));
        (!stays || council.lost.contains(member)).then_some(Step::Expel { member: *member })
    })
}

fn dismiss(cluster: &Cluster, council: &Council, choice: &Choice, waiting: &mut Vec<String>) -> Option<Step> {
    let idle = cluster.nodes.values().filter_map(|node| {
        let member = node.membership?.member;
        let may_stay = eligible(node) && !choice.complete();
        let stays = council.seats.contains_key(&member) || choice.nodes.contains(&node.id) || may_stay;
        (!stays && !council.failing.contains(&node.id)).then_some((node, member))
    });
    let mut step = None;
    for (node, member) in idle {
        match node.state {
            NodeState::Ready => step = step.or(Some(Step::Dismiss { node: node.id, member })),
            NodeState::New | NodeState::Down => {
                waiting.push(format!("{} gives the state up when it is back", node.id));
            }
        }
    }
    step
}

#[cfg(test)]
mod tests;
