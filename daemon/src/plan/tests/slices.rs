//! However much there is to decide, each set is small, and all of it is decided in the end.

use std::collections::BTreeSet;

use raftup_proto::{
    api::{Availability, ServiceUpdate},
    id::NodeId,
    spec::{Mode, UpdateOrder},
    unit::MemBytes,
};

use crate::plan::{self, Agenda};

use super::sim::{Sim, service};

/// A set is full at 500 tasks; what belongs to one slot comes in whole.
const MOST: usize = 520;
const REPLICAS: u32 = 1200;

fn sim(nodes: usize) -> Sim {
    let mut sim = Sim::new("n-0", MemBytes(1 << 40), "10.64.0.0/11");
    (1..nodes).for_each(|n| _ = sim.join(&format!("n-{n}"), MemBytes(1 << 40)));
    sim
}

fn running(sim: &Sim) -> usize {
    sim.cluster().tasks.values().filter(|task| task.is_ready()).count()
}

#[test]
fn a_large_service_comes_and_goes_in_small_sets() {
    let mut sim = sim(8);
    sim.ask("web", &service("app", Mode::Replicated { replicas: REPLICAS }));
    sim.settle();
    assert_eq!(running(&sim), REPLICAS as usize);
    sim.availability(NodeId::new(2), Availability::Drain);
    sim.settle();
    sim.lose(NodeId::new(3));
    sim.settle();
    assert_eq!(running(&sim), REPLICAS as usize);
    sim.ask("web", &service("app", Mode::Replicated { replicas: 10 }));
    sim.settle();
    assert_eq!(running(&sim), 10);
    sim.ask("web", &service("app", Mode::Replicated { replicas: REPLICAS }));
    sim.settle();
    let stack = sim.cluster().stacks.values().next().unwrap().id;
    let (set, _) = plan::stacks::remove(sim.cluster(), stack, sim.now).unwrap();
    sim.apply(set);
    sim.hear(NodeId::new(3));
    sim.settle();
    assert!(sim.cluster().tasks.is_empty() && sim.cluster().stacks.is_empty());
    assert!(sim.largest <= MOST, "{} changes in one set", sim.largest);
}

/// All tasks are replaced at once, start-first: no slot is without one that serves, between sets either.
#[test]
fn an_update_in_several_sets_keeps_its_promise() {
    let mut sim = sim(4);
    let mut spec = service("v1", Mode::Replicated { replicas: REPLICAS });
    spec.update.order = UpdateOrder::StartFirst;
    spec.update.parallelism = 0;
    sim.ask("web", &spec);
    sim.settle();
    spec.container.image = "v2".to_owned();
    sim.ask("web", &spec);
    let mut moved = true;
    while moved {
        moved = sim.decide() | sim.act();
        let slots: BTreeSet<_> =
            sim.cluster().tasks.values().filter(|task| task.is_ready()).map(|task| task.slot).collect();
        assert_eq!(slots.len(), REPLICAS as usize);
    }
    sim.wait(std::time::Duration::from_secs(60));
    let service = &sim.cluster().services[&sim.find("web")];
    assert!(sim.wanted().iter().all(|task| task.is_ready() && service.is_current(task.version)));
    assert!(sim.largest <= MOST, "{} changes in one set", sim.largest);
}

/// Of many services, those that the set has no room for are left, and equal inputs make equal plans.
#[test]
fn what_a_set_has_no_room_for_is_left() {
    let mut sim = sim(3);
    for n in 0..200 {
        sim.spec
            .services
            .insert(format!("s{n}").parse().unwrap(), service("app", Mode::Replicated { replicas: 5 }));
    }
    sim.deploy().unwrap();
    let all = Agenda::everything(sim.cluster());
    let facts = plan::Facts { in_force: Some(sim.cluster().revision) };
    let one = plan::decide(&sim.world, &all, facts, sim.now, &mut sim.ids.clone());
    let same = plan::decide(&sim.world, &all, facts, sim.now, &mut sim.ids.clone());
    assert_eq!(one, same);
    assert!((400..=MOST).contains(&one.set.changes.len()), "{}", one.set.changes.len());
    assert_eq!(one.left.services.len(), 101, "the first takes a block on each node besides");
    sim.settle();
    assert_eq!(running(&sim), 1000);
    // A look that changes nothing looks at as many tasks as fit in a few milliseconds.
    let all = Agenda::everything(sim.cluster());
    let plan = plan::decide(&sim.world, &all, facts, sim.now, &mut sim.ids);
    assert!(plan.set.is_empty() && plan.left.is_empty(), "{plan:?}");
}

/// An update of some of them is scaled meanwhile; the sets stay small, and it comes to its end.
#[test]
fn a_scale_between_the_sets_of_an_update() {
    let mut sim = sim(4);
    let mut spec = service("v1", Mode::Replicated { replicas: REPLICAS });
    spec.update.parallelism = 0;
    sim.ask("web", &spec);
    sim.settle();
    spec.container.image = "v2".to_owned();
    sim.ask("web", &spec);
    sim.decide();
    let id = sim.find("web");
    for replicas in [REPLICAS + 300, REPLICAS - 300] {
        let update = ServiceUpdate { replicas: Some(replicas), ..ServiceUpdate::default() };
        let (set, _) = plan::services::update(sim.cluster(), id, &update, &sim.pinned, sim.now).unwrap();
        sim.apply(set);
        sim.decide();
        sim.act();
    }
    sim.wait(std::time::Duration::from_secs(60));
    let service = &sim.cluster().services[&id];
    assert_eq!(running(&sim), (REPLICAS - 300) as usize);
    assert!(sim.wanted().iter().all(|task| service.is_current(task.version)));
    assert!(sim.largest <= MOST, "{} changes in one set", sim.largest);
}
