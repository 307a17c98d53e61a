//! What else there is on a host: engine, addresses, ports, firewalls, disk.

use std::{io, net::UdpSocket, path::Path, process::Stdio};

use ipnet::Ipv4Net;
use raftup_proto::api::Finding;
use tokio::process::Command;

use super::super::{host, lifecycle::Host};
use crate::api::Member;

/// Oldest engine that is tested.
const OLDEST_ENGINE: (u32, u32) = (20, 10);

/// Free bytes below which the log of the state, images and logs soon find no room.
const DISK_LOW: u64 = 1 << 30;
/// Free bytes below which nothing can be written any more before long.
const DISK_FULL: u64 = 128 << 20;

pub(super) async fn look(host: &Host, member: Option<&Member>) -> Vec<Finding> {
    let pool = member.and_then(|member| member.agent.view().borrow().cluster().map(|cluster| cluster.pool));
    let ports = host.ports();
    let mut findings = vec![engine(host).await, addresses(pool.unwrap_or(host::DEFAULT_POOL))];
    findings.extend(ports.map(|port| bound(port, member.is_some())));
    findings.push(firewall(&said("iptables", &["-w", "5", "-S"]).await, &firewalld().await, ports));
    findings.push(disk(&host.data_dir()));
    findings
}

async fn engine(host: &Host) -> Finding {
    let check = "engine";
    match host.engine().info().await {
        Err(error) => Finding::problem(
            check,
            format!("Docker Engine does not answer: {error:#}"),
            "start it (`systemctl start docker`), or name its socket: `raftupd --docker-host unix://PATH`",
        ),
        Ok(platform) => version(&platform.engine.unwrap_or_default()),
    }
}

fn version(text: &str) -> Finding {
    let mut numbers = text.split('.').map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version >= OLDEST_ENGINE {
        return Finding::fine("engine", format!("Docker Engine {text}"));
    }
    let (year, month) = OLDEST_ENGINE;
    Finding::warning(
        "engine",
        format!("Docker Engine {text}"),
        format!("use {year}.{month} or newer; older ones are not tested"),
    )
}

/// Routes of the host, those of other networks of its engine among them, into the cluster's addresses.
fn addresses(pool: Ipv4Net) -> Finding {
    match host::overlapping(pool) {
        None => Finding::fine("addresses", format!("{pool} is the cluster's alone")),
        Some((device, route)) => Finding::problem(
            "addresses",
            format!(
                "{route}, which this host reaches through `{device}`, is part of the cluster's pool {pool}"
            ),
            "give that network another range (`docker network ls`, `ip route`); or make the cluster with another `--pool`",
        ),
    }
}

/// A port is bound by this node if it is a member, and by nobody if not.
fn bound(port: u16, member: bool) -> Finding {
    let taken = match UdpSocket::bind(("0.0.0.0", port)) {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::AddrInUse,
    };
    let check = "port";
    match (member, taken) {
        (true, true) => Finding::fine(check, format!("UDP {port} is listened on")),
        (false, false) => Finding::fine(check, format!("UDP {port} is free")),
        (true, false) => Finding::problem(
            check,
            format!("nobody listens on UDP {port}"),
            "the daemon's log says why (`journalctl -u raftupd`)",
        ),
        (false, true) => Finding::problem(
            check,
            format!("UDP {port} is taken by another program"),
            format!("`ss -lunp sport = :{port}` names it; stop it, or choose other ports: `raftupd --help`"),
        ),
    }
}

