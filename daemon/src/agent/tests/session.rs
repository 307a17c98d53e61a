//! The session over real UDP, with leaders that are played by hand.

use std::sync::Mutex;

use bytes::Bytes;
use raftup_proto::{
    id::ServiceId,
    peer::{Answer, Down, Hello, JoinAnswer, JoinRequest, Role, TaskReport, Up},
    refusal::Code,
    view::{Digests, Endpoint, PeerItem, ViewPart},
};

use super::*;
use crate::net::{
    Caller, Identity, Serve, Stream,
    ca::{self, Authority, KeyRequest},
};

/// A manager that hands out its streams.
struct Manager {
    net: Net,
    peer: Peer,
    streams: mpsc::Receiver<Stream>,
}

struct Doors {
    streams: mpsc::Sender<Stream>,
    asked: Mutex<Vec<Request>>,
}

#[async_trait]
impl Serve for Doors {
    async fn join(&self, _: std::net::SocketAddr, _: JoinRequest) -> JoinAnswer {
        Err(Refusal::new(Code::Forbidden, "nobody joins"))
    }

    async fn rpc(&self, _: Caller, request: Request) -> Answer {
        self.asked.lock().unwrap().push(request);
        Ok(Reply::Credential(None))
    }

    async fn stream(&self, _: Caller, _: Hello, stream: Stream) {
        let _ = self.streams.send(stream).await;
    }

    fn gossip(&self, _: Caller, _: Bytes) {}

    fn may(&self, _: NodeId, _: Role) -> bool {
        true
    }
}

fn net(authority: &Authority, node: u64) -> (Net, Peer, mpsc::Receiver<Stream>) {
    net_as(authority, node, Role::Manager)
}

fn net_as(authority: &Authority, node: u64, role: Role) -> (Net, Peer, mpsc::Receiver<Stream>) {
    let net = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let key = KeyRequest::generate().unwrap();
    let certificate = authority.issue(&key.csr, NodeId::new(node), role, ca::now()).unwrap();
    let identity = Identity::new(certificate, authority.certificate().to_vec(), key.key).unwrap();
    net.set_identity(Arc::new(identity)).unwrap();
    let (streams, come) = mpsc::channel(16);
    net.serve(Arc::new(Doors { streams, asked: Mutex::default() }));
    let peer = Peer { node: NodeId::new(node), addr: net.local_addr().unwrap() };
    (net, peer, come)
}

impl Manager {
    fn new(authority: &Authority, node: u64) -> Self {
        Self::with_role(authority, node, Role::Manager)
    }

    fn with_role(authority: &Authority, node: u64, role: Role) -> Self {
        let (net, peer, streams) = net_as(authority, node, role);
        Self { net, peer, streams }
    }

    fn item(&self) -> Item {
        Item::Peer(PeerItem {
            node: self.peer.node,
            hostname: "m".to_owned(),
            control: self.peer.addr,
            underlay: self.peer.addr.ip(),
            fabric_port: 1,
            fabric_keys: Vec::new(),
            fabric_turn: 0,
            fabric: "10.64.0.2".parse().unwrap(),
            manager: true,
            alive: true,
            blocks: Vec::new(),
            attached: Vec::new(),
        })
    }

    /// The next stream, after its first frame.
    async fn asked(&mut self) -> Stream {
        self.asked_holding().await.0
    }

    /// The next stream, and what the node says that it holds.
    async fn asked_holding(&mut self) -> (Stream, Digests) {
        let next = async {
            let mut stream = self.streams.recv().await.unwrap();
            let Up::Resume { held, .. } = up(&mut stream).await else { panic!("it begins otherwise") };
            (stream, held)
        };
        tokio::time::timeout(SOON, next).await.expect("asked in time")
    }

    /// The frame that names this one as the leader.
    fn named(&self) -> Down {
        Down::Leader { node: self.peer.node, addr: self.peer.addr }
    }

    async fn accept(&mut self) -> Stream {
        let mut stream = self.asked().await;
        say(&mut stream, &Down::Accepted).await;
        stream
    }
}

