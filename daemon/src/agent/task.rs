//! One task: where its container is in its life, and what is done next.
//!
//! ```text
//! Accepted -> Preparing -> Ready -> Starting -> Running
//!     |           |          |          |          |       ended by itself, or cannot be made
//!     |           |          +----------+----------+---------------------------> Over(end)
//!     |           |          |          |          |       told to stop, unhealthy   ^  |
//!     |           |          +----------+----------+--> Stopping(end) ---------------+  |
//!     +-----------+---- told to stop -------------------------------------------------> |
//!            forgotten, from any of them: Removing(end) -> Gone(end) <------------------+
//! ```
//!
//! Owns: the order of steps. Leaves alone: how they are done (`launch`) and who tells (`supervisor`).
//! Holds: phases never go backwards; nothing follows `Gone`; a container that has ended is never started again.

use raftup_proto::{peer::TaskState, view::Goal};

use crate::engine::{Condition, Health};

/// Where a task's container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The task is known.
    Accepted,
    /// Its image and its networks are made ready.
    Preparing,
    /// Its container is made.
    Ready,
    /// Its container starts, or is not healthy yet.
    Starting,
    /// Its container runs and, where it has a check, is healthy.
    Running,
    /// Its container is being stopped; what that will have been.
    Stopping(End),
    /// It will not run again; the container may still be there.
    Over(End),
    /// The container is being removed.
    Removing(End),
    /// Nothing is left.
    Gone(End),
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with exit status 0.
    Complete,
    /// Because it was told to.
    Shutdown,
    /// By itself with another status, or it was found unhealthy.
    Failed,
    /// It could not be made.
    Rejected,
    /// Because the engine or the host was stopped, and all containers with it.
    Lost,
}

/// What a task is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It may begin.
    Go,
    /// Image and networks are there.
    Prepared,
    /// The container is there.
    Created,
    /// The container was started.
    Started {
        /// A health check has to pass first.
        checked: bool,
    },
    /// The health check passed.
    Healthy,
    /// The health check failed too often.
    Unhealthy,
    /// What was begun cannot be done on this node.
    Impossible,
    /// The container ended.
    Exited {
        /// With status 0.
        success: bool,
    },
    /// The container ended because the engine or the host was stopped.
    Lost,
    /// The container is not there any more, and nobody here removed it.
    Vanished,
    /// It should not run any more.
    Stop,
    /// The container was stopped.
    Stopped,
    /// The cluster has forgotten it.
    Forget,
    /// The container was removed.
    Removed,
}

/// What is done next, beside the loop that waits for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Get the image and the networks.
    Prepare,
    /// Make the container.
    Create,
    /// Start the container.
    Start,
    /// Stop the container within its grace period.
    Stop {
        /// Connections were led to it until now.
        served: bool,
        /// Nodes learn only now that they have to lead connections to others.
        sudden: bool,
    },
    /// Remove the container, after a stop if it may run.
    Remove {
        /// It may run.
        running: bool,
    },
}

/// The next phase, and what is done in it.
pub(super) fn step(phase: Phase, event: Event) -> (Phase, Option<Effect>) {
    match event {
        Event::Go if phase == Phase::Accepted => (Phase::Preparing, Some(Effect::Prepare)),
        Event::Prepared if phase == Phase::Preparing => (Phase::Ready, Some(Effect::Create)),
        Event::Created if phase == Phase::Ready => (Phase::Starting, Some(Effect::Start)),
        Event::Started { checked: false } | Event::Healthy if phase == Phase::Starting => {
            (Phase::Running, None)
        }
        Event::Removed => (removed(phase), None),
        Event::Unhealthy if matches!(phase, Phase::Starting | Phase::Running) => {
            let served = phase == Phase::Running;
            (Phase::Stopping(End::Failed), Some(Effect::Stop { served, sudden: served }))
        }
        Event::Impossible => (impossible(phase), None),
        Event::Exited { success } => (exited(phase, if success { End::Complete } else { End::Failed }), None),
        Event::Lost => (exited(phase, End::Lost), None),
        // Before it is started it may not have been there when somebody looked.
        Event::Vanished if !matches!(phase, Phase::Accepted | Phase::Preparing | Phase::Ready) => {
            (exited(phase, End::Failed), None)
        }
        Event::Stopped => (if let Phase::Stopping(end) = phase { Phase::Over(end) } else { phase }, None),
        Event::Stop => stop(phase),
        Event::Forget => forget(phase),
        Event::Go
        | Event::Prepared
        | Event::Created
        | Event::Started { .. }
        | Event::Healthy
        | Event::Unhealthy
        | Event::Vanished => (phase, None),
    }
}

