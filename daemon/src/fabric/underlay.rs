//! What the tunnels between nodes run over.
//!
//! The seam for encryption: with it, the addresses here are those inside of the encrypted links, and the size is
//! theirs. Nothing else in the fabric knows the difference.

use std::{collections::BTreeMap, net::IpAddr};

use raftup_proto::{
    id::NodeId,
    view::{PeerItem, View},
};

/// Bytes that VXLAN puts around a packet, its own and the inner Ethernet header included, over IPv4.
const OVERHEAD_V4: u32 = 50;

/// The same over IPv6.
const OVERHEAD_V6: u32 = 70;

/// Where tunnels start and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Address of this node that tunnels start from; none where none of its devices has it (behind a NAT).
    pub own: Option<IpAddr>,
    /// Largest packet that a tunnel carries.
    pub mtu: u32,
    /// The other nodes' ends: address, and UDP port.
    pub ends: BTreeMap<NodeId, (IpAddr, u16)>,
}

impl Underlay {
    /// Tunnels right on the link between hosts. `link_mtu` is that of the device with this node's address, if there
    /// is one.
    pub fn plain(view: &View, me: &PeerItem, link_mtu: Option<u32>) -> Self {
        let overhead = if me.underlay.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let others = view.peers().filter(|peer| peer.node != me.node);
        Self {
            own: link_mtu.map(|_| me.underlay),
            mtu: link_mtu.unwrap_or(1500).saturating_sub(overhead),
            ends: others.map(|peer| (peer.node, (peer.underlay, peer.fabric_port))).collect(),
        }
    }
}
