//! A plain network beside an encrypted one: both work, one is readable on the way, and nothing gets from it to the other.

use std::time::Duration;

use raftup_tests::lab::{Host, Lab, Options, What, wait_for};

use crate::{
    cluster::{SOON, deploy, form, get, lab, well},
    wire::{Capture, VNI, address_of, forged, holds, link_captures, seen, send, told, wire_address},
};

/// `web` and `far` are on the plain network, `safe` on the encrypted one, `asker` on both.
const STACK: &str = "services:
  web: &any
    image: raftup/helper:1
    healthcheck: {disable: true}
    networks: [open]
    deploy: {mode: global}
  safe:
    <<: *any
    networks: [shut]
  asker:
    <<: *any
    networks: [shut, open]
  far:
    <<: *any
    ports: ['8080:8080']
    deploy: {placement: {constraints: [node.hostname == h1]}}
networks:
  open: {driver_opts: {encrypted: 'false'}}
  shut: {driver_opts: {encrypted: 'true'}}
";

/// What goes along with requests on either network.
const OPEN: &str = "canary-open-8c1f";
const SHUT: &str = "canary-shut-27e4";

const DEVICE: &str = "ru-plain";
const PLAIN_VNI: u32 = 7239;
const FABRIC: u16 = 7239;
/// Where nodes themselves take VXLAN: inside of encrypted links, and what is plain.
const INSIDE: u16 = 7240;
const PLAIN: u16 = 7241;

/// Longest time until what someone took away is there again.
const REPAIRED: Duration = Duration::from_secs(5);

/// Bytes of an answer that counts in a device's counters.
const LARGE: u64 = 5_000_000;

#[test]
fn plain_networks_beside_encrypted_ones() {
    let lab = lab(&Options::new("itlanes", 2).unwrap());
    form(&lab, 2);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    assert!(h1.sh(&format!("ip link show {DEVICE}")).is_err(), "no lane that nobody needs");
    well(deploy(&lab, h1, "shop", STACK));
    what_is_readable(&lab);
    clients_go_and_come_by_the_same_way(&lab);
    nothing_gets_from_one_to_the_other(&lab);
    the_lane_comes_back(&lab);
    a_daemon_finds_it_again(&lab);

    let changed = deploy(&lab, h1, "shop", &STACK.replace("'false'", "'true'"));
    let said = String::from_utf8_lossy(&changed.stderr).into_owned();
    assert!(said.contains("whether network `shop_open` is encrypted cannot be changed"), "{said}");
    let doctor = well(h1.raftup(&["doctor"]).unwrap());
    assert!(doctor.contains("not encrypted between hosts, as asked for: network `shop_open`"), "{doctor}");
    // It goes with the membership, and with the last network that needs it.
    well(h2.raftup(&["leave"]).unwrap());
    gone(h2);
    well(h1.raftup(&["stack", "rm", "shop"]).unwrap());
    gone(h1);
}

fn gone(host: &Host) {
    let look = format!(
        "ip -o link | grep {DEVICE}; ip rule | grep 0x72388; nft list table ip raftup | grep {DEVICE}"
    );
    let clean = || Ok(host.sh(&format!("{look}; true"))?.is_empty().then_some(()));
    wait_for(SOON, "end of the lane", clean).unwrap();
}

fn asks(host: &Host, what: &str) -> anyhow::Result<String> {
    host.sh(&format!("docker exec $(docker ps -q -f name=shop_asker) /helper {what}"))
}

