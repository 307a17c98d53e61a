//! From one version of a service to the next, and back.
//!
//! Every change of what a service is asked to be is a version. One that needs no other containers than an earlier one
//! says so, and tasks of that one stay: a change of replicas or ports replaces nothing, nor does a way back replace what
//! never went forth.
//!
//! Owns: what a version is, and the beginning of a rollout. Leaves alone: its course (`rollout`), how many versions are
//! kept (`cleanup`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use raftup_proto::{
    api::{UpdateState, UpdateStatus},
    id::NetworkId,
    peer::TaskState,
    refusal::{Code, Refusal},
    spec::{EndpointMode, ServiceSpec},
    unit::UnixMillis,
};

use crate::model::{Cluster, Desired, Network, Rollout, Service, Task, Version};

use super::{addresses, blobs, ports, restart, rollout::outdated_slots};

/// Images as they are asked for, with the digest that their registry has for them now: `nginx:1@sha256:..`. One that is
/// not among them could not be looked up.
pub(super) type Pinned = BTreeMap<String, String>;

/// The first version of a service.
pub(super) fn first(spec: &ServiceSpec, pinned: &Pinned, at: UnixMillis) -> Version {
    let asked = &spec.container.image;
    let image = pinned.get(asked).unwrap_or(asked).clone();
    Version { number: 1, containers: 1, at, image, spec: Arc::new(spec.clone()), proven: false }
}

/// The image of the next version: as the registry has it now, else as the last version that asked for the same has it.
fn image(service: &Service, spec: &ServiceSpec, pinned: &Pinned) -> String {
    let asked = &spec.container.image;
    let before = service.versions.iter().rev().find(|version| version.spec.container.image == *asked);
    pinned.get(asked).or(before.map(|version| &version.image)).unwrap_or(asked).clone()
}

/// What a change does besides.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Tasks are replaced even if they would do.
    pub(super) force: bool,
    /// A paused update goes on.
    pub(super) resume: bool,
}

/// Asks `service` to be as `spec` says; its networks and volumes must be those of `spec` already.
pub(super) fn change(
    cluster: &Cluster,
    service: &mut Service,
    (spec, pinned): (&ServiceSpec, &Pinned),
    how: How,
    at: UnixMillis,
) {
    let How { force, resume } = how;
    let image = image(service, spec, pinned);
    let current = service.current();
    let same = *current.spec == *spec && current.image == image;
    let before = current.containers;
    let number = current.number + 1;
    if !current.proven && (!same || force) && works(cluster, service, at) {
        prove_current(service);
    }
    if !same || force {
        let will_do = service
            .versions
            .iter()
            .rev()
            .find(|version| version.image == image && !needs_containers(&version.spec, spec));
        let containers = will_do.filter(|_| !force).map_or(number, |version| version.containers);
        let proven = service.is_proven(containers);
        let spec = Arc::new(spec.clone());
        service.versions.push(Version { number, containers, at, image, spec, proven });
    }
    let paused = service.update_state().is_some_and(UpdateState::is_paused);
    let active = service.update_state().is_some_and(UpdateState::is_active);
    if service.current().containers != before || (paused && resume) {
        begin_update(service, cluster.tasks_of(service.id), at);
    } else if !paused && !active && (!same || is_undone(service)) {
        // What is told of it would be taken for news of this change.
        service.rollout = None;
    }
}

/// The version that is asked for now has shown that it works, as far as can be seen from outside of an update: the last one
/// was completed, or without one, a task serves that was not started again just now.
fn works(cluster: &Cluster, service: &Service, now: UnixMillis) -> bool {
    let serves = |task: &Arc<Task>| {
        let lasts =
            task.restarts == 0 || task.ready.is_some_and(|at| now.since(at) >= restart::SETTLED_AFTER);
        let done = task.desired == Desired::Run && task.status.state == TaskState::Complete;
        service.is_current(task.version) && (done || (task.is_ready() && lasts))
    };
    match service.update_state() {
        None => cluster.tasks_of(service.id).any(serves),
        Some(UpdateState::Completed | UpdateState::RollbackCompleted) => true,
        Some(_) => false,
    }
}

/// Notes that the current version works.
pub(super) fn prove_current(service: &mut Service) {
    if let Some(current) = service.versions.last_mut() {
        current.proven = true;
    }
}

/// The last update was undone by itself.
fn is_undone(service: &Service) -> bool {
    service.rollout.as_ref().is_some_and(|rollout| rollout.automatic)
}

