//! `ports`: what the nodes of the cluster answer on.
//!
//! Owns: the short and the long notation, ranges, and that no node has to answer twice on one port for one stack. Leaves
//! alone: which port is published where the file names none (the cluster chooses, as all nodes answer on the same one).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use super::{
    cx::Place,
    item::Item,
    keys,
    text::{self, clip},
    yaml::Kind,
};
use crate::spec::{AnyPort, PortSpec, Protocol, PublishMode};

/// The ports that the stack publishes so far: by which service and where.
#[derive(Default)]
pub(super) struct Published {
    by_port: BTreeMap<(Protocol, u16), Vec<Owner>>,
    count: usize,
}

/// Most ports that a stack can publish: all that one node has. Services with the same ranges in `mode: host` could ask
/// for more.
const PORTS_MAX: usize = 2 * u16::MAX as usize;

struct Owner {
    service: String,
    spec: PortSpec,
    at: Place,
}

type Ports = RangeInclusive<u16>;

/// One entry.
struct Line {
    /// None where the cluster chooses.
    outer: Option<Ports>,
    inner: Ports,
    protocol: Protocol,
    host_ip: Option<Ipv4Addr>,
    mode: PublishMode,
}

/// Reads the `ports` of a service: those with a published port, and those without.
pub(super) fn read(
    item: &Item<'_>,
    service: &str,
    published: &mut Published,
) -> (Vec<PortSpec>, Vec<AnyPort>) {
    let (mut specs, mut any) = (Vec::new(), Vec::new());
    for item in item.items() {
        let read = match &item.node.kind {
            Kind::Map(_) => long(&item),
            Kind::Null | Kind::Scalar(_) | Kind::List(_) => item.filled().and_then(|text| short(&item, text)),
        };
        let Some(Line { outer, inner, protocol, host_ip, mode }) = read else { continue };
        let Some(outer) = outer else {
            any.extend(inner.map(|target| AnyPort { protocol, target, host_ip, mode }));
            continue;
        };
        for (published_port, target) in outer.zip(inner) {
            let spec = PortSpec { protocol, published: published_port, target, host_ip, mode };
            match published.claim(&item, service, spec) {
                Claim::New => specs.push(spec),
                Claim::Again => {}
                Claim::Taken => break,
            }
        }
    }
    specs.sort();
    any.sort();
    any.dedup();
    any.truncate(PORTS_MAX);
    (specs, any)
}

enum Claim {
    New,
    /// The same line once more.
    Again,
    Taken,
}

impl Published {
    fn claim(&mut self, item: &Item<'_>, service: &str, spec: PortSpec) -> Claim {
        let at = item.node.at;
        let owners = self.by_port.entry((spec.protocol, spec.published)).or_default();
        let in_the_way = |owner: &&Owner| {
            // Placement keeps ports of tasks' own nodes apart, but not those of one task.
            if owner.service == service { owner.spec.overlaps(&spec) } else { owner.spec.clashes(&spec) }
        };
        self.count += 1;
        if self.count > PORTS_MAX {
            item.error(format!("is more than the {PORTS_MAX} ports that a stack can publish"));
            return Claim::Taken;
        }
        let Some(owner) = owners.iter().find(in_the_way) else {
            owners.push(Owner { service: service.to_owned(), spec, at });
            return Claim::New;
        };
        if owner.service == service && owner.spec == spec {
            return Claim::Again;
        }
        let (who, there) = (&owner.service, item.cx.show(owner.at));
        item.error(format!("port {} is published by service `{who}` already, at {there}", owner.spec));
        Claim::Taken
    }
}

