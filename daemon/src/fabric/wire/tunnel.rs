//! The daemon's side of the tunnel: finds it, starts it where there is none, tells it what to be.
//!
//! The kernel's WireGuard is taken where there is one, but not in the place of a process that works.

use std::{
    io,
    path::{Path, PathBuf},
};

use raftup_proto::{peer::FabricKey, unit::UnixMillis};
use tracing::{info, warn};

use super::{
    LinkStatus, PrivateKey, TunnelSpec,
    kernel::{self, Kernel},
    spec::{Answer, Order},
};
use crate::apart::{self, Link, VERSION};

/// The process, as `raftupd` is told it.
const PART: &str = "fabric";

/// Name of the socket in the directory of sockets.
const SOCKET: &str = "fabric.sock";

/// The tunnel is not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It cannot be started.
    #[error("the tunnel between nodes (`raftupd fabric`) cannot be started")]
    Start(#[source] io::Error),
    /// It does not answer, or not in words that are known.
    #[error("the tunnel between nodes does not answer at `{socket}`")]
    Silent {
        /// Where it was asked.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// WireGuard of the kernel.
    #[error("the kernel's WireGuard refused")]
    Kernel(#[source] io::Error),
    /// It cannot do what it was told.
    #[error("the tunnel between nodes refused: {0}")]
    Refused(String),
}

/// The tunnel, as the daemon sees it. Dropping it leaves the tunnel as it is.
#[derive(Debug)]
pub struct Wire {
    socket: PathBuf,
    link: Option<Link>,
    kernel: Option<Kernel>,
    /// What was set last.
    own: Option<FabricKey>,
}

impl Wire {
    /// The tunnel whose socket is in `run_dir`.
    pub fn new(run_dir: &Path) -> Self {
        Self { socket: run_dir.join(SOCKET), link: None, kernel: None, own: None }
    }

    /// Makes it what `spec` says; starts it where there is none. Costs one question if nothing changed.
    ///
    /// Errors: it is ended, and the next call starts it anew.
    pub async fn set(&mut self, spec: &TunnelSpec, now: UnixMillis) -> Result<(), WireError> {
        if self.link.is_none() && self.kernel.is_none() {
            self.open().await?;
        }
        self.own = spec.keys.get(spec.alone).map(PrivateKey::public);
        if let Some(kernel) = &mut self.kernel {
            let set = kernel.set(spec, now).await;
            if set.is_err() {
                self.kernel = None;
            }
            return set.map_err(WireError::Kernel);
        }
        match self.ask(&Order::Set(spec.clone())).await? {
            Answer::Failed(reason) => {
                // One that listens elsewhere, or of which only half works.
                self.stop().await;
                Err(WireError::Refused(reason))
            }
            Answer::Hello { .. } | Answer::Done | Answer::Links(_) => Ok(()),
        }
    }

    /// Takes over what is there, as it is: it may know more than this process by now. What has to be started, or was taken
    /// over by a newer version, is made what `spec` says. Errors: as for [`Wire::set`].
    pub async fn begin(&mut self, spec: &TunnelSpec, now: UnixMillis) -> Result<(), WireError> {
        if self.link.is_some() || self.kernel.is_some() || self.open().await? {
            return Ok(());
        }
        self.set(spec, now).await
    }

    /// How the links to the other nodes are; empty without a tunnel.
    pub async fn status(&mut self, now: UnixMillis) -> Result<Vec<LinkStatus>, WireError> {
        if let (Some(kernel), Some(own)) = (&self.kernel, self.own) {
            return kernel.status(own, now).await.map_err(WireError::Kernel);
        }
        if self.link.is_none() {
            return Ok(Vec::new());
        }
        match self.ask(&Order::Status).await? {
            Answer::Links(links) => Ok(links),
            Answer::Hello { .. } | Answer::Done | Answer::Failed(_) => Ok(Vec::new()),
        }
    }

    /// Waits until the tunnel is gone; for ever where there is none. Cancel-safe.
    pub async fn gone(&mut self) {
        match &mut self.link {
            Some(link) => link.gone().await,
            None => std::future::pending().await,
        }
        warn!("the tunnel between nodes has ended");
        self.link = None;
    }

    /// Ends it, if there is one.
    pub async fn stop(&mut self) {
        if let Err(error) = kernel::remove().await {
            warn!(%error, "the device of the kernel's tunnel stays");
        }
        self.kernel = None;
        if self.link.is_none()
            && let Ok(link) = Link::open(&self.socket).await
        {
            self.link = Some(link);
        }
        if self.link.is_some() {
            // The answer is its end.
            let _ = self.ask(&Order::Stop).await;
        }
        self.link = None;
        // The next one makes its own.
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Answers whether it goes on as it was.
    async fn open(&mut self) -> Result<bool, WireError> {
        if let Ok(link) = Link::open(&self.socket).await {
            match self.greeted(link).await {
                Ok(version) if version == VERSION => {
                    info!("the tunnel of an earlier run is taken over");
                    return Ok(true);
                }
                Ok(version) => {
                    info!(version, "the tunnel is of another version and hands over");
                    return self.replace().await.map(|()| false);
                }
                Err(error) => warn!(error = format!("{error:#}"), "the tunnel is started anew"),
            }
            self.stop().await;
        }
        if let Some((kernel, existed)) = Kernel::find().await.map_err(WireError::Kernel)? {
            info!(existed, "the kernel's WireGuard links the nodes");
            self.kernel = Some(kernel);
            return Ok(existed);
        }
        self.start().await.map(|_| false)
    }

    /// Starts a tunnel that goes on with device and socket of the one that is there.
    async fn replace(&mut self) -> Result<(), WireError> {
        let old = self.socket.with_extension("old.sock");
        std::fs::rename(&self.socket, &old).map_err(WireError::Start)?;
        self.start().await?;
        let taken = self.ask(&Order::TakeOver(old.clone())).await?;
        if let Answer::Failed(reason) = &taken {
            warn!(reason, "the older tunnel does not hand over; it is ended");
            Self { socket: old.clone(), link: None, kernel: None, own: None }.stop().await;
        }
        let _ = std::fs::remove_file(&old);
        Ok(())
    }

    async fn start(&mut self) -> Result<String, WireError> {
        apart::start(PART, &self.socket).map_err(WireError::Start)?;
        let link = Link::open(&self.socket).await.map_err(WireError::Start)?;
        self.greeted(link).await
    }

    /// Takes the link if the other end says who it is. Answers the version that it runs.
    async fn greeted(&mut self, mut link: Link) -> Result<String, WireError> {
        match link.hear().await {
            Ok(Answer::Hello { version }) => {
                self.link = Some(link);
                Ok(version)
            }
            Ok(Answer::Done | Answer::Links(_) | Answer::Failed(_)) => {
                Err(self.lost(io::ErrorKind::InvalidData.into()))
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    async fn ask(&mut self, order: &Order) -> Result<Answer, WireError> {
        let Some(link) = &mut self.link else { return Err(self.lost(io::ErrorKind::NotConnected.into())) };
        let answer = link.ask(order).await;
        answer.map_err(|error| self.lost(error))
    }

    fn lost(&mut self, source: io::Error) -> WireError {
        self.link = None;
        WireError::Silent { socket: self.socket.clone(), source }
    }
}
