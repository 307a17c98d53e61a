//! What nodes say to each other over QUIC.
//!
//! A stream begins with one [`Hello`] frame that names its kind; the kind fixes what follows and how large a frame
//! may be. Enums here only grow at their end, and structs do not change: bincode numbers variants and fields by position.
//! A node is sent a new variant only once the cluster's [`Level`] says that every node knows it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{
    api::{Credential, Finding},
    id::{BlobId, NodeId, TaskId},
    refusal::Refusal,
    secret::Secret,
    spec::Protocol,
    unit::{CpuMillis, MemBytes, UnixMillis},
    view::{Digests, Revision, ViewPart, ViewUpdate},
};

/// The protocol that both ends of a connection must name.
pub const ALPN: &[u8] = b"raftup/1";

/// First frame of every stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// One [`JoinRequest`], one [`JoinAnswer`]; the only kind for which the caller needs no certificate.
    Join,
    /// One [`Request`], one [`Answer`].
    Rpc,
    /// [`Up`] frames one way, [`Down`] frames the other, for as long as both live.
    Session,
    /// One gossip message on a unidirectional stream, opaque here.
    Gossip,
    /// Raft between managers: requests and answers in turn, opaque here.
    Raft,
    /// HTTP/1.1: the native API of another node.
    Api,
    /// As [`Hello::Join`], forwarded by a manager that is not the leader.
    ForwardedJoin {
        /// Address of the node that asked.
        from: SocketAddr,
    },
}

impl Hello {
    /// Most bytes of one frame of the kind, and of the hello itself under [`Hello::Join`].
    pub fn cap(&self) -> u64 {
        match self {
            Self::Join | Self::ForwardedJoin { .. } => 64 << 10,
            // A content of a secret or config is at most 1,000 KB.
            Self::Rpc => 1 << 20,
            Self::Gossip => 128 << 10,
            Self::Session | Self::Raft => 64 << 20,
            Self::Api => 0,
        }
    }
}

/// What a node may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It may hold the replicated state whenever the cluster wants it to.
    Manager,
    /// It only runs tasks.
    Worker,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
        })
    }
}

/// What a release understands of the cluster's state; counted up with each release that adds something which an older one
/// would pass over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub u32);

