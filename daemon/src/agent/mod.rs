//! Loops of every node: runs its tasks, keeps its place in the cluster.
//!
//! Owns: the node's view, its containers and engine networks. Leaves alone: what should run where (the leader), links,
//! rules and names ([`routes`]). Holds: nothing here writes the cluster's state; containers outlive this process.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `sync` | the session with the leader |
//! | `follow` | whether the engine answers, what happens there |
//! | `supervisor` | which containers there should be |
//! | `task` | one task: phases and events; pure |
//! | `owner` | the one owner of a container |
//! | `launch` | how each step is done |
//! | `images`, `networks`, `files` | what a container needs first |
//! | `report` | what became of tasks |
//! | `saved` | view and reports on disk |
//! | [`reach`] | which nodes cannot be reached from here |
//! | [`routes`] | links, rules and names from the view |

mod files;
mod follow;
mod hooks;
mod host;
mod images;
mod launch;
mod logs;
mod networks;
mod owner;
pub mod reach;
mod report;
pub mod routes;
mod saved;
mod supervisor;
mod sync;
mod task;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use raftup_proto::{
    api::{Credential, LogLine},
    id::{BlobId, ClusterId, NodeId, TaskId},
    peer::{FabricKey, NodeInfo, Platform, Reply, Request},
    refusal::{Code, Refusal},
    secret::Secret,
    spec::STOP_GRACE,
    unit::UnixMillis,
    view::{Lane, Revision, View, ViewUpdate},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::host::{local, platform};
use self::{
    files::{Contents, Files},
    follow::Follow,
    images::{Credentials, Images},
    launch::{Backoff, Launcher},
    networks::Networks,
    owner::Shared,
    report::Reports,
    saved::{Journal, Saved},
    supervisor::Supervisor,
    sync::Sync,
};
use crate::{
    engine::{Engine, LogOptions},
    net::{CallError, Net, Peer},
};

/// News of the engine that wait; more than come at once when all containers of a node start or end.
const NEWS: usize = 1024;
/// Owners that have ended and wait to be let go.
const GONE: usize = 64;
/// Changes are saved together that come within this time. Short: a process that is killed and started again puts what it
/// saved last into force until it hears from a manager.
const SAVE: Duration = Duration::from_millis(10);
/// What was saved is synced after this time at the latest. Only the death of the host loses what is not, and routes and
/// containers with it.
const SYNC: Duration = Duration::from_secs(1);
/// What has begun with the engine when the agent ends may take so long, so that little is left half done; whoever starts
/// next finds the rest.
const LAST: Duration = Duration::from_secs(2);
/// The engine may hold on to a network for so long after the last container on it has gone.
const LET_GO: Duration = Duration::from_secs(10);
/// Time for one answer of the leader: a config may be large, and a link slow.
const ASK: Duration = Duration::from_secs(20);
/// Containers that are removed at a time when the node leaves.
const LEAVES: usize = 8;

/// What an agent needs to know.
#[derive(Debug)]
pub struct AgentConfig {
    /// Directory of its own, which is there.
    pub dir: PathBuf,
    /// The daemon's directory for what ends with the host.
    pub run_dir: PathBuf,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// What the node says of itself; the agent keeps the platform up to date.
    pub info: NodeInfo,
    /// Managers to ask while the view names none.
    pub seeds: Vec<Peer>,
    /// The first view, of a node that was just admitted.
    pub first: Option<ViewUpdate>,
}

/// Handle of a node's agent. Dropping it ends nothing; see [`Agent::shutdown`].
#[derive(Clone)]
pub struct Agent {
    engine: Arc<dyn Engine>,
    launcher: Arc<Launcher>,
    hostname: String,
    view: watch::Receiver<Arc<View>>,
    fresh: watch::Receiver<bool>,
    reports: Arc<Reports>,
    applied: watch::Sender<Revision>,
    mtu: watch::Sender<BTreeMap<Lane, u32>>,
    info: watch::Sender<NodeInfo>,
    up: watch::Receiver<bool>,
    leader: watch::Receiver<Option<Peer>>,
    refused: watch::Receiver<Option<Refusal>>,
    tracker: TaskTracker,
    stop: CancellationToken,
    quit: CancellationToken,
}

/// Where a session puts what it learns, and finds what it tells.
struct Ends {
    view: watch::Sender<Arc<View>>,
    fresh: watch::Sender<bool>,
    reports: Arc<Reports>,
    info: watch::Receiver<NodeInfo>,
}

impl Agent {
    /// Starts the agent: takes the containers that it finds as they are, and keeps a session with the leader.
    pub fn start(config: AgentConfig, engine: Arc<dyn Engine>, net: Net) -> Self {
        let (node, seeds) = (config.node, config.seeds.clone());
        let (leader, leader_now) = watch::channel(None);
        let (refused, refused_now) = watch::channel(None);
        let from_leader = Arc::new(FromLeader { net: net.clone(), leader: leader_now.clone() });
        let files = Files::new(&config.run_dir, from_leader.clone());
        let (mut agent, ends) = Self::build(config, engine, from_leader, files);
        agent.leader = leader_now;
        agent.refused = refused_now;
        let sync = Sync {
            net,
            node,
            seeds,
            process: rand::random(),
            info: ends.info,
            applied: agent.applied.subscribe(),
            reports: ends.reports,
            view: ends.view,
            fresh: ends.fresh,
            leader,
            refused,
            stop: agent.stop.clone(),
        };
        agent.tracker.spawn(sync.run());
        agent
    }

