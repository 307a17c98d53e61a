//! Scenarios as text, and random walks, over the real plan and the real apply.

mod asked;
mod bench;
mod blobs;
mod doubles;
mod given_back;
mod random;
mod scenarios;
mod script;
mod sim;
mod slices;
mod updates;

use expect_test::expect;
use raftup_proto::spec::NetworkSpec;

/// Three nodes that are ready.
pub(super) fn three_nodes() -> crate::model::Cluster {
    let memory = raftup_proto::unit::MemBytes(1 << 30);
    let mut sim = sim::Sim::new("ant", memory, "10.64.0.0/11");
    sim.join("bee", memory);
    sim.join("cow", memory);
    sim.cluster().clone()
}

/// A network has 124 blocks for nodes; the task on the next node waits, and says why.
#[test]
fn blocks_run_out() {
    let memory = raftup_proto::unit::MemBytes(1 << 30);
    let mut sim = sim::Sim::new("ant", memory, "10.64.0.0/11");
    (0..124).for_each(|n| _ = sim.join(&format!("node-{n}"), memory));
    let global = sim::service("app", raftup_proto::spec::Mode::Global);
    sim.spec.services.insert("log".parse().unwrap(), global);
    sim.deploy().unwrap();
    sim.settle();
    let service = &sim.cluster().services[&sim.find("log")];
    assert_eq!(
        service.waiting,
        [
            "node n125: no address on network `s_default`: its addresses (10.64.32.0/19) are all given to nodes"
        ]
    );
    // The same in `service ps`.
    let tasks = super::show::tasks(sim.cluster(), Default::default());
    let waiting: Vec<_> = tasks.iter().filter_map(|task| task.message.as_deref()).collect();
    assert_eq!(
        waiting,
        ["no address on network `s_default`: its addresses (10.64.32.0/19) are all given to nodes"]
    );
}

fn network(name: &str, attachable: bool) -> (raftup_proto::name::NetworkName, NetworkSpec) {
    (name.parse().unwrap(), NetworkSpec { attachable, ..NetworkSpec::default() })
}

/// The refusal of a deploy: message and hint.
fn refused(sim: &mut sim::Sim) -> String {
    let refusal = sim.deploy().unwrap_err();
    format!("{refusal}\nhint: {}\n", refusal.hint.as_deref().unwrap_or_default())
}

