//! Scenarios as text: commands at the margin, what came of them indented below.
//!
//! ```text
//! node add NAME MEMORY | lost NAME | back NAME | drain|pause|active NAME | rm NAME | label NAME KEY=VALUE
//! node deaf NAME PORTS taken|absent | generic NAME KIND=COUNT
//! service add NAME replicas=N|global image=I volume=V memory=M constraint=A==B port=PORTS host-port=PORTS endpoint=vip|dnsrr delay=S attempts=N restart=none|on-failure
//!     job=COMPLETIONS[:CONCURRENT]|global-job order=slots
//!     spread=LABEL,.. max=N (a node) with=SERVICE,.. apart=SERVICE,.. generic=KIND:COUNT
//!     depends=SERVICE:started|healthy|completed[:restart][:optional],..
//!     update.KEY=V rollback.KEY=V (parallelism, delay, order, monitor, action, ratio) healthcheck
//! service set NAME (as add) | service rm NAME | stack rm | scale NAME N | pool CIDR (before the first node)
//! rollback NAME [VERSION] | update NAME force|image=I | crash NAME SLOT | lose NAME SLOT (the engine stopped) | routes held|flow | versions NAME
//! asked NAME (from now on, progress is that of its newest version) | keep on (what the file does not name stays)
//! progress node NAME | problems | problems of cluster | routes of NAME | settle | wait SECONDS | decide | show | progress
//! ```

use std::{collections::BTreeMap, time::Duration};

use raftup_proto::{
    api::{Availability, NodeUpdate, ServiceUpdate},
    name::ServiceName,
    peer::{Deaf, DeafTo},
    refusal::Refusal,
    spec::{
        Condition, Constraint, Dependency, EndpointMode, Healthcheck, Mode, Mount, MountSource,
        NodeAttribute, PortSpec, Protocol, PublishMode, RestartCondition, ServiceSpec, SlotOrder,
        UpdatePolicy,
    },
    unit::MemBytes,
    view::{Item, Key},
};

use crate::plan;

use super::sim::{Sim, service};

/// Runs the commands of `text`; lines that are indented are left out, and come back as what happened.
pub(super) fn run(text: &str) -> String {
    let mut runner = Runner { sim: None, pool: "10.64.0.0/11".to_owned() };
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with("    ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        let command = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = command.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let answer = runner.command(&words);
        let log = runner.sim.as_mut().map(|sim| std::mem::take(&mut sim.log)).unwrap_or_default();
        for line in log.into_iter().chain(answer) {
            out.push_str(&format!("    {line}\n"));
        }
    }
    out
}

struct Runner {
    sim: Option<Sim>,
    pool: String,
}

