//! Times of the cluster's clock as wall time, for people.
//!
//! The state keeps times by a clock that never jumps and stands still while no manager runs. Shown is when that was by the
//! leader's own clock.

use std::time::Duration;

use raftup_proto::{
    api::{BlobView, NetworkView, NodeView, ServiceView, StackView, TaskView},
    unit::UnixMillis,
};

use crate::store::Store;

/// Smaller differences are that of two machines' clocks, and not worth a time that moves from one look to the next.
const NOTABLE: Duration = Duration::from_secs(5);

/// What the cluster's clock is behind the leader's.
#[derive(Clone, Copy, Default)]
pub(super) struct Times {
    behind_ms: i64,
}

impl Times {
    pub(super) fn of(store: &Store) -> Self {
        let (cluster, wall) = (store.now(), crate::store::wall_clock());
        let apart = wall.since(cluster).max(cluster.since(wall));
        let behind = i64::try_from(wall.0).unwrap_or_default() - i64::try_from(cluster.0).unwrap_or_default();
        // In whole seconds, so that two looks in a row agree.
        Self { behind_ms: if apart < NOTABLE { 0 } else { behind / 1000 * 1000 } }
    }

    fn turn(self, at: &mut UnixMillis) {
        *at = UnixMillis(at.0.saturating_add_signed(self.behind_ms));
    }

    pub(super) fn nodes(self, mut views: Vec<NodeView>) -> Vec<NodeView> {
        views.iter_mut().for_each(|view| self.turn(&mut view.created));
        views
    }

    pub(super) fn stacks(self, mut views: Vec<StackView>) -> Vec<StackView> {
        for view in &mut views {
            self.turn(&mut view.created);
            self.turn(&mut view.updated);
        }
        views
    }

    pub(super) fn networks(self, views: Vec<NetworkView>) -> Vec<NetworkView> {
        views.into_iter().map(|view| self.network(view)).collect()
    }

    pub(super) fn network(self, mut view: NetworkView) -> NetworkView {
        self.turn(&mut view.created);
        view
    }

    pub(super) fn services(self, views: Vec<ServiceView>) -> Vec<ServiceView> {
        views.into_iter().map(|view| self.service(view)).collect()
    }

    pub(super) fn service(self, mut view: ServiceView) -> ServiceView {
        self.turn(&mut view.created);
        self.turn(&mut view.updated);
        view.versions.iter_mut().for_each(|version| self.turn(&mut version.at));
        if let Some(update) = &mut view.update {
            self.turn(&mut update.started);
            if let Some(completed) = &mut update.completed {
                self.turn(completed);
            }
        }
        view
    }

    pub(super) fn blob(self, mut view: BlobView) -> BlobView {
        self.turn(&mut view.created);
        self.turn(&mut view.updated);
        view
    }

    pub(super) fn tasks(self, mut views: Vec<TaskView>) -> Vec<TaskView> {
        views.iter_mut().for_each(|view| self.turn(&mut view.since));
        views
    }
}
