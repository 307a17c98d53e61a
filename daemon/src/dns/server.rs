//! The sockets: one of each kind on every gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    Names,
    answer::{Carrier, Verdict, answer, failure},
    forward::{Forwarder, framed},
};

const PORT: u16 = 53;

/// Questions that wait for the host's resolvers; above it the answer is a failure at once, and memory stays small.
const MOST_FORWARDED: usize = 512;

/// Connections that are open; above it new ones are closed.
const MOST_CONNECTIONS: usize = 128;

/// A connection without a question for so long is closed.
const IDLE: Duration = Duration::from_secs(5);

/// The server. Dropping it closes all sockets.
#[derive(Debug)]
pub struct Dns {
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

/// The tasks of one gateway.
#[derive(Debug)]
struct Listeners([JoinHandle<()>; 2]);

impl Drop for Listeners {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self::new("/etc/resolv.conf")
    }
}

impl Dns {
    /// A server without sockets that passes questions on to the resolvers in `resolv_conf`.
    pub fn new(resolv_conf: &str) -> Self {
        let shared = Shared {
            names: ArcSwap::default(),
            pool: ArcSwap::default(),
            forwarder: Forwarder::new(resolv_conf),
            forwarded: Arc::new(Semaphore::new(MOST_FORWARDED)),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        };
        Self { shared: Arc::new(shared), gateways: BTreeMap::new() }
    }

    /// From the next question on, these names count; `pool` has all of our addresses.
    pub fn set_names(&self, names: Names, pool: Ipv4Net) {
        self.shared.pool.store(Arc::new(Some(pool)));
        self.shared.names.store(Arc::new(names));
    }

    /// Listens on these addresses and no others; a bridge need not be there yet.
    ///
    /// Answers what an operator should know, one line a matter; those are tried again next time.
    pub fn listen_on(&mut self, gateways: &BTreeSet<Ipv4Addr>) -> Vec<String> {
        self.gateways.retain(|gateway, _| gateways.contains(gateway));
        let mut problems = Vec::new();
        for gateway in gateways {
            if self.gateways.contains_key(gateway) {
                continue;
            }
            match self.open(*gateway) {
                Ok(listeners) => {
                    self.gateways.insert(*gateway, listeners);
                }
                Err(error) => {
                    warn!(%gateway, %error, "names cannot be answered");
                    problems.push(format!("names cannot be answered on {gateway} port {PORT}: {error}"));
                }
            }
        }
        problems
    }

    fn open(&self, gateway: Ipv4Addr) -> io::Result<Listeners> {
        let udp: std::net::UdpSocket = bind(gateway, Type::DGRAM)?.into();
        let udp = UdpSocket::from_std(udp)?;
        let tcp = bind(gateway, Type::STREAM)?;
        tcp.listen(128)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let udp = tokio::spawn(serve_udp(Arc::clone(&self.shared), Arc::new(udp)));
        let tcp = tokio::spawn(serve_tcp(Arc::clone(&self.shared), tcp));
        Ok(Listeners([udp, tcp]))
    }
}

fn bind(gateway: Ipv4Addr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // The bridge with this address may come later, and may go for a moment.
    socket.set_freebind_v4(true)?;
    socket.bind(&SocketAddr::from((gateway, PORT)).into())?;
    Ok(socket)
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
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

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
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