impl Runner {
    fn command(&mut self, words: &[&str]) -> Vec<String> {
        if let ["pool", pool] = words {
            self.pool = (*pool).to_owned();
            return Vec::new();
        }
        let Some(sim) = &mut self.sim else {
            let ["node", "add", name, memory] = words else { panic!("first a node, not {words:?}") };
            self.sim = Some(Sim::new(name, bytes(memory), &self.pool));
            return Vec::new();
        };
        let refused = |result: Result<(), Refusal>| match result {
            Ok(()) => Vec::new(),
            Err(Refusal { code, message, hint }) => {
                let hint = hint.map(|hint| format!("hint: {hint}   (exit {})", code.exit_status()));
                std::iter::once(format!("error: {message}")).chain(hint).collect()
            }
        };
        match words {
            ["node", rest @ ..] => return refused(node(sim, rest)),
            ["service", "rm", name] => {
                let (set, _) = plan::services::remove(sim.cluster(), sim.find(name), sim.now).unwrap();
                sim.apply(set);
            }
            ["service", verb, name, options @ ..] => {
                let key: raftup_proto::name::ServiceName = name.parse().unwrap();
                let old = sim.spec.services.get(&key).cloned();
                let mut spec = match (*verb, &old) {
                    ("set", Some(old)) => old.clone(),
                    _ => service("app", Mode::Replicated { replicas: 1 }),
                };
                options.iter().for_each(|option| set(&mut spec, option));
                sim.spec.services.insert(key.clone(), spec);
                let result = sim.deploy();
                match (&result, old) {
                    (Ok(()), _) => {}
                    (Err(_), Some(old)) => _ = sim.spec.services.insert(key, old),
                    (Err(_), None) => _ = sim.spec.services.remove(&key),
                }
                return refused(result);
            }
            ["file", "without", name] => {
                sim.spec.services.remove(*name);
                return refused(sim.deploy());
            }
            ["registry", image, "silent"] => _ = sim.pinned.remove(*image),
            ["registry", image, digest] => {
                sim.pinned.insert((*image).to_owned(), format!("{image}@{digest}"));
            }
            ["keep", "on"] => sim.keep = true,
            ["asked", name] => sim.note_asked(sim.find(name)),
            ["stack", "deploy"] => return refused(sim.deploy()),
            ["stack", "name", name] => {
                sim.spec.name = name.parse().unwrap();
                sim.spec.services.clear();
            }
            ["stack", "rm"] => {
                let stack = plan::find::stack(sim.cluster(), sim.spec.name.as_str()).unwrap().id;
                let (set, _) = plan::stacks::remove(sim.cluster(), stack, sim.now).unwrap();
                sim.apply(set);
            }
            ["scale", name, replicas] => return refused(scale(sim, name, replicas.parse().unwrap())),
            ["rollback", name, to @ ..] => {
                let to = to.first().map(|number| number.parse().unwrap());
                return refused(roll_back(sim, name, to));
            }
            ["update", name, option] => {
                let (key, value) = option.split_once('=').unwrap_or((option, ""));
                let image = (key == "image").then(|| value.to_owned());
                let update = ServiceUpdate { image, force: key == "force", ..ServiceUpdate::default() };
                return refused(update_service(sim, name, &update));
            }
            ["lose", name, slot] => sim.stop_engine(sim.find(name), slot.parse().unwrap()),
            ["crash", name, slot] => sim.crash(sim.find(name), slot.parse().unwrap()),
            ["routes", "held"] => sim.held = Some(sim.revision()),
            ["routes", "flow"] => sim.held = None,
            ["versions", name] => {
                let service = &sim.cluster().services[&sim.find(name)];
                let line = |version: &crate::model::Version| {
                    format!("{} {} (containers of {})", version.number, version.image, version.containers)
                };
                return service.versions.iter().map(line).collect();
            }
            ["problems", "of", "cluster"] => return plan::problems::problems(sim.cluster(), sim.now),
            ["problems"] => {
                let services = plan::show::services(sim.cluster(), None);
                let nodes = plan::show::nodes(sim.cluster(), sim.node_here(), &Default::default());
                let services =
                    services.into_iter().map(|service| (service.name.to_string(), service.problems));
                let nodes = nodes.into_iter().map(|node| (node.hostname, node.problems));
                let named = |(name, all): (String, Vec<String>)| {
                    all.into_iter().map(move |problem| format!("{name}: {problem}")).collect::<Vec<_>>()
                };
                return services.chain(nodes).flat_map(named).collect();
            }
            ["routes", "of", name] => return routes(sim, name),
            ["progress", "node", name] => {
                let node = plan::progress::Selector::Node(sim.node(name));
                return sim.progress_of(node);
            }
            ["decide"] => _ = sim.decide(),
            ["act"] => _ = sim.act(),
            ["settle"] => sim.settle(),
            ["wait", seconds] => sim.wait(Duration::from_secs_f64(seconds.parse().unwrap())),
            ["show"] => return sim.show(),
            ["progress"] => return sim.progress(),
            other => panic!("no such command: {other:?}"),
        }
        Vec::new()
    }
}

/// Where the service is reached, as every node is told.
fn routes(sim: &Sim, name: &str) -> Vec<String> {
    let world = plan::World::new(sim.cluster().clone());
    let key = Key::Route(sim.find(name));
    let Some(Item::Route(route)) = plan::view::item(&world, sim.node_here(), key) else { return Vec::new() };
    let ports = |ports: &[PortSpec]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let vips = route.networks.values().map(|on| on.vip.map_or("no VIP".to_owned(), |vip| vip.to_string()));
    let head = vips.chain([format!("everywhere: {}", ports(&route.ports))]);
    let tasks = world.tasks_of(route.service).map(|task| plan::view::endpoint_key(task));
    let ends: std::collections::BTreeMap<_, _> =
        tasks.filter_map(|key| Some((key, plan::view::item(&world, sim.node_here(), key)?))).collect();
    let ends = ends.into_values().filter_map(|item| {
        let Item::Endpoint(_, endpoint) = item else { return None };
        let ready = if endpoint.ready { "" } else { " not ready" };
        Some(format!("{} on {}{ready}: {}", endpoint.slot, endpoint.node, ports(&endpoint.host_ports)))
    });
    head.chain(ends).map(|line| line.trim_end().to_owned()).collect()
}

