//! What is given out comes back: blocks, subnets, virtual addresses, ports, records of volumes, versions, history.

use std::time::Duration;

use raftup_proto::{
    id::NodeId,
    spec::{
        Constraint, Mode, Mount, MountSource, NetworkSpec, NodeAttribute, PortSpec, Protocol, ServiceSpec,
        VolumeSpec,
    },
    unit::MemBytes,
};

use crate::plan::{self, check};

use super::sim::{Sim, service};

const MEM: MemBytes = MemBytes(1 << 40);
/// Of the life of a cluster.
const TIMES: u64 = 10_000;

fn sim(nodes: usize) -> Sim {
    let mut sim = Sim::new("n-0", MEM, "10.64.0.0/11");
    (1..nodes).for_each(|n| _ = sim.join(&format!("n-{n}"), MEM));
    sim
}

/// One replica, on that node.
fn only_on(node: usize) -> ServiceSpec {
    let mut spec = service("app", Mode::Replicated { replicas: 1 });
    let value = format!("n-{node}");
    spec.placement.constraints = vec![Constraint { attribute: NodeAttribute::Hostname, equal: true, value }];
    spec
}

/// A network has blocks for 124 nodes; a task that goes from node to node needs one of them at a time.
#[test]
fn blocks_that_hold_nothing_go_to_other_nodes() {
    let mut sim = sim(130);
    for node in (0..130).chain(0..130) {
        sim.ask("web", &only_on(node));
        sim.wait(Duration::from_secs(60));
        let task = &sim.wanted()[0];
        assert!(task.is_ready(), "on node {node}: {:?}", task.status);
        assert_eq!(task.node, Some(sim.node(&format!("n-{node}"))));
    }
    let network = sim.cluster().networks.values().next().unwrap();
    assert!(network.returning.is_empty(), "{:?}", network.returning);
}

/// Until all nodes route to them no more, blocks that were given back are given to nobody; one that says nothing holds
/// that up for a while only.
#[test]
fn a_block_is_given_again_once_nobody_routes_to_where_it_was() {
    for silent in [false, true] {
        let mut sim = sim(125);
        for node in 0..124 {
            sim.ask("web", &only_on(node));
            sim.wait(Duration::from_secs(60));
        }
        sim.held = Some(sim.revision());
        sim.ask("web", &only_on(124));
        // The task serves until the one that replaces it is reached.
        sim.settle();
        let new = sim.wanted().pop().unwrap();
        assert_eq!(
            (new.node, new.status.message.as_deref()),
            (None, Some("waits for addresses that other nodes give back"))
        );
        assert_eq!(sim.cluster().networks.values().next().unwrap().returning.len(), 123);
        if silent {
            sim.wait(Duration::from_secs(60));
        } else {
            sim.held = None;
            sim.settle();
        }
        let new = sim.wanted().pop().unwrap();
        assert_eq!(new.node, Some(sim.node("n-124")), "{:?}", new.status);
    }
}

/// Blocks with an address of a task that is not seen to have ended stay, also where the node is down.
#[test]
fn a_block_of_a_node_that_is_down_stays_while_a_task_may_run_there() {
    let mut sim = sim(125);
    sim.ask("log", &service("app", Mode::Global));
    sim.wait(Duration::from_secs(60));
    let without = sim.wanted().into_iter().find(|task| task.node.is_none()).unwrap();
    assert!(without.status.message.unwrap().contains("all given to nodes"));
    sim.lose(NodeId::new(1));
    sim.wait(Duration::from_secs(600));
    assert_eq!(sim.cluster().nodes[&NodeId::new(1)].blocks.len(), 1);
    let set = plan::nodes::remove(sim.cluster(), NodeId::new(1), true, sim.now).unwrap();
    sim.apply(set);
    sim.wait(Duration::from_secs(60));
    assert!(sim.wanted().iter().all(|task| task.is_ready()), "its block is free with it: {:#?}", sim.show());
}

