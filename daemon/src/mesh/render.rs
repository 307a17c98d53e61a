//! From a [`Table`] to a [`Ruleset`]; pure.
//!
//! The way of a packet through the chains:
//!
//! ```text
//! early        forged frames and sources are dropped; connections of outside clients that came in by another node get
//!              a zone of that node's, so that two nodes may bring the same client port
//! returns      replies off a bridge get the mark of such a connection, and routing rules lead them back the way they came
//! arriving     (nat) such connections are marked with the node; published ports and virtual addresses -> chain for
//!              their number of endpoints -> one of them
//! originating  (nat) the same for programs of this node
//! passing      (filter) what goes to the fabric loses its mark: with that of a node the packets around it would be led
//!              back as well, and with any the kernel looks up their route each time. Isolation: chain of the network
//!              that a packet comes from, or of the one that it goes to. What is accepted here for one of our devices
//!              gets a mark, without which Docker's chain drops it (`docker`): nothing passes when this table is gone
//! reaching     (filter) the same for packets to this node; pings between nodes and questions for names get the mark, so that
//!              firewalls which drop what this host receives let them in (`docker`)
//! sending      (filter) the same for programs of this node; what they send to containers gets a mark, without which the
//!              packets around it would be taken for those of a program that pretends to be the fabric
//! leaving      (nat) who must look like this node: containers that go outside, nodes as clients, a container that
//!              asks itself
//! ```
//!
//! Each chain that hooks in costs every packet, about as much as its rules do: there are few, and what only the first
//! packet of a connection needs is in those of NAT.
//!
//! Endpoints are elements of two maps, under the address or port and a number; a chain draws the number and is shared by
//! all that have as many endpoints, or takes it from a hash of the client's address. So a change of endpoints is a few
//! elements, whatever the number of services: `nft` takes time for each chain and each set that a table has, and little
//! for elements.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use raftup_proto::{
    api::FabricMode,
    view::{
        BLOCK_PREFIX, FABRIC_DEVICE, Lane, PLAIN_DEVICE, PLAIN_PORT, RETURN_MARK, RETURN_MASK, SUBNET_PREFIX,
        TUNNEL_MARK, VIP_PREFIX, WIRE_DEVICE, WIRE_PORT,
    },
};

use super::{
    ruleset::{Chain, Ruleset, Set},
    table::{Choice, Front, Net, PARTS, Published, Table},
};

/// Numbers of endpoints up to which the chains that draw one are always there: `nft` needs ten times as long for a change
/// that adds or removes a chain as for one of elements alone.
const USUAL: usize = if cfg!(test) { 2 } else { 32 };

/// Of the hash of a client's address: the same on all nodes of all versions.
const SEED: u32 = 0x7261_6674;

/// Our bridges and the fabric, by the beginning of their names.
const OURS: &str = "\"ru-*\"";

impl Ruleset {
    /// The rules for a table.
    pub fn of(table: &Table) -> Self {
        let mut rules = Self { generation: table.generation, sets: sets(table), chains: BTreeMap::new() };
        for (name, hook, chain) in base_chains(table) {
            rules.chains.insert(name.to_owned(), Chain { hook: Some(hook), rules: chain });
        }
        let mut add = |name: String, chain: Vec<String>| {
            rules.chains.insert(name, Chain { hook: None, rules: chain });
        };
        // Not a reset: behind a bridge it leaves past NAT, with an address that the client never asked.
        add("refused".to_owned(), vec!["reject with icmp admin-prohibited".to_owned()]);
        add(
            "unanswered".to_owned(),
            vec![
                "meta l4proto tcp reject with tcp reset".to_owned(),
                "reject with icmp port-unreachable".to_owned(),
            ],
        );
        add(
            "from_fabric".to_owned(),
            vec![
                format!("ct status dnat ct original ip daddr {} accept", table.fabric),
                "oifname vmap @inward".to_owned(),
                "drop".to_owned(),
            ],
        );
        add("from_plain".to_owned(), vec!["oifname vmap @inward".to_owned(), "drop".to_owned()]);
        for network in &table.networks {
            add(format!("from_{}", network.id), from_network(table, network));
            add(format!("to_{}", network.id), to_network(table, network));
        }
        let vip = |number: &str| format!("dnat to ip daddr . {number} map @vip_endpoints");
        let [vips, ports @ ..] = &table.draws;
        for count in vips.iter().copied().chain(1..=USUAL).collect::<BTreeSet<_>>() {
            add(format!("vip_of_{count}"), one_of(count, vip));
        }
        for (kind, drawn) in FRONTS.iter().zip(ports) {
            // Few ports are on one address alone.
            let usual = if kind.one_address { 0 } else { USUAL };
            for count in drawn.iter().copied().chain(1..=usual).collect::<BTreeSet<_>>() {
                add(format!("{}_of_{count}", kind.chain), one_of(count, |number| kind.rule(number)));
            }
        }
        for parts in PARTS {
            let part = format!("jhash ip saddr mod {parts} seed {SEED:#x}");
            add(format!("vip_by_client_{parts}"), vec![vip(&part)]);
            for kind in &FRONTS {
                add(format!("{}_by_client_{parts}", kind.chain), vec![kind.rule(&part)]);
            }
        }
        rules
    }
}

