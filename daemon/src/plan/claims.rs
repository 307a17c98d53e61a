//! Checks of what a node says of itself: sizes, characters, addresses, uniqueness, and what needs an operator.
//!
//! A node's claims arrive with its request to join, at the start of each session, and with each later change. Every
//! part is checked by itself: a part that fails keeps the value that was in force, and the others are taken over.
//!
//! Host name, platform and engine labels decide where placement constraints send tasks, with their environment and
//! registry credentials. A worker states them once, when an operator lets it join; later changes wait in
//! [`Unaccepted::traits`] for an operator. A node with a manager's certificate may hold the whole state anyway, so its
//! changes are taken over, except a host name that another node has.
//!
//! Owns: which claims are in force. Leaves alone: their form (`form`), how often a node may change its claims (`control::session`).
//! Holds: no two nodes have one host name, WireGuard key, or address and port; a value that did not change is not
//! checked again, so an upgrade refuses nothing that works.

mod form;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::Ipv4Net;
use raftup_proto::{
    api::NodeState,
    id::NodeId,
    peer::{NodeInfo, Role},
    refusal::{Code, Refusal},
    spec::Protocol,
    unit::{CpuMillis, MemBytes},
    view::{PLAIN_PORT, WIRE_PORT},
};

use crate::model::{Cluster, Node, Traits, Unaccepted};

use form::{
    HOSTNAME_MAX, KEYS_MAX, LABELS_MAX, TROUBLE_MAX, hostname, kind_fits, label_key, short, shown, system,
    unusable,
};

pub use form::{MESSAGE_MAX, bounded, clean, usable_hostname};

/// Most memory and CPU time of one machine.
const MEMORY_MAX: MemBytes = MemBytes(1 << 50);
const CPU_MAX: CpuMillis = CpuMillis(1 << 26);

/// What is put in force of the claims of a node that asks to be admitted as `id`. Engine labels that fail are left out,
/// and a host name that another node has gets the id as a suffix.
///
/// Errors: another part fails.
pub fn admit(
    cluster: &Cluster,
    pool: Ipv4Net,
    id: NodeId,
    claim: &NodeInfo,
) -> Result<(NodeInfo, Unaccepted), Refusal> {
    let (mut info, refused) = reduced(claim);
    let review = Review { cluster, pool: Some(pool), id };
    for part in Part::ALL {
        review.check(part, &info).map_err(|reason| {
            Refusal::new(Code::Invalid, format!("this server cannot join: {}", reason.text)).hint(reason.hint)
        })?;
    }
    info.hostname = review.free_name(&info.hostname);
    Ok((info, Unaccepted { traits: None, refused }))
}

/// What is in force of the claims of a member, and what is not.
pub fn update(cluster: &Cluster, node: &Node, claim: &NodeInfo) -> (NodeInfo, Unaccepted) {
    let review = Review { cluster, pool: cluster.info.as_ref().map(|info| info.pool), id: node.id };
    let (claim, mut refused) = reduced(claim);
    let mut info = node.info.clone();
    for part in Part::ALL {
        if part.is_same(&info, &claim) {
            continue;
        }
        match review.check(part, &claim) {
            Ok(()) => part.copy(&claim, &mut info),
            Err(reason) => refused.push(reason.text),
        }
    }
    let traits = review.traits(node, &claim, &mut info);
    (info, Unaccepted { traits, refused })
}

/// What is in force once an operator accepts the traits that wait. Errors: none wait, or the host name was taken
/// meanwhile.
pub fn accept(cluster: &Cluster, node: &Node) -> Result<NodeInfo, Refusal> {
    let none = || {
        let message = format!("node {} has no change of its host name, platform or engine labels", node.id);
        Refusal::new(Code::Conflict, format!("{message} that waits to be accepted"))
            .hint("`raftup node inspect` shows under \"Problems\" what waits")
    };
    let traits = node.unaccepted.traits.as_ref().ok_or_else(none)?;
    let review = Review { cluster, pool: None, id: node.id };
    if let Some(other) = review.named(&traits.hostname) {
        let message =
            format!("host name `{}` of node {} is also that of node {}", traits.hostname, node.id, other.id);
        return Err(Refusal::new(Code::Conflict, message)
            .hint(format!("remove node {} first, or give one of them another name", other.id)));
    }
    let mut info = node.info.clone();
    put(traits, &mut info);
    Ok(info)
}

