//! What a container may do beyond other containers, or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;

/// Rights and devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// It may do whatever root of the host may.
    #[serde(default, skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// Capabilities that it has besides the engine's default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cap_add: Vec<String>,
    /// Capabilities of the engine's default that it does not have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cap_drop: Vec<String>,
    /// In the engine's words, such as `no-new-privileges` or `seccomp=` and a profile in JSON.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security_opt: Vec<String>,
    /// Further groups of its user.
    #[serde(default, skip_serializing_if = "is_default")]
    pub group_add: Vec<String>,
    /// Devices of the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub devices: Vec<DeviceMapping>,
    /// Rules of its device control group, such as `c 1:3 mr`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub device_cgroup_rules: Vec<String>,
    /// Devices that a driver of the engine chooses, such as GPUs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub device_requests: Vec<DeviceRequest>,
}

/// A device of the host in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Its path on the host.
    pub source: String,
    /// Its path in the container.
    pub target: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// Devices that a driver chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// The driver, such as `nvidia`; any that has the capabilities where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// How many; -1 for all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub count: Option<i64>,
    /// Which.
    #[serde(default, skip_serializing_if = "is_default")]
    pub device_ids: Vec<String>,
    /// What they can do, such as `gpu`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capabilities: Vec<String>,
    /// Options of the driver.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}
