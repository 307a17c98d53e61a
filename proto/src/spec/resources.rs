//! What a task needs and may use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::unit::{CpuMillis, MemBytes};

/// What a task needs and may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// What the engine holds it to.
    pub limits: Amounts,
    /// What the scheduler sets aside for it.
    pub reservations: Amounts,
    /// Most processes in it.
    pub pids: Option<u32>,
    /// Generic resources that are set aside for it: how many of each kind. Nodes state theirs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub generic: BTreeMap<String, u64>,
}

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// CPU time.
    pub cpu: Option<CpuMillis>,
    /// Memory.
    pub memory: Option<MemBytes>,
}
