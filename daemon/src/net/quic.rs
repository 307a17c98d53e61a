//! The one QUIC endpoint of a node: dialling, and opening streams.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime, crypto::rustls::QuicServerConfig};
use raftup_proto::{
    codec,
    id::NodeId,
    peer::{Hello, Role},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Caller, Identity, NetError, Peer, Serve, Stream,
    ca::{self, Name},
    error::Close,
    handshakes::Handshakes,
    link::{Duplicate, Hold, Link, Links, Speaker},
    serve::{self, Server},
    tls::{self, Mistrust, Trust, Verdict, Window},
};

/// How long a dial may take until the other side's greeting.
pub(super) const DIAL_TIME: Duration = Duration::from_secs(3);

/// How long gossip waits with the next dial of a peer that was not reached.
const GOSSIP_DIAL_PAUSE: Duration = Duration::from_secs(1);

/// Room for packets that come while the process is busy, in bytes; the kernel may give less.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// QUIC wants a name; certificates are checked for the node that they name instead.
pub(super) const HOST: &str = "raftup";

/// The network of a node. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct Net {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) endpoint: Endpoint,
    pub(super) identity: ArcSwapOption<Identity>,
    pub(super) server: ArcSwapOption<Server>,
    pub(super) links: Links,
    pub(super) handshakes: Arc<Handshakes>,
    /// What connections are accepted with; its key for tokens stays when the identity changes.
    accepting: Mutex<Option<quinn::ServerConfig>>,
    /// Tells this process from another one with the same identity.
    pub(super) process: u64,
    /// How often this host's address has changed.
    moves: AtomicU32,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    dials: Mutex<BTreeMap<NodeId, Arc<Dial>>>,
}

/// At most one dial of a peer at a time. Whoever waits for it has its failure too: dials one after the other would make
/// the last of many wait for minutes.
#[derive(Default)]
pub(super) struct Dial {
    turn: tokio::sync::Mutex<()>,
    /// How the last one failed, if it did.
    failure: Mutex<Option<Failure>>,
}

/// A dial that failed.
struct Failure {
    at: Instant,
    addr: SocketAddr,
    error: NetError,
}

