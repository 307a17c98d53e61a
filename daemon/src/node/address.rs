//! Follows this host's address where no operator has named one: it was given another, or moved to another network.
//!
//! Owns: what this node says of where it is. Leaves alone: what others make of that. Woken by the kernel's word that
//! addresses have changed. Holds: an address that this host has is kept, whichever others come.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use raftup_proto::{id::NodeId, peer::NodeInfo, view::View};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use tokio::time::sleep;
use tracing::{info, warn};

use super::host;
use crate::{
    agent::Agent,
    fabric,
    gossip::{Gossip, Sightings, key},
    net::{Net, Peer},
    netlink::Listener,
};

/// Groups of a netlink socket, from linux/rtnetlink.h: addresses of IPv4 and of IPv6.
const GROUPS: [u32; 2] = [5, 9];

/// Pause before a way to the others is looked for again: routes may come after addresses.
const AGAIN: Duration = Duration::from_millis(500);

/// How long hosts are told where this one is.
const TELL: Duration = Duration::from_secs(1);

/// Follows for as long as it is not dropped. Cancel-safe.
pub(super) async fn follow(node: NodeId, agent: Agent, gossip: Gossip, net: Net) {
    let mut changes = match Listener::start(NETLINK_ROUTE, &GROUPS) {
        Ok(changes) => changes,
        Err(error) => return warn!(%error, "a change of this host's address would not be seen"),
    };
    let (told, view) = (agent.info(), agent.view());
    loop {
        changes.settle();
        let before = told.borrow().underlay;
        let gone = !is_here(before);
        let now = if gone { present(node, &view.borrow()) } else { None };
        if let Some(now) = now {
            info!(%before, %now, "this host has another address");
            told.send_modify(|info| {
                info.underlay = now;
                info.control.set_ip(now);
            });
            let places = said(&told.borrow());
            places.into_iter().for_each(|(key, place)| gossip.set(key, place));
            net.moved();
            let hosts: Vec<_> =
                view.borrow().peers().filter(|peer| peer.node != node).map(|peer| peer.fabric).collect();
            // A tunnel goes on to where it hears a node from, and this is heard.
            stream::iter(hosts)
                .for_each_concurrent(None, async |host| _ = fabric::ping(host, TELL).await)
                .await;
            continue;
        }
        tokio::select! {
            _ = changes.heard(|_| Some(())) => {}
            () = sleep(AGAIN), if gone => {}
        }
    }
}

/// Where a node that says this is reached, as it says by gossip.
pub(super) fn said(info: &NodeInfo) -> [(&'static str, SocketAddr); 2] {
    [(key::CONTROL, info.control), (key::FABRIC, SocketAddr::new(info.underlay, info.fabric_port))]
}

/// Where members are expected to call from: what the state has for each, and where it says by gossip that it is now.
pub(super) fn of_members(view: &View, sightings: &Sightings) -> Arc<BTreeSet<SocketAddr>> {
    let all = view.peers().flat_map(|peer| [Some(peer.control), hint(sightings, peer.node)]);
    Arc::new(all.flatten().map(canonical).collect())
}

/// The state or gossip has the address for the node.
pub(super) fn is_known_at(view: &View, sightings: &Sightings, peer: Peer) -> bool {
    let known = view.peers().find(|known| known.node == peer.node);
    known.is_some_and(|known| known.control == peer.addr || hint(sightings, peer.node) == Some(peer.addr))
}

fn hint(sightings: &Sightings, node: NodeId) -> Option<SocketAddr> {
    sightings.nodes.get(&node)?.values.get(key::CONTROL)?.parse().ok()
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// A device of this host has the address.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The address that this host has on its way to the others, managers first. None: there is no way now.
fn present(node: NodeId, view: &View) -> Option<IpAddr> {
    let mut others: Vec<_> = view.peers().filter(|peer| peer.node != node).collect();
    others.sort_by_key(|peer| !peer.manager);
    let towards = others.into_iter().find_map(|peer| host::address_towards(peer.control).ok());
    let known = towards.or_else(|| host::default_address().ok());
    known.filter(|address| !address.is_loopback() && !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use raftup_proto::view::{Item, PeerItem, Revision};
    use tokio::time::Instant;

    use super::*;
    use crate::gossip::Sighting;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn peer(number: u64, control: &str) -> Item {
        Item::Peer(PeerItem {
            node: NodeId::new(number),
            hostname: "ant".to_owned(),
            control: at(control),
            underlay: at(control).ip(),
            fabric_port: 7239,
            fabric_keys: Vec::new(),
            fabric_turn: 0,
            fabric: [10, 64, 16, 1].into(),
            manager: false,
            alive: true,
            blocks: Vec::new(),
            attached: Vec::new(),
        })
    }

    fn says(control: &str) -> Sighting {
        let values = BTreeMap::from([(key::CONTROL.to_owned(), control.to_owned())]);
        Sighting { alive: true, since: Instant::now(), silent: false, values: Arc::new(values) }
    }

    #[test]
    fn members_are_known_where_state_and_gossip_have_them() {
        let view = View::of(Revision(1), [peer(1, "10.0.0.1:7238"), peer(2, "[::ffff:10.0.0.2]:7238")]);
        let said = [(1, says("10.0.9.1:7238")), (2, says("nonsense")), (3, says("10.0.0.3:7238"))];
        let nodes = said.map(|(node, says)| (NodeId::new(node), says)).into();
        let sightings = Sightings { nodes, impaired: false };
        let expected = ["10.0.0.1:7238", "10.0.0.2:7238", "10.0.9.1:7238"].map(at);
        assert_eq!(*of_members(&view, &sightings), BTreeSet::from(expected), "3 is no member");
        for (node, addr, known) in [
            (1, "10.0.0.1:7238", true),
            (1, "10.0.9.1:7238", true),
            (1, "10.0.0.1:53", false),
            (1, "10.0.0.2:7238", false),
            (1, "192.0.2.1:7238", false),
            (3, "10.0.0.3:7238", false),
        ] {
            let peer = Peer { node: NodeId::new(node), addr: at(addr) };
            assert_eq!(is_known_at(&view, &sightings, peer), known, "{node} {addr}");
        }
    }
}
