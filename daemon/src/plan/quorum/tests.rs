//! Plans carried out on a cluster in memory until nothing is left to do.

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::*;
use crate::{
    model::{ClusterInfo, Membership},
    store::sample,
};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

struct World {
    cluster: Cluster,
    council: Council,
}

impl World {
    /// `count` ready nodes, the first of which is the only member.
    fn new(count: u64) -> Self {
        let mut world = Self {
            cluster: Cluster { info: Some(sample::info().into()), ..Cluster::default() },
            council: Council::default(),
        };
        for number in 1..=count {
            world.edit(number, |node| node.membership = (number == 1).then_some(Membership { member: 1 }));
        }
        world.set_next(2);
        let addr = sample::node(1).info.control;
        let seat = Seat { node: NodeId::new(1), addr, voter: true, caught_up: true };
        world.council.seats.insert(1, seat);
        world.council.leader = 1;
        world
    }

    fn edit(&mut self, number: u64, edit: impl FnOnce(&mut Node)) {
        let id = NodeId::new(number);
        let mut node =
            self.cluster.nodes.get(&id).map_or_else(|| sample::node(number), |node| Node::clone(node));
        if !self.cluster.nodes.contains_key(&id) {
            node.membership = None;
            node.labels.clear();
            node.state_since = NOW;
        }
        edit(&mut node);
        self.cluster.nodes.insert(id, node.into());
    }

    fn down(&mut self, number: u64, minutes: u64) {
        self.edit(number, |node| {
            node.state = NodeState::Down;
            node.state_since = UnixMillis(NOW.0 - minutes * 60_000);
        });
    }

    fn set_next(&mut self, member: u64) {
        let info = ClusterInfo { next_member: member, ..sample::info() };
        self.cluster.info = Some(info.into());
    }

    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Rest => {}
            Step::Finish => self.council.changing = false,
            Step::Move { member, addr, .. } => self.council.seats.get_mut(member).unwrap().addr = *addr,
            Step::Appoint { node } => {
                let member = self.cluster.info.as_ref().unwrap().next_member;
                self.set_next(member + 1);
                self.edit(node.number(), |node| node.membership = Some(Membership { member }));
            }
            Step::Enlist { node, member, addr } => {
                let seat = Seat { node: *node, addr: *addr, voter: false, caught_up: true };
                assert!(self.council.seats.insert(*member, seat).is_none());
            }
            Step::Vote { voters } => {
                assert!(voters.contains(&self.council.leader));
                self.council.seats.retain(|member, seat| {
                    let was = seat.voter;
                    seat.voter = voters.contains(member);
                    seat.voter || !was
                });
            }
            Step::HandOver { to } => {
                assert!(self.council.seats[to].voter);
                self.council.leader = *to;
            }
            Step::Expel { member } => assert!(!self.council.seats.remove(member).unwrap().voter),
            Step::Dismiss { node, .. } => self.edit(node.number(), |node| node.membership = None),
        }
    }

    /// Lets a node learn that never catches up.
    fn settle_learner(&mut self, number: u64) {
        let node = NodeId::new(number);
        self.edit(number, |node| node.membership = Some(Membership { member: number }));
        self.set_next(number + 1);
        let addr = sample::node(number).info.control;
        self.council.seats.insert(number, Seat { node, addr, voter: false, caught_up: false });
    }

    /// Carries plans out until they rest; gives the steps, and what still waits.
    fn settle(&mut self) -> String {
        let mut trace = String::new();
        for _ in 0..100 {
            let plan = decide(&self.cluster, &self.council, NOW);
            if plan.step == Step::Rest {
                plan.waiting.iter().for_each(|line| writeln!(trace, "waits: {line}").unwrap());
                return trace;
            }
            match &plan.step {
                Step::Appoint { node } => writeln!(trace, "appoint {node}").unwrap(),
                Step::Enlist { node, member, .. } => writeln!(trace, "enlist {node} as {member}").unwrap(),
                Step::Vote { voters } => writeln!(trace, "vote {voters:?}").unwrap(),
                Step::HandOver { to } => writeln!(trace, "hand over to {to}").unwrap(),
                Step::Dismiss { node, .. } => writeln!(trace, "dismiss {node}").unwrap(),
                step @ (Step::Rest | Step::Finish | Step::Move { .. } | Step::Expel { .. }) => {
                    writeln!(trace, "{step:?}").unwrap();
                }
            }
            self.carry_out(&plan.step);
        }
        panic!("it does not settle:\n{trace}");
    }

    fn check(&mut self, expected: &Expect) {
        expected.assert_eq(&self.settle());
    }
}

