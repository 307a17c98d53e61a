//! One look at one service: every step in its order, on one draft.
//!
//! Owns: the order of the steps, and the reasons for what waits. Leaves alone: what each step decides.
//! Holds: each slot has at most one task that should run, besides one that replaces it; a plan that was carried out
//! leaves nothing to do.
//!
//! ```text
//! drain: Drain -> Stop -> replicas: doubles, clashes, lost, jobs that changed -> rollout: judge -> replicas: surplus, ended, missing
//!        -> rollout: step -> assign: nodes and addresses -> cleanup: history, versions -> reasons
//! ```
//!
//! A look costs a few passes over the service's tasks, and by what changes. A set that is full ends it after the slot that it
//! is at, each slot being whole in itself; what is left is looked at again, from the first step.

use std::{collections::BTreeMap, sync::Arc};

use raftup_proto::{
    api::NodeState,
    id::{ServiceId, TaskId},
    peer::{TaskState, TaskStatus},
    spec::ServiceSpec,
    unit::UnixMillis,
    view::Revision,
};

use crate::model::{ChangeSet, Desired, ObjectKey, Service, Slot, Task};

use super::{Agenda, Draft, Ids, World, assign, cleanup, drain, replicas, rollout};

/// What a decision rests on besides the replicated state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The least generation of routing state that is in force on a node that is ready; none without such nodes.
    pub in_force: Option<Revision>,
}

/// What to change now, and when to look again if nothing else happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes.
    pub set: ChangeSet,
    /// Services that something is due for, and when; those that were looked at and are not here have nothing due.
    pub due: BTreeMap<ServiceId, UnixMillis>,
    /// What was not looked at, or not to the end: to be decided over after `set` is carried out.
    pub left: Agenda,
}

/// Tasks that are looked at before the rest is left for the next plan; so many take a few milliseconds.
const LOOKED_AT: usize = 10_000;

/// Decides over what is on the agenda, as far as one plan goes. Cost: by the agenda, a few passes over the tasks of each
/// service, and one pass over nodes for each that has tasks without one; at most about 20 ms.
pub fn decide(world: &World, agenda: &Agenda, facts: Facts, now: UnixMillis, ids: &mut Ids) -> Plan {
    let mut draft = Draft::new(world, now);
    let (mut due, mut left) = (BTreeMap::new(), Agenda::default());
    let (mut stacks, mut networks) = (agenda.stacks.clone(), agenda.networks.clone());
    let mut looked_at = 0;
    cleanup::returned_blocks(&mut draft, facts);
    for id in &agenda.services {
        let Some(service) = draft.world().cluster().services.get(id).cloned() else { continue };
        if draft.is_full() || looked_at >= LOOKED_AT {
            left.services.insert(*id);
            continue;
        }
        looked_at += 1 + draft.world().count_of(*id);
        let looked = if service.removing {
            stacks.insert(service.stack);
            cleanup::service(&mut draft, &service, facts)
        } else {
            let mut review = Review::new(&mut draft, ids, facts, service);
            review.run();
            looked_at += review.nodes_looked_at / NODES_OF_ONE;
            Looked { due: review.due, cut_short: review.cut_short }
        };
        if looked.cut_short {
            left.services.insert(*id);
        } else if let Some(at) = looked.due {
            due.insert(*id, at);
        }
    }
    // A task that ended may have been the last on a network that waits to go.
    for (stack, network) in draft.world().leaving() {
        let _ = stack.map_or_else(|| networks.insert(network), |stack| stacks.insert(stack));
    }
    for id in stacks {
        if draft.is_full() {
            left.stacks.insert(id);
        } else {
            cleanup::stack(&mut draft, id);
        }
    }
    for id in networks {
        if draft.is_full() {
            left.networks.insert(id);
        } else {
            cleanup::network(&mut draft, id);
        }
    }
    Plan { set: draft.finish(), due, left }
}

