//! The state as it moves: what the driver has to look at, and what each node has to be told.
//!
//! One loop follows the store. Each step makes an edition: the newest world, and a page with the items that changed. A
//! session that begins, or has fallen behind by more pages than are kept, is sent the buckets whose digests differ from
//! those of what the node holds.
//!
//! Owns: the leader's index of the state. Leaves alone: what an item is (`plan::view`), how it is sent (`session`).
//! Holds: an edition's world, items and agenda belong to the same revision; an item is on a page only if it differs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imbl::OrdMap;
use raftup_proto::{
    id::{NodeId, ServiceId, StackId},
    view::{DigestChange, Digests, Item, Key, Revision, ViewUpdate},
};
use tokio::sync::watch;

use crate::{
    compute,
    model::{Cluster, ObjectKey},
    plan::{Agenda, World, view},
    store::{Changes, Store, Touched},
};

/// Pages that are kept; a session behind by more is sent what differs.
const PAGES: usize = 256;

/// Objects whose change is worked out faster than another thread could take the runtime over.
const FEW: usize = 100;

/// Services and stacks of which it is known when they were last touched; with more it begins anew, and everything counts
/// as touched once.
const MOVED: usize = 100_000;

/// Views of all nodes.
pub(super) struct Views {
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
}

struct State {
    world: World,
    /// The items that all nodes have, and their digests.
    shared: OrdMap<Key, Arc<Item>>,
    digests: Digests,
    pages: VecDeque<Arc<Page>>,
    /// What was touched and not yet looked at.
    agenda: Agenda,
    moved: Moved,
}

/// When each service and stack was last touched, so that those who look at one are not woken by the others.
#[derive(Default)]
struct Moved {
    services: BTreeMap<ServiceId, Revision>,
    stacks: BTreeMap<StackId, Revision>,
    /// What was touched up to there is not known any more.
    since: Revision,
}

impl Moved {
    fn note(&mut self, agenda: &Agenda, revision: Revision) {
        if self.services.len() + self.stacks.len() > MOVED {
            *self = Self { since: revision, ..Self::default() };
        }
        self.services.extend(agenda.services.iter().map(|service| (*service, revision)));
        self.stacks.extend(agenda.stacks.iter().map(|stack| (*stack, revision)));
    }
}

/// What changed from one edition to the next.
struct Page {
    base: Revision,
    revision: Revision,
    shared: BTreeMap<Key, Option<Arc<Item>>>,
    own: BTreeMap<NodeId, BTreeSet<Key>>,
    /// What the page changes of the digests of all nodes, and of one.
    shared_digests: Vec<DigestChange>,
    own_digests: BTreeMap<NodeId, Vec<DigestChange>>,
}

/// What a session has to send.
pub(super) enum News {
    /// Nothing changed for the node up to that revision.
    Nothing(Revision),
    /// Send this; it changes the digests of what the node holds so.
    Update(ViewUpdate, Vec<DigestChange>),
    /// Too much has changed since: send what differs from what the node holds ([`Views::differing`]).
    Behind,
    /// The node is no longer a member.
    Removed,
}

/// A view, as far as it differs from what a node holds.
pub(super) struct Differing {
    pub(super) generation: Revision,
    /// Buckets that differ, with all of their items.
    pub(super) buckets: BTreeMap<u8, Vec<Arc<Item>>>,
    /// Of the whole view.
    pub(super) digests: Digests,
}

impl Views {
    /// Begins with `cluster`; everything is on the agenda.
    pub(super) fn new(cluster: Cluster) -> Self {
        let revision = cluster.revision;
        let agenda = Agenda::everything(&cluster);
        let world = World::new(cluster);
        let shared = shared_items(&world);
        let digests = Digests::of(shared.values().map(|item| &**item));
        let state = State {
            shared,
            digests,
            world,
            pages: VecDeque::new(),
            agenda,
            moved: Moved { since: revision, ..Moved::default() },
        };
        Self { state: Mutex::new(state), revision: watch::Sender::new(revision) }
    }

