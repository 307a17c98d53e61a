//! From "no new connections" to "stop".
//!
//! Owns: how long a task that serves stays up after routes have left it. Leaves alone: who has to go (`replicas`,
//! `rollout`), and its grace period (the agent).
//! Holds: a task is told to stop once every node that is not down has routes in force that no longer lead to it.

use std::time::Duration;

use crate::model::Desired;

use super::{liveness::DAEMON_GRACE, review::Review};

/// A node that does not say that it has new routes in force holds a stop up for so long at most: longer than until it
/// counts as down.
pub(super) const DRAIN_LIMIT: Duration = DAEMON_GRACE.saturating_add(Duration::from_secs(5));

/// Stops those that no new connection reaches any more.
pub(super) fn finish(review: &mut Review<'_, '_>) {
    for task in review.tasks() {
        if task.desired != Desired::Drain {
            continue;
        }
        let over = task.status.state.is_over();
        let in_force = review.facts.in_force.is_none_or(|revision| revision >= task.meta.revision);
        let limit = task.meta.updated.plus(DRAIN_LIMIT);
        if over || in_force || limit <= review.draft.now {
            review.draft.task(&task, |task| task.desired = Desired::Stop);
        } else {
            review.look_again(limit);
        }
    }
}
