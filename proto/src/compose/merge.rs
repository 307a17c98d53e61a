//! Several files to one: each is laid over those before it.
//!
//! Owns: what becomes of a value that both have. Mappings are merged, lists appended, all else replaced; commands
//! are replaced; variables, labels and networks are merged by name in either notation; ports and mounts are appended
//! here, and one of a later file wins over an equal one of an earlier file where they are read.
//!
//! Source: Compose Specification, "Merge".

use indexmap::map;

use super::{
    cx::Cx,
    yaml::{Entry, Kind, Map, Node},
};

/// What to do with a key that is in both files.
enum Rule {
    /// By kind: mappings merge, lists append, scalars are replaced.
    Kind,
    Replace,
    /// Mappings by name that may also be lists of names or of `NAME=VALUE`.
    Named,
    /// A list that may also be one scalar.
    Append,
}

fn rule(path: &[&str]) -> Rule {
    match path {
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"] => Rule::Replace,
        ["services", _, "environment" | "labels" | "networks"]
        | ["services", _, "deploy", "labels"]
        | ["networks" | "volumes", _, "labels"] => Rule::Named,
        ["services", _, "env_file" | "tmpfs"] => Rule::Append,
        _ => Rule::Kind,
    }
}

/// `over` laid over `base`; nodes that cannot be merged are reported, and `over` wins.
pub(super) fn merge(cx: &Cx<'_>, base: Node, over: Node) -> Node {
    merge_at(cx, &mut Vec::new(), base, over)
}

fn merge_at(cx: &Cx<'_>, path: &mut Vec<String>, base: Node, over: Node) -> Node {
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    let (base, over) = match rule(&keys) {
        Rule::Kind => (base, over),
        Rule::Replace => return over,
        Rule::Named => match (&base.kind, &over.kind) {
            (Kind::Map(_), Kind::List(_)) | (Kind::List(_), Kind::Map(_)) => (by_name(base), by_name(over)),
            _ => (base, over),
        },
        Rule::Append => (as_list(base), as_list(over)),
    };
    let at = over.at;
    match (base.kind, over.kind) {
        (Kind::Map(mut map), Kind::Map(upper)) => {
            for (key, entry) in upper {
                lay(cx, path, &mut map, key, entry);
            }
            Node { kind: Kind::Map(map), at }
        }
        (Kind::List(mut items), Kind::List(upper)) => {
            items.extend(upper);
            Node { kind: Kind::List(items), at }
        }
        (kind @ (Kind::Map(_) | Kind::List(_)), Kind::Null) => Node { kind, at: base.at },
        (Kind::Null | Kind::Scalar(_), kind) => Node { kind, at },
        (Kind::Map(_) | Kind::List(_), kind) => {
            let there = cx.show(base.at);
            let message = format!("cannot be merged with what is at {there}: they are of different kinds");
            cx.error(at, &path.join("."), message, None);
            Node { kind, at }
        }
    }
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
            let base = std::mem::replace(&mut below.value, Node { kind: Kind::Null, at });
            *below = Entry { key_at: entry.key_at, value: merge_at(cx, path, base, entry.value) };
            path.pop();
        }
    }
}

/// A list of `NAME` and `NAME=VALUE` as a mapping; elements that are neither stay out of it no longer than until they
/// are read, as a list then.
fn by_name(node: Node) -> Node {
    let Kind::List(items) = &node.kind else { return node };
    let mut map = Map::new();
    for item in items {
        let Kind::Scalar(text) = &item.kind else { return node };
        let (name, kind) = match text.split_once('=') {
            Some((name, value)) => (name, Kind::Scalar(value.to_owned())),
            None => (text.as_str(), Kind::Null),
        };
        map.insert(name.to_owned(), Entry { key_at: item.at, value: Node { kind, at: item.at } });
    }
    Node { kind: Kind::Map(map), at: node.at }
}

fn as_list(node: Node) -> Node {
    match node.kind {
        Kind::Scalar(_) => Node { at: node.at, kind: Kind::List(vec![node]) },
        Kind::Null | Kind::List(_) | Kind::Map(_) => node,
    }
}
