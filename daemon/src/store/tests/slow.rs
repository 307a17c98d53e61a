//! Three managers over slow links and slow disks: QUIC through relays that delay, lose and queue packets as such links do.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use raftup_proto::{peer::Hello, spec::OPTIONS};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::AsyncWriteExt,
    net::UdpSocket,
    runtime::Runtime,
    sync::mpsc,
    time::{sleep_until, timeout},
};

use super::{
    sample,
    udp::{Host, first_of_three, leader, three_with, until},
};
use crate::{
    model::{ChangeSet, ClusterInfo},
    net::Peer,
};

/// What a link does to the packets of one direction.
#[derive(Clone, Copy, Debug)]
struct Slow {
    bits_per_second: f64,
    /// One way.
    delay: Duration,
    /// Of 100 packets.
    lost: f64,
    /// Packets that would wait longer than this to be sent are dropped.
    queue: Duration,
}

/// The links that the issue of slow managers is about: 200 ms for a round trip.
const WAN: Slow = Slow {
    bits_per_second: 3e6,
    delay: Duration::from_millis(100),
    lost: 5.0,
    queue: Duration::from_millis(400),
};

/// Packets on their way in one direction; more are lost, as on a link.
const PACKETS: usize = 1 << 16;

type Packet = (Vec<u8>, Arc<UdpSocket>, SocketAddr);

/// The links between three hosts, on a thread of their own.
struct Wire {
    slow: AtomicBool,
    link: Slow,
    /// Bytes that were sent by each host to each other one, headers of IP and UDP aside.
    bytes: Mutex<BTreeMap<(usize, usize), Arc<AtomicU64>>>,
    runtime: Runtime,
}

impl Wire {
    fn new(link: Slow) -> Arc<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Arc::new(Self { slow: false.into(), link, bytes: Mutex::default(), runtime: runtime.unwrap() })
    }

    /// Has each host reached through a relay of its own.
    fn place(self: &Arc<Self>, hosts: &mut [Host]) {
        let bound: Vec<SocketAddr> = hosts.iter().map(|host| host.bound).collect();
        let mut ways = BTreeMap::new();
        for from in 0..hosts.len() {
            for to in (0..hosts.len()).filter(|to| *to != from) {
                let (queue, packets) = mpsc::channel(PACKETS);
                let count = Arc::<AtomicU64>::default();
                self.bytes.lock().unwrap().insert((from, to), count.clone());
                ways.insert((from, to), queue);
                let seed = (from * 8 + to) as u64;
                self.runtime.spawn(carry(self.clone(), packets, count, StdRng::seed_from_u64(seed)));
            }
        }
        for (to, host) in hosts.iter_mut().enumerate() {
            let front = self.runtime.block_on(UdpSocket::bind("127.0.0.1:0")).unwrap();
            host.site.addr = front.local_addr().unwrap();
            self.runtime.spawn(relay(Arc::new(front), to, bound.clone(), ways.clone()));
        }
    }

    fn set(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }

    /// Bytes so far from `from` to the host that got most of them.
    fn most_from(&self, from: usize) -> u64 {
        let bytes = self.bytes.lock().unwrap();
        let of = bytes.iter().filter(|((sender, _), _)| *sender == from);
        of.map(|(_, count)| count.load(Ordering::Relaxed)).max().unwrap()
    }
}

/// Passes packets between `front` and host `to`; each caller has a socket of its own on the way to it.
async fn relay(
    front: Arc<UdpSocket>,
    to: usize,
    bound: Vec<SocketAddr>,
    ways: BTreeMap<(usize, usize), mpsc::Sender<Packet>>,
) {
    let mut backs: BTreeMap<usize, Arc<UdpSocket>> = BTreeMap::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (size, caller) = front.recv_from(&mut buffer).await.unwrap();
        let Some(from) = bound.iter().position(|addr| *addr == caller) else { continue };
        if let Entry::Vacant(place) = backs.entry(from) {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            back.connect(bound[to]).await.unwrap();
            place.insert(back.clone());
            let (front, way) = (front.clone(), ways[&(to, from)].clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                // Refused where a host is gone.
                while let Ok(size) = back.recv(&mut buffer).await.or_else(|_| back.try_recv(&mut buffer)) {
                    let _ = way.try_send((buffer[..size].to_vec(), front.clone(), caller));
                }
            });
        }
        let _ = ways[&(from, to)].try_send((buffer[..size].to_vec(), backs[&from].clone(), bound[to]));
    }
}

