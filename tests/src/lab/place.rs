//! Where a lab keeps what it keeps: names and paths, nothing else.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};

/// How long the cache keeps what was not used.
const KEPT: Duration = Duration::from_hours(1);
/// Longest id: it is part of a link's name, which the kernel cuts off at 15.
const LONGEST_ID: usize = 12;

/// The name of one lab; two labs with different ids live side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabId(String);

impl FromStr for LabId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let fits = (1..=LONGEST_ID).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ensure!(fits && plain, "lab id `{text}` is not 1 to {LONGEST_ID} small letters and digits");
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directories of one lab.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) id: LabId,
    base: PathBuf,
}

impl Place {
    pub(crate) fn new(id: &LabId) -> Self {
        let base = std::env::var_os("RAFTUP_LAB_DIR").map_or("/var/tmp/raftup-lab".into(), PathBuf::from);
        Self { id: id.clone(), base }
    }

    /// The parent of all labs' directories.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.base.join(&self.id.0)
    }

    /// Held while the lab is changed, and by a test for as long as it uses its lab.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.base.join(format!("{}.lock", self.id))
    }

    pub(crate) fn record_file(&self) -> PathBuf {
        self.dir().join("lab.json")
    }

    /// Copies of our programs, so that a build beside a running lab does not change it.
    pub(crate) fn bin(&self) -> PathBuf {
        self.dir().join("bin")
    }

    /// Files for all hosts and the machine, under the same path everywhere.
    pub(crate) fn share(&self) -> PathBuf {
        self.dir().join("share")
    }

    /// The link on the machine's side that leads into the lab.
    pub(crate) fn uplink(&self) -> String {
        format!("rl-{}", self.id)
    }

    pub(crate) fn host(&self, name: &str) -> HostPlace {
        HostPlace { dir: self.dir().join(name) }
    }
}

/// The files of one host, as seen from the machine.
#[derive(Clone, Debug)]
pub(crate) struct HostPlace {
    pub(crate) dir: PathBuf,
}

impl HostPlace {
    pub(crate) fn spec(&self) -> PathBuf {
        self.dir.join("init.json")
    }

    /// Written by the host's PID 1: its process id on the machine and its start time.
    pub(crate) fn init_pid(&self) -> PathBuf {
        self.dir.join("init.pid")
    }

    pub(crate) fn disk_image(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    /// The host's `/run`: a plain directory, so that its sockets can be reached from the machine.
    pub(crate) fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn log(&self, what: &str) -> PathBuf {
        self.dir.join("log").join(format!("{what}.log"))
    }

    /// Appears when PID 1 has set the host up.
    pub(crate) fn ready(&self) -> PathBuf {
        self.run().join("lab-ready")
    }

    /// The process id of a daemon inside the host.
    pub(crate) fn pid_file(&self, daemon: &str) -> PathBuf {
        self.run().join(format!("lab-{daemon}.pid"))
    }
}

/// What is worth keeping between labs: images, file systems with images in them, roots of other releases.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("RAFTUP_LAB_CACHE").map_or("/var/cache/raftup-lab".into(), PathBuf::from)
}

/// Notes that a file of the cache is used, now.
pub(crate) fn touch(path: &Path) -> anyhow::Result<()> {
    let file = fs::File::options().append(true).open(path);
    file.and_then(|file| file.set_modified(SystemTime::now()))
        .with_context(|| format!("touching {}", path.display()))
}

/// Removes files of the cache whose names begin like this and that nobody has used for long. Others stay: source
/// trees with different images share the cache, and a run beside may be about to copy its disk.
pub(crate) fn prune(prefix: &str) -> anyhow::Result<()> {
    prune_in(&cache(), prefix)
}

fn prune_in(dir: &Path, prefix: &str) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let old = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > KEPT);
        if old && entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_uses_is_pruned() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["disk-old", "disk-used", "disk-new", "images-old"] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            if name != "disk-new" {
                file.set_modified(SystemTime::now() - 2 * KEPT).unwrap();
            }
        }
        touch(&dir.path().join("disk-used")).unwrap();
        prune_in(dir.path(), "disk-").unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort_unstable();
        assert_eq!(left, ["disk-new", "disk-used", "images-old"]);
    }
}
