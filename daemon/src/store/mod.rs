//! The replicated state: Raft between the managers, its log and snapshots on disk, and the pure step from state to state.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `types` | the types that Raft is used with |
//! | `apply` | pure: a change set put into the state |
//! | `format` | pure: records on disk, versioned and checksummed |
//! | `dir` | whose storage a directory is |
//! | `files` | whether the files in it belong together, and are not older than what was promised |
//! | `log` | log and vote on disk |
//! | `progress` | a second record of what was promised |
//! | `machine` | the state in memory, and its snapshots |
//! | `parts` | large records and snapshots on their way, in parts |
//! | `peers` | which process may speak for which member |
//! | `wire` | what managers say to each other |
//! | `link`, `desk` | the two ends of a stream between them |
//! | `sending` | entries and snapshots on their way, for as long as they move |
//! | `members` | who the members are, and changes of that |
//! | `raft` | [`Store`], the handle that all others hold |
//! | `turn` | changes of the state, one at a time |
//! | `pulse` | the leader's heartbeats, and who leads |
//!
//! Owns: everything that survives. Leaves alone: what the objects mean.
//! Holds: what was acknowledged is on disk at a majority; a read is not older than any write that was answered before it
//! began; files that are damaged, gone, or another member's are refused, never guessed at.

mod apply;
mod desk;
mod dir;
mod files;
mod format;
mod link;
mod log;
mod machine;
mod members;
mod parts;
mod peers;
mod progress;
mod pulse;
mod raft;
mod sending;
mod turn;
mod types;
mod wire;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
pub(crate) mod tests;

use std::{path::Path, process};

use raftup_proto::id::NodeId;

pub use apply::{Rejected, apply};
pub use link::Transport;
pub use machine::{Touched, wall_clock};
pub use members::{Member, Members};
pub use raft::{Changes, Leadership, Store, StoreConfig, is_checking};
pub use turn::{ProposeError, Turn};
pub use types::Site;
pub use wire::Pipe;

use dir::Dir;

/// Exit status after a failed write, as `sysexits.h` has it for input and output.
const EXIT_IO: i32 = 74;

/// The member of Raft that the node with this state directory is, if it is a manager.
///
/// Errors: the record of it is damaged, or gone while other files of a manager are there.
pub fn member(dir: &Path) -> anyhow::Result<Option<u64>> {
    let dir = Dir::new(dir);
    let marker = dir.read_marker()?;
    if marker.is_none() {
        dir.check_empty()?;
    }
    Ok(marker.filter(|marker| !marker.left).map(|marker| marker.member))
}

/// Makes empty storage for a new member, before its first [`Store::start`]. Does nothing if it is there. Blocks: its files
/// are synced.
///
/// Errors: the number was used on this node before (a [`Refusal`](raftup_proto::refusal::Refusal), for the leader draws
/// another then), or the directory cannot be written.
pub fn create(dir: &Path, node: NodeId, member: u64) -> anyhow::Result<()> {
    Dir::new(dir).create(node, member)
}

/// Removes the storage of a member that was given up; its store must have been stopped. Blocks.
pub fn forget(dir: &Path) -> anyhow::Result<()> {
    Dir::new(dir).forget()
}

/// Ends the process: what is on disk is not known any more, and only a fresh start finds out. Never tried again in
/// place, for a second sync may report success for data that the first one lost.
fn fatal(doing: &str, error: &anyhow::Error) -> ! {
    tracing::error!(doing, error = format!("{error:#}"), "the replicated state cannot be kept; raftupd ends");
    process::exit(EXIT_IO)
}
