//! Networks that belong to no stack, and what every new network is given.
//!
//! Owns: such networks as asked for, and the subnets and blocks of all new ones. Leaves alone: when one that is being
//! removed is gone (`cleanup`).

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use raftup_proto::{
    api::{Action, ChangeView, FabricMode, NetworkCreate, NetworkView},
    id::NetworkId,
    refusal::{Code, Refusal},
    spec::{NetworkSpec, OPTIONS},
    unit::UnixMillis,
};

use crate::model::{ChangeSet, Cluster, Meta, Network, Node};

use super::{Ids, addresses, asked};

/// Creates a network. Errors: its name is taken, addresses have run out, the fabric cannot give what is asked for.
pub fn create(
    cluster: &Cluster,
    create: &NetworkCreate,
    now: UnixMillis,
    ids: &mut Ids,
) -> Result<(ChangeSet, Vec<ChangeView>), Refusal> {
    let NetworkCreate { name, labels, encrypted, internal, attachable } = create.clone();
    asked::check_level(cluster, OPTIONS, &format!("network `{name}`"))?;
    let spec = NetworkSpec { labels, encrypted, internal, attachable, ..NetworkSpec::default() };
    asked::check_encryption(cluster, [(name.as_str(), &spec)])?;
    // On the engines it has the same name, where those of stacks have theirs.
    let taken = |network: &Network| [network.full_name(), network.engine_name()].contains(&name.to_string());
    if let Some(other) = cluster.networks.values().find(|network| taken(network)) {
        let (message, hint) = if other.removing {
            (
                format!("network `{name}` is being removed"),
                "try again when it is gone from `raftup network ls`",
            )
        } else {
            let message = format!("there is a network `{name}` already, of {}", other.owner());
            (message, "choose another name, or use that one: `raftup network inspect` shows it")
        };
        return Err(Refusal::new(Code::Conflict, message).hint(hint));
    }
    let subnet = new_subnet(cluster, &BTreeSet::new(), name.as_str())?;
    let id = NetworkId::from_random(ids.fresh());
    let mut set = ChangeSet::new(now);
    set.create(Network {
        id,
        meta: Meta::default(),
        stack: None,
        stack_name: None,
        name: name.clone(),
        subnet,
        spec,
        removing: false,
        returning: Vec::new(),
    });
    if attachable {
        attach(cluster, &mut set, [(id, subnet)])?;
    }
    Ok((set, vec![view_of_change(name.to_string(), Action::Created)]))
}

/// Removes a network that belongs to no stack. Errors: it belongs to one, or a service is on it.
pub fn remove(
    cluster: &Cluster,
    network: &Network,
    now: UnixMillis,
) -> Result<(ChangeSet, Vec<ChangeView>), Refusal> {
    let name = network.full_name();
    if let Some(stack) = &network.stack_name {
        let message = format!("network `{name}` belongs to stack `{stack}`");
        return Err(Refusal::new(Code::Conflict, message)
            .hint(format!("remove it from the stack's file and deploy that, or `raftup stack rm {stack}`")));
    }
    asked::check_unused(cluster, network)?;
    let mut set = ChangeSet::new(now);
    if !network.removing {
        set.update(Network { removing: true, ..network.clone() });
    }
    Ok((set, vec![view_of_change(name, Action::Removed)]))
}

/// What is said of a change of a network.
pub(super) fn view_of_change(name: String, action: Action) -> ChangeView {
    ChangeView { kind: "network".to_owned(), name, action, version: None }
}

/// Addresses for a new network, besides those in `given`. Errors: there are none left.
pub(super) fn new_subnet(
    cluster: &Cluster,
    given: &BTreeSet<Ipv4Net>,
    full_name: &str,
) -> Result<Ipv4Net, Refusal> {
    let no_cluster = || Refusal::new(Code::Internal, "the cluster has no settings");
    let pool = cluster.info.as_ref().ok_or_else(no_cluster)?.pool;
    let old = cluster.networks.values().map(|network| network.subnet);
    addresses::subnet(pool, &old.chain(given.iter().copied()).collect()).map_err(|error| {
        Refusal::new(Code::Conflict, format!("no addresses for network `{full_name}`: {error}"))
            .hint("remove a stack or network that is not needed; each network takes a /19 of the pool")
    })
}

/// Gives each node a block of each of these new networks, for containers that are not the cluster's. Errors: there are
/// more nodes than blocks.
pub(super) fn attach(
    cluster: &Cluster,
    set: &mut ChangeSet,
    new: impl IntoIterator<Item = (NetworkId, Ipv4Net)>,
) -> Result<(), Refusal> {
    let mut new = new.into_iter().peekable();
    if new.peek().is_none() {
        return Ok(());
    }
    let mut nodes = cluster.nodes.iter().map(|(id, node)| (*id, Node::clone(node))).collect();
    for (id, subnet) in new {
        addresses::attach(&mut nodes, id, subnet).map_err(|error| {
            let what = "an `attachable` network needs addresses for each node";
            Refusal::new(Code::Conflict, format!("{what}: {error}"))
                .hint("leave `attachable` out: the cluster has too many nodes for it")
        })?;
    }
    nodes.into_values().for_each(|node| set.update(node));
    Ok(())
}

/// All networks, by name.
pub fn all(cluster: &Cluster) -> Vec<NetworkView> {
    let mut views: Vec<_> = cluster.networks.values().map(|network| view(cluster, network)).collect();
    views.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    views
}

/// One network. Cost: one pass over services.
pub fn view(cluster: &Cluster, network: &Network) -> NetworkView {
    let on = cluster.services.values().filter(|service| service.networks.contains(&network.id));
    let mut services: Vec<_> = on.map(|service| service.full_name()).collect();
    services.sort();
    let encrypts = cluster.info.as_ref().is_some_and(|info| info.fabric == FabricMode::Wireguard);
    NetworkView {
        id: network.id,
        name: network.full_name(),
        stack: network.stack_name.clone(),
        subnet: network.subnet,
        encrypted: encrypts && !network.spec.is_plain(),
        internal: network.spec.internal,
        attachable: network.spec.attachable,
        labels: network.spec.labels.clone(),
        services,
        removing: network.removing,
        created: network.meta.created,
    }
}
