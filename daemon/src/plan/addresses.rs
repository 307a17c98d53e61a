//! How the pool is cut: fabric, networks, blocks of nodes, addresses of tasks, VIPs.
//!
//! ```text
//! pool /11 ─┬─ first /19: fabric, a node has an address k below 4095, and 4096 + k inside of the encrypted links
//!           └─ each further /19: one network ─┬─ /26 blocks, each home to one node, from the lowest; .1 is the gateway
//!                                             └─ last /24: VIPs of services
//! ```
//!
//! Of an attachable network, each node has one block more, which its engine gives addresses from.
//!
//! Owns: the cut. Leaves alone: who needs what. Holds: nothing is given twice while it is in use; lowest first, except
//! that an address whose last task is still remembered is given again only when no other is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;
use raftup_proto::{
    id::{NetworkId, NodeId},
    view::{BLOCK_PREFIX, SUBNET_PREFIX, VIP_PREFIX},
};

use crate::model::{Cluster, Network, Node};

use super::World;

/// What has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// The pool has no subnet left.
    #[error("the address pool {0} has no free subnet left")]
    Pool(Ipv4Net),
    /// The pool has no address left for a node.
    #[error("the address pool {0} has no free address left for a node")]
    Nodes(Ipv4Net),
    /// The network has no block left for a node.
    #[error("its addresses ({0}) are all given to nodes")]
    Blocks(Ipv4Net),
    /// The network has no VIP left.
    #[error("its virtual addresses ({0}) are all in use")]
    Vips(Ipv4Net),
}

/// Whether a pool is large enough to be cut: the fabric and one network at least.
pub fn pool_fits(pool: Ipv4Net) -> bool {
    pool.prefix_len() < SUBNET_PREFIX
}

/// Addresses on the fabric. The second half of its subnet are the ends of the encrypted links; the last one is the
/// broadcast address.
const HOSTS: u32 = (1 << (32 - SUBNET_PREFIX - 1)) - 2;

/// An address on the fabric for a new node that no node of the cluster has: the one that follows from the node's id, or
/// the next free one after it. Ids are never used twice and count upwards, so the address of a removed node is given
/// again as late as possible. Errors: every address is in use. Cost: one pass over nodes.
pub fn fabric(cluster: &Cluster, pool: Ipv4Net, node: NodeId) -> Result<Ipv4Addr, Exhausted> {
    let taken: BTreeSet<Ipv4Addr> = cluster.nodes.values().map(|node| node.fabric).collect();
    let start = (node.number().max(1) - 1) % u64::from(HOSTS);
    let start = u32::try_from(start).unwrap_or_default();
    let address = |step: u32| Ipv4Addr::from(first(pool) + 1 + (start + step) % HOSTS);
    (0..HOSTS).map(address).find(|address| !taken.contains(address)).ok_or(Exhausted::Nodes(pool))
}

/// The lowest subnet of the pool that is not in `taken`. Errors: there is none.
pub fn subnet(pool: Ipv4Net, taken: &BTreeSet<Ipv4Net>) -> Result<Ipv4Net, Exhausted> {
    parts(pool, SUBNET_PREFIX).skip(1).find(|net| !taken.contains(net)).ok_or(Exhausted::Pool(pool))
}

