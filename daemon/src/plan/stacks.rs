//! A deploy as the difference between what a file asks for and what is there, in one change set.
//!
//! The stack is what the file says: what it no longer names is removed, unless the deploy keeps it. A service gets new containers, by its update
//! policy, if and only if its container, the networks that it is on, or its resources changed. Everything else (replicas,
//! ports, aliases, policies, placement, the service's own labels) changes in place.
//!
//! Owns: stacks, and their services, networks and volumes as asked for; subnets and VIPs. Leaves alone: tasks.
//! Holds: deploying the same file again changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;
use raftup_proto::{
    api::{Action, ChangeView, Deploy, FabricMode, UpdateState},
    id::{NetworkId, ServiceId, StackId, VolumeId},
    name::{NetworkName, ServiceName, StackName, VolumeName},
    refusal::{Code, Refusal},
    spec::{EndpointMode, Mode, NetworkSpec, ServiceSpec, StackSpec, VolumeSpec},
    unit::UnixMillis,
};

use crate::model::{ChangeSet, Cluster, Meta, Network, ObjectKey, Service, Stack, Volume};

use super::{
    Ids, addresses, asked,
    blobs::{self, Contents},
    networks, services,
    versions::{self, How, Pinned},
};

/// Makes the stack what `deploy` asks for, and says what was done to each object.
///
/// `credentials_sealed` is what the stack keeps of `deploy.credentials`, sealed by the caller, who brings the bytes that
/// are there already if the credentials are the same; `contents` are those of its secrets and configs; `pinned` has the digests of its images. Errors: a port that another
/// service publishes, too many replicas, addresses that have run out, a stack or mode that cannot be changed now.
pub fn deploy(
    cluster: &Cluster,
    deploy: &Deploy,
    credentials_sealed: Vec<u8>,
    contents: &Contents,
    pinned: &Pinned,
    now: UnixMillis,
    ids: &mut Ids,
) -> Result<(ChangeSet, Vec<ChangeView>), Refusal> {
    let mut spec = asked::complete(cluster, deploy)?;
    let stack = cluster.stacks.values().find(|stack| stack.name == spec.name);
    if stack.is_some_and(|stack| stack.removing) {
        return Err(Refusal::new(Code::Conflict, format!("stack `{}` is being removed", spec.name))
            .hint("deploy it again when it is gone from `raftup stack ls`"));
    }
    let id = stack.map_or_else(|| StackId::from_random(ids.fresh()), |stack| stack.id);
    let (mut set, mut views) = (ChangeSet::new(now), Vec::new());
    let changes = blobs::Changes { set: &mut set, views: &mut views, ids };
    blobs::deploy(cluster, (id, deploy.keep), &mut spec, contents, changes)?;
    let mut diff = Diff {
        cluster,
        spec: &spec,
        keep: deploy.keep,
        pinned,
        stack: id,
        ids,
        set,
        views,
        subnets: BTreeMap::new(),
        created: BTreeMap::new(),
        vips: BTreeMap::new(),
    };
    diff.stack(stack, credentials_sealed);
    let on = diff.networks()?;
    diff.attach()?;
    diff.volumes();
    diff.services(&on)?;
    Ok((diff.set, diff.views))
}

/// Removes a stack with all that is in it; data of its volumes stays on the nodes. Errors: no such stack.
pub fn remove(
    cluster: &Cluster,
    id: StackId,
    now: UnixMillis,
) -> Result<(ChangeSet, Vec<ChangeView>), Refusal> {
    let missing = || Refusal::new(Code::NotFound, format!("no stack `{id}`"));
    let stack = cluster.stacks.get(&id).ok_or_else(missing)?;
    for network in cluster.networks.values().filter(|network| network.stack == Some(id)) {
        asked::check_unused(cluster, network)?;
    }
    let mut set = ChangeSet::new(now);
    let mut views = Vec::new();
    if !stack.removing {
        set.update(Stack { removing: true, ..Stack::clone(stack) });
    }
    for service in cluster.services.values().filter(|service| service.stack == id) {
        services::mark_removing(&mut set, service);
        views.push(services::view(service, Action::Removed));
    }
    for network in cluster.networks.values().filter(|network| network.stack == Some(id)) {
        if !network.removing {
            set.update(Network { removing: true, ..Network::clone(network) });
        }
        views.push(networks::view_of_change(network.full_name(), Action::Removed));
    }
    blobs::remove_stack(cluster, stack, &mut set, &mut views)?;
    for volume in cluster.volumes.values().filter(|volume| volume.stack == id) {
        views.push(volume_view(format!("{}_{}", volume.stack_name, volume.name), Action::Removed));
    }
    Ok((set, views))
}