fn what_is_readable(lab: &Lab) {
    let captures = link_captures(lab);
    let devices: Vec<Capture> = lab.hosts().map(|host| Capture::start(lab, host, DEVICE)).collect();
    for (host, other) in [("h1", "h2"), ("h2", "h1")].map(|(one, other)| (lab.host(one), lab.host(other))) {
        for (service, canary) in [("web", OPEN), ("safe", SHUT)] {
            let there = address_of(other, service);
            for target in [there.to_string(), service.to_owned(), service.to_owned()] {
                asks(host, &format!("get http://{target}:8080/?{canary}")).unwrap();
                asks(host, &format!("udp {target}:8080 {canary}")).unwrap();
            }
            // More than a link between hosts takes at once, both ways.
            asks(host, &format!("get 'http://{there}:8080/bytes?n={LARGE}' >/dev/null")).unwrap();
        }
    }
    let (open, elsewhere) = told(lab, &captures, OPEN);
    assert!(open > 0, "plain means readable");
    assert_eq!(elsewhere, Vec::<String>::new(), "two ports are enough");
    assert_eq!(told(lab, &captures, SHUT).0, 0, "what is to be encrypted is");
    assert!(!devices.iter().flat_map(Capture::frames).any(|frame| holds(&frame, SHUT)));
    let mtu = |of: &str| mtu_of(lab.host("h1"), &bridge(lab.host("h1"), of));
    assert_eq!((mtu("open"), mtu("shut")), (1450, 1370));
}

fn mtu_of(host: &Host, device: &str) -> u32 {
    host.sh(&format!("cat /sys/class/net/{device}/mtu")).unwrap().trim().parse().unwrap()
}

/// The bridge of a network.
fn bridge(host: &Host, network: &str) -> String {
    let option = "{{index .Options \"com.docker.network.bridge.name\"}}";
    host.sh(&format!("docker network inspect -f '{option}' shop_{network}")).unwrap().trim().to_owned()
}

/// Bytes that came to a host by each of its lanes.
fn received(host: &Host) -> [u64; 2] {
    [DEVICE, "ru-fabric"].map(|device| {
        let file = format!("/sys/class/net/{device}/statistics/rx_bytes");
        host.sh(&format!("cat {file}")).unwrap().trim().parse().unwrap()
    })
}

/// `far` is on h1, and asked through h2.
fn clients_go_and_come_by_the_same_way(lab: &Lab) {
    let (h2, client) = (lab.host("h2"), lab.client());
    let answer = get(lab, h2, "8080/").unwrap();
    assert!(answer.contains(&client.addr().to_string()), "the client's address is kept: {answer}");
    for (asker, host) in [(client, h2.addr().to_string()), (h2, "127.0.0.1".to_owned())] {
        let before = received(h2);
        let ask = format!("curl -sf -m 20 'http://{host}:8080/bytes?n={LARGE}' | wc -c");
        assert_eq!(asker.sh(&ask).unwrap().trim(), LARGE.to_string());
        let after = received(h2);
        let [plain, encrypted] = [after[0] - before[0], after[1] - before[1]];
        assert!(plain > LARGE && encrypted < LARGE / 10, "{host}: {plain} plain, {encrypted} encrypted");
    }
}

