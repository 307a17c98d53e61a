//! Clocks, certificates, names of hosts, and identities.
//!
//! Hosts of the lab share the machine's clock. The daemon of one sees another time by `libfaketime`, whose file a test writes:
//! what the wall clock says is false, and the monotonic clock is true.

use raftup_tests::lab::{Lab, What};

use super::{
    Act::{Do, Sh},
    FAULT, Fault, Mend, check, served, type_in,
};

const WRAPPED: &str = "real=$(readlink -f /usr/local/bin/raftupd); rm /usr/local/bin/raftupd; printf '#!/bin/sh\\n\
    LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 \
    FAKETIME_CACHE_DURATION=1 FAKETIME_TIMESTAMP_FILE=/etc/faketime exec %s \"$@\"\\n' $real > /usr/local/bin/raftupd; \
    chmod 755 /usr/local/bin/raftupd; echo $real > /tmp/real";

/// Starts the daemon of `h2` anew, with a clock that is that much ahead.
fn ahead(lab: &Lab, by: &str) {
    let host = lab.host("h2");
    host.sh(&format!("echo {by} > /etc/faketime")).unwrap();
    host.stop(What::Daemon).unwrap();
    host.sh(WRAPPED).unwrap();
    host.start_daemon().unwrap();
}

/// Its true clock.
fn true_clock(lab: &Lab) {
    let host = lab.host("h2");
    host.stop(What::Daemon).unwrap();
    host.sh("rm /usr/local/bin/raftupd; ln -s $(cat /tmp/real) /usr/local/bin/raftupd").unwrap();
    host.start_daemon().unwrap();
}

const NO_CLOCK: &str = "hosts of the lab have no clock of their own";

const FAULTS: &[Fault] = &[
    Fault {
        name: "a clock is three minutes ahead",
        plant: &[Do(|lab| ahead(lab, "+180s"))],
        found: &[("h2 clock", "ahead of the leader's")],
        mend: Mend::ByHand(NO_CLOCK, &[Do(true_clock)]),
        ..FAULT
    },
    Fault {
        name: "a clock is three minutes behind",
        plant: &[Do(|lab| ahead(lab, "-180s"))],
        found: &[("h2 clock", "behind the leader's")],
        mend: Mend::ByHand(NO_CLOCK, &[Do(true_clock)]),
        ..FAULT
    },
    Fault {
        name: "a clock jumps back and forth",
        plant: &[
            Do(|lab| ahead(lab, "+0s")),
            Do(|lab| {
                let host = lab.host("h2");
                for (by, word) in [("+180s", "forward by 1"), ("+0s", "back by 1")] {
                    host.sh(&format!("echo {by} > /etc/faketime")).unwrap();
                    let seen = || {
                        let (_, findings) = crate::doctor::doctor(host);
                        let told = |one: &serde_json::Value| {
                            one["found"].as_str().is_some_and(|text| text.contains(word))
                        };
                        Ok(findings.iter().any(told).then_some(()))
                    };
                    raftup_tests::lab::wait_for(crate::cluster::SOON, word, seen).unwrap();
                }
            }),
        ],
        found: &[
            ("h2 clock", "the clock was set back by 1"),
            ("h2 status", "the clock of this server was set 2 times"),
        ],
        mend: Mend::ByHand(NO_CLOCK, &[Do(true_clock)]),
        ..FAULT
    },
    Fault {
        name: "a certificate that was not renewed is near its end",
        plant: &[Do(|lab| ahead(lab, "+70d"))],
        asked: "h2",
        found: &[("h2 certificate", "more days")],
        mend: Mend::ByHand("the certificate is right: it is the clock that is planted", &[Do(true_clock)]),
        ..FAULT
    },
    Fault {
        name: "a certificate has ended",
        plant: &[Do(|lab| ahead(lab, "+100d"))],
        asked: "h2",
        found: &[("h2 certificate", "ended")],
        mend: Mend::ByHand("the certificate is right: it is the clock that is planted", &[Do(true_clock)]),
        ..FAULT
    },
    Fault {
        name: "two hosts have one name",
        plant: &[Sh("h2", "hostname h1"), Do(|lab| type_in(lab.host("h2"), "systemctl restart raftupd"))],
        found: &[(" cluster", "host name")],
        mend: Mend::ByHand(
            "the name is the operator's to choose",
            &[Sh("h2", "hostname h2"), Do(|lab| type_in(lab.host("h2"), "systemctl restart raftupd"))],
        ),
        ..FAULT
    },
    Fault {
        name: "a data directory was copied to another host",
        plant: &[Do(|lab| {
            let copy = lab.share().join("copy.tar").display().to_string();
            lab.host("h2").sh(&format!("tar -C /var/lib/raftup -cf {copy} .")).unwrap();
            let h3 = lab.host("h3");
            h3.stop(What::Daemon).unwrap();
            h3.sh(&format!("rm -rf /var/lib/raftup/* && tar -C /var/lib/raftup -xf {copy}")).unwrap();
            h3.start_daemon().unwrap();
        })],
        asked: "h3",
        found: &[("h3 status", "this node's identity is in use elsewhere")],
        ..FAULT
    },
];

#[test]
#[ignore = "some minutes: `make planted`"]
fn clocks_and_identities() {
    let lab = served("itplantclock");
    check(&lab, FAULTS);
    super::content(&lab, "h1");
}
