//! What should be in the kernel so that this node reaches the others; pure.
//!
//! A wiring is a device and a set of entries on it. Two wirings differ by the entries to remove and to add.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use raftup_proto::{
    id::NodeId,
    view::{Lane, PeerItem, View, WIRE_PORT},
};

use super::Underlay;

/// The device of a lane, which leads to the other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) lane: Lane,
    /// UDP port that it listens on.
    pub(super) port: u16,
    /// Address that its packets come from; the kernel chooses where none is given.
    pub(super) local: Option<IpAddr>,
    /// Largest packet.
    pub(super) mtu: u32,
    /// Hardware address.
    pub(super) mac: [u8; 6],
}

/// One thing that the kernel knows. Equal entries are never added twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    /// The node's own address on the device.
    Address(Ipv4Addr),
    /// A node's hardware address is known without asking.
    Neighbour { address: Ipv4Addr, mac: [u8; 6] },
    /// Where frames for a hardware address are sent; with the port where it is not our own.
    Tunnel { mac: [u8; 6], to: IpAddr, port: Option<u16> },
    /// Addresses behind the device: right there, or through a node. `from` is the address that this node uses.
    Route { to: Ipv4Net, via: Option<Ipv4Addr>, from: Ipv4Addr },
    /// The table that leads everything back through a node.
    ReturnTable { mark: u32, via: Ipv4Addr },
    /// Packets with a node's mark use its table.
    ReturnRule { mark: u32 },
    /// Packets without a mark of ours skip the return rules, so that they cost nothing however many nodes there are.
    Gate,
    /// Where they go on.
    GateEnd,
}

impl Entry {
    /// The address on the fabric of the node that the entry leads to; none where it is this node's own.
    fn leads_to(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Neighbour { address, .. } => Some(*address),
            Self::Tunnel { mac: [_, _, a, b, c, d], .. } => Some(Ipv4Addr::new(*a, *b, *c, *d)),
            Self::Route { via: Some(via), .. } | Self::ReturnTable { via, .. } => Some(*via),
            Self::Route { to, via: None, .. } => (to.prefix_len() == 32).then(|| to.addr()),
            Self::Address(_) | Self::ReturnRule { .. } | Self::Gate | Self::GateEnd => None,
        }
    }
}

/// All of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    pub(super) device: Device,
    pub(super) entries: BTreeSet<Entry>,
    /// The other nodes, by what their entries have in common.
    nodes: BTreeMap<Ipv4Addr, NodeId>,
    marks: BTreeMap<u32, NodeId>,
}

impl Wiring {
    /// What node `me` needs to reach the others of `view` on the networks of a lane.
    pub fn of(view: &View, me: &PeerItem, lane: Lane, underlay: &Underlay) -> Self {
        let (port, local, mtu) = (underlay.port, underlay.own, underlay.mtu);
        let device = Device { lane, port, local, mtu, mac: me.fabric_mac(lane) };
        // On each device: what this node itself sends there has an address that the other end can answer.
        let mut entries = BTreeSet::from([Entry::Address(me.fabric)]);
        if lane == Lane::Main {
            entries.extend([Entry::Gate, Entry::GateEnd]);
        }
        for network in view.networks().filter(|network| network.lane() == lane) {
            // Nobody has these addresses; the route makes this host answer for them, and rules re-aim the packets.
            entries.insert(Entry::Route { to: network.vips(), via: None, from: me.fabric });
        }
        let (mut nodes, mut marks) = (BTreeMap::new(), BTreeMap::new());
        let plain: Vec<Ipv4Net> =
            view.networks().filter(|network| network.plain).map(|network| network.subnet).collect();
        let on_lane = |block: &Ipv4Net| plain.iter().any(|net| net.contains(block)) == (lane == Lane::Plain);
        for peer in view.peers() {
            if let Some(&(to, port)) = underlay.ends.get(&peer.node) {
                let port = (port != underlay.port).then_some(port);
                nodes.insert(peer.fabric, peer.node);
                marks.insert(peer.return_mark(lane), peer.node);
                entries.extend(toward(peer, me, lane, to, port));
                let blocks = peer.homes().filter(|block| !me.blocks.contains(block) && on_lane(block));
                entries.extend(blocks.map(|to| Entry::Route { to, via: Some(peer.fabric), from: me.fabric }));
            }
        }
        Self { device, entries, nodes, marks }
    }

    /// The node that an entry leads to; none where it is this node's own, or an entry of an earlier wiring.
    pub(super) fn node_of(&self, entry: &Entry) -> Option<NodeId> {
        if let Entry::ReturnRule { mark } = entry {
            return self.marks.get(mark).copied();
        }
        self.nodes.get(&entry.leads_to()?).copied()
    }

    /// Whose networks it is for.
    pub fn lane(&self) -> Lane {
        self.device.lane
    }