/// So many nodes are looked at as quickly as one task.
const NODES_OF_ONE: usize = 4;

/// What comes of a look at a service.
pub(super) struct Looked {
    pub(super) due: Option<UnixMillis>,
    pub(super) cut_short: bool,
}

/// How a slot is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) version: u64,
    pub(super) not_before: Option<UnixMillis>,
    pub(super) restarts: u32,
    pub(super) awaited: bool,
}

impl Attempt {
    /// The first with that version, at once.
    pub(super) fn of(version: u64) -> Self {
        Self { version, not_before: None, restarts: 0, awaited: false }
    }
}

/// One service being looked at.
pub(super) struct Review<'a, 'b> {
    pub(super) draft: &'a mut Draft<'b>,
    pub(super) facts: Facts,
    pub(super) service: Arc<Service>,
    pub(super) nodes_looked_at: usize,
    ids: &'a mut Ids,
    reasons: BTreeMap<String, Vec<Slot>>,
    due: Option<UnixMillis>,
    cut_short: bool,
}

/// In their order; see the module.
const STEPS: [fn(&mut Review<'_, '_>); 10] = [
    drain::finish,
    replicas::doubles,
    replicas::clashes,
    replicas::lost,
    replicas::run_again,
    rollout::judge,
    replicas::surplus,
    replicas::ended,
    replicas::missing,
    rollout::step,
];

impl<'a, 'b> Review<'a, 'b> {
    fn new(draft: &'a mut Draft<'b>, ids: &'a mut Ids, facts: Facts, service: Arc<Service>) -> Self {
        let reasons = BTreeMap::new();
        Self { draft, facts, service, nodes_looked_at: 0, ids, reasons, due: None, cut_short: false }
    }

    fn run(&mut self) {
        for step in STEPS {
            step(self);
            if self.cut_short {
                break;
            }
        }
        // Those that are new in the set get their nodes with it.
        assign::all(self);
        if !self.cut_short {
            cleanup::history(self);
        }
        if !self.cut_short {
            self.write_down();
        }
    }

    /// The set is full: the caller leaves the rest of what it has to change.
    pub(super) fn is_full(&mut self) -> bool {
        self.cut_short |= self.draft.is_full();
        self.cut_short
    }

    /// What is asked for.
    pub(super) fn spec(&self) -> &Arc<ServiceSpec> {
        &self.service.current().spec
    }

