//! What an update waits for, and where one that fails goes back to.

use std::{collections::BTreeMap, time::Duration};

use expect_test::expect;
use raftup_proto::{
    api::{ServiceUpdate, UpdateState},
    id::NodeId,
    peer::{TaskState, TaskStatus},
    spec::{FailureAction, Mode, NetworkAttachment, NetworkSpec, ServiceSpec, UpdatePolicy},
    unit::MemBytes,
    view::Item,
};

use crate::{
    model::{Desired, Task},
    plan,
};

use super::sim::{Sim, service};

const GIB: MemBytes = MemBytes(1 << 30);

fn web(image: &str, replicas: u32) -> ServiceSpec {
    service(image, Mode::Replicated { replicas })
}

/// 400 MiB a task.
fn sized(image: &str, replicas: u32, mib: u64) -> ServiceSpec {
    let mut spec = web(image, replicas);
    spec.resources.reservations.memory = Some(MemBytes(mib << 20));
    spec
}

fn rolled_back(mut spec: ServiceSpec) -> ServiceSpec {
    spec.update = UpdatePolicy { failure_action: FailureAction::Rollback, ..UpdatePolicy::default() };
    spec
}

fn images(sim: &Sim) -> Vec<String> {
    let tasks = sim.wanted().into_iter().map(|task| {
        let version = sim.cluster().services[&task.service].version(task.version).unwrap();
        format!("{} {}", version.image, task.status.state)
    });
    tasks.collect()
}

const DAY: Duration = Duration::from_secs(86_400);

/// Two of three replicas have a place.
#[test]
fn a_slot_without_a_place_holds_no_update_up() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    sim.ask("web", &sized("v1", 3, 400));
    sim.wait(Duration::from_secs(60));
    sim.ask("web", &sized("v2", 3, 400));
    sim.wait(DAY);
    assert_eq!(images(&sim), ["v2 running", "v2 running", "v2 pending"]);
    let (state, said) = sim.update("web");
    assert_eq!(state, Some(UpdateState::Completed));
    expect!["update completed; no node fits for slot 3"].assert_eq(&said);
    expect!["slot 3: no node fits: 1 short of memory (needs 400MiB, most free 224MiB)"]
        .assert_eq(&sim.cluster().services[&sim.find("web")].waiting.join("\n"));
    sim.join("bee", GIB);
    sim.wait(Duration::from_secs(60));
    assert_eq!(images(&sim), ["v2 running"; 3]);
}

/// The replica that has no place came with the update.
#[test]
fn a_slot_that_is_new_and_has_no_place_holds_no_update_up() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    sim.ask("web", &sized("v1", 2, 400));
    sim.wait(Duration::from_secs(60));
    sim.ask("web", &sized("v2", 3, 400));
    sim.wait(DAY);
    assert_eq!(images(&sim), ["v2 running", "v2 running", "v2 pending"]);
    assert_eq!(sim.update("web").0, Some(UpdateState::Completed));
}

/// What the update itself took out of service counts: the others go on with the old version, also if it is asked again.
#[test]
fn an_update_waits_for_the_slot_that_it_stopped() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    sim.ask("web", &sized("v1", 2, 400));
    sim.wait(Duration::from_secs(60));
    for image in ["v2", "v3"] {
        sim.ask("web", &sized(image, 2, 700));
        sim.wait(DAY);
        assert_eq!(images(&sim), [format!("{image} pending"), "v1 running".to_owned()]);
        let (state, said) = sim.update("web");
        assert_eq!(state, Some(UpdateState::Updating));
        assert_eq!(said, "update in progress; no node fits for slot 1");
    }
    sim.join("bee", GIB);
    sim.wait(DAY);
    assert_eq!(images(&sim), ["v3 running"; 2]);
    assert_eq!(sim.update("web"), (Some(UpdateState::Completed), "update completed".to_owned()));
}

/// No slot has a place: nothing is complete.
#[test]
fn an_update_of_nothing_that_runs_is_not_complete() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    sim.ask("web", &sized("v1", 2, 2000));
    sim.wait(Duration::from_secs(60));
    sim.ask("web", &sized("v2", 2, 2000));
    sim.wait(DAY);
    let (state, said) = sim.update("web");
    assert_eq!(state, Some(UpdateState::Updating));
    assert_eq!(said, "update in progress; no node fits for slots 1, 2");
}