    /// Follows the store for as long as it lives. Not cancel-safe: to be dropped with the whole reign.
    pub(super) async fn follow(&self, store: &Store, mut changes: Changes) {
        let mut ahead = None;
        loop {
            let news = match ahead.take() {
                Some(news) => Some(news),
                None => changes.next().await,
            };
            let Some(first) = news else { return };
            let held = self.revision();
            if first.revision <= held {
                continue;
            }
            let cluster = store.snapshot();
            let mut keys = Some(BTreeSet::new());
            let mut last = first.revision;
            gather(&mut keys, first);
            // The snapshot may be newer than the news: wait for exactly the news that lead up to it.
            while last < cluster.revision {
                let Some(next) = changes.next().await else { return };
                if next.revision > cluster.revision {
                    ahead = Some(next);
                    break;
                }
                last = next.revision;
                gather(&mut keys, next);
            }
            match &keys {
                Some(few) if few.len() <= FEW => self.turn(cluster, keys),
                Some(_) | None => compute::in_place(|| self.turn(cluster, keys)),
            }
        }
    }

    fn turn(&self, cluster: Cluster, keys: Option<BTreeSet<ObjectKey>>) {
        let revision = cluster.revision;
        {
            let mut state = self.state();
            match keys {
                Some(keys) => state.advance(&cluster, &keys.into_iter().collect::<Vec<_>>()),
                None => state.begin_anew(cluster),
            }
        }
        self.revision.send_replace(revision);
    }

