//! What was measured, beside what, against which target.

use serde::Serialize;

/// What a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn met(self, figure: f64) -> bool {
        match self {
            Self::AtMost(limit) => figure <= limit,
            Self::AtLeast(limit) => figure >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::AtLeast(limit) => format!(">= {limit}"),
        }
    }
}

/// Somebody else's figures for the same thing.
#[derive(Debug, Serialize)]
pub(crate) struct Other {
    name: &'static str,
    rounds: Vec<f64>,
    median: f64,
    /// Our median by theirs.
    ratio: f64,
    /// Of the ratio.
    target: Option<Target>,
}

/// One thing that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    /// One figure a round.
    rounds: Vec<f64>,
    median: f64,
    /// Of the median.
    target: Option<Target>,
    others: Vec<Other>,
}

impl Row {
    /// Panics: there is no figure. A measure without one must have failed before.
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, rounds: Vec<f64>) -> Self {
        let median = median(&rounds);
        Self { what: what.into(), unit, rounds, median, target: None, others: Vec::new() }
    }

    pub(crate) fn target(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    pub(crate) fn beside(mut self, name: &'static str, rounds: Vec<f64>, target: Option<Target>) -> Self {
        let theirs = median(&rounds);
        self.others.push(Other { name, rounds, median: theirs, ratio: self.median / theirs, target });
        self
    }
}

fn median(rounds: &[f64]) -> f64 {
    assert!(!rounds.is_empty(), "a figure without a round");
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Says on the error stream what is going on.
pub(crate) fn note(text: &str) {
    eprintln!("bench: {text}");
}

/// Prints a line for each thing, and one for each thing that it is compared with.
pub(crate) fn print(rows: &[Row]) {
    let mut lines = vec![["what", "unit", "ours", "others", "", "ratio", "target", ""].map(str::to_owned)];
    for row in rows {
        let spread =
            |rounds: &[f64]| if rounds.len() > 1 { format!(" ({})", rounds.len()) } else { String::new() };
        let mut line = [const { String::new() }; 8];
        line[0].clone_from(&row.what);
        row.unit.clone_into(&mut line[1]);
        line[2] = figure(row.median) + &spread(&row.rounds);
        if let Some(target) = row.target {
            (line[6], line[7]) = verdict(target, row.median);
        }
        if row.target.is_some() || row.others.is_empty() {
            lines.push(std::mem::replace(&mut line, [const { String::new() }; 8]));
        }
        for other in &row.others {
            let mut line = std::mem::replace(&mut line, [const { String::new() }; 8]);
            other.name.clone_into(&mut line[3]);
            line[4] = figure(other.median) + &spread(&other.rounds);
            line[5] = format!("{:.2}", other.ratio);
            if let Some(target) = other.target {
                (line[6], line[7]) = verdict(target, other.ratio);
            }
            lines.push(line);
        }
    }
    let widths: Vec<usize> =
        (0..8).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or_default()).collect();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
    println!("\nmedians, of so many rounds as the brackets say; ratio: ours by theirs");
}

fn verdict(target: Target, figure: f64) -> (String, String) {
    (target.text(), if target.met(figure) { "met" } else { "MISSED" }.to_owned())
}

/// Three digits that mean something.
fn figure(number: f64) -> String {
    match number.abs() {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        1.0.. => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}
