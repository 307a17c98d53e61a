//! What a node is told: the tasks it runs, and the routing state that every node has.
//!
//! A view is a set of items under keys. A manager works out each item from the replicated state, sends all of them
//! once and then only what changed. A node keeps its last view on disk and acts on it with no manager in reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use imbl::OrdMap;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    api::FabricMode,
    codec,
    id::{NetworkId, NodeId, ServiceId, TaskId},
    name::{NetworkName, ServiceName, StackName, VolumeName},
    peer::FabricKey,
    spec::{ContainerSpec, PortSpec, Resources, Routing},
};

/// The state that a view was worked out from: the index of the last entry of the log that it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// Names one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// The settings that all nodes share.
    Cluster,
    /// A node.
    Peer(NodeId),
    /// A network.
    Network(NetworkId),
    /// Where a service is reached.
    Route(ServiceId),
    /// A task of this node.
    Task(TaskId),
    /// A task that a service is reached at: the service, the task's slot, the task.
    Endpoint(ServiceId, u64, TaskId),
}

impl Key {
    /// The bucket of the key's item in [`Digests`]. The same on all nodes of all versions.
    pub fn bucket(&self) -> u8 {
        let (kind, number) = match *self {
            Self::Cluster => (0, 0),
            Self::Peer(id) => (1, id.number()),
            Self::Network(id) => (2, id.number()),
            Self::Route(id) => (3, id.number()),
            Self::Task(id) => (4, id.number()),
            Self::Endpoint(_, _, id) => (5, id.number()),
        };
        // The top byte of SplitMix64, of Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
        let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(kind + 1));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 56) as u8
    }
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// Under [`Key::Cluster`].
    Cluster(ClusterItem),
    /// Under [`Key::Peer`].
    Peer(PeerItem),
    /// Under [`Key::Network`].
    Network(NetworkItem),
    /// Under [`Key::Route`].
    Route(RouteItem),
    /// Under [`Key::Task`].
    Task(Box<TaskItem>),
    /// Under [`Key::Endpoint`], with its service.
    Endpoint(ServiceId, Endpoint),
}

impl Item {
    /// The key that the item stands under.
    pub fn key(&self) -> Key {
        match self {
            Self::Cluster(_) => Key::Cluster,
            Self::Peer(peer) => Key::Peer(peer.node),
            Self::Network(network) => Key::Network(network.network),
            Self::Route(route) => Key::Route(route.service),
            Self::Task(task) => Key::Task(task.task),
            Self::Endpoint(service, endpoint) => Key::Endpoint(*service, endpoint.slot, endpoint.task),
        }
    }
}

/// Settings that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterItem {
    /// All addresses of networks, VIPs and the fabric come from here.
    pub pool: Ipv4Net,
    /// What nodes send each other packets of containers through.
    pub fabric: FabricMode,
}

/// UDP port of VXLAN inside of the encrypted links. No packet to it is sent, or accepted, outside of them.
pub const WIRE_PORT: u16 = 7240;

/// UDP port of VXLAN beside the encrypted links, on a node alone: between nodes it is the fabric's port. Not
/// [`WIRE_PORT`]: one socket serves all devices of a port, and nothing that comes as it is may reach that one's.
pub const PLAIN_PORT: u16 = 7241;

/// Name of the device on every node that encrypts what goes to the others, where the fabric is encrypted.
pub const WIRE_DEVICE: &str = "ru-wire";

/// Name of the device on every node that leads to the others. Bridges of networks are `ru-` and the network's id.
pub const FABRIC_DEVICE: &str = "ru-fabric";

/// Name of the one that does so for networks that are not encrypted in a fabric that is.
pub const PLAIN_DEVICE: &str = "ru-plain";

/// A way between nodes for the packets of some networks: a device (VXLAN) on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// As the cluster's fabric is: encrypted or not.
    Main,
    /// Not encrypted, where the fabric is. There as long as a network is on it.
    Plain,
}

impl Lane {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Main, Self::Plain];

    /// Name of its device.
    pub const fn device(self) -> &'static str {
        match self {
            Self::Main => FABRIC_DEVICE,
            Self::Plain => PLAIN_DEVICE,
        }
    }

    /// Its VXLAN network id.
    pub const fn vni(self) -> u32 {
        match self {
            Self::Main => 7238,
            Self::Plain => 7239,
        }
    }

    /// The lane of a [`PeerItem::return_mark`].
    pub const fn of_return_mark(mark: u32) -> Self {
        if mark & RETURN_PLAIN == 0 { Self::Main } else { Self::Plain }
    }
}

