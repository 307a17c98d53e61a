//! What other nodes ask of this one: led to the part that answers.
//!
//! Holds: no node can have this one call an address that is not a member's, nor examine itself or sign certificates all
//! the time.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use raftup_proto::{
    api::{Finding, NodeState, NodeUpdate},
    id::{NodeId, TaskId},
    peer::{Answer, Hello, JoinAnswer, JoinRequest, Reply, Request, Role},
    refusal::{Code, Refusal},
};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    address, doctor,
    lifecycle::{CA_KEY_CONTEXT, Host},
    member::Running,
    standing::{Known, Standing},
};
use crate::{
    api::{Manager, Member},
    control::{blobs, credentials, session::not_leader},
    gossip::Gossip,
    model::{ChangeSet, Cluster, Node},
    net::{
        Caller, Peer, Serve, Stream,
        ca::{self, Authority},
        join,
        rate::{Rate, Rates},
    },
    plan::{self, nodes},
    secret,
};

/// How long the cluster may take to choose another manager in the place of one that leaves.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(20);

/// How long a node that is asked for may take to answer.
const PROBE_LIMIT: Duration = Duration::from_millis(700);

/// Certificates that one node is given; it needs one in weeks, and one more when its role changes.
const RENEWALS: Rate = Rate { burst: 8, interval: Duration::from_secs(120) };

/// Nodes whose renewals are counted at a time. More than [`RENEWALS`] are needed by in the time that it looks at.
const MAX_RENEWING: usize = 4096;

/// Leads requests of other nodes to the part that answers.
pub(super) struct Router {
    host: Host,
    member: Arc<Member>,
    gossip: Gossip,
    /// Where members are expected to call from.
    members: watch::Receiver<Arc<BTreeSet<SocketAddr>>>,
    gate: join::Gate,
    examined: Shared<Vec<Finding>>,
    renewals: Mutex<Rates<NodeId>>,
}

impl Router {
    pub(super) fn new(
        host: Host,
        member: Arc<Member>,
        gossip: Gossip,
        members: watch::Receiver<Arc<BTreeSet<SocketAddr>>>,
    ) -> Self {
        let renewals = Mutex::new(Rates::new(RENEWALS, MAX_RENEWING));
        let (gate, examined) = (join::Gate::default(), Shared::default());
        Self { host, member, gossip, members, gate, examined, renewals }
    }

    fn leading(&self) -> Result<Manager, Refusal> {
        self.member.leading().ok_or_else(|| Refusal::new(Code::Unavailable, "this node does not lead"))
    }

    async fn manage(&self, work: impl Future<Output = anyhow::Result<()>>) -> Answer {
        let done = work.await.map(|()| Reply::Done);
        done.map_err(|error| match error.downcast::<Refusal>() {
            Ok(refusal) => refusal,
            Err(error) => Refusal::new(Code::Internal, format!("{error:#}")),
        })
    }
}

#[async_trait]
impl Serve for Router {
    async fn join(&self, from: SocketAddr, request: JoinRequest) -> JoinAnswer {
        if let Some(manager) = self.member.leading() {
            self.gate.open(from.ip())?;
            return admit(&manager, &self.gate, from, request).await;
        }
        let leader = *self.member.leader.borrow();
        match leader {
            Some(leader) if leader.node != self.member.node => {
                let forward = async || join::forward(&self.member.net, leader, from, &request).await;
                self.gate.pass_on(from, &request, forward).await
            }
            _ => Err(Refusal::new(Code::Unavailable, "the cluster has no leader now")
                .hint("try again in a moment")),
        }
    }

    async fn rpc(&self, caller: Caller, request: Request) -> Answer {
        match request {
            Request::Probe { about, at } => self.probe(Peer { node: about, addr: at }).await,
            Request::Renew { csr } => {
                let manager = self.leading_or_manager()?;
                self.may_renew(caller.node)?;
                renew(&manager, &caller, &csr).await
            }
            Request::BecomeManager { term, member, key } => {
                let work =
                    async |running: &Running| running.become_manager(term, member, *key.expose()).await;
                self.manage(self.host.with_running(work)).await
            }
            Request::LeaveManagers { term, member } => {
                let work = async |running: &Running| running.leave_managers(term, member).await;
                self.manage(self.host.with_running(work)).await
            }
            Request::Leave => let_go(&self.leading()?, caller.node).await.map(|()| Reply::Done),
            Request::Credential { task } => self.credential(&caller, task),
            Request::Blob { task, blob } => {
                let manager = self.leading_or_manager()?;
                let cluster = manager.store.snapshot();
                blobs::for_task(&cluster, &manager.key, (caller.node, task), blob).map(Reply::Blob)
            }
            Request::Examine => {
                let examine = async || doctor::examine(&self.host).await;
                let findings = self.examined.get(examine).await;
                Ok(Reply::Examined { now: ca::now(), findings })
            }
        }
    }

