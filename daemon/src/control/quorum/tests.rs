//! Real stores that the loop turns into managers and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use raftup_proto::api::{Managers, NodeState};
use tokio::task::JoinHandle;

use super::*;
use crate::store::{
    self, sample,
    tests::web::{Web, addr, id, until},
};

/// The nodes of a test, as far as this loop has to do with them.
#[derive(Clone)]
struct Nodes {
    web: Web,
    stores: Running,
    failing: Arc<Mutex<BTreeMap<u64, Fails>>>,
    /// Orders that came to nodes that fail.
    refused: Arc<Mutex<Vec<u64>>>,
}

/// How a node fails to become a manager.
#[derive(Clone, Copy)]
enum Fails {
    Refuses,
    Conflicts,
    Hangs,
    /// It says yes and is never heard in Raft.
    Deaf,
}

type Running = Arc<Mutex<BTreeMap<u64, (Store, JoinHandle<()>)>>>;

#[async_trait]
impl Orders for Nodes {
    async fn order(&self, to: Peer, request: Request) -> Result<(), CallError> {
        let node = to.node.number();
        match &request {
            Request::BecomeManager { term, member, key } => {
                assert!(*term > 0);
                let fails = self.failing.lock().unwrap().get(&node).copied();
                if fails.is_some() {
                    self.refused.lock().unwrap().push(node);
                }
                match fails {
                    Some(Fails::Refuses) => {
                        return Err(Refusal::new(Code::Internal, "the disk is full").into());
                    }
                    Some(Fails::Conflicts) => {
                        return Err(Refusal::new(Code::Conflict, "used already").into());
                    }
                    Some(Fails::Hangs) => std::future::pending().await,
                    Some(Fails::Deaf) => return Ok(()),
                    None => {}
                }
                if self.stores.lock().unwrap().contains_key(&node) {
                    return Ok(());
                }
                let refused = |error: anyhow::Error| Refusal::new(Code::Conflict, format!("{error:#}"));
                store::create(&self.web.dir(node), to.node, *member).map_err(refused)?;
                let store = self.web.start_in(node, &self.web.dir(node)).await.map_err(refused)?;
                self.run(node, store, Key::from_bytes(*key.expose()));
            }
            &Request::LeaveManagers { term, member } => {
                assert!(term > 0 && member > 0);
                let running = self.stores.lock().unwrap().remove(&node);
                if let Some((store, work)) = running {
                    work.abort();
                    let _ = work.await;
                    self.web.kill(node, store).await;
                }
                store::forget(&self.web.dir(node)).unwrap();
            }
            Request::Probe { .. }
            | Request::Renew { .. }
            | Request::Leave
            | Request::Credential { .. }
            | Request::Blob { .. }
            | Request::Examine => panic!("{request:?}"),
        }
        Ok(())
    }
}

impl Nodes {
    fn run(&self, node: u64, store: Store, key: Key) {
        let mut quorum = Quorum::new(store.clone(), self.clone(), key);
        quorum.learn_limit = Duration::from_secs(1);
        let work = tokio::spawn(quorum.run());
        self.stores.lock().unwrap().insert(node, (store, work));
    }

    /// One member, and ready nodes up to `count`.
    async fn new(count: u64) -> Self {
        let web = Web::new();
        let store = web.start(1).await;
        store.initialize(addr(1), sample::first()).await.unwrap();
        let nodes = Self { web, stores: Arc::default(), failing: Arc::default(), refused: Arc::default() };
        nodes.run(1, store, Key::generate());
        for number in 2..=count {
            nodes.join(number).await;
        }
        nodes
    }

    async fn join(&self, number: u64) {
        let node = Node { membership: None, ..sample::node(number) };
        self.change(|set, _| set.create(node.clone())).await;
    }

    async fn edit(&self, number: u64, edit: impl Fn(&mut Node) + Send + Sync) {
        let edit = |set: &mut ChangeSet, cluster: &crate::model::Cluster| {
            let mut node = Node::clone(&cluster.nodes[&id(number)]);
            edit(&mut node);
            set.update(node);
        };
        self.change(edit).await;
    }

