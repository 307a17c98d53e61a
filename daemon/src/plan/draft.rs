//! A change set while it is being worked out.
//!
//! Owns: the changes so far, each visible at once in the world that later steps read, so that two tasks never get the
//! same address and no node is filled twice. Leaves alone: what to change.
//! Holds: one change an object; an update that comes out equal to what was there is none.

use std::{collections::BTreeMap, sync::Arc};

use raftup_proto::unit::UnixMillis;

use crate::model::{ChangeSet, Meta, Object, ObjectKey, Task};

use super::World;

/// Changes of one set, in tasks: a small part of what the log takes as one entry (`store`), and worked out within a few
/// milliseconds.
const FULL: usize = 500;

/// A version of a service counts as so many tasks, as its spec does; so do so many of a node's networks.
const VERSION_WEIGHT: usize = 4;
const NETWORKS_OF_ONE: usize = 8;
const BYTES_OF_ONE: usize = 1 << 10;

fn weight(object: &Object) -> usize {
    match object {
        Object::Service(service) => VERSION_WEIGHT * service.versions.len(),
        Object::Node(node) => 1 + node.blocks.len() / NETWORKS_OF_ONE,
        Object::Cluster(_) | Object::Stack(_) | Object::Task(_) | Object::Network(_) | Object::Volume(_) => 1,
        // Only marks of it are changed here, but it goes into the log whole.
        Object::Blob(blob) => 1 + blob.sealed.0.len() / BYTES_OF_ONE,
    }
}

/// Changes to a world, and the world with them.
#[derive(Debug)]
pub struct Draft<'a> {
    base: &'a World,
    world: World,
    changed: BTreeMap<ObjectKey, Option<Object>>,
    /// About how large the set is, in tasks.
    weight: usize,
    /// The leader's clock.
    pub now: UnixMillis,
}

impl<'a> Draft<'a> {
    /// No changes yet.
    pub fn new(base: &'a World, now: UnixMillis) -> Self {
        Self { base, world: base.clone(), changed: BTreeMap::new(), weight: 0, now }
    }

    /// The world with all changes so far.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Makes or changes an object. The meta of one that was there must be the one that it had.
    pub fn put(&mut self, object: impl Into<Object>) {
        let object = object.into();
        let (key, weight) = (object.key(), weight(&object));
        self.world.set(key, Some(object.clone()));
        if self.changed.insert(key, Some(object)).is_none() {
            self.weight += weight;
        }
    }

    /// Removes an object, if it is there.
    pub fn delete(&mut self, key: ObjectKey) {
        self.world.set(key, None);
        if self.changed.insert(key, None).is_none() {
            self.weight += 1;
        }
    }

    /// The set is as large as one should be; what else there is to change comes in the next.
    pub fn is_full(&self) -> bool {
        self.weight >= FULL
    }

    /// The object is part of the set.
    pub fn has(&self, key: ObjectKey) -> bool {
        self.changed.contains_key(&key)
    }

    /// Changes a task, if it is there.
    pub fn task(&mut self, task: &Arc<Task>, change: impl FnOnce(&mut Task)) {
        let mut task = Task::clone(task);
        change(&mut task);
        self.put(task);
    }

    /// The changes: deletions last, else by key.
    pub fn finish(self) -> ChangeSet {
        let mut set = ChangeSet::new(self.now);
        let mut gone = Vec::new();
        for (key, object) in self.changed {
            match (self.base.cluster().get(key), object) {
                (None, Some(object)) => set.changes.push(crate::model::Change::Create(object)),
                (Some(old), Some(object)) if old == object => {}
                (Some(_), Some(object)) => set.changes.push(crate::model::Change::Update(object)),
                (Some(old), None) => gone.push((key, old.meta())),
                (None, None) => {}
            }
        }
        for (key, meta) in gone {
            set.delete(key, meta);
        }
        set
    }

    /// The meta of a new object: `apply` fills it in. Within the draft it is as old as the draft.
    pub fn fresh_meta(&self) -> Meta {
        Meta { revision: self.base.cluster().revision, created: self.now, updated: self.now }
    }
}
