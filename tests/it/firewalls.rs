//! Firewalls on servers that let in the two documented ports and nothing else: of `iptables`, of ufw, of nftables itself.

use std::time::{Duration, Instant};

use raftup_tests::lab::{Host, Lab, What, wait_for};
use serde_json::Value;

use crate::{
    cluster::{SOON, WEB, ask_by_name, cluster, deploy, get, well},
    doctor::{close, doctor, name, open},
};

/// A service on the second host, and one on the first that asks for it by name.
pub(crate) const STACK: &str = "services:
  web:
    image: raftup/helper:1
    ports: ['8080:8080']
    healthcheck: {disable: true}
    deploy: {placement: {constraints: [node.hostname == h2]}}
  asker:
    image: raftup/busybox:1
    command: sleep 10000
    deploy: {placement: {constraints: [node.hostname == h1]}}
";

/// Longest time until everything works again behind a firewall that was started.
const REPAIRED: Duration = Duration::from_secs(10);

/// How long something must go on working: longer than changes of rules take to be noticed.
const LASTS: Duration = Duration::from_secs(3);

/// A firewall: how it is started, and how it is ended.
const FIREWALLS: [(&str, &str, &str); 4] = [
    (
        "iptables with policies",
        "iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p udp --dport 7238:7239 -j ACCEPT; iptables -P INPUT DROP",
        "iptables -P INPUT ACCEPT; iptables -D INPUT -i lo -j ACCEPT; iptables -D INPUT -p udp --dport 7238:7239 -j ACCEPT",
    ),
    (
        "a chain before all others",
        "iptables -N MINE; iptables -A MINE -i lo -j ACCEPT; iptables -A MINE -p udp --dport 7238:7239 -j ACCEPT; \
         iptables -A MINE -j DROP; iptables -I INPUT -j MINE",
        "iptables -D INPUT -j MINE; iptables -F MINE; iptables -X MINE",
    ),
    (
        "what is sent is filtered as well",
        "iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p udp --dport 7238:7239 -j ACCEPT; iptables -P INPUT DROP; \
         iptables -A OUTPUT -o lo -j ACCEPT; iptables -A OUTPUT -p udp --dport 7238:7239 -j ACCEPT; iptables -P OUTPUT DROP",
        "iptables -P INPUT ACCEPT; iptables -D INPUT -i lo -j ACCEPT; iptables -D INPUT -p udp --dport 7238:7239 -j ACCEPT; \
         iptables -P OUTPUT ACCEPT; iptables -D OUTPUT -o lo -j ACCEPT; iptables -D OUTPUT -p udp --dport 7238:7239 -j ACCEPT",
    ),
    ("ufw", "ufw allow 7238/udp; ufw allow 7239/udp; ufw --force enable", "ufw --force disable"),
];

/// A name, a connection between containers of two hosts, and a published port through both.
pub(crate) fn works(lab: &Lab) -> anyhow::Result<Option<()>> {
    let said = ask_by_name(lab.host("h1"), "web")?;
    anyhow::ensure!(said.contains("200"), "{said}");
    for host in lab.hosts() {
        get(lab, host, "8080/")?;
    }
    Ok(Some(()))
}

fn works_on(lab: &Lab, what: &str) {
    wait_for(REPAIRED, what, || works(lab)).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let begun = Instant::now();
    while begun.elapsed() < LASTS {
        works(lab).unwrap_or_else(|error| panic!("{what}, after {:?}: {error:#}", begun.elapsed()));
    }
    let status = well(lab.host("h1").raftup(&["status"]).unwrap());
    assert!(!status.contains("do not get to"), "{what}: {status}");
}

