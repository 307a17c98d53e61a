use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use expect_test::{Expect, expect, expect_file};
use raftup_proto::{
    api::FabricMode,
    id::{NetworkId, NodeId, ServiceId, TaskId},
    spec::{PortSpec, Protocol, PublishMode},
    view::{ClusterItem, Endpoint, Item, NetworkItem, PeerItem, Revision, RouteItem, ServiceAddress, View},
};

use super::*;

fn network(number: u64, subnet: &str) -> NetworkItem {
    NetworkItem {
        network: NetworkId::from_random(number),
        stack: "shop".parse().unwrap(),
        name: "default".parse().unwrap(),
        subnet: subnet.parse().unwrap(),
    }
}

fn peer(number: u64) -> PeerItem {
    PeerItem {
        node: NodeId::new(number),
        hostname: format!("h{number}"),
        control: format!("192.0.2.{number}:7238").parse().unwrap(),
        underlay: format!("192.0.2.{number}").parse().unwrap(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        fabric_turn: 0,
        fabric: Ipv4Addr::new(10, 64, 0, number as u8),
        manager: false,
        alive: true,
        blocks: Vec::new(),
    }
}

/// A service on network 1 with an endpoint for each `(node, address, ready)`.
fn web(endpoints: &[(u64, &str, bool)]) -> RouteItem {
    let on = NetworkId::from_random(1);
    let endpoints = endpoints.iter().enumerate().map(|(index, (node, address, ready))| Endpoint {
        task: TaskId::from_random(index as u64),
        slot: index as u64 + 1,
        node: NodeId::new(*node),
        addresses: vec![(on, address.parse().unwrap())],
        ready: *ready,
        host_ports: Vec::new(),
    });
    let address = ServiceAddress { vip: "10.64.63.2".parse().ok(), aliases: Vec::new() };
    RouteItem {
        service: ServiceId::from_random(9),
        stack: "shop".parse().unwrap(),
        name: "web".parse().unwrap(),
        networks: BTreeMap::from([(on, address)]),
        ports: vec![PortSpec::new(Protocol::Tcp, 80, 8080)],
        endpoints: endpoints.collect(),
    }
}

fn view(routes: &[RouteItem]) -> View {
    let items = routes.iter().cloned().map(Item::Route);
    let items = items.chain([Item::Network(network(1, "10.64.32.0/19"))]);
    let items = items.chain([Item::Peer(peer(1)), Item::Peer(peer(2))]);
    View { generation: Revision(1), items: items.map(|item| (item.key(), item)).collect() }
}

fn rules(view: &View) -> Ruleset {
    rules_over(view, FabricMode::Wireguard)
}

fn rules_over(view: &View, fabric: FabricMode) -> Ruleset {
    let cluster = ClusterItem { pool: "10.64.0.0/11".parse().unwrap(), fabric };
    Ruleset::of(&Table::of(view, &cluster, view.peers().next().unwrap(), &BTreeSet::new()))
}

/// The rules of node 1 while it cannot reach node 2.
fn rules_in_doubt(view: &View) -> Ruleset {
    let cluster = ClusterItem { pool: "10.64.0.0/11".parse().unwrap(), fabric: FabricMode::Wireguard };
    let unreachable = BTreeSet::from([NodeId::new(2)]);
    Ruleset::of(&Table::of(view, &cluster, view.peers().next().unwrap(), &unreachable))
}

fn check_change(old: &[(u64, &str, bool)], new: &[(u64, &str, bool)], expected: Expect) {
    expected.assert_eq(&rules(&view(&[web(new)])).change_from(&rules(&view(&[web(old)]))));
}

#[test]
fn a_service_on_two_nodes() {
    let rules = rules(&view(&[web(&[(1, "10.64.32.2", true), (2, "10.64.32.66", true)])]));
    expect_file!["service.nft"].assert_eq(&rules.replace());
}

#[test]
fn without_encryption_nodes_are_known_by_their_addresses() {
    let view = view(&[]);
    let plain = rules_over(&view, FabricMode::Plain).replace();
    let encrypted = rules(&view).replace();
    let differs: Vec<&str> = plain.lines().filter(|line| !encrypted.contains(line)).collect();
    expect![[r#"
        add rule ip raftup early udp dport 7239 ip saddr @nodes notrack accept
        add rule ip raftup early udp dport 7239 fib daddr type local drop
        add rule ip raftup early_own meta mark != 0x72370000 udp dport 7239 ip daddr @nodes drop
        add rule ip raftup early_own meta mark 0x72370000 udp dport 7239 meta mark set 0 notrack
        add rule ip raftup passing udp dport 7239 ip daddr @nodes ip saddr != @nodes drop"#]]
    .assert_eq(&differs.join("\n"));
}

#[test]
fn an_endpoint_that_drains_is_in_no_choice() {
    check_change(
        &[(1, "10.64.32.2", true), (2, "10.64.32.66", true)],
        &[(1, "10.64.32.2", false), (2, "10.64.32.66", true)],
        expect![[r#"
            delete element ip raftup port_endpoints { tcp . 80 . 0, tcp . 80 . 1 }
            delete element ip raftup ports { tcp . 80 }
            delete element ip raftup vip_endpoints { 10.64.63.2 . 0, 10.64.63.2 . 1 }
            delete element ip raftup vips { 10.64.63.2 }
            add element ip raftup port_endpoints { tcp . 80 . 0 : 10.64.32.66 }
            add element ip raftup ports { tcp . 80 : goto port_of_1 }
            add element ip raftup vip_endpoints { 10.64.63.2 . 0 : 10.64.32.66 }
            add element ip raftup vips { 10.64.63.2 : goto vip_of_1 }
            flush set ip raftup generation
            add element ip raftup generation { 1 }
        "#]],
    );
}

#[test]
fn a_service_without_ready_endpoints_is_in_no_map() {
    check_change(
        &[(2, "10.64.32.66", true)],
        &[(2, "10.64.32.66", false)],
        expect![[r#"
            delete element ip raftup port_endpoints { tcp . 80 . 0 }
            delete element ip raftup port_targets { tcp . 80 }
            delete element ip raftup ports { tcp . 80 }
            delete element ip raftup vip_endpoints { 10.64.63.2 . 0 }
            delete element ip raftup vips { 10.64.63.2 }
            flush set ip raftup generation
            add element ip raftup generation { 1 }
        "#]],
    );
}

fn at(address: &str, published: u16) -> PortSpec {
    PortSpec { host_ip: address.parse().ok(), ..PortSpec::new(Protocol::Tcp, published, 8080) }
}

#[test]
fn a_port_of_one_address_leads_to_all_endpoints_from_there_alone() {
    let both = [(1, "10.64.32.2", true), (2, "10.64.32.66", true)];
    let nowhere = rules(&view(&[RouteItem { ports: Vec::new(), ..web(&both) }]));
    let ports = vec![at("127.0.0.1", 80), at("192.0.2.7", 80)];
    let one_address = RouteItem { ports, ..web(&both) };
    expect![[r#"
        add chain ip raftup at_of_2
        add rule ip raftup at_of_2 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @at_endpoints : ip daddr . meta l4proto . th dport map @at_targets
        add rule ip raftup at_of_2 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 1 map @at_endpoints : ip daddr . meta l4proto . th dport map @at_targets
        add element ip raftup at_endpoints { 127.0.0.1 . tcp . 80 . 0 : 10.64.32.2, 127.0.0.1 . tcp . 80 . 1 : 10.64.32.66, 192.0.2.7 . tcp . 80 . 0 : 10.64.32.2, 192.0.2.7 . tcp . 80 . 1 : 10.64.32.66 }
        add element ip raftup at_targets { 127.0.0.1 . tcp . 80 : 8080, 192.0.2.7 . tcp . 80 : 8080 }
        add element ip raftup ports_at { 127.0.0.1 . tcp . 80 : goto at_of_2, 192.0.2.7 . tcp . 80 : goto at_of_2 }
        add element ip raftup published_at { 127.0.0.1 . tcp . 80, 192.0.2.7 . tcp . 80 }
        add element ip raftup targets { 10.64.32.2 . tcp . 8080 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]].assert_eq(&rules(&view(std::slice::from_ref(&one_address))).change_from(&nowhere));
    let drains = RouteItem { endpoints: web(&[(1, "10.64.32.2", false), both[1]]).endpoints, ..one_address };
    expect![[r#"
        add chain ip raftup at_of_1
        add rule ip raftup at_of_1 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 1 map @at_endpoints : ip daddr . meta l4proto . th dport map @at_targets
        delete element ip raftup vip_endpoints { 10.64.63.2 . 0, 10.64.63.2 . 1 }
        delete element ip raftup vips { 10.64.63.2 }
        add element ip raftup at_endpoints { 127.0.0.1 . tcp . 80 . 0 : 10.64.32.66, 192.0.2.7 . tcp . 80 . 0 : 10.64.32.66 }
        add element ip raftup at_targets { 127.0.0.1 . tcp . 80 : 8080, 192.0.2.7 . tcp . 80 : 8080 }
        add element ip raftup ports_at { 127.0.0.1 . tcp . 80 : goto at_of_1, 192.0.2.7 . tcp . 80 : goto at_of_1 }
        add element ip raftup published_at { 127.0.0.1 . tcp . 80, 192.0.2.7 . tcp . 80 }
        add element ip raftup targets { 10.64.32.2 . tcp . 8080 }
        add element ip raftup vip_endpoints { 10.64.63.2 . 0 : 10.64.32.66 }
        add element ip raftup vips { 10.64.63.2 : goto vip_of_1 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]].assert_eq(&rules(&view(&[drains])).change_from(&nowhere));
}

#[test]
fn a_port_of_the_tasks_node_leads_to_that_task_alone() {
    let web = |ready| {
        let mut route = web(&[(1, "10.64.32.2", ready), (2, "10.64.32.66", true)]);
        route.ports.clear();
        for endpoint in &mut route.endpoints {
            let host = |port| PortSpec { mode: PublishMode::Host, ..port };
            endpoint.host_ports =
                vec![host(PortSpec::new(Protocol::Tcp, 80, 8080)), host(at("192.0.2.7", 81))];
        }
        route
    };
    let mut nowhere = web(true);
    nowhere.endpoints.iter_mut().for_each(|endpoint| endpoint.host_ports.clear());
    let nowhere = rules(&view(&[nowhere]));
    expect![[r#"
        add chain ip raftup at_of_1
        add rule ip raftup at_of_1 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 1 map @at_endpoints : ip daddr . meta l4proto . th dport map @at_targets
        add element ip raftup at_endpoints { 192.0.2.7 . tcp . 81 . 0 : 10.64.32.2 }
        add element ip raftup at_targets { 192.0.2.7 . tcp . 81 : 8080 }
        add element ip raftup port_endpoints { tcp . 80 . 0 : 10.64.32.2 }
        add element ip raftup port_targets { tcp . 80 : 8080 }
        add element ip raftup ports { tcp . 80 : goto port_of_1 }
        add element ip raftup ports_at { 192.0.2.7 . tcp . 81 : goto at_of_1 }
        add element ip raftup published { tcp . 80 }
        add element ip raftup published_at { 192.0.2.7 . tcp . 81 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]].assert_eq(&rules(&view(&[web(true)])).change_from(&nowhere));
    let drains = rules(&view(&[web(false)]));
    expect![[r#"
        delete element ip raftup at_endpoints { 192.0.2.7 . tcp . 81 . 0 }
        delete element ip raftup at_targets { 192.0.2.7 . tcp . 81 }
        delete element ip raftup port_endpoints { tcp . 80 . 0 }
        delete element ip raftup port_targets { tcp . 80 }
        delete element ip raftup ports { tcp . 80 }
        delete element ip raftup ports_at { 192.0.2.7 . tcp . 81 }
        delete element ip raftup vip_endpoints { 10.64.63.2 . 0, 10.64.63.2 . 1 }
        delete element ip raftup vips { 10.64.63.2 }
        add element ip raftup vip_endpoints { 10.64.63.2 . 0 : 10.64.32.66 }
        add element ip raftup vips { 10.64.63.2 : goto vip_of_1 }
        flush chain ip raftup at_of_1
        delete chain ip raftup at_of_1
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]]
    .assert_eq(&drains.change_from(&rules(&view(&[web(true)]))));
}

#[test]
fn a_port_of_every_node_comes_before_one_of_a_task() {
    let mut new = web(&[(2, "10.64.32.66", true)]);
    new.service = ServiceId::from_random(8);
    let mut old = web(&[(1, "10.64.32.2", true)]);
    old.endpoints[0].host_ports = std::mem::take(&mut old.ports);
    let both = rules(&view(&[old.clone(), new.clone()]));
    old.endpoints[0].host_ports.clear();
    assert_eq!(both, rules(&view(&[old, new])));
}

#[test]
fn a_port_of_another_program_is_left_to_it() {
    let both = view(&[RouteItem {
        ports: vec![at("192.0.2.7", 81), PortSpec::new(Protocol::Tcp, 80, 8080)],
        ..web(&[(1, "10.64.32.2", true)])
    }]);
    let cluster = ClusterItem { pool: "10.64.0.0/11".parse().unwrap(), fabric: FabricMode::Wireguard };
    let mut table = Table::of(&both, &cluster, both.peers().next().unwrap(), &BTreeSet::new());
    table.withhold(&BTreeSet::from([(None, (Protocol::Tcp, 80))]));
    expect![[r#"
        delete element ip raftup port_endpoints { tcp . 80 . 0 }
        delete element ip raftup port_targets { tcp . 80 }
        delete element ip raftup ports { tcp . 80 }
        delete element ip raftup published { tcp . 80 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]]
    .assert_eq(&Ruleset::of(&table).change_from(&rules(&both)));
}

#[test]
fn a_service_without_a_virtual_address_has_no_rules_for_one() {
    let mut route = web(&[(1, "10.64.32.2", true)]);
    route.ports.clear();
    let with = rules(&view(&[route.clone()]));
    route.networks.values_mut().for_each(|address| address.vip = None);
    expect![[r#"
        delete element ip raftup vip_endpoints { 10.64.63.2 . 0 }
        delete element ip raftup vips { 10.64.63.2 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]]
    .assert_eq(&rules(&view(&[route])).change_from(&with));
}

#[test]
fn an_endpoint_on_a_dead_node_is_in_no_choice() {
    let mut view = view(&[web(&[(1, "10.64.32.2", true), (2, "10.64.32.66", true)])]);
    let before = rules(&view);
    let dead = PeerItem { alive: false, ..peer(2) };
    view.items.insert(Item::Peer(dead.clone()).key(), Item::Peer(dead));
    expect![[r#"
        delete element ip raftup port_endpoints { tcp . 80 . 1 }
        delete element ip raftup ports { tcp . 80 }
        delete element ip raftup vip_endpoints { 10.64.63.2 . 1 }
        delete element ip raftup vips { 10.64.63.2 }
        add element ip raftup ports { tcp . 80 : goto port_of_1 }
        add element ip raftup vips { 10.64.63.2 : goto vip_of_1 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]]
    .assert_eq(&rules(&view).change_from(&before));
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_in_no_choice_while_another_is_there() {
    let both = view(&[web(&[(1, "10.64.32.2", true), (2, "10.64.32.66", true)])]);
    let first = view(&[web(&[(1, "10.64.32.2", true), (2, "10.64.32.66", false)])]);
    assert_eq!(rules_in_doubt(&both), rules(&first));
    let alone = view(&[web(&[(1, "10.64.32.2", false), (2, "10.64.32.66", true)])]);
    assert_eq!(rules_in_doubt(&alone), rules(&alone));
}

#[test]
fn equal_views_change_nothing() {
    check_change(&[(1, "10.64.32.2", true)], &[(1, "10.64.32.2", true)], expect![""]);
}
