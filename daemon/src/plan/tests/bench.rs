//! What a decision costs in a large cluster, and that it does not grow with what did not change.

use std::time::Instant;

use raftup_proto::{id::NodeId, peer::TaskState, spec::Mode, unit::MemBytes};

use crate::plan::{self, Agenda, Facts, World};

use super::sim::{Sim, service};

const SERVICES: usize = 1000;
const NODES: usize = 100;
const REPLICAS: u32 = 10;

/// Prints times; run with `--ignored --nocapture`, with optimisation for figures that mean something.
#[test]
#[ignore = "measures, and takes its time without optimisation"]
fn one_change_among_ten_thousand_tasks() {
    let mut sim = Sim::new("first", MemBytes(1 << 40), "10.64.0.0/11");
    (1..NODES).for_each(|n| _ = sim.join(&format!("node-{n}"), MemBytes(1 << 40)));
    // The VIPs of one network go to 254 services.
    for stack in 0..SERVICES / 200 {
        sim.spec.name = format!("stack-{stack}").parse().unwrap();
        sim.spec.services.clear();
        for n in 0..200 {
            let spec = service("app", Mode::Replicated { replicas: REPLICAS });
            sim.spec.services.insert(format!("s{n}").parse().unwrap(), spec);
        }
        sim.deploy().unwrap();
    }
    let timed = |what: &str, start: Instant| println!("{what}: {:?}", start.elapsed());
    let start = Instant::now();
    while sim.decide() | sim.act() {}
    timed("deploy of everything, all steps with all checks", start);
    let start = Instant::now();
    let mut world = World::new(sim.cluster().clone());
    timed("index from nothing", start);
    let facts = Facts::default();
    let start = Instant::now();
    let all = plan::decide(&world, &Agenda::everything(sim.cluster()), facts, sim.now, &mut sim.ids.clone());
    timed("decide over everything, nothing to do", start);
    assert!(all.set.is_empty());

    let task = sim.cluster().tasks.values().next().unwrap().clone();
    let mut failed = (*task).clone();
    failed.status.state = TaskState::Failed;
    let mut after = sim.cluster().clone();
    after.tasks.insert(task.id, failed.into());
    let start = Instant::now();
    let agenda = world.advance(&after, &[crate::model::ObjectKey::Task(task.id)]);
    timed("advance over one change", start);
    let start = Instant::now();
    let plan = plan::decide(&world, &agenda, facts, sim.now, &mut sim.ids);
    timed("decide after one change", start);
    assert_eq!(plan.set.changes.len(), 3, "the task, its successor, and the reason on the service");
    let start = Instant::now();
    let view = plan::view::full(&world, NodeId::new(1));
    timed("full view of one node", start);
    println!(
        "items {}, bytes {}",
        view.put.len(),
        raftup_proto::codec::encode(&view, 64 << 20).unwrap().len()
    );
}