    /// All but the session.
    fn build(
        config: AgentConfig,
        engine: Arc<dyn Engine>,
        credentials: Arc<dyn Credentials>,
        files: Files,
    ) -> (Self, Ends) {
        let saved = load(&config);
        let (tracker, stop, quit) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let reports = Arc::new(Reports::new(saved.reports));
        let (view, view_now) = watch::channel(Arc::new(saved.view));
        let (fresh, fresh_now) = watch::channel(false);
        let (mtu, mtu_now) = watch::channel(BTreeMap::new());
        let (up, up_now) = watch::channel(false);
        let (platform, platform_now) =
            watch::channel(Platform { engine: None, ..config.info.platform.clone() });
        let (news, news_come) = mpsc::channel(NEWS);
        let (gone, gone_come) = mpsc::channel(GONE);
        let networks = Networks::new(
            engine.clone(),
            (config.cluster, config.node),
            view_now.clone(),
            mtu_now,
            platform_now.clone(),
        );
        let images = Images::new(engine.clone(), credentials);
        let whose = (config.cluster, config.node);
        let launcher =
            Launcher::new(engine.clone(), whose, (images, networks, files), view_now.clone(), up_now.clone());
        let launcher = Arc::new(launcher);
        let (info, info_now) = watch::channel(config.info.clone());
        let sweep = Arc::new(Notify::new());
        let shared = Shared {
            launcher: launcher.clone(),
            reports: reports.clone(),
            gone,
            tracker: tracker.clone(),
            stop: stop.clone(),
            quit: quit.clone(),
        };
        let follow = Follow { engine: engine.clone(), cluster: config.cluster, up, platform, news };
        let supervisor = Supervisor {
            shared,
            view: view_now.clone(),
            fresh: fresh_now.clone(),
            news: news_come,
            gone: gone_come,
            sweep: sweep.clone(),
        };
        tracker.spawn(stop.clone().run_until_cancelled_owned(follow.run()));
        tracker.spawn(supervisor.run());
        tracker.spawn(keep_saved(config.dir, view_now.clone(), reports.clone(), stop.clone()));
        tracker.spawn(stop.clone().run_until_cancelled_owned(keep_swept(
            launcher.clone(),
            fresh_now.clone(),
            sweep.clone(),
        )));
        tracker.spawn(stop.clone().run_until_cancelled_owned(keep_attachable(
            launcher.clone(),
            fresh_now.clone(),
            sweep,
        )));
        tracker.spawn(stop.clone().run_until_cancelled_owned(keep_told(platform_now, info.clone())));
        let agent = Self {
            engine,
            launcher,
            hostname: config.info.hostname,
            view: view_now,
            fresh: fresh_now,
            reports: reports.clone(),
            applied: watch::Sender::new(Revision::default()),
            mtu,
            info,
            up: up_now,
            leader: watch::channel(None).1,
            refused: watch::channel(None).1,
            tracker,
            stop,
            quit,
        };
        (agent, Ends { view, fresh, reports, info: info_now })
    }

    /// The last view; the one on disk at first.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Whether a leader was heard since this process began: the view is not one of an earlier time.
    pub fn fresh(&self) -> watch::Receiver<bool> {
        self.fresh.clone()
    }

    /// The others are told these keys of the encrypted links from now on.
    pub fn announce_keys(&self, keys: Vec<FabricKey>) {
        self.info.send_if_modified(|info| std::mem::replace(&mut info.fabric_keys, keys.clone()) != keys);
    }

    /// What the node says of itself; the leader is told.
    pub fn info(&self) -> watch::Sender<NodeInfo> {
        self.info.clone()
    }

    /// Where the generation is put whose routing state is in force; the leader is told.
    pub fn applied(&self) -> watch::Sender<Revision> {
        self.applied.clone()
    }

    /// Takes the largest packet of a container on each lane from here. No network is made before it is known.
    pub fn follow_mtu(&self, mut mtu: watch::Receiver<BTreeMap<Lane, u32>>) {
        let into = self.mtu.clone();
        let stop = self.stop.clone();
        self.tracker.spawn(stop.run_until_cancelled_owned(async move {
            loop {
                let now = mtu.borrow_and_update().clone();
                into.send_replace(now);
                if mtu.changed().await.is_err() {
                    return;
                }
            }
        }));
    }

