//! What a node remembers of its place in the cluster, besides its certificate and the state itself.

use std::{net::IpAddr, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{disk, secret::Key};

const FILE: &str = "node.json";

/// The record is far smaller.
const SIZE_MAX: u64 = 64 << 10;

/// Kept in one file that only root can read.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Address that other nodes reach this one at.
    pub(super) advertise: IpAddr,
    /// An operator has named it, so it stays; else it follows the host's.
    pub(super) named: bool,
    /// Its part in the replicated state, while it has one.
    pub(super) manager: Option<ManagerRecord>,
}

/// What a manager needs to start again.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ManagerRecord {
    /// Its id in Raft.
    pub(super) member: u64,
    /// Unseals what managers keep sealed.
    pub(super) key: [u8; 32],
}

impl ManagerRecord {
    pub(super) fn key(&self) -> Key {
        Key::from_bytes(self.key)
    }
}

impl Record {
    pub(super) fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        let Some(bytes) =
            disk::read(&path, SIZE_MAX).with_context(|| format!("reading `{}`", path.display()))?
        else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&bytes).with_context(|| {
            format!("`{}` is damaged; `raftup leave --force` and join again", path.display())
        })?;
        Ok(Some(record))
    }

    pub(super) fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(FILE);
        let bytes = Zeroizing::new(serde_json::to_vec(self)?);
        disk::write(&path, &bytes, 0o600).context("saving what this node has to remember")
    }

    pub(super) fn erase(dir: &Path) -> anyhow::Result<()> {
        disk::remove(&dir.join(FILE)).context("removing the node's record")
    }
}
