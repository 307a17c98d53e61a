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
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::{
    Names,
    answer::{Carrier, Verdict, answer, failure},
    forward::{Forwarder, framed},
    handover::Sockets,
};

/// Where names are asked for.
pub(super) const PORT: u16 = 53;

/// Questions that wait for the host's resolvers; above it the answer is a failure at once, and memory stays small.
const MOST_FORWARDED: u32 = 512;

/// Connections that are open; above it new ones are closed.
const MOST_CONNECTIONS: u32 = 128;

/// Room for questions that wait while this process does not run, which the kernel doubles: 2,700 of them. A machine may
/// stand still for seconds, and whoever asked does so once more only after five.
const WAITING_BYTES: usize = 1 << 20;

/// A connection without a question for so long is closed.
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
    forwarded: Arc<Semaphore>,
    connections: Arc<Semaphore>,
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
            forwarded: Arc::new(Semaphore::new(MOST_FORWARDED as usize)),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS as usize)),
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
            // Closed by nobody; and with all permits in hand, no question is on its way.
            let _forwarded = self.shared.forwarded.acquire_many(MOST_FORWARDED).await;
            let _connections = self.shared.connections.acquire_many(MOST_CONNECTIONS).await;
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
    let mut buffer = vec![0; 4096];
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
        let question = &buffer[..length];
        match shared.verdict(from, question, Carrier::Udp) {
            Verdict::Answer(bytes) => reply(&socket, from, &bytes).await,
            Verdict::Ignore => {}
            Verdict::Forward => match Arc::clone(&shared.forwarded).try_acquire_owned() {
                Ok(permit) => {
                    let question = question.to_vec();
                    let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
                    tokio::spawn(forward_udp(shared, socket, from, question, permit));
                }
                Err(_) => {
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
    permit: OwnedSemaphorePermit,
) {
    if let Some(answer) = shared.forward(&question, Carrier::Udp).await {
        reply(&socket, to, &answer).await;
    }
    drop(permit);
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
                if let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() {
                    tokio::spawn(converse(Arc::clone(&shared), stream, from, permit));
                }
            }
            Err(error) => {
                debug!(%error, "a connection was lost");
                tokio::time::sleep(Duration::from_millis(50)).await; // out of files: give others time to close some
            }
        }
    }
}

async fn converse(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    from: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    // Ends with the first thing that is not a question in time.
    while let Ok(Ok(question)) = timeout(IDLE, read_question(&mut stream)).await {
        let answer = match shared.verdict(from, &question, Carrier::Tcp) {
            Verdict::Answer(bytes) => Some(bytes),
            Verdict::Ignore => None,
            Verdict::Forward => shared.forward(&question, Carrier::Tcp).await,
        };
        let Some(answer) = answer else { break };
        match timeout(IDLE, stream.write_all(&framed(&answer))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    drop(permit);
}

async fn read_question(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut question = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut question).await?;
    Ok(question)
}

impl Shared {
    fn verdict(&self, from: SocketAddr, question: &[u8], carrier: Carrier) -> Verdict {
        match from.ip() {
            IpAddr::V4(asker) => answer(&self.names.load(), asker, question, carrier),
            IpAddr::V6(_) => Verdict::Ignore,
        }
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
                    Verdict::Forward | Verdict::Ignore => None,
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
            let answer = read_question(&mut stream).await.unwrap();
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
        assert_eq!(dns.keep(&BTreeSet::from([HERE, other])), BTreeSet::from([other]), "it has no sockets of it");
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
