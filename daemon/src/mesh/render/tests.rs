use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use expect_test::{Expect, expect, expect_file};
use raftup_proto::{
    api::FabricMode,
    id::{NetworkId, NodeId, ServiceId, TaskId},
    spec::{PortSpec, Protocol, PublishMode, Routing},
    view::{
        ClusterItem, Endpoint, Item, NetworkItem, PeerItem, Revision, RouteItem, ServiceAddress, TaskItem,
        View,
    },
};

use super::*;

fn network(number: u64, subnet: &str) -> NetworkItem {
    NetworkItem {
        network: NetworkId::from_random(number),
        stack: Some("shop".parse().unwrap()),
        name: "default".parse().unwrap(),
        subnet: subnet.parse().unwrap(),
        internal: false,
        attachable: false,
        plain: false,
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
        blocks: vec![format!("10.64.32.{}/26", (number - 1) * 64).parse().unwrap()],
        attached: Vec::new(),
    }
}

/// A service with its endpoints.
#[derive(Clone)]
struct Web {
    service: ServiceId,
    networks: BTreeMap<NetworkId, ServiceAddress>,
    ports: Vec<PortSpec>,
    routing: Routing,
    endpoints: Vec<Endpoint>,
}

impl Web {
    fn items(self) -> impl Iterator<Item = Item> {
        let item = RouteItem {
            service: self.service,
            stack: "shop".parse().unwrap(),
            name: "web".parse().unwrap(),
            networks: self.networks,
            ports: self.ports,
            routing: self.routing,
        };
        item.with(self.endpoints)
    }
}

/// A service on network 1 with an endpoint for each `(node, address, ready)`.
fn web(endpoints: &[(u64, &str, bool)]) -> Web {
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
    Web {
        service: ServiceId::from_random(9),
        networks: BTreeMap::from([(on, address)]),
        ports: vec![PortSpec::new(Protocol::Tcp, 80, 8080)],
        routing: Default::default(),
        endpoints: endpoints.collect(),
    }
}

fn view(routes: &[Web]) -> View {
    let items = routes.iter().cloned().flat_map(Web::items);
    let items = items.chain([Item::Network(network(1, "10.64.32.0/19"))]);
    let items = items.chain([Item::Peer(peer(1)), Item::Peer(peer(2))]);
    View::of(Revision(1), items)
}

/// Where node 1 takes frames that are not encrypted.
const END: Option<Ipv4Addr> = Some(Ipv4Addr::new(192, 0, 2, 1));

fn rules(view: &View) -> Ruleset {
    rules_over(view, FabricMode::Wireguard)
}

fn rules_over(view: &View, fabric: FabricMode) -> Ruleset {
    let cluster = ClusterItem { pool: "10.64.0.0/11".parse().unwrap(), fabric };
    Ruleset::of(&Table::of(view, &cluster, view.peers().next().unwrap(), END, &BTreeSet::new()))
}

/// The rules of node 1 while it cannot reach node 2.
fn rules_in_doubt(view: &View) -> Ruleset {
    Ruleset::of(&table(view, &BTreeSet::from([NodeId::new(2)])))
}

/// The table of node 1.
fn table(view: &View, unreachable: &BTreeSet<NodeId>) -> Table {
    let cluster = ClusterItem { pool: "10.64.0.0/11".parse().unwrap(), fabric: FabricMode::Wireguard };
    Table::of(view, &cluster, view.peers().next().unwrap(), END, unreachable)
}

fn check_change(old: &[(u64, &str, bool)], new: &[(u64, &str, bool)], expected: Expect) {
    expected.assert_eq(&rules(&view(&[web(new)])).change_from(&rules(&view(&[web(old)]))));
}

#[test]
fn a_service_on_two_nodes() {
    let rules = rules(&view(&[web(&[(1, "10.64.32.2", true), (2, "10.64.32.66", true)])]));
    expect_file!["service.nft"].assert_eq(&rules.replace(None));
}

