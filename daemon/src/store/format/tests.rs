//! The bytes of every kind of record, as each version wrote them, are read for ever.
//!
//! `v1.hex` and `v2.hex` are kept and never written again. A failure here means that clusters that exist could not be read
//! any more.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

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

/// The kept records of one version, by name.
fn kept(text: &str) -> BTreeMap<String, Vec<u8>> {
    let mut records: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        match line.strip_prefix("    ") {
            None => name = line.to_owned(),
            Some(hex) => {
                let bytes =
                    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
                records.entry(name.clone()).or_default().extend(bytes);
            }
        }
    }
    records
}

#[test]
fn the_bytes_of_every_version_are_read() {
    for text in [include_str!("v1.hex"), include_str!("v2.hex")] {
        let kept = kept(text);
        let [blank, change, config] = entries();
        assert_eq!(read_entry(&kept["blank entry"]).unwrap(), blank);
        assert_eq!(read_entry(&kept["change entry"]).unwrap(), change);
        assert_eq!(read_entry(&kept["members entry"]).unwrap(), config);
        let (meta, cluster) = read_snapshot(&kept["snapshot"]).unwrap();
        let (expected_meta, expected) = snapshot_parts();
        assert_eq!((meta, &cluster), (expected_meta, &Cluster { clock: cluster.clock, ..expected }));
        assert_eq!(read_log_id(&kept["log id"]).unwrap(), id(70_000));
        assert!(read_vote(&kept["vote"]).unwrap().committed);
        assert_eq!(read_identity(&kept["identity"]).unwrap().member, 3);
        assert_eq!(read_life(&kept["life"]).unwrap().process, 6);
    }
}

/// What a snapshot of a cluster with a secret holds, as the release that brought secrets wrote it.
#[test]
fn secrets_are_read() {
    let mut set = sample::everything();
    set.create(sample::blob(1));
    let cluster = apply(&Cluster::default(), 2, &set).unwrap();
    let record = snapshot(&snapshot_parts().0, &cluster);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/format/secrets.hex");
    if std::env::var_os("WRITE_FORMAT").is_some() && !path.exists() {
        let lines = record.chunks(32).map(|line| {
            let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("    {hex}\n")
        });
        std::fs::write(&path, format!("snapshot\n{}", lines.collect::<String>())).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let (_, read) = read_snapshot(&kept(&text)["snapshot"]).unwrap();
    assert_eq!(read, cluster);
}

/// A version is written once: `WRITE_FORMAT=1 cargo test` makes the file of a new one.
#[test]
fn a_new_version_is_kept() {
    if std::env::var_os("WRITE_FORMAT").is_none() {
        return;
    }
    let mut text = String::new();
    for (name, record) in records() {
        writeln!(text, "{name}").unwrap();
        for line in record.chunks(32) {
            let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "    {hex}").unwrap();
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/format/v2.hex");
    std::fs::write(path, text).unwrap();
}

#[test]
fn fields_of_a_newer_release_are_passed_over() {
    let (_, cluster) = snapshot_parts();
    let service = cluster.services.values().next().unwrap();
    // The same service with a field in the object and one in its spec that this release does not know.
    #[derive(Serialize)]
    struct Newer<'a> {
        color: &'static str,
        #[serde(flatten)]
        known: &'a crate::model::Service,
    }
    let bytes = Objects::of(&Newer { color: "red", known: service });
    assert_eq!(bytes.read::<crate::model::Service>().unwrap(), **service);
    let mut spec = serde_json::to_value(&*service.current().spec).unwrap();
    spec["container"]["color"] = "red".into();
    let read: raftup_proto::spec::ServiceSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(read, *service.current().spec);
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
    for found in [0, 2, 255] {
        record[1] = found;
        let sum = checksum(&record);
        record[6..HEAD].copy_from_slice(&sum.to_be_bytes());
        let error = read_log_id(&record).unwrap_err();
        assert!(matches!(error, FormatError::FromTheFuture { newest: 1, .. }));
        assert!(error.to_string().contains("newer"), "{error}");
    }
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
    fn no_bytes_panic(kind in 1..7_u8, version in 0..4_u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut record = vec![kind, version, 0, 0, 0, body.len() as u8, 0, 0, 0, 0];
        record.extend(body);
        let sum = checksum(&record);
        record[6..HEAD].copy_from_slice(&sum.to_be_bytes());
        let _ = (read_entry(&record), read_vote(&record), read_log_id(&record), read_snapshot(&record));
        let _ = (read_identity(&record), read_life(&record));
    }
}
