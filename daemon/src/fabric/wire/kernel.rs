//! The tunnel where the kernel has WireGuard: the same keys and the same wire, set by netlink.
//!
//! The kernel knows one key of its own at a time, and begins all links anew with another; it gets the newer one when all
//! other nodes know that. Of another node's keys, packets take the newest that both have agreed on lately.
#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel has many attributes and we need few of them")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt};
use genetlink::GenetlinkHandle;
use netlink_packet_generic::GenlMessage;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use raftup_proto::{peer::FabricKey, unit::UnixMillis, view::WIRE_DEVICE};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec,
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use tokio::task::JoinHandle;
use tracing::warn;

use super::{LinkStatus, PrivateKey, TunnelPeer, TunnelSpec, peers::KEEPALIVE_S};

/// Peers in one message; a message holds about a page.
const PEERS: usize = 16;

/// A session is used for that long at most. Source: the WireGuard paper, 6.1.
const SESSION: Duration = Duration::from_secs(180);

/// WireGuard of the kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    wireguard: GenetlinkHandle,
    connection: JoinHandle<()>,
    /// Where each node was said to be; told again only when that changes, for the kernel follows a node that moves, and
    /// sends nothing to a second place.
    told: BTreeMap<FabricKey, SocketAddr>,
}

/// A peer as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    address: Option<Ipv4Addr>,
    endpoint: Option<SocketAddr>,
    agreed: Option<UnixMillis>,
    sent: u64,
    received: u64,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Kernel {
    /// The kernel's WireGuard, and whether the device was there already; none where the kernel has it not. Errors: no
    /// netlink socket.
    pub(super) async fn find() -> io::Result<Option<(Self, bool)>> {
        let (route, links, _) = rtnetlink::new_connection()?;
        let route = tokio::spawn(route);
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Wireguard)
            .name(WIRE_DEVICE.to_owned())
            .build();
        let made = links.link().add(message).execute().await;
        let there = made.is_ok() || find_device(&links).await.is_some();
        route.abort();
        if !there {
            return Ok(None);
        }
        let (generic, wireguard, _) = genetlink::new_connection()?;
        let kernel = Self { wireguard, connection: tokio::spawn(generic), told: BTreeMap::new() };
        Ok(Some((kernel, made.is_err())))
    }

    /// Makes the device what `spec` says. What stays of it is not interrupted. Errors: the kernel's.
    pub(super) async fn set(&mut self, spec: &TunnelSpec, now: UnixMillis) -> io::Result<()> {
        let known = self.known().await?;
        for attributes in messages(spec, &known, &self.told, now) {
            if let Err(error) = self.tell(attributes.clone()).await {
                self.tell_one_by_one(attributes, error).await?;
            }
        }
        let told =
            |peer: &TunnelPeer| peer.keys.iter().map(|key| (*key, likeliest(peer))).collect::<Vec<_>>();
        self.told = spec.peers.iter().flat_map(told).collect();
        Ok(())
    }

    /// How the links to the other nodes are.
    pub(super) async fn status(&self, own: FabricKey, now: UnixMillis) -> io::Result<Vec<LinkStatus>> {
        let links = self.known().await?.into_values().filter_map(|known| {
            Some(LinkStatus {
                address: known.address?,
                endpoint: known.endpoint?,
                key: own,
                agreed_ms_ago: known.agreed.map(|at| now.0.saturating_sub(at.0)),
                sent_bytes: known.sent,
                received_bytes: known.received,
            })
        });
        Ok(links.collect())
    }

    async fn known(&self) -> io::Result<BTreeMap<FabricKey, Known>> {
        let ask = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::IfName(WIRE_DEVICE.to_owned())],
        };
        let answers = self.request(ask, NLM_F_REQUEST | NLM_F_DUMP).await?;
        Ok(answers.iter().flat_map(|answer| known_of(&answer.attributes)).collect())
    }

    async fn tell(&self, attributes: Vec<WireguardAttribute>) -> io::Result<()> {
        let message = WireguardMessage { cmd: WireguardCmd::SetDevice, attributes };
        self.request(message, NLM_F_REQUEST | NLM_F_ACK).await.map(drop)
    }

    /// Tells the peers of a message that was refused by themselves, so that one bad peer does not keep the others out.
    /// Errors: the message is about the device, or no peer of it is taken.
    async fn tell_one_by_one(&self, attributes: Vec<WireguardAttribute>, error: io::Error) -> io::Result<()> {
        let (mut peers, mut device) = (Vec::new(), Vec::new());
        for attribute in attributes {
            match attribute {
                WireguardAttribute::Peers(some) => peers.extend(some),
                other => device.push(other),
            }
        }
        let (mut taken, all) = (0, peers.len());
        for peer in peers {
            let mut message = device.clone();
            message.push(WireguardAttribute::Peers(vec![peer.clone()]));
            match self.tell(message).await {
                Ok(()) => taken += 1,
                Err(error) => {
                    let key = peer.0.iter().find_map(|attribute| match attribute {
                        WireguardPeerAttribute::PublicKey(key) => Some(FabricKey(*key).to_string()),
                        _ => None,
                    });
                    warn!(key, %error, "the kernel's WireGuard refuses a peer; the others are not affected");
                }
            }
        }
        if taken == 0 || all < 2 { Err(error) } else { Ok(()) }
    }

    async fn request(&self, message: WireguardMessage, flags: u16) -> io::Result<Vec<WireguardMessage>> {
        let mut message = NetlinkMessage::from(GenlMessage::from_payload(message));
        message.header.flags = flags;
        let mut handle = self.wireguard.clone();
        let mut answers = handle.request(message).await.map_err(io::Error::other)?;
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.map_err(io::Error::other)?.payload {
                NetlinkPayload::InnerMessage(message) => all.push(message.payload),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(all)
    }
}

