//! What decisions that overlapped have left is mended: two tasks in one slot, two tasks with one address.

use raftup_proto::{id::TaskId, peer::TaskState, spec::Mode, unit::MemBytes};

use crate::{
    model::{ChangeSet, Meta, Task},
    plan::check,
};

use super::sim::{Sim, service};

fn sim(mode: Mode) -> Sim {
    let mut sim = Sim::new("ant", MemBytes(1 << 40), "10.64.0.0/11");
    sim.join("bee", MemBytes(1 << 40));
    sim.ask("web", &service("app", mode));
    sim.settle();
    sim.unchecked = true;
    sim
}

/// Puts tasks in the state that no decision would make.
fn put(sim: &mut Sim, tasks: impl IntoIterator<Item = Task>) {
    let mut set = ChangeSet::new(sim.now);
    for task in tasks {
        if sim.cluster().tasks.contains_key(&task.id) {
            set.update(task);
        } else {
            set.create(task);
        }
    }
    sim.apply(set);
}

/// A task like `of`, which no node has yet.
fn double(of: &Task, id: u64) -> Task {
    let status = raftup_proto::peer::TaskStatus::new(TaskState::New, of.status.since);
    let (id, meta) = (TaskId::from_random(id), Meta::default());
    Task { id, meta, node: None, networks: Vec::new(), ready: None, status, ..of.clone() }
}

fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

#[test]
fn of_two_tasks_in_one_slot_the_one_that_serves_stays() {
    for mode in [Mode::Replicated { replicas: 4 }, Mode::Global] {
        let mut sim = sim(mode);
        let good = sim.wanted();
        put(&mut sim, good[1..].iter().zip(100..).map(|(task, id)| double(task, id)).collect::<Vec<_>>());
        sim.settle();
        assert_eq!(ids(&sim.wanted()), ids(&good), "{mode:?}: {:#?}", sim.show());
        assert_eq!(check::state(sim.cluster()), Vec::<String>::new());
    }
}

#[test]
fn of_two_tasks_that_run_in_one_slot_the_older_stays() {
    let mut sim = sim(Mode::Replicated { replicas: 3 });
    let good = sim.wanted();
    sim.now = sim.now.plus(std::time::Duration::from_secs(1));
    // They come to run side by side before anything is decided.
    put(&mut sim, good.iter().zip(100..).map(|(task, id)| double(task, id)).collect::<Vec<_>>());
    let placed = sim.cluster().tasks.values().filter(|task| task.node.is_none()).map(|task| {
        let mut networks = good[0].networks.clone();
        networks[0].1 = [10, 64, 32, 40 + task.slot.number() as u8].into();
        let mut status = task.status.clone();
        status.state = TaskState::Running;
        Task { node: good[0].node, networks, status, ready: Some(sim.now), ..Task::clone(task) }
    });
    let placed: Vec<_> = placed.collect();
    put(&mut sim, placed);
    sim.settle();
    assert_eq!(ids(&sim.wanted()), ids(&good), "{:#?}", sim.show());
    assert_eq!(check::state(sim.cluster()), Vec::<String>::new());
}

/// A scale-down takes the doubles first, and not the highest slots in their stead.
#[test]
fn doubles_go_before_slots_do() {
    let mut sim = sim(Mode::Replicated { replicas: 4 });
    let good = sim.wanted();
    put(&mut sim, good[..2].iter().zip(100..).map(|(task, id)| double(task, id)).collect::<Vec<_>>());
    sim.ask("web", &service("app", Mode::Replicated { replicas: 3 }));
    sim.settle();
    assert_eq!(ids(&sim.wanted()), ids(&good[..3]), "{:#?}", sim.show());
}

/// Two tasks that are to replace one, and one that is to replace nobody.
#[test]
fn tasks_that_replace_are_mended_too() {
    let mut sim = sim(Mode::Replicated { replicas: 2 });
    let good = sim.wanted();
    let beside = |id, of: &Task| Task { replaces: Some(of.id), ..double(of, id) };
    let nobody = Task { replaces: Some(TaskId::from_random(999)), ..double(&good[1], 102) };
    put(&mut sim, [beside(100, &good[0]), beside(101, &good[0]), nobody]);
    sim.settle();
    assert_eq!(ids(&sim.wanted()), ids(&good), "{:#?}", sim.show());
    assert_eq!(check::state(sim.cluster()), Vec::<String>::new());
}

#[test]
fn of_two_tasks_with_one_address_the_younger_is_replaced() {
    let mut sim = sim(Mode::Replicated { replicas: 2 });
    let first = sim.wanted()[0].clone();
    sim.now = sim.now.plus(std::time::Duration::from_secs(1));
    sim.ask("api", &service("app", Mode::Replicated { replicas: 3 }));
    sim.settle();
    let api = sim.find("api");
    let others: Vec<_> = sim.wanted().into_iter().filter(|task| task.service == api).collect();
    put(&mut sim, others[..2].iter().map(|task| Task { networks: first.networks.clone(), ..task.clone() }));
    assert_eq!(check::state(sim.cluster()).iter().filter(|line| line.contains("belongs to")).count(), 2);
    sim.settle();
    assert_eq!(check::state(sim.cluster()), Vec::<String>::new());
    let now = sim.wanted();
    assert!(now.iter().any(|task| task.id == first.id) && now.iter().any(|task| task.id == others[2].id));
    assert!(!now.iter().any(|task| task.id == others[0].id || task.id == others[1].id), "{:#?}", sim.show());
    assert_eq!(now.iter().filter(|task| task.is_ready()).count(), 5);
}
