//! What a view means for packets; pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use raftup_proto::{
    api::FabricMode,
    id::{NetworkId, NodeId},
    spec::{Protocol, Routing},
    view::{ClusterItem, Endpoint, Lane, PeerItem, Revision, Route, SUBNET_PREFIX, TaskItem, View},
};

/// Parts that all client addresses are divided into where those of one part stay together: many, so that each endpoint
/// gets about as many as any other; and fewer for a service with many ports, for each has an element for each part.
/// The same on all nodes of all versions.
pub(super) const PARTS: [u32; 2] = [1024, 64];

/// Ports up to which a service has the larger number of parts.
const FEW_PORTS: usize = 8;

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
    /// Address that the other nodes send frames to that are not encrypted. None: no device of this node has it (NAT).
    pub(super) end: Option<Ipv4Addr>,
    /// The networks, by their ids.
    pub(super) networks: Vec<Net>,
    /// The container addresses that this node is home to, each with the bridge of its network: packets from that bridge
    /// have no other source.
    pub(super) homes: BTreeMap<Ipv4Net, String>,
    /// Bridges and addresses of containers here that are on other networks: answers leave through the container's default
    /// gateway, whichever of its addresses was asked.
    pub(super) crossing: BTreeSet<(String, Ipv4Addr)>,
    /// Those that the engine gives to containers that are not the cluster's, and the gateway that answers them names.
    pub(super) attached: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// Addresses on internal networks of containers here that are on others as well.
    pub(super) outgoing: BTreeSet<Ipv4Addr>,
    /// The ways between nodes that the networks need.
    pub(super) lanes: Vec<Lane>,
    /// The other nodes, on each of these.
    pub(super) peers: Vec<Peer>,
    /// Addresses of all nodes on the links between them.
    pub(super) nodes: BTreeSet<Ipv4Addr>,
    /// The same with the UDP port of each one's fabric.
    pub(super) ends: BTreeSet<(Ipv4Addr, u16)>,
    /// Virtual addresses and where new connections to them go; never nowhere.
    pub(super) virtuals: BTreeMap<Ipv4Addr, Choice>,
    /// Ports that this node answers on.
    pub(super) published: BTreeMap<Front, Published>,
    /// Numbers of endpoints that connections to virtual addresses, to ports of all addresses, and to ports of one are
    /// drawn from.
    pub(super) draws: [BTreeSet<usize>; 3],
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
    /// Its containers reach each other and nothing else.
    pub(super) internal: bool,
    /// Its way between nodes.
    pub(super) lane: Lane,
}

/// Another node on a lane.
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
    /// Where new connections go; nowhere if they are refused.
    pub(super) to: Choice,
}

/// Where new connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// To one of these, drawn each time.
    Drawn(Vec<Ipv4Addr>),
    /// To the one of the client's part; as many as there are parts, one of [`PARTS`].
    ByClient(Vec<Ipv4Addr>),
}

impl Choice {
    /// By the number that is drawn, or that of the part.
    pub(super) fn endpoints(&self) -> &[Ipv4Addr] {
        match self {
            Self::Drawn(endpoints) | Self::ByClient(endpoints) => endpoints,
        }
    }
}

impl Table {
    /// The table of node `me`, which cannot reach some of the others now: they get new connections only where nobody
    /// else can take them. `end` is this node's address on the link between nodes, if a device has it.
    pub fn of(
        view: &View,
        cluster: &ClusterItem,
        me: &PeerItem,
        end: Option<Ipv4Addr>,
        unreachable: &BTreeSet<NodeId>,
    ) -> Self {
        let ends = || view.peers().filter_map(|peer| Some((v4(peer.underlay)?, peer.fabric_port)));
        let mut table = Self {
            generation: view.generation,
            pool: cluster.pool.trunc(),
            fabric: cluster.fabric(),
            fabric_mode: cluster.fabric,
            fabric_port: me.fabric_port,
            end,
            networks: networks(view),
            homes: homes(view, me),
            crossing: crossing(view),
            attached: attached(view, me),
            outgoing: view.outgoing(),
            lanes: view.lanes(),
            peers: peers(view, me),
            nodes: ends().map(|(address, _)| address).collect(),
            ends: ends().collect(),
            virtuals: BTreeMap::new(),
            published: BTreeMap::new(),
            draws: Default::default(),
            here: BTreeMap::new(),
            endpoints: BTreeSet::new(),
        };
        let dead: BTreeSet<NodeId> = view.peers().filter(|peer| !peer.alive).map(|peer| peer.node).collect();
        for route in view.routes() {
            table.add(&route, me.node, &dead, unreachable);
        }
        let everywhere: BTreeSet<Front> = table.published.keys().copied().collect();
        for endpoint in view.endpoints().filter(|one| one.node == me.node) {
            table.add_host_ports(endpoint, &everywhere);
        }
        table.draws = table.draws();
        table
    }