fn both(lab: &Lab, script: &str) {
    for host in lab.hosts() {
        host.sh(script).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// What the doctor has to say of firewalls on a host.
fn told(host: &Host, of: &str) -> Vec<Value> {
    let (_, findings) = doctor(host);
    let of_host = findings.into_iter().filter(|one| name(one) == format!("{of} firewall"));
    of_host.filter(|one| one["health"] != "ok").collect()
}

/// The commands in a finding's advice.
fn commands(finding: &Value) -> Vec<String> {
    let commands = finding["commands"].as_array().into_iter().flatten().filter_map(Value::as_str);
    commands.map(str::to_owned).collect()
}

#[test]
fn with_two_ports_open_everything_works() {
    let lab = cluster("itwalls", 2);
    let h1 = lab.host("h1");
    well(deploy(&lab, h1, "shop", STACK));
    works_on(&lab, "no firewall");
    // Roots of other engines do not have all of them.
    let chosen = std::env::var("RAFTUP_LAB_ENGINE").is_ok_and(|engine| !engine.is_empty());
    for (what, start, end) in FIREWALLS {
        if chosen && what == "ufw" && h1.sh("command -v ufw").is_err() {
            eprintln!("skipped: this engine's hosts have no {what}");
            continue;
        }
        both(&lab, start);
        works_on(&lab, what);
        assert_eq!(told(h1, "h1"), Vec::<Value>::new(), "{what}");
        // A daemon that starts behind it.
        h1.kill_daemon().unwrap();
        h1.start_daemon().unwrap();
        wait_for(SOON, "the daemon", || Ok(h1.raftup(&["node", "ls"])?.status.success().then_some(())))
            .unwrap();
        works_on(&lab, &format!("{what}, and the daemon started behind it"));
        both(&lab, end);
        if what == "what is sent is filtered as well" {
            let gone = || Ok((!h1.sh("iptables -S OUTPUT")?.contains("ru-")).then_some(()));
            wait_for(REPAIRED, "an end of our rules where nobody filters", gone).unwrap();
        }
    }
    works_on(&lab, "no firewall any more");
}

/// Chains of nftables itself: no rule of ours can accept in their place.
#[test]
fn what_the_doctor_says_of_nftables_mends_it() {
    let lab = cluster("itnative", 2);
    let h1 = lab.host("h1");
    well(deploy(&lab, h1, "shop", STACK));
    works_on(&lab, "no firewall");
    let table = "table inet filter {\n\
        chain input { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; }\n\
        chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; }\n}\n";
    let file = crate::cluster::write(&lab, "native.nft", table);
    h1.sh(&format!("nft -f {}", file.display())).unwrap();
    wait_for(SOON, "an end of answers", || Ok(works(&lab).is_err().then_some(()))).unwrap();
    let findings = told(h1, "h1");
    let texts: Vec<&str> = findings.iter().filter_map(|one| one["found"].as_str()).collect();
    for chain in ["chain `input` of table `inet filter`", "chain `forward` of table `inet filter`"] {
        assert!(texts.iter().any(|text| text.starts_with(chain)), "{findings:#?}");
    }
    for command in findings.iter().flat_map(commands) {
        h1.sh(&command).unwrap();
    }
    works_on(&lab, "what the doctor has said");
    wait_for(SOON, "a doctor who is content", || Ok(told(h1, "h1").is_empty().then_some(()))).unwrap();
    h1.sh("nft delete table inet filter").unwrap();
    assert_eq!(told(h1, "h1"), Vec::<Value>::new(), "it is gone");
}

/// Gossip goes on, and nothing that containers send does.
#[test]
fn a_way_that_is_closed_to_containers_alone_is_told_and_led_around() {
    let lab = cluster("itdeadway", 2);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    well(deploy(&lab, h1, "shop", &WEB.replace("replicas: 3", "mode: global")));
    let all = || {
        (0..12).try_for_each(|_| get(&lab, h1, "8080/").map(drop))?;
        Ok(Some(()))
    };
    wait_for(SOON, "answers of both tasks", all).unwrap();
    close(&lab, h2, "udp dport 7239");
    let told = |there: bool| {
        move || {
            let status = well(h1.raftup(&["status"])?);
            Ok((status.contains("packets of containers do not get to `h2`") == there).then_some(()))
        }
    };
    wait_for(REPAIRED, "word of it", told(true)).unwrap();
    wait_for(Duration::from_secs(2), "answers of the task that is reached", all).unwrap();
    assert!(h1.log(What::Daemon).contains("cannot be reached from here; new connections go elsewhere"));
    // The daemons see each other all the while.
    crate::cluster::nodes(h1, "Ready", 2);
    open(h2);
    wait_for(REPAIRED, "an end of it", told(false)).unwrap();
    wait_for(REPAIRED, "answers of both tasks", all).unwrap();
}