impl Table {
    /// A script that puts this table in force where `before` is; empty if that changes no rule. One transaction.
    ///
    /// Cost: one pass over both tables; only what differs becomes text.
    pub fn change_from(&self, before: &Self) -> String {
        Ruleset::of(&self.unlike(before)).change_from(&Ruleset::of(&before.unlike(self)))
    }
}

/// Draws one of `count`. A packet that is under way while the number shrinks may draw one that is gone; it gets the
/// first one, which is there as long as any is.
fn one_of(count: usize, rule: impl Fn(&str) -> String) -> Vec<String> {
    let drawn = |count| rule(&format!("numgen random mod {count}"));
    if count > 1 { vec![drawn(count), drawn(1)] } else { vec![drawn(1)] }
}

/// The chain that chooses, of those for virtual addresses or for ports.
fn chooser(what: &str, choice: &Choice) -> String {
    let how = match choice {
        Choice::Drawn(_) => "of",
        Choice::ByClient(_) => "by_client",
    };
    format!("goto {what}_{how}_{}", choice.endpoints().len())
}

/// Ports of all addresses and ports of one address are looked up in maps of their own.
struct FrontKind {
    one_address: bool,
    /// What chains that choose an endpoint begin with.
    chain: &'static str,
    /// What is looked up in the maps.
    key: &'static str,
    endpoints: &'static str,
    targets: &'static str,
}

static FRONTS: [FrontKind; 2] = [
    FrontKind {
        one_address: false,
        chain: "port",
        key: "meta l4proto . th dport",
        endpoints: "port_endpoints",
        targets: "port_targets",
    },
    FrontKind {
        one_address: true,
        chain: "at",
        key: "ip daddr . meta l4proto . th dport",
        endpoints: "at_endpoints",
        targets: "at_targets",
    },
];

impl FrontKind {
    /// `number` says which endpoint.
    fn rule(&self, number: &str) -> String {
        let Self { key, endpoints, targets, .. } = self;
        let choice = format!("{key} . {number} map @{endpoints}");
        format!("meta l4proto {{ tcp, udp }} dnat ip to {choice} : {key} map @{targets}")
    }
}

/// A front as an element.
fn element((at, (protocol, port)): &Front) -> String {
    let at = at.map(|address| format!("{address} . ")).unwrap_or_default();
    format!("{at}{protocol} . {port}")
}

/// The published ports of a kind.
fn fronts<'a>(table: &'a Table, kind: &FrontKind) -> impl Iterator<Item = (&'a Front, &'a Published)> {
    let one_address = kind.one_address;
    table.published.iter().filter(move |((at, _), _)| at.is_some() == one_address)
}

/// Those of them that lead somewhere.
fn answered<'a>(table: &'a Table, kind: &FrontKind) -> impl Iterator<Item = (&'a Front, &'a Published)> {
    fronts(table, kind).filter(|(_, published)| !published.to.endpoints().is_empty())
}