/// Stacks come and go; whatever they had is free for the next.
#[test]
fn nothing_runs_out_as_stacks_come_and_go() {
    let mut sim = Sim::new("ant", MEM, "10.64.0.0/18");
    let mut spec = service("app", Mode::Replicated { replicas: 1 });
    spec.ports = vec![PortSpec::new(Protocol::Tcp, 80, 80)];
    let source = MountSource::Volume { name: "data".parse().unwrap(), nocopy: false };
    spec.container.mounts = vec![Mount::new("/data", source)];
    sim.spec.volumes.insert("data".parse().unwrap(), VolumeSpec::default());
    sim.spec.services.insert("web".parse().unwrap(), spec);
    sim.unchecked = true;
    for time in 0..TIMES {
        // The only subnet of the pool, the only port.
        sim.deploy().unwrap_or_else(|refusal| panic!("time {time}: {refusal}"));
        while sim.decide() | sim.act() {}
        assert!(sim.wanted()[0].is_ready(), "time {time}: {:?}", sim.show());
        let stack = sim.cluster().stacks.values().next().unwrap().id;
        let (set, _) = plan::stacks::remove(sim.cluster(), stack, sim.now).unwrap();
        sim.apply(set);
        while sim.decide() | sim.act() {}
        sim.log.clear();
    }
    let cluster = sim.cluster();
    assert!(cluster.stacks.is_empty() && cluster.services.is_empty() && cluster.tasks.is_empty());
    assert!(cluster.networks.is_empty() && cluster.volumes.is_empty());
    assert!(cluster.nodes.values().all(|node| node.blocks.is_empty() && node.attached.is_empty()));
    assert_eq!(check::state(cluster), Vec::<String>::new());
}

/// A service is updated and its tasks fail, again and again: versions, history and addresses are those of the last few.
#[test]
fn nothing_piles_up_as_a_service_changes() {
    let mut sim = sim(2);
    let mut spec = service("v0", Mode::Replicated { replicas: 2 });
    spec.update.parallelism = 0;
    spec.update.monitor = Duration::ZERO;
    sim.ask("web", &spec);
    sim.unchecked = true;
    for time in 0..TIMES {
        spec.container.image = format!("v{time}");
        sim.spec.services.insert("web".parse().unwrap(), spec.clone());
        sim.deploy().unwrap();
        while sim.decide() | sim.act() {}
        sim.now = sim.now.plus(Duration::from_secs(100));
        let web = sim.find("web");
        sim.crash(web, 1);
        while sim.decide() | sim.act() {}
        sim.now = sim.now.plus(Duration::from_secs(10));
        sim.log.clear();
    }
    sim.wait(Duration::from_secs(100));
    let service = &sim.cluster().services[&sim.find("web")];
    assert!(service.versions.len() <= 13, "{}", service.versions.len());
    assert!(sim.cluster().tasks.len() <= 6, "{:#?}", sim.show());
    assert!(sim.cluster().nodes.values().all(|node| node.blocks.values().flatten().count() <= 1));
    assert_eq!(check::state(sim.cluster()), Vec::<String>::new());
}

/// A network has 254 virtual addresses; services that come and go beside one that stays need two.
#[test]
fn virtual_addresses_and_subnets_come_back() {
    let mut sim = sim(1);
    sim.spec.networks.insert("other".parse().unwrap(), NetworkSpec::default());
    let none = service("app", Mode::Replicated { replicas: 0 });
    sim.ask("stays", &none);
    sim.unchecked = true;
    for time in 0..TIMES {
        let (name, network) = (format!("s{time}"), format!("n{time}"));
        sim.spec.services.insert(name.parse().unwrap(), none.clone());
        sim.spec.networks.insert(network.parse().unwrap(), NetworkSpec::default());
        sim.deploy().unwrap_or_else(|refusal| panic!("time {time}: {refusal}"));
        sim.spec.services.remove(name.as_str());
        sim.spec.networks.remove(network.as_str());
        sim.deploy().unwrap();
        while sim.decide() {}
        sim.log.clear();
    }
    assert_eq!((sim.cluster().services.len(), sim.cluster().networks.len()), (1, 2));
    assert_eq!(check::state(sim.cluster()), Vec::<String>::new());
}
