//! Clusters in one process, in memory and on paused time.

use super::{
    wire::{Entry, Message},
    *,
};
use std::collections::BTreeSet;
use tokio::time::sleep;

/// Gossip of many nodes in memory; each can be cut off.
struct Lab {
    nodes: BTreeMap<NodeId, Gossip>,
    cut: Arc<Mutex<BTreeSet<NodeId>>>,
    /// What each node said of itself last, and when.
    said: Arc<Mutex<BTreeMap<NodeId, (Entry, Instant)>>>,
    peers: watch::Sender<Arc<BTreeMap<NodeId, SocketAddr>>>,
}

type Directory = Arc<Mutex<BTreeMap<NodeId, Gossip>>>;

const CLUSTER: ClusterId = ClusterId::from_random(1);

fn addr_of(node: NodeId) -> SocketAddr {
    let [.., high, low] = node.number().to_be_bytes();
    ([10, 0, high, low], 7238).into()
}

fn addrs(nodes: impl IntoIterator<Item = u64>) -> Arc<BTreeMap<NodeId, SocketAddr>> {
    Arc::new(nodes.into_iter().map(NodeId::new).map(|node| (node, addr_of(node))).collect())
}

/// What a message says of its sender.
fn own_entry(from: NodeId, message: &[u8]) -> Option<Entry> {
    match Message::decode(message, from, &CLUSTER.to_string()).unwrap().0 {
        Message::Syn { entries } | Message::SynAck { entries, .. } => {
            // All nodes, and a receiver that the state does not have yet.
            assert!(entries.len() <= MOST_NODES + 1);
            entries.into_iter().find(|entry| entry.node == from)
        }
        Message::Ack { .. } => None,
    }
}

impl Lab {
    fn new(count: u64, loss_percent: u32) -> Self {
        Self::with_absent(count, 0, loss_percent)
    }

    /// `absent` more nodes are in the state and were never there.
    fn with_absent(count: u64, absent: u64, loss_percent: u32) -> Self {
        let cut: Arc<Mutex<BTreeSet<NodeId>>> = Arc::default();
        let said: Arc<Mutex<BTreeMap<NodeId, (Entry, Instant)>>> = Arc::default();
        let directory: Directory = Arc::default();
        let (peers, watch) = watch::channel(addrs(1..=count + absent));
        for n in 1..=count {
            let me = NodeId::new(n);
            let (to, cut, said) = (directory.clone(), cut.clone(), said.clone());
            let send: SendMessage = Arc::new(move |node, addr, message: Bytes| {
                assert_eq!(addr, addr_of(node));
                said.lock().unwrap().extend(own_entry(me, &message).map(|own| (me, (own, Instant::now()))));
                let cut = cut.lock().unwrap();
                if cut.contains(&me) || cut.contains(&node) || rand::random_ratio(loss_percent, 100) {
                    return;
                }
                let target = to.lock().unwrap().get(&node).cloned();
                if let Some(target) = target {
                    target.receive(me, addr_of(me), &message);
                }
            });
            let values = BTreeMap::from([(key::HOSTNAME.to_owned(), format!("host{n}"))]);
            let gossip =
                Gossip::start(GossipConfig { cluster: CLUSTER, me, peers: watch.clone(), send, values });
            directory.lock().unwrap().insert(me, gossip);
        }
        let nodes = directory.lock().unwrap().clone();
        Self { nodes, cut, said, peers }
    }

    /// `from` sends these entries to `to`.
    fn forge(&self, from: u64, to: u64, entries: &[Entry]) {
        let (from, to) = (NodeId::new(from), NodeId::new(to));
        let message = Message::Syn { entries: entries.to_vec() }.encode(from, to, &CLUSTER.to_string());
        self.nodes[&to].receive(from, addr_of(from), &message);
    }