/// One direction of a link.
async fn carry(
    wire: Arc<Wire>,
    mut packets: mpsc::Receiver<Packet>,
    count: Arc<AtomicU64>,
    mut random: StdRng,
) {
    let (queue, mut due) = mpsc::channel::<(Instant, Packet)>(PACKETS);
    tokio::spawn(async move {
        while let Some((at, (bytes, socket, to))) = due.recv().await {
            sleep_until(at.into()).await;
            let sent = match socket.peer_addr() {
                Ok(_) => socket.send(&bytes).await,
                Err(_) => socket.send_to(&bytes, to).await,
            };
            // A host that is gone is one that nothing reaches.
            let _ = sent;
        }
    });
    let mut free = Instant::now();
    while let Some(packet) = packets.recv().await {
        let now = Instant::now();
        if !wire.slow.load(Ordering::Relaxed) {
            let _ = queue.try_send((now, packet));
            continue;
        }
        free = free.max(now);
        if free - now > wire.link.queue {
            continue;
        }
        count.fetch_add(packet.0.len() as u64, Ordering::Relaxed);
        // Headers of IP and UDP.
        free += Duration::from_secs_f64((packet.0.len() + 28) as f64 * 8.0 / wire.link.bits_per_second);
        if random.random_range(0.0..100.0) >= wire.link.lost {
            let _ = queue.try_send((free + wire.link.delay, packet));
        }
    }
}

/// The first entry of a cluster whose managers all understand parts.
fn first() -> ChangeSet {
    let mut set = ChangeSet::new(sample::task(1).status.since);
    set.create(ClusterInfo { level: OPTIONS, ..sample::info() });
    set.create(sample::node(1));
    set
}

/// A task of about `bytes` bytes that cannot be made smaller.
fn large(id: u64, bytes: usize) -> ChangeSet {
    let mut random = StdRng::seed_from_u64(id);
    let mut task = sample::task(id);
    task.status.message = Some((0..bytes).map(|_| char::from(random.random_range(b' '..b'~'))).collect());
    let mut set = ChangeSet::new(task.status.since);
    set.create(task);
    set
}

fn term(hosts: &[Host]) -> u64 {
    hosts[leader(hosts)].store.leadership().borrow().term
}

fn propose(hosts: &[Host], set: ChangeSet) -> Duration {
    let (at, begun) = (leader(hosts), Instant::now());
    hosts[at].runtime.block_on(hosts[at].store.propose(set)).unwrap();
    begun.elapsed()
}

/// How long `bytes` take from the leader to both others, on a stream with nothing but them.
fn bare(hosts: &[Host], bytes: usize) -> Duration {
    let (at, begun) = (leader(hosts), Instant::now());
    let sends = (0..hosts.len()).filter(|to| *to != at).map(|to| {
        let net = hosts[at].net.clone();
        let peer = Peer { node: hosts[to].site.node, addr: hosts[to].site.addr };
        hosts[at].runtime.spawn(async move {
            let mut stream = net.open(peer, Hello::Api).await.unwrap();
            stream.send.write_all(&vec![7; bytes]).await.unwrap();
            stream.send.finish().await.unwrap();
            stream.read_frame::<()>(64).await.unwrap();
        })
    });
    for send in sends.collect::<Vec<_>>() {
        hosts[at].runtime.block_on(send).unwrap();
    }
    begun.elapsed()
}

