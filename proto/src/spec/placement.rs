//! Which nodes may run a service.

use std::{collections::BTreeSet, fmt, net::IpAddr, num::NonZeroU32};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::name::ServiceName;

/// Which nodes may run a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// All of them must hold.
    pub constraints: Vec<Constraint>,
    /// Labels whose values get equal shares of the tasks, the outermost level first. Nodes without the label are one
    /// value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spread: Vec<NodeAttribute>,
    /// The most tasks of the service on one node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_per_node: Option<NonZeroU32>,
    /// Services of the stack that a node must run a task of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub with: BTreeSet<ServiceName>,
    /// Services of the stack that a node must run no task of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub apart_from: BTreeSet<ServiceName>,
}

/// One condition on a node, such as `node.labels.disk == ssd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// What is looked at.
    pub attribute: NodeAttribute,
    /// Whether it must be equal (`==`) or must not (`!=`).
    pub equal: bool,
    /// The value, compared without regard to case, as Swarm does; for `node.ip` an address or a network.
    pub value: String,
}

/// An address, or a network as `ADDRESS/LENGTH`, as the value of a constraint on `node.ip`.
pub fn ip_range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// What a constraint can look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAttribute {
    /// `node.id`
    Id,
    /// `node.hostname`
    Hostname,
    /// `node.ip`
    Ip,
    /// `node.role`
    Role,
    /// `node.platform.os`
    Os,
    /// `node.platform.arch`
    Arch,
    /// `node.labels.KEY`
    Label(String),
    /// `engine.labels.KEY`
    EngineLabel(String),
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.equal { "==" } else { "!=" };
        write!(f, "{} {sign} {}", self.attribute, self.value)
    }
}

impl fmt::Display for NodeAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("node.id"),
            Self::Hostname => f.write_str("node.hostname"),
            Self::Ip => f.write_str("node.ip"),
            Self::Role => f.write_str("node.role"),
            Self::Os => f.write_str("node.platform.os"),
            Self::Arch => f.write_str("node.platform.arch"),
            Self::Label(key) => write!(f, "node.labels.{key}"),
            Self::EngineLabel(key) => write!(f, "engine.labels.{key}"),
        }
    }
}
