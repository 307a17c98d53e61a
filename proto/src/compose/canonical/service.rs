//! What the normalised file says of a service beyond the forms of its values: short forms in full, defaults, and what
//! follows from other keys.
//!
//! Source: Compose Specification; the defaults are those of Docker Compose 2.40.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Map, Value, json};

use super::super::short;

/// What the paths and variables of the file mean.
pub(super) struct Around<'a> {
    pub(super) project_dir: &'a Path,
    pub(super) home: Option<String>,
    /// Whether texts may still hold variables, so that their parts cannot be told.
    pub(super) raw: bool,
}

impl Around<'_> {
    /// A path of the host in full.
    pub(super) fn path(&self, path: &str) -> String {
        if let (Some(home), Some(rest)) = (&self.home, path.strip_prefix('~'))
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return format!("{home}{rest}");
        }
        if !super::super::rebase::is_relative(path) || self.raw && path.starts_with('$') {
            return path.to_owned();
        }
        super::super::rebase::plain(&self.project_dir.join(path)).display().to_string()
    }

    /// The text under a key as a path in full.
    pub(super) fn in_full(&self, object: &mut Map<String, Value>, key: &str) {
        if let Some(Value::String(path)) = object.get_mut(key) {
            *path = self.path(path);
        }
    }
}

/// Completes a service whose values have their forms.
pub(super) fn complete(service: &mut Map<String, Value>, around: &Around<'_>) {
    each(service, around, "ports", &ports);
    each_once(service, "ports");
    each(service, around, "volumes", &|volume| vec![mount(volume, around)]);
    each(service, around, "devices", &|device| vec![self::device(device)]);
    each(service, around, "secrets", &|secret| vec![reference(secret, Some("/run/secrets/"))]);
    each(service, around, "configs", &|config| vec![reference(config, None)]);
    if let Some(gpus) = service.get_mut("gpus") {
        if gpus == "all" {
            *gpus = json!([{}]);
        }
        count(gpus);
    }
    if let Some(devices) =
        service.get_mut("deploy").and_then(|deploy| deploy.pointer_mut("/resources/reservations/devices"))
    {
        count(devices);
    }
    by_name(service, "depends_on");
    by_name(service, "networks");
    by_name(service, "models");
    depends_on(service);
    if let Some(build) = service.get_mut("build") {
        self::build(build, around);
    }
    if service.get("pull_policy").is_some_and(|policy| policy == "if_not_present") {
        service.insert("pull_policy".to_owned(), json!("missing"));
    }
    let no_networks = match service.get("networks") {
        Some(Value::Object(networks)) => networks.is_empty(),
        Some(networks) => networks.is_null(),
        None => true,
    };
    if no_networks && !service.contains_key("network_mode") && !service.contains_key("provider") {
        service.insert("networks".to_owned(), json!({"default": null}));
    }
    // Its variables are in `environment` now.
    if !around.raw {
        service.remove("env_file");
    }
}

/// Replaces each element of a list by those that it stands for.
fn each(
    service: &mut Map<String, Value>,
    around: &Around<'_>,
    key: &str,
    full: &dyn Fn(Value) -> Vec<Value>,
) {
    let Some(Value::Array(items)) = service.get_mut(key) else { return };
    let is_raw = |item: &Value| around.raw && item.as_str().is_some_and(|text| text.contains('$'));
    let all = std::mem::take(items).into_iter();
    *items = all.flat_map(|item| if is_raw(&item) { vec![item] } else { full(item) }).collect();
}

/// Keeps the first of equal elements: a range of ports may hold one that is there by itself too.
fn each_once(service: &mut Map<String, Value>, key: &str) {
    let Some(Value::Array(items)) = service.get_mut(key) else { return };
    let mut seen = BTreeSet::new();
    items.retain(|item| seen.insert(item.to_string()));
}

/// A list of names as a mapping.
fn by_name(service: &mut Map<String, Value>, key: &str) {
    if let Some(Value::Array(names)) = service.get(key) {
        let names = names.iter().filter_map(Value::as_str).map(|name| (name.to_owned(), Value::Null));
        let map = Value::Object(names.collect());
        service.insert(key.to_owned(), map);
    }
}

fn ports(port: Value) -> Vec<Value> {
    let text = match &port {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Object(_) => return vec![long_port(port)],
        Value::Null | Value::Bool(_) | Value::Array(_) => return vec![port],
    };
    let short::Port { host_ip, published, target, protocol } = short::port(&text);
    let Some((first, last)) = range(target) else { return vec![port] };
    let published = match published {
        None => Vec::new(),
        Some(text) => match range(text) {
            Some((from, to)) if to - from == last - first => {
                (from..=to).map(|port| port.to_string()).collect()
            }
            // One of the range is chosen when the service starts.
            Some(_) if first == last => vec![text.to_owned()],
            Some(_) | None => return vec![port],
        },
    };
    let one = |(index, target): (usize, u16)| {
        let mut full = Map::new();
        full.insert("mode".to_owned(), json!("ingress"));
        full.insert("target".to_owned(), json!(target));
        full.insert("protocol".to_owned(), json!(protocol));
        if let Some(published) = published.get(index) {
            full.insert("published".to_owned(), json!(published));
        }
        if let Some(address) = host_ip {
            full.insert("host_ip".to_owned(), json!(address));
        }
        Value::Object(full)
    };
    (first..=last).enumerate().map(one).collect()
}

