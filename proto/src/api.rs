//! Requests and answers of the native HTTP API, under `/raftup/v1`.
//!
//! All bodies are JSON. A request that is refused is answered with a [`Refusal`](crate::refusal::Refusal) and its
//! status. Lists come sorted as they are shown. A stream is one JSON value a line.
//!
//! | method and path | body | answer |
//! | --- | --- | --- |
//! | `GET /status` | | [`Status`] |
//! | `POST /init` | [`Init`] | [`Status`] |
//! | `POST /join` | [`Join`] | [`Status`] |
//! | `POST /leave` | [`Leave`] | empty |
//! | `GET /tokens`, `POST /tokens/{role}/rotate` | | [`Tokens`] |
//! | `GET /problems` | | lines: what is wrong in the cluster |
//! | `GET /nodes`, `GET /nodes/{node}` | | [`NodeView`] |
//! | `PATCH /nodes/{node}` | [`NodeUpdate`] | [`NodeView`] |
//! | `DELETE /nodes/{node}?force` | | empty |
//! | `GET /stacks` | | [`StackView`] |
//! | `PUT /stacks/{stack}` | [`Deploy`] | [`Deployed`] |
//! | `DELETE /stacks/{stack}` | | [`Deployed`] |
//! | `GET /services?stack=`, `GET /services/{service}` | | [`ServiceView`] |
//! | `PATCH /services/{service}` | [`ServiceUpdate`] | [`Deployed`] |
//! | `POST /services/{service}/rollback` | [`Rollback`] | [`Deployed`] |
//! | `DELETE /services/{service}` | | [`Deployed`] |
//! | `GET /networks`, `GET /networks/{network}` | | [`NetworkView`] |
//! | `POST /networks` | [`NetworkCreate`] | [`Deployed`] |
//! | `DELETE /networks/{network}` | | [`Deployed`] |
//! | `GET /tasks?stack=&service=&node=` | | [`TaskView`] |
//! | `GET /progress?stack=`, `?service=` or `?node=`, with `&revision=&versions=` | | stream of [`Progress`] |
//! | `GET /services/{service}/logs?follow&tail=&since=` | | stream of [`LogLine`] |
//! | `GET /secrets`, `GET /configs` | | [`BlobView`] |
//! | `POST /secrets`, `POST /configs` | [`BlobCreate`] | [`BlobView`] |
//! | `GET /secrets/{secret}`, `GET /configs/{config}` | | [`BlobView`], of a config with its content |
//! | `DELETE /secrets/{secret}`, `DELETE /configs/{config}` | | empty |
//! | `GET /doctor` | | [`Finding`] |
//! | `GET /debug/controllers` | | [`ControllerView`] |
//!
//! `{node}`, `{service}`, `{stack}`, `{network}`, `{secret}` and `{config}` are an id, a unique beginning of one, or a name;
//! the same in a query. One that names nothing is refused as not found, in a query too. `{role}` is `manager` or `worker`.
//!
//! Progress is that of the newest change up to now, seen from a state that is not older than `revision`. Of a stack
//! or a service that is being removed it is done when nothing of it is left; one that is gone is not found.
//! That of a node is how far it is from having no task left. With `versions`, a list of [`AskedVersion`]s with commas between
//! them, it has failed as soon as another version takes the place of one of them, or its service is removed.
//! A stream that ends without an outcome was cut off, and is asked for again.
//!
//! A request that changes the cluster may name itself in the header `raftup-request` (up to 64 characters, drawn at random).
//! Asked again under the same name, at whichever node, it takes effect once and is answered as the first time; the last 512
//! are remembered. A field in a body that the daemon does not know is refused.
//!
//! Of logs, `tail` counts lines of each task (all without it), `since` is [`UnixMillis`], and `follow` is present or not.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    id::{BlobId, ClusterId, NetworkId, NodeId, ServiceId, StackId, TaskId},
    name::{NetworkName, ServiceName, StackName},
    peer::{Platform, Role, TaskState},
    secret::Secret,
    spec::{
        BlobData, BlobKind, FailureAction, MONITOR, Mode, PortSpec, Ratio, ServiceSpec, StackSpec,
        UpdateOrder, UpdatePolicy,
    },
    unit::UnixMillis,
    view::Revision,
};

