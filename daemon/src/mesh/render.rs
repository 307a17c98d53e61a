//! From a [`Table`] to a [`Ruleset`]; pure.
//!
//! The way of a packet through the chains:
//!
//! ```text
//! early        what cannot be honest is dropped; connections of outside clients that came in by another node get
//!              a zone of that node's, so that two nodes may bring the same client port
//! returns      such connections are marked with the node; replies off a bridge get that mark, and routing rules
//!              lead them back the way they came
//! arriving     (nat) published ports and virtual addresses -> chain of the port or address -> an endpoint
//! originating  (nat) the same for programs of this node
//! passing      (filter) isolation: chain of the network that a packet comes from, or of the one that it goes to
//! reaching     (filter) the same for packets to this node
//! sending      (filter) the same for programs of this node
//! unmarking    the mark must not be on the packets around ours, or they would be led back as well
//! leaving      (nat) who must look like this node: containers that go outside, nodes as clients, a container that
//!              asks itself
//! ```

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use raftup_proto::view::{FABRIC_DEVICE, RETURN_MARK, RETURN_MASK};

use super::{
    ruleset::{Chain, Ruleset, Set},
    table::{Net, Port, Published, Table},
};

/// Our bridges and the fabric, by the beginning of their names.
const OURS: &str = "\"ru-*\"";

impl Ruleset {
    /// The rules for a table.
    pub fn of(table: &Table) -> Self {
        let mut rules = Self { sets: sets(table), chains: BTreeMap::new() };
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
        for network in &table.networks {
            add(format!("from_{}", network.id), from_network(table, network));
            add(format!("to_{}", network.id), to_network(table, network));
        }
        for (address, endpoints) in &table.virtuals {
            add(virtual_chain(*address), vec![format!("dnat to {}", choice(endpoints))]);
        }
        for (port, published) in &table.published {
            if !published.endpoints.is_empty() {
                add(port_chain(*port), vec![publication(*port, published)]);
            }
        }
        rules
    }
}

fn virtual_chain(address: Ipv4Addr) -> String {
    format!("vip_{}", address.to_string().replace('.', "_"))
}

fn port_chain((protocol, port): Port) -> String {
    format!("port_{protocol}_{port}")
}

fn publication((protocol, _): Port, published: &Published) -> String {
    format!("meta l4proto {protocol} dnat to {} : {}", choice(&published.endpoints), published.target)
}

/// One of the endpoints by chance, each as likely as the others.
fn choice(endpoints: &[Ipv4Addr]) -> String {
    if let [only] = endpoints {
        return only.to_string();
    }
    let numbered: Vec<String> =
        endpoints.iter().enumerate().map(|(number, address)| format!("{number} : {address}")).collect();
    format!("numgen random mod {} map {{ {} }}", endpoints.len(), numbered.join(", "))
}

fn sets(table: &Table) -> BTreeMap<&'static str, Set> {
    let mut sets = BTreeMap::new();
    let mut set = |name, holds, elements: Vec<String>| {
        let elements = elements.into_iter().map(|key| (key, None)).collect();
        sets.insert(name, Set { kind: "set", holds, elements });
    };
    set("nodes", "type ipv4_addr", strings(&table.nodes));
    set("gateways", "type ipv4_addr", strings(table.networks.iter().map(|network| network.gateway)));
    set(
        "published",
        "type inet_proto . inet_service",
        strings(table.published.keys().map(|(protocol, port)| format!("{protocol} . {port}"))),
    );
    set(
        "targets",
        "type ipv4_addr . inet_proto . inet_service",
        strings(table.here.iter().flat_map(|(address, ports)| {
            ports.iter().map(move |(protocol, port)| format!("{address} . {protocol} . {port}"))
        })),
    );
    set(
        "itself",
        "type ipv4_addr . ipv4_addr",
        strings(table.here.keys().map(|address| format!("{address} . {address}"))),
    );
    set(
        "services",
        "type ipv4_addr; flags interval",
        strings(table.networks.iter().map(|network| network.vips)),
    );
    let mut map = |name, holds, elements: BTreeMap<String, Option<String>>| {
        sets.insert(name, Set { kind: "map", holds, elements });
    };
    map(
        "marks",
        "typeof ether saddr : meta mark",
        pairs(table.peers.iter().map(|peer| (mac(peer.mac), format!("{:#010x}", peer.mark)))),
    );
    map(
        "zones",
        "typeof ether saddr : ct zone",
        pairs(table.peers.iter().map(|peer| (mac(peer.mac), (peer.mark & !RETURN_MASK).to_string()))),
    );
    map(
        "vips",
        "type ipv4_addr : verdict",
        pairs(
            table
                .virtuals
                .keys()
                .map(|address| (address.to_string(), format!("goto {}", virtual_chain(*address)))),
        ),
    );
    let answered = table.published.iter().filter(|(_, published)| !published.endpoints.is_empty());
    map(
        "ports",
        "type inet_proto . inet_service : verdict",
        pairs(
            answered
                .map(|(port, _)| (format!("{} . {}", port.0, port.1), format!("goto {}", port_chain(*port)))),
        ),
    );
    let from = |network: &Net| (quoted(&network.bridge), format!("goto from_{}", network.id));
    let fabric = (quoted(FABRIC_DEVICE), "goto from_fabric".to_owned());
    map("origins", "type ifname : verdict", pairs(table.networks.iter().map(from).chain([fabric])));
    let to = |network: &Net| (quoted(&network.bridge), format!("goto to_{}", network.id));
    map("inward", "type ifname : verdict", pairs(table.networks.iter().map(to)));
    sets
}

