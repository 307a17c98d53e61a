//! Three managers whose disks and links stall: decisions overlap in time with those that are still on their way.
//!
//! Checked after every applied change, on every manager: the invariants of `plan::check`. Checked at the end: each
//! change that was asked for took effect once, and everything settles.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use raftup_proto::{
    api::{Availability, NodeUpdate, ServiceUpdate},
    refusal::{Code, Refusal},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use super::*;
use crate::{
    model::{ChangeSet, ClusterInfo, Membership, Node, RequestKey},
    plan::check,
    store::{
        sample,
        tests::web::{Web, addr, id},
    },
};

/// How many states were checked, and what was wrong with them.
#[derive(Default)]
struct Witness {
    states: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Witness {
    /// Of the first state that is wrong also the tasks that the change made, changed or removed.
    fn report(&self, found: Vec<String>, before: &Cluster, after: &Cluster) {
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.is_empty() {
            let ids: BTreeSet<_> = before.tasks.keys().chain(after.tasks.keys()).collect();
            let of = |id: &_| (before.tasks.get(id), after.tasks.get(id));
            let changed = ids.into_iter().map(of).filter(|(old, new)| old != new);
            wrong.extend(changed.map(|(old, new)| format!("{old:#?} became {new:#?}")));
        }
        wrong.extend(found);
    }
}

struct Trio {
    web: Web,
    stores: Vec<Store>,
    controls: Vec<Control>,
    witness: Arc<Witness>,
    agents: Vec<JoinHandle<()>>,
    ids: Arc<Mutex<Ids>>,
}

impl Trio {
    async fn start() -> Self {
        let web = Web::new();
        let stores = web.cluster(3).await;
        let lead = stores.iter().find(|store| store.leadership().borrow().here).unwrap();
        lead.change(|cluster, now| Ok((three_nodes(cluster, now), ()))).await.unwrap();
        let witness = Arc::new(Witness::default());
        let (mut controls, mut agents) = (Vec::new(), Vec::new());
        for store in &stores {
            let seen = witness.clone();
            store.observe(Arc::new(move |before: &Cluster, after: &Cluster| {
                seen.states.fetch_add(1, Ordering::Relaxed);
                let wrong = [check::state(after), check::step(before, after)].concat();
                if !wrong.is_empty() {
                    seen.report(wrong, before, after);
                }
            }));
            let net = Net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let mut seen = Sightings::default();
            for node in 1..=3 {
                let sighting =
                    Sighting { alive: true, since: Instant::now(), silent: false, values: Arc::default() };
                seen.nodes.insert(id(node), sighting);
            }
            let (gossip, view) = watch::channel(Arc::new(seen));
            // Nobody is ever silent here.
            std::mem::forget(gossip);
            controls.push(Control::start(store.clone(), net, view, crate::secret::Key::generate()));
        }
        for node in 1..=3 {
            agents.push(tokio::spawn(agent(stores.clone(), controls.clone(), node)));
        }
        Self { web, stores, controls, witness, agents, ids: Arc::new(Mutex::new(Ids::seeded(7))) }
    }

