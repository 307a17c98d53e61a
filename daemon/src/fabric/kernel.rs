//! Brings the kernel to a [`Wiring`]: reads what is there, removes and adds what differs.
#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel has many attributes and we need few of them")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use raftup_proto::{
    api::FabricMode,
    id::NodeId,
    view::{ClusterItem, Lane, PeerItem, RETURN_MARK, RETURN_MASK, View, WIRE_DEVICE},
};
use rtnetlink::{
    Handle, IpVersion, LinkMessageBuilder, LinkUnspec, LinkVxlan, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::{
    Underlay, Wiring,
    bridges::{disable_ipv6, set_forwarding_sysctls, set_sysctl},
    underlay::wire_mtu,
    wiring::{Device, Entry},
};

/// Places of our routing rules among the host's: after `local`, before `main`.
const GATE_PLACE: u32 = 7238;
const RETURN_PLACE: u32 = GATE_PLACE + 1;
const GATE_END_PLACE: u32 = RETURN_PLACE + 1;

/// Who made our routing rules, as the kernel lists it. systemd-networkd removes all rules that it did not make when it starts,
/// except those of the kernel (networkd-routing-policy-rule.c). For a removal nothing is named: rules of earlier versions have
/// another one.
const RULE_PROTOCOL: RouteProtocol = RouteProtocol::Kernel;

/// One of the rules there is ours.
pub(super) fn is_place_of_ours(place: u32) -> bool {
    (GATE_PLACE..=GATE_END_PLACE).contains(&place)
}

/// Routing tables, other than the local one, that routes of ours are in: the main one, or one named by a mark.
const LOCAL_TABLE: u32 = 255;
const MAIN_TABLE: u32 = 254;

/// A device that is there for a moment, to see whether it can be.
pub const PROBE: &str = "ru-probe";

/// Its VXLAN network id; nothing is ever sent with it.
const PROBE_VNI: u32 = 7237;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const ENODEV: i32 = 19;
const EADDRNOTAVAIL: i32 = 99;

/// The kernel refused something, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// No netlink socket.
    #[error("the kernel's network settings cannot be reached")]
    Socket(#[source] io::Error),
    /// One step failed.
    #[error("{step}")]
    Step {
        /// What was tried.
        step: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The device went away while it was set up.
    #[error("device `{0}` is gone")]
    Gone(&'static str),
}

fn step<'a>(step: impl Into<String> + 'a) -> impl FnOnce(rtnetlink::Error) -> FabricError + 'a {
    |source| FabricError::Step { step: step.into(), source }
}

/// The kernel's side of the fabric.
#[derive(Debug)]
pub struct Fabric {
    handle: Handle,
    connection: JoinHandle<()>,
    /// What of a lane is in the kernel, and none where nothing is; a lane that is not here must be read.
    known: BTreeMap<Lane, Option<Known>>,
    /// What it refused last of single nodes.
    refused: Vec<String>,
}

#[derive(Debug)]
struct Known {
    index: u32,
    device: Device,
    entries: BTreeSet<Entry>,
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Fabric {
    /// Errors: no netlink socket.
    pub fn open() -> Result<Self, FabricError> {
        let (connection, handle, _) = new_connection().map_err(FabricError::Socket)?;
        Ok(Self { handle, connection: tokio::spawn(connection), known: BTreeMap::new(), refused: Vec::new() })
    }

    /// The kernel may have been changed by others: read it again before the next change.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Numbers of the lanes' devices that are there.
    pub fn indices(&self) -> Vec<u32> {
        self.known.values().flatten().map(|known| known.index).collect()
    }

    /// What `me` needs to reach the others, lane by lane. Where the fabric is encrypted, the device of the encrypted links
    /// must be there and is set. Cost: one listing of the host's addresses.
    pub async fn wirings(
        &self,
        view: &View,
        cluster: &ClusterItem,
        me: &PeerItem,
    ) -> Result<Vec<Wiring>, FabricError> {
        let mtu = self.link_mtu(me.underlay).await?;
        if cluster.fabric == FabricMode::Wireguard {
            self.settle_wire(cluster, me, wire_mtu(mtu)).await?;
        }
        let underlay = |lane| Underlay::of(lane, cluster.fabric, view, me, mtu);
        Ok(view.lanes().into_iter().map(|lane| Wiring::of(view, me, lane, &underlay(lane))).collect())
    }

    /// Address and size of the device of the encrypted links, and up.
    async fn settle_wire(&self, cluster: &ClusterItem, me: &PeerItem, mtu: u32) -> Result<(), FabricError> {
        let index = self.link(WIRE_DEVICE).await?.ok_or(FabricError::Gone(WIRE_DEVICE))?.header.index;
        // One route for all of the other ends.
        let prefix = cluster.fabric().prefix_len() + 1;
        let adding = self.handle.address().add(index, IpAddr::V4(me.wire()), prefix).replace();
        adding.execute().await.map_err(step("giving the device of the encrypted links its address"))?;
        disable_ipv6(WIRE_DEVICE);
        let message = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        let setting = self.handle.link().change(message).execute().await;
        setting.map_err(step("setting the device of the encrypted links up"))
    }

    /// Makes it so: these lanes, and no others. Answers what the kernel refuses of single nodes, one line a node; all
    /// else is in force then, and the next call tries that part again.
    ///
    /// Errors: something of this node's own is refused. All that can be done is done; the next call reads the kernel
    /// anew.
    pub async fn apply(&mut self, wirings: &[Wiring]) -> Result<Vec<String>, FabricError> {
        let (mut refused, mut failed) = (Vec::new(), Ok(()));
        for lane in Lane::ALL {
            let done = match wirings.iter().find(|wiring| wiring.lane() == lane) {
                Some(wiring) => self.lay(wiring).await,
                None => self.clear(lane).await.map(|()| Vec::new()),
            };
            match done {
                Ok(lines) => refused.extend(lines),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        if self.refused != refused {
            refused.iter().for_each(|problem| warn!(problem, "the kernel refuses part of the fabric"));
            self.refused.clone_from(&refused);
        }
        failed.map(|()| refused)
    }

    async fn lay(&mut self, wiring: &Wiring) -> Result<Vec<String>, FabricError> {
        let mut known = match self.known.remove(&wiring.lane()).flatten() {
            Some(known) if known.device == wiring.device => known,
            Some(_) | None => self.adopt(&wiring.device).await?,
        };
        let device = On { fabric: self, index: known.index };
        let failures = settle(&mut known.entries, &wiring.entries, &device).await;
        let mut of_nodes: BTreeMap<NodeId, String> = BTreeMap::new();
        let mut own = Ok(());
        for (entry, error) in failures {
            match wiring.node_of(&entry) {
                Some(node) => {
                    let text = || format!("node {node} cannot be reached: {:#}", anyhow::Error::from(error));
                    of_nodes.entry(node).or_insert_with(text);
                }
                None => own = own.and(Err(error)),
            }
        }
        own?;
        self.known.insert(wiring.lane(), Some(known));
        Ok(of_nodes.into_values().collect())
    }

    /// Removes a lane's device with all that is on it, and its routing rules.
    async fn clear(&mut self, lane: Lane) -> Result<(), FabricError> {
        if self.known.get(&lane).is_some_and(Option::is_none) {
            return Ok(());
        }
        self.known.remove(&lane);
        for entry in self.read_rules(lane).await? {
            self.remove(0, entry).await?;
        }
        if let Some(link) = self.link(lane.device()).await? {
            self.delete_device(lane, link.header.index).await?;
        }
        self.known.insert(lane, None);
        Ok(())
    }

    /// Whether the kernel makes VXLAN devices: one is made, without a way to anywhere, and removed. Errors: it does not.
    pub async fn try_vxlan(&self) -> Result<(), FabricError> {
        let probe = LinkVxlan::new(PROBE, PROBE_VNI).build();
        self.try_device(probe).await.map_err(step("making a device (VXLAN)"))
    }

    /// The same of the kernel's own WireGuard.
    pub async fn try_wireguard(&self) -> Result<(), FabricError> {
        let probe = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Wireguard);
        let probe = probe.name(PROBE.to_owned()).build();
        self.try_device(probe).await.map_err(step("making a device (WireGuard)"))
    }

    async fn try_device(&self, probe: LinkMessage) -> Result<(), rtnetlink::Error> {
        if let Ok(Some(left)) = self.link(PROBE).await {
            gone_is_fine(self.handle.link().del(left.header.index).execute().await)?;
        }
        self.handle.link().add(probe).execute().await?;
        match self.link(PROBE).await {
            Ok(Some(made)) => gone_is_fine(self.handle.link().del(made.header.index).execute().await),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Removes all lanes.
    pub async fn remove_all(&mut self) -> Result<(), FabricError> {
        self.forget();
        self.apply(&[]).await.map(drop)
    }

    /// The device as wanted, made or corrected, and what is on it.
    async fn adopt(&self, device: &Device) -> Result<Known, FabricError> {
        set_sysctl("ipv4/ip_forward", "1");
        let name = device.lane.device();
        if let Some(link) = self.link(name).await? {
            if same_tunnel(&link, device) {
                debug!(device = name, "device of an earlier run is taken over");
            } else {
                info!(device = name, "device differs from what is wanted and is made anew");
                self.delete_device(device.lane, link.header.index).await?;
                self.create_device(device).await?;
            }
        } else {
            self.create_device(device).await?;
        }
        let index = self.link(name).await?.ok_or(FabricError::Gone(name))?.header.index;
        // Before it is up: a device that is up has a link-local address.
        set_forwarding_sysctls(name);
        let message =
            LinkUnspec::new_with_index(index).mtu(device.mtu).address(device.mac.to_vec()).up().build();
        let setting = self.handle.link().change(message).execute().await;
        setting.map_err(step(format!("setting device `{name}` up")))?;
        let entries = self.read(device.lane, index).await?;
        Ok(Known { index, device: device.clone(), entries })
    }

    async fn create_device(&self, device: &Device) -> Result<(), FabricError> {
        let mut builder = LinkVxlan::new(device.lane.device(), device.lane.vni())
            .port(device.port)
            .learning(false)
            .address(device.mac.to_vec())
            .mtu(device.mtu);
        builder = match device.local {
            Some(IpAddr::V4(local)) => builder.local(local),
            // No rule protects a socket of IPv6: there is none.
            Some(IpAddr::V6(_)) | None => builder,
        };
        let made = self.handle.link().add(builder.build()).execute().await;
        made.map_err(step(format!("making device `{}` (VXLAN)", device.lane.device())))
    }

    async fn delete_device(&self, lane: Lane, index: u32) -> Result<(), FabricError> {
        gone_is_fine(self.handle.link().del(index).execute().await)
            .map_err(step(format!("removing device `{}`", lane.device())))
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, FabricError> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(step(format!("looking for device `{name}`"))(error)),
        }
    }

    /// Largest packet of the device that has `address`, if one has.
    pub async fn link_mtu(&self, address: IpAddr) -> Result<Option<u32>, FabricError> {
        let listing = self.handle.address().get().set_address_filter(address).execute();
        let found: Vec<AddressMessage> = listing.try_collect().await.map_err(step("listing addresses"))?;
        let Some(index) = found.first().map(|message| message.header.index) else { return Ok(None) };
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.map_err(step("looking at the link between hosts"))?;
        Ok(link.and_then(|link| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            })
        }))
    }

    async fn add(&self, index: u32, entry: Entry) -> Result<(), FabricError> {
        let handle = &self.handle;
        let done = match entry {
            Entry::Address(address) => {
                handle.address().add(index, IpAddr::V4(address), 32).replace().execute().await
            }
            Entry::Neighbour { address, mac } => {
                let neighbour = handle.neighbours().add(index, IpAddr::V4(address));
                neighbour.link_layer_address(&mac).replace().execute().await
            }
            Entry::Tunnel { mac, to, port } => {
                let mut tunnel = handle.neighbours().add_bridge(index, &mac).destination(to);
                let more = port.map(NeighbourAttribute::Port);
                tunnel.message_mut().attributes.extend(more);
                tunnel.flags(NeighbourFlags::Own).state(PERMANENT).replace().execute().await
            }
            Entry::Route { .. } | Entry::ReturnTable { .. } => match route_message(index, entry) {
                Some(message) => handle.route().add(message).replace().execute().await,
                None => Ok(()),
            },
            Entry::ReturnRule { .. } | Entry::Gate | Entry::GateEnd => match rule_message(entry) {
                Some(mut message) => {
                    message.attributes.push(RuleAttribute::Protocol(RULE_PROTOCOL));
                    let mut rule = handle.rule().add();
                    *rule.message_mut() = message;
                    rule.execute().await
                }
                None => Ok(()),
            },
        };
        done.map_err(step(format!("adding {entry:?}")))
    }

    async fn remove(&self, index: u32, entry: Entry) -> Result<(), FabricError> {
        let handle = &self.handle;
        let done = match entry {
            Entry::Address(address) => {
                let mut message = AddressMessage::default();
                message.header.family = AddressFamily::Inet;
                message.header.index = index;
                message.header.prefix_len = 32;
                message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
                handle.address().del(message).execute().await
            }
            Entry::Neighbour { address, .. } => {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Inet;
                message.header.ifindex = index;
                message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
                handle.neighbours().del(message).execute().await
            }
            Entry::Tunnel { mac, to, port } => {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Bridge;
                message.header.ifindex = index;
                message.header.flags = NeighbourFlags::Own;
                message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
                message.attributes.push(NeighbourAttribute::Destination(match to {
                    IpAddr::V4(to) => NeighbourAddress::Inet(to),
                    IpAddr::V6(to) => NeighbourAddress::Inet6(to),
                }));
                message.attributes.extend(port.map(NeighbourAttribute::Port));
                handle.neighbours().del(message).execute().await
            }
            Entry::Route { .. } | Entry::ReturnTable { .. } => match route_message(index, entry) {
                Some(message) => handle.route().del(message).execute().await,
                None => Ok(()),
            },
            Entry::ReturnRule { .. } | Entry::Gate | Entry::GateEnd => match rule_message(entry) {
                Some(message) => handle.rule().del(message).execute().await,
                None => Ok(()),
            },
        };
        gone_is_fine(done).map_err(step(format!("removing {entry:?}")))
    }

    /// All entries of a lane in the kernel.
    async fn read(&self, lane: Lane, index: u32) -> Result<BTreeSet<Entry>, FabricError> {
        let mut entries = self.read_rules(lane).await?;
        let addresses = self.handle.address().get().set_link_index_filter(index).execute();
        let addresses: Vec<_> = addresses.try_collect().await.map_err(step("listing addresses"))?;
        entries.extend(addresses.iter().filter_map(address_entry));
        for family in [AddressFamily::Inet, AddressFamily::Bridge] {
            let listing = self.handle.neighbours().get().set_address_family(family).execute();
            let listed: Vec<_> = listing.try_collect().await.map_err(step("listing neighbours"))?;
            let ours = listed.iter().filter(|message| message.header.ifindex == index);
            entries.extend(ours.filter_map(neighbour_entry));
        }
        let routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let routes: Vec<_> = routes.try_collect().await.map_err(step("listing routes"))?;
        entries.extend(routes.iter().filter_map(|message| route_entry(index, message)));
        Ok(entries)
    }

    async fn read_rules(&self, lane: Lane) -> Result<BTreeSet<Entry>, FabricError> {
        let rules = self.handle.rule().get(IpVersion::V4).execute();
        let rules: Vec<_> = rules.try_collect().await.map_err(step("listing routing rules"))?;
        let of_lane = |entry: &Entry| match entry {
            Entry::ReturnRule { mark } => Lane::of_return_mark(*mark) == lane,
            _ => lane == Lane::Main,
        };
        Ok(rules.iter().filter_map(rule_entry).filter(of_lane).collect())
    }
}

/// What is done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Remove,
    Add,
}

