//! `raftup service`.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::{Filter, LongListing, Scale, Since, Wait, parse};
use crate::complete;

/// `raftup service`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the services
    #[command(visible_alias = "list")]
    Ls(LongListing),
    /// List the tasks of services, with those that ended and why
    Ps {
        /// Name such as `shop_web`, id or beginning of an id
        #[arg(required = true, value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
        services: Vec<String>,
        /// Show only what fits: node=, desired-state=running|shutdown
        #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',')]
        filter: Vec<Filter>,
        /// How it is shown.
        #[command(flatten)]
        listing: LongListing,
    },
    /// Show all there is to know about services
    Inspect {
        /// Name such as `shop_web`, id or beginning of an id
        #[arg(required = true, value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
        services: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change the number of replicas, and wait until they run
    #[command(after_help = "\
Examples:
  raftup service scale shop_web=5
  raftup service scale shop_web=5 shop_worker=0")]
    Scale {
        /// Service and number of replicas
        #[arg(
            required = true, value_name = "SERVICE=REPLICAS", value_parser = parse::scale,
            add = ArgValueCompleter::new(complete::services)
        )]
        scales: Vec<Scale>,
        /// How long it is waited for.
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm {
        /// Name such as `shop_web`, id or beginning of an id
        #[arg(required = true, value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
        services: Vec<String>,
    },
    /// Show what the containers of a service write
    Logs(LogArgs),
}

/// `raftup service logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup service logs --tail 20 -f shop_web
  raftup service logs --since 10m -t shop_web")]
pub(crate) struct LogArgs {
    /// Name such as `shop_web`, id or beginning of an id
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: String,
    /// Keep showing what is written from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Show only the last so many lines of each task
    #[arg(short = 'n', long, value_name = "LINES", value_parser = parse::tail, default_value = "all")]
    pub(crate) tail: parse::Tail,
    /// Show only what is newer: a duration such as `10m`, or a time such as `2026-11-21T09:30:00`
    #[arg(long, value_name = "TIME", value_parser = parse::since)]
    pub(crate) since: Option<Since>,
    /// Show when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Show the lines alone, without the task and its node
    #[arg(long)]
    pub(crate) raw: bool,
    /// Print each line as JSON
    #[arg(long, conflicts_with_all = ["raw", "timestamps"])]
    pub(crate) json: bool,
}
