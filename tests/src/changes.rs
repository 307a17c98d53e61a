//! Changes of a service and of the cluster under it, each under load: over fresh connections and kept ones, through all
//! hosts.
//!
//! Owns: what is changed, in which order, and that it came about. Leaves alone: how many requests may fail.

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    lab::{Host, Lab, wait_for},
    load::{Mode, Plan, Report, Running},
};

const SOON: Duration = Duration::from_secs(60);

/// Load ends by itself after that.
const LONGEST: Duration = Duration::from_secs(600);

/// Requests a second in each of the two ways, where the load lasts as long as the change.
const RATE: f64 = 60.0;
/// The same where the number of requests is given.
const HIGH_RATE: f64 = 1000.0;

/// One change, and what came of the requests meanwhile.
pub struct Outcome {
    /// What was changed.
    pub what: &'static str,
    /// How long it took until it was done.
    pub took: Duration,
    /// Over fresh connections, and over kept ones.
    pub reports: [Report; 2],
}

impl Outcome {
    /// Requests that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.reports.iter().map(|report| report.sent).sum()
    }

    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.reports.iter().map(|report| report.failed).sum()
    }

    /// All of it in one line, with the first failures.
    #[must_use]
    pub fn text(&self) -> String {
        let [fresh, kept] = &self.reports;
        let p99 = fresh.latency.p99_ms.max(kept.latency.p99_ms);
        let first: Vec<_> = self.reports.iter().flat_map(|report| report.failures.iter().take(3)).collect();
        format!(
            "{}: {:.1?}, {} requests, {} failed, {} sent again, p99 {p99:.1} ms {first:?}",
            self.what,
            self.took,
            self.sent(),
            self.failed(),
            kept.resent
        )
    }
}

/// The stack that is changed: a service that says who answers, with a check that vouches for it.
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
networks: {{default: {{}}, further: {{}}}}
"
    )
}

/// Changes of one cluster of three hosts.
pub struct Changes<'a> {
    lab: &'a Lab,
    /// How many in each change; none for as many as it takes to see it through.
    requests: Option<u64>,
    done: Box<dyn FnMut(Outcome) -> anyhow::Result<()> + 'a>,
}

impl<'a> Changes<'a> {
    /// In a lab of three hosts that form a cluster without a stack. `done` is told each outcome; its error ends the rest.
    pub fn new(
        lab: &'a Lab,
        requests: Option<u64>,
        done: impl FnMut(Outcome) -> anyhow::Result<()> + 'a,
    ) -> Self {
        Self { lab, requests, done: Box::new(done) }
    }

    /// Makes all changes, one after the other. Errors: one did not come about, or `done` has had enough.
    pub fn run(mut self) -> anyhow::Result<()> {
        self.versions()?;
        self.daemons()?;
        self.places()?;
        self.alone()
    }

    /// Three replicas become those of another version, and again.
    fn versions(&mut self) -> anyhow::Result<()> {
        let lab = self.lab;
        deployed(lab, &file(3, 1, "stop-first", ""))?;
        self.under_load("update, stop-first, three replicas", || {
            deployed(lab, &file(3, 2, "stop-first", ""))
        })?;
        answered_by(lab, "2")?;
        self.under_load("rollback", || {
            let text = well(lab.host("h1").raftup(&["service", "rollback", "shop_web"])?)?;
            ensure!(text.contains("3/3 running"), "{text}");
            Ok(())
        })?;
        answered_by(lab, "1")?;
        self.under_load("automatic rollback", || {
            let broken = file(3, 2, "stop-first", "environment: {HELPER_UNHEALTHY: 1}");
            let (status, text) = said(deploy(lab, &broken)?);
            ensure!(status == Some(1) && text.contains("rollback_started"), "{text}");
            ensure!(text.contains("unhealthy"), "{text}");
            let shown = well(lab.host("h1").raftup(&["service", "inspect", "shop_web"])?)?;
            ensure!(shown.contains("rollback_completed"), "{shown}");
            Ok(())
        })?;
        answered_by(lab, "1")?;
        self.under_load("network attached", || {
            deployed(lab, &file(3, 1, "stop-first", "networks: [default, further]"))
        })?;
        self.under_load("network detached", || deployed(lab, &file(3, 1, "stop-first", "")))
    }

    fn daemons(&mut self) -> anyhow::Result<()> {
        let lab = self.lab;
        self.under_load("every daemon restarted", || {
            for host in lab.hosts() {
                host.stop(crate::lab::What::Daemon)?;
                host.start_daemon()?;
                all_well(lab)?;
            }
            Ok(())
        })?;
        self.under_load("every daemon killed", || {
            for host in lab.hosts() {
                host.kill_daemon()?;
                host.start_daemon()?;
                all_well(lab)?;
            }
            Ok(())
        })?;
        self.under_load("leader changed", || {
            let first = leader(lab)?;
            first.kill_daemon()?;
            let other = lab.hosts().find(|host| host.name() != first.name()).context("one host")?;
            // Taken by the next leader.
            well(other.raftup(&["node", "update", "--label-add", "asked=once", other.name()])?)?;
            first.start_daemon()?;
            all_well(lab)
        })
    }

    /// Fewer tasks, and tasks elsewhere.
    fn places(&mut self) -> anyhow::Result<()> {
        let lab = self.lab;
        let h1 = lab.host("h1");
        well(h1.raftup(&["service", "scale", "shop_web=6"])?)?;
        self.under_load("scale from six to two", || {
            well(h1.raftup(&["service", "scale", "shop_web=2"])?)?;
            let two = || Ok((containers(lab)? == 2).then_some(()));
            wait_for(SOON, "four containers to go", two)
        })?;
        let drained = places(h1)?.into_iter().next().context("no task")?;
        self.under_load("drain, two replicas", || drain(h1, &drained))?;
        well(h1.raftup(&["node", "update", "--availability", "active", &drained])?)?;
        Ok(())
    }