/// The service as it was in the version `to`, as a new version, and the networks that have to stay for it.
///
/// `tasks` are those of the service. `cause` says why, and whether it happens by itself. Errors: a network is gone, or addresses have run out; another
/// service has a port.
pub(super) fn go_back<'a>(
    cluster: &Cluster,
    tasks: impl Iterator<Item = &'a Arc<Task>>,
    service: &Service,
    to: &Version,
    cause: (String, bool),
    at: UnixMillis,
) -> Result<(Service, Vec<Network>), Refusal> {
    let mut new = Service::clone(service);
    let kept = settle_in(cluster, &mut new, &to.spec)?;
    new.versions.push(Version { number: service.current().number + 1, at, ..to.clone() });
    let (message, automatic) = cause;
    begin(&mut new, tasks, UpdateState::RollbackStarted, message, at);
    if let Some(rollout) = &mut new.rollout {
        rollout.automatic = automatic;
    }
    Ok((new, kept))
}

/// What is said of an update as long as nothing holds it up.
pub(super) const IN_PROGRESS: &str = "update in progress";

/// Notes that tasks are replaced by those of the current version from now on. `tasks` are those of the service.
pub(super) fn begin_update<'a>(
    service: &mut Service,
    tasks: impl Iterator<Item = &'a Arc<Task>>,
    at: UnixMillis,
) {
    begin(service, tasks, UpdateState::Updating, IN_PROGRESS.to_owned(), at);
}

fn begin<'a>(
    service: &mut Service,
    tasks: impl Iterator<Item = &'a Arc<Task>>,
    state: UpdateState,
    message: String,
    at: UnixMillis,
) {
    // A job is run again as a whole, at once.
    if service.current().spec.mode.is_job() {
        service.rollout = None;
        return;
    }
    let slots = outdated_slots(service, tasks);
    let status = UpdateStatus { state, started: at, completed: None, message };
    service.rollout = Some(Rollout { status, automatic: false, slots, failed: BTreeSet::new() });
}

/// Makes the service's networks and volumes those of `spec`; the networks that it gives back were about to go.
pub(super) fn settle_in(
    cluster: &Cluster,
    service: &mut Service,
    spec: &ServiceSpec,
) -> Result<Vec<Network>, Refusal> {
    ports::check_service(cluster, service, spec)?;
    blobs::check_present(cluster, service, &spec.container)?;
    let (mut networks, mut kept) = (Vec::new(), Vec::new());
    for attached in &spec.networks {
        let found = match &attached.external {
            None => cluster
                .networks
                .values()
                .find(|network| network.stack == Some(service.stack) && network.name == attached.network),
            Some(name) => external_network(cluster, name),
        };
        let Some(network) = found else {
            let name = service.full_name();
            let message = format!(
                "service `{name}` was on network `{}`, which is gone from its stack",
                attached.network
            );
            return Err(Refusal::new(Code::Conflict, message).hint("deploy a file that has it"));
        };
        if network.removing {
            kept.push(Network { removing: false, ..Network::clone(network) });
        }
        networks.push(network.id);
    }
    service.vips = match spec.endpoint_mode {
        EndpointMode::Vip => vips(cluster, service, &networks)?,
        EndpointMode::Dnsrr => BTreeMap::new(),
    };
    service.networks = networks;
    service.volumes =
        spec.container.mounts.iter().filter_map(|mount| mount.volume(&service.stack_name)).collect();
    Ok(kept)
}

/// The network of that full name, whatever stack it is of; one that is being removed will not do.
pub(super) fn external_network<'a>(cluster: &'a Cluster, name: &str) -> Option<&'a Arc<Network>> {
    cluster.networks.values().find(|network| !network.removing && network.full_name() == name)
}

fn vips(
    cluster: &Cluster,
    service: &Service,
    networks: &[NetworkId],
) -> Result<BTreeMap<NetworkId, Ipv4Addr>, Refusal> {
    let mut vips = BTreeMap::new();
    for id in networks {
        let Some(network) = cluster.networks.get(id) else { continue };
        let vip = match service.vips.get(id) {
            Some(vip) => *vip,
            None => {
                let taken = cluster.services.values().filter_map(|other| other.vips.get(id).copied());
                addresses::vip(network.subnet, &taken.collect())
                    .map_err(|error| Refusal::new(Code::Conflict, error))?
            }
        };
        vips.insert(*id, vip);
    }
    Ok(vips)
}

/// Containers of `old` will not do for `new`; aliases are names of the service, not part of its containers. Ports of
/// tasks' own nodes are: they decide on where a task can be. A job that is to complete more or less often is another one.
fn needs_containers(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    let networks = |spec: &ServiceSpec| -> Vec<_> {
        spec.networks.iter().map(|attached| attached.network.clone()).collect()
    };
    let moved = !old.host_ports().eq(new.host_ports()) || networks(old) != networks(new);
    let other_job = old.mode.is_job() && old.mode.slots() != new.mode.slots();
    old.container != new.container || old.resources != new.resources || moved || other_job
}