fn nothing_gets_from_one_to_the_other(lab: &Lab) {
    let (h1, h2, client) = (lab.host("h1"), lab.host("h2"), lab.client());
    let [open, shut] = ["open", "shut"].map(|network| Capture::start(lab, h2, &bridge(h2, network)));
    let main = Capture::start(lab, h2, "ru-fabric");
    let plain = |service, text| forged(lab, (DEVICE, PLAIN_VNI), service, text);
    // Strangers, and programs without rights, get nothing delivered on any port of ours.
    for port in [FABRIC, INSIDE, PLAIN] {
        for frame in [plain("web", "by-a-stranger"), plain("safe", "by-a-stranger")] {
            send(lab, client, None, h2.addr(), port, &frame);
            send(lab, h1, Some("nobody"), h2.addr(), port, &frame);
            send(lab, h2, Some("nobody"), h2.addr(), port, &frame);
        }
    }
    // A flow between containers of the encrypted network stands: what looks like its next packet is no new connection.
    let flow = forged(lab, ("ru-fabric", VNI), "safe", "a-flow-begins");
    let begun = || {
        h1.sh("nft flush chain ip raftup early_own")?;
        send(lab, h1, Some("nobody"), wire_address(h2), INSIDE, &flow);
        Ok(shut.frames().iter().any(|frame| holds(frame, "a-flow-begins")).then_some(()))
    };
    wait_for(SOON, "a flow", begun).unwrap();
    // The sender's hardware address, after VXLAN's eight bytes and the receiver's: one that is no node's.
    let mut of_nobody = plain("safe", "into-the-other");
    of_nobody[14..20].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let injected = [
        (FABRIC, of_nobody),
        (FABRIC, plain("safe", "into-the-other")),
        (FABRIC, forged(lab, (DEVICE, VNI), "safe", "into-the-other")),
        (FABRIC, forged(lab, ("ru-fabric", VNI), "safe", "into-the-other")),
        (PLAIN, plain("web", "by-a-stranger")),
        (FABRIC, plain("web", "into-its-own")),
    ];
    let delivered = || {
        h1.sh("nft flush chain ip raftup early_own")?;
        injected.iter().for_each(|(port, frame)| send(lab, h1, Some("nobody"), h2.addr(), *port, frame));
        Ok(open.frames().iter().any(|frame| holds(frame, "into-its-own")).then_some(()))
    };
    wait_for(SOON, "the last of them, which is right", delivered).unwrap();
    // What comes after all of it by the right way.
    asks(h1, &format!("get http://{}:8080/?after-all-of-it", address_of(h2, "safe"))).unwrap();
    seen(&shut, "after-all-of-it");
    for (name, capture) in [("open", &open), ("shut", &shut), ("main", &main)] {
        for text in ["by-a-stranger", "into-the-other"] {
            assert!(!capture.frames().iter().any(|frame| holds(frame, text)), "{text}: {name}");
        }
    }
}

fn the_lane_comes_back(lab: &Lab) {
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let whole = || {
        h1.sh(&format!(
            "ip -4 route show table all dev {DEVICE} | sort; ip rule | sort; ip -4 -o addr show dev {DEVICE} | cut -d: -f2;
            ip neigh show dev {DEVICE} | sort; bridge fdb show dev {DEVICE} | sort"
        ))
    };
    let before = whole().unwrap();
    let there = address_of(h2, "web");
    for disturb in [
        format!("ip link del {DEVICE}"),
        format!("ip link set {DEVICE} down"),
        format!(
            "ip route flush dev {DEVICE}; ip neigh flush dev {DEVICE} nud permanent; ip rule del pref 7239"
        ),
    ] {
        h1.sh(&disturb).unwrap();
        let repaired = || Ok(whole().is_ok_and(|now| now == before).then_some(()));
        wait_for(REPAIRED, &disturb, repaired).unwrap();
        asks(h1, &format!("get http://{there}:8080/")).unwrap();
    }
}

/// A firewall that knows of two ports.
const FIREWALL: &str = "iptables -A INPUT -i lo -j ACCEPT
    iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables -A INPUT -p udp -m multiport --dports 7238,7239 -j ACCEPT
    iptables -P INPUT DROP";

fn a_daemon_finds_it_again(lab: &Lab) {
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let there = address_of(h2, "web");
    let device =
        || h1.sh(&format!("ip -o link show {DEVICE} | cut -d: -f1; bridge fdb show dev {DEVICE}")).unwrap();
    let before = device();
    h1.kill_daemon().unwrap();
    asks(h1, &format!("get http://{there}:8080/")).unwrap();
    let in_force = || h1.log(What::Daemon).matches("routing state is in force").count();
    let earlier = in_force();
    h1.sh(FIREWALL).unwrap();
    h1.start_daemon().unwrap();
    wait_for(SOON, "routes", || Ok((in_force() > earlier).then_some(()))).unwrap();
    assert_eq!(device(), before, "the same device");
    for service in ["web", "safe"] {
        asks(h2, &format!("get http://{}:8080/", address_of(h1, service))).unwrap();
    }
    h1.sh("iptables -P INPUT ACCEPT").unwrap();
}