/// The lowest VIP of the subnet that is not in `taken`. Errors: there is none.
pub fn vip(subnet: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, Exhausted> {
    let vips = vips(subnet);
    vips.hosts().find(|vip| !taken.contains(vip)).ok_or(Exhausted::Vips(vips))
}

/// The part of the subnet that VIPs come from.
pub fn vips(subnet: Ipv4Net) -> Ipv4Net {
    part(first(subnet) + size(subnet.prefix_len()) - size(VIP_PREFIX), VIP_PREFIX)
}

/// The lowest block of the network that no node has, nor is still routed to one that had it. Errors: there is none.
/// Cost: by the blocks that nodes have of the network.
pub(super) fn block(world: &World, network: &Network) -> Result<Ipv4Net, Exhausted> {
    let taken = world.blocks_of(network.id).map(|(block, _)| block).chain(network.returning.iter().copied());
    free_blocks(network.subnet, taken.collect()).next().ok_or(Exhausted::Blocks(network.subnet))
}

/// The blocks of a subnet that are not in `taken`, from the lowest.
fn free_blocks(subnet: Ipv4Net, taken: BTreeSet<Ipv4Net>) -> impl Iterator<Item = Ipv4Net> {
    let vips = first(vips(subnet));
    let blocks = parts(subnet, BLOCK_PREFIX).take_while(move |block| first(*block) < vips);
    blocks.filter(move |block| !taken.contains(block))
}

/// The blocks of tasks' addresses that nodes have of the network though no task there has an address of them, with the
/// nodes. Cost: by the blocks that nodes have of the network.
pub(super) fn unused_blocks(world: &World, network: &Network) -> Vec<(Ipv4Net, NodeId)> {
    let unused = world.blocks_of(network.id).filter(|(block, id)| {
        let node = world.cluster().nodes.get(id);
        let for_tasks = node.is_some_and(|node| node.attached.get(&network.id) != Some(block));
        for_tasks && !is_held(world, network.id, *block)
    });
    unused.collect()
}

/// A task that is not seen to have ended has an address out of `part` of the network.
pub(super) fn is_held(world: &World, network: NetworkId, part: Ipv4Net) -> bool {
    world.addresses_in(network, part.network()..=part.broadcast()).any(|(_, over)| !over)
}

/// A block of a new network for each of the nodes, whose engines give addresses of it to containers that are not the
/// cluster's. Errors: there are more nodes than blocks.
pub fn attach(
    nodes: &mut BTreeMap<NodeId, Node>,
    network: NetworkId,
    subnet: Ipv4Net,
) -> Result<(), Exhausted> {
    let mut blocks = free_blocks(subnet, BTreeSet::new());
    for node in nodes.values_mut() {
        node.attached.insert(network, blocks.next().ok_or(Exhausted::Blocks(subnet))?);
    }
    Ok(())
}

/// The same for a new node, of each network that has a block left. Where there is none, its engine attaches nobody.
/// Cost: one pass over nodes for each attachable network.
pub fn attached(cluster: &Cluster) -> BTreeMap<NetworkId, Ipv4Net> {
    let networks = cluster.networks.values().filter(|network| network.spec.attachable);
    let block = |network: &Arc<Network>| {
        let of = |node: &Arc<Node>| {
            let blocks = node.blocks.get(&network.id).into_iter().flatten();
            blocks.chain(node.attached.get(&network.id)).copied().collect::<Vec<_>>()
        };
        let taken = cluster.nodes.values().flat_map(of).chain(network.returning.iter().copied());
        free_blocks(network.subnet, taken.collect()).next()
    };
    networks.filter_map(|network| Some((network.id, block(network)?))).collect()
}

/// A free address of the network out of `blocks`; none if they are full. Cost: by the addresses of the blocks.
pub(super) fn address(
    world: &World,
    network: NetworkId,
    subnet: Ipv4Net,
    blocks: &[Ipv4Net],
) -> Option<Ipv4Addr> {
    let gateway = Ipv4Addr::from(first(subnet) + 1);
    let mut lowest = None;
    for block in blocks {
        let mut taken = world.addresses_in(network, block.network()..=block.broadcast()).peekable();
        for address in (first(*block)..first(*block) + size(BLOCK_PREFIX)).map(Ipv4Addr::from) {
            let (mut held, mut remembered) = (address <= gateway, false);
            while let Some((_, over)) = taken.next_if(|(next, _)| *next == address) {
                held |= !over;
                remembered |= over;
            }
            if !held && !remembered {
                return Some(address);
            }
            if !held {
                lowest = lowest.or(Some(address));
            }
        }
    }
    lowest
}

fn first(net: Ipv4Net) -> u32 {
    u32::from(net.network())
}

fn size(prefix: u8) -> u32 {
    1 << (32 - u32::from(prefix))
}

fn part(start: u32, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(start), prefix)
}

fn parts(net: Ipv4Net, prefix: u8) -> impl Iterator<Item = Ipv4Net> {
    let count = if net.prefix_len() > prefix { 0 } else { 1 << (prefix - net.prefix_len()) };
    (0..count).map(move |index| part(first(net) + index * size(prefix), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_pool_is_cut_as_drawn() {
        let pool = net("10.64.0.0/11");
        let fabric = |number| fabric(&Cluster::default(), pool, NodeId::new(number));
        assert_eq!(fabric(3), Ok(Ipv4Addr::new(10, 64, 0, 3)));
        assert_eq!(fabric(4094), Ok(Ipv4Addr::new(10, 64, 15, 254)));
        assert_eq!(fabric(4095), Ok(Ipv4Addr::new(10, 64, 0, 1)), "removed nodes had the ones before");
        let shop = subnet(pool, &BTreeSet::new()).unwrap();
        assert_eq!(shop, net("10.64.32.0/19"));
        assert_eq!(subnet(pool, &[shop].into()), Ok(net("10.64.64.0/19")));
        assert_eq!(vips(shop), net("10.64.63.0/24"));
        assert_eq!(vip(shop, &[Ipv4Addr::new(10, 64, 63, 1)].into()), Ok(Ipv4Addr::new(10, 64, 63, 2)));
        assert_eq!(
            parts(shop, BLOCK_PREFIX).take_while(|block| first(*block) < first(vips(shop))).count(),
            124
        );
    }

    #[test]
    fn a_small_pool_runs_out() {
        let pool = net("10.0.0.0/18");
        assert!(pool_fits(pool) && !pool_fits(net("10.0.0.0/19")));
        let only = subnet(pool, &BTreeSet::new()).unwrap();
        assert_eq!(only, net("10.0.32.0/19"));
        assert_eq!(
            subnet(pool, &[only].into()).unwrap_err().to_string(),
            "the address pool 10.0.0.0/18 has no free subnet left"
        );
        assert_eq!(vip(only, &vips(only).hosts().collect()), Err(Exhausted::Vips(vips(only))));
    }
}
