//! Firewalls. `tests/vm/boxes.sh` has the real firewalld, with its own commands.

use super::{
    Act::{Do, Sh},
    FAULT, Fault, Mend, check, served,
};
use crate::cluster::write;

const NATIVE: &str = "table inet filter {
    chain input { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; }
    chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; }
}
";

/// As firewalld makes it: what no zone accepts is refused.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        reject with icmpx admin-prohibited
    }
}
";

const FAULTS: &[Fault] = &[
    Fault {
        name: "the control port is closed inwards",
        plant: &[Sh("h2", "iptables -A INPUT -p udp --dport 7238 -j DROP")],
        asked: "h2",
        found: &[("h2 firewall", "a rule drops what comes to UDP 7238")],
        clear: &[Sh(
            "h2",
            "iptables -D INPUT -p udp --dport 7238 -j DROP; iptables -D INPUT -p udp --dport 7238 -j ACCEPT",
        )],
        ..FAULT
    },
    Fault {
        name: "the control port is closed outwards",
        plant: &[Sh("h2", "iptables -A OUTPUT -p udp --dport 7238 -j DROP")],
        asked: "h2",
        found: &[("h2 firewall", "rules drop what this host sends to UDP 7238")],
        clear: &[Sh(
            "h2",
            "iptables -D OUTPUT -p udp --dport 7238 -j DROP; iptables -D OUTPUT -p udp --dport 7238 -j ACCEPT",
        )],
        ..FAULT
    },
    Fault {
        name: "the fabric's port is closed inwards",
        plant: &[Sh("h2", "iptables -A INPUT -p udp --dport 7239 -j DROP")],
        found: &[("h2 firewall", "a rule drops what comes to UDP 7239")],
        clear: &[Sh(
            "h2",
            "iptables -D INPUT -p udp --dport 7239 -j DROP; iptables -D INPUT -p udp --dport 7239 -j ACCEPT",
        )],
        ..FAULT
    },
    Fault {
        name: "the fabric's port is closed outwards",
        plant: &[Sh("h2", "iptables -A OUTPUT -p udp --dport 7239 -j REJECT")],
        found: &[("h2 firewall", "rules drop what this host sends to UDP 7239")],
        clear: &[Sh(
            "h2",
            "iptables -D OUTPUT -p udp --dport 7239 -j REJECT; iptables -D OUTPUT -p udp --dport 7239 -j ACCEPT",
        )],
        ..FAULT
    },
    Fault {
        name: "iptables -P INPUT DROP",
        plant: &[Sh(
            "h2",
            "iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p udp --sport 53 -j ACCEPT; iptables -P INPUT DROP",
        )],
        asked: "h2",
        found: &[("h2 firewall", "the host drops what comes in")],
        clear: &[Sh(
            "h2",
            "iptables -P INPUT ACCEPT; iptables -D INPUT -i lo -j ACCEPT; iptables -D INPUT -p udp --sport 53 -j ACCEPT; iptables -D INPUT -p udp --dport 7238 -j ACCEPT; iptables -D INPUT -p udp --dport 7239 -j ACCEPT || true",
        )],
        ..FAULT
    },
    Fault {
        name: "ufw is on, without the ports, on a host that is to join",
        plant: &[Sh("h3", "ufw --force enable")],
        asked: "h3",
        found: &[("h3 firewall", "ufw is active, and no rule opens UDP 7238 and 7239")],
        clear: &[Sh("h3", "ufw --force disable; ufw delete allow 7238/udp; ufw delete allow 7239/udp")],
        ..FAULT
    },
    Fault {
        name: "nftables drops by policy what comes in, and what is forwarded",
        plant: &[Do(|lab| {
            drop(
                lab.host("h1").sh(&format!("nft -f {}", write(lab, "native.nft", NATIVE).display())).unwrap(),
            )
        })],
        found: &[
            ("h1 firewall", "chain `input` of table `inet filter` drops"),
            ("h1 firewall", "chain `forward` of table `inet filter` drops"),
        ],
        clear: &[Sh("h1", "nft delete table inet filter")],
        ..FAULT
    },
    Fault {
        name: "a rule of nftables drops the fabric's port",
        plant: &[Sh(
            "h2",
            "nft 'add table inet mine; add chain inet mine in { type filter hook input priority -5; }; add rule inet mine in udp dport 7238-7239 drop'",
        )],
        asked: "h2",
        found: &[("h2 firewall", "chain `in` of table `inet mine` drops UDP 7238 and 7239")],
        clear: &[Sh("h2", "nft delete table inet mine")],
        ..FAULT
    },
    Fault {
        name: "firewalld without a zone for raftup",
        plant: &[Do(|lab| {
            drop(
                lab.host("h2")
                    .sh(&format!("nft -f {}", write(lab, "firewalld.nft", FIREWALLD).display()))
                    .unwrap(),
            )
        })],
        found: &[("h2 firewall", "firewalld is active")],
        mend: Mend::ByHand(
            "hosts of the lab have no firewall-cmd: it needs systemd and D-Bus",
            &[Sh("h2", "nft delete table inet firewalld")],
        ),
        ..FAULT
    },
    Fault {
        name: "a forward chain that drops all comes first",
        plant: &[Sh("h1", "iptables -I FORWARD -j DROP")],
        mend: Mend::Itself,
        clear: &[Sh("h1", "iptables -D FORWARD -j DROP")],
        ..FAULT
    },
    Fault {
        name: "all rules of nftables are flushed",
        plant: &[Sh("h1", "nft flush ruleset")],
        mend: Mend::Itself,
        ..FAULT
    },
    Fault {
        name: "the program nft is missing",
        plant: &[Sh("h2", "mv $(command -v nft) /tmp/nft")],
        found: &[
            ("h2 nftables", "`nft` cannot be run"),
            ("h2 firewall", "rules of this host cannot be read"),
        ],
        mend: Mend::ByHand("a test installs no packages", &[Sh("h2", "cp /tmp/nft /usr/sbin/nft")]),
        ..FAULT
    },
];

#[test]
#[ignore = "some minutes: `make planted`"]
fn firewalls() {
    check(&served("itplantwall"), FAULTS);
}
