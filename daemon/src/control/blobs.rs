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