    /// What a node said of itself last, and would say now.
    fn would_say(&self, node: u64) -> Entry {
        let (entry, at) = self.said.lock().unwrap()[&NodeId::new(node)];
        Entry { heartbeat: entry.heartbeat + at.elapsed().as_millis() as u64, ..entry }
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
    for (count, victims) in [(2, 1), (3, 2), (5, 4), (20, 3), (50, 1)] {
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
        // Of many nodes each is in contact with each other one now and then only.
        let most = Duration::from_millis(if count < 50 { 2500 } else { 3500 });
        assert!(times[times.len() / 2] <= most, "{count} nodes: {times:?}");
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
    lab.until("silence", SILENT + INTERVAL * 2, silent).await;
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

/// Entries that lie about a node in all ways.
fn lies(true_one: Entry) -> [Entry; 5] {
    [
        Entry { generation: u64::MAX, heartbeat: u64::MAX, ..true_one },
        Entry { generation: true_one.generation + 1, ..true_one },
        Entry { generation: 0, heartbeat: 1, ..true_one },
        Entry { heartbeat: u64::MAX, ..true_one },
        Entry { heartbeat: true_one.heartbeat + 1_000, ..true_one },
    ]
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_cannot_be_kept_alive_by_others() {
    let lab = Lab::new(4, 0);
    lab.all_see_all().await;
    sleep(Duration::from_secs(5)).await;
    let dead = NodeId::new(4);
    lab.cut.lock().unwrap().insert(dead);
    let start = Instant::now();
    let mut seen = None;
    while start.elapsed() < Duration::from_secs(30) {
        // The best forgery, and all others.
        let truly = lab.would_say(4);
        for to in [1, 3] {
            lab.forge(2, to, &[truly]);
            lab.forge(2, to, &lies(truly));
        }
        sleep(Duration::from_millis(250)).await;
        let alive = [1, 3].iter().any(|by| lab.sightings(*by).nodes[&dead].alive);
        match seen {
            None if !alive => seen = Some(start.elapsed()),
            None => assert!(start.elapsed() < Duration::from_secs(4)),
            Some(_) => assert!(!alive, "alive again after {:?}", start.elapsed()),
        }
    }
    println!("a death that others deny is seen after {seen:?}");
    assert_eq!([1, 3].map(|by| lab.alive(by)), [2, 2], "the others live");
}

#[tokio::test(start_paused = true)]
async fn a_live_node_cannot_be_made_to_look_dead_or_changed() {
    for count in [3, 20] {
        let lab = Lab::new(count, 0);
        lab.all_see_all().await;
        sleep(Duration::from_secs(5)).await;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            for victim in (1..=count).filter(|n| *n != 2) {
                let lies = lies(lab.would_say(victim));
                let others = (1..=count).filter(|n| *n != 2 && *n != victim);
                others.for_each(|to| lab.forge(2, to, &lies));
            }
            sleep(Duration::from_millis(500)).await;
            for by in 1..=count {
                let sightings = lab.sightings(by);
                assert!(!sightings.impaired);
                for (node, sighting) in &sightings.nodes {
                    assert!(sighting.alive, "{node} as n{by} of {count} sees it");
                    assert_eq!(sighting.values[key::HOSTNAME], format!("host{}", node.number()));
                }
            }
        }
        // A process that is really new is seen in spite of all that.
        lab.cut.lock().unwrap().insert(NodeId::new(1));
        let dead = |lab: &Lab| !lab.sightings(3).nodes[&NodeId::new(1)].alive;
        lab.until("a death is seen", Duration::from_secs(8), dead).await;
        lab.cut.lock().unwrap().clear();
        lab.all_see_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn values_are_taken_from_their_owner_alone() {
    let lab = Lab::new(3, 0);
    lab.all_see_all().await;
    let forged = wire::Value { key: key::FABRIC.into(), value: "192.0.2.1:7239".into(), version: 1_000_000 };
    let generation = lab.would_say(3).generation;
    let published = Some(wire::Published { generation, values: vec![forged] });
    // Written as the values of n3, and sent by n2.
    let message = Message::Ack { published }.encode(NodeId::new(3), NodeId::new(1), &CLUSTER.to_string());
    let one = &lab.nodes[&NodeId::new(1)];
    one.receive(NodeId::new(2), addr_of(NodeId::new(2)), &message);
    sleep(Duration::from_secs(2)).await;
    assert!(!lab.sightings(1).nodes[&NodeId::new(3)].values.contains_key(key::FABRIC));
    assert!(!lab.sightings(1).nodes[&NodeId::new(2)].values.contains_key(key::FABRIC));
    lab.nodes[&NodeId::new(3)].set(key::FABRIC, "10.0.0.3:7239");
    let moved = |lab: &Lab| {
        let values = lab.sightings(1).nodes[&NodeId::new(3)].values.clone();
        values.get(key::FABRIC).is_some_and(|at| at == "10.0.0.3:7239")
    };
    lab.until("the true value is known", Duration::from_secs(2), moved).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_that_do_not_exist_count_for_nothing() {
    // Ten are in the state and were never there, and hundreds are invented.
    let lab = Lab::with_absent(4, 10, 0);
    lab.until("all see all", Duration::from_secs(20), |lab| (1..=4).all(|by| lab.alive(by) == 3)).await;
    sleep(Duration::from_secs(5)).await;
    lab.cut.lock().unwrap().insert(NodeId::new(3));
    let died = Instant::now();
    let mut heartbeat = 0;
    for round in 0..8_u64 {
        for _ in 0..12 {
            heartbeat += 250;
            let invented = (0..50).map(|n| 1000 + round * 100 + n);
            let entry = |n| Entry { node: NodeId::new(n), generation: 1, heartbeat, version: 1 };
            let entries: Vec<_> = invented.chain(5..=14).map(entry).collect();
            lab.forge(2, 1, &entries);
            sleep(Duration::from_millis(250)).await;
            assert!(!lab.sightings(1).impaired);
        }
        // They all fall silent at once.
        for _ in 0..14 {
            sleep(Duration::from_millis(250)).await;
            assert!(!lab.sightings(1).impaired);
        }
        let sightings = lab.sightings(1);
        assert!(sightings.is_quiet(NodeId::new(3)), "after {:?}", died.elapsed());
        assert_eq!(sightings.nodes.len(), 13);
        let alive: Vec<_> =
            sightings.nodes.iter().filter(|(_, s)| s.alive).map(|(n, _)| n.number()).collect();
        assert_eq!(alive, [2, 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_node_is_seen_as_soon_as_the_state_has_it() {
    let lab = Lab::new(4, 0);
    lab.all_see_all().await;
    // The others do not know n4 yet; it knows them and calls.
    lab.peers.send_replace(addrs(1..=3));
    lab.until("n4 is forgotten", Duration::from_secs(2), |lab| lab.sightings(1).nodes.len() == 2).await;
    let four = NodeId::new(4);
    for round in 0..10 {
        let heartbeat = 1 + round * 250;
        let own = Entry { node: four, generation: 9, heartbeat, version: 0 };
        (1..=3).for_each(|to| lab.forge(4, to, &[own]));
        sleep(Duration::from_millis(250)).await;
    }
    assert!((1..=3).all(|by| !lab.sightings(by).nodes.contains_key(&four)), "it is no node of the state yet");
    lab.peers.send_replace(addrs(1..=4));
    lab.until("n4 is seen", Duration::from_millis(100), |lab| (1..=3).all(|by| lab.alive(by) == 3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_node_does_not_drown_the_others() {
    let lab = Lab::new(4, 0);
    lab.all_see_all().await;
    let large = vec![0xff; wire::max_len()];
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        for n in 0..50_usize {
            let bytes = &large[..(n * n * 50).min(large.len())];
            lab.nodes[&NodeId::new(1)].receive(NodeId::new(2), addr_of(NodeId::new(2)), bytes);
        }
        sleep(Duration::from_millis(50)).await;
        let sightings = lab.sightings(1);
        assert!([3, 4].iter().all(|n| sightings.nodes[&NodeId::new(*n)].alive));
    }
}

/// One real node among many that are no more than a heartbeat, so that crowds are cheap.
struct Crowd {
    one: Gossip,
    begun: Instant,
    /// Nodes from this one on are dead, since then.
    dead: Arc<Mutex<Option<(u64, Instant)>>>,
    /// Bytes of the longest message of the real one.
    longest: Arc<Mutex<usize>>,
    _others: tokio_util::task::AbortOnDropHandle<()>,
}

impl Crowd {
    fn new(count: u64) -> Self {
        let (peers, watch) = watch::channel(addrs(1..=count));
        std::mem::forget(peers);
        let begun = Instant::now();
        let dead: Arc<Mutex<Option<(u64, Instant)>>> = Arc::default();
        let longest: Arc<Mutex<usize>> = Arc::default();
        let (sender, mut asked) = mpsc::channel(1000);
        let most = longest.clone();
        let send: SendMessage = Arc::new(move |to, _, message: Bytes| {
            let mut most = most.lock().unwrap();
            *most = message.len().max(*most);
            let _ = sender.try_send((to, message));
        });
        let me = NodeId::new(1);
        let one = Gossip::start(GossipConfig {
            cluster: CLUSTER,
            me,
            peers: watch,
            send,
            values: BTreeMap::from([(key::HOSTNAME.to_owned(), "one".to_owned())]),
        });
        let (to, gone) = (one.clone(), dead.clone());
        let others = tokio::spawn(async move {
            let mut tick = interval(INTERVAL);
            loop {
                let (node, answers) = tokio::select! {
                    // Those who call the real one.
                    _ = tick.tick() => (None, false),
                    Some((node, message)) = asked.recv() => {
                        let decoded = Message::decode(&message, me, &CLUSTER.to_string()).unwrap().0;
                        assert!(matches!(&decoded, Message::Ack { .. }) || own_entry(me, &message).is_some());
                        (Some(node), matches!(decoded, Message::Syn { .. }))
                    }
                };
                let gone = *gone.lock().unwrap();
                let callers = match node {
                    Some(node) if answers => vec![node.number()],
                    Some(_) => Vec::new(),
                    None => (0..3).map(|_| rand::random_range(2..=count)).collect(),
                };
                for caller in callers.into_iter().filter(|n| gone.is_none_or(|(first, _)| *n < first)) {
                    let entries = Self::entries(begun, caller, count, gone);
                    let message = match answers {
                        true => Message::SynAck { entries, published: None },
                        false => Message::Syn { entries },
                    };
                    let caller = NodeId::new(caller);
                    to.receive(caller, addr_of(caller), &message.encode(caller, me, &CLUSTER.to_string()));
                }
            }
        });
        let _others = tokio_util::task::AbortOnDropHandle::new(others);
        Self { one, begun, dead, longest, _others }
    }

    /// What a node of the crowd says of itself and of those that all nodes keep in view, the lowest ids, up to half a second
    /// late.
    fn entries(begun: Instant, by: u64, count: u64, dead: Option<(u64, Instant)>) -> Vec<Entry> {
        let ms = |at: Instant| (at - begun).as_millis() as u64;
        let heartbeat = |n: u64| {
            let late = if n == by { 0 } else { rand::random_range(0..500) };
            let heard = ms(Instant::now()).saturating_sub(late);
            dead.filter(|(first, _)| n >= *first).map_or(heard, |(_, at)| heard.min(ms(at))) + 1
        };
        let others = (1..=count).filter(|n| *n != by);
        let entry = |n| Entry { node: NodeId::new(n), generation: 7, heartbeat: heartbeat(n), version: 1 };
        std::iter::once(by).chain(others.take(MOST_NODES - 1)).map(entry).collect()
    }

    fn alive(&self) -> u64 {
        self.one.view().borrow().nodes.values().filter(|sighting| sighting.alive).count() as u64
    }

    async fn until(&self, what: &str, within: Duration, is: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is(self) {
            assert!(start.elapsed() < within, "{what} within {within:?}: {} alive", self.alive());
            sleep(Duration::from_millis(250)).await;
        }
        start.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn crowds_of_any_size_see_each_other() {
    // 1,147 nodes fill a message of 64 KiB, which ends chitchat by an assertion. Those beyond a thousand are left out.
    for count in [1000, 1200, 3000] {
        let crowd = Crowd::new(count);
        let most = MOST_NODES as u64;
        let took =
            crowd.until("all are seen", Duration::from_secs(10), |crowd| crowd.alive() == most - 1).await;
        println!("{count} nodes are seen after {took:?}");
        while crowd.begun.elapsed() < Duration::from_secs(20) {
            assert_eq!(crowd.alive(), most - 1, "after {:?}", crowd.begun.elapsed());
            sleep(Duration::from_millis(250)).await;
        }
        *crowd.dead.lock().unwrap() = Some((most - 9, Instant::now()));
        let died = |crowd: &Crowd| crowd.alive() == MOST_NODES as u64 - 11;
        let took = crowd.until("ten deaths are seen", Duration::from_secs(10), died).await;
        let longest = *crowd.longest.lock().unwrap();
        println!(
            "ten deaths among {count} nodes are seen after {took:?}; the longest message has {longest} bytes"
        );
        assert!(longest <= 64 << 10 && longest > 55_000, "{longest}");
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "a thousand real nodes: minutes without --release"]
async fn a_thousand_real_nodes_see_each_other() {
    let start = std::time::Instant::now();
    let lab = Lab::new(1000, 0);
    let took = lab.all_see_all().await;
    println!("all of 1000 see all after {took:?} ({:?} of computing)", start.elapsed());
}

mod exchange_tests {
    use super::*;

    /// Whatever is sent, the memory for it is bounded.
    #[test]
    fn newcomers_and_invented_nodes_are_bounded() {
        let now = Instant::now();
        let mut exchange = Exchange::new(now, NodeId::new(1), 1);
        exchange.set_peers(now, (1..=3).map(NodeId::new));
        for n in 2..10_000 {
            let entry = |n: u64| Entry { node: NodeId::new(n), generation: 1, heartbeat: 1, version: 1 };
            let entries = (n..n + 50).map(entry).collect();
            exchange.receive(now, NodeId::new(n), addr_of(NodeId::new(n)), Message::Syn { entries });
        }
        assert_eq!(exchange.tracked(), 2 + NEWCOMERS);
        exchange.look(now + Duration::from_secs(100));
        assert_eq!(exchange.tracked(), 2);
    }
}

mod watcher_tests {
    use super::{super::watcher::Watcher, *};

    struct Bench {
        watcher: Watcher,
        now: Instant,
        heartbeat: u64,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let mut watcher = Watcher::new(now);
            watcher.set_peers(now, &(2..=4).map(NodeId::new).collect());
            Self { watcher, now, heartbeat: 0 }
        }

        fn hears(&mut self, node: u64) {
            self.heartbeat += 1;
            let own = Entry { node: NodeId::new(node), generation: 1, heartbeat: self.heartbeat, version: 0 };
            assert!(self.watcher.hear(
                self.now,
                NodeId::new(node),
                addr_of(NodeId::new(node)),
                true,
                Some(&own)
            ));
        }

        /// Looks once after `after`; the nodes given by number call.
        fn look(&mut self, after: Duration, calling: &[u64]) -> Sightings {
            self.now += after;
            calling.iter().for_each(|node| self.hears(*node));
            self.watcher.look(self.now)
        }

        fn run(&mut self, time: Duration, calling: &[u64]) -> Sightings {
            let mut last = self.look(INTERVAL, calling);
            for _ in 1..time.as_millis() / INTERVAL.as_millis() {
                last = self.look(INTERVAL, calling);
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
        let calm = bench.run(Duration::from_secs(5), &[2, 3, 4]);
        assert_eq!((alive(&calm), calm.impaired), (vec![2, 3, 4], false));
        // Paused for five seconds: everybody was silent.
        let woken = bench.look(Duration::from_secs(5), &[]);
        assert_eq!((alive(&woken), woken.impaired), (vec![2, 3, 4], true));
        // One of them is really gone; that is said only once the others were heard for a while.
        let later = bench.run(Duration::from_secs(2), &[2, 3]);
        assert!(later.impaired);
        let later = bench.run(Duration::from_secs(3), &[2, 3]);
        assert_eq!((alive(&later), later.impaired), (vec![2, 3], false));
        assert!(later.is_quiet(NodeId::new(4)));
    }

    #[test]
    fn many_signs_of_life_do_not_make_it_hasty() {
        let mut bench = Bench::new();
        for _ in 0..1000 {
            bench.look(Duration::from_millis(10), &[2, 3, 4]);
        }
        let soon = bench.run(Duration::from_millis(1500), &[2, 3]);
        assert_eq!(alive(&soon), [2, 3, 4]);
        let late = bench.run(Duration::from_millis(500), &[2, 3]);
        assert_eq!(alive(&late), [2, 3]);
    }

    #[test]
    fn few_signs_of_life_make_it_patient() {
        let mut bench = Bench::new();
        // Each is heard once a second.
        for _ in 0..100 {
            bench.run(Duration::from_millis(1000), &[2, 3]);
            bench.hears(4);
        }
        let soon = bench.run(Duration::from_millis(2250), &[2, 3]);
        assert_eq!(alive(&soon), [2, 3, 4]);
    }

    #[test]
    fn old_news_is_no_sign_of_life() {
        let mut bench = Bench::new();
        for _ in 0..12 {
            let news = Entry { node: NodeId::new(3), generation: 1, heartbeat: 77, version: 1 };
            bench.watcher.hear_of(bench.now, &news);
            let seen = bench.look(INTERVAL, &[2]);
            assert_eq!(alive(&seen), [2], "3 was told of and never moved, 4 was never heard");
        }
    }
}
