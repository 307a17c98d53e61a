//! Nodes in one process that talk over real UDP on the loopback interface.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use raftup_proto::{
    codec,
    id::ClusterId,
    peer::{Admission, NodeInfo, Platform, Reply, Request},
    refusal::{Code, Refusal},
    token::Token,
    unit::UnixMillis,
    view::{Revision, ViewUpdate},
};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, sync::mpsc, time::timeout};

use super::{
    ca::{Authority, KeyRequest},
    tls::Trust,
    *,
};
use crate::model::TokenHashes;

const SECRET: [u8; 16] = [7; 16];
const HOUR: Duration = Duration::from_secs(3600);

/// The CA's end of a cluster.
struct Cluster {
    authority: Authority,
}

impl Cluster {
    fn new(id: u64) -> Arc<Self> {
        let authority = Authority::new(ClusterId::from_random(id), ca::now()).unwrap();
        Arc::new(Self { authority })
    }

    fn with_life(id: u64, life: Duration) -> Arc<Self> {
        let authority = Authority::new(ClusterId::from_random(id), ca::now()).unwrap();
        Arc::new(Self { authority: authority.with_life(life) })
    }

    fn identity(&self, node: u64, role: Role) -> Arc<Identity> {
        self.identity_at(node, role, ca::now())
    }

    fn identity_at(&self, node: u64, role: Role, now: UnixMillis) -> Arc<Identity> {
        let key = KeyRequest::generate().unwrap();
        let certificate = self.authority.issue(&key.csr, NodeId::new(node), role, now).unwrap();
        Arc::new(Identity::new(certificate, self.authority.certificate().to_vec(), key.key).unwrap())
    }

    fn token(&self, managers: Vec<SocketAddr>) -> Token {
        let (ca_digest, role) = (self.authority.digest(), Role::Worker);
        Token { ca_digest, role, secret: SECRET, managers }
    }
}

/// Serves a node and keeps what it hears.
struct Recorder {
    cluster: Arc<Cluster>,
    gate: join::Gate,
    removed: Mutex<BTreeSet<NodeId>>,
    calls: Mutex<Vec<(Caller, Request)>>,
    joins: Mutex<Vec<SocketAddr>>,
    /// How far its clock is behind when it issues certificates.
    behind: Mutex<Duration>,
    /// Passes join requests on to this one.
    leader: Mutex<Option<(Net, Peer)>>,
    members: Mutex<Arc<BTreeSet<SocketAddr>>>,
    gossip: mpsc::Sender<(Caller, Bytes)>,
}

#[async_trait]
impl Serve for Recorder {
    async fn join(&self, from: SocketAddr, request: JoinRequest) -> JoinAnswer {
        let tokens =
            TokenHashes { manager: [0; 32], worker: Sha256::digest(SECRET).into(), sealed: Vec::new() };
        self.joins.lock().unwrap().push(from);
        let leader = self.leader.lock().unwrap().clone();
        if let Some((net, leader)) = leader {
            let forward = async || join::forward(&net, leader, from, &request).await;
            return self.gate.pass_on(from, &request, forward).await;
        }
        let admit = async || {
            let node = NodeId::new(40);
            let certificate = self.cluster.authority.issue(&request.csr, node, request.role, ca::now());
            let certificate = certificate.map_err(|error| Refusal::new(Code::Invalid, error))?;
            let generation = Revision(9);
            let view = ViewUpdate { base: None, generation, put: Vec::new(), remove: Vec::new() };
            Ok(Admission { node, certificate, view })
        };
        self.gate.admit(from, &request, &tokens, admit).await
    }

    async fn rpc(&self, caller: Caller, request: Request) -> Answer {
        self.calls.lock().unwrap().push((caller, request.clone()));
        let Request::Renew { csr } = request else { return Ok(Reply::Done) };
        let now = before(*self.behind.lock().unwrap());
        let certificate = self.cluster.authority.issue(&csr, caller.node, caller.role, now);
        let certificate = certificate.map_err(|error| Refusal::new(Code::Invalid, error))?;
        Ok(Reply::Certificate { certificate })
    }

    /// Echoes numbers.
    async fn stream(&self, _caller: Caller, hello: Hello, mut stream: Stream) {
        while let Ok(number) = stream.read_frame::<u64>(hello.cap().max(16)).await {
            if stream.write_frame(&number, 16).await.is_err() {
                return;
            }
        }
    }

    fn gossip(&self, caller: Caller, message: Bytes) {
        let _ = self.gossip.try_send((caller, message));
    }

