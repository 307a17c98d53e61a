//! Forged frames and injected packets, from every position on and beside a host: none is delivered, in an encrypted fabric
//! and in a plain one; without our table they still are not; with each `drop` of ours made a `continue`, all of them arrive.

use std::{net::Ipv4Addr, time::Duration};

use raftup_tests::lab::{Host, Lab, Options, wait_for};

use crate::{
    cluster::{SOON, deploy, join, lab, well},
    wire::{Capture, VNI, address_of, forged, seen},
};

/// `web` and `vault` are on networks of their own, the one of `vault` is internal.
const STACK: &str = "services:
  web: &any
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy: {mode: global}
  vault:
    <<: *any
    networks: [inner]
networks:
  default: {}
  inner: {internal: true}
";

/// What is added where the fabric is encrypted.
const PLAIN_NETWORK: &str = "  open: {driver_opts: {encrypted: 'false'}}
";
const ON_PLAIN_NETWORK: &str = "  far:
    <<: *any
    networks: [open]
networks:
";

/// A container of another stack.
const OTHER: &str = "services:
  alone:
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy: {mode: global}
";

const FABRIC: u16 = 7239;
const INSIDE: u16 = 7240;
const PLAIN: u16 = 7241;
const PLAIN_VNI: u32 = 7239;

/// Ports of flows.
const FROM: u16 = 5000;
const SERVED: u16 = 8080;
const OUTSIDE: u16 = 9999;

/// Longest time until a packet that was sent is captured.
const ARRIVED: Duration = Duration::from_secs(5);

/// Where packets are sent from.
struct Position<'a> {
    name: String,
    host: &'a Host,
    /// What a command begins with there.
    enter: String,
}

impl Position<'_> {
    /// A container with default capabilities: it may send raw packets.
    fn container<'a>(host: &'a Host, name: &str) -> Position<'a> {
        let pid = host.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' $(docker ps -q -f name={name})"));
        let enter = format!("nsenter --target {} --net --", pid.unwrap().trim());
        Position { name: format!("{name}-on-{}", host.name()), host, enter }
    }

    fn host(host: &Host) -> Position<'_> {
        Position { name: host.name().to_owned(), host, enter: String::new() }
    }

    /// A program without any rights.
    fn user(host: &Host) -> Position<'_> {
        let enter = "setpriv --reuid nobody --clear-groups --bounding-set=-all --".to_owned();
        Position { name: format!("user-of-{}", host.name()), host, enter }
    }

    /// Sends a datagram to each of these, or a whole packet where there is no port. What cannot be sent is not.
    fn send(&self, lab: &Lab, bytes: &[u8], to: &[String]) {
        let file = lab.share().join("forged");
        std::fs::write(&file, bytes).unwrap();
        let tool = lab.tool().display();
        self.host.sh(&format!("{} {tool} forge {} {}", self.enter, file.display(), to.join(" "))).unwrap();
    }
}

fn sum(bytes: &[u8]) -> [u8; 2] {
    let of = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(of).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}

/// A packet with its header.
fn packet(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + body.len() as u16).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = sum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(body);
    packet
}

type End = (Ipv4Addr, u16);

