//! Keeps as many managers as the cluster wants, on the leader.
//!
//! Owns: the order in which a node is appointed, told, taught and given a vote, and the way back. Leaves alone: which nodes
//! those are ([`plan::quorum`]).
//! Holds: one step at a time, each worked out from the newest state; a step that an earlier leader did half is done again,
//! and does no harm.
//!
//! [`plan::quorum`]: crate::plan::quorum

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use raftup_proto::{
    id::NodeId,
    peer::Request,
    refusal::{Code, Refusal},
};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::{
    model::{ChangeSet, ClusterInfo, Membership, Node, ObjectKey},
    net::{CallError, Net, Peer},
    plan::quorum::{Council, Plan, Seat, Step, decide},
    secret::Key,
    store::{Changes, Site, Store, Touched},
};

/// How often the members are looked at without news: whether one has caught up, or was down for too long, is no change of
/// the state.
const PERIOD: Duration = Duration::from_secs(2);

/// Wait after a step that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest wait for a node to do as it is told.
const ORDER_LIMIT: Duration = Duration::from_secs(5);

/// How a node is told what to be.
#[async_trait]
pub trait Orders: Send + Sync + 'static {
    /// Sends [`Request::BecomeManager`] or [`Request::LeaveManagers`].
    async fn order(&self, to: Peer, request: Request) -> Result<(), CallError>;
}

#[async_trait]
impl Orders for Net {
    async fn order(&self, to: Peer, request: Request) -> Result<(), CallError> {
        self.call(to, request).await.map(|_| ())
    }
}

/// The loop.
pub struct Quorum<O> {
    store: Store,
    orders: O,
    key: Key,
}

impl<O: Orders> Quorum<O> {
    /// `key` unseals what managers keep sealed; a new manager is told it.
    pub fn new(store: Store, orders: O, key: Key) -> Self {
        Self { store, orders, key }
    }

    /// Works whenever this node leads, for ever. Dropping it leaves at most one step half done.
    pub async fn run(self) {
        let mut leadership = self.store.leadership();
        while leadership.wait_for(|leadership| leadership.here).await.is_ok() {
            let mut changes = self.store.changes();
            while leadership.borrow().here {
                match self.run_once().await {
                    Ok(plan) if plan.step == Step::Rest => until_worth_a_look(&mut changes).await,
                    Ok(_) => {}
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "the managers could not be changed");
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Works out the next step and takes it. Errors: it could not be taken now.
    pub async fn run_once(&self) -> anyhow::Result<Plan> {
        let plan = decide(&self.store.snapshot(), &council(&self.store), self.store.now());
        self.take(&plan.step).await.with_context(|| format!("{:?}", plan.step))?;
        Ok(plan)
    }

    async fn take(&self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Rest => Ok(()),
            Step::Finish => self.store.finish_change().await,
            Step::Move { member, node, addr } => self.store.move_member(*member, *node, *addr).await,
            Step::Appoint { node } => self.appoint(*node).await,
            Step::Enlist { node, member, addr } => {
                self.enlist(*member, Site { node: *node, addr: *addr }).await
            }
            Step::Vote { voters } => self.store.set_voters(voters.clone()).await,
            Step::HandOver { to } => self.store.hand_over(Some(*to)).await,
            Step::Expel { member } => self.store.remove_learner(*member).await,
            Step::Dismiss { node } => self.dismiss(*node).await,
        }
    }

    async fn appoint(&self, id: NodeId) -> anyhow::Result<()> {
        let work = |cluster: &crate::model::Cluster, now| {
            let mut set = ChangeSet::new(now);
            let (Some(info), Some(node)) = (&cluster.info, cluster.nodes.get(&id)) else {
                return Ok((set, None));
            };
            let member = info.next_member;
            set.update(ClusterInfo { next_member: member + 1, ..ClusterInfo::clone(info) });
            set.update(Node { membership: Some(Membership { member }), ..Node::clone(node) });
            Ok((set, Some(member)))
        };
        let (_, member) = self.store.change(work).await?;
        info!(node = %id, ?member, "a node is to be a manager");
        Ok(())
    }

    async fn enlist(&self, member: u64, site: Site) -> anyhow::Result<()> {
        let request = Request::BecomeManager { member, key: *self.key.bytes() };
        match self.order(site.node, request).await? {
            Ok(()) => self.store.add_learner(member, site).await,
            // The number was used there already, for storage that is gone.
            Err(refusal) if refusal.code == Code::Conflict => self.appoint(site.node).await,
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn dismiss(&self, id: NodeId) -> anyhow::Result<()> {
        self.order(id, Request::LeaveManagers).await??;
        let work = |cluster: &crate::model::Cluster, now| {
            let mut set = ChangeSet::new(now);
            if let Some(node) = cluster.nodes.get(&id) {
                set.update(Node { membership: None, ..Node::clone(node) });
            }
            Ok((set, ()))
        };
        self.store.change(work).await?;
        info!(node = %id, "a node is no manager any more");
        Ok(())
    }

    /// What the node answers. Errors: it was not reached.
    async fn order(&self, id: NodeId, request: Request) -> anyhow::Result<Result<(), Refusal>> {
        let cluster = self.store.snapshot();
        let node = cluster.nodes.get(&id).with_context(|| format!("node {id} is gone"))?;
        let order = self.orders.order(Peer { node: id, addr: node.info.control }, request);
        match timeout(ORDER_LIMIT, order).await.with_context(|| format!("node {id} does not answer"))? {
            Ok(()) => Ok(Ok(())),
            Err(CallError::Refused(refusal)) => Ok(Err(refusal)),
            Err(CallError::Unreachable(error)) => Err(error.into()),
        }
    }
}

/// Returns at the next change of a node or of the cluster's settings, or after [`PERIOD`].
async fn until_worth_a_look(changes: &mut Changes) {
    let of_nodes = |key: &ObjectKey| matches!(key, ObjectKey::Cluster | ObjectKey::Node(_));
    let news = async {
        while let Some(Touched { keys, .. }) = changes.next().await {
            if keys.is_none_or(|keys| keys.iter().any(of_nodes)) {
                return;
            }
        }
    };
    // The time is up as often as not; both mean the same.
    let _ = timeout(PERIOD, news).await;
}

/// The members of Raft in the words of the plan.
fn council(store: &Store) -> Council {
    let members = store.members();
    let seat = |(member, known): (&u64, &crate::store::Member)| {
        let Site { node, addr } = known.site;
        (*member, Seat { node, addr, voter: known.voter, caught_up: known.caught_up })
    };
    Council {
        seats: members.members.iter().map(seat).collect(),
        leader: members.me,
        changing: members.changing,
        lost: members.lost,
    }
}

#[cfg(test)]
mod tests;