/// A secret or config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobView {
    /// Its id.
    pub id: BlobId,
    /// Which of the two it is.
    pub kind: BlobKind,
    /// Its name.
    pub name: String,
    /// The stack that it goes with; none if it was made by itself.
    pub stack: Option<StackName>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Services that use it, by full name.
    pub used_by: Vec<String>,
    /// When it got the content that it has.
    pub created: UnixMillis,
    /// When its labels last changed.
    pub updated: UnixMillis,
    /// The content of a config that was asked for by name; never that of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<BlobData>,
}

/// Make a secret or config that belongs to no stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobCreate {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its content.
    pub data: BlobData,
}

/// What the daemon that was asked says of itself and its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of `raftupd`.
    pub version: String,
    /// None before `init` or `join`.
    pub member: Option<Membership>,
    /// What is wrong with this node, in words; empty if nothing is.
    pub problems: Vec<String>,
}

/// One thing that `raftup doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: String,
    /// Host name of the node that looked.
    pub node: String,
    /// Host name of the other node, of what is between two.
    pub to: Option<String>,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do next, where something is: a sentence, then the commands of [`Finding::advice`], one a line.
    pub next: Option<String>,
}

/// How lines of [`Finding::next`] begin that are commands.
const COMMAND: &str = "$ ";

impl Finding {
    /// All is well.
    pub fn fine(check: &str, found: impl fmt::Display) -> Self {
        Self::new(check, Health::Ok, found, None)
    }

    /// It works, but someone should look at it.
    pub fn warning(check: &str, found: impl fmt::Display, next: impl fmt::Display) -> Self {
        Self::new(check, Health::Warning, found, Some(next.to_string()))
    }

    /// It does not work.
    pub fn problem(check: &str, found: impl fmt::Display, next: impl fmt::Display) -> Self {
        Self::new(check, Health::Problem, found, Some(next.to_string()))
    }

    /// Adds a command that mends it, as root types it in a shell on the host that the sentence names (without one: on `node`).
    #[must_use]
    pub fn run(mut self, command: impl fmt::Display) -> Self {
        let next = self.next.get_or_insert_default();
        next.push_str(&format!("\n{COMMAND}{command}"));
        self
    }

    /// What to do next, as a sentence, and the commands to type.
    pub fn advice(&self) -> Option<(String, Vec<&str>)> {
        let lines = || self.next.iter().flat_map(|next| next.lines());
        let commands = lines().filter_map(|line| line.strip_prefix(COMMAND)).collect();
        let prose: Vec<&str> = lines().filter(|line| !line.starts_with(COMMAND)).collect();
        self.next.as_ref().map(|_| (prose.join(" "), commands))
    }

    fn new(check: &str, health: Health, found: impl fmt::Display, next: Option<String>) -> Self {
        let (check, found) = (check.to_owned(), found.to_string());
        Self { check, node: String::new(), to: None, health, found, next }
    }
}

/// How something is that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Ok,
    /// It works, but someone should look at it.
    Warning,
    /// It does not work.
    Problem,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// A node's place in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// It holds the replicated state.
    pub manager: bool,
    /// The node that leads, if one is known.
    pub leader: Option<NodeId>,
}

/// Make a cluster of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Init {
    /// Address that other nodes reach this one at; found out where not given.
    pub advertise: Option<IpAddr>,
    /// Pool of all addresses; `10.64.0.0/11` where not given.
    pub pool: Option<Ipv4Net>,
    /// How many managers the cluster keeps.
    pub managers: Managers,
    /// What nodes send each other packets of containers through.
    #[serde(default)]
    pub fabric: FabricMode,
}

/// What nodes send each other packets of containers through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FabricMode {
    /// WireGuard: encrypted, and known to come from a node of the cluster.
    #[default]
    Wireguard,
    /// Bare VXLAN, for a link between hosts that nobody else reaches.
    Plain,
}

/// How many managers the cluster keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Managers {
    /// 1 for up to two nodes, 3 for up to six, 5 for more.
    #[default]
    Auto,
    /// 1, 3 or 5.
    Fixed(u8),
}

/// Join the cluster that a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The token.
    pub token: Secret<String>,
    /// Address that other nodes reach this one at; found out where not given.
    #[serde(default)]
    pub advertise: Option<IpAddr>,
    /// Managers to ask instead of those in the token.
    #[serde(default)]
    pub via: Vec<SocketAddr>,
}