/// What the packet marks of the fabric have in common, in the bits of [`RETURN_MASK`].
pub const RETURN_MARK: u32 = 0x7238_0000;

/// Packet mark of what programs of a node send to containers; none that is not root's can set one itself.
pub const TUNNEL_MARK: u32 = 0x7237_0000;

/// Of the packet marks of the fabric, those of [`Lane::Plain`]. No host part of an address on the fabric is as large.
const RETURN_PLAIN: u32 = 0x8000;

/// See [`RETURN_MARK`].
pub const RETURN_MASK: u32 = 0xffff_0000;

/// What is added to a node's address on the fabric to get that of its end of the encrypted links: the second half of the
/// fabric's subnet.
const WIRE_OFFSET: u32 = 1 << (32 - SUBNET_PREFIX - 1);

/// Prefix length of the subnet of a network, and of the part of the pool that the fabric has.
pub const SUBNET_PREFIX: u8 = 19;

/// Prefix length of the container addresses of a network that a node is home to; it may have several such blocks.
pub const BLOCK_PREFIX: u8 = 26;

/// Prefix length of the part of a network, its end, that the virtual addresses of services are of.
pub const VIP_PREFIX: u8 = 24;

impl ClusterItem {
    /// The first subnet of the pool: the nodes' own addresses on the fabric, and those inside of the encrypted links.
    pub fn fabric(&self) -> Ipv4Net {
        let prefix = self.pool.prefix_len().max(SUBNET_PREFIX);
        Ipv4Net::new_assert(self.pool.network(), prefix)
    }
}

/// A node as the others need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerItem {
    /// Its id.
    pub node: NodeId,
    /// Its host name.
    pub hostname: String,
    /// Where its control port (QUIC) is reached.
    pub control: std::net::SocketAddr,
    /// Where its fabric port is reached.
    pub underlay: IpAddr,
    /// UDP port of its fabric.
    pub fabric_port: u16,
    /// The keys that its encrypted links are known by, newest last.
    pub fabric_keys: Vec<FabricKey>,
    /// How often an operator has asked for a new one.
    pub fabric_turn: u64,
    /// Its own address on the fabric, one of the pool.
    pub fabric: Ipv4Addr,
    /// May hold the replicated state now; agents look for a session there.
    pub manager: bool,
    /// It is not down.
    pub alive: bool,
    /// The addresses of tasks that it is home to, in order.
    pub blocks: Vec<Ipv4Net>,
    /// The addresses that its engine gives to containers that are not the cluster's, in order.
    pub attached: Vec<Ipv4Net>,
}

impl PeerItem {
    /// Its hardware address on a lane; follows from its address on the fabric.
    pub fn fabric_mac(&self, lane: Lane) -> [u8; 6] {
        let [a, b, c, d] = self.fabric.octets();
        let of_lane = match lane {
            Lane::Main => 0x72,
            Lane::Plain => 0x73,
        };
        [0x02, of_lane, a, b, c, d]
    }

    /// Its address inside of the encrypted links; follows from its address on the fabric.
    pub fn wire(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.fabric) + WIRE_OFFSET)
    }

    /// All container addresses that it is home to.
    pub fn homes(&self) -> impl Iterator<Item = Ipv4Net> {
        self.blocks.iter().chain(&self.attached).copied()
    }

    /// Packet mark of replies that go back through it, by a lane: [`RETURN_MARK`] and the host part of its address on the
    /// fabric. Ids count upwards for ever and would not fit.
    pub fn return_mark(&self, lane: Lane) -> u32 {
        let of_lane = match lane {
            Lane::Main => 0,
            Lane::Plain => RETURN_PLAIN,
        };
        RETURN_MARK | of_lane | (u32::from(self.fabric) & (WIRE_OFFSET - 1))
    }
}

/// A network that spans the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkItem {
    /// Its id; names of bridges and engine networks follow from it.
    pub network: NetworkId,
    /// Its stack, if it is of one.
    #[serde(with = "stack_or_none")]
    pub stack: Option<StackName>,
    /// Its key in the stack, or its name.
    pub name: NetworkName,
    /// All of its addresses; the first one is the gateway on every node.
    pub subnet: Ipv4Net,
    /// Its containers reach each other and nothing else.
    pub internal: bool,
    /// Containers that are not the cluster's may be on it.
    pub attachable: bool,
    /// What goes between nodes is not encrypted, although the fabric is.
    pub plain: bool,
}

