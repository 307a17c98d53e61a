//! `raftup stack`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::{Filter, Listing, LongListing, Wait};
use crate::complete;

/// `raftup stack`.
#[derive(Debug, Subcommand)]
pub(crate) enum StackCommand {
    /// Deploy a compose file, or what has changed in it, and wait until it runs
    #[command(visible_alias = "up")]
    Deploy(DeployArgs),
    /// List the stacks
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// List the tasks of a stack, with those that ended
    Ps {
        /// Name, id or beginning of an id
        #[arg(add = ArgValueCompleter::new(complete::stacks))]
        stack: String,
        /// Show only what fits: node=, service=, desired-state=running|shutdown
        #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',')]
        filter: Vec<Filter>,
        /// How it is shown.
        #[command(flatten)]
        listing: LongListing,
    },
    /// List the services of a stack
    Services {
        /// Name, id or beginning of an id
        #[arg(add = ArgValueCompleter::new(complete::stacks))]
        stack: String,
        /// How it is shown.
        #[command(flatten)]
        listing: LongListing,
    },
    /// Remove stacks, and wait until they are gone; named volumes stay
    #[command(visible_aliases = ["remove", "down"])]
    Rm {
        /// Name, id or beginning of an id
        #[arg(required = true, value_name = "STACK", add = ArgValueCompleter::new(complete::stacks))]
        stacks: Vec<String>,
        /// How long it is waited for.
        #[command(flatten)]
        wait: Wait,
    },
}

/// `raftup stack deploy`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup stack deploy -c compose.yaml shop
  raftup stack deploy -c base.yaml -c prod.yaml shop    prod.yaml over base.yaml
  raftup stack deploy                                   what this directory has

Exit status: 0 once everything runs, 1 if it will not or did not in time,
130 after Ctrl-C, which stops the watching and not the deploy.
A file with anything wrong in it is refused (3) and changes nothing.")]
pub(crate) struct DeployArgs {
    /// Name of the stack [default: `name:` of the file, else its directory's name]
    #[arg(add = ArgValueCompleter::new(complete::stacks))]
    pub(crate) name: Option<String>,
    /// Compose file, - for standard input; may be given several times [default: compose.yaml in this directory]
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) compose_file: Vec<PathBuf>,
    /// File with variables for the compose file; may be given several times [default: .env beside it]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) env_file: Vec<PathBuf>,
    /// Give the nodes your credentials (~/.docker/config.json) for the registries of the images
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = ArgAction::Set
    )]
    pub(crate) with_registry_auth: bool,
    /// Keep services, networks and volumes of the stack that the file does not name any more; otherwise they are removed
    #[arg(long)]
    pub(crate) no_prune: bool,
    /// Accepted because Docker has it; it is what happens without `--no-prune`
    #[arg(long, hide = true, conflicts_with = "no_prune")]
    pub(crate) prune: bool,
    /// How long it is waited for.
    #[command(flatten)]
    pub(crate) wait: Wait,
}