    /// The newest edition's revision.
    pub(super) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Moves with each edition.
    pub(super) fn watch(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// The newest world.
    pub(super) fn world(&self) -> World {
        self.state().world.clone()
    }

    /// Whether one of the services, or the stack, may have been touched after `looked`.
    pub(super) fn touched(
        &self,
        stack: Option<StackId>,
        services: &BTreeSet<ServiceId>,
        looked: Revision,
    ) -> bool {
        let state = self.state();
        let after = |at: Option<&Revision>| at.is_some_and(|at| *at > looked);
        state.moved.since > looked
            || stack.is_some_and(|stack| {
                after(state.moved.stacks.get(&stack)) || !state.world.cluster().stacks.contains_key(&stack)
            })
            || services.iter().any(|service| after(state.moved.services.get(service)))
    }

    /// The newest world, and what was touched since this was last asked.
    pub(super) fn take_agenda(&self) -> (World, Agenda) {
        let mut state = self.state();
        (state.world.clone(), std::mem::take(&mut state.agenda))
    }

    /// Nothing was touched since the agenda was last taken.
    pub(super) fn is_quiet(&self) -> bool {
        self.state().agenda.is_empty()
    }

    /// What a node's view is, where it differs from what the node holds; none if the node is no member.
    pub(super) fn differing(&self, node: NodeId, held: &Digests) -> Option<Differing> {
        let (world, shared, mut digests) = {
            let state = self.state();
            (state.world.clone(), state.shared.clone(), state.digests.clone())
        };
        if !world.cluster().nodes.contains_key(&node) {
            return None;
        }
        let own = world.tasks_on(node).filter_map(|task| view::item(&world, node, Key::Task(task.id)));
        let own: Vec<_> = own.map(Arc::new).collect();
        own.iter().for_each(|item| digests.flip(DigestChange::of(item)));
        let mut buckets: BTreeMap<u8, Vec<Arc<Item>>> =
            digests.differing(held).into_iter().map(|bucket| (bucket, Vec::new())).collect();
        if !buckets.is_empty() {
            for item in shared.values().chain(&own) {
                if let Some(items) = buckets.get_mut(&item.key().bucket()) {
                    items.push(item.clone());
                }
            }
        }
        Some(Differing { generation: world.cluster().revision, buckets, digests })
    }

    /// What changed for a node that was told everything up to `looked`, and whose view is of generation `sent`.
    pub(super) fn since(&self, node: NodeId, looked: Revision, sent: Revision) -> News {
        let (world, pages) = {
            let state = self.state();
            let pages: Vec<_> = state.pages.iter().filter(|page| page.revision > looked).cloned().collect();
            (state.world.clone(), pages)
        };
        if !world.cluster().nodes.contains_key(&node) {
            return News::Removed;
        }
        let generation = world.cluster().revision;
        match pages.first() {
            None if looked < generation => return News::Behind,
            Some(first) if first.base > looked => return News::Behind,
            None | Some(_) => {}
        }
        let mut items: BTreeMap<Key, Option<Item>> = BTreeMap::new();
        let mut digests = Vec::new();
        for page in pages {
            digests.extend(&page.shared_digests);
            digests.extend(page.own_digests.get(&node).into_iter().flatten());
            let shared = page.shared.iter().map(|(key, item)| (*key, item.as_deref().cloned()));
            items.extend(shared);
            let own = page.own.get(&node).into_iter().flatten();
            items.extend(own.map(|key| (*key, view::item(&world, node, *key))));
        }
        if items.is_empty() {
            return News::Nothing(generation);
        }
        let mut update = ViewUpdate { base: Some(sent), generation, put: Vec::new(), remove: Vec::new() };
        for (key, item) in items {
            match item {
                Some(item) => update.put.push(item),
                None => update.remove.push(key),
            }
        }
        News::Update(update, digests)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn advance(&mut self, cluster: &Cluster, keys: &[ObjectKey]) {
        let before = self.world.clone();
        // Services say which nodes do not answer on their ports, which is nothing to decide over.
        let deaf = |cluster: &Cluster, node| cluster.nodes.get(&node).map(|node| node.info.deaf.clone());
        let tells = |key: &ObjectKey| match key {
            ObjectKey::Node(node) => deaf(before.cluster(), *node) != deaf(cluster, *node),
            ObjectKey::Cluster
            | ObjectKey::Stack(_)
            | ObjectKey::Network(_)
            | ObjectKey::Volume(_)
            | ObjectKey::Blob(_)
            | ObjectKey::Service(_)
            | ObjectKey::Task(_) => false,
        };
        if keys.iter().any(tells) {
            self.moved = Moved { since: cluster.revision, ..Moved::default() };
        }
        let agenda = self.world.advance(cluster, keys);
        self.moved.note(&agenda, cluster.revision);
        self.agenda.merge(agenda);
        let touched = view::touched(&before, &self.world, keys);
        let mut page = Page {
            base: before.cluster().revision,
            revision: cluster.revision,
            shared: BTreeMap::new(),
            own: BTreeMap::new(),
            shared_digests: Vec::new(),
            own_digests: BTreeMap::new(),
        };
        for key in touched.shared {
            // Shared items look the same to every node.
            let item = view::item(&self.world, NodeId::new(0), key).map(Arc::new);
            let old = match &item {
                Some(item) if self.shared.get(&key) == Some(item) => continue,
                Some(item) => self.shared.insert(key, item.clone()),
                None => self.shared.remove(&key),
            };
            if old.is_none() && item.is_none() {
                continue;
            }
            page.shared_digests.extend(old.iter().chain(&item).map(|item| DigestChange::of(item)));
            page.shared.insert(key, item);
        }
        page.shared_digests.iter().for_each(|change| self.digests.flip(*change));
        for (node, keys) in touched.own {
            for key in keys {
                let (old, new) = (view::item(&before, node, key), view::item(&self.world, node, key));
                if old != new {
                    page.own.entry(node).or_default().insert(key);
                    let changes = old.iter().chain(&new).map(DigestChange::of);
                    page.own_digests.entry(node).or_default().extend(changes);
                }
            }
        }
        self.pages.push_back(Arc::new(page));
        if self.pages.len() > PAGES {
            self.pages.pop_front();
        }
    }

    fn begin_anew(&mut self, cluster: Cluster) {
        self.moved = Moved { since: cluster.revision, ..Moved::default() };
        self.agenda = Agenda::everything(&cluster);
        self.world = World::new(cluster);
        self.shared = shared_items(&self.world);
        self.digests = Digests::of(self.shared.values().map(|item| &**item));
        self.pages.clear();
    }
}

fn shared_items(world: &World) -> OrdMap<Key, Arc<Item>> {
    let item = |key| Some((key, Arc::new(view::item(world, NodeId::new(0), key)?)));
    view::shared_keys(world.cluster()).filter_map(item).collect()
}

fn gather(keys: &mut Option<BTreeSet<ObjectKey>>, news: Touched) {
    match (&mut *keys, news.keys) {
        (Some(all), Some(more)) => all.extend(more.iter().copied()),
        (_, None) => *keys = None,
        (None, Some(_)) => {}
    }
}

#[cfg(test)]
mod tests {
    use raftup_proto::{
        api::NodeState,
        codec,
        peer::{Down, TaskState},
    };
    use std::time::Instant;

    use super::*;
    use crate::{
        model::{Slot, Task},
        plan::view::endpoint_key,
        store::sample,
    };

    /// Two nodes and a service of so many tasks that all run on the first one.
    fn cluster(replicas: u32) -> Cluster {
        let mut cluster = Cluster { revision: Revision(1), ..Cluster::default() };
        cluster.info = Some(Arc::new(sample::info()));
        for number in [1, 2] {
            let mut node = sample::node(1);
            node.id = NodeId::new(number);
            cluster.nodes.insert(node.id, Arc::new(node));
        }
        let service = sample::service(1);
        cluster.services.insert(service.id, Arc::new(service));
        for slot in 1..=replicas {
            let mut task = Task { slot: Slot::Replica(slot), ..sample::task(slot.into()) };
            // No two have one, as in a cluster.
            for (_, address) in &mut task.networks {
                *address = (u32::from_be_bytes([10, 64, 64, 0]) + slot).into();
            }
            cluster.tasks.insert(task.id, Arc::new(task));
        }
        cluster
    }

    fn change(cluster: &mut Cluster, task: u64, change: impl FnOnce(&mut Task)) -> ObjectKey {
        let id = raftup_proto::id::TaskId::from_random(task);
        change(Arc::make_mut(cluster.tasks.get_mut(&id).unwrap()));
        cluster.revision.0 += 1;
        ObjectKey::Task(id)
    }

    fn digests(views: &Views, node: u64) -> Digests {
        views.differing(NodeId::new(node), &Digests::UNKNOWN).unwrap().digests
    }

    /// What a node is sent for a change of one endpoint does not grow with the service.
    #[test]
    fn a_change_of_one_endpoint_is_one_small_item() {
        let mut sizes = Vec::new();
        for replicas in [10, 1_000, 8_000] {
            let mut cluster = cluster(replicas);
            let views = Views::new(cluster.clone());
            let whole = views.differing(NodeId::new(2), &Digests::UNKNOWN).unwrap();
            let whole: u64 = whole.buckets.values().map(codec::size).sum();
            let key = change(&mut cluster, 7, |task| task.desired = crate::model::Desired::Drain);
            let begun = Instant::now();
            views.turn(cluster.clone(), Some([key].into()));
            let took = begun.elapsed();
            let News::Update(update, _) = views.since(NodeId::new(2), Revision(1), Revision(1)) else {
                panic!("there is news")
            };
            let task = &cluster.tasks[&raftup_proto::id::TaskId::from_random(7)];
            assert_eq!(update.put.iter().map(Item::key).collect::<Vec<_>>(), [endpoint_key(task)]);
            let bytes = codec::size(&Down::Update(update));
            println!("{replicas} endpoints: {bytes} bytes to each node, of {whole}; {took:?} of the leader");
            sizes.push(bytes);
        }
        assert!(sizes.iter().all(|bytes| *bytes < 200), "{sizes:?}");
    }

    /// What changes nothing for a node is not sent, and each page keeps the digests as they would be worked out anew.
    #[test]
    fn digests_follow_what_is_sent() {
        let mut cluster = cluster(50);
        let views = Views::new(cluster.clone());
        let mut held = [1, 2].map(|node| digests(&views, node));
        let (mut looked, mut sent) = (Revision(1), [Revision(1); 2]);
        for step in 0..40 {
            let key = match step % 4 {
                0 => change(&mut cluster, step + 1, |task| task.status.state = TaskState::Complete),
                1 => change(&mut cluster, step + 1, |task| task.restarts += 1),
                2 => {
                    let node = Arc::make_mut(cluster.nodes.get_mut(&NodeId::new(1)).unwrap());
                    let down = node.state == NodeState::Down;
                    node.state = if down { NodeState::Ready } else { NodeState::Down };
                    cluster.revision.0 += 1;
                    ObjectKey::Node(NodeId::new(1))
                }
                _ => {
                    let id = raftup_proto::id::TaskId::from_random(step + 1);
                    cluster.tasks.remove(&id);
                    cluster.revision.0 += 1;
                    ObjectKey::Task(id)
                }
            };
            views.turn(cluster.clone(), Some([key].into()));
            for (index, node) in [1, 2].into_iter().enumerate() {
                match views.since(NodeId::new(node), looked, sent[index]) {
                    News::Update(update, changes) => {
                        sent[index] = update.generation;
                        changes.into_iter().for_each(|change| held[index].flip(change));
                    }
                    News::Nothing(_) => assert_eq!(step % 4, 1, "a count of restarts is nothing to a node"),
                    News::Behind | News::Removed => panic!("the page is there"),
                }
                assert_eq!(held[index], digests(&views, node), "step {step}");
            }
            looked = cluster.revision;
        }
        // Whoever holds all of it is sent nothing, and whoever misses one item one bucket.
        let full = views.differing(NodeId::new(2), &held[1]).unwrap();
        assert!(full.buckets.is_empty());
        held[1].flip(DigestChange::of(&views.state().shared[&Key::Cluster]));
        let missing = views.differing(NodeId::new(2), &held[1]).unwrap();
        assert_eq!(missing.buckets.keys().copied().collect::<Vec<_>>(), [Key::Cluster.bucket()]);
    }

    /// Endpoints go with their service, and those of a version that is forgotten lose its ports.
    #[test]
    fn a_change_of_a_service_reaches_its_endpoints_only_if_it_concerns_them() {
        let mut cluster = cluster(20);
        let views = Views::new(cluster.clone());
        let id = raftup_proto::id::ServiceId::from_random(1);
        let mut turn = |change: &dyn Fn(&mut crate::model::Service)| {
            change(Arc::make_mut(cluster.services.get_mut(&id).unwrap()));
            cluster.revision.0 += 1;
            let base = Revision(cluster.revision.0 - 1);
            views.turn(cluster.clone(), Some([ObjectKey::Service(id)].into()));
            match views.since(NodeId::new(2), base, base) {
                News::Update(update, _) => (update.put.len(), update.remove.len()),
                News::Nothing(_) => (0, 0),
                News::Behind | News::Removed => panic!("the page is there"),
            }
        };
        assert_eq!(turn(&|service| service.waiting.clear()), (0, 0));
        assert_eq!(turn(&|service| service.vips.clear()), (1, 0));
        assert_eq!(turn(&|service| service.removing = true), (0, 21));
        assert_eq!(turn(&|service| service.removing = false), (21, 0));
    }

    #[test]
    fn who_looks_at_one_service_is_not_woken_by_others() {
        let mut cluster = cluster(3);
        let mut other = sample::service(2);
        other.stack = StackId::from_random(2);
        let (one, two) = (ServiceId::from_random(1), other.id);
        cluster.services.insert(two, Arc::new(other));
        for stack in [1, 2] {
            cluster.stacks.insert(StackId::from_random(stack), Arc::new(sample::stack(stack, "shop")));
        }
        let views = Views::new(cluster.clone());
        let touched =
            |service: ServiceId, looked: u64| views.touched(None, &[service].into(), Revision(looked));
        let key = change(&mut cluster, 1, |task| task.restarts += 1);
        views.turn(cluster.clone(), Some([key].into()));
        assert!(touched(one, 1) && !touched(one, 2) && !touched(two, 1));
        let stack = |stack, looked| {
            views.touched(Some(StackId::from_random(stack)), &BTreeSet::new(), Revision(looked))
        };
        assert!(!stack(2, 1));
        cluster.services.remove(&two);
        cluster.revision.0 += 1;
        views.turn(cluster.clone(), Some([ObjectKey::Service(two)].into()));
        assert!(stack(2, 2) && touched(two, 2) && !touched(one, 2));
        // What is gone may always have changed.
        assert!(stack(9, 3));
        // So may all, where news were missed.
        cluster.revision.0 += 1;
        views.turn(cluster.clone(), None);
        assert!(touched(one, 3) && !touched(one, 4));
    }
}