#[test]
fn one_three_five() {
    World::new(1).check(&expect![""]);
    World::new(2).check(&expect![""]);
    World::new(4).check(&expect![[r#"
        appoint n2
        enlist n2 as 2
        appoint n3
        enlist n3 as 3
        vote {1, 2, 3}
    "#]]);
    let mut world = World::new(7);
    world.settle();
    assert_eq!(world.council.seats.len(), 5);
    let info = ClusterInfo { managers: Managers::Fixed(3), next_member: 6, ..sample::info() };
    world.cluster.info = Some(info.into());
    world.check(&expect![[r#"
        vote {1, 2, 3}
        dismiss n4
        dismiss n5
    "#]]);
}

#[test]
fn the_same_numbers_are_never_given_twice() {
    let mut world = World::new(3);
    world.settle();
    world.edit(3, |node| node.pinned = Some(false));
    world.check(&expect![[r#"
        vote {1}
        dismiss n2
        dismiss n3
    "#]]);
    world.edit(3, |node| node.pinned = None);
    world.check(&expect![[r#"
        appoint n2
        enlist n2 as 4
        appoint n3
        enlist n3 as 5
        vote {1, 4, 5}
    "#]]);
}

#[test]
fn a_voter_is_replaced_only_when_it_is_gone_for_long() {
    let mut world = World::new(4);
    world.settle();
    world.down(3, 9);
    world.check(&expect![""]);
    world.down(3, 11);
    world.check(&expect![[r#"
        appoint n4
        enlist n4 as 4
        vote {1, 2, 4}
        waits: n3 gives the state up when it is back
    "#]]);
    world.edit(3, |node| node.state = NodeState::Ready);
    world.check(&expect![[r#"
        dismiss n3
    "#]]);
    // Without another node for it, it keeps its vote.
    world.down(4, 11);
    world.edit(3, |node| node.pinned = Some(false));
    world.check(&expect![""]);
}

#[test]
fn a_leader_that_must_go_hands_over_first() {
    let mut world = World::new(4);
    world.settle();
    world.edit(1, |node| node.pinned = Some(false));
    world.check(&expect![[r#"
        appoint n4
        enlist n4 as 4
        hand over to 2
        vote {2, 3, 4}
        dismiss n1
    "#]]);
    // The only one of all: its heir votes beside it first.
    let mut world = World::new(2);
    world.edit(1, |node| node.pinned = Some(false));
    world.check(&expect![[r#"
        appoint n2
        enlist n2 as 2
        vote {1, 2}
        hand over to 2
        vote {2}
        dismiss n1
    "#]]);
}

#[test]
fn a_node_that_was_removed_loses_its_seat() {
    let mut world = World::new(4);
    world.settle();
    world.cluster.nodes.remove(&NodeId::new(2));
    world.check(&expect![[r#"
        appoint n4
        enlist n4 as 4
        vote {1, 3, 4}
    "#]]);
    world.cluster.nodes.remove(&NodeId::new(4));
    world.check(&expect![[r#"
        vote {1}
        dismiss n3
    "#]]);
}

#[test]
fn a_node_that_joins_late_is_waited_for() {
    let mut world = World::new(2);
    world.edit(3, |node| node.state = NodeState::New);
    world.check(&expect![[r#"
        appoint n2
        enlist n2 as 2
        waits: 3 managers are wanted, 2 nodes are ready for it
    "#]]);
    world.edit(3, |node| node.state = NodeState::Ready);
    world.check(&expect![[r#"
        appoint n3
        enlist n3 as 3
        vote {1, 2, 3}
    "#]]);
}

#[test]
fn lost_storage_is_made_anew_under_another_number() {
    let mut world = World::new(3);
    world.settle();
    world.council.lost.insert(3);
    world.check(&expect![[r#"
        vote {1, 2}
        appoint n3
        enlist n3 as 4
        vote {1, 2, 4}
    "#]]);
}

#[test]
fn a_candidate_that_fails_is_passed_over_until_its_back_off_ends() {
    let mut world = World::new(5);
    world.edit(2, |node| drop(node.labels.insert(ZONE.to_owned(), "b".to_owned())));
    world.council.failing.insert(NodeId::new(2));
    // It was given a number before it failed.
    world.edit(2, |node| node.membership = Some(Membership { member: 2 }));
    world.set_next(3);
    world.check(&expect![[r#"
        appoint n3
        enlist n3 as 3
        appoint n4
        enlist n4 as 4
        vote {1, 3, 4}
        waits: n2 failed to do what it was told, and is tried again later
    "#]]);
    world.council.failing.clear();
    world.check(&expect![[r#"
        dismiss n2
    "#]]);
}

#[test]
fn a_learner_that_fails_is_replaced() {
    let mut world = World::new(4);
    world.settle_learner(2);
    world.council.failing.insert(NodeId::new(2));
    world.check(&expect![[r#"
        appoint n3
        enlist n3 as 3
        appoint n4
        enlist n4 as 4
        vote {1, 3, 4}
        Expel { member: 2 }
        waits: n2 failed to do what it was told, and is tried again later
    "#]]);
}

#[test]
fn a_voter_that_fails_keeps_its_vote_and_is_not_handed_leadership() {
    let mut world = World::new(3);
    world.settle();
    world.council.failing.insert(NodeId::new(2));
    world.check(&expect![[r#"
        waits: n2 failed to do what it was told, and is tried again later
    "#]]);
    world.edit(4, |_| ());
    world.edit(1, |node| node.pinned = Some(false));
    world.check(&expect![[r#"
        appoint n4
        enlist n4 as 4
        hand over to 3
        vote {2, 3, 4}
        dismiss n1
        waits: n2 failed to do what it was told, and is tried again later
    "#]]);
}

#[test]
fn zones_and_pins_decide_among_newcomers() {
    let mut world = World::new(5);
    for (number, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")] {
        world.edit(number, |node| drop(node.labels.insert(ZONE.to_owned(), zone.to_owned())));
    }
    world.check(&expect![[r#"
        appoint n4
        enlist n4 as 2
        appoint n5
        enlist n5 as 3
        vote {1, 2, 3}
    "#]]);
    world.edit(3, |node| node.pinned = Some(true));
    world.check(&expect![[r#"
        appoint n3
        enlist n3 as 4
        vote {1, 2, 4}
        dismiss n5
    "#]]);
}

#[test]
fn workers_hold_nothing() {
    let mut world = World::new(3);
    world.edit(2, |node| node.role = Role::Worker);
    world.check(&expect![""]);
}

#[test]
fn a_member_is_followed_to_its_new_address() {
    let mut world = World::new(3);
    world.settle();
    world.edit(2, |node| node.info.control = "10.9.9.9:7238".parse().unwrap());
    world.check(&expect![[r#"
        Move { member: 2, node: n2, addr: 10.9.9.9:7238 }
    "#]]);
}

proptest::proptest! {
    /// From any state, the steps come to an end, and the voters are then odd in number and good.
    #[test]
    fn every_state_settles(
        states in proptest::collection::vec((0..4_u8, 0..4_u8, 0..3_u8), 1..9),
        lost in proptest::collection::vec(proptest::bool::ANY, 9),
        fixed in proptest::option::of(1..6_u8),
    ) {
        let mut world = World::new(1);
        for (number, (state, pin, seat)) in (1..).zip(&states) {
            world.edit(number, |node| {
                node.pinned = [None, None, Some(true), Some(false)][usize::from(*pin)];
                node.membership = (*seat > 0 || number == 1).then_some(Membership { member: number });
            });
            match state {
                _ if number == 1 => {}
                0 => world.down(number, 20),
                1 => world.down(number, 1),
                _ => {}
            }
            if *seat == 2 && number > 1 {
                let addr = sample::node(number).info.control;
                let seat = Seat { node: NodeId::new(number), addr, voter: true, caught_up: true };
                world.council.seats.insert(number, seat);
                if lost[number as usize - 1] {
                    world.council.lost.insert(number);
                }
            }
        }
        let managers = fixed.map_or(Managers::Auto, Managers::Fixed);
        world.cluster.info = Some(ClusterInfo { next_member: 100, managers, ..sample::info() }.into());
        let before = world.council.seats.len();
        world.settle();
        let after = world.council.seats.values().filter(|seat| seat.voter).count();
        proptest::prop_assert!(after >= 1);
        proptest::prop_assert!(after % 2 == 1 || after <= before, "{after} voters");
    }
}
