//! What the loops of one reign share: from the moment that this node leads until it does not.

use std::sync::Arc;

use raftup_proto::{api::NodeState, view::Revision};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{compute, gossip::Sightings, model::Cluster, net::Net, store::Store};

use super::{
    Control, board::Board, clock, driver, nodes, reports, reports::Reports, sessions::Sessions, views::Views,
};

/// One time of leading.
pub(super) struct Reign {
    pub(super) store: Store,
    pub(super) net: Net,
    pub(super) gossip: watch::Receiver<Arc<Sightings>>,
    pub(super) board: Board,
    pub(super) views: Views,
    pub(super) sessions: Sessions,
    pub(super) reports: Reports,
    pub(super) since: Instant,
    /// Cancelled when it is over.
    pub(super) end: CancellationToken,
}

impl Reign {
    /// Starts the loops, as tasks of `tasks` that end with `end`.
    pub(super) fn begin(
        control: &Control,
        net: Net,
        gossip: watch::Receiver<Arc<Sightings>>,
        end: CancellationToken,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        // Before the snapshot, so that no change is missed between the two.
        let changes = control.store.changes();
        let reign = Arc::new(Self {
            // Indexing a large state takes a while.
            views: compute::in_place(|| Views::new(control.store.snapshot())),
            store: control.store.clone(),
            net,
            gossip,
            board: control.board.clone(),
            sessions: Sessions::default(),
            reports: Reports::default(),
            since: Instant::now(),
            end: end.clone(),
        });
        let until_end = || end.clone();
        let (one, two, three, four) = (reign.clone(), reign.clone(), reign.clone(), reign.clone());
        let five = reign.clone();
        tasks.spawn(until_end().run_until_cancelled_owned(async move {
            one.views.follow(&one.store, changes).await;
        }));
        tasks.spawn(until_end().run_until_cancelled_owned(async move { driver::run(&two).await }));
        tasks.spawn(until_end().run_until_cancelled_owned(async move { nodes::run(&three).await }));
        tasks.spawn(until_end().run_until_cancelled_owned(async move { reports::run(&four).await }));
        tasks.spawn(until_end().run_until_cancelled_owned(async move { clock::run(&five).await }));
        reign
    }

    /// The least generation whose routes are in force on any node of `cluster` that is not down; none without nodes.
    ///
    /// Routes stay in force on a node whose daemon is away: only where a node is down nobody comes through any more.
    pub(super) fn in_force(&self, cluster: &Cluster) -> Option<Revision> {
        let live = cluster.nodes.values().filter(|node| node.state == NodeState::Ready);
        self.sessions.in_force(live.map(|node| node.id))
    }
}
