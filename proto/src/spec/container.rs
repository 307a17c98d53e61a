//! The container of a task: command, environment and everything that the engine is told about it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    blob::{BlobKind, BlobMount},
    is_default,
    limits::{BlockIo, CpuTuning, MemoryTuning, Ulimit},
    mount::Mount,
    namespaces::{Names, Namespaces},
    network::EndpointSpec,
    privileges::Privileges,
};

/// What is in a container. Two tasks with equal container specs need no replacement of one by the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The image as it was asked for, such as `nginx:1.27`.
    pub image: String,
    /// Replaces the image's command where given.
    pub command: Option<Vec<String>>,
    /// Replaces the image's entrypoint where given; an empty list clears it.
    pub entrypoint: Option<Vec<String>>,
    /// The environment, sorted by name; values may be empty.
    pub env: BTreeMap<String, String>,
    /// Host name inside the container; service and slot by default, as in `web-2`.
    pub hostname: Option<String>,
    /// `user[:group]` to run as.
    pub user: Option<String>,
    /// Directory to start in.
    pub working_dir: Option<String>,
    /// Signal that asks the container to stop, such as `SIGTERM`.
    pub stop_signal: Option<String>,
    /// Time between that signal and a kill; [`STOP_GRACE`] where not given.
    pub stop_grace: Option<Duration>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// Run an init process as the container's first one.
    pub init: bool,
    /// The container's root file system cannot be written.
    pub read_only: bool,
    /// What is mounted where, in the order of the file.
    pub mounts: Vec<Mount>,
    /// How to tell whether it is healthy; the image's own check where not given.
    pub healthcheck: Option<Healthcheck>,
    /// The name of the container on its node, and a name of the service on its networks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub container_name: Option<String>,
    /// NIS domain name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub domainname: Option<String>,
    /// It has a terminal.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tty: bool,
    /// Its standard input stays open.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stdin_open: bool,
    /// Platform of the image, such as `linux/arm64`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub platform: Option<String>,
    /// The engine's runtime, such as `nvidia`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtime: Option<String>,
    /// When the image is pulled.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull_policy: PullPolicy,
    /// Where its output goes; the engine's default where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logging: Option<Logging>,
    /// Annotations for the runtime (engines 24 and newer).
    #[serde(default, skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Options of the engine's storage driver.
    #[serde(default, skip_serializing_if = "is_default")]
    pub storage_opt: BTreeMap<String, String>,
    /// Kernel parameters of its namespaces.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sysctls: BTreeMap<String, String>,
    /// Limits of its processes, by name, such as `nofile`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Whom it asks for names, and what it knows without asking.
    #[serde(default, skip_serializing_if = "is_default")]
    pub names: Names,
    /// What it shares with its host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub namespaces: Namespaces,
    /// What it may do beyond other containers, or not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub privileges: Privileges,
    /// How its CPU time is shared out, besides the limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpu: CpuTuning,
    /// How its memory is handled, besides the limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: MemoryTuning,
    /// Limits of its disks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub block_io: BlockIo,
    /// Commands that are run in it once it has started, one after the other, before it counts as ready.
    #[serde(default, skip_serializing_if = "is_default")]
    pub post_start: Vec<Hook>,
    /// Commands that are run in it before it is told to stop, one after the other, within its grace period.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pre_stop: Vec<Hook>,
    /// Its end of each network, in the order of the service's; empty where none has options.
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoints: Vec<EndpointSpec>,
    /// The secrets that it reads, in the order of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secrets: Vec<BlobMount>,
    /// The configs that it reads, in the order of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub configs: Vec<BlobMount>,
}

/// A command that is run in a container that runs. Source: Compose Specification, `post_start` and `pre_stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The command, not empty.
    pub command: Vec<String>,
    /// Its user; that of the container where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: Option<String>,
    /// It may do whatever root of the host may.
    #[serde(default, skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// Its directory; that of the container where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub working_dir: Option<String>,
    /// Variables besides those of the container.
    #[serde(default, skip_serializing_if = "is_default")]
    pub env: BTreeMap<String, String>,
}

/// When an image is pulled. Source: Compose Specification, `pull_policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Where the node does not have it.
    #[default]
    Missing,
    /// Before each container. An image whose digest is known needs no second pull.
    Always,
    /// Never: the node has it, or the task fails.
    Never,
}

/// Where a container's output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// The engine's driver, such as `journald`; its default one where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// Options of the driver.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}

/// Time between the stop signal and the kill where the file does not say.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

impl ContainerSpec {
    /// Time between the stop signal and the kill.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace.unwrap_or(STOP_GRACE)
    }

    /// Its secrets and its configs.
    pub fn blobs(&self) -> impl Iterator<Item = (BlobKind, &BlobMount)> {
        let secrets = self.secrets.iter().map(|mount| (BlobKind::Secret, mount));
        secrets.chain(self.configs.iter().map(|mount| (BlobKind::Config, mount)))
    }

    /// The same, to be changed.
    pub fn blobs_mut(&mut self) -> impl Iterator<Item = (BlobKind, &mut BlobMount)> {
        let secrets = self.secrets.iter_mut().map(|mount| (BlobKind::Secret, mount));
        secrets.chain(self.configs.iter_mut().map(|mount| (BlobKind::Config, mount)))
    }

    /// It has the network of its node, and none of the stack's.
    pub fn on_host_network(&self) -> bool {
        self.namespaces.network.as_deref() == Some("host")
    }
}

/// How to tell whether a container is healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Healthcheck {
    /// Switch the image's own check off.
    Disabled,
    /// Run a command in the container.
    Check {
        /// `["CMD", ...]` or `["CMD-SHELL", line]`; the image's own test where not given.
        test: Option<Vec<String>>,
        /// Time between checks.
        interval: Option<Duration>,
        /// Time for one check.
        timeout: Option<Duration>,
        /// Failures in a row that make it unhealthy.
        retries: Option<u32>,
        /// Time at the start in which failures do not count.
        start_period: Option<Duration>,
        /// Time between checks during the start period (engines 25 and newer).
        start_interval: Option<Duration>,
    },
}
