//! What a stack asks for, checked against the cluster and completed, before it is compared with what is there.
//!
//! Owns: refusals that no loader can know of, ports that the cluster chooses, and networks of other stacks.
//! Leaves alone: what is changed (`stacks`). Holds: the same wish in the same state is completed in the same way, so that a
//! second deploy changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use raftup_proto::{
    api::{Deploy, FabricMode},
    id::StackId,
    name::ServiceName,
    peer::Level,
    refusal::{Code, Refusal},
    spec::{AnyPort, Mode, NetworkSpec, PortSpec, Protocol, StackSpec},
};

use crate::model::{Cluster, Network, Service};

use super::{collisions, ports, services, versions};

/// The wish with the ports that the cluster chooses. Errors: what cannot be had.
pub(super) fn complete(cluster: &Cluster, deploy: &Deploy) -> Result<StackSpec, Refusal> {
    let mut spec = deploy.spec.clone();
    choose_ports(cluster, &mut spec, deploy.keep)?;
    check(cluster, &spec, deploy.keep)?;
    Ok(spec)
}

/// What a loader cannot know, or might have let through.
fn check(cluster: &Cluster, spec: &StackSpec, keep: bool) -> Result<(), Refusal> {
    check_spec_level(cluster, spec)?;
    check_encryption(cluster, spec.networks.iter().map(|(name, network)| (name.as_str(), network)))?;
    collisions::check(cluster, spec)?;
    check_container_names(cluster, spec)?;
    check_network_names(cluster, spec)?;
    for (name, service) in &spec.services {
        if let Some(replicas) = service.mode.slots() {
            services::check_replicas(name.as_str(), replicas)?;
        }
        services::check_policies(service)?;
        for attached in &service.networks {
            if !spec.networks.contains_key(&attached.network) {
                let message = format!(
                    "service `{name}` is on network `{}`, which the stack does not have",
                    attached.network
                );
                return Err(Refusal::new(Code::Invalid, message));
            }
        }
    }
    ports::check_stack(cluster, spec, keep)
}

/// A plain fabric encrypts nothing; beside an encrypted one, networks can be plain over IPv4 alone.
pub(super) fn check_encryption<'a>(
    cluster: &Cluster,
    networks: impl IntoIterator<Item = (&'a str, &'a NetworkSpec)>,
) -> Result<(), Refusal> {
    let networks: Vec<_> = networks.into_iter().collect();
    let wants = |encrypted| networks.iter().find(|(_, network)| network.encrypted == Some(encrypted));
    let over_ipv6 = || cluster.nodes.values().find(|node| node.info.underlay.is_ipv6());
    let (message, hint) = match cluster.info.as_ref().map(|info| info.fabric) {
        Some(FabricMode::Plain) => {
            let Some((name, _)) = wants(true) else { return Ok(()) };
            (
                format!("network `{name}` must be encrypted, and this cluster's fabric is plain"),
                "make the cluster without `--fabric plain`, or leave `driver_opts: encrypted` out",
            )
        }
        Some(FabricMode::Wireguard) => {
            let (Some((name, _)), Some(node)) = (wants(false), over_ipv6()) else { return Ok(()) };
            let (host, at) = (&node.info.hostname, node.info.underlay);
            (
                format!(
                    "network `{name}` must not be encrypted, which takes IPv4 between nodes: `{host}` is at {at}"
                ),
                "leave `driver_opts: encrypted` out, or let all nodes advertise addresses of IPv4",
            )
        }
        None => return Ok(()),
    };
    Err(Refusal::new(Code::Conflict, message).hint(hint))
}

/// An older release would pass over what is new in the spec, and run something else.
fn check_spec_level(cluster: &Cluster, spec: &StackSpec) -> Result<(), Refusal> {
    let (needed, part) = spec.level();
    check_level(cluster, needed, part.as_deref().unwrap_or("the stack"))
}

/// Errors: `part` needs a higher level than the cluster has.
pub(super) fn check_level(cluster: &Cluster, needed: Level, part: &str) -> Result<(), Refusal> {
    let level = cluster.info.as_ref().map_or(needed, |info| info.level);
    if level >= needed {
        return Ok(());
    }
    let behind = cluster.nodes.values().filter(|node| node.info.level < needed);
    let behind: Vec<_> = behind.map(|node| node.info.hostname.as_str()).collect();
    let message = format!("{part} uses options that came with a newer version of raftup than all nodes have");
    let hint = match behind.as_slice() {
        [] => "try again in a moment: the last node has just been updated".to_owned(),
        behind => format!("update raftupd on {}", ports::listed(behind)),
    };
    Err(Refusal::new(Code::Conflict, message).hint(hint))
}

/// Two containers of one name cannot be on one node, and a name stands for one service.
fn check_container_names(cluster: &Cluster, spec: &StackSpec) -> Result<(), Refusal> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for service in
        cluster.services.values().filter(|service| !service.removing && service.stack_name != spec.name)
    {
        if let Some(name) = &service.current().spec.container.container_name {
            owners.insert(name.clone(), service.full_name());
        }
    }
    for (key, service) in &spec.services {
        let Some(name) = &service.container.container_name else { continue };
        if let Mode::Replicated { replicas: 2.. } | Mode::ReplicatedJob { concurrent: 2.., .. } = service.mode
        {
            let message = format!("service `{key}` has one `container_name` for several containers");
            return Err(Refusal::new(Code::Invalid, message).hint("remove it, or ask for one replica"));
        }
        let own = format!("{}_{key}", spec.name);
        if let Some(owner) = owners.insert(name.clone(), own) {
            let message =
                format!("service `{key}` names its container `{name}`, and so does service `{owner}`");
            return Err(Refusal::new(Code::Conflict, message)
                .hint(format!("give it another `container_name`, or `raftup service rm {owner}`")));
        }
    }
    Ok(())
}

