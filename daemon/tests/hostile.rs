//! Strangers against three managers on the loopback interface, for a minute: `make hostile`.
//!
//! The managers, each on one thread, and a worker that dials them anew all the time are in this process; whoever attacks is
//! in a second one, so that the memory of this one is that of the cluster. What is sent is bounded in number and time.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use raftup_daemon::{
    model::TokenHashes,
    net::{
        Caller, Identity, Net, Peer, Serve, Stream,
        ca::{self, Authority, KeyRequest},
    },
    plan::init,
    store::{Site, Store, StoreConfig, create},
};
use raftup_proto::{
    api::{FabricMode, Managers},
    codec,
    id::{ClusterId, NodeId},
    peer::{ALPN, Answer, Hello, JoinAnswer, JoinRequest, NodeInfo, Platform, Reply, Request, Role},
    refusal::{Code, Refusal},
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::runtime::Runtime;

/// How long strangers attack.
const MINUTE: Duration = Duration::from_secs(60);

/// Connections that they begin in each millisecond of it.
const PER_MILLISECOND: u32 = 1;

/// Names the target to the process that attacks.
const TARGET: &str = "RAFTUP_HOSTILE_TARGET";

struct Door {
    store: OnceLock<Store>,
    members: Arc<Mutex<Arc<BTreeSet<SocketAddr>>>>,
}

#[async_trait]
impl Serve for Door {
    async fn join(&self, _: SocketAddr, _: JoinRequest) -> JoinAnswer {
        Err(Refusal::new(Code::Forbidden, "the token is not valid"))
    }

    async fn rpc(&self, _: Caller, _: Request) -> Answer {
        Ok(Reply::Done)
    }

    async fn stream(&self, caller: Caller, hello: Hello, stream: Stream) {
        if let (Hello::Raft, Some(store)) = (hello, self.store.get()) {
            store.serve(caller, stream).await;
        }
    }

    fn gossip(&self, _: Caller, _: Bytes) {}

    fn may(&self, _: NodeId, _: Role) -> bool {
        true
    }

    fn members(&self) -> Arc<BTreeSet<SocketAddr>> {
        self.members.lock().unwrap().clone()
    }
}

/// One node on a thread of its own.
struct Host {
    runtime: Runtime,
    net: Net,
    door: Arc<Door>,
    site: Site,
}

impl Host {
    fn start(authority: &Authority, number: u64, role: Role, door: Door) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let node = NodeId::new(number);
        let key = KeyRequest::generate().unwrap();
        let certificate = authority.issue(&key.csr, node, role, ca::now()).unwrap();
        let identity = Identity::new(certificate, authority.certificate().to_vec(), key.key).unwrap();
        let inside = runtime.enter();
        let net = Net::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let door = Arc::new(door);
        net.set_identity(Arc::new(identity)).unwrap();
        net.serve(door.clone());
        drop(inside);
        let site = Site { node, addr: net.local_addr().unwrap() };
        Self { runtime, net, door, site }
    }

    fn peer(&self) -> Peer {
        Peer { node: self.site.node, addr: self.site.addr }
    }

    fn store(&self) -> &Store {
        self.door.store.get().unwrap()
    }
}

/// Three managers, the first of which leads, and a worker; and where their state is.
struct Cluster {
    managers: Vec<Host>,
    worker: Host,
    _dirs: Vec<tempfile::TempDir>,
}

impl Cluster {
    fn start() -> Self {
        let authority = Authority::new(ClusterId::from_random(1), ca::now()).unwrap();
        let members = Arc::new(Mutex::default());
        let door = || Door { store: OnceLock::new(), members: Arc::clone(&members) };
        let managers: Vec<_> =
            (1..=3).map(|number| Host::start(&authority, number, Role::Manager, door())).collect();
        let worker = Host::start(&authority, 4, Role::Worker, door());
        let all = managers.iter().chain([&worker]).map(|host| host.site.addr).collect();
        *members.lock().unwrap() = Arc::new(all);
        let mut dirs = Vec::new();
        for (number, host) in (1..).zip(&managers) {
            let dir = tempfile::tempdir().unwrap();
            create(dir.path(), host.site.node, number).unwrap();
            let transport = Arc::new(host.net.clone());
            let config = StoreConfig { dir: dir.path().to_owned(), node: host.site.node, transport };
            assert!(host.door.store.set(host.runtime.block_on(Store::start(config)).unwrap()).is_ok());
            dirs.push(dir);
        }
        let cluster = Self { managers, worker, _dirs: dirs };
        cluster.form(&authority);
        cluster
    }

    fn form(&self, authority: &Authority) {
        let first = &self.managers[0];
        let set = init::cluster(first_entry(authority, first.site.addr), ca::now()).unwrap();
        first.runtime.block_on(async {
            first.store().initialize(first.site.addr, set).await.unwrap();
            for (member, host) in (2..).zip(&self.managers[1..]) {
                first.store().add_learner(member, host.site).await.unwrap();
            }
        });
        until(|| first.store().members().members.values().all(|member| member.caught_up));
        first.runtime.block_on(first.store().set_voters([1, 2, 3].into())).unwrap();
    }
}

