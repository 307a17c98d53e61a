//! A member that sends a hundred thousand messages which no node would send. A program of its own, for its memory is
//! measured.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use raftup_daemon::gossip::{Gossip, GossipConfig, SendMessage, key};
use raftup_proto::id::{ClusterId, NodeId};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{sync::watch, time::sleep};

const MESSAGES: usize = 100_000;

/// Honest nodes; the hostile ones have the next numbers.
const HONEST: u64 = 4;
const HOSTILE: u64 = 4;

/// Messages that were sent lately, to be sent again by others.
const KEPT: usize = 200;

type Directory = Arc<Mutex<BTreeMap<NodeId, Gossip>>>;
type Overheard = Arc<Mutex<Vec<Bytes>>>;

fn addr_of(node: NodeId) -> SocketAddr {
    ([10, 0, 0, node.number() as u8], 7238).into()
}

fn start(me: NodeId, directory: Directory, overheard: Overheard) -> Gossip {
    let all = (1..=HONEST + HOSTILE).map(NodeId::new);
    let (peers, watch) = watch::channel(Arc::new(all.map(|node| (node, addr_of(node))).collect()));
    std::mem::forget(peers);
    let send: SendMessage = Arc::new(move |to, _, message| {
        let mut overheard = overheard.lock().unwrap();
        if overheard.len() >= KEPT {
            overheard.remove(0);
        }
        overheard.push(message.clone());
        drop(overheard);
        let to = directory.lock().unwrap().get(&to).cloned();
        to.into_iter().for_each(|to| to.receive(me, addr_of(me), &message));
    });
    let values = BTreeMap::from([(key::HOSTNAME.to_owned(), format!("host-{me}"))]);
    Gossip::start(GossipConfig { cluster: ClusterId::from_random(1), me, peers: watch, send, values })
}

/// Writes messages by hand, so that all of them can be wrong.
struct Forger(StdRng);

impl Forger {
    fn number(&mut self) -> u64 {
        match self.0.random_range(0..5) {
            0 => 0,
            1 => u64::MAX,
            2 => self.0.random_range(0..100_000),
            3 => u64::MAX - self.0.random_range(0..10),
            _ => self.0.random(),
        }
    }

