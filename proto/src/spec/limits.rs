//! What a container may use of its node, beyond the limits that the scheduler knows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::unit::MemBytes;

/// A limit of the processes in a container; -1 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What applies.
    pub soft: i64,
    /// How far a process may raise it.
    pub hard: i64,
}

/// How CPU time is shared out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTuning {
    /// Weight beside other containers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shares: Option<u32>,
    /// Period of the scheduler.
    #[serde(default, skip_serializing_if = "is_default")]
    pub period: Option<Duration>,
    /// CPU time in each period.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quota: Option<Duration>,
    /// The same two for processes of the real-time scheduler.
    #[serde(default, skip_serializing_if = "is_default")]
    pub realtime_period: Option<Duration>,
    /// See above.
    #[serde(default, skip_serializing_if = "is_default")]
    pub realtime_runtime: Option<Duration>,
    /// The cores that it may use, such as `0-2,4`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub set: Option<String>,
}

/// How memory is handled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryTuning {
    /// Size of `/dev/shm`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shm_size: Option<MemBytes>,
    /// Memory and swap together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub swap: Option<Swap>,
    /// How readily it is swapped out, 0 to 100.
    #[serde(default, skip_serializing_if = "is_default")]
    pub swappiness: Option<u8>,
    /// Its processes are not killed when it has used up its memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub oom_kill_disable: bool,
    /// How likely the kernel is to kill it, -1000 to 1000.
    #[serde(default, skip_serializing_if = "is_default")]
    pub oom_score_adj: Option<i16>,
}

/// A limit of memory and swap together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Swap {
    /// As much as the host has.
    Unlimited,
    /// That much, memory included.
    Limit(MemBytes),
}

/// Limits of a container's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIo {
    /// Weight beside other containers, 10 to 1000.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight: Option<u16>,
    /// The same for one device.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight_device: Vec<BlockWeight>,
    /// Most bytes read in a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_bps: Vec<BlockRate>,
    /// Most bytes written in a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_bps: Vec<BlockRate>,
    /// Most reads in a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_iops: Vec<BlockRate>,
    /// Most writes in a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_iops: Vec<BlockRate>,
}

/// A weight of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockWeight {
    /// The device, such as `/dev/sda`.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// A limit of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRate {
    /// The device, such as `/dev/sda`.
    pub path: String,
    /// Bytes or operations in a second.
    pub rate: u64,
}