    /// Where connections to published ports go: nothing from outside gets into an internal network.
    fn front_address(&self, endpoint: &Endpoint) -> Option<Ipv4Addr> {
        let internal = |network| {
            let found = self.networks.binary_search_by_key(&network, |net| net.id);
            found.is_ok_and(|index| self.networks[index].internal)
        };
        endpoint.addresses.iter().find(|(network, _)| !internal(*network)).map(|(_, address)| *address)
    }

    /// Some networks are plain although the fabric is encrypted.
    pub(super) fn has_plain(&self) -> bool {
        self.lanes.contains(&Lane::Plain)
    }

    /// Leaves ports to other programs of this node.
    pub(super) fn withhold(&mut self, taken: &BTreeSet<Front>) {
        self.published.retain(|front, _| !taken.contains(front));
    }

    /// Ports of this node that lead to an endpoint of its own alone. Those that every node answers on come before them:
    /// until the last task of an older version is gone, both may be there.
    fn add_host_ports(&mut self, endpoint: &Endpoint, everywhere: &BTreeSet<Front>) {
        let Some(address) = self.front_address(endpoint) else { return };
        for port in &endpoint.host_ports {
            let (at, port, target) = (port.host_ip, (port.protocol, port.published), port.target);
            if everywhere.contains(&(at, port)) || everywhere.contains(&(None, port)) {
                continue;
            }
            let none = || Published { target, to: Choice::Drawn(Vec::new()) };
            if let Choice::Drawn(endpoints) = &mut self.published.entry((at, port)).or_insert_with(none).to {
                endpoints.extend(endpoint.ready.then_some(address));
            }
        }
    }

    fn add(
        &mut self,
        route: &Route<'_>,
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
        let mut virtuals: BTreeMap<NetworkId, Vec<(&Endpoint, Ipv4Addr)>> = BTreeMap::new();
        for &endpoint in &route.endpoints {
            let hidden = within(dead, endpoint) || (others_serve && within(unreachable, endpoint));
            let serves = endpoint.ready && !hidden;
            let first = self.front_address(endpoint);
            published.extend(first.filter(|_| serves).map(|address| (endpoint, address)));
            for (network, address) in &endpoint.addresses {
                if !hidden {
                    self.endpoints.insert(*address);
                }
                if serves {
                    virtuals.entry(*network).or_default().push((endpoint, *address));
                }
                if endpoint.node == me {
                    self.here.entry(*address).or_default();
                }
            }
            if let Some(address) = first.filter(|_| endpoint.node == me) {
                let targets = route.ports.iter().map(|port| (port.protocol, port.target));
                self.here.entry(address).or_default().extend(targets);
            }
        }
        let parts = PARTS[usize::from(route.ports.len() > FEW_PORTS)];
        let choice = |serving: &[(&Endpoint, Ipv4Addr)]| choice(route.routing, parts, me, serving);
        for (network, address) in &route.networks {
            if let (Some(vip), Some(serving)) = (address.vip, virtuals.remove(network)) {
                self.virtuals.insert(vip, choice(&serving));
            }
        }
        let to = choice(&published);
        for port in &route.ports {
            let published = Published { target: port.target, to: to.clone() };
            self.published.insert((port.host_ip, (port.protocol, port.published)), published);
        }
    }

    fn draws(&self) -> [BTreeSet<usize>; 3] {
        let drawn = |choice: &Choice| match choice {
            Choice::Drawn(endpoints) => Some(endpoints.len()).filter(|count| *count > 0),
            Choice::ByClient(_) => None,
        };
        let ports = |of_one: bool| {
            let kind = self.published.iter().filter(move |((at, _), _)| at.is_some() == of_one);
            kind.filter_map(|(_, published)| drawn(&published.to)).collect()
        };
        [self.virtuals.values().filter_map(drawn).collect(), ports(false), ports(true)]
    }

    /// Gives endpoints the numbers that they had in `before`, as far as they are still in use: a change of one then
    /// moves no more than one other.
    pub fn keep_numbers(&mut self, before: &Self) {
        for (address, choice) in &mut self.virtuals {
            keep_numbers(choice, before.virtuals.get(address));
        }
        for (port, published) in &mut self.published {
            keep_numbers(&mut published.to, before.published.get(port).map(|published| &published.to));
        }
    }

    /// The table without what `other` has as well, where there may be much of it.
    pub(super) fn unlike(&self, other: &Self) -> Self {
        let known = |network: &Net| {
            let found = other.networks.binary_search_by_key(&network.id, |other| other.id);
            found.is_ok_and(|index| other.networks[index] == *network)
        };
        Self {
            networks: self.networks.iter().filter(|network| !known(network)).cloned().collect(),
            homes: unlike(&self.homes, &other.homes),
            crossing: self.crossing.difference(&other.crossing).cloned().collect(),
            attached: self.attached.clone(),
            outgoing: self.outgoing.clone(),
            lanes: self.lanes.clone(),
            peers: self.peers.clone(),
            nodes: self.nodes.clone(),
            ends: self.ends.clone(),
            virtuals: unlike(&self.virtuals, &other.virtuals),
            published: unlike(&self.published, &other.published),
            draws: self.draws.clone(),
            here: unlike(&self.here, &other.here),
            // No rule names them.
            endpoints: BTreeSet::new(),
            ..*self
        }
    }
}

