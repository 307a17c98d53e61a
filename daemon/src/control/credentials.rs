//! Registry credentials: sealed in the state, opened for the node whose task needs one.

use std::collections::BTreeMap;

use raftup_proto::{
    api::Credential,
    id::{NodeId, StackId, TaskId},
    name::StackName,
    refusal::{Code, Refusal},
};

use crate::{
    model::Cluster,
    secret::{self, Key},
};

/// What the sealed credentials are bound to.
const CONTEXT: &str = "registry-credentials";

/// The registry of images whose name has none.
const DOCKER_HUB: &str = "docker.io";

/// What the state keeps of a deploy's credentials; empty if there are none, and the very bytes that are there already
/// if they are the same, so that a repeated deploy changes nothing.
pub fn seal(
    cluster: &Cluster,
    key: &Key,
    stack: &StackName,
    credentials: &BTreeMap<String, Credential>,
) -> Vec<u8> {
    if credentials.is_empty() {
        return Vec::new();
    }
    let old = cluster.stacks.values().find(|old| old.name == *stack).map(|stack| &stack.credentials_sealed);
    if let Some(old) = old
        && open(key, old).is_ok_and(|opened| opened == *credentials)
    {
        return old.clone();
    }
    let plain = serde_json::to_vec(credentials).expect("maps of texts are JSON");
    secret::seal(key, CONTEXT, &plain)
}

fn open(key: &Key, bytes: &[u8]) -> Result<BTreeMap<String, Credential>, Refusal> {
    if bytes.is_empty() {
        return Ok(BTreeMap::new());
    }
    let broken = || Refusal::new(Code::Internal, "the registry credentials cannot be unsealed");
    let plain = secret::open(key, CONTEXT, bytes).map_err(|_| broken())?;
    serde_json::from_slice(&plain).map_err(|_| broken())
}

/// The credential for the image of a task, asked for by `caller`; none if the stack was deployed without one.
///
/// Errors: the caller does not run the task.
pub fn for_task(
    cluster: &Cluster,
    key: &Key,
    caller: NodeId,
    task: TaskId,
) -> Result<Option<Credential>, Refusal> {
    let foreign = || Refusal::new(Code::Forbidden, format!("{caller} does not run task {task}"));
    let task = cluster.tasks.get(&task).filter(|task| task.node == Some(caller)).ok_or_else(foreign)?;
    let Some(service) = cluster.services.get(&task.service) else { return Ok(None) };
    let Some(stack) = cluster.stacks.get(&service.stack) else { return Ok(None) };
    let image = service.version(task.version).map_or("", |version| version.image.as_str());
    Ok(for_image(&open(key, &stack.credentials_sealed)?, image))
}

/// The credentials that a stack was deployed with; none if there is no such stack, or it has none.
pub fn of_stack(
    cluster: &Cluster,
    key: &Key,
    stack: StackId,
) -> Result<BTreeMap<String, Credential>, Refusal> {
    cluster.stacks.get(&stack).map_or(Ok(BTreeMap::new()), |stack| open(key, &stack.credentials_sealed))
}

/// The credential for an image among those of its stack.
pub fn for_image(credentials: &BTreeMap<String, Credential>, image: &str) -> Option<Credential> {
    credentials.get(registry(image)).cloned()
}

/// The registry that an image name leads to: its first part, if that looks like a host.
/// Source: the reference grammar of `distribution`.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DOCKER_HUB,
    }
}

#[cfg(test)]
mod tests {
    use super::registry;

    #[test]
    fn images_lead_to_their_registry() {
        for (image, host) in [
            ("nginx", "docker.io"),
            ("library/nginx:1", "docker.io"),
            ("localhost/x", "localhost"),
            ("ghcr.io/a/b@sha256:00", "ghcr.io"),
            ("registry:5000/a", "registry:5000"),
        ] {
            assert_eq!(registry(image), host, "{image}");
        }
    }
}
