//! The parts of a node that is in a cluster: started in order, stopped in reverse.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, bail};
use raftup_proto::{
    id::NodeId,
    peer::NodeInfo,
    refusal::{Code, Refusal},
    view::{View, ViewUpdate},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    address,
    lifecycle::Host,
    record::{ManagerRecord, Record},
    rotate,
    serve::Router,
};
use crate::{
    agent::{
        Agent, AgentConfig, reach,
        routes::{self, Routes, RoutesConfig},
    },
    api::{Manager, Member},
    control::Control,
    gossip::{Gossip, GossipConfig, key},
    model::ChangeSet,
    net::{Identity, Net, Peer, renew},
    pace,
    store::{self, Store, StoreConfig},
};

/// Where a manager keeps the replicated state, below the data directory.
const STATE_DIR: &str = "raft";
/// Where an agent keeps its view, below the data directory.
const AGENT_DIR: &str = "agent";

/// What a member starts from.
pub(super) struct Start {
    pub(super) identity: Arc<Identity>,
    pub(super) record: Record,
    pub(super) info: NodeInfo,
    /// The first entry of a new cluster's log.
    pub(super) first: Option<ChangeSet>,
    /// The first view of a node that was just admitted.
    pub(super) view: Option<ViewUpdate>,
}

/// The running parts.
pub(super) struct Running {
    host: Host,
    member: Arc<Member>,
    info: NodeInfo,
    record: Mutex<Record>,
    manager: watch::Sender<Option<Manager>>,
    gossip: Gossip,
    routes: Arc<Routes>,
    stop: CancellationToken,
    loops: TaskTracker,
}

impl Running {
    /// Starts everything. Errors: the network or a file does not allow it; nothing runs on then.
    pub(super) async fn start(host: Host, net: Net, start: Start) -> anyhow::Result<Self> {
        let Start { identity, record, info, first, view } = start;
        let named = record.named;
        let (node, cluster, dir) = (identity.node(), identity.cluster(), host.data_dir());
        net.set_identity(Arc::clone(&identity)).context("using this node's certificate")?;
        let (manager, manager_rx) = watch::channel(None);
        let (leader_tx, leader) = watch::channel(None);
        let (agent_dir, me) = (dir.join(AGENT_DIR), Peer { node, addr: info.control });
        std::fs::create_dir_all(&agent_dir).with_context(|| format!("making `{}`", agent_dir.display()))?;
        let config = AgentConfig {
            dir: agent_dir,
            run_dir: host.run_dir(),
            cluster,
            node,
            info: info.clone(),
            seeds: vec![me],
            first: view,
        };
        let agent = Agent::start(config, Arc::clone(host.engine()), net.clone());
        let (stop, loops) = (CancellationToken::new(), TaskTracker::new());
        let gossip = start_gossip(&net, &identity, &info, peers(&agent, all, &loops, &stop));
        let (lost, unreachable) = watch::channel(BTreeSet::new());
        let routes = Routes::start(RoutesConfig {
            node,
            view: agent.view(),
            fresh: agent.fresh(),
            unreachable,
            gossip: gossip.view(),
            keys: host.keys().subscribe(),
            run_dir: host.run_dir(),
            info: agent.info(),
            applied: agent.applied(),
        })?;
        agent.follow_mtu(routes.mtu());
        loops.spawn(stop.clone().run_until_cancelled_owned(pace::follow(agent.view())));
        let member = Arc::new(Member { cluster, node, net: net.clone(), agent, manager: manager_rx, leader });
        let running = Self {
            host,
            member,
            info,
            record: Mutex::new(record),
            manager,
            gossip,
            routes: Arc::new(routes),
            stop,
            loops,
        };
        running.follow_leader(leader_tx);
        running.serve(&net);
        running.renew(net.clone());
        running.rotate();
        if !named {
            running.follow_address(net);
        }
        running.follow_engine();
        running.follow_reach(lost);
        running.resume_manager(first).await?;
        running.host.show(Some(Arc::clone(&running.member)));
        Ok(running)
    }

    fn serve(&self, net: &Net) {
        let members = self.follow_members();
        let router = Router::new(self.host.clone(), Arc::clone(&self.member), self.gossip.clone(), members);
        net.serve(Arc::new(router));
    }

