//! Where tasks may be: `deploy.placement`, generic resources, and the services that `x-raftup` names.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use super::{
    item::{Fields, Item},
    keys,
    text::{self, clip},
};
use crate::{
    name::ServiceName,
    spec::{Constraint, MAX_REPLICAS, Mode, NodeAttribute, Placement, ip_range},
};

/// Most levels of `preferences`.
const LEVELS_MAX: usize = 8;
/// Longest name of a kind of generic resource, in bytes.
const KIND_MAX: usize = 63;
/// Most units of one kind.
const UNITS_MAX: u32 = 1 << 30;

/// Reads `placement` of a service of that mode.
pub(super) fn read(item: &Item<'_>, mode: Mode) -> Placement {
    let Some(fields) = item.fields() else { return Placement::default() };
    let constraints = fields.get("constraints").map(|item| item.items()).unwrap_or_default();
    let constraints = constraints.iter().filter_map(|item| item.parse(constraint)).collect();
    let preferences = fields.get("preferences");
    let levels = preferences.as_ref().map(Item::items).unwrap_or_default();
    if let Some(item) = preferences.filter(|_| levels.len() > LEVELS_MAX) {
        item.error(format!("has more than {LEVELS_MAX} levels"));
    }
    let spread = levels.iter().filter_map(preference).collect();
    let most = fields.get("max_replicas_per_node");
    // Zero stands for no limit, as in Swarm.
    let max_per_node = most.as_ref().and_then(|item| item.whole(0, MAX_REPLICAS)).and_then(NonZeroU32::new);
    if let Some(item) = most.as_ref().filter(|_| mode.is_global()) {
        item.warn("has no effect: a global service has one task on each node");
    }
    fields.end(&keys::PLACEMENT);
    let max_per_node = max_per_node.filter(|_| !mode.is_global());
    Placement { constraints, spread, max_per_node, with: BTreeSet::new(), apart_from: BTreeSet::new() }
}

/// `spread: node.labels.KEY`
fn preference(item: &Item<'_>) -> Option<NodeAttribute> {
    let fields = item.fields()?;
    let spread = fields.get("spread");
    fields.end(&keys::PREFERENCE);
    let Some(spread) = spread else {
        item.error_help("has no `spread`", "write `spread: node.labels.KEY`");
        return None;
    };
    spread.parse(|text| match attribute(text.trim())? {
        label @ (NodeAttribute::Label(_) | NodeAttribute::EngineLabel(_)) => Ok(label),
        other @ (NodeAttribute::Id
        | NodeAttribute::Hostname
        | NodeAttribute::Ip
        | NodeAttribute::Role
        | NodeAttribute::Os
        | NodeAttribute::Arch) => {
            Err(format!("tasks are spread over labels, not over `{other}`: write `node.labels.KEY`"))
        }
    })
}

/// Reads `generic_resources`: how many of each kind.
pub(super) fn generic(item: &Item<'_>) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for item in item.items() {
        let Some(fields) = item.fields() else { continue };
        let discrete = fields.get("discrete_resource_spec");
        if discrete.is_none() && fields.key_at("named_resource_spec").is_none() {
            item.error_help(
                "has no `discrete_resource_spec`",
                "write `discrete_resource_spec: {kind: gpu, value: 1}`",
            );
        }
        fields.end(&keys::GENERIC);
        let Some(discrete) = discrete.and_then(|item| item.fields()) else { continue };
        let kind = discrete.get("kind").and_then(|item| item.parse(kind).map(|kind| (kind, item)));
        let value = discrete.get("value").and_then(|item| item.whole(1, UNITS_MAX));
        for key in ["kind", "value"] {
            if discrete.get(key).is_none() {
                discrete.item.error(format!("has no `{key}`"));
            }
        }
        discrete.end(&keys::DISCRETE);
        let (Some((kind, place)), Some(value)) = (kind, value) else { continue };
        if all.insert(kind.clone(), u64::from(value)).is_some() {
            place.error(format!("`{kind}` is named twice"));
        }
    }
    all
}

fn kind(text: &str) -> Result<String, String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.' | '/');
    if text.len() > KIND_MAX || !text.chars().all(fits) {
        return Err(format!("`{}` is no kind of resource such as `gpu`", clip(text)));
    }
    Ok(text.to_owned())
}

