//! The loader from text to text: files in, the spec or the diagnostics out.
//!
//! A fixture is one `compose.yaml`, or several files that each begin with a line `## NAME`; those whose names end
//! in `.yaml` are loaded in their order.

mod bad;
mod blobs;
mod depends;
mod examples;
mod fuzz;
mod good;
mod hooks;
mod jobs;
mod keys;
mod limits;
mod options;
mod placement;
mod several;
mod slots;

mod config;
mod diagnostics;
mod layers;

use std::{
    collections::BTreeMap,
    fmt::Write,
    io,
    path::{Path, PathBuf},
};

use expect_test::Expect;
use serde_json::Value;

use super::{Input, Loaded, Problems, load};
use crate::{
    name::VolumeName,
    spec::{MountSource, StackSpec},
};

/// Loads a fixture with variables.
fn run(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Problems> {
    with_input(text, env, load)
}

/// Gives a function of the loader a fixture with variables.
fn with_input<T>(text: &str, env: &[(&str, &str)], load: impl Fn(&Input<'_>) -> T) -> T {
    let files = split(text);
    let read = |path: &Path, limit: u64| {
        let name = path.strip_prefix("/srv/shop").unwrap_or(path);
        let text = files.iter().find(|(found, _)| Path::new(found) == name).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.1.bytes().take(usize::try_from(limit).unwrap()).collect())
    };
    let names: Vec<PathBuf> =
        files.iter().filter(|(name, _)| name.ends_with(".yaml")).map(|(name, _)| name.into()).collect();
    let env: BTreeMap<_, _> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(&Input {
        files: &names,
        project_dir: Path::new("/srv/shop"),
        env_files: &[],
        profiles: &[],
        name: None,
        env: &env,
        read: &read,
    })
}

/// A stack as a normalised file has it: without volumes that no service mounts, and networks in the order of their names.
fn as_printed(mut spec: StackSpec) -> StackSpec {
    let mounts: Vec<MountSource> = spec
        .services
        .values()
        .flat_map(|service| service.container.mounts.iter().map(|mount| mount.source.clone()))
        .collect();
    let is_used = |volume: &VolumeName| {
        mounts.iter().any(|source| matches!(source, MountSource::Volume { name, .. } if name == volume))
    };
    spec.volumes.retain(|name, _| is_used(name));
    for service in spec.services.values_mut() {
        service.networks.sort_by(|one, two| one.network.cmp(&two.network));
    }
    spec
}

fn split(text: &str) -> Vec<(String, String)> {
    if !text.starts_with("## ") {
        return vec![("compose.yaml".to_owned(), text.to_owned())];
    }
    let mut files: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("## "), files.last_mut()) {
            (Some(name), _) => files.push((name.to_owned(), String::new())),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    files
}

fn check(text: &str, expect: Expect) {
    check_env(text, &[], expect);
}

fn check_env(text: &str, env: &[(&str, &str)], expect: Expect) {
    let mut out = String::new();
    match run(text, env) {
        Ok(loaded) => {
            for warning in loaded.warnings {
                writeln!(out, "warning: {warning}").unwrap();
            }
            render(&mut out, &prune(serde_json::to_value(&loaded.spec).unwrap()), 0);
        }
        Err(problems) => {
            for error in problems.errors {
                writeln!(out, "{error}").unwrap();
            }
            for warning in problems.warnings {
                writeln!(out, "warning: {warning}").unwrap();
            }
        }
    }
    expect.assert_eq(&out);
}

/// One service `web` with the given lines, two spaces deeper than in the fixture.
fn check_web(lines: &str, expect: Expect) {
    let lines: String = lines.trim_matches('\n').lines().map(|line| format!("    {}\n", line)).collect();
    let head = "services:\n  web:\n    image: nginx\n";
    let networks = if lines.contains("networks") { "networks: {front: {}}\n" } else { "" };
    let volumes = if lines.contains("volumes") { "volumes: {data: {}}\n" } else { "" };
    check_env(&format!("{head}{lines}{networks}{volumes}"), &[("HOME", "/root"), ("SET", "set")], expect);
}

/// Leaves out what is nothing, and writes times as text.
fn prune(value: Value) -> Value {
    match value {
        Value::Object(map) if map.len() == 2 && map.contains_key("secs") => {
            let nanos = map["nanos"].as_u64().unwrap();
            Value::String(format!("{}.{:03}s", map["secs"], nanos / 1_000_000))
        }
        Value::Object(map) => {
            let kept = map.into_iter().map(|(key, value)| (key, prune(value)));
            let tells = |key: &str| matches!(key, "command" | "entrypoint" | "equal" | "encrypted");
            Value::Object(
                kept.filter(|(key, value)| !is_nothing(value) || tells(key) && !value.is_null()).collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(prune).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    }
}

fn render(out: &mut String, value: &Value, depth: usize) {
    let Value::Object(map) = value else { return writeln!(out, "{value}").unwrap() };
    for (key, value) in map {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(_) => {
                writeln!(out, "{indent}{key}:").unwrap();
                render(out, value, depth + 1);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    writeln!(out, "{indent}{key}: {item}").unwrap();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                writeln!(out, "{indent}{key}: {value}").unwrap();
            }
        }
    }
}
