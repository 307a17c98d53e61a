//! The engines of the lab: which there are, where their programs come from, and a word with their socket.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{cgroup::Cgroup, enter::run, place::cache};

/// The engine's socket inside a host.
pub(crate) const SOCKET: &str = "/run/docker.sock";
/// An engine on two shared cores that starts beside several others.
pub(crate) const START: Duration = Duration::from_secs(60);
const SID_PACKAGES: &str = concat!(
    "--include=ca-certificates,curl,docker.io,docker-cli,docker-compose,",
    "iptables,nftables,iproute2,procps,tcpdump"
);
/// Name of the root made of them in the cache; another one with other packages, as labs may run on the older root.
const SID_ROOT: &str = "sid-2";

/// Which engine a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// The machine's own package (20.10 on Debian 12).
    Debian,
    /// That of Debian sid, in a root of its own.
    Sid,
    /// Of a lab: one host of the first kind, the next of the other, and so on.
    Mixed,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "debian",
            Self::Sid => "sid",
            Self::Mixed => "mixed",
        })
    }
}

impl EngineKind {
    /// The kind of the host with this index, counted from 0; never `Mixed`.
    pub(crate) fn of_host(self, index: usize) -> Self {
        match self {
            Self::Debian => Self::Debian,
            Self::Sid => Self::Sid,
            Self::Mixed if index.is_multiple_of(2) => Self::Debian,
            Self::Mixed => Self::Sid,
        }
    }

    /// The root that a host of this kind has below its writable layer.
    pub(crate) fn lower(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Debian | Self::Mixed => {
                let there =
                    ["/usr/sbin/dockerd", "/usr/bin/dockerd"].iter().any(|path| Path::new(path).exists());
                ensure!(
                    there,
                    "no Docker Engine on this machine; run `tests/setup.sh` (package docker.io) first"
                );
                Ok("/".into())
            }
            Self::Sid => Ok(sid_root()),
        }
    }
}

fn sid_root() -> PathBuf {
    cache().join(SID_ROOT)
}

/// Makes the root of Debian sid unless it is there; takes about a minute and a half. The caller holds the
/// cache's lock.
pub(crate) fn make_sid_root() -> anyhow::Result<()> {
    let root = sid_root();
    if root.join("usr/sbin/dockerd").exists() {
        return Ok(());
    }
    eprintln!("lab: making a root of Debian sid in {} (once, about 90 s)", root.display());
    let new = cache().join("sid.new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("removing {}", new.display()))?;
    }
    let made = run(&["debootstrap", "--variant=minbase", SID_PACKAGES, "sid", &new.display().to_string()]);
    made.context("making the root of Debian sid; `tests/setup.sh` installs debootstrap")?;
    for entry in fs::read_dir(new.join("var/cache/apt/archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            fs::remove_file(path)?;
        }
    }
    fs::rename(&new, &root).context("putting the root of Debian sid in place")
}

/// The engine's command line inside a host.
pub(crate) fn command(cgroup: &Cgroup, live_restore: bool) -> Vec<String> {
    let parent = cgroup.for_containers();
    let socket = format!("unix://{SOCKET}");
    let live_restore = if live_restore { "--live-restore=true" } else { "--live-restore=false" };
    let words = [
        "dockerd",
        live_restore,
        "--data-root=/var/lib/docker",
        "--exec-root=/run/docker",
        "--pidfile=/run/docker.pid",
        "--cgroup-parent",
        &parent,
        "--host",
        &socket,
    ];
    words.iter().map(ToString::to_string).collect()
}

/// Whether an engine answers at `socket`.
pub(crate) fn answers(socket: &Path) -> bool {
    request(socket, "GET /_ping", None).is_ok()
}

/// Gives the engine at `socket` the images of a file as `docker save` writes it.
pub(crate) fn load_images(socket: &Path, archive: &Path) -> anyhow::Result<()> {
    let load = || request(socket, "POST /images/load?quiet=1", Some(archive));
    // An engine that has only just begun hangs up at times.
    let answer = load().or_else(|first| load().with_context(|| format!("again, after: {first:#}")))?;
    ensure!(!answer.contains("errorDetail"), "loading {}: {answer}", archive.display());
    Ok(())
}

/// One plain HTTP exchange; the body of an answer with status 200, chunk marks and all.
fn request(socket: &Path, what: &str, body: Option<&Path>) -> anyhow::Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(START))?;
    let mut file = body.map(fs::File::open).transpose()?;
    let length = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|meta| meta.len()))?;
    write!(
        stream,
        "{what} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Type: application/x-tar\r\n\
         Content-Length: {length}\r\n\r\n"
    )?;
    if let Some(file) = &mut file {
        std::io::copy(file, &mut stream)?;
    }
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    let mut rest = String::new();
    reader.read_to_string(&mut rest)?;
    if !status.contains(" 200 ") {
        bail!("{what}: {} {}", status.trim(), rest.lines().last().unwrap_or_default());
    }
    Ok(rest)
}
