//! The top level of a file: services, networks and volumes, and what holds between them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cx::Place,
    depends, environment,
    item::{Fields, Item},
    networks, ports, service,
};
use crate::{
    name::{ServiceName, StackName, VolumeName},
    spec::{StackSpec, VolumeSpec},
};

/// Keys of the Compose Specification that come later.
const LATER: &[&str] = &["include", "secrets", "configs", "models"];

/// What services may name.
pub(super) struct Declared {
    pub(super) networks: BTreeMap<String, Place>,
    /// Those of them that are `internal`.
    pub(super) internal: BTreeSet<String>,
    pub(super) volumes: BTreeSet<String>,
}

/// Reads the whole model. What is wrong is reported.
pub(super) fn read(root: &Item<'_>, name: StackName) -> Option<StackSpec> {
    let Some(fields) = root.fields() else {
        if root.is_null() {
            root.error("is empty");
        }
        return None;
    };
    fields.get("name");
    if let (Some(version), Some(at)) = (fields.get("version"), fields.key_at("version")) {
        let help = Some("remove the line".to_owned());
        root.cx.warn(at, &version.path, "`version` is obsolete and has no effect", help);
    }
    let mut networks = fields.get("networks").map(|item| networks::declared(&item)).unwrap_or_default();
    let volumes = fields.get("volumes").map(|item| volumes(&item)).unwrap_or_default();
    let declared = Declared {
        networks: networks.iter().map(|(name, (at, _))| (name.to_string(), *at)).collect(),
        internal: networks
            .iter()
            .filter(|(_, (_, spec))| spec.internal)
            .map(|(name, _)| name.to_string())
            .collect(),
        volumes: volumes.keys().map(ToString::to_string).collect(),
    };
    let services = services(&fields, &declared);
    fields.finish(LATER);
    let used: BTreeSet<_> =
        services.values().flat_map(|service| &service.networks).map(|on| on.network.clone()).collect();
    for (name, (at, _)) in networks.iter().filter(|(name, _)| !used.contains(*name)) {
        let message = "no service is on this network; it is not created";
        root.cx.warn(*at, &format!("networks.{name}"), message, None);
    }
    networks.retain(|name, _| used.contains(name));
    let mut networks: BTreeMap<_, _> = networks.into_iter().map(|(name, (_, spec))| (name, spec)).collect();
    for name in used {
        networks.entry(name).or_default();
    }
    Some(StackSpec { name, services, networks, volumes })
}

fn services(fields: &Fields<'_>, declared: &Declared) -> BTreeMap<ServiceName, crate::spec::ServiceSpec> {
    let mut services = BTreeMap::new();
    let (mut published, mut edges) = (ports::Published::default(), depends::Edges::default());
    let mut declared_services = BTreeSet::new();
    let item = fields.get("services");
    let entries = item.as_ref().map(Item::entries).unwrap_or_default();
    if item.is_none_or(|item| item.is_null() || entries.is_empty()) {
        fields.item.cx.error(Place::file(fields.item.node.at.file), "", "there are no services", None);
    }
    for (key, at, item) in entries {
        if key.starts_with("x-") {
            continue;
        }
        declared_services.insert(key.to_owned());
        let name = item.name(key, at);
        let spec = service::read(&item, key, at, declared, &mut published, &mut edges);
        if let (Some(name), Some(spec)) = (name, spec) {
            services.insert(name, spec);
        }
    }
    depends::check(fields.item.cx, &mut services, &declared_services, &edges);
    services
}

fn volumes(item: &Item<'_>) -> BTreeMap<VolumeName, VolumeSpec> {
    let mut volumes = BTreeMap::new();
    for (key, at, item) in item.entries() {
        if let Some(name) = item.name(key, at) {
            volumes.insert(name, volume(&item));
        }
    }
    volumes
}

fn volume(item: &Item<'_>) -> VolumeSpec {
    let Some(fields) = item.fields() else { return VolumeSpec::default() };
    if let Some(driver) = fields.get("driver")
        && let Some(text) = driver.filled()
        && text != "local"
    {
        driver.error(format!("the driver `{}` is not supported yet", super::text::clip(text)));
    }
    fields.must_be_off("external");
    let labels = fields.get("labels").map(|labels| environment::labels(&labels)).unwrap_or_default();
    fields.finish(&["driver_opts", "name"]);
    VolumeSpec { labels }
}
