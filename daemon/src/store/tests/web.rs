//! Stores in one process, joined by streams in memory that can be cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use raftup_proto::id::NodeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::super::{Pipe, Store, StoreConfig, Transport, create};

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn addr(node: u64) -> SocketAddr {
    format!("10.0.0.{node}:7238").parse().unwrap()
}

pub(crate) fn id(node: u64) -> NodeId {
    NodeId::new(node)
}

#[derive(Default)]
struct State {
    /// Who answers at which address.
    stores: BTreeMap<SocketAddr, (u64, Store)>,
    tasks: BTreeMap<u64, Vec<JoinHandle<()>>>,
}

/// The net between the stores of a test, and their directories.
#[derive(Clone)]
pub(crate) struct Web {
    state: Arc<Mutex<State>>,
    cuts: watch::Sender<BTreeSet<(u64, u64)>>,
    stalls: Arc<Mutex<BTreeMap<u64, Instant>>>,
    root: Arc<tempfile::TempDir>,
}

struct Way {
    web: Web,
    from: u64,
}

#[async_trait]
impl Transport for Way {
    async fn open(&self, node: NodeId, addr: SocketAddr) -> io::Result<Box<dyn Pipe>> {
        let to = node.number();
        let mut cuts = self.web.cuts.subscribe();
        cuts.wait_for(|cuts| !cuts.contains(&(self.from, to)) && !cuts.contains(&(to, self.from)))
            .await
            .unwrap();
        self.web.stalled((self.from, to)).await;
        let found = self.web.state.lock().unwrap().stores.get(&addr).cloned();
        let Some((_, store)) = found else {
            // Nobody there: packets go nowhere.
            return std::future::pending().await;
        };
        let (near, far) = self.web.pipe(self.from, to);
        let caller = NodeId::new(self.from);
        let task = tokio::spawn(async move { store.answer(caller, Box::new(far)).await });
        self.web.state.lock().unwrap().tasks.entry(to).or_default().push(task);
        Ok(Box::new(near))
    }
}

impl Web {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            cuts: watch::Sender::default(),
            stalls: Arc::default(),
            root: Arc::new(tempfile::tempdir().unwrap()),
        }
    }

    pub(crate) fn dir(&self, node: u64) -> PathBuf {
        let dir = self.root.path().join(format!("n{node}"));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A pipe whose bytes stop where the net is cut, and go on when it is healed.
    fn pipe(&self, a: u64, b: u64) -> (DuplexStream, DuplexStream) {
        let ((near, near_net), (far_net, far)) = (tokio::io::duplex(1 << 20), tokio::io::duplex(1 << 20));
        let (near_read, near_write) = tokio::io::split(near_net);
        let (far_read, far_write) = tokio::io::split(far_net);
        let there = tokio::spawn(pump(near_read, far_write, self.clone(), (a, b)));
        let back = tokio::spawn(pump(far_read, near_write, self.clone(), (b, a)));
        let mut state = self.state.lock().unwrap();
        state.tasks.entry(a).or_default().push(there);
        state.tasks.entry(b).or_default().push(back);
        (near, far)
    }

    /// Starts the member on `node`; member and node have the same number unless the test says otherwise.
    pub(crate) async fn start(&self, node: u64) -> Store {
        self.start_member(node, node).await
    }

    pub(crate) async fn start_member(&self, node: u64, member: u64) -> Store {
        create(&self.dir(node), id(node), member).unwrap();
        self.start_in(node, &self.dir(node)).await.unwrap()
    }

    pub(crate) async fn start_in(&self, node: u64, dir: &Path) -> anyhow::Result<Store> {
        let transport: Arc<dyn Transport> = Arc::new(Way { web: self.clone(), from: node });
        let start = || {
            Store::start(StoreConfig { dir: dir.to_owned(), node: id(node), transport: transport.clone() })
        };
        // A file is let go of a moment after its last user is gone.
        let mut store = start().await;
        while store.as_ref().is_err_and(|error| format!("{error:#}").contains("already open")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            store = start().await;
        }
        let store = store?;
        self.state.lock().unwrap().stores.insert(addr(node), (node, store.clone()));
        Ok(store)
    }

    /// A cluster of members `1..=count`.
    pub(crate) async fn cluster(&self, count: u64) -> Vec<Store> {
        let first = self.start(1).await;
        first.initialize(addr(1), super::sample::first()).await.unwrap();
        let mut stores = vec![first.clone()];
        for node in 2..=count {
            stores.push(self.start(node).await);
            first.add_learner(node, site(node)).await.unwrap();
        }
        for node in 2..=count {
            until(|| first.members().members[&node].caught_up).await;
        }
        if count > 1 {
            first.set_voters((1..=count).collect()).await.unwrap();
        }
        stores
    }

    /// Ends the store on `node` without a word to the others, and lets go of its files.
    pub(crate) async fn kill(&self, node: u64, store: Store) {
        let tasks = {
            let mut state = self.state.lock().unwrap();
            state.stores.remove(&addr(node));
            state.tasks.remove(&node).unwrap_or_default()
        };
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        store.stop().await;
        let gone = Arc::downgrade(&store.inner);
        drop(store);
        until(|| gone.strong_count() == 0).await;
        // The file is let go of a moment after that.
        let log = std::fs::File::open(self.dir(node).join("raft/log.redb"));
        until(|| log.as_ref().is_ok_and(|log| log.try_lock().is_ok())).await;
    }

    /// Cuts all bytes between `a` and `b`, both ways.
    pub(crate) fn cut(&self, a: u64, b: u64) {
        self.cuts.send_modify(|cuts| cuts.extend([(a, b), (b, a)]));
    }

    pub(crate) fn cut_off(&self, node: u64) {
        for other in 1..=9 {
            self.cut(node, other);
        }
    }

    pub(crate) fn heal(&self) {
        self.cuts.send_modify(BTreeSet::clear);
    }

    /// The next commit of the store on `node` takes `time` longer. Nothing if none runs there.
    pub(crate) fn stall_disk(&self, node: u64, time: Duration) {
        if let Some((_, store)) = self.state.lock().unwrap().stores.get(&addr(node)) {
            store.stall_disk(time);
        }
    }

    /// Bytes from and to `node` stand still for `time`, and go on then. A later call replaces an earlier one.
    pub(crate) fn stall_link(&self, node: u64, time: Duration) {
        self.stalls.lock().unwrap().insert(node, Instant::now() + time);
    }

    async fn stalled(&self, (from, to): (u64, u64)) {
        let until = || {
            let stalls = self.stalls.lock().unwrap();
            stalls.get(&from).max(stalls.get(&to)).copied()
        };
        while let Some(until) = until().filter(|until| *until > Instant::now()) {
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

pub(crate) fn site(node: u64) -> super::super::Site {
    super::super::Site { node: id(node), addr: addr(node) }
}

async fn pump(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, web: Web, way: (u64, u64)) {
    let mut cuts = web.cuts.subscribe();
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut bytes).await {
        if count == 0 || cuts.wait_for(|cuts| !cuts.contains(&way)).await.is_err() {
            break;
        }
        web.stalled(way).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Waits until `is_so`.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it did not come to that");
}

/// Waits for a leader among `stores` and gives its place.
pub(crate) async fn leader(stores: &[Store]) -> usize {
    let mut found = None;
    until(|| {
        found = stores.iter().position(|store| store.leadership().borrow().here);
        found.is_some()
    })
    .await;
    found.unwrap()
}
