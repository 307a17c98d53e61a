//! `raftup node`.

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clap_complete::engine::ArgValueCompleter;
use raftup_proto::api::Availability;

use super::{Listing, LongListing, Ps, Wait, parse};
use crate::complete;

/// `raftup node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Show all there is to know about nodes
    Inspect {
        /// Id, beginning of an id, or host name
        #[arg(required = true, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
        nodes: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the tasks of a node, with those that ended
    Ps {
        /// Id, beginning of an id, or host name
        #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
        node: String,
        /// How it is shown.
        #[command(flatten)]
        listing: LongListing,
    },
    /// Remove nodes that left or are gone for good
    #[command(visible_alias = "remove")]
    Rm {
        /// Id, beginning of an id, or host name
        #[arg(required = true, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
        nodes: Vec<String>,
        /// Remove it even if it lives
        #[arg(short, long)]
        force: bool,
    },
    /// Make nodes managers, and keep them so
    Promote {
        /// Id, beginning of an id, or host name
        #[arg(required = true, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
        nodes: Vec<String>,
    },
    /// Make nodes plain workers, and keep them so
    Demote {
        /// Id, beginning of an id, or host name
        #[arg(required = true, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
        nodes: Vec<String>,
    },
    /// Change what may run on a node, and its labels
    Update(NodeUpdateArgs),
}

impl NodeCommand {
    /// The `raftup ps` that `raftup node ps` is.
    pub(crate) fn ps(node: String, listing: LongListing) -> Ps {
        Ps { all: true, filter: vec![super::Filter::Node(node)], listing }
    }
}

/// `raftup node update`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup node update --availability drain web3    before it is switched off
  raftup node update --label-add disk=ssd web1    to place services by it")]
pub(crate) struct NodeUpdateArgs {
    /// Id, beginning of an id, or host name
    #[arg(add = ArgValueCompleter::new(complete::nodes))]
    pub(crate) node: String,
    /// active: tasks run there; pause: no new ones come; drain: all move elsewhere, which is waited for
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(["active", "pause", "drain"]).map(|text| availability(&text))
    )]
    pub(crate) availability: Option<Availability>,
    /// Label to set; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::label)]
    pub(crate) label_add: Vec<(String, String)>,
    /// Label to remove; may be given several times
    #[arg(long, value_name = "KEY")]
    pub(crate) label_rm: Vec<String>,
    /// Have it make a new key for what it encrypts to other servers; a new one is made by itself every 30 days
    #[arg(long)]
    pub(crate) rotate_fabric_key: bool,
    /// Take over the host name, platform and engine labels that it says it has now; `node inspect` shows them
    #[arg(long)]
    pub(crate) accept_claims: bool,
    /// How long it is waited for that a drained node is empty.
    #[command(flatten)]
    pub(crate) wait: Wait,
}

fn availability(text: &str) -> Availability {
    match text {
        "drain" => Availability::Drain,
        "pause" => Availability::Pause,
        _ => Availability::Active,
    }
}