    async fn stream(&self, caller: Caller, hello: Hello, mut stream: Stream) {
        let manager = self.member.manager.borrow().clone();
        match (hello, manager) {
            (Hello::Raft, Some(manager)) => manager.store.serve(caller, stream).await,
            (Hello::Session, Some(manager)) => manager.control.session(caller, stream).await,
            (Hello::Session, None) => {
                let answer = not_leader(*self.member.leader.borrow());
                if let Err(error) = stream.write_frame(&answer, Hello::Session.cap()).await {
                    warn!(node = %caller.node, error = %error, "a session was not answered");
                }
            }
            (Hello::Api, _) => {
                if let Some(api) = self.host.api() {
                    api.serve_stream(stream).await;
                }
            }
            // Raft asked of a node that is no manager any more: dropping the stream says so.
            (Hello::Raft, None) => {}
            (Hello::Join | Hello::ForwardedJoin { .. } | Hello::Rpc | Hello::Gossip, _) => {}
        }
    }

    fn gossip(&self, caller: Caller, message: Bytes) {
        self.gossip.receive(caller.node, caller.addr, &message);
    }

    fn may(&self, node: NodeId, role: Role) -> bool {
        let manager = self.member.manager.borrow();
        let state = manager.as_ref().map(|manager| Standing::in_state(&manager.store.snapshot(), node));
        let view = self.member.agent.view();
        let view = view.borrow();
        let known = Known {
            state,
            view: Standing::in_view(&view, node),
            blank: view.peers().next().is_none(),
            in_session: self.member.agent.leader().borrow().is_some(),
        };
        known.may(role)
    }

    fn members(&self) -> Arc<BTreeSet<SocketAddr>> {
        self.members.borrow().clone()
    }
}

impl Router {
    /// Whether the node answers. Errors: it is not known to be at the address.
    async fn probe(&self, about: Peer) -> Answer {
        if about.node == self.member.node {
            return Ok(Reply::Probed { reachable: true });
        }
        let view = self.member.agent.view().borrow().clone();
        let sightings = self.gossip.view().borrow().clone();
        if !address::is_known_at(&view, &sightings, about) {
            let message = format!("node {} is not known to be at {}", about.node, about.addr);
            return Err(Refusal::new(Code::Invalid, message));
        }
        let reachable = self.member.net.answers(PROBE_LIMIT, about).await.is_ok();
        Ok(Reply::Probed { reachable })
    }

    fn may_renew(&self, node: NodeId) -> Result<(), Refusal> {
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        if renewals.take(node, Instant::now().into_std()) {
            return Ok(());
        }
        Err(Refusal::new(Code::Unavailable, format!("{node} has had too many certificates in a short time")))
    }

    fn leading_or_manager(&self) -> Result<Manager, Refusal> {
        let manager = self.member.manager.borrow().clone();
        manager.ok_or_else(|| Refusal::new(Code::Unavailable, "this node is not a manager"))
    }

    fn credential(&self, caller: &Caller, task: TaskId) -> Answer {
        let manager = self.leading_or_manager()?;
        let cluster = manager.store.snapshot();
        credentials::for_task(&cluster, &manager.key, caller.node, task).map(Reply::Credential)
    }
}

/// Something that takes a while to find out: once at a time, and for all together who asked before it began.
#[derive(Default)]
struct Shared<T>(tokio::sync::Mutex<Option<(Instant, T)>>);

impl<T: Clone> Shared<T> {
    /// What `find` finds, begun no earlier than this was asked: what was mended before does not count as broken. Others wait
    /// meanwhile. Cancel-safe: the next one who waits takes over.
    async fn get(&self, find: impl AsyncFnOnce() -> T) -> T {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((begun, found)) = &*last
            && *begun >= asked
        {
            return found.clone();
        }
        let begun = Instant::now();
        let found = find().await;
        *last = Some((begun, found.clone()));
        found
    }
}

async fn admit(manager: &Manager, gate: &join::Gate, from: SocketAddr, request: JoinRequest) -> JoinAnswer {
    let cluster = manager.store.read().await?;
    let no_settings = || Refusal::new(Code::Unavailable, "the cluster is just being made");
    let info = cluster.info.clone().ok_or_else(no_settings)?;
    gate.admit(from, &request, &info.tokens, async || let_in(manager, from, &request).await).await
}

async fn let_in(manager: &Manager, from: SocketAddr, request: &JoinRequest) -> JoinAnswer {
    let change = |cluster: &_, now| nodes::admit(cluster, request, now);
    let (_, node) = manager.store.change(change).await?;
    let certificate = authority(manager)?
        .issue(&request.csr, node, request.role, ca::now())
        .map_err(|error| Refusal::new(Code::Invalid, format!("the request cannot be signed: {error:#}")))?;
    let view = plan::view::first(&manager.store.snapshot());
    info!(%node, hostname = %request.info.hostname, %from, "admitted a node");
    Ok(raftup_proto::peer::Admission { node, certificate, view })
}

