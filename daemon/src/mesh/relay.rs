//! Answers on published ports over IPv6, and goes on over IPv4.
//!
//! Networks of containers have IPv4 addresses alone, and no rule of the kernel's leads from one kind to the other. So
//! what comes to this node over IPv6 is carried on to its own 127.0.0.1, where the rules lead it like any client of this
//! node. The container does not see the client's address, and what is open ends with this process.
//!
//! Owns: the sockets of IPv6 that hold published ports. Leaves alone: the choice of an endpoint. Holds: what is carried
//! delays nothing else of this process: it has a thread of its own, and a bounded number of files.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use raftup_proto::spec::Protocol;
use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
    process::{Resource, getrlimit},
};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    runtime::{Builder, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::table::{Port, mix};

/// Connections at a time, and as many flows of datagrams: each has something of the kernel's. More connections wait;
/// for more flows, the one that was silent longest is forgotten.
const MOST: u64 = 4096;

/// Files that a connection and a flow have open: three sockets and two pipes.
const FILES: u64 = 7;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// What one call moves at most: as much as a pipe holds.
const CHUNK: usize = 64 << 10;

/// Largest datagram.
const DATAGRAM: usize = 64 << 10;

/// A flow of datagrams without any for so long is over: as long as the kernel remembers one that both sides use.
const FLOW: Duration = Duration::from_secs(120);

/// How often flows that are over are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// Wait before connections are accepted again when that has failed: files of the whole system may have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that is silent for so long is asked whether its other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The published ports as they are held for IPv6.
#[derive(Debug, Default)]
pub(super) struct Relay {
    works: Option<Works>,
    ports: BTreeMap<Port, AbortHandle>,
}

/// What carries.
#[derive(Debug)]
struct Works {
    runtime: Runtime,
    connections: Arc<Semaphore>,
    flows: Arc<Semaphore>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(works) = self.works.take() {
            // Waits for nobody, which may not be done where this is dropped.
            works.runtime.shutdown_background();
        }
    }
}

impl Relay {
    /// Holds these ports and no others; connections that stand go on. Answers which are taken, one line a port; those
    /// are tried again next time.
    pub(super) fn hold(&mut self, ports: &BTreeSet<Port>) -> Vec<String> {
        self.ports.retain(|port, held| {
            let stays = ports.contains(port);
            if !stays {
                held.abort();
            }
            stays
        });
        let mut problems = Vec::new();
        for port in ports {
            if self.ports.contains_key(port) {
                continue;
            }
            match self.begin(*port) {
                Ok(held) => _ = self.ports.insert(*port, held),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => problems.push(format!(
                    "port {}/{} is taken for IPv6 by another program on this host; the service answers there over IPv4 alone",
                    port.1, port.0
                )),
                // A host without IPv6.
                Err(error) if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => {
                    return problems;
                }
                Err(error) => {
                    problems.push(format!("port {}/{} cannot be held for IPv6: {error}", port.1, port.0));
                }
            }
        }
        problems
    }

    /// The ports that are held.
    pub(super) fn held(&self) -> BTreeSet<Port> {
        self.ports.keys().copied().collect()
    }

    fn begin(&mut self, port: Port) -> io::Result<AbortHandle> {
        let socket = bind(port)?;
        let works = match &mut self.works {
            Some(works) => works,
            none => none.insert(Works::begin()?),
        };
        // Sockets belong to the runtime in which they are made.
        let _inside = works.runtime.enter();
        let carrying = match port.0 {
            Protocol::Tcp => {
                let listener = TcpListener::from_std(socket.into())?;
                works.runtime.spawn(accept(listener, port.1, Arc::clone(&works.connections)))
            }
            Protocol::Udp => {
                let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
                let front = Arc::new(Front { socket: UdpSocket::from_std(socket.into())?, state });
                works.runtime.spawn(receive(front, port.1, Arc::clone(&works.flows)))
            }
        };
        Ok(carrying.abort_handle())
    }
}

impl Works {
    fn begin() -> io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("raftup-ipv6").enable_all().build()?;
        let room = room();
        Ok(Self {
            runtime,
            connections: Arc::new(Semaphore::new(room)),
            flows: Arc::new(Semaphore::new(room)),
        })
    }
}

/// How many connections there may be, and how many flows: at most half of the files that this process may have open.
fn room() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((files / 2 / FILES).clamp(1, MOST)).unwrap_or(usize::MAX)
}