    fn may(&self, node: NodeId, _: Role) -> bool {
        !self.removed.lock().unwrap().contains(&node)
    }

    fn members(&self) -> Arc<BTreeSet<SocketAddr>> {
        self.members.lock().unwrap().clone()
    }
}

/// So long ago.
fn before(time: Duration) -> UnixMillis {
    let millis = u64::try_from(time.as_millis()).unwrap();
    UnixMillis(ca::now().0 - millis)
}

struct TestNode {
    net: Net,
    recorder: Arc<Recorder>,
    heard: mpsc::Receiver<(Caller, Bytes)>,
    peer: Peer,
}

impl TestNode {
    fn new(cluster: &Arc<Cluster>, node: u64, role: Role) -> Self {
        Self::with(cluster, cluster.identity(node, role))
    }

    fn with(cluster: &Arc<Cluster>, identity: Arc<Identity>) -> Self {
        let net = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let (gossip, heard) = mpsc::channel(64);
        let recorder = Arc::new(Recorder {
            cluster: cluster.clone(),
            gate: join::Gate::default(),
            removed: Mutex::default(),
            calls: Mutex::default(),
            joins: Mutex::default(),
            behind: Mutex::default(),
            leader: Mutex::default(),
            members: Mutex::default(),
            gossip,
        });
        let peer = Peer { node: identity.node(), addr: net.local_addr().unwrap() };
        net.set_identity(identity).unwrap();
        net.serve(recorder.clone());
        Self { net, recorder, heard, peer }
    }

    async fn echo(&self, other: &Self) -> Result<Stream, NetError> {
        let mut stream = self.net.open(other.peer, Hello::Session).await?;
        stream.write_frame(&1_u64, 16).await.unwrap();
        assert_eq!(stream.read_frame::<u64>(16).await.unwrap(), 1);
        Ok(stream)
    }

    async fn error(&self, peer: Peer) -> NetError {
        match self.net.call(peer, Request::Leave).await {
            Err(CallError::Unreachable(error)) => error,
            other => panic!("{other:?}"),
        }
    }
}

fn cluster_of_two() -> (Arc<Cluster>, TestNode, TestNode) {
    let cluster = Cluster::new(1);
    let (a, b) = (TestNode::new(&cluster, 1, Role::Manager), TestNode::new(&cluster, 2, Role::Worker));
    (cluster, a, b)
}

