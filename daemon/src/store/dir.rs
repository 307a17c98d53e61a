//! The directory of a manager: whose storage it is, and that there is only one of it.
//!
//! ```text
//! DIR/manager          which member this node is; outlives the storage, so that wiped storage is noticed
//! DIR/progress         what the member has promised: how often it was started, its vote, its last entry
//! DIR/raft/identity    whose storage it is, and how often it was started
//! DIR/raft/log.redb    log, vote, whose log it is, which snapshot belongs to it, and what is known of other members
//! DIR/raft/snapshot    the state up to some entry
//! ```
//!
//! Owns: both identities, and the making and removing of all files. Leaves alone: whether files that are found belong
//! together (`files`).
//! Holds: a member's number belongs to one storage for ever. Storage that is gone, or is not the one that was made for
//! the member, is refused; a member that forgot what it promised would break promises of the whole cluster.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use raftup_proto::{
    id::NodeId,
    refusal::{Code, Refusal},
};

use super::{
    format::{self, Identity, Life},
    log::Log,
    progress::{Progress, Promise},
};
use crate::disk;

/// Largest identity, in bytes.
const IDENTITY_MAX: u64 = 4 << 10;

/// Readable by root alone: the state holds sealed secrets, and the log is no one else's business.
const MODE: u32 = 0o600;

/// What to do when a manager's files cannot be used.
pub(super) const WAY_BACK: &str = "the other managers have everything: on one of them run `raftup node demote NODE`, \
    then remove the directory `raft` in the data directory here, start raftupd, and run `raftup node promote NODE`; \
    its containers keep running meanwhile";

/// The paths below a state directory.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    root: PathBuf,
}

impl Dir {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn marker(&self) -> PathBuf {
        self.root.join("manager")
    }

    fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    fn identity(&self) -> PathBuf {
        self.raft().join("identity")
    }

    pub(super) fn progress(&self) -> PathBuf {
        self.root.join("progress")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.raft().join("log.redb")
    }

    pub(super) fn snapshot(&self) -> PathBuf {
        self.raft().join("snapshot")
    }

    /// What the marker says, if there is one.
    pub(super) fn read_marker(&self) -> anyhow::Result<Option<Identity>> {
        read(&self.marker())
    }

