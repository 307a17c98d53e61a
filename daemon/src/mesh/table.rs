//! What a view means for packets; pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use raftup_proto::{
    api::FabricMode,
    id::{NetworkId, NodeId},
    spec::Protocol,
    view::{ClusterItem, Endpoint, PeerItem, Revision, RouteItem, View},
};

/// A published port.
pub(super) type Port = (Protocol, u16);

/// Where a published port is asked for: on one address, or on all that the node has.
pub(super) type Front = (Option<Ipv4Addr>, Port);

/// Everything that the rules say, in an order that does not change by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Of the view that it was made from.
    pub(super) generation: Revision,
    /// All addresses of networks, VIPs and the fabric.
    pub(super) pool: Ipv4Net,
    /// The nodes' own addresses on the fabric.
    pub(super) fabric: Ipv4Net,
    /// What nodes send each other packets of containers through.
    pub(super) fabric_mode: FabricMode,
    /// UDP port of this node's fabric.
    pub(super) fabric_port: u16,
    /// The networks.
    pub(super) networks: Vec<Net>,
    /// The other nodes.
    pub(super) peers: Vec<Peer>,
    /// Addresses of all nodes on the links between them.
    pub(super) nodes: BTreeSet<Ipv4Addr>,
    /// Virtual addresses and where new connections to them go; never empty.
    pub(super) virtuals: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
    /// Ports that this node answers on.
    pub(super) published: BTreeMap<Front, Published>,
    /// Endpoints of this node, and what other nodes may send them from outside of their networks.
    pub(super) here: BTreeMap<Ipv4Addr, BTreeSet<Port>>,
    /// All endpoints that may hold connections, ready or not: on nodes that can be reached.
    pub(super) endpoints: BTreeSet<Ipv4Addr>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Net {
    pub(super) id: NetworkId,
    pub(super) bridge: String,
    pub(super) subnet: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    pub(super) vips: Ipv4Net,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) mac: [u8; 6],
    pub(super) mark: u32,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    /// The port in the container.
    pub(super) target: u16,
    /// Where new connections go; empty if they are refused.
    pub(super) endpoints: Vec<Ipv4Addr>,
}

impl Table {
    /// The table of node `me`, which cannot reach some of the others now: they get new connections only where nobody
    /// else can take them.
    pub fn of(view: &View, cluster: &ClusterItem, me: &PeerItem, unreachable: &BTreeSet<NodeId>) -> Self {
        let mut table = Self {
            generation: view.generation,
            pool: cluster.pool.trunc(),
            fabric: cluster.fabric(),
            fabric_mode: cluster.fabric,
            fabric_port: me.fabric_port,
            networks: networks(view),
            peers: peers(view, me),
            nodes: view.peers().filter_map(|peer| v4(peer.underlay)).collect(),
            virtuals: BTreeMap::new(),
            published: BTreeMap::new(),
            here: BTreeMap::new(),
            endpoints: BTreeSet::new(),
        };
        let dead: BTreeSet<NodeId> = view.peers().filter(|peer| !peer.alive).map(|peer| peer.node).collect();
        for route in view.routes() {
            table.add(route, me.node, &dead, unreachable);
        }
        let everywhere: BTreeSet<Front> = table.published.keys().copied().collect();
        for endpoint in view.routes().flat_map(|route| &route.endpoints).filter(|one| one.node == me.node) {
            table.add_host_ports(endpoint, &everywhere);
        }
        table
    }

    /// Leaves ports to other programs of this node.
    pub(super) fn withhold(&mut self, taken: &BTreeSet<Front>) {
        self.published.retain(|front, _| !taken.contains(front));
    }

    /// Ports of this node that lead to an endpoint of its own alone. Those that every node answers on come before them:
    /// until the last task of an older version is gone, both may be there.
    fn add_host_ports(&mut self, endpoint: &Endpoint, everywhere: &BTreeSet<Front>) {
        let Some((_, address)) = endpoint.addresses.first() else { return };
        for port in &endpoint.host_ports {
            let (at, port, target) = (port.host_ip, (port.protocol, port.published), port.target);
            if everywhere.contains(&(at, port)) || everywhere.contains(&(None, port)) {
                continue;
            }
            let none = || Published { target, endpoints: Vec::new() };
            let to = self.published.entry((at, port)).or_insert_with(none);
            to.endpoints.extend(endpoint.ready.then_some(*address));
        }
    }

    fn add(
        &mut self,
        route: &RouteItem,
        me: NodeId,
        dead: &BTreeSet<NodeId>,
        unreachable: &BTreeSet<NodeId>,
    ) {
        // Its own node cannot be dead to itself; a leader that thinks so is wrong about one of the two.
        let within = |nodes: &BTreeSet<NodeId>, endpoint: &Endpoint| {
            endpoint.node != me && nodes.contains(&endpoint.node)
        };
        let serves = |endpoint: &Endpoint| endpoint.ready && !within(dead, endpoint);
        let others_serve =
            route.endpoints.iter().any(|endpoint| serves(endpoint) && !within(unreachable, endpoint));
        let mut published = Vec::new();
        let mut virtuals: BTreeMap<NetworkId, Vec<Ipv4Addr>> = BTreeMap::new();
        for endpoint in &route.endpoints {
            let hidden = within(dead, endpoint) || (others_serve && within(unreachable, endpoint));
            let serves = endpoint.ready && !hidden;
            let first = endpoint.addresses.first();
            published.extend(first.filter(|_| serves).map(|(_, address)| *address));
            for (network, address) in &endpoint.addresses {
                if !hidden {
                    self.endpoints.insert(*address);
                }
                if serves {
                    virtuals.entry(*network).or_default().push(*address);
                }
                if endpoint.node == me {
                    self.here.entry(*address).or_default();
                }
            }
            if let Some((_, address)) = first.filter(|_| endpoint.node == me) {
                let targets = route.ports.iter().map(|port| (port.protocol, port.target));
                self.here.entry(*address).or_default().extend(targets);
            }
        }
        for (network, address) in &route.networks {
            if let (Some(vip), Some(endpoints)) = (address.vip, virtuals.remove(network)) {
                self.virtuals.insert(vip, endpoints);
            }
        }
        for port in &route.ports {
            let to = Published { target: port.target, endpoints: published.clone() };
            self.published.insert((port.host_ip, (port.protocol, port.published)), to);
        }
    }
}

fn networks(view: &View) -> Vec<Net> {
    let networks = view.networks().map(|network| Net {
        id: network.network,
        bridge: network.bridge(),
        subnet: network.subnet,
        gateway: network.gateway(),
        vips: network.vips(),
    });
    networks.collect()
}

fn peers(view: &View, me: &PeerItem) -> Vec<Peer> {
    let others = view.peers().filter(|peer| peer.node != me.node);
    others.map(|peer| Peer { mac: peer.fabric_mac(), mark: peer.return_mark() }).collect()
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
