//! The daemon's side of the resolver: finds it, starts it where there is none, tells it what to answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::Ipv4Net;
use raftup_proto::{
    id::NetworkId,
    view::{Revision, View},
};
use tracing::{info, warn};

use super::{
    handover::{self, Sockets},
    orders::{Answer, Change, Order, own_differs, update},
    server,
};
use crate::apart::{self, Link, VERSION};

/// The process, as `raftupd` is told it.
const PART: &str = "names";

/// Name of the socket in the directory of sockets.
const SOCKET: &str = "names.sock";

/// What becomes of the name when the part is replaced.
const OLDER: &str = "older.sock";

/// Names are not answered as wanted.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// It cannot be started.
    #[error("the resolver of this node (`raftupd names`) cannot be started")]
    Start(#[source] io::Error),
    /// It does not answer, or not in words that are known.
    #[error("the resolver of this node does not answer at `{socket}`")]
    Silent {
        /// Where it was asked.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot do what it was told.
    #[error("the resolver of this node refused: {0}")]
    Refused(String),
}

/// The resolver, as the daemon sees it. Dropping it leaves it as it is.
#[derive(Debug)]
pub struct Resolver {
    socket: PathBuf,
    link: Option<Link>,
    /// What it was told over this link.
    told: Option<Told>,
}

#[derive(Debug)]
struct Told {
    /// The newest view; what is of it elsewhere counts as one with this.
    view: Arc<View>,
    /// The generation that the resolver knows: the last one with other names.
    generation: Revision,
    pool: Ipv4Net,
    gateways: BTreeSet<Ipv4Addr>,
    own: BTreeMap<Ipv4Addr, Vec<NetworkId>>,
    problems: Vec<String>,
}

impl Resolver {
    /// The resolver whose socket is in `run_dir`.
    pub fn new(run_dir: &Path) -> Self {
        Self { socket: run_dir.join(SOCKET), link: None, told: None }
    }

    /// Has it answer with the names of `view` on `gateways`, and nowhere else; `pool` has all of our addresses. Starts it
    /// where there is none. Costs what changed, and no question if that was nothing.
    ///
    /// Answers what an operator should know, one line a matter; those are tried again next time. Errors: it is in doubt
    /// what is answered, and the next call tells all of it.
    pub async fn set(
        &mut self,
        view: &Arc<View>,
        pool: Ipv4Net,
        gateways: BTreeSet<Ipv4Addr>,
    ) -> Result<Vec<String>, ResolverError> {
        if self.link.is_none() {
            self.open().await?;
        }
        let told = self.told.take();
        let update = update(told.as_ref().map(|told| (&*told.view, told.generation)), view);
        let own = match &told {
            Some(told) if !own_differs(&told.view, view) => told.own.clone(),
            Some(_) | None => view.on_several_networks(),
        };
        if let Some(told) = told.filter(|told| {
            told.pool == pool
                && told.gateways == gateways
                && told.own == own
                && told.problems.is_empty()
                && update.put.is_empty()
                && update.remove.is_empty()
        }) {
            self.told = Some(Told { view: Arc::clone(view), ..told });
            return Ok(Vec::new());
        }
        let generation = update.generation;
        let change = Change { pool, gateways: gateways.clone(), update, own: own.clone() };
        match self.ask(&Order::Set(change)).await? {
            Answer::Done(missing) => {
                let problems = self.provide(missing).await?;
                let view = Arc::clone(view);
                self.told = Some(Told { view, generation, pool, gateways, own, problems: problems.clone() });
                Ok(problems)
            }
            Answer::Failed(reason) => Err(ResolverError::Refused(reason)),
            Answer::Hello { .. } | Answer::Ready => Err(self.lost(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Leaves one that is there as it is, if its names are not older than those of `view`: it may know more than this
    /// process by now. Else as [`Resolver::set`].
    pub async fn begin(
        &mut self,
        view: &Arc<View>,
        pool: Ipv4Net,
        gateways: BTreeSet<Ipv4Addr>,
    ) -> Result<Vec<String>, ResolverError> {
        let known = self.open().await?;
        if known >= Some(view.generation) {
            return Ok(Vec::new());
        }
        self.set(view, pool, gateways).await
    }

    /// Waits until the resolver is gone; for ever where there is none. Cancel-safe.
    pub async fn gone(&mut self) {
        match &mut self.link {
            Some(link) => link.gone().await,
            None => std::future::pending().await,
        }
        warn!("the resolver of this node has ended");
        self.forget();
    }

    /// Ends it, if there is one.
    pub async fn stop(&mut self) {
        for socket in self.older().into_iter().chain([self.socket.clone()]) {
            if let Ok(mut link) = Link::open(&socket).await {
                let _: io::Result<Answer> = link.hear().await;
                // The answer is its end.
                let _: io::Result<Answer> = link.ask(&Order::Stop).await;
            }
            // The next one makes its own.
            let _ = std::fs::remove_file(&socket);
        }
        self.forget();
    }

    /// Answers the generation of the names that it knows; none if it was started just now.
    async fn open(&mut self) -> Result<Option<Revision>, ResolverError> {
        self.forget();
        if let Ok(link) = Link::open(&self.socket).await {
            match self.greeted(link).await {
                Ok((version, generation)) if version == VERSION => {
                    info!("the resolver of an earlier run is taken over");
                    return Ok(generation);
                }
                Ok((version, _)) => {
                    info!(version, "the resolver is of another version and hands over");
                    // It answers on there until the next one was told what it knows.
                    std::fs::rename(&self.socket, self.socket.with_extension(OLDER))
                        .map_err(ResolverError::Start)?;
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "the resolver is started anew");
                    self.stop().await;
                }
            }
        }
        apart::start(PART, &self.socket).map_err(ResolverError::Start)?;
        let link = Link::open(&self.socket).await.map_err(ResolverError::Start)?;
        self.greeted(link).await.map(|_| None)
    }

    /// Hands it the sockets of `missing`: those that one of another version has, which ends with it, and new ones. Answers
    /// as [`Resolver::set`].
    async fn provide(&mut self, missing: BTreeSet<Ipv4Addr>) -> Result<Vec<String>, ResolverError> {
        let older = self.older();
        if missing.is_empty() && older.is_none() {
            return Ok(Vec::new());
        }
        let socket = self.socket.clone();
        // The other ends are waited for.
        let provided = tokio::task::spawn_blocking(move || provide(&socket, older.as_deref(), missing));
        let provided = provided.await.map_err(io::Error::other).and_then(|provided| provided);
        provided.map_err(|error| self.lost(error))
    }

    /// Where one of another version answers, if it was not replaced yet.
    fn older(&self) -> Option<PathBuf> {
        let path = self.socket.with_extension(OLDER);
        path.exists().then_some(path)
    }

    /// Takes the link if the other end says who it is. Answers the version that it runs and what it knows.
    async fn greeted(&mut self, mut link: Link) -> Result<(String, Option<Revision>), ResolverError> {
        match link.hear().await {
            Ok(Answer::Hello { version, generation }) => {
                self.link = Some(link);
                Ok((version, generation))
            }
            Ok(Answer::Done(_) | Answer::Ready | Answer::Failed(_)) => {
                Err(self.lost(io::ErrorKind::InvalidData.into()))
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    async fn ask(&mut self, order: &Order) -> Result<Answer, ResolverError> {
        let Some(link) = &mut self.link else { return Err(self.lost(io::ErrorKind::NotConnected.into())) };
        let answer = link.ask(order).await;
        answer.map_err(|error| self.lost(error))
    }

    fn forget(&mut self) {
        self.link = None;
        self.told = None;
    }

    fn lost(&mut self, source: io::Error) -> ResolverError {
        self.forget();
        ResolverError::Silent { socket: self.socket.clone(), source }
    }
}

/// Opens sockets of `missing`, as far as the resolver at `older` does not hand them over, and hands them to the one at
/// `socket`. Blocks for some seconds at most.
fn provide(socket: &Path, older: Option<&Path>, mut missing: BTreeSet<Ipv4Addr>) -> io::Result<Vec<String>> {
    let mut sockets = older.map(take_over).unwrap_or_default();
    sockets.retain(|sockets| missing.remove(&sockets.gateway));
    let mut problems = Vec::new();
    for gateway in missing {
        match server::open(gateway, server::PORT) {
            Ok(opened) => sockets.push(opened),
            Err(error) => {
                warn!(%gateway, %error, "names cannot be answered");
                problems
                    .push(format!("names cannot be answered on {gateway} port {}: {error}", server::PORT));
            }
        }
    }
    if !sockets.is_empty() {
        give(socket, &sockets)?;
    }
    if let Some(older) = older {
        info!("goes on where the older resolver was");
        let _ = std::fs::remove_file(older);
    }
    Ok(problems)
}

/// The sockets of an older resolver. What is asked meanwhile waits in them.
fn take_over(older: &Path) -> Vec<Sockets> {
    let taken = apart::order(older, &Order::HandOver).and_then(|stream| handover::take(&stream));
    taken.unwrap_or_else(|error| {
        warn!(%error, "the older resolver does not hand over; it is ended");
        // The answer is its end.
        let _ = apart::order(older, &Order::Stop).and_then(|stream| apart::hear::<Answer>(&stream));
        Vec::new()
    })
}

/// Hands sockets to the resolver at `socket`.
fn give(socket: &Path, sockets: &[Sockets]) -> io::Result<()> {
    let stream = apart::order(socket, &Order::Adopt)?;
    if !matches!(apart::hear(&stream)?, Answer::Ready) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    handover::give(&stream, sockets)?;
    match apart::hear(&stream)? {
        Answer::Done(_) => Ok(()),
        Answer::Failed(reason) => Err(io::Error::other(reason)),
        Answer::Hello { .. } | Answer::Ready => Err(io::ErrorKind::InvalidData.into()),
    }
}
