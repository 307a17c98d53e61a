//! What other programs of this host have, as the kernel lists it in `/proc/net`.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::Ipv4Net;
use raftup_proto::spec::Protocol;

use super::{
    reserve::is_dns,
    table::{Front, Port},
};

// States of sockets, from net/tcp_states.h. A socket of UDP without a peer counts as closed.
const LISTEN: u8 = 0x0a;
const CLOSE: u8 = 0x07;

/// A socket of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    address: Ipv4Addr,
    port: u16,
    state: u8,
}

/// Those of `failed`, which could not be bound, that another program waits on. Sockets on addresses of `pool` are our
/// own, and so are those of IPv6 on the ports `relayed`.
///
/// Blocks. Cost: one pass over the host's sockets if `failed` is not empty.
pub(super) fn take(
    failed: &BTreeSet<Front>,
    pool: Ipv4Net,
    relayed: &BTreeSet<Port>,
) -> io::Result<BTreeSet<Front>> {
    let mut taken = BTreeSet::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut open: BTreeSet<Front> =
            failed.iter().filter(|(_, (own, _))| *own == protocol).copied().collect();
        if open.is_empty() {
            continue;
        }
        let (v4, v6) = match protocol {
            Protocol::Tcp => ("/proc/self/net/tcp", "/proc/self/net/tcp6"),
            Protocol::Udp => ("/proc/self/net/udp", "/proc/self/net/udp6"),
        };
        let waits = if protocol == Protocol::Tcp { LISTEN } else { CLOSE };
        let mut harmless = BTreeSet::new();
        for file in [v4, v6] {
            let Some(lines) = lines(file)? else { continue };
            for line in lines {
                let Some(held) = held(&line?) else { continue };
                if file == v6 && relayed.contains(&(protocol, held.port)) {
                    continue;
                }
                for front in open.iter().filter(|(_, (_, port))| *port == held.port) {
                    let in_the_way = held.state == waits && meets(front, held, pool);
                    if in_the_way { &mut taken } else { &mut harmless }.insert(*front);
                }
            }
        }
        // A program has the port, and does not listen yet.
        open.retain(|front| !taken.contains(front) && !harmless.contains(front) && !is_dns(front));
        taken.extend(open);
    }
    Ok(taken)
}

/// The socket stands where packets to the front would go.
fn meets((at, (_, port)): &Front, held: Held, pool: Ipv4Net) -> bool {
    let address = held.address;
    if *port != held.port || address.is_unspecified() {
        return *port == held.port;
    }
    match at {
        Some(at) => *at == address,
        // Of the loopback addresses, only the first one is ours.
        None => !pool.contains(&address) && (!address.is_loopback() || address == Ipv4Addr::LOCALHOST),
    }
}

/// Those of `addresses` that this host does not have. Blocks.
pub(super) fn absent(addresses: Vec<Ipv4Addr>) -> io::Result<BTreeSet<Ipv4Addr>> {
    let mut absent: BTreeSet<Ipv4Addr> =
        addresses.into_iter().filter(|address| !address.is_loopback()).collect();
    if absent.is_empty() {
        return Ok(absent);
    }
    let mut last = None;
    for line in lines("/proc/self/net/fib_trie")?.into_iter().flatten() {
        let line = line?;
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            last.iter().for_each(|address| _ = absent.remove(address));
        }
    }
    Ok(absent)
}

/// The lines of a file; none if the kernel does not have it.
fn lines(path: &str) -> io::Result<Option<impl Iterator<Item = io::Result<String>>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file).lines())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A line such as `0: 0100007F:1F90 00000000:0000 0A ..`. None of the head, and of an IPv6 address that takes no IPv4.
fn held(line: &str) -> Option<Held> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits as they stand in memory.
    let mut bytes = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            // One that waits on all addresses of IPv6 waits on those of IPv4 as well, if it does not say otherwise.
            if address.is_unspecified() { Ipv4Addr::UNSPECIFIED } else { address.to_ipv4_mapped()? }
        }
        _ => return None,
    };
    Some(Held { address, port, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn lines_of_the_kernel_are_read() {
        let of = |line| held(line).map(|held| (held.address.to_string(), held.port, held.state));
        let ipv4 =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1";
        assert_eq!(of(ipv4), Some(("127.0.0.1".to_owned(), 8080, LISTEN)));
        let all = "   1: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(of(all), Some(("0.0.0.0".to_owned(), 22, LISTEN)));
        let mapped = "   2: 0000000000000000FFFF0000010200C0:0050 0000000000000000FFFF0000020200C0:C350 01 0";
        assert_eq!(of(mapped), Some(("192.0.2.1".to_owned(), 80, 1)));
        let ipv6 = "   3: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(of(ipv6), None);
        assert_eq!(
            of("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"),
            None
        );
    }

    #[test]
    fn sockets_are_in_the_way_where_packets_would_come() {
        let pool = "10.64.0.0/11".parse().unwrap();
        let check = |at: Option<&str>, address: &str| {
            let held = Held { address: address.parse().unwrap(), port: 53, state: LISTEN };
            meets(&(at.map(|at| at.parse().unwrap()), (Protocol::Tcp, 53)), held, pool)
        };
        assert!(check(None, "0.0.0.0") && check(None, "192.0.2.1") && check(None, "127.0.0.1"));
        assert!(!check(None, "127.0.0.53"), "a resolver of the host's own");
        assert!(!check(None, "10.64.32.1"), "ours");
        assert!(check(Some("192.0.2.1"), "192.0.2.1") && check(Some("192.0.2.1"), "0.0.0.0"));
        assert!(!check(Some("192.0.2.1"), "192.0.2.2"));
    }
}
