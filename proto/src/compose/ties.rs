//! What services say about each other: `links`, `volumes_from`, and names of containers.
//!
//! Owns: turning each into something that a service has by itself: names on networks, and mounts. Holds: it runs once all
//! services are known, so their order in the file does not matter.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    depends::{self, Edges},
    item::{EXTENSION, Fields, Item},
    networks,
    text::{self, clip},
    yaml::Kind,
};
use crate::{
    name::ServiceName,
    spec::{Dependency, Mount, MountSource, ServiceSpec},
};

/// What a service says about others, unread.
pub(super) struct Ties<'a> {
    links: Option<Item<'a>>,
    volumes_from: Option<Item<'a>>,
    container_name: Option<Item<'a>>,
    extension: Option<Item<'a>>,
}

type Services = BTreeMap<ServiceName, ServiceSpec>;

impl<'a> Ties<'a> {
    pub(super) fn of(fields: &Fields<'a>) -> Self {
        Self {
            links: fields.get("links"),
            volumes_from: fields.get("volumes_from"),
            container_name: fields.get("container_name"),
            extension: fields.get(EXTENSION),
        }
    }
}

/// All ties of a stack.
pub(super) struct All<'a> {
    pub(super) of: BTreeMap<ServiceName, Ties<'a>>,
    /// Services that could not be read, which was reported: a tie to one is passed over.
    pub(super) unread: BTreeSet<String>,
}

/// Works out all ties.
pub(super) fn resolve(services: &mut Services, all: &All<'_>, edges: &mut Edges) {
    container_names(services, &all.of);
    dependencies(services, all, edges);
    for (name, ties) in &all.of {
        for item in ties.links.as_ref().map(Item::items).unwrap_or_default() {
            link(services, all, name, &item);
        }
    }
    volumes_from(services, all);
    beside(services, all);
}

/// Services that `x-raftup` names in `with` and `apart_from` must be there, and no service may end up waiting for itself.
fn beside(services: &Services, all: &All<'_>) {
    for ties in all.of.values() {
        let mapping = |item: &&Item<'_>| matches!(item.node.kind, Kind::Map(_));
        let fields = ties.extension.as_ref().filter(mapping).and_then(Item::fields);
        let named = |key| fields.as_ref().and_then(|fields| fields.get(key)).map(|item| item.one_or_more());
        for item in ["with", "apart_from"].into_iter().filter_map(named).flatten() {
            let missing = |name: &&str| name.parse::<ServiceName>().is_ok() && !services.contains_key(*name);
            if let Some(name) = item.text().filter(missing) {
                unknown(services, all, &item, name);
            }
        }
    }
    let with = |of: &ServiceName| -> Vec<&ServiceName> {
        services.get(of).map(|spec| spec.placement.with.iter().collect()).unwrap_or_default()
    };
    if let Some(circle) = depends::circle(services, with)
        && let Some(item) = circle.first().and_then(|name| all.of.get(name)?.extension.as_ref())
    {
        let names: Vec<&str> = circle.iter().map(|name| name.as_str()).collect();
        item.error_help(
            format!("services go where each other is, in a circle: {}", names.join(" -> ")),
            "remove one of these `with`",
        );
    }
}

/// Who names another service here depends on it, as in Compose, unless `depends_on` says more.
fn dependencies(services: &mut Services, all: &All<'_>, edges: &mut Edges) {
    for (name, ties) in &all.of {
        for (items, restart) in [(&ties.links, true), (&ties.volumes_from, false)] {
            for item in items.as_ref().map(Item::items).unwrap_or_default() {
                let target = item.text().and_then(|text| text.split(':').next()).unwrap_or_default();
                let Some((target, _)) = services.get_key_value(target) else { continue };
                let target = target.clone();
                let Some(spec) = services.get_mut(name).filter(|_| target != *name) else { continue };
                edges.add(name, &target, &item);
                spec.depends_on.entry(target).or_insert(Dependency { restart, ..Dependency::default() });
            }
        }
    }
}

/// In Compose a container's name is one of its names on each of its networks.
fn container_names(services: &mut Services, ties: &BTreeMap<ServiceName, Ties<'_>>) {
    let mut owners: BTreeMap<String, ServiceName> = BTreeMap::new();
    for (name, spec) in services.iter_mut() {
        let Some(container_name) = spec.container.container_name.clone() else { continue };
        let item = ties.get(name).and_then(|ties| ties.container_name.as_ref());
        if let (Some(owner), Some(item)) = (owners.insert(container_name.clone(), name.clone()), item) {
            item.error(format!(
                "`{}` is the name of service `{owner}`'s container already",
                clip(&container_name)
            ));
        }
        if container_name != name.as_str() && networks::host_name(&container_name).is_ok() {
            let all: Vec<usize> = (0..spec.networks.len()).collect();
            add_alias(spec, &all, &container_name);
        }
    }
}

fn add_alias(spec: &mut ServiceSpec, networks: &[usize], alias: &str) {
    for index in networks {
        let Some(attached) = spec.networks.get_mut(*index) else { continue };
        if !attached.aliases.iter().any(|known| known == alias) {
            attached.aliases.push(alias.to_owned());
            attached.aliases.sort();
        }
    }
}

