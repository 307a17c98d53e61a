//! Networks: those that a stack has, and those that a service is on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{
    cx::Place,
    environment,
    item::{Fields, Item},
    keys,
    stack::Declared,
    text::{self, clip},
    yaml::Kind,
};
use crate::{
    name::NetworkName,
    spec::{EndpointSpec, NetworkAttachment, NetworkSpec, Subnet},
};

/// The network of services that name none; it needs no declaration.
const DEFAULT: &str = "default";
/// Networks that every node has: its own one, and none at all.
const HOST: &str = "host";
const NONE: &str = "none";
/// Longest host name. Source: RFC 1035.
const HOST_NAME_MAX: usize = 253;
/// Longest part of a host name between dots. Source: RFC 1035.
const HOST_LABEL_MAX: usize = 63;

/// Reads the top-level `networks`, with the place of each.
pub(super) fn declared(item: &Item<'_>) -> BTreeMap<NetworkName, (Place, NetworkSpec)> {
    let mut networks = BTreeMap::new();
    for (key, at, item) in item.entries() {
        if let Some(name) = item.name(key, at) {
            networks.insert(name, (at, network(key, &item)));
        }
    }
    networks
}

fn network(key: &str, item: &Item<'_>) -> NetworkSpec {
    let Some(fields) = item.fields() else { return NetworkSpec::default() };
    let (external, old_name) = fields.get("external").map(|item| external(&item)).unwrap_or_default();
    let driver = fields.given("driver");
    if let Some(driver) = &driver
        && let Some(text) = driver.filled()
        && !matches!(text, "bridge" | "overlay" | "default" | HOST | NONE)
    {
        let help = match text {
            "macvlan" | "ipvlan" => "use `network_mode: host` in the service, or leave `driver` out",
            _ => "every network of a stack spans the cluster: leave `driver` out",
        };
        driver.error_help(format!("the driver `{}` is not supported yet", clip(text)), help);
    }
    if let (Some(on), Some(at)) = (fields.get("enable_ipv6"), fields.key_at("enable_ipv6"))
        && on.flag() == Some(true)
    {
        let message = "is not supported yet: networks of containers have IPv4 addresses alone";
        let help = "remove it; published ports answer on the IPv6 addresses of every node all the same";
        on.cx.error(at, &on.path, message, Some(help.to_owned()));
    }
    if let Some(on) = fields.get("enable_ipv4")
        && on.flag() == Some(false)
    {
        on.error("a network without IPv4 is not supported yet");
    }
    let labels = fields.get("labels").map(|labels| environment::labels(&labels)).unwrap_or_default();
    let (encrypted, driver_opts) = fields.get("driver_opts").map(|item| options(&item)).unwrap_or_default();
    let on = |key| fields.get(key).and_then(|item| item.flag()).unwrap_or(false);
    let (internal, attachable) = (on("internal"), on("attachable"));
    let ipam = fields.get("ipam").map(|item| ipam(&item)).unwrap_or_default();
    let mut name = fields.given("name").and_then(|item| item.parse(full_name)).or(old_name);
    fields.end(&keys::NETWORK);
    if external {
        name = name.or_else(|| Some(key.to_owned()));
    }
    // The network of the node has the same name on every engine.
    let word = driver.as_ref().and_then(|driver| driver.filled()).filter(|word| [HOST, NONE].contains(word));
    if let Some(word) = word {
        return NetworkSpec { name: Some(word.to_owned()), external: true, ..NetworkSpec::default() };
    }
    NetworkSpec { labels, encrypted, internal, attachable, name, external, driver_opts, ipam }
}

/// `external: true`, or in files of old `external: {name: x}`.
pub(super) fn external(item: &Item<'_>) -> (bool, Option<String>) {
    if !matches!(item.node.kind, Kind::Map(_)) {
        return (!item.is_blank() && item.flag().unwrap_or(false), None);
    }
    let Some(fields) = item.fields() else { return (false, None) };
    let name = fields.given("name").and_then(|item| item.parse(full_name));
    fields.finish(&[]);
    (true, name)
}