/// What a node claims and is not in force, one line each.
pub fn problems(cluster: &Cluster, node: &Node) -> Vec<String> {
    let mut lines = node.unaccepted.refused.clone();
    let Some(traits) = &node.unaccepted.traits else { return lines };
    let waits = format!("`raftup node update --accept-claims {}` accepts that", node.id);
    if !traits.hostname.eq_ignore_ascii_case(&node.info.hostname) {
        let (claimed, known) = (&traits.hostname, &node.info.hostname);
        lines.push(match (Review { cluster, pool: None, id: node.id }).named(claimed) {
            Some(other) => format!(
                "host name `{claimed}` belongs to node {}: this node stays known as `{known}`",
                other.id
            ),
            None => format!("host name changed to `{claimed}`: this node is known as `{known}`; {waits}"),
        });
    }
    let platform = &node.info.platform;
    if (&traits.os, &traits.arch) != (&platform.os, &platform.arch) {
        lines.push(format!(
            "platform changed to `{}/{}`: placement uses `{}/{}`; {waits}",
            traits.os, traits.arch, platform.os, platform.arch
        ));
    }
    if !same_labels(&traits.engine_labels, &platform.engine_labels) {
        lines.push(format!(
            "engine labels changed to {}: placement uses {}; {waits}",
            listed(&traits.engine_labels),
            listed(&platform.engine_labels)
        ));
    }
    lines
}

/// Whether `known` is the name that a node got which says that its host name is `claimed`.
pub fn is_name_of(known: &str, claimed: &str, id: NodeId) -> bool {
    known.eq_ignore_ascii_case(claimed) || is_suffixed(known, claimed, id)
}

fn is_suffixed(known: &str, claimed: &str, id: NodeId) -> bool {
    let rest = known.strip_prefix(&suffixed(claimed, id));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn suffixed(name: &str, id: NodeId) -> String {
    // Room for the id, and for one more suffix.
    let name = name.get(..name.len().min(HOSTNAME_MAX - 48)).unwrap_or_default();
    format!("{name}-{id}")
}

fn listed(labels: &[String]) -> String {
    if labels.is_empty() { "none".to_owned() } else { clean(&format!("`{}`", labels.join("`, `")), 512) }
}

fn same_labels(some: &[String], other: &[String]) -> bool {
    some.len() == other.len() && some.iter().collect::<BTreeSet<_>>() == other.iter().collect()
}

fn put(traits: &Traits, info: &mut NodeInfo) {
    info.hostname.clone_from(&traits.hostname);
    info.platform.os.clone_from(&traits.os);
    info.platform.arch.clone_from(&traits.arch);
    info.platform.engine_labels.clone_from(&traits.engine_labels);
}

/// The claims without labels and ports that cannot be kept, and why.
fn reduced(claim: &NodeInfo) -> (NodeInfo, Vec<String>) {
    let mut claim = bounded(claim.clone());
    let mut refused = Vec::new();
    let (mut labels, mut keys) = (Vec::new(), BTreeSet::new());
    let given = std::mem::take(&mut claim.platform.engine_labels);
    if given.len() > LABELS_MAX {
        refused.push(format!("more than {LABELS_MAX} engine labels: the rest is left out"));
    }
    let kinds = claim.platform.generic.len();
    claim.platform.generic.retain(|kind, count| kind_fits(kind) && *count > 0);
    if claim.platform.generic.len() < kinds {
        refused.push(
            "generic resources whose kind is no word, or of which there are none, are left out".to_owned(),
        );
    }
    for label in given.into_iter().take(LABELS_MAX) {
        match label_key(&label) {
            Ok(key) if keys.contains(key) => {
                refused.push(format!("engine label `{}` is given twice", shown(key)));
            }
            Ok(key) => {
                keys.insert(key.to_owned());
                labels.push(label);
            }
            Err(reason) => refused.push(format!("engine label `{}`: {reason}", shown(&label))),
        }
    }
    claim.platform.engine_labels = labels;
    claim.troubles = claim.troubles.iter().map(|trouble| clean(trouble, TROUBLE_MAX)).collect();
    claim.deaf.sort_unstable();
    claim.deaf.dedup();
    // One line for many labels of one kind would do; this many are enough to see what is wrong.
    refused.truncate(8);
    (claim, refused)
}

/// Why a part of the claims is refused, and what an operator can do.
#[derive(Debug)]
struct Reason {
    text: String,
    hint: &'static str,
}

/// What is checked and taken over by itself. Host name, platform and labels of members are [`Review::traits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Hostname,
    System,
    Control,
    Fabric,
    Keys,
    Version,
    Level,
    Kernel,
    Engine,
    Resources,
    Deaf,
    Troubles,
}

