//! Gossip over the real transport: several nodes in one process, each on a runtime of its own, so that one can die or
//! be paused with all of its tasks.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use raftup_daemon::{
    gossip::{Gossip, GossipConfig, Sightings},
    net::{
        Caller, Identity, Net, Peer, Serve, Stream,
        ca::{self, Authority, KeyRequest},
    },
};
use raftup_proto::{
    id::{ClusterId, NodeId},
    peer::{Answer, Hello, JoinAnswer, JoinRequest, Reply, Request, Role},
    refusal::{Code, Refusal},
};
use tokio::{runtime::Runtime, sync::watch};

/// Gives gossip to the node's [`Gossip`].
#[derive(Default)]
struct Listener(OnceLock<Gossip>);

#[async_trait]
impl Serve for Listener {
    async fn join(&self, _from: SocketAddr, _request: JoinRequest) -> JoinAnswer {
        Err(Refusal::new(Code::Unavailable, "not here"))
    }

    async fn rpc(&self, _caller: Caller, _request: Request) -> Answer {
        Ok(Reply::Done)
    }

    async fn stream(&self, _caller: Caller, _hello: Hello, _stream: Stream) {}

    fn gossip(&self, caller: Caller, message: Bytes) {
        if let Some(gossip) = self.0.get() {
            gossip.receive(caller.node, caller.addr, &message);
        }
    }

    fn may(&self, _node: NodeId, _role: raftup_proto::peer::Role) -> bool {
        true
    }
}

struct TestNode {
    net: Net,
    view: watch::Receiver<Arc<Sightings>>,
    _gossip: Gossip,
    life: Runtime,
}

impl TestNode {
    fn start(
        authority: &Authority,
        node: u64,
        peers: watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>>,
    ) -> (Self, SocketAddr) {
        let life =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = life.enter();
        let me = NodeId::new(node);
        let key = KeyRequest::generate().unwrap();
        let certificate = authority.issue(&key.csr, me, Role::Manager, ca::now()).unwrap();
        let identity = Identity::new(certificate, authority.certificate().to_vec(), key.key).unwrap();
        let net = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
        net.set_identity(Arc::new(identity)).unwrap();
        let listener = Arc::new(Listener::default());
        net.serve(listener.clone());
        let way = net.clone();
        let gossip = Gossip::start(GossipConfig {
            cluster: authority.cluster(),
            me,
            peers,
            send: Arc::new(move |node, addr, message| way.send_gossip(Peer { node, addr }, message)),
            values: BTreeMap::new(),
        });
        assert!(listener.0.set(gossip.clone()).is_ok());
        drop(inside);
        let addr = net.local_addr().unwrap();
        (Self { net, view: gossip.view(), _gossip: gossip, life }, addr)
    }
}

struct Nodes {
    nodes: BTreeMap<u64, TestNode>,
}

impl Nodes {
    fn start(count: u64) -> Self {
        let authority = Authority::new(ClusterId::from_random(1), ca::now()).unwrap();
        let (peers, watch) = watch::channel(Arc::new(BTreeMap::new()));
        let mut nodes = BTreeMap::new();
        let mut addrs = BTreeMap::new();
        for node in 1..=count {
            let (started, addr) = TestNode::start(&authority, node, watch.clone());
            addrs.insert(NodeId::new(node), addr);
            nodes.insert(node, started);
        }
        peers.send_replace(Arc::new(addrs));
        let nodes = Self { nodes };
        nodes.until("all see all", Duration::from_secs(30), |nodes| nodes.all_see_all());
        nodes
    }

    fn sees(&self, by: u64, other: u64) -> bool {
        let view = self.nodes[&by].view.borrow();
        view.nodes.get(&NodeId::new(other)).is_some_and(|sighting| sighting.alive)
    }

    fn all_see_all(&self) -> bool {
        let all = |by: u64| self.nodes.keys().all(|other| *other == by || self.sees(by, *other));
        self.nodes.iter().all(|(by, node)| all(*by) && !node.view.borrow().impaired)
    }

    fn until(&self, what: &str, within: Duration, is: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is(self) {
            assert!(start.elapsed() < within, "{what} within {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }
}

#[test]
fn a_killed_node_is_seen_by_all() {
    let mut nodes = Nodes::start(6);
    std::thread::sleep(Duration::from_secs(3));
    let mut times = Vec::new();
    for victim in [6, 5, 4] {
        let dead = nodes.nodes.remove(&victim).unwrap();
        // Nobody is told; packets to it meet a closed port.
        dead.life.shutdown_background();
        times.push(nodes.until("death is seen", Duration::from_secs(10), |nodes| {
            nodes.nodes.keys().all(|by| !nodes.sees(*by, victim))
        }));
    }
    times.sort();
    println!("6 nodes, UDP: a death is seen by all after {times:?}");
    assert!(times[1] < Duration::from_millis(3500), "{times:?}");
}

#[test]
fn a_paused_node_accuses_nobody() {
    let nodes = Nodes::start(4);
    let paused = &nodes.nodes[&4];
    paused.life.spawn(async { std::thread::sleep(Duration::from_secs(5)) });
    let seen = nodes
        .until("the pause is seen", Duration::from_secs(4), |nodes| (1..=3).all(|by| !nodes.sees(by, 4)));
    // Whatever the node publishes from now on is looked at.
    let mut view = paused.view.clone();
    let accused = Arc::new(AtomicUsize::new(0));
    let count = accused.clone();
    let watching = std::thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(9) {
            let view = view.borrow_and_update();
            count.fetch_add((1..=3).filter(|n| view.is_quiet(NodeId::new(*n))).count(), Ordering::Relaxed);
            drop(view);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let back = nodes.until("all see all again", Duration::from_secs(15), |nodes| nodes.all_see_all());
    watching.join().unwrap();
    println!("a pause is seen after {seen:?}, and all is well {back:?} later");
    assert_eq!(accused.load(Ordering::Relaxed), 0);
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
#[ignore = "a measurement of half a minute, best with --release"]
fn idle_cost() {
    for count in [3, 20] {
        let nodes = Nodes::start(count);
        std::thread::sleep(Duration::from_secs(3));
        let (before, start) = (cpu(), Instant::now());
        std::thread::sleep(Duration::from_secs(12));
        let share = (cpu() - before).as_secs_f64() / start.elapsed().as_secs_f64() / count as f64 * 100.0;
        let links = nodes.nodes.values().map(|node| node.net.connections()).max();
        println!("{count} nodes: {share:.2} % of a core each, {links:?} connections at most");
    }
}
