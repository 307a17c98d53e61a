//! What came of a run of load.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// Longest list of single failures in a report; the counts are of all.
const MOST_FAILURES: usize = 5000;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Nobody listens there.
    Refused,
    /// The connection broke, or closed before the whole answer.
    Reset,
    /// No answer in time; also no connection in time.
    Timeout,
    /// An answer other than 2xx; of a name server, one that says that it failed, or names no address.
    Status,
    /// The name server says that there is no such name.
    NoName,
    /// Anything else: no route, an answer that is none.
    Other,
}

/// One request that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// When it was to start, in milliseconds since the load began.
    pub at_ms: u64,
    /// Its place.
    pub target: String,
    /// Its class.
    pub class: Class,
    /// What the system or the server said.
    pub detail: String,
}

/// Milliseconds from the scheduled start to the end of the answer, of requests that succeeded.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

/// A whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// When it began, on the wall clock, so that failures can be laid beside what a test did.
    pub started_unix_ms: u64,
    /// Requests that were started.
    pub sent: u64,
    /// Answered well.
    pub ok: u64,
    /// Not answered well.
    pub failed: u64,
    /// The same by class.
    pub classes: BTreeMap<Class, u64>,
    /// The first of them, in order of time.
    pub failures: Vec<Failure>,
    /// Kept connections that the server had closed before it took the request: sent again, as any client does.
    pub resent: u64,
    /// Requests that this program started more than 50 ms late, for want of time on the processor.
    pub late: u64,
    pub latency: Latency,
    /// Good answers by the task that gave them (`?` if it did not say).
    pub tasks: BTreeMap<String, u64>,
    /// Good answers by the version that gave them.
    pub versions: BTreeMap<String, u64>,
    /// Good answers by the client address that the server saw.
    pub clients: BTreeMap<String, u64>,
    /// Good answers by target.
    pub targets: BTreeMap<String, u64>,
}

/// One request, done.
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) target: String,
    pub(crate) resent: bool,
    pub(crate) late: bool,
    pub(crate) result: Result<Good, (Class, String)>,
}

pub(crate) struct Good {
    pub(crate) latency: Duration,
    pub(crate) body: String,
}

/// Adds samples up.
#[derive(Default)]
pub(crate) struct Tally {
    report: Report,
    latencies: Vec<Duration>,
}

impl Tally {
    pub(crate) fn new(started_unix_ms: u64) -> Self {
        Self { report: Report { started_unix_ms, ..Report::default() }, latencies: Vec::new() }
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        let report = &mut self.report;
        report.sent += 1;
        report.resent += u64::from(sample.resent);
        report.late += u64::from(sample.late);
        match sample.result {
            Ok(good) => {
                report.ok += 1;
                self.latencies.push(good.latency);
                let said = serde_json::from_str::<serde_json::Value>(&good.body).unwrap_or_default();
                let word = |key: &str| said[key].as_str().unwrap_or("?").to_owned();
                *report.tasks.entry(word("task")).or_default() += 1;
                *report.versions.entry(word("version")).or_default() += 1;
                *report.clients.entry(word("client")).or_default() += 1;
                *report.targets.entry(sample.target).or_default() += 1;
            }
            Err((class, detail)) => {
                report.failed += 1;
                *report.classes.entry(class).or_default() += 1;
                let at_ms = u64::try_from(sample.at.as_millis()).unwrap_or(u64::MAX);
                report.failures.push(Failure { at_ms, target: sample.target, class, detail });
            }
        }
    }

    pub(crate) fn finish(mut self) -> Report {
        self.latencies.sort_unstable();
        self.report.failures.sort_by_key(|failure| failure.at_ms);
        self.report.failures.truncate(MOST_FAILURES);
        let at = |share: f64| percentile(&self.latencies, share).as_secs_f64() * 1e3;
        self.report.latency = Latency {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        };
        self.report
    }
}

/// The smallest value that at least this share of a sorted list does not exceed; zero for an empty list.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        let at = |share| percentile(&hundred, share).as_millis();
        assert_eq!((at(0.5), at(0.99), at(0.999), at(1.0)), (50, 99, 100, 100));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn counts_answers_by_task_and_failures_by_class() {
        let mut tally = Tally::new(0);
        let sample =
            |result| Sample { at: Duration::ZERO, target: "t".into(), resent: false, late: false, result };
        let body = r#"{"task":"a","version":"2","client":"10.99.0.5","port":1}"#.to_owned();
        tally.add(sample(Ok(Good { latency: Duration::from_millis(3), body })));
        tally.add(sample(Err((Class::Refused, "no".into()))));
        let report = tally.finish();
        assert_eq!((report.sent, report.ok, report.failed), (2, 1, 1));
        assert_eq!((report.tasks["a"], report.versions["2"], report.clients["10.99.0.5"]), (1, 1, 1));
        assert_eq!(report.classes[&Class::Refused], 1);
    }
}
