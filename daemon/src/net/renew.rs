//! How a node stays in: a new certificate in the middle of each one's life.
//!
//! Every renewal is for a fresh key. Holds: a certificate is on disk before it is used.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use raftup_proto::peer::{Reply, Request};
use tokio::{sync::watch, time::sleep};

use super::{
    CallError, Identity, Net, Peer,
    ca::{self, CaError, KeyRequest},
    identity::IdentityError,
};

/// Longest wait between two looks at the wall clock, which may jump.
const LOOK: Duration = Duration::from_secs(600);

/// Longest wait after all managers failed.
const RETRY: Duration = Duration::from_secs(60);

/// Shortest wait after all managers failed.
const RETRY_LEAST: Duration = Duration::from_millis(200);

/// A renewal that failed; the present certificate stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The manager did not give a certificate.
    #[error("asking {peer:?} for a new certificate")]
    Ask {
        /// The manager.
        peer: Peer,
        /// Why.
        source: CallError,
    },
    /// The manager gave something else.
    #[error("{peer:?} answered with something else than a certificate of this node")]
    Answer {
        /// The manager.
        peer: Peer,
    },
    /// No key could be made.
    #[error("making a key")]
    Key(#[from] CaError),
    /// The certificate cannot be kept.
    #[error(transparent)]
    Keep(#[from] IdentityError),
    /// The certificate cannot be used.
    #[error("using the new certificate")]
    Use(#[from] rustls::Error),
    /// There is nothing to renew.
    #[error("this node is not part of a cluster")]
    NoIdentity,
}

/// Renews the node's certificate, kept in `dir`, whenever half of its life is over. Ends when the node stops.
///
/// `managers` are asked in turn; a node may ask itself. Drop the future to end it sooner.
pub async fn run(net: Net, dir: PathBuf, managers: watch::Receiver<Arc<[Peer]>>) {
    let mut turn = 0_usize;
    loop {
        let wait = match net.identity() {
            None => LOOK,
            Some(identity) => match identity.renew_at().since(ca::now()) {
                Duration::ZERO => {
                    turn = turn.wrapping_add(1);
                    try_all(&net, &dir, &managers, turn, &identity).await
                }
                left => left.min(LOOK),
            },
        };
        if net.inner.stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Asks each manager until one gives a certificate. Returns how long to wait before the next look.
async fn try_all(
    net: &Net,
    dir: &Path,
    managers: &watch::Receiver<Arc<[Peer]>>,
    turn: usize,
    identity: &Identity,
) -> Duration {
    let managers = managers.borrow().clone();
    for place in 0..managers.len() {
        let peer = managers[(turn + place) % managers.len()];
        match once(net, dir, peer).await {
            Ok(()) => return Duration::ZERO,
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(node = %peer.node, %error, "the certificate was not renewed");
            }
        }
    }
    (identity.not_after().since(ca::now()) / 20).clamp(RETRY_LEAST, RETRY)
}

/// Asks one manager for a new certificate, keeps it in `dir` and uses it. Also the way to a certificate of another role.
pub async fn once(net: &Net, dir: &Path, peer: Peer) -> Result<(), RenewError> {
    let old = net.identity().ok_or(RenewError::NoIdentity)?;
    let KeyRequest { key, csr } = KeyRequest::generate()?;
    let reply = net.call(peer, Request::Renew { csr }).await;
    let certificate = match reply.map_err(|source| RenewError::Ask { peer, source })? {
        Reply::Certificate { certificate } => certificate,
        Reply::Done | Reply::Probed { .. } | Reply::Credential(_) | Reply::Examined { .. } => {
            return Err(RenewError::Answer { peer });
        }
    };
    let new = Identity::new(certificate, old.ca().to_vec(), key)?;
    if (new.cluster(), new.node()) != (old.cluster(), old.node()) {
        return Err(RenewError::Answer { peer });
    }
    super::tls::server(&new)?;
    let new = Arc::new(new);
    save(new.clone(), dir.to_owned()).await?;
    net.set_identity(new.clone())?;
    tracing::info!(node = %new.node(), role = %new.role(), "certificate renewed");
    Ok(())
}

async fn save(identity: Arc<Identity>, dir: PathBuf) -> Result<(), IdentityError> {
    let path = dir.clone();
    let saved = tokio::task::spawn_blocking(move || identity.save(&dir)).await;
    saved.unwrap_or_else(|error| Err(IdentityError::Io { path, source: error.into() }))
}