fn sets(table: &Table) -> BTreeMap<&'static str, Set> {
    let [port, at] = &FRONTS;
    let published = |kind: &'static FrontKind| fronts(table, kind).map(|(front, _)| element(front));
    let targets = table.here.iter().flat_map(|(address, ports)| {
        ports.iter().map(move |(protocol, port)| format!("{address} . {protocol} . {port}"))
    });
    let plain = table.networks.iter().filter(|network| network.lane == Lane::Plain);
    let plain = plain.map(|network| network.subnet.network());
    let attached = table.attached.iter().map(|(block, gateway)| (block.network(), gateway));
    let itself = table.here.keys().map(|address| format!("{address} . {address}"));
    let crossing = table.crossing.iter().map(|(bridge, address)| format!("\"{bridge}\" . {address}"));
    let sources = table.homes.iter().map(|(block, bridge)| format!("\"{bridge}\" . {}", block.network()));
    let mut sets = BTreeMap::from([
        ("nodes", set("type ipv4_addr", &table.nodes)),
        (
            "ends",
            set(
                "type ipv4_addr . inet_service",
                table.ends.iter().map(|(address, port)| format!("{address} . {port}")),
            ),
        ),
        ("plain", set("type ipv4_addr", plain)),
        ("gateways", set("type ipv4_addr", table.networks.iter().map(|network| network.gateway))),
        ("services", set("type ipv4_addr", table.networks.iter().map(|network| network.vips.network()))),
        ("published", set("type inet_proto . inet_service", published(port))),
        ("published_at", set("type ipv4_addr . inet_proto . inet_service", published(at))),
        ("targets", set("type ipv4_addr . inet_proto . inet_service", targets)),
        ("itself", set("type ipv4_addr . ipv4_addr", itself)),
        ("crossing", set("type ifname . ipv4_addr", crossing)),
        ("sources", set("type ifname . ipv4_addr", sources)),
        ("attached", map("type ipv4_addr : ipv4_addr", attached)),
        ("outgoing", set("type ipv4_addr", &table.outgoing)),
    ]);
    sets.extend(link_maps(table));
    sets.extend(vip_maps(table));
    sets.extend(port_maps(table));
    sets
}

/// Who is behind a device or a hardware address.
fn link_maps(table: &Table) -> [(&'static str, Set); 4] {
    let peers = || table.peers.iter().map(|peer| (mac(peer.mac), peer.mark));
    let marks = peers().map(|(mac, mark)| (mac, format!("{mark:#010x}")));
    let zones = peers().map(|(mac, mark)| (mac, mark & !RETURN_MASK));
    let bridges = || table.networks.iter().map(|network| (format!("\"{}\"", network.bridge), network.id));
    let lanes = table.lanes.iter().map(|lane| {
        let chain = match lane {
            Lane::Main => "from_fabric",
            Lane::Plain => "from_plain",
        };
        (format!("\"{}\"", lane.device()), format!("goto {chain}"))
    });
    let origins = bridges().map(|(bridge, id)| (bridge, format!("goto from_{id}"))).chain(lanes);
    let inward = bridges().map(|(bridge, id)| (bridge, format!("goto to_{id}")));
    [
        ("marks", map("typeof ether saddr : meta mark", marks)),
        ("zones", map("typeof ether saddr : ct zone", zones)),
        ("origins", map("type ifname : verdict", origins)),
        ("inward", map("type ifname : verdict", inward)),
    ]
}

/// Where new connections go: how many endpoints there are, and each of them by its number.
fn vip_maps(table: &Table) -> [(&'static str, Set); 2] {
    let vips = table.virtuals.iter().map(|(vip, choice)| (vip, chooser("vip", choice)));
    let vip_endpoints = table.virtuals.iter().flat_map(|(vip, choice)| {
        let numbered = choice.endpoints().iter().enumerate();
        numbered.map(move |(number, endpoint)| (format!("{vip} . {number}"), endpoint))
    });
    [
        ("vips", map("type ipv4_addr : verdict", vips)),
        ("vip_endpoints", map("typeof ip daddr . numgen random mod 65535 : ip daddr", vip_endpoints)),
    ]
}

/// The same of published ports, and the port in the container.
fn port_maps(table: &Table) -> [(&'static str, Set); 6] {
    let [port, at] = &FRONTS;
    let chains = |kind: &'static FrontKind| {
        answered(table, kind).map(|(front, published)| (element(front), chooser(kind.chain, &published.to)))
    };
    let endpoints = |kind: &'static FrontKind| {
        answered(table, kind).flat_map(|(front, published)| {
            let numbered = published.to.endpoints().iter().enumerate();
            numbered.map(move |(number, endpoint)| (format!("{} . {number}", element(front)), endpoint))
        })
    };
    let targets = |kind: &'static FrontKind| {
        answered(table, kind).map(|(front, published)| (element(front), published.target))
    };
    [
        ("ports", map("type inet_proto . inet_service : verdict", chains(port))),
        ("ports_at", map("type ipv4_addr . inet_proto . inet_service : verdict", chains(at))),
        (
            port.endpoints,
            map("typeof meta l4proto . th dport . numgen random mod 65535 : ip daddr", endpoints(port)),
        ),
        (
            at.endpoints,
            map(
                "typeof ip daddr . meta l4proto . th dport . numgen random mod 65535 : ip daddr",
                endpoints(at),
            ),
        ),
        (port.targets, map("type inet_proto . inet_service : inet_service", targets(port))),
        (at.targets, map("type ipv4_addr . inet_proto . inet_service : inet_service", targets(at))),
    ]
}

