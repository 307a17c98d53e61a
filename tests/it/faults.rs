//! Daemons, engines and hosts that die under load.
//!
//! Load goes through two hosts; what dies is on the third. Tasks run on all three.

use std::time::{Duration, Instant, SystemTime};

use raftup_tests::{
    lab::{Host, Lab, wait_for},
    load::{Mode, Running},
};

use crate::cluster::{
    SOON, WEB, cluster, containers, deploy, get, leader, load, load_in, lossless, nodes, well, writable,
};

/// New connections may fail for that long after a host has died.
const BLIND: Duration = Duration::from_secs(2);

/// Three managers, and a task of a service on each.
fn served(id: &str) -> Lab {
    let lab = cluster(id, 3);
    nodes(lab.host("h1"), "Reachable", 2);
    well(deploy(&lab, lab.host("h1"), "shop", WEB));
    assert_eq!(containers(&lab).len(), 3);
    lab
}

fn both(lab: &Lab, hosts: &[&str]) -> [Running; 2] {
    [load(lab, hosts), load_in(Mode::Keepalive, lab, hosts)]
}

fn all_lossless(load: [Running; 2], least: u64) {
    for running in load {
        lossless(&running.stop().unwrap(), least);
    }
}

/// The names of the other two hosts.
fn others(lab: &Lab, one: &Host) -> Vec<String> {
    lab.hosts().map(|host| host.name().to_owned()).filter(|name| name != one.name()).collect()
}

#[test]
fn a_daemon_that_is_killed_ten_times_costs_nothing() {
    let lab = served("itten");
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    let before = containers(&lab);
    let load = both(&lab, &["h1", "h2"]);
    for _ in 0..10 {
        h3.kill_daemon().unwrap();
        h3.start_daemon().unwrap();
        let asked = || Ok(h3.raftup(&["ps", "--quiet"])?.status.success().then_some(()));
        wait_for(SOON, "an answer of the cluster through h3", asked).unwrap();
        // Each kill hits a daemon that is back in full.
        nodes(h1, "Ready", 3);
        nodes(h1, "Reachable", 2);
    }
    writable(h1, "shop_web", 3);
    nodes(h1, "Ready", 3);
    all_lossless(load, 100);
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

#[test]
fn all_daemons_killed_at_once_cost_nothing() {
    let lab = served("itkill");
    let before = containers(&lab);
    let load = both(&lab, &["h1", "h2", "h3"]);
    for host in lab.hosts() {
        host.kill_daemon().unwrap();
    }
    for host in lab.hosts() {
        host.start_daemon().unwrap();
    }
    writable(lab.host("h2"), "shop_web", 3);
    nodes(lab.host("h2"), "Ready", 3);
    all_lossless(load, 30);
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

#[test]
fn an_engine_that_is_killed_costs_nothing() {
    let lab = served("itdockerd");
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    let before = containers(&lab);
    let load = both(&lab, &["h1", "h2"]);
    h3.kill_engine().unwrap();
    nodes(h1, "answer", 1);
    writable(h1, "shop_web", 3);
    h3.start_engine().unwrap();
    nodes(h1, "answer", 0);
    writable(h1, "shop_web", 3);
    all_lossless(load, 30);
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

/// For so long that its node counts as down, while its containers serve on.
#[test]
fn a_leader_that_is_killed_costs_nothing() {
    let lab = served("itleader");
    let first = leader(&lab, lab.host("h1"));
    let others = others(&lab, first);
    let other = lab.host(&others[0]);
    let load = both(&lab, &[&others[0], &others[1]]);
    let died = Instant::now();
    first.kill_daemon().unwrap();
    // On its way to a leader that is gone, it is asked again of the next one.
    well(other.raftup(&["node", "update", "--label-add", "asked=once", other.name()]).unwrap());
    writable(other, "shop_web", 3);
    eprintln!(
        "a change was taken {:.1} s after the leader's daemon was killed",
        died.elapsed().as_secs_f64()
    );
    nodes(other, "Down", 1);
    first.start_daemon().unwrap();
    nodes(other, "Ready", 3);
    writable(other, "shop_web", 3);
    let settled = || Ok((containers(&lab).len() == 3).then_some(()));
    wait_for(SOON, "three containers", settled).unwrap();
    all_lossless(load, 60);
}

#[test]
fn a_lost_host_is_replaced() {
    let lab = served("itlost");
    let first = leader(&lab, lab.host("h1"));
    let lost = lab.hosts().find(|host| host.name() != first.name()).unwrap();
    lose(&lab, lost);
}

#[test]
fn a_lost_leader_is_replaced() {
    let lab = served("itlostlead");
    lose(&lab, leader(&lab, lab.host("h1")));
}

/// Takes the power of a host away under load and gives it back.
fn lose(lab: &Lab, lost: &Host) {
    let others = others(lab, lost);
    let other = lab.host(&others[0]);
    let load = both(lab, &[&others[0], &others[1]]);
    // Long enough for connections to be kept to all tasks.
    std::thread::sleep(Duration::from_secs(1));
    let (died, at) = (SystemTime::now(), Instant::now());
    lost.power_off().unwrap();
    let replaced = || Ok((containers(lab).len() == 3).then_some(()));
    wait_for(SOON, "replacements", replaced).unwrap();
    eprintln!("replacements ran {:.1} s after {} lost its power", at.elapsed().as_secs_f64(), lost.name());
    writable(other, "shop_web", 4);
    eprintln!("a change was carried out {:.1} s after that", at.elapsed().as_secs_f64());
    for running in load {
        let report = running.stop().unwrap();
        let late = report.failures_after(died, BLIND);
        let last = report.failures.last().map_or(0, |failure| report.started_unix_ms + failure.at_ms);
        let since = died.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        eprintln!(
            "{} of {} failed, the last {} ms after",
            report.failed,
            report.sent,
            i128::from(last) - since as i128
        );
        assert!(late.is_empty(), "{late:?}");
        assert!(report.ok > 100, "too little load to tell: {}", report.ok);
    }
    lost.power_on().unwrap();
    nodes(other, "Ready", 3);
    let back = || Ok((containers(lab).len() == 4).then_some(()));
    wait_for(SOON, "the old tasks to go", back).unwrap();
}

/// Longest time until rules that someone took away are back.
const REPAIRED: Duration = Duration::from_secs(5);

#[test]
fn rules_that_someone_flushes_come_back() {
    let lab = cluster("itflush", 2);
    let h1 = lab.host("h1");
    well(deploy(&lab, h1, "shop", WEB));
    for flush in ["nft flush ruleset", "nft delete table ip raftup", "iptables -F DOCKER-USER"] {
        h1.sh(flush).unwrap();
        let whole = || {
            let ours = h1.sh("nft list map ip raftup ports; iptables -S DOCKER-USER").unwrap_or_default();
            Ok((ours.contains("8080") && ours.contains("-i ru-fabric -j ACCEPT")).then_some(()))
        };
        wait_for(REPAIRED, flush, whole).unwrap();
        get(&lab, h1, "8080/").unwrap();
    }
}
