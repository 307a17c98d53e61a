//! Messages that no node would send: malformed, oversized, forged and replayed.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quinn::Connection;
use raftup_proto::{
    codec,
    id::{NodeId, TaskId},
    peer::{
        Deaf, DeafTo, FabricKey, Hello, JoinRequest, Level, NodeInfo, Platform, Request, Role, TaskReport,
        TaskState, TaskStatus, Up,
    },
    secret::Secret,
    spec::Protocol,
    unit::{CpuMillis, MemBytes, UnixMillis},
    view::{Digests, Revision},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::timeout;

/// Frames that were sent, to be sent again on other streams.
const KEPT: usize = 100;

pub(super) struct Forger {
    dice: StdRng,
    /// Tasks of others.
    tasks: Vec<TaskId>,
    /// Frames as they were sent.
    kept: Vec<Vec<u8>>,
}

impl Forger {
    /// `tasks` are those of others.
    pub(super) fn new(seed: u64, tasks: Vec<TaskId>) -> Self {
        Self { dice: StdRng::seed_from_u64(seed), tasks, kept: Vec::new() }
    }

    /// Sends some messages, and says how many. None: the connection takes no more.
    pub(super) async fn send(&mut self, connection: &Connection) -> Option<u32> {
        match self.dice.random_range(0..10) {
            0 => {
                let size = self.dice.random_range(0..1100);
                // The peer may take none, or only smaller ones.
                let _ = connection.send_datagram(self.noise(size).into());
                connection.close_reason().is_none().then_some(1)
            }
            1 => {
                let mut stream = connection.open_uni().await.ok()?;
                let bytes = self.opening(&Hello::Gossip);
                // The other side may stop reading at any byte.
                let _ = stream.write_all(&bytes).await;
                let _ = stream.finish();
                Some(1)
            }
            2..4 => {
                let hello = self.hello();
                let bytes = self.opening(&hello);
                self.on_stream(connection, &bytes, 1).await
            }
            4..7 => {
                let request = self.request();
                let bytes = [frame(&Hello::Rpc), self.spoiled(&request)].concat();
                self.on_stream(connection, &bytes, 1).await
            }
            _ => {
                let mut bytes = frame(&Hello::Session);
                let count = self.dice.random_range(1..30);
                let first = self.first();
                bytes.extend(self.spoiled(&first));
                for _ in 1..count {
                    let up = self.up();
                    bytes.extend(self.spoiled(&up));
                }
                self.on_stream(connection, &bytes, count).await
            }
        }
    }

    /// Sends bytes on a stream of their own, and takes what is answered at once.
    async fn on_stream(&mut self, connection: &Connection, bytes: &[u8], count: u32) -> Option<u32> {
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        // The other side may stop reading at any byte.
        let _ = timeout(Duration::from_millis(200), send.write_all(bytes)).await;
        if self.dice.random_ratio(1, 20) {
            let mut answer = [0; 1 << 10];
            let _ = timeout(Duration::from_millis(20), recv.read(&mut answer)).await;
        }
        match self.dice.random_range(0..3) {
            0 => drop(send.finish()),
            1 => drop(send.reset(0_u32.into())),
            _ => {}
        }
        let _ = recv.stop(0_u32.into());
        connection.close_reason().is_none().then_some(count)
    }

    fn noise(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.dice.random::<u8>()).collect()
    }

    fn node(&mut self) -> NodeId {
        let number = match self.dice.random_range(0..4) {
            0 => self.dice.random(),
            1 => u64::MAX,
            _ => self.dice.random_range(0..4),
        };
        NodeId::new(number)
    }

    fn addr(&mut self) -> SocketAddr {
        let ip: IpAddr = match self.dice.random_range(0..5) {
            0 => [127, 0, 0, 1].into(),
            1 => [255; 4].into(),
            2 => [0_u16; 8].into(),
            3 => [10, 64, 0, self.dice.random()].into(),
            _ => self.dice.random::<[u8; 4]>().into(),
        };
        (ip, self.dice.random()).into()
    }

    fn text(&mut self) -> String {
        match self.dice.random_range(0..5) {
            0 => String::new(),
            1 => "h1".to_owned(),
            2 => "\u{1b}[2J\u{202e}\u{0}".to_owned(),
            3 => "x".repeat(self.dice.random_range(0..100_000)),
            _ => format!("h{}", self.dice.random::<u16>()),
        }
    }

    fn hello(&mut self) -> Hello {
        match self.dice.random_range(0..7) {
            0 => Hello::Join,
            1 => Hello::Rpc,
            2 => Hello::Session,
            3 => Hello::Gossip,
            4 => Hello::Raft,
            5 => Hello::Api,
            _ => Hello::ForwardedJoin { from: self.addr() },
        }
    }

    /// A hello and something behind it.
    fn opening(&mut self, hello: &Hello) -> Vec<u8> {
        let mut bytes = match self.dice.random_range(0..8) {
            0 => Vec::new(),
            1 => self.noise(16),
            _ => frame(hello),
        };
        bytes.extend(match hello {
            Hello::Api => b"DELETE /native/v1/stacks/shop HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            Hello::Join | Hello::ForwardedJoin { .. } => {
                let join = self.join();
                self.spoiled(&join)
            }
            Hello::Rpc | Hello::Session | Hello::Gossip | Hello::Raft => {
                let size = self.dice.random_range(0..2000);
                let noise = self.noise(size);
                self.spoiled_bytes([(size as u32).to_be_bytes().to_vec(), noise].concat())
            }
        });
        bytes
    }

    fn join(&mut self) -> JoinRequest {
        JoinRequest {
            secret: self.dice.random(),
            role: Role::Manager,
            csr: self.noise(300),
            info: self.info(),
            attempt: self.dice.random(),
        }
    }

    fn request(&mut self) -> Request {
        match self.dice.random_range(0..8) {
            0 => Request::Probe { about: self.node(), at: self.addr() },
            1 => {
                let size = self.dice.random_range(0..10_000);
                Request::Renew { csr: self.noise(size) }
            }
            2 => Request::BecomeManager {
                term: self.dice.random(),
                member: self.dice.random(),
                key: Secret::from(self.dice.random::<[u8; 32]>()),
            },
            3 => Request::LeaveManagers { term: u64::MAX, member: self.dice.random_range(0..4) },
            4 if self.dice.random_ratio(1, 100) => Request::Examine,
            _ => Request::Credential { task: self.task() },
        }
    }

    fn task(&mut self) -> TaskId {
        let other = self.tasks.choose(&mut self.dice).copied();
        other
            .filter(|_| self.dice.random_ratio(3, 4))
            .unwrap_or_else(|| TaskId::from_random(self.dice.random()))
    }

    fn info(&mut self) -> NodeInfo {
        let many = if self.dice.random_ratio(1, 50) { 3000 } else { 3 };
        let deaf = |_| Deaf {
            protocol: Protocol::Tcp,
            published: self.dice.random(),
            host_ip: None,
            why: DeafTo::Taken,
        };
        let deaf = (0..many).map(deaf).collect();
        NodeInfo {
            hostname: self.text(),
            control: self.addr(),
            underlay: self.addr().ip(),
            fabric_port: self.dice.random(),
            fabric_keys: (0..self.dice.random_range(0..9)).map(|_| FabricKey(self.dice.random())).collect(),
            version: self.text(),
            level: Level(self.dice.random()),
            platform: Platform {
                os: self.text(),
                arch: self.text(),
                kernel: self.text(),
                engine: Some(self.text()),
                engine_labels: (0..self.dice.random_range(0..200)).map(|n| format!("k{n}={n}")).collect(),
                cpu: CpuMillis(self.dice.random()),
                memory: MemBytes(self.dice.random()),
                generic: (0..self.dice.random_range(0..100_u64)).map(|n| (format!("k{n}"), n)).collect(),
            },
            deaf,
            troubles: (0..self.dice.random_range(0..9)).map(|_| self.text()).collect(),
        }
    }

    fn first(&mut self) -> Up {
        match self.dice.random_range(0..4) {
            0 => self.up(),
            1 => Up::Resume { info: self.info(), process: self.dice.random(), held: Digests::default() },
            2 => Up::Resume { info: self.info(), process: 1, held: Digests::UNKNOWN },
            _ => Up::Start { info: self.info(), process: 1 },
        }
    }

    fn up(&mut self) -> Up {
        match self.dice.random_range(0..8) {
            0 => Up::Info(self.info()),
            1 => Up::Alive,
            2 => Up::Applied(Revision(self.dice.random())),
            3 => self.first_again(),
            _ => {
                let count = if self.dice.random_ratio(1, 50) { 5000 } else { 4 };
                Up::Status((0..count).map(|_| self.report()).collect())
            }
        }
    }

    fn first_again(&mut self) -> Up {
        Up::Start { info: self.info(), process: self.dice.random() }
    }

    fn report(&mut self) -> TaskReport {
        let states = [
            TaskState::Failed,
            TaskState::Complete,
            TaskState::Rejected,
            TaskState::New,
            TaskState::Orphaned,
        ];
        let state = *states.choose(&mut self.dice).unwrap();
        let status = TaskStatus::new(state, UnixMillis(self.dice.random()));
        let status = if self.dice.random_ratio(1, 20) { status.because(self.text()) } else { status };
        TaskReport { task: self.task(), status }
    }

    /// The frame of a value: as it is, spoiled, or another that was sent before.
    fn spoiled<T: serde::Serialize>(&mut self, value: &T) -> Vec<u8> {
        if self.dice.random_ratio(1, 5)
            && let Some(old) = self.kept.choose(&mut self.dice)
        {
            return old.clone();
        }
        let bytes = codec::frame(value, u64::MAX).unwrap();
        if bytes.len() < 10_000 {
            if self.kept.len() == KEPT {
                self.kept.swap_remove(self.dice.random_range(0..KEPT));
            }
            self.kept.push(bytes.clone());
        }
        self.spoiled_bytes(bytes)
    }

    fn spoiled_bytes(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self.dice.random_range(0..8) {
            // Says that it is far longer than it is.
            0 => bytes.splice(0..4, self.dice.random::<u32>().to_be_bytes()).for_each(drop),
            1 => {
                let at = self.dice.random_range(0..bytes.len());
                bytes[at] = self.dice.random();
            }
            2 => bytes.truncate(self.dice.random_range(0..bytes.len())),
            _ => {}
        }
        bytes
    }
}

fn frame(hello: &Hello) -> Vec<u8> {
    codec::frame(hello, hello.cap().max(64)).unwrap()
}