fn set<T: ToString>(holds: &'static str, items: impl IntoIterator<Item = T>) -> Set {
    let elements = items.into_iter().map(|key| (key.to_string(), None)).collect();
    Set { kind: "set", holds, elements }
}

fn map<K: ToString, V: ToString>(holds: &'static str, items: impl Iterator<Item = (K, V)>) -> Set {
    let elements = items.map(|(key, value)| (key.to_string(), Some(value.to_string()))).collect();
    Set { kind: "map", holds, elements }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

type BaseChain = (&'static str, &'static str, Vec<String>);

/// Chains that hook in. Ours come one step before Docker's and the host's of the same kind.
fn base_chains(table: &Table) -> Vec<BaseChain> {
    let mut chains = nat_chains(table);
    chains.extend(path_chains(table));
    chains.extend(filter_chains(table));
    chains
}

fn rules(text: String) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// What is accepted as, and sent as, a packet between nodes: first those that come, then those that go.
///
/// VXLAN authenticates nobody, and its socket receives on all addresses, broadcast and multicast included. Without
/// encryption, only frames from nodes' addresses are accepted ([`from_a_node`]). With it, only those that come out of the
/// encrypted links, where an address belongs to a key. In both, what a program of this node sends there by itself is
/// dropped: it has a user, and lacks the mark of what such a program sends to containers.
fn tunnel_rules(table: &Table) -> (String, String) {
    let (port, pretends) = (table.fabric_port, pretends());
    match table.fabric_mode {
        FabricMode::Plain => (
            format!(
                "udp dport {port} {} notrack accept
             udp dport {port} {DELIVERED} drop",
                from_a_node(table)
            ),
            format!(
                "{pretends} ip daddr . udp dport @ends drop
             ip daddr . udp dport @ends meta mark set 0 notrack"
            ),
        ),
        FabricMode::Wireguard => (
            format!(
                "udp dport {WIRE_PORT} iifname != \"{WIRE_DEVICE}\" {DELIVERED} drop
             iifname \"{WIRE_DEVICE}\" udp dport {WIRE_PORT} notrack accept
             iifname \"{WIRE_DEVICE}\" drop"
            ),
            format!(
                "{pretends} oifname \"{WIRE_DEVICE}\" drop
             oifname \"{WIRE_DEVICE}\" meta mark set 0 notrack"
            ),
        ),
    }
}

/// True of packets that sockets of this host may receive: local, broadcast, multicast and anycast destinations.
const DELIVERED: &str = "fib daddr type != unicast";

/// What is true of frames that another node has sent as they are: they are for this node's own address, have a node's
/// source, and come by the device that leads to that node. Containers that forge a node's address are behind others.
fn from_a_node(table: &Table) -> String {
    let to = table.end.map_or("fib daddr type local".to_owned(), |end| format!("ip daddr {end}"));
    format!("{to} ip saddr @nodes iifname != \"lo\" fib saddr . iif oif exists")
}

/// What is true of packets that a program sends by itself. One that the kernel forwards has no user, and no user has the
/// highest number. Nor has what the kernel sends for a socket that was closed, which is not held back.
fn pretends() -> String {
    format!("meta mark != {TUNNEL_MARK:#x} meta skuid != {}", u32::MAX)
}

/// The same of the plain lane, whose packets go to the port that WireGuard has, and are told from its own by how they begin:
/// none of those does so (WireGuard, "Protocol & Cryptography": its first four bytes are 1 to 4, then zeroes).
///
/// They go on to a port where nothing but that lane listens. So what comes as it is can be no packet of the encrypted
/// one, whatever it says of itself, and however the kernel has joined datagrams before these rules see them.
fn plain_rules(table: &Table) -> (String, String) {
    let (port, pretends) = (table.fabric_port, pretends());
    let frame = format!("@th,64,56 {:#016x}", u64::from(VXLAN_FLAGS) << 24 | u64::from(Lane::Plain.vni()));
    (
        format!(
            "udp dport {PLAIN_PORT} {DELIVERED} drop
         udp dport {port} {frame} {} udp dport set {PLAIN_PORT} notrack accept",
            from_a_node(table)
        ),
        format!(
            "{pretends} ip daddr . udp dport @ends {frame} drop
         ip daddr . udp dport @ends {frame} meta mark set 0 notrack"
        ),
    )
}

/// First bytes of a packet of VXLAN: it names a network, and nothing else. Source: RFC 7348, 5.
const VXLAN_FLAGS: u32 = 0x0800_0000;

/// A lane's device, and what is true there of outside clients' packets: they are not from its containers, and on the main
/// lane not from nodes, which are reached by it.
fn outside(table: &Table) -> impl Iterator<Item = (&'static str, String)> {
    table.lanes.iter().map(|lane| match lane {
        Lane::Main => (FABRIC_DEVICE, format!("ip saddr != {}", table.pool)),
        Lane::Plain => (PLAIN_DEVICE, format!("{} != @plain", part("ip saddr", SUBNET_PREFIX))),
    })
}

/// A rule for each lane, from its device and what is true of [`outside`] there.
fn on_lanes(table: &Table, rule: impl Fn(&str, &str) -> String) -> String {
    outside(table).map(|(device, outside)| rule(device, &outside) + "\n").collect()
}

/// The subnet or block of an address, to be looked up in a set of their first addresses. Never in one of intervals: such a
/// set is empty for a millisecond when its table is made anew (seen on Linux 6.18), and slower.
fn part(address: &str, prefix: u8) -> String {
    let mask = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, prefix).netmask();
    format!("{address} & {mask}")
}