/// Where entries are changed: a device, or a test's stand-in.
trait Change {
    type Error;
    fn change(&self, step: Step, entry: Entry) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// A device of the kernel.
struct On<'a> {
    fabric: &'a Fabric,
    index: u32,
}

impl Change for On<'_> {
    type Error = FabricError;

    async fn change(&self, step: Step, entry: Entry) -> Result<(), FabricError> {
        match step {
            Step::Remove => self.fabric.remove(self.index, entry).await,
            Step::Add => self.fabric.add(self.index, entry).await,
        }
    }
}

/// Removes and adds what differs between `entries` and `wanted`, and goes on after a failure. What was done is in
/// `entries` afterwards. Answers the failures, in order.
async fn settle<C: Change>(
    entries: &mut BTreeSet<Entry>,
    wanted: &BTreeSet<Entry>,
    device: &C,
) -> Vec<(Entry, C::Error)> {
    let mut failures = Vec::new();
    // Take away before adding: a block that moves has one way at a time.
    let gone: Vec<Entry> = entries.difference(wanted).copied().collect();
    for entry in gone {
        match device.change(Step::Remove, entry).await {
            Ok(()) => _ = entries.remove(&entry),
            Err(error) => failures.push((entry, error)),
        }
    }
    for entry in wanted {
        if entries.contains(entry) {
            continue;
        }
        match device.change(Step::Add, *entry).await {
            Ok(()) => _ = entries.insert(*entry),
            Err(error) => failures.push((*entry, error)),
        }
    }
    failures
}