fn removed(phase: Phase) -> Phase {
    if let Phase::Removing(end) = phase { Phase::Gone(end) } else { phase }
}

fn impossible(phase: Phase) -> Phase {
    match phase {
        Phase::Accepted | Phase::Preparing | Phase::Ready | Phase::Starting => Phase::Over(End::Rejected),
        Phase::Running | Phase::Stopping(_) | Phase::Over(_) | Phase::Removing(_) | Phase::Gone(_) => phase,
    }
}

fn exited(phase: Phase, end: End) -> Phase {
    match phase {
        Phase::Ready | Phase::Starting | Phase::Running => Phase::Over(end),
        Phase::Stopping(end) => Phase::Over(end),
        Phase::Accepted | Phase::Preparing | Phase::Over(_) | Phase::Removing(_) | Phase::Gone(_) => phase,
    }
}

fn stop(phase: Phase) -> (Phase, Option<Effect>) {
    match phase {
        Phase::Accepted | Phase::Preparing => (Phase::Over(End::Shutdown), None),
        Phase::Ready | Phase::Starting | Phase::Running => {
            let served = phase == Phase::Running;
            (Phase::Stopping(End::Shutdown), Some(Effect::Stop { served, sudden: false }))
        }
        Phase::Stopping(_) | Phase::Over(_) | Phase::Removing(_) | Phase::Gone(_) => (phase, None),
    }
}

fn forget(phase: Phase) -> (Phase, Option<Effect>) {
    let remove = |end, running| (Phase::Removing(end), Some(Effect::Remove { running }));
    match phase {
        Phase::Accepted | Phase::Preparing => remove(End::Shutdown, false),
        Phase::Ready | Phase::Starting | Phase::Running => remove(End::Shutdown, true),
        Phase::Stopping(end) => remove(end, true),
        Phase::Over(end) => remove(end, false),
        Phase::Removing(_) | Phase::Gone(_) => (phase, None),
    }
}

impl Phase {
    /// What the cluster is told; none while the last word still holds.
    pub(super) fn state(self) -> Option<TaskState> {
        match self {
            Self::Accepted => Some(TaskState::Accepted),
            Self::Preparing => Some(TaskState::Preparing),
            Self::Ready => Some(TaskState::Ready),
            Self::Starting => Some(TaskState::Starting),
            Self::Running => Some(TaskState::Running),
            Self::Over(end) | Self::Gone(end) => Some(end.state()),
            Self::Stopping(_) | Self::Removing(_) => None,
        }
    }

    /// A container of it may be there by now.
    pub(super) fn may_have_container(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Stopping(_) => true,
            Self::Accepted
            | Self::Preparing
            | Self::Ready
            | Self::Over(_)
            | Self::Removing(_)
            | Self::Gone(_) => false,
        }
    }

    /// It ends because we end it.
    pub(super) fn is_ending(self) -> bool {
        matches!(self, Self::Stopping(_) | Self::Over(_) | Self::Removing(_) | Self::Gone(_))
    }
}

impl End {
    fn state(self) -> TaskState {
        match self {
            Self::Complete => TaskState::Complete,
            Self::Shutdown => TaskState::Shutdown,
            Self::Failed => TaskState::Failed,
            Self::Rejected => TaskState::Rejected,
            Self::Lost => TaskState::Orphaned,
        }
    }
}

