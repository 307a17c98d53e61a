//! The engine's networks for the cluster's networks that tasks of this node are on.
//!
//! Owns: making and removing them. Leaves alone: links, routes and rules (`routes`), networks without our label.
//! Holds: one engine network for a network of the cluster, whoever asks; a network is removed once the cluster has
//! none of its id and no container is on it. One that an older engine made, and that this engine closes to other hosts,
//! is made anew as soon as no container is on it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::Ipv4Net;
use raftup_proto::{
    id::{ClusterId, NetworkId, NodeId},
    peer::Platform,
    view::{Lane, NetworkItem, View},
};
use tokio::{
    sync::{OnceCell, watch},
    time::Instant,
};

use crate::engine::{Engine, EngineError, Network, NetworkSettings, labels};

/// The engine's networks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Networks {
    engine: Arc<dyn Engine>,
    cluster: ClusterId,
    node: NodeId,
    view: watch::Receiver<Arc<View>>,
    mtu: watch::Receiver<BTreeMap<Lane, u32>>,
    platform: watch::Receiver<Platform>,
    known: Arc<Mutex<Known>>,
    /// Networks that the engine would not remove, by name, and since when.
    held: Arc<Mutex<BTreeMap<String, Instant>>>,
}

/// The engine's ids of networks that are there.
#[derive(Default)]
struct Known {
    /// Of the engine that they were looked up at.
    version: Option<String>,
    ids: BTreeMap<NetworkId, Arc<OnceCell<String>>>,
}