async fn eventually(what: &str, within: Duration, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < within, "{what} within {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_knows_the_other() {
    let (_cluster, a, mut b) = cluster_of_two();
    assert_eq!(a.net.call(b.peer, Request::Leave).await.unwrap(), Reply::Done);
    assert_eq!(b.net.call(a.peer, Request::Leave).await.unwrap(), Reply::Done);
    let (caller, _) = b.recorder.calls.lock().unwrap()[0];
    assert_eq!(caller, Caller { node: NodeId::new(1), role: Role::Manager, addr: a.peer.addr });
    let (caller, _) = a.recorder.calls.lock().unwrap()[0];
    assert_eq!(caller, Caller { node: NodeId::new(2), role: Role::Worker, addr: b.peer.addr });
    assert_eq!((a.net.connections(), b.net.connections()), (1, 1), "both use one connection");
    a.net.send_gossip(b.peer, Bytes::from_static(b"hello"));
    let (caller, message) = b.heard.recv().await.unwrap();
    assert_eq!((caller.node, &message[..]), (NodeId::new(1), &b"hello"[..]));
    let _stream = b.echo(&a).await.unwrap();
    // A node reaches itself without a connection.
    assert_eq!(a.net.call(a.peer, Request::Leave).await.unwrap(), Reply::Done);
    let _own = a.echo(&a).await.unwrap();
    assert_eq!(a.net.connections(), 1);
    a.net.stop().await;
    eventually("the end is seen", Duration::from_secs(1), || b.net.connections() == 0).await;
    assert!(!b.net.connected(NodeId::new(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_dials_and_both_sides_at_once_do_no_harm() {
    let (_cluster, mut a, mut b) = cluster_of_two();
    a.net.send_gossip(b.peer, Bytes::from_static(b"to b"));
    b.net.send_gossip(a.peer, Bytes::from_static(b"to a"));
    assert_eq!(&timeout(HOUR, a.heard.recv()).await.unwrap().unwrap().1[..], b"to a");
    assert_eq!(&timeout(HOUR, b.heard.recv()).await.unwrap().unwrap().1[..], b"to b");
    let (first, second) = tokio::join!(a.echo(&b), b.echo(&a));
    first.unwrap();
    second.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_dial_has_its_failure() {
    let (_cluster, a, _b) = cluster_of_two();
    let mute = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = Peer { node: NodeId::new(3), addr: mute.local_addr().unwrap() };
    let start = Instant::now();
    let all = futures_util::future::join_all((0..20).map(|_| a.net.open(peer, Hello::Api))).await;
    for opened in all {
        assert_eq!(opened.err(), Some(NetError::Silent { addr: peer.addr }));
    }
    assert!(start.elapsed() < quic::DIAL_TIME * 2, "one after the other: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clusters_are_refused_by_both_sides() {
    let (cluster, a, b) = cluster_of_two();
    let other = Cluster::new(2);
    let stranger = TestNode::new(&other, 2, Role::Manager);
    let error = stranger.error(a.peer).await;
    assert_eq!(error, NetError::ForeignCluster { addr: a.peer.addr });
    let error = a.error(Peer { node: NodeId::new(2), addr: stranger.peer.addr }).await;
    assert_eq!(error, NetError::ForeignCluster { addr: stranger.peer.addr });
    // One that believes the manager, but has a certificate of another CA.
    let trust = Trust::Pinned { ca_digest: cluster.authority.digest() };
    let identity = stranger.net.identity();
    let dialled = quic::connect(&stranger.net.inner, identity.as_deref(), trust, a.peer).await;
    let reason = match dialled {
        Ok(connection) => {
            let greeted = serve::greet_and_hear(&stranger.net.inner, &connection).await;
            NetError::from_loss(a.peer.addr, &greeted.unwrap_err())
        }
        Err(error) => error,
    };
    assert_eq!(reason, NetError::OwnForeign { addr: a.peer.addr });
    // The right cluster, but another node than was asked for.
    let error = b.error(Peer { node: NodeId::new(3), addr: a.peer.addr }).await;
    let (wanted, found) = (NodeId::new(3), NodeId::new(1));
    assert_eq!(error, NetError::WrongNode { addr: a.peer.addr, wanted, found });
    assert!(a.recorder.calls.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_only_a_join_request_is_heard() {
    let (cluster, a, _b) = cluster_of_two();
    let stranger = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    for hello in [Hello::Rpc, Hello::Session, Hello::Raft, Hello::Api, Hello::Gossip] {
        let trust = Trust::Pinned { ca_digest: cluster.authority.digest() };
        let connection = quic::connect(&stranger.inner, None, trust, a.peer).await.unwrap();
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&codec::frame(&hello, 64).unwrap()).await.unwrap();
        // The server may have ended the stream already.
        let _ = send.write_all(&codec::frame(&Request::Leave, 64).unwrap()).await;
        let mut stream = Stream::quic(send, recv, None);
        let read = timeout(Duration::from_secs(5), stream.read_frame::<Answer>(64)).await.unwrap();
        assert!(matches!(read, Err(FrameError::Lost { .. })), "{hello:?}: {read:?}");
        timeout(Duration::from_secs(5), connection.closed()).await.expect("it is sent away");
    }
    assert!(a.recorder.calls.lock().unwrap().is_empty());
    assert_eq!(a.net.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_makes_no_managers_calls() {
    let (_cluster, a, b) = cluster_of_two();
    let become_manager = Request::BecomeManager { term: 1, member: 1, key: [0; 32].into() };
    match b.net.call(a.peer, become_manager.clone()).await {
        Err(CallError::Refused(refusal)) => assert_eq!(refusal.code, Code::Forbidden),
        other => panic!("{other:?}"),
    }
    assert!(a.recorder.calls.lock().unwrap().is_empty());
    for hello in [Hello::Raft, Hello::Api, Hello::Join] {
        let mut stream = b.net.open(a.peer, hello.clone()).await.unwrap();
        let error = stream.read_frame::<u64>(64).await.unwrap_err();
        assert!(error.to_string().contains("role"), "{hello:?}: {error}");
    }
    a.net.call(b.peer, become_manager).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_cut_off() {
    let (_cluster, a, b) = cluster_of_two();
    let mut stream = b.echo(&a).await.unwrap();
    a.recorder.removed.lock().unwrap().insert(b.peer.node);
    let start = Instant::now();
    assert!(stream.read_frame::<u64>(16).await.is_err());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(b.error(a.peer).await, NetError::Removed);
    assert_eq!(a.net.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_swapped_while_streams_live() {
    let (cluster, a, b) = cluster_of_two();
    let mut old = b.echo(&a).await.unwrap();
    b.net.set_identity(cluster.identity(2, Role::Manager)).unwrap();
    // A new connection shows the new certificate: what was a worker may open Raft now.
    let mut raft = b.net.open(a.peer, Hello::Raft).await.unwrap();
    raft.write_frame(&5_u64, 16).await.unwrap();
    assert_eq!(raft.read_frame::<u64>(16).await.unwrap(), 5);
    old.write_frame(&2_u64, 16).await.unwrap();
    assert_eq!(old.read_frame::<u64>(16).await.unwrap(), 2, "the old stream lives on");
    a.net.set_identity(cluster.identity(1, Role::Manager)).unwrap();
    b.echo(&a).await.unwrap();
    a.echo(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_keeps_a_node_in_past_its_first_certificate() {
    let cluster = Cluster::with_life(1, Duration::from_secs(3));
    let (a, b) = (TestNode::new(&cluster, 1, Role::Manager), TestNode::new(&cluster, 2, Role::Worker));
    let dir = tempfile::tempdir().unwrap();
    let first = b.net.identity().unwrap();
    let (_managers, watch) = tokio::sync::watch::channel(Arc::from([a.peer]));
    let dirs = [dir.path().join("a"), dir.path().join("b")];
    tokio::spawn(renew::run(a.net.clone(), dirs[0].clone(), watch.clone()));
    tokio::spawn(renew::run(b.net.clone(), dirs[1].clone(), watch));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        b.net.call(a.peer, Request::Leave).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let kept = Identity::load(&dirs[1]).unwrap().unwrap();
    assert!(kept.not_after() > first.not_after());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_clocks_and_expiry_say_so() {
    let cluster = Cluster::new(1);
    let a = TestNode::new(&cluster, 1, Role::Manager);
    let addr = |node: &TestNode| node.peer.addr;
    let late = cluster.identity_at(2, Role::Worker, ca::now().plus(HOUR));
    let ahead = TestNode::with(&cluster, late);
    assert_eq!(ahead.error(a.peer).await, NetError::OwnExpired { addr: addr(&a) });
    assert_eq!(a.error(ahead.peer).await, NetError::ClockBehind { addr: addr(&ahead) });
    let past = UnixMillis(ca::now().0 - 100 * 24 * 3_600_000);
    let expired = TestNode::with(&cluster, cluster.identity_at(3, Role::Worker, past));
    assert_eq!(expired.error(a.peer).await, NetError::OwnExpired { addr: addr(&a) });
    assert_eq!(a.error(expired.peer).await, NetError::PeerExpired { addr: addr(&expired) });
    // A connection does not outlive the certificate.
    let short = Cluster::with_life(4, Duration::from_secs(1));
    let (c, d) = (TestNode::new(&short, 1, Role::Manager), TestNode::new(&short, 2, Role::Worker));
    let mut stream = d.echo(&c).await.unwrap();
    timeout(Duration::from_secs(5), stream.read_frame::<u64>(16)).await.unwrap().unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn excesses_end_a_stream_and_nothing_else() {
    let (_cluster, a, b) = cluster_of_two();
    let mut kept = b.echo(&a).await.unwrap();
    let mut large = b.net.open(a.peer, Hello::Rpc).await.unwrap();
    large.send.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert!(large.read_frame::<Answer>(64).await.is_err(), "a frame over its cap");
    let mut garbage = b.net.open(a.peer, Hello::Rpc).await.unwrap();
    garbage.send.write_all(&[0, 0, 0, 2, 255, 255]).await.unwrap();
    assert!(garbage.read_frame::<Answer>(64).await.is_err(), "not a request");
    let link = b.net.inner.links.get(a.peer.node).unwrap();
    let (mut send, recv) = link.connection.open_bi().await.unwrap();
    send.write_all(&[0, 1, 0, 0]).await.unwrap();
    let mut hello = Stream::quic(send, recv, None);
    let error = hello.read_frame::<u64>(64).await.unwrap_err();
    assert!(error.to_string().contains("understand"), "{error}");
    let mut many = Vec::new();
    for _ in 0..3 {
        many.push(b.echo(&a).await.unwrap());
    }
    let mut fifth = b.net.open(a.peer, Hello::Session).await.unwrap();
    let error = fifth.read_frame::<u64>(64).await.unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
    drop(many);
    kept.write_frame(&3_u64, 16).await.unwrap();
    assert_eq!(kept.read_frame::<u64>(16).await.unwrap(), 3);
    b.net.call(a.peer, Request::Leave).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_has_a_limit() {
    let (_cluster, a, b) = cluster_of_two();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let start = Instant::now();
    let error = a.error(Peer { node: NodeId::new(9), addr }).await;
    assert_eq!(error, NetError::Silent { addr });
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(error.to_string().contains("UDP"), "{error}");
    let start = Instant::now();
    for _ in 0..1000 {
        a.net.send_gossip(Peer { node: NodeId::new(9), addr }, Bytes::from_static(b"x"));
        a.net.send_gossip(b.peer, Bytes::from_static(b"x"));
    }
    assert!(start.elapsed() < Duration::from_millis(500), "gossip never blocks: {:?}", start.elapsed());
    let none = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let called = none.call(a.peer, Request::Leave).await;
    assert!(matches!(called, Err(CallError::Unreachable(NetError::NoIdentity))));
    let error = a.error(Peer { node: NodeId::new(8), addr: none.local_addr().unwrap() }).await;
    assert!(matches!(error, NetError::Silent { .. } | NetError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_used_twice_is_told_to_the_second() {
    let (cluster, a, b) = cluster_of_two();
    let _session = b.echo(&a).await.unwrap();
    let clone = TestNode::with(&cluster, b.net.identity().unwrap());
    let error = clone.error(a.peer).await;
    assert!(matches!(error, NetError::Duplicate { .. }), "{error}");
    assert!(error.to_string().contains(&b.peer.addr.to_string()), "{error}");
    b.net.call(a.peer, Request::Leave).await.unwrap();
    // Once the first is gone, the second may come: a node that has moved.
    b.net.stop().await;
    eventually("the first is gone", Duration::from_secs(1), || a.net.connections() == 0).await;
    clone.net.call(a.peer, Request::Leave).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_is_back_at_once() {
    let cluster = Cluster::new(1);
    let a = TestNode::new(&cluster, 1, Role::Manager);
    // A runtime of its own, so that the node can die with all of its tasks and tell nobody.
    let life = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let b = {
        let _inside = life.enter();
        TestNode::new(&cluster, 2, Role::Worker)
    };
    let (peer, identity) = (b.peer, b.net.identity().unwrap());
    a.echo(&b).await.unwrap();
    life.shutdown_background();
    drop(b);
    let mut again = None;
    eventually("the port is free", Duration::from_secs(5), || {
        again = Net::bind(peer.addr).ok();
        again.is_some()
    })
    .await;
    let again = again.unwrap();
    assert_eq!(a.net.connections(), 1, "nobody was told");
    again.set_identity(identity).unwrap();
    again.serve(a.recorder.clone());
    again.call(a.peer, Request::Leave).await.unwrap();
    let start = Instant::now();
    a.net.call(peer, Request::Leave).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(500), "the new link is used: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_pairs_hold_no_connection() {
    let (_cluster, a, b) = cluster_of_two();
    b.net.call(a.peer, Request::Leave).await.unwrap();
    assert_eq!(a.net.connections(), 1);
    eventually("unused links close", Duration::from_secs(14), || {
        a.net.connections() + b.net.connections() == 0
    })
    .await;
}

fn info() -> NodeInfo {
    NodeInfo {
        hostname: "bee".to_owned(),
        control: ([127, 0, 0, 1], 7238).into(),
        underlay: [127, 0, 0, 1].into(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        version: "0.1.0".to_owned(),
        platform: Platform::default(),
        deaf: Vec::new(),
        troubles: Vec::new(),
        level: crate::plan::level::NEWEST,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins() {
    let (cluster, a, _b) = cluster_of_two();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let net = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let token = cluster.token(vec![silent.local_addr().unwrap(), a.peer.addr]);
    let token: Token = token.to_string().parse().unwrap();
    let start = Instant::now();
    let (identity, admission) = join::ask(&net, &token, &[], info()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "past a silent manager: {:?}", start.elapsed());
    assert_eq!((identity.node(), identity.role()), (NodeId::new(40), Role::Worker));
    assert_eq!(admission.view.generation, Revision(9));
    net.set_identity(Arc::new(identity)).unwrap();
    net.call(a.peer, Request::Leave).await.unwrap();
    let (caller, _) = a.recorder.calls.lock().unwrap()[0];
    assert_eq!((caller.node, caller.role), (NodeId::new(40), Role::Worker));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failed_join_says_what_to_check() {
    let (cluster, a, b) = cluster_of_two();
    let net = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let ask = async |token: &Token, at: &[SocketAddr]| join::ask(&net, token, at, info()).await.unwrap_err();
    let good = cluster.token(vec![a.peer.addr]);

    let foreign = Cluster::new(2).token(vec![a.peer.addr]);
    let refusal = ask(&foreign, &[]).await;
    assert_eq!(refusal.code, Code::Invalid);
    assert!(refusal.message.contains("another cluster"), "{refusal}");
    assert!(a.recorder.joins.lock().unwrap().is_empty(), "the secret was not sent");

    let rotated = Token { secret: [8; 16], ..good.clone() };
    let refusal = ask(&rotated, &[]).await;
    assert_eq!(refusal.code, Code::Forbidden);
    assert!(refusal.hint.unwrap().contains("rotated"));
    let manager = Token { role: Role::Manager, ..good.clone() };
    assert_eq!(ask(&manager, &[]).await.code, Code::Forbidden, "a worker's secret for a manager");

    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let refusal = ask(&good, &[silent.local_addr().unwrap()]).await;
    assert_eq!(refusal.code, Code::Unavailable);
    assert!(refusal.message.contains(&silent.local_addr().unwrap().to_string()), "{refusal}");
    assert!(refusal.hint.unwrap().contains("UDP"));

    let late = cluster.identity_at(1, Role::Manager, ca::now().plus(HOUR));
    let ahead = TestNode::with(&cluster, late);
    let refusal = ask(&good, &[ahead.peer.addr]).await;
    assert!(refusal.message.contains("clock"), "{refusal}");

    let refusal = ask(&good, &[b.peer.addr]).await;
    assert!(refusal.message.contains("not a manager"), "{refusal}");
    assert!(b.recorder.joins.lock().unwrap().is_empty(), "a worker is not told the secret");
    assert!(ask(&cluster.token(Vec::new()), &[]).await.message.contains("no manager"));

    for _ in 0..3 {
        ask(&rotated, &[]).await;
    }
    let refusal = ask(&good, &[]).await;
    assert!(refusal.message.contains("too many wrong tokens"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_passes_a_join_request_on() {
    let (cluster, a, b) = cluster_of_two();
    let c = TestNode::new(&cluster, 3, Role::Manager);
    let csr = KeyRequest::generate().unwrap().csr;
    let request = JoinRequest { secret: SECRET, role: Role::Worker, csr, info: info(), attempt: 1 };
    let joiner = ([10, 0, 0, 7], 40_000).into();
    let admission = join::forward(&c.net, a.peer, joiner, &request).await.unwrap();
    assert_eq!(admission.node, NodeId::new(40));
    assert_eq!(a.recorder.joins.lock().unwrap()[..], [joiner], "it is counted where it came from");
    assert!(join::forward(&b.net, a.peer, joiner, &request).await.is_err(), "a worker may not");
    assert_eq!(a.recorder.joins.lock().unwrap().len(), 1);
}

/// The first packets of many connections, as one who listens on the way has them.
fn first_packets(count: usize) -> Vec<Vec<u8>> {
    let mute = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    mute.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (stranger, to) = (Net::bind(([127, 0, 0, 1], 0).into()).unwrap(), mute.local_addr().unwrap());
    let (mut packets, mut buffer) = (Vec::new(), [0; 2000]);
    while packets.len() < count {
        let (config, _) = tls::client(None, Trust::Pinned { ca_digest: [0; 32] }).unwrap();
        let _connecting = stranger.inner.endpoint.connect_with(config, to, "x").unwrap();
        let size = tokio::task::block_in_place(|| mute.recv(&mut buffer)).unwrap();
        packets.push(buffer[..size].to_vec());
    }
    packets
}

/// Does `work` again and again on a thread of its own until it is dropped.
struct Flood {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Flood {
    fn start(mut work: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let until = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !until.load(std::sync::atomic::Ordering::Relaxed) {
                work();
                count += 1;
            }
            count
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Dials anew so often, and says how long the slowest dial took.
async fn slowest_dial(from: &TestNode, to: Peer, times: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..times {
        from.net.moved();
        let start = Instant::now();
        from.net.call(to, Request::Leave).await.unwrap();
        slowest = slowest.max(start.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_first_packets_keep_no_member_out() {
    let (_cluster, a, b) = cluster_of_two();
    let packets = first_packets(300);
    let (flood, target) = (std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), a.peer.addr);
    let mut next = packets.into_iter().cycle();
    let flood = Flood::start(move || {
        flood.send_to(&next.next().unwrap(), target).unwrap();
        std::thread::sleep(Duration::from_micros(500));
    });
    // The first dial is that of a node that nobody knows yet.
    let slowest = slowest_dial(&b, a.peer, 20).await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let sent = flood.end();
    let begun = a.net.inner.endpoint.stats().accepted_handshakes;
    assert!(sent > 0 && begun <= 30, "{sent} packets and 20 dials have begun {begun} handshakes");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_of_strangers_are_limited_and_members_served() {
    let (cluster, a, b) = cluster_of_two();
    *a.recorder.members.lock().unwrap() = Arc::new(BTreeSet::from([b.peer.addr]));
    let strangers = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let (inner, peer) = (strangers.inner.clone(), a.peer);
        let trust = Trust::Pinned { ca_digest: cluster.authority.digest() };
        dials.spawn(async move { quic::connect(&inner, None, trust, peer).await });
    }
    let slowest = slowest_dial(&b, a.peer, 20).await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // Those that were not answered would try for seconds.
    let mut open = Vec::new();
    while let Ok(Some(dialled)) = timeout(Duration::from_millis(500), dials.join_next()).await {
        open.extend(dialled.unwrap().ok());
    }
    assert!(!open.is_empty());
    eventually("few of them are kept", Duration::from_secs(2), || {
        open.retain(|connection| connection.close_reason().is_none());
        open.len() <= 8
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_has_little_taken_and_not_for_long() {
    let (cluster, a, _b) = cluster_of_two();
    let stranger = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let trust = Trust::Pinned { ca_digest: cluster.authority.digest() };
    let connection = quic::connect(&stranger.inner, None, trust, a.peer).await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&codec::frame(&Hello::Join, 64).unwrap()).await.unwrap();
    let soon = Duration::from_millis(300);
    let mut uni = connection.open_uni().await.unwrap();
    assert!(timeout(soon, connection.open_bi()).await.is_err(), "one stream is enough to join");
    assert!(timeout(soon, connection.open_uni()).await.is_err());
    let (chunk, mut taken) = (vec![0; 64 << 10], 0);
    while let Ok(Ok(size)) = timeout(soon, uni.write(&chunk)).await {
        taken += size;
    }
    // The length of a request that never comes.
    while let Ok(Ok(size)) = timeout(soon, send.write(&[0, 0, 255, 255])).await {
        taken += size;
    }
    assert!(taken <= 256 << 10, "{taken} bytes were taken");
    timeout(Duration::from_secs(8), connection.closed()).await.expect("it is sent away");
    assert!(a.recorder.joins.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_are_not_more_streams() {
    let (_cluster, a, b) = cluster_of_two();
    let first = quic::dial_member(&b.net.inner, a.peer).await.unwrap();
    let second = quic::dial_member(&b.net.inner, a.peer).await.unwrap();
    let open = async |link: &link::Link| {
        let (mut send, recv) = link.connection.open_bi().await.unwrap();
        send.write_all(&codec::frame(&Hello::Session, 64).unwrap()).await.unwrap();
        let mut stream = Stream::quic(send, recv, None);
        let _ = stream.write_frame(&1_u64, 16).await;
        let heard = stream.read_frame::<u64>(16).await;
        heard.map(|_| stream)
    };
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(open(&first).await.unwrap());
        kept.push(open(&second).await.unwrap());
    }
    for link in [&first, &second] {
        let error = open(link).await.unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }
    kept.clear();
    let again = async { while open(&second).await.is_err() {} };
    timeout(Duration::from_secs(2), again).await.expect("ended streams do not count");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_makes_no_manager_keep_large_frames() {
    let (_cluster, a, b) = cluster_of_two();
    let mut large = b.net.open(a.peer, Hello::Session).await.unwrap();
    large.send.write_all(&(5_u32 << 20).to_be_bytes()).await.unwrap();
    let read = timeout(Duration::from_secs(3), large.read_frame::<u64>(64)).await;
    assert!(read.expect("the stream is ended").is_err());
    let mut question = b.net.open(a.peer, Hello::Rpc).await.unwrap();
    question.send.write_all(&(1_u32 << 20).to_be_bytes()).await.unwrap();
    let read = timeout(Duration::from_secs(3), question.read_frame::<Answer>(64)).await;
    assert!(read.expect("the stream is ended").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_never_comes_is_not_waited_for() {
    let (_cluster, a, b) = cluster_of_two();
    let mut asked = b.net.open(a.peer, Hello::Rpc).await.unwrap();
    asked.send.write_all(&[0, 0, 1]).await.unwrap();
    let read = timeout(Duration::from_secs(8), asked.read_frame::<Answer>(64)).await;
    assert!(read.expect("the stream is ended").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_for_managers() {
    let (_cluster, a, b) = cluster_of_two();
    let about = Request::Probe { about: NodeId::new(9), at: ([127, 0, 0, 1], 9).into() };
    match b.net.call(a.peer, about.clone()).await {
        Err(CallError::Refused(refusal)) => assert_eq!(refusal.code, Code::Forbidden),
        other => panic!("{other:?}"),
    }
    assert!(a.recorder.calls.lock().unwrap().is_empty());
    let limit = Duration::from_secs(1);
    b.net.answers(limit, a.peer).await.expect("a refusal says that it is there");
    let nobody = Peer { node: NodeId::new(9), addr: ([127, 0, 0, 1], 9).into() };
    assert!(b.net.answers(limit, nobody).await.is_err());
    a.net.call(b.peer, about).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dials_are_forgotten() {
    let (_cluster, a, b) = cluster_of_two();
    a.net.call(b.peer, Request::Leave).await.unwrap();
    (100..1100).for_each(|node| drop(a.net.inner.dial(NodeId::new(node))));
    let waits = a.net.inner.dial(NodeId::new(5));
    eventually("only those in use are kept", Duration::from_secs(3), || {
        a.net.inner.dials().keys().copied().eq([NodeId::new(5)])
    })
    .await;
    drop(waits);
    eventually("none is kept", Duration::from_secs(3), || a.net.inner.dials().is_empty()).await;
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_renews_once() {
    let cluster = Cluster::new(1);
    let a = TestNode::new(&cluster, 1, Role::Manager);
    *a.recorder.behind.lock().unwrap() = DAY * 50;
    let b = TestNode::with(&cluster, cluster.identity_at(2, Role::Worker, before(DAY * 51)));
    let dir = tempfile::tempdir().unwrap();
    let (_keep, managers) = tokio::sync::watch::channel::<Arc<[Peer]>>(Arc::from([a.peer]));
    let running = tokio::spawn(renew::run(b.net.clone(), dir.path().to_owned(), managers));
    eventually("it is renewed", Duration::from_secs(5), || a.recorder.calls.lock().unwrap().len() == 1).await;
    assert!(timeout(Duration::from_secs(2), running).await.is_err(), "it goes on");
    assert_eq!(a.recorder.calls.lock().unwrap().len(), 1, "and does not help again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_whose_clock_is_behind_shortens_no_certificate() {
    let cluster = Cluster::new(1);
    let (a, c) = (TestNode::new(&cluster, 1, Role::Manager), TestNode::new(&cluster, 3, Role::Manager));
    *a.recorder.behind.lock().unwrap() = DAY * 60;
    let b = TestNode::with(&cluster, cluster.identity_at(2, Role::Worker, before(DAY * 50)));
    let (dir, old) = (tempfile::tempdir().unwrap(), b.net.identity().unwrap().not_after());
    let error = renew::once(&b.net, dir.path(), a.peer).await.unwrap_err();
    assert!(error.to_string().contains("clock"), "{error}");
    assert_eq!(b.net.identity().unwrap().not_after(), old);
    let (_keep, managers) = tokio::sync::watch::channel::<Arc<[Peer]>>(Arc::from([a.peer, c.peer]));
    let _running = tokio::spawn(renew::run(b.net.clone(), dir.path().to_owned(), managers));
    let renewed = || b.net.identity().unwrap().not_after() > old;
    eventually("the other one's is taken", Duration::from_secs(5), renewed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_guesses_through_a_follower_keeps_nobody_else_out() {
    let cluster = Cluster::new(1);
    let (a, c) = (TestNode::new(&cluster, 1, Role::Manager), TestNode::new(&cluster, 3, Role::Manager));
    *c.recorder.leader.lock().unwrap() = Some((c.net.clone(), a.peer));
    let at = |last| Net::bind(([127, 0, 0, last], 0).into()).unwrap();
    let (guesser, other) = (at(2), at(3));
    let good = cluster.token(vec![c.peer.addr]);
    let wrong = Token { secret: [8; 16], ..good.clone() };
    for _ in 0..5 {
        let refusal = join::ask(&guesser, &wrong, &[], info()).await.unwrap_err();
        assert!(refusal.message.contains("not valid"), "{refusal}");
    }
    let asked = a.recorder.joins.lock().unwrap().clone();
    assert!(asked.iter().all(|from| from.ip() == IpAddr::from([127, 0, 0, 2])), "{asked:?}");
    for via in [&c, &a] {
        let refusal = join::ask(&guesser, &good, &[via.peer.addr], info()).await.unwrap_err();
        assert!(refusal.message.contains("too many wrong tokens"), "{refusal}");
    }
    assert_eq!(a.recorder.joins.lock().unwrap().len(), asked.len() + 1, "the follower did not ask again");
    join::ask(&other, &good, &[], info()).await.unwrap();
}