fn long_port(mut port: Value) -> Value {
    if let Value::Object(port) = &mut port {
        port.entry("mode").or_insert(json!("ingress"));
        port.entry("protocol").or_insert(json!("tcp"));
    }
    port
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

fn mount(volume: Value, around: &Around<'_>) -> Value {
    match volume {
        Value::String(text) => short_mount(&text, around),
        Value::Object(mut mount) => {
            if mount.get("type").is_some_and(|kind| kind == "bind") {
                around.in_full(&mut mount, "source");
            }
            Value::Object(mount)
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => other,
    }
}

fn short_mount(text: &str, around: &Around<'_>) -> Value {
    let Some(parts) = short::mount(text) else { return json!(text) };
    let mut full = Map::new();
    let path = parts.source.is_some_and(short::is_path);
    full.insert("type".to_owned(), json!(if path { "bind" } else { "volume" }));
    full.insert("target".to_owned(), json!(parts.target));
    if let Some(source) = parts.source {
        full.insert("source".to_owned(), json!(if path { around.path(source) } else { source.to_owned() }));
    }
    let mut bind = Map::new();
    let mut volume = Map::new();
    for option in parts.options {
        match option {
            "ro" => {
                full.insert("read_only".to_owned(), json!(true));
            }
            "z" | "Z" => {
                bind.insert("selinux".to_owned(), json!(option));
            }
            "nocopy" => {
                volume.insert("nocopy".to_owned(), json!(true));
            }
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => {
                bind.insert("propagation".to_owned(), json!(option));
            }
            _ => {}
        }
    }
    if path {
        bind.insert("create_host_path".to_owned(), json!(true));
    } else {
        full.insert("volume".to_owned(), Value::Object(volume));
    }
    if !bind.is_empty() {
        full.insert("bind".to_owned(), Value::Object(bind));
    }
    Value::Object(full)
}

fn device(device: Value) -> Value {
    let Value::String(text) = &device else {
        let mut device = device;
        if let Value::Object(full) = &mut device {
            full.entry("permissions").or_insert(json!("rwm"));
        }
        return device;
    };
    let parts: Vec<&str> = text.split(':').collect();
    let full = |source: &str, target: &str, permissions: &str| json!({"source": source, "target": target, "permissions": permissions});
    match parts[..] {
        // A device of the Container Device Interface.
        [source] if text.contains('=') => full(source, source, "rwm"),
        [source] => full(source, source, "rwm"),
        [source, target] if target.starts_with('/') => full(source, target, "rwm"),
        [source, permissions] => full(source, source, permissions),
        [source, target, permissions] => full(source, target, permissions),
        _ => device,
    }
}

/// A secret or config that a service uses; `dir` is where it lies by default.
fn reference(item: Value, dir: Option<&str>) -> Value {
    let mut full = match item {
        Value::String(source) => Map::from_iter([("source".to_owned(), Value::String(source))]),
        Value::Object(full) => full,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => return other,
    };
    if let (Some(dir), None, Some(source)) =
        (dir, full.get("target"), full.get("source").and_then(Value::as_str))
    {
        let target = json!(format!("{dir}{source}"));
        full.insert("target".to_owned(), target);
    }
    Value::Object(full)
}

/// Devices of which neither a number nor names are given are all that there are.
fn count(devices: &mut Value) {
    for device in devices.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if !device.contains_key("device_ids") {
            device.entry("count").or_insert(json!(-1));
        }
    }
}

/// Completes the dependencies, and adds those that links and shared namespaces bring.
fn depends_on(service: &mut Map<String, Value>) {
    let texts = |key: &str| {
        let items = service.get(key).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut implied: Vec<(String, bool)> = Vec::new();
    for link in texts("links") {
        implied.push((link.split(':').next().unwrap_or_default().to_owned(), true));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(name) =
            service.get(key).and_then(Value::as_str).and_then(|mode| mode.strip_prefix("service:"))
        {
            implied.push((name.to_owned(), true));
        }
    }
    for from in texts("volumes_from").iter().filter(|from| !from.starts_with("container:")) {
        implied.push((from.split(':').next().unwrap_or_default().to_owned(), false));
    }
    let mut all = match service.remove("depends_on") {
        Some(Value::Object(all)) => all,
        Some(_) | None => Map::new(),
    };
    for dependency in all.values_mut() {
        if dependency.is_null() {
            *dependency = json!({});
        }
        if let Value::Object(dependency) = dependency {
            dependency.entry("condition").or_insert(json!("service_started"));
            dependency.entry("required").or_insert(json!(true));
        }
    }
    for (name, restart) in implied {
        let entry = json!({"condition": "service_started", "required": true, "restart": restart});
        all.entry(name).or_insert(entry);
    }
    if !all.is_empty() {
        service.insert("depends_on".to_owned(), Value::Object(all));
    }
}

fn build(build: &mut Value, around: &Around<'_>) {
    if let Value::String(context) = build {
        *build = json!({"context": context});
    }
    let Value::Object(build) = build else { return };
    if !build.contains_key("dockerfile_inline") {
        build.entry("dockerfile").or_insert(json!("Dockerfile"));
    }
    build.entry("context").or_insert(json!("."));
    around.in_full(build, "context");
    if let Some(Value::Object(contexts)) = build.get_mut("additional_contexts") {
        for context in contexts.values_mut() {
            if let Value::String(path) = context {
                *path = around.path(path);
            }
        }
    }
}
