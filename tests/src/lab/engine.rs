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
/// What a root of another release consists of, beside the smallest system.
const PACKAGES: &str = "ca-certificates,docker.io,iptables,nftables,iproute2,procps,tcpdump";
/// Debian has the engine's command line in packages of their own; `debootstrap` cannot resolve what `curl` needs on Ubuntu.
const DEBIAN_PACKAGES: &str = "curl,docker-cli,docker-compose";

/// Ubuntu's archive and the key that signs it; Debian has no package with that key. Its fingerprint ends with 871920D1991BC93C.
const UBUNTU: &str = "http://archive.ubuntu.com/ubuntu";
const UBUNTU_KEY: &[u8] = include_bytes!("ubuntu-archive-2018.gpg");
/// How a root of any release of Ubuntu is made, also of those that are newer than `debootstrap`.
const UBUNTU_SCRIPT: &str = "/usr/share/debootstrap/scripts/gutsy";

/// Which engine a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// The machine's own package (20.10 on Debian 12).
    Debian,
    /// That of Debian 13 (26.1), in a root of its own, as all that follow.
    Trixie,
    /// That of Ubuntu 25.04 (27.5).
    Plucky,
    /// That of Debian sid (28.5).
    Sid,
    /// That of Ubuntu 26.04 (29.1).
    Resolute,
    /// The same with its backend for nftables.
    Nftables,
    /// Of a lab: hosts of `debian` and of `sid` in turn.
    Mixed,
}

/// A release that a root is made of.
struct Release {
    name: &'static str,
    /// Of the root in the cache: another one with other packages, as labs may run on the older root.
    root: &'static str,
    is_ubuntu: bool,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "debian",
            Self::Trixie => "trixie",
            Self::Plucky => "plucky",
            Self::Sid => "sid",
            Self::Resolute => "resolute",
            Self::Nftables => "nftables",
            Self::Mixed => "mixed",
        })
    }
}

impl EngineKind {
    /// The kind of the host with this index, counted from 0; never `Mixed`.
    pub(crate) fn of_host(self, index: usize) -> Self {
        match self {
            Self::Mixed if index.is_multiple_of(2) => Self::Debian,
            Self::Mixed => Self::Sid,
            Self::Debian | Self::Trixie | Self::Plucky | Self::Sid | Self::Resolute | Self::Nftables => self,
        }
    }

    /// The root that a host of this kind has below its writable layer.
    pub(crate) fn lower(self) -> anyhow::Result<PathBuf> {
        if let Some(release) = self.release() {
            return Ok(cache().join(release.root));
        }
        let there = ["/usr/sbin/dockerd", "/usr/bin/dockerd"].iter().any(|path| Path::new(path).exists());
        ensure!(there, "no Docker Engine on this machine; run `tests/setup.sh` (package docker.io) first");
        Ok("/".into())
    }

    fn release(self) -> Option<Release> {
        match self {
            Self::Trixie => Some(Release { name: "trixie", root: "trixie-1", is_ubuntu: false }),
            Self::Plucky => Some(Release { name: "plucky", root: "plucky-1", is_ubuntu: true }),
            Self::Sid => Some(Release { name: "sid", root: "sid-2", is_ubuntu: false }),
            Self::Resolute | Self::Nftables => {
                Some(Release { name: "resolute", root: "resolute-1", is_ubuntu: true })
            }
            Self::Debian | Self::Mixed => None,
        }
    }
}

/// Makes the root that hosts of this kind have of their own, if they have one, unless it is there; takes about a minute and a
/// half. The caller holds the cache's lock.
pub(crate) fn make_root(kind: EngineKind) -> anyhow::Result<()> {
    let Some(Release { name, root, is_ubuntu }) = kind.release() else { return Ok(()) };
    let root = cache().join(root);
    if ["usr/sbin/dockerd", "usr/bin/dockerd"].iter().any(|path| root.join(path).exists()) {
        return Ok(());
    }
    eprintln!("lab: making a root of {name} in {} (once, about 90 s)", root.display());
    let new = cache().join(format!("{name}.new"));
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("removing {}", new.display()))?;
    }
    let new_text = new.display().to_string();
    let made = if is_ubuntu {
        let key = cache().join("ubuntu-archive.gpg");
        fs::write(&key, UBUNTU_KEY).with_context(|| format!("writing {}", key.display()))?;
        let (key, packages) = (format!("--keyring={}", key.display()), format!("--include={PACKAGES}"));
        let components = "--components=main,universe";
        let variant = "--variant=minbase";
        run(&["debootstrap", variant, &key, components, &packages, name, &new_text, UBUNTU, UBUNTU_SCRIPT])
    } else {
        let packages = format!("--include={PACKAGES},{DEBIAN_PACKAGES}");
        run(&["debootstrap", "--variant=minbase", &packages, name, &new_text])
    };
    made.with_context(|| format!("making the root of {name}; `tests/setup.sh` installs debootstrap"))?;
    for entry in fs::read_dir(new.join("var/cache/apt/archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            fs::remove_file(path)?;
        }
    }
    fs::rename(&new, &root).with_context(|| format!("putting the root of {name} in place"))
}

/// The engine's command line inside a host.
pub(crate) fn command(kind: EngineKind, cgroup: &Cgroup, live_restore: bool) -> Vec<String> {
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
    // Without a default bridge: at that moment nobody has told the kernel to forward, and this backend leaves that to others.
    let nftables = ["--firewall-backend=nftables", "--bridge=none"];
    let more = if kind == EngineKind::Nftables { &nftables[..] } else { &[] };
    words.iter().chain(more).map(ToString::to_string).collect()
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