fn strings<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

fn pairs(items: impl Iterator<Item = (String, String)>) -> BTreeMap<String, Option<String>> {
    items.map(|(key, value)| (key, Some(value))).collect()
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
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

/// Chains that lead packets of outside clients back the way they came.
fn path_chains(table: &Table) -> [BaseChain; 4] {
    let Table { pool, fabric_port, .. } = table;
    let ours = format!("{RETURN_MASK:#x} == {RETURN_MARK:#x}");
    [
        (
            "early",
            "type filter hook prerouting priority -300; policy accept",
            rules(format!(
                "udp dport {fabric_port} fib daddr type local ip saddr != @nodes drop
             udp dport {fabric_port} fib daddr type local notrack
             iifname {OURS} ip daddr 127.0.0.0/8 drop
             iifname \"{FABRIC_DEVICE}\" ip saddr != {pool} ct original zone set ether saddr map @zones"
            )),
        ),
        (
            "early_own",
            "type filter hook output priority -300; policy accept",
            rules(format!("udp dport {fabric_port} ip daddr @nodes notrack")),
        ),
        (
            "returns",
            "type filter hook prerouting priority -150; policy accept",
            rules(format!(
            "iifname \"{FABRIC_DEVICE}\" ip saddr != {pool} ct state new ct mark set ether saddr map @marks
             iifname {OURS} ct direction reply ct mark & {ours} meta mark set ct mark"
        )),
        ),
        (
            "unmarking",
            "type filter hook postrouting priority -150; policy accept",
            rules(format!("oifname \"{FABRIC_DEVICE}\" meta mark & {ours} meta mark set 0")),
        ),
    ]
}

fn nat_chains(table: &Table) -> Vec<BaseChain> {
    let pool = table.pool;
    vec![
        (
            "arriving",
            "type nat hook prerouting priority -101; policy accept",
            rules(
                "ip daddr @gateways return
             ip daddr vmap @vips
             fib daddr type local meta l4proto . th dport vmap @ports"
                    .to_owned(),
            ),
        ),
        (
            "originating",
            "type nat hook output priority -101; policy accept",
            rules(
                "ip daddr @gateways return
             ip daddr vmap @vips
             ip daddr 127.0.0.0/8 ip daddr != 127.0.0.1 return
             fib daddr type local meta l4proto . th dport vmap @ports"
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
    let Table { pool, fabric, fabric_port, .. } = table;
    let port_of_ours = "meta l4proto . th dport @published";
    vec![
        (
            "passing",
            "type filter hook forward priority -1; policy accept",
            rules(format!(
                "ct state established,related accept
             udp dport {fabric_port} ip daddr @nodes ip saddr != @nodes drop
             iifname vmap @origins
             oifname != {OURS} accept
             ct status dnat ct original ip daddr != {pool} accept
             drop"
            )),
        ),
        (
            "reaching",
            "type filter hook input priority -1; policy accept",
            rules(format!(
                "ct state established,related accept
             iifname \"lo\" ip daddr @gateways accept
             iifname != {OURS} ip daddr @gateways drop
             ip daddr != @gateways {port_of_ours} goto unanswered
             iifname \"{FABRIC_DEVICE}\" meta l4proto icmp ip saddr {fabric} accept
             iifname vmap @origins"
            )),
        ),
        (
            "sending",
            "type filter hook output priority -1; policy accept",
            rules(
                "oifname \"ru-*\" icmp type redirect drop
             ct state established,related accept
             ip daddr @services goto unanswered"
                    .to_owned(),
            ),
        ),
    ]
}

/// New connections from a network: to itself, to the outside, and to published ports of others.
fn from_network(table: &Table, network: &Net) -> Vec<String> {
    let Table { pool, .. } = table;
    let Net { subnet, vips, .. } = network;
    rules(format!(
        "ip saddr != {subnet} drop
         ip daddr {vips} goto unanswered
         ip daddr {subnet} accept
         ip daddr != {pool} accept
         ct status dnat ct original ip daddr != {pool} accept
         goto refused"
    ))
}

/// New connections from other nodes to a network: from itself, and to published ports.
fn to_network(table: &Table, network: &Net) -> Vec<String> {
    let Table { pool, fabric, .. } = table;
    let subnet: Ipv4Net = network.subnet;
    rules(format!(
        "ip saddr {subnet} accept
         ip saddr != {pool} ip daddr . meta l4proto . th dport @targets accept
         ip saddr {fabric} ip daddr . meta l4proto . th dport @targets accept
         drop"
    ))
}

#[cfg(test)]
mod tests;
