//! What a service waits for.

use serde::{Deserialize, Serialize};

/// How a service depends on another one of its stack. Source: Compose Specification, `depends_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// What has to be true of the other service.
    pub condition: Condition,
    /// When an update of the other service is complete, the tasks of this one are replaced.
    #[serde(default)]
    pub restart: bool,
    /// Without it, the other service may be missing or fail.
    #[serde(default = "yes")]
    pub required: bool,
}

impl Default for Dependency {
    fn default() -> Self {
        Self { condition: Condition::default(), restart: false, required: true }
    }
}

fn yes() -> bool {
    true
}

/// What a service waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The container of the other service runs, healthy or not.
    #[default]
    #[serde(rename = "service_started")]
    Started,
    /// It runs and, where it has a health check, is healthy.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// It ended with exit status 0.
    #[serde(rename = "service_completed_successfully")]
    Completed,
}
