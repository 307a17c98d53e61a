//! A daemon killed, a host powered off: how long until changes are accepted, tasks run again, requests succeed.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use raftup_tests::{
    lab::{Host, Lab, Options, What, wait_for},
    load::{Mode, Plan, Report, Running},
};

use crate::{
    cluster::{Engines, Formed, Nodes, PATIENCE, image_id, lab, raftup, seconds, share, swarm, well},
    table::{Row, Target, note},
};

const REPLICAS: usize = 6;
/// Requests a second while a host is lost, over both hosts that are left.
const RATE: f64 = 100.0;
/// How long requests are sent after the fault, at least.
const WATCHED: Duration = Duration::from_secs(8);

/// What came of a lost host, in seconds after the power was off.
struct Lost {
    /// The last replacement has started.
    replaced: f64,
    /// A change has been accepted.
    written: f64,
    /// The last request that failed was sent; of raftup only.
    failed: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Leader,
    Follower,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Raftup,
    Swarm,
}

/// All rounds of one side.
#[derive(Default)]
struct Outcome {
    killed: Vec<f64>,
    leader: Vec<Lost>,
    follower: Vec<Lost>,
}

pub(crate) fn measure(rounds: u32, with_swarm: bool) -> anyhow::Result<Vec<Row>> {
    let ours = run(Side::Raftup, rounds).context("raftup")?;
    let theirs = with_swarm.then(|| run(Side::Swarm, rounds)).transpose().context("Swarm")?;
    let row = |what: &str, target, get: &dyn Fn(&Outcome) -> Vec<f64>| {
        let row = Row::new(what, "s", get(&ours)).target(Target::AtMost(target));
        match &theirs {
            Some(theirs) => row.beside("Docker Swarm", get(theirs), None),
            None => row,
        }
    };
    let each = |lost: &[Lost], get: fn(&Lost) -> f64| lost.iter().map(get).collect::<Vec<f64>>();
    let mut rows = vec![
        row("leader's daemon killed: first write", 2.0, &|side| side.killed.clone()),
        row("leader's host off: first write", 2.0, &|side| each(&side.leader, |lost| lost.written)),
        row("leader's host off: replacements run", 5.0, &|side| each(&side.leader, |lost| lost.replaced)),
        row("another host off: first write", 2.0, &|side| each(&side.follower, |lost| lost.written)),
        row("another host off: replacements run", 5.0, &|side| each(&side.follower, |lost| lost.replaced)),
    ];
    for (what, lost) in [("leader's host off", &ours.leader), ("another host off", &ours.follower)] {
        let failed = lost.iter().filter_map(|lost| lost.failed).collect();
        let what = format!("{what}: last request that failed was sent");
        rows.push(Row::new(what, "s", failed).target(Target::AtMost(2.0)));
    }
    Ok(rows)
}

fn run(side: Side, rounds: u32) -> anyhow::Result<Outcome> {
    let lab = side.lab()?;
    side.form(&lab)?;
    let mut outcome = Outcome::default();
    for round in 1..=rounds {
        outcome.killed.push(side.kill_leader(&lab).context("killing the leader's daemon")?);
        outcome.leader.push(side.lose(&lab, Who::Leader).context("the leader's host off")?);
        outcome.follower.push(side.lose(&lab, Who::Follower).context("another host off")?);
        let last = |lost: &[Lost]| lost.last().map_or(String::new(), Lost::text);
        note(&format!(
            "{} faults {round}/{rounds}: killed {:.2}; leader off {}; other off {}",
            side.name(),
            outcome.killed.last().copied().unwrap_or_default(),
            last(&outcome.leader),
            last(&outcome.follower)
        ));
    }
    Ok(outcome)
}