/// Chains that lead packets of outside clients back the way they came.
fn path_chains(table: &Table) -> [BaseChain; 3] {
    let ours = format!("{RETURN_MASK:#x} == {RETURN_MARK:#x}");
    let (mut coming, mut going) = tunnel_rules(table);
    if table.has_plain() {
        let (plain_coming, plain_going) = plain_rules(table);
        coming = format!("{coming}\n{plain_coming}");
        going = format!("{going}\n{plain_going}");
    }
    // Every packet comes by here, and to compare addresses costs less than to compare names.
    let zones = on_lanes(table, |device, outside| {
        format!("{outside} iifname \"{device}\" ct original zone set ether saddr map @zones")
    });
    [
        (
            "early",
            "type filter hook prerouting priority -300; policy accept",
            rules(format!(
                "{coming}
             {}
             ip daddr 127.0.0.0/8 iifname {OURS} drop
             {zones}",
                source_rules(table)
            )),
        ),
        ("early_own", "type filter hook output priority -300; policy accept", rules(going)),
        (
            "returns",
            "type filter hook prerouting priority -150; policy accept",
            rules(format!("iifname {OURS} ct direction reply ct mark & {ours} meta mark set ct mark")),
        ),
    ]
}

/// Sources are checked for every packet, before connection tracking: an established flow accepts packets from any device.
///
/// The pool's addresses are behind our devices only. A bridge has those of its network's blocks on this node, and those of
/// its containers on other networks: their answers may leave by it. What comes from the fabric is not checked: it comes from a node, which has checked its own containers the same way.
fn source_rules(table: &Table) -> String {
    format!(
        "ip saddr {} iifname != {OURS} iifname != \"lo\" drop
         {FROM_BRIDGE} iifname . {} != @sources iifname . ip saddr != @crossing drop",
        table.pool,
        part("ip saddr", BLOCK_PREFIX)
    )
}

