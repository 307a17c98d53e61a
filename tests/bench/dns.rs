//! How long names take, with few of them and with many, also while a host is lost; beside what the engine's own resolver
//! takes for a name of its own.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use raftup_tests::{
    lab::{Host, Lab},
    load::{Mode, Plan, Report, Running},
};

use crate::{
    cluster::{Engines, Nodes, PATIENCE, lab, raftup, share, well},
    table::{Row, Target, note},
};

/// Services without tasks, and names of each besides its own three.
const SERVICES: usize = 200;
const ALIASES: usize = 47;
/// Of all names, how many are asked for.
const ASKED: usize = 200;

/// Questions a second.
const RATE: f64 = 200.0;
const LENGTH: Duration = Duration::from_secs(12);
/// Answers before the fault.
const BEFORE: Duration = Duration::from_secs(2);

/// Percentiles of one run, in milliseconds.
#[derive(Clone, Copy)]
struct Took {
    p50: f64,
    p99: f64,
}

/// All rounds: asked at our resolver, through the engine's, and for a name of the engine's own.
#[derive(Default)]
struct Rounds([Vec<Took>; 3]);

pub(crate) fn measure(rounds: u32) -> anyhow::Result<Vec<Row>> {
    let lab = lab()?;
    raftup(&lab, &[])?;
    let h1 = lab.host("h1");
    well(h1, &["docker", "network", "create", "own"])?;
    well(h1, &["docker", "run", "-d", "--name", "own", "--network", "own", "raftup/helper:1"])?;
    let few = vec!["web".to_owned(), "shop_web".to_owned(), "tasks.web".to_owned()];
    let many = (0..ASKED).map(|number| format!("n{}x{}", number * SERVICES / ASKED, number % ALIASES));
    let mut rows = Vec::new();
    for (count, names) in [("few names", few), ("10,000 names", many.collect())] {
        let services = if count == "few names" { 0 } else { SERVICES };
        deploy(&lab, services)?;
        let (mut still, mut lost) = (Rounds::default(), Rounds::default());
        for round in 1..=rounds {
            still.add(ask(&lab, &names, || Ok(()))?);
            lost.add(lose(&lab, &names)?);
            note(&format!("dns {round}/{rounds}, {count}: {}; a host lost: {}", still.text(), lost.text()));
        }
        rows.extend(still.rows(count, None));
        rows.extend(lost.rows(&format!("{count}, a host is lost"), Some(Target::AtMost(2.0))));
    }
    Ok(rows)
}

impl Rounds {
    fn add(&mut self, took: [Took; 3]) {
        for (all, one) in self.0.iter_mut().zip(took) {
            all.push(one);
        }
    }

    fn text(&self) -> String {
        let last = |all: &Vec<Took>| {
            all.last().map_or(String::new(), |took| format!("{:.2}/{:.2}", took.p50, took.p99))
        };
        let [ours, through, own] = &self.0;
        format!("ours {}, through the engine {}, its own {}", last(ours), last(through), last(own))
    }

    fn rows(&self, what: &str, target: Option<Target>) -> Vec<Row> {
        let row = |percentile: &str, get: fn(&Took) -> f64, target: Option<Target>| {
            let [ours, through, own] = self.0.each_ref().map(|all| all.iter().map(get).collect::<Vec<f64>>());
            let row = Row::new(format!("name, {what}: {percentile}"), "ms", ours);
            let row = if let Some(target) = target { row.target(target) } else { row };
            row.beside("through the engine's", through, None).beside("engine's own name", own, None)
        };
        vec![row("p50", |took| took.p50, None), row("p99", |took| took.p99, target)]
    }
}

/// Three tasks, and so many services that have names only.
fn deploy(lab: &Lab, services: usize) -> anyhow::Result<()> {
    let mut file =
        "services:\n  web: {image: 'raftup/helper:1', healthcheck: {disable: true}, deploy: {replicas: 3}}\n"
            .to_owned();
    for service in 0..services {
        let aliases: Vec<String> = (0..ALIASES).map(|alias| format!("n{service}x{alias}")).collect();
        file.push_str(&format!(
            "  s{service}: {{image: 'raftup/helper:1', deploy: {{replicas: 0}}, networks: {{default: {{aliases: [{}]}}}}}}\n",
            aliases.join(", ")
        ));
    }
    let path = share(lab, "names.yaml", &file)?.display().to_string();
    well(lab.host("h1"), &["raftup", "stack", "deploy", "-c", &path, "shop"])?;
    Engines::new("dev.raftup.stack=shop")?.last_start(lab, 3).map(drop)
}

/// Takes the power of h3 away while names are asked for, and gives it back.
fn lose(lab: &Lab, names: &[String]) -> anyhow::Result<[Took; 3]> {
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    let took = ask(lab, names, || {
        std::thread::sleep(BEFORE);
        h3.power_off()
    })?;
    h3.power_on()?;
    let well = || Ok(Nodes::of_raftup(h1)?.all_well().then_some(()));
    raftup_tests::lab::wait_for(PATIENCE, "three managers", well)?;
    Engines::new("dev.raftup.stack=shop")?.last_start(lab, 3)?;
    Ok(took)
}

fn ask(
    lab: &Lab,
    names: &[String],
    meanwhile: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<[Took; 3]> {
    let h1 = lab.host("h1");
    let own = vec!["own".to_owned()];
    let (task, gateway) = of_container(h1, "$(docker ps -q -f name=shop_web | head -1)")?;
    let (engine, _) = of_container(h1, "own")?;
    let start = |process: &str, server: &str, names: &[String]| {
        let targets: Vec<String> = names.iter().map(|name| format!("{server}:53/{name}")).collect();
        let plan = Plan { timeout_s: 3.0, ..Plan::new(Mode::Dns, &targets, RATE, LENGTH) };
        Running::start_beside(lab, h1, process, &plan)
    };
    let running = [
        start(&task, &gateway, names)?,
        start(&task, "127.0.0.11", names)?,
        start(&engine, "127.0.0.11", &own)?,
    ];
    meanwhile()?;
    let [ours, through, own] = running.map(|running| took(&running.finish()?));
    Ok([ours?, through?, own?])
}

/// The process of a container of h1, and its gateway.
fn of_container(host: &Host, container: &str) -> anyhow::Result<(String, String)> {
    let format = "{{.State.Pid}}{{range .NetworkSettings.Networks}} {{.Gateway}}{{end}}";
    let said = host.sh(&format!("docker inspect -f '{format}' {container}"))?;
    let (process, gateway) = said.trim().split_once(' ').context("a container without a network")?;
    Ok((process.to_owned(), gateway.to_owned()))
}

fn took(report: &Report) -> anyhow::Result<Took> {
    ensure!(report.failed == 0, "of {}: {:?} {:?}", report.sent, report.classes, report.failures);
    let due = RATE * LENGTH.as_secs_f64();
    ensure!(report.ok as f64 >= 0.9 * due, "{} of {due:.0} questions were asked", report.ok);
    Ok(Took { p50: report.latency.p50_ms, p99: report.latency.p99_ms })
}