#[test]
fn without_encryption_nodes_are_known_by_their_addresses() {
    let view = view(&[]);
    let plain = rules_over(&view, FabricMode::Plain).replace(None);
    let encrypted = rules(&view).replace(None);
    let differs: Vec<&str> = plain.lines().filter(|line| !encrypted.contains(line)).collect();
    expect![[r#"
        add rule ip raftup early udp dport 7239 ip daddr 192.0.2.1 ip saddr @nodes iifname != "lo" fib saddr . iif oif exists notrack accept
        add rule ip raftup early udp dport 7239 fib daddr type != unicast drop
        add rule ip raftup early_own meta mark != 0x72370000 meta skuid != 4294967295 ip daddr . udp dport @ends drop
        add rule ip raftup early_own ip daddr . udp dport @ends meta mark set 0 notrack
        add rule ip raftup passing ip daddr . udp dport @ends ip saddr != @nodes drop
        add rule ip raftup passing ip daddr . udp dport @ends fib saddr . iif oif missing drop"#]]
    .assert_eq(&differs.join("\n"));
}

/// What comes as it is gets to plain networks, and nowhere else; what belongs to them does not leave by another way.
#[test]
fn a_plain_network_has_a_lane_of_its_own_beside_encrypted_links() {
    let mut view = view(&[]);
    let without = table(&view, &BTreeSet::new());
    let plain = Item::Network(NetworkItem { plain: true, ..network(2, "10.64.64.0/19") });
    view.put(plain);
    expect![[r#"
        add chain ip raftup from_000000000002
        add chain ip raftup to_000000000002
        flush chain ip raftup arriving
        add rule ip raftup arriving ip saddr != 10.64.0.0/11 iifname "ru-fabric" ct mark set ether saddr map @marks
        add rule ip raftup arriving ip saddr & 255.255.224.0 != @plain iifname "ru-plain" ct mark set ether saddr map @marks
        add rule ip raftup arriving meta l4proto { tcp, udp } th dport 53 ip daddr != 10.64.0.0/11 dnat to ip saddr & 255.255.255.192 map @attached
        add rule ip raftup arriving ip daddr @gateways return
        add rule ip raftup arriving ip daddr vmap @vips
        add rule ip raftup arriving ip daddr 127.0.0.0/8 return
        add rule ip raftup arriving fib daddr type != local return
        add rule ip raftup arriving ip daddr . meta l4proto . th dport vmap @ports_at
        add rule ip raftup arriving meta l4proto . th dport vmap @ports
        flush chain ip raftup early
        add rule ip raftup early udp dport 7240 iifname != "ru-wire" fib daddr type != unicast drop
        add rule ip raftup early iifname "ru-wire" udp dport 7240 notrack accept
        add rule ip raftup early iifname "ru-wire" drop
        add rule ip raftup early udp dport 7241 fib daddr type != unicast drop
        add rule ip raftup early udp dport 7239 @th,64,56 0x08000000001c47 ip daddr 192.0.2.1 ip saddr @nodes iifname != "lo" fib saddr . iif oif exists udp dport set 7241 notrack accept
        add rule ip raftup early ip saddr 10.64.0.0/11 iifname != "ru-*" iifname != "lo" drop
        add rule ip raftup early meta iifkind "bridge" iifname "ru-*" iifname . ip saddr & 255.255.255.192 != @sources iifname . ip saddr != @crossing drop
        add rule ip raftup early ip daddr 127.0.0.0/8 iifname "ru-*" drop
        add rule ip raftup early ip saddr != 10.64.0.0/11 iifname "ru-fabric" ct original zone set ether saddr map @zones
        add rule ip raftup early ip saddr & 255.255.224.0 != @plain iifname "ru-plain" ct original zone set ether saddr map @zones
        flush chain ip raftup early_own
        add rule ip raftup early_own meta mark != 0x72370000 meta skuid != 4294967295 oifname "ru-wire" drop
        add rule ip raftup early_own oifname "ru-wire" meta mark set 0 notrack
        add rule ip raftup early_own meta mark != 0x72370000 meta skuid != 4294967295 ip daddr . udp dport @ends @th,64,56 0x08000000001c47 drop
        add rule ip raftup early_own ip daddr . udp dport @ends @th,64,56 0x08000000001c47 meta mark set 0 notrack
        add rule ip raftup from_000000000002 ip saddr != 10.64.64.0/19 drop
        add rule ip raftup from_000000000002 ip daddr 10.64.95.0/24 goto unanswered
        add rule ip raftup from_000000000002 ip daddr 10.64.64.0/19 accept
        add rule ip raftup from_000000000002 ip daddr != 10.64.0.0/11 accept
        add rule ip raftup from_000000000002 ct status dnat ct original ip daddr != 10.64.0.0/11 accept
        add rule ip raftup from_000000000002 goto refused
        flush chain ip raftup passing
        add rule ip raftup passing iifname "ru-plain" ct reply ip saddr & 255.255.224.0 != @plain drop
        add rule ip raftup passing oifname "ru-plain" ct reply ip saddr & 255.255.224.0 != @plain drop
        add rule ip raftup passing meta mark != 0 oifname "ru-fabric" meta mark set 0
        add rule ip raftup passing meta mark != 0 oifname "ru-plain" meta mark set 0
        add rule ip raftup passing iifname != "ru-*" meta iifkind "bridge" oifname "ru-*" fib saddr . iif oif missing drop
        add rule ip raftup passing ct state established accept
        add rule ip raftup passing ct state related meta iifkind "bridge" iifname "ru-*" iifname . ct original ip saddr & 255.255.255.192 != @sources iifname . ct reply ip saddr & 255.255.255.192 != @sources iifname . ct reply ip saddr != @crossing drop
        add rule ip raftup passing ct state related iifname != "ru-*" iifname != "lo" ct original ip saddr 10.64.0.0/11 ct reply ip saddr 10.64.0.0/11 drop
        add rule ip raftup passing ct state related accept
        add rule ip raftup passing oifname "ru-wire" drop
        add rule ip raftup passing ip daddr . udp dport @ends ip saddr != @nodes drop
        add rule ip raftup passing ip daddr . udp dport @ends fib saddr . iif oif missing drop
        add rule ip raftup passing iifname != "ru-*" oifname != "ru-*" accept
        add rule ip raftup passing oifname "ru-*" meta mark set 0x72370000
        add rule ip raftup passing iifname vmap @origins
        add rule ip raftup passing iifname "ru-*" drop
        add rule ip raftup passing ct status dnat ct original ip daddr != 10.64.0.0/11 accept
        add rule ip raftup passing drop
        flush chain ip raftup reaching
        add rule ip raftup reaching iifname "ru-plain" ct reply ip saddr & 255.255.224.0 != @plain drop
        add rule ip raftup reaching ct state established,untracked accept
        add rule ip raftup reaching ct state related meta iifkind "bridge" iifname "ru-*" iifname . ct original ip saddr & 255.255.255.192 != @sources iifname . ct reply ip saddr & 255.255.255.192 != @sources iifname . ct reply ip saddr != @crossing drop
        add rule ip raftup reaching ct state related iifname != "ru-*" iifname != "lo" ct original ip saddr 10.64.0.0/11 ct reply ip saddr 10.64.0.0/11 drop
        add rule ip raftup reaching ct state related accept
        add rule ip raftup reaching iifname "lo" ip daddr @gateways accept
        add rule ip raftup reaching iifname != "ru-*" ip daddr @gateways drop
        add rule ip raftup reaching ip daddr != @gateways meta l4proto . th dport @published goto unanswered
        add rule ip raftup reaching ip daddr . meta l4proto . th dport @published_at goto unanswered
        add rule ip raftup reaching iifname "ru-fabric" meta l4proto icmp ip saddr 10.64.0.0/19 meta mark set 0x72370000 accept
        add rule ip raftup reaching iifname "ru-*" ip daddr @gateways meta l4proto { tcp, udp } th dport 53 meta mark set 0x72370000
        add rule ip raftup reaching iifname vmap @origins
        add rule ip raftup reaching iifname "ru-*" drop
        add rule ip raftup to_000000000002 iifname != "ru-plain" drop
        add rule ip raftup to_000000000002 ip saddr 10.64.64.0/19 accept
        add rule ip raftup to_000000000002 ip saddr != 10.64.0.0/11 ip daddr . meta l4proto . th dport @targets accept
        add rule ip raftup to_000000000002 ip saddr 10.64.0.0/19 ip daddr . meta l4proto . th dport @targets accept
        add rule ip raftup to_000000000002 drop
        add element ip raftup gateways { 10.64.64.1 }
        add element ip raftup inward { "ru-000000000002" : goto to_000000000002 }
        add element ip raftup marks { 02:73:0a:40:00:02 : 0x72388002 }
        add element ip raftup origins { "ru-000000000002" : goto from_000000000002, "ru-plain" : goto from_plain }
        add element ip raftup plain { 10.64.64.0 }
        add element ip raftup services { 10.64.95.0 }
        add element ip raftup zones { 02:73:0a:40:00:02 : 32770 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]].assert_eq(&table(&view, &BTreeSet::new()).change_from(&without));
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
    let nowhere = rules(&view(&[Web { ports: Vec::new(), ..web(&both) }]));
    let ports = vec![at("127.0.0.1", 80), at("192.0.2.7", 80)];
    let one_address = Web { ports, ..web(&both) };
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
    let drains = Web { endpoints: web(&[(1, "10.64.32.2", false), both[1]]).endpoints, ..one_address };
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
    let both = view(&[Web {
        ports: vec![at("192.0.2.7", 81), PortSpec::new(Protocol::Tcp, 80, 8080)],
        ..web(&[(1, "10.64.32.2", true)])
    }]);
    let cluster = ClusterItem { pool: "10.64.0.0/11".parse().unwrap(), fabric: FabricMode::Wireguard };
    let mut table = Table::of(&both, &cluster, both.peers().next().unwrap(), END, &BTreeSet::new());
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
    view.put(Item::Peer(dead));
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

/// What node 1 would draw from for the published port, and for the virtual address.
fn choices(route: Web) -> [Vec<String>; 2] {
    let table = table(&view(&[route]), &BTreeSet::new());
    let text = |choice: &Choice| choice.endpoints().iter().map(ToString::to_string).collect();
    [text(&table.published[&(None, (Protocol::Tcp, 80))].to), text(table.virtuals.values().next().unwrap())]
}

#[test]
fn local_endpoints_alone_are_drawn_where_there_are_any() {
    let local = |endpoints: &[(u64, &str, bool)]| {
        let [published, vip] = choices(Web { routing: Routing::Local, ..web(endpoints) });
        assert_eq!(published, vip);
        published.join(" ")
    };
    let [own, other, third] = [(1, "10.64.32.2", true), (2, "10.64.32.66", true), (1, "10.64.32.3", true)];
    assert_eq!(local(&[own, other, third]), "10.64.32.2 10.64.32.3");
    assert_eq!(local(&[(1, "10.64.32.2", false), other, third]), "10.64.32.3");
    assert_eq!(local(&[(1, "10.64.32.2", false), other]), "10.64.32.66");
    let any = choices(web(&[own, other])).map(|choice| choice.join(" "));
    assert_eq!(any, ["10.64.32.2 10.64.32.66", "10.64.32.2 10.64.32.66"]);
}

/// The endpoint of each part, by the slot that it is in.
fn sticky(slots: &[(u64, u64, &str)]) -> Vec<String> {
    let mut route = Web { routing: Routing::Sticky, ..web(&[]) };
    route.endpoints = slots
        .iter()
        .map(|(slot, task, address)| Endpoint {
            task: TaskId::from_random(*task),
            slot: *slot,
            ..web(&[(2, address, true)]).endpoints.remove(0)
        })
        .collect();
    let [published, vip] = choices(route);
    assert_eq!(published, vip);
    published
}

fn moved(one: &[String], other: &[String]) -> usize {
    one.iter().zip(other).filter(|(one, other)| one != other).count()
}

#[test]
fn a_client_stays_while_its_endpoint_serves() {
    let three = sticky(&[(1, 11, "10.64.32.2"), (2, 12, "10.64.32.3"), (3, 13, "10.64.32.4")]);
    let count = |all: &[String], address: &str| all.iter().filter(|endpoint| *endpoint == address).count();
    let shares = ["10.64.32.2", "10.64.32.3", "10.64.32.4"].map(|address| count(&three, address));
    expect!["[336, 342, 346]"].assert_eq(&format!("{shares:?}"));
    // One goes: its own clients move, and no others. In the same slot it comes back to them, as another task too.
    let two = sticky(&[(1, 11, "10.64.32.2"), (3, 13, "10.64.32.4")]);
    assert_eq!(moved(&three, &two), shares[1]);
    let again = sticky(&[(1, 11, "10.64.32.2"), (2, 99, "10.64.32.9"), (3, 13, "10.64.32.4")]);
    assert_eq!(moved(&two, &again), shares[1]);
    assert_eq!(count(&again, "10.64.32.9"), shares[1]);
    // Both tasks of a slot share its clients.
    let both =
        sticky(&[(1, 11, "10.64.32.2"), (2, 12, "10.64.32.3"), (2, 99, "10.64.32.9"), (3, 13, "10.64.32.4")]);
    assert_eq!(moved(&three, &both), count(&both, "10.64.32.9"));
    assert_eq!(count(&both, "10.64.32.3") + count(&both, "10.64.32.9"), shares[1]);
}

#[test]
fn clients_that_stay_are_elements_by_a_hash() {
    let sticky =
        |endpoints: &[(u64, &str, bool)]| rules(&view(&[Web { routing: Routing::Sticky, ..web(endpoints) }]));
    let rules = sticky(&[(1, "10.64.32.2", true), (2, "10.64.32.66", true)]);
    let script = rules.replace(None);
    let lines: Vec<&str> =
        script.lines().filter(|line| line.contains("by_client") && !line.contains("add chain")).collect();
    expect![[r#"
        add rule ip raftup at_by_client_1024 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport . jhash ip saddr mod 1024 seed 0x72616674 map @at_endpoints : ip daddr . meta l4proto . th dport map @at_targets
        add rule ip raftup at_by_client_64 meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport . jhash ip saddr mod 64 seed 0x72616674 map @at_endpoints : ip daddr . meta l4proto . th dport map @at_targets
        add rule ip raftup port_by_client_1024 meta l4proto { tcp, udp } dnat ip to meta l4proto . th dport . jhash ip saddr mod 1024 seed 0x72616674 map @port_endpoints : meta l4proto . th dport map @port_targets
        add rule ip raftup port_by_client_64 meta l4proto { tcp, udp } dnat ip to meta l4proto . th dport . jhash ip saddr mod 64 seed 0x72616674 map @port_endpoints : meta l4proto . th dport map @port_targets
        add rule ip raftup vip_by_client_1024 dnat to ip daddr . jhash ip saddr mod 1024 seed 0x72616674 map @vip_endpoints
        add rule ip raftup vip_by_client_64 dnat to ip daddr . jhash ip saddr mod 64 seed 0x72616674 map @vip_endpoints
        add element ip raftup ports { tcp . 80 : goto port_by_client_1024 }
        add element ip raftup vips { 10.64.63.2 : goto vip_by_client_1024 }"#]].assert_eq(&lines.join("\n"));
    assert_eq!(rules.sets["port_endpoints"].elements.len(), 1024);
    // One endpoint is no choice.
    let alone = sticky(&[(2, "10.64.32.66", true)]);
    assert_eq!(alone, self::rules(&view(&[web(&[(2, "10.64.32.66", true)])])));
}

#[test]
fn a_change_of_one_endpoint_is_a_few_elements() {
    let of = |numbers: &[u8]| -> Table {
        let addresses: Vec<String> = numbers.iter().map(|number| format!("10.64.32.{number}")).collect();
        let endpoints: Vec<_> = addresses.iter().map(|address| (2, address.as_str(), true)).collect();
        table(&view(&[web(&endpoints)]), &BTreeSet::new())
    };
    let before = of(&[70, 71, 72, 73]);
    let mut after = of(&[71, 72, 73]);
    after.keep_numbers(&before);
    expect![[r#"
        add chain ip raftup port_of_3
        add chain ip raftup vip_of_3
        add rule ip raftup port_of_3 meta l4proto { tcp, udp } dnat ip to meta l4proto . th dport . numgen random mod 3 map @port_endpoints : meta l4proto . th dport map @port_targets
        add rule ip raftup port_of_3 meta l4proto { tcp, udp } dnat ip to meta l4proto . th dport . numgen random mod 1 map @port_endpoints : meta l4proto . th dport map @port_targets
        add rule ip raftup vip_of_3 dnat to ip daddr . numgen random mod 3 map @vip_endpoints
        add rule ip raftup vip_of_3 dnat to ip daddr . numgen random mod 1 map @vip_endpoints
        delete element ip raftup port_endpoints { tcp . 80 . 0, tcp . 80 . 3 }
        delete element ip raftup ports { tcp . 80 }
        delete element ip raftup vip_endpoints { 10.64.63.2 . 0, 10.64.63.2 . 3 }
        delete element ip raftup vips { 10.64.63.2 }
        add element ip raftup port_endpoints { tcp . 80 . 0 : 10.64.32.73 }
        add element ip raftup ports { tcp . 80 : goto port_of_3 }
        add element ip raftup vip_endpoints { 10.64.63.2 . 0 : 10.64.32.73 }
        add element ip raftup vips { 10.64.63.2 : goto vip_of_3 }
        flush chain ip raftup port_of_4
        delete chain ip raftup port_of_4
        flush chain ip raftup vip_of_4
        delete chain ip raftup vip_of_4
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]].assert_eq(&after.change_from(&before));
    let mut replaced = of(&[71, 72, 74]);
    replaced.keep_numbers(&after);
    expect![[r#"
        delete element ip raftup port_endpoints { tcp . 80 . 0 }
        delete element ip raftup vip_endpoints { 10.64.63.2 . 0 }
        add element ip raftup port_endpoints { tcp . 80 . 0 : 10.64.32.74 }
        add element ip raftup vip_endpoints { 10.64.63.2 . 0 : 10.64.32.74 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]]
    .assert_eq(&replaced.change_from(&after));
    // Only what differs was looked at, with the same outcome.
    for (one, other) in [(&before, &after), (&after, &replaced), (&replaced, &before)] {
        assert_eq!(one.change_from(other), Ruleset::of(one).change_from(&Ruleset::of(other)));
    }
}

#[test]
fn equal_views_change_nothing() {
    check_change(&[(1, "10.64.32.2", true)], &[(1, "10.64.32.2", true)], expect![""]);
}

/// Answers of a task on two networks may leave by either bridge; those of others by their own alone.
#[test]
fn a_bridge_has_the_sources_of_its_own_containers() {
    let mut view = view(&[]);
    let mut me = peer(1);
    me.blocks.extend(["10.64.64.0/26", "10.64.96.0/26"].map(|block| block.parse::<Ipv4Net>().unwrap()));
    view.put(Item::Peer(me));
    view.put(Item::Network(network(2, "10.64.64.0/19")));
    let (one, two) = (NetworkId::from_random(1), NetworkId::from_random(2));
    let task = |number, networks: &[(NetworkId, &str)]| {
        let networks = networks.iter().map(|(on, address)| (*on, address.parse().unwrap())).collect();
        Item::Task(Box::new(TaskItem { networks, ..crate::engine::tests::task(number, "web shop") }))
    };
    view.put(task(1, &[(one, "10.64.32.2"), (two, "10.64.64.2")]));
    view.put(task(2, &[(one, "10.64.32.3")]));
    let script = rules(&view).replace(None);
    let checked = ["add element ip raftup crossing", "add element ip raftup sources", "!= @sources"];
    let lines: Vec<&str> =
        script.lines().filter(|line| checked.iter().any(|text| line.contains(text))).collect();
    expect![[r#"
        add rule ip raftup early meta iifkind "bridge" iifname "ru-*" iifname . ip saddr & 255.255.255.192 != @sources iifname . ip saddr != @crossing drop
        add rule ip raftup passing ct state related meta iifkind "bridge" iifname "ru-*" iifname . ct original ip saddr & 255.255.255.192 != @sources iifname . ct reply ip saddr & 255.255.255.192 != @sources iifname . ct reply ip saddr != @crossing drop
        add rule ip raftup reaching ct state related meta iifkind "bridge" iifname "ru-*" iifname . ct original ip saddr & 255.255.255.192 != @sources iifname . ct reply ip saddr & 255.255.255.192 != @sources iifname . ct reply ip saddr != @crossing drop
        add element ip raftup crossing { "ru-000000000001" . 10.64.64.2, "ru-000000000002" . 10.64.32.2 }
        add element ip raftup sources { "ru-000000000001" . 10.64.32.0, "ru-000000000002" . 10.64.64.0 }"#]].assert_eq(&lines.join("\n"));
    // A block that comes later is one element more, although its network is the same.
    let before = table(&view, &BTreeSet::new());
    let mut me = peer(1);
    me.blocks = vec!["10.64.32.128/26".parse().unwrap()];
    view.put(Item::Peer(me));
    expect![[r#"
        delete element ip raftup sources { "ru-000000000001" . 10.64.32.0, "ru-000000000002" . 10.64.64.0 }
        add element ip raftup sources { "ru-000000000001" . 10.64.32.128 }
        flush set ip raftup generation
        add element ip raftup generation { 1 }
    "#]]
    .assert_eq(&table(&view, &BTreeSet::new()).change_from(&before));
}

/// Node 1 is home to a block of tasks, and to one that its engine gives addresses from.
#[test]
fn internal_and_attachable_networks() {
    let mut view = view(&[web(&[(1, "10.64.32.2", true)])]);
    let mut inner = NetworkItem { internal: true, attachable: true, ..network(2, "10.64.64.0/19") };
    inner.name = "inner".parse().unwrap();
    let mut me = peer(1);
    me.blocks.push("10.64.64.0/26".parse().unwrap());
    me.attached.push("10.64.64.64/26".parse().unwrap());
    [Item::Network(inner), Item::Peer(me)].into_iter().for_each(|item| view.put(item));
    let whole = rules(&view).replace(None);
    let chain = |name: &str| {
        let start = format!("add rule ip raftup {name} ");
        let of = whole.lines().filter_map(|line| line.strip_prefix(&start));
        of.map(|rule| format!("{rule}\n")).collect::<String>()
    };
    let id = NetworkId::from_random(2);
    expect![[r#"
        ip saddr != 10.64.64.0/19 drop
        ip daddr 10.64.95.0/24 goto unanswered
        ip daddr 10.64.64.1 meta l4proto { tcp, udp } th dport 53 accept
        ip daddr 10.64.64.1 goto refused
        ip daddr 10.64.64.0/19 accept
        ip saddr != @outgoing goto refused
        ip daddr != 10.64.0.0/11 accept
        ct status dnat ct original ip daddr != 10.64.0.0/11 accept
        goto refused
    "#]]
    .assert_eq(&chain(&format!("from_{id}")));
    expect![[r#"
        iifname != "ru-fabric" drop
        ip saddr 10.64.64.0/19 accept
        drop
    "#]]
    .assert_eq(&chain(&format!("to_{id}")));
    expect![[r#"
        ip saddr != 10.64.0.0/11 iifname "ru-fabric" ct mark set ether saddr map @marks
        meta l4proto { tcp, udp } th dport 53 ip daddr != 10.64.0.0/11 dnat to ip saddr & 255.255.255.192 map @attached
        ip daddr @gateways return
        ip daddr vmap @vips
        ip daddr 127.0.0.0/8 return
        fib daddr type != local return
        ip daddr . meta l4proto . th dport vmap @ports_at
        meta l4proto . th dport vmap @ports
    "#]]
    .assert_eq(&chain("arriving"));
    let elements: Vec<&str> = whole
        .lines()
        .filter(|line| {
            line.contains(" sources {") || line.contains(" attached {") || line.contains(" targets {")
        })
        .collect();
    expect![[r#"
        add map ip raftup attached { type ipv4_addr : ipv4_addr; comment "type ipv4_addr : ipv4_addr"; }
        add set ip raftup sources { type ifname . ipv4_addr; comment "type ifname . ipv4_addr"; }
        add set ip raftup targets { type ipv4_addr . inet_proto . inet_service; comment "type ipv4_addr . inet_proto . inet_service"; }
        add element ip raftup attached { 10.64.64.64 : 10.64.64.1 }
        add element ip raftup sources { "ru-000000000001" . 10.64.32.0, "ru-000000000002" . 10.64.64.0, "ru-000000000002" . 10.64.64.64 }
        add element ip raftup targets { 10.64.32.2 . tcp . 8080 }"#]]
    .assert_eq(&elements.join("\n"));
}

/// A published port leads to the first address on a network that outsiders may reach.
#[test]
fn published_ports_pass_by_internal_networks() {
    let mut web = web(&[(1, "10.64.32.2", true), (2, "10.64.32.66", true)]);
    let front = NetworkId::from_random(3);
    for (endpoint, address) in web.endpoints.iter_mut().zip(["10.64.96.2", "10.64.96.66"]) {
        endpoint.addresses.push((front, address.parse().unwrap()));
    }
    let mut view = view(&[web]);
    let inner = NetworkItem { internal: true, ..network(1, "10.64.32.0/19") };
    view.put(Item::Network(inner));
    view.put(Item::Network(network(3, "10.64.96.0/19")));
    let whole = rules(&view).replace(None);
    let of = |set: &str| {
        let start = format!("add element ip raftup {set} {{");
        whole.lines().find(|line| line.starts_with(&start)).unwrap().to_owned()
    };
    assert!(of("port_endpoints").contains("10.64.96.2") && of("port_endpoints").contains("10.64.96.66"));
    assert!(!of("port_endpoints").contains("10.64.32."), "{}", of("port_endpoints"));
    assert!(of("targets").contains("10.64.96.2 . tcp . 8080"), "{}", of("targets"));
}