/// Not to be confused with an entry that the kernel found by itself and forgets again.
const PERMANENT: NeighbourState = NeighbourState::Permanent;

/// The parts of a VXLAN device that cannot be changed later are as wanted.
fn same_tunnel(link: &LinkMessage, device: &Device) -> bool {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(infos)) => Some(infos),
            _ => None,
        }),
        _ => None,
    });
    let Some(infos) = infos else { return false };
    let local = infos.iter().find_map(|info| match info {
        InfoVxlan::Local(local) => Some(IpAddr::V4(*local)),
        InfoVxlan::Local6(local) => Some(IpAddr::V6(*local)),
        _ => None,
    });
    local == device.local
        && infos.contains(&InfoVxlan::Id(device.lane.vni()))
        && infos.contains(&InfoVxlan::Port(device.port))
        && infos.contains(&InfoVxlan::Learning(false))
}

fn address_entry(message: &AddressMessage) -> Option<Entry> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) if message.header.prefix_len == 32 => {
            Some(Entry::Address(*address))
        }
        _ => None,
    })
}

fn neighbour_entry(message: &NeighbourMessage) -> Option<Entry> {
    let mut mac = None;
    let mut to = None;
    let mut port = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => to = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => to = Some(IpAddr::V6(*v6)),
            // The frame of a forwarding entry does not say which family its address has.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => to = address_of(bytes),
            NeighbourAttribute::Port(number) => port = Some(*number),
            _ => {}
        }
    }
    let permanent = message.header.state == PERMANENT;
    match (message.header.family, mac, to) {
        (AddressFamily::Inet, Some(mac), Some(IpAddr::V4(address))) if permanent => {
            Some(Entry::Neighbour { address, mac })
        }
        (AddressFamily::Bridge, Some(mac), Some(to)) => Some(Entry::Tunnel { mac, to, port }),
        _ => None,
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn route_message(index: u32, entry: Entry) -> Option<RouteMessage> {
    let builder =
        RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).protocol(RouteProtocol::Static);
    match entry {
        Entry::Route { to, via, from } => {
            let builder = builder.destination_prefix(to.network(), to.prefix_len()).pref_source(from);
            Some(match via {
                Some(via) => builder.gateway(via).onlink().build(),
                None => builder.scope(RouteScope::Link).build(),
            })
        }
        Entry::ReturnTable { mark, via } => Some(builder.gateway(via).onlink().table_id(mark).build()),
        Entry::Address(_)
        | Entry::Neighbour { .. }
        | Entry::Tunnel { .. }
        | Entry::ReturnRule { .. }
        | Entry::Gate
        | Entry::GateEnd => None,
    }
}

