//! Who reaches whom: every pair of containers and every virtual address, over two hosts with engines of both kinds, and
//! a stranger on the hosts' network.

use std::{collections::BTreeSet, net::Ipv4Addr};

use raftup_tests::lab::{EngineKind, Host, Lab, Options, wait_for};

use crate::cluster::{SOON, deploy, form, lab, well};

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

    /// The helper gives up by itself, however long the engine takes to start it.
    fn helper(&self, args: &str) -> String {
        format!("docker exec {} /helper {args}", self.id)
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

    // Someone turns off that bridges pass their packets to the rules: that is set again.
    let h1 = lab.host("h1");
    let bridges = "ip -o link show type bridge | grep -o 'ru-0[^:]*'";
    h1.sh(&format!(
        "for bridge in $({bridges}); do ip link set $bridge type bridge nf_call_iptables 0; done"
    ))
    .unwrap();
    let off = format!(
        "for bridge in $({bridges}); do ip -d link show $bridge | grep -c 'nf_call_iptables 0'; done"
    );
    let set = || Ok((!h1.sh(&format!("{off}; true"))?.contains('1')).then_some(()));
    wait_for(SOON, "bridges whose packets pass the rules", set).unwrap();

    // A neighbour of the hosts who knows the way.
    let client = lab.client();
    client.sh(&format!("ip route replace 10.64.0.0/11 via {}", lab.host("h1").addr())).unwrap();
    let reached = asked(client, &everything, |to| format!("curl -sf -m 3 http://{to}:8080/"));
    assert_eq!(reached, BTreeSet::new(), "from outside");
}

/// One service on an internal network, one on that and on another, which others may attach to. The engine's choice of
/// a container's gateway goes by the name of the network: `back` comes first. Tasks on `front` are on h1 alone.
const NETWORKS: &str = "services:
  inner: &any
    image: raftup/helper:1
    healthcheck: {disable: true}
    networks: [back]
    deploy: {mode: global}
  both:
    <<: *any
    networks: [back, front]
    ports: ['80:8080']
    deploy: {placement: {constraints: [node.hostname == h1]}}
networks:
  back: {internal: true}
  front: {attachable: true}
";

/// A container that nobody but the user of an engine knows.
fn guest<'a>(host: &'a Host, name: &str, options: &str) -> Container<'a> {
    host.sh(&format!("docker run -d --name {name} {options} raftup/helper:1")).unwrap();
    let address = "docker inspect -f '{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}'";
    let address = host.sh(&format!("{address} {name}")).unwrap();
    let addresses = vec![address.trim().parse().unwrap()];
    Container { host, id: name.to_owned(), name: name.to_owned(), addresses }
}

