//! Which nodes may run a service.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which nodes may run a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// All of them must hold.
    pub constraints: Vec<Constraint>,
}

/// One condition on a node, such as `node.labels.disk == ssd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// What is looked at.
    pub attribute: NodeAttribute,
    /// Whether it must be equal (`==`) or must not (`!=`).
    pub equal: bool,
    /// The value, compared without regard to case, as Swarm does.
    pub value: String,
}

/// What a constraint can look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAttribute {
    /// `node.id`
    Id,
    /// `node.hostname`
    Hostname,
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
            Self::Role => f.write_str("node.role"),
            Self::Os => f.write_str("node.platform.os"),
            Self::Arch => f.write_str("node.platform.arch"),
            Self::Label(key) => write!(f, "node.labels.{key}"),
            Self::EngineLabel(key) => write!(f, "engine.labels.{key}"),
        }
    }
}
