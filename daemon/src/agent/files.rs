//! Secrets and configs of this node's tasks, as files that their containers mount.
//!
//! They are in memory alone: in a file system of their own (`tmpfs`, not swapped out where the kernel can do that) that nobody
//! but root enters. It outlives this process, as the containers that have its files mounted do, and ends with the host.
//!
//! ```text
//! RUN/secrets/         the file system, mode 0700
//!   TASK/              a directory for each task that may run
//!     0-KEY, 1-KEY     a file for each mount, with its owner and mode; never changed
//! ```
//!
//! Owns: these files. Leaves alone: when a task needs them and when not any more (`launch`, `owner`).
//! Holds: a file that is there is whole; a content is asked for only for a task of this node, and kept only while the task may
//! run.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use raftup_proto::{
    id::{BlobId, TaskId},
    refusal::Refusal,
    secret::Secret,
    spec::{BlobMount, Mount, MountOptions, MountSource},
    view::TaskItem,
};
use rustix::{
    fs::{Gid, Mode, Uid},
    mount::{MountFlags, UnmountFlags},
};

/// Name of the directory in the daemon's run directory.
const DIR: &str = "secrets";

/// Knows the contents.
#[async_trait]
pub(super) trait Contents: Send + Sync + 'static {
    /// A content that the task uses. Waits for a leader who can say so. Errors: the leader refuses to. Cancel-safe.
    async fn blob(&self, task: TaskId, blob: BlobId) -> Result<Secret<Vec<u8>>, Refusal>;
}

/// The files. Cheap to clone.
#[derive(Clone)]
pub(super) struct Files {
    dir: PathBuf,
    contents: Arc<dyn Contents>,
    /// Makes the directory a file system of its own.
    mount: fn(&Path) -> io::Result<()>,
}

impl Files {
    /// Those below a run directory.
    pub(super) fn new(run_dir: &Path, contents: Arc<dyn Contents>) -> Self {
        Self { dir: run_dir.join(DIR), contents, mount: mount_tmpfs }
    }

    /// The same in a plain directory.
    #[cfg(test)]
    pub(super) fn unmounted(run_dir: &Path, contents: Arc<dyn Contents>) -> Self {
        Self { mount: |_| Ok(()), ..Self::new(run_dir, contents) }
    }

    /// The files of a task are there. `root` is the user and group that containers' root is on this host.
    ///
    /// Errors: why they cannot be.
    pub(super) async fn ensure(&self, task: &TaskItem, root: (u32, u32)) -> Result<(), String> {
        let dir = self.dir.join(task.task.to_string());
        for (index, (kind, mount)) in task.container.blobs().enumerate() {
            let path = dir.join(name(index, mount));
            if fs::exists(&path).unwrap_or_default() {
                continue;
            }
            let failed =
                |why: &dyn std::fmt::Display| format!("{kind} `{}` cannot be had: {why}", mount.name);
            let id = mount.id.ok_or_else(|| failed(&"the cluster did not say which one"))?;
            let content = self.contents.blob(task.task, id).await.map_err(|refusal| failed(&refusal))?;
            let (top, mount_at, own) = (self.dir.clone(), self.mount, mount.clone());
            // Files in memory; a thread of its own because of the first mount.
            let write = move || {
                make_dir(&top)?;
                mount_at(&top)?;
                write(&path, content.expose(), &own, root)
            };
            let written =
                tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)));
            written.map_err(|error| format!("{kind} `{}` cannot be written: {error}", mount.name))?;
        }
        Ok(())
    }

    /// The files of a task as mounts of its container.
    pub(super) fn mounts(&self, task: &TaskItem) -> impl Iterator<Item = Mount> {
        let dir = self.dir.join(task.task.to_string());
        task.container.blobs().enumerate().map(move |(index, (_, mount))| Mount {
            target: mount.target.clone(),
            source: MountSource::Bind {
                path: dir.join(name(index, mount)).display().to_string(),
                create: false,
                propagation: None,
            },
            read_only: true,
            options: Box::new(MountOptions::default()),
        })
    }

    /// The task will not run any more.
    pub(super) fn forget(&self, task: TaskId) {
        remove(&self.dir.join(task.to_string()));
    }

    /// Removes the files of all tasks but these.
    pub(super) fn sweep(&self, keep: &BTreeSet<TaskId>) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let task = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if task.is_none_or(|task| !keep.contains(&task)) {
                remove(&entry.path());
            }
        }
    }

    /// Removes all of them, and the file system.
    pub(super) fn remove_all(&self) {
        self.sweep(&BTreeSet::new());
        // Nothing is mounted where no task had any.
        let _ = rustix::mount::unmount(&self.dir, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Keys of a file may come twice, at other places in the container.
fn name(index: usize, mount: &BlobMount) -> String {
    format!("{index}-{}", mount.source)
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a file that is whole when it has its name.
fn write(path: &Path, content: &[u8], mount: &BlobMount, (root, root_group): (u32, u32)) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_dir(dir)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // Left by a process that was killed.
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    io::Write::write_all(&mut file, content)?;
    let (uid, gid) = (root.saturating_add(mount.uid), root_group.saturating_add(mount.gid));
    rustix::fs::fchown(file.as_fd(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    // After the owner: a change of that takes set-id bits away.
    rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(mount.mode))?;
    fs::rename(&new, path)
}

fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "files of secrets cannot be removed"),
    }
}

