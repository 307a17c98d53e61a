//! Random sequences of what can happen; the invariants are checked after every change set, and faults off, it settles.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use raftup_proto::{
    api::{Availability, ServiceUpdate},
    id::NodeId,
    name::ServiceName,
    spec::{
        FailureAction, Mode, NodeAttribute, PortSpec, Protocol, PublishMode, Ratio, ServiceSpec, UpdateOrder,
        UpdatePolicy,
    },
    unit::MemBytes,
};

use crate::{
    model::Desired,
    plan::{self, Ids},
};

use super::sim::{Sim, service};

#[derive(Clone, Debug)]
enum Event {
    Join,
    Lose(u8),
    Back(u8),
    Remove(u8),
    Availability(u8, u8),
    Deploy { service: u8, image: u8, replicas: u8, global: bool, memory: u8 },
    Forget(u8),
    Scale(u8, u8),
    Force(u8),
    Rollback(u8),
    RemoveStack,
    Decide,
    Act,
    Wait(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Join),
        2 => any::<u8>().prop_map(Event::Lose),
        2 => any::<u8>().prop_map(Event::Back),
        1 => any::<u8>().prop_map(Event::Remove),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(node, to)| Event::Availability(node, to)),
        4 => (0..3_u8, any::<u8>(), 0..6_u8, any::<bool>(), any::<u8>()).prop_map(
            |(service, image, replicas, global, memory)| Event::Deploy { service, image, replicas, global, memory }),
        1 => (0..3_u8).prop_map(Event::Forget),
        2 => (0..3_u8, 0..8_u8).prop_map(|(service, replicas)| Event::Scale(service, replicas)),
        2 => (0..3_u8).prop_map(Event::Force),
        1 => (0..3_u8).prop_map(Event::Rollback),
        1 => Just(Event::RemoveStack),
        6 => Just(Event::Decide),
        6 => Just(Event::Act),
        3 => (0..10_u8).prop_map(Event::Wait),
    ]
}

const IMAGES: [&str; 6] = ["v1", "v2", "crash", "absent", "slow", "job"];

fn run(sim: &mut Sim, event: &Event) {
    let node = |sim: &Sim, pick: u8| -> NodeId {
        let all: Vec<_> = sim.cluster().nodes.keys().copied().collect();
        all[usize::from(pick) % all.len()]
    };
    match *event {
        Event::Join if sim.cluster().nodes.len() < 6 => _ = sim.join("x", MemBytes(1 << 30)),
        Event::Join => {}
        Event::Lose(pick) => sim.lose(node(sim, pick)),
        Event::Back(pick) => sim.hear(node(sim, pick)),
        Event::Remove(pick) if sim.cluster().nodes.len() > 1 => {
            let set = plan::nodes::remove(sim.cluster(), node(sim, pick), true, sim.now).unwrap();
            sim.apply(set);
        }
        Event::Remove(_) => {}
        Event::Availability(pick, to) => {
            let to = [Availability::Active, Availability::Pause, Availability::Drain][usize::from(to % 3)];
            sim.availability(node(sim, pick), to);
        }
        Event::Deploy { service: name, image, replicas, global, memory } => {
            let mode = if global { Mode::Global } else { Mode::Replicated { replicas: replicas.into() } };
            let mut spec = service(IMAGES[usize::from(image) % IMAGES.len()], mode);
            spec.resources.reservations.memory = Some(MemBytes(u64::from(memory % 4) << 28));
            let other: ServiceName = format!("s{}", (name + 1) % 3).parse().unwrap();
            match (memory / 4) % 6 {
                1 if !global => spec.placement.max_per_node = std::num::NonZeroU32::new(1),
                2 => spec.placement.spread = vec![NodeAttribute::Label("zone".to_owned())],
                3 if !global => _ = spec.placement.with.insert(other),
                4 if !global => _ = spec.placement.apart_from.insert(other),
                _ => {}
            }
            if image % 3 == 0 {
                let mode = PublishMode::Host;
                let published = 80 + u16::from(image % 2);
                spec.ports = vec![PortSpec { mode, ..PortSpec::new(Protocol::Tcp, published, 80) }];
            }
            if image % 2 == 1 {
                spec.update.order = UpdateOrder::StartFirst;
                spec.update.failure_action = FailureAction::Rollback;
            }
            spec.update.parallelism = u32::from(memory % 3);
            let before = sim.spec.clone();
            sim.spec.services.insert(format!("s{name}").parse().unwrap(), spec);
            // Refused: the mode cannot change, or the stack is on its way out.
            if sim.deploy().is_err() {
                sim.spec = before;
            }
        }
        Event::Forget(name) => {
            sim.spec.services.remove(format!("s{name}").as_str());
            _ = sim.deploy();
        }
        Event::Scale(name, replicas) => {
            change(sim, name, &ServiceUpdate { replicas: Some(replicas.into()), ..ServiceUpdate::default() });
        }
        Event::Force(name) => change(sim, name, &ServiceUpdate { force: true, ..ServiceUpdate::default() }),
        Event::Rollback(name) => {
            let Ok(found) = plan::find::service(sim.cluster(), &format!("s_s{name}")) else { return };
            if let Ok((set, _)) = plan::services::rollback(sim.cluster(), found.id, None, sim.now) {
                sim.apply(set);
            }
        }
        Event::RemoveStack => {
            let Ok(stack) = plan::find::stack(sim.cluster(), "s") else { return };
            let (set, _) = plan::stacks::remove(sim.cluster(), stack.id, sim.now).unwrap();
            sim.apply(set);
        }
        Event::Decide => _ = sim.decide(),
        Event::Act => _ = sim.act(),
        Event::Wait(seconds) => {
            sim.now = sim.now.plus(Duration::from_secs(seconds.into()));
            _ = sim.decide();
        }
    }
}

