//! What `raftup doctor` found.

use raftup_proto::api::{Finding, Health};

use super::{
    Look, Text,
    table::{Table, Tone, cell},
    text::line,
};

/// The table of findings, and below it what there is to do.
pub(crate) fn findings(findings: &[Finding], look: Look) -> Text {
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
    let advice = findings.iter().filter_map(|finding| {
        let next = finding.next.as_ref()?;
        Some(format!("{}\n", line(format!("{}, {}: {next}", whose(finding), finding.check))))
    });
    let advice: String = advice.collect();
    let advice = if advice.is_empty() { advice } else { format!("\n\nWhat to do:\n{advice}") };
    Text::of_parts(format!("{}{advice}", table.render(look)))
}

fn whose(finding: &Finding) -> String {
    finding.to.as_ref().map_or_else(|| finding.node.clone(), |to| format!("{} -> {to}", finding.node))
}