impl Lost {
    fn text(&self) -> String {
        let failed = self.failed.map(|failed| format!(", last failure {failed:.2}")).unwrap_or_default();
        format!("write {:.2}, replaced {:.2}{failed}", self.written, self.replaced)
    }
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Raftup => "raftup",
            Self::Swarm => "swarm",
        }
    }

    /// Each as its own documentation recommends.
    fn lab(self) -> anyhow::Result<Lab> {
        match self {
            Self::Raftup => lab(),
            Self::Swarm => {
                Lab::up(&Options { live_restore: false, daemon: false, ..Options::new("bench", 3)? })
            }
        }
    }

    fn form(self, lab: &Lab) -> anyhow::Result<Formed> {
        match self {
            Self::Raftup => raftup(lab, &[]),
            Self::Swarm => swarm(lab),
        }
    }

    fn nodes(self, host: &Host) -> anyhow::Result<Nodes> {
        match self {
            Self::Raftup => Nodes::of_raftup(host),
            Self::Swarm => Nodes::of_swarm(host),
        }
    }

    fn daemon(self) -> What {
        match self {
            Self::Raftup => What::Daemon,
            Self::Swarm => What::Engine,
        }
    }

    fn engines(self) -> anyhow::Result<Engines> {
        Engines::new(match self {
            Self::Raftup => "dev.raftup.stack=faults",
            Self::Swarm => "com.docker.stack.namespace=faults",
        })
    }

    /// Deploys, two tasks to each host.
    fn deploy(self, lab: &Lab, host: &Host) -> anyhow::Result<()> {
        let (image, more) = match self {
            Self::Raftup => ("raftup/helper:1".to_owned(), "    ports: ['8080:8080']\n"),
            Self::Swarm => (format!("'{}'", image_id(lab)?), ""),
        };
        let mode = if self == Self::Swarm { ", endpoint_mode: dnsrr" } else { "" };
        let file = format!(
            "version: '3.8'\nservices:\n  web:\n    image: {image}\n{more}    deploy: {{replicas: {REPLICAS}{mode}}}\n"
        );
        let path = share(lab, "faults.yaml", &file)?.display().to_string();
        match self {
            Self::Raftup => well(host, &["raftup", "stack", "deploy", "-c", &path, "faults"]),
            Self::Swarm => {
                well(host, &["docker", "stack", "deploy", "--resolve-image", "never", "-c", &path, "faults"])
            }
        }?;
        self.engines()?.last_start(lab, REPLICAS).map(drop)
    }

    fn remove(self, lab: &Lab, host: &Host) -> anyhow::Result<()> {
        let program = match self {
            Self::Raftup => "raftup",
            Self::Swarm => "docker",
        };
        well(host, &[program, "stack", "rm", "faults"])?;
        self.engines()?.wait_gone(lab)
    }

    /// Changes a label until that is accepted; seconds since `fault`. One try follows the other, each for as long
    /// as the command itself has patience.
    fn first_write(self, host: &Host, fault: SystemTime) -> anyhow::Result<f64> {
        let start = Instant::now();
        let label = format!("bench=n{}", fault.duration_since(UNIX_EPOCH)?.as_millis());
        let argv: &[&str] = match self {
            Self::Raftup => &["raftup", "node", "update", "--label-add", &label, host.name()],
            Self::Swarm => &["docker", "node", "update", "--label-add", &label, host.name()],
        };
        loop {
            let output = host.command(argv)?.stdin(Stdio::null()).output()?;
            if output.status.success() {
                return seconds(fault, SystemTime::now());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(start.elapsed() < PATIENCE, "no write after {PATIENCE:?}: {}", said.trim());
        }
    }

    /// The leader, or one that is not, and two that are neither; seen from a host that is on.
    fn roles(self, lab: &Lab, who: Who) -> anyhow::Result<(Host, [Host; 2])> {
        let first = lab.host("h1");
        let leader = wait_for(PATIENCE, "leader", || {
            let nodes = self.nodes(first)?;
            Ok(nodes.all_well().then_some(nodes.leader).flatten())
        })?;
        let victim = match who {
            Who::Leader => lab.find(&leader)?,
            Who::Follower => {
                lab.hosts().filter(|host| host.name() != leader).last().context("a cluster of one")?
            }
        };
        let others: Vec<Host> = lab.hosts().filter(|host| host.name() != victim.name()).cloned().collect();
        let others = others.try_into().map_err(|_| anyhow::anyhow!("not three hosts"))?;
        Ok((victim.clone(), others))
    }

    fn kill_leader(self, lab: &Lab) -> anyhow::Result<f64> {
        let (leader, [other, _]) = self.roles(lab, Who::Leader)?;
        let fault = SystemTime::now();
        leader.kill(self.daemon())?;
        let written = self.first_write(&other, fault)?;
        let now = self.nodes(&other)?.leader;
        ensure!(
            now.is_some_and(|now| now != leader.name()),
            "{} still leads; nothing was measured",
            leader.name()
        );
        leader.start(self.daemon())?;
        self.wait_well(&other)?;
        Ok(written)
    }

    fn wait_well(self, host: &Host) -> anyhow::Result<()> {
        wait_for(PATIENCE, "three managers", || Ok(self.nodes(host)?.all_well().then_some(())))
    }

    fn lose(self, lab: &Lab, who: Who) -> anyhow::Result<Lost> {
        let (victim, others) = self.roles(lab, who)?;
        self.deploy(lab, &others[0])?;
        let engines = self.engines()?;
        ensure!(!engines.list(&victim, false)?.is_empty(), "no task runs on {}", victim.name());
        let load = (self == Self::Raftup).then(|| start_load(lab, &others)).transpose()?;

        let began = Instant::now();
        let fault = SystemTime::now();
        let lost = thread::scope(|scope| -> anyhow::Result<Lost> {
            let off = scope.spawn(|| victim.power_off());
            wait_for(PATIENCE, "end of the host", || Ok((!victim.is_on()).then_some(())))?;
            let write = scope.spawn(|| self.first_write(&others[0], fault));
            let replaced = seconds(fault, engines.last_start(lab, REPLICAS)?)?;
            let (Ok(written), Ok(off)) = (write.join(), off.join()) else { bail!("a thread panicked") };
            off?;
            Ok(Lost { replaced, written: written?, failed: None })
        })?;
        // Requests are looked at for that long, whatever happens.
        thread::sleep(WATCHED.saturating_sub(began.elapsed()));
        let failed = load.map(|load| last_failure(&load.stop()?, fault, began.elapsed())).transpose()?;

        victim.power_on()?;
        self.wait_well(&others[0])?;
        self.remove(lab, &others[0])?;
        Ok(Lost { failed, ..lost })
    }
}

