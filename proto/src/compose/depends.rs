//! `depends_on` of services: its two forms, and the graph that they make.
//!
//! Holds: every dependency that is kept names a service of the file, and following them never comes back to the start.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cx::{Cx, Place},
    item::Item,
    text::{self, clip},
    yaml::Kind,
};
use crate::{
    name::ServiceName,
    spec::{Condition, Dependency, ServiceSpec},
};

/// Where each dependency was read, for what is found out once all services are known.
#[derive(Default)]
pub(super) struct Edges(BTreeMap<(ServiceName, ServiceName), (Place, String)>);

impl Edges {
    /// Notes where `of` says that it depends on `on`.
    pub(super) fn add(&mut self, of: &ServiceName, on: &ServiceName, item: &Item<'_>) {
        self.0.entry((of.clone(), on.clone())).or_insert((item.node.at, item.path.clone()));
    }
}

/// Reads the dependencies of the service `of`: a list of names, or a mapping with a condition for each.
pub(super) fn read(item: &Item<'_>, of: &str, edges: &mut Edges) -> BTreeMap<ServiceName, Dependency> {
    let mut found = BTreeMap::new();
    let mut add = |key: &str, at: Place, item: &Item<'_>, dependency: Dependency| {
        let Some(name) = item.name::<ServiceName>(key, at) else { return };
        if let Ok(of) = of.parse::<ServiceName>() {
            edges.0.insert((of, name.clone()), (at, item.path.clone()));
        }
        found.insert(name, dependency);
    };
    match &item.node.kind {
        Kind::List(_) | Kind::Null => {
            for item in item.items() {
                if let Some(name) = item.filled() {
                    add(name, item.node.at, &item, Dependency::default());
                }
            }
        }
        Kind::Map(_) | Kind::Scalar(_) => {
            for (key, at, item) in item.entries() {
                add(key, at, &item, dependency(&item));
            }
        }
    }
    found
}

fn dependency(item: &Item<'_>) -> Dependency {
    let mut dependency = Dependency::default();
    let Some(fields) = item.fields() else { return dependency };
    if let Some(condition) = fields.get("condition") {
        dependency.condition = condition.parse(read_condition).unwrap_or_default();
    } else {
        item.error_help("has no `condition`", "add `condition: service_started`");
    }
    dependency.restart = fields.get("restart").and_then(|item| item.flag()).unwrap_or_default();
    dependency.required = fields.get("required").and_then(|item| item.flag()).unwrap_or(true);
    fields.finish(&[]);
    dependency
}

fn read_condition(text: &str) -> Result<Condition, String> {
    const ALL: [(&str, Condition); 3] = [
        ("service_started", Condition::Started),
        ("service_healthy", Condition::Healthy),
        ("service_completed_successfully", Condition::Completed),
    ];
    let known = ALL.iter().find(|(name, _)| *name == text);
    known.map(|(_, condition)| *condition).ok_or_else(|| {
        let near = text::nearest(text, ALL.map(|(name, _)| name));
        let hint = near.map_or(
            "use one of `service_started`, `service_healthy`, `service_completed_successfully`".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        format!("unknown condition `{}`; {hint}", clip(text))
    })
}

/// Checks all dependencies against the services that there are. What need not be there is left out.
pub(super) fn check(
    cx: &Cx<'_>,
    services: &mut BTreeMap<ServiceName, ServiceSpec>,
    declared: &BTreeSet<String>,
    edges: &Edges,
) {
    let place = |of: &ServiceName, on: &ServiceName| edges.0.get(&(of.clone(), on.clone()));
    for (of, spec) in services.iter_mut() {
        spec.depends_on.retain(|on, dependency| {
            // A service that cannot be read has its own error.
            if declared.contains(on.as_str()) {
                return true;
            }
            if dependency.required
                && let Some((at, path)) = place(of, on)
            {
                let near = text::nearest(on.as_str(), declared.iter().map(String::as_str));
                let help = near.map(|near| format!("did you mean `{near}`?"));
                cx.error(*at, path, format!("there is no service `{on}`"), help);
            }
            false
        });
    }
    let on = |of: &ServiceName| -> Vec<&ServiceName> {
        services.get(of).map(|spec| spec.depends_on.keys().rev().collect()).unwrap_or_default()
    };
    if let Some(circle) = circle(services, on) {
        let names: Vec<&str> = circle.iter().map(|name| name.as_str()).collect();
        if let [of, on, ..] = &circle[..]
            && let Some((at, path)) = place(of, on)
        {
            let message = format!("services wait for each other in a circle: {}", names.join(" -> "));
            cx.error(*at, path, message, Some("remove one of these dependencies".to_owned()));
        }
    }
}

/// Services that name each other in a circle, if there are any; the first is also the last. `on` answers whom a service
/// names.
pub(super) fn circle<'s>(
    services: &'s BTreeMap<ServiceName, ServiceSpec>,
    on: impl Fn(&ServiceName) -> Vec<&'s ServiceName>,
) -> Option<Vec<ServiceName>> {
    let mut done = BTreeSet::new();
    for start in services.keys() {
        // The way to where the search is, with what is left to try there.
        let mut way = vec![(start, on(start))];
        while let Some((_, rest)) = way.last_mut() {
            let Some(next) = rest.pop() else {
                done.extend(way.pop().map(|(name, _)| name));
                continue;
            };
            if let Some(at) = way.iter().position(|(name, _)| *name == next) {
                return Some(way[at..].iter().map(|(name, _)| *name).chain([next]).cloned().collect());
            }
            if !done.contains(next) {
                way.push((next, on(next)));
            }
        }
    }
    None
}
