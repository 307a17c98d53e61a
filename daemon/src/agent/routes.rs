//! Brings links, rules and names of this node to what the view says.
//!
//! Owns: the order in which they change, and the word that a generation is in force. Leaves alone: containers and the
//! engine's networks. Woken by a new view, by a word that others may have changed things, and by a failure of its own.
//! Holds: what is in force stays when this loop ends, and when another process begins until a leader was heard; a
//! generation is reported only after all of it is in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use ipnet::Ipv4Net;
use raftup_proto::{
    api::FabricMode,
    id::NodeId,
    peer::{DeafTo, NodeInfo},
    unit::UnixMillis,
    view::{ClusterItem, Lane, PeerItem, Revision, View},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tracing::{debug, info, warn};

use super::reach::is_heard;
use crate::{
    dns::Resolver,
    fabric::{
        self, Fabric, Wiring,
        bridges::{Bridges, passes_through_rules},
        wire::{Keys, LinkStatus, TunnelSpec, Wire},
    },
    gossip::{Sightings, key},
    mesh::{self, Changed, Mesh, Table},
};

/// First wait after a failure; each further one doubles it.
const RETRY: Duration = Duration::from_millis(250);

/// Pause before what someone else has changed is put back: they are often not done yet.
const CALM: Duration = Duration::from_millis(300);

/// Longest wait after failures.
const RETRY_MOST: Duration = Duration::from_secs(15);

/// Wait until what only an operator can mend is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How often links between nodes are looked at. One that was silent twice in a row is told of.
const LINKS: Duration = Duration::from_secs(10);

/// What the loop needs.
#[derive(Debug)]
pub struct RoutesConfig {
    /// This node.
    pub node: NodeId,
    /// Its view.
    pub view: watch::Receiver<Arc<View>>,
    /// Whether the view is a leader's, and not one that was saved.
    pub fresh: watch::Receiver<bool>,
    /// Nodes that cannot be reached from here now.
    pub unreachable: watch::Receiver<BTreeSet<NodeId>>,
    /// What is known of the other nodes; where they say that they are is looked at.
    pub gossip: watch::Receiver<Arc<Sightings>>,
    /// Its keys of the encrypted links.
    pub keys: watch::Receiver<Keys>,
    /// Directory of the daemon's sockets; the tunnel's is there too.
    pub run_dir: PathBuf,
    /// What the node says of itself; published ports that it does not answer on are put there.
    pub info: watch::Sender<NodeInfo>,
    /// Told each generation that is in force.
    pub applied: watch::Sender<Revision>,
}

/// Handle of the loop. Dropping it ends the loop; what is in force stays.
#[derive(Debug)]
pub struct Routes {
    again: Arc<Notify>,
    problems: watch::Receiver<Vec<String>>,
    mtu: watch::Receiver<BTreeMap<Lane, u32>>,
    task: JoinHandle<()>,
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Routes {
    /// Starts the loop; the view that is there is applied first. Errors: the kernel cannot be reached over netlink.
    pub fn start(config: RoutesConfig) -> anyhow::Result<Self> {
        let again = Arc::new(Notify::new());
        let (problems, problems_now) = watch::channel(Vec::new());
        let (mtu, mtu_now) = watch::channel(BTreeMap::new());
        let bridges = Bridges::start().context("following the host's links")?;
        let ways = fabric::Guard::start().context("following the host's routes")?;
        let rules = mesh::Guard::start().context("following the host's rules")?;
        let applier = Applier {
            node: config.node,
            unreachable: config.unreachable,
            gossip: config.gossip,
            hints: BTreeMap::new(),
            wire: Wire::new(&config.run_dir),
            keys: config.keys,
            fabric: Fabric::open().context("setting up links between nodes")?,
            mesh: Mesh::default(),
            ways,
            rules,
            names: Resolver::new(&config.run_dir),
            problems,
            info: config.info,
            found: Vec::new(),
            silent: BTreeMap::new(),
            mtu,
        };
        let task =
            tokio::spawn(applier.run(config.view, config.fresh, config.applied, Arc::clone(&again), bridges));
        Ok(Self { again, problems: problems_now, mtu: mtu_now, task })
    }

    /// Others may have changed what is in force: the engine was restarted, a firewall was reloaded. Looks at all of it.
    pub fn reapply(&self) {
        self.again.notify_one();
    }

    /// What an operator of this node should know, one line a matter: a port that is taken, a tool that is missing.
    pub fn problems(&self) -> watch::Receiver<Vec<String>> {
        self.problems.clone()
    }

    /// Largest packet of a container on the networks of each lane to other nodes that is up. Networks need it when they
    /// are made.
    pub fn mtu(&self) -> watch::Receiver<BTreeMap<Lane, u32>> {
        self.mtu.clone()
    }
}

/// Takes everything away that a loop of this or an earlier process has put into the kernel.
pub async fn remove_all(run_dir: &Path) -> anyhow::Result<()> {
    let rules = Mesh::default().remove_all().await.context("removing rules");
    let links = async { Fabric::open()?.remove_all().await }.await.context("removing links");
    Wire::new(run_dir).stop().await;
    Resolver::new(run_dir).stop().await;
    rules.and(links)
}

/// What to say where the kernel cannot pass bridged packets through our rules.
fn unfiltered() -> Option<String> {
    let problem = "kernel module `br_netfilter` is missing: virtual addresses of tasks on the same node do not answer; \
        `modprobe br_netfilter`, and name it in /etc/modules-load.d/raftup.conf";
    (!passes_through_rules()).then(|| problem.to_owned())
}

/// What to say where this node has no place in a plain fabric: no operator could ask for that, but addresses change.
fn over_ipv6(cluster: &ClusterItem, me: &PeerItem) -> Option<String> {
    let alone = cluster.fabric == FabricMode::Plain && me.underlay.is_ipv6();
    alone.then(|| format!("a plain fabric takes IPv4 between nodes, and this one is at {}", me.underlay))
}

struct Applier {
    node: NodeId,
    unreachable: watch::Receiver<BTreeSet<NodeId>>,
    gossip: watch::Receiver<Arc<Sightings>>,
    /// Where the other nodes say that their fabric is.
    hints: BTreeMap<NodeId, SocketAddr>,
    wire: Wire,
    keys: watch::Receiver<Keys>,
    fabric: Fabric,
    mesh: Mesh,
    ways: fabric::Guard,
    rules: mesh::Guard,
    names: Resolver,
    problems: watch::Sender<Vec<String>>,
    info: watch::Sender<NodeInfo>,
    /// What was wrong when the view was last applied.
    found: Vec<String>,
    /// Nodes whose links were silent when they were last looked at, and what to say if they are again.
    silent: BTreeMap<NodeId, String>,
    mtu: watch::Sender<BTreeMap<Lane, u32>>,
}

impl Applier {
    async fn run(
        mut self,
        mut view: watch::Receiver<Arc<View>>,
        mut fresh: watch::Receiver<bool>,
        applied: watch::Sender<Revision>,
        again: Arc<Notify>,
        _bridges: Bridges,
    ) {
        let mut failures = 0;
        // What an earlier process has put in force may be newer than the view that it saved.
        let saved = view.borrow().generation;
        let mut waits_for_leader = !*fresh.borrow_and_update() && Mesh::has_in_force(saved).await;
        let mut unreachable = self.unreachable.clone();
        let unheard = Mesh::stands_unheard().await;
        let (mut look, mut ports) = (interval(LINKS), interval(LOOK_AGAIN));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = Arc::clone(&view.borrow_and_update());
            unreachable.mark_unchanged();
            self.hear_hints();
            let done = if waits_for_leader { self.take_over(&now).await } else { self.apply(&now).await };
            self.ways.settle();
            self.rules.settle();
            let wait = match done {
                Ok(done) => {
                    failures = 0;
                    if done {
                        applied.send_replace(now.generation);
                    }
                    // Nobody tells when another program lets go of an address.
                    (!self.found.is_empty()).then_some(LOOK_AGAIN)
                }
                Err(error) => {
                    failures += 1;
                    warn!(generation = %now.generation, failures, error = format!("{error:#}"), "routing state is not in force");
                    self.found = vec![format!("routing state is not in force: {error:#}")];
                    self.tell(Vec::new());
                    self.forget();
                    Some(RETRY.saturating_mul(1 << failures.min(10)).min(RETRY_MOST))
                }
            };
            // Each branch only waits, so nothing is lost with the one that is dropped.
            loop {
                tokio::select! {
                    _ = look.tick(), if failures == 0 => {
                        self.look_at_links(&now).await;
                        if !unheard || !self.rules_are_amiss(Changed::Docker).await { continue }
                        self.forget();
                    }
                    // Nobody tells when another program lets go of a port, either.
                    _ = ports.tick(), if failures == 0 => if !self.mesh.look_again().await { continue },
                    changed = view.changed() => if changed.is_err() { return },
                    // Nobody changes keys any more: the view still does.
                    Ok(()) = self.keys.changed() => {}
                    () = self.wire.gone() => {}
                    () = self.names.gone() => {}
                    Ok(()) = unreachable.changed() => {}
                    Ok(()) = self.gossip.changed() => if !self.hear_hints() || waits_for_leader { continue },
                    Ok(()) = fresh.changed(), if waits_for_leader => waits_for_leader = false,
                    changed = self.rules.disturbed() => {
                        if !self.rules_are_amiss(changed).await { continue }
                        waits_for_leader = false;
                        self.forget();
                    }
                    () = self.ways.disturbed(self.fabric.indices()) => {
                        warn!("someone else has removed links or routes of ours; they are put back");
                        waits_for_leader = false;
                        sleep(CALM).await;
                        self.forget();
                    }
                    () = again.notified() => {
                        // Someone took away what was there.
                        waits_for_leader = false;
                        self.forget();
                    }
                    () = async { sleep(wait.unwrap_or_default()).await }, if wait.is_some() => {}
                }
                break;
            }
        }
    }

    /// Whether our rules have to be made anew. What is missing in Docker's chains is put back at once.
    async fn rules_are_amiss(&mut self, mut changed: Changed) -> bool {
        let calm = Instant::now() + CALM;
        while let Ok(more) = timeout_at(calm, self.rules.disturbed()).await {
            changed = changed.max(more);
        }
        let missing = match changed {
            Changed::Ours => Ok(true),
            Changed::Docker => self.mesh.stand_in_docker().await,
        };
        if missing.as_ref().is_ok_and(|missing| !missing) {
            debug!("Docker's rules were changed; all that ours need is there");
            return false;
        }
        warn!("someone else has changed rules of ours; they are put back");
        changed == Changed::Ours || missing.is_err()
    }

    fn forget(&mut self) {
        self.fabric.forget();
        self.mesh.forget();
    }

    /// Leaves all as it was found. Nothing is in force by this.
    async fn take_over(&mut self, view: &Arc<View>) -> anyhow::Result<bool> {
        if let (Some(me), Some(cluster)) = (&self.me(view), view.cluster()) {
            if cluster.fabric == FabricMode::Wireguard {
                let (spec, now) = self.tunnel(view, me);
                self.wire.begin(&spec, now).await?;
            }
            let wirings = self.fabric.wirings(view, cluster, me).await?;
            self.tell_mtu(&wirings);
            // Sockets are this process's own: there are none of the earlier one.
            let end = wirings.iter().find_map(Wiring::plain_end);
            let mut problems = self.mesh.hold(&Table::of(view, cluster, me, end, &BTreeSet::new())).await;
            problems.extend(self.names.begin(view, cluster.pool, gateways(view, me)).await?);
            self.found = problems;
            self.tell(Vec::new());
            info!(generation = %view.generation, "routing state of an earlier process is in force until a leader is heard");
        }
        Ok(false)
    }

    /// Answers whether there is anything to apply yet.
    async fn apply(&mut self, view: &Arc<View>) -> anyhow::Result<bool> {
        let (Some(me), Some(cluster)) = (&self.me(view), view.cluster()) else {
            debug!(generation = %view.generation, "the view does not name this node yet");
            return Ok(false);
        };
        let begun = Instant::now();
        // Ways first, then who is sent along them, then the names that lead there.
        if cluster.fabric == FabricMode::Wireguard {
            let (spec, now) = self.tunnel(view, me);
            self.wire.set(&spec, now).await?;
        }
        let wirings = self.fabric.wirings(view, cluster, me).await?;
        let refused = self.fabric.apply(&wirings).await?;
        self.tell_mtu(&wirings);
        let unreachable = self.unreachable.borrow().clone();
        let end = wirings.iter().find_map(Wiring::plain_end);
        let mut problems = self.mesh.apply(Table::of(view, cluster, me, end, &unreachable)).await?;
        problems.extend(unfiltered());
        problems.extend(over_ipv6(cluster, me));
        problems.extend(self.names.set(view, cluster.pool, gateways(view, me)).await?);
        problems.extend(refused);
        problems.extend(cut_off(view, &unreachable, &self.gossip.borrow()));
        self.found = problems;
        self.tell(Vec::new());
        let took_ms = begun.elapsed().as_millis() as u64;
        info!(generation = %view.generation, took_ms, "routing state is in force");
        Ok(true)
    }

    /// This node, with the address that it has now: the leader may not have heard of it yet.
    fn me(&self, view: &View) -> Option<PeerItem> {
        let me = view.peers().find(|peer| peer.node == self.node)?;
        Some(PeerItem { underlay: self.info.borrow().underlay, ..me.clone() })
    }

    /// Whether a node says that it is elsewhere.
    fn hear_hints(&mut self) -> bool {
        let hints = hints(&self.gossip.borrow_and_update());
        std::mem::replace(&mut self.hints, hints) != self.hints
    }

    /// What the tunnel should be now.
    fn tunnel(&mut self, view: &View, me: &PeerItem) -> (TunnelSpec, UnixMillis) {
        let now = super::now();
        let keys = self.keys.borrow_and_update();
        (TunnelSpec::of(view, me, &self.hints, keys.private(), keys.alone(now)), now)
    }

    /// Finds nodes that should be there, and whose packets do not come: a firewall between the hosts, above all.
    async fn look_at_links(&mut self, view: &View) {
        let links = match self.wire.status(super::now()).await {
            Ok(links) => links,
            // The next view, or the end of the tunnel, is a reason to start it anew.
            Err(error) => return debug!(%error, "links between nodes cannot be looked at"),
        };
        let silent = |link: &LinkStatus| {
            let peer = view.peers().find(|peer| peer.alive && peer.wire() == link.address)?;
            let (name, at) = (&peer.hostname, link.endpoint);
            let text = format!("no encrypted link to `{name}`: is UDP {at} open from here, and back?");
            link.agreed_ms_ago.is_none().then_some((peer.node, text))
        };
        let now: BTreeMap<NodeId, String> = links.iter().filter_map(silent).collect();
        let lasting = now.iter().filter(|(node, _)| self.silent.contains_key(*node));
        let lasting = lasting.map(|(_, text)| text.clone()).collect();
        self.silent = now;
        self.tell(lasting);
    }

    fn tell_mtu(&self, wirings: &[Wiring]) {
        self.mtu.send_replace(wirings.iter().map(|wiring| (wiring.lane(), wiring.mtu())).collect());
    }

    fn tell(&self, links: Vec<String>) {
        let deaf = self.mesh.deaf();
        let taken = deaf.iter().filter(|deaf| deaf.why == DeafTo::Taken);
        let taken =
            taken.map(|deaf| format!("{deaf} is taken by another program: no service answers on it here"));
        let problems: Vec<String> = self.found.iter().cloned().chain(taken).chain(links).collect();
        self.info.send_if_modified(|info| {
            let differs = info.deaf != deaf;
            info.deaf.clone_from(&deaf);
            differs
        });
        self.problems.send_if_modified(|now| {
            let differs = *now != problems;
            *now = problems;
            differs
        });
    }
}

/// What to say of nodes whose daemons are heard while packets of containers do not get there and back.
fn cut_off(view: &View, unreachable: &BTreeSet<NodeId>, gossip: &Sightings) -> Vec<String> {
    let cut_off = view.peers().filter(|peer| unreachable.contains(&peer.node));
    let heard = cut_off.filter(|peer| is_heard(gossip, peer.node));
    heard
        .map(|peer| {
            format!(
                "packets of containers do not get to `{}` and back, though its daemon answers: new connections go to other \
                 tasks; `raftup doctor` looks for the firewall that is in the way",
                peer.hostname
            )
        })
        .collect()
}

/// Where nodes say that their fabric is.
fn hints(sightings: &Sightings) -> BTreeMap<NodeId, SocketAddr> {
    let all = sightings.nodes.iter();
    all.filter_map(|(node, sighting)| Some((*node, sighting.values.get(key::FABRIC)?.parse().ok()?)))
        .collect()
}

/// Where names are asked for on the node: it is a home of the networks that it has addresses of.
fn gateways(view: &View, me: &PeerItem) -> BTreeSet<Ipv4Addr> {
    let here = |subnet: &Ipv4Net| me.homes().any(|block| subnet.contains(&block));
    view.networks().filter(|network| here(&network.subnet)).map(|network| network.gateway()).collect()
}
