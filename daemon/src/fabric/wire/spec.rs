//! What the tunnel should be, and what daemon and tunnel say to each other; pure.
//!
//! One JSON value a line: the daemon gives [`Order`]s, the tunnel answers each with one [`Answer`]. The tunnel says
//! [`Answer::Hello`] first.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use raftup_proto::{
    id::NodeId,
    peer::FabricKey,
    view::{PeerItem, View},
};
use serde::{Deserialize, Serialize};

use super::PrivateKey;

/// All that a tunnel is told. Equal specs change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSpec {
    /// Where it listens: no address, and the fabric's port.
    pub listen: SocketAddr,
    /// This node's address inside of the links.
    pub address: Ipv4Addr,
    /// This node's keys, newest last.
    pub keys: Vec<PrivateKey>,
    /// Which of them is the one of a tunnel that has one at a time.
    pub alone: usize,
    /// The other nodes, by id.
    pub peers: Vec<TunnelPeer>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPeer {
    /// Its address inside of the links; packets from it have this one and no other.
    pub address: Ipv4Addr,
    /// Where it is looked for, as the state says; it is reached wherever it was last heard from.
    pub endpoint: SocketAddr,
    /// Where it says by gossip that it is, if that is elsewhere: sooner than the state, and no more than a hint.
    pub hint: Option<SocketAddr>,
    /// Its keys, newest last.
    pub keys: Vec<FabricKey>,
}

impl TunnelSpec {
    /// The tunnel of node `me`. Who the others are, and their keys, follows from the view alone; `hints` are where they
    /// say that they are.
    pub fn of(
        view: &View,
        me: &PeerItem,
        hints: &BTreeMap<NodeId, SocketAddr>,
        keys: Vec<PrivateKey>,
        alone: usize,
    ) -> Self {
        let any: IpAddr = match me.underlay {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let others = view.peers().filter(|peer| peer.node != me.node && !peer.fabric_keys.is_empty());
        let peers = others.map(|peer| {
            let endpoint = SocketAddr::new(peer.underlay, peer.fabric_port);
            let hint = hints.get(&peer.node).copied();
            TunnelPeer {
                address: peer.wire(),
                endpoint,
                hint: hint.filter(|hint| *hint != endpoint && hint.is_ipv4() == endpoint.is_ipv4()),
                keys: peer.fabric_keys.clone(),
            }
        });
        Self {
            listen: SocketAddr::new(any, me.fabric_port),
            address: me.wire(),
            keys,
            alone,
            peers: peers.collect(),
        }
    }
}

impl TunnelSpec {
    /// The other nodes with the keys that belong to them. A key that several nodes name is the one's whose link has it
    /// now, as `holder` says, else the first one's; this node's own keys are nobody else's. So a node that names the key
    /// of another does not cut that one off.
    pub(super) fn undisputed(&self, holder: impl Fn(FabricKey) -> Option<Ipv4Addr>) -> Vec<TunnelPeer> {
        let mut owners: BTreeMap<FabricKey, Ipv4Addr> = BTreeMap::new();
        for peer in &self.peers {
            for key in &peer.keys {
                let owner = owners.entry(*key).or_insert(peer.address);
                if holder(*key) == Some(peer.address) {
                    *owner = peer.address;
                }
            }
        }
        for own in &self.keys {
            owners.remove(&own.public());
        }
        let with_own_keys = |peer: &TunnelPeer| {
            let mut keys = peer.keys.clone();
            keys.retain(|key| owners.get(key) == Some(&peer.address));
            (!keys.is_empty()).then(|| TunnelPeer { keys, ..peer.clone() })
        };
        self.peers.iter().filter_map(with_own_keys).collect()
    }
}

impl TunnelPeer {
    /// Where it may be, the likeliest first.
    pub(super) fn places(&self) -> impl Iterator<Item = SocketAddr> {
        self.hint.into_iter().chain([self.endpoint])
    }
}

/// What the daemon asks of the tunnel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Be this from now on.
    Set(TunnelSpec),
    /// Say how the links are.
    Status,
    /// Go on with device and socket of the process that answers at this path.
    TakeOver(PathBuf),
    /// Hand device and socket over to who asks: nothing but them comes as an answer.
    HandOver,
    /// End; the device goes with the process.
    Stop,
}

/// What the tunnel answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// First of all: the program that it runs.
    Hello { version: String },
    /// It was done.
    Done,
    /// To [`Order::Status`].
    Links(Vec<LinkStatus>),
    /// It cannot be done.
    Failed(String),
}

/// A link to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The node's address inside of the links.
    pub address: Ipv4Addr,
    /// Where it was last heard from.
    pub endpoint: SocketAddr,
    /// This node's key of it.
    pub key: FabricKey,
    /// Time since both ends agreed on the session in use; none without a session.
    pub agreed_ms_ago: Option<u64>,
    /// Bytes of packets that were sent.
    pub sent_bytes: u64,
    /// Bytes of packets that came.
    pub received_bytes: u64,
}
