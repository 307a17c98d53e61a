//! Taking a lab away, whoever left it and in whatever state.
//!
//! Holds: kills only processes that sit in the lab's cgroups, or that the lab wrote down with their start time.

use std::{fs, io::ErrorKind, time::Duration};

use anyhow::Context as _;

use super::{boot::wait_released, cgroup::Cgroup, net, place::Place, record::Process, wait::wait_for};

const GONE: Duration = Duration::from_secs(20);

/// Removes processes, cgroups, the uplink, mounts, loop devices and files of the lab; nothing there is fine.
pub(crate) fn clear(place: &Place) -> anyhow::Result<()> {
    let cgroup = Cgroup::lab(&place.id);
    for host in host_dirs(place) {
        // What is frozen does not die, and a host is frozen as a whole.
        let _ = Cgroup::host(&place.id, &host).freeze(false);
        if let Ok(init) = Process::read(&place.host(&host).init_pid()) {
            init.kill();
        }
    }
    wait_for(GONE, "end of the lab's processes", || {
        for pid in cgroup.processes() {
            // Between the list and the kill it can only have ended: ids are not used again that soon.
            if let Ok(process) = Process::of(pid) {
                process.kill();
            }
        }
        Ok(cgroup.remove().then_some(()))
    })
    .with_context(|| format!("lab `{}`", place.id))?;
    wait_for(GONE, "end of the uplink", || Ok(net::remove_uplink(place).then_some(())))?;
    for host in host_dirs(place) {
        wait_released(&place.host(&host))?;
    }
    match fs::remove_dir_all(place.dir()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", place.dir().display()))
        }
        _ => Ok(()),
    }
}

fn host_dirs(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.dir()).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().join("init.json").exists());
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
