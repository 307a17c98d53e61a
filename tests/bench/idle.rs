//! What a daemon uses that has nothing to do.

use std::{thread, time::Duration};

use raftup_tests::lab::{Host, Lab};

use crate::{
    cluster::{Engines, lab, raftup, share, well},
    table::{Row, Target, note},
};

const TASKS: usize = 20;
const LENGTH: Duration = Duration::from_secs(60);
/// After the last task has started: logs are compacted, connections have settled.
const SETTLE: Duration = Duration::from_secs(15);

/// What the worst of three nodes uses, in each round.
#[derive(Default)]
struct Figures {
    memory: Vec<f64>,
    cpu: Vec<f64>,
    fabric: Vec<f64>,
    names: Vec<f64>,
}

pub(crate) fn measure(rounds: u32) -> anyhow::Result<Vec<Row>> {
    let lab = lab()?;
    raftup(&lab, &[])?;
    let file = format!(
        "services:\n  web:\n    image: raftup/helper:1\n    ports: ['8080:8080']\n    deploy: {{replicas: {TASKS}}}\n"
    );
    let path = share(&lab, "idle.yaml", &file)?;
    well(lab.host("h1"), &["raftup", "stack", "deploy", "-c", &path.display().to_string(), "idle"])?;
    Engines::new("dev.raftup.stack=idle")?.last_start(&lab, TASKS)?;
    thread::sleep(SETTLE);
    let mut figures = Figures::default();
    for round in 1..=rounds {
        let before = on_each(&lab, cpu)?;
        thread::sleep(LENGTH);
        let used: Vec<f64> =
            before.iter().zip(on_each(&lab, cpu)?).map(|(before, after)| after - before).collect();
        figures.cpu.push(worst(&used) / LENGTH.as_secs_f64() * 100.0);
        figures.memory.push(worst(&on_each(&lab, resident)?));
        figures.fabric.push(worst(&on_each(&lab, |host| resident_part(host, "fabric"))?));
        figures.names.push(worst(&on_each(&lab, |host| resident_part(host, "names"))?));
        note(&format!("idle {round}/{rounds}: done"));
    }
    let what = format!("idle, 3 nodes, {TASKS} tasks, worst node");
    let row = |of: &str, unit, figures| Row::new(format!("{what}: {of}"), unit, figures);
    Ok(vec![
        row("memory", "MB", figures.memory).target(Target::AtMost(40.0)),
        row("CPU", "% of a core", figures.cpu).target(Target::AtMost(0.5)),
        row("memory of `raftupd fabric`", "MB", figures.fabric),
        row("memory of `raftupd names`", "MB", figures.names),
    ])
}

fn on_each(lab: &Lab, look: impl Fn(&Host) -> anyhow::Result<f64>) -> anyhow::Result<Vec<f64>> {
    lab.hosts().map(look).collect()
}

fn worst(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max)
}

/// Seconds that the daemon has used since it started.
fn cpu(host: &Host) -> anyhow::Result<f64> {
    Ok(host.daemon_stats()?.cpu.as_secs_f64())
}

fn resident(host: &Host) -> anyhow::Result<f64> {
    Ok(host.daemon_stats()?.rss_bytes as f64 / 1e6)
}

/// The same of a process that outlives the daemon.
fn resident_part(host: &Host, part: &str) -> anyhow::Result<f64> {
    let kib: f64 = host.sh(&format!("ps -o rss= -p $(pgrep -f '[r]aftupd {part}')"))?.trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