fn udp(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let mut body = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    body.extend((8 + payload.len() as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    packet(from.0, to.0, 17, &body)
}

/// Somebody's word that what was sent from one end to the other did not arrive.
fn unreachable(by: Ipv4Addr, from: End, to: End, text: &str) -> Vec<u8> {
    let mut body = vec![3, 3, 0, 0, 0, 0, 0, 0];
    body.extend(udp(from, to, text.as_bytes()));
    let sum = sum(&body);
    body[2..4].copy_from_slice(&sum);
    packet(by, from.0, 1, &body)
}

/// A cluster of two hosts with everything that packets are sent from and to.
struct Scene {
    lab: Lab,
    encrypted: bool,
}

impl Scene {
    fn new(id: &str, encrypted: bool) -> Self {
        let lab = lab(&Options::new(id, 2).unwrap());
        let first = lab.host("h1");
        let init: &[&str] = if encrypted { &["init"] } else { &["init", "--fabric", "plain"] };
        well(first.raftup(init).unwrap());
        join(first, lab.host("h2"));
        let mut stack = STACK.to_owned();
        if encrypted {
            stack = stack.replace("networks:\n", ON_PLAIN_NETWORK) + PLAIN_NETWORK;
        }
        well(deploy(&lab, first, "shop", &stack));
        well(deploy(&lab, first, "other", OTHER));
        for host in lab.hosts() {
            host.sh("docker run -d --name stranger raftup/helper:1").unwrap();
            // Nobody puts back what the test takes away; flows last as long as the test; the kernel itself checks no sources.
            host.kill_daemon().unwrap();
            host.sh("echo 300 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout").unwrap();
            host.sh("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done").unwrap();
        }
        let way = format!("ip route replace 10.64.0.0/11 via {}", lab.host("h1").addr());
        lab.client().sh(&way).unwrap();
        Self { lab, encrypted }
    }

    fn h1(&self) -> &Host {
        self.lab.host("h1")
    }

    fn h2(&self) -> &Host {
        self.lab.host("h2")
    }

    /// The bridge that a service's container is on.
    fn bridge(&self, host: &Host, service: &str) -> String {
        let said = host.sh(&format!("ip -o route get {}", address_of(host, service))).unwrap();
        let mut words = said.split_whitespace().skip_while(|word| *word != "dev");
        words.nth(1).unwrap().to_owned()
    }

    fn web(&self, host: &Host) -> Ipv4Addr {
        address_of(host, "web")
    }

    /// Everywhere on a host and beside it.
    fn positions<'a>(&'a self, host: &'a Host) -> Vec<Position<'a>> {
        let mut all = vec![Position::host(self.lab.client())];
        all.extend(["stranger", "other_alone", "shop_vault"].map(|name| Position::container(host, name)));
        all
    }

    /// Frames of VXLAN to each kind of address of h2, on each port of ours.
    fn send_frames(&self) {
        let (h1, h2) = (self.h1(), self.h2());
        let [a, b, c, _] = h2.addr().octets();
        let mut to: Vec<String> = [
            h2.addr().to_string(),
            format!("{a}.{b}.{c}.255"),
            "255.255.255.255".to_owned(),
            "224.0.0.1".to_owned(),
            "127.0.0.1".to_owned(),
            "127.255.255.255".to_owned(),
            "172.17.0.1".to_owned(),
            "172.17.255.255".to_owned(),
            "10.64.0.2".to_owned(),
            // All that a container of an internal network can reach of the host.
            self.gateway_of_vault(),
        ]
        .into_iter()
        .flat_map(|address| [FABRIC, INSIDE, PLAIN].map(|port| format!("{address}:{port}")))
        .collect();
        to.extend(self.encrypted.then(|| format!("10.64.16.2:{INSIDE}")));
        let mut positions = self.positions(h2);
        positions.extend([Position::user(h1), Position::user(h2)]);
        for from in &positions {
            let lanes = [("ru-fabric", VNI, "web"), ("ru-plain", PLAIN_VNI, "far")];
            for (device, vni, service) in &lanes[..if self.encrypted { 2 } else { 1 }] {
                let text = format!("{device}-from-{}.", from.name);
                from.send(&self.lab, &forged(&self.lab, (device, *vni), service, &text), &to);
            }
        }
        // Containers that forge the other node's address.
        for from in self.positions(h2).iter().skip(1) {
            let text = format!("ru-fabric-as-h1-from-{}.", from.name);
            let frame = forged(&self.lab, ("ru-fabric", VNI), "web", &text);
            let port = if self.encrypted { INSIDE } else { FABRIC };
            let packet = udp((h1.addr(), 40_000), (h2.addr(), port), &frame);
            from.send(&self.lab, &packet, &[h2.addr().to_string()]);
        }
    }

    /// The texts of [`Scene::send_frames`].
    fn frames(&self) -> Vec<String> {
        let of = |device: &str, name: &str| format!("{device}-from-{name}.");
        let names =
            ["client", "stranger-on-h2", "other_alone-on-h2", "shop_vault-on-h2", "user-of-h1", "user-of-h2"];
        let mut all: Vec<String> = names.iter().map(|name| of("ru-fabric", name)).collect();
        if self.encrypted {
            all.extend(names.iter().map(|name| of("ru-plain", name)));
        }
        all.extend(names[1..4].iter().map(|name| of("ru-fabric-as-h1", name)));
        all
    }

    /// Flows of h1's container: with the one on h2, and with the client outside.
    fn begin_flows(&self) {
        let (h1, h2, client) = (self.h1(), self.h2(), self.lab.client());
        let web = Position::container(h1, "shop_web");
        let (here, there) = (self.web(h1), self.web(h2));
        web.send(&self.lab, &udp((here, FROM), (there, SERVED), b"flow"), &[there.to_string()]);
        web.send(
            &self.lab,
            &udp((here, FROM), (client.addr(), OUTSIDE), b"flow"),
            &[client.addr().to_string()],
        );
        let answered = || {
            let known = h1.sh("conntrack -L -p udp 2>/dev/null")?;
            let lines = known.lines().filter(|line| line.contains(&format!("sport={FROM}")));
            Ok((lines.filter(|line| !line.contains("UNREPLIED")).count() >= 1).then_some(()))
        };
        wait_for(SOON, "an established flow", answered).unwrap();
    }

    /// What looks like the next packet of each flow, either way, and errors about them.
    fn inject(&self) {
        let (h1, h2, client) = (self.h1(), self.h2(), self.lab.client());
        let (here, there) = ((self.web(h1), FROM), (self.web(h2), SERVED));
        let outside = (client.addr(), OUTSIDE);
        for from in self.positions(h1) {
            let text = |kind: &str| format!("{kind}-from-{}.", from.name);
            let to_here = [here.0.to_string()];
            from.send(&self.lab, &udp(there, here, text("answer").as_bytes()), &to_here);
            let own = from.host.sh(&format!("{} hostname -I", from.enter)).unwrap();
            let own: Ipv4Addr = own.split_whitespace().next().unwrap().parse().unwrap();
            from.send(&self.lab, &unreachable(own, here, there, &text("error")), &to_here);
            if from.host.name() != client.name() {
                // By the address that the flow has outside.
                let masked = (h1.addr(), FROM);
                from.send(
                    &self.lab,
                    &udp(outside, masked, text("outside").as_bytes()),
                    &[h1.addr().to_string()],
                );
            }
        }
    }

    fn injected(&self) -> Vec<String> {
        let names = ["client", "stranger-on-h1", "other_alone-on-h1", "shop_vault-on-h1"];
        let kinds = ["answer", "error", "outside"];
        let all = names.iter().flat_map(|name| kinds.map(|kind| format!("{kind}-from-{name}.")));
        all.filter(|text| text != "outside-from-client.").collect()
    }

    /// Sends all of it, and answers what is captured where it would be delivered.
    fn send_all(&self) -> Vec<Capture> {
        let (h1, h2, lab) = (self.h1(), self.h2(), &self.lab);
        let bridge = self.bridge(h1, "web");
        let mut captures = vec![Capture::start(lab, h2, "ru-fabric"), Capture::start(lab, h1, &bridge)];
        captures.extend(self.encrypted.then(|| Capture::start(lab, h2, "ru-plain")));
        self.begin_flows();
        self.send_frames();
        self.inject();
        captures
    }

    /// What was delivered once a packet that may pass was, to each place.
    fn delivered(&self) -> Vec<String> {
        let (h1, h2, captures) = (self.h1(), self.h2(), self.send_all());
        let services = if self.encrypted { &["web", "far"][..] } else { &["web"] };
        for service in services {
            let from = Position::container(h1, &format!("shop_{service}"));
            let to = address_of(h2, service);
            let last = udp((address_of(h1, service), FROM), (to, SERVED), b"the-last-of-all");
            from.send(&self.lab, &last, &[to.to_string()]);
        }
        captures.iter().for_each(|capture| seen(capture, "the-last-of-all"));
        arrived(&captures, self.texts())
    }

    fn texts(&self) -> Vec<String> {
        [self.frames(), self.injected()].concat()
    }

    /// The address of h2's bridge that `vault` is on.
    fn gateway_of_vault(&self) -> String {
        let bridge = self.bridge(self.h2(), "vault");
        let said = self.h2().sh(&format!("ip -4 -o addr show dev {bridge}")).unwrap();
        let address = said.split_whitespace().find_map(|word| word.split_once('/'));
        address.unwrap().0.to_owned()
    }

    /// The link-local address of the bridge that h1's `vault` is on, once it can be used.
    fn link_local(&self) -> String {
        let look =
            format!("ip -6 -o addr show dev {} scope link -tentative", self.bridge(self.h1(), "vault"));
        let address = || {
            let said = self.h1().sh(&look)?;
            Ok(said.split_whitespace().find_map(|word| word.strip_suffix("/64")).map(str::to_owned))
        };
        wait_for(SOON, "an address of the bridge", address).unwrap()
    }

    /// Whether h1 answers a container that gave itself an address of IPv6: when it is asked for its hardware address.
    fn answers_ipv6(&self, at: &str) -> bool {
        let vault = Position::container(self.h1(), "shop_vault");
        let set = "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6";
        let ask = format!("ip -6 neigh flush dev eth0; echo hello > /dev/udp/{at}%eth0/9000");
        let script = format!("{set}; {ask}; sleep 0.5; ip -6 neigh show {at} dev eth0");
        let said = self.h1().sh(&format!("{} bash -c '{script}'", vault.enter)).unwrap();
        said.contains("lladdr")
    }

    /// Whether a container's connection reaches a program of h1 that listens on 127.0.0.1 alone.
    fn reaches_loopback(&self) -> bool {
        let (h1, web) = (self.h1(), Position::container(self.h1(), "shop_web"));
        let connect = format!("{} curl -s -m 1 --interface eth0 http://127.0.0.1:9000/", web.enter);
        let watch = "for i in 1 2 3 4 5 6 7 8; do ss -Htn state syn-recv sport = :9000; sleep 0.1; done";
        let said = h1.sh(&format!("({connect} >/dev/null 2>&1 &); {watch}; true")).unwrap();
        !said.is_empty()
    }

    /// Who opens a connection to h1's `web`.
    fn connected(&self) -> Vec<String> {
        let to = self.web(self.h1());
        let opens = |from: &Position<'_>| {
            let ask = format!("{} curl -s -m 1 -o /dev/null http://{to}:{SERVED}/", from.enter);
            from.host.exec(&["sh", "-c", &ask]).unwrap().status.success()
        };
        let all = self.positions(self.h1()).into_iter();
        all.filter(opens).map(|from| from.name).collect()
    }
}

/// Where the text is in a datagram that was delivered, and in an error about one: after the headers of Ethernet, IPv4 and UDP
/// or ICMP. A forged frame that is only on its way has it further back.
const IN_DATAGRAM: usize = 14 + 20 + 8;
const IN_ERROR: usize = IN_DATAGRAM + 28;

/// Those of the texts that were captured.
fn arrived(captures: &[Capture], mut texts: Vec<String>) -> Vec<String> {
    let frames: Vec<Vec<u8>> = captures.iter().flat_map(Capture::frames).collect();
    let holds = |frame: &[u8], text: &str, at: usize| {
        frame.get(at..).is_some_and(|rest| rest.starts_with(text.as_bytes()))
    };
    let arrived = |text: &String| {
        frames.iter().any(|frame| holds(frame, text, IN_DATAGRAM) || holds(frame, text, IN_ERROR))
    };
    texts.retain(arrived);
    texts
}

fn nothing_of_it_is_delivered(scene: &Scene) {
    let hosts = || scene.lab.hosts();
    let (h1, none) = (scene.h1(), Vec::<String>::new());
    h1.sh("docker run -d --name own --network host -e HELPER_PORT=9000 raftup/helper:1").unwrap();
    let listens = || Ok(h1.sh("ss -Hltn")?.contains(":9000").then_some(()));
    wait_for(SOON, "a service of the host", listens).unwrap();

    assert_eq!(scene.delivered(), none, "with all rules");
    assert_eq!(scene.connected(), none, "with all rules");
    assert!(!scene.reaches_loopback(), "127.0.0.1, with all rules");
    // Devices have no IPv6; if one had, a rule would be in the way.
    let on = "for file in /proc/sys/net/ipv6/conf/ru-*/disable_ipv6; do [ $(cat $file) = 1 ] || echo $file; echo 0 > $file; done";
    assert_eq!(h1.sh(on).unwrap(), "", "devices with IPv6");
    let local = scene.link_local();
    assert!(!scene.answers_ipv6(&local), "IPv6, on a device that has it");
    h1.sh("nft delete table ip6 raftup").unwrap();
    assert!(scene.answers_ipv6(&local), "IPv6, with no rules");

    // Somebody deletes our table while no daemon is there: what stays is Docker's, and no more open than that.
    hosts().for_each(|host| {
        drop(host.sh("nft list table ip raftup > /run/rules; nft delete table ip raftup").unwrap())
    });
    assert_eq!(scene.connected(), none, "without our table");
    assert!(!scene.reaches_loopback(), "127.0.0.1, without our table");

    // The same rules with every `drop` and `reject` made a `continue`: what was forged is right, and only those verdicts kept it out.
    hosts().for_each(|host| {
        drop(host.sh("iptables -F INPUT; iptables -P FORWARD ACCEPT; iptables -F FORWARD").unwrap())
    });
    assert!(scene.reaches_loopback(), "127.0.0.1, with no rules");
    let load = r"sed -E 's/policy drop/policy accept/; s/reject( with .*)?$/continue/; s/\bdrop\b/continue/' /run/rules | nft -f -";
    hosts().for_each(|host| drop(host.sh(load).unwrap()));
    let captures = scene.send_all();
    let all = || {
        let arrived = arrived(&captures, scene.texts());
        // The internal network has no route to where this one goes.
        let sent = scene.texts().into_iter().filter(|text| text != "ru-fabric-as-h1-from-shop_vault-on-h2.");
        let missing: Vec<String> = sent.filter(|text| !arrived.contains(text)).collect();
        anyhow::ensure!(missing.is_empty(), "missing: {missing:#?}");
        Ok(Some(()))
    };
    wait_for(ARRIVED, "all of it with nothing dropped", all).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn what_is_forged_is_not_delivered_in_an_encrypted_fabric() {
    nothing_of_it_is_delivered(&Scene::new("itintrude", true));
}

#[test]
fn what_is_forged_is_not_delivered_in_a_plain_fabric() {
    nothing_of_it_is_delivered(&Scene::new("itintplain", false));
}
