//! The file systems that the daemon and the engine write to: room, rights, and how long a write takes.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use raftup_proto::api::Finding;
use rustix::fs::{StatVfsMountFlags, statvfs};

/// Free bytes below which the log of the state, images and logs soon find no room.
const LOW: u64 = 1 << 30;
/// Free bytes below which nothing can be written any more before long.
const FULL: u64 = 128 << 20;
/// Free inodes below which no files can be made before long.
const INODES: u64 = 2000;

/// How long a write may take until it is on the disk. Each change of the cluster waits for that, and a leader whose disk takes
/// seconds is replaced.
const SLOW: Duration = Duration::from_millis(100);
const STALLED: Duration = Duration::from_secs(1);
const WRITES: usize = 3;

/// The file that is written and removed at once.
const PROBE: &str = ".doctor";

/// Blocks for as long as a few writes take. `engine` is where the engine keeps its data, where that is known.
pub(super) fn look(dir: &Path, engine: Option<&Path>) -> Vec<Finding> {
    let mut findings = space(dir);
    let device = |path: &Path| fs::metadata(path).ok().map(|meta| meta.dev());
    if let Some(engine) = engine.filter(|engine| device(engine).is_some() && device(engine) != device(dir)) {
        findings.extend(space(engine));
    }
    findings.extend(rights(dir));
    let first = written(dir);
    let more = || (1..WRITES).filter_map(|_| written(dir).ok());
    findings.push(match first {
        Ok(first) => speed(dir, more().chain([first]).min().unwrap_or(first)),
        Err(error) => refused(dir, &error),
    });
    findings
}

fn space(dir: &Path) -> Vec<Finding> {
    let name = dir.display().to_string();
    match statvfs(dir) {
        Ok(found) => {
            let room = room(&name, found.f_bavail.saturating_mul(found.f_frsize));
            let few = found.f_files > 0 && found.f_favail < INODES;
            let inodes = few.then(|| {
                let found = format!(
                    "only {} inodes are free for `{name}`: no more files can be made soon",
                    found.f_favail
                );
                Finding::problem(
                    "disk",
                    found,
                    format!(
                        "remove files; `du --inodes -x -d 3 {} | sort -n | tail` shows where they are",
                        mount_of(dir)
                    ),
                )
            });
            std::iter::once(room).chain(inodes).collect()
        }
        Err(error) => vec![Finding::problem(
            "disk",
            format!("`{name}` cannot be looked at: {error}"),
            "is it there, and its disk mounted?",
        )],
    }
}

fn room(dir: &str, free_bytes: u64) -> Finding {
    let found = format!("{:.1} GiB free for `{dir}`", free_bytes as f64 / f64::from(1 << 30));
    let next = format!(
        "free space on that disk: `docker system df` shows what images and volumes use, `du -xh -d 3 {dir} | sort -h | tail` \
         what files use"
    );
    match free_bytes {
        0..FULL => Finding::problem("disk", found, next),
        FULL..LOW => Finding::warning("disk", found, next),
        LOW.. => Finding::fine("disk", found),
    }
}

/// Others must neither write to the directory nor read keys.
fn rights(dir: &Path) -> Option<Finding> {
    let found = |path: &Path, what: String, next: &str| {
        Finding::problem("rights", format!("`{}` {what}", path.display()), next.to_owned())
    };
    let meta = fs::metadata(dir).ok()?;
    let path = dir.display();
    if meta.uid() != 0 {
        let next = "give it to root, which raftupd runs as";
        return Some(
            found(dir, format!("belongs to user {}", meta.uid()), next)
                .run(format!("chown root:root {path}")),
        );
    }
    if meta.mode() & 0o022 != 0 {
        let what = format!("can be written to by others (mode {:o})", meta.mode() & 0o777);
        return Some(found(dir, what, "take that right away").run(format!("chmod 700 {path}")));
    }
    let files = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut open = files.filter(|file| {
        let meta = fs::symlink_metadata(file).ok().filter(fs::Metadata::is_file);
        meta.is_some_and(|meta| meta.len() > 0 && meta.mode() & 0o077 != 0)
    });
    let file = open.next()?;
    let finding = found(&file, "can be read by others, and may hold keys".to_owned(), "take that right away");
    Some(finding.run(format!("chmod 600 {}", file.display())))
}

