//! What else there is on a host: engine, addresses, ports, disk.

use std::{io, net::UdpSocket, path::Path};

use ipnet::Ipv4Net;
use raftup_proto::api::Finding;

use super::super::{host, lifecycle::Host};
use crate::{
    api::Member,
    engine::version::{OLDEST, Version},
};

/// Free bytes below which the log of the state, images and logs soon find no room.
const DISK_LOW: u64 = 1 << 30;
/// Free bytes below which nothing can be written any more before long.
const DISK_FULL: u64 = 128 << 20;

pub(super) async fn look(host: &Host, member: Option<&Member>) -> Vec<Finding> {
    let pool = member.and_then(|member| member.agent.view().borrow().cluster().map(|cluster| cluster.pool));
    let ports = host.ports();
    let mut findings = vec![engine(host).await, addresses(pool.unwrap_or(host::DEFAULT_POOL))];
    findings.extend(ports.map(|port| bound(port, member.is_some())));
    findings.push(disk(&host.data_dir()));
    findings.extend(search(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()));
    findings
}

/// Where containers have their search list and options from.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A search list that containers copy, and with `ndots` above 1 ask before the name itself: where a domain of the list
/// answers every name, a service's name leads outside.
fn search(resolv_conf: &str) -> Option<Finding> {
    let mut domains: Vec<&str> = Vec::new();
    let mut dots = 1;
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("search" | "domain") => domains = words.collect(),
            Some("options") => {
                dots = words
                    .filter_map(|word| word.strip_prefix("ndots:")?.parse().ok())
                    .next_back()
                    .unwrap_or(dots);
            }
            Some(_) | None => {}
        }
    }
    domains.retain(|domain| *domain != ".");
    if domains.is_empty() || dots < 2_u32 {
        return None;
    }
    let first = domains.first().copied().unwrap_or_default();
    Some(Finding::warning(
        "names",
        format!(
            "containers take `search {}` and `ndots:{dots}` from {RESOLV_CONF}: they ask for `web.{first}` before `web`, and \
             a domain that answers every name leads them outside",
            domains.join(" ")
        ),
        format!(
            "remove `ndots:{dots}` from {RESOLV_CONF}, or set `\"dns-opts\": [\"ndots:1\"]` in /etc/docker/daemon.json, then deploy again"
        ),
    ))
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
    // A build without a number is a new one.
    let known = Version::parse(text).is_none_or(|version| version >= OLDEST) && !text.is_empty();
    if known {
        return Finding::fine("engine", format!("Docker Engine {text}"));
    }
    Finding::warning(
        "engine",
        format!("Docker Engine {text}"),
        format!("use {OLDEST} or newer; older ones are not tested"),
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

    #[test]
    fn search_lists_that_are_asked_first_are_told() {
        let told = |text: &str| search(text).map(|finding| finding.found);
        assert_eq!(told("nameserver 10.0.0.2\nsearch corp.lan\n"), None, "one dot is the default");
        assert_eq!(told("options ndots:5\n"), None, "nothing to search");
        assert_eq!(told("search .\noptions ndots:5\n"), None, "the root alone");
        let found = told("search corp.lan lab\noptions timeout:1 ndots:5\n").unwrap();
        assert!(found.contains("`search corp.lan lab` and `ndots:5`"), "{found}");
        assert!(found.contains("`web.corp.lan` before `web`"), "{found}");
    }
}