impl Net {
    /// Binds the control port and starts to listen; callers are refused until there is an identity and [`Net::serve`].
    ///
    /// Must be called within a tokio runtime. Errors: the port is taken, or the address is not one of this host.
    pub fn bind(listen: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&listen.into())?;
        let socket = std::net::UdpSocket::from(socket);
        let buffers = SockRef::from(&socket);
        let sized = buffers
            .set_recv_buffer_size(SOCKET_BUFFER_BYTES)
            .and_then(|()| buffers.set_send_buffer_size(SOCKET_BUFFER_BYTES));
        if let Err(error) = sized {
            tracing::debug!(%error, "socket buffers stay at their default size");
        }
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
        let net = Self {
            inner: Arc::new(Inner {
                endpoint,
                identity: ArcSwapOption::empty(),
                server: ArcSwapOption::empty(),
                links: Links::default(),
                handshakes: Arc::default(),
                accepting: Mutex::default(),
                process: rand::random(),
                moves: AtomicU32::new(0),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
                dials: Mutex::default(),
            }),
        };
        net.inner.tasks.spawn(serve::accept(net.inner.clone()));
        net.inner.tasks.spawn(serve::sweep(net.inner.clone()));
        Ok(net)
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.endpoint.local_addr()
    }

    /// Who this node is from now on. Connections that stand keep the old certificate for the streams that they have,
    /// unless the node is another one now.
    ///
    /// Errors: certificate and key do not fit; nothing was changed.
    pub fn set_identity(&self, identity: Arc<Identity>) -> Result<(), rustls::Error> {
        let crypto = tls::server(&identity)?;
        let before = self.inner.identity.swap(Some(identity.clone()));
        self.inner.accept_with(crypto);
        let same =
            before.is_some_and(|old| (old.cluster(), old.node()) == (identity.cluster(), identity.node()));
        if same {
            self.inner.links.retire();
        } else {
            self.inner.links.close_all(Close::Stopping, "the node has another identity now");
        }
        Ok(())
    }

    /// Who this node is.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.inner.identity.load_full()
    }

    /// Gives what others send to `serve` from now on.
    pub fn serve(&self, serve: Arc<dyn Serve>) {
        self.inner.server.store(Some(Arc::new(Server { serve })));
    }

    /// Opens a stream to a node, dialling it if there is no connection. The certificate there must name the node.
    ///
    /// A node reaches itself without a packet. Errors: see [`NetError`]; a stream that the other side does not want
    /// breaks at its first read.
    pub async fn open(&self, peer: Peer, hello: Hello) -> Result<Stream, NetError> {
        let identity = self.identity().ok_or(NetError::NoIdentity)?;
        if peer.node == identity.node() {
            return self.open_here(&identity, peer, hello);
        }
        let link = self.link(peer).await?;
        let lost = |error| NetError::from_loss(peer.addr, &error);
        let hold = Hold::ours(&link);
        // A peer that does not let streams begin is as good as silent.
        let opened = timeout(DIAL_TIME, link.connection.open_bi()).await;
        let (mut send, recv) = opened.map_err(|_| NetError::Silent { addr: peer.addr })?.map_err(lost)?;
        let lost = |message: String| NetError::Lost { addr: peer.addr, message };
        let bytes = codec::frame(&hello, Hello::Join.cap()).map_err(|error| lost(error.to_string()))?;
        send.write_all(&bytes).await.map_err(|error| lost(error.to_string()))?;
        Ok(Stream::quic(send, recv, Some(&hold)))
    }

    fn open_here(&self, identity: &Identity, peer: Peer, hello: Hello) -> Result<Stream, NetError> {
        let server = self.inner.server.load_full().ok_or(NetError::Refused { addr: peer.addr })?;
        let (near, far) = Stream::pair();
        let caller = Caller { node: identity.node(), role: identity.role(), addr: peer.addr };
        self.inner.tasks.spawn(serve::dispatch(
            self.inner.clone(),
            server,
            Some(caller),
            peer.addr,
            hello,
            far,
        ));
        Ok(near)
    }

    /// Sends a gossip message if that can be done now; drops it when the peer is slow or is not reached. Never blocks.
    pub fn send_gossip(&self, peer: Peer, message: Bytes) {
        if let Some(link) = self.inner.links.get(peer.node) {
            // A full queue is the drop that was promised.
            let _ = link.gossip.try_send(message);
            return;
        }
        let dial = self.inner.dial(peer.node);
        if dial.turn.try_lock().is_err() || dial.paused() {
            return;
        }
        let net = self.clone();
        self.inner.tasks.spawn(async move {
            match net.link(peer).await {
                Ok(link) => {
                    let _ = link.gossip.try_send(message);
                }
                Err(error) => tracing::debug!(node = %peer.node, %error, "gossip found no way"),
            }
        });
    }

    /// What the certificate of a node lets it be, whose connection stands; or that of this node.
    pub fn role(&self, node: NodeId) -> Option<Role> {
        let own = self.identity().filter(|identity| identity.node() == node).map(|identity| identity.role());
        own.or_else(|| Some(self.inner.links.get(node)?.caller.role))
    }

    /// Whether a connection to the node stands and it was heard within the last two seconds.
    pub fn connected(&self, node: NodeId) -> bool {
        self.inner.links.get(node).is_some()
    }

    /// This host has another address: connections lead nowhere now, and those who use them dial anew. The other ends hear
    /// of it with the first connection that is dialled from there.
    pub fn moved(&self) {
        self.inner.moves.fetch_add(1, Ordering::Relaxed);
        self.inner.links.close_all(Close::Unused, "the node has another address now");
    }

    /// How many connections stand.
    pub fn connections(&self) -> usize {
        self.inner.links.count()
    }

    /// Closes the connections to a node, because it was removed.
    pub fn close(&self, node: NodeId) {
        self.inner.links.close(node, Close::Removed, "the node was removed from the cluster");
        self.inner.handshakes.forget(node);
    }

    /// Ends all connections and tasks; others learn at once that this node stops. Waits until they were told.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.links.close_all(Close::Stopping, "the node stops");
        self.inner.endpoint.close(Close::Stopping.code(), b"the node stops");
        self.inner.endpoint.wait_idle().await;
        // Who serves holds this net, and it holds who serves.
        self.inner.server.store(None);
        // Handles may live on elsewhere, and with them the endpoint; the port is free all the same.
        let elsewhere = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        if let Err(error) = elsewhere.and_then(|socket| self.inner.endpoint.rebind(socket)) {
            tracing::warn!(%error, "the control port stays bound until raftupd ends");
        }
    }

    /// The link to a peer; dials it if there is none.
    async fn link(&self, peer: Peer) -> Result<Arc<Link>, NetError> {
        if let Some(link) = self.inner.links.get(peer.node) {
            return Ok(link);
        }
        let (dial, asked) = (self.inner.dial(peer.node), Instant::now());
        let _turn = dial.turn.lock().await;
        if let Some(link) = self.inner.links.get(peer.node) {
            return Ok(link);
        }
        if let Some(error) = dial.failed_since(asked, peer.addr) {
            return Err(error);
        }
        let dialled = dial_member(&self.inner, peer).await;
        dial.ended(peer.addr, dialled.as_ref().err());
        dialled
    }
}

impl Inner {
    /// Who this process is to others now.
    pub(super) fn speaker(&self) -> Speaker {
        Speaker { process: self.process, moves: self.moves.load(Ordering::Relaxed) }
    }

    fn accept_with(&self, crypto: Arc<QuicServerConfig>) {
        let mut accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let config = accepting.get_or_insert_with(|| tls::accepting(crypto.clone()));
        config.crypto = crypto;
        self.endpoint.set_server_config(Some(config.clone()));
    }