/// Removes the device, if it is the kernel's. Errors: it is there and cannot be removed.
pub(super) async fn remove() -> io::Result<()> {
    let (connection, links, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let removed = match find_device(&links).await {
        Some(index) => links.link().del(index).execute().await.map_err(io::Error::other),
        None => Ok(()),
    };
    connection.abort();
    removed
}

/// The device, if it is there and of the kernel's kind.
async fn find_device(links: &Handle) -> Option<u32> {
    let mut found = links.link().get().match_name(WIRE_DEVICE.to_owned()).execute();
    let link: LinkMessage = found.try_next().await.ok().flatten()?;
    let ours = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Wireguard)),
        _ => false,
    });
    ours.then_some(link.header.index)
}

/// What the kernel is told, message by message.
fn messages(
    spec: &TunnelSpec,
    known: &BTreeMap<FabricKey, Known>,
    told: &BTreeMap<FabricKey, SocketAddr>,
    now: UnixMillis,
) -> Vec<Vec<WireguardAttribute>> {
    let name = || WireguardAttribute::IfName(WIRE_DEVICE.to_owned());
    let mut device = vec![name(), WireguardAttribute::ListenPort(spec.listen.port())];
    let own = spec.keys.get(spec.alone).or(spec.keys.last());
    device.extend(own.map(|key: &PrivateKey| WireguardAttribute::PrivateKey(*key.bytes())));
    let wanted_peers = spec.undisputed(|key| known.get(&key).and_then(|known| known.address));
    let wanted: BTreeSet<FabricKey> =
        wanted_peers.iter().flat_map(|peer| peer.keys.iter().copied()).collect();
    // Gone ones first: an address belongs to one key at a time.
    let gone = known.keys().filter(|key| !wanted.contains(*key)).map(|key| {
        WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(key.0),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ])
    });
    let staying = wanted_peers.iter().flat_map(|peer| {
        let used = used(peer, known, now);
        // The key that an address moves to comes last, and takes it from the one before.
        let others = peer.keys.iter().filter(move |key| **key != used);
        let all = others.map(|key| (*key, false)).chain([(used, true)]);
        all.map(move |(key, in_use)| {
            peer_message(peer, key, in_use, place(peer, known.get(&key), told.get(&key), now))
        })
    });
    let peers: Vec<WireguardPeer> = gone.chain(staying).collect();
    let mut messages = vec![device];
    messages.extend(peers.chunks(PEERS).map(|peers| vec![name(), WireguardAttribute::Peers(peers.to_vec())]));
    messages
}

