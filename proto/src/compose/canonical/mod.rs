//! A stack as one normalised compose file: what `raftup stack config` prints, as `docker compose config` does.
//!
//! Owns: canonical forms of all keys, those that the cluster does not support yet as well. It is made from the merged
//! tree and not from the spec, so it says what the files mean to Compose. Leaves alone: whether the cluster can run it.
//! Holds: loading what is printed yields the same stack as the files that it was made from.

mod emit;
mod forms;
mod scalar;
mod service;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::service::Around;
#[cfg(test)]
pub(super) use self::{emit::document, value::any};
use super::{
    Input, Problems,
    cx::Cx,
    environment,
    item::Item,
    path::Path,
    project::{self, Project},
    yaml::Node,
};

/// A normalised compose file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    file: Value,
    profiles: BTreeSet<String>,
}

/// How a file is normalised.
#[derive(Clone, Copy, Debug, Default)]
pub struct Normalise {
    /// Leave variables as they are.
    pub keep_variables: bool,
}

/// The kinds of objects besides services, with whether they are named after the stack.
const OBJECTS: [&str; 4] = ["networks", "volumes", "secrets", "configs"];

/// Reads, merges and normalises compose files.
///
/// Errors: all problems of reading and merging. What the cluster does not support is none of them.
pub fn normalise(input: &Input<'_>, how: Normalise) -> Result<Config, Problems> {
    let mut cx = Cx::new(input);
    cx.interpolates = !how.keep_variables;
    let config = project::tree(&cx).map(|project| config(&cx, project));
    let (errors, warnings) = cx.into_diagnostics();
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        Some(_) | None => Err(Problems { errors, warnings }),
    }
}

fn config(cx: &Cx<'_>, project: Project) -> Config {
    let Project { name, root, profiles } = project;
    let around = Around { project_dir: cx.input.project_dir, home: cx.var("HOME"), raw: !cx.interpolates };
    let mut file = value::value(&root, &mut Path::default());
    if let Value::Object(file) = &mut file {
        file.remove("version");
        if let Some(name) = &name {
            file.insert("name".to_owned(), json!(name.to_string()));
        }
        services(cx, file, &root, &around);
        objects(file, name.as_ref().map_or("", |name| name.as_str()), &around);
    }
    prune(&mut file, &mut Path::default());
    if cx.interpolates {
        escape(&mut file);
    }
    Config { file, profiles }
}

fn services(cx: &Cx<'_>, file: &mut Map<String, Value>, root: &Node, around: &Around<'_>) {
    let services = file.entry("services").or_insert(json!({}));
    if services.is_null() {
        *services = json!({});
    }
    let Value::Object(services) = services else { return };
    for (name, service) in services {
        if service.is_null() {
            *service = json!({});
        }
        let Value::Object(service) = service else { continue };
        if let Some(node) = root.get("services").and_then(|services| services.get(name)) {
            variables(cx, service, &format!("services.{name}"), node);
        }
        service::complete(service, around);
    }
}

/// The variables of a service: those of `env_file`, and `environment` over them, with values of the loader's where there
/// are none.
fn variables(cx: &Cx<'_>, service: &mut Map<String, Value>, path: &str, node: &Node) {
    if !cx.interpolates {
        return;
    }
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    if let Some(files) = node.get("env_file") {
        let item = Item { cx, node: files, path: format!("{path}.env_file") };
        all.extend(environment::files(&item).into_iter().map(|(name, value)| (name, json!(value))));
    }
    if let Some(Value::Object(own)) = service.remove("environment") {
        all.extend(own.into_iter().map(|(name, value)| {
            let value =
                if value.is_null() { cx.var(&name).map_or(Value::Null, Value::String) } else { value };
            (name, value)
        }));
    }
    if !all.is_empty() {
        service.insert("environment".to_owned(), Value::Object(all.into_iter().collect()));
    }
    if let Some(Value::Object(args)) = service.get_mut("build").and_then(|build| build.get_mut("args")) {
        for (name, value) in args {
            if value.is_null() {
                *value = cx.var(name).map_or(Value::Null, Value::String);
            }
        }
    }
}

/// Networks, volumes, secrets and configs: names in full, and only those that a service uses.
fn objects(file: &mut Map<String, Value>, stack: &str, around: &Around<'_>) {
    let used: BTreeMap<&str, BTreeSet<String>> = {
        let services = file.get("services").and_then(Value::as_object);
        OBJECTS
            .into_iter()
            .map(|kind| (kind, services.map(|all| uses(all, kind)).unwrap_or_default()))
            .collect()
    };
    for kind in OBJECTS {
        let objects = file.entry(kind).or_insert(json!({}));
        if objects.is_null() {
            *objects = json!({});
        }
        let Value::Object(objects) = objects else { continue };
        if kind == "networks" && used[kind].contains("default") {
            objects.entry("default").or_insert(json!({}));
        }
        objects.retain(|key, _| used[kind].contains(key));
        for (key, object) in objects {
            if object.is_null() {
                *object = json!({});
            }
            let Value::Object(object) = object else { continue };
            let external = object.get("external") == Some(&json!(true));
            let name = if external { key.clone() } else { format!("{stack}_{key}") };
            object.entry("name").or_insert(json!(name));
            if matches!(kind, "secrets" | "configs") {
                around.in_full(object, "file");
            }
            if let Some(Value::Object(options)) = object.get_mut("driver_opts")
                && kind == "volumes"
                && options.get("o").and_then(Value::as_str).is_some_and(|o| o.split(',').any(|o| o == "bind"))
            {
                around.in_full(options, "device");
            }
        }
    }
}

