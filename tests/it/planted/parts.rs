//! The engine, the daemon, disks, ports, devices, and the size of packets.

use raftup_tests::lab::{Lab, What, wait_for};

use super::{
    Act::{Do, Sh},
    FAULT, Fault, Mend, check, commands, served, type_in,
};
use crate::{
    cluster::{SOON, deploy, lab, well},
    doctor::{close, doctor, name, open},
};

fn restart_engine(lab: &Lab, host: &str) {
    lab.host(host).stop(What::Engine).unwrap();
    lab.host(host).start_engine().unwrap();
}

/// A program that has the port before the service wants it.
const LATE: &str = "services:
  late:
    image: raftup/helper:1
    ports: ['8090:8080']
    healthcheck: {disable: true}
    deploy: {placement: {constraints: [node.hostname == h1]}}
";

const FAULTS: &[Fault] = &[
    Fault {
        name: "the engine is stopped",
        plant: &[Do(|lab| lab.host("h2").stop(What::Engine).unwrap())],
        found: &[("h2 engine", "Docker Engine does not answer")],
        ..FAULT
    },
    Fault {
        name: "the daemon is stopped",
        plant: &[Do(|lab| lab.host("h2").stop(What::Daemon).unwrap())],
        found: &[("h2 doctor", "cannot be asked")],
        ..FAULT
    },
    Fault {
        name: "an engine with `iptables: false`",
        plant: &[
            Sh("h2", "mkdir -p /etc/docker; echo '{\"iptables\": false}' > /etc/docker/daemon.json"),
            Do(|lab| restart_engine(lab, "h2")),
        ],
        found: &[("h2 engine", "`\"iptables\": false` in /etc/docker/daemon.json")],
        clear: &[Sh("h2", "rm /etc/docker/daemon.json"), Do(|lab| restart_engine(lab, "h2"))],
        ..FAULT
    },
    Fault {
        name: "the engine's address pools overlap with the cluster's",
        plant: &[
            Sh(
                "h2",
                "mkdir -p /etc/docker; echo '{\"default-address-pools\": [{\"base\": \"10.80.0.0/16\", \"size\": 24}]}' > /etc/docker/daemon.json",
            ),
            Do(|lab| restart_engine(lab, "h2")),
        ],
        found: &[("h2 addresses", "the engine gives its own networks addresses of 10.80.0.0/16")],
        clear: &[Sh("h2", "rm /etc/docker/daemon.json"), Do(|lab| restart_engine(lab, "h2"))],
        ..FAULT
    },
    Fault {
        name: "a published port is another program's",
        plant: &[
            Sh(
                "h2",
                "docker run -d --name squatter --network host -e HELPER_PORT=8090 raftup/helper:2; \
                for i in $(seq 100); do ss -Hltn 'sport = :8090' | grep -q . && exit 0; sleep 0.1; done; exit 1",
            ),
            Do(|lab| drop(deploy(lab, lab.host("h1"), "late", LATE))),
        ],
        found: &[("h2 published ports", "port 8090/tcp of service `late_late` is taken by `helper`")],
        clear: &[
            Sh("h2", "docker rm -f squatter"),
            Do(|lab| drop(well(lab.host("h1").raftup(&["stack", "rm", "late"]).unwrap()))),
        ],
        ..FAULT
    },
    Fault {
        name: "the disk is full",
        plant: &[Sh(
            "h2",
            "fallocate -l $(( $(df --output=avail -B1 /var/lib/docker | tail -1) - 60000000 )) /var/lib/docker/ballast",
        )],
        found: &[
            ("h2 disk", "GiB free for `/var/lib/raftup`"),
            ("h2 status", "the disk of `/var/lib/raftup` is full"),
        ],
        mend: Mend::ByHand("what may be removed, its owner knows", &[Sh("h2", "rm /var/lib/docker/ballast")]),
        ..FAULT
    },
    Fault {
        name: "the data directory is read-only",
        plant: &[Sh(
            "h2",
            "mount --bind /var/lib/raftup /var/lib/raftup && mount -o remount,ro,bind /var/lib/raftup",
        )],
        found: &[("h2 disk speed", "nothing can be written to `/var/lib/raftup`")],
        clear: &[Sh("h2", "umount /var/lib/raftup")],
        ..FAULT
    },
    Fault {
        name: "the disk is slow",
        plant: &[Sh(
            "h2",
            "setsid strace -f -qq -o /dev/null -e trace=fsync,fdatasync -e inject=fsync,fdatasync:delay_enter=300000 \
            -p $(cat /run/lab-daemon.pid) >/dev/null 2>&1 & echo $! > /tmp/strace.pid",
        )],
        found: &[("h2 disk speed", "a write to `/var/lib/raftup` is on disk after 3")],
        mend: Mend::ByHand("a slow disk is replaced", &[Sh("h2", "kill $(cat /tmp/strace.pid)")]),
        ..FAULT
    },
    Fault {
        name: "neither WireGuard nor tun",
        plant: &[Sh("h2", "mount -t tmpfs tmpfs /dev/net")],
        found: &[("h2 wireguard", "/dev/net/tun cannot be used instead")],
        mend: Mend::ByHand("modules are the whole machine's", &[Sh("h2", "umount /dev/net")]),
        ..FAULT
    },
    Fault {
        name: "a container is taken off its network",
        plant: &[Sh("h1", "docker network disconnect -f shop_default $(docker ps -q -f name=shop_asker)")],
        mend: Mend::Itself,
        ..FAULT
    },
    Fault {
        name: "something on the way takes small packets alone",
        plant: &[Do(|lab| close(lab, lab.host("h2"), "udp dport 7239 meta length > 1300"))],
        found: &[
            ("h1 -> h2 packet size", "packets of 1370 bytes are lost"),
            ("h2 -> h1 packet size", "packets of 1370 bytes are lost"),
        ],
        clear: &[
            Do(|lab| open(lab.host("h2"))),
            Do(|lab| {
                for host in [lab.host("h1"), lab.host("h2")] {
                    host.sh("ip link set eth0 mtu 1500").unwrap();
                    type_in(host, "systemctl restart raftupd");
                }
            }),
        ],
        ..FAULT
    },
];

