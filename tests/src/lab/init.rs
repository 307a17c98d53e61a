//! A host's PID 1: builds the host's view of the file system, then reaps.
//!
//! Runs in new namespaces, as `raftup-lab host-init SPEC`. Holds: every mount is made in the host's own mount
//! namespace, so the kernel takes all of them, and the loop device, away when this process ends.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use rustix::process::{WaitOptions, wait};
use serde::{Deserialize, Serialize};

use super::{enter::run, net::SWITCH, place::HostPlace, record::Process};

/// What PID 1 must know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitSpec {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) view: View,
    pub(crate) machine_id: String,
    pub(crate) hosts: String,
    pub(crate) resolv: String,
}

/// What the host sees as its file system.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum View {
    /// The machine's, with its own `/run`, `/proc` and `/sys`.
    Machine,
    /// A root of its own: `lower` under a writable layer on the host's disk.
    Own {
        lower: PathBuf,
        /// Directories of the machine that appear under the same path.
        binds: Vec<PathBuf>,
        /// Programs of ours that appear in `/usr/local/bin`.
        bin: PathBuf,
    },
}

/// Runs as PID 1 until it is killed.
///
/// Errors: the spec is unreadable, it is not PID 1, or a mount failed; the host dies with it.
pub fn host_init(spec: &Path) -> anyhow::Result<()> {
    let text = fs::read(spec).with_context(|| format!("reading {}", spec.display()))?;
    let spec: InitSpec = serde_json::from_slice(&text)?;
    ensure!(std::process::id() == 1, "host-init only runs as the first process of a pid namespace");
    let place = HostPlace { dir: spec.dir.clone() };
    // The machine's /proc is still mounted: it shows this process with the machine's number.
    let outer = fs::read_link("/proc/self")?.to_string_lossy().parse()?;
    Process::of(outer)?.write(&place.init_pid())?;

    match &spec.view {
        View::Machine => machine_view(&spec, &place)?,
        View::Own { lower, binds, bin } => own_view(&spec, &place, lower, binds, bin)?,
    }
    fs::write("/proc/sys/kernel/hostname", &spec.name).context("setting the host name")?;
    run(&["ip", "link", "set", "lo", "up"])?;
    if spec.name == SWITCH {
        nameserver()?;
    }
    fs::write("/run/lab-ready", "")?;
    reap()
}

fn machine_view(spec: &InitSpec, place: &HostPlace) -> anyhow::Result<()> {
    let hosts = spec.dir.join("hosts");
    fs::write(&hosts, &spec.hosts)?;
    run(&["mount", "-t", "proc", "proc", "/proc"])?;
    bind(&hosts, Path::new("/etc/hosts"))?;
    bind(&place.run(), Path::new("/run"))
}

fn own_view(
    spec: &InitSpec,
    place: &HostPlace,
    lower: &Path,
    binds: &[PathBuf],
    bin: &Path,
) -> anyhow::Result<()> {
    let (disk, root) = (spec.dir.join("disk"), spec.dir.join("root"));
    fs::create_dir_all(&disk)?;
    fs::create_dir_all(&root)?;
    run(&["mount", "-o", "loop", &text(&place.disk_image()), &text(&disk)])?;
    for dir in ["upper", "work", "docker", "raftup"] {
        fs::create_dir_all(disk.join(dir))?;
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        disk.join("upper").display(),
        disk.join("work").display()
    );
    run(&["mount", "-t", "overlay", "-o", &layers, "overlay", &text(&root)])?;
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    for dir in ["proc", "sys", "dev", "run", "tmp", "var/lib/docker", "var/lib/raftup", "usr/local/bin"] {
        fs::create_dir_all(root.join(dir))?;
    }
    run(&["mount", "-t", "proc", "proc", &text(&inside("proc"))])?;
    run(&["mount", "-t", "sysfs", "sysfs", &text(&inside("sys"))])?;
    run(&["mount", "--rbind", "/sys/fs/cgroup", &text(&inside("sys/fs/cgroup"))])?;
    run(&["mount", "--rbind", "/dev", &text(&inside("dev"))])?;
    run(&["mount", "-t", "tmpfs", "tmpfs", &text(&inside("tmp"))])?;
    bind(&place.run(), &inside("run"))?;
    bind(&disk.join("docker"), &inside("var/lib/docker"))?;
    bind(&disk.join("raftup"), &inside("var/lib/raftup"))?;
    for path in binds.iter().filter(|path| path.is_dir()) {
        let to = inside(&text(path));
        fs::create_dir_all(&to)?;
        run(&["mount", "--rbind", &text(path), &text(&to)])?;
    }
    let files = [
        ("etc/hostname", format!("{}\n", spec.name)),
        ("etc/machine-id", format!("{}\n", spec.machine_id)),
        ("etc/hosts", spec.hosts.clone()),
        ("etc/resolv.conf", spec.resolv.clone()),
    ];
    for (path, content) in files {
        // A link would lead out of the new root.
        let _ = fs::remove_file(root.join(path));
        fs::write(root.join(path), content)?;
    }
    programs(&root, bin)?;
    change_root(&root)
}

/// Links to our programs where a packaged raftup would have them.
fn programs(root: &Path, bin: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(bin).with_context(|| format!("reading {}", bin.display()))? {
        let entry = entry?;
        let link = root.join("usr/local/bin").join(entry.file_name());
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(entry.path(), &link)?;
    }
    Ok(())
}

fn change_root(root: &Path) -> anyhow::Result<()> {
    let old = root.join("run/lab-old-root");
    fs::create_dir_all(&old)?;
    rustix::process::pivot_root(root, &old).context("changing the root")?;
    std::env::set_current_dir("/")?;
    run(&["umount", "-l", "/run/lab-old-root"])?;
    fs::remove_dir("/run/lab-old-root")?;
    Ok(())
}

fn bind(from: &Path, to: &Path) -> anyhow::Result<()> {
    run(&["mount", "--bind", &text(from), &text(to)]).map(drop)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Answers that there is no such name, whatever is asked, on all addresses of the switch: hosts have it as their resolver.
fn nameserver() -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).context("the lab's nameserver")?;
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            if let Some(answer) = buffer.get_mut(..length).filter(|question| question.len() >= 12) {
                // An answer, recursion available, NXDOMAIN.
                answer[2] |= 0x80;
                answer[3] = 0x83;
                let _ = socket.send_to(answer, from);
            }
        }
    });
    Ok(())
}

/// Collects what has ended, for ever: an unreaped containerd makes an engine wait without end.
fn reap() -> anyhow::Result<()> {
    loop {
        if wait(WaitOptions::empty()).is_err() {
            // Nothing to wait for. With one child that does not end, `wait` blocks from then on.
            Command::new("sleep").arg("infinity").spawn().context("starting the idle child")?;
        }
    }
}
