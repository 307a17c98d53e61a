//! A task as a container: everything that the engine must be told to make it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use raftup_proto::{
    id::{ClusterId, NodeId},
    name::VolumeName,
    spec::{ContainerSpec, EndpointSpec, Resources},
    view::TaskItem,
};

use super::labels;

/// A container to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSettings {
    /// Its task's name: its own one, unless the user chose another.
    pub name: String,
    /// Its labels, ours among them.
    pub labels: BTreeMap<String, String>,
    /// Its image, with a digest where it was resolved.
    pub image: String,
    /// Command, environment, mounts and so on; its image and labels are those above.
    pub spec: ContainerSpec,
    /// What it may use.
    pub resources: Resources,
    /// The networks that it is on, the primary one first; without any it has the loopback device alone.
    pub networks: Vec<Attachment>,
    /// Where it asks for names, besides its host's servers.
    pub dns: Vec<Ipv4Addr>,
    /// Engine names of the volumes that it mounts.
    pub volumes: BTreeMap<VolumeName, String>,
    /// Labels of those volumes, if they are made with it.
    pub volume_labels: BTreeMap<String, String>,
}

/// A container on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The engine's id of the network.
    pub network: String,
    /// Its address there.
    pub address: Ipv4Addr,
    /// What else is said about it.
    pub options: EndpointSpec,
}

impl ContainerSettings {
    /// The container of a task of `node`, on `networks`, with the gateway of the first one, if any, for names.
    pub fn of(
        cluster: ClusterId,
        node: NodeId,
        task: &TaskItem,
        networks: Vec<Attachment>,
        gateway: Option<Ipv4Addr>,
    ) -> Self {
        Self {
            name: task.container_name(),
            labels: labels::of_container(cluster, node, task),
            image: task.image.clone(),
            spec: ContainerSpec { hostname: hostname(task), ..task.container.clone() },
            resources: task.resources.clone(),
            networks,
            dns: gateway.into_iter().collect(),
            volumes: task.volumes.clone(),
            volume_labels: labels::of_volume(cluster, task),
        }
    }
}

/// Longest host name that Linux takes.
const HOSTNAME_MAX: usize = 64;

/// The name that the user chose, or service and slot. Without dots: what follows the first one would count as the
/// domain to search for names. The engine's own choice where that is too long, or the host's name is the container's.
fn hostname(task: &TaskItem) -> Option<String> {
    let container = &task.container;
    let of_host = container.on_host_network() || container.namespaces.uts.is_some();
    let own = || format!("{}-{}", task.name, task.slot).replace('.', "-");
    let chosen = container.hostname.clone();
    chosen.or_else(|| Some(own()).filter(|name| !of_host && name.len() <= HOSTNAME_MAX))
}
