//! The threads that encrypt and decrypt.
//!
//! ```text
//! sending    device -> peer by address -> encrypt -> datagrams of one size in one call
//! receiving  datagrams -> link by session -> decrypt -> from this peer's address? -> device
//! timing     handshakes anew, keepalives
//! ```
//!
//! Holds: no thread waits for another one for longer than one packet takes to be encrypted.

use std::{
    convert::Infallible,
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use boringtun::noise::{TunnResult, errors::WireGuardError};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tracing::{debug, info, warn};

use super::{
    LinkStatus, TunnelSpec,
    batch::{Joined, finish_checksum},
    handover::{self, Asked, Old},
    peers::{Link, Peers, stands},
    tun::{HEADER, NEEDS_CHECKSUM, Tun},
};

/// Bytes that WireGuard puts around a packet.
const OVERHEAD: usize = 32;

/// Largest message of a handshake.
const MESSAGE_MAX: usize = 148;

/// Largest UDP payload.
const PAYLOAD_MAX: usize = 65_507;

/// Largest packet, and so what one buffer holds.
const BUFFER: usize = 1 << 16;

/// Packets that are read from the device before what came is sent.
const READS: usize = 128;

/// Buffers of one call that receives.
const RECEIVES: usize = 8;

/// What the kernel keeps for us while we are busy, in each direction.
const SOCKET_BUFFER: usize = 8 << 20;

/// How often timers are looked at; those of WireGuard are of whole seconds.
const TICK: Duration = Duration::from_millis(250);

/// How long an older process is kept at least: what is on its way to it arrives.
const HELP_LEAST: Duration = Duration::from_secs(5);

/// And at most: a node that does not answer by then needs no help.
const HELP_MOST: Duration = Duration::from_secs(60);

/// A link that gave up begins anew after that time.
const ANEW: Duration = Duration::from_secs(5);

/// Place of the destination in an IPv4 header.
const DESTINATION: std::ops::Range<usize> = 16..20;

/// Types of messages. Source: the WireGuard paper, 5.4.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const DATA: u8 = 4;

/// What the threads share.
pub(super) struct Engine {
    tun: Tun,
    socket: UdpSocket,
    state: UdpSocketState,
    peers: ArcSwap<Peers>,
    address: ArcSwap<Ipv4Addr>,
    /// A process that had device and socket before, and still has sessions.
    old: ArcSwapOption<Old>,
    /// Device and socket belong to a newer process.
    handed: AtomicBool,
}

/// What an engine works on. Making it takes rights; working on it takes none.
pub(super) struct Parts {
    tun: Tun,
    socket: UdpSocket,
    old: Option<Old>,
}

impl Parts {
    /// A device, and a new socket. Errors: the port is taken.
    pub(super) fn open(tun: Tun, listen: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(listen)?;
        // More than `rmem_max` allows to others; without it bursts are lost.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?;
        Ok(Self { tun, socket, old: None })
    }

    /// Device and socket of an older process, which answers `stream`. Errors: it does not hand them over.
    pub(super) fn take_over(stream: &UnixStream) -> io::Result<Self> {
        let (device, segments, socket, old) = handover::take(stream)?;
        Ok(Self { tun: Tun::adopt(device, segments), socket: UdpSocket::from(socket), old: Some(old) })
    }
}

impl Engine {
    /// Begins. Errors: a thread cannot be started.
    pub(super) fn start(Parts { tun, socket, old }: Parts) -> io::Result<Arc<Self>> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let engine = Arc::new(Self {
            tun,
            socket,
            state,
            peers: ArcSwap::default(),
            address: ArcSwap::from_pointee(Ipv4Addr::UNSPECIFIED),
            old: ArcSwapOption::from_pointee(old),
            handed: AtomicBool::new(false),
        });
        for (name, work) in
            [("sending", Self::send as fn(&Self)), ("receiving", Self::receive), ("timing", Self::time)]
        {
            let engine = Arc::clone(&engine);
            thread::Builder::new().name(name.to_owned()).spawn(move || work(&engine))?;
        }
        Ok(engine)
    }

    /// Is what `spec` says from now on. What stays of it is not interrupted.
    pub(super) fn become_of(&self, spec: &TunnelSpec) {
        self.address.store(Arc::new(spec.address));
        let (peers, greeted) = self.peers.load().become_of(spec);
        self.peers.store(Arc::new(peers));
        for link in greeted {
            self.greet(&link);
        }
    }

    /// Hands device and socket over `stream` to a newer process, and helps it until it needs no help. Does not return
    /// then: the process ends. Errors: the other end is gone, and all is as before.
    pub(super) fn hand_over(&self, stream: &UnixStream) -> io::Result<Infallible> {
        let new = handover::give(stream, &self.tun, self.tun.segments, &self.socket)?;
        self.handed.store(true, Ordering::Relaxed);
        let (mut buffer, mut out, mut inbox) =
            (vec![0; handover::MESSAGE_MAX], Outbox::new(self), Inbox::new());
        while let Some(asked) = new.next(&mut buffer) {
            let peers = self.peers.load();
            match asked {
                Some(Asked::Send(packet)) => {
                    out.add(&peers, packet);
                    out.flush();
                }
                Some(Asked::TakeIn(from, datagram)) => {
                    self.take_in(&peers, from, datagram, &mut inbox);
                    self.deliver(&mut inbox);
                }
                None => {}
            }
        }
        info!("a newer tunnel has taken over");
        std::process::exit(0)
    }

    pub(super) fn status(&self) -> Vec<LinkStatus> {
        self.peers.load().status()
    }

    // ---- sending

    fn send(&self) {
        let mut packet = vec![0; HEADER + BUFFER];
        let mut out = Outbox::new(self);
        loop {
            self.wait(&self.tun, PollFlags::IN);
            if self.handed.load(Ordering::Relaxed) {
                return;
            }
            let peers = self.peers.load();
            for _ in 0..READS {
                match self.tun.read(&mut packet) {
                    Ok(Some(length)) => {
                        if let Some(packet) = packet.get_mut(..length) {
                            out.add(&peers, packet);
                        }
                    }
                    Ok(None) => break,
                    // Someone has removed it. The daemon sees this end and begins anew.
                    Err(error) if error.raw_os_error() == Some(Errno::BADFD.raw_os_error()) => {
                        warn!("the device is gone, and so the tunnel ends");
                        std::process::exit(1)
                    }
                    Err(error) => {
                        warn!(%error, "the device cannot be read");
                        thread::sleep(TICK);
                        break;
                    }
                }
            }
            out.flush();
        }
    }

    /// Sends datagrams of `size` bytes, the last of which may be smaller.
    fn transmit(&self, to: SocketAddr, contents: &[u8], size: usize) {
        let segment_size = (contents.len() > size).then_some(size);
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
        loop {
            match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(&self.socket, PollFlags::OUT);
                }
                // Nobody there, no way there, too large: lost, as datagrams may be.
                Err(error) => {
                    debug!(%to, %error, "cannot be sent");
                    return;
                }
            }
        }
    }

    /// Begins a handshake.
    fn greet(&self, link: &Link) {
        let mut message = [0; MESSAGE_MAX];
        if let TunnResult::WriteToNetwork(init) = link.tunn().format_handshake_initiation(&mut message, true)
        {
            self.begin(link, init);
        }
    }

    /// Sends the first message of a handshake to wherever the other node may be.
    fn begin(&self, link: &Link, init: &[u8]) {
        for place in link.peer.everywhere() {
            self.transmit(place, init, init.len());
        }
    }

    // ---- receiving

    fn receive(&self) {
        let mut buffers: Vec<Vec<u8>> = (0..RECEIVES).map(|_| vec![0; BUFFER]).collect();
        let mut metas = [RecvMeta::default(); RECEIVES];
        let mut inbox = Inbox::new();
        while !self.handed.load(Ordering::Relaxed) {
            let mut slices: Vec<IoSliceMut<'_>> =
                buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let count = match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(&self.socket, PollFlags::IN);
                    continue;
                }
                // Such as a port that answered with ICMP: of no concern to the others.
                Err(error) => {
                    debug!(%error, "receiving failed once");
                    continue;
                }
            };
            let peers = self.peers.load();
            for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
                let datagrams = buffer.get(..meta.len).unwrap_or_default().chunks(meta.stride.max(1));
                for datagram in datagrams {
                    self.take_in(&peers, meta.addr, datagram, &mut inbox);
                }
            }
            self.deliver(&mut inbox);
        }
    }

    fn take_in(&self, peers: &Peers, from: SocketAddr, datagram: &[u8], inbox: &mut Inbox) {
        let number = |at: usize| {
            let bytes = datagram.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            bytes.map(u32::from_le_bytes)
        };
        let session = match datagram.first() {
            Some(&INITIATION) => {
                match peers.of_handshake(from, datagram) {
                    Ok(link) => self.take(link, from, datagram, inbox),
                    Err(Some(cookie)) => self.transmit(from, &cookie, cookie.len()),
                    Err(None) => debug!(%from, "a handshake of a stranger"),
                }
                return;
            }
            Some(&RESPONSE) => number(8),
            Some(&(COOKIE | DATA)) => number(4),
            _ => None,
        };
        match (session.and_then(|session| peers.of_session(session)), &*self.old.load()) {
            (Some(link), _) => self.take(link, from, datagram, inbox),
            (None, Some(old)) => old.take_in(from, datagram),
            (None, None) => {}
        }
    }

    /// A message for one link.
    fn take(&self, link: &Link, from: SocketAddr, message: &[u8], inbox: &mut Inbox) {
        let mut tunn = link.tunn();
        match tunn.decapsulate(Some(from.ip()), message, &mut inbox.plain) {
            TunnResult::WriteToTunnelV4(packet, source) => {
                drop(tunn);
                link.peer.heard_from(from);
                let here = packet.get(DESTINATION) == Some(&self.address.load().octets()[..]);
                // What a peer says in another's name is not delivered.
                if source == link.peer.address && here && inbox.joined.add(packet).is_err() {
                    if let Some(whole) = inbox.joined.take() {
                        self.write(whole);
                    }
                    let _ = inbox.joined.add(packet);
                }
            }
            TunnResult::WriteToNetwork(answer) => {
                link.peer.heard_from(from);
                self.transmit(from, answer, answer.len());
                // Packets that waited for the handshake.
                while let TunnResult::WriteToNetwork(packet) = tunn.decapsulate(None, &[], &mut inbox.plain) {
                    self.transmit(from, packet, packet.len());
                }
            }
            TunnResult::Done => link.peer.heard_from(from),
            TunnResult::Err(error) => debug!(%from, ?error, "a message that is not accepted"),
            // Nothing of ours has such addresses.
            TunnResult::WriteToTunnelV6(..) => {}
        }
    }

    fn deliver(&self, inbox: &mut Inbox) {
        if let Some(whole) = inbox.joined.take() {
            self.write(whole);
        }
    }

    fn write(&self, packet: &[u8]) {
        self.tun.write(packet);
    }

    // ---- timing

    fn time(&self) {
        let mut message = vec![0; BUFFER];
        let (begun, mut anew) = (Instant::now(), Instant::now());
        loop {
            thread::sleep(TICK);
            // The newer process keeps the time.
            if self.handed.load(Ordering::Relaxed) {
                return;
            }
            let peers = self.peers.load();
            let done = begun.elapsed() >= HELP_MOST || begun.elapsed() >= HELP_LEAST && peers.all_stand();
            if done && self.old.swap(None).is_some() {
                info!("the older tunnel is let go");
            }
            peers.tick();
            let due = anew.elapsed() >= ANEW;
            if due {
                anew = Instant::now();
            }
            for link in peers.links() {
                let result = link.tunn().update_timers(&mut message);
                match result {
                    TunnResult::WriteToNetwork(init) if init.first() == Some(&INITIATION) => {
                        self.begin(link, init);
                    }
                    TunnResult::WriteToNetwork(packet) => {
                        self.transmit(link.peer.endpoint(), packet, packet.len());
                    }
                    // A node that was away for long: whoever can reach the other one must go on trying.
                    TunnResult::Err(WireGuardError::ConnectionExpired) if due => self.greet(link),
                    TunnResult::Done
                    | TunnResult::Err(_)
                    | TunnResult::WriteToTunnelV4(..)
                    | TunnResult::WriteToTunnelV6(..) => {}
                }
            }
        }
    }

    fn wait(&self, on: &impl AsFd, flags: PollFlags) {
        let mut fds = [PollFd::new(on, flags)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                warn!(%error, "cannot wait");
                thread::sleep(TICK);
            }
        }
        // A device that is down is always "ready", with an error.
        if fds.iter().any(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP)) {
            thread::sleep(TICK);
        }
    }
}

