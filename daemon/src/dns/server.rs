//! The sockets: one of each kind on every gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use ipnet::Ipv4Net;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::{
    Names,
    answer::{Carrier, Verdict, answer, failure},
    forward::{DATAGRAM_MAX, Forwarder, framed},
    handover::Sockets,
    shares::{Place, Shares},
};

/// Where names are asked for.
pub(super) const PORT: u16 = 53;

/// Questions that wait for the host's resolvers; above it, or above a container's share of it, the answer is a failure at
/// once, and memory stays small.
const MOST_FORWARDED: u32 = 512;

/// Connections that are open; above it, or above a container's share of it, new ones are closed.
const MOST_CONNECTIONS: u32 = 128;

/// Room for questions that wait while this process does not run, which the kernel doubles: 2,700 of them. A machine may
/// stand still for seconds, and whoever asked does so once more only after five.
const WAITING_BYTES: usize = 1 << 20;

/// A connection without a whole question for so long is closed, as is one whose other end takes so long to read an answer.
const IDLE: Duration = Duration::from_secs(5);

/// Questions that came before a hand-over have their answers by then, or never.
const DRAINED: Duration = Duration::from_secs(10);

/// The server. Dropping it closes all sockets.
#[derive(Debug)]
pub(super) struct Dns {
    shared: Arc<Shared>,
    gateways: BTreeMap<Ipv4Addr, Listeners>,
}

#[derive(Debug)]
struct Shared {
    names: ArcSwap<Names>,
    pool: ArcSwap<Option<Ipv4Net>>,
    forwarder: Forwarder,
    forwarded: Arc<Shares>,
    connections: Arc<Shares>,
}

/// The sockets of one gateway, which are read until this is dropped.
#[derive(Debug)]
struct Listeners {
    udp: Arc<UdpSocket>,
    tcp: Arc<TcpListener>,
    _reading: DropGuard,
}

impl Default for Dns {
    fn default() -> Self {
        Self::new("/etc/resolv.conf")
    }
}

impl Dns {
    /// A server without sockets that passes questions on to the resolvers in `resolv_conf`.
    fn new(resolv_conf: &str) -> Self {
        let shared = Shared {
            names: ArcSwap::default(),
            pool: ArcSwap::default(),
            forwarder: Forwarder::new(resolv_conf),
            forwarded: Shares::new("questions that wait for the host's resolvers", MOST_FORWARDED),
            connections: Shares::new("connections to the resolver", MOST_CONNECTIONS),
        };
        Self { shared: Arc::new(shared), gateways: BTreeMap::new() }
    }

    /// From the next question on, these names count; `pool` has all of our addresses.
    pub(super) fn set_names(&self, names: Names, pool: Ipv4Net) {
        self.shared.pool.store(Arc::new(Some(pool)));
        self.shared.names.store(Arc::new(names));
    }

    /// Answers at these gateways and no others. Answers those that there are no sockets of.
    pub(super) fn keep(&mut self, gateways: &BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
        self.gateways.retain(|gateway, _| gateways.contains(gateway));
        gateways.iter().filter(|gateway| !self.gateways.contains_key(gateway)).copied().collect()
    }

    /// Reads these sockets from now on. Panics: outside of a tokio runtime.
    pub(super) fn adopt(&mut self, sockets: Sockets) -> io::Result<()> {
        sockets.udp.set_nonblocking(true)?;
        sockets.tcp.set_nonblocking(true)?;
        let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
        let tcp = Arc::new(TcpListener::from_std(sockets.tcp)?);
        let stop = CancellationToken::new();
        tokio::spawn(serve_udp(Arc::clone(&self.shared), Arc::clone(&udp), stop.clone()));
        tokio::spawn(serve_tcp(Arc::clone(&self.shared), Arc::clone(&tcp), stop.clone()));
        let listeners = Listeners { udp, tcp, _reading: stop.drop_guard() };
        self.gateways.insert(sockets.gateway, listeners);
        Ok(())
    }

    /// The sockets once more, for another process. They are read here too.
    pub(super) fn sockets(&self) -> io::Result<Vec<Sockets>> {
        let copy = |(gateway, listeners): (&Ipv4Addr, &Listeners)| {
            let udp = listeners.udp.as_fd().try_clone_to_owned()?.into();
            let tcp = listeners.tcp.as_fd().try_clone_to_owned()?.into();
            Ok(Sockets { gateway: *gateway, udp, tcp })
        };
        self.gateways.iter().map(copy).collect()
    }

