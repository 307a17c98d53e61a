//! From "no new connections" to "stop".
//!
//! Owns: how long a task that serves stays up after routes have left it. Leaves alone: who has to go (`replicas`,
//! `rollout`), and its grace period (the agent).
//! Holds: a task is told to stop once every node that is not down has routes in force that no longer lead to it, and
//! names that stood for it are forgotten.

use std::time::Duration;

use raftup_proto::{spec::EndpointMode, unit::UnixMillis};

use crate::model::{Desired, Task};

use super::{Facts, liveness::DAEMON_GRACE, review::Review};

/// A node that does not say that it has new routes in force holds a stop up for so long at most: longer than until it
/// counts as down.
pub(super) const DRAIN_LIMIT: Duration = DAEMON_GRACE.saturating_add(Duration::from_secs(5));

/// Where names stand for the tasks themselves, whoever asked before may come for so long after the name has left the task:
/// the time that an answer is kept (`dns::answer`), and as much again.
const NAMES_KEPT: Duration = Duration::from_secs(2);

/// Whether a task can be told to stop.
pub(super) enum Left {
    /// New connections may be led to it.
    Serves,
    /// Some node may lead connections to it still, until then at most.
    Until(UnixMillis),
    /// It takes none.
    Yes,
}

/// How far the routes have left a task.
pub(super) fn left_routes(task: &Task, facts: Facts, now: UnixMillis) -> Left {
    if task.status.state.is_over() || task.desired >= Desired::Stop {
        return Left::Yes;
    }
    match task.desired {
        Desired::Run if task.is_ready() && !task.networks.is_empty() => Left::Serves,
        Desired::Drain => {
            let in_force = facts.in_force.is_none_or(|revision| revision >= task.meta.revision);
            let limit = task.meta.updated.plus(DRAIN_LIMIT);
            if in_force || limit <= now { Left::Yes } else { Left::Until(limit) }
        }
        Desired::Run | Desired::Stop | Desired::Remove => Left::Yes,
    }
}

/// Stops those that no new connection reaches any more.
pub(super) fn finish(review: &mut Review<'_, '_>) {
    let drained: Vec<_> = review.tasks().filter(|task| task.desired == Desired::Drain).cloned().collect();
    for task in drained {
        if review.is_full() {
            return;
        }
        match left_routes(&task, review.facts, review.draft.now) {
            Left::Yes => {
                let named = review.service.current().spec.endpoint_mode == EndpointMode::Dnsrr;
                let asked_for_until = task.meta.updated.plus(NAMES_KEPT);
                if named && review.draft.now < asked_for_until && !task.status.state.is_over() {
                    review.look_again(asked_for_until);
                } else {
                    review.draft.task(&task, |task| task.desired = Desired::Stop);
                }
            }
            Left::Until(limit) => review.look_again(limit),
            Left::Serves => {}
        }
    }
}
