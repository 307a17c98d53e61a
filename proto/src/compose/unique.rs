//! Elements of a list that stand for the same thing: the last one counts, in the place of the first one.
//!
//! Owns: what an element stands for, as a port by what is published and a mount by its target. Leaves alone: ranges of
//! ports that overlap without being equal, which are refused where ports are read.
//!
//! Source: Compose Specification, "Unique resources", and `EnforceUnicity` of Docker Compose 2.40.

use indexmap::IndexMap;

use super::{
    cx::Cx,
    short,
    yaml::{Kind, Node},
};

/// What an element stands for; `None` for one that cannot be told from others.
type Key = fn(&Node) -> Option<String>;

fn key(path: &[&str]) -> Option<Key> {
    let key: Key = match path {
        ["services", _, "ports"] => port,
        ["services", _, "volumes" | "devices"] => target,
        ["services", _, "secrets"] => secret,
        ["services", _, "configs"] => config,
        ["services", _, "env_file"] => file,
        [
            "services",
            _,
            "cap_add"
            | "cap_drop"
            | "dns"
            | "dns_opt"
            | "dns_search"
            | "expose"
            | "extra_hosts"
            | "links"
            | "profiles"
            | "tmpfs"
            | "security_opt"
            | "group_add"
            | "volumes_from"
            | "external_links"
            | "label_file"
            | "device_cgroup_rules"
            | "networks"
            | "depends_on",
        ]
        | ["services", _, "networks", _, "aliases" | "link_local_ips"]
        | ["services", _, "build", "tags" | "platforms"] => text,
        _ => return None,
    };
    Some(key)
}

/// Removes from every list of the tree what a later element stands for too. Where both are in one file and differ, that is
/// told.
pub(super) fn enforce(cx: &Cx<'_>, root: &mut Node) {
    at(cx, root, &mut Vec::new());
}

fn at(cx: &Cx<'_>, node: &mut Node, path: &mut Vec<String>) {
    /// No list that is looked at is deeper.
    const DEPTH: usize = 5;
    match &mut node.kind {
        Kind::Null | Kind::Scalar(_) => {}
        Kind::Map(map) if path.len() < DEPTH => {
            for (name, entry) in map {
                path.push(name.clone());
                at(cx, &mut entry.value, path);
                path.pop();
            }
        }
        Kind::Map(_) => {}
        Kind::List(items) => {
            let steps: Vec<&str> = path.iter().map(String::as_str).collect();
            if let Some(key) = key(&steps) {
                last_of_each(cx, items, key, &path.join("."));
            }
        }
    }
}

fn last_of_each(cx: &Cx<'_>, items: &mut Vec<Node>, key: Key, path: &str) {
    let mut kept: IndexMap<String, Node> = IndexMap::with_capacity(items.len());
    for (index, item) in std::mem::take(items).into_iter().enumerate() {
        let key = key(&item).unwrap_or_else(|| format!("\0{index}"));
        let again = item.clone();
        if let Some(earlier) = kept.insert(key, item)
            && earlier.at.file == again.at.file
            && !earlier.is_same(&again)
        {
            let message = format!("has no effect: the one at {} takes its place", cx.show(again.at));
            cx.warn(earlier.at, path, message, None);
        }
    }
    items.extend(kept.into_values());
}

fn text(node: &Node) -> Option<String> {
    node.text().map(str::to_owned)
}

fn file(node: &Node) -> Option<String> {
    node.get("path").unwrap_or(node).text().map(str::to_owned)
}

fn port(node: &Node) -> Option<String> {
    let part = |key| node.get(key).and_then(Node::text);
    let (mode, port) = match node.text() {
        Some(text) => ("ingress", short::port(text)),
        None => {
            let (host_ip, published) = (part("host_ip"), part("published"));
            let protocol = part("protocol").unwrap_or("tcp");
            let port = short::Port { host_ip, published, target: part("target")?, protocol };
            (part("mode").unwrap_or("ingress"), port)
        }
    };
    Some(format!(
        "{mode} {}:{}:{}/{}",
        port.host_ip.unwrap_or_default(),
        port.published.unwrap_or_default(),
        port.target,
        port.protocol
    ))
}

fn target(node: &Node) -> Option<String> {
    let target = match node.text() {
        Some(text) => short::mount(text)?.target,
        None => node.get("target")?.text()?,
    };
    Some(if target.len() > 1 { target.trim_end_matches('/') } else { target }.to_owned())
}

fn secret(node: &Node) -> Option<String> {
    inside(node, "/run/secrets")
}

fn config(node: &Node) -> Option<String> {
    inside(node, "")
}

/// Where a secret or config is in the container.
fn inside(node: &Node, dir: &str) -> Option<String> {
    let target = node.get("target").or(node.get("source")).unwrap_or(node).text()?;
    Some(if target.starts_with('/') { target.to_owned() } else { format!("{dir}/{target}") })
}