impl Default for Level {
    fn default() -> Self {
        Self(1)
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node says of itself. In frames it is JSON, so that fields may be added with `#[serde(default)]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its host name.
    pub hostname: String,
    /// Where its control port is reached.
    pub control: SocketAddr,
    /// Where its fabric port is reached.
    pub underlay: IpAddr,
    /// UDP port of its fabric.
    pub fabric_port: u16,
    /// The keys that its encrypted links are known by, newest last; more than one while a new one takes over.
    pub fabric_keys: Vec<FabricKey>,
    /// Version of `raftupd`.
    pub version: String,
    /// The highest level of a cluster that it understands.
    #[serde(default)]
    pub level: Level,
    /// What it runs on.
    pub platform: Platform,
    /// Published ports that it does not answer on, in order.
    pub deaf: Vec<Deaf>,
    /// What it finds wrong with its clock or its disk and does not pass by itself, one line a matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
}

/// A published port that a node does not answer on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Deaf {
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the node.
    pub published: u16,
    /// The one address that it is on; all of the node's where not given.
    pub host_ip: Option<Ipv4Addr>,
    /// Why.
    pub why: DeafTo,
}

impl std::fmt::Display for Deaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("port ")?;
        if let Some(address) = self.host_ip {
            write!(f, "{address}:")?;
        }
        write!(f, "{}/{}", self.published, self.protocol)
    }
}

/// Why a node does not answer on a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeafTo {
    /// Another program has it, and keeps its clients.
    Taken,
    /// The node does not have the address.
    NoAddress,
}

/// Public half of a key of the encrypted links between nodes (X25519, as WireGuard has it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FabricKey(pub [u8; 32]);

impl std::fmt::Display for FabricKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::BASE64.encode(&self.0))
    }
}

impl std::fmt::Debug for FabricKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// What a node runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, such as `linux`.
    pub os: String,
    /// Architecture in Docker's words, such as `amd64`.
    pub arch: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Version of Docker Engine; none while it does not answer.
    pub engine: Option<String>,
    /// Labels of the engine, as `key=value`.
    pub engine_labels: Vec<String>,
    /// All of its CPU time.
    pub cpu: CpuMillis,
    /// All of its memory.
    pub memory: MemBytes,
    /// How much its engine has of each kind of generic resource (`node-generic-resources`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub generic: BTreeMap<String, u64>,
}

/// A node asks to be admitted.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: [u8; 16],
    /// The role that the token is for.
    pub role: Role,
    /// Certificate signing request, DER; only its public key is taken from it.
    pub csr: Vec<u8>,
    /// What the node says of itself.
    #[serde(with = "crate::codec::spec")]
    pub info: NodeInfo,
    /// Drawn at random by the node for this attempt, so that a repeated attempt is told from a second node.
    pub attempt: u64,
}

/// The answer to a request to be admitted.
pub type JoinAnswer = Result<Admission, Refusal>;

/// What an admitted node needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Its id.
    pub node: NodeId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The settings and the nodes, so that it knows them before its first session brings the rest.
    pub view: ViewUpdate,
}

/// One question to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Is the node `about` reachable from where you are? Managers ask.
    Probe {
        /// The node that has gone quiet.
        about: NodeId,
        /// Its control address; the node that is asked must know it as such.
        at: SocketAddr,
    },
    /// A new certificate for the caller's own id. Managers answer.
    Renew {
        /// Certificate signing request, DER; only its public key is taken from it.
        csr: Vec<u8>,
    },
    /// Hold the replicated state from now on; only the leader asks.
    BecomeManager {
        /// The leader's term. A node that knows a newer one refuses: the leader was replaced.
        term: u64,
        /// The member's id in Raft, never used before.
        member: u64,
        /// Key that unseals what managers keep sealed.
        key: Secret<[u8; 32]>,
    },
    /// Give the replicated state up; only the leader asks.
    LeaveManagers {
        /// The leader's term, as in [`Request::BecomeManager`].
        term: u64,
        /// The member that the node was. A node that has become a later one refuses.
        member: u64,
    },
    /// The caller leaves the cluster for good. Managers answer.
    Leave,
    /// What the registry of the task's image asks for. Managers answer the node that runs the task.
    Credential {
        /// The task.
        task: TaskId,
    },
    /// What is wrong with you, and with your ways to all others? Any member may ask; callers share one examination.
    /// Takes seconds where something is wrong.
    Examine,
    /// A content that a task uses. Managers answer the node that runs the task.
    Blob {
        /// The task.
        task: TaskId,
        /// The content.
        blob: BlobId,
    },
}

/// The answer to a question.
pub type Answer = Result<Reply, Refusal>;

/// An answer that is not a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It was done.
    Done,
    /// To [`Request::Probe`].
    Probed {
        /// It answered.
        reachable: bool,
    },
    /// To [`Request::Renew`].
    Certificate {
        /// DER.
        certificate: Vec<u8>,
    },
    /// To [`Request::Credential`]; none if the stack was deployed without one.
    Credential(Option<Credential>),
    /// To [`Request::Examine`].
    Examined {
        /// Its clock.
        now: UnixMillis,
        /// What it found.
        findings: Vec<Finding>,
    },
    /// To [`Request::Blob`].
    Blob(Secret<Vec<u8>>),
}

/// What a node tells the leader in its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Up {
    /// First frame: who it is. It is told its whole view then, whatever it holds; [`Up::Resume`] says what.
    Start {
        /// What the node says of itself.
        #[serde(with = "crate::codec::spec")]
        info: NodeInfo,
        /// Drawn at random by each process, so that a copied data directory is told from a restart.
        process: u64,
    },
    /// What the node says of itself has changed.
    Info(#[serde(with = "crate::codec::spec")] NodeInfo),
    /// It lives, and asks whether the leader does; sent when nothing was said, or nothing heard, for [`SESSION_BEAT_MS`].
    Alive,
    /// What became of its tasks; newer reports of a task replace older ones.
    Status(Vec<TaskReport>),
    /// Routing state of the generation is in force on the node.
    Applied(Revision),
    /// First frame: who it is, and what it holds; it is told what differs.
    Resume {
        /// What the node says of itself.
        #[serde(with = "crate::codec::spec")]
        info: NodeInfo,
        /// As in [`Up::Start`].
        process: u64,
        /// Of its view, with the parts that an earlier session brought.
        held: Digests,
    },
}

impl Up {
    /// Most bytes of one frame. Less than [`Hello::cap`]: many nodes speak to one leader, which holds a frame in memory.
    pub const CAP: u64 = 512 << 10;

    /// Most reports in one frame, so that it stays below [`Up::CAP`] with the longest messages.
    pub const REPORTS_MAX: usize = 256;
}

/// How often a node sends at least one frame in its session, in milliseconds.
pub const SESSION_BEAT_MS: u64 = 1000;

/// What the leader tells a node in its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Down {
    /// First frame: this manager leads, the session stands.
    Accepted,
    /// First and only frame: another manager leads; none is named. [`Down::Leader`] names one.
    NotLeader(Option<SocketAddr>),
    /// First and only frame: the node is refused, with the reason.
    Refused(Refusal),
    /// Its view changes.
    Update(ViewUpdate),
    /// The leader lives: the answer to [`Up::Alive`].
    Alive,
    /// First and only frame: this manager leads, as far as is known here. Its certificate has to say that it may.
    Leader {
        /// Its id.
        node: NodeId,
        /// Its control address.
        addr: SocketAddr,
    },
    /// What the node holds is replaced, bucket by bucket.
    Part(ViewPart),
    /// What the node says of itself and is not in force, one line each; empty once all of it is.
    NotInForce(Vec<String>),
}

/// What became of a task, as its node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskId,
    /// What became of it.
    pub status: TaskStatus,
}

/// Where a task is in its life. States only move forwards, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Made, not yet looked at.
    New,
    /// No node was found for it yet.
    Pending,
    /// It has a node.
    Assigned,
    /// The node knows of it.
    Accepted,
    /// Its image is pulled.
    Preparing,
    /// It can be started.
    Ready,
    /// Its container starts, or is not healthy yet.
    Starting,
    /// Its container runs and, where it has a health check, is healthy.
    Running,
    /// It ended by itself with exit status 0.
    Complete,
    /// It was told to stop, and did.
    Shutdown,
    /// It ended by itself with another exit status, or was found unhealthy.
    Failed,
    /// Its node could not make it: no such image, no such path, no such address.
    Rejected,
    /// Its node is gone for good, or lost its container because the engine or the host was stopped.
    Orphaned,
}

impl TaskState {
    /// It will never run again.
    pub fn is_over(self) -> bool {
        self > Self::Running
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Orphaned => "orphaned",
        })
    }
}

/// How the message of a task begins that was found unhealthy.
pub const UNHEALTHY: &str = "unhealthy";

/// A state of a task with what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// The state.
    pub state: TaskState,
    /// When it got there.
    pub since: UnixMillis,
    /// Why: what is waited for, or what went wrong.
    pub message: Option<String>,
    /// Id of its container.
    pub container: Option<String>,
    /// Exit status of its container.
    pub exit_code: Option<i64>,
}

impl TaskStatus {
    /// A status without a container.
    pub fn new(state: TaskState, since: UnixMillis) -> Self {
        Self { state, since, message: None, container: None, exit_code: None }
    }

    /// It runs and was found unhealthy: it will be stopped, and serves until nodes lead to others.
    pub fn is_unhealthy(&self) -> bool {
        let says = |message: &String| message.starts_with(UNHEALTHY);
        self.state == TaskState::Running && self.message.as_ref().is_some_and(says)
    }

    /// The same status with a word on why.
    #[must_use]
    pub fn because(mut self, message: impl std::fmt::Display) -> Self {
        self.message = Some(message.to_string());
        self
    }
}