/// A text that is empty for no stack, so that networks of stacks are written as they were before there were others.
mod stack_or_none {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::name::StackName;

    pub(super) fn serialize<S: Serializer>(stack: &Option<StackName>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(stack.as_ref().map_or("", StackName::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<StackName>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(D::Error::custom) }
    }
}

impl NetworkItem {
    /// Its name on the engines.
    pub fn engine_name(&self) -> String {
        match &self.stack {
            Some(stack) => format!("{stack}_{}", self.name),
            None => self.name.to_string(),
        }
    }

    /// The way that its packets go between nodes.
    pub fn lane(&self) -> Lane {
        if self.plain { Lane::Plain } else { Lane::Main }
    }

    /// The gateway, on every node; containers ask for names there.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) + 1)
    }

    /// Name of its bridge on every node, as long as a device's name may be.
    pub fn bridge(&self) -> String {
        format!("ru-{}", self.network)
    }

    /// The last 256 addresses: those of services.
    pub fn vips(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.subnet.broadcast(), VIP_PREFIX).trunc()
    }
}

/// Where a service is reached; its endpoints are items of their own, so that a change of one moves nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteItem {
    /// Its id.
    pub service: ServiceId,
    /// Its stack.
    pub stack: StackName,
    /// Its name in the stack.
    pub name: ServiceName,
    /// Where its names lead on each of its networks.
    pub networks: BTreeMap<NetworkId, ServiceAddress>,
    /// Ports that every node answers on.
    pub ports: Vec<PortSpec>,
    /// Which of its tasks gets a new connection.
    pub routing: Routing,
}

impl RouteItem {
    /// The items of the service with these endpoints.
    pub fn with(self, endpoints: impl IntoIterator<Item = Endpoint>) -> impl Iterator<Item = Item> {
        let service = self.service;
        let endpoints = endpoints.into_iter().map(move |endpoint| Item::Endpoint(service, endpoint));
        std::iter::once(Item::Route(self)).chain(endpoints)
    }
}

/// A service of a view with its endpoints.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    /// The service.
    pub item: &'a RouteItem,
    /// Its tasks that have an address, by slot, then id.
    pub endpoints: Vec<&'a Endpoint>,
}

impl std::ops::Deref for Route<'_> {
    type Target = RouteItem;

    fn deref(&self) -> &RouteItem {
        self.item
    }
}

/// A service on one of its networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// Virtual address that stands for all endpoints; none where names stand for the endpoints themselves.
    pub vip: Option<Ipv4Addr>,
    /// Names besides the service's own.
    pub aliases: Vec<String>,
}

/// A task that a service is reached at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The task.
    pub task: TaskId,
    /// Its slot, counted from 1; the node's number in a global service.
    pub slot: u64,
    /// The node that runs it.
    pub node: NodeId,
    /// Its address on each network; published ports lead to the first in the service's order.
    pub addresses: Vec<(NetworkId, Ipv4Addr)>,
    /// New connections may go there. One that is not ready keeps those it has.
    pub ready: bool,
    /// Ports of its own node that lead to it alone.
    pub host_ports: Vec<PortSpec>,
}

/// A task of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskItem {
    /// Its id.
    pub task: TaskId,
    /// Its service.
    pub service: ServiceId,
    /// The service's stack.
    pub stack: StackName,
    /// The service's name in the stack.
    pub name: ServiceName,
    /// Its slot, counted from 1; the node's number in a global service.
    pub slot: u64,
    /// Whether it should run.
    pub goal: Goal,
    /// Its container.
    #[serde(with = "crate::codec::spec")]
    pub container: ContainerSpec,
    /// The image with its digest where it was resolved at deploy, else as asked for.
    pub image: String,
    /// What it needs and may use.
    #[serde(with = "crate::codec::spec")]
    pub resources: Resources,
    /// Its networks, the primary one first, and its address on each.
    pub networks: Vec<(NetworkId, Ipv4Addr)>,
    /// Engine names of the stack's volumes that it mounts, by their key in the stack.
    pub volumes: BTreeMap<VolumeName, String>,
}

impl TaskItem {
    /// The container's name, as Swarm builds it: `shop_web.2.0f3k9a7b2c1d`.
    pub fn container_name(&self) -> String {
        format!("{}_{}.{}.{}", self.stack, self.name, self.slot, self.task)
    }
}