#[test]
fn a_failed_update_goes_back_to_what_has_worked() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    sim.ask("web", &rolled_back(web("v1", 3)));
    sim.settle();
    for image in ["slow", "crash"] {
        sim.ask("web", &rolled_back(web(image, 3)));
        sim.wait(Duration::from_secs(3));
    }
    sim.wait(Duration::from_secs(600));
    assert_eq!(sim.update("web").0, Some(UpdateState::RollbackCompleted));
    assert_eq!(images(&sim), ["v1 running"; 3]);
}

/// The newest of two that worked, over changes that replace nothing.
#[test]
fn a_version_that_was_completed_has_worked() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    for (image, replicas) in [("v1", 2), ("v2", 2), ("v2", 3), ("slow", 3), ("slow", 2), ("crash", 2)] {
        sim.ask("web", &rolled_back(web(image, replicas)));
        sim.wait(Duration::from_secs(40));
    }
    sim.wait(Duration::from_secs(600));
    assert_eq!(sim.update("web").0, Some(UpdateState::RollbackCompleted));
    let mut now = images(&sim);
    now.dedup();
    assert_eq!(now, ["v2 running"]);
}

#[test]
fn an_update_does_not_go_back_to_what_never_worked() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    for image in ["crash", "sick"] {
        sim.ask("web", &rolled_back(web(image, 1)));
        sim.wait(Duration::from_secs(20));
    }
    sim.wait(Duration::from_secs(600));
    let (state, said) = sim.update("web");
    assert_eq!(state, Some(UpdateState::Paused));
    assert!(said.ends_with("unhealthy: no answer; no earlier version is known to have worked"), "{said}");
}

/// By hand it is the version before, whatever that was.
#[test]
fn a_rollback_by_hand_goes_one_version_back() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    for image in ["v1", "slow", "v3"] {
        sim.ask("web", &web(image, 1));
        sim.wait(Duration::from_secs(3));
    }
    let (set, _) = plan::services::rollback(sim.cluster(), sim.find("web"), None, sim.now).unwrap();
    sim.apply(set);
    sim.wait(Duration::from_secs(60));
    assert_eq!(images(&sim), ["slow starting"]);
}

/// A rollback that fails stands, whoever asked for it.
#[test]
fn a_rollback_that_fails_is_paused() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    for image in ["v1", "sick", "v3"] {
        sim.ask("web", &web(image, 2));
        sim.wait(Duration::from_secs(60));
    }
    assert_eq!(sim.update("web").0, Some(UpdateState::Completed));
    let (set, _) = plan::services::rollback(sim.cluster(), sim.find("web"), None, sim.now).unwrap();
    sim.apply(set);
    sim.wait(Duration::from_secs(60));
    let (state, said) = sim.update("web");
    assert_eq!(state, Some(UpdateState::RollbackPaused), "{said}");
    assert!(
        said.starts_with("rollback paused due to failure") && said.ends_with("unhealthy: no answer"),
        "{said}"
    );
    assert!(images(&sim).contains(&"v3 running".to_owned()), "{:?}", images(&sim));
}

fn on(mut spec: ServiceSpec, network: &str) -> ServiceSpec {
    spec.networks.push(NetworkAttachment {
        network: network.parse().unwrap(),
        aliases: Vec::new(),
        external: None,
    });
    spec
}

/// The version that worked is on a network that the newer file does not have.
fn update_off_a_network(change: impl FnOnce(&mut Sim)) -> Sim {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    sim.spec.networks.insert("old".parse().unwrap(), NetworkSpec::default());
    sim.ask("web", &on(rolled_back(web("v1", 1)), "old"));
    sim.settle();
    sim.spec.networks.remove("old");
    sim.ask("web", &rolled_back(web("slow", 1)));
    sim.wait(Duration::from_secs(3));
    change(&mut sim);
    sim.wait(Duration::from_secs(3));
    sim
}

