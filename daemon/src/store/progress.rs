//! A second record of what this member has promised, so that a log that is older than its promises is noticed.
//!
//! ```text
//! two slots, written in turns; the sound one with the higher sequence counts. A slot, numbers big-endian:
//! version 1  sequence 8  member 8  incarnation 8  starts 8
//! vote: 1 if there is one  term 8  member 8  1 if committed     last: 1 if there is one  term 8  member 8  index 8
//! CRC-32 of all that 4
//! ```
//!
//! Owns: the file `progress`. Leaves alone: the log, and what its difference from this record means (`files`).
//! Holds: the log has all that the record says. The record is written after each commit of the log and before anyone is
//! told of that, without a sync: so it survives the process, and is a little older after a loss of power. Before the log
//! gives entries up, the record is lowered and synced.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use anyhow::{Context, bail};

use super::types::{LeaderId, LogId, Vote};
use crate::disk;

const VERSION: u8 = 1;

/// Bytes of a slot: no sector of a disk holds parts of both.
const SLOT: usize = 4096;

/// Bytes of a slot that are used.
const RECORD: usize = 1 + 4 * 8 + 18 + 25 + 4;

const MODE: u32 = 0o600;

/// What a member has promised to others, or to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) member: u64,
    pub(super) incarnation: u64,
    /// How often the member was started.
    pub(super) starts: u64,
    pub(super) vote: Option<Vote>,
    /// The last entry of the log, or of the snapshot.
    pub(super) last: Option<LogId>,
}

/// The file, open.
#[derive(Debug)]
pub(super) struct Progress {
    file: File,
    sequence: u64,
}

impl Progress {
    /// Makes the file. On disk when it returns.
    pub(super) fn create(path: &Path, promise: &Promise) -> io::Result<()> {
        let mut bytes = vec![0; 2 * SLOT];
        bytes[..RECORD].copy_from_slice(&encode(0, promise));
        bytes[SLOT..SLOT + RECORD].copy_from_slice(&encode(1, promise));
        disk::write(path, &bytes, MODE)
    }

    /// Opens the file, if it is there, and reads it. Errors: it is damaged.
    pub(super) fn open(path: &Path) -> anyhow::Result<Option<(Self, Promise)>> {
        let Some(bytes) = disk::read(path, 2 * SLOT as u64)? else {
            return Ok(None);
        };
        if bytes.len() != 2 * SLOT {
            bail!("it is cut off");
        }
        let slots = bytes.chunks(SLOT).filter_map(decode);
        let (sequence, promise) = slots.max_by_key(|(sequence, _)| *sequence).context("it is damaged")?;
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Some((Self { file, sequence }, promise)))
    }

    /// Replaces the record. Outlives this process when it returns.
    pub(super) fn write(&mut self, promise: &Promise) -> io::Result<()> {
        self.sequence += 1;
        let slot = (self.sequence % 2) * SLOT as u64;
        self.file.write_all_at(&encode(self.sequence, promise), slot)
    }

    /// Puts what was written on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn encode(sequence: u64, promise: &Promise) -> [u8; RECORD] {
    let mut bytes = Vec::with_capacity(RECORD);
    bytes.push(VERSION);
    for number in [sequence, promise.member, promise.incarnation, promise.starts] {
        bytes.extend(number.to_be_bytes());
    }
    let none = LeaderId { term: 0, node_id: 0 };
    let vote = promise.vote.unwrap_or(Vote { leader_id: none, committed: false });
    bytes.push(u8::from(promise.vote.is_some()));
    bytes.extend(vote.leader_id.term.to_be_bytes());
    bytes.extend(vote.leader_id.node_id.to_be_bytes());
    bytes.push(u8::from(vote.committed));
    let last = promise.last.unwrap_or(LogId::new(none, 0));
    bytes.push(u8::from(promise.last.is_some()));
    for number in [last.leader_id.term, last.leader_id.node_id, last.index] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    let mut record = [0; RECORD];
    record.copy_from_slice(&bytes);
    record
}

fn decode(slot: &[u8]) -> Option<(u64, Promise)> {
    let (record, sum) = slot.get(..RECORD)?.split_at(RECORD - 4);
    if crc32fast::hash(record).to_be_bytes() != sum || record[0] != VERSION {
        return None;
    }
    let number = |at: usize| Some(u64::from_be_bytes(record.get(at..at + 8)?.try_into().ok()?));
    let vote =
        Vote { leader_id: LeaderId { term: number(34)?, node_id: number(42)? }, committed: record[50] == 1 };
    let last = LogId::new(LeaderId { term: number(52)?, node_id: number(60)? }, number(68)?);
    let promise = Promise {
        member: number(9)?,
        incarnation: number(17)?,
        starts: number(25)?,
        vote: (record[33] == 1).then_some(vote),
        last: (record[51] == 1).then_some(last),
    };
    Some((number(1)?, promise))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn promise(index: u64) -> Promise {
        let leader_id = LeaderId { term: 3, node_id: 2 };
        Promise {
            member: 7,
            incarnation: 11,
            starts: 2,
            vote: Some(Vote { leader_id, committed: true }),
            last: Some(LogId::new(leader_id, index)),
        }
    }

    #[test]
    fn the_newest_record_counts_and_the_one_before_stands_in_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress");
        assert!(Progress::open(&path).unwrap().is_none());
        let first = Promise { vote: None, last: None, ..promise(0) };
        Progress::create(&path, &first).unwrap();
        let (mut progress, found) = Progress::open(&path).unwrap().unwrap();
        assert_eq!(found, first);
        for index in 1..=5 {
            progress.write(&promise(index)).unwrap();
        }
        progress.sync().unwrap();
        let (progress, found) = Progress::open(&path).unwrap().unwrap();
        assert_eq!((found, progress.sequence), (promise(5), 6));
        let good = fs::read(&path).unwrap();
        // Slot 0 has the fifth, slot 1 the fourth.
        let mut torn = good.clone();
        torn[20] ^= 1;
        fs::write(&path, &torn).unwrap();
        assert_eq!(Progress::open(&path).unwrap().unwrap().1, promise(4));
        torn[SLOT + 20] ^= 1;
        fs::write(&path, &torn).unwrap();
        Progress::open(&path).unwrap_err();
        for length in [0, 1, SLOT, 2 * SLOT - 1] {
            fs::write(&path, &good[..length]).unwrap();
            Progress::open(&path).unwrap_err();
        }
    }
}