/// Changes a service of the stack; what is refused changes nothing.
fn change(sim: &mut Sim, name: u8, update: &ServiceUpdate) {
    let Ok(found) = plan::find::service(sim.cluster(), &format!("s_s{name}")) else { return };
    if let Ok((set, _)) = plan::services::update(sim.cluster(), found.id, update, &sim.pinned, sim.now) {
        sim.apply(set);
    }
}

/// Faults off: every node is back and takes tasks, and every image works.
fn mend(sim: &mut Sim) {
    for id in sim.cluster().nodes.keys().copied().collect::<Vec<_>>() {
        sim.hear(id);
        sim.availability(id, Availability::Active);
    }
    sim.wait(Duration::from_secs(60));
    for spec in sim.spec.services.values_mut() {
        spec.container.image = "good".to_owned();
        spec.resources = Default::default();
        spec.placement = Default::default();
        spec.ports.clear();
    }
    _ = sim.deploy();
    sim.wait(Duration::from_secs(200));
}

/// Every slot runs, and nothing else is left but the history.
fn all_is_well(sim: &Sim) -> Result<(), TestCaseError> {
    for service in sim.cluster().services.values() {
        let count = plan::show::service(sim.cluster(), service.id).unwrap();
        prop_assert_eq!(count.running, count.desired, "{}: {:#?}", service.full_name(), sim.show());
        prop_assert!(service.waiting.is_empty(), "{:?}", service.waiting);
    }
    for task in sim.cluster().tasks.values() {
        let history = task.desired == Desired::Stop && task.status.state.is_over();
        prop_assert!(history || task.is_ready(), "{:?}", task);
    }
    let networks = sim.cluster().networks.values();
    prop_assert!(networks.into_iter().all(|network| !network.removing));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold_and_it_settles(
        seed in any::<u64>(),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut sim = Sim::new("first", MemBytes(1 << 30), "10.64.0.0/11");
        // From all of the space of ids, as they are in a cluster.
        sim.ids = Ids::seeded(seed);
        for event in &events {
            run(&mut sim, event);
        }
        mend(&mut sim);
        all_is_well(&sim)?;
        prop_assert!(sim.revision().0 > 0);
    }
}

#[derive(Clone, Debug)]
enum Update {
    Deploy(u8),
    Rollback,
    Force,
    Decide,
    Act,
    Routes(bool),
    Wait(u8),
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        2 => any::<u8>().prop_map(Update::Deploy),
        1 => Just(Update::Rollback),
        1 => Just(Update::Force),
        8 => Just(Update::Decide),
        8 => Just(Update::Act),
        2 => any::<bool>().prop_map(Update::Routes),
        4 => (0..60_u8).prop_map(Update::Wait),
    ]
}

