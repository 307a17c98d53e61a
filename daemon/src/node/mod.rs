//! Build, run, drain: the only place that names all parts.
//!
//! ```text
//!              init, join                     BecomeManager
//!   inactive ------------> member (worker) -----------------> member (manager)
//!            <------------                 <-----------------
//!              leave                          LeaveManagers
//! ```
//!
//! A node without a cluster only answers on its socket. `member` starts and stops the parts of one that has a place.

mod address;
mod clock;
mod doctor;
mod host;
mod lifecycle;
mod member;
mod record;
mod rotate;
mod serve;
mod standing;

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api::Api,
    config::Config,
    engine::{DockerEngine, Engine},
};
use lifecycle::Host;

/// How often a data directory that another process holds is tried, and the pause between.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How long a clean stop may take before the process ends all the same.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// One `raftupd`.
pub struct Node {
    config: Config,
    host: Host,
    /// Held for the life of the process: two daemons must not share a data directory.
    _lock: File,
}

impl Node {
    /// Opens everything that can be wrong, before any peer sees this node.
    ///
    /// Errors: not root, directories that cannot be made, another daemon on them, damaged files, an identity
    /// whose state is gone.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("raftupd must run as root: it manages networks and containers; try `sudo raftupd`");
        }
        make_dir(&config.data_dir, 0o700)?;
        make_dir(&config.run_dir, 0o755)?;
        let lock = lock(&config.data_dir).await?;
        let engine: Arc<dyn Engine> = Arc::new(DockerEngine::new(&config.docker_socket));
        let host = Host::new(config.clone(), engine)?;
        Ok(Self { config, host, _lock: lock })
    }

    /// Answers until a signal asks it to end, then hands over what it leads and stops. Containers run on.
    pub async fn run(self) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let api = Api::new(Arc::new(self.host.clone()));
        self.host.set_api(api.clone());
        self.host.resume().await?;
        let socket = api.serve_socket(self.config.socket(), self.config.group.clone(), stop.clone());
        let mut socket = tokio::spawn(socket);
        let host = self.host.clone();
        let watching = tokio::spawn(async move { host.watch_host().await });
        // Both only wait; nothing is lost when the other one is first.
        tokio::select! {
            ended = &mut socket => ended.context("the API's loop ended")??,
            () = asked_to_stop() => {}
        }
        watching.abort();
        info!("stopping; containers run on");
        let drain = async {
            self.host.stop().await;
            stop.cancel();
            if let Ok(Err(error)) = (&mut socket).await {
                warn!(error = format!("{error:#}"), "the API did not end cleanly");
            }
        };
        if tokio::time::timeout(DRAIN_LIMIT, drain).await.is_err() {
            warn!(limit_s = DRAIN_LIMIT.as_secs(), "not everything stopped in time");
        }
        Ok(())
    }
}

async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process at once, which every part survives.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("making directory `{}`", path.display()))
}

/// A process that was killed may hold it for a moment yet, through a program that it was about to start.
async fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("making `{}`", path.display()))?;
    for _ in 0..LOCK_TRIES {
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        sleep(LOCK_PAUSE).await;
    }
    bail!("another raftupd uses `{}`; stop it first, or choose another --data-dir", dir.display());
}