#[test]
#[ignore = "some minutes: `make planted`"]
fn parts_of_hosts() {
    check(&served("itplantpart"), FAULTS);
}

/// A daemon without the right to pass over the rights of files.
#[test]
#[ignore = "`make planted`"]
fn the_engine_s_socket_is_another_user_s() {
    let lab = lab(&raftup_tests::lab::Options::new("itplantsock", 1).unwrap());
    let host = lab.host("h1");
    let socket = "unix:///run/weak/raftup.sock";
    host.stop(What::Daemon).unwrap();
    host.sh("chown 65534:65534 /run/docker.sock && chmod 600 /run/docker.sock && \
        setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search setsid raftupd \
        --data-dir /tmp/weak --run-dir /run/weak >/tmp/weak.log 2>&1 & echo $! >/tmp/weak.pid")
        .unwrap();
    let engine = || {
        let output = host.raftup(&["-H", socket, "doctor", "--json"])?;
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
        Ok(findings.into_iter().find(|one| name(one) == "h1 engine"))
    };
    let found = wait_for(SOON, "word of the engine", engine).unwrap();
    assert!(found["found"].as_str().unwrap().contains("Permission denied"), "{found}");
    commands(&found).for_each(|command| type_in(host, command));
    let found = engine().unwrap().unwrap();
    assert_eq!(found["health"], "ok", "{found}");
    host.sh("kill $(cat /tmp/weak.pid)").unwrap();
}

/// Programs that were there first, on a host of their own.
#[test]
#[ignore = "`make planted`"]
fn the_resolver_s_port_is_another_program_s() {
    let lab = lab(&raftup_tests::lab::Options::new("itplantdns", 1).unwrap());
    let host = lab.host("h1");
    host.sh("docker run -d --name squatter --network host -e HELPER_PORT=53 raftup/helper:2; \
        for i in $(seq 100); do ss -Hlun 'sport = :53' | grep -q . && exit 0; sleep 0.1; done; exit 1")
        .unwrap();
    well(host.raftup(&["init"]).unwrap());
    drop(deploy(&lab, host, "shop", crate::cluster::WEB));
    let taken = || {
        let (_, findings) = doctor(host);
        let is_it = |one: &serde_json::Value| {
            name(one) == "h1 names"
                && one["found"].as_str().is_some_and(|text| text.starts_with("port 53 is taken by"))
        };
        anyhow::ensure!(findings.iter().any(is_it), "{findings:#?}");
        Ok(findings.into_iter().find(is_it))
    };
    let found = wait_for(SOON, "who has the port", taken).unwrap();
    commands(&found).for_each(|command| type_in(host, command));
    super::content(&lab, "h1");
}
