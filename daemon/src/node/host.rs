//! What the host has: its name, its address on the way to others, the address ranges that it uses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use ipnet::Ipv4Net;
use raftup_proto::refusal::{Code, Refusal};

use crate::plan::claims;

/// The pool of a cluster whose `init` names none.
pub(super) const DEFAULT_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 11);

/// Where another pool is looked for if that one overlaps.
const OTHER_POOLS: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 11),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 192, 0, 0), 11),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 11),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 11),
];

/// Longest prefix of a pool: it then has room for the fabric and seven networks.
const POOL_PREFIX_MAX: u8 = 16;

pub(super) fn hostname() -> String {
    claims::usable_hostname(&rustix::system::uname().nodename().to_string_lossy())
}

/// The address that this host sends from on its way to `target`; nothing is sent.
///
/// Errors: there is no way there.
pub(super) fn address_towards(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// The address of the interface with the default route.
///
/// Errors: there is none; the user must say which address to use.
pub(super) fn default_address() -> Result<IpAddr, Refusal> {
    // An address of the documentation range (RFC 5737) stands for "somewhere else".
    let elsewhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    address_towards(elsewhere).map_err(|_| {
        Refusal::new(Code::Invalid, "this host has no default route to tell its address by")
            .hint("name the address that other nodes reach it at: `--advertise-addr IP`")
    })
}

/// Checks a pool against the routes of this host. Errors: too small, or it overlaps one; names a pool that would do.
pub(super) fn check_pool(pool: Ipv4Net) -> Result<(), Refusal> {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    check_pool_against(pool, &parse_routes(&routes))
}

/// A route of this host that is part of the pool, and its device; those of our own devices do not count.
pub(super) fn overlapping(pool: Ipv4Net) -> Option<(String, Ipv4Net)> {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mut routes = parse_routes(&routes).into_iter().filter(|(device, _)| !device.starts_with("ru-"));
    routes.find(|(_, route)| overlap(pool, *route))
}

/// Whether two ranges have addresses in common.
pub(super) fn overlap(pool: Ipv4Net, route: Ipv4Net) -> bool {
    pool.contains(&route.network()) || route.contains(&pool.network())
}

fn check_pool_against(pool: Ipv4Net, routes: &[(String, Ipv4Net)]) -> Result<(), Refusal> {
    if pool.prefix_len() > POOL_PREFIX_MAX {
        let message = format!("pool {pool} is too small, it must be a /{POOL_PREFIX_MAX} or larger");
        return Err(Refusal::new(Code::Invalid, message).hint(format!("the default is {DEFAULT_POOL}")));
    }
    if pool.trunc() != pool {
        let message = format!("pool {pool} has bits set behind its prefix");
        return Err(Refusal::new(Code::Invalid, message).hint(format!("did you mean {}?", pool.trunc())));
    }
    let taken = |pool: Ipv4Net| routes.iter().find(|(_, route)| overlap(pool, *route));
    let Some((interface, route)) = taken(pool) else {
        return Ok(());
    };
    let free = std::iter::once(DEFAULT_POOL).chain(OTHER_POOLS).find(|other| taken(*other).is_none());
    let hint = match free {
        Some(free) => format!("`--pool {free}` is free on this host; check that it is on the others too"),
        None => "choose a range that no host of the cluster uses: `--pool CIDR`".to_owned(),
    };
    let message = format!("pool {pool} overlaps {route}, which this host reaches through `{interface}`");
    Err(Refusal::new(Code::Conflict, message).hint(hint))
}

/// The device that packets to an address leave by, and its MTU.
pub(super) fn device_towards(to: IpAddr) -> Option<(String, u32)> {
    let IpAddr::V4(to) = to else { return None };
    let text = std::fs::read_to_string("/proc/net/route").ok()?;
    let routes = all_routes(&text).into_iter().filter(|(_, route)| route.contains(&to));
    let (device, _) = routes.max_by_key(|(_, route)| route.prefix_len())?;
    let mtu = std::fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok()?.trim().parse().ok()?;
    Some((device, mtu))
}

/// Routes but the default one, from the kernel's table: addresses are hexadecimal in the byte order of the host.
fn parse_routes(text: &str) -> Vec<(String, Ipv4Net)> {
    all_routes(text).into_iter().filter(|(_, net)| net.prefix_len() > 0).collect()
}

fn all_routes(text: &str) -> Vec<(String, Ipv4Net)> {
    let address =
        |text: &str| u32::from_str_radix(text, 16).ok().map(|raw| Ipv4Addr::from(raw.to_ne_bytes()));
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let net = Ipv4Net::with_netmask(address(fields.get(1)?)?, address(fields.get(7)?)?).ok()?;
        Some(((*fields.first()?).to_owned(), net))
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
tun0\t0000480A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
";

    #[test]
    fn a_pool_must_not_overlap_a_route() {
        let routes = parse_routes(ROUTES);
        let refused = check_pool_against(DEFAULT_POOL, &routes).expect_err("10.72.0.0/16 is inside");
        assert_eq!(
            refused.message,
            "pool 10.64.0.0/11 overlaps 10.72.0.0/16, which this host reaches through `tun0`"
        );
        assert!(refused.hint.expect("one").contains("10.128.0.0/11"));
        check_pool_against("10.128.0.0/11".parse().unwrap(), &routes).expect("free");
        for senseless in ["10.64.0.0/24", "10.64.0.1/11"] {
            assert_eq!(check_pool_against(senseless.parse().unwrap(), &[]).unwrap_err().code, Code::Invalid);
        }
    }
}