fn policies() -> impl Strategy<Value = UpdatePolicy> {
    let order = prop_oneof![Just(UpdateOrder::StopFirst), Just(UpdateOrder::StartFirst)];
    let action = prop_oneof![Just(FailureAction::Pause), Just(FailureAction::Rollback)];
    (1..4_u32, 0..10_u64, order, 1..10_u64, action).prop_map(
        |(parallelism, delay, order, monitor, failure_action)| UpdatePolicy {
            parallelism,
            delay: Duration::from_secs(delay),
            order,
            monitor: Duration::from_secs(monitor),
            failure_action,
            max_failure_ratio: Ratio(0),
        },
    )
}

/// What there is to do to one service.
fn update_service(sim: &mut Sim, update: &Update, spec: &ServiceSpec) {
    let id = sim.find("s_web");
    match *update {
        Update::Deploy(image) => {
            let image = ["v1", "v2", "v3", "sick", "absent", "crash", "slow"][usize::from(image) % 7];
            let mut spec = spec.clone();
            spec.container.image = image.to_owned();
            sim.spec.services.insert("web".parse().unwrap(), spec);
            sim.deploy().unwrap();
        }
        Update::Rollback => {
            if let Ok((set, _)) = plan::services::rollback(sim.cluster(), id, None, sim.now) {
                sim.apply(set);
            }
        }
        Update::Force => {
            let force = ServiceUpdate { force: true, ..ServiceUpdate::default() };
            let (set, _) = plan::services::update(sim.cluster(), id, &force, &sim.pinned, sim.now).unwrap();
            sim.apply(set);
        }
        Update::Decide => _ = sim.decide(),
        Update::Act => _ = sim.act(),
        Update::Routes(held) => sim.held = held.then_some(sim.revision()),
        Update::Wait(seconds) => sim.wait(Duration::from_secs(seconds.into())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever versions come, good or bad, forth or back, an update takes no more tasks out of service than it may:
    /// with stop-first its parallelism, with start-first none. (A version that crashes after it came to serve and was
    /// watched takes them itself; here those crash at once.) Whatever happened, a good version mends it.
    #[test]
    fn an_update_keeps_its_promise(
        seed in any::<u64>(),
        replicas in 1..6_u32,
        policy in policies(),
        updates in prop::collection::vec(update(), 1..80),
    ) {
        let mut sim = Sim::new("first", MemBytes(1 << 30), "10.64.0.0/11");
        sim.ids = Ids::seeded(seed);
        sim.join("second", MemBytes(1 << 30));
        let mut spec = service("v0", Mode::Replicated { replicas });
        spec.update = policy;
        spec.rollback = UpdatePolicy { failure_action: FailureAction::Pause, ..policy };
        sim.spec.services.insert("web".parse().unwrap(), spec.clone());
        sim.deploy().unwrap();
        sim.settle();
        let most_away = match policy.order {
            UpdateOrder::StopFirst => policy.parallelism as usize,
            UpdateOrder::StartFirst => 0,
        };
        for update in &updates {
            update_service(&mut sim, update, &spec);
            let ready: BTreeSet<_> =
                sim.cluster().tasks.values().filter(|task| task.is_ready()).map(|task| task.slot).collect();
            prop_assert!(
                ready.len() + most_away >= replicas as usize,
                "{ready:?} of {replicas} after {update:?}: {:#?}", sim.show()
            );
            let rollout = sim.cluster().services[&sim.find("s_web")].rollout.clone();
            if let Some(rollout) = rollout.filter(|rollout| rollout.status.state.is_active()) {
                prop_assert!(rollout.failed.is_empty(), "none may fail: {rollout:?}");
            }
        }
        sim.held = None;
        update_service(&mut sim, &Update::Deploy(0), &spec);
        sim.wait(Duration::from_secs(400));
        all_is_well(&sim)?;
        let state = sim.cluster().services[&sim.find("s_web")].update_state();
        prop_assert!(state.is_none_or(|state| !state.is_active()), "{state:?}");
    }
}