fn fail_what_starts(sim: &mut Sim) {
    let starting = sim.wanted().into_iter().filter(|task| task.status.state == TaskState::Starting);
    let starting: Vec<Task> = starting.collect();
    starting.iter().for_each(|task| sim.fail(task, "unhealthy"));
    sim.wait(Duration::from_secs(60));
}

#[test]
fn a_scale_during_an_update_keeps_the_way_back() {
    for times in 0..3 {
        let mut sim = update_off_a_network(|sim| {
            for replicas in 2..2 + times {
                let update = ServiceUpdate { replicas: Some(replicas), ..ServiceUpdate::default() };
                let id = sim.find("web");
                let (set, _) =
                    plan::services::update(sim.cluster(), id, &update, &sim.pinned, sim.now).unwrap();
                sim.apply(set);
                sim.wait(Duration::from_secs(3));
            }
        });
        fail_what_starts(&mut sim);
        assert_eq!(sim.update("web").0, Some(UpdateState::RollbackCompleted), "scaled {times} times");
        assert_eq!(sim.cluster().networks.len(), 2);
    }
}

/// Someone may roll a paused update back; once it is complete, the network goes.
#[test]
fn a_paused_update_keeps_the_way_back() {
    let mut sim = update_off_a_network(|sim| {
        let mut spec = web("slow", 1);
        spec.update.failure_action = FailureAction::Pause;
        sim.ask("web", &spec);
    });
    fail_what_starts(&mut sim);
    assert_eq!(sim.update("web").0, Some(UpdateState::Paused));
    assert_eq!(sim.cluster().networks.len(), 2);
    sim.ask("web", &web("v3", 1));
    sim.wait(Duration::from_secs(60));
    assert_eq!(sim.update("web").0, Some(UpdateState::Completed));
    assert_eq!(sim.cluster().networks.len(), 1);
}

/// A minute until it is found unhealthy is no life.
#[test]
fn a_start_that_is_slow_and_fails_is_an_attempt() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    let mut limited = web("slow", 1);
    limited.restart.max_attempts = Some(2);
    limited.restart.window = Some(Duration::from_secs(10));
    sim.ask("limited", &limited);
    sim.ask("backed-off", &web("slow", 1));
    sim.settle();
    let mut attempts = Vec::new();
    for _ in 0..5 {
        sim.wait(Duration::from_secs(61));
        for task in sim.wanted().iter().filter(|task| task.status.state == TaskState::Starting) {
            sim.fail(task, "unhealthy");
        }
        sim.settle();
        attempts.push(sim.wanted().iter().map(|task| task.restarts).max().unwrap());
    }
    assert_eq!(attempts, [1, 2, 3, 4, 5], "each further one waits longer");
    let service = &sim.cluster().services[&sim.find("limited")];
    assert_eq!(service.waiting, ["slot 1: given up after 2 restarts: unhealthy"]);
    let live =
        sim.cluster().tasks_of(service.id).filter(|task| task.desired == Desired::Run && task.is_live());
    assert_eq!(live.count(), 0);
}

/// It is stopped a moment later, and by then no node leads to it.
#[test]
fn what_was_found_unhealthy_gets_no_new_connections() {
    let mut sim = Sim::new("ant", GIB, "10.64.0.0/11");
    sim.ask("web", &web("v1", 2));
    sim.settle();
    let ready = |sim: &Sim| {
        let world = plan::World::new(sim.cluster().clone());
        let endpoints = sim.wanted().into_iter().filter_map(|task| {
            let item = plan::view::item(&world, NodeId::new(1), plan::view::endpoint_key(&task))?;
            let Item::Endpoint(_, endpoint) = item else { return None };
            Some(endpoint.ready)
        });
        endpoints.collect::<Vec<bool>>()
    };
    assert_eq!(ready(&sim), [true, true]);
    let task = sim.wanted()[0].clone();
    let status = TaskStatus { message: Some("unhealthy: no answer".to_owned()), ..task.status.clone() };
    let reports = BTreeMap::from([((task.node.unwrap(), task.id), status)]);
    let set = plan::nodes::reports(sim.cluster(), &reports, sim.now);
    sim.apply(set);
    assert_eq!(ready(&sim), [false, true]);
}
