//! Each kind of name, asked from containers on hosts with engines of both kinds; and names that others know.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use raftup_tests::lab::{EngineKind, Host, Lab, Options, wait_for};

use crate::cluster::{SOON, deploy, form, lab, well};

const STACK: &str = "services:
  web:
    image: raftup/helper:1
    ports: ['80:8080']
    healthcheck: {disable: true}
    networks: {west: {aliases: [www, front.example]}, east: {}}
    deploy: {replicas: 3}
  asker: &asker
    image: raftup/helper:1
    healthcheck: {disable: true}
    networks: [west]
    deploy: {mode: global}
  stranger:
    <<: *asker
    networks: [north]
networks: {west: {}, east: {}, north: {}}
";

/// How long the engine's resolver waits for ours.
const PATIENCE: Duration = Duration::from_secs(4);

/// Nobody has this address.
const NOBODY: u8 = 250;

/// What a container of a service is told on a host: values of records, sorted. Errors: none, or why not.
fn resolve(host: &Host, service: &str, question: &str) -> anyhow::Result<BTreeSet<String>> {
    let ask = format!("docker exec $(docker ps -q -f name=shop_{service}) /helper resolve {question}");
    let said = host.sh(&ask)?;
    // Each line ends with the time to live.
    Ok(said.lines().filter_map(|line| line.rsplit_once(' ')).map(|(value, _)| value.to_owned()).collect())
}

fn fails(host: &Host, service: &str, question: &str) -> String {
    format!("{:#}", resolve(host, service, question).expect_err(question))
}

/// Where the network of `asker` has our resolver on a host.
fn gateway(host: &Host) -> String {
    let look = "docker inspect -f '{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}' \
        $(docker ps -q -f name=shop_asker)";
    host.sh(look).unwrap().trim().to_owned()
}

#[test]
fn names_of_every_kind_are_answered_on_both_kinds_of_engine() {
    let lab = lab(&Options { engine: EngineKind::Mixed, ..Options::new("itnamed", 2).unwrap() });
    form(&lab, 2);
    // Tasks of a host begin with the search list that the host has then.
    lab.hosts().for_each(|host| drop(host.sh("echo 'search shop.internal' >> /etc/resolv.conf").unwrap()));
    well(deploy(&lab, lab.host("h1"), "shop", STACK));
    let one = |set: BTreeSet<String>| set.into_iter().next().unwrap();
    let mut seen = BTreeSet::new();
    for host in lab.hosts() {
        let ask =
            |question: &str| resolve(host, "asker", question).unwrap_or_else(|error| panic!("{error:#}"));
        let tasks = || Ok(Some(ask("tasks.web")).filter(|tasks| tasks.len() == 3));
        let tasks = wait_for(SOON, "all tasks", tasks).unwrap();
        let address = ask("web");
        assert_eq!(address.len(), 1);
        for name in
            ["web.shop", "shop_web", "WEB", "web.internal", "web.shop.internal", "www", "front.example"]
        {
            assert_eq!(ask(name), address, "{name} on {}", host.name());
        }
        let slots: BTreeSet<String> = (1..=3).map(|slot| one(ask(&format!("{slot}.web")))).collect();
        assert_eq!(slots, tasks);
        let hosts: BTreeSet<String> = (1..=3).map(|slot| one(ask(&format!("web-{slot}")))).collect();
        assert_eq!(hosts, tasks, "host names of containers are known on all hosts");
        let targets: BTreeSet<String> =
            (1..=3).map(|slot| format!("0 1 8080 {slot}.web.shop.internal")).collect();
        assert_eq!(ask("web SRV"), targets);
        let named: BTreeSet<String> = targets.iter().map(|target| target.replace("8080", "9")).collect();
        assert_eq!(ask("_9._tcp.web SRV"), named);
        // The engine's resolver has names of its own for the containers of its host.
        let gateway = gateway(host);
        let pointer = |address: &str| {
            let octets: Vec<&str> = address.split('.').rev().collect();
            one(ask(&format!("{}.in-addr.arpa PTR {gateway}", octets.join("."))))
        };
        assert_eq!(pointer(&one(address.clone())), "web.shop.internal");
        let pointers: BTreeSet<String> = tasks.iter().map(|address| pointer(address)).collect();
        let expected: BTreeSet<String> = (1..=3).map(|slot| format!("{slot}.web.shop.internal")).collect();
        assert_eq!(pointers, expected);
        // As a client asks that tries the search list first.
        let list = "docker exec $(docker ps -q -f name=shop_asker) /helper get 'http://127.0.0.1:8080/file?path=/etc/resolv.conf'";
        assert!(host.sh(list).unwrap().contains("search shop.internal"));
        assert_eq!(ask("web.shop.internal"), address);
        assert!(
            fails(host, "asker", "web AAAA").contains("has no AAAA record"),
            "there is the name, and no such address"
        );
        assert!(resolve(host, "stranger", "web").is_err(), "names of a network are for its members");
        seen.insert((address, tasks));
    }
    assert_eq!(seen.len(), 1, "the same on both hosts: {seen:?}");
    others_answer(&lab);
}

/// Questions for other names go to the resolvers of the host as they are now; a dead one costs a moment.
fn others_answer(lab: &Lab) {
    let [a, b, c, _] = lab.client().addr().octets();
    let (machine, nobody) = (Ipv4Addr::new(a, b, c, 2), Ipv4Addr::new(a, b, c, NOBODY));
    let socket = UdpSocket::bind((machine, 53)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        // Ends with the test's process.
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            // One answer: the question's name, A, IN, a minute, 192.0.2.7. No more of the question is kept.
            answer[2] |= 0x80;
            answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
            let end = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap_or_default() + 5;
            answer.truncate(end);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            socket.send_to(&answer, from).unwrap();
        }
    });
    for host in lab.hosts() {
        let use_these = |resolvers: &[Ipv4Addr]| {
            let lines: Vec<String> = resolvers.iter().map(|at| format!("nameserver {at}")).collect();
            host.sh(&format!("echo '{}' > /etc/resolv.conf", lines.join("\n"))).unwrap();
        };
        let known = || {
            let answer = resolve(host, "asker", "www.example.org")?;
            Ok((answer == BTreeSet::from(["192.0.2.7".to_owned()])).then_some(()))
        };
        use_these(&[machine]);
        wait_for(SOON, "an answer of the host's resolver", known).unwrap();
        let gateway = gateway(host);
        use_these(&[nobody]);
        let refused = || {
            let begun = Instant::now();
            let question = format!("www.example.org A {gateway}");
            let said = resolve(host, "asker", &question).err().map(|error| format!("{error:#}"));
            Ok(said.filter(|said| said.contains("SERVFAIL")).map(|_| begun.elapsed()))
        };
        let took = wait_for(SOON, "the word that nobody answers", refused).unwrap();
        assert!(took < PATIENCE, "the engine's resolver does not wait so long: {took:?}");
        assert_eq!(resolve(host, "asker", "web").unwrap().len(), 1, "ours are not touched by it");
        use_these(&[nobody, machine]);
        wait_for(SOON, "an answer of the second resolver", known).unwrap();
    }
}