/// True of packets from the bridges of our networks.
const FROM_BRIDGE: &str = "meta iifkind \"bridge\" iifname \"ru-*\"";

/// Errors (ICMP) are accepted as related to a flow, whoever sends them. From a bridge of ours, the flow must be one of its
/// containers; from other devices, it must not be one within the pool.
fn foreign_errors(table: &Table) -> String {
    let pool = table.pool;
    let end = |way| format!("iifname . {} != @sources", part(&format!("ct {way} ip saddr"), BLOCK_PREFIX));
    format!(
        "ct state related {FROM_BRIDGE} {} {} iifname . ct reply ip saddr != @crossing drop
         ct state related iifname != {OURS} iifname != \"lo\" ct original ip saddr {pool} ct reply ip saddr {pool} drop",
        end("original"),
        end("reply")
    )
}

fn nat_chains(table: &Table) -> Vec<BaseChain> {
    let (pool, asker) = (table.pool, part("ip saddr", BLOCK_PREFIX));
    let marks = on_lanes(table, |device, outside| {
        format!("{outside} iifname \"{device}\" ct mark set ether saddr map @marks")
    });
    vec![
        (
            "arriving",
            "type nat hook prerouting priority -101; policy accept",
            // The engine's own resolver in a container that it made for others asks those of the host.
            rules(format!(
                "{marks}
             meta l4proto {{ tcp, udp }} th dport 53 ip daddr != {pool} dnat to {asker} map @attached
             ip daddr @gateways return
             ip daddr vmap @vips
             ip daddr 127.0.0.0/8 return
             fib daddr type != local return
             ip daddr . meta l4proto . th dport vmap @ports_at
             meta l4proto . th dport vmap @ports"
            )),
        ),
        (
            "originating",
            "type nat hook output priority -101; policy accept",
            rules(
                "ip daddr @gateways return
             ip daddr vmap @vips
             fib daddr type != local return
             ip daddr . meta l4proto . th dport vmap @ports_at
             ip daddr 127.0.0.0/8 ip daddr != 127.0.0.1 return
             meta l4proto . th dport vmap @ports"
                    .to_owned(),
            ),
        ),
        (
            "leaving",
            "type nat hook postrouting priority 99; policy accept",
            rules(format!(
                "ip saddr . ip daddr @itself masquerade
             ct status dnat ct original ip daddr != {pool} ip saddr @nodes masquerade
             ct status dnat ct original ip daddr != {pool} ip saddr {pool} oifname {OURS} masquerade
             ct status dnat oifname {OURS} fib saddr type local masquerade
             ip saddr {pool} ip daddr != {pool} oifname != {OURS} masquerade"
            )),
        ),
    ]
}

