//! Published ports that are not those of all nodes and all addresses: of one address, of the tasks' own nodes, taken by
//! other programs, reserved. And names without a virtual address.

use anyhow::Context;
use raftup_tests::{
    lab::{EngineKind, Host, Lab, Options, wait_for},
    load::{Class, Mode, Plan, Running},
};

use crate::cluster::{SOON, deploy, form, get, lab, refused, well};

/// An address that no host has at first.
const NOBODYS: &str = "192.0.2.77";

/// How `curl` says that a connection was refused, and how the shell does.
const REFUSED: [&str; 2] = ["exit status: 7", "Connection refused"];

const CHECK: &str =
    "healthcheck: {test: [CMD, /helper, get, 'http://127.0.0.1:8080/healthz'], interval: 500ms}";

/// Both kinds of engine in one cluster.
#[test]
fn ports_of_one_address_and_of_the_tasks_own_nodes() {
    let lab = lab(&Options { engine: EngineKind::Mixed, ..Options::new("itpublish", 3).unwrap() });
    form(&lab, 3);
    what_nobody_can_have_is_refused(&lab);
    one_address(&lab);
    taken_by_another_program(&lab);
    well(lab.host("h1").raftup(&["stack", "rm", "shop"]).unwrap());
    own_nodes(&lab);
    names_without_a_virtual_address(&lab);
}

fn what_nobody_can_have_is_refused(lab: &Lab) {
    let refusal = |ports: &str| {
        let file = format!("services: {{web: {{image: raftup/helper:1, ports: [{ports}]}}}}");
        refused(lab, deploy(lab, lab.host("h2"), "shop", &file))
    };
    for (port, why) in [
        ("'7238:80/udp'", "publishes port 7238/udp, through which h1 speaks to the others"),
        ("'7239:80/udp'", "publishes port 7239/udp, through which h1 exchanges packets of containers"),
        ("'7240:80/udp'", "publishes port 7240/udp, which nodes use inside of their encrypted links"),
        ("'7241:80/udp'", "publishes port 7241/udp, which nodes use for networks that are not encrypted"),
        ("'10.64.0.1:80:80'", "and 10.64.0.1 is no address of a host"),
    ] {
        let said = refusal(port);
        assert!(said.starts_with("exit 4\n") && said.contains(why), "{said}");
    }
}

/// What a program on the host gets there. (Not all hosts of the lab have `curl`.) Errors: no answer.
fn at_home(host: &Host, place: &str) -> anyhow::Result<String> {
    let (address, port) = place.split_once(':').unwrap();
    let ask = format!(
        "exec 3<>/dev/tcp/{address}/{port}; printf \"GET / HTTP/1.0\\r\\nConnection: close\\r\\n\\r\\n\" >&3; cat <&3"
    );
    host.sh(&format!("timeout 3 bash -c '{ask}'"))
}

/// The error of a request that must fail.
fn fails(answer: anyhow::Result<String>) -> String {
    match answer {
        Ok(answer) => panic!("answered: {answer}"),
        Err(error) => error.to_string(),
    }
}

fn is_refused(answer: anyhow::Result<String>) {
    let said = fails(answer);
    assert!(REFUSED.iter().any(|word| said.contains(word)), "{said}");
}

