//! The top level of a file: services, networks and volumes, and what holds between them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    blobs,
    cx::Place,
    depends, environment,
    item::{Fields, Item},
    keys, mounts, networks, ports, service, text, ties,
};
use crate::{
    name::{ServiceName, StackName, VolumeName},
    spec::{BlobKind, SLOT, ServiceSpec, StackSpec, VolumeConfig, VolumeSpec},
};

/// What services may name.
pub(super) struct Declared<'a> {
    /// The name of the stack.
    pub(super) stack: String,
    pub(super) networks: BTreeMap<String, Place>,
    /// Those of them that are `internal`.
    pub(super) internal: BTreeSet<String>,
    /// The full names of those that belong to other stacks.
    pub(super) external: BTreeMap<String, String>,
    /// Named volumes, and how they are made.
    pub(super) volumes: BTreeMap<String, VolumeConfig>,
    /// Secrets and configs.
    pub(super) blobs: blobs::Declarations<'a>,
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
        external: networks
            .iter()
            .filter(|(_, (_, spec))| spec.external)
            .filter_map(|(key, (_, spec))| Some((key.to_string(), spec.name.clone()?)))
            .collect(),
        volumes: volumes.iter().map(|(name, spec)| (name.to_string(), made_as(spec))).collect(),
        blobs: blobs::declared(&fields, name.as_str()),
        stack: name.to_string(),
    };
    let services = services(&fields, &declared);
    // A service that could not be read may be on any network.
    let all_read = fields.map_length("services") == services.len();
    fields.end(&keys::FILE);
    let used: BTreeSet<_> =
        services.values().flat_map(|service| &service.networks).map(|on| on.network.clone()).collect();
    let unused =
        |(name, (_, spec)): &(_, &(Place, crate::spec::NetworkSpec))| !used.contains(*name) && !spec.external;
    for (name, (at, _)) in networks.iter().filter(|network| all_read && unused(network)) {
        let message = "no service is on this network; it is not created";
        root.cx.warn(*at, &format!("networks.{name}"), message, None);
    }
    networks.retain(|name, _| used.contains(name));
    let mut networks: BTreeMap<_, _> = networks.into_iter().map(|(name, (_, spec))| (name, spec)).collect();
    for name in used {
        networks.entry(name).or_default();
    }
    let builds = services.values().filter_map(|service| service.build.as_ref());
    let builds = builds.flat_map(|build| &build.secrets).map(|secret| secret.source.clone()).collect();
    let blobs = |kind| {
        let containers = services.values().map(|service| &service.container);
        blobs::read(&declared.blobs, kind, containers, &builds, all_read)
    };
    let (secrets, configs) = (blobs(BlobKind::Secret), blobs(BlobKind::Config));
    Some(StackSpec { name, services, networks, volumes, secrets, configs })
}

fn services(fields: &Fields<'_>, declared: &Declared<'_>) -> BTreeMap<ServiceName, ServiceSpec> {
    let mut services = BTreeMap::new();
    let mut all = ties::All { of: BTreeMap::new(), unread: BTreeSet::new() };
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
        let name: Option<ServiceName> = item.name(key, at);
        let spec = service::read(&item, key, at, declared, &mut published, &mut edges);
        let (Some(name), Some((spec, ties))) = (name, spec) else {
            all.unread.insert(key.to_owned());
            continue;
        };
        all.of.insert(name.clone(), ties);
        services.insert(name, spec);
    }
    ties::resolve(&mut services, &all, &mut edges);
    depends::check(fields.item.cx, &mut services, &declared_services, &edges);
    services
}

fn volumes(item: &Item<'_>) -> BTreeMap<VolumeName, VolumeSpec> {
    let mut volumes = BTreeMap::new();
    for (key, at, item) in item.entries() {
        if let Some(name) = item.name(key, at) {
            volumes.insert(name, volume(key, &item));
        }
    }
    volumes
}

fn volume(key: &str, item: &Item<'_>) -> VolumeSpec {
    let Some(fields) = item.fields() else { return VolumeSpec::default() };
    let (external, old_name) =
        fields.get("external").map(|item| networks::external(&item)).unwrap_or_default();
    let driver = fields.given("driver").and_then(|item| item.filled().map(str::to_owned));
    let driver_opts = fields.get("driver_opts").map(|item| driver_opts(&item)).unwrap_or_default();
    let labels = fields.get("labels").map(|labels| environment::labels(&labels)).unwrap_or_default();
    let mut name = fields.given("name").and_then(|item| item.parse(volume_name)).or(old_name);
    fields.end(&keys::VOLUME);
    if external {
        name = name.or_else(|| Some(key.to_owned()));
    }
    let driver = driver.filter(|driver| driver != "local");
    let config = match external {
        true => VolumeConfig { name, external, ..VolumeConfig::default() },
        false => VolumeConfig { name, external, driver, driver_opts, labels: BTreeMap::new() },
    };
    VolumeSpec { labels, config }
}

/// As that of a network; `{{.Task.Slot}}` in it stands for the number of the task's slot.
fn volume_name(text: &str) -> Result<String, String> {
    let plain = text.replace(SLOT, "0");
    if plain.contains("{{") {
        return Err(format!("`{}` holds another template than `{SLOT}`", text::clip(text)));
    }
    networks::full_name(&plain).map(|_| text.to_owned())
}

/// A directory that a volume stands for (`o: bind`) may be relative, as the source of a mount.
fn driver_opts(item: &Item<'_>) -> BTreeMap<String, String> {
    let mut options = item.values();
    let binds = options.get("o").is_some_and(|o| o.split(',').any(|word| matches!(word, "bind" | "rbind")));
    if let Some(device) = options.get_mut("device").filter(|device| binds && !device.is_empty())
        && let Some(path) = mounts::host_path(item, device)
    {
        *device = path;
    }
    options
}

/// What a mount says of its volume: all that its engine has to know.
fn made_as(spec: &VolumeSpec) -> VolumeConfig {
    VolumeConfig { labels: spec.labels.clone(), ..spec.config.clone() }
}
