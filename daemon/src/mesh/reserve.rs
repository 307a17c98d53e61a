//! Sockets that hold published ports on this node.
//!
//! Packets to them are re-aimed before any socket sees them. The sockets are there so that no other program gets the
//! port and waits in vain. They never listen. A port that a program has already is left to it: nobody loses a way into
//! a server to a typing error in a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
};

use ipnet::Ipv4Net;
use raftup_proto::{
    peer::{Deaf, DeafTo},
    spec::Protocol,
};
use socket2::{Domain, Socket, Type};

use super::{
    others,
    table::{Front, Port},
};

/// Names are answered on this port of the gateways, so it cannot be held for all addresses.
const DNS_PORT: u16 = 53;

/// The ports that are held.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    sockets: BTreeMap<Front, Socket>,
    /// Those that others have.
    taken: BTreeSet<Front>,
    /// Those on addresses that the node does not have.
    absent: BTreeSet<Front>,
    /// Those that cannot be held, and that nobody waits on: a connection that began here has the number, above all.
    loose: BTreeSet<Front>,
}

impl Reserved {
    /// Tries to hold these ports besides those that are held. `pool` has the addresses that names are answered on here,
    /// and `relayed` are the ports that this process has for IPv6.
    pub(super) async fn hold(&mut self, fronts: &BTreeSet<Front>, pool: Ipv4Net, relayed: &BTreeSet<Port>) {
        // A port that moves from one address to another is not in its own way.
        self.sockets
            .retain(|held, _| fronts.contains(held) || !fronts.iter().any(|wanted| wanted.1 == held.1));
        let unheld: Vec<Front> =
            fronts.iter().filter(|front| !self.sockets.contains_key(*front)).copied().collect();
        let (mut in_use, mut loose) = (BTreeSet::new(), BTreeSet::new());
        for front in unheld {
            if is_dns(&front) {
                in_use.insert(front);
                continue;
            }
            match bind(front) {
                Ok(socket) => _ = self.sockets.insert(front, socket),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => _ = in_use.insert(front),
                Err(error) => {
                    if error.kind() != io::ErrorKind::AddrNotAvailable {
                        tracing::warn!(port = front.1.1, %error, "a published port cannot be held");
                    }
                    loose.insert(front);
                }
            }
        }
        let own: Vec<Ipv4Addr> = fronts.iter().filter_map(|(at, _)| *at).collect();
        let relayed = relayed.clone();
        let found = tokio::task::spawn_blocking(move || {
            let taken = others::take(&in_use, pool, &relayed)?;
            loose.extend(in_use.into_iter().filter(|front| !taken.contains(front) && !is_dns(front)));
            Ok::<_, io::Error>((taken, loose, others::absent(own)?))
        });
        let absent = match found.await {
            Ok(Ok((taken, loose, absent))) => {
                (self.taken, self.loose) = (taken, loose);
                absent
            }
            Ok(Err(error)) => {
                return tracing::warn!(%error, "whether others have published ports cannot be told");
            }
            Err(error) => return tracing::warn!(%error, "who has published ports was not looked at"),
        };
        let is_absent = |(at, _): &&Front| at.is_some_and(|at| absent.contains(&at));
        self.absent = fronts.iter().filter(is_absent).copied().collect();
    }

    /// Lets go of all ports but these.
    pub(super) fn release(&mut self, but: &BTreeSet<Front>) {
        self.sockets.retain(|front, _| but.contains(front));
    }

    /// No other program has the port; that of names counts, though it cannot be held.
    pub(super) fn has(&self, front: &Front) -> bool {
        self.sockets.contains_key(front) || (is_dns(front) && !self.taken.contains(front))
    }

    /// Ports that are left to others.
    pub(super) fn taken(&self) -> &BTreeSet<Front> {
        &self.taken
    }