/// `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, where both ports may be ranges.
fn short(item: &Item<'_>, text: &str) -> Option<Line> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, name)) => (ports, item.parse(|_| self::protocol(name))?),
        None => (text, Protocol::Tcp),
    };
    let mode = PublishMode::Ingress;
    let Some((outer, inner)) = ports.rsplit_once(':') else {
        let inner = item.parse(|_| range(ports))?;
        return Some(Line { outer: None, inner, protocol, host_ip: None, mode });
    };
    let (address, outer) = match outer.rsplit_once(':') {
        Some(("", outer)) => (None, outer),
        Some((address, outer)) => (Some(address), outer),
        None if outer.contains('.') => (Some(outer), ""),
        None => (None, outer),
    };
    let host_ip = match address {
        Some(address) => host_ip(item, address)?,
        None => None,
    };
    let inner = item.parse(|_| range(inner))?;
    let outer = if is_any(outer) { None } else { Some(item.parse(|_| range(outer))?) };
    pair(item, Line { outer, inner, protocol, host_ip, mode })
}

fn long(item: &Item<'_>) -> Option<Line> {
    let fields = item.fields()?;
    let read = |key| fields.given(key).map(|item| item.parse(range));
    let any = fields.get("published").is_none_or(|item| item.is_blank() || item.text().is_some_and(is_any));
    let outer = if any { None } else { read("published") };
    let inner = read("target");
    let protocol = fields.get("protocol").map_or(Some(Protocol::Tcp), |item| item.parse(self::protocol));
    let mode = fields.get("mode").map_or(Some(PublishMode::Ingress), |mode| {
        mode.parse(|text| match text {
            "ingress" => Ok(PublishMode::Ingress),
            "host" => Ok(PublishMode::Host),
            other => Err(format!("`{}` is neither `ingress` nor `host`", clip(other))),
        })
    });
    let host_ip = fields.get("host_ip").map_or(Some(None), |item| host_ip(&item, item.filled()?));
    fields.end(&keys::PORT);
    let Some(inner) = inner else {
        item.error("`target` is missing: the port in the container");
        return None;
    };
    let outer = match outer {
        Some(outer) => Some(outer?),
        None => None,
    };
    pair(item, Line { outer, inner: inner?, protocol: protocol?, host_ip: host_ip?, mode: mode? })
}

/// No published port, or the one that stands for any.
fn is_any(text: &str) -> bool {
    ["", "0"].contains(&text.trim())
}

fn pair(item: &Item<'_>, line: Line) -> Option<Line> {
    let Some(outer) = line.outer.as_ref().map(ExactSizeIterator::len) else { return Some(line) };
    let inner = line.inner.len();
    if outer == inner {
        return Some(line);
    }
    if inner == 1 {
        item.error_help(
            format!("{outer} published ports for one port of the container: which one is meant?"),
            "name a single one: all nodes that answer do so on the same port",
        );
    } else {
        item.error(format!("{outer} published ports do not match {inner} ports of the container"));
    }
    None
}

/// An address of nodes, or none where it stands for all of them; the outer none says that it was refused.
fn host_ip(item: &Item<'_>, address: &str) -> Option<Option<Ipv4Addr>> {
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(all)) if all.is_unspecified() => return Some(None),
        Ok(IpAddr::V4(one)) if !one.is_multicast() && !one.is_broadcast() => return Some(Some(one)),
        Ok(IpAddr::V4(_)) => item.error(format!("`{}` is not the address of a node", clip(address))),
        Ok(IpAddr::V6(_)) => item.error_help(
            format!("publishing on the IPv6 address `{}` alone is not supported", clip(address)),
            "leave the address out, or name an IPv4 address",
        ),
        Err(_) => item.error_help(
            format!("`{}` is no address", clip(address)),
            "an IPv4 address of nodes stands there, such as `127.0.0.1`",
        ),
    }
    None
}

fn protocol(name: &str) -> Result<Protocol, String> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Err("the protocol `sctp` is not supported yet".to_owned()),
        _ => Err(format!("`{}` is neither `tcp` nor `udp`", clip(name))),
    }
}

/// `PORT` or `FIRST-LAST`.
fn range(text: &str) -> Result<Ports, String> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits {
            return Err(format!("`{}` is not a port", clip(text)));
        }
        match text::whole(text, 1, u16::MAX.into()).ok().and_then(|port| u16::try_from(port).ok()) {
            Some(port) => Ok(port),
            None => Err(format!("port {} is not between 1 and {}", clip(text), u16::MAX)),
        }
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("the range `{}` ends before it begins", clip(text)));
    }
    Ok(first..=last)
}