    /// The leader, while a session with it stands.
    pub fn leader(&self) -> watch::Receiver<Option<Peer>> {
        self.leader.clone()
    }

    /// Whether the engine answers; moves to true again after it was away.
    pub fn engine_up(&self) -> watch::Receiver<bool> {
        self.up.clone()
    }

    /// What an operator of this node should know, one line a matter.
    pub fn problems(&self) -> Vec<String> {
        let engine = (!*self.up.borrow()).then(|| "Docker Engine does not answer".to_owned());
        let refused = self.refused.borrow().as_ref().map(|refusal| {
            let hint = refusal.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("the cluster refuses this node: {refusal}{hint}")
        });
        engine.into_iter().chain(refused).chain(self.launcher.networks.problems()).collect()
    }

    /// The lines of a task of this node, oldest first; with `follow` until its container ends.
    ///
    /// Errors: the task is not here; later, what the engine says.
    pub fn logs(
        &self,
        task: TaskId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, Refusal>>, Refusal> {
        let view = self.view.borrow().clone();
        // By its id: somebody may have given it another name.
        let container = self.reports.get(task).and_then(|status| status.container);
        let host = self.hostname.clone();
        logs::logs(self.engine.clone(), self.up.clone(), &view, host, (task, container), options)
    }

    /// These images, with what their registries ask for, as they are there now: with their digests. And a line for each that
    /// could not be looked up. One that is asked for by digest is left as it is. Takes a few seconds at most.
    pub async fn pin(
        &self,
        images: BTreeMap<String, Option<Credential>>,
    ) -> (BTreeMap<String, String>, Vec<String>) {
        images::pin(&*self.engine, images).await
    }

    /// Ends the agent, within seconds. Containers stay as they are.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tracker.close();
        if timeout(LAST, self.tracker.wait()).await.is_err() {
            self.quit.cancel();
            self.tracker.wait().await;
        }
    }

