//! What can be typed: Docker's words and flags wherever Docker has them.
//!
//! Owns: names, flags, help texts and the parsing of single values. Leaves alone: what a command does.

mod blob;
mod cluster;
mod network;
mod node;
mod parse;
#[cfg(test)]
mod reference;
mod service;
mod stack;
mod task;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::Host;

pub(crate) use blob::{BlobCommand, BlobCreateArgs};
pub(crate) use cluster::{Doctor, Init, Join, Leave, Status, Token};
pub(crate) use network::{NetworkCommand, NetworkCreateArgs};
pub(crate) use node::{NodeCommand, NodeUpdateArgs};
pub(crate) use parse::{Limit, Scale, Since};
pub(crate) use service::{LogArgs, ServiceCommand, UpdateArgs};
pub(crate) use stack::{ConfigArgs, DeployArgs, Format, ProjectArgs, StackCommand};
pub(crate) use task::{Desired, Filter, Ps};

/// Run compose files on a cluster of Docker hosts
#[derive(Debug, Parser)]
#[command(name = "raftup", version, arg_required_else_help = true, after_help = FIRST_STEPS)]
pub(crate) struct Cli {
    /// The daemon's socket
    #[arg(
        short = 'H', long, global = true, env = "RAFTUP_HOST", hide_env_values = true,
        value_name = "HOST", default_value = Host::DEFAULT
    )]
    pub(crate) host: Host,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const FIRST_STEPS: &str = "\
First steps:
  raftup init                                 on the first server
  raftup join TOKEN                           on the others; `init` shows the token
  raftup stack deploy -c compose.yaml shop    on any of them";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a cluster of this server, and show how others join it
    Init(Init),
    /// Join this server to a cluster
    Join(Join),
    /// Take this server out of its cluster
    Leave(Leave),
    /// Show the command that joins a further server
    Token(Token),
    /// Show this server, its cluster and what is wrong with them
    #[command(visible_alias = "info")]
    Status(Status),
    /// Look at every server and at the ways between them, and say what to do
    Doctor(Doctor),
    /// Manage the nodes: the servers of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Manage stacks: what a compose file describes
    #[command(subcommand)]
    Stack(StackCommand),
    /// Manage services
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Manage secrets: contents that containers read as files, and that are never shown
    #[command(subcommand)]
    Secret(BlobCommand),
    /// Manage configs: contents that containers read as files
    #[command(subcommand)]
    Config(BlobCommand),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// List tasks of all services
    Ps(Ps),
    /// Look into the cluster's own works
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Print the completion script for a shell
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

const COMPLETION: &str = "\
Examples:
  raftup completion bash > /etc/bash_completion.d/raftup
  raftup completion zsh > \"${fpath[1]}/_raftup\"
  raftup completion fish > ~/.config/fish/completions/raftup.fish

Names of nodes, stacks, services and networks are asked for at the daemon while you type.";

/// `raftup debug`.
#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Show what each loop of the leader did last
    Controllers {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A shell that can complete.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// How a list is shown.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Listing {
    /// Print ids alone
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a list with images in it is shown.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct LongListing {
    /// As other lists.
    #[command(flatten)]
    pub(crate) listing: Listing,
    /// Print images with their digests
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// Whether a change is waited for.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// Do not wait until it is done
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Stop waiting after this long, such as `90s` or `5m`; 0 waits for ever
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse::limit)]
    pub(crate) timeout: Limit,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn definitions_are_sound() {
        super::Cli::command().debug_assert();
    }
}
