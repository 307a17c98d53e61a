//! What can go wrong between nodes, told apart by what there is to check.

use std::{io, net::SocketAddr};

use quinn::{ConnectionError, VarInt};
use raftup_proto::{
    codec::CodecError,
    id::NodeId,
    refusal::{Code, Refusal},
};

/// A frame that was not read or written. The stream is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side ended the stream between two frames.
    #[error("the other side ended the stream")]
    Closed,
    /// The stream broke.
    #[error("the stream broke: {reason}")]
    Lost {
        /// How, with the words of the other side if it gave any.
        reason: String,
    },
    /// A frame that is too large or malformed.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl FrameError {
    pub(super) fn lost(error: io::Error) -> Self {
        Self::Lost { reason: stop_reason(&error).map_or_else(|| error.to_string(), str::to_owned) }
    }

    pub(super) fn cut_short() -> Self {
        Self::Lost { reason: "it ended within a frame".to_owned() }
    }
}

/// The way back for the copy of a data directory; the original needs none.
const COPIED: &str = "if this data directory was copied from there: `raftup leave --force` here, then \
    `raftup join TOKEN` as a new node; the original is not affected";

/// No usable connection to a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// This node is not part of a cluster.
    #[error("this node is not part of a cluster")]
    NoIdentity,
    /// Nothing answers there.
    #[error("nothing answers at {addr}: is raftupd running there, and is UDP {} open?", addr.port())]
    Silent {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// The host answers, but raftupd there refuses connections.
    #[error("{addr} refuses connections: raftupd there is not part of a cluster, or is starting")]
    Refused {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// A certificate of another CA, there or here.
    #[error("{addr} belongs to another cluster: its CA is not ours")]
    ForeignCluster {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// Another node of the cluster has the address.
    #[error("{addr} is node {found}, not node {wanted}")]
    WrongNode {
        /// The address that was tried.
        addr: SocketAddr,
        /// The node that was to be reached.
        wanted: NodeId,
        /// The node that answers there.
        found: NodeId,
    },
    /// The other side's certificate begins in the future of this node's clock.
    #[error(
        "the certificate of {addr} is not valid yet by this node's clock: compare the clocks of both nodes"
    )]
    ClockBehind {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// The other side's certificate ended.
    #[error(
        "the certificate of {addr} has expired by this node's clock: compare the clocks of both nodes, or let that \
         node join again"
    )]
    PeerExpired {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// The other side finds this node's certificate not valid at its time.
    #[error(
        "{addr} finds this node's certificate expired or not valid yet: compare the clocks of both nodes; if this \
         node was off for longer than its certificate's life, it has to join again"
    )]
    OwnExpired {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// The other side does not accept this node's certificate.
    #[error("{addr} does not accept this node's certificate: it is of another cluster's CA")]
    OwnForeign {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// The cluster has removed this node.
    #[error("this node was removed from the cluster")]
    Removed,
    /// Another machine uses this node's identity.
    #[error("this node's identity is in use elsewhere: {message}")]
    Duplicate {
        /// The other side's words, with the address of the first one.
        message: String,
    },
    /// The other side does not want more, or ends.
    #[error("{addr} closed the connection: {message}")]
    Closed {
        /// The other side.
        addr: SocketAddr,
        /// Its words.
        message: String,
    },
    /// The connection broke, or an answer took too long.
    #[error("{addr} does not answer: {message}")]
    Lost {
        /// The other side.
        addr: SocketAddr,
        /// How.
        message: String,
    },
}

impl NetError {
    /// The refusal that a person gets; but for a copy of a node, the hint is in the words already.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::NoIdentity | Self::Duplicate { .. } => Code::Conflict,
            Self::Removed | Self::OwnExpired { .. } | Self::OwnForeign { .. } => Code::Forbidden,
            Self::ForeignCluster { .. } | Self::WrongNode { .. } => Code::Invalid,
            Self::Silent { .. }
            | Self::Refused { .. }
            | Self::ClockBehind { .. }
            | Self::PeerExpired { .. }
            | Self::Closed { .. }
            | Self::Lost { .. } => Code::Unavailable,
        };
        let refusal = Refusal::new(code, self);
        if let Self::Duplicate { .. } = self { refusal.hint(COPIED) } else { refusal }
    }

    /// Another try does not help: the cluster does not know this node any more, or knows another machine as it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Duplicate { .. } | Self::Removed)
    }

    /// What the loss of a connection to `addr` means.
    pub(super) fn from_loss(addr: SocketAddr, error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::Silent { addr },
            ConnectionError::ApplicationClosed(close) => {
                let message = String::from_utf8_lossy(&close.reason).into_owned();
                match Close::from_code(close.error_code) {
                    Some(Close::Removed) => Self::Removed,
                    Some(Close::Duplicate) => Self::Duplicate { message },
                    Some(
                        Close::Unused | Close::Stopping | Close::Protocol | Close::Busy | Close::Expired,
                    )
                    | None => Self::Closed { addr, message },
                }
            }
            ConnectionError::ConnectionClosed(close) => match alert(u64::from(close.error_code)) {
                Some(Alert::Expired) => Self::OwnExpired { addr },
                Some(Alert::UnknownCa) => Self::OwnForeign { addr },
                None if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED => {
                    Self::Refused { addr }
                }
                None => Self::Closed { addr, message: close.to_string() },
            },
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::Reset
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Self::Lost { addr, message: error.to_string() },
        }
    }
}