async fn renew(manager: &Manager, caller: &Caller, csr: &[u8]) -> Answer {
    let cluster = manager.store.read().await?;
    let gone = || Refusal::new(Code::Forbidden, format!("{} is not a member any more", caller.node));
    let node = cluster.nodes.get(&caller.node).ok_or_else(gone)?;
    let certificate = authority(manager)?
        .issue(csr, node.id, node.role, ca::now())
        .map_err(|error| Refusal::new(Code::Invalid, format!("the request cannot be signed: {error:#}")))?;
    Ok(Reply::Certificate { certificate })
}

fn authority(manager: &Manager) -> Result<Authority, Refusal> {
    let broken =
        |what: &str| Refusal::new(Code::Internal, format!("the cluster's authority cannot be used: {what}"));
    let cluster = manager.store.snapshot();
    let info = cluster.info.as_deref().ok_or_else(|| broken("no settings yet"))?;
    let key = secret::open(&manager.key, CA_KEY_CONTEXT, &info.ca_key_sealed)
        .map_err(|_| broken("its key cannot be unsealed with this manager's key"))?;
    Authority::load(&info.ca_certificate, &key).map_err(|error| broken(&format!("{error:#}")))
}

/// Lets `node` go: it stops being a manager first, if it is one, and is then forgotten.
async fn let_go(manager: &Manager, node: NodeId) -> Result<(), Refusal> {
    let pinned = give_up_state(manager, node).await?;
    if let Err(late) = wait_until_no_manager(manager, node).await {
        take_back(manager, node, pinned).await;
        return Err(late);
    }
    let gone = |cluster: &_, now| Ok((nodes::leave(cluster, node, now)?, ()));
    manager.store.change(gone).await?;
    Ok(())
}

/// A node that could not leave may be a manager again, if it could before.
async fn take_back(manager: &Manager, node: NodeId, pinned: Option<bool>) {
    let change = |cluster: &Cluster, now| Ok((nodes::pin(cluster, node, pinned, now), ()));
    if let Err(error) = manager.store.change(change).await {
        warn!(%node, %error, "a node that could not leave stays demoted; `raftup node promote` makes it a manager again");
    }
}

/// The leader itself wants to leave: another manager takes its place, then it asks that one.
pub(super) async fn let_go_of_leader(manager: &Manager, node: NodeId) -> Result<(), Refusal> {
    let pinned = give_up_state(manager, node).await?;
    let mut leadership = manager.store.leadership();
    let handed_over = async { leadership.wait_for(|leadership| !leadership.here).await.map(drop) };
    let late =
        || Refusal::new(Code::Unavailable, "no other manager took over in time").hint("see `raftup node ls`");
    match tokio::time::timeout(HAND_OVER_LIMIT, handed_over).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => {
            take_back(manager, node, pinned).await;
            Err(late())
        }
    }
}

/// Has the cluster choose another manager in the place of `node`, if it is one. Answers what operators wanted of it
/// before. Errors: there is none to choose.
async fn give_up_state(manager: &Manager, node: NodeId) -> Result<Option<bool>, Refusal> {
    let change = |cluster: &Cluster, now| {
        let pinned = cluster.nodes.get(&node).and_then(|node| node.pinned);
        if cluster.nodes.get(&node).is_none_or(|node| node.membership.is_none()) {
            return Ok((ChangeSet::new(now), pinned));
        }
        let can_take_over = |other: &Arc<Node>| {
            other.id != node
                && other.role == Role::Manager
                && other.pinned != Some(false)
                && other.state == NodeState::Ready
        };
        if !cluster.nodes.values().any(can_take_over) {
            let message = "no other node can hold the cluster's state: the cluster would end";
            return Err(Refusal::new(Code::Conflict, message)
                .hint("`raftup leave --force` ends it on this node; containers of it are removed here"));
        }
        let demote = NodeUpdate { manager: Some(false), ..NodeUpdate::default() };
        Ok((nodes::update(cluster, node, &demote, now)?, pinned))
    };
    let (_, pinned) = manager.store.change(change).await?;
    Ok(pinned)
}

async fn wait_until_no_manager(manager: &Manager, node: NodeId) -> Result<(), Refusal> {
    let mut revision = manager.store.watch();
    let free = async {
        loop {
            revision.mark_unchanged();
            let cluster = manager.store.snapshot();
            if cluster.nodes.get(&node).is_none_or(|node| node.membership.is_none()) {
                return;
            }
            if revision.changed().await.is_err() {
                return;
            }
        }
    };
    let late = || {
        Refusal::new(Code::Unavailable, "the node's part of the replicated state was not taken over in time")
    };
    tokio::time::timeout(HAND_OVER_LIMIT, free).await.map_err(|_| late())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_at_once_share_an_examination() {
        let (examined, begun) = (Shared::default(), AtomicUsize::new(0));
        let ask = || {
            examined.get(async || {
                let nth = begun.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(5)).await;
                nth
            })
        };
        let all = futures_util::future::join_all((0..64).map(|_| ask())).await;
        assert_eq!(all, [0; 64]);
        assert_eq!(ask().await, 1, "what was found before is not told");
        // One that is dropped while it looks leaves it to the next.
        assert!(tokio::time::timeout(Duration::from_secs(1), ask()).await.is_err());
        assert_eq!(ask().await, 3);
    }
}