/// The key of a node that packets to it take, and that its packets must come with.
fn used(peer: &TunnelPeer, known: &BTreeMap<FabricKey, Known>, now: UnixMillis) -> FabricKey {
    let agreed = |key: &&FabricKey| known.get(*key).is_some_and(|known| stands(known, now));
    let newest = peer.keys.iter().rev().find(agreed).or(peer.keys.first());
    newest.copied().unwrap_or(FabricKey([0; 32]))
}

/// Both ends have agreed on a session, and it is not too old.
fn stands(known: &Known, now: UnixMillis) -> bool {
    known.agreed.is_some_and(|at| now.0.saturating_sub(at.0) < SESSION.as_millis() as u64)
}

fn likeliest(peer: &TunnelPeer) -> SocketAddr {
    peer.places().next().unwrap_or(peer.endpoint)
}

/// Where to send the kernel for the node; none where it knows better. After a restart of the daemon nothing was told yet,
/// and a node that was heard elsewhere than where it was said to be is behind a NAT, or calls from where it is now.
fn place(
    peer: &TunnelPeer,
    known: Option<&Known>,
    told: Option<&SocketAddr>,
    now: UnixMillis,
) -> Option<SocketAddr> {
    let wanted = likeliest(peer);
    let Some(known) = known else { return Some(wanted) };
    let told = *told?;
    let heard_elsewhere = stands(known, now) && known.endpoint.is_some_and(|heard| heard != told);
    (told != wanted && !heard_elsewhere).then_some(wanted)
}

fn peer_message(peer: &TunnelPeer, key: FabricKey, in_use: bool, place: Option<SocketAddr>) -> WireguardPeer {
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::PersistentKeepalive(KEEPALIVE_S),
    ];
    attributes.extend(place.map(WireguardPeerAttribute::Endpoint));
    if in_use {
        attributes.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps));
        attributes.push(WireguardPeerAttribute::AllowedIps(vec![WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv4),
            WireguardAllowedIpAttr::IpAddr(IpAddr::V4(peer.address)),
            WireguardAllowedIpAttr::Cidr(32),
        ])]));
    }
    WireguardPeer(attributes)
}

