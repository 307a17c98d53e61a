//! The cgroups of a lab, on version 1 and 2 of the interface.
//!
//! Owns: `raftup-lab/ID` in every hierarchy. Each host has one below it, with its daemons in `sys` and its
//! containers in `docker`. Holds: a process is the lab's if and only if it sits in one of them (or in a pid
//! namespace of the lab's), which is what makes it safe to kill.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::place::LabId;

const ROOT: &str = "/sys/fs/cgroup";
/// Version 1: the hierarchies that daemons are moved into; the engine makes the others for containers.
const V1_FOR_DAEMONS: [&str; 4] = ["freezer", "cpuacct", "memory", "pids"];

fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The tops of all hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    if is_v2() {
        return vec![ROOT.into()];
    }
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists()).collect()
}

/// The cgroup of one host, or of the whole lab where there is no host.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    /// Relative to the top of a hierarchy.
    path: PathBuf,
}

impl Cgroup {
    pub(crate) fn lab(id: &LabId) -> Self {
        Self { path: Path::new("raftup-lab").join(id.to_string()) }
    }

    pub(crate) fn host(id: &LabId, host: &str) -> Self {
        Self { path: Self::lab(id).path.join(host) }
    }

    /// What the engine gets as the parent of its containers' cgroups.
    pub(crate) fn for_containers(&self) -> String {
        format!("/{}", self.path.join("docker").display())
    }

    /// The directories whose `cgroup.procs` a daemon of this host is written to; made here.
    pub(crate) fn for_daemons(&self) -> anyhow::Result<Vec<PathBuf>> {
        let tops: Vec<PathBuf> = if is_v2() {
            vec![ROOT.into()]
        } else {
            let tops = V1_FOR_DAEMONS.iter().map(|name| Path::new(ROOT).join(name));
            tops.filter(|top| top.join("cgroup.procs").exists()).collect()
        };
        tops.into_iter()
            .map(|top| {
                let dir = top.join(&self.path).join("sys");
                fs::create_dir_all(&dir).with_context(|| format!("making cgroup {}", dir.display()))?;
                Ok(dir)
            })
            .collect()
    }

    /// Stops or continues everything below, containers too.
    pub(crate) fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        let (file, word) = if is_v2() {
            (Path::new(ROOT).join(&self.path).join("cgroup.freeze"), if frozen { "1" } else { "0" })
        } else {
            let dir = Path::new(ROOT).join("freezer").join(&self.path);
            (dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
        };
        fs::write(&file, word).with_context(|| format!("writing {word} to {}", file.display()))
    }

    /// All processes below, by the machine's ids.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let top = if is_v2() { PathBuf::from(ROOT) } else { Path::new(ROOT).join("freezer") };
        let mut found = Vec::new();
        for dir in tree(&top.join(&self.path)) {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        found
    }

    /// Removes what is empty; answers whether nothing is left.
    pub(crate) fn remove(&self) -> bool {
        let mut gone = true;
        for top in hierarchies() {
            for dir in tree(&top.join(&self.path)) {
                gone &= fs::remove_dir(&dir).is_ok();
            }
            // The directory above is shared by all labs and goes with the last of them.
            let _ = fs::remove_dir(top.join("raftup-lab"));
        }
        gone
    }
}

/// `dir` and all cgroups below it, deepest first; empty where `dir` does not exist.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found.extend(tree(&entry.path()));
    }
    if dir.is_dir() {
        found.push(dir.to_owned());
    }
    found
}