/// `SERVICE[:ALIAS]`
fn link(services: &mut Services, all: &All<'_>, from: &ServiceName, item: &Item<'_>) {
    let Some(text) = item.filled() else { return };
    let (target, alias) = text.split_once(':').unwrap_or((text, ""));
    let Some(other) = services.get(target) else { return unknown(services, all, item, target) };
    let Some(own) = services.get(from) else { return };
    let shared: Vec<usize> = other
        .networks
        .iter()
        .enumerate()
        .filter(|(_, on)| own.networks.iter().any(|own| own.network == on.network))
        .map(|(index, _)| index)
        .collect();
    if shared.is_empty() {
        return item.error_help(
            format!("cannot reach service `{target}`: the two are on no network together"),
            "put both on one network",
        );
    }
    if alias.is_empty() || alias == target {
        return;
    }
    if let Some(taken) = services.get(alias) {
        let meets = taken.networks.iter().any(|on| own.networks.iter().any(|own| own.network == on.network));
        if meets {
            return item.error(format!("the alias `{}` is the name of another service", clip(alias)));
        }
    }
    if item.parse(|_| networks::host_name(alias)).is_some()
        && let Some(other) = services.get_mut(target)
    {
        add_alias(other, &shared, alias);
    }
}

fn unknown(services: &Services, all: &All<'_>, item: &Item<'_>, target: &str) {
    if all.unread.contains(target) {
        return;
    }
    let near = text::nearest(target, services.keys().map(ServiceName::as_str));
    let message = format!("there is no service `{}`", clip(target));
    match near {
        Some(near) => item.error_help(message, format!("did you mean `{near}`?")),
        None => item.error(message),
    }
}

/// Longest chain of services that take their volumes from each other.
const CHAIN_MAX: usize = 100;

/// Gives each service the mounts of those that it names, as far as its own leave the targets free.
fn volumes_from(services: &mut Services, all: &All<'_>) {
    let asking = all.of.iter().filter(|(_, ties)| ties.volumes_from.is_some()).map(|(name, _)| name);
    let mut walk = Walk { services, all, done: BTreeMap::new(), under_way: Vec::new() };
    let found: Vec<_> = asking.map(|name| (name.clone(), walk.mounts(name))).collect();
    for (name, mounts) in found {
        if let Some(spec) = services.get_mut(&name) {
            spec.container.mounts = mounts;
        }
    }
}

/// Follows `volumes_from` from service to service, each of them once.
struct Walk<'a> {
    services: &'a Services,
    all: &'a All<'a>,
    done: BTreeMap<ServiceName, Vec<Mount>>,
    /// From the one that was begun with to the one that is looked at.
    under_way: Vec<ServiceName>,
}

impl Walk<'_> {
    /// All mounts of a service: its own, and those that it takes from others.
    fn mounts(&mut self, name: &ServiceName) -> Vec<Mount> {
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        let own = self.services.get(name).map(|spec| spec.container.mounts.clone());
        let mut mounts = own.unwrap_or_default();
        let mut targets: BTreeSet<String> = mounts.iter().map(|mount| mount.target.clone()).collect();
        self.under_way.push(name.clone());
        let asked = self.all.of.get(name).and_then(|ties| ties.volumes_from.as_ref());
        for item in asked.map(Item::items).unwrap_or_default() {
            let taken = self.take(&item).into_iter().filter(|mount| targets.insert(mount.target.clone()));
            mounts.extend(taken.collect::<Vec<_>>());
        }
        self.under_way.pop();
        self.done.insert(name.clone(), mounts.clone());
        mounts
    }

    /// What `SERVICE[:ro|rw]` brings.
    fn take(&mut self, item: &Item<'_>) -> Vec<Mount> {
        let Some(text) = item.filled() else { return Vec::new() };
        if text.starts_with("container:") {
            item.error_help(
                "names a container outside of the stack",
                "mount a named volume or a path in both",
            );
            return Vec::new();
        }
        let (target, access) = text.split_once(':').unwrap_or((text, "rw"));
        if !["ro", "rw"].contains(&access) {
            item.error(format!("`{}` is neither `ro` nor `rw`", clip(access)));
            return Vec::new();
        }
        let Some((name, _)) = self.services.get_key_value(target) else {
            unknown(self.services, self.all, item, target);
            return Vec::new();
        };
        if self.under_way.contains(name) {
            item.error(format!("service `{name}` takes its volumes from here, directly or through others"));
            return Vec::new();
        }
        if self.under_way.len() > CHAIN_MAX {
            item.error(format!("is the end of a chain of more than {CHAIN_MAX} services"));
            return Vec::new();
        }
        let mut mounts = self.mounts(name);
        for mount in &mut mounts {
            mount.read_only |= access == "ro";
            if matches!(mount.source, MountSource::Anonymous) {
                item.error_help(
                    format!("service `{name}` has a volume without a name at `{}`", mount.target),
                    "give it a name: a container has its own of those without",
                );
            }
        }
        mounts
    }
}
