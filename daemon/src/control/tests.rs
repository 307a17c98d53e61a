//! The real loops over a real store of one member, with agents that do at once what they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use raftup_proto::{
    api::{Deploy, FabricMode, Managers, NodeState, Outcome},
    id::{ClusterId, NodeId, TaskId},
    peer::{Down, Hello, JoinRequest, NodeInfo, Platform, Role, TaskReport, TaskState, TaskStatus, Up},
    spec::{ContainerSpec, Mode, NetworkAttachment, NetworkSpec, ServiceSpec, StackSpec},
    unit::MemBytes,
    view::{Assembly, Goal, View},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, interval, timeout},
};

use super::Control;
use crate::{
    gossip::{Sighting, Sightings},
    model::{Cluster, Desired, TokenHashes},
    net::{Caller, Net, Stream},
    plan::{self, Ids, World, progress::Selector},
    store::{self, Store, StoreConfig, wall_clock as now},
};

mod overlap;

const LIMIT: Duration = Duration::from_secs(20);

struct Lab {
    _dir: tempfile::TempDir,
    store: Store,
    control: Control,
    gossip: watch::Sender<Arc<Sightings>>,
    ids: Ids,
}

fn info(hostname: &str, node: NodeId) -> NodeInfo {
    let address = std::net::Ipv4Addr::from(0x7f00_0000 + u32::try_from(node.number()).unwrap());
    NodeInfo {
        hostname: hostname.to_owned(),
        control: (address, 9).into(),
        underlay: address.into(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        version: "0.1.0".to_owned(),
        level: crate::plan::level::NEWEST,
        platform: Platform {
            memory: MemBytes(1 << 30),
            engine: Some("28.5.2".to_owned()),
            ..Platform::default()
        },
        deaf: Vec::new(),
        troubles: Vec::new(),
    }
}

/// A stack `shop` of one service `web` on one network.
fn shop(image: &str, replicas: u32) -> StackSpec {
    let service = ServiceSpec {
        mode: Mode::Replicated { replicas },
        container: ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() },
        networks: vec![NetworkAttachment {
            network: "default".parse().unwrap(),
            aliases: Vec::new(),
            external: None,
        }],
        ports: Vec::new(),
        endpoint_mode: Default::default(),
        restart: Default::default(),
        placement: Default::default(),
        resources: Default::default(),
        labels: BTreeMap::new(),
        update: Default::default(),
        rollback: Default::default(),
        routing: Default::default(),
        order: Default::default(),
        depends_on: BTreeMap::new(),
        any_ports: Vec::new(),
        build: None,
    };
    StackSpec {
        name: "shop".parse().unwrap(),
        services: [("web".parse().unwrap(), service)].into(),
        networks: [("default".parse().unwrap(), NetworkSpec::default())].into(),
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        configs: BTreeMap::new(),
    }
}

