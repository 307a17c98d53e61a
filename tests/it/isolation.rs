//! Who reaches whom: every pair of containers and every virtual address, over two hosts with engines of both kinds, and
//! a stranger on the hosts' network.

use std::{collections::BTreeSet, net::Ipv4Addr};

use raftup_tests::lab::{EngineKind, Host, Lab, Options};

use crate::cluster::{deploy, form, lab, well};

/// Three services on each host: of one network, of another, of both.
const STACK: &str = "services:
  left: &any
    image: raftup/helper:1
    healthcheck: {disable: true}
    networks: [west]
    deploy: {mode: global}
  right:
    <<: *any
    networks: [east]
  both:
    <<: *any
    networks: [west, east]
networks: {west: {}, east: {}}
";

/// Bits of an address that are the same within a network.
const NETWORK_BITS: u32 = 19;

/// One that knows nobody: its network is its own.
const OTHER: &str = "services:
  alone:
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy: {mode: global}
";

struct Container<'a> {
    host: &'a Host,
    id: String,
    /// Task and service, such as `shop_left.n1.abc`.
    name: String,
    addresses: Vec<Ipv4Addr>,
}

fn network(address: Ipv4Addr) -> u32 {
    u32::from(address) >> (32 - NETWORK_BITS)
}

impl Container<'_> {
    fn networks(&self) -> BTreeSet<u32> {
        self.addresses.iter().copied().map(network).collect()
    }

    fn helper(&self, args: &str) -> String {
        format!("timeout 3 docker exec {} /helper {args}", self.id)
    }

    /// Those of `targets` that answer this container over HTTP.
    fn reaches(&self, targets: &BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
        asked(self.host, targets, |to| self.helper(&format!("get http://{to}:8080/")))
    }
}

/// Those of `targets` for which the command succeeds, all asked at once.
fn asked(host: &Host, targets: &BTreeSet<Ipv4Addr>, ask: impl Fn(Ipv4Addr) -> String) -> BTreeSet<Ipv4Addr> {
    let each: Vec<String> =
        targets.iter().map(|to| format!("({} >/dev/null 2>&1 && echo {to}) &", ask(*to))).collect();
    let said = host.sh(&format!("{}\nwait", each.join("\n"))).unwrap();
    said.lines().map(|line| line.parse().unwrap()).collect()
}

fn containers(lab: &Lab) -> Vec<Container<'_>> {
    let look = "docker ps -q -f label=dev.raftup.stack | xargs docker inspect -f \
        '{{.Id}} {{.Name}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}'";
    let of = |host| {
        let said: String = Host::sh(host, look).unwrap();
        let parse = |line: &str| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let (id, name) = (words.next().unwrap(), words.next().unwrap());
            Container { host, id, name, addresses: words.map(|word| word.parse().unwrap()).collect() }
        };
        said.lines().map(parse).collect::<Vec<_>>()
    };
    lab.hosts().flat_map(of).collect()
}

/// The address that a name of a service leads to, seen from a container.
fn virtual_address(from: &Container<'_>, name: &str) -> Ipv4Addr {
    let said = from.host.sh(&from.helper(&format!("resolve {name}"))).unwrap();
    said.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_container_reaches_its_networks_and_nothing_else() {
    let lab = lab(&Options { engine: EngineKind::Mixed, ..Options::new("itapart", 2).unwrap() });
    form(&lab, 2);
    well(deploy(&lab, lab.host("h1"), "shop", STACK));
    well(deploy(&lab, lab.host("h1"), "other", OTHER));
    let all = containers(&lab);
    assert_eq!(all.len(), 8);
    let own: BTreeSet<Ipv4Addr> = all.iter().flat_map(|container| container.addresses.clone()).collect();
    assert_eq!(own.len(), 10);
    let find = |service: &str| all.iter().find(|container| container.name.contains(service)).unwrap();
    let services =
        [("left", "left"), ("right", "right"), ("left", "both"), ("right", "both"), ("alone", "alone")];
    let virtuals: BTreeSet<Ipv4Addr> =
        services.iter().map(|(from, name)| virtual_address(find(from), name)).collect();
    assert_eq!(virtuals.len(), 5);

    let everything: BTreeSet<Ipv4Addr> = own.union(&virtuals).copied().collect();
    for from in &all {
        let members = from.networks();
        let expected: BTreeSet<Ipv4Addr> =
            everything.iter().copied().filter(|to| members.contains(&network(*to))).collect();
        assert_eq!(from.reaches(&everything), expected, "{} on {}", from.name, from.host.name());
    }

    // Gateways answer names in their own network.
    let gateway = |network: u32| Ipv4Addr::from((network << (32 - NETWORK_BITS)) + 1);
    let gateways: BTreeSet<Ipv4Addr> = own.iter().map(|address| gateway(network(*address))).collect();
    for from in all.iter().filter(|from| from.name.contains("left")) {
        let answers = asked(from.host, &gateways, |to| from.helper(&format!("resolve left A {to}")));
        let expected: BTreeSet<Ipv4Addr> = from.networks().into_iter().map(gateway).collect();
        assert_eq!(answers, expected, "whose names {} may ask", from.name);
    }

    // A neighbour of the hosts who knows the way.
    let client = lab.client();
    client.sh(&format!("ip route replace 10.64.0.0/11 via {}", lab.host("h1").addr())).unwrap();
    let reached = asked(client, &everything, |to| format!("curl -sf -m 3 http://{to}:8080/"));
    assert_eq!(reached, BTreeSet::new(), "from outside");
}
