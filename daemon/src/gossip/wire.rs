//! chitchat's messages, carried by whatever the node's transport is.
//!
//! chitchat knows nodes by socket address. Here each node has a made-up one that holds nothing but its id, so that a
//! node can move, and no gossip can send others to an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chitchat::{
    ChitchatMessage, Deserializable, Serializable,
    transport::{Socket, Transport},
};
use raftup_proto::id::NodeId;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::SendMessage;

/// Messages that wait for the gossip task; more are dropped, newer ones say the same.
const INBOX: usize = 256;

/// For how long after an exchange that another node began this one begins none with it. Less than `super::INTERVAL`: of
/// two nodes, it is always the same that begins.
const FRESH: Duration = Duration::from_millis(200);

/// Bytes of a delta without a change: the mark of its end.
const NOTHING_NEW: usize = 1;

/// The made-up address of a node.
pub(super) fn addr_of(node: NodeId) -> SocketAddr {
    (Ipv6Addr::from(u128::from(node.number())), 1).into()
}

fn node_of(addr: SocketAddr) -> Option<NodeId> {
    match addr {
        SocketAddr::V6(addr) => u64::try_from(u128::from(*addr.ip())).ok().map(NodeId::new),
        SocketAddr::V4(_) => None,
    }
}

type Message = (SocketAddr, ChitchatMessage);

/// The way in and out.
#[derive(Clone)]
pub(super) struct Wire(Arc<Ends>);

struct Ends {
    me: NodeId,
    peers: watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>>,
    send: SendMessage,
    /// Leads to the present gossip task.
    inbox: Mutex<Option<mpsc::Sender<Message>>>,
    /// Where nodes called from that are not among the peers yet.
    callers: Mutex<BTreeMap<NodeId, SocketAddr>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    pub(super) fn new(
        me: NodeId,
        peers: watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>>,
        send: SendMessage,
    ) -> Self {
        Self(Arc::new(Ends { me, peers, send, inbox: Mutex::default(), callers: Mutex::default() }))
    }

    /// The peers, without this node.
    pub(super) fn peers(&self) -> BTreeSet<NodeId> {
        self.0.peers.borrow().keys().copied().filter(|node| *node != self.0.me).collect()
    }

    pub(super) fn receive(&self, from: NodeId, addr: SocketAddr, mut message: &[u8]) {
        let Ok(decoded) = ChitchatMessage::deserialize(&mut message) else {
            tracing::debug!(node = %from, "malformed gossip");
            return;
        };
        if !self.0.peers.borrow().contains_key(&from) {
            lock(&self.0.callers).insert(from, addr);
        }
        if let Some(inbox) = &*lock(&self.0.inbox) {
            // A full inbox is a drop that gossip makes good by itself.
            let _ = inbox.try_send((addr_of(from), decoded));
        }
    }

    fn send(&self, to: SocketAddr, message: &ChitchatMessage) {
        let Some(node) = node_of(to).filter(|node| *node != self.0.me) else { return };
        let known = self.0.peers.borrow().get(&node).copied();
        let Some(addr) = known.or_else(|| lock(&self.0.callers).get(&node).copied()) else { return };
        (self.0.send)(node, addr, message.serialize_to_vec().into());
    }
}

#[async_trait]
impl Transport for Wire {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (inbox, messages) = mpsc::channel(INBOX);
        *lock(&self.0.inbox) = Some(inbox);
        Ok(Box::new(End { wire: self.clone(), messages, greeted_by: BTreeMap::new() }))
    }
}

struct End {
    wire: Wire,
    messages: mpsc::Receiver<Message>,
    /// When each node last began an exchange with this one.
    greeted_by: BTreeMap<SocketAddr, Instant>,
}

#[async_trait]
impl Socket for End {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let needless = match &message {
            // An exchange tells both ends everything, whichever of them began it: one in each interval is enough.
            ChitchatMessage::Syn { .. } => self.greeted_by.get(&to).is_some_and(|at| at.elapsed() < FRESH),
            ChitchatMessage::Ack { delta } => delta.serialized_len() == NOTHING_NEW,
            ChitchatMessage::SynAck { .. } | ChitchatMessage::BadCluster => false,
        };
        if !needless {
            self.wire.send(to, &message);
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<Message> {
        let received = self.messages.recv().await;
        let (from, message) = received.ok_or_else(|| anyhow::anyhow!("another gossip task has begun"))?;
        if matches!(message, ChitchatMessage::Syn { .. }) {
            self.greeted_by.insert(from, Instant::now());
        }
        Ok((from, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_the_id() {
        for number in [0, 1, 65_536, u64::MAX] {
            assert_eq!(node_of(addr_of(NodeId::new(number))), Some(NodeId::new(number)));
        }
        assert_eq!(node_of(([127, 0, 0, 1], 1).into()), None);
    }
}
