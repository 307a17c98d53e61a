//! Names that would stand for two things: refused before anything is made.
//!
//! A full name joins two names with `_`, which either of them may contain: stack `x_y` with `w` and stack `x` with `y_w` would
//! have the same volume on an engine, and a command could not tell their services apart. Names in DNS have no case, so
//! `Web` and `web` are one name there.
//!
//! Owns: refusals of names. Leaves alone: networks, which an engine is given another name for (`agent`).

use std::collections::BTreeMap;

use raftup_proto::{
    name::{StackName, VolumeName},
    refusal::{Code, Refusal},
    spec::{MountSource, ServiceSpec, StackSpec},
};

use crate::model::Cluster;

/// Errors: a name of the stack is, without regard to case, that of something else.
pub(super) fn check(cluster: &Cluster, spec: &StackSpec) -> Result<(), Refusal> {
    let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let refused = |message: String, hint: &str| {
        let message = format!("stack `{}` refused: {message}", spec.name);
        Err(Refusal::new(Code::Conflict, message).hint(hint))
    };
    let mut stacks = cluster.stacks.values().map(|stack| &stack.name);
    if let Some(other) = stacks.find(|name| **name != spec.name && same(name.as_str(), spec.name.as_str())) {
        let message = format!("there is a stack `{other}`, and names have no case in DNS");
        return refused(message, "give the stack another name, or deploy it under the name that it has");
    }
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for name in spec.services.keys() {
        if let Some(other) = seen.insert(name.as_str().to_ascii_lowercase(), name.as_str()) {
            let message =
                format!("services `{other}` and `{name}` have one name in DNS, where names have no case");
            return refused(message, "rename one of them");
        }
    }
    let foreign = |stack: &StackName| *stack != spec.name;
    for name in spec.services.keys() {
        let full = full_name(&spec.name, name);
        let mut others = cluster.services.values().filter(|other| foreign(&other.stack_name));
        if let Some(other) = others.find(|other| same(&other.full_name(), &full)) {
            let message = format!(
                "its service `{name}` would be `{full}`, as service `{}` of stack `{}` is",
                other.name, other.stack_name
            );
            return refused(message, "rename the service or the stack");
        }
    }
    let held = held_volumes(cluster, &spec.name);
    // A volume that was given a name of its own is shared by whoever gives it that name.
    let named = |name: &VolumeName| spec.volumes.get(name).is_some_and(|volume| volume.config.name.is_some());
    let unnamed = spec.volumes.keys().chain(spec.services.values().flat_map(mounted));
    for name in unnamed.filter(|name| !named(name)) {
        let full = full_name(&spec.name, name);
        if let Some((stack, other)) = held.get(&full) {
            let message = format!(
                "its volume `{name}` would be `{full}` on the servers, as volume `{other}` of stack `{stack}` is: both \
                 would write the same data"
            );
            return refused(message, "rename the volume or the stack");
        }
    }
    Ok(())
}

/// The volumes that a service mounts by name.
fn mounted(service: &ServiceSpec) -> impl Iterator<Item = &VolumeName> {
    service.container.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { name, .. } => Some(name),
        MountSource::Anonymous
        | MountSource::Bind { .. }
        | MountSource::Tmpfs { .. }
        | MountSource::Image { .. } => None,
    })
}

/// The volumes of other stacks by their names on the servers.
fn held_volumes<'a>(
    cluster: &'a Cluster,
    stack: &StackName,
) -> BTreeMap<String, (&'a StackName, &'a VolumeName)> {
    let volumes = cluster.volumes.values().filter(|other| other.stack_name != *stack);
    let declared = volumes.map(|other| {
        let full = full_name(&other.stack_name, &other.name);
        (full, (&other.stack_name, &other.name))
    });
    let services = cluster.services.values().filter(|other| other.stack_name != *stack);
    let mounted = services
        .flat_map(|other| other.volumes.iter().map(|(name, full)| (full.clone(), (&other.stack_name, name))));
    declared.chain(mounted).collect()
}

fn full_name(stack: &StackName, name: impl std::fmt::Display) -> String {
    format!("{stack}_{name}")
}