    /// Ends the agent, and removes all containers and engine networks of the cluster from this node, containers
    /// within their grace periods. Volumes stay. Errors: the engine does not answer, or does not do it.
    pub async fn leave(&self) -> anyhow::Result<()> {
        self.shutdown().await;
        let containers = self.engine.containers(self.launcher.cluster).await?;
        let view = self.view.borrow().clone();
        let removals = containers.into_iter().map(|container| {
            let item = view.tasks().find(|item| item.task == container.task);
            let grace = item.map_or(STOP_GRACE, |item| item.container.stop_grace());
            let engine = self.engine.clone();
            async move {
                engine.stop(&container.id, grace, None).await?;
                engine.remove(&container.id).await
            }
        });
        let mut removals = futures_util::stream::iter(removals).buffer_unordered(LEAVES);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        self.launcher.files.remove_all();
        let mut again = Backoff::default();
        let networks = async {
            while !self.launcher.networks.remove_all().await? {
                sleep(again.next()).await;
            }
            Ok(())
        };
        timeout(LET_GO, networks).await.context("the engine does not let networks go")?
    }
}

/// What was saved, or the first view of a node that was just admitted.
fn load(config: &AgentConfig) -> Saved {
    let mut saved = Saved::load(&config.dir).unwrap_or_else(|error| {
        tracing::warn!("the saved view is not used: {error:#}");
        None
    });
    if let Some(first) = config.first.clone() {
        let held = saved.get_or_insert_default();
        let newer = first.generation > held.view.generation || held.view.items.is_empty();
        if first.base.is_none() && newer {
            // A whole view always fits.
            let _ = held.view.update(first);
        }
    }
    saved.unwrap_or_default()
}

/// Saves view and reports a moment after they change, and at the end.
async fn keep_saved(
    dir: PathBuf,
    mut view: watch::Receiver<Arc<View>>,
    reports: Arc<Reports>,
    stop: CancellationToken,
) {
    let mut moved = reports.moved();
    let mut journal = Journal::new(dir.clone());
    // When what was saved is to be synced, or what could not be saved is tried again.
    let mut due = None;
    let (mut on, mut failed) = (true, false);
    while on {
        // Cancel-safe: only changes are waited for.
        tokio::select! {
            changed = view.changed() => on = changed.is_ok(),
            _ = moved.changed() => {}
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
            () = stop.cancelled() => on = false,
        }
        on &= stop.run_until_cancelled(sleep(SAVE)).await.is_some();
        moved.mark_unchanged();
        let saved = Saved { view: view.borrow_and_update().as_ref().clone(), reports: reports.all() };
        let sync = !on || due.is_some_and(|due| due <= Instant::now());
        let work = move || {
            let done = journal.save(saved).and_then(|()| if sync { journal.sync() } else { Ok(()) });
            (journal, done)
        };
        let done = match tokio::task::spawn_blocking(work).await {
            Ok((kept, done)) => {
                journal = kept;
                done
            }
            Err(error) => {
                journal = Journal::new(dir.clone());
                Err(std::io::Error::other(error))
            }
        };
        let next = Instant::now() + SYNC;
        due = match &done {
            Ok(()) if sync => None,
            Ok(()) => due.or(Some(next)),
            Err(_) => Some(next),
        };
        if let Err(error) = &done
            && !failed
        {
            tracing::warn!(%error, "the view cannot be saved, trying again");
        }
        failed = done.is_err();
    }
}

/// Removes networks that the cluster does not have any more, each time that some may have been let go, and
/// once more a while after the engine refused: it can hold on to the last container's end for a moment.
async fn keep_swept(launcher: Arc<Launcher>, mut fresh: watch::Receiver<bool>, sweep: Arc<Notify>) {
    if fresh.wait_for(|fresh| *fresh).await.is_err() {
        return;
    }
    let mut again = Backoff::default();
    loop {
        let view = launcher.view.borrow().clone();
        let swept = launcher.answered(|| launcher.networks.sweep(&view)).await;
        let all = swept.unwrap_or_else(|error| {
            tracing::warn!(%error, "networks cannot be removed");
            false
        });
        if all {
            again = Backoff::default();
            sweep.notified().await;
        } else {
            _ = timeout(again.next(), sweep.notified()).await;
        }
    }
}

/// Makes the networks that containers of others may be on, also where no task is; again after the engine refused.
async fn keep_attachable(launcher: Arc<Launcher>, mut fresh: watch::Receiver<bool>, sweep: Arc<Notify>) {
    if fresh.wait_for(|fresh| *fresh).await.is_err() {
        return;
    }
    let mut view = launcher.view.clone();
    let mut again = Backoff::default();
    loop {
        let now = view.borrow_and_update().clone();
        let mut all = true;
        for item in now.networks().filter(|item| item.attachable) {
            if let Err(error) = launcher.answered(|| launcher.networks.ensure(item)).await {
                tracing::warn!(network = item.engine_name(), %error, "network cannot be made");
                all = false;
            }
        }
        if view.has_changed().unwrap_or(true) {
            // The network may have been taken from the view, and swept, just before it was made.
            sweep.notify_one();
        }
        let changed = if all {
            again = Backoff::default();
            view.changed().await
        } else {
            timeout(again.next(), view.changed()).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Puts what the engine says into what the node says of itself.
async fn keep_told(mut platform: watch::Receiver<Platform>, info: watch::Sender<NodeInfo>) {
    while platform.changed().await.is_ok() {
        let now = platform.borrow_and_update().clone();
        info.send_if_modified(|info| std::mem::replace(&mut info.platform, now.clone()) != now);
    }
}

/// Asks the leader for what registries ask for, and for secrets and configs.
struct FromLeader {
    net: Net,
    leader: watch::Receiver<Option<Peer>>,
}

impl FromLeader {
    /// The leader's answer, however long there is none. Errors: it refuses.
    async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        let mut leader = self.leader.clone();
        let mut again = Backoff::default();
        loop {
            let known = leader.wait_for(Option::is_some).await.ok().and_then(|leader| *leader);
            // Without the other end the agent has ended, and nobody waits for an answer.
            let Some(known) = known else { return std::future::pending().await };
            let error = match self.net.call_within(ASK, known, request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(CallError::Refused(refusal)) if refusal.code != Code::Unavailable => return Err(refusal),
                Err(error) => error,
            };
            tracing::debug!(?request, %error, "the leader is asked again");
            sleep(again.next()).await;
        }
    }
}

fn another_answer() -> Refusal {
    Refusal::new(Code::Internal, "the leader's answer is to another question")
}

#[async_trait]
impl Credentials for FromLeader {
    async fn credential(&self, task: TaskId) -> Result<Option<Credential>, Refusal> {
        match self.ask(Request::Credential { task }).await? {
            Reply::Credential(credential) => Ok(credential),
            Reply::Done
            | Reply::Probed { .. }
            | Reply::Certificate { .. }
            | Reply::Examined { .. }
            | Reply::Blob(_) => Err(another_answer()),
        }
    }
}

#[async_trait]
impl Contents for FromLeader {
    async fn blob(&self, task: TaskId, blob: BlobId) -> Result<Secret<Vec<u8>>, Refusal> {
        match self.ask(Request::Blob { task, blob }).await? {
            Reply::Blob(content) => Ok(content),
            Reply::Done
            | Reply::Probed { .. }
            | Reply::Certificate { .. }
            | Reply::Examined { .. }
            | Reply::Credential(_) => Err(another_answer()),
        }
    }
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
