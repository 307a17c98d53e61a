//! The daemon's side of the tunnel: finds it, starts it where there is none, tells it what to be.
//!
//! The kernel's WireGuard is taken where there is one, but not in the place of a process that works.

use std::{
    io,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use raftup_proto::{peer::FabricKey, unit::UnixMillis};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::Command,
    time::timeout,
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{
    LinkStatus, PrivateKey, TunnelSpec,
    kernel::{self, Kernel},
    process::VERSION,
    spec::{Answer, Order},
};

/// Name of the socket in the directory of sockets.
const SOCKET: &str = "fabric.sock";

/// How long the tunnel may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

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
    link: Option<BufReader<UnixStream>>,
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
            // It says nothing that it was not asked, so whatever comes is its end.
            Some(link) => _ = link.fill_buf().await,
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
            && let Ok(stream) = UnixStream::connect(&self.socket).await
        {
            self.link = Some(BufReader::new(stream));
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
        if let Ok(stream) = UnixStream::connect(&self.socket).await {
            match self.greeted(stream).await {
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
        self.start().map_err(WireError::Start)?;
        let stream = UnixStream::connect(&self.socket).await.map_err(WireError::Start)?;
        self.greeted(stream).await.map(|_| false)
    }

    /// Starts a tunnel that goes on with device and socket of the one that is there.
    async fn replace(&mut self) -> Result<(), WireError> {
        let old = self.socket.with_extension("old.sock");
        std::fs::rename(&self.socket, &old).map_err(WireError::Start)?;
        self.start().map_err(WireError::Start)?;
        let stream = UnixStream::connect(&self.socket).await.map_err(WireError::Start)?;
        self.greeted(stream).await?;
        let taken = self.ask(&Order::TakeOver(old.clone())).await?;
        if let Answer::Failed(reason) = &taken {
            warn!(reason, "the older tunnel does not hand over; it is ended");
            Self { socket: old.clone(), link: None, kernel: None, own: None }.stop().await;
        }
        let _ = std::fs::remove_file(&old);
        Ok(())
    }

    /// Takes the stream if the other end says who it is. Answers the version that it runs.
    async fn greeted(&mut self, stream: UnixStream) -> Result<String, WireError> {
        self.link = Some(BufReader::new(stream));
        match self.hear().await? {
            Answer::Hello { version } => Ok(version),
            Answer::Done | Answer::Links(_) | Answer::Failed(_) => {
                Err(self.lost(io::ErrorKind::InvalidData.into()))
            }
        }
    }

    fn start(&self) -> io::Result<()> {
        // Made here, not there: it can be spoken to as soon as this returns.
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket)?;
        std::fs::set_permissions(&self.socket, std::fs::Permissions::from_mode(0o600))?;
        let program = std::env::current_exe()?;
        let mut command = if in_a_unit_of_systemd() {
            // It would be ended with the daemon's unit, and so has one of its own.
            let mut command = Command::new("systemd-run");
            command
                .args(["--scope", "--quiet", "--collect", "--description=raftup fabric", "--"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command.arg("fabric").current_dir("/").stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
        command.stdout(Stdio::null()).kill_on_drop(false);
        let mut child = command.spawn()?;
        tokio::spawn(async move {
            // Collected, or it would stay in the table of processes.
            let _ = child.wait().await;
        });
        Ok(())
    }

    async fn ask(&mut self, order: &Order) -> Result<Answer, WireError> {
        let mut line = Zeroizing::new(serde_json::to_vec(order).map_err(|error| self.lost(error.into()))?);
        line.push(b'\n');
        let Some(link) = &mut self.link else { return Err(self.lost(io::ErrorKind::NotConnected.into())) };
        if let Err(error) = link.get_mut().write_all(&line).await {
            return Err(self.lost(error));
        }
        self.hear().await
    }

    async fn hear(&mut self) -> Result<Answer, WireError> {
        let Some(link) = &mut self.link else { return Err(self.lost(io::ErrorKind::NotConnected.into())) };
        let mut line = String::new();
        let heard = match timeout(ANSWER, link.read_line(&mut line)).await {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => serde_json::from_str(&line).map_err(io::Error::from),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        heard.map_err(|error| self.lost(error))
    }

    fn lost(&mut self, source: io::Error) -> WireError {
        self.link = None;
        WireError::Silent { socket: self.socket.clone(), source }
    }
}

/// This process belongs to a service of systemd's, all of which is ended together.
fn in_a_unit_of_systemd() -> bool {
    let ours = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Path::new("/run/systemd/system").is_dir() && ours.trim_end().ends_with(".service")
}
