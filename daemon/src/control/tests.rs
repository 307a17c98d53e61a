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

const LIMIT: Duration = Duration::from_secs(20);

struct Lab {
    _dir: tempfile::TempDir,
    store: Store,
    control: Control,
    gossip: watch::Sender<Arc<Sightings>>,
    ids: Ids,
}

fn info(hostname: &str) -> NodeInfo {
    NodeInfo {
        hostname: hostname.to_owned(),
        control: "127.0.0.1:9".parse().unwrap(),
        underlay: "127.0.0.1".parse().unwrap(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        version: "0.1.0".to_owned(),
        level: Default::default(),
        platform: Platform {
            memory: MemBytes(1 << 30),
            engine: Some("28.5.2".to_owned()),
            ..Platform::default()
        },
        deaf: Vec::new(),
    }
}

/// A stack `shop` of one service `web` on one network.
fn shop(image: &str, replicas: u32) -> StackSpec {
    let service = ServiceSpec {
        mode: Mode::Replicated { replicas },
        container: ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() },
        networks: vec![NetworkAttachment { network: "default".parse().unwrap(), aliases: Vec::new() }],
        ports: Vec::new(),
        endpoint_mode: Default::default(),
        restart: Default::default(),
        placement: Default::default(),
        resources: Default::default(),
        labels: BTreeMap::new(),
        update: Default::default(),
        rollback: Default::default(),
        routing: Default::default(),
    };
    StackSpec {
        name: "shop".parse().unwrap(),
        services: [("web".parse().unwrap(), service)].into(),
        networks: [("default".parse().unwrap(), NetworkSpec::default())].into(),
        volumes: BTreeMap::new(),
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
            info: info("ant"),
        };
        let first = plan::init::cluster(first, now()).unwrap();
        store.initialize("127.0.0.1:9".parse().unwrap(), first).await.unwrap();
        let (gossip, view) = watch::channel(Arc::new(Sightings::default()));
        let control = Control::start(store.clone(), net, view, crate::secret::Key::generate());
        Self { _dir: dir, store, control, gossip, ids: Ids::seeded(7) }
    }

    async fn admit(&self, hostname: &str) -> NodeId {
        let request = JoinRequest {
            secret: [0; 16],
            role: Role::Manager,
            csr: Vec::new(),
            info: info(hostname),
            attempt: 7,
        };
        self.store.change(|cluster, now| plan::nodes::admit(cluster, &request, now)).await.unwrap().1
    }

    async fn deploy(&mut self, image: &str, replicas: u32) {
        let spec = shop(image, replicas);
        let deploy = Deploy { spec, credentials: BTreeMap::new() };
        let ids = &mut self.ids;
        let work = |cluster: &Cluster, now| plan::stacks::deploy(cluster, &deploy, Vec::new(), now, ids);
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
            let progress =
                plan::progress::progress(&World::new(cluster.clone()), Selector::Stack(stack)).unwrap();
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
        let work = tokio::spawn(Self::run(near, info(&format!("host-{node}")), process, view.clone()));
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
                Down::Accepted | Down::Alive => continue,
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
