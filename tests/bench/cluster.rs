//! Clusters of both kinds in one lab, and what its engines say runs there.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use bollard::{Docker, query_parameters::ListContainersOptions};
use raftup_tests::lab::{Host, Lab, Options, wait_for};
use serde_json::Value;
use tokio::runtime::Runtime;

/// For everything that is waited for, Swarm's slowest included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// How often engines are asked: seldom enough not to slow down what is measured. Times come from the engines.
const STEP: Duration = Duration::from_millis(100);

/// Three hosts whose engines Swarm accepts, with `raftupd` beside.
pub(crate) fn lab_for_both() -> anyhow::Result<Lab> {
    Lab::up(&Options { live_restore: false, ..Options::new("bench", 3)? })
}

/// Three hosts as raftup recommends them.
pub(crate) fn lab() -> anyhow::Result<Lab> {
    Lab::up(&Options::new("bench", 3)?)
}

/// The standard output of a command that must succeed.
pub(crate) fn well(host: &Host, argv: &[&str]) -> anyhow::Result<String> {
    let output = host.exec(argv)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let what = argv.join(" ");
    ensure!(
        output.status.success(),
        "`{what}` on {}: {} {}",
        host.name(),
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// How long a command takes that must succeed, in seconds.
pub(crate) fn timed(host: &Host, argv: &[&str]) -> anyhow::Result<f64> {
    let start = Instant::now();
    well(host, argv)?;
    Ok(start.elapsed().as_secs_f64())
}

/// How long it took to make a cluster, in seconds.
pub(crate) struct Formed {
    pub(crate) init: f64,
    pub(crate) joins: Vec<f64>,
}

/// Makes a raftup cluster of all hosts, all of them managers, with these flags.
pub(crate) fn raftup(lab: &Lab, flags: &[&str]) -> anyhow::Result<Formed> {
    let first = lab.host("h1");
    let init = timed(first, &[&["raftup", "init"], flags].concat())?;
    let token = well(first, &["raftup", "token", "--quiet"])?;
    let joins =
        lab.hosts().skip(1).map(|host| timed(host, &["raftup", "join", &token])).collect::<Result<_, _>>()?;
    wait_for(PATIENCE, "three managers", || Ok(Nodes::of_raftup(first)?.all_well().then_some(())))?;
    Ok(Formed { init, joins })
}

/// Makes a swarm of all hosts, all of them managers.
pub(crate) fn swarm(lab: &Lab) -> anyhow::Result<Formed> {
    let first = lab.host("h1");
    let addr = first.addr().to_string();
    let init = timed(first, &["docker", "swarm", "init", "--advertise-addr", &addr])?;
    let token = well(first, &["docker", "swarm", "join-token", "-q", "manager"])?;
    let manager = format!("{addr}:2377");
    let join = |host: &Host| timed(host, &["docker", "swarm", "join", "--token", &token, &manager]);
    let joins = lab.hosts().skip(1).map(join).collect::<Result<_, _>>()?;
    wait_for(PATIENCE, "three managers", || Ok(Nodes::of_swarm(first)?.all_well().then_some(())))?;
    Ok(Formed { init, joins })
}

/// The nodes of a cluster, as one of them sees them.
pub(crate) struct Nodes {
    pub(crate) leader: Option<String>,
    /// Managers that are ready and vote.
    well: usize,
}

impl Nodes {
    pub(crate) fn of_raftup(host: &Host) -> anyhow::Result<Self> {
        let nodes: Vec<Value> = serde_json::from_str(&well(host, &["raftup", "node", "ls", "--json"])?)?;
        let is = |node: &Value, key: &str, words: &[&str]| {
            node[key].as_str().is_some_and(|has| words.contains(&has))
        };
        let leads = nodes.iter().find(|node| is(node, "manager", &["leader"]));
        let leader = leads.and_then(|node| node["hostname"].as_str()).map(str::to_owned);
        let votes =
            |node: &&Value| is(node, "state", &["ready"]) && is(node, "manager", &["leader", "reachable"]);
        Ok(Self { leader, well: nodes.iter().filter(votes).count() })
    }

    pub(crate) fn of_swarm(host: &Host) -> anyhow::Result<Self> {
        let format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
        let text = well(host, &["docker", "node", "ls", "--format", format])?;
        let leads = text.lines().find(|line| line.ends_with("Leader"));
        let leader = leads.and_then(|line| line.split(' ').next()).map(str::to_owned);
        let votes = |line: &&str| line.ends_with("Ready Leader") || line.ends_with("Ready Reachable");
        Ok(Self { leader, well: text.lines().filter(votes).count() })
    }

    /// All three are there and one leads.
    pub(crate) fn all_well(&self) -> bool {
        self.well == 3 && self.leader.is_some()
    }
}

/// Puts a file where all hosts see it.
pub(crate) fn share(lab: &Lab, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = lab.share().join(name);
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// The image's id on every engine of the lab: Swarm asks registries for anything else.
pub(crate) fn image_id(lab: &Lab) -> anyhow::Result<String> {
    well(lab.host("h1"), &["docker", "image", "inspect", "-f", "{{.Id}}", "raftup/helper:1"])
}

/// Containers of one side of a comparison, by a label that its side gives them.
pub(crate) struct Engines {
    pub(crate) runtime: Runtime,
    label: String,
}

impl Engines {
    pub(crate) fn new(label: impl Into<String>) -> anyhow::Result<Self> {
        Ok(Self { runtime: Runtime::new()?, label: label.into() })
    }

    pub(crate) fn client(&self, host: &Host) -> anyhow::Result<Docker> {
        let _inside = self.runtime.enter();
        host.engine()
    }

    /// Ids of those on a host, those that run or all.
    pub(crate) fn list(&self, host: &Host, all: bool) -> anyhow::Result<Vec<String>> {
        let filters = Some([("label".to_owned(), vec![self.label.clone()])].into());
        let options = ListContainersOptions { all, filters, ..ListContainersOptions::default() };
        let found = self.runtime.block_on(self.client(host)?.list_containers(Some(options)))?;
        Ok(found.into_iter().filter_map(|container| container.id).collect())
    }

    /// Waits until so many run on the hosts that are on; the last one's start by its engine's clock, which is the
    /// machine's.
    pub(crate) fn last_start(&self, lab: &Lab, count: usize) -> anyhow::Result<SystemTime> {
        let start = Instant::now();
        loop {
            let mut running = Vec::new();
            for host in lab.hosts().filter(|host| host.is_on()) {
                // An engine that is being killed does not answer.
                let ids = self.list(host, false).unwrap_or_default();
                running.extend(ids.into_iter().map(|id| (host, id)));
            }
            if running.len() == count {
                let times = running.iter().map(|(host, id)| self.started(host, id));
                return times.collect::<anyhow::Result<Vec<_>>>()?.into_iter().max().context("no container");
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{} of {count} containers run after {PATIENCE:?}",
                running.len()
            );
            std::thread::sleep(STEP);
        }
    }

    fn started(&self, host: &Host, id: &str) -> anyhow::Result<SystemTime> {
        let found = self.runtime.block_on(self.client(host)?.inspect_container(id, None))?;
        let text = found.state.and_then(|state| state.started_at).context("a container without a start")?;
        parse_time(&text).with_context(|| format!("an engine's time `{text}`"))
    }

    /// Waits until no host has one, running or not.
    pub(crate) fn wait_gone(&self, lab: &Lab) -> anyhow::Result<()> {
        wait_for(PATIENCE, "end of all containers", || {
            let left: usize =
                lab.hosts().map(|host| Ok(self.list(host, true)?.len())).sum::<anyhow::Result<_>>()?;
            Ok((left == 0).then_some(()))
        })
    }
}

/// `2026-01-02T03:04:05.678Z`, as engines write times.
fn parse_time(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':').map(str::parse::<f64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    // Years that begin in March end with the leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let since = days.checked_sub(719_468)? as f64 * 86_400.0 + hour * 3_600.0 + minute * 60.0 + second;
    Some(UNIX_EPOCH + Duration::from_secs_f64(since))
}

/// Seconds from one moment to a later one. Errors: it is earlier, so that something else was measured.
pub(crate) fn seconds(from: SystemTime, to: SystemTime) -> anyhow::Result<f64> {
    Ok(to.duration_since(from).context("it was there before it was asked for")?.as_secs_f64())
}