fn one_address(lab: &Lab) {
    let (h1, h2, h3) = (lab.host("h1"), lab.host("h2"), lab.host("h3"));
    let file = format!(
        "services:
  web:
    image: raftup/helper:1
    {CHECK}
    ports:
      - '127.0.0.1:8080-8081:8080-8081'
      - '{h1}:8082:8080'
      - '{h1}:8083:8080/udp'
      - {{target: 8080, published: 8084, host_ip: {NOBODYS}}}
      - '8090:8080'
    deploy: {{placement: {{constraints: [node.hostname == h3]}}}}
  other:
    image: raftup/helper:1
    {CHECK}
    ports: ['{h2}:8082:8080']
",
        h1 = h1.addr(),
        h2 = h2.addr(),
    );
    // Another program was there before.
    h3.sh("docker run -d --name squatter --network host -e HELPER_PORT=8090 raftup/helper:2").unwrap();
    let there = || {
        let answer = at_home(h3, "127.0.0.1:8090");
        answer.map(Some).with_context(|| h3.sh("docker logs squatter 2>&1; ss -Hltnp").unwrap_or_default())
    };
    wait_for(SOON, "another program on h3", there).unwrap();

    let output = deploy(lab, h1, "shop", &file);
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    well(output);
    let (nowhere, taken) = (
        format!("shop_web: no node has the address of port {NOBODYS}:8084/tcp: it does not answer"),
        "shop_web: port 8090/tcp is taken by another program on h3: it does not answer there".to_owned(),
    );
    assert!(warned.contains(&nowhere) && warned.contains(&taken), "{warned}");

    // Each node's own loopback, and nothing else of it; the task is on another node.
    for host in lab.hosts() {
        assert!(at_home(host, "127.0.0.1:8080").unwrap().contains("web-1"));
        let line = host.sh("timeout 3 bash -c 'cat < /dev/tcp/127.0.0.1/8081'").unwrap();
        assert!(line.contains("web-1"), "the end of the range: {line}");
        is_refused(at_home(host, &format!("{}:8080", host.addr())));
        is_refused(get(lab, host, "8080/"));
    }
    // One service at the address of one node, another at that of the other, on one port.
    let client = lab.client().addr().to_string();
    let answer = get(lab, h1, "8082/").unwrap();
    assert!(answer.contains("web-1") && answer.contains(&client), "{answer}");
    assert!(get(lab, h2, "8082/").unwrap().contains("other-1"));
    is_refused(get(lab, h3, "8082/"));
    assert!(at_home(h1, &format!("{}:8082", h1.addr())).unwrap().contains("web-1"), "the node itself");
    assert!(at_home(h3, &format!("{}:8082", h1.addr())).unwrap().contains("web-1"), "another node");
    is_refused(at_home(h1, "127.0.0.1:8082"));
    let udp = |host: &Host| {
        let ask = format!("exec 3<>/dev/udp/{}/8083; echo hi >&3; head -n 1 <&3", host.addr());
        lab.client().sh(&format!("timeout 3 bash -c '{ask}'"))
    };
    let answer = udp(h1).unwrap();
    assert!(answer.contains("web-1") && answer.contains(&client), "{answer}");
    fails(udp(h2));

    // Whoever gets the address answers, at once; and it is told no more.
    let told = |what: &str| {
        let ps = h3.raftup(&["service", "ps", "shop_web"]).unwrap();
        let said = String::from_utf8_lossy(&ps.stderr).into_owned();
        well(ps);
        said.contains(what)
    };
    assert!(told(&nowhere) && told(&taken));
    h2.sh(&format!("ip addr add {NOBODYS}/32 dev lo")).unwrap();
    assert!(at_home(h2, &format!("{NOBODYS}:8084")).unwrap().contains("web-1"));
    wait_for(SOON, "the end of a warning", || Ok((!told(&nowhere)).then_some(()))).unwrap();
    assert!(told(&taken));
}