/// What `x-raftup` says of other services: `with` and `apart_from`.
pub(super) fn beside(fields: &Fields<'_>, (own, mode): (&str, Mode), placement: &mut Placement) {
    let names = |key: &'static str| -> BTreeSet<ServiceName> {
        let given = fields.get(key);
        if let Some(item) = given.as_ref().filter(|_| mode.is_global()) {
            item.error_help(
                "cannot be held: a global service has a task on each node",
                "choose its nodes with `deploy.placement.constraints`",
            );
        }
        let items = given.map(|item| item.one_or_more()).unwrap_or_default();
        let mut names = BTreeSet::new();
        for item in items {
            let Some(name) = item.filled().and_then(|text| item.name::<ServiceName>(text, item.node.at))
            else {
                continue;
            };
            if name.as_str() == own {
                let help = match key {
                    "with" => {
                        "tasks of one service are together where `placement.constraints` leave one node"
                    }
                    _ => "`deploy.placement.max_replicas_per_node: 1` keeps tasks of one service apart",
                };
                item.error_help("names the service itself", help);
            } else {
                names.insert(name);
            }
        }
        names
    };
    placement.with = names("with");
    placement.apart_from = names("apart_from");
    if let (Some(both), Some(item)) =
        (placement.with.intersection(&placement.apart_from).next(), fields.get("apart_from"))
    {
        item.error(format!("`{both}` stands under `with` as well"));
    }
}

/// `ATTRIBUTE == VALUE` or `ATTRIBUTE != VALUE`.
fn constraint(text: &str) -> Result<Constraint, String> {
    let found = [("==", true), ("!=", false)]
        .into_iter()
        .filter_map(|(sign, equal)| text.find(sign).map(|at| (at, equal)))
        .min();
    let Some((at, equal)) = found else {
        return Err(format!("`{}` is no constraint such as `node.labels.disk == ssd`", clip(text)));
    };
    let (name, value) = (text[..at].trim(), text[at + 2..].trim());
    if value.is_empty() || value.contains(['=', '!', '"', '\'', ',']) || value.chars().any(char::is_control) {
        return Err(format!("`{}` cannot be the value of a constraint", clip(value)));
    }
    let attribute = attribute(name)?;
    if attribute == NodeAttribute::Ip && ip_range(value).is_none() {
        return Err(format!("`{}` is neither an address nor a network such as `10.0.0.0/8`", clip(value)));
    }
    if attribute == NodeAttribute::Role
        && !["manager", "worker"].contains(&value.to_ascii_lowercase().as_str())
    {
        return Err(format!("`{}` is no role; a node is `manager` or `worker`", clip(value)));
    }
    Ok(Constraint { attribute, equal, value: value.to_owned() })
}

fn attribute(name: &str) -> Result<NodeAttribute, String> {
    const NAMES: [&str; 6] =
        ["node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch"];
    let label = |key: &str| {
        let fits = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.' | '/');
        if key.is_empty() || !key.chars().all(fits) {
            return Err(format!("`{}` cannot be the name of a label", clip(key)));
        }
        Ok(key.to_owned())
    };
    // As in Swarm, keys are compared without regard to case, but for the names of labels.
    let cut = ["node.labels.", "engine.labels."]
        .into_iter()
        .find(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)));
    let lower = match cut {
        Some(prefix) => format!("{prefix}{}", &name[prefix.len()..]),
        None => name.to_ascii_lowercase(),
    };
    match lower.as_str() {
        "node.id" => Ok(NodeAttribute::Id),
        "node.hostname" => Ok(NodeAttribute::Hostname),
        "node.role" => Ok(NodeAttribute::Role),
        "node.platform.os" => Ok(NodeAttribute::Os),
        "node.platform.arch" => Ok(NodeAttribute::Arch),
        "node.ip" => Ok(NodeAttribute::Ip),
        other => {
            if let Some(key) = other.strip_prefix("node.labels.") {
                return label(key).map(NodeAttribute::Label);
            }
            if let Some(key) = other.strip_prefix("engine.labels.") {
                return label(key).map(NodeAttribute::EngineLabel);
            }
            let all = format!("{}, node.labels.KEY and engine.labels.KEY", NAMES.join(", "));
            let hint = match text::nearest(other, NAMES) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {all}"),
            };
            Err(format!("a constraint cannot look at `{}`: {hint}", clip(name)))
        }
    }
}
