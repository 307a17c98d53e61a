//! `raftup`, the command line of a cluster.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`args`] | what can be typed |
//! | [`commands`] | what each command does |
//! | [`deploy`] | a compose file and its registry credentials, read where the user is |
//! | [`follow`] | watching a change until it is there |
//! | [`client`] | the daemon's HTTP API over its socket |
//! | [`complete`] | names for the shell's completion |
//! | [`show`] | the only code that prints |
//! | [`failure`] | the ways a command can end badly, and their exit status |
//!
//! Standard output carries the answer; progress, notes and errors go to standard error.
#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod complete;
mod deploy;
mod failure;
mod follow;
mod show;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use raftup_proto::refusal::{Code, Refusal};

use crate::{args::Cli, failure::Failure};

fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            show::failure(&failure);
            ExitCode::from(failure.exit_status())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Refusal::new(Code::Internal, format!("the runtime cannot be started: {error}")))?;
    runtime.block_on(commands::run(cli))
}
