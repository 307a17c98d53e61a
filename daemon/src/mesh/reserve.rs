//! Sockets that hold published ports on this node.
//!
//! Packets to them are re-aimed before any socket sees them. The sockets are there so that no other program gets the
//! port and waits in vain, and so that a program that has it already is found. They never listen.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
};

use raftup_proto::spec::Protocol;
use socket2::{Domain, Socket, Type};

use super::table::Port;

/// Names are answered on this port of the gateways, so it cannot be held for all addresses.
const DNS_PORT: u16 = 53;

/// The ports that are held.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    sockets: BTreeMap<Port, Socket>,
}

impl Reserved {
    /// Holds these ports and no others. Answers which are taken, one line a port; those are tried again next time.
    pub(super) fn hold(&mut self, mut ports: BTreeSet<Port>) -> Vec<String> {
        ports.retain(|(_, port)| *port != DNS_PORT);
        self.sockets.retain(|port, _| ports.contains(port));
        let mut problems = Vec::new();
        for port in ports {
            if self.sockets.contains_key(&port) {
                continue;
            }
            match bind(port) {
                Ok(socket) => {
                    self.sockets.insert(port, socket);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => problems.push(format!(
                    "port {}/{} is taken by another program on this host; its clients reach the service instead",
                    port.1, port.0
                )),
                Err(error) => problems.push(format!("port {}/{} cannot be held: {error}", port.1, port.0)),
            }
        }
        problems
    }
}

fn bind((protocol, port): Port) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    if protocol == Protocol::Tcp {
        // Connections of an earlier program that only wait for their end are no conflict.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    if protocol == Protocol::Tcp {
        // From now on, nobody else can listen there.
        socket.set_reuse_address(false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_port_is_held_and_a_taken_one_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = (Protocol::Tcp, taken.local_addr().unwrap().port(), taken);
        let free = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let mut reserved = Reserved::default();
        let problems = reserved.hold(BTreeSet::from([(taken.0, taken.1), (Protocol::Udp, free)]));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("port {}/tcp is taken", taken.1)));
        assert!(UdpSocket::bind(("127.0.0.1", free)).is_err());
        drop(taken);
        assert!(reserved.hold(BTreeSet::new()).is_empty());
        assert!(UdpSocket::bind(("127.0.0.1", free)).is_ok());
    }

    #[test]
    fn nobody_can_listen_on_a_held_port() {
        let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let mut reserved = Reserved::default();
        assert!(reserved.hold(BTreeSet::from([(Protocol::Tcp, port)])).is_empty());
        assert!(TcpListener::bind(("0.0.0.0", port)).is_err());
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