    async fn change(&self, mut change: impl FnMut(&mut ChangeSet, &crate::model::Cluster) + Send) {
        loop {
            let work = |cluster: &crate::model::Cluster, now| {
                let mut set = ChangeSet::new(now);
                change(&mut set, cluster);
                Ok((set, ()))
            };
            if let Some(leader) = self.leader()
                && leader.change(work).await.is_ok()
            {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn leader(&self) -> Option<Store> {
        let stores = self.stores.lock().unwrap();
        stores.values().map(|(store, _)| store).find(|store| store.leadership().borrow().here).cloned()
    }

    /// Waits until exactly the stores on `nodes` run and vote.
    async fn voters(&self, nodes: impl IntoIterator<Item = u64>) {
        let wanted: BTreeSet<NodeId> = nodes.into_iter().map(id).collect();
        let running = || self.stores.lock().unwrap().keys().copied().map(id).collect::<BTreeSet<_>>();
        until(|| {
            let members = self.leader().map(|leader| leader.members()).unwrap_or_default();
            let voters = members.members.values().filter(|member| member.voter);
            !members.changing
                && voters.map(|voter| voter.site.node).collect::<BTreeSet<_>>() == wanted
                && running() == wanted
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_three_five_three_and_away_from_the_leader() {
    let nodes = Nodes::new(2).await;
    nodes.voters([1]).await;
    nodes.join(3).await;
    nodes.voters([1, 2, 3]).await;
    for number in 4..=7 {
        nodes.join(number).await;
    }
    nodes.voters(1..=5).await;
    nodes
        .change(|set, cluster| {
            let info = ClusterInfo::clone(cluster.info.as_ref().unwrap());
            set.update(ClusterInfo { managers: Managers::Fixed(3), ..info });
        })
        .await;
    until(|| nodes.stores.lock().unwrap().len() == 3).await;
    let old = nodes.leader().unwrap().leadership().borrow().leader.unwrap();
    nodes.edit(old.number(), |node| node.pinned = Some(false)).await;
    until(|| nodes.leader().is_some_and(|leader| leader.snapshot().nodes[&old].membership.is_none())).await;
    let cluster = nodes.leader().unwrap().snapshot();
    let members: BTreeSet<u64> =
        cluster.nodes.values().filter_map(|node| Some(node.membership?.member)).collect();
    assert_eq!(members.len(), 3);
    assert!(cluster.info.unwrap().next_member > *members.last().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_left_comes_back_under_another_number() {
    let nodes = Nodes::new(3).await;
    nodes.voters(1..=3).await;
    nodes.edit(3, |node| node.pinned = Some(false)).await;
    nodes.voters([1]).await;
    let before = nodes.leader().unwrap().snapshot().info.as_ref().unwrap().next_member;
    nodes.edit(3, |node| node.pinned = None).await;
    nodes.voters(1..=3).await;
    let cluster = nodes.leader().unwrap().snapshot();
    assert!(cluster.nodes[&id(3)].membership.unwrap().member >= before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manager_that_is_gone_is_replaced_and_told_when_it_is_back() {
    let nodes = Nodes::new(4).await;
    nodes.voters(1..=3).await;
    let gone = if nodes.leader().unwrap().members().me == 3 { 2 } else { 3 };
    let (store, work) = nodes.stores.lock().unwrap().remove(&gone).unwrap();
    work.abort();
    let _ = work.await;
    nodes.web.kill(gone, store).await;
    let now = nodes.leader().unwrap().now();
    let down = |node: &mut Node| {
        node.state = NodeState::Down;
        node.state_since = raftup_proto::unit::UnixMillis(now.0 - 11 * 60_000);
    };
    nodes.edit(gone, down).await;
    let rest: Vec<u64> = (1..=4).filter(|node| *node != gone).collect();
    nodes.voters(rest.clone()).await;
    let back = nodes.web.start_in(gone, &nodes.web.dir(gone)).await.unwrap();
    nodes.run(gone, back, Key::generate());
    nodes.edit(gone, |node| node.state = NodeState::Ready).await;
    nodes.voters(rest).await;
    until(|| nodes.leader().unwrap().snapshot().nodes[&id(gone)].membership.is_none()).await;
    assert_eq!(store::member(&nodes.web.dir(gone)).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn candidates_that_fail_are_passed_over() {
    for fails in [Fails::Refuses, Fails::Conflicts, Fails::Hangs, Fails::Deaf] {
        let nodes = Nodes::new(1).await;
        nodes.failing.lock().unwrap().insert(2, fails);
        for number in 2..=4 {
            nodes.join(number).await;
        }
        nodes.voters([1, 3, 4]).await;
        let refused = nodes.refused.lock().unwrap().len();
        assert!((1..=2).contains(&refused), "{refused} orders within one back-off");
        let running = std::mem::take(&mut *nodes.stores.lock().unwrap());
        for (store, work) in running.into_values() {
            work.abort();
            store.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_candidate_that_fails_is_tried_again_later_each_time() {
    let nodes = Nodes::new(1).await;
    let store = nodes.leader();
    until(|| nodes.leader().is_some()).await;
    let mut quorum = Quorum::new(store.or(nodes.leader()).unwrap(), nodes.clone(), Key::generate());
    let pause = |quorum: &Quorum<Nodes>| quorum.failures[&id(2)].until.duration_since(Instant::now());
    let mut last = Duration::ZERO;
    for _ in 0..20 {
        quorum.failed(id(2));
        assert!(pause(&quorum) > last || pause(&quorum) > BACK_OFF_MAX - Duration::from_secs(1));
        last = pause(&quorum);
        assert!(last <= BACK_OFF_MAX);
    }
    assert_eq!(quorum.council().failing, BTreeSet::from([id(2)]));
}
