//! `make bench`: figures that raftup is compared with, measured in one lab in one run.
//!
//! | module | what it measures |
//! | --- | --- |
//! | [`engines`] | how long the engines alone take for many containers |
//! | [`wire`] | the bare link between hosts, and the same through HAProxy |
//!
//! Takes names of measures as arguments; all without. Each prints one line of JSON.
#![forbid(unsafe_code)]

mod engines;
mod wire;

use anyhow::ensure;
use raftup_tests::lab::{Lab, Options};

type Measure = fn(&Lab) -> anyhow::Result<serde_json::Value>;

const MEASURES: [(&str, Measure); 2] = [("engines", engines::measure), ("wire", wire::measure)];

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let unknown = wanted.iter().find(|name| !MEASURES.iter().any(|(known, _)| known == name));
    ensure!(unknown.is_none(), "no measure `{}`", unknown.map(String::as_str).unwrap_or_default());
    let lab = Lab::up(&Options { daemon: false, ..Options::new("bench", 3)? })?;
    for (name, measure) in MEASURES {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("{}", serde_json::json!({ "measure": name, "result": measure(&lab)? }));
        }
    }
    Ok(())
}
