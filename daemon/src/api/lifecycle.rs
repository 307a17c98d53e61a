//! What the API needs of the node that it runs in.

use std::sync::Arc;

use async_trait::async_trait;
use raftup_proto::{
    api::{Finding, Init, Join, Leave},
    id::{ClusterId, NodeId},
    refusal::Refusal,
};
use tokio::sync::watch;

use crate::{
    agent::Agent,
    control::Control,
    net::{Net, Peer},
    secret::Key,
    store::Store,
};

/// The node as a whole: it becomes and stops being a member of a cluster.
#[async_trait]
pub trait Lifecycle: Send + Sync {
    /// Makes a cluster of this node. Errors: it is in one already; the pool overlaps; the engine is down.
    async fn init(&self, init: Init) -> Result<(), Refusal>;
    /// Joins the cluster of a token. Errors: as for `init`, and all that can be wrong with a token.
    async fn join(&self, join: Join) -> Result<(), Refusal>;
    /// Leaves the cluster and removes all that it left on this node.
    async fn leave(&self, leave: Leave) -> Result<(), Refusal>;
    /// The node's place in a cluster, if it has one.
    fn member(&self) -> Option<Arc<Member>>;
    /// What is wrong with this node, in words.
    fn problems(&self) -> Vec<String>;
    /// What is found on all nodes, and between them, by node. Takes seconds where something does not answer.
    async fn examine(&self) -> Vec<Finding>;
}

/// A node that is in a cluster.
pub struct Member {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Its connections.
    pub net: Net,
    /// Its tasks.
    pub agent: Agent,
    /// Its part in the replicated state, while it has one.
    pub manager: watch::Receiver<Option<Manager>>,
    /// The node that leads, as far as this one knows.
    pub leader: watch::Receiver<Option<Peer>>,
}

/// A manager's parts.
#[derive(Clone)]
pub struct Manager {
    /// The replicated state.
    pub store: Store,
    /// The leader's loops.
    pub control: Control,
    /// Unseals what managers keep sealed.
    pub key: Key,
}

impl Member {
    /// This node's part in the replicated state, if it leads.
    pub fn leading(&self) -> Option<Manager> {
        self.manager.borrow().clone().filter(|manager| manager.store.leadership().borrow().here)
    }
}
