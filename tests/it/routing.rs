//! Who gets a connection: local and sticky routing, a container that asks itself, programs of a node, clients over IPv6.

use std::collections::{BTreeMap, BTreeSet};

use raftup_tests::lab::{Host, Lab, wait_for};

use crate::cluster::{SOON, cluster, deploy, traces, well};

const LOCAL: u16 = 8081;
const STICKY: u16 = 8082;
const ALONE: u16 = 8083;

/// `alone` has one task, on h1. `only` says where `near` runs.
fn stack(only: &str, sticky: u8) -> String {
    format!(
        "services:
  near: &web
    image: raftup/helper:1
    healthcheck: {{disable: true}}
    ports: ['{LOCAL}:8080']
    x-raftup: {{routing: local}}
    deploy: {{mode: global{only}}}
  stays:
    <<: *web
    ports: ['{STICKY}:8080', '{STICKY}:8080/udp']
    x-raftup: {{routing: sticky}}
    deploy: {{replicas: {sticky}}}
  alone:
    <<: *web
    ports: ['{ALONE}:8080', '{ALONE}:8080/udp']
    x-raftup: {{}}
    deploy: {{placement: {{constraints: [node.hostname == h1]}}}}
"
    )
}

/// Addresses of the outside client besides its own.
const CLIENTS: u8 = 24;

/// Gives the hosts and the client addresses of IPv6, and the client more of both kinds.
fn number(lab: &Lab) {
    for (index, host) in lab.hosts().enumerate() {
        host.sh(&format!("ip addr add fd99::{}/64 dev eth0 nodad", index + 1)).unwrap();
    }
    // One that it would not answer from by itself.
    lab.host("h1").sh("ip addr add fd99::99/64 dev eth0 nodad preferred_lft 0").unwrap();
    let client = lab.client();
    let [a, b, c, _] = client.addr().octets();
    let addresses = (0..CLIENTS).flat_map(|at| {
        [
            format!("addr add {a}.{b}.{c}.{}/24 dev eth0", 220 + at),
            format!("addr add fd99::c{at:x}/64 dev eth0 nodad"),
        ]
    });
    let batch: Vec<String> = addresses.collect();
    client.sh(&format!("ip -batch - <<'END'\n{}\nEND", batch.join("\n"))).unwrap();
}

/// A host's address as it stands in a URL.
fn v6(host: &Host) -> String {
    format!("[fd99::{}]", host.name().trim_start_matches('h'))
}

/// The host names of those that answer a command's requests.
fn names(said: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        answer["host"].as_str().unwrap().to_owned()
    };
    said.lines().map(name).collect()
}