    /// The ports that this node does not answer on.
    pub(super) fn deaf(&self) -> Vec<Deaf> {
        let deaf = |front: &Front, why| {
            let (host_ip, (protocol, published)) = *front;
            Deaf { protocol, published, host_ip, why }
        };
        let taken = self.taken.iter().map(|front| deaf(front, DeafTo::Taken));
        let absent = self.absent.difference(&self.taken).map(|front| deaf(front, DeafTo::NoAddress));
        let mut all: Vec<Deaf> = taken.chain(absent).collect();
        all.sort_unstable();
        all
    }

    /// Another look may find something else, without any word of that.
    pub(super) fn may_change(&self, fronts: &BTreeSet<Front>) -> bool {
        let comes_and_goes = |(at, _): &Front| at.is_some_and(|at| !at.is_loopback());
        !self.taken.is_empty() || !self.loose.is_empty() || fronts.iter().any(comes_and_goes)
    }
}

/// No socket can hold it: those that answer names are in the way.
pub(super) fn is_dns(front: &Front) -> bool {
    matches!(front, (None, (_, DNS_PORT)))
}

fn bind((at, (protocol, port)): Front) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    if protocol == Protocol::Tcp {
        // Connections of an earlier program that only wait for their end are no conflict.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SocketAddr::from((at.unwrap_or(Ipv4Addr::UNSPECIFIED), port)).into())?;
    if protocol == Protocol::Tcp {
        // From now on, nobody else can listen there.
        socket.set_reuse_address(false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    async fn holding(reserved: &mut Reserved, fronts: &[Front]) -> Vec<String> {
        let fronts = fronts.iter().copied().collect();
        reserved.hold(&fronts, "10.64.0.0/11".parse().unwrap(), &BTreeSet::new()).await;
        reserved.release(&fronts);
        reserved.deaf().iter().map(|deaf| format!("{deaf} {:?}", deaf.why)).collect()
    }

    fn free() -> u16 {
        TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_port_is_held_and_a_taken_one_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        let free = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let wanted = [(None, (Protocol::Tcp, taken)), (None, (Protocol::Udp, free))];
        let mut reserved = Reserved::default();
        assert_eq!(holding(&mut reserved, &wanted).await, [format!("port {taken}/tcp Taken")]);
        assert_eq!(reserved.taken().len(), 1);
        assert!(UdpSocket::bind(("127.0.0.1", free)).is_err());
        drop(listener);
        assert!(holding(&mut reserved, &wanted).await.is_empty());
        assert!(holding(&mut reserved, &[]).await.is_empty());
        assert!(UdpSocket::bind(("127.0.0.1", free)).is_ok());
    }

    #[tokio::test]
    async fn nobody_can_listen_on_a_held_port() {
        let port = free();
        let mut reserved = Reserved::default();
        assert!(holding(&mut reserved, &[(None, (Protocol::Tcp, port))]).await.is_empty());
        assert!(TcpListener::bind(("0.0.0.0", port)).is_err());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[tokio::test]
    async fn a_port_of_one_address_leaves_the_others_alone() {
        let (port, loopback) = (free(), Ipv4Addr::LOCALHOST);
        let mut reserved = Reserved::default();
        let elsewhere = Ipv4Addr::new(192, 0, 2, 99);
        let wanted = [(Some(loopback), (Protocol::Tcp, port)), (Some(elsewhere), (Protocol::Tcp, port))];
        let said = format!("port 192.0.2.99:{port}/tcp NoAddress");
        assert_eq!(holding(&mut reserved, &wanted).await, [said]);
        assert!(TcpListener::bind((loopback, port)).is_err());
        assert!(TcpListener::bind(("127.0.0.2", port)).is_ok());
    }

    /// The number of a connection that began on this host is not a port that a program waits on.
    #[tokio::test]
    async fn a_connection_takes_no_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = connection.local_addr().unwrap().port();
        let mut reserved = Reserved::default();
        let wanted = [(None, (Protocol::Tcp, port))];
        assert!(holding(&mut reserved, &wanted).await.is_empty());
        assert!(reserved.taken().is_empty() && reserved.may_change(&wanted.into()));
    }
}
