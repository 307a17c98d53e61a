//! Opens a manager's files, and refuses those that do not belong together or are older than what the manager promised.
//!
//! A manager that forgot an entry or a vote that it acknowledged could help to elect a leader without that entry, or two
//! leaders. What notices files that are gone, damaged, restored from a copy, or of another node:
//!
//! | what is wrong | what notices it |
//! | --- | --- |
//! | `manager` is gone | that others are there (`dir`); without any, the node is no manager, and neither serves nor votes |
//! | any other file is gone, empty, cut off or damaged | checksums, and that all of them must be there |
//! | a file is another member's, or of an earlier membership of this node | the incarnation in `manager`, `identity`, the log and `progress`; the log names its snapshot by checksum |
//! | `raft/` or the log is older than the last start | `starts`, which is counted up in the log first, then in `identity` and `progress` |
//! | `raft/` or the log is older, from the same run | `progress`, which is written after each commit, holds the vote and the last entry |
//! | the snapshot is older or newer than the log expects | the log names it before and after it is written |
//! | only `identity` or `progress` is older | nothing, and nothing is lost: the log has more than they ask for |
//! | all files are older than the last start, or run twice | the other managers (`peers`): they keep the newest start of each member that they have met on disk |
//! | all files, or the log and `progress`, are older, from the same run | the other managers: those that led know what each member acknowledged, and keep that on disk |
//!
//! Two things cannot be noticed: that the directories of all managers were restored at once, which is what a backup is;
//! and that all files are older, from the same run, while no manager is up that was the member's leader since.
//!
//! Owns: the order in which a start is counted. Leaves alone: the content of the files.
//! Holds: files are changed only after all of them were found good; a write that fails then ends the process.

use anyhow::{Context, anyhow};
use raftup_proto::id::NodeId;

use super::{
    dir::{Dir, WAY_BACK},
    fatal,
    format::{Identity, Life},
    log::{self, Log, Snapshots},
    machine::{self, Machine},
    progress::{Progress, Promise},
};

/// Opens everything in `dir`, the storage of a member on `node`, and counts a start.
///
/// Errors: files are in use, gone, damaged, older than what the member promised, or another one's.
pub(super) fn open(dir: &Dir, node: NodeId) -> anyhow::Result<(Life, Log, Machine)> {
    let identity = dir.read_identity(node)?;
    let progress = Progress::open(&dir.progress())
        .with_context(|| format!("{} cannot be used ({WAY_BACK})", dir.progress().display()))?;
    let mut log = Log::read_file(&dir.log())?;
    let snapshot = machine::read(&dir.snapshot())?;
    let has =
        Has { vote: log.vote(), last: log.last().max(snapshot.as_ref().and_then(machine::Found::last)) };
    let (mut progress, promise) = match progress {
        Some(found) if log.owner.is_some() || found.1.starts == 0 => found,
        found => adopt(dir, &identity, &log, found)?,
    };
    check(dir, &identity, &log, &promise, &has)?;
    let sum = snapshot.as_ref().map(|snapshot| snapshot.sum);
    if log.owner.is_some() && !log.snapshots.allow(sum) {
        return Err(refusal(&dir.snapshot(), "is not the snapshot that the log was left with"));
    }
    if log.purged() > snapshot.as_ref().and_then(machine::Found::last) {
        return Err(refusal(&dir.snapshot(), "is older than the log that should follow it"));
    }
    let Identity { member, incarnation, .. } = identity;
    let starts = identity.starts.max(log.owner.map_or(0, |owner| owner.starts)) + 1;
    let me = Life { member, incarnation, starts, process: rand::random() };
    let promise = Promise { member, incarnation, starts, vote: has.vote, last: has.last };
    let mut count = || {
        // In this order: where it is cut off, only files that may be older are.
        log.own(me, Snapshots { kept: sum, next: None })?;
        dir.write_identity(&Identity { starts, ..identity })?;
        progress.write(&promise)?;
        progress.sync()?;
        anyhow::Ok(())
    };
    if let Err(error) = count() {
        fatal("counting a start", &error);
    }
    let log = log.start(progress, promise)?;
    let machine = Machine::new(dir.snapshot(), log.clone(), snapshot);
    Ok((me, log, machine))
}

/// What the log and the snapshot have.
struct Has {
    vote: Option<super::types::Vote>,
    last: Option<super::types::LogId>,
}

/// Begins `progress` for files of a raftup that had none. Errors: they are not: `progress` is gone, or the log is older.
fn adopt(
    dir: &Dir,
    identity: &Identity,
    log: &log::Found,
    found: Option<(Progress, Promise)>,
) -> anyhow::Result<(Progress, Promise)> {
    if found.is_some() {
        return Err(refusal(&dir.log(), "is older than what this manager acknowledged"));
    }
    if log.owner.is_some() {
        return Err(refusal(&dir.progress(), "is gone"));
    }
    if log.vote().is_none() && log.last().is_none() {
        return Err(refusal(&dir.log(), "is empty"));
    }
    let Identity { member, incarnation, .. } = *identity;
    // Until the log has an owner, this is begun again.
    let promise = Promise { member, incarnation, starts: 0, vote: log.vote(), last: log.last() };
    Progress::create(&dir.progress(), &promise)?;
    Progress::open(&dir.progress())?.context("`progress` was just made")
}

fn check(
    dir: &Dir,
    identity: &Identity,
    log: &log::Found,
    promise: &Promise,
    has: &Has,
) -> anyhow::Result<()> {
    let mine = (identity.member, identity.incarnation);
    if (promise.member, promise.incarnation) != mine {
        return Err(refusal(&dir.progress(), "is another manager's"));
    }
    if let Some(owner) = log.owner {
        if (owner.member, owner.incarnation) != mine {
            return Err(refusal(&dir.log(), "is another manager's"));
        }
        if owner.starts < identity.starts.max(promise.starts) {
            return Err(refusal(&dir.log(), "is older than the last start of this manager"));
        }
    }
    let order = |vote: super::types::Vote| (vote.leader_id, vote.committed);
    if has.vote.map(order) < promise.vote.map(order) || has.last < promise.last {
        return Err(refusal(&dir.log(), "is older than what this manager acknowledged"));
    }
    Ok(())
}

fn refusal(path: &std::path::Path, what: &str) -> anyhow::Error {
    anyhow!("{} {what}: refusing to start ({WAY_BACK})", path.display())
}

/// [`open`], and closes everything again.
#[cfg(test)]
pub(super) fn start_and_stop(dir: &Dir, node: NodeId) -> anyhow::Result<Life> {
    loop {
        match open(dir, node) {
            // The last user's thread is just ending.
            Err(error) if format!("{error:#}").contains("already open") => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            opened => return opened.map(|(life, ..)| life),
        }
    }
}

#[cfg(test)]
mod tests;