/// A socket for all addresses of IPv6, and for none of IPv4.
fn bind((protocol, port): Port) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::IPV6, kind, None)?;
    socket.set_only_v6(true)?;
    socket.set_nonblocking(true)?;
    if protocol == Protocol::Tcp {
        // Connections of an earlier program that only wait for their end are no conflict.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// The address that stands for a client where the rules see it: one of 127/8, the same on all nodes, so that a client
/// stays with its endpoint where it should. None of those that programs use by habit.
fn stand_in(client: IpAddr) -> SocketAddr {
    let bits = match client {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let [a, b, c, ..] = mix((bits >> 64) as u64, bits as u64).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)), 0))
}

fn inside(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Accepts connections for as long as the port is held.
async fn accept(listener: TcpListener, port: u16, room: Arc<Semaphore>) {
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, client)) => {
                // It outlives the port, as connections over IPv4 do.
                tokio::spawn(async move {
                    if let Err(error) = carry(&stream, client.ip(), port).await {
                        debug!(port, %client, %error, "connection over IPv6 has ended");
                        // So that the client hears of it, and takes it for no end.
                        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(port, %error, "connections over IPv6 cannot be accepted now");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn carry(client: &TcpStream, from: IpAddr, port: u16) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(stand_in(from))?;
    let server = socket.connect(inside(port)).await?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    }
    tokio::try_join!(pump(client, &server), pump(&server, client)).map(drop)
}

/// Moves what one end sends to the other, through a pipe and so past this process, until it has sent all.
async fn pump(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        let take = || Ok(splice(from, None, &into, None, CHUNK, flags)?);
        let mut left = from.async_io(Interest::READABLE, take).await?;
        if left == 0 {
            return SockRef::from(to).shutdown(Shutdown::Write);
        }
        while left > 0 {
            let give = || Ok(splice(&out, None, to, None, left, flags)?);
            left -= to.async_io(Interest::WRITABLE, give).await?;
        }
    }
}

/// The socket that clients send datagrams to.
struct Front {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Front {
    /// The datagrams that are there, all from one client, and how long each of them is.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<RecvMeta> {
        let mut meta = [RecvMeta::default()];
        self.socket
            .async_io(Interest::READABLE, || {
                self.state.recv((&self.socket).into(), &mut [IoSliceMut::new(buffer)], &mut meta)
            })
            .await?;
        let [meta] = meta;
        Ok(meta)
    }

    /// Sends from the address that the client sent to. One that does not fit the link is refused by the kernel.
    async fn send(&self, (destination, src_ip): Flow, contents: &[u8]) -> io::Result<()> {
        let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip };
        let send = || self.state.try_send((&self.socket).into(), &transmit);
        self.socket.async_io(Interest::WRITABLE, send).await
    }
}

/// A client, and the address of this node that it sends to.
type Flow = (SocketAddr, Option<IpAddr>);

/// The other side of a flow. Dropped, it is over.
struct Carried {
    back: Arc<Back>,
    _answers: AbortOnDropHandle<()>,
    _place: OwnedSemaphorePermit,
}

struct Back {
    socket: UdpSocket,
    /// When either side has last sent.
    last: Mutex<Instant>,
}

impl Back {
    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries datagrams for as long as the port is held.
async fn receive(front: Arc<Front>, port: u16, room: Arc<Semaphore>) {
    let mut buffer = vec![0; DATAGRAM];
    let mut flows: HashMap<Flow, Carried> = HashMap::new();
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: a datagram is taken or waits.
        let received = tokio::select! {
            received = front.receive(&mut buffer) => received,
            _ = sweep.tick(), if !flows.is_empty() => {
                flows.retain(|_, carried| carried.back.last().elapsed() < FLOW);
                continue;
            }
        };
        let carried = async {
            let meta = received?;
            let flow = (meta.addr, meta.dst_ip);
            if !flows.contains_key(&flow) {
                let place = place(&mut flows, &room)?;
                flows.insert(flow, Carried::begin(&front, flow, port, place).await?);
            }
            if let Some(Carried { back, .. }) = flows.get(&flow) {
                back.touch();
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    back.socket.send(datagram).await?;
                }
            }
            io::Result::Ok(())
        };
        if let Err(error) = carried.await {
            // Above all: nobody was there for the one before.
            debug!(port, %error, "datagram over IPv6 is lost");
        }
    }
}

/// Room for one more flow, if need be that of the one that was silent longest.
fn place(flows: &mut HashMap<Flow, Carried>, room: &Arc<Semaphore>) -> io::Result<OwnedSemaphorePermit> {
    if let Ok(place) = Arc::clone(room).try_acquire_owned() {
        return Ok(place);
    }
    let oldest = flows.iter().min_by_key(|(_, carried)| carried.back.last()).map(|(flow, _)| *flow);
    drop(oldest.and_then(|oldest| flows.remove(&oldest)));
    Arc::clone(room).try_acquire_owned().map_err(io::Error::other)
}