impl Networks {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        (cluster, node): (ClusterId, NodeId),
        view: watch::Receiver<Arc<View>>,
        mtu: watch::Receiver<BTreeMap<Lane, u32>>,
        platform: watch::Receiver<Platform>,
    ) -> Self {
        Self { engine, cluster, node, view, mtu, platform, known: Arc::default(), held: Arc::default() }
    }

    /// The engine's id of a network, which is made if it is not there; waits until the packet size is known.
    pub(super) async fn ensure(&self, item: &NetworkItem) -> Result<String, EngineError> {
        let version = self.platform.borrow().engine.clone();
        let cell = self.lock().of(version, item.network);
        cell.get_or_try_init(|| self.make(item)).await.cloned()
    }

    /// The engine's id of a network, if it was asked for before.
    pub(super) fn known(&self, network: NetworkId) -> Option<String> {
        self.lock().ids.get(&network).and_then(|cell| cell.get().cloned())
    }

    /// Forgets what is there, because the engine says otherwise.
    pub(super) fn forget(&self, network: NetworkId) {
        self.lock().ids.remove(&network);
    }

    /// Removes networks that the cluster does not have any more; whether all could be. `view` must be fresh.
    pub(super) async fn sweep(&self, view: &View) -> Result<bool, EngineError> {
        let mut all = true;
        let all_networks = self.engine.networks().await?;
        // Somebody may have removed one by hand.
        self.lock_held().retain(|name, _| all_networks.iter().any(|network| network.name == *name));
        for network in all_networks {
            let Some((cluster, id)) = network.of else { continue };
            if cluster != self.cluster || view.networks().any(|item| item.network == id) {
                continue;
            }
            self.forget(id);
            all &= self.remove(&network).await?;
        }
        Ok(all)
    }

    /// Networks that the engine does not let go though the cluster has them no more, one line each. Their addresses cannot
    /// be used by another network on this host.
    pub(super) fn problems(&self) -> Vec<String> {
        let held = self.lock_held();
        let long = held.iter().filter(|(_, since)| since.elapsed() >= HELD_LONG);
        long.map(|(name, _)| {
            format!(
                "Docker Engine still holds network `{name}`, which the cluster has removed: a network with the same \
                 addresses cannot be made here until `docker network rm {name}` or a restart of the engine frees it"
            )
        })
        .collect()
    }

    fn lock_held(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes all networks of the cluster; whether all could be.
    pub(super) async fn remove_all(&self) -> Result<bool, EngineError> {
        self.lock().ids.clear();
        let mut all = true;
        for network in self.engine.networks().await? {
            if network.of.is_some_and(|(cluster, _)| cluster == self.cluster) {
                all &= self.remove(&network).await?;
            }
        }
        Ok(all)
    }

    /// Whether it could be removed: not while a container is on it, or the engine thinks so.
    async fn remove(&self, network: &Network) -> Result<bool, EngineError> {
        match self.engine.remove_network(&network.id).await {
            Ok(()) => {
                self.lock_held().remove(&network.name);
                tracing::info!(network = network.name, "network removed");
            }
            Err(error) if error.is_down() => return Err(error),
            Err(error) => {
                self.lock_held().entry(network.name.clone()).or_insert_with(Instant::now);
                tracing::debug!(network = network.name, %error, "network stays for now");
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn make(&self, item: &NetworkItem) -> Result<String, EngineError> {
        let networks = self.engine.networks().await?;
        let ours = Some((self.cluster, item.network));
        if let Some(found) = networks.iter().find(|network| network.of == ours) {
            if !found.outdated || !self.remove(found).await? {
                return Ok(found.id.clone());
            }
            tracing::info!(network = found.name, "made by an older engine; it is made anew");
        }
        let plain = item.engine_name();
        let taken = networks.iter().any(|network| network.name == plain && network.of != ours);
        let name = if taken { format!("{plain}_{}", item.network) } else { plain };
        let mtu = self.mtu(item.lane()).await;
        let settings = NetworkSettings {
            labels: labels::of_network(self.cluster, item),
            bridge: item.bridge(),
            subnet: item.subnet,
            range: self.range(item),
            gateway: item.gateway(),
            name,
            mtu,
        };
        let id = self.engine.create_network(&settings).await.map_err(explained)?;
        tracing::info!(network = settings.name, subnet = %settings.subnet, "network made");
        Ok(id)
    }

    /// What the engine gives to containers that are not the cluster's: this node's block for them, or nothing. The
    /// gateway's address is taken, so that the engine says it has no more.
    fn range(&self, item: &NetworkItem) -> Ipv4Net {
        let view = self.view.borrow();
        let me = view.peers().find(|peer| peer.node == self.node);
        let mut blocks = me.into_iter().flat_map(|me| &me.attached);
        let block = blocks.find(|block| item.attachable && item.subnet.contains(*block));
        block.copied().unwrap_or_else(|| item.gateway().into())
    }

    /// The largest packet between nodes; known once the lane is there.
    async fn mtu(&self, lane: Lane) -> u16 {
        let mut mtu = self.mtu.clone();
        let known = mtu.wait_for(|known| known.contains_key(&lane)).await;
        known
            .ok()
            .and_then(|known| known.get(&lane).copied())
            .and_then(|mtu| u16::try_from(mtu).ok())
            .unwrap_or(LEAST_MTU)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Where a network's id is kept. An engine of another version is asked anew; none means that it does not answer now.
    fn of(&mut self, version: Option<String>, network: NetworkId) -> Arc<OnceCell<String>> {
        if version.is_some() && self.version != version {
            self.ids.clear();
            self.version = version;
        }
        self.ids.entry(network).or_default().clone()
    }
}

/// Adds what to do where the engine cannot say it: whoever flushes all rules, as a firewall does that is started, takes the
/// engine's own chains away, and only its start makes them anew.
fn explained(error: EngineError) -> EngineError {
    if let EngineError::Refused { message } = &error
        && lacks_a_chain(message)
    {
        let next =
            "someone has removed Docker's own firewall rules; `systemctl restart docker` makes them anew";
        return EngineError::Refused { message: format!("{next} ({message})") };
    }
    error
}

/// In the words of `iptables` on nftables, and of the older one.
fn lacks_a_chain(message: &str) -> bool {
    let missing = ["Chain 'DOCKER", "No chain/target/match by that name"];
    message.contains("iptables") && missing.iter().any(|words| message.contains(words))
}

/// An engine that holds a network for longer than this does so until somebody does something.
const HELD_LONG: Duration = Duration::from_secs(30);

/// Packets of this size pass every link (IPv6's minimum); used where the fabric never said.
const LEAST_MTU: u16 = 1280;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_whose_rules_were_flushed_is_to_be_restarted() {
        let of = |message: &str| explained(EngineError::Refused { message: message.to_owned() }).to_string();
        let nft = "Failed to program NAT chain: Failed to inject DOCKER in PREROUTING chain: iptables failed: iptables --wait \
            -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER: iptables v1.8.9 (nf_tables): Chain 'DOCKER' does not \
            exist";
        let old = "Failed to Setup IP tables: iptables failed: iptables: No chain/target/match by that name.";
        for message in [nft, old] {
            let told = of(message);
            assert!(told.contains("`systemctl restart docker`") && told.contains(message), "{told}");
        }
        assert_eq!(of("Pool overlaps with other one"), "Pool overlaps with other one");
    }
}