    /// Where members are expected to call from, as the state and gossip change.
    fn follow_members(&self) -> watch::Receiver<Arc<BTreeSet<SocketAddr>>> {
        let (mut view, mut sightings) = (self.member.agent.view(), self.gossip.view());
        let now = address::of_members(&view.borrow_and_update(), &sightings.borrow_and_update());
        let (sender, receiver) = watch::channel(now);
        self.spawn(async move {
            loop {
                // Watches lose nothing when a wait on them is dropped.
                let alive = tokio::select! {
                    changed = view.changed() => changed.is_ok(),
                    changed = sightings.changed() => changed.is_ok(),
                };
                if !alive {
                    return;
                }
                let now = address::of_members(&view.borrow_and_update(), &sightings.borrow_and_update());
                sender.send_if_modified(|old| {
                    let differs = *old != now;
                    *old = now;
                    differs
                });
            }
        });
        receiver
    }

    fn renew(&self, net: Net) {
        let managers = peers(&self.member.agent, managers, &self.loops, &self.stop);
        self.spawn(renew::run(net, self.host.data_dir(), managers));
    }

    fn rotate(&self) {
        let (dir, keys) = (self.host.data_dir(), self.host.keys());
        let (node, agent) = (self.member.node, self.member.agent.clone());
        self.spawn(async move { rotate::run(&dir, node, agent, keys).await });
    }

    fn follow_address(&self, net: Net) {
        let (node, agent, gossip) = (self.member.node, self.member.agent.clone(), self.gossip.clone());
        self.spawn(address::follow(node, agent, gossip, net));
    }

    /// An engine that comes back has made its own rules anew, and may have flushed some of ours.
    fn follow_engine(&self) {
        let (mut up, routes) = (self.member.agent.engine_up(), Arc::clone(&self.routes));
        self.spawn(async move {
            while up.changed().await.is_ok() {
                if *up.borrow_and_update() {
                    routes.reapply();
                }
            }
        });
    }