impl Carried {
    async fn begin(
        front: &Arc<Front>,
        flow: Flow,
        port: u16,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind(stand_in(flow.0.ip())).await?;
        socket.connect(inside(port)).await?;
        let back = Arc::new(Back { socket, last: Mutex::new(Instant::now()) });
        let answers = tokio::spawn(answer(Arc::clone(front), flow, Arc::clone(&back)));
        Ok(Self { back, _answers: AbortOnDropHandle::new(answers), _place: place })
    }
}

/// Carries answers back.
async fn answer(front: Arc<Front>, flow: Flow, back: Arc<Back>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // Nobody may be there now; the next datagram may find someone.
        let Ok(length) = back.socket.recv(&mut buffer).await else { continue };
        back.touch();
        if let Err(error) = front.send(flow, &buffer[..length]).await {
            debug!(client = %flow.0, %error, "answer over IPv6 is lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{self, TcpStream},
        thread,
    };

    use super::*;

    /// A port that is free on both kinds of addresses.
    fn free(protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Tcp => net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port(),
            Protocol::Udp => net::UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port(),
        }
    }

    #[test]
    fn a_connection_is_carried_both_ways_to_its_end() {
        let port = free(Protocol::Tcp);
        let server = net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let mut relay = Relay::default();
        assert!(relay.hold(&BTreeSet::from([(Protocol::Tcp, port)])).is_empty());
        let sent: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8).collect();
        let echo = thread::spawn(move || {
            let (mut stream, client) = server.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
            // The next one finds nobody.
            client.ip()
        });
        let mut client = TcpStream::connect(("::1", port)).unwrap();
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == sent, "{} bytes of {} came back", back.len(), sent.len());
        assert_eq!(echo.join().unwrap(), stand_in(Ipv6Addr::LOCALHOST.into()).ip());

        let mut client = TcpStream::connect(("::1", port)).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "no end that looks like one");
    }

    #[test]
    fn datagrams_are_answered_from_where_they_were_sent_to() {
        let port = free(Protocol::Udp);
        let server = net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
        let mut relay = Relay::default();
        assert!(relay.hold(&BTreeSet::from([(Protocol::Udp, port)])).is_empty());
        let clients = [0, 1].map(|_| {
            let client = net::UdpSocket::bind("[::1]:0").unwrap();
            client.connect(("::1", port)).unwrap();
            client
        });
        for round in 0..3_u8 {
            for (number, client) in clients.iter().enumerate() {
                client.send(&[round, number as u8]).unwrap();
                let mut buffer = [0; 8];
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                assert_eq!(buffer[..length], [round, number as u8]);
                server.send_to(&buffer[..length], from).unwrap();
                assert_eq!(client.recv(&mut buffer).unwrap(), 2);
                assert_eq!(buffer[..2], [round, number as u8]);
            }
        }
    }

    #[test]
    fn a_port_is_held_until_it_is_let_go_and_a_taken_one_is_told() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let port = free(protocol);
            let take = || match protocol {
                Protocol::Tcp => net::TcpListener::bind(("::1", port)).map(drop),
                Protocol::Udp => net::UdpSocket::bind(("::1", port)).map(drop),
            };
            let mut relay = Relay::default();
            assert!(relay.hold(&BTreeSet::from([(protocol, port)])).is_empty());
            assert!(take().is_err(), "{protocol}");
            let mut second = Relay::default();
            let problems = second.hold(&BTreeSet::from([(protocol, port)]));
            assert!(
                problems[0].starts_with(&format!("port {port}/{protocol} is taken for IPv6")),
                "{problems:?}"
            );
            relay.hold(&BTreeSet::new());
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while take().is_err() {
                assert!(std::time::Instant::now() < deadline, "{protocol} is held for ever");
                thread::yield_now();
            }
        }
    }

    #[test]
    fn clients_are_told_apart() {
        let of = |text: &str| stand_in(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::1"));
        let all: BTreeSet<SocketAddr> =
            (0..1000).map(|number| of(&format!("2001:db8::{number:x}"))).collect();
        assert!(all.len() > 990, "{}", all.len());
        assert!(all.iter().all(|address| address.ip().is_loopback()));
        // Another number would part clients from their endpoints in a cluster of two versions.
        assert_eq!(of("2001:db8::1").to_string(), "127.97.199.79:0");
    }
}