/// The smallest pool that `init` takes has room for seven networks.
#[test]
fn a_pool_runs_out() {
    let mut sim = sim::Sim::new("ant", raftup_proto::unit::MemBytes(1 << 30), "10.64.0.0/16");
    sim.spec.networks = (0..8).map(|number| network(&format!("net{number}"), false)).collect();
    let before = sim.cluster().revision;
    expect![[r#"
        no addresses for network `s_net7`: the address pool 10.64.0.0/16 has no free subnet left
        hint: remove a stack or network that is not needed; each network takes a /19 of the pool
    "#]]
    .assert_eq(&refused(&mut sim));
    assert_eq!(sim.cluster().revision, before, "nothing was changed");
}

/// A network has 254 virtual addresses.
#[test]
fn virtual_addresses_run_out() {
    let mut sim = sim::Sim::new("ant", raftup_proto::unit::MemBytes(1 << 30), "10.64.0.0/11");
    let none = raftup_proto::spec::Mode::Replicated { replicas: 0 };
    sim.spec.services =
        (0..255).map(|n| (format!("web{n:03}").parse().unwrap(), sim::service("web", none))).collect();
    expect![[r#"
        too many services on network `s_default`: its virtual addresses (10.64.63.0/24) are all in use
        hint: put some of them on another network of the stack
    "#]]
    .assert_eq(&refused(&mut sim));
}

/// What a network is told is settled when it is made.
#[test]
fn a_plain_network_stays_one() {
    let mut sim = sim::Sim::new("ant", raftup_proto::unit::MemBytes(1 << 30), "10.64.0.0/11");
    let ask = |sim: &mut sim::Sim, encrypted| {
        let spec = NetworkSpec { encrypted, ..NetworkSpec::default() };
        sim.spec.networks = [("default".parse().unwrap(), spec)].into();
    };
    let is_plain = |sim: &sim::Sim| {
        let update = super::view::full(&sim.world, sim.node_here());
        update.put.iter().any(|item| matches!(item, raftup_proto::view::Item::Network(on) if on.plain))
    };
    sim.spec.services.insert("web".parse().unwrap(), sim::service("web", raftup_proto::spec::Mode::Global));
    ask(&mut sim, None);
    sim.deploy().unwrap();
    assert!(!is_plain(&sim));
    ask(&mut sim, Some(true));
    sim.deploy().unwrap();
    ask(&mut sim, Some(false));
    expect![[r#"
        whether network `s_default` is encrypted cannot be changed
        hint: give the network another name in the file, or `raftup stack rm` first
    "#]]
    .assert_eq(&refused(&mut sim));
    sim.spec.networks.insert("open".parse().unwrap(), sim.spec.networks.values().next().unwrap().clone());
    sim.spec.networks.entry("default".parse().unwrap()).and_modify(|spec| spec.encrypted = None);
    sim.deploy().unwrap();
    assert!(is_plain(&sim));
    let node = sim.node_here();
    sim.say(node, |info| info.underlay = "2001:db8::1".parse().unwrap());
    expect![[r#"
        network `open` must not be encrypted, which takes IPv4 between nodes: `ant` is at 2001:db8::1
        hint: leave `driver_opts: encrypted` out, or let all nodes advertise addresses of IPv4
    "#]]
    .assert_eq(&refused(&mut sim));
}

/// Rules keep strangers out of what is not encrypted, and they are of IPv4.
#[test]
fn what_is_not_encrypted_takes_ipv4_between_nodes() {
    use raftup_proto::api::FabricMode::{Plain, Wireguard};
    let said = |fabric, plain_network, at: &str| {
        let checked = super::nodes::check_underlay(fabric, plain_network, at.parse().unwrap());
        checked.err().map(|refusal| refusal.message)
    };
    let v6 = "2001:db8::1";
    assert_eq!(said(Wireguard, false, v6), None);
    for (fabric, plain_network) in [(Plain, false), (Plain, true), (Wireguard, true)] {
        assert_eq!(said(fabric, plain_network, "192.0.2.1"), None);
    }
    expect![[r#"
        a plain fabric takes IPv4 between nodes, and this one would be at 2001:db8::1
        a network with `encrypted: "false"` takes IPv4 between nodes, and this one would be at 2001:db8::1"#]]
    .assert_eq(&[said(Plain, false, v6), said(Wireguard, true, v6)].map(Option::unwrap).join("\n"));
}

/// Every node has a block of an attachable network, also one that comes later; tasks get none of its addresses.
#[test]
fn an_attachable_network_has_a_block_on_every_node() {
    let memory = raftup_proto::unit::MemBytes(1 << 30);
    let mut sim = sim::Sim::new("ant", memory, "10.64.0.0/11");
    sim.join("bee", memory);
    sim.spec.networks = [network("default", true), network("other", false)].into();
    sim.spec.services.insert("web".parse().unwrap(), sim::service("web", raftup_proto::spec::Mode::Global));
    sim.deploy().unwrap();
    sim.join("cow", memory);
    sim.settle();
    let shown = |sim: &sim::Sim| -> Vec<String> {
        let nodes = sim.cluster().nodes.values();
        nodes.map(|node| format!("{:?} {:?}", node.attached.values(), node.blocks.values())).collect()
    };
    expect![[r#"
        [10.64.32.0/26] [[10.64.32.192/26]]
        [10.64.32.64/26] [[10.64.33.0/26]]
        [10.64.32.128/26] [[10.64.33.64/26]]"#]]
    .assert_eq(&shown(&sim).join("\n"));

    sim.spec.networks = [network("default", false), network("other", false)].into();
    expect![[r#"
        whether network `s_default` is attachable cannot be changed
        hint: give the network another name in the file, or `raftup stack rm` first
    "#]]
    .assert_eq(&refused(&mut sim));
    let stack = sim.cluster().stacks.values().next().unwrap().id;
    let (set, _) = super::stacks::remove(sim.cluster(), stack, sim.now).unwrap();
    sim.apply(set);
    sim.settle();
    let left = sim.cluster().nodes.values().filter(|node| !node.attached.is_empty()).count();
    assert_eq!(left, 0, "the network is gone, and its blocks with it");
}

/// Machines that come and go for years: ids are never used twice, fabric addresses are, as late as possible.
#[test]
fn numbers_of_nodes_do_not_run_out() {
    let memory = raftup_proto::unit::MemBytes(1 << 30);
    let mut sim = sim::Sim::new("ant", memory, "10.64.0.0/11");
    let mut here = std::collections::VecDeque::new();
    let mut given = std::collections::BTreeMap::new();
    let mut last = super::init::FIRST_NODE;
    for round in 0..10_000_u32 {
        let id = sim.join(&format!("node-{round}"), memory);
        assert!(id > last, "{id} after {last}");
        last = id;
        let address = sim.cluster().nodes[&id].fabric;
        assert_eq!(sim.cluster().nodes.values().filter(|node| node.fabric == address).count(), 1);
        if let Some(before) = given.insert(address, round) {
            assert!(round - before > 4000, "{address} is given again after {} joins", round - before);
        }
        here.push_back(id);
        if here.len() > 5 {
            let gone = here.pop_front().unwrap();
            let set = super::nodes::remove(sim.cluster(), gone, true, sim.now).unwrap();
            sim.apply(set);
        }
    }
    assert_eq!((sim.cluster().nodes.len(), last.number()), (6, 10_001));
}

#[test]
fn an_address_on_the_fabric_is_given_again_once_its_node_is_removed() {
    use raftup_proto::id::NodeId;

    use super::addresses::fabric;
    use crate::store::sample;

    let pool = sample::info().pool;
    let mut cluster = crate::model::Cluster::default();
    for number in 1..=4094 {
        let address = fabric(&cluster, pool, NodeId::new(number)).unwrap();
        let node = crate::model::Node { id: NodeId::new(number), fabric: address, ..sample::node(1) };
        cluster.nodes.insert(node.id, node.into());
    }
    let next = |cluster: &_| fabric(cluster, pool, NodeId::new(4095)).map_err(|error| error.to_string());
    assert_eq!(
        next(&cluster).unwrap_err(),
        "the address pool 10.64.0.0/11 has no free address left for a node"
    );
    let gone = cluster.nodes.remove(&NodeId::new(3000)).unwrap();
    assert_eq!(next(&cluster), Ok(gone.fabric));
}
