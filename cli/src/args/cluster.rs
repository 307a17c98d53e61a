//! `raftup init`, `join`, `leave`, `token` and `status`.

use std::net::{IpAddr, SocketAddr};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use ipnet::Ipv4Net;
use raftup_proto::{
    api::{FabricMode, Managers},
    secret::Secret,
};

/// `raftup init`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup init
  raftup init --advertise-addr 192.0.2.10    if it has several addresses
  raftup init --pool 172.28.0.0/14           if 10.64.0.0/11 is taken")]
pub(crate) struct Init {
    /// Address that the other servers reach this one at; found out, and followed, where not given
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_addr: Option<IpAddr>,
    /// Pool that all networks get their addresses from [default: 10.64.0.0/11]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pool: Option<Ipv4Net>,
    /// How many servers hold the cluster's state
    #[arg(
        long, value_name = "COUNT", default_value = "auto",
        value_parser = PossibleValuesParser::new(["auto", "1", "3", "5"]).map(|text| managers(&text))
    )]
    pub(crate) managers: Managers,
    /// What containers on different servers talk through: encrypted, or bare for a link that is yours alone
    #[arg(
        long, value_name = "KIND", default_value = "wireguard",
        value_parser = PossibleValuesParser::new(["wireguard", "plain"]).map(|text| fabric(&text))
    )]
    pub(crate) fabric: FabricMode,
}

fn fabric(text: &str) -> FabricMode {
    if text == "plain" { FabricMode::Plain } else { FabricMode::Wireguard }
}

fn managers(text: &str) -> Managers {
    text.parse().map_or(Managers::Auto, Managers::Fixed)
}

/// `raftup join`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup join TOKEN
  raftup join TOKEN --via 192.0.2.10:7238    if the token's addresses are old")]
pub(crate) struct Join {
    /// The token that `raftup init` or `raftup token` showed
    pub(crate) token: Secret<String>,
    /// Address that the other servers reach this one at; found out, and followed, where not given
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_addr: Option<IpAddr>,
    /// Manager to ask instead of those in the token; may be given several times
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) via: Vec<SocketAddr>,
}

/// `raftup leave`.
#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// Leave even if no manager answers, or this is the last one and the cluster ends with it
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// `raftup token`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup token
  ssh web4 \"$(raftup token)\"
  raftup token --worker --rotate    when a token has become known to strangers")]
pub(crate) struct Token {
    /// The token for servers that only run tasks and never hold the cluster's state
    #[arg(long)]
    pub(crate) worker: bool,
    /// Make a new token; the old one is refused from then on
    #[arg(long)]
    pub(crate) rotate: bool,
    /// Print the token alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `raftup doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status 0 if nothing is wrong (warnings may be), 1 if something is.
Before `init` or `join`, it looks at this server alone.")]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `raftup status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