fn scale(sim: &mut Sim, name: &str, replicas: u32) -> Result<(), Refusal> {
    update_service(sim, name, &ServiceUpdate { replicas: Some(replicas), ..ServiceUpdate::default() })
}

fn update_service(sim: &mut Sim, name: &str, update: &ServiceUpdate) -> Result<(), Refusal> {
    let (set, _) = plan::services::update(sim.cluster(), sim.find(name), update, &sim.pinned, sim.now)?;
    sim.apply(set);
    Ok(())
}

fn roll_back(sim: &mut Sim, name: &str, to: Option<u64>) -> Result<(), Refusal> {
    let (set, _) = plan::services::rollback(sim.cluster(), sim.find(name), to, sim.now)?;
    sim.apply(set);
    Ok(())
}

pub(super) fn policy(policy: &mut UpdatePolicy, key: &str, value: &str) {
    let seconds = |text: &str| Duration::from_secs_f64(text.parse().unwrap());
    match key {
        "parallelism" => policy.parallelism = value.parse().unwrap(),
        "delay" => policy.delay = seconds(value),
        "order" => policy.order = value.parse().unwrap(),
        "monitor" => policy.monitor = seconds(value),
        "action" => policy.failure_action = value.parse().unwrap(),
        "ratio" => policy.max_failure_ratio = value.parse().unwrap(),
        other => panic!("no such part of a policy: {other}"),
    }
}

fn node(sim: &mut Sim, words: &[&str]) -> Result<(), Refusal> {
    match words {
        ["add", name, memory] => _ = sim.join(name, bytes(memory)),
        ["lost", name] => sim.lose(sim.node(name)),
        ["back", name] => sim.hear(sim.node(name)),
        ["engine-gone", name] => sim.engine(sim.node(name), None),
        ["engine-back", name] => sim.engine(sim.node(name), Some("28.5.2")),
        ["drain", name] => sim.availability(sim.node(name), Availability::Drain),
        ["deaf", name, list, why @ ("taken" | "absent")] => {
            let why = if *why == "taken" { DeafTo::Taken } else { DeafTo::NoAddress };
            let deaf = |port: PortSpec| {
                let PortSpec { protocol, published, host_ip, .. } = port;
                Deaf { protocol, published, host_ip, why }
            };
            let mut deaf: Vec<Deaf> = ports(list, PublishMode::Ingress).into_iter().map(deaf).collect();
            deaf.sort_unstable();
            sim.say(sim.node(name), |info| info.deaf = deaf);
        }
        ["pause", name] => sim.availability(sim.node(name), Availability::Pause),
        ["active", name] => sim.availability(sim.node(name), Availability::Active),
        ["rm", name, force @ ..] => {
            let force = force == ["force"];
            let set = plan::nodes::remove(sim.cluster(), sim.node(name), force, sim.now)?;
            sim.apply(set);
        }
        ["label", name, label] => {
            let (key, value) = label.split_once('=').unwrap();
            let label_add = [(key.to_owned(), value.to_owned())].into();
            let update = NodeUpdate { label_add, ..NodeUpdate::default() };
            let set = plan::nodes::update(sim.cluster(), sim.node(name), &update, sim.now)?;
            sim.apply(set);
        }
        ["generic", name, resource] => {
            let (kind, count) = resource.split_once('=').unwrap();
            let count = count.parse().unwrap();
            sim.say(sim.node(name), |info| _ = info.platform.generic.insert(kind.to_owned(), count));
        }
        other => panic!("no such command: node {other:?}"),
    }
    Ok(())
}