    /// Takes no more questions, and waits until those that were taken have their answers.
    pub(super) async fn drain(&mut self) {
        self.gateways.clear();
        let all = async {
            // Nothing is read any more, so no place is taken anew.
            self.shared.forwarded.all_free().await;
            self.shared.connections.all_free().await;
        };
        if timeout(DRAINED, all).await.is_err() {
            warn!("some questions have no answer");
        }
    }
}

/// Makes the sockets of a gateway; its bridge need not be there yet. Takes rights that the process which reads them has not.
pub(super) fn open(gateway: Ipv4Addr, port: u16) -> io::Result<Sockets> {
    let udp = bind(gateway, port, Type::DGRAM)?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&udp, WAITING_BYTES)?;
    let tcp = bind(gateway, port, Type::STREAM)?;
    tcp.listen(128)?;
    Ok(Sockets { gateway, udp: udp.into(), tcp: tcp.into() })
}

fn bind(gateway: Ipv4Addr, port: u16, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    socket.set_reuse_address(true)?;
    // The bridge with this address may come later, and may go for a moment.
    socket.set_freebind_v4(true)?;
    socket.bind(&SocketAddr::from((gateway, port)).into())?;
    Ok(socket)
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>, stop: CancellationToken) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    // Cancel-safe: a question is taken whole or not at all.
    while let Some(received) = stop.run_until_cancelled(socket.recv_from(&mut buffer)).await {
        let (length, from) = match received {
            Ok(received) => received,
            // Someone hung up before an answer of ours; the next question is not touched by it.
            Err(error) => {
                debug!(%error, "a question was lost");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let (question, IpAddr::V4(asker)) = (&buffer[..length], from.ip()) else { continue };
        match shared.verdict(asker, question, Carrier::Udp) {
            Verdict::Answer(bytes) => reply(&socket, from, &bytes).await,
            Verdict::Ignore => {}
            Verdict::Forward(network) => match shared.forwarded.take(asker, network) {
                Some(place) => {
                    let question = question.to_vec();
                    let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
                    tokio::spawn(forward_udp(shared, socket, from, question, place));
                }
                None => {
                    if let Verdict::Answer(bytes) = failure(question, ResponseCode::ServFail) {
                        reply(&socket, from, &bytes).await;
                    }
                }
            },
        }
    }
}

async fn forward_udp(
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    question: Vec<u8>,
    place: Place,
) {
    if let Some(answer) = shared.forward(&question, Carrier::Udp).await {
        reply(&socket, to, &answer).await;
    }
    drop(place);
}

async fn reply(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    if let Err(error) = socket.send_to(bytes, to).await {
        debug!(%to, %error, "an answer was lost");
    }
}

async fn serve_tcp(shared: Arc<Shared>, listener: Arc<TcpListener>, stop: CancellationToken) {
    // Cancel-safe: a connection is taken or not.
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, from)) => {
                let IpAddr::V4(asker) = from.ip() else { continue };
                // Strangers are not even read.
                let network = shared.names.load().network_of(asker);
                if let Some(place) = network.and_then(|network| shared.connections.take(asker, network)) {
                    tokio::spawn(converse(Arc::clone(&shared), stream, asker, place));
                }
            }
            Err(error) => {
                debug!(%error, "a connection was lost");
                tokio::time::sleep(Duration::from_millis(50)).await; // out of files: give others time to close some
            }
        }
    }
}

