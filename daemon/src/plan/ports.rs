//! Published ports: which services may have which, and where they do not answer.
//!
//! Owns: refusals of ports, and what is said of those that a node does not answer on. Leaves alone: which node a task
//! with a port of its own node goes to (`placement`), what nodes do with ports (`mesh`).
//! Holds: no node has to answer for two services on one port of one address.

use std::{collections::BTreeMap, fmt, sync::Arc};

use raftup_proto::{
    api::{FabricMode, NodeState},
    id::NodeId,
    name::ServiceName,
    peer::{Deaf, DeafTo},
    refusal::{Code, Refusal},
    spec::{EndpointMode, PortSpec, Protocol, PublishMode, ServiceSpec, StackSpec},
    view::{PLAIN_PORT, WIRE_PORT},
};

use crate::model::{Cluster, Node, Service};

use super::World;

/// Ports, or nodes, that one line names before it only counts them.
const NAMED: usize = 5;

/// Errors: a port of the stack is one that it cannot have.
///
/// With `keep`, services of the stack that `spec` does not name stay.
pub(super) fn check_stack(cluster: &Cluster, spec: &StackSpec, keep: bool) -> Result<(), Refusal> {
    let mut taken = Taken::by_others(cluster, spec, keep);
    let refused = |message: String, hint: String| {
        let message = format!("stack `{}` refused: {message}", spec.name);
        Refusal::new(Code::Conflict, message).hint(hint)
    };
    for (name, service) in &spec.services {
        if service.endpoint_mode == EndpointMode::Dnsrr && service.ingress_ports().next().is_some() {
            let message = format!(
                "service `{name}` has no virtual address (`endpoint_mode: dnsrr`), so not every node can answer on its \
                 ports"
            );
            return Err(Refusal::new(Code::Invalid, message).hint("publish them with `mode: host`"));
        }
        for port in &service.ports {
            if let Some(why) = cannot_be_had(cluster, port) {
                let message = format!("service `{name}` publishes port {port}, {why}");
                return Err(refused(message, "publish another one".to_owned()));
            }
            let claimed = taken.claim(port, name);
            claimed.map_err(|(what, hint)| {
                refused(format!("service `{name}` publishes port {port}, {what}"), hint)
            })?;
        }
    }
    Ok(())
}

/// Who has which port.
struct Taken(BTreeMap<(Protocol, u16), Vec<Holder>>);

struct Holder {
    port: PortSpec,
    service: String,
    /// Of another stack.
    foreign: bool,
}

impl Taken {
    /// What services of other stacks have, and those of the stack that stay though its file does not name them.
    fn by_others(cluster: &Cluster, spec: &StackSpec, keep: bool) -> Self {
        let mut taken = Self(BTreeMap::new());
        let stays = |service: &&Arc<Service>| {
            let kept = keep && !spec.services.contains_key(&service.name);
            !service.removing && (service.stack_name != spec.name || kept)
        };
        for service in cluster.services.values().filter(stays) {
            for port in &service.current().spec.ports {
                let holder = Holder { port: *port, service: service.full_name(), foreign: true };
                taken.holders(port).push(holder);
            }
        }
        taken
    }

    fn holders(&mut self, port: &PortSpec) -> &mut Vec<Holder> {
        self.0.entry((port.protocol, port.published)).or_default()
    }

    /// Gives the port to a service of the stack. Errors: who is in the way, and what can be done.
    fn claim(&mut self, port: &PortSpec, name: &ServiceName) -> Result<(), (String, String)> {
        let holders = self.holders(port);
        let in_the_way = |holder: &&Holder| {
            let own = !holder.foreign && holder.service == name.as_str();
            if own { holder.port.overlaps(port) } else { holder.port.clashes(port) }
        };
        let Some(Holder { port: held, service, foreign }) = holders.iter().find(in_the_way) else {
            holders.push(Holder { port: *port, service: name.to_string(), foreign: false });
            return Ok(());
        };
        let what = match held.host_ip == port.host_ip {
            true => format!("taken by service `{service}`"),
            false => format!("and service `{service}` has {held}"),
        };
        let address = port.host_ip.map(|address| format!("{address}:")).unwrap_or_default();
        let protocol = match port.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        };
        let mut hint =
            format!("remove `ports: {address}{}:{}{protocol}` from `{name}`", port.published, port.target);
        if *foreign {
            hint.push_str(&format!(", or `raftup service rm {service}`"));
        }
        Err((what, hint))
    }
}

/// Errors: a port of `spec`, which the service had, is one that it cannot have now.
pub(super) fn check_service(cluster: &Cluster, service: &Service, spec: &ServiceSpec) -> Result<(), Refusal> {
    let name = service.full_name();
    for port in &spec.ports {
        if let Some(why) = cannot_be_had(cluster, port) {
            let message = format!("service `{name}` published port {port}, {why}");
            return Err(Refusal::new(Code::Conflict, message));
        }
    }
    let others = cluster.services.values().filter(|other| other.id != service.id && !other.removing);
    for other in others {
        for held in &other.current().spec.ports {
            if let Some(port) = spec.ports.iter().find(|own| own.clashes(held)) {
                let other = other.full_name();
                let message = format!(
                    "service `{name}` published port {port}, which is now taken by service `{other}`"
                );
                return Err(Refusal::new(Code::Conflict, message)
                    .hint(format!("`raftup service rm {other}` frees it")));
            }
        }
    }
    Ok(())
}

