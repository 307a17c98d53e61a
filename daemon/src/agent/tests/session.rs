//! The session over real UDP, with leaders that are played by hand.

use std::sync::Mutex;

use bytes::Bytes;
use raftup_proto::{
    peer::{Answer, Down, Hello, JoinAnswer, JoinRequest, Role, TaskReport, Up},
    refusal::Code,
    view::PeerItem,
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

    fn may(&self, _: NodeId) -> bool {
        true
    }
}

fn net(authority: &Authority, node: u64) -> (Net, Peer, mpsc::Receiver<Stream>) {
    let net = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let key = KeyRequest::generate().unwrap();
    let certificate = authority.issue(&key.csr, NodeId::new(node), Role::Manager, ca::now()).unwrap();
    let identity = Identity::new(certificate, authority.certificate().to_vec(), key.key).unwrap();
    net.set_identity(Arc::new(identity)).unwrap();
    let (streams, come) = mpsc::channel(16);
    net.serve(Arc::new(Doors { streams, asked: Mutex::default() }));
    let peer = Peer { node: NodeId::new(node), addr: net.local_addr().unwrap() };
    (net, peer, come)
}

impl Manager {
    fn new(authority: &Authority, node: u64) -> Self {
        let (net, peer, streams) = net(authority, node);
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
        let next = async {
            let mut stream = self.streams.recv().await.unwrap();
            let Up::Start { .. } = up(&mut stream).await else { panic!("it begins otherwise") };
            stream
        };
        tokio::time::timeout(SOON, next).await.expect("asked in time")
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
                Up::Start { .. } => panic!("it begins twice"),
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
    say(&mut from, &Down::NotLeader(Some(to.peer.addr))).await;
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
        assert!(!matches!(frame, Up::Start { .. }));
    }
    assert_eq!(agent.view().borrow().generation, Revision(12));
    agent.shutdown().await;
    assert_eq!(engine.starts(&web.container_name()), 1);
    first.net.stop().await;
}
