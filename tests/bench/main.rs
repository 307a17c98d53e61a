//! `make bench`: raftup beside Docker Swarm, HAProxy, nginx, the engines alone and the bare link, in the same run.
//!
//! | module | what it measures |
//! | --- | --- |
//! | [`idle`] | memory and CPU of a daemon with nothing to do |
//! | [`begin`] | making a cluster and joining it |
//! | [`start`] | forty replicas of a small image |
//! | [`mesh`] | bytes and requests through a published port, and from container to container |
//! | [`fabric`] | the same over encrypted links, beside the cipher alone |
//! | [`rules`] | what a change of one endpoint and a new connection cost, with many services |
//! | [`faults`] | daemons killed, hosts powered off |
//! | [`dns`] | names, few and many, also while a host is lost |
//! | [`lossless`] | requests that fail through changes |
//! | [`plan`] | what decisions cost the leader of a large cluster |
//! | [`cluster`] | clusters of both kinds in a lab, and what their engines say |
//! | [`table`] | medians, targets, the table |
//!
//! Holds: a run that did not do what it claims to have measured ends the bench with an error.
#![forbid(unsafe_code)]

mod begin;
mod cluster;
mod dns;
mod fabric;
mod faults;
mod idle;
mod lossless;
mod mesh;
mod plan;
mod rules;
mod start;
mod table;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use raftup_tests::lab::EngineKind;

use table::Row;

/// Measures raftup beside others; everything without a name.
#[derive(Parser)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum)]
    measures: Vec<Measure>,
    /// How often each thing is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How often each fault is made, where that is not `--rounds`.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    fault_rounds: Option<u32>,
    /// Leave Docker Swarm out of the faults: it takes most of the time.
    #[arg(long)]
    no_swarm_faults: bool,
    /// How many requests each change has to bear.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Engines that changes are made on, in place of each kind.
    #[arg(long, value_enum)]
    engine: Vec<EngineKind>,
    /// Print JSON, with each round's figures.
    #[arg(long)]
    json: bool,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    Idle,
    Begin,
    Start,
    Mesh,
    Fabric,
    Rules,
    Faults,
    Dns,
    Lossless,
    Plan,
}

impl Measure {
    fn run(self, args: &Args) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Idle => idle::measure(args.rounds),
            Self::Begin => begin::measure(args.rounds),
            Self::Start => start::measure(args.rounds),
            Self::Mesh => mesh::measure(args.rounds),
            Self::Fabric => fabric::measure(args.rounds),
            Self::Rules => rules::measure(args.rounds),
            Self::Faults => faults::measure(args.fault_rounds.unwrap_or(args.rounds), !args.no_swarm_faults),
            Self::Dns => dns::measure(args.fault_rounds.unwrap_or(args.rounds)),
            Self::Lossless => lossless::measure(args.requests, &args.engine),
            Self::Plan => plan::measure(args.rounds),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let wanted = if args.measures.is_empty() { Measure::value_variants() } else { &args.measures };
    let mut rows = Vec::new();
    for measure in wanted {
        let name = measure.to_possible_value().context("a measure without a name")?.get_name().to_owned();
        table::note(&format!("measuring {name}"));
        rows.extend(measure.run(&args).with_context(|| format!("measuring {name}"))?);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        table::print(&rows);
    }
    Ok(())
}
