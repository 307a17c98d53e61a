//! The disks of hosts: small ext4 file systems in files, copied from one that has the lab's images in it.
//!
//! Owns: the templates in the cache, one for each engine and set of images. Holds: a template carries no identity
//! of the engine that wrote it.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

use super::{
    boot::{boot, halt, log_tail},
    cgroup::Cgroup,
    clean::clear,
    engine::{self, EngineKind},
    enter::{Entrance, run},
    images,
    init::{InitSpec, View},
    place::{HostPlace, LabId, Place, cache, prune, touch},
    wait::wait_for,
};

/// Of each host; the file is sparse.
const SIZE: &str = "4G";
/// Goes up when a template is made in another way.
const REVISION: u32 = 1;
const STOP: Duration = Duration::from_secs(30);

/// The template for hosts with this engine; made if it is not in the cache, in about five seconds.
pub(crate) fn template(kind: EngineKind, tool: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(cache()).with_context(|| format!("making {}", cache().display()))?;
    let lock = fs::File::create(cache().join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    engine::make_root(kind)?;
    let images = images::build_all(false)?;
    let lower = kind.lower()?;
    let path = cache().join(format!("disk-{kind}-{:016x}.img", key(&lower, &images)?));
    if path.exists() {
        touch(&path)?;
    } else {
        eprintln!("lab: making the disk for hosts with engine `{kind}` (once)");
        let made = make(kind, &lower, tool, &images)?;
        prune("disk-")?;
        fs::rename(made.disk_image(), &path)?;
        fs::remove_dir_all(made.dir.parent().context("a host without a lab")?)?;
    }
    Ok(path)
}

fn key(lower: &Path, images: &Path) -> anyhow::Result<u64> {
    let mut hasher = DefaultHasher::new();
    (REVISION, SIZE, images).hash(&mut hasher);
    for program in ["usr/sbin/dockerd", "usr/bin/dockerd"] {
        if let Ok(meta) = fs::metadata(lower.join(program)) {
            (meta.len(), meta.modified()?).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

/// Runs an engine of this kind once, on a fresh disk, and loads the images into it.
fn make(kind: EngineKind, lower: &Path, tool: &Path, images: &Path) -> anyhow::Result<HostPlace> {
    let id: LabId = format!("seed{kind}").parse()?;
    let place = Place::new(&id);
    clear(&place)?;
    let files = place.host("seed");
    fs::create_dir_all(&files.dir)?;
    fs::create_dir_all(place.bin())?;
    let image = files.disk_image().display().to_string();
    run(&["truncate", "-s", SIZE, &image])?;
    run(&["mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard", &image])?;
    let spec = InitSpec {
        name: "seed".into(),
        dir: files.dir.clone(),
        view: View::Own { lower: lower.to_owned(), binds: Vec::new(), bin: place.bin() },
        machine_id: String::new(),
        hosts: String::new(),
        resolv: String::new(),
    };
    let init = boot(tool, &place, &spec)?;
    let entrance = Entrance { init, cgroup: Cgroup::host(&id, "seed"), env: Vec::new() };
    let filled = fill(kind, &entrance, &files, images).with_context(|| log_tail(&files.log("engine")));
    halt(&place, "seed")?;
    wait_for(STOP, "end of the seed's cgroup", || Ok(Cgroup::lab(&id).remove().then_some(())))?;
    if let Err(error) = filled {
        clear(&place)?;
        return Err(error);
    }
    Ok(files)
}

fn fill(kind: EngineKind, entrance: &Entrance, files: &HostPlace, images: &Path) -> anyhow::Result<()> {
    let socket = files.run().join("docker.sock");
    let pid_file = Path::new("/run/lab-engine.pid");
    entrance.spawn_daemon(&engine::command(kind, &entrance.cgroup, true), pid_file, &files.log("engine"))?;
    wait_for(engine::START, "answer of the engine", || Ok(engine::answers(&socket).then_some(())))?;
    engine::load_images(&socket, images)?;
    let pid = fs::read_to_string(files.pid_file("engine"))?;
    let stop = format!("kill {0} && while kill -0 {0} 2>/dev/null; do sleep 0.05; done", pid.trim());
    // Each host's engine must make up its own identity.
    let forget = "rm -rf /etc/docker/key.json /var/lib/docker/engine-id /var/lib/docker/network && sync";
    let output = entrance.command(&["sh", "-c", &format!("{stop}; {forget}")])?.output()?;
    anyhow::ensure!(
        output.status.success(),
        "stopping the engine: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A new disk for a host: a sparse copy.
pub(crate) fn copy(template: &Path, files: &HostPlace) -> anyhow::Result<()> {
    let (from, to) = (template.display().to_string(), files.disk_image().display().to_string());
    run(&["cp", "--sparse=always", "--reflink=auto", &from, &to]).map(drop)
}