/// The names of a kind that services use.
fn uses(services: &Map<String, Value>, kind: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for service in services.values() {
        match service.get(kind) {
            Some(Value::Object(map)) => used.extend(map.keys().cloned()),
            Some(Value::Array(items)) => {
                let named = items.iter().filter(|item| kind != "volumes" || item["type"] == "volume");
                used.extend(named.filter_map(|item| item["source"].as_str()).map(str::to_owned));
            }
            Some(_) | None => {}
        }
        if kind == "secrets"
            && let Some(Value::Array(items)) = service.pointer("/build/secrets")
        {
            let name = |item: &Value| item.as_str().or(item["source"].as_str()).map(str::to_owned);
            used.extend(items.iter().filter_map(name));
        }
    }
    used
}

/// Removes what says nothing: null, empty, zero and off, where that is the default.
fn prune(value: &mut Value, path: &mut Path) {
    match value {
        Value::Object(map) => {
            let here = path.clone();
            map.retain(|key, value| {
                path.push(key);
                prune(value, path);
                let kept = if value.is_null() {
                    forms::is_free(&here, path)
                } else if value.as_str().is_some_and(|text| forms::is_zero_time(text, path)) {
                    false
                } else {
                    !is_nothing(value) || forms::is_kept(&here, path)
                };
                path.pop();
                kept
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push_index(index);
                prune(item, path);
                path.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Doubles every `$`, so that nothing is taken for a variable when the file is read again.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('$') => *text = text.replace('$', "$$"),
        Value::Array(items) => items.iter_mut().for_each(escape),
        Value::Object(map) => map.values_mut().for_each(escape),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Config {
    /// The file as YAML.
    pub fn yaml(&self) -> String {
        emit::document(&self.file)
    }

    /// The file as a JSON value.
    pub fn json(&self) -> &Value {
        &self.file
    }

    /// Keeps these services and what they depend on; the name of one that there is not is the error.
    pub fn select(&mut self, names: &[String]) -> Result<(), String> {
        let Some(services) = self.file.get("services").and_then(Value::as_object) else { return Ok(()) };
        let mut kept = BTreeSet::new();
        let mut left = names.to_vec();
        while let Some(name) = left.pop() {
            let Some(service) = services.get(&name) else { return Err(name) };
            if kept.insert(name) {
                let needs = service.get("depends_on").and_then(Value::as_object);
                left.extend(
                    needs
                        .into_iter()
                        .flat_map(Map::keys)
                        .filter(|name| services.contains_key(*name))
                        .cloned(),
                );
            }
        }
        if let Some(services) = self.file.get_mut("services").and_then(Value::as_object_mut) {
            services.retain(|name, _| kept.contains(name));
        }
        let Value::Object(file) = &mut self.file else { return Ok(()) };
        for kind in OBJECTS {
            let used = file
                .get("services")
                .and_then(Value::as_object)
                .map(|all| uses(all, kind))
                .unwrap_or_default();
            if let Some(objects) = file.get_mut(kind).and_then(Value::as_object_mut) {
                objects.retain(|name, _| used.contains(name));
                if objects.is_empty() {
                    file.remove(kind);
                }
            }
        }
        Ok(())
    }

    /// The names of a kind of objects, such as `services`, in order.
    pub fn names(&self, kind: &str) -> Vec<&str> {
        let objects = self.file.get(kind).and_then(Value::as_object);
        objects.into_iter().flat_map(Map::keys).map(String::as_str).collect()
    }

    /// The images of the services, each once, in order.
    pub fn images(&self) -> BTreeSet<String> {
        let stack = self.file["name"].as_str().unwrap_or_default();
        let services = self.file.get("services").and_then(Value::as_object);
        let image = |(name, service): (&String, &Value)| match service["image"].as_str() {
            Some(image) => image.to_owned(),
            None => format!("{stack}-{name}"),
        };
        services.into_iter().flatten().map(image).collect()
    }

    /// The names of all profiles of the files, also of those that are not active.
    pub fn profiles(&self) -> &BTreeSet<String> {
        &self.profiles
    }

    /// A digest of each service, which changes when anything in it does.
    pub fn hashes(&self) -> BTreeMap<&str, String> {
        let services = self.file.get("services").and_then(Value::as_object);
        let digest = |service: &Value| data_encoding::HEXLOWER.encode(&Sha256::digest(service.to_string()));
        services.into_iter().flatten().map(|(name, service)| (name.as_str(), digest(service))).collect()
    }
}
