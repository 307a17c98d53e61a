//! Follows this host's address where no operator has named one: it was given another, or moved to another network.
//!
//! Owns: what this node says of where it is. Leaves alone: what others make of that. Woken by the kernel's word that
//! addresses have changed. Holds: an address that this host has is kept, whichever others come.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
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
    gossip::{Gossip, key},
    net::Net,
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
