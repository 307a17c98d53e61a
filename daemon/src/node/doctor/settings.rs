//! Settings and limits of the kernel that others may have changed since raftupd started.

use std::{collections::BTreeSet, fs};

use raftup_proto::{
    api::{Finding, Health},
    spec::Protocol,
    view::{FABRIC_DEVICE, PLAIN_DEVICE, View, WIRE_DEVICE},
};

use super::programs::{self, Program};
use crate::fabric::PROBE;

/// The check whose findings are compared between nodes, and what it says of a node without IPv6.
pub(super) const IPV6: &str = "ipv6";
const IPV6_OFF: &str = "off";

/// Share of a limit from which on it will soon be reached, in percent.
const NEARLY: u64 = 90;
/// Open files that a node needs at least.
const FILES_LEAST: u64 = 1024;
/// Open files that are asked for where there are too few.
const FILES_WANTED: u64 = 65_536;

const FLAG_UP: u32 = 1;

/// Blocks. `view` is that of a member, `told` what its parts have noticed by themselves.
pub(super) fn look(view: Option<&View>, told: &[String]) -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let mut findings = vec![ipv6(&read), files(&read)];
    findings.extend(tracked(&read));
    let Some(view) = view else { return findings };
    let bridges: Vec<(String, String)> =
        view.networks().map(|network| (network.bridge(), network.engine_name())).collect();
    let devices = devices();
    findings.extend(strict(&devices, &read));
    findings.extend(bridges.iter().filter_map(|(bridge, network)| down(bridge, network, &read)));
    let known: BTreeSet<&str> = bridges
        .iter()
        .map(|(bridge, _)| bridge.as_str())
        .chain([FABRIC_DEVICE, WIRE_DEVICE, PLAIN_DEVICE, PROBE])
        .collect();
    findings.extend(
        devices.iter().filter(|device| !known.contains(device.as_str())).map(|device| leftover(device)),
    );
    findings.extend(taken(view, told));
    findings
}

/// Devices named as ours.
fn devices() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("ru-")).collect();
    names.sort();
    names
}

