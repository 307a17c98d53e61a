//! What somebody does by hand beside the cluster, and changes that come in between: the wanted state comes back, and what
//! was in the way is said.

use std::process::Output;

use raftup_tests::lab::{Host, Lab, Options, What, wait_for};

use crate::cluster::{SOON, cluster, deploy, form, join, lab, leader, well, write};

/// Ends with status 0 when it is told to.
const POLITE: &str = "services:
  web:
    image: raftup/helper:1
    healthcheck: {disable: true}
    stop_grace_period: 2s
    deploy: {replicas: 2, restart_policy: {condition: on-failure, delay: 1s}}
";

fn running(host: &Host) -> Vec<String> {
    let listed = host.sh("docker ps --no-trunc -q -f name=shop_web").unwrap();
    listed.split_whitespace().map(str::to_owned).collect()
}

/// Two containers run on the host, none of them `other`.
fn replaced(host: &Host, other: &str) {
    let two = || Ok(Some(running(host)).filter(|all| all.len() == 2 && !all.iter().any(|one| one == other)));
    wait_for(SOON, "two containers, none of them the old one", two).unwrap();
}

#[test]
fn what_docker_commands_do_to_our_containers_does_not_last() {
    let lab = cluster("itbyhand", 1);
    let host = lab.host("h1");
    well(deploy(&lab, host, "shop", POLITE));
    for command in ["restart -t 1", "stop -t 1", "kill", "rm -f", "network disconnect -f shop_default"] {
        let old = running(host)[0].clone();
        host.sh(&format!("docker {command} {old}")).unwrap();
        replaced(host, &old);
    }
    let old = running(host)[0].clone();
    host.sh(&format!("docker pause {old}")).unwrap();
    let goes_on = || {
        let state = host.sh(&format!("docker inspect -f '{{{{.State.Paused}}}}' {old}"))?;
        Ok((state.trim() == "false").then_some(()))
    };
    wait_for(SOON, "it goes on", goes_on).unwrap();
    host.sh(&format!("docker rename {old} mine")).unwrap();
    well(host.raftup(&["service", "update", "--force", "shop_web"]).unwrap());
    replaced(host, &old);
    well(host.raftup(&["stack", "rm", "shop"]).unwrap());
    let nothing =
        || Ok(host.sh("docker ps -aq; docker network ls -q -f name=shop_")?.is_empty().then_some(()));
    wait_for(SOON, "neither containers nor networks", nothing).unwrap();
}

/// As a package's upgrade does with Docker's defaults.
#[test]
fn an_engine_that_is_stopped_ends_no_task() {
    let lab = lab(&Options { live_restore: false, ..Options::new("itengine", 1).unwrap() });
    form(&lab, 1);
    let host = lab.host("h1");
    well(deploy(&lab, host, "shop", &POLITE.replace("on-failure", "none")));
    let old = running(host)[0].clone();
    host.stop(What::Engine).unwrap();
    host.start(What::Engine).unwrap();
    replaced(host, &old);
}

fn watched(lab: &Lab, host: &Host, image: &str) -> std::thread::JoinHandle<Output> {
    let file = POLITE
        .replace("raftup/helper:1", image)
        .replace("replicas: 2", "replicas: 2, update_config: {monitor: 10s}");
    let path = write(lab, "next.yaml", &file).display().to_string();
    let host = host.clone();
    std::thread::spawn(move || host.raftup(&["stack", "deploy", "-c", &path, "shop"]).unwrap())
}

/// Waits until the service is at that version.
fn at_version(host: &Host, number: u64) {
    let is_there = || {
        let said = host.sh("raftup service inspect --json shop_web")?;
        Ok(said.contains(&format!("\"version\": {number}")).then_some(()))
    };
    wait_for(SOON, "the next version", is_there).unwrap();
}

fn failed(output: std::thread::JoinHandle<Output>, words: &str) {
    let output = output.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(words), "{said}");
}

#[test]
fn a_deploy_that_is_overtaken_fails_and_says_by_what() {
    let lab = cluster("itovertaken", 1);
    let host = lab.host("h1");
    well(deploy(&lab, host, "shop", POLITE));
    let first = watched(&lab, host, "raftup/helper:2");
    at_version(host, 2);
    well(host.raftup(&["service", "rollback", "--detach", "shop_web"]).unwrap());
    failed(first, "was rolled back by hand meanwhile");
    let second = watched(&lab, host, "raftup/helper:2");
    at_version(host, 4);
    well(host.raftup(&["service", "update", "--detach", "--env-add", "A=1", "shop_web"]).unwrap());
    failed(second, "was changed meanwhile");
    let third = watched(&lab, host, "raftup/helper:1");
    at_version(host, 6);
    well(host.raftup(&["stack", "rm", "--detach", "shop"]).unwrap());
    failed(third, "removed meanwhile");
    // A deploy waits for the removal of its stack.
    well(deploy(&lab, host, "shop", POLITE));
}

#[test]
fn a_leader_leaves_at_the_first_attempt_and_status_knows_what_is_left() {
    let lab = cluster("itleave", 3);
    let other = |leader: &Host| lab.hosts().find(|host| host.name() != leader.name()).unwrap();
    for _ in 0..3 {
        let leaving = leader(&lab, lab.host("h1"));
        let stays = other(leaving);
        well(leaving.raftup(&["leave"]).unwrap());
        let none = || {
            let said = well(stays.raftup(&["status"]).unwrap());
            Ok((said.contains("2, all ready") && said.contains("none")).then_some(()))
        };
        wait_for(SOON, "two nodes and no problems", none).unwrap();
        join(stays, leaving);
    }
    let h1 = lab.host("h1");
    let stuck =
        POLITE.replace("replicas: 2,", "replicas: 1, placement: {constraints: [node.labels.x == 1]},");
    assert!(!deploy(&lab, h1, "shop", &stuck).status.success());
    well(h1.raftup(&["node", "demote", "h2"]).unwrap());
    well(h1.raftup(&["node", "demote", "h3"]).unwrap());
    let all_known = || {
        let said = well(h1.raftup(&["status"]).unwrap());
        let words = ["service shop_web: slot 1: no node fits", "1 manager holds the state, 3 would be safer"];
        Ok(words.iter().all(|word| said.contains(word)).then_some(()))
    };
    wait_for(SOON, "what stays wrong, in `status`", all_known).unwrap();
    let doctor = h1.raftup(&["doctor"]).unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("1 manager holds the state"));
}

#[test]
fn a_node_that_is_removed_by_force_lets_its_tasks_go() {
    let lab = cluster("itremoved", 3);
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    well(deploy(&lab, h1, "shop", &POLITE.replace("replicas: 2,", "mode: global,")));
    assert_eq!(running(h3).len(), 1);
    well(h1.raftup(&["node", "rm", "--force", "h3"]).unwrap());
    wait_for(SOON, "nothing runs there", || Ok(running(h3).is_empty().then_some(()))).unwrap();
    assert_eq!(running(h1).len(), 1);
    well(h3.raftup(&["leave", "--force"]).unwrap());
}