/// The name of a network or volume on an engine. Source: the engine's `names.RestrictedNamePattern`.
pub(super) fn full_name(text: &str) -> Result<String, String> {
    let inner = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-');
    let begins = text.starts_with(|char: char| char.is_ascii_alphanumeric());
    if begins && text.len() > 1 && text.chars().all(inner) {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is no name: two or more of letters, digits, `_`, `.` and `-`", clip(text)))
}

/// `ipam`: kept, without effect.
fn ipam(item: &Item<'_>) -> Vec<Subnet> {
    let Some(fields) = item.fields() else { return Vec::new() };
    for key in ["driver", "options"] {
        fields.get(key);
    }
    let subnets = fields.get("config").map(|item| item.items()).unwrap_or_default();
    let read = |item: Item<'_>| {
        let fields = item.fields()?;
        let text = |key| fields.given(key).and_then(|item| item.filled().map(str::to_owned));
        let subnet = Subnet { subnet: text("subnet"), ip_range: text("ip_range"), gateway: text("gateway") };
        fields.get("aux_addresses");
        fields.end(&keys::IPAM_CONFIG);
        Some(subnet)
    };
    let subnets: Vec<_> = subnets.into_iter().filter_map(read).collect();
    fields.end(&keys::IPAM);
    if !subnets.is_empty() && item.cx.is_news("networks ipam") {
        item.warn("has no effect: the cluster gives each network addresses of its own");
    }
    subnets
}

/// Refuses published ports of a service that is on internal networks alone. Docker leaves such ports out in silence,
/// and Swarm answers on them by a network of its own; neither is what the file says.
pub(super) fn check_published(service: &Fields<'_>, on: &[NetworkAttachment], declared: &Declared<'_>) {
    let shut_in = |on: &NetworkAttachment| declared.internal.contains(on.network.as_str());
    if let Some(ports) = service.get("ports").filter(|ports| !ports.is_null())
        && !on.is_empty()
        && on.iter().all(shut_in)
    {
        let help = "put the service on a network more that is not `internal`, or remove `ports`";
        ports.error_help("nobody could reach them: all networks of the service are `internal`", help);
    }
}

/// `driver_opts`: whether the network is encrypted, and the other options, which have no effect. An empty text is Swarm's
/// way to say yes, and so is any other word.
fn options(item: &Item<'_>) -> (Option<bool>, BTreeMap<String, String>) {
    let mut options = item.values();
    let encrypted = options.remove("encrypted").map(|text| !matches!(text::switch(&text), Ok((false, _))));
    if let Some(first) = options.keys().next()
        && item.cx.is_news("networks driver_opts")
    {
        item.warn(format!(
            "`{}` has no effect: the cluster makes the bridge on each node itself",
            clip(first)
        ));
    }
    (encrypted, options)
}

/// The networks of a service.
#[derive(Default)]
pub(super) struct Attachments {
    /// The primary one first.
    pub(super) on: Vec<NetworkAttachment>,
    /// Their further options, in the same order; empty where there are none.
    pub(super) endpoints: Vec<EndpointSpec>,
    /// `host` or `none` in place of networks, where one of them is that of the node.
    pub(super) mode: Option<String>,
}

/// One line of a service's `networks`.
struct Attached {
    on: NetworkAttachment,
    endpoint: EndpointSpec,
    priority: (i64, i64),
}