fn unlike<K: Ord + Clone, V: PartialEq + Clone>(
    these: &BTreeMap<K, V>,
    others: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    let differs = |(key, value): &(&K, &V)| others.get(*key) != Some(*value);
    these.iter().filter(differs).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Where new connections go at the node `me`, among those that serve.
fn choice(routing: Routing, parts: u32, me: NodeId, serving: &[(&Endpoint, Ipv4Addr)]) -> Choice {
    let all = || serving.iter().map(|(_, address)| *address).collect();
    match routing {
        Routing::Sticky if serving.len() > 1 => {
            Choice::ByClient((0..parts).map(|part| of_part(part, serving)).collect())
        }
        Routing::Any | Routing::Sticky => Choice::Drawn(all()),
        Routing::Local => {
            let here: Vec<Ipv4Addr> = serving
                .iter()
                .filter(|(endpoint, _)| endpoint.node == me)
                .map(|(_, address)| *address)
                .collect();
            Choice::Drawn(if here.is_empty() { all() } else { here })
        }
    }
}

/// The endpoint of a part of the clients: that of the slot with the highest score, so that one that comes or goes moves
/// no client but its own, and a task gets the clients of the one that it replaces. While two are in a slot, they share.
fn of_part(part: u32, serving: &[(&Endpoint, Ipv4Addr)]) -> Ipv4Addr {
    let score = |(endpoint, _): &&(&Endpoint, Ipv4Addr)| {
        (mix(part.into(), endpoint.slot), mix(part.into(), endpoint.task.number()), endpoint.task)
    };
    serving.iter().max_by_key(score).map_or(Ipv4Addr::UNSPECIFIED, |(_, address)| *address)
}

/// A number that looks like chance, and is the same on all nodes of all versions. Source: SplitMix64, of Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators".
pub(super) fn mix(one: u64, other: u64) -> u64 {
    let mut bits = other.wrapping_add(one.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn keep_numbers(choice: &mut Choice, before: Option<&Choice>) {
    let (Choice::Drawn(now), Some(Choice::Drawn(before))) = (choice, before) else { return };
    if now == before {
        return;
    }
    let wanted: BTreeSet<Ipv4Addr> = now.iter().copied().collect();
    let stays = |address: &&Ipv4Addr| wanted.contains(*address);
    let kept: BTreeSet<Ipv4Addr> = before.iter().take(now.len()).filter(stays).copied().collect();
    let mut others = now.iter().filter(|address| !kept.contains(*address)).copied();
    let old = |index: usize| before.get(index).filter(|address| kept.contains(*address)).copied();
    *now = (0..now.len()).filter_map(|index| old(index).or_else(|| others.next())).collect();
}

fn networks(view: &View) -> Vec<Net> {
    let networks = view.networks().map(|network| Net {
        id: network.network,
        bridge: network.bridge(),
        subnet: network.subnet,
        gateway: network.gateway(),
        vips: network.vips(),
        internal: network.internal,
        lane: network.lane(),
    });
    networks.collect()
}

fn homes(view: &View, me: &PeerItem) -> BTreeMap<Ipv4Net, String> {
    let bridges: BTreeMap<Ipv4Addr, String> =
        view.networks().map(|network| (network.subnet.network(), network.bridge())).collect();
    let with_bridge = |block: Ipv4Net| {
        let subnet = Ipv4Net::new_assert(block.network(), SUBNET_PREFIX).trunc();
        bridges.get(&subnet.network()).map(|bridge| (block, bridge.clone()))
    };
    me.homes().filter_map(with_bridge).collect()
}

fn crossing(view: &View) -> BTreeSet<(String, Ipv4Addr)> {
    let bridges: BTreeMap<NetworkId, String> =
        view.networks().map(|network| (network.network, network.bridge())).collect();
    let of_task = |task: &TaskItem| {
        let pairs = task.networks.iter().flat_map(|(through, _)| {
            let others = task.networks.iter().filter(move |(on, _)| on != through);
            others.map(move |(_, address)| (through, *address))
        });
        pairs
            .filter_map(|(through, address)| Some((bridges.get(through)?.clone(), address)))
            .collect::<Vec<_>>()
    };
    view.tasks().flat_map(of_task).collect()
}

fn attached(view: &View, me: &PeerItem) -> BTreeMap<Ipv4Net, Ipv4Addr> {
    let gateway = |block: &Ipv4Net| {
        let network = view.networks().find(|network| network.subnet.contains(block))?;
        network.attachable.then(|| (*block, network.gateway()))
    };
    me.attached.iter().filter_map(gateway).collect()
}

fn peers(view: &View, me: &PeerItem) -> Vec<Peer> {
    let others = view.peers().filter(|peer| peer.node != me.node);
    let on = |peer: &PeerItem, lane| Peer { mac: peer.fabric_mac(lane), mark: peer.return_mark(lane) };
    let lanes = view.lanes();
    others.flat_map(|peer| lanes.iter().map(move |lane| on(peer, *lane))).collect()
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
