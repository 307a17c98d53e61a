//! What a task needs and may use.

use serde::{Deserialize, Serialize};

use crate::unit::{CpuMillis, MemBytes};

/// What a task needs and may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// What the engine holds it to.
    pub limits: Amounts,
    /// What the scheduler sets aside for it.
    pub reservations: Amounts,
    /// Most processes in it.
    pub pids: Option<u32>,
}

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// CPU time.
    pub cpu: Option<CpuMillis>,
    /// Memory.
    pub memory: Option<MemBytes>,
}