#[test]
fn a_large_change_over_slow_links_is_sent_once_and_costs_no_leader() {
    let wire = Wire::new(WAN);
    let hosts = three_with(|hosts| wire.place(hosts), first());
    wire.set(true);
    std::thread::sleep(Duration::from_secs(3));
    let (at, before) = (leader(&hosts), term(&hosts));
    let small: Vec<Duration> = (100..110).map(|id| propose(&hosts, sample::one_task(id))).collect();
    let sent = wire.most_from(at);
    let took = propose(&hosts, large(200, 2 << 20));
    // The slower of the two may still be at it.
    let all = || hosts.iter().all(|host| host.store.snapshot().tasks.len() == 11);
    let begun = Instant::now();
    while !all() {
        assert!(begun.elapsed() < Duration::from_secs(60), "a follower does not get it");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (both, bytes) = (took + begun.elapsed(), wire.most_from(at) - sent);
    let after: Vec<Duration> = (110..120).map(|id| propose(&hosts, sample::one_task(id))).collect();
    let bare = bare(&hosts, 2 << 20);
    println!(
        "2 MiB: agreed in {took:?}, at both in {both:?}, {bytes} bytes on one link; bare: {bare:?}; \
         small changes: at most {:?} before, {:?} after",
        small.iter().max().unwrap(),
        after.iter().max().unwrap()
    );
    assert_eq!(term(&hosts), before, "the leader changed");
    // 5.9 s is what the link takes.
    assert!(took < Duration::from_secs(20), "{took:?}: lost packets are taken for a full queue");
    assert!(bytes < 3 << 20, "{bytes} bytes were sent: it was sent more than once");
    assert!(small.iter().chain(&after).all(|took| *took < Duration::from_secs(2)), "{small:?} {after:?}");
}

#[test]
fn a_large_change_goes_on_where_it_was_when_the_leader_changes() {
    let wire = Wire::new(Slow { lost: 0.0, delay: Duration::from_millis(10), ..WAN });
    let hosts = three_with(|hosts| wire.place(hosts), first());
    wire.set(true);
    let at = leader(&hosts);
    let store = hosts[at].store.clone();
    let change = hosts[at].runtime.spawn(async move { store.propose(large(200, 2 << 20)).await });
    let begun = Instant::now();
    while wire.most_from(at) < 700_000 {
        assert!(!change.is_finished() && begun.elapsed() < Duration::from_secs(30), "{}", wire.most_from(at));
        std::thread::sleep(Duration::from_millis(20));
    }
    // All connections of the leader break, as those of a host whose address changes.
    hosts[at].net.moved();
    hosts[at]
        .runtime
        .block_on(async { timeout(Duration::from_secs(30), change).await.unwrap().unwrap().unwrap() });
    let sent = wire.most_from(at);
    assert!(sent < 2_800_000, "{sent} bytes for 2 MiB: what had arrived was sent again");
}

#[test]
fn a_manager_that_joins_gets_large_entries_once() {
    let wire = Wire::new(Slow { bits_per_second: 1e7, lost: 0.0, delay: Duration::from_millis(10), ..WAN });
    let hosts = first_of_three(|hosts| wire.place(hosts), first());
    let (count, size) = (10, 500 << 10);
    for id in 0..count {
        propose(&hosts, large(200 + id, size));
    }
    wire.set(true);
    let begun = Instant::now();
    let store = &hosts[0].store;
    hosts[0].runtime.block_on(store.add_learner(2, hosts[1].site)).unwrap();
    until(|| hosts[1].store.snapshot().tasks.len() as u64 == count);
    let (took, bytes) = (begun.elapsed(), wire.most_from(0));
    println!("{count} entries of {size} bytes at 10 Mbit/s: {took:?}, {bytes} bytes");
    // 4.1 s is what the link takes.
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(bytes < count * size as u64 * 115 / 100, "{bytes} bytes: entries were sent more than once");
}

/// Each commit takes `time`, on all hosts.
fn slow_disks(hosts: &[Host], time: Duration) {
    hosts.iter().for_each(|host| host.store.slow_disk(time));
}

#[test]
fn small_changes_on_disks_whose_syncs_take_two_seconds() {
    let hosts = three_with(|_| {}, first());
    let before = term(&hosts);
    slow_disks(&hosts, Duration::from_secs(2));
    let took: Vec<Duration> = (100..105).map(|id| propose(&hosts, sample::one_task(id))).collect();
    println!("three managers, syncs of 2 s: {took:?}");
    assert_eq!(term(&hosts), before, "the leader changed");
    assert!(took.iter().all(|took| *took < Duration::from_secs(4)), "{took:?}");
    // Reads wait for no disk.
    let begun = Instant::now();
    hosts[1].runtime.block_on(hosts[1].store.read()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_single_manager_on_such_a_disk() {
    let hosts = first_of_three(|_| {}, first());
    slow_disks(&hosts[..1], Duration::from_secs(2));
    let took: Vec<Duration> = (100..103).map(|id| propose(&hosts, sample::one_task(id))).collect();
    println!("one manager, syncs of 2 s: {took:?}");
    assert!(took.iter().all(|took| *took < Duration::from_secs(4)), "{took:?}");
}
