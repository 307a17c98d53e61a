//! Runs the decisions over services, one at a time: woken by a change, by a node that has routes in force, or by what is
//! due; it never polls.
//!
//! Owns: when to decide. Leaves alone: what (`plan::review`).
//! Holds: a decision is made from the newest world, with the turn to change it; while an earlier change is not agreed upon
//! none is made.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use raftup_proto::{id::ServiceId, unit::UnixMillis};
use tokio::{sync::watch, time::sleep};
use tracing::{debug, warn};

use crate::{
    compute,
    plan::{self, Agenda, Facts, Ids, Plan, World},
    store::ProposeError,
};

use super::reign::Reign;

/// Name on the board.
const NAME: &str = "services";

/// Wait after a run that failed; the next one tries again.
const PAUSE: Duration = Duration::from_millis(300);

/// Decides for as long as the reign lasts.
pub(super) async fn run(reign: &Reign) {
    let mut driver = Driver {
        reign,
        ids: Ids::seeded(rand::random()),
        acks: reign.sessions.watch_in_force(),
        due: BTreeMap::new(),
        left: Agenda::default(),
        left_next: false,
    };
    let mut woken_by = "leadership";
    loop {
        driver.run_once(woken_by).await;
        woken_by = driver.wait().await;
    }
}

struct Driver<'a> {
    reign: &'a Reign,
    ids: Ids,
    /// Moves when routes may be in force that were not at the last look.
    acks: watch::Receiver<()>,
    /// When each service is to be looked at again though nothing changes.
    due: BTreeMap<ServiceId, UnixMillis>,
    /// What earlier runs did not come to, or could not carry out.
    left: Agenda,
    /// The last run was over what is new; what is left has its turn now.
    left_next: bool,
}

impl Driver<'_> {
    async fn run_once(&mut self, woken_by: &str) {
        if self.has_nothing_to_do() {
            return;
        }
        let begun = Instant::now();
        let last = match self.decide().await {
            Ok(last) => last,
            Err(error) => {
                // Someone else was first; their change is on its way here.
                if matches!(error, ProposeError::Conflict) {
                    debug!(%error, "decided from an older state");
                } else {
                    warn!(%error, "a decision was not carried out");
                }
                sleep(PAUSE).await;
                format!("failed, will be tried again: {error}")
            }
        };
        self.reign.board.note(NAME, woken_by, begun.elapsed(), last);
    }

    fn has_nothing_to_do(&self) -> bool {
        let now = self.reign.store.now();
        self.left.is_empty()
            && self.reign.views.is_quiet()
            && self.due.values().all(|at| *at > now)
            && self.reign.views.world().handing_over().is_empty()
    }

    /// One decision, from the newest state. Errors: it was not carried out; its agenda is kept.
    async fn decide(&mut self) -> Result<String, ProposeError> {
        let turn = self.reign.store.turn().await?;
        // The world is indexed a moment after the state has changed. An error means that the reign is over.
        let base = turn.cluster().revision;
        let _ = self.reign.views.watch().wait_for(|revision| *revision >= base).await;
        let now = turn.now();
        let Some((world, agenda)) = self.take_agenda(now) else {
            return Ok("nothing to look at".to_owned());
        };
        // First, so that no acknowledgement is missed between the look and the wait.
        self.acks.mark_unchanged();
        let facts = Facts { in_force: self.reign.in_force(world.cluster()) };
        let ids = &mut self.ids;
        let Plan { set, due, left } = compute::in_place(|| plan::decide(&world, &agenda, facts, now, ids));
        for id in &agenda.services {
            self.due.remove(id);
        }
        self.due.extend(due);
        self.left.merge(left);
        let (looked, changes) = (agenda.services.len(), set.changes.len());
        if !set.is_empty() {
            let mut editions = self.reign.views.watch();
            let made = turn.propose(set).await;
            if made.is_err() {
                self.left.merge(agenda);
            }
            let revision = made?;
            // The next decision has to see this one.
            let _ = editions.wait_for(|seen| *seen >= revision).await;
        }
        Ok(format!("{changes} changes, {looked} services looked at"))
    }

    /// What this run looks at, in the newest world. What is new and what is left take turns, so that a change does not wait
    /// for a long look at everything, and that one comes to its end.
    fn take_agenda(&mut self, now: UnixMillis) -> Option<(World, Agenda)> {
        if self.left_next && !self.left.is_empty() {
            self.left_next = false;
            return Some((self.reign.views.world(), std::mem::take(&mut self.left)));
        }
        let (world, mut agenda) = self.reign.views.take_agenda();
        agenda.services.extend(self.due.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id));
        agenda.services.extend(world.handing_over());
        self.left_next = !agenda.is_empty();
        if agenda.is_empty() {
            agenda = std::mem::take(&mut self.left);
        }
        (!agenda.is_empty()).then_some((world, agenda))
    }

    /// Waits until there is something to do; says what woke it.
    async fn wait(&mut self) -> &'static str {
        if !self.left.is_empty() {
            // A run that changed nothing waited for nothing.
            tokio::task::yield_now().await;
            return "what was left";
        }
        let mut editions = self.reign.views.watch();
        let handing_over = !self.reign.views.world().handing_over().is_empty();
        let next = self.due.values().min().copied();
        let pause = next.map(|at| at.since(self.reign.store.now()));
        if !self.reign.views.is_quiet() {
            return "change";
        }
        // Watches and timers lose nothing when a wait on them is dropped.
        tokio::select! {
            _ = editions.changed() => "change",
            _ = self.acks.changed(), if handing_over => "routes in force",
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => "due",
        }
    }
}
