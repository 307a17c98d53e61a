//! The leader's loops: thin shells around `plan`, and its end of the nodes' sessions.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`Control`] (here) | follows leadership: begins a reign, ends it |
//! | `reign` | what one reign shares |
//! | `views` | the state as it moves: agenda of the driver, news for every node |
//! | `driver` | decides over services, and proposes |
//! | `nodes` | finds nodes that are down |
//! | [`quorum`] | keeps as many managers as the cluster wants |
//! | `reports` | puts what nodes report into the state, in batches |
//! | `sessions` | who is heard, since when, and which routes are in force there |
//! | `session` | one node's session |
//! | `clock` | keeps the cluster's clock in the state |
//! | `board` | what each controller did last |
//! | [`tokens`], [`credentials`], [`blobs`] | secrets of the cluster and of its users, sealed in the state |
//!
//! Owns: nothing that outlives a reign. Leaves alone: every decision.
//! Holds: all of it runs only while this node leads and its state is complete; it stops at once when that ends.

pub mod blobs;
mod board;
mod clock;
pub mod credentials;
mod driver;
mod nodes;
pub mod quorum;
mod reign;
mod reports;
pub mod session;
mod sessions;
pub mod tokens;
mod views;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use raftup_proto::{
    api::ControllerView,
    id::{ServiceId, StackId},
    peer::Hello,
    view::Revision,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{
    gossip::Sightings,
    net::{Caller, Net, Stream},
    plan::World,
    secret::Key,
    store::Store,
};

use board::Board;
use quorum::Quorum;
use reign::Reign;

/// How long a node that comes during an election is kept before it is told that this one does not lead.
const ELECTION_WAIT: Duration = Duration::from_millis(500);

/// The leader's loops of this node; idle while another leads. Clones share them.
#[derive(Clone)]
pub struct Control {
    store: Store,
    board: Board,
    reign: watch::Receiver<Option<Arc<Reign>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Control {
    /// Follows leadership from now on, until [`Control::stop`].
    /// `key` unseals what managers keep sealed.
    pub fn start(store: Store, net: Net, gossip: watch::Receiver<Arc<Sightings>>, key: Key) -> Self {
        let (sender, reign) = watch::channel(None);
        let control = Self {
            store,
            board: Board::default(),
            reign,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let quorum = Quorum::new(control.store.clone(), net.clone(), key);
        control.tasks.spawn(control.stop.clone().run_until_cancelled_owned(quorum.run()));
        control.tasks.spawn(follow(control.clone(), net, gossip, sender));
        control
    }

    /// The leader's end of a node's session; returns when it has ended. On a manager that does not lead, the caller is
    /// told who does.
    pub async fn session(&self, caller: Caller, mut stream: Stream) {
        let mut reign = self.reign.clone();
        // An election may be about to end here.
        let found = timeout(ELECTION_WAIT, reign.wait_for(Option::is_some)).await;
        let found = found.ok().and_then(|found| found.ok().and_then(|reign| reign.clone()));
        let Some(reign) = found else {
            let leader = self.store.leadership().borrow().peer();
            let answer = stream.write_frame(&session::not_leader(leader), Hello::Session.cap()).await;
            if let Err(error) = answer {
                tracing::debug!(node = %caller.node, %error, "a session was not answered");
            }
            return;
        };
        reign.end.clone().run_until_cancelled(session::serve(&reign, caller, stream)).await;
    }

    /// Waits until the routes of the state at `revision` are in force on every node that is not down. Never returns where
    /// this node does not lead.
    pub async fn in_force(&self, revision: Revision) {
        let reign = self.reign.borrow().clone();
        let Some(reign) = reign else { return std::future::pending().await };
        let (mut acks, mut editions) = (reign.sessions.watch_in_force(), reign.views.watch());
        loop {
            acks.mark_unchanged();
            editions.mark_unchanged();
            if reign.in_force(reign.views.world().cluster()).is_none_or(|in_force| in_force >= revision) {
                return;
            }
            // Watches lose nothing when a wait on them is dropped; both live as long as the reign.
            tokio::select! {
                _ = acks.changed() => {}
                _ = editions.changed() => {}
            }
        }
    }

    /// The state as the leader's loops see it, once they run here.
    pub async fn edition(&self) -> Option<Edition> {
        let reign = self.reign.clone().wait_for(Option::is_some).await.ok()?.clone()?;
        Some(Edition { revisions: reign.views.watch(), reign })
    }

    /// What each controller did last; those of an earlier reign are kept until the next begins.
    pub fn controllers(&self) -> Vec<ControllerView> {
        self.board.list()
    }

    /// Ends everything, and waits until it has ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The leader's state as it moves, shared by all who look at it.
pub struct Edition {
    reign: Arc<Reign>,
    revisions: watch::Receiver<Revision>,
}

/// What of the state is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// All of it.
    Everything,
    /// These services, and the stack that others may join.
    Services(Option<StackId>, BTreeSet<ServiceId>),
}

impl Edition {
    /// The newest one.
    pub fn world(&mut self) -> World {
        self.revisions.mark_unchanged();
        self.reign.views.world()
    }

    /// Waits until what is of interest may have changed since [`Edition::world`] gave the state at `looked`. False: the
    /// reign is over. Cancel-safe.
    pub async fn touched(&mut self, interest: &Interest, looked: Revision) -> bool {
        let end = self.reign.end.clone();
        let touched = async {
            loop {
                if self.revisions.changed().await.is_err() {
                    return false;
                }
                let touched = match interest {
                    Interest::Everything => true,
                    Interest::Services(stack, services) => self.reign.views.touched(*stack, services, looked),
                };
                if touched {
                    return true;
                }
            }
        };
        end.run_until_cancelled(touched).await.unwrap_or(false)
    }
}

/// Begins and ends reigns.
async fn follow(
    control: Control,
    net: Net,
    gossip: watch::Receiver<Arc<Sightings>>,
    current: watch::Sender<Option<Arc<Reign>>>,
) {
    let mut leadership = control.store.leadership();
    loop {
        let begun = control.stop.run_until_cancelled(leadership.wait_for(|now| now.here)).await;
        let Some(Ok(term)) = begun.map(|begun| begun.map(|now| now.term)) else { return };
        control.board.clear();
        let (tasks, end) = (TaskTracker::new(), control.stop.child_token());
        let reign = Reign::begin(&control, net.clone(), gossip.clone(), end.clone(), &tasks);
        info!(term, "leads the cluster");
        current.send_replace(Some(reign));
        let over = leadership.wait_for(|now| !now.here || now.term != term);
        let stopped = control.stop.run_until_cancelled(over).await.is_none_or(|over| over.is_err());
        current.send_replace(None);
        end.cancel();
        tasks.close();
        tasks.wait().await;
        info!(term, "no longer leads the cluster");
        if stopped {
            return;
        }
    }
}
