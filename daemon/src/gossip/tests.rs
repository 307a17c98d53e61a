//! Clusters in one process: in memory on paused time, and over real UDP.

use super::*;

/// Gossip of many nodes in memory; each can be cut off.
struct Lab {
    nodes: BTreeMap<NodeId, Gossip>,
    cut: Arc<Mutex<BTreeSet<NodeId>>>,
}

type Directory = Arc<Mutex<BTreeMap<NodeId, Gossip>>>;

impl Lab {
    fn new(count: u64, loss_percent: u32) -> Self {
        let cut: Arc<Mutex<BTreeSet<NodeId>>> = Arc::default();
        let directory: Directory = Arc::default();
        let addrs = (1..=count).map(|n| (NodeId::new(n), SocketAddr::from(([10, 0, 0, n as u8], 7238))));
        let (peers, watch) = watch::channel(Arc::new(addrs.collect::<BTreeMap<_, _>>()));
        std::mem::forget(peers);
        for n in 1..=count {
            let me = NodeId::new(n);
            let (to, cut) = (directory.clone(), cut.clone());
            let send: SendMessage = Arc::new(move |node, addr, message: Bytes| {
                let cut = cut.lock().unwrap();
                if cut.contains(&me) || cut.contains(&node) || rand::random_ratio(loss_percent, 100) {
                    return;
                }
                let target = to.lock().unwrap().get(&node).cloned();
                if let Some(target) = target {
                    target.receive(me, addr, &message);
                }
            });
            let values = BTreeMap::from([(key::HOSTNAME.to_owned(), format!("host{n}"))]);
            let cluster = ClusterId::from_random(1);
            let gossip = Gossip::start(GossipConfig { cluster, me, peers: watch.clone(), send, values });
            directory.lock().unwrap().insert(me, gossip);
        }
        let nodes = directory.lock().unwrap().clone();
        Self { nodes, cut }
    }

    fn sightings(&self, by: u64) -> Arc<Sightings> {
        self.nodes[&NodeId::new(by)].view().borrow().clone()
    }

    fn alive(&self, by: u64) -> usize {
        self.sightings(by).nodes.values().filter(|sighting| sighting.alive).count()
    }

    /// Waits on the tokio clock.
    async fn until(&self, what: &str, within: Duration, is: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is(self) {
            assert!(start.elapsed() < within, "{what} within {within:?}");
            sleep(Duration::from_millis(50)).await;
        }
        start.elapsed()
    }

