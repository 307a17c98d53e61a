//! Changes under load: updates, rollbacks, drains, scaling. No request may fail, over fresh connections or kept ones,
//! through any host.
//!
//! `RAFTUP_CHANGE_REQUESTS=100000` sends so many in each change; without it as many as it takes to see it through.

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

/// Where a task that died by itself is led to no more.
const RE_AIMED: Duration = Duration::from_millis(500);

/// Requests a second in each of the two ways.
const RATE: f64 = 60.0;
/// The same where the number of requests was asked for.
const HIGH_RATE: f64 = 700.0;

/// A service that says who answers, with a check that vouches for it.
fn file(replicas: u32, version: u32, order: &str, more: &str) -> String {
    format!(
        "services:
  web:
    image: raftup/helper:{version}
    ports: ['8080:8080']
    stop_grace_period: 5s
    healthcheck: {{test: [CMD, /helper, get, 'http://127.0.0.1:8080/healthz'], interval: 500ms, retries: 2}}
    {more}
    deploy:
      replicas: {replicas}
      update_config: {{order: {order}, failure_action: rollback}}
"
    )
}

fn cluster(id: &str) -> Lab {
    let lab = Lab::up(&Options::new(id, 3).unwrap()).unwrap_or_else(|error| panic!("{error:#}"));
    let first = lab.host("h1");
    well(first.raftup(&["init"]).unwrap());
    let token = well(first.raftup(&["token", "--quiet"]).unwrap());
    for host in lab.hosts().skip(1) {
        well(host.raftup(&["join", token.trim()]).unwrap());
    }
    lab
}

/// What a command printed, on both its outputs; it must have succeeded.
fn well(output: Output) -> String {
    let (status, text) = said(output);
    assert_eq!(status, Some(0), "{text}");
    text
}

