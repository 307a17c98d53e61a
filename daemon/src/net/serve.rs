//! Accepting connections, and the streams on them.
//!
//! Both sides of a connection between nodes begin with a [`Greeting`] on a stream of its own, and neither uses the
//! connection before it has heard the other's: a dialling side's handshake is complete before the accepting side has
//! looked at its certificate, and only the greeting says that it was accepted.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream};
use raftup_proto::{
    codec,
    peer::{Hello, JoinRequest, Role},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};

use super::{
    Caller, FrameError, Serve, Stream,
    error::{Close, Stop},
    handshakes::{self, Admit},
    link::{Hold, Link, Speaker},
    quic::{self, Inner},
    rpc, tls,
};

/// How long a handshake may take, the greeting included. Callers give up as soon ([`quic::DIAL_TIME`]).
const HANDSHAKE_TIME: Duration = Duration::from_secs(3);

/// How long a caller may take from opening a stream to its hello, and from there to its question.
pub(super) const GREETING_TIME: Duration = Duration::from_secs(5);

/// How long a caller without a certificate is kept, and a request that was forwarded for one.
const STRANGER_TIME: Duration = Duration::from_secs(30);

/// Callers without a certificate at a time, in all and from one address (of IPv6, one network of 64 bits); a join takes
/// less than a second.
const MAX_STRANGERS: (usize, usize) = (64, 8);

/// How often links are looked at; a removed node is cut off after that time at most.
const SWEEP: Duration = Duration::from_millis(500);

/// Most bytes of a greeting.
const GREETING_CAP: u64 = 256;

/// The one who gets what others send.
pub(super) struct Server {
    pub(super) serve: Arc<dyn Serve>,
}

/// First thing that each side of a connection between nodes says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Greeting {
    V1(Speaker),
}

/// Accepts connections until the node stops.
pub(super) async fn accept(inner: Arc<Inner>) {
    let strangers = Arc::new(Strangers::default());
    // Cancel-safe: a connection that was not taken stays in the endpoint's queue.
    while let Some(Some(incoming)) = inner.stop.run_until_cancelled(inner.endpoint.accept()).await {
        let Some(server) = inner.server.load_full() else {
            incoming.refuse();
            continue;
        };
        let (from, validated) = (incoming.remote_address(), incoming.remote_address_validated());
        let turn = match inner.handshakes.admit(from, validated, &server.serve.members(), Instant::now()) {
            Admit::Begin(turn) => turn,
            Admit::Validate => {
                // Fails for addresses that were validated, and this one was not.
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
                continue;
            }
            Admit::Ignore => {
                incoming.ignore();
                continue;
            }
        };
        let (inner, strangers) = (inner.clone(), strangers.clone());
        inner.tasks.clone().spawn(async move {
            let welcomed = timeout(HANDSHAKE_TIME, welcome(&inner, &server, incoming)).await;
            drop(turn);
            match welcomed {
                Ok(Some(Welcome::Stranger(connection))) => {
                    stranger(inner, server, strangers, connection).await
                }
                Ok(Some(Welcome::Member) | None) => {}
                Err(_) => tracing::debug!(%from, "a caller took too long"),
            }
        });
    }
}

enum Welcome {
    /// It is among the links and served.
    Member,
    /// It has shown no certificate.
    Stranger(Connection),
}