    fn text(&mut self, out: &mut Vec<u8>) {
        let text = match self.0.random_range(0..8) {
            0 => "x".repeat(self.0.random_range(0..65_536)),
            1 => format!("n{}", self.number()),
            2 => ["", "n", "n01", "\u{0}", "n-1"][self.0.random_range(0..5)].to_owned(),
            3 => "fabric".to_owned(),
            _ => format!("n{}", self.0.random_range(1..=HONEST + HOSTILE)),
        };
        out.extend((text.len() as u16).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn id(&mut self, out: &mut Vec<u8>) {
        let node = NodeId::new(self.0.random_range(1..=HONEST + HOSTILE));
        let right = self.0.random_ratio(3, 4);
        if right {
            let text = node.to_string();
            out.extend((text.len() as u16).to_le_bytes());
            out.extend(text.as_bytes());
        } else {
            self.text(out);
        }
        out.extend(self.number().to_le_bytes());
        match self.0.random_range(0..6) {
            0 => out.extend([4, 127, 0, 0, 1]),
            1 => out.push(self.0.random()),
            _ => {
                out.push(6);
                out.extend(Ipv6Addr::from(u128::from(node.number())).octets());
            }
        }
        out.extend(1_u16.to_le_bytes());
    }

    fn digest(&mut self, out: &mut Vec<u8>) {
        let count = self.0.random_range(0..30_u16);
        let said = if self.0.random_ratio(1, 10) { self.0.random() } else { count };
        out.extend(said.to_le_bytes());
        for _ in 0..count {
            self.id(out);
            (0..3).for_each(|_| out.extend(self.number().to_le_bytes()));
        }
    }

    fn delta(&mut self, out: &mut Vec<u8>) {
        for _ in 0..self.0.random_range(0..3) {
            let mut records = Vec::new();
            for _ in 0..self.0.random_range(0..20) {
                match self.0.random_range(0..4_u8) {
                    0 => {
                        records.push(0);
                        self.id(&mut records);
                        (0..2).for_each(|_| records.extend(self.number().to_le_bytes()));
                    }
                    1 => {
                        records.push(1);
                        self.text(&mut records);
                        self.text(&mut records);
                        records.extend(self.number().to_le_bytes());
                        records.push(self.0.random_range(0..4));
                    }
                    2 => {
                        records.push(2);
                        records.extend(self.number().to_le_bytes());
                    }
                    _ => records.push(self.0.random()),
                }
            }
            // Some that unpack to 64 KiB each, in the format of zstd.
            let bomb = [1, 11, 0, 0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xff, 0xfe, 0xfb, 0xff, 0x07, 0x00];
            (0..self.0.random_range(0..2)).for_each(|_| out.extend(bomb.repeat(1000)));
            records.truncate(usize::from(u16::MAX));
            out.push(self.0.random_range(1..=2));
            out.extend((records.len() as u16).to_le_bytes());
            out.extend(records);
        }
        out.push(0);
    }

    fn message(&mut self, overheard: &[Bytes]) -> Vec<u8> {
        let mut out = vec![0x53, 0xb0, 0];
        match self.0.random_range(0..8_u8) {
            // What another node has sent.
            0 | 1 => out = overheard.choose(&mut self.0).map_or(out, |bytes| bytes.to_vec()),
            2 => {
                out.push(0);
                self.digest(&mut out);
                let cluster = ClusterId::from_random(self.0.random_range(0..3)).to_string();
                out.extend((cluster.len() as u16).to_le_bytes());
                out.extend(cluster.as_bytes());
            }
            3 => {
                out.push(1);
                self.digest(&mut out);
                self.delta(&mut out);
            }
            4 => {
                out.push(2);
                self.delta(&mut out);
            }
            5 => out.push(self.0.random_range(2..=255)),
            6 => {
                let size = self.0.random_range(0..300);
                out.extend((0..size).map(|_| self.0.random::<u8>()));
            }
            _ => {
                out.push(self.0.random_range(0..3));
                let size = self.0.random_range(0..200_000);
                out.resize(size, self.0.random());
            }
        }
        for _ in 0..self.0.random_range(0..3) {
            if !out.is_empty() && self.0.random() {
                let at = self.0.random_range(0..out.len());
                out[at] = self.0.random();
            }
        }
        if self.0.random_ratio(1, 8) {
            out.truncate(self.0.random_range(0..=out.len()));
        }
        out
    }
}

/// The most memory that this process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn all_live(nodes: &BTreeMap<NodeId, Gossip>) -> bool {
    nodes.iter().all(|(me, gossip)| {
        let view = gossip.view();
        let view = view.borrow();
        let heard = |node: NodeId| {
            view.nodes.get(&node).is_some_and(|sighting| {
                sighting.alive && sighting.values.get(key::HOSTNAME) == Some(&format!("host-{node}"))
            })
        };
        !view.impaired && (1..=HONEST).map(NodeId::new).filter(|node| node != me).all(heard)
    })
}

#[tokio::test(start_paused = true)]
async fn no_message_harms_the_others() {
    let (directory, overheard): (Directory, Overheard) = Default::default();
    for me in (1..=HONEST).map(NodeId::new) {
        let gossip = start(me, directory.clone(), overheard.clone());
        directory.lock().unwrap().insert(me, gossip);
    }
    let nodes = directory.lock().unwrap().clone();
    while !all_live(&nodes) {
        sleep(Duration::from_millis(50)).await;
    }
    let seed = rand::random();
    println!("seed {seed}");
    let mut forger = Forger(StdRng::seed_from_u64(seed));
    let before = peak();
    for count in 0..MESSAGES {
        let message = forger.message(&overheard.lock().unwrap());
        let from = NodeId::new(forger.0.random_range(HONEST + 1..=HONEST + HOSTILE));
        let to = NodeId::new(forger.0.random_range(1..=HONEST));
        nodes[&to].receive(from, addr_of(from), &message);
        // At most as fast as the budgets of the hostile nodes allow, so that nearly all messages are read.
        if count % 8 == 0 {
            sleep(Duration::from_millis(15)).await;
        }
        if count % 100 == 0 {
            assert!(all_live(&nodes), "after {count} messages");
        }
    }
    let grown = peak() - before;
    println!("{MESSAGES} messages: {grown} KiB more at most");
    assert!(grown < 32 << 10, "{grown} KiB");
    for gossip in nodes.values() {
        assert!(gossip.view().borrow().nodes.keys().all(|node| node.number() <= HONEST + HOSTILE));
    }
}