/// Leave the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leave {
    /// Also when no manager answers, or this is the last manager and the cluster ends with it.
    pub force: bool,
}

/// The tokens that let nodes join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// For a node that may become a manager; the usual one.
    pub manager: Secret<String>,
    /// For a node that only ever runs tasks.
    pub worker: Secret<String>,
}

/// Whether a node can run tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It was admitted and has not been heard of yet.
    New,
    /// It lives.
    Ready,
    /// It was not heard of for too long; its tasks run elsewhere.
    Down,
}

/// What an operator allows on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Tasks may run and may be placed there.
    #[default]
    Active,
    /// Those that run stay, no new ones come.
    Pause,
    /// No task stays.
    Drain,
}

/// What a node does with the replicated state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManagerState {
    /// It leads.
    Leader,
    /// It votes.
    Reachable,
    /// It votes, but was not heard of.
    Unreachable,
    /// It catches up, and votes soon.
    Learner,
}

/// A node as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Its host name.
    pub hostname: String,
    /// Whether it can run tasks.
    pub state: NodeState,
    /// Why it is in that state.
    pub message: Option<String>,
    /// What an operator allows.
    pub availability: Availability,
    /// What it may be.
    pub role: Role,
    /// Whether an operator chose that it is a manager (true) or is not (false).
    pub pinned: Option<bool>,
    /// What it does with the replicated state, if anything.
    pub manager: Option<ManagerState>,
    /// Where its control port is reached.
    pub addr: SocketAddr,
    /// Labels given by operators.
    pub labels: BTreeMap<String, String>,
    /// Version of `raftupd`.
    pub version: String,
    /// What it runs on.
    pub platform: Platform,
    /// Tasks that it should run now.
    pub tasks: u32,
    /// When it was admitted.
    pub created: UnixMillis,
    /// What it says of itself and is not in force, and published ports that it does not answer on; one line each.
    pub problems: Vec<String>,
    /// It is the node that answered.
    pub this: bool,
}

/// Change a node; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeUpdate {
    /// What an operator allows.
    pub availability: Option<Availability>,
    /// Labels to set.
    pub label_add: BTreeMap<String, String>,
    /// Labels to remove.
    pub label_rm: Vec<String>,
    /// Promote (true) or demote (false).
    pub manager: Option<bool>,
    /// Make a new key of its encrypted links.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rotate_fabric_key: bool,
    /// Take over the host name, platform and engine labels that it says it has now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_claims: bool,
}

/// A stack as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackView {
    /// Its id.
    pub id: StackId,
    /// Its name.
    pub name: StackName,
    /// Number of its services.
    pub services: u32,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that should run.
    pub desired: u32,
    /// It is being removed.
    pub removing: bool,
    /// When it was first deployed.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// A network as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its id.
    pub id: NetworkId,
    /// Its name in the cluster; services of other stacks name it by this.
    pub name: String,
    /// Its stack; none if it was created by itself.
    pub stack: Option<StackName>,
    /// All of its addresses.
    pub subnet: Ipv4Net,
    /// What goes between nodes is encrypted.
    pub encrypted: bool,
    /// Its containers reach each other and nothing else.
    pub internal: bool,
    /// Containers that are not the cluster's may be on it.
    pub attachable: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Full names of the services on it, in order.
    pub services: Vec<String>,
    /// It is being removed.
    pub removing: bool,
    /// When it was created.
    pub created: UnixMillis,
}

/// Create a network that belongs to no stack. Compose files join it by `external: true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name in the cluster and on the engines.
    pub name: NetworkName,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether what goes between nodes is encrypted; as the cluster's fabric is, where not given.
    #[serde(default)]
    pub encrypted: Option<bool>,
    /// Its containers reach each other and nothing else.
    #[serde(default)]
    pub internal: bool,
    /// Containers that are not the cluster's may be on it.
    #[serde(default)]
    pub attachable: bool,
}

/// Deploy a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// What to deploy.
    pub spec: StackSpec,
    /// Registry credentials for the images of this stack, by registry host (`docker.io` for Docker Hub, with the
    /// port where the image names one).
    #[serde(default)]
    pub credentials: BTreeMap<String, Credential>,
    /// Services, networks and volumes of the stack that `spec` does not name stay; else they are removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
}

