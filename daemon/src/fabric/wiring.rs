//! What should be in the kernel so that this node reaches the others; pure.
//!
//! A wiring is a device and a set of entries on it. Two wirings differ by the entries to remove and to add.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use raftup_proto::view::{PeerItem, View};

use super::Underlay;

/// VXLAN network id of every fabric.
pub(super) const VNI: u32 = 7238;

/// The device that leads to the other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
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

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    pub(super) device: Device,
    pub(super) entries: BTreeSet<Entry>,
}

impl Wiring {
    /// What node `me` needs to reach the others of `view`.
    pub fn of(view: &View, me: &PeerItem, underlay: &Underlay) -> Self {
        let device =
            Device { port: underlay.port, local: underlay.own, mtu: underlay.mtu, mac: me.fabric_mac() };
        let mut entries = BTreeSet::from([Entry::Address(me.fabric), Entry::Gate, Entry::GateEnd]);
        for network in view.networks() {
            // Nobody has these addresses; the route makes this host answer for them, and rules re-aim the packets.
            entries.insert(Entry::Route { to: network.vips(), via: None, from: me.fabric });
        }
        for peer in view.peers() {
            if let Some(&(to, port)) = underlay.ends.get(&peer.node) {
                let port = (port != underlay.port).then_some(port);
                entries.extend(toward(peer, me, to, port));
            }
        }
        Self { device, entries }
    }

    /// Largest packet of a container.
    pub fn mtu(&self) -> u32 {
        self.device.mtu
    }
}

/// What leads to one peer and its blocks.
fn toward(peer: &PeerItem, me: &PeerItem, to: IpAddr, port: Option<u16>) -> Vec<Entry> {
    let (address, mac, from) = (peer.fabric, peer.fabric_mac(), me.fabric);
    let mark = peer.return_mark();
    let mut entries = vec![
        Entry::Neighbour { address, mac },
        Entry::Tunnel { mac, to, port },
        Entry::Route { to: Ipv4Net::from(address), via: None, from },
        Entry::ReturnTable { mark, via: address },
        Entry::ReturnRule { mark },
    ];
    let blocks = peer.homes().filter(|block| !me.blocks.contains(block));
    entries.extend(blocks.map(|to| Entry::Route { to, via: Some(address), from }));
    entries
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use raftup_proto::{
        id::{NetworkId, NodeId},
        view::{Item, NetworkItem, Revision, WIRE_PORT},
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

    fn view(peers: Vec<PeerItem>) -> View {
        let network = NetworkItem {
            network: NetworkId::from_random(7),
            stack: "shop".parse().unwrap(),
            name: "default".parse().unwrap(),
            subnet: "10.64.32.0/19".parse().unwrap(),
            internal: false,
            attachable: false,
        };
        let items = peers.into_iter().map(Item::Peer).chain([Item::Network(network)]);
        View::of(Revision(1), items)
    }

    fn wiring(view: &View) -> Wiring {
        let me = view.peers().next().unwrap();
        Wiring::of(view, me, &Underlay::plain(view, me, Some(1500)))
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
                Device { port: 7239, local: Some(192.0.2.1), mtu: 1450, mac: [2, 114, 10, 64, 0, 1] }
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
    fn a_block_that_moves_is_one_route_less_and_one_more() {
        let before = wiring(&view(vec![peer(1, &[]), peer(2, &["10.64.32.64/26"]), peer(3, &[])]));
        let after = wiring(&view(vec![peer(1, &[]), peer(2, &[]), peer(3, &["10.64.32.64/26"])]));
        assert_eq!(before.entries.difference(&after.entries).count(), 1);
        assert_eq!(after.entries.difference(&before.entries).count(), 1);
    }

    #[test]
    fn a_size_follows_from_the_link_and_what_is_put_around() {
        let view = view(vec![peer(1, &[])]);
        let me = view.peers().next().unwrap();
        let wire = |link| Wiring::of(&view, me, &Underlay::wire(&view, me, link)).mtu();
        assert_eq!(wiring(&view).mtu(), 1450);
        assert_eq!((wire(Some(1500)), wire(Some(9000)), wire(None)), (1370, 8870, 1370));
    }

    #[test]
    fn with_encryption_tunnels_end_inside_of_the_links() {
        let view = view(vec![peer(1, &[]), peer(2, &[])]);
        let me = view.peers().next().unwrap();
        let wiring = Wiring::of(&view, me, &Underlay::wire(&view, me, Some(1500)));
        let device = (wiring.device.port, wiring.device.local);
        assert_eq!(device, (WIRE_PORT, Some("10.64.16.1".parse().unwrap())));
        let mac = [2, 114, 10, 64, 0, 2];
        let tunnel = Entry::Tunnel { mac, to: "10.64.16.2".parse().unwrap(), port: None };
        assert!(wiring.entries.contains(&tunnel), "{:?}", wiring.entries);
    }
}
