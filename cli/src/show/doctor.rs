//! What `raftup doctor` found.

use std::time::Duration;

use raftup_proto::api::{Finding, Health};
use serde::Serialize;

use super::{
    Look, Text,
    table::{Table, Tone, cell},
    text::line,
};

/// A finding with its advice taken apart.
#[derive(Serialize)]
pub(crate) struct Advised<'a> {
    check: &'a str,
    node: &'a str,
    to: Option<&'a str>,
    health: Health,
    found: &'a str,
    /// What to do, as a sentence.
    next: Option<String>,
    /// What to type, in order.
    commands: Vec<&'a str>,
}

/// The findings as `--json` prints them.
pub(crate) fn advised(findings: &[Finding]) -> Vec<Advised<'_>> {
    findings.iter().map(Advised::of).collect()
}

impl<'a> Advised<'a> {
    fn of(finding: &'a Finding) -> Self {
        let Finding { check, node, to, health, found, next: _ } = finding;
        let (next, commands) = finding.advice().map_or((None, Vec::new()), |(next, all)| (Some(next), all));
        Self { check, node, to: to.as_deref(), health: *health, found, next, commands }
    }
}

/// The table of findings, and below it what there is to do. `took` is the time that all checks needed.
pub(crate) fn findings(findings: &[Finding], took: Duration, look: Look) -> Text {
    let mut table = Table::new(["CHECK", "NODE", "RESULT", "FOUND"]);
    for finding in findings {
        let tone = match finding.health {
            Health::Ok => Tone::Plain,
            Health::Warning => Tone::Waiting,
            Health::Problem => Tone::Bad,
        };
        table.row([
            cell(&finding.check, Tone::Plain),
            cell(whose(finding), Tone::Plain),
            cell(finding.health, tone),
            cell(&finding.found, Tone::Plain),
        ]);
    }
    let advice: String = findings.iter().filter_map(advice).collect();
    let advice = if advice.is_empty() { advice } else { format!("\n\nWhat to do:\n{advice}") };
    let gap = if advice.is_empty() { "\n\n" } else { "\n" };
    let took = format!("{gap}{} checks in {:.1} s", findings.len(), took.as_secs_f64());
    Text::of_parts(format!("{}{advice}{took}", table.render(look)))
}

/// The sentence, and each command on a line of its own.
fn advice(finding: &Finding) -> Option<String> {
    let (next, commands) = finding.advice()?;
    let commands: String = commands.iter().map(|command| format!("    {}\n", line(command))).collect();
    Some(format!("{}\n{commands}", line(format!("{}, {}: {next}", whose(finding), finding.check))))
}

fn whose(finding: &Finding) -> String {
    finding.to.as_ref().map_or_else(|| finding.node.clone(), |to| format!("{} -> {to}", finding.node))
}