/// The peers in an answer of the kernel.
fn known_of(attributes: &[WireguardAttribute]) -> Vec<(FabricKey, Known)> {
    let peers = attributes.iter().filter_map(|attribute| match attribute {
        WireguardAttribute::Peers(peers) => Some(peers),
        _ => None,
    });
    let known = |peer: &WireguardPeer| {
        let (mut key, mut known) = (None, Known::default());
        for attribute in &peer.0 {
            match attribute {
                WireguardPeerAttribute::PublicKey(bytes) => key = Some(FabricKey(*bytes)),
                WireguardPeerAttribute::Endpoint(endpoint) => known.endpoint = Some(*endpoint),
                WireguardPeerAttribute::LastHandshake(at) if at.seconds > 0 => {
                    known.agreed = Some(UnixMillis(at.seconds.unsigned_abs() * 1000));
                }
                WireguardPeerAttribute::TxBytes(bytes) => known.sent = *bytes,
                WireguardPeerAttribute::RxBytes(bytes) => known.received = *bytes,
                WireguardPeerAttribute::AllowedIps(ips) => {
                    let mut addresses = ips.iter().flat_map(|ip| ip.0.iter());
                    known.address = addresses.find_map(|attribute| match attribute {
                        WireguardAllowedIpAttr::IpAddr(IpAddr::V4(address)) => Some(*address),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some((key?, known))
    };
    peers.flatten().filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::{super::Keys, *};

    fn spec(keys: &[u8]) -> TunnelSpec {
        let dir = tempfile::tempdir().unwrap();
        let own = Keys::load_or_make(dir.path(), UnixMillis(1)).unwrap();
        let peer = TunnelPeer {
            address: Ipv4Addr::new(10, 64, 16, 2),
            endpoint: "192.0.2.2:7239".parse().unwrap(),
            hint: None,
            keys: keys.iter().map(|byte| FabricKey([*byte; 32])).collect(),
        };
        TunnelSpec {
            listen: "0.0.0.0:7239".parse().unwrap(),
            address: Ipv4Addr::new(10, 64, 16, 1),
            keys: own.private(),
            alone: 0,
            peers: vec![peer],
        }
    }

    /// One line a peer: the first byte of its key, and what is said of it.
    fn check(spec: &TunnelSpec, known: &[(u8, Known)], told: &[(u8, &str)], expected: Expect) {
        let known = known.iter().map(|(byte, known)| (FabricKey([*byte; 32]), *known)).collect();
        let told = told.iter().map(|(byte, at)| (FabricKey([*byte; 32]), at.parse().unwrap())).collect();
        let mut lines = String::new();
        for message in messages(spec, &known, &told, UnixMillis(1_000_000)) {
            for attribute in message {
                match attribute {
                    WireguardAttribute::Peers(peers) => {
                        for peer in peers {
                            let said = peer.0.iter().map(|attribute| match attribute {
                                WireguardPeerAttribute::PublicKey(key) => format!("peer {}", key[0]),
                                other => format!("{other:?}"),
                            });
                            lines += &(said.collect::<Vec<_>>().join(" ") + "\n");
                        }
                    }
                    WireguardAttribute::PrivateKey(key) => {
                        assert_eq!(key, *spec.keys[0].bytes());
                        lines += "PrivateKey\n";
                    }
                    other => lines += &format!("{other:?}\n"),
                }
            }
        }
        expected.assert_eq(&lines);
    }

    fn agreed(seconds: u64) -> Known {
        Known { agreed: Some(UnixMillis(seconds * 1000)), ..Known::default() }
    }

    #[test]
    fn a_new_device_is_told_everything() {
        check(
            &spec(&[2]),
            &[],
            &[],
            expect![[r#"
            IfName("ru-wire")
            ListenPort(7239)
            PrivateKey
            IfName("ru-wire")
            peer 2 PersistentKeepalive(25) Endpoint(192.0.2.2:7239) Flags(WireguardPeerFlags(ReplaceAllowedIps)) AllowedIps([WireguardAllowedIp([Family(Ipv4), IpAddr(10.64.16.2), Cidr(32)])])
        "#]],
        );
    }

    #[test]
    fn a_node_that_is_known_keeps_where_it_was_heard_from() {
        check(
            &spec(&[2]),
            &[(2, agreed(990)), (9, agreed(990))],
            &[(2, "192.0.2.2:7239")],
            expect![[r#"
            IfName("ru-wire")
            ListenPort(7239)
            PrivateKey
            IfName("ru-wire")
            peer 9 Flags(WireguardPeerFlags(RemoveMe))
            peer 2 PersistentKeepalive(25) Flags(WireguardPeerFlags(ReplaceAllowedIps)) AllowedIps([WireguardAllowedIp([Family(Ipv4), IpAddr(10.64.16.2), Cidr(32)])])
        "#]],
        );
        check(
            &spec(&[2]),
            &[(2, agreed(990))],
            &[(2, "192.0.2.7:7239")],
            expect![[r#"
            IfName("ru-wire")
            ListenPort(7239)
            PrivateKey
            IfName("ru-wire")
            peer 2 PersistentKeepalive(25) Endpoint(192.0.2.2:7239) Flags(WireguardPeerFlags(ReplaceAllowedIps)) AllowedIps([WireguardAllowedIp([Family(Ipv4), IpAddr(10.64.16.2), Cidr(32)])])
        "#]],
        );
    }

    #[test]
    fn a_hint_is_taken_unless_the_node_is_heard_elsewhere() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (state, hint, nat) = (at("192.0.2.2:7239"), at("192.0.2.9:7239"), at("198.51.100.7:40000"));
        let now = UnixMillis(1_000_000);
        let mut spec = spec(&[2]);
        spec.peers[0].hint = Some(hint);
        let known = |endpoint, seconds| Known { endpoint: Some(endpoint), ..agreed(seconds) };
        let place = |known: Option<Known>, told: Option<SocketAddr>| {
            place(&spec.peers[0], known.as_ref(), told.as_ref(), now)
        };
        assert_eq!(place(None, None), Some(hint));
        assert_eq!(place(Some(known(state, 990)), Some(state)), Some(hint));
        assert_eq!(place(Some(known(hint, 990)), Some(hint)), None, "told already");
        assert_eq!(place(Some(known(nat, 990)), Some(state)), None, "heard elsewhere");
        assert_eq!(place(Some(known(nat, 700)), Some(state)), Some(hint), "heard elsewhere long ago");
        assert_eq!(place(Some(known(nat, 990)), None), None, "after a restart");
    }

    #[test]
    fn an_address_moves_to_a_new_key_once_both_agreed_on_it() {
        check(
            &spec(&[2, 3]),
            &[(2, agreed(990)), (3, Known::default())],
            &[],
            expect![[r#"
            IfName("ru-wire")
            ListenPort(7239)
            PrivateKey
            IfName("ru-wire")
            peer 3 PersistentKeepalive(25)
            peer 2 PersistentKeepalive(25) Flags(WireguardPeerFlags(ReplaceAllowedIps)) AllowedIps([WireguardAllowedIp([Family(Ipv4), IpAddr(10.64.16.2), Cidr(32)])])
        "#]],
        );
        check(
            &spec(&[2, 3]),
            &[(2, agreed(990)), (3, agreed(999))],
            &[],
            expect![[r#"
            IfName("ru-wire")
            ListenPort(7239)
            PrivateKey
            IfName("ru-wire")
            peer 2 PersistentKeepalive(25)
            peer 3 PersistentKeepalive(25) Flags(WireguardPeerFlags(ReplaceAllowedIps)) AllowedIps([WireguardAllowedIp([Family(Ipv4), IpAddr(10.64.16.2), Cidr(32)])])
        "#]],
        );
        check(
            &spec(&[2, 3]),
            &[(2, agreed(990)), (3, agreed(700))],
            &[],
            expect![[r#"
            IfName("ru-wire")
            ListenPort(7239)
            PrivateKey
            IfName("ru-wire")
            peer 3 PersistentKeepalive(25)
            peer 2 PersistentKeepalive(25) Flags(WireguardPeerFlags(ReplaceAllowedIps)) AllowedIps([WireguardAllowedIp([Family(Ipv4), IpAddr(10.64.16.2), Cidr(32)])])
        "#]],
        );
    }

    #[test]
    fn a_key_that_two_nodes_name_stays_with_the_one_that_has_it() {
        let mut spec = spec(&[2]);
        spec.peers[0].keys.push(FabricKey([3; 32]));
        let mut owner = TunnelPeer { keys: vec![FabricKey([3; 32])], ..spec.peers[0].clone() };
        owner.address = Ipv4Addr::new(10, 64, 16, 3);
        owner.endpoint = "192.0.2.3:7239".parse().unwrap();
        spec.peers.push(owner.clone());
        let known = Known { address: Some(owner.address), ..agreed(990) };
        check(
            &spec,
            &[(3, known)],
            &[],
            expect![[r#"
            IfName("ru-wire")
            ListenPort(7239)
            PrivateKey
            IfName("ru-wire")
            peer 2 PersistentKeepalive(25) Endpoint(192.0.2.2:7239) Flags(WireguardPeerFlags(ReplaceAllowedIps)) AllowedIps([WireguardAllowedIp([Family(Ipv4), IpAddr(10.64.16.2), Cidr(32)])])
            peer 3 PersistentKeepalive(25) Flags(WireguardPeerFlags(ReplaceAllowedIps)) AllowedIps([WireguardAllowedIp([Family(Ipv4), IpAddr(10.64.16.3), Cidr(32)])])
        "#]],
        );
    }

    #[test]
    fn what_is_told_is_what_the_kernel_answers() {
        let spec = spec(&[2]);
        let told = messages(&spec, &BTreeMap::new(), &BTreeMap::new(), UnixMillis(0));
        let known: Vec<_> = told.iter().flat_map(|message| known_of(message)).collect();
        let there = Known {
            address: Some(spec.peers[0].address),
            endpoint: Some(spec.peers[0].endpoint),
            ..Known::default()
        };
        assert_eq!(known, [(FabricKey([2; 32]), there)]);
    }
}