/// Goes on with what [`one_address`] deployed.
fn taken_by_another_program(lab: &Lab) {
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    assert!(get(lab, h1, "8090/").unwrap().contains("web-1"));
    let theirs = get(lab, h3, "8090/").unwrap();
    assert!(theirs.contains("\"version\":\"2\""), "the other program keeps its clients: {theirs}");
    let said = |argv: &[&str]| {
        let output = h3.raftup(argv).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let here = "port 8090/tcp is taken by another program: no service answers on it here";
    assert!(said(&["status"]).contains(here));
    let nodes = said(&["node", "ls"]);
    assert!(nodes.contains("h3: port 8090/tcp is taken by another program"), "{nodes}");
    assert!(said(&["stack", "services", "shop"]).contains("taken by another program on h3"));

    h3.sh("docker rm -f squatter").unwrap();
    let ours = || Ok(get(lab, h3, "8090/").ok().filter(|answer| answer.contains("web-1")));
    wait_for(SOON, "the service on the port that was let go", ours).unwrap();
    wait_for(SOON, "the end of a warning", || Ok((!said(&["node", "ls"]).contains("8090")).then_some(())))
        .unwrap();
}

/// A proxy on every node, as an ingress proxy would be.
fn proxy(version: u32) -> String {
    format!(
        "services:
  proxy:
    image: raftup/helper:{version}
    {CHECK}
    stop_grace_period: 5s
    ports:
      - {{target: 8080, published: 9080, mode: host}}
      - {{target: 8080, published: 9080, protocol: udp, mode: host}}
    deploy: {{mode: global, update_config: {{order: start-first}}}}
"
    )
}

fn own_nodes(lab: &Lab) {
    let h1 = lab.host("h1");
    well(deploy(lab, h1, "edge", &proxy(1)));
    let client = lab.client().addr().to_string();
    let own = |host: &Host, answer: String| {
        let number = host.name().trim_start_matches('h');
        assert!(answer.contains(&format!("proxy-{number}\"")), "of {} itself: {answer}", host.name());
        answer
    };
    for host in lab.hosts() {
        assert!(own(host, get(lab, host, "9080/").unwrap()).contains(&client));
        own(host, at_home(host, "127.0.0.1:9080").unwrap());
        let ask = format!("exec 3<>/dev/udp/{}/9080; echo hi >&3; head -n 1 <&3", host.addr());
        assert!(own(host, lab.client().sh(&format!("timeout 3 bash -c '{ask}'")).unwrap()).contains(&client));
    }

    // Each node's own task is replaced, and nobody stands in for it: its clients are refused meanwhile, and none is left
    // hanging or cut off.
    let targets: Vec<String> = lab.hosts().map(|host| format!("http://{}:9080/", host.addr())).collect();
    let plan = Plan::new(Mode::Fresh, &targets, 100.0, std::time::Duration::from_secs(600));
    let running = Running::start(lab, &plan).unwrap();
    well(deploy(lab, h1, "edge", &proxy(2)));
    let report = running.stop().unwrap();
    assert!(report.classes.keys().all(|class| *class == Class::Refused), "{:?}", report.failures);
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["1", "2"], "{:?}", report.classes);
    assert_eq!(report.clients.keys().collect::<Vec<_>>(), [&client]);

    // Nobody else gets the port of any node, by whatever mode.
    let second = proxy(1).replace("proxy:", "second:").replace("mode: global, ", "replicas: 1, ");
    let said = refused(lab, deploy(lab, h1, "more", &second));
    assert!(said.contains("slot 1: no node fits: port 9080/tcp is taken on h1, h2 and h3"), "{said}");
    well(h1.raftup(&["stack", "rm", "more"]).unwrap());
    let everywhere = "services: {web: {image: raftup/helper:1, ports: ['9080:8080']}}";
    let said = refused(lab, deploy(lab, h1, "more", everywhere));
    assert!(said.contains("publishes port 9080/tcp, taken by service `edge_proxy`"), "{said}");

    // A node without a task does not answer.
    well(h1.raftup(&["node", "update", "--availability", "drain", "h2"]).unwrap());
    is_refused(get(lab, lab.host("h2"), "9080/"));
    well(h1.raftup(&["node", "update", "--availability", "active", "h2"]).unwrap());
    let back = || Ok(get(lab, lab.host("h2"), "9080/").ok());
    own(lab.host("h2"), wait_for(SOON, "the proxy of a node that is back", back).unwrap());
    well(h1.raftup(&["stack", "rm", "edge"]).unwrap());
}

fn names_without_a_virtual_address(lab: &Lab) {
    let h1 = lab.host("h1");
    let file = format!(
        "services:
  web:
    image: raftup/helper:1
    {CHECK}
    deploy: {{replicas: 2, endpoint_mode: dnsrr}}
  asker:
    image: raftup/busybox:1
    command: sleep 1000
    deploy: {{placement: {{constraints: [node.hostname == h1]}}}}
"
    );
    well(deploy(lab, h1, "shop", &file));
    let addresses = |name: &str| {
        let ask = format!("docker exec $(docker ps -q -f name=shop_asker) nslookup {name}");
        let said = h1.sh(&ask).unwrap();
        let found = said.lines().filter_map(|line| line.strip_prefix("Address")?.split_whitespace().last());
        let mut found: Vec<String> =
            found.filter(|address| address.starts_with("10.64.")).map(str::to_owned).collect();
        found.sort();
        found
    };
    let two = addresses("web");
    assert_eq!(two.len(), 2, "{two:?}");
    assert_eq!(two, addresses("tasks.web"));
    well(h1.raftup(&["service", "scale", "shop_web=3"]).unwrap());
    let count =
        |count| wait_for(SOON, "addresses", || Ok((addresses("web").len() == count).then_some(()))).unwrap();
    count(3);
    well(deploy(lab, h1, "shop", &file.replace(", endpoint_mode: dnsrr", "")));
    count(1);
    assert!(!addresses("tasks.web").contains(&addresses("web")[0]), "an address of its own");
    well(h1.raftup(&["stack", "rm", "shop"]).unwrap());
}