type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The stricter one of the setting for all devices and that of the device counts.
fn strict(devices: &[String], read: Read<'_>) -> Option<Finding> {
    let value = |name: &str| {
        read(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).and_then(|text| text.parse::<u8>().ok())
    };
    let all = value("all").unwrap_or_default();
    let strict: Vec<&String> =
        devices.iter().filter(|device| value(device).unwrap_or_default().max(all) == 1).collect();
    let first = strict.first()?;
    let found = format!(
        "reverse path filtering is strict on `{first}` (net.ipv4.conf.all.rp_filter is {all}): the kernel drops packets of \
         clients that reached the cluster through another node"
    );
    let next = "set it to loose (2) on raftup's devices, and remove what sets it to 1 from /etc/sysctl.d";
    let finding = Finding::problem("reverse path", found, next);
    Some(strict.iter().fold(finding, |finding, device| {
        finding.run(format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2"))
    }))
}

fn down(bridge: &str, network: &str, read: Read<'_>) -> Option<Finding> {
    // One that is not there has no container on this node yet.
    let flags = read(&format!("/sys/class/net/{bridge}/flags"))?;
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
    (flags & FLAG_UP == 0).then(|| {
        let found = format!(
            "bridge `{bridge}` of network `{network}` is down: its containers on this node reach nobody"
        );
        Finding::problem("bridges", found, "set it up again").run(format!("ip link set {bridge} up"))
    })
}

fn leftover(device: &str) -> Finding {
    let found = format!("device `{device}` belongs to no network of this cluster");
    let next = "it was left over, perhaps by an earlier cluster: remove it";
    Finding::warning("leftovers", found, next).run(format!("ip link del {device}"))
}

/// Published ports that another program of this host has.
fn taken(view: &View, told: &[String]) -> Vec<Finding> {
    let ports: BTreeSet<(Protocol, u16, String)> = view
        .routes()
        .flat_map(|route| {
            let service = format!("{}_{}", route.stack, route.name);
            let published =
                |port: &raftup_proto::spec::PortSpec| (port.protocol, port.published, service.clone());
            route.ports.iter().map(published).collect::<Vec<_>>()
        })
        .collect();
    let is_told = |protocol, port: u16| {
        let name = format!("{port}/{protocol}");
        told.iter().any(|line| line.contains(&name) && line.contains(" is taken "))
    };
    let held = ports.into_iter().filter(|(protocol, port, _)| is_told(*protocol, *port)).filter_map(|(protocol, port, service)| {
        let Program { name, pid } = programs::holder(protocol, port)?;
        let found = format!("port {port}/{protocol} of service `{service}` is taken by `{name}` (process {pid}): the service does not answer on it here");
        let next = "stop that program (if it is a service of systemd: `systemctl stop`), or publish another port";
        Some(Finding::problem("published ports", found, next).run(format!("kill {pid}")))
    });
    let gateways: Vec<_> = view.networks().map(|network| network.gateway()).collect();
    let names = (!gateways.is_empty()).then(|| {
        let holder =
            [Protocol::Udp, Protocol::Tcp].into_iter().find_map(|protocol| programs::holder(protocol, 53));
        holder.filter(|_| {
            // A resolver on an address of its own, such as 127.0.0.53, is in nobody's way.
            let free = |address| std::net::UdpSocket::bind((address, 53)).err().map(|error| error.kind());
            gateways.iter().all(|gateway| free(*gateway) == Some(std::io::ErrorKind::AddrInUse))
                && !ours_answers(&gateways)
        })
    });
    let names = names.flatten().map(|Program { name, pid }| {
        let found = format!("port 53 is taken by `{name}` (process {pid}) on all addresses: containers cannot ask for names");
        let next = "stop that program (if it is a service of systemd: `systemctl stop`), or have it listen on its own address alone";
        Finding::problem("names", found, next).run(format!("kill {pid}"))
    });
    held.chain(names).collect()
}

/// Whether a program of ours listens on port 53 of a gateway.
fn ours_answers(gateways: &[std::net::Ipv4Addr]) -> bool {
    let table = fs::read_to_string("/proc/self/net/udp").unwrap_or_default();
    gateways.iter().any(|gateway| {
        let local = format!("{:08X}:0035", u32::from_ne_bytes(gateway.octets()));
        table.lines().any(|line| line.split_whitespace().nth(1) == Some(local.as_str()))
    })
}

fn tracked(read: Read<'_>) -> Option<Finding> {
    let number =
        |name: &str| read(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"))?.parse::<u64>().ok();
    let (count, max) = (number("count")?, number("max")?);
    let check = "connection table";
    let found = format!("the kernel tracks {count} connections of at most {max}");
    if max == 0 || count * 100 < max * NEARLY {
        return Some(Finding::fine(check, found));
    }
    let found = format!(
        "{found}: when it is full, new connections are dropped (`dmesg`: \"table full, dropping packet\")"
    );
    let next = "allow more, and put the same into a file in /etc/sysctl.d";
    let more = max.max(count).saturating_mul(4).max(65_536);
    Some(Finding::problem(check, found, next).run(format!("sysctl -w net.netfilter.nf_conntrack_max={more}")))
}

fn files(read: Read<'_>) -> Finding {
    let limits = read("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut limits =
        limit.into_iter().flat_map(str::split_whitespace).map(|limit| limit.parse().unwrap_or(u64::MAX));
    let (soft, hard) = (limits.next().unwrap_or(u64::MAX), limits.next().unwrap_or(u64::MAX));
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    enough(open, (soft, hard), std::process::id())
}

/// `soft` and `hard` are the limits; the hard one is raised only where it is too low itself.
fn enough(open: u64, (soft, hard): (u64, u64), pid: u32) -> Finding {
    let check = "open files";
    if soft == u64::MAX {
        return Finding::fine(check, format!("raftupd has {open} files open, without a limit"));
    }
    let found = format!("raftupd has {open} files open, of at most {soft}");
    let wanted = if hard > soft && hard >= FILES_LEAST { hard.min(FILES_WANTED) } else { FILES_WANTED };
    let next = "allow more, and set `LimitNOFILE=65536` in the unit (`systemctl edit raftupd`)";
    let limits = if wanted <= hard { format!("{wanted}:") } else { format!("{wanted}:{wanted}") };
    let command = format!("prlimit --pid {pid} --nofile={limits}");
    if open.saturating_mul(100) >= soft.saturating_mul(NEARLY) {
        Finding::problem(check, found, next).run(command)
    } else if soft < FILES_LEAST {
        Finding::warning(check, format!("{found}; it needs {FILES_LEAST}"), next).run(command)
    } else {
        Finding::fine(check, found)
    }
}

fn ipv6(read: Read<'_>) -> Finding {
    let off = read("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_none_or(|value| value == "1");
    Finding::fine(IPV6, if off { IPV6_OFF } else { "on" })
}

/// Nodes without IPv6 are named where others have it: published ports answer over it on some nodes and not on others.
pub(super) fn compare_ipv6(findings: &mut [Finding]) {
    let is_off = |one: &Finding| one.check == IPV6 && one.found == IPV6_OFF;
    if !findings.iter().any(|one| one.check == IPV6 && !is_off(one)) {
        return;
    }
    for one in findings.iter_mut().filter(|one| is_off(one) && one.health == Health::Ok) {
        let found = "IPv6 is off, and other nodes have it: published ports do not answer over IPv6 here";
        let next = "turn it on, and look in /etc/sysctl.d for what turns it off; or turn it off on all nodes";
        let warning = Finding::warning(IPV6, found, next).run("sysctl -w net.ipv6.conf.all.disable_ipv6=0");
        *one = Finding { node: std::mem::take(&mut one.node), ..warning };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(finding: &Finding) -> Vec<String> {
        finding.advice().map(|(_, all)| all.into_iter().map(str::to_owned).collect()).unwrap_or_default()
    }

    #[test]
    fn the_stricter_setting_counts() {
        let devices = ["ru-fabric".to_owned(), "ru-1".to_owned()];
        let read = |all: &'static str| {
            move |path: &str| {
                Some(
                    if path.contains("/all/") {
                        all
                    } else if path.contains("ru-1") {
                        "2"
                    } else {
                        "0"
                    }
                    .to_owned(),
                )
            }
        };
        assert_eq!(strict(&devices, &read("0")), None);
        assert_eq!(strict(&devices, &read("2")), None);
        let found = strict(&devices, &read("1")).unwrap();
        assert_eq!(commands(&found), ["sysctl -w net.ipv4.conf.ru-fabric.rp_filter=2"], "2 is loose already");
    }

    #[test]
    fn limits_are_told_before_they_are_reached() {
        let read = |count: &'static str, max: &'static str| {
            move |path: &str| Some(if path.ends_with("count") { count } else { max }.to_owned())
        };
        assert_eq!(tracked(&read("89", "100")).unwrap().health, Health::Ok);
        let full = tracked(&read("95", "100")).unwrap();
        assert_eq!(commands(&full), ["sysctl -w net.netfilter.nf_conntrack_max=65536"]);
        assert_eq!(tracked(&|_| None), None);
        let of = |open, soft, hard| enough(open, (soft, hard), 7);
        assert_eq!(of(10, 65_536, 65_536).health, Health::Ok);
        assert_eq!(of(10, u64::MAX, u64::MAX).health, Health::Ok);
        assert_eq!(
            (of(10, 256, 20_000).health, of(250, 256, 20_000).health),
            (Health::Warning, Health::Problem)
        );
        assert_eq!(commands(&of(10, 256, 20_000)), ["prlimit --pid 7 --nofile=20000:"]);
        assert_eq!(commands(&of(10, 256, 256)), ["prlimit --pid 7 --nofile=65536:65536"]);
    }

    #[test]
    fn nodes_are_compared_by_ipv6() {
        let of = |node: &str, found: &str| Finding { node: node.to_owned(), ..Finding::fine(IPV6, found) };
        let mut mixed = [of("a", "on"), of("b", IPV6_OFF)];
        compare_ipv6(&mut mixed);
        assert_eq!(
            (mixed[0].health, mixed[1].health, mixed[1].node.as_str()),
            (Health::Ok, Health::Warning, "b")
        );
        let mut none = [of("a", IPV6_OFF), of("b", IPV6_OFF)];
        compare_ipv6(&mut none);
        assert!(none.iter().all(|one| one.health == Health::Ok));
    }

    #[test]
    fn a_bridge_that_is_down_is_set_up() {
        let read = |flags: &'static str| move |_: &str| Some(flags.to_owned());
        assert_eq!(down("ru-1", "shop_default", &read("0x1003")), None);
        assert_eq!(
            commands(&down("ru-1", "shop_default", &read("0x1002")).unwrap()),
            ["ip link set ru-1 up"]
        );
    }
}