    /// Asks for a change as a node does for its client: of each leader in turn, under one name, until it is done.
    async fn ask(
        &self,
        name: u64,
        work: impl Fn(&Cluster, raftup_proto::unit::UnixMillis) -> Result<ChangeSet, Refusal> + Send + Sync,
    ) -> usize {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&name.to_be_bytes());
        let mut tries = 0;
        loop {
            for store in self.stores.iter().filter(|store| store.leadership().borrow().here) {
                tries += 1;
                let asked = store.change_once(RequestKey(key), |cluster, now| Ok((work(cluster, now)?, ())));
                match asked.await {
                    Ok(_) => return tries,
                    Err(refusal) => assert_eq!(refusal.code, Code::Unavailable, "{refusal}"),
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn deploy(&self, name: u64, replicas: u32) -> usize {
        let spec = shop("v1", replicas);
        let deploy = Deploy { spec, credentials: BTreeMap::new(), keep: false };
        let ids = self.ids.clone();
        self.ask(name, move |cluster, now| {
            Ok(plan::stacks::deploy(
                cluster,
                &deploy,
                Vec::new(),
                &Default::default(),
                &Default::default(),
                now,
                &mut ids.lock().unwrap(),
            )?
            .0)
        })
        .await
    }

    async fn update(&self, name: u64, update: ServiceUpdate) -> usize {
        self.ask(name, move |cluster, now| {
            let service = plan::find::service(cluster, "shop_web")?.id;
            Ok(plan::services::update(cluster, service, &update, &Default::default(), now)?.0)
        })
        .await
    }

    async fn allow(&self, name: u64, node: u64, availability: Availability) -> usize {
        let update = NodeUpdate { availability: Some(availability), ..NodeUpdate::default() };
        self.ask(name, move |cluster, now| plan::nodes::update(cluster, id(node), &update, now)).await
    }

    /// Waits until all managers have the same state, and it stays as it is for two seconds.
    async fn settles(&self) -> Cluster {
        let settled = async {
            let mut last: Option<(Cluster, Instant)> = None;
            loop {
                let states: Vec<Cluster> = self.stores.iter().map(Store::snapshot).collect();
                let revision = states[0].revision;
                let same = states.iter().all(|state| state.revision == revision);
                match &last {
                    Some((state, since)) if same && state.revision == revision => {
                        if since.elapsed() > Duration::from_secs(2) {
                            return states[0].clone();
                        }
                    }
                    _ if same => last = Some((states[0].clone(), Instant::now())),
                    _ => last = None,
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(120), settled).await.expect("it does not settle")
    }

    fn assert_sound(&self) {
        let wrong = self.witness.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(20)]);
    }

    async fn stop(self) {
        for agent in self.agents {
            agent.abort();
        }
        for control in &self.controls {
            control.stop().await;
        }
        for store in &self.stores {
            store.stop().await;
        }
    }
}

/// The cluster that `Web` makes has one node; three hold the state.
fn three_nodes(cluster: &Cluster, now: raftup_proto::unit::UnixMillis) -> ChangeSet {
    let mut set = ChangeSet::new(now);
    let info = cluster.info.as_deref().unwrap();
    set.update(ClusterInfo { next_node: 4, next_member: 4, ..info.clone() });
    for number in 1..=3_u64 {
        let mut node = Node {
            membership: Some(Membership { member: number }),
            fabric: format!("10.64.0.{number}").parse().unwrap(),
            blocks: BTreeMap::new(),
            attached: BTreeMap::new(),
            labels: BTreeMap::new(),
            ..sample::node(number)
        };
        node.info.control = addr(number);
        node.info.platform.memory = MemBytes(1 << 40);
        node.info.platform.engine = Some("28.5.2".to_owned());
        node.info.fabric_keys = vec![raftup_proto::peer::FabricKey([number as u8; 32])];
        match cluster.nodes.get(&node.id) {
            Some(old) => set.update(Node { meta: old.meta, ..node }),
            None => set.create(node),
        }
    }
    set
}

/// An agent that follows the leader: opens a session wherever one leads, for ever.
async fn agent(stores: Vec<Store>, controls: Vec<Control>, node: u64) {
    let info = stores[0].snapshot().nodes[&id(node)].info.clone();
    for process in 0.. {
        for (store, control) in stores.iter().zip(&controls) {
            if !store.leadership().borrow().here {
                continue;
            }
            let (near, far) = Stream::pair();
            let caller = Caller { node: id(node), role: Role::Manager, addr: addr(node) };
            let control = control.clone();
            let session = tokio::spawn(async move { control.session(caller, far).await });
            let _ = Agent::run(near, info.clone(), process, Arc::default()).await;
            session.abort();
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn running(cluster: &Cluster) -> Vec<u64> {
    let ready = cluster.tasks.values().filter(|task| task.is_ready());
    let mut slots: Vec<u64> = ready.map(|task| task.slot.number()).collect();
    slots.sort_unstable();
    slots
}

/// While the leader's own disk and then the links stand still, its state does not move, and there is nothing new to decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn decisions_wait_for_a_disk_that_stands_still() {
    let trio = Trio::start().await;
    trio.deploy(1, 4).await;
    let done = |cluster: &Cluster, replicas: u64| running(cluster) == (1..=replicas).collect::<Vec<_>>();
    let until = |replicas| {
        let stores = trio.stores.clone();
        crate::store::tests::web::until(move || stores.iter().all(|store| done(&store.snapshot(), replicas)))
    };
    until(4).await;
    let before = trio.stores[0].snapshot().revision;
    for node in 1..=3 {
        trio.web.stall_disk(node, Duration::from_secs(4));
    }
    trio.update(2, ServiceUpdate { replicas: Some(8), ..ServiceUpdate::default() }).await;
    until(8).await;
    let cluster = trio.settles().await;
    trio.assert_sound();
    assert_eq!(cluster.tasks.len(), 8, "each slot was filled once");
    // The change, what was decided, and reports of eight tasks; not one entry more for each look at a state that stood still.
    assert!(cluster.revision.0 - before.0 < 60, "{} entries", cluster.revision.0 - before.0);
    trio.stop().await;
}

/// `make overlap` runs this; `OVERLAP_CHANGES` and `OVERLAP_SEED` choose how much, and which.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes many minutes: `make overlap`"]
async fn changes_while_disks_and_links_stall_at_random() {
    let number =
        |name: &str, usual: u64| std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let (changes, seed) =
        (number("OVERLAP_CHANGES", 1000), number("OVERLAP_SEED", rand::random::<u32>().into()));
    println!("seed {seed}");
    let trio = Trio::start().await;
    trio.deploy(0, 4).await;
    let over = Arc::new(AtomicBool::new(false));
    let stalls = tokio::spawn({
        let (web, over, mut dice) = (trio.web.clone(), over.clone(), StdRng::seed_from_u64(seed));
        async move {
            while !over.load(Ordering::Relaxed) {
                let (node, long) =
                    (dice.random_range(1..=3), Duration::from_millis(dice.random_range(0..5000)));
                match dice.random_range(0..2) {
                    0 => web.stall_disk(node, long),
                    _ => web.stall_link(node, long),
                }
                sleep(Duration::from_millis(dice.random_range(0..2000))).await;
            }
        }
    });
    let mut dice = StdRng::seed_from_u64(seed + 1);
    let (mut effects, mut tries, mut drained, mut replicas) = (1_u64, 0, None, 4);
    let begun = Instant::now();
    for name in 1..=changes {
        // Some find what came before them still under way, others find it done.
        sleep(Duration::from_millis(dice.random_range(0..400))).await;
        tries += match dice.random_range(0..10) {
            0..4 => {
                replicas = (replicas + dice.random_range(1..12)) % 12;
                effects += 1;
                trio.update(name, ServiceUpdate { replicas: Some(replicas), ..ServiceUpdate::default() })
                    .await
            }
            4..6 => {
                effects += 1;
                let image = Some(format!("v{name}"));
                trio.update(name, ServiceUpdate { image, ..ServiceUpdate::default() }).await
            }
            6..8 => {
                effects += 1;
                trio.update(name, ServiceUpdate { force: true, ..ServiceUpdate::default() }).await
            }
            _ => match drained.take() {
                Some(node) => trio.allow(name, node, Availability::Active).await,
                None => {
                    let node = dice.random_range(1..=3);
                    drained = Some(node);
                    trio.allow(name, node, Availability::Drain).await
                }
            },
        };
    }
    let took = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    stalls.await.unwrap();
    let cluster = trio.settles().await;
    trio.assert_sound();
    let service = plan::find::service(&cluster, "shop_web").unwrap();
    assert_eq!(service.current().number, effects, "each change took effect once");
    let slots = running(&cluster);
    assert!(
        slots.len() == replicas as usize && slots.windows(2).all(|two| two[0] < two[1]),
        "{replicas}: {slots:?}"
    );
    let states = trio.witness.states.load(Ordering::Relaxed);
    println!("{changes} changes asked {tries} times in {took:?}; {states} states were checked; seed {seed}");
    assert!(tries as u64 > changes, "nothing stalled long enough to be asked again");
    trio.stop().await;
}
