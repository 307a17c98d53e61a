//! What else there is on a host: engine, addresses, ports, disk.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ipnet::Ipv4Net;
use raftup_proto::{api::Finding, spec::Protocol, unit::UnixMillis};

use super::{
    super::{clock::Jump, host, lifecycle::Host},
    disk, programs, settings,
};
use crate::{
    api::{Lifecycle, Member},
    engine::version::{OLDEST, Version},
    net::ca,
};

pub(super) async fn look(host: &Host, member: Option<&Member>) -> Vec<Finding> {
    let view = member.map(|member| Arc::clone(&member.agent.view().borrow()));
    let pool = view.as_ref().and_then(|view| view.cluster().map(|cluster| cluster.pool));
    let pool = pool.unwrap_or(host::DEFAULT_POOL);
    let setup = host.engine().setup().await.ok();
    let mut findings = vec![engine(host).await, addresses(pool)];
    findings.extend(
        setup
            .iter()
            .flat_map(|setup| &setup.pools)
            .filter_map(|range| engine_pool(*range, pool, &daemon_json())),
    );
    findings.extend(engine_rules(&daemon_json()));
    findings.extend(host.ports().map(|port| bound(port, member.is_some())));
    findings.extend(
        member
            .and_then(|member| member.net.identity())
            .map(|identity| certificate(identity.not_before(), identity.not_after(), ca::now())),
    );
    findings.extend(clock_jumps(&host.clock().look()));
    let (dir, root) = (host.data_dir(), setup.map(|setup| setup.root));
    let told = Lifecycle::problems(host);
    let blocking = tokio::task::spawn_blocking(move || {
        let mut findings = disk::look(&dir, root.as_deref());
        findings.extend(settings::look(view.as_deref(), &told));
        findings
    });
    match blocking.await {
        Ok(more) => findings.extend(more),
        Err(error) => {
            findings.push(Finding::problem("doctor", format!("a check has broken off: {error}"), "report it"))
        }
    }
    findings
}

const DAEMON_JSON: &str = "/etc/docker/daemon.json";

fn daemon_json() -> String {
    std::fs::read_to_string(DAEMON_JSON).unwrap_or_default()
}

/// A range that the engine makes networks of its own from, in the cluster's addresses.
fn engine_pool(range: Ipv4Net, pool: Ipv4Net, daemon_json: &str) -> Option<Finding> {
    if !host::overlap(range, pool) {
        return None;
    }
    let found = format!(
        "the engine gives its own networks addresses of {range} (`default-address-pools`), which are part of the cluster's pool \
         {pool}: containers of those networks and of the cluster cannot be told apart"
    );
    let next = format!(
        "set another range in {DAEMON_JSON}, restart the engine, and make networks anew that have such addresses"
    );
    let finding = Finding::warning("addresses", found, next);
    let written = format!("\"{range}\"");
    let other = ENGINE_POOLS
        .into_iter()
        .find(|other| other.prefix_len() <= range.prefix_len().max(16) && !host::overlap(*other, pool));
    Some(match other.filter(|_| daemon_json.contains(&written)) {
        Some(other) => finding
            .run(format!("sed -i 's|{written}|\"{other}\"|' {DAEMON_JSON}"))
            .run("systemctl restart docker"),
        None => finding,
    })
}

/// Ranges that networks of the engine may have instead; private, and what Docker uses by itself.
const ENGINE_POOLS: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// The engine was told to leave out its own rules.
fn engine_rules(daemon_json: &str) -> Option<Finding> {
    let parsed: serde_json::Value = serde_json::from_str(daemon_json).unwrap_or_default();
    (parsed["iptables"] == false).then(|| {
        let found = format!(
            "`\"iptables\": false` in {DAEMON_JSON}: containers do not reach addresses outside of the cluster"
        );
        Finding::problem("engine", found, "remove it, or set it to true, and restart the engine")
            .run(format!("sed -i 's/\"iptables\": *false/\"iptables\": true/' {DAEMON_JSON}"))
            .run("systemctl restart docker")
    })
}

/// Time before its end at which a certificate should have been renewed long ago.
const RENEWED: Duration = Duration::from_secs(30 * 24 * 3600);

