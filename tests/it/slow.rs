//! Managers over slow links that lose packets, and on slow disks. How delays count is tested with relays, in
//! `daemon/src/store/tests/slow.rs`: not every kernel can delay packets.

use std::time::{Duration, Instant};

use raftup_tests::lab::{Host, Lab};

use crate::cluster::{WEB, cluster, deploy, leader, nodes, well, write};

/// Longest time of a small change over slow links.
const SMALL: Duration = Duration::from_secs(2);

/// Longest time of one on disks whose syncs take two seconds.
const ON_DISK: Duration = Duration::from_secs(4);

/// Makes the links of all hosts carry 3 Mbit/s and lose a twentieth of the packets between daemons.
fn slow_links(lab: &Lab) {
    for host in lab.hosts() {
        host.sh("tc qdisc add dev eth0 root tbf rate 3mbit burst 16kb latency 400ms").unwrap();
        host.sh("nft 'add table ip lossy; add chain ip lossy in { type filter hook input priority -300; }; \
             add rule ip lossy in udp dport 7238 numgen random mod 100 < 5 drop'")
            .unwrap();
    }
}

/// Lets the host's daemon write so often a second to its disk.
fn slow_disk(lab: &str, host: &Host, writes: u32) {
    let group = format!("/sys/fs/cgroup/blkio/raftup-lab/{lab}/slow-{}", host.name());
    host.sh(&format!(
        "mkdir -p {group} && dev=$(stat -c %d /var/lib/raftup) && \
         echo \"$((dev >> 8)):$((dev & 255)) {writes}\" > {group}/blkio.throttle.write_iops_device && \
         for pid in $(pidof raftupd); do echo $pid > {group}/cgroup.procs; done"
    ))
    .unwrap();
}

/// How long each of a few small changes takes, asked at `host`.
fn small_changes(host: &Host) -> Vec<Duration> {
    let change = |number| {
        let begun = Instant::now();
        well(host.raftup(&["node", "update", "--label-add", &format!("n={number}"), host.name()]).unwrap());
        begun.elapsed()
    };
    (0..5).map(change).collect()
}

#[test]
fn a_stack_of_two_megabytes_over_slow_links_costs_no_leader() {
    let lab = cluster("itslow", 3);
    let h1 = lab.host("h1");
    nodes(h1, "Reachable", 2);
    let before = leader(&lab, h1);
    slow_links(&lab);
    let early = small_changes(before);
    let mut args = vec!["stack".to_owned(), "deploy".to_owned()];
    for part in 0..3 {
        let mut file = "services:\n".to_owned();
        for service in 0..7 {
            file += &format!(
                "  s{part}-{service}:\n    image: raftup/helper:1\n    deploy: {{replicas: 0}}\n    \
                 environment: {{LARGE: '{}'}}\n",
                "x".repeat(100_000)
            );
        }
        let path = write(&lab, &format!("part{part}.yaml"), &file);
        args.extend(["-c".to_owned(), path.display().to_string()]);
    }
    args.push("large".to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let begun = Instant::now();
    well(before.raftup(&args).unwrap());
    let took = begun.elapsed();
    let late = small_changes(before);
    println!("3 Mbit/s a host, 5 % lost: 2.1 MB in {took:?}; small changes {early:?} before, {late:?} after");
    assert_eq!(leader(&lab, before).name(), before.name(), "the leader changed");
    assert!(early.iter().chain(&late).all(|took| *took < SMALL), "{early:?} {late:?}");
}

#[test]
fn managers_on_disks_whose_syncs_take_seconds() {
    let lab = cluster("itdisk", 3);
    let h1 = lab.host("h1");
    nodes(h1, "Reachable", 2);
    well(deploy(&lab, h1, "shop", WEB));
    let before = leader(&lab, h1);
    lab.hosts().for_each(|host| slow_disk("itdisk", host, 4));
    let took = small_changes(before);
    println!("4 writes a second: small changes {took:?}");
    assert_eq!(leader(&lab, before).name(), before.name(), "the leader changed");
    assert!(took.iter().all(|took| *took < ON_DISK), "{took:?}");
}
