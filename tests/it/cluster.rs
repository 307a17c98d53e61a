//! Whole clusters: real daemons on real engines, with load, kills and bad input.

use std::{
    path::PathBuf,
    process::Output,
    time::{Duration, SystemTime},
};

use raftup_tests::{
    lab::{Host, Lab, Options, wait_for},
    load::{Mode, Plan, Report, Running},
};

const SOON: Duration = Duration::from_secs(30);

/// New connections may fail for that long after a host has died.
const BLIND: Duration = Duration::from_secs(2);

/// A service that says who answers, from the lab's own image.
const WEB: &str = "services:
  web:
    image: raftup/helper:1
    ports: ['8080:8080']
    healthcheck: {disable: true}
    deploy: {replicas: 3}
";

fn cluster(id: &str, hosts: u8) -> Lab {
    let lab = Lab::up(&Options::new(id, hosts).unwrap()).unwrap_or_else(|error| panic!("{error:#}"));
    let first = lab.host("h1");
    well(first.raftup(&["init"]).unwrap());
    let token = well(first.raftup(&["token", "--quiet"]).unwrap());
    for host in lab.hosts().skip(1) {
        well(host.raftup(&["join", token.trim()]).unwrap());
    }
    lab
}

/// What a command printed; it must have succeeded.
fn well(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// What a command said when it was refused: its exit status and its messages.
fn refused(output: Output) -> (i32, String) {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn write(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = lab.share().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn deploy(lab: &Lab, host: &Host, stack: &str, file: &str) -> Output {
    let path = write(lab, &format!("{stack}.yaml"), file);
    host.raftup(&["stack", "deploy", "-c", &path.display().to_string(), stack]).unwrap()
}

fn url(host: &Host) -> String {
    format!("http://{}:8080/", host.addr())
}

fn load(lab: &Lab, hosts: &[&str]) -> Running {
    let targets: Vec<String> = hosts.iter().map(|host| url(lab.host(host))).collect();
    Running::start(lab, &Plan::new(Mode::Fresh, &targets, 60.0, Duration::from_secs(120))).unwrap()
}

fn lossless(report: &Report, least: u64) {
    assert!(report.ok >= least, "too little load to tell: {} requests", report.ok);
    assert_eq!(report.failed, 0, "of {}: {:?} {:?}", report.sent, report.classes, report.failures);
}

/// Containers of the stack on all hosts that are on, by host and id.
fn containers(lab: &Lab) -> Vec<String> {
    let on = lab.hosts().filter(|host| host.is_on());
    let mut all: Vec<String> = on
        .flat_map(|host| {
            let ids = host.sh("docker ps -q --no-trunc --filter label=dev.raftup.cluster").unwrap();
            ids.lines().map(|id| format!("{} {id}", host.name())).collect::<Vec<_>>()
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_stack_is_served_on_every_host_and_leaves_nothing() {
    let lab = cluster("itstack", 3);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    well(deploy(&lab, h2, "shop", WEB));
    let running = load(&lab, &["h1", "h2", "h3"]);
    let before = containers(&lab);
    assert_eq!(before.len(), 3);
    well(deploy(&lab, h1, "shop", WEB));
    assert_eq!(containers(&lab), before, "the same file changes nothing");
    well(h1.raftup(&["service", "scale", "shop_web=6"]).unwrap());
    assert_eq!(containers(&lab).len(), 6);
    well(h1.raftup(&["service", "scale", "shop_web=2"]).unwrap());
    well(deploy(
        &lab,
        h1,
        "shop",
        &WEB.replace("helper:1", "helper:2").replace("replicas: 3", "replicas: 2"),
    ));
    let report = running.stop().unwrap();
    lossless(&report, 100);
    assert!(report.versions.len() == 2, "both versions answered: {:?}", report.versions);
    let client = lab.client().addr().to_string();
    assert!(report.clients.keys().all(|seen| seen.starts_with(&client)), "{:?}", report.clients);
    well(h2.raftup(&["stack", "rm", "shop"]).unwrap());
    for host in lab.hosts() {
        let left = "docker ps -aq; docker network ls -q -f name=shop; ip -o link | grep ' ru-[^f]' || true";
        let clean = || Ok(host.sh(left)?.trim().is_empty().then_some(()));
        wait_for(SOON, "containers, networks and bridges to go", clean).unwrap();
    }
}

#[test]
fn names_lead_to_services_across_hosts() {
    let lab = cluster("itnames", 3);
    let file = format!(
        "{WEB}  asker:\n    image: raftup/busybox:1\n    command: sleep 1000\n    deploy: {{mode: global}}\n"
    );
    well(deploy(&lab, lab.host("h1"), "shop", &file));
    for host in lab.hosts() {
        let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | docker exec -i $(docker ps -q -f name=shop_asker) nc -w 2 web 8080 | grep version";
        let answer = || Ok(host.sh(ask).ok());
        wait_for(SOON, "an answer by name", answer).unwrap();
    }
}

#[test]
fn daemons_that_are_killed_cost_nothing() {
    let lab = cluster("itkill", 3);
    well(deploy(&lab, lab.host("h1"), "shop", WEB));
    let before = containers(&lab);
    let running = load(&lab, &["h1", "h2", "h3"]);
    for host in lab.hosts() {
        host.kill_daemon().unwrap();
    }
    for host in lab.hosts() {
        host.start_daemon().unwrap();
    }
    let asked = || Ok(lab.host("h2").raftup(&["ps", "--quiet"])?.status.success().then_some(()));
    wait_for(SOON, "an answer of the cluster", asked).unwrap();
    let engine = lab.host("h3");
    engine.kill_engine().unwrap();
    engine.start_engine().unwrap();
    well(lab.host("h2").raftup(&["service", "scale", "shop_web=3"]).unwrap());
    lossless(&running.stop().unwrap(), 30);
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

#[test]
fn a_lost_host_is_replaced_even_if_it_led() {
    let lab = cluster("itlost", 3);
    well(deploy(&lab, lab.host("h1"), "shop", WEB));
    let voters = || {
        let nodes = well(lab.host("h1").raftup(&["node", "ls"])?);
        Ok((nodes.matches("Reachable").count() == 2).then_some(()))
    };
    wait_for(SOON, "three managers", voters).unwrap();
    let running = load(&lab, &["h2", "h3"]);
    let died = SystemTime::now();
    lab.host("h1").power_off().unwrap();
    wait_for(SOON, "replacements", || Ok((containers(&lab).len() == 3).then_some(()))).unwrap();
    let asked =
        || Ok(lab.host("h2").raftup(&["service", "scale", "shop_web=4"])?.status.success().then_some(()));
    wait_for(SOON, "a write", asked).unwrap();
    let report = running.stop().unwrap();
    let late = report.failures_after(died, BLIND);
    assert!(late.is_empty(), "{late:?}");
    assert!(report.ok > 100, "too little load to tell: {}", report.ok);
    lab.host("h1").power_on().unwrap();
    let back = || Ok((containers(&lab).len() == 4).then_some(()));
    wait_for(SOON, "the old tasks to go", back).unwrap();
}

#[test]
fn bad_input_is_refused_with_what_to_do() {
    let lab = cluster("itbad", 2);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let told = |output: Output, status: i32, part: &str| {
        let (code, text) = refused(output);
        assert!(code == status && text.contains(part), "exit {code}: {text}");
    };
    told(h1.raftup(&["init"]).unwrap(), 4, "in cluster");
    let token = well(h1.raftup(&["token", "--quiet"]).unwrap());
    let token = token.trim();
    well(h2.raftup(&["leave"]).unwrap());
    told(h2.raftup(&["ps"]).unwrap(), 7, "in no cluster");
    told(h2.raftup(&["join", &token[..token.len() - 3]]).unwrap(), 3, "damaged or cut short");
    well(h1.raftup(&["token", "--rotate", "--quiet"]).unwrap());
    told(h2.raftup(&["join", token]).unwrap(), 6, "token");
    told(h2.raftup(&["init", "--pool", "10.99.0.0/16"]).unwrap(), 4, "overlaps");
    let fresh = well(h1.raftup(&["token", "--quiet"]).unwrap());
    well(h2.raftup(&["join", fresh.trim()]).unwrap());
    for (change, status, part) in [
        (("replicas: 3", "replicas: 1000000000"), 3, "is not between 0 and 10000"),
        (("8080:8080", "99999:80"), 3, "99999"),
        (("image:", "imgae:"), 3, "imgae"),
        (("replicas: 3", "replicas: 1, placement: {constraints: [node.hostname == moon]}"), 1, "no node"),
        (("replicas: 3", "replicas: 1, resources: {reservations: {memory: 900G}}"), 1, "short of memory"),
        (("raftup/helper:1", "nowhere.invalid/nothing:1"), 1, "nowhere.invalid"),
    ] {
        told(deploy(&lab, h1, "bad", &WEB.replace(change.0, change.1)), status, part);
    }
}