fn curl(from: &Host, url: &str, times: u8) -> BTreeSet<String> {
    let each = format!("curl -gsS -f -m 3 {url} || exit 1; ");
    names(&from.sh(&each.repeat(times.into())).unwrap())
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Which task each of the client's addresses gets through each host, which must be the same.
fn kept(lab: &Lab) -> BTreeMap<String, String> {
    let client = lab.client();
    let [a, b, c, _] = client.addr().octets();
    let ask = |from: &str, to: &str| curl(client, &format!("--interface {from} http://{to}:{STICKY}/"), 2);
    let by = |from: String, to: &dyn Fn(&Host) -> String| {
        let all: BTreeSet<String> = lab.hosts().flat_map(|host| ask(&from, &to(host))).collect();
        assert_eq!(all.len(), 1, "{from}: {all:?}");
        (from, all.into_iter().next().unwrap())
    };
    let fourth =
        (0..CLIENTS).map(|at| by(format!("{a}.{b}.{c}.{}", 220 + at), &|host| host.addr().to_string()));
    let sixth = (0..CLIENTS).map(|at| by(format!("fd99::c{at:x}"), &v6));
    fourth.chain(sixth).collect()
}

fn in_task(host: &Host, service: &str, helper: &str) -> String {
    host.sh(&format!("docker exec $(docker ps -q -f name=shop_{service}) /helper {helper}")).unwrap()
}

/// A datagram from a program of the host, or of the client, and the answer to it.
fn datagram(from: &Host, to: &str, port: u16) -> String {
    let script = format!("exec 3<>/dev/udp/{to}/{port}; echo hello >&3; timeout 3 head -n 1 <&3");
    let output = from.exec(&["bash", "-c", &script]).unwrap();
    assert!(output.status.success(), "no answer to a datagram from {} to {to}: {output:?}", from.name());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn connections_go_where_they_should() {
    let lab = cluster("itroute", 2);
    let (h1, h2, client) = (lab.host("h1"), lab.host("h2"), lab.client());
    number(&lab);
    well(deploy(&lab, h1, "shop", &stack("", 4)));

    the_nearest_task_answers(&lab);
    a_container_reaches_itself(h1, h2);
    programs_of_a_node_reach_it_by_loopback(h1, h2);
    clients_over_ipv6_are_answered(&lab);

    // Sticky, over both kinds of addresses and through both hosts.
    let four = kept(&lab);
    let tasks: BTreeSet<String> = four.values().cloned().collect();
    assert_eq!(tasks, set(&["stays-1", "stays-2", "stays-3", "stays-4"]), "all of them serve");
    assert_eq!(
        names(&datagram(client, &h1.addr().to_string(), STICKY)),
        curl(client, &format!("http://{}:{STICKY}/", h2.addr()), 1)
    );
    well(h1.raftup(&["service", "scale", "shop_stays=3"]).unwrap());
    let three = kept(&lab);
    for (from, task) in &four {
        assert!(task == "stays-4" || three[from] == *task, "{from} was at {task}, is at {}", three[from]);
    }
    // Who was at the one that went comes back to its successor.
    well(h1.raftup(&["service", "scale", "shop_stays=4"]).unwrap());
    assert_eq!(kept(&lab), four);

    // A node without a task of its own.
    well(deploy(&lab, h1, "shop", &stack(", placement: {constraints: [node.hostname == h2]}", 4)));
    for host in [h1, h2] {
        let url = format!("http://{}:{LOCAL}/", host.addr());
        let answers = || Ok((curl(client, &url, 4) == set(&["near-2"])).then_some(()));
        wait_for(SOON, "answers of the only task", answers).unwrap();
    }
    let held = || traces(h1).iter().any(|line| line.contains(&format!("[::]:{ALONE}")));
    assert!(held());
    well(h1.raftup(&["stack", "rm", "shop"]).unwrap());
    wait_for(SOON, "sockets of IPv6 that are let go", || Ok((!held()).then_some(()))).unwrap();
}

fn the_nearest_task_answers(lab: &Lab) {
    for (host, name) in lab.hosts().zip(["near-1", "near-2"]) {
        let own = set(&[name]);
        assert_eq!(curl(lab.client(), &format!("http://{}:{LOCAL}/", host.addr()), 8), own, "published");
        assert_eq!(curl(lab.client(), &format!("http://{}:{LOCAL}/", v6(host)), 8), own, "published, IPv6");
        assert_eq!(names(&in_task(host, "near", "get http://near:8080/ 8")), own, "virtual address");
    }
}

/// By its name, and by its published port on its own node and on another.
fn a_container_reaches_itself(h1: &Host, h2: &Host) {
    for to in ["alone:8080".to_owned(), format!("{}:{ALONE}", h1.addr()), format!("{}:{ALONE}", h2.addr())] {
        let itself = set(&["alone-1"]);
        assert_eq!(names(&in_task(h1, "alone", &format!("get http://{to}/ 2"))), itself, "{to}");
        assert_eq!(names(&in_task(h1, "alone", &format!("udp {to}"))), itself, "{to}, UDP");
    }
}

/// To a task on the node itself, and to one on the other.
fn programs_of_a_node_reach_it_by_loopback(h1: &Host, h2: &Host) {
    for host in [h1, h2] {
        for to in ["127.0.0.1", "localhost", "[::1]", &host.addr().to_string(), &v6(host)] {
            let answer = curl(host, &format!("http://{to}:{ALONE}/"), 2);
            assert_eq!(answer, set(&["alone-1"]), "{to} on {}", host.name());
        }
        for to in ["127.0.0.1", "::1"] {
            assert_eq!(names(&datagram(host, to, ALONE)), set(&["alone-1"]), "{to} on {}, UDP", host.name());
        }
    }
}

fn clients_over_ipv6_are_answered(lab: &Lab) {
    let client = lab.client();
    for host in lab.hosts() {
        let to = v6(host);
        assert_eq!(curl(client, &format!("http://{to}:{ALONE}/"), 4), set(&["alone-1"]), "{to}");
        let much =
            client.sh(&format!("curl -gsS -f -m 30 'http://{to}:{ALONE}/bytes?n=5000000' | wc -c")).unwrap();
        assert_eq!(much.trim(), "5000000", "{to}");
        assert_eq!(
            names(&datagram(client, to.trim_matches(['[', ']']), ALONE)),
            set(&["alone-1"]),
            "{to}, UDP"
        );
    }
    // Answers come from the address that was asked.
    assert_eq!(names(&datagram(client, "fd99::99", ALONE)), set(&["alone-1"]));
}