/// Packets that came and wait to be written together.
struct Inbox {
    plain: Vec<u8>,
    joined: Joined,
}

impl Inbox {
    fn new() -> Self {
        Self { plain: vec![0; BUFFER], joined: Joined::new() }
    }
}

/// Encrypted packets for one place that wait to be sent together.
struct Outbox<'a> {
    engine: &'a Engine,
    buffer: Vec<u8>,
    used: usize,
    to: Option<SocketAddr>,
    /// Bytes of each datagram but the last.
    size: usize,
    count: usize,
    most: usize,
}

impl<'a> Outbox<'a> {
    fn new(engine: &'a Engine) -> Self {
        let most = engine.state.max_gso_segments();
        Self { engine, buffer: vec![0; 2 * BUFFER], used: 0, to: None, size: 0, count: 0, most }
    }

    /// Encrypts a packet that was read with its header.
    fn add(&mut self, peers: &Peers, read: &mut [u8]) {
        let Some(address) = checked(read) else { return };
        let link = peers.towards(address);
        if let Some(old) = &*self.engine.old.load()
            && !link.is_some_and(stands)
        {
            return old.send(read);
        }
        let (Some(link), Some(packet)) = (link, read.get(HEADER..)) else { return };
        let to = link.peer.endpoint();
        let length = packet.len() + OVERHEAD;
        let fits = self.to == Some(to)
            && self.count < self.most
            && length <= self.size
            && self.used.is_multiple_of(self.size.max(1))
            && self.used + length <= PAYLOAD_MAX;
        if !fits {
            self.flush();
        }
        let Some(room) = self.buffer.get_mut(self.used..) else { return };
        let result = link.tunn().encapsulate(packet, room);
        match result {
            TunnResult::WriteToNetwork(message) if message.len() == length => {
                if self.count == 0 {
                    self.size = length;
                    self.to = Some(to);
                }
                self.used += length;
                self.count += 1;
            }
            // The first message of a handshake; the packet waits in the link.
            TunnResult::WriteToNetwork(message) => {
                let message = message.to_vec();
                self.engine.begin(link, &message);
            }
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => {}
        }
    }

    fn flush(&mut self) {
        if let (Some(to), Some(contents)) = (self.to, self.buffer.get(..self.used))
            && self.count > 0
        {
            self.engine.transmit(to, contents, self.size);
        }
        (self.used, self.count) = (0, 0);
    }
}

/// Where the packet behind the header goes; none if it is not one that VXLAN made. What the header says is left to be
/// done is done.
fn checked(read: &mut [u8]) -> Option<Ipv4Addr> {
    let (header, packet) = read.split_at_mut_checked(HEADER)?;
    let [flags, kind, rest @ ..] = header else { return None };
    // The kernel takes apart what is larger than the device allows, but for its own protocols only.
    if *kind != 0 {
        return None;
    }
    if std::mem::take(flags) & NEEDS_CHECKSUM != 0 {
        let number = |at: usize| {
            let bytes = rest.get(at..at + 2).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
            bytes.map(|bytes| usize::from(u16::from_ne_bytes(bytes)))
        };
        finish_checksum(packet, number(4)?, number(6)?);
    }
    let destination = packet.get(DESTINATION).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())?;
    (packet.first().map(|byte| byte >> 4) == Some(4)).then_some(Ipv4Addr::from(destination))
}