/// Reads a service's `networks`, in the order of the file and of their priorities; without any, it is on the default
/// network.
pub(super) fn attachments(fields: &Fields<'_>, declared: &Declared<'_>) -> Attachments {
    let mut found: Vec<Attached> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut mode = None;
    let item = fields.get("networks");
    let listed = item.as_ref().is_some_and(|item| matches!(item.node.kind, Kind::List(_)));
    let lines: Vec<_> = match &item {
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
    for (key, at, options, item) in lines {
        let first = seen.insert(key);
        let (aliases, endpoint, priority) = options.map(|options| attached(&options)).unwrap_or_default();
        if key != DEFAULT && !declared.networks.contains_key(key) {
            undeclared(&item, key, at, declared);
            continue;
        }
        let external = declared.external.get(key).cloned();
        if let Some(word) = external.as_deref().filter(|name| [HOST, NONE].contains(name)) {
            mode = Some(word.to_owned());
            continue;
        }
        let Ok(network) = key.parse::<NetworkName>() else { continue };
        if first {
            found.push(Attached { on: NetworkAttachment { network, aliases, external }, endpoint, priority });
        }
    }
    if let (Some(mode), Some(item)) = (&mode, &item)
        && !found.is_empty()
    {
        item.error(format!("the network `{mode}` of the node excludes all others"));
    }
    if seen.is_empty()
        && let Ok(network) = DEFAULT.parse()
    {
        let external = declared.external.get(DEFAULT).cloned();
        found.push(Attached {
            on: NetworkAttachment { network, aliases: Vec::new(), external },
            endpoint: EndpointSpec::default(),
            priority: (0, 0),
        });
    }
    found.sort_by_key(|attached| std::cmp::Reverse(attached.priority));
    if let Some(mac) = fields.given("mac_address").and_then(|item| item.parse(mac_address)) {
        match found.first_mut() {
            Some(first) => first.endpoint.mac_address = Some(mac),
            None => fields.item.error("`mac_address` needs a network"),
        }
    }
    let (on, mut endpoints): (Vec<_>, Vec<_>) =
        found.into_iter().map(|attached| (attached.on, attached.endpoint)).unzip();
    if endpoints.iter().all(|endpoint| *endpoint == EndpointSpec::default()) {
        endpoints.clear();
    }
    Attachments { on, endpoints, mode }
}

fn undeclared(item: &Item<'_>, key: &str, at: Place, declared: &Declared<'_>) {
    let near = text::nearest(key, declared.networks.keys().map(String::as_str));
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("declare it at the top level: `networks: {{{}: {{}}}}`", clip(key)),
    };
    item.cx.error(at, &item.path, format!("the network `{}` is not declared", clip(key)), Some(help));
}

/// Aliases, further options, and how far in front a network stands: by its gateway's priority, then its own.
fn attached(item: &Item<'_>) -> (Vec<String>, EndpointSpec, (i64, i64)) {
    let Some(fields) = item.fields() else { return Default::default() };
    let aliases = fields.get("aliases").map(|item| item.items()).unwrap_or_default();
    // An unset variable leaves an empty one.
    let aliases = aliases.iter().filter(|alias| !alias.is_blank());
    let aliases: BTreeSet<String> = aliases.filter_map(|alias| alias.parse(host_name)).collect();
    let rank = |key| fields.given(key).and_then(|item| item.parse(priority)).unwrap_or_default();
    let ranks = (rank("gw_priority"), rank("priority"));
    let addresses = fields.get("link_local_ips").map(|item| item.items()).unwrap_or_default();
    let local = |text: &str| match text.parse::<Ipv4Addr>() {
        Ok(address) if address.is_link_local() => Ok(address),
        Ok(_) | Err(_) => Err(format!("`{}` is no address of 169.254.0.0/16", clip(text))),
    };
    let mut endpoint = EndpointSpec {
        mac_address: fields.given("mac_address").and_then(|item| item.parse(mac_address)),
        driver_opts: fields.get("driver_opts").map(|item| item.values()).unwrap_or_default(),
        link_local_ips: addresses.iter().filter_map(|item| item.parse(local)).collect(),
    };
    if let Some(name) = fields.given("interface_name").and_then(|item| item.filled()) {
        endpoint.driver_opts.insert(INTERFACE.to_owned(), name.to_owned());
    }
    fields.end(&keys::SERVICE_NETWORK);
    (aliases.into_iter().collect(), endpoint, ranks)
}

/// The engine's option for the name of a device in the container.
const INTERFACE: &str = "com.docker.network.endpoint.ifname";

fn priority(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| format!("`{}` is not a whole number", clip(text)))
}

/// Six pairs of hexadecimal digits.
fn mac_address(text: &str) -> Result<String, String> {
    let pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split([':', '-']).collect();
    if parts.len() == 6 && parts.iter().all(|part| pair(part)) {
        return Ok(parts.join(":").to_ascii_lowercase());
    }
    Err(format!("`{}` is no hardware address such as `02:42:ac:11:65:43`", clip(text)))
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
