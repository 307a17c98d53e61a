//! chitchat, and the way between it and this node's messages.
//!
//! chitchat knows nodes by socket address. Here each node has a made-up one that holds nothing but its id, so a node can
//! move, and no gossip can send others to an address. Owns: the running chitchat. Leaves alone: which messages it may see
//! and what is sent of what it says (`exchange`).
//! Holds: it is given only messages that `wire` has encoded, about no more nodes than fit into one of its messages.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig,
    Serializable, spawn_chitchat,
    transport::{Socket, Transport},
};
use raftup_proto::id::NodeId;
use tokio::sync::mpsc;

use super::{
    INBOX, INTERVAL,
    wire::{addr_of, node_at},
};

/// How long chitchat keeps a process that gives no sign of life.
const REMEMBER: Duration = Duration::from_secs(60);

/// A running chitchat; it ends with this.
pub(super) struct Engine {
    handle: ChitchatHandle,
    inbox: mpsc::Sender<(SocketAddr, ChitchatMessage)>,
    sent: mpsc::Receiver<(NodeId, Vec<u8>)>,
    calls: Calls,
}

/// Nodes that chitchat was told to call. Whom it chooses by itself is not called.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<BTreeSet<NodeId>>>);

impl Calls {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Starts chitchat for this process of the node. `values` are what it publishes first, in this order.
    pub(super) async fn start(
        cluster: String,
        me: NodeId,
        generation: u64,
        values: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        let (inbox, messages) = mpsc::channel(INBOX);
        let (out, sent) = mpsc::channel(INBOX);
        let calls = Calls::default();
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(me.to_string(), generation, addr_of(me)),
            cluster_id: cluster,
            gossip_interval: INTERVAL,
            listen_addr: addr_of(me),
            // Whom to call is decided by `watcher`.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                initial_interval: INTERVAL,
                dead_node_grace_period: REMEMBER,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: REMEMBER,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let ends = Ends { out, calls: calls.clone(), messages: Mutex::new(Some(messages)) };
        let handle = spawn_chitchat(config, values, &ends).await?;
        Ok(Self { handle, inbox, sent, calls })
    }

    /// Has chitchat begin an exchange with a node.
    pub(super) fn call(&self, node: NodeId) {
        self.calls.lock().insert(node);
        // Fails only when the task is over, which `next` tells.
        let _ = self.handle.gossip(addr_of(node));
    }

    /// Gives chitchat a message of `from`, as [`super::wire::Message::encode`] writes it.
    pub(super) fn give(&self, from: NodeId, message: &[u8]) {
        match ChitchatMessage::deserialize(&mut &*message) {
            // A full inbox is a drop that gossip makes good by itself.
            Ok(message) => drop(self.inbox.try_send((addr_of(from), message))),
            Err(error) => tracing::error!(%error, "chitchat does not read what was checked"),
        }
    }

    /// The next message that chitchat sends, and to whom; none once it has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(NodeId, Vec<u8>)> {
        self.sent.recv().await
    }

    /// Publishes a value of this node.
    pub(super) async fn set(&self, key: &str, value: &str) {
        self.handle.chitchat().lock().await.self_node_state().set(key, value);
    }

    /// The processes that chitchat knows, this one among them. Cost: one pass.
    pub(super) async fn processes(&self) -> BTreeSet<(NodeId, u64)> {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        let ids = chitchat.node_states().keys();
        ids.filter_map(|id| Some((id.node_id.parse().ok()?, id.generation_id))).collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The handle alone would leave it running.
        self.handle.abort();
    }
}

/// What the socket of one chitchat is made of.
struct Ends {
    out: mpsc::Sender<(NodeId, Vec<u8>)>,
    calls: Calls,
    messages: Mutex<Option<mpsc::Receiver<(SocketAddr, ChitchatMessage)>>>,
}

#[async_trait]
impl Transport for Ends {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner).take();
        let messages = messages.ok_or_else(|| anyhow::anyhow!("the socket is open already"))?;
        Ok(Box::new(End { out: self.out.clone(), calls: self.calls.clone(), messages }))
    }
}

struct End {
    out: mpsc::Sender<(NodeId, Vec<u8>)>,
    calls: Calls,
    messages: mpsc::Receiver<(SocketAddr, ChitchatMessage)>,
}

#[async_trait]
impl Socket for End {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let Some(node) = node_at(to) else { return Ok(()) };
        let wanted = match &message {
            ChitchatMessage::Syn { .. } => self.calls.lock().remove(&node),
            ChitchatMessage::SynAck { .. } | ChitchatMessage::Ack { .. } => true,
            ChitchatMessage::BadCluster => false,
        };
        if wanted {
            // Never waits: chitchat would hear nothing meanwhile.
            let _ = self.out.try_send((node, message.serialize_to_vec()));
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        self.messages.recv().await.ok_or_else(|| anyhow::anyhow!("nobody gives it messages any more"))
    }
}
