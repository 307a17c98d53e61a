//! The last view and the last reports, on disk.
//!
//! A node acts on them while no manager is in reach. One file has all of it as it once was, a second one what changed
//! since, record by record, so that a change costs what it is large. When the second has grown larger than the first, both
//! are made anew. What is damaged, cut short or too new is as good as not there, with all that comes after it: the next
//! session brings what differs.
//!
//! ```text
//! view          magic, version, checksum of the body, body
//! view.changes  magic, version, checksum and length of that body, then records: length, checksum, body
//! ```
//!
//! Holds: the death of the process loses nothing that was appended; that of the host as much as was not synced yet.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use imbl::ordmap::DiffItem;
use raftup_proto::{
    codec,
    id::TaskId,
    peer::TaskReport,
    view::{Item, View, ViewUpdate},
};
use serde::{Deserialize, Serialize};

use crate::disk;

/// Name of the file with all of it.
pub(super) const FILE: &str = "view";
/// Name of the file with what changed since.
const CHANGES: &str = "view.changes";
const MAGIC: &[u8; 4] = b"RUvw";
const CHANGES_MAGIC: &[u8; 4] = b"RUvc";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = MAGIC.len() + 1 + 4;
const CHANGES_HEAD_BYTES: usize = CHANGES_MAGIC.len() + 1 + 4 + 4;
/// Length and checksum of a record.
const RECORD_HEAD_BYTES: usize = 4 + 4;
/// Most bytes of a body, and of the records.
const CAP: u64 = 128 << 20;
/// Records that are kept, in bytes, however small the whole is.
const KEPT: u64 = 256 << 10;

/// What a node keeps between its processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// The last view.
    pub(super) view: View,
    /// What was last reported of each task, by task.
    pub(super) reports: Vec<TaskReport>,
}

/// What changed from one save to the next.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    update: ViewUpdate,
    /// Reports that are new or changed.
    reports: Vec<TaskReport>,
    /// Tasks of which none is kept any more.
    forgotten: Vec<TaskId>,
}

impl Saved {
    /// What was saved in `dir`; none if nothing was. Errors: the whole cannot be read, or is damaged.
    pub(super) fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = disk::read(&path, CAP).with_context(|| format!("reading {}", path.display()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let mut saved = Self::parse(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
        match disk::read(&dir.join(CHANGES), 2 * CAP) {
            Ok(changes) => saved.take_changes(&changes.unwrap_or_default(), &bytes),
            Err(error) => {
                tracing::warn!(%error, "what changed since the view was saved whole cannot be read")
            }
        }
        Ok(Some(saved))
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).context("it is cut short")?;
        ensure!(head.starts_with(MAGIC), "it is another kind of file");
        match head[MAGIC.len()] {
            VERSION => {}
            found => bail!("version {found}, the newest known is {VERSION}"),
        }
        ensure!(crc32fast::hash(body).to_be_bytes() == head[MAGIC.len() + 1..], "the checksum is wrong");
        Ok(codec::decode(body, CAP)?)
    }

    /// Takes in the records, as far as they are good and belong to the file `whole`.
    fn take_changes(&mut self, bytes: &[u8], whole: &[u8]) {
        let Some(mut rest) = bytes.strip_prefix(&changes_head(whole)[..]) else { return };
        while let Some((change, after)) = next_change(rest) {
            if self.view.update(change.update).is_err() {
                return;
            }
            let mut reports: BTreeMap<_, _> =
                self.reports.drain(..).map(|report| (report.task, report)).collect();
            reports.extend(change.reports.into_iter().map(|report| (report.task, report)));
            change.forgotten.iter().for_each(|task| _ = reports.remove(task));
            self.reports = reports.into_values().collect();
            rest = after;
        }
    }

    /// What makes `now` of this; none if they are the same. Cost: what differs of the views, and the number of reports.
    fn change_to(&self, now: &Self) -> Option<Change> {
        let mut update = ViewUpdate {
            base: Some(self.view.generation),
            generation: now.view.generation,
            put: Vec::new(),
            remove: Vec::new(),
        };
        for difference in self.view.items.diff(&now.view.items) {
            match difference {
                DiffItem::Add(_, item) | DiffItem::Update { new: (_, item), .. } => {
                    update.put.push(Item::clone(item));
                }
                DiffItem::Remove(key, _) => update.remove.push(*key),
            }
        }
        let mut old: BTreeMap<_, _> = self.reports.iter().map(|report| (report.task, report)).collect();
        let new = now.reports.iter().filter(|report| old.remove(&report.task) != Some(report));
        let reports: Vec<_> = new.cloned().collect();
        let forgotten: Vec<_> = old.into_keys().collect();
        let same = self.view.generation == now.view.generation
            && update.put.is_empty()
            && update.remove.is_empty()
            && reports.is_empty()
            && forgotten.is_empty();
        (!same).then_some(Change { update, reports, forgotten })
    }
}

fn changes_head(whole: &[u8]) -> [u8; CHANGES_HEAD_BYTES] {
    let mut head = [0; CHANGES_HEAD_BYTES];
    let (magic, rest) = head.split_at_mut(CHANGES_MAGIC.len());
    magic.copy_from_slice(CHANGES_MAGIC);
    rest[0] = VERSION;
    rest[1..5].copy_from_slice(&crc32fast::hash(whole).to_be_bytes());
    rest[5..].copy_from_slice(&(whole.len() as u32).to_be_bytes());
    head
}

/// The next record and what comes after it; none at the end, or at one that is cut short or damaged.
fn next_change(bytes: &[u8]) -> Option<(Change, &[u8])> {
    let (length, bytes) = bytes.split_first_chunk::<4>()?;
    let (checksum, bytes) = bytes.split_first_chunk::<4>()?;
    let (body, rest) = bytes.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    if crc32fast::hash(body).to_be_bytes() != *checksum {
        return None;
    }
    Some((codec::decode(body, CAP).ok()?, rest))
}

/// The files as they are kept up to date.
pub(super) struct Journal {
    dir: PathBuf,
    /// What they hold.
    saved: Saved,
    /// The file of changes; none until the whole was saved by this process, and after a failure.
    changes: Option<Changes>,
}

struct Changes {
    file: File,
    bytes: u64,
    /// Bytes after which all of it is saved anew.
    most: u64,
}

impl Journal {
    /// For the files in `dir`.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, saved: Saved::default(), changes: None }
    }