    pub(super) fn dials(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Dial>>> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn dial(&self, node: NodeId) -> Arc<Dial> {
        self.dials().entry(node).or_default().clone()
    }

    /// Drops what is known of dials that nobody waits for and whose failure does not matter any more.
    pub(super) fn forget_dials(&self) {
        self.dials().retain(|_, dial| Arc::strong_count(dial) > 1 || dial.paused());
    }
}

impl Dial {
    fn paused(&self) -> bool {
        self.failure().as_ref().is_some_and(|failure| failure.at.elapsed() < GOSSIP_DIAL_PAUSE)
    }

    fn failed_since(&self, asked: Instant, addr: SocketAddr) -> Option<NetError> {
        let failure = self.failure();
        let failure = failure.as_ref().filter(|failure| failure.at >= asked && failure.addr == addr);
        failure.map(|failure| failure.error.clone())
    }

    fn ended(&self, addr: SocketAddr, error: Option<&NetError>) {
        *self.failure() = error.map(|error| Failure { at: Instant::now(), addr, error: error.clone() });
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn dial_member(inner: &Arc<Inner>, peer: Peer) -> Result<Arc<Link>, NetError> {
    let identity = inner.identity.load_full().ok_or(NetError::NoIdentity)?;
    let trust = Trust::Member { ca: identity.ca_der().clone(), cluster: identity.cluster(), node: peer.node };
    let dialled = async {
        let connection = connect(inner, Some(&identity), trust, peer).await?;
        let name = shown_name(&connection)
            .ok_or_else(|| NetError::Lost { addr: peer.addr, message: "no certificate".to_owned() })?;
        match serve::greet_and_hear(inner, &connection).await {
            Ok(speaker) => join_links(inner, connection, name, speaker, identity.node() < name.node),
            Err(error) => Err(NetError::from_loss(peer.addr, &error)),
        }
    };
    // Dropping the half-made connection closes it.
    timeout(DIAL_TIME, dialled).await.unwrap_or(Err(NetError::Silent { addr: peer.addr }))
}

/// Adds a greeted connection to the links and serves what the peer opens on it.
pub(super) fn join_links(
    inner: &Arc<Inner>,
    connection: Connection,
    name: Name,
    speaker: Speaker,
    preferred: bool,
) -> Result<Arc<Link>, NetError> {
    let second = connection.remote_address();
    Window::of(name.role).set(&connection);
    let (link, gossip) = Link::new(connection.clone(), name, speaker, preferred);
    let link = inner.links.add(link).map_err(|Duplicate { first }| {
        let message = format!("{} is connected from {first}, and now from {second}", name.node);
        tracing::warn!(node = %name.node, %first, %second, "a node's identity is used twice");
        connection.close(Close::Duplicate.code(), message.as_bytes());
        NetError::Duplicate { message }
    })?;
    inner.handshakes.seen(name.node, second);
    inner.tasks.spawn(serve::streams(inner.clone(), link.clone()));
    inner.tasks.spawn(serve::write_gossip(link.clone(), gossip));
    Ok(link)
}

/// Whom the other side's verified certificate names.
pub(super) fn shown_name(connection: &Connection) -> Option<Name> {
    let chain = tls::shown(connection)?;
    ca::name(chain.first()?).ok()
}

/// A connection whose other side this node believes; whether it believes this node is not known yet.
pub(super) async fn connect(
    inner: &Inner,
    identity: Option<&Identity>,
    trust: Trust,
    peer: Peer,
) -> Result<Connection, NetError> {
    let lost = |message: String| NetError::Lost { addr: peer.addr, message };
    let (config, verdict) = tls::client(identity, trust).map_err(|error| lost(error.to_string()))?;
    let connecting = inner.endpoint.connect_with(config, peer.addr, HOST);
    let connecting = connecting.map_err(|error| lost(error.to_string()))?;
    let connection = connecting.await.map_err(|error| from_verdict(peer, &verdict, &error))?;
    if identity.is_none() {
        // A manager, as its certificate says; its answer to a request to join may be large.
        Window::of(Role::Manager).set(&connection);
    }
    Ok(connection)
}

fn from_verdict(peer: Peer, verdict: &Verdict, error: &quinn::ConnectionError) -> NetError {
    let addr = peer.addr;
    match verdict.get() {
        Some(Mistrust::Foreign) => NetError::ForeignCluster { addr },
        Some(Mistrust::NotYet) => NetError::ClockBehind { addr },
        Some(Mistrust::Expired) => NetError::PeerExpired { addr },
        Some(Mistrust::WrongNode(found)) => NetError::WrongNode { addr, wanted: peer.node, found },
        Some(Mistrust::NotManager) => {
            let message = format!("it is a {}, not a {}", Role::Worker, Role::Manager);
            NetError::Lost { addr, message }
        }
        Some(Mistrust::Malformed) => {
            NetError::Lost { addr, message: "its certificate is malformed".to_owned() }
        }
        None => NetError::from_loss(addr, error),
    }
}