/// Hears a caller out until it is clear who it is. None: it is gone, or was sent away.
async fn welcome(inner: &Arc<Inner>, server: &Server, incoming: Incoming) -> Option<Welcome> {
    let from = incoming.remote_address();
    let quiet = |error: ConnectionError| tracing::debug!(%from, %error, "a caller was not let in");
    let connection = incoming.accept().map_err(quiet).ok()?.await.map_err(quiet).ok()?;
    if tls::shown(&connection).is_none() {
        return Some(Welcome::Stranger(connection));
    }
    let ours = inner.identity.load_full()?;
    let Some(name) = quic::shown_name(&connection).filter(|name| name.cluster == ours.cluster()) else {
        connection.close(Close::Protocol.code(), b"the certificate is not of a node of this cluster");
        return None;
    };
    if !server.serve.may(name.node, name.role) {
        connection.close(Close::Removed.code(), b"the node was removed from the cluster");
        return None;
    }
    let speaker = hear(&connection).await.map_err(quiet).ok()?;
    // Another process with this node's own identity.
    if name.node == ours.node() && speaker.process != inner.process {
        let words = format!("{} is this node, and now calls from {from}", name.node);
        tracing::warn!(node = %name.node, %from, "this node's identity is used twice");
        connection.close(Close::Duplicate.code(), words.as_bytes());
        return None;
    }
    // Begun before others may use the link, so that it is the first of its streams.
    let greeting = connection.open_uni().await.map_err(quiet).ok()?;
    quic::join_links(inner, connection, name, speaker, name.node < ours.node()).ok()?;
    greet(inner, greeting).await.map_err(|error| tracing::debug!(%from, %error, "a caller left")).ok()?;
    Some(Welcome::Member)
}

async fn greet(inner: &Inner, mut send: SendStream) -> Result<(), quinn::WriteError> {
    let greeting = Greeting::V1(inner.speaker());
    let bytes = codec::frame(&greeting, GREETING_CAP).map_err(|_| quinn::WriteError::ClosedStream)?;
    send.write_all(&bytes).await
}

async fn hear(connection: &Connection) -> Result<Speaker, ConnectionError> {
    let mut recv = connection.accept_uni().await?;
    let cap = usize::try_from(GREETING_CAP).unwrap_or(usize::MAX);
    let bytes = match recv.read_to_end(cap).await {
        Ok(bytes) => bytes,
        Err(_) => return Err(connection.close_reason().unwrap_or(ConnectionError::Reset)),
    };
    let body = bytes.get(codec::LENGTH_BYTES..).unwrap_or_default();
    match codec::decode(body, GREETING_CAP) {
        Ok(Greeting::V1(speaker)) => Ok(speaker),
        Err(_) => {
            connection.close(Close::Protocol.code(), b"not a greeting of this version");
            Err(ConnectionError::LocallyClosed)
        }
    }
}

/// Says who this process is and hears who the other one is; it has accepted this node by then.
pub(super) async fn greet_and_hear(
    inner: &Inner,
    connection: &Connection,
) -> Result<Speaker, ConnectionError> {
    let send = connection.open_uni().await?;
    if greet(inner, send).await.is_err() {
        return Err(connection.close_reason().unwrap_or(ConnectionError::Reset));
    }
    hear(connection).await
}

/// Serves what the peer opens on a link, until it is closed.
pub(super) async fn streams(inner: Arc<Inner>, link: Arc<Link>) {
    loop {
        // Cancel-safe: a stream that was not taken stays in the connection's queue.
        tokio::select! {
            bi = link.connection.accept_bi() => match bi {
                Ok((send, recv)) => { inner.tasks.spawn(stream(inner.clone(), link.clone(), send, recv)); }
                Err(error) => return ended(&link, &error),
            },
            uni = link.connection.accept_uni() => match uni {
                Ok(recv) => { inner.tasks.spawn(gossip(inner.clone(), link.clone(), recv)); }
                Err(error) => return ended(&link, &error),
            },
            message = link.connection.read_datagram() => match message {
                Ok(message) => hear_gossip(&inner, &link, message),
                Err(error) => return ended(&link, &error),
            },
        }
    }
}

fn ended(link: &Link, error: &ConnectionError) {
    let Caller { node, addr, .. } = link.caller;
    tracing::debug!(%node, %addr, %error, "connection ended");
}

