//! The bridges that Docker makes for our networks: what their kernel settings must be, and when.
//!
//! Owns: settings of bridges named as ours and of the ports in them, and the kernel module that passes bridged packets to
//! the rules (`br_netfilter`). Leaves alone: their addresses and their ports' lives, which are Docker's. Woken by the
//! kernel's link events; after a gap it looks at all links again.
#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel has many attributes and we need few of them")]

use std::{collections::BTreeSet, io, path::Path, process::Stdio};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, LinkBridgePort, LinkMessageBuilder, LinkUnspec, MulticastGroup, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use tokio::{process::Command, task::JoinHandle};
use tracing::{debug, info, warn};

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
            load_netfilter().await;
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
            if self.bridges.insert(index) || skips_rules(link) {
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

/// Someone has turned off that a bridge passes its packets through the rules.
fn skips_rules(link: &LinkMessage) -> bool {
    let off = |info: &LinkInfo| match info {
        LinkInfo::Data(InfoData::Bridge(infos)) => infos.contains(&InfoBridge::NfCallIpTables(false)),
        _ => false,
    };
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(off),
        _ => false,
    })
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
    set_sysctl(&format!("ipv4/conf/{bridge}/proxy_arp"), "1");
    set_sysctl(&format!("ipv4/neigh/{bridge}/proxy_delay"), "0");
}

/// Settings of a device that packets between networks, nodes and clients pass.
pub(super) fn set_forwarding_sysctls(device: &str) {
    disable_ipv6(device);
    // The stricter one of this and the value for all devices counts, and only "loose" overrides "strict".
    let strict = get_sysctl("ipv4/conf/all/rp_filter").is_some_and(|value| value != "0");
    set_sysctl(&format!("ipv4/conf/{device}/rp_filter"), if strict { "2" } else { "0" });
    set_sysctl(&format!("ipv4/conf/{device}/forwarding"), "1");
    set_sysctl(&format!("ipv4/conf/{device}/send_redirects"), "0");
    // For clients on this node that ask 127.0.0.1; what comes from outside with such an address is dropped by rule.
    set_sysctl(&format!("ipv4/conf/{device}/route_localnet"), "1");
}

/// Our networks have no IPv6, and a device would get a link-local address that containers reach this host by.
pub(super) fn disable_ipv6(device: &str) {
    let key = format!("ipv6/conf/{device}/disable_ipv6");
    if get_sysctl(&key).is_some() {
        set_sysctl(&key, "1");
    }
}

/// Sets `/proc/sys/net/{key}`; a failure is logged, for a device may be gone in the same moment.
pub(super) fn set_sysctl(key: &str, value: &str) {
    if get_sysctl(key).as_deref() == Some(value) {
        return;
    }
    if let Err(error) = std::fs::write(format!("/proc/sys/net/{key}"), value) {
        warn!(key, value, %error, "kernel setting cannot be set");
    }
}

fn get_sysctl(key: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/net/{key}")).ok().map(|text| text.trim().to_owned())
}

/// Settings of the module `br_netfilter`, which are there as long as it is loaded.
const NETFILTER: &str = "/proc/sys/net/bridge";

/// What else the module would do to all bridges of the host from the moment it is loaded.
const FOR_ALL_BRIDGES: [&str; 3] =
    ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"];

/// Loads the module where nobody has. Our bridges have it by their own setting; others stay as they were.
async fn load_netfilter() {
    if passes_through_rules() {
        return;
    }
    let mut command = Command::new("modprobe");
    command.arg("br_netfilter").stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await;
    if !passes_through_rules() {
        let said = output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        );
        warn!(said, "kernel module `br_netfilter` cannot be loaded");
        return;
    }
    FOR_ALL_BRIDGES.iter().for_each(|key| set_sysctl(&format!("bridge/{key}"), "0"));
    info!("kernel module `br_netfilter` is loaded, for the bridges of this cluster's networks alone");
}

/// Whether the kernel can pass the packets of a bridge through the rules. Without that, answers between two containers of
/// one bridge miss the rules that re-aimed the request.
pub fn passes_through_rules() -> bool {
    Path::new(NETFILTER).exists()
}

/// Bridges of our networks that do not pass their packets through the rules. `root` is where `proc` and `sys` are.
pub fn unfiltered(bridges: &[String], root: &Path) -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(root.join(path.trim_start_matches('/'))).ok();
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
    if is(&format!("{NETFILTER}/{}", FOR_ALL_BRIDGES[0]), "1") {
        return Vec::new();
    }
    let off = |bridge: &&String| is(&format!("/sys/class/net/{bridge}/bridge/nf_call_iptables"), "0");
    bridges.iter().filter(off).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_skips_the_rules_is_named() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("sys/class/net/ru-1/bridge/nf_call_iptables", "1\n");
        write("sys/class/net/ru-2/bridge/nf_call_iptables", "0\n");
        let bridges = ["ru-1", "ru-2", "ru-gone"].map(str::to_owned);
        for (all, off) in [("0\n", vec!["ru-2"]), ("1\n", Vec::new())] {
            write("proc/sys/net/bridge/bridge-nf-call-iptables", all);
            assert_eq!(unfiltered(&bridges, root.path()), off);
        }
    }

    #[test]
    fn a_bridge_whose_setting_was_turned_off_is_seen() {
        let link = |on| {
            let mut link = LinkMessage::default();
            let data = LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::NfCallIpTables(on)]));
            link.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), data])];
            link
        };
        assert!(skips_rules(&link(false)));
        assert!(!skips_rules(&link(true)) && !skips_rules(&LinkMessage::default()));
    }
}
