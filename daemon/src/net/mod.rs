//! Bytes and identity between nodes.
//!
//! Owns: the one QUIC endpoint of a node, its certificate, its connections to other nodes. Leaves alone: what is said
//! on a stream; [`Serve`] gets each stream with the caller that its certificate names. Holds: nothing but a join
//! request is read from a caller without a certificate of the cluster's CA; TLS 1.3 both ways, never resumed; a caller's
//! role is checked for each stream and request ([`rpc`]); a removed node is cut off within a second.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`stream`] | frames on a stream |
//! | [`error`] | what can go wrong, told apart by what to check |
//! | [`ca`] | the cluster's CA, certificates, and who a certificate names |
//! | [`identity`] | a node's certificate and key on disk |
//! | `congestion` | how many bytes may be in flight on a connection |
//! | `tls` | both sides of the handshake |
//! | `link` | one connection to a peer, and the set of them |
//! | `handshakes` | which incoming handshakes may begin |
//! | [`rate`] | how often something may happen |
//! | [`quic`] | [`Net`]: dialling, opening streams |
//! | `serve` | accepting connections and streams |
//! | [`rpc`] | who may ask what; one question, one answer |
//! | [`join`] | how a node gets in |
//! | [`renew`] | how it stays in |

pub mod ca;
mod congestion;
pub mod error;
mod handshakes;
pub mod identity;
pub mod join;
mod link;
pub mod quic;
pub mod rate;
pub mod renew;
pub mod rpc;
mod serve;
pub mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
pub use error::{CallError, FrameError, NetError};
pub use identity::Identity;
pub use quic::Net;
use raftup_proto::{
    id::NodeId,
    peer::{Answer, Hello, JoinAnswer, JoinRequest, Role},
};
pub use stream::{Receiver, Sender, Stream};

/// The node at the other end of a stream, as its certificate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its id.
    pub node: NodeId,
    /// What its certificate lets it be.
    pub role: Role,
    /// Where its packets come from.
    pub addr: SocketAddr,
}

/// A node and where its control port is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Its id; the certificate at `addr` must name it.
    pub node: NodeId,
    /// The address of its control port.
    pub addr: SocketAddr,
}

/// What a node does with what others send.
#[async_trait]
pub trait Serve: Send + Sync + 'static {
    /// A node asks to be admitted. `from` is the node's address, as the manager saw it that was asked.
    async fn join(&self, from: SocketAddr, request: JoinRequest) -> JoinAnswer;

    /// One question; the caller's role was checked against [`rpc::allowed_request`].
    async fn rpc(&self, caller: Caller, request: raftup_proto::peer::Request) -> Answer;

    /// A stream of the kind `Session`, `Raft` or `Api`, after its hello; the caller's role was checked against
    /// [`rpc::allowed`].
    async fn stream(&self, caller: Caller, hello: Hello, stream: Stream);

    /// One gossip message. Called in the reading task, so it must not block.
    fn gossip(&self, caller: Caller, message: Bytes);

    /// Whether the node, with a valid certificate for that role, is a member as far as known here. Asked for each
    /// connection and several times a second, so it must be cheap. A node that is not known may be newer than what is
    /// known here: only one that was removed is refused for certain.
    fn may(&self, node: NodeId, role: Role) -> bool;

    /// The addresses that members dial from, as far as known: strangers cannot use up what is reserved for these. Asked
    /// for each incoming connection, so it must be cheap.
    fn members(&self) -> Arc<BTreeSet<SocketAddr>> {
        Arc::default()
    }
}
