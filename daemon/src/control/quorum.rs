//! Keeps as many managers as the cluster wants, on the leader.
//!
//! Owns: the order in which a node is appointed, told, taught and given a vote, and the way back. Leaves alone: which nodes
//! those are ([`plan::quorum`]).
//! Holds: one step at a time, each worked out from the newest state; a step that an earlier leader did half is done again,
//! and does no harm. A node that fails at a step is passed over for a while, so it does not hold up the others.
//!
//! [`plan::quorum`]: crate::plan::quorum

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

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

/// Back-off of a node after its first failure; doubled with each further one.
const BACK_OFF: Duration = Duration::from_secs(15);

/// Longest back-off of a node.
const BACK_OFF_MAX: Duration = Duration::from_secs(600);

/// A learner that has not caught up after this time has failed: a snapshot of the largest size takes half of it.
const LEARN_LIMIT: Duration = Duration::from_secs(120);

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
    learn_limit: Duration,
    failures: BTreeMap<NodeId, Failure>,
    /// Members that learn and have not caught up, and since when.
    learning: BTreeMap<u64, Instant>,
}

/// What a node failed at. Forgotten when it succeeds, and by the next leader.
struct Failure {
    times: u32,
    until: Instant,
}

impl<O: Orders> Quorum<O> {
    /// `key` unseals what managers keep sealed; a new manager is told it.
    pub fn new(store: Store, orders: O, key: Key) -> Self {
        let (failures, learning) = (BTreeMap::new(), BTreeMap::new());
        Self { store, orders, key, learn_limit: LEARN_LIMIT, failures, learning }
    }

    /// Works whenever this node leads, for ever. Dropping it leaves at most one step half done.
    pub async fn run(mut self) {
        let mut leadership = self.store.leadership();
        while leadership.wait_for(|leadership| leadership.here).await.is_ok() {
            let mut changes = self.store.changes();
            self.failures.clear();
            self.learning.clear();
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
    pub async fn run_once(&mut self) -> anyhow::Result<Plan> {
        let council = self.council();
        let plan = decide(&self.store.snapshot(), &council, self.store.now());
        self.take(&plan.step, &council).await.with_context(|| format!("{:?}", plan.step))?;
        Ok(plan)
    }

    /// The members of Raft in the words of the plan, and the nodes that are passed over.
    fn council(&mut self) -> Council {
        let mut council = council(&self.store);
        let now = Instant::now();
        let learners = council.seats.iter().filter(|(_, seat)| !seat.voter);
        let (up, behind): (Vec<_>, Vec<_>) = learners.partition(|(_, seat)| seat.caught_up);
        self.failures.retain(|node, _| up.iter().all(|(_, seat)| seat.node != *node));
        self.learning.retain(|member, _| behind.iter().any(|(behind, _)| *behind == member));
        for (member, seat) in behind {
            let since = *self.learning.entry(*member).or_insert(now);
            if now.duration_since(since) > self.learn_limit {
                warn!(node = %seat.node, member, "a node does not catch up with the replicated state");
                self.learning.insert(*member, now);
                self.failed(seat.node);
            }
        }
        let failing = self.failures.iter().filter(|(_, failure)| failure.until > now);
        council.failing = failing.map(|(node, _)| *node).collect();
        council
    }

    /// Passes `node` over for a while, longer each time.
    fn failed(&mut self, node: NodeId) {
        let now = Instant::now();
        let failure = self.failures.entry(node).or_insert(Failure { times: 0, until: now });
        failure.until = now + BACK_OFF_MAX.min(BACK_OFF * (1 << failure.times.min(16)));
        failure.times += 1;
    }

    async fn take(&mut self, step: &Step, council: &Council) -> anyhow::Result<()> {
        match step {
            Step::Rest => Ok(()),
            Step::Finish => self.store.finish_change().await,
            Step::Move { member, node, addr } => self.store.move_member(*member, *node, *addr).await,
            Step::Appoint { node } => self.appoint(*node).await,
            Step::Enlist { node, member, addr } => {
                self.enlist(*member, Site { node: *node, addr: *addr }).await
            }
            Step::Vote { voters } => self.store.set_voters(voters.clone()).await,
            Step::HandOver { to } => {
                let handed_over = self.store.hand_over(Some(*to)).await;
                if let (Err(_), Some(seat)) = (&handed_over, council.seats.get(to)) {
                    self.failed(seat.node);
                }
                handed_over
            }
            Step::Expel { member } => self.store.remove_learner(*member).await,
            Step::Dismiss { node, member } => self.dismiss(*node, *member).await,
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

    async fn enlist(&mut self, member: u64, site: Site) -> anyhow::Result<()> {
        let request = Request::BecomeManager { term: self.term(), member, key: (*self.key.bytes()).into() };
        let again = self.failures.contains_key(&site.node);
        match self.order(site.node, request).await {
            Ok(()) => self.store.add_learner(member, site).await,
            // The number was used there already, for storage that is gone. A node that refuses one after another would
            // use up numbers.
            Err(error) if is_conflict(&error) && !again => {
                self.failures.insert(site.node, Failure { times: 0, until: Instant::now() });
                self.appoint(site.node).await
            }
            Err(error) => {
                self.failed(site.node);
                if is_conflict(&error) {
                    self.appoint(site.node).await?;
                }
                Err(error)
            }
        }
    }

    async fn dismiss(&mut self, id: NodeId, member: u64) -> anyhow::Result<()> {
        let request = Request::LeaveManagers { term: self.term(), member };
        if let Err(error) = self.order(id, request).await {
            self.failed(id);
            return Err(error);
        }
        self.failures.remove(&id);
        let work = |cluster: &crate::model::Cluster, now| {
            let mut set = ChangeSet::new(now);
            let node = cluster.nodes.get(&id);
            if let Some(node) = node.filter(|node| node.membership == Some(Membership { member })) {
                set.update(Node { membership: None, ..Node::clone(node) });
            }
            Ok((set, ()))
        };
        self.store.change(work).await?;
        info!(node = %id, "a node is no manager any more");
        Ok(())
    }

    fn term(&self) -> u64 {
        self.store.leadership().borrow().term
    }

    /// Tells the node what to do. Errors: it was not reached, or refuses.
    async fn order(&self, id: NodeId, request: Request) -> anyhow::Result<()> {
        let cluster = self.store.snapshot();
        let node = cluster.nodes.get(&id).with_context(|| format!("node {id} is gone"))?;
        let order = self.orders.order(Peer { node: id, addr: node.info.control }, request);
        match timeout(ORDER_LIMIT, order).await.with_context(|| format!("node {id} does not answer"))? {
            Ok(()) => Ok(()),
            Err(CallError::Refused(refusal)) => Err(refusal.into()),
            Err(CallError::Unreachable(error)) => Err(error.into()),
        }
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.code == Code::Conflict)
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
        failing: BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests;
