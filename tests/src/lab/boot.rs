//! Starting a host's PID 1 in new namespaces, and waiting for it to be ready or gone.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use super::{
    cgroup::Cgroup,
    init::InitSpec,
    place::{HostPlace, Place},
    record::{Process, write_whole},
    wait::wait_for,
};

const READY: Duration = Duration::from_secs(15);
/// The kernel takes a namespace's mounts down behind our back.
const RELEASED: Duration = Duration::from_secs(15);

/// Starts PID 1 of the host that `spec` describes and answers once it has built the host.
///
/// Errors: with the end of the host's own log.
pub(crate) fn boot(tool: &Path, place: &Place, spec: &InitSpec) -> anyhow::Result<Process> {
    let files = place.host(&spec.name);
    if files.run().exists() {
        fs::remove_dir_all(files.run())?;
    }
    fs::create_dir_all(files.run())?;
    fs::create_dir_all(files.dir.join("log"))?;
    write_whole(&files.spec(), &serde_json::to_vec_pretty(spec)?)?;
    let _ = fs::remove_file(files.init_pid());

    let log_path = files.log("init");
    let log = File::options().create(true).append(true).open(&log_path)?;
    // In the lab's cgroup before anything else, so that a clean-up finds it whatever happens.
    let mut command = Command::new("sh");
    command
        .args(["-c", super::enter::JOIN, "sh"])
        .args(Cgroup::host(&place.id, &spec.name).for_daemons()?)
        .arg("--");
    command.args(["setsid", "--fork", "unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork"]);
    command.arg(tool).arg("host-init").arg(files.spec());
    command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = command.status().context("starting a host's first process")?;
    ensure!(status.success(), "starting host {} failed, see {}", spec.name, log_path.display());

    let ready = wait_for(READY, "ready host", || {
        if files.ready().exists() {
            return Process::read(&files.init_pid()).map(|init| Some(Ok(init)));
        }
        let ended = Process::read(&files.init_pid()).is_ok_and(|init| !init.alive());
        Ok(ended.then(|| Err(log_tail(&log_path))))
    });
    match ready.with_context(|| format!("host {}: {}", spec.name, log_tail(&log_path)))? {
        Ok(init) => Ok(init),
        Err(log) => bail!("host {} could not be built: {log}", spec.name),
    }
}

/// Kills a host's PID 1, and with it everything inside; answers once its disk is free again.
pub(crate) fn halt(place: &Place, name: &str) -> anyhow::Result<()> {
    let files = place.host(name);
    if let Ok(init) = Process::read(&files.init_pid()) {
        // What is frozen does not die.
        let _ = Cgroup::host(&place.id, name).freeze(false);
        init.kill();
        wait_for(RELEASED, "end of the host's first process", || Ok((!init.alive()).then_some(())))?;
    }
    let cgroup = Cgroup::host(&place.id, name);
    wait_for(RELEASED, "end of the host's cgroups", || Ok(cgroup.remove().then_some(())))?;
    wait_released(&files)
}

/// Waits until no loop device holds the host's disk.
pub(crate) fn wait_released(files: &HostPlace) -> anyhow::Result<()> {
    wait_for(RELEASED, "release of the host's disk", || Ok((!disk_in_use(files)).then_some(())))
}

fn disk_in_use(files: &HostPlace) -> bool {
    let image = files.disk_image().display().to_string();
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices
        .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok())
        .any(|backing| backing.trim_end() == image)
}

/// The last lines of a log, for an error.
pub(crate) fn log_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