async fn up(stream: &mut Stream) -> Up {
    stream.read_frame(Hello::Session.cap()).await.unwrap()
}

async fn say(stream: &mut Stream, down: &Down) {
    stream.write_frame(down, Hello::Session.cap()).await.unwrap();
}

fn update(base: Option<u64>, generation: u64, put: Vec<Item>) -> Down {
    Down::Update(ViewUpdate {
        base: base.map(Revision),
        generation: Revision(generation),
        put,
        remove: Vec::new(),
    })
}

/// The next reports; beats in between are kept up.
async fn reports(stream: &mut Stream) -> Vec<TaskReport> {
    let next = async {
        loop {
            match up(stream).await {
                Up::Status(reports) => return reports,
                Up::Start { .. } | Up::Resume { .. } => panic!("it begins twice"),
                Up::Info(_) | Up::Alive | Up::Applied(_) => say(stream, &Down::Alive).await,
            }
        }
    };
    tokio::time::timeout(SOON, next).await.expect("reported in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_finds_the_leader_and_survives_it() {
    let authority = Authority::new(CLUSTER, ca::now()).unwrap();
    let (mut first, mut second) = (Manager::new(&authority, 1), Manager::new(&authority, 2));
    let dir = tempfile::tempdir().unwrap();
    let config =
        AgentConfig { node: NodeId::new(3), seeds: vec![first.peer, second.peer], ..config(dir.path()) };
    let engine = fake();
    let own = net(&authority, 3).0;
    let agent = Agent::start(config, Arc::new(engine.clone()), own);

    // Whoever is asked first points at the other.
    let (mut from, to) = tokio::select! {
        asked = first.asked() => (asked, &mut second),
        asked = second.asked() => (asked, &mut first),
    };
    say(&mut from, &to.named()).await;
    let mut stream = to.accept().await;
    let leader = to.peer;
    let web = task(1, "sleep 1000");
    let put = vec![first.item(), second.item(), Item::Task(Box::new(web.clone()))];
    say(&mut stream, &update(None, 10, put)).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&TaskState::Running) {
        seen.extend(reports(&mut stream).await.into_iter().map(|report| report.status.state));
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(*agent.leader().borrow(), Some(leader));
    agent.applied().send_replace(Revision(10));
    while up(&mut stream).await != Up::Applied(Revision(10)) {}

    // An update that does not fit: a session that begins with all of it is asked for.
    say(&mut stream, &update(Some(11), 12, Vec::new())).await;
    let began = tokio::time::Instant::now();
    let (mut one, mut stream) = tokio::select! {
        asked = first.asked() => (1, asked),
        asked = second.asked() => (2, asked),
    };
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let leader = if one == 1 { &mut first } else { &mut second };
    one = leader.peer.node.number();
    say(&mut stream, &Down::Accepted).await;
    assert_eq!(reports(&mut stream).await.len(), 1, "all is told again");
    say(&mut stream, &update(None, 12, vec![first.item(), second.item(), Item::Task(Box::new(web.clone()))]))
        .await;
    eventually("the view is taken", async || agent.view().borrow().generation == Revision(12)).await;

    // Silence: it goes to the other one. An older view is not taken.
    let other = if one == 1 { &mut second } else { &mut first };
    let mut stream = other.accept().await;
    say(&mut stream, &update(None, 11, Vec::new())).await;
    let mut last = stream;
    while let Ok(frame) = last.read_frame::<Up>(Hello::Session.cap()).await {
        assert!(!matches!(frame, Up::Resume { .. }));
    }
    assert_eq!(agent.view().borrow().generation, Revision(12));
    agent.shutdown().await;
    assert_eq!(engine.starts(&web.container_name()), 1);
    first.net.stop().await;
}

/// An agent whose saved view names these managers and no others.
fn knows(dir: &Path, authority: &Authority, seed: &[&Manager], items: Vec<Item>) -> (Agent, Net) {
    let first = ViewUpdate { base: None, generation: Revision(10), put: items, remove: Vec::new() };
    let seeds = seed.iter().map(|manager| manager.peer).collect();
    let config = AgentConfig { node: NodeId::new(3), seeds, first: Some(first), ..config(dir) };
    let own = net(authority, 3).0;
    (Agent::start(config, Arc::new(fake()), own.clone()), own)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_joined_meanwhile_is_found() {
    let authority = Authority::new(CLUSTER, ca::now()).unwrap();
    let (mut first, mut second) = (Manager::new(&authority, 1), Manager::new(&authority, 2));
    let dir = tempfile::tempdir().unwrap();
    let (agent, _net) = knows(dir.path(), &authority, &[], vec![first.item()]);
    say(&mut first.asked().await, &second.named()).await;
    let _stream = second.accept().await;
    eventually("in session", async || *agent.leader().borrow() == Some(second.peer)).await;
    agent.shutdown().await;
}

/// Those who are named may be gone, know nothing, or name each other: each is asked once a round, and rounds are spaced.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_hints_cost_little() {
    let authority = Authority::new(CLUSTER, ca::now()).unwrap();
    let (mut first, mut second) = (Manager::new(&authority, 1), Manager::new(&authority, 2));
    let nowhere = Down::Leader { node: NodeId::new(9), addr: ([127, 0, 0, 1], 9).into() };
    let dir = tempfile::tempdir().unwrap();
    let (agent, _net) = knows(dir.path(), &authority, &[], vec![first.item()]);
    let (to_first, to_second) = (first.named(), second.named());
    let mut asked = [0, 0];
    let round = async {
        loop {
            tokio::select! {
                mut from = first.asked() => { asked[0] += 1; say(&mut from, &to_second).await }
                mut from = second.asked() => {
                    asked[1] += 1;
                    say(&mut from, if asked[1] % 2 == 0 { &to_first } else { &nowhere }).await;
                }
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(4), round).await.is_err());
    let [one, other] = asked;
    assert!((2..=12).contains(&one) && other <= one, "{asked:?}");
    assert_eq!(*agent.leader().borrow(), None);
    // The election ends.
    let mut from = first.asked().await;
    say(&mut from, &Down::Accepted).await;
    eventually("in session", async || *agent.leader().borrow() == Some(first.peer)).await;
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_never_taken_for_the_leader() {
    let authority = Authority::new(CLUSTER, ca::now()).unwrap();
    let mut first = Manager::new(&authority, 1);
    let mut worker = Manager::with_role(&authority, 2, Role::Worker);
    let dir = tempfile::tempdir().unwrap();
    let (agent, _net) = knows(dir.path(), &authority, &[], vec![first.item()]);
    say(&mut first.asked().await, &worker.named()).await;
    let mut stream = worker.accept().await;
    let stolen = View::of(Revision(99), []);
    let update =
        ViewUpdate { base: None, generation: stolen.generation, put: Vec::new(), remove: Vec::new() };
    // The node may have ended the stream by now.
    let _ = stream.write_frame(&Down::Update(update), Hello::Session.cap()).await;
    let _stream = first.accept().await;
    eventually("in session", async || *agent.leader().borrow() == Some(first.peer)).await;
    assert_eq!(agent.view().borrow().generation, Revision(10));
    agent.shutdown().await;
}

/// All managers that a node knows are gone for good; a worker that has a session knows the present ones.
#[tokio::test(flavor = "multi_thread")]
async fn others_than_managers_are_asked_who_leads() {
    let authority = Authority::new(CLUSTER, ca::now()).unwrap();
    let (gone, mut present) = (Manager::new(&authority, 1), Manager::new(&authority, 2));
    let mut worker = Manager::with_role(&authority, 4, Role::Worker);
    let Item::Peer(peer) = worker.item() else { panic!() };
    let peers = vec![gone.item(), Item::Peer(PeerItem { manager: false, ..peer })];
    gone.net.stop().await;
    let dir = tempfile::tempdir().unwrap();
    let (agent, _net) = knows(dir.path(), &authority, &[], peers);
    say(&mut worker.asked().await, &present.named()).await;
    let _stream = present.accept().await;
    eventually("in session", async || *agent.leader().borrow() == Some(present.peer)).await;
    agent.shutdown().await;
}

fn endpoints(count: u64, large: usize) -> Vec<Arc<Item>> {
    let ends = (0..count).map(|task| {
        let endpoint = Endpoint {
            task: TaskId::from_random(task),
            slot: task + 1,
            node: NodeId::new(1),
            addresses: Vec::new(),
            ready: true,
            host_ports: Vec::new(),
        };
        Item::Endpoint(ServiceId::from_random(1), endpoint)
    });
    // Something large among them.
    let mut web = task(1, "sleep 1000");
    web.goal = Goal::Stop;
    web.container.env = [("LARGE".to_owned(), "x".repeat(large))].into();
    ends.chain([Item::Task(Box::new(web))]).map(Arc::new).collect()
}

/// The parts of a view, each of so many buckets.
fn parts(items: &[Arc<Item>], held: &Digests, generation: u64, buckets: usize) -> Vec<ViewPart> {
    let whole = Digests::of(items.iter().map(|item| &**item));
    let differing: Vec<u8> = whole.differing(held).into_iter().collect();
    let of = |bucket: u8| items.iter().filter(|item| item.key().bucket() == bucket).cloned().collect();
    let mut parts: Vec<_> = differing
        .chunks(buckets)
        .map(|chunk| ViewPart {
            generation: Revision(generation),
            buckets: chunk.iter().map(|bucket| (*bucket, of(*bucket))).collect(),
            last: false,
        })
        .collect();
    parts.last_mut().unwrap().last = true;
    parts
}

/// A frame that takes longer than the limit of silence, but never stops.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_may_take_its_time() {
    use tokio::io::AsyncWriteExt;
    let authority = Authority::new(CLUSTER, ca::now()).unwrap();
    let mut first = Manager::new(&authority, 1);
    let dir = tempfile::tempdir().unwrap();
    let (agent, _net) = knows(dir.path(), &authority, &[&first], Vec::new());
    let bytes = raftup_proto::codec::frame(&update(None, 11, vec![first.item()]), 64 << 20).unwrap();
    let mut stream = first.accept().await;
    for piece in bytes.chunks(bytes.len().div_ceil(10)) {
        stream.send.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(300)).await;
    }
    eventually("taken", async || agent.view().borrow().generation == Revision(11)).await;
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_goes_on_where_the_last_session_broke_off() {
    let authority = Authority::new(CLUSTER, ca::now()).unwrap();
    let (mut first, mut second) = (Manager::new(&authority, 1), Manager::new(&authority, 2));
    let dir = tempfile::tempdir().unwrap();
    let (agent, _net) = knows(dir.path(), &authority, &[&first, &second], Vec::new());
    let items = endpoints(2000, 1000);
    let mut sent = Vec::new();
    let mut holds = None;
    // Each session brings two parts of the rest, and ends; whoever leads next goes on, with a later generation.
    for generation in 11.. {
        let (mut stream, held) = tokio::select! {
            asked = first.asked_holding() => asked,
            asked = second.asked_holding() => asked,
        };
        say(&mut stream, &Down::Accepted).await;
        assert_eq!(agent.view().borrow().generation, Revision(10), "no part of a view is put in force");
        let rest = parts(&items, &held, generation, 32);
        assert_eq!(rest.len(), holds.map_or(8, |before: usize| before - 2));
        holds = Some(rest.len());
        for part in rest.iter().take(2) {
            sent.extend(part.buckets.iter().map(|(bucket, _)| *bucket));
            say(&mut stream, &Down::Part(part.clone())).await;
        }
        if rest.len() == 2 {
            eventually("whole", async || agent.view().borrow().generation == Revision(generation)).await;
            break;
        }
        // Delivered before it ends.
        stream.send.finish().await.unwrap();
        while stream.read_frame::<Up>(Hello::Session.cap()).await.is_ok() {}
    }
    assert_eq!(sent.len(), 256, "no bucket is sent twice");
    let whole = items.iter().map(|item| (item.key(), item.clone())).collect();
    assert_eq!(agent.view().borrow().items, whole);
    agent.shutdown().await;
}

/// A way of UDP to `to` that carries so many bits a second one way, holds little, and loses every twentieth packet.
async fn poor_link(to: std::net::SocketAddr, bits_per_second: f64) -> std::net::SocketAddr {
    use tokio::net::UdpSocket;
    /// Bytes that wait to be sent; more are lost.
    const QUEUE_BYTES: f64 = 96.0 * 1024.0;
    let outer = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await.unwrap());
    let inner = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await.unwrap());
    inner.connect(to).await.unwrap();
    let addr = outer.local_addr().unwrap();
    let client = watch::Sender::new(None);
    let client_now = client.subscribe();
    let (there, back) = (inner.clone(), outer.clone());
    tokio::spawn(async move {
        let mut packet = vec![0; 65536];
        for count in 1_u64.. {
            let Ok((size, from)) = outer.recv_from(&mut packet).await else { return };
            client.send_replace(Some(from));
            if !count.is_multiple_of(20) {
                let _ = inner.send(&packet[..size]).await;
            }
        }
    });
    tokio::spawn(async move {
        let mut packet = vec![0; 65536];
        let mut free = tokio::time::Instant::now();
        for count in 1_u64.. {
            let Ok(size) = there.recv(&mut packet).await else { return };
            let now = tokio::time::Instant::now();
            free = free.max(now);
            let waiting = (free - now).as_secs_f64() * bits_per_second / 8.0;
            if count.is_multiple_of(20) || waiting > QUEUE_BYTES {
                continue;
            }
            free += Duration::from_secs_f64(size as f64 * 8.0 / bits_per_second);
            let (bytes, at, back, client) =
                (packet[..size].to_vec(), free, back.clone(), *client_now.borrow());
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                if let Some(client) = client {
                    let _ = back.send_to(&bytes, client).await;
                }
            });
        }
    });
    addr
}

