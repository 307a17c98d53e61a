//! Whether and when a task that ended by itself is started again.
//!
//! The first restart comes after the policy's delay, each further one of a task that keeps ending after twice the time,
//! up to [`BACK_OFF_CAP`]. A task that ran long enough begins anew.
//!
//! A task that its node lost, because the engine or the host was stopped, did not end by itself: the policy's condition and
//! limit do not count it, and the first time it is replaced without delay.
//!
//! Owns: the restart policy. Leaves alone: tasks that were lost with their node (`replicas` replaces them at once).

use std::time::Duration;

use raftup_proto::{
    peer::TaskState,
    spec::{RestartCondition, RestartPolicy},
    unit::UnixMillis,
};

use crate::model::Task;

/// Longest time between two restarts, unless the policy's own delay is longer.
pub(super) const BACK_OFF_CAP: Duration = Duration::from_secs(60);

/// Where the back-off begins if the policy's delay is shorter.
const BACK_OFF_FLOOR: Duration = Duration::from_secs(1);

/// A task that ran for so long counts as restarted with success, where the policy has no window of its own.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// What becomes of a slot whose task ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A new task, not before that time; it is so manieth in a row.
    Again {
        /// When.
        at: UnixMillis,
        /// Restarts up to then, this one included.
        restarts: u32,
    },
    /// It ended well, and the policy asks for no more.
    Finished,
    /// The policy asks for no more, though it did not end well.
    GivenUp {
        /// Restarts that were tried.
        restarts: u32,
    },
}

/// What becomes of the slot of `task`, which ended by itself. The policy's times run by the leader's clock.
pub(super) fn verdict(policy: &RestartPolicy, task: &Task) -> Verdict {
    let well = task.status.state == TaskState::Complete;
    let wanted = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => !well,
        RestartCondition::None => false,
    };
    let restarts = if settled(policy, task) { 0 } else { task.restarts };
    if task.status.state == TaskState::Orphaned {
        let delay = if restarts == 0 { Duration::ZERO } else { back_off(policy.delay, restarts) };
        let at = task.meta.updated.plus(delay);
        return Verdict::Again { at, restarts: restarts.saturating_add(1) };
    }
    match policy.max_attempts {
        _ if !wanted && well => Verdict::Finished,
        _ if !wanted => Verdict::GivenUp { restarts },
        Some(max) if restarts >= max && well => Verdict::Finished,
        Some(max) if restarts >= max => Verdict::GivenUp { restarts },
        _ => {
            let at = task.meta.updated.plus(back_off(policy.delay, restarts));
            Verdict::Again { at, restarts: restarts.saturating_add(1) }
        }
    }
}

/// It ran long enough for earlier restarts not to count; the time until it ran is no part of that. Source: Compose Deploy
/// Specification, `window`.
fn settled(policy: &RestartPolicy, task: &Task) -> bool {
    let Some(ready) = task.ready else { return false };
    let lived = task.meta.updated.since(ready);
    match (policy.window, policy.max_attempts) {
        (Some(window), _) => lived >= window,
        (None, Some(_)) => false,
        (None, None) => lived >= SETTLED_AFTER,
    }
}

fn back_off(delay: Duration, restarts: u32) -> Duration {
    match restarts {
        0 => delay,
        _ => {
            let doubled = delay.max(BACK_OFF_FLOOR).saturating_mul(1 << restarts.min(16));
            doubled.min(BACK_OFF_CAP.max(delay))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_cap() {
        let seconds = |delay, restarts| back_off(Duration::from_secs(delay), restarts).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 40].map(|n| seconds(5, n)), [5, 10, 20, 40, 60, 60]);
        assert_eq!([0, 1, 2].map(|n| seconds(0, n)), [0, 2, 4]);
        assert_eq!([0, 1].map(|n| seconds(90, n)), [90, 90]);
    }
}
