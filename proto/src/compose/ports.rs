//! `ports`: what every node of the cluster answers on.
//!
//! Owns: the short and the long notation, ranges, and that a port is published once per stack. A port without a
//! published one is refused: Compose would take a free one of its one host, but here every node must answer on
//! the same port, and a file must mean the same at each deploy.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{
    cx::Place,
    item::Item,
    text::{self, clip},
    yaml::Kind,
};
use crate::spec::{PortSpec, Protocol};

/// The ports that the stack publishes so far: by which service and where.
#[derive(Default)]
pub(super) struct Published(BTreeMap<(Protocol, u16), Owner>);

struct Owner {
    service: String,
    target: u16,
    at: Place,
}

type Ports = RangeInclusive<u16>;

/// Reads the `ports` of a service.
pub(super) fn read(item: &Item<'_>, service: &str, published: &mut Published) -> Vec<PortSpec> {
    let mut specs = Vec::new();
    for item in item.items() {
        let read = match &item.node.kind {
            Kind::Map(_) => long(&item),
            Kind::Null | Kind::Scalar(_) | Kind::List(_) => item.filled().and_then(|text| short(&item, text)),
        };
        let Some((outer, inner, protocol)) = read else { continue };
        for (published_port, target) in outer.zip(inner) {
            let spec = PortSpec { protocol, published: published_port, target };
            match published.claim(&item, service, spec) {
                Claim::New => specs.push(spec),
                Claim::Again => {}
                Claim::Taken => break,
            }
        }
    }
    specs.sort();
    specs
}

enum Claim {
    New,
    /// The same line in a later file.
    Again,
    Taken,
}

impl Published {
    fn claim(&mut self, item: &Item<'_>, service: &str, spec: PortSpec) -> Claim {
        let key = (spec.protocol, spec.published);
        let at = item.node.at;
        let Some(owner) = self.0.get(&key) else {
            self.0.insert(key, Owner { service: service.to_owned(), target: spec.target, at });
            return Claim::New;
        };
        if owner.service == service && owner.target == spec.target && owner.at.file != at.file {
            return Claim::Again;
        }
        let (who, there) = (&owner.service, item.cx.show(owner.at));
        let (port, protocol) = (spec.published, spec.protocol);
        item.error(format!("port {port}/{protocol} is published by service `{who}` already, at {there}"));
        Claim::Taken
    }
}

/// `[HOST:]CONTAINER[/PROTOCOL]`, where both may be ranges.
fn short(item: &Item<'_>, text: &str) -> Option<(Ports, Ports, Protocol)> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, name)) => (ports, item.parse(|_| self::protocol(name))?),
        None => (text, Protocol::Tcp),
    };
    let Some((outer, inner)) = ports.rsplit_once(':') else {
        let inner = item.parse(|_| range(ports))?;
        return random(item, *inner.start());
    };
    let address = outer.rsplit_once(':').map(|(address, _)| address).or(outer.contains('.').then_some(outer));
    if let Some(address) = address {
        host_ip(item, address);
        return None;
    }
    let inner = item.parse(|_| range(inner))?;
    if outer.is_empty() {
        return random(item, *inner.start());
    }
    let outer = item.parse(|_| range(outer))?;
    pair(item, outer, inner, protocol)
}

fn long(item: &Item<'_>) -> Option<(Ports, Ports, Protocol)> {
    let fields = item.fields()?;
    let read = |key| fields.get(key).map(|item| item.parse(range));
    let (outer, inner) = (read("published"), read("target"));
    let protocol = fields.get("protocol").map_or(Some(Protocol::Tcp), |item| item.parse(self::protocol));
    if let Some(mode) = fields.get("mode") {
        mode.parse(|text| match text {
            "ingress" => Ok(()),
            "host" => Err("`mode: host` is not supported yet".to_owned()),
            other => Err(format!("`{}` is neither `ingress` nor `host`", clip(other))),
        });
    }
    if let Some(address) = fields.get("host_ip") {
        host_ip(&address, address.text().unwrap_or_default());
    }
    fields.finish(&["name", "app_protocol"]);
    let Some(inner) = inner else {
        item.error("`target` is missing: the port in the container");
        return None;
    };
    match outer {
        None => random(item, *inner?.start()),
        Some(outer) => pair(item, outer?, inner?, protocol?),
    }
}

fn pair(item: &Item<'_>, outer: Ports, inner: Ports, protocol: Protocol) -> Option<(Ports, Ports, Protocol)> {
    if outer.len() == inner.len() {
        return Some((outer, inner, protocol));
    }
    let (outer, inner) = (outer.len(), inner.len());
    if inner == 1 {
        item.error_help(
            format!("{outer} published ports for one port of the container: which one is meant?"),
            "name a single one: every node answers on the same port",
        );
    } else {
        item.error(format!("{outer} published ports do not match {inner} ports of the container"));
    }
    None
}

fn random<T>(item: &Item<'_>, target: u16) -> Option<T> {
    item.error_help(
        format!("says no port to publish port {target} of the container on"),
        format!("every node answers on it, so it has to be known: `{target}:{target}`, for example"),
    );
    None
}

fn host_ip(item: &Item<'_>, address: &str) {
    let message = format!("publishing on the address `{}` alone is not supported yet", clip(address));
    item.error_help(message, "leave the address out: every node answers on all of its addresses");
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