/// Why no service can have the port.
fn cannot_be_had(cluster: &Cluster, port: &PortSpec) -> Option<String> {
    let info = cluster.info.as_ref()?;
    if let Some(address) = port.host_ip.filter(|address| info.pool.contains(address)) {
        return Some(format!(
            "and {address} is no address of a host: containers have those of {}",
            info.pool
        ));
    }
    if port.protocol != Protocol::Udp {
        return None;
    }
    let mut nodes = cluster.nodes.values();
    let purpose = nodes.find_map(|node| {
        let control = node.info.control.port() == port.published;
        let fabric = node.info.fabric_port == port.published;
        let purpose = if control { "speaks to the others" } else { "exchanges packets of containers" };
        (control || fabric).then(|| format!("through which {} {purpose}", node.info.hostname))
    });
    let inner = || match port.published {
        WIRE_PORT => Some("which nodes use inside of their encrypted links"),
        PLAIN_PORT => Some("which nodes use for networks that are not encrypted"),
        _ => None,
    };
    let inner = (info.fabric == FabricMode::Wireguard).then(inner).flatten();
    purpose.or(inner.map(str::to_owned))
}

/// A port of its own node that the service wants and that a task on `node` has.
pub(super) fn taken_on<'a>(world: &World, node: &Node, spec: &'a ServiceSpec) -> Option<&'a PortSpec> {
    spec.host_ports().next()?;
    let services = &world.cluster().services;
    world.tasks_on(node.id).filter(|task| task.holds_node()).find_map(|task| {
        let version = services.get(&task.service)?.version(task.version)?;
        let mut held = version.spec.host_ports();
        held.find_map(|held| spec.host_ports().find(|port| port.overlaps(held)))
    })
}

/// Tasks of both cannot be on one node.
pub(super) fn exclude(one: &ServiceSpec, other: &ServiceSpec) -> bool {
    one.host_ports().any(|port| other.host_ports().any(|held| port.overlaps(held)))
}

/// Where the service does not answer although it should, one line a matter. `running_on` are the nodes of its tasks.
pub(super) fn problems(cluster: &Cluster, service: &Service, running_on: &[NodeId]) -> Vec<String> {
    if service.removing {
        return Vec::new();
    }
    let nodes = cluster.nodes.values().map(|node| &**node);
    let ready: Vec<&Node> = nodes.filter(|node| node.state == NodeState::Ready).collect();
    let own: Vec<&Node> = ready.iter().copied().filter(|node| running_on.contains(&node.id)).collect();
    let mut taken: BTreeMap<Vec<&str>, Vec<&PortSpec>> = BTreeMap::new();
    let mut nowhere = Vec::new();
    for port in &service.current().spec.ports {
        let asked = match port.mode {
            PublishMode::Ingress => &ready,
            PublishMode::Host => &own,
        };
        let deaf = |why| {
            let deaf =
                Deaf { protocol: port.protocol, published: port.published, host_ip: port.host_ip, why };
            let of = move |node: &&Node| node.info.deaf.binary_search(&deaf).is_ok();
            asked.iter().copied().filter(of).map(|node| node.info.hostname.as_str())
        };
        let on: Vec<&str> = deaf(DeafTo::Taken).collect();
        if !on.is_empty() {
            taken.entry(on).or_default().push(port);
        }
        let absent = deaf(DeafTo::NoAddress).count();
        if absent > 0 && absent == asked.len() {
            nowhere.push(port);
        }
    }
    let mut lines: Vec<String> = taken.iter().map(|(nodes, ports)| said_of_taken(nodes, ports)).collect();
    match nowhere.len() {
        0 => {}
        1 => lines.push(format!("no node has the address of port {}: it does not answer", listed(&nowhere))),
        _ => {
            lines.push(format!("no node has the addresses of ports {}: they do not answer", listed(&nowhere)))
        }
    }
    lines
}

fn said_of_taken(nodes: &[&str], ports: &[&PortSpec]) -> String {
    let (named, nodes) = (listed(ports), listed(nodes));
    match ports.len() {
        1 => format!("port {named} is taken by another program on {nodes}: it does not answer there"),
        _ => format!("ports {named} are taken by other programs on {nodes}: they do not answer there"),
    }
}

/// Published ports that the node leaves to other programs, one line each.
pub(super) fn problems_of(node: &Node) -> Vec<String> {
    let taken = node.info.deaf.iter().filter(|deaf| deaf.why == DeafTo::Taken);
    taken.map(|deaf| format!("{deaf} is taken by another program: no service answers on it there")).collect()
}

/// `a, b and c`; of many, the first and how many more.
pub(super) fn listed<T: fmt::Display>(items: &[T]) -> String {
    let mut names: Vec<String> = items.iter().take(NAMED).map(ToString::to_string).collect();
    if items.len() > NAMED {
        names.push(format!("{} more", items.len() - NAMED));
    }
    let last = names.pop().unwrap_or_default();
    if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) }
}