/// What a program prints; nothing if it fails.
async fn said(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

async fn firewalld() -> String {
    said("nft", &["list", "table", "inet", "firewalld"]).await
}

/// A firewall that is there and names our ports nowhere. `iptables` are the host's rules as that program prints them.
fn firewall(iptables: &str, firewalld: &str, ports: [u16; 2]) -> Finding {
    let names = |text: &str, start: &str, port: u16| {
        let rules = text.lines().filter(|line| line.trim_start().starts_with(start));
        rules.flat_map(|line| line.split([' ', ',', '{', '}'])).any(|word| word == port.to_string())
    };
    let [control, fabric] = ports;
    let all = |text: &str, start: &str| names(text, start, control) && names(text, start, fabric);
    let closed = |who: &str, next: String| {
        Finding::warning(
            "firewall",
            format!("{who}, and UDP {control} and {fabric} are not named in its rules"),
            next,
        )
    };
    if !firewalld.is_empty() && !all(firewalld, "") {
        let ports = ports.map(|port| format!("--add-port={port}/udp")).join(" ");
        return closed(
            "firewalld is active",
            format!("`firewall-cmd --permanent {ports} && firewall-cmd --reload`"),
        );
    }
    if iptables.contains("-A INPUT -j ufw-before-input") && !all(iptables, "-A ufw-user-input") {
        return closed("ufw is active", ports.map(|port| format!("`ufw allow {port}/udp`")).join(", "));
    }
    if iptables.lines().any(|line| line == "-P INPUT DROP") && !all(iptables, "-A ") {
        let next =
            ports.map(|port| format!("`iptables -A INPUT -p udp --dport {port} -j ACCEPT`")).join(", ");
        return closed("the host drops what comes in", next);
    }
    Finding::fine("firewall", "none is in the way")
}

fn disk(dir: &Path) -> Finding {
    let check = "disk";
    match rustix::fs::statvfs(dir) {
        Ok(disk) => room(&dir.display().to_string(), disk.f_bavail.saturating_mul(disk.f_frsize)),
        Err(error) => {
            let next = "is it there, and its disk mounted?";
            Finding::problem(check, format!("`{}` cannot be looked at: {error}", dir.display()), next)
        }
    }
}

fn room(dir: &str, free_bytes: u64) -> Finding {
    let found = format!("{:.1} GiB free for `{dir}`", free_bytes as f64 / f64::from(1 << 30));
    let next = "make room: `docker system df` says what images and logs take";
    match free_bytes {
        0..DISK_FULL => Finding::problem("disk", found, next),
        DISK_FULL..DISK_LOW => Finding::warning("disk", found, next),
        DISK_LOW.. => Finding::fine("disk", found),
    }
}

#[cfg(test)]
mod tests {
    use raftup_proto::api::Health;

    use super::*;

    const PORTS: [u16; 2] = [7238, 7239];

    #[test]
    fn engines_by_age() {
        for (text, health) in [
            ("28.5.2", Health::Ok),
            ("20.10.24+dfsg1", Health::Ok),
            ("19.03.15", Health::Warning),
            ("", Health::Warning),
        ] {
            assert_eq!(version(text).health, health, "{text}");
        }
    }

    #[test]
    fn firewalls_that_do_not_know_us() {
        let next = |iptables: &str, firewalld: &str| firewall(iptables, firewalld, PORTS).next;
        assert_eq!(next("-P INPUT ACCEPT\n", ""), None);
        let ufw = "-P INPUT DROP\n-A INPUT -j ufw-before-input\n-A ufw-user-input -p udp -m udp --dport 7238 -j ACCEPT\n";
        assert_eq!(next(ufw, "").unwrap(), "`ufw allow 7238/udp`, `ufw allow 7239/udp`");
        let open = format!("{ufw}-A ufw-user-input -p udp -m udp --dport 7239 -j ACCEPT\n");
        assert_eq!(next(&open, ""), None);
        let dropping = "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n";
        assert!(next(dropping, "").unwrap().contains("--dport 7239"));
        let zone = "table inet firewalld {\n udp dport { 7238, 7239 } accept\n}\n";
        assert_eq!(next("", zone), None);
        assert!(next("", "table inet firewalld {\n}\n").unwrap().starts_with("`firewall-cmd --permanent"));
    }

    #[test]
    fn a_disk_that_runs_full() {
        let health = |free| room("/d", free).health;
        assert_eq!(
            [health(1 << 20), health(1 << 29), health(1 << 40)],
            [Health::Problem, Health::Warning, Health::Ok]
        );
    }

    #[test]
    fn ports_are_the_members() {
        let held = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = held.local_addr().unwrap().port();
        assert_eq!((bound(port, true).health, bound(port, false).health), (Health::Ok, Health::Problem));
        drop(held);
        assert_eq!((bound(port, true).health, bound(port, false).health), (Health::Problem, Health::Ok));
    }
}