/// What a registry asks for. Never logged: its Debug shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// User name, empty with an identity token.
    pub username: String,
    /// Password or identity token.
    pub secret: String,
    /// The secret is an identity token.
    pub identity_token: bool,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// What a deploy or an update changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// The state that holds it; progress is followed from there.
    pub revision: Revision,
    /// What was done to each object that was looked at.
    pub changes: Vec<ChangeView>,
    /// What was done otherwise than meant, one line a matter.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What was done to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeView {
    /// `service`, `network` or `volume`.
    pub kind: String,
    /// Its full name.
    pub name: String,
    /// What was done.
    pub action: Action,
    /// Of a service that stays: the version that is asked for from now on. Whoever watches the change says so with
    /// `versions`, and is told if another version takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<AskedVersion>,
}

/// A version of a service that a change asked for; written as `ID:NUMBER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedVersion {
    /// The service.
    pub service: ServiceId,
    /// The number of the version.
    pub number: u64,
}

impl fmt::Display for AskedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.number)
    }
}

impl std::str::FromStr for AskedVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no version of a service, such as `ID:3`");
        let (service, number) = text.split_once(':').ok_or_else(wrong)?;
        let service = service.parse().map_err(|_| wrong())?;
        Ok(Self { service, number: number.parse().map_err(|_| wrong())? })
    }
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new.
    Created,
    /// It is different.
    Updated,
    /// It is gone, or will be once nothing uses it.
    Removed,
    /// It is as it was.
    Unchanged,
}

/// A service as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its id.
    pub id: ServiceId,
    /// Its stack.
    pub stack: StackName,
    /// Its name in the stack.
    pub name: ServiceName,
    /// How many tasks, and where.
    pub mode: Mode,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that should run.
    pub desired: u32,
    /// Tasks that ended with exit status 0, where the restart policy asks for no more.
    #[serde(default)]
    pub complete: u32,
    /// The image as asked for.
    pub image: String,
    /// Ports that nodes answer on.
    pub ports: Vec<PortSpec>,
    /// It is being removed.
    pub removing: bool,
    /// Why it is not as it should be, one line a reason.
    pub waiting: Vec<String>,
    /// Where it does not answer although its tasks run, one line a matter.
    pub problems: Vec<String>,
    /// How the last update stands, if there was one.
    pub update: Option<UpdateStatus>,
    /// The number of the version that is asked for.
    pub version: u64,
    /// The versions that are kept, newest first; any can be rolled back to.
    pub versions: Vec<VersionView>,
    /// All of it.
    pub spec: ServiceSpec,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// How an update or a rollback stands. The words are Docker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// Where it is.
    pub state: UpdateState,
    /// When it began.
    pub started: UnixMillis,
    /// When it was completed.
    pub completed: Option<UnixMillis>,
    /// Why it is there.
    pub message: String,
}

/// Where an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// Tasks are being replaced.
    Updating,
    /// Too many new tasks failed; nothing is replaced until it is updated, deployed or rolled back again.
    Paused,
    /// All tasks are of the new version.
    Completed,
    /// Tasks are being replaced by those of the version before.
    RollbackStarted,
    /// Too many of those failed.
    RollbackPaused,
    /// All tasks are of the version before.
    RollbackCompleted,
}

impl UpdateState {
    /// Tasks are being replaced.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Updating | Self::RollbackStarted)
    }

    /// It stands, and somebody has to look.
    pub fn is_paused(self) -> bool {
        matches!(self, Self::Paused | Self::RollbackPaused)
    }

    /// It goes back, or went.
    pub fn is_rollback(self) -> bool {
        matches!(self, Self::RollbackStarted | Self::RollbackPaused | Self::RollbackCompleted)
    }
}

impl fmt::Display for UpdateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Updating => "updating",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RollbackStarted => "rollback_started",
            Self::RollbackPaused => "rollback_paused",
            Self::RollbackCompleted => "rollback_completed",
        })
    }
}

/// What a service was asked to be at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// Its number.
    pub number: u64,
    /// When it came.
    pub at: UnixMillis,
    /// Its image, as asked for.
    pub image: String,
}

