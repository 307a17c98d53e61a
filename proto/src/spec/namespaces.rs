//! What a container shares with its host, and how it resolves names.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::is_default;

/// Namespaces that are not the container's own, in the engine's words; its own where not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// `host` or `none` in place of networks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Option<String>,
    /// `host`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pid: Option<String>,
    /// `host`, `private`, `shareable` or `none`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipc: Option<String>,
    /// `host`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub uts: Option<String>,
    /// `host`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: Option<String>,
    /// `host` or `private`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cgroup: Option<String>,
    /// The control group above the container's own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cgroup_parent: Option<String>,
}

/// How a container resolves names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Servers that are asked for what the cluster does not answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servers: Vec<IpAddr>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: Vec<String>,
    /// Domains that names are looked up in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub search: Vec<String>,
    /// Lines of `/etc/hosts`: name and address, which may be `host-gateway`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hosts: Vec<(String, String)>,
}