    /// This node's address that frames are sent to as they are; none inside of encrypted links, or where no device has it.
    pub fn plain_end(&self) -> Option<Ipv4Addr> {
        match self.device.local {
            Some(IpAddr::V4(local)) if self.device.port != WIRE_PORT => Some(local),
            Some(IpAddr::V4(_) | IpAddr::V6(_)) | None => None,
        }
    }

    /// Largest packet of a container.
    pub fn mtu(&self) -> u32 {
        self.device.mtu
    }
}

/// What leads to one peer. Its own address is reached by the main lane alone.
fn toward(peer: &PeerItem, me: &PeerItem, lane: Lane, to: IpAddr, port: Option<u16>) -> Vec<Entry> {
    let (address, mac) = (peer.fabric, peer.fabric_mac(lane));
    let mark = peer.return_mark(lane);
    let mut entries = vec![
        Entry::Neighbour { address, mac },
        Entry::Tunnel { mac, to, port },
        Entry::ReturnTable { mark, via: address },
        Entry::ReturnRule { mark },
    ];
    if lane == Lane::Main {
        entries.push(Entry::Route { to: Ipv4Net::from(address), via: None, from: me.fabric });
    }
    entries
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use raftup_proto::{
        api::FabricMode,
        id::NetworkId,
        view::{Item, NetworkItem, Revision},
    };

    use super::*;

    fn peer(number: u64, blocks: &[&str]) -> PeerItem {
        PeerItem {
            node: NodeId::new(number),
            hostname: format!("h{number}"),
            control: format!("192.0.2.{number}:7238").parse().unwrap(),
            underlay: format!("192.0.2.{number}").parse().unwrap(),
            fabric_port: 7239,
            fabric_keys: Vec::new(),
            fabric_turn: 0,
            fabric: Ipv4Addr::new(10, 64, 0, number as u8),
            manager: false,
            alive: true,
            blocks: blocks.iter().map(|block| block.parse().unwrap()).collect(),
            attached: Vec::new(),
        }
    }

    fn network(number: u64, subnet: &str, plain: bool) -> NetworkItem {
        NetworkItem {
            network: NetworkId::from_random(number),
            stack: Some("shop".parse().unwrap()),
            name: "default".parse().unwrap(),
            subnet: subnet.parse().unwrap(),
            internal: false,
            attachable: false,
            plain,
        }
    }

    fn view(peers: Vec<PeerItem>) -> View {
        let networks = [Item::Network(network(7, "10.64.32.0/19", false))];
        View::of(Revision(1), peers.into_iter().map(Item::Peer).chain(networks))
    }

    fn wiring_over(fabric: FabricMode, view: &View, lane: Lane, link_mtu: Option<u32>) -> Wiring {
        let me = view.peers().next().unwrap();
        Wiring::of(view, me, lane, &Underlay::of(lane, fabric, view, me, link_mtu))
    }

    fn wiring(view: &View) -> Wiring {
        wiring_over(FabricMode::Plain, view, Lane::Main, Some(1500))
    }

    fn check(wiring: &Wiring, expected: Expect) {
        let lines: Vec<String> = wiring.entries.iter().map(|entry| format!("{entry:?}\n")).collect();
        expected.assert_eq(&format!("{:?}\n{}", wiring.device, lines.concat()));
    }

    #[test]
    fn a_peer_gets_its_entries() {
        check(
            &wiring(&view(vec![peer(1, &["10.64.32.0/26"]), peer(2, &["10.64.32.64/26"])])),
            expect![[r#"
                Device { lane: Main, port: 7239, local: Some(192.0.2.1), mtu: 1450, mac: [2, 114, 10, 64, 0, 1] }
                Address(10.64.0.1)
                Neighbour { address: 10.64.0.2, mac: [2, 114, 10, 64, 0, 2] }
                Tunnel { mac: [2, 114, 10, 64, 0, 2], to: 192.0.2.2, port: None }
                Route { to: 10.64.0.2/32, via: None, from: 10.64.0.1 }
                Route { to: 10.64.32.64/26, via: Some(10.64.0.2), from: 10.64.0.1 }
                Route { to: 10.64.63.0/24, via: None, from: 10.64.0.1 }
                ReturnTable { mark: 1916272642, via: 10.64.0.2 }
                ReturnRule { mark: 1916272642 }
                Gate
                GateEnd
            "#]],
        );
    }

    #[test]
    fn each_entry_of_a_peer_names_it() {
        let mut far = peer(9, &["10.64.32.64/26"]);
        (far.node, far.fabric) = (NodeId::new(40_000), Ipv4Addr::new(10, 64, 15, 254));
        let wiring = &wiring(&view(vec![peer(1, &["10.64.32.0/26"]), peer(2, &[]), far]));
        let of = |number| wiring.entries.iter().filter(move |entry| wiring.node_of(entry) == Some(number));
        assert_eq!((of(NodeId::new(2)).count(), of(NodeId::new(40_000)).count()), (5, 6));
        let own = wiring.entries.iter().filter(|entry| wiring.node_of(entry).is_none()).count();
        assert_eq!(own, 4, "its own address, the virtual addresses, and two rules");
        let mark = |entry: &Entry| matches!(entry, Entry::ReturnRule { mark } if *mark == 0x7238_0ffe);
        assert!(
            of(NodeId::new(40_000)).any(mark),
            "marks follow from addresses, for ids count upwards for ever"
        );
    }

    #[test]
    fn a_block_that_moves_is_one_route_less_and_one_more() {
        let before = wiring(&view(vec![peer(1, &[]), peer(2, &["10.64.32.64/26"]), peer(3, &[])]));
        let after = wiring(&view(vec![peer(1, &[]), peer(2, &[]), peer(3, &["10.64.32.64/26"])]));
        assert_eq!(before.entries.difference(&after.entries).count(), 1);
        assert_eq!(after.entries.difference(&before.entries).count(), 1);
    }

    #[test]
    fn a_size_follows_from_the_link_and_what_is_put_around() {
        let view = view(vec![peer(1, &[])]);
        let over = |lane, link| wiring_over(FabricMode::Wireguard, &view, lane, link).mtu();
        let wire = |link| over(Lane::Main, link);
        assert_eq!(wiring(&view).mtu(), 1450);
        assert_eq!((wire(Some(1500)), wire(Some(9000)), wire(None)), (1370, 8870, 1370));
        assert_eq!(over(Lane::Plain, Some(1500)), 1450);
    }

    #[test]
    fn with_encryption_tunnels_end_inside_of_the_links() {
        let view = view(vec![peer(1, &[]), peer(2, &[])]);
        let wiring = wiring_over(FabricMode::Wireguard, &view, Lane::Main, Some(1500));
        let device = (wiring.device.port, wiring.device.local);
        assert_eq!(device, (WIRE_PORT, Some("10.64.16.1".parse().unwrap())));
        let mac = [2, 114, 10, 64, 0, 2];
        let tunnel = Entry::Tunnel { mac, to: "10.64.16.2".parse().unwrap(), port: None };
        assert!(wiring.entries.contains(&tunnel), "{:?}", wiring.entries);
    }

    /// No rule protects a socket of IPv6, so there is none: one node there takes nothing from the others.
    #[test]
    fn frames_that_are_not_encrypted_are_sent_over_ipv4_alone() {
        let mut there = peer(2, &["10.64.32.64/26"]);
        there.underlay = "2001:db8::2".parse().unwrap();
        let wiring_of = |view: &View| wiring_over(FabricMode::Plain, view, Lane::Main, Some(1500));
        let with = wiring_of(&view(vec![peer(1, &[]), there.clone(), peer(3, &[])]));
        let without = wiring_of(&view(vec![peer(1, &[]), peer(3, &[])]));
        assert_eq!(with.entries, without.entries);
        assert_eq!(with.plain_end(), "192.0.2.1".parse().ok());
        there.node = NodeId::new(1);
        let own = wiring_of(&view(vec![there, peer(3, &[])]));
        assert_eq!((own.device.local, own.plain_end()), (None, None));
    }

    /// Blocks and virtual addresses are behind the device of their network's lane, and no other.
    #[test]
    fn a_plain_network_has_a_lane_of_its_own_beside_encrypted_links() {
        let blocks = ["10.64.32.64/26", "10.64.64.64/26"];
        let mut other = peer(2, &blocks);
        other.fabric_port = 9000;
        let mut view = view(vec![peer(1, &["10.64.32.0/26"]), other]);
        assert_eq!(view.lanes(), [Lane::Main]);
        let plain = Item::Network(network(8, "10.64.64.0/19", true));
        view.put(plain);
        assert_eq!(view.lanes(), Lane::ALL);
        check(
            &wiring_over(FabricMode::Wireguard, &view, Lane::Plain, Some(1500)),
            expect![[r#"
            Device { lane: Plain, port: 7241, local: Some(192.0.2.1), mtu: 1450, mac: [2, 115, 10, 64, 0, 1] }
            Address(10.64.0.1)
            Neighbour { address: 10.64.0.2, mac: [2, 115, 10, 64, 0, 2] }
            Tunnel { mac: [2, 115, 10, 64, 0, 2], to: 192.0.2.2, port: Some(9000) }
            Route { to: 10.64.64.64/26, via: Some(10.64.0.2), from: 10.64.0.1 }
            Route { to: 10.64.95.0/24, via: None, from: 10.64.0.1 }
            ReturnTable { mark: 1916305410, via: 10.64.0.2 }
            ReturnRule { mark: 1916305410 }
        "#]],
        );
        let main = wiring_over(FabricMode::Wireguard, &view, Lane::Main, Some(1500));
        let routes = |wiring: &Wiring| -> BTreeSet<Ipv4Net> {
            let to = |entry: &Entry| if let Entry::Route { to, .. } = entry { Some(*to) } else { None };
            wiring.entries.iter().filter_map(to).collect()
        };
        let expected = ["10.64.0.2/32", blocks[0], "10.64.63.0/24"];
        assert_eq!(routes(&main), expected.map(|net| net.parse().unwrap()).into());
    }
}
