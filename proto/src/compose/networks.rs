//! Networks: those that a stack has, and those that a service is on.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cx::Place,
    environment,
    item::{Fields, Item},
    stack::Declared,
    text::{self, clip},
};
use crate::{
    name::NetworkName,
    spec::{NetworkAttachment, NetworkSpec},
};

/// The network of services that name none; it needs no declaration.
const DEFAULT: &str = "default";
/// Longest host name. Source: RFC 1035.
const HOST_NAME_MAX: usize = 253;
/// Longest part of a host name between dots. Source: RFC 1035.
const HOST_LABEL_MAX: usize = 63;

/// Reads the top-level `networks`, with the place of each.
pub(super) fn declared(item: &Item<'_>) -> BTreeMap<NetworkName, (Place, NetworkSpec)> {
    let mut networks = BTreeMap::new();
    for (key, at, item) in item.entries() {
        if let Some(name) = item.name(key, at) {
            networks.insert(name, (at, network(&item)));
        }
    }
    networks
}

fn network(item: &Item<'_>) -> NetworkSpec {
    let Some(fields) = item.fields() else { return NetworkSpec::default() };
    if let Some(driver) = fields.get("driver")
        && let Some(text) = driver.filled()
        && !matches!(text, "bridge" | "overlay" | "default")
    {
        let help = "every network of a stack spans the cluster: leave `driver` out";
        driver.error_help(format!("the driver `{}` is not supported yet", clip(text)), help);
    }
    for key in ["external", "enable_ipv6"] {
        fields.must_be_off(key);
    }
    if let Some(on) = fields.get("enable_ipv4")
        && on.flag() == Some(false)
    {
        on.error("a network without IPv4 is not supported yet");
    }
    let labels = fields.get("labels").map(|labels| environment::labels(&labels)).unwrap_or_default();
    let encrypted = fields.get("driver_opts").and_then(|options| encrypted(&options));
    let on = |key| fields.get(key).and_then(|item| item.flag()).unwrap_or(false);
    let (internal, attachable) = (on("internal"), on("attachable"));
    fields.finish(&["name", "ipam"]);
    NetworkSpec { labels, encrypted, internal, attachable }
}

/// Refuses published ports of a service that is on internal networks alone. Docker leaves such ports out in silence,
/// and Swarm answers on them by a network of its own; neither is what the file says.
pub(super) fn check_published(service: &Fields<'_>, on: &[NetworkAttachment], declared: &Declared) {
    let shut_in = |on: &NetworkAttachment| declared.internal.contains(on.network.as_str());
    if let Some(ports) = service.get("ports").filter(|ports| !ports.is_null())
        && !on.is_empty()
        && on.iter().all(shut_in)
    {
        let help = "put the service on a network more that is not `internal`, or remove `ports`";
        ports.error_help("nobody could reach them: all networks of the service are `internal`", help);
    }
}

/// Reads the one option that means something here. Empty is Swarm's way to say yes.
fn encrypted(options: &Item<'_>) -> Option<bool> {
    let fields = options.fields()?;
    let wanted = fields.get("encrypted").and_then(|option| match option.text()? {
        "true" | "" => Some(true),
        "false" => Some(false),
        other => {
            option.error_help(
                format!("`{}` is neither `true` nor `false`", clip(other)),
                "write \"true\" or \"false\"",
            );
            None
        }
    });
    fields.finish(&[]);
    wanted
}

/// Reads a service's `networks`, in the order of the file; without any, it is on the default network.
pub(super) fn attachments(item: Option<Item<'_>>, declared: &Declared) -> Vec<NetworkAttachment> {
    let mut attachments: Vec<NetworkAttachment> = Vec::new();
    let mut seen = BTreeSet::new();
    let listed = item.as_ref().is_some_and(|item| matches!(item.node.kind, super::yaml::Kind::List(_)));
    let found: Vec<_> = match &item {
        None => Vec::new(),
        Some(item) if listed => item
            .items()
            .into_iter()
            .filter_map(|item| Some((item.filled()?, item.node.at, None, item)))
            .collect(),
        Some(item) => {
            item.entries().into_iter().map(|(key, at, item)| (key, at, Some(item.clone()), item)).collect()
        }
    };
    for (key, at, options, item) in found {
        let first = seen.insert(key);
        let aliases = options.map(|options| aliases(&options)).unwrap_or_default();
        if key != DEFAULT && !declared.networks.contains_key(key) {
            undeclared(&item, key, at, declared);
            continue;
        }
        let Ok(network) = key.parse::<NetworkName>() else { continue };
        if first {
            attachments.push(NetworkAttachment { network, aliases });
        }
    }
    if seen.is_empty()
        && let Ok(network) = DEFAULT.parse()
    {
        attachments.push(NetworkAttachment { network, aliases: Vec::new() });
    }
    attachments
}

fn undeclared(item: &Item<'_>, key: &str, at: Place, declared: &Declared) {
    let near = text::nearest(key, declared.networks.keys().map(String::as_str));
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("declare it at the top level: `networks: {{{}: {{}}}}`", clip(key)),
    };
    item.cx.error(at, &item.path, format!("the network `{}` is not declared", clip(key)), Some(help));
}

fn aliases(item: &Item<'_>) -> Vec<String> {
    let Some(fields) = item.fields() else { return Vec::new() };
    let aliases = fields.get("aliases").map(|item| item.items()).unwrap_or_default();
    let aliases: BTreeSet<String> = aliases.iter().filter_map(|alias| alias.parse(host_name)).collect();
    fields.finish(&[
        "driver_opts",
        "gw_priority",
        "interface_name",
        "ipv4_address",
        "ipv6_address",
        "link_local_ips",
        "mac_address",
        "priority",
    ]);
    aliases.into_iter().collect()
}

/// A name that DNS can carry; underscores are let through, as Docker does.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let label_fits = |label: &str| {
        (1..=HOST_LABEL_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= HOST_NAME_MAX && text.split('.').all(label_fits) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{}` is not a host name: letters, digits and `-`, in parts of up to 63 between dots",
        clip(text)
    ))
}
