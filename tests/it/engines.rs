//! Engines of each version that can be had: names, connections between hosts, published ports, and what `leave` leaves.

use raftup_tests::lab::{EngineKind, Lab, Options, What, wait_for};

use crate::{
    cluster::{SOON, deploy, form, lab, well},
    doctor::{doctor, ill},
    firewalls::{STACK, works},
};

/// A cluster on hosts of one kind, on which `prepare` was run, serves and leaves nothing.
fn serves(id: &str, engine: EngineKind, version: &str, prepare: &str) -> Lab {
    let lab = lab(&Options { engine, ..Options::new(id, 2).unwrap() });
    for host in lab.hosts() {
        host.sh(prepare).unwrap();
    }
    form(&lab, 2);
    let h1 = lab.host("h1");
    for host in lab.hosts() {
        let log = host.log(What::Daemon);
        assert!(!log.contains("refuses this node") && !log.contains("ERROR"), "{log}");
    }
    well(deploy(&lab, h1, "shop", STACK));
    wait_for(SOON, "a name, a connection and published ports", || works(&lab)).unwrap();
    let (status, findings) = doctor(h1);
    assert_eq!((status, ill(&findings)), (0, Vec::new()), "{findings:#?}");
    let found =
        findings.iter().filter(|one| one["check"] == "engine").filter_map(|one| one["found"].as_str());
    assert!(found.clone().count() == 2 && found.clone().all(|text| text.contains(version)), "{findings:#?}");
    well(h1.raftup(&["stack", "rm", "shop"]).unwrap());
    lab
}

#[test]
fn engine_26_of_debian_13_serves() {
    serves("ittrixie", EngineKind::Trixie, " 26.", "true");
}

#[test]
#[ignore = "takes packages of Ubuntu: `make engines`"]
fn engine_27_of_ubuntu_serves() {
    serves("itplucky", EngineKind::Plucky, " 27.5", "true");
}

#[test]
#[ignore = "takes packages of Ubuntu: `make engines`"]
fn engine_29_of_ubuntu_serves() {
    serves("itresolute", EngineKind::Resolute, " 29.", "true");
}

/// There is no chain `DOCKER-USER`, and nobody needs `iptables`.
#[test]
#[ignore = "takes packages of Ubuntu: `make engines`"]
fn engine_29_with_its_nftables_backend_serves_without_iptables() {
    let remove = "rm $(command -v iptables iptables-restore); ! command -v iptables";
    let lab = serves("itnftables", EngineKind::Nftables, " 29.", remove);
    let rules = lab.host("h1").sh("nft list tables").unwrap();
    assert!(rules.contains("table ip docker-bridges") && !rules.contains("table ip filter"), "{rules}");
}
