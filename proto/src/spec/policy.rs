//! What happens when a task ends, and how tasks are replaced by those of another version.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What happens when a task ends. Source: Compose Deploy Specification, `restart_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// When it is started again.
    pub condition: RestartCondition,
    /// Time before the first restart; further ones of a task that keeps failing back off from it.
    pub delay: Duration,
    /// Give up after so many restarts within the window.
    pub max_attempts: Option<u32>,
    /// The window in which attempts count; without it they count for ever.
    pub window: Option<Duration>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: None,
            window: None,
        }
    }
}

/// When a task that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Never.
    None,
    /// After an exit status other than 0.
    OnFailure,
    /// Always.
    Any,
}

/// How tasks are replaced by those of another version. Source: Compose Deploy Specification, `update_config`; the
/// defaults are Docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatePolicy {
    /// So many slots change at a time; 0 for all.
    pub parallelism: u32,
    /// Time from a task that is ready to the next that is replaced.
    pub delay: Duration,
    /// Which comes first, the end of the old task or the start of the new one.
    pub order: UpdateOrder,
    /// A new task that ends within that time after it came to serve counts as failed; the next one waits for so long,
    /// unless a health check has vouched for it.
    pub monitor: Duration,
    /// What happens when too many have failed.
    pub failure_action: FailureAction,
    /// Of the slots that change, as many may fail.
    pub max_failure_ratio: Ratio,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            order: UpdateOrder::StopFirst,
            monitor: MONITOR,
            failure_action: FailureAction::Pause,
            max_failure_ratio: Ratio(0),
        }
    }
}

impl UpdatePolicy {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How long a new task is watched where the file does not say, or says 0, as in Swarm.
pub const MONITOR: Duration = Duration::from_secs(5);

/// Which comes first when a task is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old task stops, then the new one starts.
    StopFirst,
    /// The new task starts; once connections reach it on every node, the old one stops.
    StartFirst,
}

impl fmt::Display for UpdateOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StopFirst => "stop-first",
            Self::StartFirst => "start-first",
        })
    }
}

impl std::str::FromStr for UpdateOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop-first" => Ok(Self::StopFirst),
            "start-first" => Ok(Self::StartFirst),
            _ => Err("neither `stop-first` nor `start-first`".to_owned()),
        }
    }
}

/// What happens when too many tasks of a new version have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// No further task is replaced.
    Pause,
    /// The others are replaced all the same.
    Continue,
    /// The service goes back to the version before.
    Rollback,
}

impl fmt::Display for FailureAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pause => "pause",
            Self::Continue => "continue",
            Self::Rollback => "rollback",
        })
    }
}

impl std::str::FromStr for FailureAction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pause" => Ok(Self::Pause),
            "continue" => Ok(Self::Continue),
            "rollback" => Ok(Self::Rollback),
            _ => Err("none of `pause`, `continue` and `rollback`".to_owned()),
        }
    }
}

/// A share of a whole, in millionths: 0 to 1,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(pub u32);

impl Ratio {
    /// All of it.
    pub const WHOLE: u32 = 1_000_000;

    /// `part` of `whole` is more than this share.
    pub fn is_exceeded_by(self, part: u32, whole: u32) -> bool {
        u64::from(part) * u64::from(Self::WHOLE) > u64::from(self.0) * u64::from(whole)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&(f64::from(self.0) / f64::from(Self::WHOLE)).to_string())
    }
}

impl std::str::FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => {
                Ok(Self((share * f64::from(Self::WHOLE)).round() as u32))
            }
            Ok(_) => Err("not between 0 and 1".to_owned()),
            Err(_) => Err("not a number such as `0.25`".to_owned()),
        }
    }
}
