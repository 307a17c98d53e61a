//! The bytes of every kind of record, as version 1 writes them.
//!
//! If one of these fails, a type of `model` or of this module has changed its shape, and clusters that exist could not be
//! read any more. After the first release: keep the old types as `V1`, write version 2, and keep these bytes as a test of
//! reading. Before it: `UPDATE_EXPECT=1 cargo test`.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use expect_test::expect_file;
use proptest::prelude::*;

use super::*;
use crate::store::{apply, sample};

fn id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 300, node_id: 2 }, index)
}

fn members() -> Members {
    let site = Site { node: NodeId::new(4), addr: "10.0.0.4:7238".parse().unwrap() };
    Members::new(vec![BTreeSet::from([2, 3])], BTreeMap::from([(2, site), (3, Site::default())])).unwrap()
}

fn entries() -> [Entry; 3] {
    let set = Arc::new(sample::everything());
    [
        Entry { log_id: id(70_000), payload: Payload::Blank },
        Entry { log_id: id(2), payload: Payload::Normal(Command(set)) },
        Entry { log_id: id(3), payload: Payload::Membership(members()) },
    ]
}

fn snapshot_parts() -> (SnapshotMeta, Cluster) {
    let cluster = apply(&Cluster::default(), 2, &sample::everything()).unwrap();
    (
        SnapshotMeta {
            last_log_id: Some(id(9)),
            last_membership: StoredMembers::new(Some(id(3)), members()),
        },
        cluster,
    )
}

fn records() -> Vec<(&'static str, Vec<u8>)> {
    let [blank, change, config] = entries();
    let (meta, cluster) = snapshot_parts();
    let vote = Vote { leader_id: LeaderId { term: 300, node_id: 2 }, committed: true };
    let id_ = Identity { node: NodeId::new(4), member: 3, incarnation: u64::MAX, starts: 5, left: false };
    vec![
        ("blank entry", entry(&blank)),
        ("change entry", entry(&change)),
        ("members entry", entry(&config)),
        ("vote", self::vote(&vote)),
        ("log id", log_id(&id(70_000))),
        ("snapshot", snapshot(&meta, &cluster)),
        ("identity", identity(&id_)),
        ("life", life(&Life { member: 3, incarnation: u64::MAX, starts: 5, process: 6 })),
    ]
}

#[test]
fn the_bytes_of_version_1() {
    let mut text = String::new();
    for (name, record) in records() {
        writeln!(text, "{name}").unwrap();
        for line in record.chunks(32) {
            let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "    {hex}").unwrap();
        }
    }
    expect_file!["v1.hex"].assert_eq(&text);
}

#[test]
fn what_is_written_is_read() {
    for one in entries() {
        assert_eq!(read_entry(&entry(&one)).unwrap(), one);
    }
    let (meta, cluster) = snapshot_parts();
    assert_eq!(read_snapshot(&snapshot(&meta, &cluster)).unwrap(), (meta, cluster));
    assert_eq!(read_log_id(&log_id(&id(7))).unwrap(), id(7));
}

#[test]
fn other_kinds_and_newer_versions_are_told_apart() {
    let mut record = log_id(&id(7));
    assert!(matches!(read_vote(&record), Err(FormatError::Kind { found: 3, wanted: 2 })));
    record[1] = 2;
    let sum = checksum(&record);
    record[6..HEAD].copy_from_slice(&sum.to_be_bytes());
    let error = read_log_id(&record).unwrap_err();
    assert!(matches!(error, FormatError::FromTheFuture { found: 2, newest: 1 }));
    assert!(error.to_string().contains("newer"), "{error}");
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed() {
    for (name, record) in records() {
        let reads = |bytes: &[u8]| {
            read_entry(bytes).is_ok()
                || read_vote(bytes).is_ok()
                || read_log_id(bytes).is_ok()
                || read_snapshot(bytes).is_ok()
                || read_identity(bytes).is_ok()
                || read_life(bytes).is_ok()
        };
        assert!(reads(&record), "{name}");
        for cut in 0..record.len() {
            assert!(!reads(&record[..cut]), "{name} cut at {cut}");
        }
        for at in 0..record.len() {
            for bit in 0..8 {
                let mut flipped = record.clone();
                flipped[at] ^= 1 << bit;
                assert!(!reads(&flipped), "{name}, byte {at}, bit {bit}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(kind in 1..7_u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut record = vec![kind, 1, 0, 0, 0, body.len() as u8, 0, 0, 0, 0];
        record.extend(body);
        let sum = checksum(&record);
        record[6..HEAD].copy_from_slice(&sum.to_be_bytes());
        let _ = (read_entry(&record), read_vote(&record), read_log_id(&record), read_snapshot(&record));
        let _ = (read_identity(&record), read_life(&record));
    }
}
