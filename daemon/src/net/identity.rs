//! A node's certificate and key, in memory and on disk.
//!
//! One file holds all of it, so that a crash never leaves a key beside the certificate of another.

use std::{
    io,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use raftup_proto::{
    id::{ClusterId, NodeId},
    peer::Role,
    unit::UnixMillis,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::ca::{self, CaError, Name};
use crate::disk;

/// The version that is written; only this one is read.
const VERSION: u32 = 1;

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Who a node is, and the proof.
pub struct Identity {
    name: Name,
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    key: Zeroizing<Vec<u8>>,
}

/// An identity that cannot be read, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("identity file {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// The file is there and holds something else.
    #[error("identity file {path} is damaged: {reason}; let the node join again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// The certificate is not usable.
    #[error(transparent)]
    Certificate(#[from] CaError),
    /// The certificate is of another cluster than the CA.
    #[error("the certificate and the CA are of different clusters")]
    Foreign,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    ca: String,
    certificate: String,
    key: String,
}

impl Identity {
    /// The identity with this certificate, CA and key, all DER. Errors: the certificate names no node of the CA's
    /// cluster.
    pub fn new(certificate: Vec<u8>, ca: Vec<u8>, key: Vec<u8>) -> Result<Self, IdentityError> {
        let key = Zeroizing::new(key);
        let name = ca::name(&certificate)?;
        if ca::cluster_of(&ca)? != name.cluster {
            return Err(IdentityError::Foreign);
        }
        Ok(Self { name, certificate: certificate.into(), ca: ca.into(), key })
    }

    /// The identity kept in `dir`, if there is one.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = file(dir);
        let bytes = disk::read(&path, MAX_FILE_BYTES);
        let bytes = bytes.map_err(|source| IdentityError::Io { path: path.clone(), source })?;
        let Some(bytes) = bytes.map(Zeroizing::new) else {
            return Ok(None);
        };
        Self::parse(&bytes).map(Some).map_err(|reason| IdentityError::Damaged { path, reason })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if file.version != VERSION {
            return Err(format!("version {}, this program reads {VERSION}", file.version));
        }
        let field = |text: &str| BASE64.decode(text.as_bytes()).map_err(|error| error.to_string());
        let key = Zeroizing::new(file.key);
        let (ca, certificate, key) = (field(&file.ca)?, field(&file.certificate)?, field(&key)?);
        Self::new(certificate, ca, key).map_err(|error| error.to_string())
    }

    /// Keeps the identity in `dir`, made if missing; on disk, whole, when it returns. The file is for root alone.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = file(dir);
        let file = File {
            version: VERSION,
            ca: BASE64.encode(&self.ca),
            certificate: BASE64.encode(&self.certificate),
            key: BASE64.encode(&self.key),
        };
        let text = serde_json::to_vec_pretty(&file).map(Zeroizing::new).map_err(io::Error::from);
        let written = text.and_then(|text| {
            std::fs::create_dir_all(dir)?;
            disk::write(&path, &text, 0o600)
        });
        written.map_err(|source| IdentityError::Io { path, source })
    }

    /// Forgets the identity kept in `dir`.
    pub fn erase(dir: &Path) -> Result<(), IdentityError> {
        let path = file(dir);
        let gone = disk::remove(&path).and_then(|()| if dir.exists() { disk::sync_dir(dir) } else { Ok(()) });
        gone.map_err(|source| IdentityError::Io { path, source })
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.name.cluster
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.name.node
    }

    /// What the node may be.
    pub fn role(&self) -> Role {
        self.name.role
    }

    /// When the certificate begins, the allowance for clocks included.
    pub fn not_before(&self) -> UnixMillis {
        self.name.not_before
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> UnixMillis {
        self.name.not_after
    }

    /// The CA's certificate, DER.
    pub fn ca(&self) -> &[u8] {
        &self.ca
    }

    /// When to ask for the next certificate: in the middle of this one's life.
    pub fn renew_at(&self) -> UnixMillis {
        renew_at(&self.name)
    }

    pub(super) fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The certificate and the CA's, so that one who joins can pin the latter.
    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.ca.clone()]
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).finish_non_exhaustive()
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("identity.json")
}

/// The middle of the time that a certificate was made for; the allowance for clocks before it does not count.
pub fn renew_at(name: &Name) -> UnixMillis {
    let made = name.not_before.plus(ca::CLOCK_ALLOWANCE);
    made.plus(name.not_after.since(made) / 2)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use super::*;

    fn identity(life: Duration) -> Identity {
        let authority = ca::Authority::new(ClusterId::from_random(7), UnixMillis(10_000_000)).unwrap();
        let authority = authority.with_life(life);
        let request = ca::KeyRequest::generate().unwrap();
        let made = UnixMillis(1_800_000_000_000);
        let certificate = authority.issue(&request.csr, NodeId::new(3), Role::Manager, made).unwrap();
        Identity::new(certificate, authority.certificate().to_vec(), request.key).unwrap()
    }

    #[test]
    fn an_identity_is_kept_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("identity");
        assert!(Identity::load(&dir).unwrap().is_none());
        Identity::erase(&dir).unwrap();
        let identity = identity(ca::NODE_LIFE);
        identity.save(&dir).unwrap();
        assert_eq!(std::fs::metadata(file(&dir)).unwrap().permissions().mode() & 0o777, 0o600);
        let found = Identity::load(&dir).unwrap().unwrap();
        assert_eq!((found.name, found.chain()), (identity.name, identity.chain()));
        assert_eq!(found.key, identity.key);
        std::fs::write(file(&dir), b"{}").unwrap();
        assert!(matches!(Identity::load(&dir), Err(IdentityError::Damaged { .. })));
        Identity::erase(&dir).unwrap();
        assert!(Identity::load(&dir).unwrap().is_none());
    }

    #[test]
    fn renewal_comes_at_half_of_the_life() {
        let made = UnixMillis(1_800_000_000_000);
        assert_eq!(identity(Duration::from_secs(60)).renew_at(), made.plus(Duration::from_secs(30)));
        assert_eq!(identity(ca::NODE_LIFE).renew_at(), made.plus(ca::NODE_LIFE / 2));
    }

    #[test]
    fn the_key_stays_out_of_debug_output() {
        assert!(!format!("{:?}", identity(ca::NODE_LIFE)).contains("key"));
    }
}