impl Lab {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let net = Net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let node = plan::init::FIRST_NODE;
        store::create(dir.path(), node, plan::init::FIRST_MEMBER).unwrap();
        let config = StoreConfig { dir: dir.path().to_owned(), node, transport: Arc::new(net.clone()) };
        let store = Store::start(config).await.unwrap();
        let first = plan::init::First {
            id: ClusterId::from_random(1),
            pool: "10.64.0.0/11".parse().unwrap(),
            managers: Managers::Auto,
            fabric: FabricMode::Wireguard,
            ca_certificate: Vec::new(),
            ca_key_sealed: Vec::new(),
            tokens: TokenHashes { manager: [0; 32], worker: [0; 32], sealed: Vec::new() },
            info: info("ant", node),
        };
        let first = plan::init::cluster(first, now()).unwrap();
        store.initialize("127.0.0.1:9".parse().unwrap(), first).await.unwrap();
        let (gossip, view) = watch::channel(Arc::new(Sightings::default()));
        let control = Control::start(store.clone(), net, view, crate::secret::Key::generate());
        Self { _dir: dir, store, control, gossip, ids: Ids::seeded(7) }
    }

    async fn admit(&self, hostname: &str) -> NodeId {
        self.admit_as(hostname, Role::Manager).await
    }

    async fn admit_as(&self, hostname: &str, role: Role) -> NodeId {
        let next = self.store.snapshot().info.as_ref().unwrap().next_node;
        let request = JoinRequest {
            secret: [0; 16],
            role,
            csr: Vec::new(),
            info: info(hostname, NodeId::new(next)),
            attempt: 7,
        };
        self.store.change(|cluster, now| plan::nodes::admit(cluster, &request, now)).await.unwrap().1
    }

    async fn deploy(&mut self, image: &str, replicas: u32) {
        let spec = shop(image, replicas);
        let deploy = Deploy { spec, credentials: BTreeMap::new(), keep: false };
        let ids = &mut self.ids;
        let work = |cluster: &Cluster, now| {
            plan::stacks::deploy(
                cluster,
                &deploy,
                Vec::new(),
                &Default::default(),
                &Default::default(),
                now,
                ids,
            )
        };
        self.store.change(work).await.unwrap();
    }

    /// Waits until the state is as asked; calls `look` with each state on the way.
    async fn until(&self, what: &str, mut look: impl FnMut(&Cluster) -> bool) -> Duration {
        let begun = Instant::now();
        let mut watch = self.store.watch();
        let reached = timeout(LIMIT, async {
            while !look(&self.store.snapshot()) {
                // What is looked for may lie with an agent, which is a little behind.
                let _ = timeout(Duration::from_millis(50), watch.changed()).await;
            }
        });
        if reached.await.is_err() {
            let cluster = self.store.snapshot();
            panic!("{what}: not within {LIMIT:?}\n{:#?}\n{:#?}", self.control.controllers(), cluster.tasks);
        }
        begun.elapsed()
    }

    async fn done(&self, what: &str) -> Duration {
        let stack = plan::find::stack(&self.store.snapshot(), "shop").unwrap().id;
        self.until(what, |cluster| {
            let progress = plan::progress::progress(
                &World::new(cluster.clone()),
                Selector::Stack(stack),
                &Default::default(),
            )
            .unwrap();
            progress.outcome == Outcome::Done
        })
        .await
    }

    fn hears(&self, node: NodeId, alive: bool) {
        let mut sightings = Sightings::clone(&self.gossip.borrow());
        let sighting = Sighting { alive, since: Instant::now(), silent: !alive, values: Arc::default() };
        sightings.nodes.insert(node, sighting);
        self.gossip.send_replace(Arc::new(sightings));
    }
}

/// An agent whose containers start and stop at once.
struct Agent {
    view: Arc<Mutex<View>>,
    work: JoinHandle<Option<Down>>,
}