async fn stream(inner: Arc<Inner>, link: Arc<Link>, mut send: SendStream, mut recv: RecvStream) {
    let Some(server) = inner.server.load_full() else { return };
    let hello = timeout(GREETING_TIME, read_hello(&mut recv)).await;
    let (hello, stop) = match hello {
        Ok(Some(hello)) if !rpc::allowed(&hello, Some(link.caller.role)) => (hello, Some(Stop::Forbidden)),
        Ok(Some(hello)) => (hello, None),
        Ok(None) | Err(_) => (Hello::Gossip, Some(Stop::Protocol)),
    };
    let hold = Hold::theirs(&link, &hello);
    let stop = stop.or(hold.is_none().then_some(Stop::Busy));
    match (hold, stop) {
        (Some(hold), None) if server.serve.may(link.caller.node, link.caller.role) => {
            let stream = Stream::quic(send, recv, Some(&hold)).capped(most(link.caller.role));
            dispatch(inner, server, Some(link.caller), link.caller.addr, hello, stream).await;
        }
        (_, stop) => {
            let stop = stop.unwrap_or(Stop::Forbidden);
            tracing::debug!(node = %link.caller.node, ?hello, ?stop, "stream refused");
            // Both may have been ended by the other side already.
            let _ = send.reset(stop.code());
            let _ = recv.stop(stop.code());
        }
    }
}

/// Most bytes of one frame on a stream that a node of the role has opened. A worker's largest is the report of all of
/// its tasks.
fn most(role: Role) -> u64 {
    match role {
        Role::Manager => u64::MAX,
        Role::Worker => 4 << 20,
    }
}

/// The first frame, read to its last byte and no further. None: it is something else.
async fn read_hello(recv: &mut RecvStream) -> Option<Hello> {
    let mut length = [0; codec::LENGTH_BYTES];
    recv.read_exact(&mut length).await.ok()?;
    let size = codec::frame_size(length, GREETING_CAP).ok()?;
    let mut body = vec![0; size];
    recv.read_exact(&mut body).await.ok()?;
    codec::decode(&body, GREETING_CAP).ok()
}

/// Hands a stream that was checked to the one who serves its kind. A caller without a certificate is none.
pub(super) async fn dispatch(
    inner: Arc<Inner>,
    server: Arc<Server>,
    caller: Option<Caller>,
    from: SocketAddr,
    hello: Hello,
    stream: Stream,
) {
    let served = match (hello, caller) {
        (Hello::ForwardedJoin { from }, Some(_)) => {
            let late = |_| FrameError::Lost { reason: format!("it took longer than {STRANGER_TIME:?}") };
            timeout(STRANGER_TIME, join(&server, from, stream)).await.unwrap_or_else(|e| Err(late(e)))
        }
        (Hello::Rpc, Some(caller)) => rpc::answer(&server, caller, stream).await,
        (hello @ (Hello::Session | Hello::Raft | Hello::Api), Some(caller)) => {
            // Ends with the node, so that nobody is served by a node that is gone.
            inner.stop.run_until_cancelled(server.serve.stream(caller, hello, stream)).await;
            Ok(())
        }
        (Hello::Join | Hello::Gossip, _) | (_, None) => Ok(()),
    };
    if let Err(error) = served {
        tracing::debug!(%from, %error, "stream ended early");
    }
}

async fn join(server: &Server, from: SocketAddr, mut stream: Stream) -> Result<(), FrameError> {
    let cap = Hello::Join.cap();
    let request: JoinRequest = stream.read_frame_within(GREETING_TIME, cap).await?;
    let answer = server.serve.join(from, request).await;
    stream.write_frame(&answer, super::join::ANSWER_CAP).await?;
    stream.send.finish().await
}

/// Reads one gossip message that came on a stream.
async fn gossip(inner: Arc<Inner>, link: Arc<Link>, mut recv: RecvStream) {
    // More than a node that behaves has under way; the sender is told by the stream's end.
    let Some(_hold) = Hold::theirs(&link, &Hello::Gossip) else { return };
    let read = async {
        let hello = read_hello(&mut recv).await?;
        let cap = usize::try_from(Hello::Gossip.cap()).unwrap_or(usize::MAX);
        let message = recv.read_to_end(cap).await.ok()?;
        (hello == Hello::Gossip).then_some(message)
    };
    if let Ok(Some(message)) = timeout(GREETING_TIME, read).await {
        hear_gossip(&inner, &link, message.into());
    }
}

fn hear_gossip(inner: &Inner, link: &Link, message: Bytes) {
    link.touch();
    if let Some(server) = inner.server.load_full() {
        server.serve.gossip(link.caller, message);
    }
}