fn certificate(from: UnixMillis, until: UnixMillis, now: UnixMillis) -> Finding {
    let check = "certificate";
    let days = |millis: u64| millis / (24 * 3600 * 1000);
    if now < from {
        let found = format!(
            "the certificate of this node begins {:.1} hours from now by this server's clock: the clock is behind",
            (from.0 - now.0) as f64 / 3.6e6
        );
        return Finding::problem(check, found, "set the clock (`date` shows it)")
            .run("timedatectl set-ntp true");
    }
    if now >= until {
        let found = format!(
            "the certificate of this node ended {} days ago by this server's clock (`date` shows it)",
            days(now.0 - until.0)
        );
        let next = "if the clock is right, this node was away too long to renew it: leave, and join again with the token of `raftup token`";
        return Finding::problem(check, found, next).run("raftup leave --force");
    }
    let left = until.0 - now.0;
    let found = format!("valid for {} more days", days(left));
    if u128::from(left) < RENEWED.as_millis() {
        let next = "it should have been renewed long ago: the daemon's log says why not (`journalctl -u raftupd | grep certificate`)";
        return Finding::warning(check, found, next);
    }
    Finding::fine(check, found)
}

fn clock_jumps(jumps: &[Jump]) -> Option<Finding> {
    let last = jumps.last()?;
    let found = format!(
        "the clock was set {} within the last hour ({} times in all), or this server was suspended",
        last.text(),
        jumps.len()
    );
    let next = "let one program keep the clock: `timedatectl` and `systemctl list-units '*ntp*' '*chrony*' '*timesyncd*'` show which do";
    Some(Finding::warning("clock", found, next))
}

async fn engine(host: &Host) -> Finding {
    match host.engine().info().await {
        Err(error) => no_answer(&format!("{:#}", anyhow::Error::from(error)), &host.docker_socket()),
        Ok(platform) => version(&platform.engine.unwrap_or_default()),
    }
}

fn no_answer(error: &str, socket: &Path) -> Finding {
    let found = format!("Docker Engine does not answer: {error}");
    if error.contains("Permission denied") {
        let next = "raftupd must run as root, and root must have the engine's socket: give it back";
        return Finding::problem("engine", found, next).run(format!("chown root {}", socket.display()));
    }
    Finding::problem("engine", found, "start it, or name its socket: `raftupd --docker-host unix://PATH`")
        .run("systemctl start docker")
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
        Some((device, route)) => {
            let finding = Finding::problem(
                "addresses",
                format!(
                    "{route}, which this host reaches through `{device}`, is part of the cluster's pool {pool}"
                ),
                "remove that network if nobody needs it, or give it another range; or make the cluster with another `--pool`",
            );
            // Docker names the bridge of a network by the start of its id.
            match device.strip_prefix("br-") {
                Some(id) => finding.run(format!("docker network rm {id}")),
                None => finding.run(format!("ip route del {route} dev {device}")),
            }
        }
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
        (false, true) => held_by(port),
    }
}

fn held_by(port: u16) -> Finding {
    let holder = programs::holder(Protocol::Udp, port);
    let who = holder
        .as_ref()
        .map_or_else(|| "another program".to_owned(), |one| format!("`{}` (process {})", one.name, one.pid));
    let next = "stop that program, or choose other ports (`raftupd --listen-addr`, `--fabric-port`)";
    let finding = Finding::problem("port", format!("UDP {port} is taken by {who}"), next);
    match holder {
        Some(holder) => finding.run(format!("kill {}", holder.pid)),
        None => finding,
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
    fn settings_of_the_engine_are_mended_in_its_file() {
        let pool = host::DEFAULT_POOL;
        let range: Ipv4Net = "10.80.0.0/16".parse().unwrap();
        assert_eq!(engine_pool("172.20.0.0/16".parse().unwrap(), pool, ""), None);
        let file = r#"{"default-address-pools": [{"base": "10.80.0.0/16", "size": 24}]}"#;
        let commands = |finding: Finding| finding.advice().unwrap().1.join("; ");
        assert_eq!(
            commands(engine_pool(range, pool, file).unwrap()),
            r#"sed -i 's|"10.80.0.0/16"|"172.16.0.0/12"|' /etc/docker/daemon.json; systemctl restart docker"#
        );
        assert_eq!(commands(engine_pool(range, pool, "{}").unwrap()), "", "it was told by a flag");
        assert_eq!(engine_rules("{}"), None);
        assert!(engine_rules(r#"{"iptables": false}"#).is_some());
    }

    #[test]
    fn a_certificate_near_its_end_is_told() {
        let day = 24 * 3600 * 1000;
        let of =
            |now: u64| certificate(UnixMillis(10 * day), UnixMillis(100 * day), UnixMillis(now * day)).health;
        assert_eq!(
            [of(9), of(50), of(80), of(100)],
            [Health::Problem, Health::Ok, Health::Warning, Health::Problem]
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
