//! Published ports.

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

/// A port that nodes answer on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortSpec {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the nodes, not 0.
    pub published: u16,
    /// The port in the container, not 0.
    pub target: u16,
    /// The one address that it is on, wherever a node has it; all of a node's addresses where not given.
    #[serde(default)]
    pub host_ip: Option<Ipv4Addr>,
    /// Which nodes answer.
    #[serde(default)]
    pub mode: PublishMode,
}

impl PortSpec {
    /// A port of all addresses of all nodes.
    pub fn new(protocol: Protocol, published: u16, target: u16) -> Self {
        Self { protocol, published, target, host_ip: None, mode: PublishMode::Ingress }
    }

    /// One node cannot have both: they are one port, of an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        address && (self.protocol, self.published) == (other.protocol, other.published)
    }

    /// Two services cannot have both: some node would have to. Ports of tasks' own nodes are kept apart by placement.
    pub fn clashes(&self, other: &Self) -> bool {
        self.overlaps(other) && (self.mode, other.mode) != (PublishMode::Host, PublishMode::Host)
    }
}

/// As people write it: `8080/tcp`, `127.0.0.1:8080/tcp`.
impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.host_ip {
            write!(f, "{address}:")?;
        }
        write!(f, "{}/{}", self.published, self.protocol)
    }
}

/// Which nodes answer on a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishMode {
    /// Every node, whichever nodes run the tasks.
    #[default]
    Ingress,
    /// Those that run a task, each for its own.
    Host,
}

/// A transport protocol that can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port in the container that is published on a port that the cluster chooses, and keeps as long as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AnyPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port in the container, not 0.
    pub target: u16,
    /// The one address that it is on; all of a node's addresses where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<Ipv4Addr>,
    /// Which nodes answer.
    #[serde(default)]
    pub mode: PublishMode,
}

impl AnyPort {
    /// The first of the ports that the cluster chooses from, those that Swarm has for it.
    pub const FIRST: u16 = 30_000;
    /// The last of them.
    pub const LAST: u16 = 32_767;

    /// It, published on a port.
    pub fn on(self, published: u16) -> PortSpec {
        let Self { protocol, target, host_ip, mode } = self;
        PortSpec { protocol, published, target, host_ip, mode }
    }
}
