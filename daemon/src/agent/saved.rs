//! The last view and the last reports, on disk.
//!
//! A node acts on them while no manager is in reach. One file: four bytes that name it, a version, a checksum, the
//! body. One that is damaged or too new is as good as none: the next session brings a view.

use std::{io, path::Path};

use anyhow::{Context, bail, ensure};
use raftup_proto::{codec, peer::TaskReport, view::View};
use serde::{Deserialize, Serialize};

use crate::disk;

/// Name of the file.
pub(super) const FILE: &str = "view";
const MAGIC: &[u8; 4] = b"RUvw";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = MAGIC.len() + 1 + 4;
/// Most bytes of the body.
const CAP: u64 = 128 << 20;

/// What a node keeps between its processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// The last view.
    pub(super) view: View,
    /// What was last reported of each task.
    pub(super) reports: Vec<TaskReport>,
}

impl Saved {
    /// What was saved in `dir`; none if nothing was. Errors: it cannot be read, or is damaged.
    pub(super) fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = disk::read(&path, CAP).with_context(|| format!("reading {}", path.display()))?;
        bytes
            .map(|bytes| Self::parse(&bytes).with_context(|| format!("{} is damaged", path.display())))
            .transpose()
    }

    /// Saves it in `dir`; it is on disk afterwards.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        let body = codec::encode(self, CAP).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        bytes.extend_from_slice(&body);
        // Environments of containers are nobody else's business.
        disk::write(&dir.join(FILE), &bytes, 0o600)
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).context("it is cut short")?;
        ensure!(head.starts_with(MAGIC), "it is another kind of file");
        match head[MAGIC.len()] {
            VERSION => {}
            found => bail!("version {found}, the newest known is {VERSION}"),
        }
        ensure!(crc32fast::hash(body).to_be_bytes() == head[MAGIC.len() + 1..], "the checksum is wrong");
        Ok(codec::decode(body, CAP)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Saved::load(dir.path()).unwrap(), None);
        let mut saved = Saved::default();
        saved.view.generation.0 = 300;
        saved.save(dir.path()).unwrap();
        assert_eq!(Saved::load(dir.path()).unwrap(), Some(saved));
        let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        for cut in 0..bytes.len() {
            assert!(Saved::parse(&bytes[..cut]).is_err(), "{cut}");
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1;
            assert!(Saved::parse(&flipped).is_err(), "{cut}");
        }
    }
}
