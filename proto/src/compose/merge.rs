//! One tree laid over another: several files, several documents of a file, and a service over the one that it extends.
//!
//! Owns: what becomes of a value that both have. Mappings are merged, lists appended, all else replaced, but for the
//! keys of [`rule`]. Leaves alone: elements of a list that name the same thing, of which `unique` keeps the last.
//!
//! Source: Compose Specification, "Merge"; where it is silent, what Docker Compose 2.40 does.

use indexmap::map;

use super::{
    cx::Cx,
    yaml::{Entry, Kind, Map, Mark, Node},
};

/// What to do with a key that is in both trees.
enum Rule {
    /// By kind: mappings merge, lists append, scalars are replaced.
    Kind,
    Replace,
    /// Mappings by name that may also be lists of names or of `NAME=VALUE`.
    Named,
    /// As `Named`, for hosts: `NAME:ADDRESS` besides, and one name may have several addresses.
    Hosts,
    /// A list that may also be one scalar.
    Append,
    /// A mapping that may also be a scalar, which stands for this key of it.
    Short(&'static str),
    /// Options belong to a driver: those of another one are dropped.
    Logging,
    /// Pools of addresses, by subnet.
    Pools,
}

fn rule(path: &[&str]) -> Rule {
    match path {
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"] => Rule::Replace,
        [
            "services",
            _,
            "environment" | "labels" | "networks" | "depends_on" | "annotations" | "sysctls" | "models",
        ]
        | ["services", _, "build", "args" | "labels" | "additional_contexts"]
        | ["services", _, "deploy", "labels"]
        | ["networks" | "volumes" | "secrets" | "configs", _, "labels"] => Rule::Named,
        ["services", _, "extra_hosts"] | ["services", _, "build", "extra_hosts"] => Rule::Hosts,
        ["services", _, "env_file" | "label_file" | "tmpfs" | "dns" | "dns_search" | "dns_opt"] => {
            Rule::Append
        }
        ["services", _, "build"] => Rule::Short("context"),
        ["services", _, "logging"] => Rule::Logging,
        ["networks", _, "ipam", "config"] => Rule::Pools,
        _ => Rule::Kind,
    }
}

/// `over` laid over `base`; nodes that cannot be merged are reported, and `over` wins.
pub(super) fn merge(cx: &Cx<'_>, base: Node, over: Node) -> Node {
    merge_at(cx, &mut Vec::new(), base, over)
}

/// The service `name`, laid over the one that it extends.
pub(super) fn merge_service(cx: &Cx<'_>, name: &str, base: Node, over: Node) -> Node {
    merge_at(cx, &mut vec!["services".to_owned(), name.to_owned()], base, over)
}

/// The value at a path, laid over another.
pub(super) fn merge_value<const N: usize>(cx: &Cx<'_>, path: [&str; N], base: Node, over: Node) -> Node {
    merge_at(cx, &mut path.iter().map(|key| (*key).to_owned()).collect(), base, over)
}

/// Removes what `!reset` is on, and forgets `!override`; for a tree over which nothing more is laid.
pub(super) fn settle(node: &mut Node) {
    node.mark = Mark::None;
    match &mut node.kind {
        Kind::Null | Kind::Scalar(_) => {}
        Kind::List(items) => {
            items.retain(|item| item.mark != Mark::Reset);
            items.iter_mut().for_each(settle);
        }
        Kind::Map(map) => {
            map.retain(|_, entry| entry.value.mark != Mark::Reset);
            map.values_mut().for_each(|entry| settle(&mut entry.value));
        }
    }
}

fn merge_at(cx: &Cx<'_>, path: &mut Vec<String>, base: Node, over: Node) -> Node {
    if over.mark != Mark::None {
        return over;
    }
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    let (base, over) = match rule(&keys) {
        Rule::Kind => by_kind(base, over),
        Rule::Replace => return over,
        Rule::Named => (by_name(base), by_name(over)),
        Rule::Hosts => (as_hosts(base), as_hosts(over)),
        Rule::Append => (as_list(base), as_list(over)),
        Rule::Short(key) => (in_full(base, key), in_full(over, key)),
        Rule::Logging if other_driver(&base, &over) => return over,
        Rule::Logging => (base, over),
        Rule::Pools => return join_pools(cx, path, base, over),
    };
    let Node { kind: lower, at: lower_at, .. } = base;
    let Node { kind: upper, at, plain, .. } = over;
    let kind = match (lower, upper) {
        (Kind::Map(mut map), Kind::Map(upper)) => {
            for (key, entry) in upper {
                lay(cx, path, &mut map, key, entry);
            }
            Kind::Map(map)
        }
        (Kind::List(mut items), Kind::List(upper)) => {
            items.extend(upper);
            Kind::List(items)
        }
        (kind @ (Kind::Map(_) | Kind::List(_)), Kind::Null) => return Node::new(kind, lower_at),
        (Kind::Null | Kind::Scalar(_), kind) => kind,
        (Kind::Map(_) | Kind::List(_), kind) => {
            let there = cx.show(lower_at);
            let message = format!("cannot be merged with what is at {there}: they are of different kinds");
            cx.error(at, &path.join("."), message, None);
            cx.silence(at);
            kind
        }
    };
    Node { kind, at, plain, mark: Mark::None }
}

fn lay(cx: &Cx<'_>, path: &mut Vec<String>, map: &mut Map, key: String, entry: Entry) {
    match map.entry(key) {
        map::Entry::Vacant(vacant) => {
            vacant.insert(entry);
        }
        map::Entry::Occupied(mut occupied) => {
            path.push(occupied.key().clone());
            let below = occupied.get_mut();
            let at = below.value.at;
            let base = std::mem::replace(&mut below.value, Node::new(Kind::Null, at));
            *below = Entry { key_at: entry.key_at, value: merge_at(cx, path, base, entry.value) };
            path.pop();
        }
    }
}

/// A limit of `ulimits` is a number or a mapping; whichever comes later counts.
fn by_kind(base: Node, over: Node) -> (Node, Node) {
    match (&base.kind, &over.kind) {
        (Kind::Map(_), Kind::Scalar(_)) if base.get("soft").or(base.get("hard")).is_some() => {
            (Node::new(Kind::Null, base.at), over)
        }
        _ => (base, over),
    }
}

/// A list of `NAME` and `NAME=VALUE` as a mapping. One with other elements stays as it is, for whoever reads it to
/// refuse.
pub(super) fn by_name(node: Node) -> Node {
    let Kind::List(items) = &node.kind else { return node };
    let mut map = Map::new();
    for item in items {
        let Kind::Scalar(text) = &item.kind else { return node };
        let (name, kind) = match text.split_once('=') {
            Some((name, value)) => (name, Kind::Scalar(value.to_owned())),
            None => (text.as_str(), Kind::Null),
        };
        map.insert(name.to_owned(), Entry { key_at: item.at, value: Node::new(kind, item.at) });
    }
    Node { kind: Kind::Map(map), ..node }
}

/// Hosts as a list of `NAME=ADDRESS`.
pub(super) fn as_hosts(node: Node) -> Node {
    let kind = match node.kind {
        Kind::List(mut items) => {
            for item in &mut items {
                if let Kind::Scalar(text) = &mut item.kind
                    && !text.contains('=')
                    && let Some((name, address)) = text.split_once(':')
                {
                    *text = format!("{name}={address}");
                }
            }
            Kind::List(items)
        }
        Kind::Map(map) => {
            Kind::List(map.into_iter().flat_map(|(name, entry)| addresses(&name, entry)).collect())
        }
        kind @ (Kind::Null | Kind::Scalar(_)) => kind,
    };
    Node { kind, ..node }
}

fn addresses(name: &str, entry: Entry) -> Vec<Node> {
    let one = |node: Node| match node.kind {
        Kind::Scalar(address) => Node { kind: Kind::Scalar(format!("{name}={address}")), ..node },
        Kind::Null | Kind::List(_) | Kind::Map(_) => node,
    };
    match entry.value.kind {
        Kind::List(items) => items.into_iter().map(one).collect(),
        Kind::Null | Kind::Scalar(_) | Kind::Map(_) => vec![one(entry.value)],
    }
}

/// A single text as a list of one.
pub(super) fn as_list(node: Node) -> Node {
    match node.kind {
        Kind::Scalar(_) => Node::new(Kind::List(vec![Node { mark: Mark::None, ..node.clone() }]), node.at),
        // The long form of a single `env_file`.
        Kind::Map(_) if node.get("path").is_some() => Node::new(Kind::List(vec![node.clone()]), node.at),
        Kind::Null | Kind::List(_) | Kind::Map(_) => node,
    }
}

/// A text as the mapping that it is short for.
pub(super) fn in_full(node: Node, key: &str) -> Node {
    match &node.kind {
        Kind::Scalar(_) => {
            let (at, mut map) = (node.at, Map::new());
            map.insert(key.to_owned(), Entry { key_at: at, value: node });
            Node::new(Kind::Map(map), at)
        }
        Kind::Null | Kind::List(_) | Kind::Map(_) => node,
    }
}

fn other_driver(base: &Node, over: &Node) -> bool {
    match (base.get("driver").and_then(Node::text), over.get("driver").and_then(Node::text)) {
        (Some(base), Some(over)) => base != over,
        (Some(_) | None, _) => false,
    }
}

/// Pools of addresses: one with the subnet of an earlier one is merged into it, others are added.
fn join_pools(cx: &Cx<'_>, path: &mut Vec<String>, base: Node, over: Node) -> Node {
    let (mut lower, upper) = match (base.kind, over.kind) {
        (Kind::List(lower), Kind::List(upper)) => (lower, upper),
        (lower, upper) => {
            let (base, over) = (Node { kind: lower, ..base }, Node { kind: upper, ..over });
            return if matches!(over.kind, Kind::Null) { base } else { over };
        }
    };
    let subnet = |node: &Node| node.get("subnet").and_then(Node::text).map(str::to_owned);
    path.push("*".to_owned());
    for pool in upper {
        let name = subnet(&pool);
        match lower.iter_mut().find(|below| name.is_some() && subnet(below) == name) {
            Some(below) => {
                let base = std::mem::replace(below, Node::new(Kind::Null, pool.at));
                *below = merge_at(cx, path, base, pool);
            }
            None => lower.push(pool),
        }
    }
    path.pop();
    Node { kind: Kind::List(lower), at: over.at, plain: false, mark: Mark::None }
}