async fn converse(shared: Arc<Shared>, mut stream: TcpStream, asker: Ipv4Addr, place: Place) {
    // Ends with the first thing that is not a question in time.
    while let Ok(Ok(question)) = timeout(IDLE, read_message(&mut stream, DATAGRAM_MAX)).await {
        let answer = match shared.verdict(asker, &question, Carrier::Tcp) {
            Verdict::Answer(bytes) => Some(bytes),
            Verdict::Ignore => None,
            Verdict::Forward(_) => shared.forward(&question, Carrier::Tcp).await,
        };
        let Some(answer) = answer else { break };
        match timeout(IDLE, stream.write_all(&framed(&answer))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    drop(place);
}

/// Errors: the other end is gone, or its message has more than `most` bytes.
async fn read_message(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

impl Shared {
    fn verdict(&self, asker: Ipv4Addr, question: &[u8], carrier: Carrier) -> Verdict {
        answer(&self.names.load(), asker, question, carrier)
    }

    /// The resolvers' answer, or that they failed.
    async fn forward(&self, question: &[u8], carrier: Carrier) -> Option<Vec<u8>> {
        let pool = **self.pool.load();
        match self.forwarder.ask(question, carrier, pool).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                debug!(%error, "no resolver of the host answered");
                match failure(question, ResponseCode::ServFail) {
                    Verdict::Answer(bytes) => Some(bytes),
                    Verdict::Forward(_) | Verdict::Ignore => None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{op::Message, rr::RecordType};
    use raftup_proto::view::{Item, Revision, View};

    use super::*;
    use crate::dns::answer::tests::{network, question, route};

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// Answers on the loopback address, whose network has `web` with that many tasks, every second one ready.
    fn server(tasks: u32) -> (Dns, Sockets) {
        let addresses: Vec<String> =
            (0..tasks).map(|task| Ipv4Addr::from(0x7f00_0100 + task).to_string()).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let route = route("web", &[(1, "127.0.31.2", "www", &addresses)]);
        let items = route.chain([Item::Network(network(1, "127.0.0.0/19"))]);
        let dns = Dns::new("/nonexistent/resolv.conf");
        let names = Names::of(&View::of(Revision(1), items), Default::default());
        dns.set_names(names, "127.0.0.0/8".parse().unwrap());
        (dns, open(HERE, 0).unwrap())
    }

    async fn over_udp(to: SocketAddr, question: &[u8]) -> Message {
        let socket = UdpSocket::bind((HERE, 0)).await.unwrap();
        socket.send_to(question, to).await.unwrap();
        let mut buffer = [0; 4096];
        let length = timeout(IDLE, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    #[tokio::test]
    async fn who_gets_a_part_over_udp_gets_all_of_it_over_tcp() {
        let (mut dns, sockets) = server(800);
        let (udp, tcp) = (sockets.udp.local_addr().unwrap(), sockets.tcp.local_addr().unwrap());
        dns.adopt(sockets).unwrap();
        let question = question("tasks.web.", RecordType::A);
        let part = over_udp(udp, &question).await;
        assert!(part.metadata.truncation && part.answers.len() < 400, "{}", part.answers.len());
        let mut stream = TcpStream::connect(tcp).await.unwrap();
        // One connection serves several questions.
        for _ in 0..3 {
            stream.write_all(&framed(&question)).await.unwrap();
            let answer = read_message(&mut stream, usize::from(u16::MAX)).await.unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 400);
        }
    }

    #[tokio::test]
    async fn what_nobody_can_answer_fails_at_once() {
        let (mut dns, sockets) = server(1);
        let udp = sockets.udp.local_addr().unwrap();
        dns.adopt(sockets).unwrap();
        let answer = over_udp(udp, &question("example.com.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    /// A connection of this address that asks for `web` and has its answer, if it is served.
    async fn served(to: SocketAddr, from: [u8; 4]) -> Option<TcpStream> {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        // It may be closed already.
        let _ = stream.write_all(&framed(&question("web.", RecordType::A))).await;
        read_message(&mut stream, DATAGRAM_MAX).await.ok().map(|_| stream)
    }

    #[tokio::test]
    async fn a_container_with_many_connections_leaves_some_to_others() {
        let (mut dns, sockets) = server(2);
        let tcp = sockets.tcp.local_addr().unwrap();
        dns.adopt(sockets).unwrap();
        let mut held = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            held.extend(served(tcp, [127, 0, 0, 1]).await);
        }
        assert_eq!(held.len(), MOST_CONNECTIONS as usize / 4);
        for other in 2..10 {
            assert!(served(tcp, [127, 0, 0, other]).await.is_some(), "{other}");
        }
        assert!(served(tcp, [127, 9, 0, 1]).await.is_none(), "a stranger");
        // A question that is too long ends the connection.
        let mut stream = held.pop().unwrap();
        stream.write_all(&[0xff, 0xff]).await.unwrap();
        assert!(read_message(&mut stream, DATAGRAM_MAX).await.is_err());
    }

    #[tokio::test]
    async fn a_container_with_many_questions_leaves_room_for_those_of_others() {
        // A resolver that is silent.
        let silent = UdpSocket::bind("127.0.53.7:53").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.53.7\n").unwrap();
        let mut dns = Dns::new(file.to_str().unwrap());
        let view = View::of(Revision(1), [Item::Network(network(1, "127.0.0.0/19"))]);
        dns.set_names(Names::of(&view, Default::default()), "10.0.0.0/8".parse().unwrap());
        let sockets = open(HERE, 0).unwrap();
        let at = sockets.udp.local_addr().unwrap();
        dns.adopt(sockets).unwrap();
        let ask = async |from: [u8; 4], name: &str, times: usize| {
            let socket = UdpSocket::bind((Ipv4Addr::from(from), 0)).await.unwrap();
            for _ in 0..times {
                socket.send_to(&question(name, RecordType::A), at).await.unwrap();
            }
            socket
        };
        let greedy = ask([127, 0, 0, 1], "greedy.example.", 400).await;
        let _other = ask([127, 0, 0, 2], "other.example.", 1).await;
        let mut buffer = [0; 512];
        let (mut asked, mut heard) = (0, false);
        while !heard {
            let length =
                timeout(IDLE, silent.recv(&mut buffer)).await.expect("the other's question").unwrap();
            heard = buffer[..length].windows(5).any(|part| part == b"other");
            asked += usize::from(!heard);
        }
        assert!(asked <= MOST_FORWARDED as usize / 4, "{asked}");
        // The rest fails at once.
        let length = timeout(IDLE, greedy.recv(&mut buffer)).await.expect("a failure").unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn questions_wait_for_a_resolver_that_stands_still() {
        const QUESTIONS: usize = 2_000;
        let (mut dns, sockets) = server(2);
        let asker = bind(HERE, 0, Type::DGRAM).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&asker, WAITING_BYTES).unwrap();
        asker.connect(&sockets.udp.local_addr().unwrap().into()).unwrap();
        let question = question("web.", RecordType::A);
        for _ in 0..QUESTIONS {
            asker.send(&question).unwrap();
        }
        dns.adopt(sockets).unwrap();
        asker.set_nonblocking(true).unwrap();
        let asker = UdpSocket::from_std(asker.into()).unwrap();
        for number in 0..QUESTIONS {
            let answer = timeout(IDLE, asker.recv(&mut [0; 4096])).await;
            answer.unwrap_or_else(|_| panic!("an answer after {number}")).unwrap();
        }
    }

    #[tokio::test]
    async fn sockets_go_to_the_next_one_without_a_lost_question() {
        let (mut older, sockets) = server(2);
        let udp = sockets.udp.local_addr().unwrap();
        older.adopt(sockets).unwrap();
        let asking = tokio::spawn(async move {
            let question = question("web.", RecordType::A);
            for _ in 0..2000 {
                assert_eq!(over_udp(udp, &question).await.answers.len(), 1);
            }
        });
        // Each has them for a while.
        while !asking.is_finished() {
            let (mut newer, _) = server(2);
            for sockets in older.sockets().unwrap() {
                newer.adopt(sockets).unwrap();
            }
            older.drain().await;
            older = newer;
            tokio::task::yield_now().await;
        }
        asking.await.unwrap();
    }

    #[tokio::test]
    async fn only_the_gateways_that_are_named_are_kept() {
        let (mut dns, sockets) = server(2);
        let udp = sockets.udp.local_addr().unwrap();
        dns.adopt(sockets).unwrap();
        let other = Ipv4Addr::new(127, 0, 0, 2);
        assert_eq!(
            dns.keep(&BTreeSet::from([HERE, other])),
            BTreeSet::from([other]),
            "it has no sockets of it"
        );
        assert_eq!(over_udp(udp, &question("web.", RecordType::A)).await.answers.len(), 1);
        assert!(dns.keep(&BTreeSet::new()).is_empty());
        let closed = async {
            while std::net::UdpSocket::bind(udp).is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(IDLE, closed).await.expect("the address is free again");
    }
}
