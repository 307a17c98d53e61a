//! The state as it moves: what the driver has to look at, and what each node has to be told.
//!
//! One loop follows the store. Each step makes an edition: the newest world, and a page with the items that changed. A
//! session that has fallen behind by more pages than are kept is sent everything.
//!
//! Owns: the leader's index of the state. Leaves alone: what an item is (`plan::view`), how it is sent (`session`).
//! Holds: an edition's world, items and agenda belong to the same revision; an item is on a page only if it differs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imbl::OrdMap;
use raftup_proto::{
    id::NodeId,
    view::{Item, Key, Revision, ViewUpdate},
};
use tokio::sync::watch;

use crate::{
    model::{Cluster, ObjectKey},
    plan::{Agenda, World, view},
    store::{Changes, Store, Touched},
};

/// Pages that are kept; a session behind by more is sent everything.
const PAGES: usize = 256;

/// Views of all nodes.
pub(super) struct Views {
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
}

struct State {
    world: World,
    /// The items that all nodes have.
    shared: OrdMap<Key, Arc<Item>>,
    pages: VecDeque<Arc<Page>>,
    /// What was touched and not yet looked at.
    agenda: Agenda,
}

/// What changed from one edition to the next.
struct Page {
    base: Revision,
    revision: Revision,
    shared: BTreeMap<Key, Option<Arc<Item>>>,
    own: BTreeMap<NodeId, BTreeSet<Key>>,
}

/// What a session has to send.
pub(super) enum News {
    /// Nothing changed for the node up to that revision.
    Nothing(Revision),
    /// Send this.
    Update(ViewUpdate),
    /// The node is no longer a member.
    Removed,
}

impl Views {
    /// Begins with `cluster`; everything is on the agenda.
    pub(super) fn new(cluster: Cluster) -> Self {
        let revision = cluster.revision;
        let agenda = Agenda::everything(&cluster);
        let world = World::new(cluster);
        let state = State { shared: shared_items(&world), world, pages: VecDeque::new(), agenda };
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
            self.turn(cluster, keys);
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

    /// The newest world, and what was touched since this was last asked.
    pub(super) fn take_agenda(&self) -> (World, Agenda) {
        let mut state = self.state();
        (state.world.clone(), std::mem::take(&mut state.agenda))
    }

    /// Nothing was touched since the agenda was last taken.
    pub(super) fn is_quiet(&self) -> bool {
        self.state().agenda.is_empty()
    }

    /// All of a node's view.
    pub(super) fn full(&self, node: NodeId) -> News {
        let (world, shared) = {
            let state = self.state();
            (state.world.clone(), state.shared.clone())
        };
        if !world.cluster().nodes.contains_key(&node) {
            return News::Removed;
        }
        let own = world.tasks_on(node).filter_map(|task| view::item(&world, node, Key::Task(task.id)));
        News::Update(ViewUpdate {
            base: None,
            generation: world.cluster().revision,
            put: shared.values().map(|item| Item::clone(item)).chain(own).collect(),
            remove: Vec::new(),
        })
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
            None if looked < generation => return self.full(node),
            Some(first) if first.base > looked => return self.full(node),
            None | Some(_) => {}
        }
        let mut items: BTreeMap<Key, Option<Item>> = BTreeMap::new();
        for page in pages {
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
        News::Update(update)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn advance(&mut self, cluster: &Cluster, keys: &[ObjectKey]) {
        let before = self.world.clone();
        self.agenda.merge(self.world.advance(cluster, keys));
        let touched = view::touched(&before, &self.world, keys);
        let mut page = Page {
            base: before.cluster().revision,
            revision: cluster.revision,
            shared: BTreeMap::new(),
            own: BTreeMap::new(),
        };
        for key in touched.shared {
            // Shared items look the same to every node.
            let item = view::item(&self.world, NodeId::new(0), key).map(Arc::new);
            if self.shared.get(&key) == item.as_ref() {
                continue;
            }
            match &item {
                Some(item) => _ = self.shared.insert(key, item.clone()),
                None => _ = self.shared.remove(&key),
            }
            page.shared.insert(key, item);
        }
        for (node, keys) in touched.own {
            let differs = |key: &Key| view::item(&before, node, *key) != view::item(&self.world, node, *key);
            let keys: BTreeSet<_> = keys.into_iter().filter(differs).collect();
            if !keys.is_empty() {
                page.own.insert(node, keys);
            }
        }
        self.pages.push_back(Arc::new(page));
        if self.pages.len() > PAGES {
            self.pages.pop_front();
        }
    }

    fn begin_anew(&mut self, cluster: Cluster) {
        self.agenda = Agenda::everything(&cluster);
        self.world = World::new(cluster);
        self.shared = shared_items(&self.world);
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