/// Change a service; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceUpdate {
    /// The number of replicas; refused for a global service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Environment variables to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env_add: BTreeMap<String, String>,
    /// Environment variables to remove.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_rm: Vec<String>,
    /// Replace the tasks even if nothing changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// How tasks are replaced by those of a newer version.
    #[serde(skip_serializing_if = "PolicyUpdate::is_empty")]
    pub update: PolicyUpdate,
    /// The same on the way back.
    #[serde(skip_serializing_if = "PolicyUpdate::is_empty")]
    pub rollback: PolicyUpdate,
}

/// Change an [`UpdatePolicy`]; what is not given stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyUpdate {
    /// See [`UpdatePolicy::parallelism`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// See [`UpdatePolicy::delay`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// See [`UpdatePolicy::order`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<UpdateOrder>,
    /// See [`UpdatePolicy::monitor`]; 0 for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Duration>,
    /// See [`UpdatePolicy::failure_action`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_action: Option<FailureAction>,
    /// See [`UpdatePolicy::max_failure_ratio`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failure_ratio: Option<Ratio>,
}

impl PolicyUpdate {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `policy` with what is given here.
    pub fn applied_to(self, policy: UpdatePolicy) -> UpdatePolicy {
        let monitor = self.monitor.map(|monitor| if monitor.is_zero() { MONITOR } else { monitor });
        UpdatePolicy {
            parallelism: self.parallelism.unwrap_or(policy.parallelism),
            delay: self.delay.unwrap_or(policy.delay),
            order: self.order.unwrap_or(policy.order),
            monitor: monitor.unwrap_or(policy.monitor),
            failure_action: self.failure_action.unwrap_or(policy.failure_action),
            max_failure_ratio: self.max_failure_ratio.unwrap_or(policy.max_failure_ratio),
        }
    }
}

/// Roll a service back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollback {
    /// The number of a version that is kept; the one before the current one where not given.
    pub to: Option<u64>,
}

/// A task as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// Its service.
    pub service: ServiceId,
    /// Its stack.
    pub stack: StackName,
    /// The service's name in the stack.
    pub service_name: ServiceName,
    /// Its slot, counted from 1; the node's number in a global service.
    pub slot: u64,
    /// The image as asked for.
    pub image: String,
    /// Its node.
    pub node: Option<NodeId>,
    /// The node's host name.
    pub hostname: Option<String>,
    /// It should run; if not, it is on its way out or part of the history.
    pub desired: bool,
    /// Its node is down: `state` is the last that was heard of it.
    #[serde(default)]
    pub lost: bool,
    /// Where it is in its life.
    pub state: TaskState,
    /// Since when.
    pub since: UnixMillis,
    /// Why.
    pub message: Option<String>,
    /// Id of its container.
    pub container: Option<String>,
    /// Exit status of its container.
    pub exit_code: Option<i64>,
}

/// How far a change has come; the stream ends after one that is done or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The services that were changed, by name.
    pub services: Vec<ServiceProgress>,
    /// How it stands.
    pub outcome: Outcome,
}

/// How a change stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not there yet.
    Running,
    /// Everything is as asked for.
    Done,
    /// It will not get there by itself.
    Failed {
        /// Which service, and why.
        reason: String,
    },
}

/// How far one service has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceProgress {
    /// Its full name.
    pub name: String,
    /// Tasks of the newest version that run, or are complete.
    pub running: u32,
    /// Those of them that are complete: they ended with exit status 0, and the restart policy asks for no more.
    #[serde(default)]
    pub complete: u32,
    /// Tasks that should.
    pub desired: u32,
    /// What is waited for, one line a reason.
    pub waiting: Vec<String>,
    /// How its last update stands, if there was one.
    pub update: Option<UpdateStatus>,
    /// Where it does not answer although its tasks run, one line a matter.
    pub problems: Vec<String>,
}

/// One line that a container wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The task.
    pub task: TaskId,
    /// The service's full name and the slot: `shop_web.2`.
    pub source: String,
    /// The node's host name.
    pub hostname: String,
    /// It went to standard error.
    pub stderr: bool,
    /// When, in nanoseconds since 1970, as the engine says.
    pub at_nanos: i64,
    /// The line, without its end; bytes that are no text are replaced.
    pub line: String,
}

/// The last run of a controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerView {
    /// Its name.
    pub name: String,
    /// Runs since this node leads.
    pub runs: u64,
    /// What woke it last.
    pub woken_by: String,
    /// How long the last run took, in microseconds.
    pub took_us: u64,
    /// What the last run did, or why it failed.
    pub last: String,
}