/// Where to begin with a task: from the container that was found, and what was last reported of it.
pub(super) fn begin(found: Option<&Condition>, last: Option<TaskState>, goal: Goal) -> (Phase, Vec<Event>) {
    if let Some(end) = last.and_then(ended) {
        // It may have been cut off between its report and its stop.
        let running = matches!(found, Some(Condition::Running(_)));
        return if running { (Phase::Running, vec![Event::Stop]) } else { (Phase::Over(end), Vec::new()) };
    }
    let stop = (goal == Goal::Stop).then_some(Event::Stop);
    let (phase, then) = match found {
        None if last >= Some(TaskState::Starting) => (Phase::Starting, Some(Event::Vanished)),
        None => (Phase::Accepted, None),
        Some(Condition::Created) => (Phase::Ready, Some(Event::Created)),
        Some(Condition::Running(Health::Unchecked | Health::Healthy)) if last == Some(TaskState::Running) => {
            (Phase::Running, None)
        }
        Some(Condition::Running(Health::Unchecked)) => {
            (Phase::Starting, Some(Event::Started { checked: false }))
        }
        Some(Condition::Running(Health::Starting)) => (Phase::Starting, None),
        Some(Condition::Running(Health::Healthy)) => (Phase::Starting, Some(Event::Healthy)),
        Some(Condition::Running(Health::Unhealthy { .. })) => (Phase::Starting, Some(Event::Unhealthy)),
        Some(Condition::Exited(exit)) if exit.with_engine => (Phase::Starting, Some(Event::Lost)),
        Some(Condition::Exited(exit)) => (Phase::Starting, Some(Event::Exited { success: exit.code == 0 })),
    };
    (phase, stop.into_iter().chain(then).collect())
}

/// The same where hooks belong to the start: one that was not over when it was last heard of is done again, as nobody knows
/// how far the hooks had come.
pub(super) fn with_hooks(
    phase: Phase,
    events: Vec<Event>,
    found: Option<&Condition>,
    last: Option<TaskState>,
) -> (Phase, Vec<Event>) {
    let runs = matches!(found, Some(Condition::Running(_)));
    let cut_off = runs && phase == Phase::Starting && last < Some(TaskState::Running);
    if !cut_off || events.iter().any(|event| matches!(event, Event::Stop | Event::Unhealthy)) {
        return (phase, events);
    }
    let healthy = events.into_iter().filter(|event| *event == Event::Healthy);
    (Phase::Ready, std::iter::once(Event::Created).chain(healthy).collect())
}

