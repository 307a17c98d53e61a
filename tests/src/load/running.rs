//! Load from a lab's client, beside a test.

use std::{
    process::{Child, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};

use super::{plan::Plan, report::Report};
use crate::lab::{Host, Lab};

/// Load that is being sent. Dropped, it ends and its report is lost.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts `plan` on the lab's client; it ends after its time, or when [`stop`](Self::stop) is called.
    pub fn start(lab: &Lab, plan: &Plan) -> anyhow::Result<Self> {
        Self::start_on(lab, lab.client(), &[], plan)
    }

    /// Starts `plan` on a host, with the network of the process that has this number there: a container's.
    pub fn start_beside(lab: &Lab, host: &Host, process: &str, plan: &Plan) -> anyhow::Result<Self> {
        Self::start_on(lab, host, &["nsenter", "--target", process, "--net", "--"], plan)
    }

    fn start_on(lab: &Lab, host: &Host, before: &[&str], plan: &Plan) -> anyhow::Result<Self> {
        let mut argv = vec![lab.tool().display().to_string(), "load".to_owned()];
        argv.extend(Plan { until_eof: true, ..plan.clone() }.to_args());
        let argv: Vec<&str> = before.iter().copied().chain(argv.iter().map(String::as_str)).collect();
        let mut command = host.command(&argv)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self { child: command.spawn().context("starting the load")? })
    }

    /// Ends it, once it has sent 100 requests; waits for the answers that are still due, and reports.
    pub fn stop(mut self) -> anyhow::Result<Report> {
        drop(self.child.stdin.take());
        self.finish()
    }

    /// Waits for the end of its time and reports.
    pub fn finish(mut self) -> anyhow::Result<Report> {
        // Kept open, or it would end early.
        let stdin = self.child.stdin.take();
        let stdout = self.child.stdout.take().context("the load has no output")?;
        let report = std::io::read_to_string(stdout).context("reading the load's report")?;
        drop(stdin);
        let status = self.child.wait()?;
        let said = self.child.stderr.take().map(std::io::read_to_string).transpose()?.unwrap_or_default();
        ensure!(status.success(), "the load failed: {}", said.trim());
        serde_json::from_str(&report).with_context(|| format!("reading the load's report: {report}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    /// The failures of requests that started later than `after` the moment `since` on the wall clock.
    pub fn failures_after(&self, since: SystemTime, after: Duration) -> Vec<&super::Failure> {
        let since_ms = since.duration_since(UNIX_EPOCH).unwrap_or_default() + after;
        let limit = u64::try_from(since_ms.as_millis()).unwrap_or(u64::MAX);
        self.failures.iter().filter(|failure| self.started_unix_ms + failure.at_ms > limit).collect()
    }
}
