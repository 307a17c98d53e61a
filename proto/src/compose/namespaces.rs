//! `network_mode`, `pid`, `ipc`, `uts`, `userns_mode`, `cgroup`: what a container shares with its node; `dns*`,
//! `extra_hosts`: how it resolves names.

use std::net::IpAddr;

use super::{
    item::{Fields, Item},
    text::clip,
    yaml::Kind,
};
use crate::spec::{Names, Namespaces};

/// Reads the keys of a service.
pub(super) fn read(fields: &Fields<'_>) -> Namespaces {
    let text = |key| fields.given(key).and_then(|item| item.filled().map(str::to_owned));
    let word =
        |key, words: &[&'static str]| fields.given(key).and_then(|item| own(&item, words)).map(str::to_owned);
    Namespaces {
        network: fields.given("network_mode").and_then(|item| network(fields, &item)),
        pid: word("pid", &["host"]),
        ipc: word("ipc", &["host", "private", "shareable", "none"]),
        uts: word("uts", &["host"]),
        user: word("userns_mode", &["host"]),
        cgroup: word("cgroup", &["host", "private"]),
        cgroup_parent: text("cgroup_parent"),
    }
}

/// One of `words`; another container's namespace is refused with a reason.
fn own(item: &Item<'_>, words: &[&'static str]) -> Option<&'static str> {
    let text = item.filled()?;
    if let Some((kind @ ("service" | "container"), _)) = text.split_once(':') {
        item.error_help(
            format!("cannot be that of another {kind}: tasks of two services may run on two nodes"),
            "run both programs in one container, or share a volume or a network",
        );
        return None;
    }
    item.word(words)
}

fn network(fields: &Fields<'_>, item: &Item<'_>) -> Option<String> {
    if let Some(networks) = fields.get("networks").filter(|networks| !networks.is_null()) {
        networks.error("cannot be given beside `network_mode`");
    }
    let text = item.filled()?;
    if let Some((kind @ ("service" | "container"), other)) = text.split_once(':') {
        let help = match kind {
            "service" => format!(
                "put both services on one network and reach it by its name, `{}`; or run both programs in one container",
                clip(other)
            ),
            _ => "make the container a service, put both on one network and reach it by its name".to_owned(),
        };
        let message = format!("cannot be that of another {kind}: tasks of two services may run on two nodes");
        item.error_help(message, help);
        return None;
    }
    match text {
        "host" | "none" => Some(text.to_owned()),
        // A bridge is what every network of a stack is.
        "bridge" | "default" => None,
        other => {
            item.error_help(
                format!("`{}` is none of `host`, `none` and `bridge`", clip(other)),
                format!("name networks in `networks: [{}]`", clip(other)),
            );
            None
        }
    }
}

/// `dns`, `dns_opt`, `dns_search` and `extra_hosts`.
pub(super) fn names(fields: &Fields<'_>) -> Names {
    let some = |key| fields.get(key).map(|item| item.one_or_more()).unwrap_or_default();
    let address = |text: &str| {
        text.trim().parse::<IpAddr>().map_err(|_| format!("`{}` is not the address of a server", clip(text)))
    };
    let filled = |item: &Item<'_>| item.filled().map(str::to_owned);
    let given = |item: &&Item<'_>| !item.is_blank();
    Names {
        servers: some("dns").iter().filter(given).filter_map(|item| item.parse(address)).collect(),
        options: some("dns_opt").iter().filter(given).filter_map(filled).collect(),
        search: some("dns_search").iter().filter(given).filter_map(filled).collect(),
        hosts: fields.get("extra_hosts").map(|item| hosts(&item)).unwrap_or_default(),
    }
}

/// Lines of `/etc/hosts`: a list of `NAME:ADDRESS` or `NAME=ADDRESS`, or a mapping to one address or several.
pub(super) fn hosts(item: &Item<'_>) -> Vec<(String, String)> {
    let mut hosts = Vec::new();
    if matches!(item.node.kind, Kind::Map(_)) {
        for (name, _, item) in item.entries() {
            let addresses = item.one_or_more();
            hosts.extend(addresses.iter().filter_map(|item| host(item, name, item.filled()?)));
        }
        return hosts;
    }
    for item in item.items() {
        let Some(text) = item.filled() else { continue };
        let Some((name, address)) = text.split_once('=').or_else(|| text.split_once(':')) else {
            item.error_help(format!("`{}` names no address", clip(text)), "it is `NAME:ADDRESS`");
            continue;
        };
        hosts.extend(host(&item, name, address));
    }
    hosts
}

fn host(item: &Item<'_>, name: &str, address: &str) -> Option<(String, String)> {
    let (name, address) = (name.trim(), address.trim());
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        item.error_help(
            format!("`{}` is no address", clip(address)),
            "it is an IP address, or `host-gateway`",
        );
        return None;
    }
    if name.is_empty() || name.contains(char::is_whitespace) {
        item.error(format!("`{}` cannot be the name of a host", clip(name)));
        return None;
    }
    Some((name.to_owned(), bare.to_owned()))
}