impl Part {
    const ALL: [Self; 12] = [
        Self::Hostname,
        Self::System,
        Self::Control,
        Self::Fabric,
        Self::Keys,
        Self::Version,
        Self::Level,
        Self::Kernel,
        Self::Engine,
        Self::Resources,
        Self::Deaf,
        Self::Troubles,
    ];

    fn copy(self, from: &NodeInfo, to: &mut NodeInfo) {
        match self {
            // Whether these are taken over depends on more than their form.
            Self::Hostname | Self::System => {}
            Self::Control => to.control = from.control,
            Self::Fabric => (to.underlay, to.fabric_port) = (from.underlay, from.fabric_port),
            Self::Keys => to.fabric_keys.clone_from(&from.fabric_keys),
            Self::Version => to.version.clone_from(&from.version),
            Self::Level => to.level = from.level,
            Self::Kernel => to.platform.kernel.clone_from(&from.platform.kernel),
            Self::Engine => to.platform.engine.clone_from(&from.platform.engine),
            Self::Resources => {
                (to.platform.cpu, to.platform.memory) = (from.platform.cpu, from.platform.memory);
                to.platform.generic.clone_from(&from.platform.generic);
            }
            Self::Deaf => to.deaf.clone_from(&from.deaf),
            Self::Troubles => to.troubles.clone_from(&from.troubles),
        }
    }

    fn is_same(self, a: &NodeInfo, b: &NodeInfo) -> bool {
        let (of_a, of_b) = (&a.platform, &b.platform);
        match self {
            Self::Hostname => a.hostname == b.hostname,
            Self::System => (&of_a.os, &of_a.arch) == (&of_b.os, &of_b.arch),
            Self::Control => a.control == b.control,
            Self::Fabric => (a.underlay, a.fabric_port) == (b.underlay, b.fabric_port),
            Self::Keys => a.fabric_keys == b.fabric_keys,
            Self::Version => a.version == b.version,
            Self::Level => a.level == b.level,
            Self::Kernel => of_a.kernel == of_b.kernel,
            Self::Engine => of_a.engine == of_b.engine,
            Self::Resources => {
                (of_a.cpu, of_a.memory, &of_a.generic) == (of_b.cpu, of_b.memory, &of_b.generic)
            }
            Self::Deaf => a.deaf == b.deaf,
            Self::Troubles => a.troubles == b.troubles,
        }
    }
}

/// The claims of node `id`, looked at in a cluster.
struct Review<'a> {
    cluster: &'a Cluster,
    pool: Option<Ipv4Net>,
    id: NodeId,
}

