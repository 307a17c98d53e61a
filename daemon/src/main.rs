//! `raftupd`: reads its settings, then builds, runs and drains one [`Node`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use raftup_daemon::{
    config::{Config, LogFormat, Settings},
    dns,
    fabric::wire,
    log_lines,
    node::Node,
    pace, privileges, store,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that the daemon may have open, where the system lets it: two sockets hold each published port, and connections
/// over IPv6 are carried.
const FILES: u64 = 65_536;

/// One small daemon beside the Docker Engine of each server.
#[derive(Parser)]
#[command(name = "raftupd", version, about, args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    part: Option<Part>,
}

/// A part of the daemon that is a process of its own.
#[derive(Subcommand)]
enum Part {
    /// The encrypted links between nodes; started by the daemon.
    #[command(hide = true)]
    Fabric,
    /// The names of services, for containers; started by the daemon.
    #[command(hide = true)]
    Names,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let ended = match flags.part {
        None => start(flags.settings),
        Some(Part::Fabric) => start_part(wire::process::run),
        Some(Part::Names) => start_part(dns::process::run),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(flags: Settings) -> anyhow::Result<()> {
    let config = Config::load(flags)?;
    start_log(&config)?;
    abort_on_panic();
    forbid_core_dumps();
    raise_file_limit();
    // One: all that happens is short, and workers that wake each other for it are most of what an idle daemon costs.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async { Node::build(config).await?.run().await })
}

fn start_part(run: fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let config = Config::load(Settings::default())?;
    start_log(&config)?;
    abort_on_panic();
    forbid_core_dumps();
    pace::calm();
    run()
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    log_lines::start(&config.log, config.log_format == LogFormat::Json)
}

/// Each of our processes holds keys, or what containers ask for.
fn forbid_core_dumps() {
    if let Err(error) = privileges::forbid_core_dumps() {
        tracing::warn!(%error, "core dumps of this process cannot be forbidden; they would have keys in them");
    }
}

fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(FILES, |maximum| maximum.min(FILES));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::warn!(%error, "the number of files that may be open cannot be raised");
    }
}

/// A daemon that lost one of its loops is worse than one that is started again.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The store tries a file that may be damaged, and turns a panic into a refusal.
        if store::is_checking() {
            return;
        }
        report(panic);
        eprintln!("this is a defect of raftupd; please report it with the lines above");
        std::process::abort();
    }));
}