    /// The service's tasks as the draft has them, by slot, then id.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.draft.world().tasks_of(self.service.id)
    }

    /// What was asked for in the version of that number; what is asked for now, if it is not kept.
    pub(super) fn spec_of(&self, version: u64) -> Arc<ServiceSpec> {
        self.service.version(version).unwrap_or_else(|| self.service.current()).spec.clone()
    }

    /// Those that should run, ended by themselves or not: one a slot, and those that are to replace one.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks().filter(|task| task.desired == Desired::Run)
    }

    /// The task as it is now, if it still should run.
    pub(super) fn still(&self, task: &Task) -> Option<Arc<Task>> {
        let now = self.draft.world().cluster().tasks.get(&task.id);
        now.filter(|task| task.desired == Desired::Run).cloned()
    }

    /// Those of them that replace no other: one a slot.
    pub(super) fn heads(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.wanted().filter(|task| task.replaces.is_none())
    }

    /// The task that is to replace `task`.
    pub(super) fn successor(&self, task: &Task) -> Option<Arc<Task>> {
        self.draft.world().successors(task.id).next().cloned()
    }

    /// The task that `task` is to replace, while both should run.
    pub(super) fn replaced_by(&self, task: &Task) -> Option<Arc<Task>> {
        let old = self.still(task)?.replaces?;
        self.draft.world().cluster().tasks.get(&old).filter(|old| old.desired == Desired::Run).cloned()
    }

    /// The task's node is down or gone.
    pub(super) fn is_lost(&self, task: &Task) -> bool {
        let nodes = &self.draft.world().cluster().nodes;
        task.node.is_some_and(|id| nodes.get(&id).is_none_or(|node| node.state == NodeState::Down))
    }

    /// Every node has routes in force that are not older than `revision`.
    pub(super) fn in_force(&self, revision: Revision) -> bool {
        self.facts.in_force.is_none_or(|in_force| in_force >= revision)
    }

    /// The task no longer counts for its slot: it is stopped, gently if it takes connections. One that was to replace it
    /// has the slot from now on.
    pub(super) fn retire(&mut self, task: &Arc<Task>) {
        if let Some(successor) = self.successor(task) {
            self.draft.task(&successor, |successor| successor.replaces = None);
        }
        let over = task.status.state.is_over();
        if task.node.is_none() && !over {
            return self.draft.delete(ObjectKey::Task(task.id));
        }
        let gently = task.is_ready() && !task.networks.is_empty() && !self.is_lost(task);
        let desired = if gently { Desired::Drain } else { Desired::Stop };
        self.draft.task(task, |task| task.desired = desired);
    }

    /// A new task for a slot that has none that should run.
    pub(super) fn start(&mut self, slot: Slot, attempt: Attempt) {
        self.create(slot, attempt, None);
    }

    /// A new task that is to replace `old`, which stays until then.
    pub(super) fn start_beside(&mut self, old: &Task, attempt: Attempt) {
        self.create(old.slot, attempt, Some(old.id));
    }

    fn create(&mut self, slot: Slot, attempt: Attempt, replaces: Option<TaskId>) {
        let Attempt { version, not_before, restarts, awaited } = attempt;
        self.draft.put(Task {
            id: TaskId::from_random(self.ids.fresh()),
            meta: self.draft.fresh_meta(),
            service: self.service.id,
            version,
            slot,
            node: None,
            networks: Vec::new(),
            desired: Desired::Run,
            status: TaskStatus::new(TaskState::New, self.draft.now),
            not_before,
            replaces,
            ready: None,
            restarts,
            awaited,
        });
    }

    /// The service is another from now on.
    pub(super) fn change_service(&mut self, service: Service) {
        self.draft.put(service.clone());
        self.service = Arc::new(service);
    }

    /// Notes why a slot is not as it should be.
    pub(super) fn waits(&mut self, slot: Slot, reason: impl std::fmt::Display) {
        self.reasons.entry(reason.to_string()).or_default().push(slot);
    }

    /// Asks for another look at `at`.
    pub(super) fn look_again(&mut self, at: UnixMillis) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Writes what has changed about the service itself.
    fn write_down(&mut self) {
        let waiting: Vec<String> = std::mem::take(&mut self.reasons)
            .into_iter()
            .map(|(reason, slots)| format!("{}: {reason}", name_slots(slots)))
            .collect();
        let versions = cleanup::versions(&self.service, self.tasks());
        if waiting != self.service.waiting || versions.is_some() {
            let mut service = Service::clone(&self.service);
            service.waiting = waiting;
            service.versions = versions.unwrap_or(service.versions);
            self.draft.put(service);
        }
    }
}

/// Slots that one reason names before it only counts them.
const SLOTS_NAMED: usize = 5;

pub(super) fn name_slots(mut slots: Vec<Slot>) -> String {
    slots.sort_unstable();
    slots.dedup();
    let (word, rest) = match slots.first() {
        Some(Slot::Node(_)) => ("node", slots.len().saturating_sub(SLOTS_NAMED)),
        Some(Slot::Replica(_)) | None => ("slot", slots.len().saturating_sub(SLOTS_NAMED)),
    };
    let plural = if slots.len() > 1 { "s" } else { "" };
    let names: Vec<String> = slots
        .iter()
        .take(SLOTS_NAMED)
        .map(|slot| match slot {
            Slot::Replica(number) => number.to_string(),
            Slot::Node(node) => node.to_string(),
        })
        .collect();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{word}{plural} {}{more}", names.join(", "))
}