fn addr(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

impl Agent {
    /// Opens a session; the task ends with the frame that ended it.
    fn start(lab: &Lab, node: NodeId, process: u64, port: u16) -> Self {
        let (near, far) = Stream::pair();
        let control = lab.control.clone();
        let caller = Caller { node, role: Role::Manager, addr: addr(port) };
        tokio::spawn(async move { control.session(caller, far).await });
        let view = Arc::new(Mutex::new(View::default()));
        let work = tokio::spawn(Self::run(near, info(&format!("host-{node}"), node), process, view.clone()));
        Self { view, work }
    }

    async fn run(stream: Stream, info: NodeInfo, process: u64, view: Arc<Mutex<View>>) -> Option<Down> {
        let cap = Hello::Session.cap();
        let (mut send, mut recv) = stream.split();
        let mut told: BTreeSet<(TaskId, TaskState)> = BTreeSet::new();
        let mut parts = None;
        send.write_frame(&Up::Start { info, process }, cap).await.ok()?;
        let mut beat = interval(Duration::from_millis(300));
        loop {
            let down: Down = tokio::select! {
                _ = beat.tick() => {
                    // If the session has ended, its last frame is still to be read.
                    let _ = send.write_frame(&Up::Alive, cap).await;
                    continue;
                }
                down = recv.read_frame(cap) => down.ok()?,
            };
            let mut held = view.lock().unwrap().clone();
            match down {
                Down::Accepted | Down::Alive | Down::NotInForce(_) => continue,
                Down::Update(update) => held.update(update).expect("updates fit onto one another"),
                Down::Part(part) => {
                    let last = part.last;
                    let assembly = parts.get_or_insert_with(|| Assembly::of(held));
                    assembly.take(part);
                    let Some(whole) = parts.take_if(|_| last) else { continue };
                    held = whole.into_view();
                }
                end @ (Down::NotLeader(_) | Down::Leader { .. } | Down::Refused(_)) => return Some(end),
            }
            let generation = held.generation;
            let reports: Vec<TaskReport> = {
                let mut view = view.lock().unwrap();
                *view = held;
                let wanted = view.tasks().map(|task| match task.goal {
                    Goal::Run => (task.task, TaskState::Running),
                    Goal::Stop => (task.task, TaskState::Shutdown),
                });
                let new = wanted.filter(|report| told.insert(*report));
                let status = |(task, state)| TaskReport { task, status: TaskStatus::new(state, now()) };
                new.map(status).collect()
            };
            send.write_frame(&Up::Applied(generation), cap).await.ok()?;
            if !reports.is_empty() {
                send.write_frame(&Up::Status(reports), cap).await.ok()?;
            }
        }
    }

    /// The agent is gone without a word.
    fn kill(self) {
        self.work.abort();
    }

    async fn ended(self) -> Option<Down> {
        timeout(LIMIT, self.work).await.expect("the session ends").unwrap()
    }
}

fn ready(cluster: &Cluster, id: NodeId) -> bool {
    cluster.nodes.get(&id).is_some_and(|node| node.state == NodeState::Ready)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_lives_through_an_update_and_a_lost_node() {
    let mut lab = Lab::start().await;
    let (first, second) = (plan::init::FIRST_NODE, lab.admit("bee").await);
    let one = Agent::start(&lab, first, 1, 1);
    let two = Agent::start(&lab, second, 2, 2);
    lab.hears(first, true);
    lab.hears(second, true);
    lab.until("both are ready", |cluster| ready(cluster, first) && ready(cluster, second)).await;

    lab.deploy("v1", 4).await;
    println!("4 tasks run after {:?}", lab.done("deployed").await);
    let on = |cluster: &Cluster, node| {
        cluster.tasks.values().filter(|task| task.is_ready() && task.node == Some(node)).count()
    };
    assert_eq!(on(&lab.store.snapshot(), second), 2);

    lab.deploy("v2", 4).await;
    let mut least = usize::MAX;
    lab.until("updated", |cluster| {
        least = least.min(cluster.tasks.values().filter(|task| task.is_ready()).count());
        let new = cluster.tasks.values().filter(|task| task.is_ready() && task.version == 2);
        new.count() == 4
    })
    .await;
    assert_eq!(least, 3, "one at a time");

    // The views that agents hold are those that the state says.
    lab.until("the view is the newest", |cluster| {
        let full = plan::view::full(&World::new(cluster.clone()), first);
        let mut view = View::default();
        view.update(full).unwrap();
        one.view.lock().unwrap().items == view.items
    })
    .await;

    two.kill();
    lab.hears(second, false);
    let moved = lab
        .until("its tasks run elsewhere", |cluster| !ready(cluster, second) && on(cluster, first) == 4)
        .await;
    println!("a lost node's tasks run elsewhere after {moved:?}");
    assert!(moved < Duration::from_secs(4), "{moved:?}");

    lab.hears(second, true);
    let two = Agent::start(&lab, second, 3, 2);
    lab.until("what it still ran is stopped", |cluster| {
        let stopped = |task: &crate::model::Task| task.desired == Desired::Run || task.status.state.is_over();
        ready(cluster, second) && cluster.tasks.values().all(|task| stopped(task))
    })
    .await;

    let stack = plan::find::stack(&lab.store.snapshot(), "shop").unwrap().id;
    lab.store.change(|cluster, now| plan::stacks::remove(cluster, stack, now)).await.unwrap();
    lab.until("nothing is left", |cluster| {
        cluster.tasks.is_empty() && cluster.networks.is_empty() && cluster.stacks.is_empty()
    })
    .await;
    assert!(lab.store.snapshot().nodes.values().all(|node| node.blocks.is_empty()));

    lab.store.change(|cluster, now| Ok((plan::nodes::leave(cluster, second, now)?, ()))).await.unwrap();
    let end = two.ended().await;
    assert!(matches!(&end, Some(Down::Refused(refusal)) if refusal.message.contains("removed")), "{end:?}");
    lab.control.stop().await;
    lab.store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_refused_and_a_restart_is_not() {
    let lab = Lab::start().await;
    let node = plan::init::FIRST_NODE;
    let original = Agent::start(&lab, node, 1, 1);
    lab.until("ready", |cluster| ready(cluster, node)).await;
    let copy = Agent::start(&lab, node, 2, 2);
    let end = copy.ended().await;
    assert!(
        matches!(&end, Some(Down::Refused(refusal)) if refusal.message.contains("already runs")),
        "{end:?}"
    );
    assert!(!original.work.is_finished(), "the original is not disturbed");
    let restarted = Agent::start(&lab, node, 3, 1);
    assert_eq!(original.ended().await, None, "a process that starts again takes its place at once");
    let stranger = Agent::start(&lab, NodeId::new(9), 4, 4);
    assert!(matches!(stranger.ended().await, Some(Down::Refused(_))));
    restarted.kill();
    lab.control.stop().await;
    lab.store.stop().await;
}

/// The node's end of a session that says what a test wants. What comes is read, and each update said to be in force.
struct Mouth {
    send: Arc<tokio::sync::Mutex<crate::net::Sender>>,
    heard: watch::Receiver<Vec<Vec<String>>>,
    work: JoinHandle<()>,
}

impl Mouth {
    async fn open(lab: &Lab, node: NodeId, process: u64, info: NodeInfo) -> Self {
        let (near, far) = Stream::pair();
        let control = lab.control.clone();
        let caller = Caller { node, role: Role::Worker, addr: addr(40) };
        tokio::spawn(async move { control.session(caller, far).await });
        let (send, mut recv) = near.split();
        let send = Arc::new(tokio::sync::Mutex::new(send));
        let (told, heard) = watch::channel(Vec::new());
        let (stands, mut accepted) = watch::channel(false);
        let answers = send.clone();
        let work = tokio::spawn(async move {
            while let Ok(down) = recv.read_frame::<Down>(Hello::Session.cap()).await {
                let generation = match down {
                    Down::Update(update) => update.generation,
                    Down::Part(part) if part.last => part.generation,
                    Down::NotInForce(lines) => {
                        told.send_modify(|all: &mut Vec<_>| all.push(lines));
                        continue;
                    }
                    Down::Accepted => {
                        stands.send_replace(true);
                        continue;
                    }
                    Down::Part(_) | Down::Alive => continue,
                    Down::NotLeader(_) | Down::Leader { .. } | Down::Refused(_) => continue,
                };
                let applied = Up::Applied(generation);
                let _ = answers.lock().await.write_frame(&applied, Hello::Session.cap()).await;
            }
        });
        let mouth = Self { send, heard, work };
        mouth.say(&Up::Start { info, process }).await.unwrap();
        timeout(LIMIT, accepted.wait_for(|stands| *stands)).await.expect("a session").unwrap();
        mouth
    }

    async fn say(&self, up: &Up) -> Result<(), crate::net::FrameError> {
        self.send.lock().await.write_frame(up, Hello::Session.cap()).await
    }

    async fn is_told(&self, text: &str) {
        let mut heard = self.heard.clone();
        let told = |all: &Vec<Vec<String>>| all.iter().flatten().any(|line| line.contains(text));
        timeout(LIMIT, heard.wait_for(told)).await.expect(text).unwrap();
    }
}

fn with<T>(info: &NodeInfo, change: impl FnOnce(&mut NodeInfo) -> T) -> NodeInfo {
    let mut info = info.clone();
    change(&mut info);
    info
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_reports_for_others_changes_nothing_and_delays_nobody() {
    let mut lab = Lab::start().await;
    let first = plan::init::FIRST_NODE;
    let _one = Agent::start(&lab, first, 1, 1);
    lab.until("ready", |cluster| ready(cluster, first)).await;
    lab.deploy("v1", 2).await;
    lab.done("deployed").await;

    let worker = lab.admit_as("bee", Role::Worker).await;
    // Its engine does not answer, so that it is given no tasks of its own.
    let said = with(&info("bee", worker), |info| info.platform.engine = None);
    let mouth = Mouth::open(&lab, worker, 2, said.clone()).await;
    lab.until("the worker is ready", |cluster| ready(cluster, worker)).await;
    let tasks: Vec<TaskId> = lab.store.snapshot().tasks.keys().copied().collect();
    let before = lab.store.snapshot();

    let forged = |number: usize| {
        let known = tasks.get(number % 8).copied();
        let task = known.unwrap_or_else(|| TaskId::from_random((number as u64) << 9));
        let state = if number & 1 == 0 { TaskState::Failed } else { TaskState::Running };
        TaskReport { task, status: TaskStatus::new(state, now()).because("forged") }
    };
    let mut sent = 0;
    while sent < 100_000 {
        mouth.say(&Up::Status((sent..sent + 2500).map(forged).collect())).await.unwrap();
        sent += 2500;
    }
    // Frames are read in order: once this one is in the state, all reports were.
    let marked = with(&said, |info| info.version = "marked".to_owned());
    mouth.say(&Up::Info(marked)).await.unwrap();
    lab.until("all was read", |cluster| cluster.nodes[&worker].info.version == "marked").await;
    let after = lab.store.snapshot();
    assert_eq!(after.tasks, before.tasks);
    assert_eq!(after.revision.0, before.revision.0 + 1, "nothing else came into the log");
    let reign = lab.control.reign.borrow().clone().unwrap();
    assert_eq!(reign.reports.len(), 0);
    drop(reign);

    // While it goes on, others are served.
    let flood = async {
        let reports: Vec<_> = (0..2500).map(forged).collect();
        while mouth.say(&Up::Status(reports.clone())).await.is_ok() {}
    };
    let scale = async {
        lab.deploy("v1", 6).await;
        lab.until("six tasks run", |cluster| {
            cluster.tasks.values().filter(|task| task.is_ready()).count() == 6
        })
        .await
    };
    tokio::select! {
        () = flood => panic!("the session ended"),
        took = scale => println!("six tasks run after {took:?} while another node floods"),
    }
    let forged = |task: &Arc<crate::model::Task>| task.status.message.as_deref() == Some("forged");
    assert!(!lab.store.snapshot().tasks.values().any(forged));
    lab.control.stop().await;
    lab.store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_claims_of_others_is_refused_and_told() {
    let lab = Lab::start().await;
    let worker = lab.admit_as("bee", Role::Worker).await;
    let own = info("bee", worker);
    let mouth = Mouth::open(&lab, worker, 2, own.clone()).await;
    lab.until("ready", |cluster| ready(cluster, worker)).await;
    let first = plan::init::FIRST_NODE;
    let theirs = lab.store.snapshot().nodes[&first].info.clone();
    let claim = with(&own, |info| {
        (info.hostname, info.control, info.version) = ("ant".to_owned(), theirs.control, "0.2.0".to_owned());
    });
    mouth.say(&Up::Info(claim)).await.unwrap();
    lab.until("the rest is in force", |cluster| cluster.nodes[&worker].info.version == "0.2.0").await;
    let node = lab.store.snapshot().nodes[&worker].clone();
    assert_eq!((&node.info.hostname, node.info.control), (&own.hostname, own.control));
    mouth.is_told("host name `ant` belongs to node n1").await;
    mouth.is_told("is in use by node n1").await;
    let views = plan::show::nodes(&lab.store.snapshot(), first, &BTreeMap::new());
    let view = views.iter().find(|view| view.id == worker).unwrap();
    assert_eq!(view.problems.len(), 2, "operators see it in `node ls` and `node inspect`: {view:?}");
    lab.control.stop().await;
    lab.store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_change_without_end_are_taken_over_at_a_rate_and_the_newest_wins() {
    let lab = Lab::start().await;
    let worker = lab.admit_as("bee", Role::Worker).await;
    let own = info("bee", worker);
    let mouth = Mouth::open(&lab, worker, 2, own.clone()).await;
    lab.until("ready", |cluster| ready(cluster, worker)).await;
    let before = lab.store.snapshot().revision.0;
    for number in 0..=1000 {
        let claim = with(&own, |info| info.version = format!("0.0.{number}"));
        mouth.say(&Up::Info(claim)).await.unwrap();
    }
    lab.until("the newest is in force", |cluster| cluster.nodes[&worker].info.version == "0.0.1000").await;
    let entries = lab.store.snapshot().revision.0 - before;
    assert!(entries <= 10, "{entries} entries of the log");
    // Nor do new sessions help.
    let before = lab.store.snapshot().revision.0;
    for process in 3..40 {
        let claim = with(&own, |info| info.version = format!("1.0.{process}"));
        let _ = Mouth::open(&lab, worker, process, claim).await;
    }
    let last = with(&own, |info| info.version = "1.1.0".to_owned());
    let _last = Mouth::open(&lab, worker, 41, last).await;
    lab.until("the newest is in force", |cluster| cluster.nodes[&worker].info.version == "1.1.0").await;
    let entries = lab.store.snapshot().revision.0 - before;
    assert!(entries <= 10, "{entries} entries of the log");
    lab.control.stop().await;
    lab.store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_too_large_ends_its_session_alone() {
    let lab = Lab::start().await;
    let worker = lab.admit_as("bee", Role::Worker).await;
    let own = info("bee", worker);
    let mouth = Mouth::open(&lab, worker, 2, own.clone()).await;
    lab.until("ready", |cluster| ready(cluster, worker)).await;
    let before = lab.store.snapshot();
    let huge = with(&own, |info| info.platform.engine_labels = vec!["k=v".to_owned(); 1 << 20]);
    let _ = mouth.say(&Up::Info(huge)).await;
    timeout(LIMIT, mouth.work).await.expect("the session ends").unwrap();
    assert_eq!(lab.store.snapshot().nodes, before.nodes);
    let again = Mouth::open(&lab, worker, 3, with(&own, |info| info.version = "0.3.0".to_owned())).await;
    lab.until("it is heard again", |cluster| cluster.nodes[&worker].info.version == "0.3.0").await;
    drop(again);
    lab.control.stop().await;
    lab.store.stop().await;
}