/// Accepts a session, sends these parts, and answers until it ends.
async fn tell_all(stream: &mut Stream, parts: Vec<ViewPart>) -> Result<(), crate::net::FrameError> {
    let cap = Hello::Session.cap();
    stream.write_frame(&Down::Accepted, cap).await?;
    for part in parts {
        stream.write_frame(&Down::Part(part), cap).await?;
    }
    loop {
        if let Up::Alive = stream.read_frame(cap).await? {
            stream.write_frame(&Down::Alive, cap).await?;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_view_arrives_over_a_slow_link_that_loses_packets() {
    let authority = Authority::new(CLUSTER, ca::now()).unwrap();
    let mut first = Manager::new(&authority, 1);
    first.peer.addr = poor_link(first.peer.addr, 3e6).await;
    let dir = tempfile::tempdir().unwrap();
    let (agent, _net) = knows(dir.path(), &authority, &[&first], Vec::new());
    let Item::Peer(peer) = first.item() else { panic!() };
    let large = |number| PeerItem {
        node: NodeId::new(number),
        hostname: "x".repeat(1000),
        manager: false,
        ..peer.clone()
    };
    let items: Vec<_> = (10..2010).map(|number| Arc::new(Item::Peer(large(number)))).collect();
    let bytes: u64 = items.iter().map(raftup_proto::codec::size).sum();
    assert!(bytes > 2_000_000, "{bytes}");
    let begun = tokio::time::Instant::now();
    let mut sessions = 0;
    let send = async {
        loop {
            let (mut stream, held) = first.asked_holding().await;
            sessions += 1;
            let rest = parts(&items, &held, 11, 8);
            let end = tell_all(&mut stream, rest).await;
            println!("session {sessions} ended after {:?}: {end:?}", begun.elapsed());
        }
    };
    tokio::select! {
        _ = send => {}
        () = eventually("whole", async || agent.view().borrow().generation == Revision(11)) => {}
    }
    println!("{bytes} bytes in {:?}, {sessions} sessions", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(4), "longer than any limit of silence");
    assert_eq!(sessions, 1, "nothing was silent for too long");
    agent.shutdown().await;
}