struct Diff<'a> {
    cluster: &'a Cluster,
    spec: &'a StackSpec,
    /// What the file does not name stays.
    keep: bool,
    pinned: &'a Pinned,
    stack: StackId,
    ids: &'a mut Ids,
    set: ChangeSet,
    views: Vec<ChangeView>,
    /// Of the stack's networks as they will be.
    subnets: BTreeMap<NetworkId, Ipv4Net>,
    /// Those that the stack did not have.
    created: BTreeMap<NetworkName, NetworkId>,
    /// In use on each network, those given by this set included.
    vips: BTreeMap<NetworkId, BTreeSet<Ipv4Addr>>,
}

impl Diff<'_> {
    fn stack(&mut self, old: Option<&Arc<Stack>>, credentials_sealed: Vec<u8>) {
        let name = self.spec.name.clone();
        let Some(old) = old else {
            let id = self.stack;
            self.set.create(Stack { id, meta: Meta::default(), name, removing: false, credentials_sealed });
            return;
        };
        if old.credentials_sealed != credentials_sealed {
            self.set.update(Stack { credentials_sealed, ..Stack::clone(old) });
        }
    }

    fn networks(&mut self) -> Result<BTreeMap<NetworkName, NetworkId>, Refusal> {
        let all = self.cluster.networks.values();
        let old: BTreeMap<&NetworkName, &Arc<Network>> = all
            .filter(|network| network.stack == Some(self.stack))
            .map(|network| (&network.name, network))
            .collect();
        let mut ids = BTreeMap::new();
        for (name, spec) in &self.spec.networks {
            if let Some(full_name) = spec.name.as_deref().filter(|_| spec.external) {
                let network = asked::find_external(self.cluster, self.stack, full_name)?;
                self.subnets.insert(network.id, network.subnet);
                ids.insert(name.clone(), network.id);
                continue;
            }
            let id = match old.get(name) {
                Some(old) => {
                    self.keep_network(old, spec)?;
                    old.id
                }
                None => self.new_network(name, spec)?,
            };
            ids.insert(name.clone(), id);
        }
        let own = |name: &NetworkName| self.spec.networks.get(name).is_some_and(|spec| !spec.external);
        for network in old.values().filter(|network| !self.keep && !own(&network.name)) {
            asked::check_unused(self.cluster, network)?;
            if !network.removing {
                self.set.update(Network { removing: true, ..Network::clone(network) });
                self.views.push(networks::view_of_change(network.full_name(), Action::Removed));
            }
        }
        Ok(ids)
    }

    /// Each node has a block of each new network that is attachable.
    fn attach(&mut self) -> Result<(), Refusal> {
        let attachable = self.spec.networks.iter().filter(|(_, spec)| spec.attachable);
        let new = attachable.filter_map(|(name, _)| self.created.get(name));
        let new: Vec<_> = new.filter_map(|id| Some((*id, *self.subnets.get(id)?))).collect();
        networks::attach(self.cluster, &mut self.set, new)
    }

    fn keep_network(&mut self, old: &Arc<Network>, spec: &NetworkSpec) -> Result<(), Refusal> {
        let fixed = [
            ("attachable", old.spec.attachable != spec.attachable),
            // Where nothing is encrypted, only the words change.
            ("encrypted", self.encrypts() && old.spec.is_plain() != spec.is_plain()),
        ];
        if let Some((what, _)) = fixed.into_iter().find(|(_, changes)| *changes) {
            let message = format!("whether network `{}` is {what} cannot be changed", old.full_name());
            return Err(Refusal::new(Code::Conflict, message)
                .hint("give the network another name in the file, or `raftup stack rm` first"));
        }
        let same = old.spec == *spec && !old.removing;
        let action = if same { Action::Unchanged } else { Action::Updated };
        if !same {
            self.set.update(Network { spec: spec.clone(), removing: false, ..Network::clone(old) });
        }
        self.subnets.insert(old.id, old.subnet);
        self.views.push(networks::view_of_change(old.full_name(), action));
        Ok(())
    }

    fn encrypts(&self) -> bool {
        self.cluster.info.as_ref().is_some_and(|info| info.fabric == FabricMode::Wireguard)
    }

    fn new_network(&mut self, name: &NetworkName, spec: &NetworkSpec) -> Result<NetworkId, Refusal> {
        let full_name = spec.name.clone().unwrap_or_else(|| format!("{}_{name}", self.spec.name));
        let given = self.subnets.values().copied().collect();
        let subnet = networks::new_subnet(self.cluster, &given, &full_name)?;
        let id = NetworkId::from_random(self.ids.fresh());
        self.subnets.insert(id, subnet);
        self.created.insert(name.clone(), id);
        self.set.create(Network {
            id,
            meta: Meta::default(),
            stack: Some(self.stack),
            stack_name: Some(self.spec.name.clone()),
            name: name.clone(),
            subnet,
            spec: spec.clone(),
            removing: false,
            returning: Vec::new(),
        });
        self.views.push(networks::view_of_change(full_name, Action::Created));
        Ok(id)
    }

    fn volumes(&mut self) {
        let all = self.cluster.volumes.values();
        let old: BTreeMap<&VolumeName, &Arc<Volume>> =
            all.filter(|volume| volume.stack == self.stack).map(|volume| (&volume.name, volume)).collect();
        for (name, spec) in &self.spec.volumes {
            let action = match old.get(name) {
                Some(old) if old.spec == *spec => Action::Unchanged,
                Some(old) => {
                    self.set.update(Volume { spec: spec.clone(), ..Volume::clone(old) });
                    Action::Updated
                }
                None => {
                    self.new_volume(name, spec);
                    Action::Created
                }
            };
            self.views.push(volume_view(self.volume_name(name), action));
        }
        for volume in
            old.values().filter(|volume| !self.keep && !self.spec.volumes.contains_key(&volume.name))
        {
            self.set.delete(ObjectKey::Volume(volume.id), volume.meta);
            self.views.push(volume_view(self.volume_name(&volume.name), Action::Removed));
        }
    }

    fn new_volume(&mut self, name: &VolumeName, spec: &VolumeSpec) {
        self.set.create(Volume {
            id: VolumeId::from_random(self.ids.fresh()),
            meta: Meta::default(),
            stack: self.stack,
            stack_name: self.spec.name.clone(),
            name: name.clone(),
            spec: spec.clone(),
        });
    }

    fn services(&mut self, networks: &BTreeMap<NetworkName, NetworkId>) -> Result<(), Refusal> {
        let all = self.cluster.services.values();
        let old: BTreeMap<&ServiceName, &Arc<Service>> = all
            .filter(|service| service.stack == self.stack && !service.removing)
            .map(|service| (&service.name, service))
            .collect();
        for (name, spec) in &self.spec.services {
            let on: Vec<NetworkId> = spec
                .networks
                .iter()
                .filter_map(|attached| networks.get(&attached.network).copied())
                .collect();
            match old.get(name) {
                Some(old) => self.keep_service(old, spec, on)?,
                None => self.new_service(name, spec, on)?,
            }
        }
        for service in
            old.values().filter(|service| !self.keep && !self.spec.services.contains_key(&service.name))
        {
            services::mark_removing(&mut self.set, service);
            self.views.push(services::view(service, Action::Removed));
        }
        Ok(())
    }

    fn new_service(
        &mut self,
        name: &ServiceName,
        spec: &ServiceSpec,
        networks: Vec<NetworkId>,
    ) -> Result<(), Refusal> {
        let service = Service {
            id: ServiceId::from_random(self.ids.fresh()),
            meta: Meta::default(),
            stack: self.stack,
            stack_name: self.spec.name.clone(),
            name: name.clone(),
            versions: vec![versions::first(spec, self.pinned, self.set.at)],
            rollout: None,
            vips: self.give_vips(spec, &networks, &BTreeMap::new())?,
            networks,
            volumes: self.mounted(spec),
            removing: false,
            waiting: Vec::new(),
        };
        self.views.push(services::view(&service, Action::Created));
        self.set.create(service);
        Ok(())
    }

    fn keep_service(
        &mut self,
        old: &Arc<Service>,
        spec: &ServiceSpec,
        networks: Vec<NetworkId>,
    ) -> Result<(), Refusal> {
        let current = old.current();
        check_mode(old, current.spec.mode, spec.mode)?;
        let mut new = Service::clone(old);
        new.vips = self.give_vips(spec, &networks, &old.vips)?;
        new.volumes = self.mounted(spec);
        new.networks = networks;
        let how = How { force: false, resume: true };
        versions::change(self.cluster, &mut new, (spec, self.pinned), how, self.set.at);
        let (asked, at_work) = (old.current().number, old.update_state().is_some_and(UpdateState::is_paused));
        let same = new.current().number == asked && new.networks == old.networks && new.vips == old.vips;
        let action = if same && !at_work { Action::Unchanged } else { Action::Updated };
        self.views.push(services::view(&new, action));
        if new != **old {
            self.set.update(new);
        }
        Ok(())
    }

    fn give_vips(
        &mut self,
        spec: &ServiceSpec,
        networks: &[NetworkId],
        old: &BTreeMap<NetworkId, Ipv4Addr>,
    ) -> Result<BTreeMap<NetworkId, Ipv4Addr>, Refusal> {
        let mut vips = BTreeMap::new();
        if spec.endpoint_mode == EndpointMode::Dnsrr {
            return Ok(vips);
        }
        for id in networks {
            let Some(subnet) = self.subnets.get(id) else { continue };
            if let Some(vip) = old.get(id) {
                vips.insert(*id, *vip);
                continue;
            }
            let services = self.cluster.services.values();
            let taken = self
                .vips
                .entry(*id)
                .or_insert_with(|| services.filter_map(|service| service.vips.get(id).copied()).collect());
            let found = addresses::vip(*subnet, taken);
            let vip =
                found.map_err(|error| no_vip(&self.spec.name, self.cluster, &self.created, *id, error))?;
            taken.insert(vip);
            vips.insert(*id, vip);
        }
        Ok(vips)
    }

    fn mounted(&self, spec: &ServiceSpec) -> BTreeMap<VolumeName, String> {
        spec.container.mounts.iter().filter_map(|mount| mount.volume(&self.spec.name)).collect()
    }

    /// What a volume is called on the engines.
    fn volume_name(&self, name: &VolumeName) -> String {
        let own = self.spec.volumes.get(name).and_then(|spec| spec.config.name.clone());
        own.unwrap_or_else(|| format!("{}_{name}", self.spec.name))
    }
}

fn no_vip(
    stack: &StackName,
    cluster: &Cluster,
    created: &BTreeMap<NetworkName, NetworkId>,
    id: NetworkId,
    error: addresses::Exhausted,
) -> Refusal {
    let old = cluster.networks.get(&id).map(|network| &network.name);
    let new = || created.iter().find(|(_, new)| **new == id).map(|(name, _)| name);
    let name = old.or_else(new).map(|name| format!("{stack}_{name}")).unwrap_or_else(|| id.to_string());
    Refusal::new(Code::Conflict, format!("too many services on network `{name}`: {error}"))
        .hint("put some of them on another network of the stack")
}

fn check_mode(service: &Service, old: Mode, new: Mode) -> Result<(), Refusal> {
    if std::mem::discriminant(&old) == std::mem::discriminant(&new) {
        return Ok(());
    }
    let name = service.full_name();
    let message = format!("service `{name}` is {old} and cannot become {new}");
    Err(Refusal::new(Code::Conflict, message).hint(format!("`raftup service rm {name}`, then deploy again")))
}

fn volume_view(name: String, action: Action) -> ChangeView {
    ChangeView { kind: "volume".to_owned(), name, action, version: None }
}