/// How long it takes until a small file is on the disk.
fn written(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(PROBE);
    let begun = Instant::now();
    let outcome = (|| {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&[0; 4096])?;
        file.sync_all()
    })();
    let took = begun.elapsed();
    // Nothing is there if it could not be made.
    let _ = fs::remove_file(&path);
    outcome.map(|()| took)
}

fn speed(dir: &Path, took: Duration) -> Finding {
    let check = "disk speed";
    let found =
        format!("a write to `{}` is on disk after {:.1} ms", dir.display(), took.as_secs_f64() * 1000.0);
    let next = "each change of the cluster waits for such a write: find what keeps the disk busy (`iostat -x 1`), or use a \
        faster disk";
    match took {
        _ if took >= STALLED => Finding::problem(check, found, next),
        _ if took >= SLOW => Finding::warning(check, found, next),
        _ => Finding::fine(check, found),
    }
}

fn refused(dir: &Path, error: &io::Error) -> Finding {
    let check = "disk speed";
    let found = format!("nothing can be written to `{}`: {error}", dir.display());
    let mount = mount_of(dir);
    if is_read_only(dir) {
        let next = format!(
            "`{mount}` is mounted read-only: `dmesg` says if the disk has failed (then replace it); otherwise allow writes again"
        );
        return Finding::problem(check, found, next).run(format!("mount -o remount,rw {mount}"));
    }
    Finding::problem(
        check,
        found,
        format!("make room on `{mount}`, or look at `dmesg` for errors of its disk"),
    )
}

/// What is wrong with the disk, as far as one call to the kernel tells.
pub(in crate::node) fn problem(dir: &Path) -> Option<String> {
    let name = dir.display();
    if is_read_only(dir) {
        return Some(format!(
            "`{name}` is on a disk that is mounted read-only: nothing can be kept (`raftup doctor` says more)"
        ));
    }
    let found = statvfs(dir).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    (free < FULL).then(|| {
        format!(
            "the disk of `{name}` is full: less than {} MiB are free (`raftup doctor` says more)",
            FULL >> 20
        )
    })
}

/// Whether the file system is mounted read-only.
fn is_read_only(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Where the file system of `dir` is mounted.
fn mount_of(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let longest = points.filter(|point| dir.starts_with(point)).max_by_key(|point| point.as_os_str().len());
    longest.unwrap_or_else(|| "/".into()).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use raftup_proto::api::Health;

    use super::*;

    #[test]
    fn a_disk_that_runs_full() {
        let health = |free| room("/d", free).health;
        assert_eq!(
            [health(1 << 20), health(1 << 29), health(1 << 40)],
            [Health::Problem, Health::Warning, Health::Ok]
        );
    }

    #[test]
    fn writes_are_timed_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(written(&dir.path().join("missing")).is_err());
        let health = |ms| speed(dir.path(), Duration::from_millis(ms)).health;
        assert_eq!([health(5), health(300), health(1500)], [Health::Ok, Health::Warning, Health::Problem]);
    }

    #[test]
    fn rights_of_others_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let command = || rights(dir.path()).and_then(|one| one.advice().map(|(_, all)| all[0].to_owned()));
        mode(dir.path(), 0o755);
        assert_eq!(command(), None);
        mode(dir.path(), 0o777);
        assert_eq!(command(), Some(format!("chmod 700 {}", dir.path().display())));
        mode(dir.path(), 0o700);
        let key = dir.path().join("identity.json");
        fs::write(&key, "{}").unwrap();
        mode(&key, 0o644);
        assert_eq!(command(), Some(format!("chmod 600 {}", key.display())));
    }
}
