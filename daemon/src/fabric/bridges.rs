//! The bridges that Docker makes for our networks: what their kernel settings must be, and when.
//!
//! Owns: settings of bridges named as ours and of the ports in them. Leaves alone: their addresses and their ports'
//! lives, which are Docker's. Woken by the kernel's link events; after a gap it looks at all links again.
#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel has many attributes and we need few of them")]

use std::{collections::BTreeSet, io};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, LinkBridgePort, LinkMessageBuilder, LinkUnspec, MulticastGroup, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

/// How the names of our bridges begin.
const PREFIX: &str = "ru-";

/// Follows links until dropped.
#[derive(Debug)]
pub struct Bridges {
    follower: JoinHandle<()>,
}

impl Drop for Bridges {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Bridges {
    /// Sets what is there and follows what comes. Errors: no netlink socket.
    pub fn start() -> io::Result<Self> {
        let (connection, handle, mut events) = new_multicast_connection(&[MulticastGroup::Link])?;
        let follower = tokio::spawn(async move {
            let connection = tokio::spawn(connection);
            let mut seen = Seen { handle, bridges: BTreeSet::new(), ports: BTreeSet::new() };
            seen.look_at_all().await;
            while let Some((message, _)) = events.next().await {
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        seen.look_at(&link).await;
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => seen.forget(&link),
                    NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => seen.look_at_all().await,
                    _ => {}
                }
            }
            connection.abort();
        });
        Ok(Self { follower })
    }
}

/// The links that are set already; setting one makes an event of its own.
struct Seen {
    handle: Handle,
    bridges: BTreeSet<u32>,
    ports: BTreeSet<(u32, u32)>,
}

impl Seen {
    async fn look_at_all(&mut self) {
        let links: Result<Vec<LinkMessage>, _> = self.handle.link().get().execute().try_collect().await;
        match links {
            Ok(mut links) => {
                // Bridges before their ports: a port counts only in a bridge that is known as ours.
                links.sort_by_key(|link| name_of_ours(link).is_none());
                for link in &links {
                    self.look_at(link).await;
                }
            }
            Err(error) => warn!(%error, "links cannot be listed; bridges stay as they are"),
        }
    }

    async fn look_at(&mut self, link: &LinkMessage) {
        let index = link.header.index;
        if let Some(name) = name_of_ours(link) {
            if self.bridges.insert(index) {
                self.settle_bridge(index, name).await;
            }
        } else if let Some(bridge) = controller(link)
            && self.bridges.contains(&bridge)
            && self.ports.insert((index, bridge))
        {
            self.settle_port(index).await;
        }
    }

    fn forget(&mut self, link: &LinkMessage) {
        self.bridges.remove(&link.header.index);
        self.ports.retain(|(port, bridge)| *port != link.header.index && *bridge != link.header.index);
    }

    async fn settle_bridge(&self, index: u32, name: &str) {
        set_bridge_sysctls(name);
        // Replies between two containers of one bridge must pass the rules that re-aimed the request.
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
            .index(index)
            .set_info_data(InfoData::Bridge(vec![InfoBridge::NfCallIpTables(true)]))
            .build();
        match self.handle.link().change(message).execute().await {
            Ok(()) => debug!(bridge = name, "bridge is set"),
            Err(error) => warn!(bridge = name, %error, "bridge does not pass its packets through the rules"),
        }
    }

    async fn settle_port(&self, index: u32) {
        // A container that reaches itself through its service's address gets the packet back on the same port.
        let message = LinkBridgePort::new(index).hairpin(true).build();
        if let Err(error) = self.handle.link().set_port(message).execute().await {
            debug!(port = index, %error, "port of a bridge cannot be set; it may be gone");
        }
    }
}

/// The name of a link that is a bridge of ours.
fn name_of_ours(link: &LinkMessage) -> Option<&str> {
    let bridge = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    });
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.filter(|name| bridge && name.starts_with(PREFIX))
}

fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn set_bridge_sysctls(bridge: &str) {
    set_forwarding_sysctls(bridge);
    // This host answers for addresses of the network that live elsewhere, and at once.
    set_sysctl(&format!("conf/{bridge}/proxy_arp"), "1");
    set_sysctl(&format!("neigh/{bridge}/proxy_delay"), "0");
}

/// Settings of a device that packets between networks, nodes and clients pass.
pub(super) fn set_forwarding_sysctls(device: &str) {
    // The stricter one of this and the value for all devices counts, and only "loose" overrides "strict".
    let strict = get_sysctl("conf/all/rp_filter").is_some_and(|value| value != "0");
    set_sysctl(&format!("conf/{device}/rp_filter"), if strict { "2" } else { "0" });
    set_sysctl(&format!("conf/{device}/forwarding"), "1");
    set_sysctl(&format!("conf/{device}/send_redirects"), "0");
    // For clients on this node that ask 127.0.0.1; what comes from outside with such an address is dropped by rule.
    set_sysctl(&format!("conf/{device}/route_localnet"), "1");
}

/// Sets `/proc/sys/net/ipv4/{key}`; a failure is logged, for a device may be gone in the same moment.
pub(super) fn set_sysctl(key: &str, value: &str) {
    if get_sysctl(key).as_deref() == Some(value) {
        return;
    }
    if let Err(error) = std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value) {
        warn!(key, value, %error, "kernel setting cannot be set");
    }
}

fn get_sysctl(key: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/{key}")).ok().map(|text| text.trim().to_owned())
}