fn said(output: Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn deploy(lab: &Lab, text: &str) -> Output {
    let path: PathBuf = lab.share().join("shop.yaml");
    std::fs::write(&path, text).unwrap();
    lab.host("h2").raftup(&["stack", "deploy", "-c", &path.display().to_string(), "shop"]).unwrap()
}

fn requests() -> Option<f64> {
    let text = std::env::var("RAFTUP_CHANGE_REQUESTS").ok()?;
    Some(text.parse().expect("RAFTUP_CHANGE_REQUESTS is a number"))
}

/// Both ways of load through all hosts.
fn load(lab: &Lab) -> [Running; 2] {
    let targets: Vec<String> = lab.hosts().map(|host| format!("http://{}:8080/", host.addr())).collect();
    [Mode::Fresh, Mode::Keepalive].map(|mode| {
        let plan = match requests() {
            Some(all) => Plan::new(mode, &targets, HIGH_RATE, Duration::from_secs_f64(all / 2.0 / HIGH_RATE)),
            None => Plan::new(mode, &targets, RATE, Duration::from_secs(240)),
        };
        Running::start(lab, &plan).unwrap()
    })
}

/// Does something under load; not a request may fail.
fn lossless<T>(lab: &Lab, what: &str, act: impl FnOnce() -> T) -> T {
    let running = load(lab);
    let begun = SystemTime::now();
    let done = act();
    let took = begun.elapsed().unwrap();
    for one in running {
        let report = if requests().is_some() { one.finish() } else { one.stop() }.unwrap();
        println!(
            "{what}: {took:.1?}, {} requests, {} failed, {} sent again, p99 {:.1} ms, longest {:.1} ms",
            report.sent, report.failed, report.resent, report.latency.p99_ms, report.latency.max_ms
        );
        assert_eq!(report.failed, 0, "{what}: {:?} {:?}", report.classes, report.failures);
        let least = requests().map_or(10.0, |all| all / 2.0 * 0.99);
        assert!(report.ok as f64 >= least, "{what}: too little load to tell: {}", report.ok);
    }
    done
}

/// The tasks that run, as the API shows them.
fn live(host: &Host) -> Vec<serde_json::Value> {
    let json = well(host.raftup(&["stack", "ps", "--json", "shop"]).unwrap());
    let tasks: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    tasks.into_iter().filter(|task| task["desired"] == true && task["state"] == "running").collect()
}

/// The hosts of the tasks that run, one for each.
fn places(host: &Host) -> Vec<String> {
    let hostname = |task: &serde_json::Value| task["hostname"].as_str().unwrap_or_default().to_owned();
    live(host).iter().map(hostname).collect()
}

fn versions(report: &Report) -> Vec<&str> {
    report.versions.keys().map(String::as_str).collect()
}

fn answers(lab: &Lab) -> Report {
    let targets: Vec<String> = lab.hosts().map(|host| format!("http://{}:8080/", host.addr())).collect();
    let plan = Plan::new(Mode::Fresh, &targets, RATE, Duration::from_secs(1));
    Running::start(lab, &plan).unwrap().finish().unwrap()
}

#[test]
fn no_change_costs_a_request() {
    let lab = cluster("itchange");
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    well(deploy(&lab, &file(3, 1, "stop-first", "")));

    lossless(&lab, "update, stop-first, three replicas", || {
        well(deploy(&lab, &file(3, 2, "stop-first", "")));
    });
    assert_eq!(versions(&answers(&lab)), ["2"]);

    lossless(&lab, "rollback", || {
        let text = well(h1.raftup(&["service", "rollback", "shop_web"]).unwrap());
        assert!(text.contains("3/3 running"), "{text}");
    });
    assert_eq!(versions(&answers(&lab)), ["1"]);

    let (status, text) = lossless(&lab, "automatic rollback", || {
        said(deploy(&lab, &file(3, 2, "stop-first", "environment: {HELPER_UNHEALTHY: 1}")))
    });
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("rollback_started") && text.contains("unhealthy"), "{text}");
    let shown = well(h1.raftup(&["service", "inspect", "shop_web"]).unwrap());
    assert!(shown.contains("rollback_completed"), "{shown}");
    assert_eq!(versions(&answers(&lab)), ["1"]);

    well(h1.raftup(&["service", "scale", "shop_web=6"]).unwrap());
    lossless(&lab, "scale from six to two", || {
        well(h1.raftup(&["service", "scale", "shop_web=2"]).unwrap());
        let two = || Ok((containers(&lab) == 2).then_some(()));
        wait_for(SOON, "four containers to go", two).unwrap();
    });

    let drained = places(h1)[0].clone();
    lossless(&lab, "drain, two replicas", || {
        well(h1.raftup(&["node", "update", "--availability", "drain", &drained]).unwrap());
        assert!(!places(h1).contains(&drained));
    });
    well(h1.raftup(&["node", "update", "--availability", "active", &drained]).unwrap());

    well(deploy(&lab, &file(1, 1, "start-first", "")));
    lossless(&lab, "update, start-first, one replica", || {
        well(deploy(&lab, &file(1, 2, "start-first", "")));
    });
    assert_eq!(versions(&answers(&lab)), ["2"]);

    let drained = places(h1)[0].clone();
    lossless(&lab, "drain, one replica", || {
        well(h1.raftup(&["node", "update", "--availability", "drain", &drained]).unwrap());
        assert!(!places(h1).contains(&drained));
    });
    let engine = lab.host(&drained).sh("docker ps -q --filter label=dev.raftup.cluster").unwrap();
    assert_eq!(engine.trim(), "", "nothing is left on the drained host");
    let other = if drained == "h3" { h1 } else { h3 };
    well(other.raftup(&["node", "rm", &drained]).unwrap());
}

fn containers(lab: &Lab) -> usize {
    let all = |host: &Host| host.sh("docker ps -q --filter label=dev.raftup.cluster").unwrap();
    lab.hosts().map(|host| all(host).lines().count()).sum()
}

/// The window in which requests that start fail, and whether any did.
fn window(report: &Report) -> Duration {
    let starts = report.failures.iter().map(|failure| failure.at_ms);
    let (first, last) = (starts.clone().min(), starts.max());
    Duration::from_millis(last.zip(first).map_or(0, |(last, first)| last - first))
}

#[test]
fn a_task_that_dies_is_led_to_no_more_within_half_a_second() {
    let lab = cluster("itdeath");
    well(deploy(&lab, &file(3, 1, "stop-first", "")));
    let targets: Vec<String> = lab.hosts().map(|host| format!("http://{}:8080/", host.addr())).collect();
    for host in lab.hosts() {
        let plan = Plan::new(Mode::Fresh, &targets, 200.0, Duration::from_secs(60));
        let running = Running::start(&lab, &plan).unwrap();
        let first = "docker ps -q --no-trunc --filter label=dev.raftup.cluster | head -1";
        let killed = host.sh(first).unwrap().trim().to_owned();
        host.sh(&format!("docker kill {killed}")).unwrap();
        let replaced = || {
            let live = live(host);
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
