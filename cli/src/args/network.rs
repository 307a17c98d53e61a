//! `raftup network`.

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use raftup_proto::name::NetworkName;

use super::{Listing, parse};
use crate::complete;

/// `raftup network`.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Create a network that belongs to no stack; compose files join it by `external: true`
    Create(NetworkCreateArgs),
    /// List the networks of the cluster
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Show all there is to know about networks
    Inspect {
        /// Name, id or beginning of an id
        #[arg(required = true, value_name = "NETWORK", add = ArgValueCompleter::new(complete::networks))]
        networks: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove networks that belong to no stack
    #[command(visible_alias = "remove")]
    Rm {
        /// Name, id or beginning of an id
        #[arg(required = true, value_name = "NETWORK", add = ArgValueCompleter::new(complete::networks))]
        networks: Vec<String>,
    },
    /// Remove all networks that belong to no stack and have no service on them
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

/// `raftup network create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup network create proxy                   compose files: networks: {proxy: {external: true}}
  raftup network create --attachable tools      docker run --network tools ... works on each node
  raftup network create --opt encrypted=false backup")]
pub(crate) struct NetworkCreateArgs {
    /// Its name in the cluster, and on the engines
    pub(crate) name: NetworkName,
    /// Let containers on it that are not the cluster's
    #[arg(long)]
    pub(crate) attachable: bool,
    /// Let its containers reach each other and nothing else
    #[arg(long)]
    pub(crate) internal: bool,
    /// A label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::label)]
    pub(crate) label: Vec<(String, String)>,
    /// `encrypted`, or `encrypted=false`, for what goes between nodes [default: as the cluster's fabric is]
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse::encrypted)]
    pub(crate) opt: Option<bool>,
    /// Accepted because Docker has it: each network spans the cluster
    #[arg(short, long, hide = true, value_enum, action = ArgAction::Set)]
    pub(crate) driver: Option<Driver>,
}

/// Docker's drivers that mean what each network of the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// A network over several hosts.
    Overlay,
    /// A network of one host.
    Bridge,
}
