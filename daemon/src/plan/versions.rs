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
    refusal::{Code, Refusal},
    spec::{EndpointMode, MountSource, ServiceSpec},
    unit::UnixMillis,
};

use crate::model::{Cluster, Network, Rollout, Service, Version};

use super::{addresses, ports, rollout::outdated_slots};

/// The first version of a service.
pub(super) fn first(spec: &ServiceSpec, at: UnixMillis) -> Version {
    Version {
        number: 1,
        containers: 1,
        at,
        image: spec.container.image.clone(),
        spec: Arc::new(spec.clone()),
    }
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
pub(super) fn change(cluster: &Cluster, service: &mut Service, spec: &ServiceSpec, how: How, at: UnixMillis) {
    let How { force, resume } = how;
    let current = service.current();
    let same = *current.spec == *spec;
    let before = current.containers;
    let number = current.number + 1;
    if !same || force {
        let will_do = service.versions.iter().rev().find(|version| !needs_containers(&version.spec, spec));
        let containers = will_do.filter(|_| !force).map_or(number, |version| version.containers);
        let image = spec.container.image.clone();
        service.versions.push(Version { number, containers, at, image, spec: Arc::new(spec.clone()) });
    }
    let paused = service.update_state().is_some_and(UpdateState::is_paused);
    let active = service.update_state().is_some_and(UpdateState::is_active);
    if service.current().containers != before || (paused && resume) {
        begin_update(cluster, service, at);
    } else if !paused && !active && (!same || is_undone(service)) {
        // What is told of it would be taken for news of this change.
        service.rollout = None;
    }
}

/// The last update was undone by itself.
fn is_undone(service: &Service) -> bool {
    service.rollout.as_ref().is_some_and(|rollout| rollout.automatic)
}

/// The service as it was in the version `to`, as a new version, and the networks that have to stay for it.
///
/// `cause` says why, and whether it happens by itself. Errors: a network is gone, or addresses have run out; another
/// service has a port.
pub(super) fn go_back(
    cluster: &Cluster,
    service: &Service,
    to: &Version,
    cause: (String, bool),
    at: UnixMillis,
) -> Result<(Service, Vec<Network>), Refusal> {
    let mut new = Service::clone(service);
    let kept = settle_in(cluster, &mut new, &to.spec)?;
    new.versions.push(Version { number: service.current().number + 1, at, ..to.clone() });
    let (message, automatic) = cause;
    begin(cluster, &mut new, UpdateState::RollbackStarted, message, at);
    if let Some(rollout) = &mut new.rollout {
        rollout.automatic = automatic;
    }
    Ok((new, kept))
}

/// Notes that tasks are replaced by those of the current version from now on.
pub(super) fn begin_update(cluster: &Cluster, service: &mut Service, at: UnixMillis) {
    begin(cluster, service, UpdateState::Updating, "update in progress".to_owned(), at);
}

fn begin(cluster: &Cluster, service: &mut Service, state: UpdateState, message: String, at: UnixMillis) {
    let slots = outdated_slots(service, cluster.tasks_of(service.id));
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
    let (mut networks, mut kept) = (Vec::new(), Vec::new());
    for attached in &spec.networks {
        let mut all = cluster.networks.values();
        let found = all.find(|network| network.stack == service.stack && network.name == attached.network);
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
    service.volumes = spec
        .container
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Volume { name, .. } => {
                Some((name.clone(), format!("{}_{name}", service.stack_name)))
            }
            MountSource::Anonymous | MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
        })
        .collect();
    Ok(kept)
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
/// tasks' own nodes are: they decide on where a task can be.
fn needs_containers(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    let networks = |spec: &ServiceSpec| -> Vec<_> {
        spec.networks.iter().map(|attached| attached.network.clone()).collect()
    };
    let moved = !old.host_ports().eq(new.host_ports()) || networks(old) != networks(new);
    old.container != new.container || old.resources != new.resources || moved
}
