//! Changes under load, and tasks that die. No request may fail through a change; `make bench ARGS=lossless` makes the same
//! ones with a hundred thousand requests each.

use std::time::Duration;

use raftup_tests::{
    changes::{Changes, live},
    lab::wait_for,
    load::{Mode, Plan, Report, Running},
};

use crate::cluster::{SOON, cluster, deploy, nodes, well};

/// Where a task that died by itself is led to no more.
const RE_AIMED: Duration = Duration::from_millis(500);

#[test]
fn no_change_costs_a_request() {
    let lab = cluster("itchange", 3);
    nodes(lab.host("h1"), "Reachable", 2);
    let changes = Changes::new(&lab, None, |outcome| {
        println!("{}", outcome.text());
        anyhow::ensure!(outcome.failed() == 0, "{}", outcome.text());
        Ok(())
    });
    changes.run().unwrap_or_else(|error| panic!("{error:#}"));
}

const SERVICE: &str = "services:
  web:
    image: raftup/helper:1
    ports: ['8080:8080']
    stop_grace_period: 5s
    healthcheck: {test: [CMD, /helper, get, 'http://127.0.0.1:8080/healthz'], interval: 500ms, retries: 2}
    deploy: {replicas: 3}
";

/// The window in which requests that start fail, and whether any did.
fn window(report: &Report) -> Duration {
    let starts = report.failures.iter().map(|failure| failure.at_ms);
    let (first, last) = (starts.clone().min(), starts.max());
    Duration::from_millis(last.zip(first).map_or(0, |(last, first)| last - first))
}

#[test]
fn a_task_that_dies_is_led_to_no_more_within_half_a_second() {
    let lab = cluster("itdeath", 3);
    well(deploy(&lab, lab.host("h2"), "shop", SERVICE));
    let targets: Vec<String> = lab.hosts().map(|host| format!("http://{}:8080/", host.addr())).collect();
    for host in lab.hosts() {
        let plan = Plan::new(Mode::Fresh, &targets, 200.0, Duration::from_secs(60));
        let running = Running::start(&lab, &plan).unwrap();
        let first = "docker ps -q --no-trunc --filter label=dev.raftup.cluster | head -1";
        let killed = host.sh(first).unwrap().trim().to_owned();
        host.sh(&format!("docker kill {killed}")).unwrap();
        let replaced = || {
            let live = live(host)?;
            Ok((live.len() == 3 && live.iter().all(|task| task["container"] != killed.as_str()))
                .then_some(()))
        };
        wait_for(SOON, "a new task", replaced).unwrap();
        let report = running.stop().unwrap();
        println!(
            "killed on {}: {} of {} failed within {:?}: {:?}",
            host.name(),
            report.failed,
            report.sent,
            window(&report),
            report.classes
        );
        assert!(window(&report) <= RE_AIMED, "{:?}", report.failures);
        assert!(report.ok > 200, "too little load to tell: {}", report.ok);
    }
}
