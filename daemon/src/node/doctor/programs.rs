//! Which program has a port of this host.
//!
//! Owns: reading the kernel's tables of sockets and which process holds one. Leaves alone: who should have the port.

use std::{fs, path::Path};

use raftup_proto::spec::Protocol;

/// A program that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) pid: u32,
}

/// The state of a TCP socket that listens, and of a UDP socket that is connected to nobody. Source: `tcp_states.h`.
const LISTENS: &str = "0A";
const UNCONNECTED: &str = "07";

/// The program, other than this process and its helpers, that has the port of any address. Blocks. Cost: one look at all
/// open files of the host if a socket is there.
pub(super) fn holder(protocol: Protocol, port: u16) -> Option<Program> {
    let (files, state) = match protocol {
        Protocol::Tcp => (["tcp", "tcp6"], LISTENS),
        Protocol::Udp => (["udp", "udp6"], UNCONNECTED),
    };
    let tables = files.iter().filter_map(|file| fs::read_to_string(format!("/proc/self/net/{file}")).ok());
    let inodes: Vec<String> = tables.flat_map(|table| sockets(&table, port, state)).collect();
    if inodes.is_empty() {
        return None;
    }
    processes().find(|program| program.name != "raftupd" && has(program.pid, &inodes))
}

/// The inodes of sockets in that state with that port, from a table such as `/proc/net/tcp`.
fn sockets(table: &str, port: u16, state: &str) -> Vec<String> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == state;
        fields.get(9).filter(|_| is_it).map(|inode| (*inode).to_owned())
    };
    table.lines().skip(1).filter_map(socket).collect()
}

fn processes() -> impl Iterator<Item = Program> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned();
        Some(Program { name, pid })
    })
}

fn has(pid: u32, inodes: &[String]) -> bool {
    let files = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).into_iter().flatten();
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| {
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.iter().any(|one| one == inode))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_program_with_a_port_is_named() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let found = holder(Protocol::Tcp, port).expect("this program");
        assert_eq!(found.pid, std::process::id());
        drop(held);
        assert_eq!(holder(Protocol::Tcp, port), None);
    }

    #[test]
    fn sockets_are_found_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
            1: 0100007F:0050 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        assert_eq!(sockets(table, 80, LISTENS), ["4711"]);
        assert_eq!(sockets(table, 81, LISTENS), [""; 0]);
    }
}