fn route_entry(index: u32, message: &RouteMessage) -> Option<Entry> {
    let v4 = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(*address),
        _ => None,
    };
    let (mut to, mut via, mut from, mut device) = (Ipv4Addr::UNSPECIFIED, None, None, None);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = v4(address)?,
            RouteAttribute::Gateway(address) => via = v4(address),
            RouteAttribute::PrefSource(address) => from = v4(address),
            RouteAttribute::Oif(number) => device = Some(*number),
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    if device != Some(index) || table == LOCAL_TABLE || message.header.kind != RouteType::Unicast {
        return None;
    }
    if table & RETURN_MASK == RETURN_MARK {
        return Some(Entry::ReturnTable { mark: table, via: via? });
    }
    let to = Ipv4Net::new(to, message.header.destination_prefix_length).ok()?;
    (table == MAIN_TABLE).then(|| from.map(|from| Entry::Route { to, via, from }))?
}

fn rule_message(entry: Entry) -> Option<RuleMessage> {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    let attributes = match entry {
        Entry::Gate => {
            message.header.action = RuleAction::Goto;
            message.header.flags = RuleFlags::Invert;
            vec![
                RuleAttribute::Priority(GATE_PLACE),
                RuleAttribute::FwMark(RETURN_MARK),
                RuleAttribute::FwMask(RETURN_MASK),
                RuleAttribute::Goto(GATE_END_PLACE),
            ]
        }
        Entry::ReturnRule { mark } => {
            message.header.action = RuleAction::ToTable;
            vec![
                RuleAttribute::Priority(RETURN_PLACE),
                RuleAttribute::FwMark(mark),
                RuleAttribute::FwMask(u32::MAX),
                RuleAttribute::Table(mark),
            ]
        }
        Entry::GateEnd => {
            message.header.action = RuleAction::Nop;
            vec![RuleAttribute::Priority(GATE_END_PLACE)]
        }
        Entry::Address(_)
        | Entry::Neighbour { .. }
        | Entry::Tunnel { .. }
        | Entry::Route { .. }
        | Entry::ReturnTable { .. } => return None,
    };
    message.attributes = attributes;
    Some(message)
}

