//! Scenarios as text: commands at the margin, what came of them indented below.
//!
//! ```text
//! node add NAME MEMORY | lost NAME | back NAME | drain|pause|active NAME | rm NAME | label NAME KEY=VALUE
//! service add NAME replicas=N|global image=I volume=V memory=M constraint=A==B port=P delay=S attempts=N restart=none|on-failure
//!     update.KEY=V rollback.KEY=V (parallelism, delay, order, monitor, action, ratio) healthcheck
//! service set NAME (as add) | service rm NAME | stack rm | scale NAME N | pool CIDR (before the first node)
//! rollback NAME [VERSION] | update NAME force|image=I | crash NAME SLOT | routes held|flow | versions NAME
//! progress node NAME | settle | wait SECONDS | decide | show | progress
//! ```

use std::time::Duration;

use raftup_proto::{
    api::{Availability, NodeUpdate, ServiceUpdate},
    refusal::Refusal,
    spec::{
        Constraint, Healthcheck, Mode, Mount, MountSource, NodeAttribute, PortSpec, Protocol,
        RestartCondition, ServiceSpec, UpdatePolicy,
    },
    unit::MemBytes,
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
                if let (Err(_), Some(old)) = (&result, old) {
                    sim.spec.services.insert(key, old);
                }
                return refused(result);
            }
            ["file", "without", name] => {
                sim.spec.services.remove(*name);
                return refused(sim.deploy());
            }
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

fn scale(sim: &mut Sim, name: &str, replicas: u32) -> Result<(), Refusal> {
    update_service(sim, name, &ServiceUpdate { replicas: Some(replicas), ..ServiceUpdate::default() })
}

fn update_service(sim: &mut Sim, name: &str, update: &ServiceUpdate) -> Result<(), Refusal> {
    let (set, _) = plan::services::update(sim.cluster(), sim.find(name), update, sim.now)?;
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
        other => panic!("no such command: node {other:?}"),
    }
    Ok(())
}

fn set(spec: &mut ServiceSpec, option: &str) {
    let seconds = |text: &str| Duration::from_secs_f64(text.parse().unwrap());
    match option.split_once('=').unwrap_or((option, "")) {
        ("replicas", n) => spec.mode = Mode::Replicated { replicas: n.parse().unwrap() },
        ("global", _) => spec.mode = Mode::Global,
        ("image", image) => spec.container.image = image.to_owned(),
        ("memory", amount) => spec.resources.reservations.memory = Some(bytes(amount)),
        ("constraint", text) => {
            let (key, value) = text.split_once("==").unwrap();
            let attribute = match key {
                "hostname" => NodeAttribute::Hostname,
                label => NodeAttribute::Label(label.to_owned()),
            };
            spec.placement.constraints = vec![Constraint { attribute, equal: true, value: value.to_owned() }];
        }
        ("port", port) => {
            let published = port.parse().unwrap();
            spec.ports = vec![PortSpec { protocol: Protocol::Tcp, published, target: 80 }];
        }
        ("delay", time) => spec.restart.delay = seconds(time),
        ("attempts", n) => spec.restart.max_attempts = Some(n.parse().unwrap()),
        ("volume", name) => {
            let source = MountSource::Volume { name: name.parse().unwrap(), nocopy: false };
            spec.container.mounts = vec![Mount { target: "/data".to_owned(), source, read_only: false }];
        }
        (key, value) if key.starts_with("update.") => policy(&mut spec.update, &key[7..], value),
        (key, value) if key.starts_with("rollback.") => policy(&mut spec.rollback, &key[9..], value),
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

fn bytes(text: &str) -> MemBytes {
    let (number, shift) = match text {
        text if text.ends_with("GiB") => (&text[..text.len() - 3], 30),
        text => (text.trim_end_matches("MiB"), 20),
    };
    MemBytes(number.parse::<u64>().unwrap() << shift)
}