    async fn all_see_all(&self) -> Duration {
        let others = self.nodes.len() - 1;
        let all = |lab: &Self| {
            lab.nodes
                .keys()
                .all(|node| lab.alive(node.number()) == others && !lab.sightings(node.number()).impaired)
        };
        self.until("all see all", Duration::from_secs(20), all).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_seen_by_all() {
    for (count, victims) in [(2, 1), (3, 2), (5, 4), (20, 3)] {
        let lab = Lab::new(count, 0);
        lab.all_see_all().await;
        sleep(Duration::from_secs(10)).await;
        let mut times = Vec::new();
        for victim in (1..=count).rev().take(victims) {
            lab.cut.lock().unwrap().insert(NodeId::new(victim));
            let all_saw = |lab: &Lab| {
                let cut = lab.cut.lock().unwrap().clone();
                (1..=count)
                    .filter(|n| !cut.contains(&NodeId::new(*n)))
                    .all(|by| !lab.sightings(by).nodes[&NodeId::new(victim)].alive)
            };
            times.push(lab.until("death is seen", Duration::from_secs(10), all_saw).await);
            // A node that is back is seen again, and detection is as quick as before.
            lab.cut.lock().unwrap().clear();
            lab.all_see_all().await;
            sleep(Duration::from_secs(10)).await;
        }
        times.sort();
        println!("{count} nodes: seen by all after {times:?}");
        assert!(times[times.len() / 2] <= Duration::from_millis(2500), "{count} nodes: {times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn loss_is_no_death() {
    for count in [2, 3, 5] {
        let lab = Lab::new(count, 20);
        lab.all_see_all().await;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(120) {
            for by in 1..=count {
                assert_eq!(lab.alive(by) as u64, count - 1, "{count} nodes, after {:?}", start.elapsed());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_seen_before_death_and_not_without_reason() {
    let lab = Lab::new(3, 0);
    let victim = NodeId::new(3);
    let silent = |lab: &Lab| lab.sightings(1).nodes.get(&victim).is_none_or(|sighting| sighting.silent);
    lab.until("a sign of life", Duration::from_secs(5), |lab| !silent(lab)).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        assert!(!silent(&lab), "after {:?}", start.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    lab.cut.lock().unwrap().insert(victim);
    lab.until("silence", SILENT + LOOK * 2, silent).await;
    assert!(lab.sightings(1).nodes[&victim].alive, "it does not count as dead yet");
}

#[tokio::test(start_paused = true)]
async fn a_deaf_node_doubts_itself_for_a_while() {
    let lab = Lab::new(5, 0);
    lab.all_see_all().await;
    let me = NodeId::new(1);
    lab.cut.lock().unwrap().insert(me);
    lab.until("doubt", Duration::from_secs(5), |lab| lab.sightings(1).impaired).await;
    let accused = || (2..=5).filter(|node| lab.sightings(1).is_quiet(NodeId::new(*node))).count();
    assert_eq!(accused(), 0);
    let doubt = lab.until("they may be gone", Duration::from_secs(8), |lab| !lab.sightings(1).impaired).await;
    assert!(doubt > Duration::from_secs(4), "{doubt:?}");
    assert_eq!(accused(), 4);
    assert!(lab.sightings(2).is_quiet(me), "the others saw it at once");
    lab.cut.lock().unwrap().clear();
    lab.all_see_all().await;
}

#[tokio::test(start_paused = true)]
async fn values_reach_the_others() {
    let lab = Lab::new(3, 0);
    lab.all_see_all().await;
    lab.nodes[&NodeId::new(1)].set(key::LOAD, 1);
    let took = lab
        .until("a value is known", Duration::from_secs(2), |lab| {
            (2..=3).all(|by| lab.sightings(by).nodes[&NodeId::new(1)].values.contains_key(key::LOAD))
        })
        .await;
    println!("a value is known to all of 3 after {took:?}");
    assert_eq!(lab.sightings(2).nodes[&NodeId::new(1)].values[key::HOSTNAME], "host1");
    assert!(!lab.sightings(2).nodes[&NodeId::new(3)].values.contains_key(key::LOAD));
}

#[tokio::test(start_paused = true)]
async fn malformed_messages_do_no_harm() {
    let lab = Lab::new(3, 0);
    lab.all_see_all().await;
    let (from, addr) = (NodeId::new(2), ([10, 0, 0, 2], 7238).into());
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        lab.nodes[&NodeId::new(1)].receive(from, addr, &bytes);
        let zeros = vec![0; length];
        lab.nodes[&NodeId::new(1)].receive(from, addr, &zeros);
    }
    sleep(Duration::from_secs(5)).await;
    lab.all_see_all().await;
}

mod watcher_tests {
    use super::*;

    fn state() -> &'static NodeState {
        use chitchat::transport::ChannelTransport;
        // chitchat makes a `NodeState` for a running instance only.
        static STATE: std::sync::OnceLock<NodeState> = std::sync::OnceLock::new();
        STATE.get_or_init(|| {
            std::thread::spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (_keep, peers) = watch::channel(Arc::default());
                    let send: SendMessage = Arc::new(|_, _, _| {});
                    let me = NodeId::new(1);
                    let (view, changed) = (watch::channel(Arc::default()).0, watch::channel(()).0);
                    let wire = Wire::new(me, peers, send);
                    let cluster = ClusterId::from_random(1);
                    let shared = Shared { cluster, me, wire, values: Mutex::default(), changed, view };
                    let transport = ChannelTransport::with_mtu(65_000);
                    let handle = spawn_chitchat(shared.config(), Vec::new(), &transport).await.unwrap();
                    handle.chitchat().lock().await.self_node_state().clone()
                })
            })
            .join()
            .unwrap()
        })
    }

    use chitchat::NodeState;

    struct Bench {
        watcher: Watcher,
        now: Instant,
        beat: u64,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            Self { watcher: Watcher::new(now), now, beat: 0 }
        }

        /// Looks once after `after`; the nodes given by number beat, the detector says that all of 2 to 4 live or not.
        fn look(&mut self, after: Duration, beating: &[u64], live: bool) -> Sightings {
            self.now += after;
            self.beat += 1;
            let seen = (2..=4).map(|n| {
                let beat = if beating.contains(&n) { self.beat } else { 0 };
                (NodeId::new(n), Seen { sign: (1, beat), live, version: 1, state: state() })
            });
            self.watcher.look(self.now, seen.collect(), &BTreeSet::new())
        }

        fn run(&mut self, time: Duration, beating: &[u64], live: bool) -> Sightings {
            let mut last = self.look(LOOK, beating, live);
            for _ in 1..time.as_millis() / LOOK.as_millis() {
                last = self.look(LOOK, beating, live);
            }
            last
        }
    }

    fn alive(sightings: &Sightings) -> Vec<u64> {
        sightings.nodes.iter().filter(|(_, s)| s.alive).map(|(node, _)| node.number()).collect()
    }

    #[test]
    fn a_paused_node_accuses_nobody() {
        let mut bench = Bench::new();
        let calm = bench.run(Duration::from_secs(5), &[2, 3, 4], true);
        assert_eq!((alive(&calm), calm.impaired), (vec![2, 3, 4], false));
        // Paused for five seconds: chitchat finds everybody dead at first.
        let woken = bench.look(Duration::from_secs(5), &[], false);
        assert_eq!((alive(&woken), woken.impaired), (vec![2, 3, 4], true));
        // One of them is really gone; that is said only once the others were heard for a while.
        let later = bench.run(Duration::from_secs(2), &[2, 3], true);
        assert!(later.impaired);
        let later = bench.run(Duration::from_secs(3), &[2, 3], false);
        assert_eq!((alive(&later), later.impaired), (vec![2, 3], false));
        assert!(later.is_quiet(NodeId::new(4)));
    }

    #[test]
    fn a_quick_detector_is_not_believed_at_once() {
        let mut bench = Bench::new();
        bench.run(Duration::from_secs(5), &[2, 3, 4], true);
        let soon = bench.run(Duration::from_millis(1500), &[2, 3], false);
        assert_eq!(alive(&soon), [2, 3, 4]);
        let late = bench.run(Duration::from_millis(800), &[2, 3], false);
        assert_eq!(alive(&late), [2, 3]);
    }

    #[test]
    fn old_news_is_no_sign_of_life() {
        let mut bench = Bench::new();
        let first = bench.run(Duration::from_secs(3), &[2], true);
        assert_eq!(alive(&first), [2], "3 and 4 were told of, and never moved");
        let unheard = bench.watcher.look(bench.now, BTreeMap::new(), &BTreeSet::from([NodeId::new(9)]));
        assert!(!unheard.nodes[&NodeId::new(9)].alive);
    }
}