/// Whether a task should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// Start it and keep it.
    Run,
    /// Stop it within its grace period; keep the container until the task is forgotten.
    Stop,
}

/// All items of a node. Views that came of one another share what they have in common: a copy costs nothing, and what
/// differs is found without looking at the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The state that it was worked out from.
    pub generation: Revision,
    /// The items.
    pub items: OrdMap<Key, Arc<Item>>,
}

/// A change of a view, or all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewUpdate {
    /// The generation that it changes; none if it replaces the whole view.
    pub base: Option<Revision>,
    /// The generation afterwards.
    pub generation: Revision,
    /// Items that are new or changed.
    pub put: Vec<Item>,
    /// Keys that are gone.
    pub remove: Vec<Key>,
}

/// Buckets that the items of a view are divided into.
pub const BUCKETS: usize = 1 << u8::BITS;

/// What a view holds, in a few bytes: for each bucket of keys a sum over its items. A manager that is told a node's
/// digests sends the buckets that differ, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests(Vec<u64>);

impl Default for Digests {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Digests {
    /// Of a node that did not say what it holds: they differ from all others in every bucket.
    pub const UNKNOWN: Self = Self(Vec::new());

    /// Of these items. Cost: all of them are encoded.
    pub fn of<'a>(items: impl IntoIterator<Item = &'a Item>) -> Self {
        let mut digests = Self::default();
        items.into_iter().for_each(|item| digests.flip(DigestChange::of(item)));
        digests
    }

    /// Adds an item, or takes it away if it is in.
    pub fn flip(&mut self, change: DigestChange) {
        // One of another version may have sent fewer.
        if let Some(sum) = self.0.get_mut(usize::from(change.bucket)) {
            *sum ^= change.sum;
        }
    }

    /// The buckets that differ, in order.
    pub fn differing(&self, other: &Self) -> BTreeSet<u8> {
        let differs = |bucket: &u8| {
            let (one, other) = (self.0.get(usize::from(*bucket)), other.0.get(usize::from(*bucket)));
            one.is_none() || one != other
        };
        (0..=u8::MAX).filter(differs).collect()
    }
}

/// What an item that comes or goes changes of [`Digests`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestChange {
    bucket: u8,
    sum: u64,
}

impl DigestChange {
    /// Of this item.
    pub fn of(item: &Item) -> Self {
        use std::hash::Hasher;
        // Between programs that hash or encode differently all buckets differ, and all items are sent.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(&codec::encode(item, u64::MAX).unwrap_or_default());
        Self { bucket: item.key().bucket(), sum: hasher.finish() }
    }
}

/// A part of a view that replaces what a node holds, bucket by bucket. A node keeps parts as they come, so that the
/// next session goes on where one broke off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewPart {
    /// The generation that the view has once the last part has come.
    pub generation: Revision,
    /// Buckets with all of their items.
    pub buckets: Vec<(u8, Vec<Arc<Item>>)>,
    /// The view is whole with this one.
    pub last: bool,
}

/// A view that arrives in parts.
#[derive(Clone, Debug)]
pub struct Assembly {
    view: View,
    keys: BTreeMap<u8, Vec<Key>>,
}

impl Assembly {
    /// Begins with what is held. Cost: one pass over its keys.
    pub fn of(view: View) -> Self {
        let mut keys: BTreeMap<u8, Vec<Key>> = BTreeMap::new();
        for key in view.items.keys() {
            keys.entry(key.bucket()).or_default().push(*key);
        }
        Self { view, keys }
    }

    /// What has come so far, over what was held.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Takes in a part.
    pub fn take(&mut self, part: ViewPart) {
        for (bucket, items) in part.buckets {
            for key in self.keys.remove(&bucket).into_iter().flatten() {
                self.view.items.remove(&key);
            }
            self.keys.insert(bucket, items.iter().map(|item| item.key()).collect());
            self.view.items.extend(items.into_iter().map(|item| (item.key(), item)));
        }
        if part.last {
            self.view.generation = part.generation;
        }
    }

    /// The whole view, after its last part.
    pub fn into_view(self) -> View {
        self.view
    }
}

/// A view update that does not fit the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("update from generation {base} does not fit a view of generation {held}")]
pub struct Gap {
    /// What the update starts from.
    pub base: Revision,
    /// What is held.
    pub held: Revision,
}