/// Makes a directory a file system in memory, unless it is one. Errors: the kernel refuses.
fn mount_tmpfs(path: &Path) -> io::Result<()> {
    let above = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if fs::metadata(path)?.dev() != fs::metadata(above)?.dev() {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mount = |options| rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(options));
    match mount(c"mode=0700,noswap") {
        // Kernels before 6.4 do not know `noswap`.
        Err(rustix::io::Errno::INVAL) => mount(c"mode=0700").map_err(Into::into),
        mounted => mounted.map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, sync::Mutex};

    use raftup_proto::refusal::Code;

    use super::*;
    use crate::engine::tests::task;

    /// Contents by id; counts who asks.
    #[derive(Default)]
    struct Known {
        contents: BTreeMap<BlobId, Vec<u8>>,
        asked: Mutex<Vec<(TaskId, BlobId)>>,
    }

    #[async_trait]
    impl Contents for Known {
        async fn blob(&self, task: TaskId, blob: BlobId) -> Result<Secret<Vec<u8>>, Refusal> {
            self.asked.lock().unwrap().push((task, blob));
            let content = self.contents.get(&blob).cloned();
            content.map(Into::into).ok_or_else(|| Refusal::new(Code::Forbidden, "not your task"))
        }
    }

    fn mount(key: &str, id: u64, (uid, gid, mode): (u32, u32, u32)) -> BlobMount {
        BlobMount {
            source: key.parse().unwrap(),
            name: format!("shop_{key}"),
            target: format!("/run/secrets/{key}"),
            uid,
            gid,
            mode,
            id: Some(BlobId::from_random(id)),
        }
    }

    #[tokio::test]
    async fn a_task_has_its_files_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let id = BlobId::from_random;
        let contents = [(id(1), b"one".to_vec()), (id(2), vec![0, 255])].into();
        let known = Arc::new(Known { contents, ..Known::default() });
        let files = Files::unmounted(dir.path(), known.clone());
        let mut web = task(1, "sleep 1000");
        web.container.secrets = vec![mount("a", 1, (0, 0, 0o400)), mount("a", 1, (33, 44, 0o440))];
        web.container.configs = vec![mount("b", 2, (0, 0, 0o444))];
        files.ensure(&web, (100_000, 200_000)).await.unwrap();
        let paths: Vec<_> = files.mounts(&web).collect();
        let found = |index: usize| {
            let MountSource::Bind { path, create: false, .. } = &paths[index].source else { panic!() };
            let meta = fs::metadata(path).unwrap();
            (fs::read(path).unwrap(), meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777)
        };
        assert!(paths.iter().all(|mount| mount.read_only));
        assert_eq!(found(0), (b"one".to_vec(), 100_000, 200_000, 0o400));
        assert_eq!(found(1), (b"one".to_vec(), 100_033, 200_044, 0o440));
        assert_eq!(found(2), (vec![0, 255], 100_000, 200_000, 0o444));
        let top = fs::metadata(dir.path().join(DIR)).unwrap().permissions().mode();
        assert_eq!(top & 0o777, 0o700);

        // What is there is not asked for again, by a later process neither.
        let asked = known.asked.lock().unwrap().len();
        files.ensure(&web, (100_000, 200_000)).await.unwrap();
        assert_eq!(known.asked.lock().unwrap().len(), asked);

        let other = task(2, "sleep 1000");
        files.sweep(&[web.task, other.task].into());
        assert!(dir.path().join(DIR).join(web.task.to_string()).exists());
        files.forget(web.task);
        files.forget(other.task);
        assert_eq!(fs::read_dir(dir.path().join(DIR)).unwrap().count(), 0);
        files.ensure(&web, (0, 0)).await.unwrap();
        files.sweep(&[other.task].into());
        assert_eq!(fs::read_dir(dir.path().join(DIR)).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_the_leader_refuses_is_said_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::unmounted(dir.path(), Arc::new(Known::default()));
        let mut web = task(1, "sleep 1000");
        web.container.secrets = vec![mount("key", 1, (0, 0, 0o400))];
        let why = files.ensure(&web, (0, 0)).await.unwrap_err();
        assert_eq!(why, "secret `shop_key` cannot be had: not your task");
        assert!(!dir.path().join(DIR).exists());
    }
}