/// Networks are known to other stacks by their full names.
fn check_network_names(cluster: &Cluster, spec: &StackSpec) -> Result<(), Refusal> {
    let others = cluster
        .networks
        .values()
        .filter(|network| network.stack_name.as_ref() != Some(&spec.name) && !network.removing);
    let mut taken: BTreeMap<String, String> =
        others.map(|network| (network.full_name(), network.owner())).collect();
    for (key, network) in spec.networks.iter().filter(|(_, network)| !network.external) {
        let name = network.name.clone().unwrap_or_else(|| format!("{}_{key}", spec.name));
        if let Some(owner) = taken.insert(name.clone(), "this stack".to_owned()) {
            let message = format!("network `{key}` has the name `{name}`, which a network of {owner} has");
            return Err(Refusal::new(Code::Conflict, message)
                .hint("give it another `name`, or join the other one with `external: true`"));
        }
    }
    Ok(())
}

/// A network of another stack than `stack`. Errors: there is none of the name.
pub(super) fn find_external<'a>(
    cluster: &'a Cluster,
    stack: StackId,
    name: &str,
) -> Result<&'a Arc<Network>, Refusal> {
    let found = versions::external_network(cluster, name).filter(|network| network.stack != Some(stack));
    found.ok_or_else(|| {
        Refusal::new(
            Code::NotFound,
            format!("there is no network `{name}` in the cluster, which is `external`"),
        )
        .hint(format!(
            "`raftup network create {name}` first, or remove `external` where no other stack needs it"
        ))
    })
}

/// Errors: a service that is not of its own stack is on the network, so it cannot go.
pub(super) fn check_unused(cluster: &Cluster, network: &Network) -> Result<(), Refusal> {
    let user = cluster.services.values().find(|service| {
        Some(service.stack) != network.stack && !service.removing && service.networks.contains(&network.id)
    });
    let Some(user) = user else { return Ok(()) };
    let (name, user) = (network.full_name(), user.full_name());
    let message = format!("network `{name}` cannot be removed: service `{user}` is on it");
    Err(Refusal::new(Code::Conflict, message).hint(format!("`raftup service rm {user}` first")))
}

/// Adds to each service the ports that the cluster chooses: those that it has already, and then the lowest free ones.
fn choose_ports(cluster: &Cluster, spec: &mut StackSpec, keep: bool) -> Result<(), Refusal> {
    if spec.services.values().all(|service| service.any_ports.is_empty()) {
        return Ok(());
    }
    // Services of the stack that the file does not name may stay.
    let stays = |service: &Service| {
        service.stack_name != spec.name || (keep && !spec.services.contains_key(&service.name))
    };
    let others = cluster.services.values().filter(|service| !service.removing && stays(service));
    let of_others: Vec<PortSpec> =
        others.flat_map(|service| service.current().spec.ports.iter().copied()).collect();
    let asked: Vec<PortSpec> =
        spec.services.values().flat_map(|service| service.ports.iter().copied()).collect();
    let mut taken: BTreeSet<(Protocol, u16)> =
        of_others.iter().chain(&asked).map(|port| (port.protocol, port.published)).collect();
    let had = |name: &ServiceName| {
        let mut own = cluster.services.values().filter(|service| !service.removing);
        own.find(|service| service.stack_name == spec.name && service.name == *name)
            .map(|service| service.current().spec.ports.clone())
            .unwrap_or_default()
    };
    let before: BTreeMap<ServiceName, Vec<PortSpec>> =
        spec.services.keys().map(|name| (name.clone(), had(name))).collect();
    // First all that can keep theirs, then the new ones: a port that one service has is never given to another.
    let mut open: Vec<(ServiceName, AnyPort)> = Vec::new();
    for (name, service) in &mut spec.services {
        let had = before.get(name).map(Vec::as_slice).unwrap_or_default();
        for port in service.any_ports.clone() {
            let fits = |old: &&PortSpec| {
                (AnyPort::FIRST..=AnyPort::LAST).contains(&old.published)
                    && port.on(old.published) == **old
                    && !taken.contains(&(old.protocol, old.published))
            };
            match had.iter().find(fits).copied() {
                Some(old) => {
                    taken.insert((old.protocol, old.published));
                    service.ports.push(old);
                }
                None => open.push((name.clone(), port)),
            }
        }
    }
    for (name, port) in open {
        let free = (AnyPort::FIRST..=AnyPort::LAST).find(|number| !taken.contains(&(port.protocol, *number)));
        let Some(number) = free else {
            let message = format!(
                "service `{name}` asks for a port of the cluster's choice, and all of {} to {} are taken",
                AnyPort::FIRST,
                AnyPort::LAST
            );
            return Err(Refusal::new(Code::Conflict, message).hint("name a port in `ports`"));
        };
        taken.insert((port.protocol, number));
        if let Some(service) = spec.services.get_mut(&name) {
            service.ports.push(port.on(number));
        }
    }
    for service in spec.services.values_mut() {
        service.ports.sort();
    }
    Ok(())
}
