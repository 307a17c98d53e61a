//! What each controller did last, for `raftup debug controllers`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use raftup_proto::api::ControllerView;

/// The last run of each controller, by name. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Board(Arc<Mutex<BTreeMap<&'static str, ControllerView>>>);

impl Board {
    /// Notes a run.
    pub(super) fn note(&self, name: &'static str, woken_by: &str, took: Duration, last: String) {
        let mut all = self.all();
        let view = all.entry(name).or_insert_with(|| ControllerView {
            name: name.to_owned(),
            runs: 0,
            woken_by: String::new(),
            took_us: 0,
            last: String::new(),
        });
        view.runs += 1;
        woken_by.clone_into(&mut view.woken_by);
        view.took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        view.last = last;
    }

    /// All, by name.
    pub(super) fn list(&self) -> Vec<ControllerView> {
        self.all().values().cloned().collect()
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.all().clear();
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<&'static str, ControllerView>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