fn first_entry(authority: &Authority, control: SocketAddr) -> init::First {
    let info = NodeInfo {
        hostname: "ant".to_owned(),
        control,
        underlay: control.ip(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        version: "0.1.0".to_owned(),
        platform: Platform::default(),
        deaf: Vec::new(),
        troubles: Vec::new(),
        level: Default::default(),
    };
    init::First {
        id: authority.cluster(),
        pool: "10.64.0.0/11".parse().unwrap(),
        managers: Managers::Fixed(3),
        fabric: FabricMode::Plain,
        ca_certificate: authority.certificate().to_vec(),
        ca_key_sealed: Vec::new(),
        tokens: TokenHashes { manager: [0; 32], worker: [0; 32], sealed: Vec::new() },
        info,
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "it did not come to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Memory of this process that is in use, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ends with the test, whatever comes of it.
struct Attacker(Child);

impl Attacker {
    fn start(target: SocketAddr) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "attacker", "--ignored", "--nocapture"])
            .env(TARGET, target.to_string())
            .stdin(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "takes more than a minute; `make hostile` runs it"]
fn a_thousand_strangers_a_second_stop_nothing() {
    let cluster = Cluster::start();
    let [worker, leader] = [&cluster.worker, &cluster.managers[0]];
    let dial = |to: Peer| {
        worker.net.moved();
        let start = Instant::now();
        worker.runtime.block_on(worker.net.call(to, Request::Leave)).unwrap();
        start.elapsed()
    };
    // All that is made once is there before memory is looked at.
    for _ in 0..20 {
        cluster.managers.iter().for_each(|host| _ = dial(host.peer()));
    }
    until(|| cluster.managers.iter().all(|host| host.store().leadership().borrow().peer().is_some()));
    let led_by = |of: &Host| {
        let leadership = *of.store().leadership().borrow();
        (leadership.leader, leadership.term)
    };
    let led = led_by(leader);
    assert_eq!(led.0, Some(leader.site.node));
    let (before, mut most) = (resident(), 0);
    let (mut dials, mut slowest) = (0_u32, Duration::ZERO);

    let mut attacker = Attacker::start(leader.site.addr);
    let start = Instant::now();
    while start.elapsed() < MINUTE + Duration::from_secs(2) {
        for host in &cluster.managers {
            slowest = slowest.max(dial(host.peer()));
            dials += 1;
            assert_eq!(led_by(host), led, "the leader has changed after {:?}", start.elapsed());
        }
        most = most.max(resident());
        assert!(slowest < Duration::from_secs(1), "a member's dial took {slowest:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(attacker.0.wait().unwrap().success(), "the attack was carried out");
    let grown = most.saturating_sub(before);
    println!("{dials} dials of members, the slowest {slowest:?}; memory grew by {grown} KiB at most");
    assert!(grown < 32 << 10, "{before} KiB before, {most} KiB at most");
}

/// Attacks what [`TARGET`] names; does nothing without it.
#[test]
#[ignore = "the second process of the test above"]
fn attacker() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let target: SocketAddr = target.parse().unwrap();
    assert!(target.ip().is_loopback());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tried = runtime.block_on(attack(target));
    println!("{} packets replayed, {} handshakes begun, {} completed", tried[0], tried[1], tried[2]);
    assert!(tried[0] + tried[1] > 30_000, "fewer than half of what was meant");
}

/// Half of the connections are first packets from one socket, recorded before; the others are begun in earnest from eight
/// addresses, and have streams that never end.
async fn attack(target: SocketAddr) -> [u64; 3] {
    let from = |last: u8| quinn::Endpoint::client(([127, 0, 0, last], 0).into()).unwrap();
    let endpoints: Vec<_> = (1..=8).map(from).collect();
    let config = client();
    let packets = recorded(&endpoints[0], &config).await;
    let (socket, mut completed) = (UdpSocket::bind("127.0.0.1:0").unwrap(), tokio::task::JoinSet::new());
    let (mut replayed, mut begun, mut done) = (0_u64, 0_u64, 0_u64);
    let start = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut due = 0;
    while start.elapsed() < MINUTE {
        tick.tick().await;
        let now = u64::try_from(start.elapsed().as_millis()).unwrap() * u64::from(PER_MILLISECOND);
        while due < now {
            due += 1;
            if due % 2 == 0 {
                let packet = &packets[usize::try_from(due).unwrap() % packets.len()];
                replayed += u64::from(socket.send_to(packet, target).is_ok());
            } else {
                let endpoint = &endpoints[usize::try_from(due / 2).unwrap() % endpoints.len()];
                let connecting = endpoint.connect_with(config.clone(), target, "x").unwrap();
                begun += 1;
                completed.spawn(hold(connecting));
            }
        }
        while let Some(held) = completed.try_join_next() {
            done += u64::from(held.unwrap());
        }
    }
    [replayed, begun, done]
}

/// Keeps a connection as long as it is let, with as many streams and bytes as are taken. Returns whether there was one.
async fn hold(connecting: quinn::Connecting) -> bool {
    let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_secs(1), connecting).await else {
        return false;
    };
    let mut streams = Vec::new();
    let fill = async {
        while let Ok((mut send, recv)) = connection.open_bi().await {
            let hello = codec::frame(&Hello::Join, 64).unwrap();
            let _ = send.write_all(&hello).await;
            let _ = send.write_all(&vec![0; 1 << 20]).await;
            streams.push((send, recv));
        }
    };
    // What is not taken is waited for until the other side ends the connection.
    let _ = tokio::time::timeout(Duration::from_secs(20), fill).await;
    true
}

fn client() -> quinn::ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// First packets of connections to nowhere.
async fn recorded(endpoint: &quinn::Endpoint, config: &quinn::ClientConfig) -> Vec<Vec<u8>> {
    let mute = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = mute.local_addr().unwrap();
    let mut packets = Vec::new();
    while packets.len() < 500 {
        let _connecting = endpoint.connect_with(config.clone(), to, "x").unwrap();
        let mut buffer = [0; 2000];
        let size = mute.recv(&mut buffer).await.unwrap();
        packets.push(buffer[..size].to_vec());
    }
    packets
}

/// Believes every server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
