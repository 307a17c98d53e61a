//! Profiles: which services of a model are part of the stack.
//!
//! Owns: the choice by `--profile` and `COMPOSE_PROFILES`, and what becomes of dependencies on services that are left
//! out. Services that are not chosen are removed from the tree before anything is read from it.
//!
//! Source: Compose Specification, "Profiles".

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cx::Cx,
    text::clip,
    yaml::{Kind, Node},
};

/// Variable with the names of profiles, separated by commas.
const VARIABLE: &str = "COMPOSE_PROFILES";
/// Stands for all profiles.
const ALL: &str = "*";

/// The profiles that the user asked for.
pub(super) fn active(cx: &Cx<'_>) -> BTreeSet<String> {
    if !cx.input.profiles.is_empty() {
        return cx.input.profiles.iter().cloned().collect();
    }
    let names = cx.var(VARIABLE).unwrap_or_default();
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The profiles of a service.
pub(super) fn of(service: &Node) -> Vec<&str> {
    match service.get("profiles").map(|node| &node.kind) {
        Some(Kind::List(items)) => items.iter().filter_map(Node::text).collect(),
        Some(Kind::Null | Kind::Scalar(_) | Kind::Map(_)) | None => Vec::new(),
    }
}

/// The names of all profiles in a tree.
pub(super) fn all(root: &Node) -> BTreeSet<String> {
    let Some(Kind::Map(services)) = root.get("services").map(|node| &node.kind) else {
        return BTreeSet::new();
    };
    services.values().flat_map(|entry| of(&entry.value)).map(str::to_owned).collect()
}

/// Removes the services that are in other profiles only.
pub(super) fn choose(cx: &Cx<'_>, root: &mut Node) {
    let active = active(cx);
    let Some(Kind::Map(services)) = root.get_mut("services").map(|node| &mut node.kind) else { return };
    let is_chosen = |service: &Node| {
        let profiles = of(service);
        profiles.is_empty()
            || active.contains(ALL)
            || profiles.iter().any(|profile| active.contains(*profile))
    };
    let mut gone = Vec::new();
    let mut left_out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    services.retain(|name, entry| {
        let chosen = is_chosen(&entry.value);
        if !chosen {
            let profiles = of(&entry.value).into_iter().map(str::to_owned).collect();
            left_out.insert(name.clone(), profiles);
            gone.push(std::mem::replace(&mut entry.value, Node::new(Kind::Null, entry.key_at)));
        }
        chosen
    });
    for (name, entry) in &mut *services {
        check(cx, name, &entry.value);
        dependencies(cx, name, &mut entry.value, &left_out);
    }
    unused_networks(root, &gone);
}

/// Removes `profiles` from all services: nothing that follows asks for it.
pub(super) fn forget(root: &mut Node) {
    let Some(Kind::Map(services)) = root.get_mut("services").map(|node| &mut node.kind) else { return };
    for entry in services.values_mut() {
        if let Kind::Map(service) = &mut entry.value.kind {
            service.shift_remove("profiles");
        }
    }
}

fn check(cx: &Cx<'_>, service: &str, node: &Node) {
    let Some(profiles) = node.get("profiles") else { return };
    let sound = match &profiles.kind {
        Kind::Null => true,
        Kind::List(items) => items.iter().all(|item| item.text().is_some_and(|text| !text.is_empty())),
        Kind::Scalar(_) | Kind::Map(_) => false,
    };
    if !sound {
        let path = format!("services.{}.profiles", clip(service));
        cx.error(
            profiles.at,
            &path,
            "must be a list of names",
            Some("such as `profiles: [debug]`".to_owned()),
        );
    }
}

/// Removes declared networks that only services name which were left out.
fn unused_networks(root: &mut Node, gone: &[Node]) {
    let names = |service: &Node| match service.get("networks").map(|node| &node.kind) {
        Some(Kind::Map(map)) => map.keys().cloned().collect(),
        Some(Kind::List(items)) => items.iter().filter_map(Node::text).map(str::to_owned).collect(),
        Some(Kind::Null | Kind::Scalar(_)) | None => Vec::new(),
    };
    let mut unused: BTreeSet<String> = gone.iter().flat_map(names).collect();
    if let Some(Kind::Map(services)) = root.get("services").map(|node| &node.kind) {
        services.values().flat_map(|entry| names(&entry.value)).for_each(|name| {
            unused.remove(&name);
        });
    }
    if let Some(Kind::Map(networks)) = root.get_mut("networks").map(|node| &mut node.kind) {
        networks.retain(|name, _| !unused.contains(name));
    }
}

/// Removes dependencies on services that were left out; those that are required are reported.
fn dependencies(cx: &Cx<'_>, service: &str, node: &mut Node, left_out: &BTreeMap<String, Vec<String>>) {
    let report = |at, name: &str| {
        let profiles = left_out.get(name).map(|names| names.join("`, `")).unwrap_or_default();
        let message =
            format!("`{}` is left out: it is in the profile `{profiles}`, which is not active", clip(name));
        let help = "activate the profile (`--profile`), or use the long form with `required: false`";
        cx.error(at, &format!("services.{}.depends_on", clip(service)), message, Some(help.to_owned()));
    };
    match node.get_mut("depends_on").map(|node| &mut node.kind) {
        Some(Kind::List(items)) => items.retain(|item| {
            let gone = item.text().filter(|name| left_out.contains_key(*name));
            gone.inspect(|name| report(item.at, name)).is_none()
        }),
        Some(Kind::Map(map)) => map.retain(|name, entry| {
            if !left_out.contains_key(name) {
                return true;
            }
            if entry.value.get("required").and_then(Node::text) != Some("false") {
                report(entry.key_at, name);
            }
            false
        }),
        Some(Kind::Null | Kind::Scalar(_)) | None => {}
    }
}
