//! One change set put into the state: a function without clock, chance or order of maps.
//!
//! Owns: the order of changes and what every object has in common ([`Meta`]). Leaves alone: what the changes mean;
//! that was decided in `plan`, on the leader, so an upgrade never makes two replicas disagree.
//! Holds: all of a set or nothing of it; equal inputs, equal results; no input panics.

use std::{collections::BTreeSet, sync::Arc};

use raftup_proto::{unit::UnixMillis, view::Revision};
use serde::{Deserialize, Serialize};

use crate::model::{Change, ChangeSet, Cluster, Meta, Object, ObjectKey};

/// Why a set was not applied. It is part of no state; the log keeps the entry and all replicas skip it alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejected {
    /// The set was made from another state: an object is there already, is gone, or has changed since.
    #[error("{key:?} has changed meanwhile")]
    Conflict {
        /// The object.
        key: ObjectKey,
    },
    /// The set was worked out from another state than the newest.
    #[error("the state is at revision {now:?}, this was worked out from another")]
    Stale {
        /// The newest.
        now: Revision,
    },
    /// The client's request was carried out before.
    #[error("this was done before")]
    Repeated,
    /// The set can never be applied.
    #[error("{key:?} is refused: {reason}")]
    Invalid {
        /// The object.
        key: ObjectKey,
        /// What is wrong with it.
        reason: String,
    },
}

/// Clients' requests that are remembered, so that one that is asked again takes effect once.
const REQUESTS: usize = 512;

/// The state after `set`, which is the entry of the log at `index`.
///
/// Errors: [`Rejected`] if any of its changes cannot be made; nothing has then happened. Cost: one step down a tree for
/// each change; a new stack looks at all stacks.
pub fn apply(cluster: &Cluster, index: u64, set: &ChangeSet) -> Result<Cluster, Rejected> {
    if let Some(handled) = &set.handled
        && cluster.handled(handled.request).is_some()
    {
        return Err(Rejected::Repeated);
    }
    if set.base.is_some_and(|base| base != cluster.revision) {
        return Err(Rejected::Stale { now: cluster.revision });
    }
    let mut next = cluster.clone();
    next.clock = next.clock.max(set.at);
    if set.is_empty() && next.info.is_some() {
        // Only the clock moves on.
        return Ok(next);
    }
    next.revision = Revision(index);
    if let Some(handled) = &set.handled {
        next.handled.insert(next.revision, Arc::new(handled.clone()));
        while next.handled.len() > REQUESTS {
            next.handled = next.handled.without_min().1;
        }
    }
    let mut seen = BTreeSet::new();
    for change in &set.changes {
        let key = change.key();
        if !seen.insert(key) {
            return Err(invalid(key, "it is changed twice in one set"));
        }
        let current = cluster.get(key).map(|object| object.meta());
        match change {
            Change::Create(object) => create(&mut next, object, current, set.at)?,
            Change::Update(object) => update(&mut next, object, current, set.at)?,
            Change::Delete(key, revision) => delete(&mut next, *key, current, *revision)?,
        }
    }
    match next.info {
        Some(_) => Ok(next),
        None => Err(invalid(ObjectKey::Cluster, "the first set must create it")),
    }
}

fn invalid(key: ObjectKey, reason: &str) -> Rejected {
    Rejected::Invalid { key, reason: reason.to_owned() }
}

fn create(
    next: &mut Cluster,
    object: &Object,
    current: Option<Meta>,
    at: UnixMillis,
) -> Result<(), Rejected> {
    let key = object.key();
    if current.is_some() {
        return Err(Rejected::Conflict { key });
    }
    if let Object::Stack(stack) = object
        && let Some(other) = next.stacks.values().find(|other| other.name == stack.name)
    {
        return Err(Rejected::Conflict { key: ObjectKey::Stack(other.id) });
    }
    let revision = next.revision;
    put(next, object, Meta { revision, created: at, updated: at })
}

fn update(
    next: &mut Cluster,
    object: &Object,
    current: Option<Meta>,
    at: UnixMillis,
) -> Result<(), Rejected> {
    match current {
        Some(meta) if meta.revision == object.meta().revision => {
            let revision = next.revision;
            put(next, object, Meta { revision, created: meta.created, updated: at })
        }
        Some(_) | None => Err(Rejected::Conflict { key: object.key() }),
    }
}

fn delete(
    next: &mut Cluster,
    key: ObjectKey,
    current: Option<Meta>,
    revision: Revision,
) -> Result<(), Rejected> {
    if current.is_none_or(|meta| meta.revision != revision) {
        return Err(Rejected::Conflict { key });
    }
    match key {
        ObjectKey::Cluster => return Err(invalid(key, "it lasts as long as its managers")),
        ObjectKey::Node(id) => drop(next.nodes.remove(&id)),
        ObjectKey::Stack(id) => drop(next.stacks.remove(&id)),
        ObjectKey::Service(id) => drop(next.services.remove(&id)),
        ObjectKey::Task(id) => drop(next.tasks.remove(&id)),
        ObjectKey::Network(id) => drop(next.networks.remove(&id)),
        ObjectKey::Volume(id) => drop(next.volumes.remove(&id)),
        ObjectKey::Blob(id) => drop(next.blobs.remove(&id)),
    }
    Ok(())
}

fn put(next: &mut Cluster, object: &Object, meta: Meta) -> Result<(), Rejected> {
    macro_rules! with_meta {
        ($object:expr) => {{
            let mut object = $object.clone();
            Arc::make_mut(&mut object).meta = meta;
            object
        }};
    }
    match object {
        Object::Cluster(info) => next.info = Some(with_meta!(info)),
        Object::Node(node) => drop(next.nodes.insert(node.id, with_meta!(node))),
        Object::Stack(stack) => drop(next.stacks.insert(stack.id, with_meta!(stack))),
        Object::Service(service) if service.versions.is_empty() => {
            return Err(invalid(object.key(), "a service has at least one version"));
        }
        Object::Service(service) => drop(next.services.insert(service.id, with_meta!(service))),
        Object::Task(task) => drop(next.tasks.insert(task.id, with_meta!(task))),
        Object::Network(network) => drop(next.networks.insert(network.id, with_meta!(network))),
        Object::Volume(volume) => drop(next.volumes.insert(volume.id, with_meta!(volume))),
        Object::Blob(blob) => drop(next.blobs.insert(blob.id, with_meta!(blob))),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