impl Review<'_> {
    fn others(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.cluster.nodes.values().filter(|node| node.id != self.id)
    }

    /// The other node of that name; constraints compare names without regard to case.
    fn named(&self, name: &str) -> Option<&Arc<Node>> {
        self.others().find(|node| node.info.hostname.eq_ignore_ascii_case(name))
    }

    /// The name itself where it is free, else with the node's id.
    fn free_name(&self, name: &str) -> String {
        if self.named(name).is_none() {
            return name.to_owned();
        }
        let base = suffixed(name, self.id);
        let numbered = (2_u32..).map(|number| format!("{base}-{number}"));
        let mut names = std::iter::once(base.clone()).chain(numbered);
        names.find(|name| self.named(name).is_none()).unwrap_or(base)
    }

    /// Takes over what may be of host name, platform and engine labels. Answers what the node claims if some of it has
    /// to wait.
    fn traits(&self, node: &Node, claim: &NodeInfo, info: &mut NodeInfo) -> Option<Traits> {
        let known = Traits::of(&node.info);
        let mut claimed = Traits::of(claim);
        if hostname(&claimed.hostname).is_err() {
            claimed.hostname.clone_from(&known.hostname);
        }
        let system_fits = system(&claimed.os).is_ok() && system(&claimed.arch).is_ok();
        // Without its engine a node knows of no labels, and of its platform only what the daemon was built for.
        if claim.platform.engine.is_none() || !system_fits {
            (claimed.os, claimed.arch) = (known.os.clone(), known.arch.clone());
        }
        if claim.platform.engine.is_none() {
            claimed.engine_labels.clone_from(&known.engine_labels);
        }
        let taken = self.named(&claimed.hostname).is_some();
        let as_admitted = taken && is_suffixed(&known.hostname, &claimed.hostname, self.id);
        if as_admitted || claimed.hostname.eq_ignore_ascii_case(&known.hostname) {
            claimed.hostname.clone_from(&known.hostname);
        }
        if same_labels(&claimed.engine_labels, &known.engine_labels) {
            claimed.engine_labels.clone_from(&known.engine_labels);
        }
        if claimed == known {
            return None;
        }
        match node.role {
            Role::Manager if taken && claimed.hostname != known.hostname => {
                put(&Traits { hostname: known.hostname, ..claimed.clone() }, info);
                Some(claimed)
            }
            Role::Manager => {
                put(&claimed, info);
                None
            }
            Role::Worker => Some(claimed),
        }
    }

    fn check(&self, part: Part, claim: &NodeInfo) -> Result<(), Reason> {
        let platform = &claim.platform;
        let (text, hint) = match part {
            Part::Hostname => {
                (hostname(&claim.hostname), "`hostnamectl hostname NAME` gives it one; then restart raftupd")
            }
            Part::System => (
                system(&platform.os)
                    .and_then(|()| system(&platform.arch))
                    .map_err(|reason| format!("its platform: {reason}")),
                "is Docker Engine in order there?",
            ),
            Part::Control => (
                self.place("control", claim.control).and_then(|()| self.unused("control", claim.control)),
                "`raftupd --listen-addr` and `raftup join --advertise-addr` choose another",
            ),
            Part::Fabric => (
                self.fabric(claim),
                "`raftupd --fabric-port` and `raftup join --advertise-addr` choose another",
            ),
            Part::Keys => (
                self.keys(claim),
                "stop raftupd there, remove `fabric-keys.json` from its data directory, and start it",
            ),
            Part::Version => (short("its version of raftupd", &claim.version), "is it raftupd?"),
            // Whether the cluster takes a node of that level is asked of every session; troubles are shown, and no more.
            Part::Level | Part::Troubles => (Ok(()), ""),
            Part::Kernel => (short("its kernel's version", &platform.kernel), "is it Linux?"),
            Part::Engine => (
                short("its engine's version", platform.engine.as_deref().unwrap_or_default()),
                "is it Docker Engine?",
            ),
            Part::Resources => (
                match platform.memory > MEMORY_MAX || platform.cpu > CPU_MAX {
                    true => Err(format!(
                        "{} of memory and {} CPUs are more than a machine has",
                        platform.memory, platform.cpu
                    )),
                    false => Ok(()),
                },
                "is Docker Engine in order there?",
            ),
            Part::Deaf => (
                match claim.deaf.iter().any(|deaf| deaf.published == 0) {
                    true => Err("port 0 is no published port".to_owned()),
                    false => Ok(()),
                },
                "is it raftupd?",
            ),
        };
        text.map_err(|text| Reason { text, hint })
    }

    fn fabric(&self, claim: &NodeInfo) -> Result<(), String> {
        let place = SocketAddr::new(claim.underlay, claim.fabric_port);
        if place == claim.control {
            return Err(format!("its control port and its fabric port are both {place}"));
        }
        self.place("fabric", place)?;
        self.unused("fabric", place)
    }

    /// The address is one that other nodes can send to, and the port is free for it.
    fn place(&self, what: &str, place: SocketAddr) -> Result<(), String> {
        let wrong = |reason: &str| Err(format!("its {what} address {place} {reason}"));
        if let Some(reason) = unusable(place.ip()) {
            return wrong(reason);
        }
        if let (Some(pool), IpAddr::V4(address)) = (self.pool, place.ip())
            && pool.contains(&address)
        {
            return Err(format!("its {what} address {place} is in the pool of container addresses, {pool}"));
        }
        // All nodes listen on sockets of one family.
        if let Some(first) = self.others().next()
            && first.info.underlay.is_ipv4() != place.is_ipv4()
        {
            let family = |v4| if v4 { "IPv4" } else { "IPv6" };
            let (ours, theirs) = (family(place.is_ipv4()), family(first.info.underlay.is_ipv4()));
            return Err(format!("its {what} address {place} is {ours}: the other nodes have {theirs}"));
        }
        if place.ip().is_loopback() && self.others().any(|node| !node.info.underlay.is_loopback()) {
            return wrong("is reached on its own host only");
        }
        match place.port() {
            0 => wrong("has no port"),
            53 => wrong("has the port of DNS"),
            WIRE_PORT | PLAIN_PORT => wrong("has a port that the fabric uses within each host"),
            port => match self.publisher(port) {
                Some(service) => wrong(&format!("has a UDP port that service `{service}` publishes")),
                None => Ok(()),
            },
        }
    }

    fn publisher(&self, port: u16) -> Option<String> {
        let services = self.cluster.services.values().filter(|service| !service.removing);
        let publishes = |service: &&Arc<crate::model::Service>| {
            let ports = &service.current().spec.ports;
            ports.iter().any(|held| held.protocol == Protocol::Udp && held.published == port)
        };
        services.filter(publishes).map(|service| service.full_name()).next()
    }

    /// No other node that is not down has the address and port.
    fn unused(&self, what: &str, place: SocketAddr) -> Result<(), String> {
        let holds = |node: &&Arc<Node>| {
            let fabric = SocketAddr::new(node.info.underlay, node.info.fabric_port);
            node.state != NodeState::Down && (node.info.control == place || fabric == place)
        };
        match self.others().find(holds) {
            Some(other) => Err(format!("its {what} address {place} is in use by node {}", other.id)),
            None => Ok(()),
        }
    }

    fn keys(&self, claim: &NodeInfo) -> Result<(), String> {
        let keys = &claim.fabric_keys;
        if keys.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} WireGuard keys"));
        }
        if keys.iter().any(|key| key.0 == [0; 32]) {
            return Err("its WireGuard key is empty".to_owned());
        }
        if keys.iter().collect::<BTreeSet<_>>().len() < keys.len() {
            return Err("it has a WireGuard key twice".to_owned());
        }
        let holds = |node: &&Arc<Node>| node.info.fabric_keys.iter().any(|key| keys.contains(key));
        match self.others().find(holds) {
            Some(other) => Err(format!("its WireGuard key is that of node {}", other.id)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