    /// Saves `now`; the death of this process does not lose it. Errors: nothing may have been saved; the next call saves
    /// all of it.
    pub(super) fn save(&mut self, now: Saved) -> io::Result<()> {
        let Some(mut changes) = self.changes.take() else { return self.save_whole(now) };
        let Some(change) = self.saved.change_to(&now) else {
            self.changes = Some(changes);
            return Ok(());
        };
        let body = codec::encode(&change, CAP).map_err(io::Error::other)?;
        changes.bytes += (RECORD_HEAD_BYTES + body.len()) as u64;
        if changes.bytes > changes.most {
            return self.save_whole(now);
        }
        let mut record = Vec::with_capacity(RECORD_HEAD_BYTES + body.len());
        record.extend_from_slice(&(body.len() as u32).to_be_bytes());
        record.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        record.extend_from_slice(&body);
        changes.file.write_all(&record)?;
        self.changes = Some(changes);
        self.saved = now;
        Ok(())
    }

    /// Has all that was saved outlive the host.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.changes.as_ref().map_or(Ok(()), |changes| changes.file.sync_data())
    }

    fn save_whole(&mut self, now: Saved) -> io::Result<()> {
        let body = codec::encode(&now, CAP).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        bytes.extend_from_slice(&body);
        // Environments of containers are nobody else's business.
        disk::write(&self.dir.join(FILE), &bytes, 0o600)?;
        // Those of the file of before do not name this one, so they count for nothing from here on.
        let path = self.dir.join(CHANGES);
        disk::remove(&path)?;
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&changes_head(&bytes))?;
        let most = KEPT.max(bytes.len() as u64);
        self.changes = Some(Changes { file, bytes: 0, most });
        self.saved = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raftup_proto::{
        id::{NodeId, ServiceId},
        peer::{TaskState, TaskStatus},
        unit::UnixMillis,
        view::{Endpoint, Revision},
    };

    use super::*;

    #[test]
    fn a_damaged_file_is_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Saved::load(dir.path()).unwrap(), None);
        let mut saved = Saved::default();
        saved.view.generation.0 = 300;
        Journal::new(dir.path().to_owned()).save(saved.clone()).unwrap();
        assert_eq!(Saved::load(dir.path()).unwrap(), Some(saved));
        let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        for cut in 0..bytes.len() {
            assert!(Saved::parse(&bytes[..cut]).is_err(), "{cut}");
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1;
            assert!(Saved::parse(&flipped).is_err(), "{cut}");
        }
    }

    fn endpoint(task: u64, ready: bool) -> Item {
        let endpoint = Endpoint {
            task: TaskId::from_random(task),
            slot: task,
            node: NodeId::new(1),
            addresses: Vec::new(),
            ready,
            host_ports: Vec::new(),
        };
        Item::Endpoint(ServiceId::from_random(1), endpoint)
    }

    fn report(task: u64, state: TaskState) -> TaskReport {
        TaskReport { task: TaskId::from_random(task), status: TaskStatus::new(state, UnixMillis(1)) }
    }

    /// A view of many endpoints, and how it goes on: some change, come and go, and so do reports.
    fn steps(count: u64) -> Vec<Saved> {
        let mut saved = Saved {
            view: View::of(Revision(1), (0..1000).map(|task| endpoint(task, true))),
            reports: vec![report(1, TaskState::Running)],
        };
        let mut steps = vec![saved.clone()];
        for step in 1..=count {
            saved.view.put(endpoint(step % 50, step % 3 > 0));
            saved.view.items.remove(&endpoint(100 + step, true).key());
            saved.view.generation.0 += 1;
            saved.reports = match step % 3 {
                0 => Vec::new(),
                1 => vec![report(1, TaskState::Running), report(2, TaskState::Starting)],
                _ => vec![report(2, TaskState::Running)],
            };
            steps.push(saved.clone());
        }
        steps
    }

    #[test]
    fn a_change_costs_what_it_is_large() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path().to_owned());
        let size = |name| std::fs::metadata(dir.path().join(name)).unwrap().len();
        let (mut wholes, mut most) = (0, 0);
        for saved in steps(20_000) {
            let before = std::fs::metadata(dir.path().join(CHANGES)).map_or(u64::MAX, |meta| meta.len());
            journal.save(saved.clone()).unwrap();
            let after = size(CHANGES);
            if after < before {
                wholes += 1;
                assert_eq!(Saved::load(dir.path()).unwrap(), Some(saved));
            } else {
                most = most.max(after - before);
            }
            assert!(after <= KEPT + 100, "what changed is not kept for ever");
        }
        println!("{} bytes in all, at most {most} for a change, {wholes} times all of it", size(FILE));
        assert!(most < 200, "{most}");
        assert!((2..20).contains(&wholes), "{wholes}");
        // What is the same already costs nothing.
        let before = size(CHANGES);
        journal.save(journal.saved.clone()).unwrap();
        assert_eq!(size(CHANGES), before);
        journal.sync().unwrap();
    }

    #[test]
    fn a_process_finds_what_the_one_before_appended() {
        let dir = tempfile::tempdir().unwrap();
        for steps in steps(60).chunks(7) {
            // Killed after a few changes.
            let mut journal = Journal::new(dir.path().to_owned());
            for saved in steps {
                journal.save(saved.clone()).unwrap();
                assert_eq!(Saved::load(dir.path()).unwrap().as_ref(), Some(saved));
            }
        }
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path().to_owned());
        let steps = steps(4);
        let path = dir.path().join(CHANGES);
        let mut ends = Vec::new();
        for saved in &steps {
            journal.save(saved.clone()).unwrap();
            ends.push(std::fs::metadata(&path).unwrap().len() as usize);
        }
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            let whole_records = ends.iter().filter(|end| **end <= cut).count().max(1);
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(Saved::load(dir.path()).unwrap().as_ref(), Some(&steps[whole_records - 1]), "{cut}");
            // Damaged there, with all that follows still in place.
            let Some(byte) = bytes.get(cut) else { continue };
            let mut damaged = bytes.clone();
            damaged[cut] = byte ^ 0x10;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(Saved::load(dir.path()).unwrap().as_ref(), Some(&steps[whole_records - 1]), "{cut}");
        }
        // Changes of another whole: the host stopped between the two files.
        std::fs::write(&path, &bytes).unwrap();
        let whole = std::fs::read(dir.path().join(FILE)).unwrap();
        let mut other = Journal::new(dir.path().to_owned());
        other.save(steps[2].clone()).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Saved::load(dir.path()).unwrap().as_ref(), Some(&steps[2]));
        std::fs::write(dir.path().join(FILE), whole).unwrap();
        assert_eq!(Saved::load(dir.path()).unwrap().as_ref(), steps.last());
    }
}