fn start_load(lab: &Lab, through: &[Host]) -> anyhow::Result<Running> {
    let targets: Vec<String> = through.iter().map(|host| format!("http://{}:8080/", host.addr())).collect();
    let running = Running::start(lab, &Plan::new(Mode::Fresh, &targets, RATE, PATIENCE * 2))?;
    // A second of good answers comes before the fault.
    thread::sleep(Duration::from_secs(1));
    Ok(running)
}

/// When, after the fault, the last request that failed was sent; zero if none failed.
fn last_failure(report: &Report, fault: SystemTime, watched: Duration) -> anyhow::Result<f64> {
    let due = RATE * watched.as_secs_f64();
    ensure!(report.sent as f64 >= 0.9 * due, "{} of {due:.0} requests were sent", report.sent);
    ensure!(report.late < report.sent / 4, "{} of {} requests were sent late", report.late, report.sent);
    ensure!(
        report.failed as usize == report.failures.len(),
        "too many failures to tell: {:?}",
        report.classes
    );
    let fault_ms = fault.duration_since(UNIX_EPOCH)?.as_millis() as f64;
    let sent =
        report.failures.iter().map(|failure| (report.started_unix_ms + failure.at_ms) as f64 - fault_ms);
    // What was on its way when the power went may fail.
    let before = sent.clone().filter(|sent| *sent < -1000.0).count();
    ensure!(before == 0, "{before} requests failed before the fault");
    Ok(sent.fold(0.0, f64::max) / 1e3)
}