/// A question that got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The node was not reached, or did not answer. Whether it acted is not known.
    #[error(transparent)]
    Unreachable(#[from] NetError),
    /// The node refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl CallError {
    /// The refusal that a person gets.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Unreachable(error) => error.refusal(),
            Self::Refused(refusal) => refusal,
        }
    }
}

/// TLS alerts that say what to check.
enum Alert {
    Expired,
    UnknownCa,
}

/// QUIC carries a TLS alert as 0x100 and its number (RFC 9001, section 4.8).
fn alert(code: u64) -> Option<Alert> {
    match code.checked_sub(0x100)? {
        45 => Some(Alert::Expired),
        // `decrypt_error` too: a CA of the same name with another key shows as a wrong signature.
        48 | 51 => Some(Alert::UnknownCa),
        _ => None,
    }
}

/// Why a connection is closed on purpose; on the wire as the application's error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// Nothing was said for long, or a better connection is there.
    Unused = 0,
    /// The process ends.
    Stopping = 1,
    /// The node is no longer a member.
    Removed = 2,
    /// The node's identity is in use from elsewhere.
    Duplicate = 3,
    /// The other side does not keep to the protocol.
    Protocol = 4,
    /// Too many connections.
    Busy = 5,
    /// The node's certificate has expired.
    Expired = 6,
}

impl Close {
    const ALL: [Self; 7] = [
        Self::Unused,
        Self::Stopping,
        Self::Removed,
        Self::Duplicate,
        Self::Protocol,
        Self::Busy,
        Self::Expired,
    ];

    pub(super) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    fn from_code(code: VarInt) -> Option<Self> {
        Self::ALL.into_iter().find(|close| close.code() == code)
    }
}

/// Why a stream is stopped on purpose; on the wire as the stream's error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The caller's role does not allow it.
    Forbidden = 1,
    /// Too many streams of the kind.
    Busy = 2,
    /// Not a hello, or one that came too late.
    Protocol = 3,
}

impl Stop {
    pub(super) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// The words for a stream that the other side stopped with one of our codes.
fn stop_reason(error: &io::Error) -> Option<&'static str> {
    let inner = error.get_ref()?;
    let code = match (inner.downcast_ref::<quinn::ReadError>(), inner.downcast_ref::<quinn::WriteError>()) {
        (Some(quinn::ReadError::Reset(code)), _) | (_, Some(quinn::WriteError::Stopped(code))) => *code,
        _ => return None,
    };
    [
        (Stop::Forbidden, "this node's role does not allow it"),
        (Stop::Busy, "too many streams of the kind"),
        (Stop::Protocol, "the other side did not understand"),
    ]
    .into_iter()
    .find(|(stop, _)| stop.code() == code)
    .map(|(_, words)| words)
}
