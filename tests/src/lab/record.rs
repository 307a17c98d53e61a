//! What a lab writes down, so that a later run can find it again: hosts, addresses, processes.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::{engine::EngineKind, place::Place};

/// The lab as it was brought up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Third octet of the lab's network, its own among all labs of the machine.
    pub(crate) subnet: u8,
    pub(crate) hosts: Vec<HostRecord>,
    /// The `raftup-lab` program, which is also every host's PID 1: the copy that the lab has.
    pub(crate) tool: PathBuf,
    /// Directories that hosts see under the same path as the machine.
    pub(crate) binds: Vec<PathBuf>,
    /// Whether hosts run `raftupd` from the start.
    pub(crate) daemon: bool,
    /// Whether containers outlive their engine.
    pub(crate) live_restore: bool,
}

/// One host with an engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HostRecord {
    pub(crate) name: String,
    pub(crate) addr: Ipv4Addr,
    pub(crate) engine: EngineKind,
}

impl Record {
    pub(crate) fn load(place: &Place) -> anyhow::Result<Self> {
        let path = place.record_file();
        let text = fs::read(&path)
            .with_context(|| format!("no lab `{}` is up: {} cannot be read", place.id, path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    pub(crate) fn save(&self, place: &Place) -> anyhow::Result<()> {
        write_whole(&place.record_file(), &serde_json::to_vec_pretty(self)?)
    }
}

/// A process of the machine, named so that a later process with the same number is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks since boot.
    started: u64,
}

impl Process {
    /// The process that has `pid` now.
    pub(crate) fn of(pid: i32) -> anyhow::Result<Self> {
        let started = start_time(Path::new("/proc"), pid).with_context(|| format!("no process {pid}"))?;
        Ok(Self { pid, started })
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let mut words = text.split_whitespace();
        let pid = words.next().context("empty pid file")?.parse()?;
        let started = words.next().context("pid file without start time")?.parse()?;
        Ok(Self { pid, started })
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        write_whole(path, format!("{} {}\n", self.pid, self.started).as_bytes())
    }

    pub(crate) fn alive(&self) -> bool {
        start_time(Path::new("/proc"), self.pid) == Some(self.started)
    }

    /// Kills it if it is still the one that was written down.
    pub(crate) fn kill(&self) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        if self.alive() {
            // Gone in between is what was wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// When process `pid` of the given `/proc` started; none for one that is gone or only waits to be reaped.
pub(crate) fn start_time(proc: &Path, pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name in brackets may hold anything; the fields after the last bracket are plain.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Puts `bytes` at `path` in one step: a reader sees all of it or the old file.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("writing {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("writing {}", path.display()))
}