    /// Errors: files of a manager are there, so a missing marker was lost.
    pub(super) fn check_empty(&self) -> anyhow::Result<()> {
        for path in [self.raft(), self.progress()] {
            if path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
                let (marker, path) = (self.marker(), path.display());
                bail!("{} is gone, {path} is there: refusing to start ({WAY_BACK})", marker.display());
            }
        }
        Ok(())
    }

    /// Makes empty storage for `member`. What is there of a member that this node was before is removed.
    pub(super) fn create(&self, node: NodeId, member: u64) -> anyhow::Result<()> {
        if let Some(old) = self.read_marker()? {
            if old.member > member || (old.member == member && old.left) {
                let old = old.member;
                let message =
                    format!("member {member} cannot be used again on this node, it was already member {old}");
                return Err(Refusal::new(Code::Conflict, message).into());
            }
            if old.member == member {
                return Ok(());
            }
        }
        self.wipe()?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(self.raft());
        made.with_context(|| format!("making {}", self.raft().display()))?;
        let identity = Identity { node, member, incarnation: rand::random(), starts: 0, left: false };
        let Identity { incarnation, starts, .. } = identity;
        Log::create(&self.log(), &Life { member, incarnation, starts, process: 0 })?;
        self.write_identity(&identity)?;
        let promise = Promise { member, incarnation, starts, vote: None, last: None };
        Progress::create(&self.progress(), &promise)?;
        // Last, so that storage which is only half made is never taken for a member's.
        if let Err(error) = disk::write(&self.marker(), &format::identity(&identity), MODE) {
            // It may be there and not on disk; a second attempt makes all files anew.
            disk::remove(&self.marker())?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Whose storage it is. Errors: it is gone, or another one's.
    pub(super) fn read_identity(&self, node: NodeId) -> anyhow::Result<Identity> {
        let marker = self.read_marker()?.filter(|marker| !marker.left).context("this node is no manager")?;
        let lost = |what: &str| anyhow!("{what} {}: refusing to start ({WAY_BACK})", self.raft().display());
        let identity = read(&self.identity())?
            .ok_or_else(|| lost("the replicated state of this manager is gone from"))?;
        let is_same = identity.incarnation == marker.incarnation && identity.member == marker.member;
        if !is_same || identity.node != node || marker.node != node {
            return Err(lost("another manager's replicated state is in"));
        }
        Ok(identity)
    }

    pub(super) fn write_identity(&self, identity: &Identity) -> io::Result<()> {
        disk::write(&self.identity(), &format::identity(identity), MODE)
    }

    /// Gives the member up and removes its storage. The marker stays, so that the number is not used again.
    pub(super) fn forget(&self) -> anyhow::Result<()> {
        if let Some(marker) = self.read_marker()? {
            disk::write(&self.marker(), &format::identity(&Identity { left: true, ..marker }), MODE)?;
        }
        self.wipe()?;
        Ok(())
    }

    fn wipe(&self) -> io::Result<()> {
        disk::remove(&self.progress())?;
        match fs::remove_dir_all(self.raft()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Identity>> {
    let bytes = disk::read(path, IDENTITY_MAX).with_context(|| format!("reading {}", path.display()))?;
    let identity = bytes.map(|bytes| format::read_identity(&bytes)).transpose();
    identity.with_context(|| format!("{} cannot be used ({WAY_BACK})", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(3);

    fn start(dir: &Dir, node: NodeId) -> anyhow::Result<Life> {
        super::super::files::start_and_stop(dir, node)
    }

    #[test]
    fn storage_is_made_once_and_counts_its_starts() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path());
        assert!(start(&dir, NODE).is_err());
        dir.create(NODE, 7).unwrap();
        let first = start(&dir, NODE).unwrap();
        dir.create(NODE, 7).unwrap();
        let second = start(&dir, NODE).unwrap();
        assert_eq!((first.starts, second.starts, second.member), (1, 2, 7));
        assert_eq!(first.incarnation, second.incarnation);
        assert!(start(&dir, NodeId::new(4)).is_err());
    }

    #[test]
    fn a_marker_that_is_gone_is_refused_unless_all_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path());
        assert_eq!(super::super::member(temp.path()).unwrap(), None);
        dir.create(NODE, 7).unwrap();
        assert_eq!(super::super::member(temp.path()).unwrap(), Some(7));
        fs::remove_file(dir.marker()).unwrap();
        for rest in [dir.raft(), dir.progress()] {
            let message = format!("{:#}", super::super::member(temp.path()).unwrap_err());
            assert!(message.contains("manager is gone") && message.contains("demote"), "{message}");
            if rest.is_dir() { fs::remove_dir_all(rest).unwrap() } else { fs::remove_file(rest).unwrap() }
        }
        assert_eq!(super::super::member(temp.path()).unwrap(), None);
    }

    #[test]
    fn wiped_storage_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path());
        dir.create(NODE, 7).unwrap();
        fs::remove_dir_all(temp.path().join("raft")).unwrap();
        let message = format!("{:#}", start(&dir, NODE).unwrap_err());
        assert!(message.contains("is gone from") && message.contains("demote"), "{message}");
    }

    #[test]
    fn a_number_that_was_given_up_is_not_used_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path());
        dir.create(NODE, 7).unwrap();
        dir.forget().unwrap();
        assert!(start(&dir, NODE).is_err());
        for used in [7, 6] {
            let error = dir.create(NODE, used).unwrap_err();
            assert_eq!(error.downcast_ref::<Refusal>().unwrap().code, Code::Conflict, "{error}");
        }
        dir.create(NODE, 8).unwrap();
        assert_eq!(start(&dir, NODE).unwrap().member, 8);
    }
}