/// Writes gossip to a peer until the link is closed: small messages as datagrams, which cost the least and may be lost,
/// others on a stream each.
pub(super) async fn write_gossip(link: Arc<Link>, mut queue: mpsc::Receiver<Bytes>) {
    let Ok(hello) = codec::frame(&Hello::Gossip, Hello::Gossip.cap()) else { return };
    let write = async |message: Bytes| -> Result<(), quinn::WriteError> {
        if link.connection.max_datagram_size().is_some_and(|most| message.len() <= most) {
            // Fails only with the connection, which is seen at the next turn.
            let _ = link.connection.send_datagram(message);
            return Ok(());
        }
        let mut send = link.connection.open_uni().await?;
        send.write_all(&hello).await?;
        send.write_all(&message).await
    };
    let closed = link.connection.closed();
    tokio::pin!(closed);
    loop {
        // Cancel-safe: with the connection closed, messages that are dropped had nowhere to go.
        let written = tokio::select! {
            _ = &mut closed => return,
            message = queue.recv() => match message {
                Some(message) => write(message).await,
                None => return,
            },
        };
        if written.is_err() {
            return;
        }
        link.touch();
    }
}

/// Looks at links and dials now and then.
pub(super) async fn sweep(inner: Arc<Inner>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while inner.stop.run_until_cancelled(tick.tick()).await.is_some() {
        let server = inner.server.load_full();
        let may = |node, role| server.as_ref().is_none_or(|server| server.serve.may(node, role));
        inner.links.sweep(may).into_iter().for_each(|node| inner.handshakes.forget(node));
        inner.forget_dials();
    }
}

/// Callers without a certificate, by address.
#[derive(Default)]
struct Strangers(Mutex<BTreeMap<IpAddr, usize>>);

struct Seat<'a> {
    strangers: &'a Strangers,
    from: IpAddr,
}

impl Strangers {
    fn seat(&self, from: IpAddr) -> Option<Seat<'_>> {
        let from = handshakes::network(from);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, here) = (all.values().sum::<usize>(), all.get(&from).copied().unwrap_or(0));
        if total >= MAX_STRANGERS.0 || here >= MAX_STRANGERS.1 {
            return None;
        }
        all.insert(from, here + 1);
        Some(Seat { strangers: self, from })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut all = self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.from) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                all.remove(&self.from);
            }
        }
    }
}

/// Lets a caller without a certificate ask to be admitted, once.
async fn stranger(inner: Arc<Inner>, server: Arc<Server>, strangers: Arc<Strangers>, connection: Connection) {
    let from = connection.remote_address();
    let Some(_seat) = strangers.seat(from.ip()) else {
        connection.close(Close::Busy.code(), b"too many nodes join at once");
        return;
    };
    let served = serve_stranger(&server, &connection, from);
    match inner.stop.run_until_cancelled(timeout(STRANGER_TIME, served)).await {
        Some(Ok(Ok(()))) => {}
        other => tracing::debug!(%from, ?other, "a caller without a certificate was sent away"),
    }
    connection.close(Close::Protocol.code(), b"only a join request is taken without a certificate");
}

async fn serve_stranger(
    server: &Server,
    connection: &Connection,
    from: SocketAddr,
) -> Result<(), FrameError> {
    let lost = |error: ConnectionError| FrameError::Lost { reason: error.to_string() };
    let opened = timeout(GREETING_TIME, connection.accept_bi()).await;
    let (mut send, mut recv) = opened.map_err(|_| FrameError::Closed)?.map_err(lost)?;
    let hello = timeout(GREETING_TIME, read_hello(&mut recv)).await;
    match hello {
        Ok(Some(hello)) if rpc::allowed(&hello, None) => {
            join(server, from, Stream::quic(send, recv, None)).await?;
            // The caller closes once it has the answer.
            connection.closed().await;
            Ok(())
        }
        Ok(Some(_)) => {
            // Either may have been ended by the other side already.
            let _ = send.reset(Stop::Forbidden.code());
            let _ = recv.stop(Stop::Forbidden.code());
            Err(FrameError::Lost { reason: "not a join request".to_owned() })
        }
        Ok(None) | Err(_) => Err(FrameError::Closed),
    }
}