    fn follow_reach(&self, unreachable: watch::Sender<BTreeSet<NodeId>>) {
        let view = self.member.agent.view();
        self.spawn(reach::follow(self.member.node, view, self.gossip.view(), unreachable));
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.loops.spawn(async move {
            // Whatever runs here may be dropped at any wait: it keeps nothing that is not also elsewhere.
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Keeps the one answer to "who leads?": the state's word on a manager, the session's elsewhere.
    fn follow_leader(&self, leader: watch::Sender<Option<Peer>>) {
        let mut manager = self.member.manager.clone();
        let mut session = self.member.agent.leader();
        self.spawn(async move {
            loop {
                let store = manager.borrow_and_update().as_ref().map(|manager| manager.store.clone());
                let mut leadership = store.as_ref().map(Store::leadership);
                let known = match &mut leadership {
                    Some(leadership) => leadership.borrow_and_update().peer(),
                    None => *session.borrow_and_update(),
                };
                leader.send_if_modified(|old| {
                    let differs = *old != known;
                    *old = known;
                    differs
                });
                let moved = async {
                    match &mut leadership {
                        Some(leadership) => leadership.changed().await.is_ok(),
                        None => session.changed().await.is_ok(),
                    }
                };
                // Watch channels lose nothing when a wait on them is dropped.
                tokio::select! {
                    alive = moved => if !alive && leadership.is_none() { return },
                    changed = manager.changed() => if changed.is_err() { return },
                }
            }
        });
    }

    async fn resume_manager(&self, first: Option<ChangeSet>) -> anyhow::Result<()> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner).manager.clone();
        let Some(record) = record else { return Ok(()) };
        if first.is_some() {
            let (dir, node, member) = (self.state_dir(), self.member.node, record.member);
            tokio::task::spawn_blocking(move || store::create(&dir, node, member)).await??;
        } else if store::member(&self.state_dir())?.is_none() {
            // As the refusal of lost or damaged storage says; without any, it promised nothing that it could forget.
            warn!("the replicated state was removed: this node is no manager until it is promoted again");
            let record = self.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return self.keep(Record { manager: None, ..record }).await;
        }
        if store::member(&self.state_dir())? != Some(record.member) {
            bail!(
                "`{}` belongs to another member than {}, which this node is by its record: demote the node, remove the \
                 directory, start raftupd, and promote the node",
                self.state_dir().display(),
                record.member
            );
        }
        let manager = self.start_manager(&record).await?;
        if let Some(first) = first {
            manager
                .store
                .initialize(self.info.control, first)
                .await
                .context("writing the first entry of the log")?;
        }
        Ok(())
    }

    fn state_dir(&self) -> PathBuf {
        self.host.data_dir().join(STATE_DIR)
    }

    async fn start_manager(&self, record: &ManagerRecord) -> anyhow::Result<Manager> {
        let transport = Arc::new(self.member.net.clone());
        let config = StoreConfig { dir: self.state_dir(), node: self.member.node, transport };
        let store = Store::start(config).await?;
        let key = record.key();
        let control = Control::start(store.clone(), self.member.net.clone(), self.gossip.view(), key.clone());
        let manager = Manager { store, control, key };
        self.manager.send_replace(Some(manager.clone()));
        Ok(manager)
    }

    /// Starts to hold the replicated state, as `member`, on the order of the leader of `term`. Repeating the order
    /// changes nothing. Errors: the order is outdated.
    pub(super) async fn become_manager(&self, term: u64, member: u64, key: [u8; 32]) -> anyhow::Result<()> {
        let held = self.check_order(term, member)?;
        let manager = ManagerRecord { member, key };
        if held != Some(member) {
            self.give_state_up().await?;
            let (dir, node) = (self.state_dir(), self.member.node);
            // Creating the files syncs them, which takes long on a slow disk.
            tokio::task::spawn_blocking(move || store::create(&dir, node, member)).await??;
            let record = self.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.keep(Record { manager: Some(manager.clone()), ..record }).await?;
        }
        // An earlier start may have failed after the record was written.
        if self.manager.borrow().is_none() {
            self.start_manager(&manager).await?;
            info!(member, "this node is a manager now");
        }
        Ok(())
    }

    /// Removes the replicated state of `member`, or of an earlier member, on the order of the leader of `term`.
    /// Errors: the order is outdated.
    pub(super) async fn leave_managers(&self, term: u64, member: u64) -> anyhow::Result<()> {
        self.check_order(term, member)?;
        self.give_state_up().await
    }

    /// The member that this node is. Errors: the order of the leader of `term` about `member` is outdated.
    fn check_order(&self, term: u64, member: u64) -> Result<Option<u64>, Refusal> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let held = record.manager.as_ref().map(|manager| manager.member);
        let newest = self.manager.borrow().as_ref().map_or(0, |manager| manager.store.term());
        outdated(held, newest, term, member).map_or(Ok(held), Err)
    }

    async fn give_state_up(&self) -> anyhow::Result<()> {
        if let Some(manager) = self.manager.send_replace(None) {
            manager.control.stop().await;
            manager.store.stop().await;
        }
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if record.manager.is_none() {
            return Ok(());
        }
        self.keep(Record { manager: None, ..record }).await?;
        let dir = self.state_dir();
        tokio::task::spawn_blocking(move || store::forget(&dir)).await??;
        info!("this node is no manager any more");
        Ok(())
    }

    async fn keep(&self, record: Record) -> anyhow::Result<()> {
        let (dir, kept) = (self.host.data_dir(), record.clone());
        tokio::task::spawn_blocking(move || kept.save(&dir)).await??;
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
        Ok(())
    }

    /// What is wrong with this node, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.member.agent.problems();
        problems.extend(self.routes.problems().borrow().iter().cloned());
        problems
    }

    /// Stops the parts; containers and routing stay in force.
    pub(super) async fn stop(self) {
        if let Some(manager) = self.manager.send_replace(None) {
            manager.store.step_down().await;
            manager.control.stop().await;
            manager.store.stop().await;
        }
        self.member.agent.shutdown().await;
        drop(self.routes);
        self.stop.cancel();
        self.loops.close();
        self.loops.wait().await;
        self.member.net.stop().await;
    }

    /// Stops the parts and removes all that they made on this host.
    pub(super) async fn leave(self) {
        let run_dir = self.host.run_dir();
        if let Err(error) = self.member.agent.leave().await {
            warn!(error = format!("{error:#}"), "containers or networks of the former membership stay");
        }
        self.stop().await;
        if let Err(error) = routes::remove_all(&run_dir).await {
            warn!(error = format!("{error:#}"), "links or rules of the former membership stay");
        }
    }
}