fn set(spec: &mut ServiceSpec, option: &str) {
    let seconds = |text: &str| Duration::from_secs_f64(text.parse().unwrap());
    match option.split_once('=').unwrap_or((option, "")) {
        ("replicas", n) => spec.mode = Mode::Replicated { replicas: n.parse().unwrap() },
        ("global", _) => spec.mode = Mode::Global,
        ("order", "slots") => spec.order = SlotOrder::Slots,
        ("global-job", _) => {
            (spec.mode, spec.restart.condition) = (Mode::GlobalJob, RestartCondition::OnFailure)
        }
        ("job", counts) => {
            let (completions, concurrent) = counts.split_once(':').unwrap_or((counts, counts));
            let (completions, concurrent) = (completions.parse().unwrap(), concurrent.parse().unwrap());
            spec.mode = Mode::ReplicatedJob { completions, concurrent };
            spec.restart.condition = RestartCondition::OnFailure;
        }
        ("image", image) => spec.container.image = image.to_owned(),
        ("memory", amount) => spec.resources.reservations.memory = Some(bytes(amount)),
        ("constraint", text) => {
            let (key, value) = text.split_once("==").unwrap();
            let attribute = match key {
                "hostname" => NodeAttribute::Hostname,
                "ip" => NodeAttribute::Ip,
                label => NodeAttribute::Label(label.to_owned()),
            };
            spec.placement.constraints = vec![Constraint { attribute, equal: true, value: value.to_owned() }];
        }
        ("spread", keys) => {
            spec.placement.spread = keys.split(',').map(|key| NodeAttribute::Label(key.to_owned())).collect();
        }
        ("max", most) => spec.placement.max_per_node = most.parse().ok(),
        ("with", list) => spec.placement.with = list.split(',').map(|name| name.parse().unwrap()).collect(),
        ("apart", list) => {
            spec.placement.apart_from = list.split(',').map(|name| name.parse().unwrap()).collect();
        }
        ("generic", resource) => {
            let (kind, count) = resource.split_once(':').unwrap();
            spec.resources.generic = [(kind.to_owned(), count.parse().unwrap())].into();
        }
        ("port", list) => spec.ports = ports(list, PublishMode::Ingress),
        ("host-port", list) => spec.ports = ports(list, PublishMode::Host),
        ("endpoint", "dnsrr") => spec.endpoint_mode = EndpointMode::Dnsrr,
        ("endpoint", "vip") => spec.endpoint_mode = EndpointMode::Vip,
        ("delay", time) => spec.restart.delay = seconds(time),
        ("attempts", n) => spec.restart.max_attempts = Some(n.parse().unwrap()),
        ("volume", name) => {
            let source = MountSource::Volume { name: name.parse().unwrap(), nocopy: false };
            spec.container.mounts = vec![Mount::new("/data", source)];
        }
        (key, value) if key.starts_with("update.") => policy(&mut spec.update, &key[7..], value),
        (key, value) if key.starts_with("rollback.") => policy(&mut spec.rollback, &key[9..], value),
        ("depends", list) => spec.depends_on = depends(list),
        ("healthcheck", _) => {
            spec.container.healthcheck = Some(Healthcheck::Check {
                test: None,
                interval: None,
                timeout: None,
                retries: None,
                start_period: None,
                start_interval: None,
            });
        }
        ("restart", "none") => spec.restart.condition = RestartCondition::None,
        ("restart", "on-failure") => spec.restart.condition = RestartCondition::OnFailure,
        (key, value) => panic!("no such option: {key}={value}"),
    }
}

/// `NAME:CONDITION[:restart][:optional]`, several with commas.
fn depends(list: &str) -> BTreeMap<ServiceName, Dependency> {
    let one = |text: &str| {
        let mut words = text.split(':');
        let name = words.next().unwrap().parse().unwrap();
        let condition = match words.next() {
            Some("started") => Condition::Started,
            Some("healthy") => Condition::Healthy,
            Some("completed") => Condition::Completed,
            other => panic!("no such condition: {other:?}"),
        };
        let rest: Vec<_> = words.collect();
        let (restart, required) = (rest.contains(&"restart"), !rest.contains(&"optional"));
        (name, Dependency { condition, restart, required })
    };
    list.split(',').map(one).collect()
}

/// `[ADDRESS:]PORT[/udp]`, several with commas, to port 80 of the container; `-` for none.
fn ports(list: &str, mode: PublishMode) -> Vec<PortSpec> {
    let one = |text: &str| {
        let (text, protocol) = match text.strip_suffix("/udp") {
            Some(text) => (text, Protocol::Udp),
            None => (text, Protocol::Tcp),
        };
        let (host_ip, port) = match text.split_once(':') {
            Some((address, port)) => (Some(address.parse().unwrap()), port),
            None => (None, text),
        };
        PortSpec { host_ip, mode, ..PortSpec::new(protocol, port.parse().unwrap(), 80) }
    };
    list.split(',').filter(|text| *text != "-").map(one).collect()
}

fn bytes(text: &str) -> MemBytes {
    let (number, shift) = match text {
        text if text.ends_with("GiB") => (&text[..text.len() - 3], 30),
        text => (text.trim_end_matches("MiB"), 20),
    };
    MemBytes(number.parse::<u64>().unwrap() << shift)
}
