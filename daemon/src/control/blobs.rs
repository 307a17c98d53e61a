//! Contents of secrets and configs: sealed in the state, opened for the node whose task uses one.

use std::sync::Arc;

use raftup_proto::{
    id::{BlobId, NodeId, TaskId},
    refusal::{Code, Refusal},
    secret::Secret,
    spec::{BlobData, BlobKind, StackSpec},
};

use crate::{
    model::{Blob, Cluster, Desired, Sealed, Task},
    plan::blobs::Contents,
    secret::{self, Key},
};

/// What the sealed content is bound to: it opens under no other name, and not as the other kind.
fn context(kind: BlobKind, name: &str) -> String {
    format!("{kind}:{name}")
}

/// What the state keeps of the contents of a stack: the very bytes that are there already where they are the same, so that a
/// repeated deploy changes nothing, and an earlier content that comes again is that one.
pub fn seal_stack(cluster: &Cluster, key: &Key, spec: &StackSpec) -> Contents {
    let mut contents = Contents::new();
    for kind in BlobKind::ALL {
        for (name, blob) in spec.blobs(kind) {
            if let Some(data) = &blob.data {
                contents.insert((kind, name.clone()), seal(cluster, key, (kind, &blob.name), data));
            }
        }
    }
    contents
}

/// The content of that name, sealed.
pub fn seal(cluster: &Cluster, key: &Key, (kind, name): (BlobKind, &str), data: &BlobData) -> Sealed {
    let known = cluster.blobs.values().filter(|blob| blob.kind == kind && blob.name == name);
    let mut same = known.filter(|blob| open(key, blob).is_ok_and(|opened| opened == *data));
    if let Some(known) = same.next() {
        return known.sealed.clone();
    }
    Sealed(secret::seal(key, &context(kind, name), data.expose()))
}

/// The content of one. Errors: it does not open with the managers' key.
pub fn open(key: &Key, blob: &Blob) -> Result<BlobData, Refusal> {
    let opened = secret::open(key, &context(blob.kind, &blob.name), &blob.sealed.0);
    let broken = |_| {
        let message = format!("{} `{}` cannot be unsealed", blob.kind, blob.name);
        Refusal::new(Code::Internal, message)
    };
    // The vector moves, so that no copy is left behind.
    Ok(std::mem::take(&mut *opened.map_err(broken)?).into())
}

/// A content for a task, asked for by `caller`.
///
/// Errors: the caller does not run the task, or the task does not use it.
pub fn for_task(
    cluster: &Cluster,
    key: &Key,
    (caller, task): (NodeId, TaskId),
    blob: BlobId,
) -> Result<Secret<Vec<u8>>, Refusal> {
    let refused = || Refusal::new(Code::Forbidden, format!("{caller} runs no task {task} that uses {blob}"));
    let runs = |task: &&Arc<Task>| {
        let wanted = matches!(task.desired, Desired::Run | Desired::Drain);
        task.node == Some(caller) && wanted && !task.status.state.is_over()
    };
    let task = cluster.tasks.get(&task).filter(runs).ok_or_else(refused)?;
    let service = cluster.services.get(&task.service).ok_or_else(refused)?;
    let version = service.version(task.version).ok_or_else(refused)?;
    let uses = version.spec.container.blobs().any(|(_, mount)| mount.id == Some(blob));
    let blob = cluster.blobs.get(&blob).filter(|_| uses).ok_or_else(refused)?;
    open(key, blob).map(Secret::from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use raftup_proto::{peer::TaskState, spec::BlobMount};

    use super::*;
    use crate::{
        model::{Service, Version},
        store::sample,
    };

    /// A task of node 1 that uses the first of two secrets.
    fn cluster(key: &Key) -> (Cluster, TaskId, [BlobId; 2]) {
        let mut cluster = Cluster::default();
        let data = BlobData::from(b"hunter2".to_vec());
        let blobs = [1, 2].map(|id| {
            let name = format!("key{id}");
            let sealed = seal(&cluster, key, (BlobKind::Secret, &name), &data);
            let blob = Blob { name, sealed, ..sample::blob(id) };
            cluster.blobs.insert(blob.id, Arc::new(blob.clone()));
            blob.id
        });
        let mut service: Service = sample::service(1);
        let version: &mut Version = service.versions.last_mut().unwrap();
        let mut spec = (*version.spec).clone();
        spec.container.secrets.push(BlobMount {
            source: "key".parse().unwrap(),
            name: "key1".to_owned(),
            target: "/run/secrets/key".to_owned(),
            uid: 0,
            gid: 0,
            mode: 0o444,
            id: Some(blobs[0]),
        });
        version.spec = spec.into();
        cluster.services.insert(service.id, service.into());
        let task = sample::task(1);
        let id = task.id;
        cluster.tasks.insert(id, task.into());
        (cluster, id, blobs)
    }

    #[test]
    fn a_node_is_given_what_its_tasks_use_while_they_run() {
        let key = Key::generate();
        let (mut cluster, task, [used, other]) = cluster(&key);
        let ask = |cluster: &Cluster, node: u64, blob| {
            for_task(cluster, &key, (NodeId::new(node), task), blob).map(|data| data.expose().clone())
        };
        assert_eq!(ask(&cluster, 1, used).unwrap(), b"hunter2");
        for (node, blob) in [(2, used), (1, other), (1, BlobId::from_random(9))] {
            assert_eq!(ask(&cluster, node, blob).unwrap_err().code, Code::Forbidden);
        }
        let mut ended = Task::clone(&cluster.tasks[&task]);
        ended.status.state = TaskState::Complete;
        cluster.tasks.insert(task, ended.into());
        assert_eq!(ask(&cluster, 1, used).unwrap_err().code, Code::Forbidden);
    }

    /// The state holds no content as it is, and one does not open in the place of another.
    #[test]
    fn contents_are_sealed_and_bound_to_their_name() {
        let key = Key::generate();
        let (cluster, _, [used, other]) = cluster(&key);
        let state = format!("{cluster:?}");
        assert!(!state.contains("hunter2") && state.contains("Sealed("), "{state}");
        let bytes = rmp_serde::to_vec_named(&cluster).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"hunter2"));
        let swapped =
            Blob { sealed: cluster.blobs[&other].sealed.clone(), ..Blob::clone(&cluster.blobs[&used]) };
        assert!(open(&key, &swapped).is_err());
        let config = Blob { kind: BlobKind::Config, ..Blob::clone(&cluster.blobs[&used]) };
        assert!(open(&key, &config).is_err() && open(&Key::generate(), &cluster.blobs[&used]).is_err());
    }

    #[test]
    fn the_same_content_again_is_the_same_bytes() {
        let key = Key::generate();
        let (cluster, ..) = cluster(&key);
        let of =
            |data: &[u8]| seal(&cluster, &key, (BlobKind::Secret, "key1"), &BlobData::from(data.to_vec()));
        let held: BTreeMap<_, _> =
            cluster.blobs.values().map(|blob| (blob.name.clone(), &blob.sealed)).collect();
        assert_eq!(of(b"hunter2"), *held["key1"]);
        assert_ne!(of(b"hunter3"), *held["key1"]);
        assert_ne!(of(b"hunter3"), of(b"hunter3"));
    }
}
