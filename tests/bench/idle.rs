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

/// The worst of three nodes, once.
pub(crate) fn measure() -> anyhow::Result<Vec<Row>> {
    let lab = lab()?;
    raftup(&lab, &[])?;
    let file = format!(
        "services:\n  web:\n    image: raftup/helper:1\n    ports: ['8080:8080']\n    deploy: {{replicas: {TASKS}}}\n"
    );
    let path = share(&lab, "idle.yaml", &file)?;
    well(lab.host("h1"), &["raftup", "stack", "deploy", "-c", &path.display().to_string(), "idle"])?;
    Engines::new("dev.raftup.stack=idle")?.last_start(&lab, TASKS)?;
    note(&format!("looking at idle daemons for {LENGTH:?}"));
    thread::sleep(SETTLE);
    let cpu = |lab: &Lab| -> anyhow::Result<Vec<f64>> {
        lab.hosts().map(|host| Ok(host.daemon_stats()?.cpu.as_secs_f64())).collect()
    };
    let before = cpu(&lab)?;
    thread::sleep(LENGTH);
    let after = cpu(&lab)?;
    let worst = |figures: &mut dyn Iterator<Item = f64>| vec![figures.fold(0.0, f64::max)];
    let used = worst(&mut before.iter().zip(&after).map(|(before, after)| after - before));
    let memory: Vec<f64> = lab.hosts().map(resident).collect::<Result<_, _>>()?;
    let percent = used.iter().map(|used| used / LENGTH.as_secs_f64() * 100.0).collect();
    let what = format!("idle, 3 nodes, {TASKS} tasks, worst node");
    let part = |part: &str| -> anyhow::Result<Row> {
        let memory: Vec<f64> = lab.hosts().map(|host| resident_part(host, part)).collect::<Result<_, _>>()?;
        Ok(Row::new(format!("{what}: memory of `raftupd {part}`"), "MB", worst(&mut memory.into_iter())))
    };
    Ok(vec![
        Row::new(format!("{what}: memory"), "MB", worst(&mut memory.into_iter()))
            .target(Target::AtMost(40.0)),
        Row::new(format!("{what}: CPU"), "% of a core", percent).target(Target::AtMost(0.5)),
        part("fabric")?,
        part("names")?,
    ])
}

fn resident(host: &Host) -> anyhow::Result<f64> {
    Ok(host.daemon_stats()?.rss_bytes as f64 / 1e6)
}

/// The same of a process that outlives the daemon.
fn resident_part(host: &Host, part: &str) -> anyhow::Result<f64> {
    let kib: f64 = host.sh(&format!("ps -o rss= -p $(pgrep -f '[r]aftupd {part}')"))?.trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