impl View {
    /// A view of these items.
    pub fn of(generation: Revision, items: impl IntoIterator<Item = Item>) -> Self {
        let mut view = Self { generation, items: OrdMap::new() };
        items.into_iter().for_each(|item| view.put(item));
        view
    }

    /// Adds an item, or takes it in the place of the one with its key.
    pub fn put(&mut self, item: Item) {
        self.items.insert(item.key(), Arc::new(item));
    }

    /// Carries out an update. Errors: it starts from another generation, and nothing was changed.
    pub fn update(&mut self, update: ViewUpdate) -> Result<(), Gap> {
        match update.base {
            None => self.items.clear(),
            Some(base) if base == self.generation => {}
            Some(base) => {
                return Err(Gap { base, held: self.generation });
            }
        }
        for key in &update.remove {
            self.items.remove(key);
        }
        update.put.into_iter().for_each(|item| self.put(item));
        self.generation = update.generation;
        Ok(())
    }

    /// The nodes.
    pub fn peers(&self) -> impl Iterator<Item = &PeerItem> {
        self.all().filter_map(|item| if let Item::Peer(peer) = item { Some(peer) } else { None })
    }

    /// The networks.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkItem> {
        self.all().filter_map(|item| if let Item::Network(network) = item { Some(network) } else { None })
    }

    /// The ways between nodes that its networks need, in order.
    pub fn lanes(&self) -> Vec<Lane> {
        let needed = |lane: &Lane| *lane == Lane::Main || self.networks().any(|on| on.lane() == *lane);
        Lane::ALL.into_iter().filter(needed).collect()
    }

    /// The services and where they are reached.
    pub fn routes(&self) -> impl Iterator<Item = Route<'_>> {
        self.all().filter_map(|item| {
            let Item::Route(route) = item else { return None };
            Some(Route { item: route, endpoints: self.endpoints_of(route.service).collect() })
        })
    }

    /// The endpoints of all services.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.all()
            .filter_map(|item| if let Item::Endpoint(_, endpoint) = item { Some(endpoint) } else { None })
    }

    /// The endpoints of one service, by slot, then id.
    fn endpoints_of(&self, service: ServiceId) -> impl Iterator<Item = &Endpoint> {
        let items = self.items.range(Key::Endpoint(service, 0, TaskId::from_random(0))..);
        items.map_while(move |(_, item)| match &**item {
            Item::Endpoint(of, endpoint) if *of == service => Some(endpoint),
            Item::Cluster(_) | Item::Peer(_) | Item::Network(_) | Item::Route(_) | Item::Task(_) => None,
            Item::Endpoint(..) => None,
        })
    }

    /// The tasks of this node.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskItem> {
        self.all().filter_map(|item| if let Item::Task(task) = item { Some(&**task) } else { None })
    }

    fn all(&self) -> impl Iterator<Item = &Item> {
        self.items.values().map(|item| &**item)
    }

    /// The item under a key.
    pub fn get(&self, key: Key) -> Option<&Item> {
        self.items.get(&key).map(|item| &**item)
    }

    /// Addresses on internal networks of those tasks of this node that are on another network as well. Which of its
    /// gateways a container sends outward through is the engine's choice, so these may be the source of what leaves.
    pub fn outgoing(&self) -> BTreeSet<Ipv4Addr> {
        let internal: BTreeSet<NetworkId> =
            self.networks().filter(|network| network.internal).map(|network| network.network).collect();
        let shut_in = |(network, _): &&(NetworkId, Ipv4Addr)| internal.contains(network);
        let open = self.tasks().filter(|task| !task.networks.iter().all(|on| shut_in(&on)));
        open.flat_map(|task| task.networks.iter().filter(shut_in)).map(|(_, address)| *address).collect()
    }

    /// Addresses of those tasks of this node that are on several networks, each with all of the task's networks. They are
    /// here before the container starts; endpoints of routes come once it runs.
    pub fn on_several_networks(&self) -> BTreeMap<Ipv4Addr, Vec<NetworkId>> {
        let several = self.tasks().filter(|task| task.networks.len() > 1);
        let each = several.flat_map(|task| {
            let networks: Vec<NetworkId> = task.networks.iter().map(|(network, _)| *network).collect();
            task.networks.iter().map(move |(_, address)| (*address, networks.clone()))
        });
        each.collect()
    }

    /// The settings that all nodes share, once a manager has sent them.
    pub fn cluster(&self) -> Option<&ClusterItem> {
        if let Some(Item::Cluster(cluster)) = self.get(Key::Cluster) { Some(cluster) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_subnets() {
        let network = NetworkItem {
            network: NetworkId::from_random(36),
            stack: Some("shop".parse().unwrap()),
            name: "default".parse().unwrap(),
            subnet: "10.64.32.0/19".parse().unwrap(),
            internal: false,
            attachable: false,
            plain: false,
        };
        assert_eq!(network.gateway().to_string(), "10.64.32.1");
        assert_eq!(network.vips().to_string(), "10.64.63.0/24");
        assert_eq!(network.bridge(), "ru-000000000010");
        let cluster = ClusterItem { pool: "10.64.0.0/11".parse().unwrap(), fabric: FabricMode::Wireguard };
        assert_eq!(cluster.fabric().to_string(), "10.64.0.0/19");
    }

    fn endpoint(service: u64, task: u64, slot: u64, ready: bool) -> Item {
        let endpoint = Endpoint {
            task: TaskId::from_random(task),
            slot,
            node: NodeId::new(1),
            addresses: Vec::new(),
            ready,
            host_ports: Vec::new(),
        };
        Item::Endpoint(ServiceId::from_random(service), endpoint)
    }

    #[test]
    fn endpoints_belong_to_their_service_in_the_order_of_slots() {
        let route = |number| RouteItem {
            service: ServiceId::from_random(number),
            stack: "shop".parse().unwrap(),
            name: "web".parse().unwrap(),
            networks: BTreeMap::new(),
            ports: Vec::new(),
            routing: Routing::default(),
        };
        let ends = [endpoint(1, 9, 1, true), endpoint(1, 2, 3, true), endpoint(1, 8, 2, false)];
        let others = [endpoint(2, 7, u64::MAX, true), Item::Route(route(1)), Item::Route(route(2))];
        // One whose service is not there (yet) is of no service.
        let view = View::of(Revision(1), ends.into_iter().chain(others).chain([endpoint(3, 1, 1, true)]));
        let slots = |route: Route<'_>| route.endpoints.iter().map(|end| end.slot).collect::<Vec<_>>();
        assert_eq!(view.routes().map(slots).collect::<Vec<_>>(), [vec![1, 2, 3], vec![u64::MAX]]);
        assert_eq!(view.endpoints().count(), 5);
    }

    #[test]
    fn digests_tell_which_buckets_differ() {
        let items: Vec<_> = (1..2000).map(|task| endpoint(1, task, task, true)).collect();
        let all = Digests::of(&items);
        assert!(all.differing(&all).is_empty());
        assert_eq!(all.differing(&Digests::default()).len(), BUCKETS, "items are spread over all buckets");
        // Two items that swap what they say are two differences, not none.
        let mut swapped = all.clone();
        for (task, ready) in [(5, false), (6, false)] {
            swapped.flip(DigestChange::of(&endpoint(1, task, task, !ready)));
            swapped.flip(DigestChange::of(&endpoint(1, task, task, ready)));
        }
        let differing = all.differing(&swapped);
        let buckets = [5, 6].map(|task| endpoint(1, task, task, true).key().bucket());
        assert_eq!(differing, buckets.into());
        // Of a version with another number of buckets.
        assert_eq!(all.differing(&Digests(Vec::new())).len(), BUCKETS);
    }

    #[test]
    fn parts_replace_whole_buckets() {
        let held = View::of(Revision(3), (1..500).map(|task| endpoint(1, task, task, true)));
        let wanted = View::of(Revision(9), (100..700).map(|task| endpoint(1, task, task, task % 7 > 0)));
        let of = |view: &View| Digests::of(view.items.values().map(|item| &**item));
        let mut assembly = Assembly::of(held.clone());
        let buckets = of(&wanted).differing(&of(&held));
        for (index, bucket) in buckets.iter().enumerate() {
            let items =
                wanted.items.values().filter(|item| item.key().bucket() == *bucket).cloned().collect();
            let part = ViewPart {
                generation: Revision(9),
                buckets: vec![(*bucket, items)],
                last: index + 1 == buckets.len(),
            };
            // The same part twice does no harm.
            assembly.take(ViewPart { last: false, ..part.clone() });
            assembly.take(part);
            assert_eq!(of(&wanted).differing(&of(assembly.view())).len(), buckets.len() - index - 1);
        }
        assert_eq!(assembly.into_view(), wanted);
    }
}