    /// One replica, which another one replaces before it ends.
    fn alone(&mut self) -> anyhow::Result<()> {
        let lab = self.lab;
        let h1 = lab.host("h1");
        deployed(lab, &file(1, 1, "start-first", ""))?;
        self.under_load("update, start-first, one replica", || {
            deployed(lab, &file(1, 2, "start-first", ""))
        })?;
        answered_by(lab, "2")?;
        let drained = places(h1)?.into_iter().next().context("no task")?;
        self.under_load("drain, one replica", || drain(h1, &drained))?;
        let engine = lab.host(&drained).sh("docker ps -q --filter label=dev.raftup.cluster")?;
        ensure!(engine.trim().is_empty(), "something is left on the drained host: {engine}");
        let other = lab.hosts().find(|host| host.name() != drained).context("one host")?;
        well(other.raftup(&["node", "rm", &drained])?)?;
        Ok(())
    }

    fn under_load(
        &mut self,
        what: &'static str,
        act: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let running = self.load()?;
        let begun = Instant::now();
        let acted = act();
        let took = begun.elapsed();
        // All of the change, and as many requests as were asked for.
        thread::sleep(self.length().saturating_sub(took));
        let ended = running.map(Running::stop);
        acted.with_context(|| what.to_owned())?;
        let [fresh, kept] = ended;
        let outcome = Outcome { what, took, reports: [fresh?, kept?] };
        let least = self.requests.map_or(20, |all| all - all / 100);
        ensure!(outcome.sent() >= least, "{what}: too little load to tell: {}", outcome.text());
        (self.done)(outcome)
    }

    /// How long it takes to send the requests that were asked for.
    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.requests.unwrap_or_default() as f64 / 2.0 / HIGH_RATE)
    }

    /// Both ways of load through all hosts.
    fn load(&self) -> anyhow::Result<[Running; 2]> {
        let targets = targets(self.lab);
        let rate = if self.requests.is_some() { HIGH_RATE } else { RATE };
        let start = |mode| Running::start(self.lab, &Plan::new(mode, &targets, rate, LONGEST));
        Ok([start(Mode::Fresh)?, start(Mode::Keepalive)?])
    }
}

fn targets(lab: &Lab) -> Vec<String> {
    lab.hosts().map(|host| format!("http://{}:8080/", host.addr())).collect()
}

/// What a command printed, on both its outputs. Errors: it failed.
fn well(output: Output) -> anyhow::Result<String> {
    let (status, text) = said(output);
    ensure!(status == Some(0), "{text}");
    Ok(text)
}

fn said(output: Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn deploy(lab: &Lab, text: &str) -> anyhow::Result<Output> {
    let path = lab.share().join("shop.yaml");
    std::fs::write(&path, text)?;
    lab.host("h2").raftup(&["stack", "deploy", "-c", &path.display().to_string(), "shop"])
}

fn deployed(lab: &Lab, text: &str) -> anyhow::Result<()> {
    well(deploy(lab, text)?).map(drop)
}

fn drain(host: &Host, drained: &str) -> anyhow::Result<()> {
    well(host.raftup(&["node", "update", "--availability", "drain", drained])?)?;
    ensure!(!places(host)?.iter().any(|place| place == drained), "a task is left on {drained}");
    Ok(())
}

/// The tasks of the stack that run, as the API shows them.
pub fn live(host: &Host) -> anyhow::Result<Vec<Value>> {
    let tasks: Vec<Value> = serde_json::from_str(&well(host.raftup(&["stack", "ps", "--json", "shop"])?)?)?;
    Ok(tasks.into_iter().filter(|task| task["desired"] == true && task["state"] == "running").collect())
}

/// The hosts of the tasks that run, one for each.
fn places(host: &Host) -> anyhow::Result<Vec<String>> {
    let hostname = |task: &Value| task["hostname"].as_str().unwrap_or_default().to_owned();
    Ok(live(host)?.iter().map(hostname).collect())
}

fn containers(lab: &Lab) -> anyhow::Result<usize> {
    let all = |host: &Host| Ok(host.sh("docker ps -q --filter label=dev.raftup.cluster")?.lines().count());
    lab.hosts().map(all).sum()
}

/// Every answer is of this version, through each host.
fn answered_by(lab: &Lab, version: &str) -> anyhow::Result<()> {
    let plan = Plan::new(Mode::Fresh, &targets(lab), RATE, Duration::from_secs(1));
    let report = Running::start(lab, &plan)?.finish()?;
    ensure!(report.versions.keys().eq([version]), "{:?} answer, not {version} alone", report.versions);
    Ok(())
}

fn nodes(host: &Host) -> anyhow::Result<Vec<Value>> {
    Ok(serde_json::from_str(&well(host.raftup(&["node", "ls", "--json"])?)?)?)
}

/// Waits until all nodes are ready and vote.
fn all_well(lab: &Lab) -> anyhow::Result<()> {
    let votes = |node: &Value| {
        node["state"] == "ready" && (node["manager"] == "leader" || node["manager"] == "reachable")
    };
    let all = || Ok((nodes(lab.host("h1"))?.iter().filter(|node| votes(node)).count() == 3).then_some(()));
    wait_for(SOON, "three managers", all)
}

fn leader(lab: &Lab) -> anyhow::Result<&Host> {
    let found = || {
        let nodes = nodes(lab.host("h1"))?;
        let name = nodes.iter().find(|node| node["manager"] == "leader").map(|node| node["hostname"].clone());
        Ok(name.and_then(|name| lab.hosts().find(|host| name == host.name())))
    };
    wait_for(SOON, "leader", found)
}