fn ended(state: TaskState) -> Option<End> {
    match state {
        TaskState::Complete => Some(End::Complete),
        TaskState::Shutdown => Some(End::Shutdown),
        TaskState::Failed => Some(End::Failed),
        TaskState::Rejected => Some(End::Rejected),
        TaskState::Orphaned => Some(End::Lost),
        TaskState::New
        | TaskState::Pending
        | TaskState::Assigned
        | TaskState::Accepted
        | TaskState::Preparing
        | TaskState::Ready
        | TaskState::Starting
        | TaskState::Running => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: [End; 5] = [End::Complete, End::Shutdown, End::Failed, End::Rejected, End::Lost];

    fn phases() -> Vec<Phase> {
        let mut all = vec![Phase::Accepted, Phase::Preparing, Phase::Ready, Phase::Starting, Phase::Running];
        for kind in [Phase::Stopping, Phase::Over, Phase::Removing, Phase::Gone] {
            all.extend(ENDS.map(kind));
        }
        all
    }

    const EVENTS: [Event; 16] = [
        Event::Go,
        Event::Prepared,
        Event::Created,
        Event::Started { checked: false },
        Event::Started { checked: true },
        Event::Healthy,
        Event::Unhealthy,
        Event::Impossible,
        Event::Exited { success: true },
        Event::Exited { success: false },
        Event::Lost,
        Event::Vanished,
        Event::Stop,
        Event::Stopped,
        Event::Forget,
        Event::Removed,
    ];

    fn rank(phase: Phase) -> u8 {
        match phase {
            Phase::Accepted => 0,
            Phase::Preparing => 1,
            Phase::Ready => 2,
            Phase::Starting => 3,
            Phase::Running => 4,
            Phase::Stopping(_) => 5,
            Phase::Over(_) => 6,
            Phase::Removing(_) => 7,
            Phase::Gone(_) => 8,
        }
    }

    fn end(phase: Phase) -> Option<End> {
        match phase {
            Phase::Stopping(end) | Phase::Over(end) | Phase::Removing(end) | Phase::Gone(end) => Some(end),
            Phase::Accepted | Phase::Preparing | Phase::Ready | Phase::Starting | Phase::Running => None,
        }
    }

    #[test]
    fn every_event_in_every_phase_moves_forwards() {
        for phase in phases() {
            for event in EVENTS {
                let (to, effect) = step(phase, event);
                let what = format!("{phase:?} {event:?} -> {to:?} {effect:?}");
                assert!(rank(to) >= rank(phase), "{what}");
                assert!(end(phase).is_none_or(|end_before| end(to) == Some(end_before)), "{what}");
                assert!(effect.is_none() || to != phase, "an effect is begun once: {what}");
                if matches!(phase, Phase::Gone(_)) {
                    assert_eq!((to, effect), (phase, None), "{what}");
                }
                if phase.is_ending() {
                    let gone = matches!(effect, None | Some(Effect::Stop { .. } | Effect::Remove { .. }));
                    assert!(gone, "nothing is started at the end: {what}");
                }
                if let (Some(before), Some(after)) = (phase.state(), to.state()) {
                    assert!(after >= before, "{what}");
                }
            }
        }
    }

    #[test]
    fn the_ways_through() {
        let walk =
            |events: &[Event]| events.iter().fold(Phase::Accepted, |phase, event| step(phase, *event).0);
        let up = [Event::Go, Event::Prepared, Event::Created, Event::Started { checked: false }];
        assert_eq!(walk(&up), Phase::Running);
        assert_eq!(walk(&[&up[..3], &[Event::Started { checked: true }]].concat()), Phase::Starting);
        assert_eq!(walk(&[&up[..3], &[Event::Healthy]].concat()), Phase::Running);
        assert_eq!(walk(&[Event::Go, Event::Stop]), Phase::Over(End::Shutdown));
        assert_eq!(walk(&[&up[..], &[Event::Unhealthy, Event::Stopped]].concat()), Phase::Over(End::Failed));
        let stopped = [&up[..], &[Event::Stop, Event::Exited { success: false }]].concat();
        assert_eq!(walk(&stopped), Phase::Over(End::Shutdown));
        assert_eq!(
            walk(&[&stopped[..], &[Event::Forget, Event::Removed]].concat()),
            Phase::Gone(End::Shutdown)
        );
        // It ended before the answer to its start was read.
        let quick = [&up[..3], &[Event::Exited { success: true }, up[3]]].concat();
        assert_eq!(walk(&quick), Phase::Over(End::Complete));
    }

    #[test]
    fn containers_are_taken_as_they_are() {
        let run = |found: Option<&Condition>, last| {
            let (phase, events) = begin(found, last, Goal::Run);
            events.into_iter().fold((phase, None), |(phase, _), event| step(phase, event))
        };
        let exited = |code| Condition::Exited(crate::engine::Exit { code, ..Default::default() });
        let running = Condition::Running(Health::Unchecked);
        assert_eq!(run(None, None), (Phase::Accepted, None));
        assert_eq!(run(None, Some(TaskState::Running)), (Phase::Over(End::Failed), None));
        assert_eq!(run(None, Some(TaskState::Rejected)), (Phase::Over(End::Rejected), None));
        assert_eq!(run(Some(&running), Some(TaskState::Running)), (Phase::Running, None));
        assert_eq!(run(Some(&running), None), (Phase::Running, None));
        assert_eq!(run(Some(&exited(0)), None), (Phase::Over(End::Complete), None));
        assert_eq!(run(Some(&exited(1)), Some(TaskState::Running)), (Phase::Over(End::Failed), None));
        let lost = crate::engine::Exit { with_engine: true, ..Default::default() };
        let lost = Condition::Exited(lost);
        assert_eq!(run(Some(&lost), Some(TaskState::Running)), (Phase::Over(End::Lost), None));
        assert_eq!(run(Some(&lost), Some(TaskState::Complete)), (Phase::Over(End::Complete), None));
        assert_eq!(run(Some(&Condition::Created), None), (Phase::Starting, Some(Effect::Start)));
        let (phase, events) = begin(Some(&Condition::Created), None, Goal::Stop);
        let stop = |served| (Phase::Stopping(End::Shutdown), Some(Effect::Stop { served, sudden: false }));
        assert_eq!(step(phase, events[0]), stop(false));
        assert_eq!(step(Phase::Running, Event::Stop), stop(true));
    }
}
