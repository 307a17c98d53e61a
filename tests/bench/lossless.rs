//! Requests that fail through updates, rollbacks, drains, scaling, and daemons that come and go, on engines of each kind.

use anyhow::{Context as _, ensure};
use raftup_tests::{
    changes::Changes,
    lab::{EngineKind, Lab, Options},
};

use crate::{
    cluster::raftup,
    table::{Row, Target, note},
};

pub(crate) fn measure(requests: u64, engines: &[EngineKind]) -> anyhow::Result<Vec<Row>> {
    let all = [EngineKind::Debian, EngineKind::Sid, EngineKind::Mixed];
    let mut rows = Vec::new();
    for engine in if engines.is_empty() { &all } else { engines } {
        on(*engine, requests, &mut rows).with_context(|| format!("on engines `{engine}`"))?;
    }
    Ok(rows)
}

fn on(engine: EngineKind, requests: u64, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let lab = Lab::up(&Options { engine, ..Options::new("bench", 3)? })?;
    raftup(&lab, &[])?;
    let changes = Changes::new(&lab, Some(requests), |outcome| {
        note(&format!("{engine}: {}", outcome.text()));
        let late: u64 = outcome.reports.iter().map(|report| report.late).sum();
        ensure!(late < outcome.sent() / 4, "{late} of {} requests were sent late", outcome.sent());
        let what = format!("{engine}, {}: failed of {} requests", outcome.what, outcome.sent());
        rows.push(Row::new(what, "", vec![outcome.failed() as f64]).target(Target::AtMost(0.0)));
        Ok(())
    });
    changes.run()
}