fn filter_chains(table: &Table) -> Vec<BaseChain> {
    let Table { pool, fabric, .. } = table;
    let port_of_ours = "meta l4proto . th dport @published";
    // What goes through this node on its way to another's fabric comes from a node, from where that node is.
    let strangers = "ip daddr . udp dport @ends ip saddr != @nodes drop
             ip daddr . udp dport @ends fib saddr . iif oif missing drop";
    let strangers = match table.fabric_mode {
        FabricMode::Plain => strangers.to_owned(),
        FabricMode::Wireguard if table.has_plain() => format!("oifname \"{WIRE_DEVICE}\" drop\n{strangers}"),
        FabricMode::Wireguard => format!("oifname \"{WIRE_DEVICE}\" drop"),
    };
    // Of standing connections nobody asks more: what goes by the plain lane, errors included, is of those to containers of
    // plain networks.
    let foreign = |way: &str| {
        let replier = part("ct reply ip saddr", SUBNET_PREFIX);
        let rule = format!("{way} \"{PLAIN_DEVICE}\" {replier} != @plain drop");
        if table.has_plain() { rule } else { String::new() }
    };
    let (foreign_in, foreign_out) = (foreign("iifname"), foreign("oifname"));
    let errors = foreign_errors(table);
    let unmarking =
        on_lanes(table, |device, _| format!("meta mark != 0 oifname \"{device}\" meta mark set 0"));
    vec![
        (
            "passing",
            "type filter hook forward priority -1; policy accept",
            rules(format!(
                "{foreign_in}
             {foreign_out}
             {unmarking}
             iifname != {OURS} meta iifkind \"bridge\" oifname {OURS} fib saddr . iif oif missing drop
             ct state established accept
             {errors}
             ct state related accept
             {strangers}
             iifname != {OURS} oifname != {OURS} accept
             oifname {OURS} meta mark set {TUNNEL_MARK:#x}
             iifname vmap @origins
             iifname {OURS} drop
             ct status dnat ct original ip daddr != {pool} accept
             drop"
            )),
        ),
        (
            "reaching",
            "type filter hook input priority -1; policy accept",
            // What is not tracked comes out of the tunnel, and was looked at before.
            rules(format!(
                "{foreign_in}
             ct state established,untracked accept
             {errors}
             ct state related accept
             iifname \"lo\" ip daddr @gateways accept
             iifname != {OURS} ip daddr @gateways drop
             ip daddr != @gateways {port_of_ours} goto unanswered
             ip daddr . meta l4proto . th dport @published_at goto unanswered
             iifname \"{FABRIC_DEVICE}\" meta l4proto icmp ip saddr {fabric} meta mark set {TUNNEL_MARK:#x} accept
             iifname {OURS} ip daddr @gateways meta l4proto {{ tcp, udp }} th dport 53 meta mark set {TUNNEL_MARK:#x}
             iifname vmap @origins
             iifname {OURS} drop"
            )),
        ),
        (
            "sending",
            "type filter hook output priority -1; policy accept",
            // Not by the device: here a packet that was re-aimed is still told to leave by the one of before.
            rules(format!(
                "oifname {OURS} icmp type redirect drop
             ip daddr {pool} meta mark set {TUNNEL_MARK:#x}
             ct state established,related,untracked accept
             {} @services goto unanswered",
                part("ip daddr", VIP_PREFIX)
            )),
        ),
    ]
}

/// New connections from a network: to itself, to the outside, and to published ports of others. From an internal one to
/// itself alone, and for names to this node; who is on another network as well may go on.
fn from_network(table: &Table, network: &Net) -> Vec<String> {
    let Table { pool, .. } = table;
    let Net { subnet, vips, gateway, .. } = network;
    let (names, shut_in) = if network.internal {
        (
            format!(
                "ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
         ip daddr {gateway} goto refused"
            ),
            "ip saddr != @outgoing goto refused",
        )
    } else {
        (String::new(), "")
    };
    rules(format!(
        "ip saddr != {subnet} drop
         ip daddr {vips} goto unanswered
         {names}
         ip daddr {subnet} accept
         {shut_in}
         ip daddr != {pool} accept
         ct status dnat ct original ip daddr != {pool} accept
         goto refused"
    ))
}

/// New connections from other nodes to a network, by its lane: from itself, and to published ports.
fn to_network(table: &Table, network: &Net) -> Vec<String> {
    let Table { pool, fabric, .. } = table;
    let subnet: Ipv4Net = network.subnet;
    let lane = format!("iifname != \"{}\" drop", network.lane.device());
    if network.internal {
        return rules(format!("{lane}\nip saddr {subnet} accept\ndrop"));
    }
    rules(format!(
        "{lane}
         ip saddr {subnet} accept
         ip saddr != {pool} ip daddr . meta l4proto . th dport @targets accept
         ip saddr {fabric} ip daddr . meta l4proto . th dport @targets accept
         drop"
    ))
}

#[cfg(test)]
mod tests;