fn start_gossip(
    net: &Net,
    identity: &Identity,
    info: &NodeInfo,
    peers: watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>>,
) -> Gossip {
    let places = address::said(info).map(|(key, place)| (key, place.to_string()));
    let values = [(key::HOSTNAME, info.hostname.clone()), (key::VERSION, info.version.clone())];
    let net = net.clone();
    Gossip::start(GossipConfig {
        cluster: identity.cluster(),
        me: identity.node(),
        peers,
        send: Arc::new(move |node, addr, message| net.send_gossip(Peer { node, addr }, message)),
        values: values.into_iter().chain(places).map(|(key, value)| (key.to_owned(), value)).collect(),
    })
}

/// Control addresses of all nodes of a view.
fn all(view: &View) -> Arc<BTreeMap<NodeId, SocketAddr>> {
    Arc::new(view.peers().map(|peer| (peer.node, peer.control)).collect())
}

/// The managers of a view.
fn managers(view: &View) -> Arc<[Peer]> {
    let managers = view.peers().filter(|peer| peer.manager);
    managers.map(|peer| Peer { node: peer.node, addr: peer.control }).collect()
}

/// What `list` takes from the view, as the view changes.
fn peers<T: PartialEq + Send + Sync + 'static>(
    agent: &Agent,
    list: fn(&View) -> T,
    loops: &TaskTracker,
    stop: &CancellationToken,
) -> watch::Receiver<T> {
    let mut view = agent.view();
    let (sender, receiver) = watch::channel(list(&view.borrow_and_update()));
    let stop = stop.clone();
    loops.spawn(async move {
        // Both only wait on channels that lose nothing.
        while let Some(Ok(())) = stop.run_until_cancelled(view.changed()).await {
            let now = list(&view.borrow_and_update());
            sender.send_if_modified(|old| {
                let differs = *old != now;
                *old = now;
                differs
            });
        }
    });
    receiver
}

/// Why a node that is member `held`, and knows of terms up to `newest`, refuses the order of the leader of `term` about
/// `member`.
///
/// A leader that was paused may repeat an order that its successor has overtaken. Members' numbers only grow, and a
/// member that has acknowledged anything to the successor knows its term.
fn outdated(held: Option<u64>, newest: u64, term: u64, member: u64) -> Option<Refusal> {
    if term < newest {
        let message = format!("the order is of term {term}, this manager has seen term {newest}");
        return Some(Refusal::new(Code::Forbidden, message));
    }
    let later = held.filter(|held| *held > member)?;
    Some(Refusal::new(Code::Conflict, format!("this node is member {later}, no longer member {member}")))
}

/// Removes all that a member keeps besides its identity and record.
pub(super) fn erase(dir: &Path) -> anyhow::Result<()> {
    remove_dir(&dir.join(STATE_DIR))?;
    remove_dir(&dir.join(AGENT_DIR))
}

fn remove_dir(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_replaced_leaders_and_about_former_members_are_refused() {
        let refused =
            |held, newest, term, member| outdated(held, newest, term, member).map(|refusal| refusal.code);
        // No manager yet, or the member that is meant, or an earlier one whose storage is left over.
        assert_eq!(refused(None, 0, 3, 7), None);
        assert_eq!(refused(Some(7), 3, 3, 7), None);
        assert_eq!(refused(Some(7), 3, 4, 7), None);
        assert_eq!(refused(Some(5), 3, 3, 7), None);
        // The leader was replaced.
        assert_eq!(refused(Some(7), 4, 3, 7), Some(Code::Forbidden));
        assert_eq!(refused(Some(7), 4, 3, 9), Some(Code::Forbidden));
        // The node has become a later member.
        assert_eq!(refused(Some(9), 3, 3, 7), Some(Code::Conflict));
    }
}