fn rule_entry(message: &RuleMessage) -> Option<Entry> {
    let mut place = None;
    let mut mark = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => place = Some(*number),
            RuleAttribute::FwMark(number) => mark = Some(*number),
            _ => {}
        }
    }
    match (place?, message.header.action) {
        (GATE_PLACE, RuleAction::Goto) => Some(Entry::Gate),
        (RETURN_PLACE, RuleAction::ToTable) => Some(Entry::ReturnRule { mark: mark? }),
        (GATE_END_PLACE, RuleAction::Nop) => Some(Entry::GateEnd),
        _ => None,
    }
}

fn is_gone(error: &rtnetlink::Error) -> bool {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            matches!(-message.raw_code(), ENOENT | ESRCH | ENODEV | EADDRNOTAVAIL)
        }
        _ => false,
    }
}

fn gone_is_fine(done: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    done.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn way(block: u8, via: u8) -> Entry {
        Entry::Route {
            to: Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 32, block), 26),
            via: Some(Ipv4Addr::new(10, 64, 0, via)),
            from: Ipv4Addr::new(10, 64, 0, 1),
        }
    }

    /// Refuses some entries, and keeps what it was asked.
    #[derive(Default)]
    struct Fake {
        refuses: Vec<Entry>,
        asked: Mutex<Vec<(Step, Entry)>>,
    }

    impl Change for Fake {
        type Error = &'static str;

        async fn change(&self, step: Step, entry: Entry) -> Result<(), &'static str> {
            self.asked.lock().unwrap().push((step, entry));
            if self.refuses.contains(&entry) { Err("refused") } else { Ok(()) }
        }
    }

    /// What the kernel refuses of one node is left out and tried again; all else is done, in the same order.
    #[tokio::test]
    async fn one_refused_entry_stops_no_other() {
        let wanted = BTreeSet::from([way(0, 2), way(64, 3), way(128, 4)]);
        let mut entries = BTreeSet::from([way(64, 9), way(192, 9)]);
        let fake = Fake { refuses: vec![way(64, 3), way(192, 9)], ..Fake::default() };
        let failures = settle(&mut entries, &wanted, &fake).await;
        let (remove, add) = (Step::Remove, Step::Add);
        assert_eq!(
            fake.asked.into_inner().unwrap(),
            [
                (remove, way(64, 9)),
                (remove, way(192, 9)),
                (add, way(0, 2)),
                (add, way(64, 3)),
                (add, way(128, 4))
            ]
        );
        assert_eq!(failures, [(way(192, 9), "refused"), (way(64, 3), "refused")]);
        assert_eq!(entries, BTreeSet::from([way(0, 2), way(128, 4), way(192, 9)]));
        let willing = Fake::default();
        assert!(settle(&mut entries, &wanted, &willing).await.is_empty());
        assert_eq!(willing.asked.into_inner().unwrap(), [(remove, way(192, 9)), (add, way(64, 3))]);
        assert_eq!(entries, wanted);
    }
}
