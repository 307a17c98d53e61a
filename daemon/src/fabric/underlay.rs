//! What the tunnels between nodes run over.
//!
//! With encryption, the addresses of the main lane are those inside of the encrypted links, and the size is theirs; the
//! plain lane beside it goes right over the link between hosts, to the port that WireGuard has. Nothing else in the fabric
//! knows the difference.

use std::{collections::BTreeMap, net::IpAddr};

use raftup_proto::{
    api::FabricMode,
    id::NodeId,
    view::{Lane, PLAIN_PORT, PeerItem, View, WIRE_PORT},
};

/// Bytes that VXLAN puts around a packet, its own and the inner Ethernet header included, over IPv4.
const OVERHEAD_V4: u32 = 50;

/// Bytes that WireGuard puts around a packet, over IPv6; over IPv4 it is 20 less, but nodes must agree.
const OVERHEAD_WIRE: u32 = 80;

/// Least size of packets on a link between hosts: QUIC sends no smaller ones at first (RFC 9000, 14.1), and every link that
/// carries IPv6 has it (RFC 8200, 5).
pub const LEAST_LINK_MTU: u32 = 1280;

/// Largest packet of a link that is not known, because none of this node's devices has its address.
const USUAL_MTU: u32 = 1500;

/// Where the tunnels of a lane start and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Address of this node that tunnels start from; none where none of its devices has it (behind a NAT).
    pub own: Option<IpAddr>,
    /// UDP port of this node's end.
    pub port: u16,
    /// Largest packet that a tunnel carries.
    pub mtu: u32,
    /// The other nodes' ends: address, and UDP port.
    pub ends: BTreeMap<NodeId, (IpAddr, u16)>,
}

impl Underlay {
    /// That of a lane in a fabric. `link_mtu` is that of the device with this node's address, if there is one.
    pub fn of(lane: Lane, fabric: FabricMode, view: &View, me: &PeerItem, link_mtu: Option<u32>) -> Self {
        match (fabric, lane) {
            (FabricMode::Wireguard, Lane::Main) => Self::wire(view, me, link_mtu),
            // On this host the fabric's port is WireGuard's; rules lead to this one what comes to it.
            (FabricMode::Wireguard, Lane::Plain) => {
                Self { port: PLAIN_PORT, ..Self::plain(view, me, link_mtu) }
            }
            (FabricMode::Plain, _) => Self::plain(view, me, link_mtu),
        }
    }

    /// Tunnels right on the link between hosts, over IPv4: the rules that keep strangers out are of IPv4.
    fn plain(view: &View, me: &PeerItem, link_mtu: Option<u32>) -> Self {
        let others = view.peers().filter(|peer| peer.node != me.node && peer.underlay.is_ipv4());
        Self {
            own: link_mtu.map(|_| me.underlay).filter(IpAddr::is_ipv4),
            port: me.fabric_port,
            mtu: link_mtu.unwrap_or(USUAL_MTU).saturating_sub(OVERHEAD_V4),
            ends: others.map(|peer| (peer.node, (peer.underlay, peer.fabric_port))).collect(),
        }
    }

    /// Tunnels inside of the encrypted links.
    fn wire(view: &View, me: &PeerItem, link_mtu: Option<u32>) -> Self {
        let others = view.peers().filter(|peer| peer.node != me.node);
        Self {
            own: Some(me.wire().into()),
            port: WIRE_PORT,
            mtu: wire_mtu(link_mtu).saturating_sub(OVERHEAD_V4),
            ends: others.map(|peer| (peer.node, (peer.wire().into(), WIRE_PORT))).collect(),
        }
    }
}

/// Largest packet of the encrypted links.
pub(super) fn wire_mtu(link_mtu: Option<u32>) -> u32 {
    link_mtu.unwrap_or(USUAL_MTU).saturating_sub(OVERHEAD_WIRE)
}