#[test]
fn internal_networks_end_at_their_members_and_attachable_ones_take_guests() {
    let lab = lab(&Options { engine: EngineKind::Mixed, ..Options::new("itnets", 2).unwrap() });
    form(&lab, 2);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    well(deploy(&lab, h1, "shop", NETWORKS));
    for host in [h1, h2] {
        // Services of the hosts themselves, and from the other host something outside.
        host.sh("docker run -d --name own --network host -e HELPER_PORT=9000 raftup/helper:1").unwrap();
        let listens = || Ok(host.sh("ss -Hltn")?.contains(":9000").then_some(()));
        wait_for(SOON, "a service of the host", listens).unwrap();
    }
    let all = containers(&lab);
    let find = |service: &str, host: &Host| {
        all.iter().find(|c| c.name.contains(service) && c.host.name() == host.name())
    };
    let (inner1, inner2, both) =
        (find("inner", h1).unwrap(), find("inner", h2).unwrap(), find("both", h1).unwrap());
    let back = network(inner1.addresses[0]);
    let gateway = |of: u32| Ipv4Addr::from((of << (32 - NETWORK_BITS)) + 1);
    let opens = |from: &Container<'_>, target: &str| {
        from.host.exec(&["sh", "-c", &from.helper(&format!("tcp {target}"))]).unwrap().status.success()
    };
    let gets = |from: &Container<'_>, target: String| {
        from.host
            .exec(&["sh", "-c", &from.helper(&format!("get http://{target}/"))])
            .unwrap()
            .status
            .success()
    };

    // Inside, all is as ever: members on both hosts, by name and by address.
    for from in [inner1, inner2] {
        let vip = virtual_address(from, "both");
        let members: BTreeSet<Ipv4Addr> = [vip, virtual_address(from, "inner")]
            .into_iter()
            .chain(
                all.iter().flat_map(|other| other.addresses.iter().copied().filter(|a| network(*a) == back)),
            )
            .collect();
        assert_eq!(from.reaches(&members), members, "{}", from.name);
        // And nothing else: services of its host, by any address; those of another; published ports.
        for host in [gateway(back), h1.addr(), h2.addr()] {
            assert!(!gets(from, format!("{host}:9000")), "{} reaches {host}", from.name);
        }
        for host in [h1, h2] {
            assert!(!gets(from, format!("{}:80", host.addr())), "{} reaches a published port", from.name);
        }
    }
    // Who is on another network too goes out, whichever gateway the engine chose, and is reached from outside.
    for host in [h1, h2] {
        assert!(gets(both, format!("{}:9000", host.addr())), "{}", host.name());
        lab.client().sh(&format!("curl -sf -m 3 http://{}:80/", host.addr())).unwrap();
    }
    assert!(opens(both, &format!("{}:9001", h2.addr())));

    // Guests: where a task of the network runs, and where none does.
    let made = |host: &Host| {
        Ok(host.sh("docker network ls --format '{{.Name}}'")?.contains("shop_front").then_some(()))
    };
    wait_for(SOON, "the network on h2", || made(h2)).unwrap();
    // The engine of h1 has its resolver ask those of the host from within the container, where we answer instead. That of
    // h2 asks them by itself, unless it is told whom to ask.
    let on_front = both.addresses.iter().map(|address| network(*address)).find(|on| *on != back).unwrap();
    let names = format!("--network shop_front --dns {}", gateway(on_front));
    let guests = [guest(h1, "guest1", "--network shop_front"), guest(h2, "guest2", &names)];
    let front: BTreeSet<Ipv4Addr> = guests
        .iter()
        .chain([both])
        .flat_map(|member| member.addresses.iter().copied().filter(|address| network(*address) != back))
        .collect();
    assert_eq!(front.len(), 3, "addresses are given once");
    for from in &guests {
        assert_eq!(from.reaches(&front), front, "{}", from.name);
        let vip = virtual_address(from, "both");
        assert_eq!(from.reaches(&[vip].into()), [vip].into(), "{} by name", from.name);
        let foreign =
            all.iter().flat_map(|other| other.addresses.clone()).filter(|a| network(*a) == back).collect();
        assert_eq!(from.reaches(&foreign), BTreeSet::new(), "{} on a network that is not its own", from.name);
        assert!(gets(from, format!("{}:9000", h2.addr())), "{} goes out", from.name);
    }
    assert_eq!(both.reaches(&front), front, "a task reaches guests");

    // On a network that is not attachable the engine has no address to give; and one that was chosen by hand leads nowhere.
    for host in [h1, h2] {
        let refused =
            host.exec(&["docker", "run", "--rm", "--network", "shop_back", "raftup/helper:1"]).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("no available IPv4 addresses"), "{said}");
    }
    let stranger = Ipv4Addr::from(u32::from(gateway(back)) + 0xa00);
    let intruder = guest(h2, "intruder", &format!("--network shop_back --ip {stranger}"));
    let on_back: BTreeSet<Ipv4Addr> =
        all.iter().flat_map(|other| other.addresses.clone()).filter(|a| network(*a) == back).collect();
    assert_eq!(intruder.reaches(&on_back), BTreeSet::new(), "a stranger with an address of its own choice");
    assert!(!gets(&intruder, format!("{}:9000", h1.addr())), "nor outside");

    // The stack goes, guests stay: cut off, and the network goes with the last of them.
    well(h1.raftup(&["stack", "rm", "shop"]).unwrap());
    let gone = || Ok(well(h1.raftup(&["stack", "ls", "--quiet"]).unwrap()).is_empty().then_some(()));
    wait_for(SOON, "end of the stack", gone).unwrap();
    let cut = || Ok((!gets(&guests[1], format!("{}:9000", h1.addr()))).then_some(()));
    wait_for(SOON, "end of the guest's ways", cut).unwrap();
    h1.sh("docker rm -f guest1").unwrap();
    h2.sh("docker rm -f guest2 intruder").unwrap();
    for host in [h1, h2] {
        let left =
            || Ok((!host.sh("docker network ls --format '{{.Name}}'")?.contains("shop_")).then_some(()));
        wait_for(SOON, "end of the networks", left).unwrap();
    }
}
