//! `raftup ps`.

use std::str::FromStr;

use clap::Args;

use super::LongListing;

/// `raftup ps`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup ps
  raftup ps --filter node=web3
  raftup ps -a --filter service=shop_web    with the attempts that ended, and why")]
pub(crate) struct Ps {
    /// Show also tasks that ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show only what fits: node=, service=, stack=, desired-state=running|shutdown
    #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) filter: Vec<Filter>,
    /// How it is shown.
    #[command(flatten)]
    pub(crate) listing: LongListing,
}

/// What a task must fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// It is on the node.
    Node(String),
    /// It is of the service.
    Service(String),
    /// It is of the stack.
    Stack(String),
    /// It should be so.
    Desired(Desired),
}

/// What a task should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Desired {
    /// Running.
    Running,
    /// Not running any more.
    Shutdown,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = "node=, service=, stack= and desired-state= are";
        let (key, value) = text.split_once('=').ok_or_else(|| format!("no filter; {known}"))?;
        match (key, value) {
            (_, "") => Err(format!("nothing after `{key}=`")),
            ("node", value) => Ok(Self::Node(value.to_owned())),
            ("service", value) => Ok(Self::Service(value.to_owned())),
            ("stack", value) => Ok(Self::Stack(value.to_owned())),
            ("desired-state", "running") => Ok(Self::Desired(Desired::Running)),
            ("desired-state", "shutdown") => Ok(Self::Desired(Desired::Shutdown)),
            ("desired-state", _) => Err("desired-state is `running` or `shutdown`".to_owned()),
            (key, _) => Err(format!("`{key}` is no filter; {known}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_parse() {
        assert_eq!("node=h1".parse(), Ok(Filter::Node("h1".to_owned())));
        assert_eq!("desired-state=shutdown".parse(), Ok(Filter::Desired(Desired::Shutdown)));
        for text in ["node", "node=", "colour=red", "desired-state=ready"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }
}
