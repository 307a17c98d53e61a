//! What decisions cost the leader: a look at a service that changes nothing, a step of its update, a first look at a large
//! cluster, and places where addresses have run out. In this process, over the real `plan` and the real `apply`.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context as _, ensure};
use raftup_daemon::{
    model::{ChangeSet, Cluster, TokenHashes},
    plan::{self, Agenda, Facts, Ids, World},
    store::apply,
};
use raftup_proto::{
    api::{Deploy, FabricMode, Managers},
    id::{ClusterId, NodeId},
    name::StackName,
    peer::{JoinRequest, NodeInfo, Platform, Role, TaskState, TaskStatus},
    spec::{ContainerSpec, Mode, NetworkAttachment, NetworkSpec, ServiceSpec, StackSpec},
    unit::{CpuMillis, MemBytes, UnixMillis},
};

use crate::table::{Row, Target, note};

/// Replicas of the one service, on [`FEW_NODES`].
const REPLICAS: [u32; 5] = [500, 1000, 2000, 4000, 8000];
const FEW_NODES: u64 = 100;
/// The large cluster: so many services of [`TASKS`] tasks each.
const MANY_NODES: u64 = 1000;
const SERVICES: usize = 10_000;
const TASKS: u32 = 10;
/// Services of a stack with a network of its own.
const OF_A_STACK: usize = 5;
/// A network has 124 blocks, of 7,934 addresses in all; so some replicas have none.
const MORE_THAN_ADDRESSES: u32 = 8_000;
/// No decision may hold its thread for longer.
const SLICE: Target = Target::AtMost(20.0);

pub(crate) fn measure(rounds: u32) -> anyhow::Result<Vec<Row>> {
    let mut figures = BTreeMap::new();
    for round in 1..=rounds {
        for replicas in REPLICAS {
            one_service(replicas, &mut figures)?;
        }
        large_cluster(&mut figures)?;
        network_each(&mut figures)?;
        full_network(&mut figures)?;
        note(&format!("plan {round}/{rounds}: done"));
    }
    let row = |((_, what, unit), rounds): ((usize, String, &'static str), Vec<f64>)| {
        let row = Row::new(format!("plan: {what}"), unit, rounds);
        if unit == "ms" { row.target(SLICE) } else { row }
    };
    Ok(figures.into_iter().map(row).collect())
}

/// By place in the table, what, and unit.
type Figures = BTreeMap<(usize, String, &'static str), Vec<f64>>;

fn add(figures: &mut Figures, what: String, unit: &'static str, figure: f64) {
    note(&format!("{what}: {figure:.3} {unit}"));
    let known = figures.keys().find(|(_, name, _)| *name == what).cloned();
    let key = known.unwrap_or((figures.len(), what, unit));
    figures.entry(key).or_default().push(figure);
}

fn one_service(replicas: u32, figures: &mut Figures) -> anyhow::Result<()> {
    let mut lab = Lab::new(FEW_NODES)?;
    // The largest is on no network, as one has too few addresses.
    let networked = replicas < MORE_THAN_ADDRESSES;
    lab.deploy("web", vec![service("v1", replicas, networked)], networked)?;
    let (all, longest) = lab.settle()?;
    ensure!(lab.running() == replicas as usize, "{} of {replicas} run", lab.running());
    add(figures, format!("{replicas} replicas placed"), "s", all / 1000.0);
    add(figures, format!("{replicas} replicas, longest slice"), "ms", longest);
    let look = lab.look();
    add(figures, format!("{replicas} replicas, nothing to change"), "ms", look);
    lab.deploy("web", vec![service("v2", replicas, networked)], networked)?;
    // The first replaces one; the last of these finds it running, and watches it.
    let mut steps = Vec::new();
    for _ in 0..4 {
        steps.push(lab.decide()?);
        lab.act()?;
    }
    let longest = steps.iter().copied().fold(0.0, f64::max);
    add(figures, format!("{replicas} replicas, a step of an update"), "ms", longest);
    Ok(())
}

fn large_cluster(figures: &mut Figures) -> anyhow::Result<()> {
    let mut lab = Lab::new(MANY_NODES)?;
    for stack in 0..SERVICES / 250 {
        lab.deploy(&format!("s{stack}"), vec![service("v1", TASKS, false); 250], false)?;
    }
    let (all, longest) = lab.settle()?;
    ensure!(lab.running() == SERVICES * TASKS as usize, "{} run", lab.running());
    add(figures, "100,000 tasks on 1,000 nodes placed".to_owned(), "s", all / 1000.0);
    add(figures, "100,000 tasks on 1,000 nodes, longest slice".to_owned(), "ms", longest);
    lab.agenda = Agenda::everything(lab.world.cluster());
    let (mut all, mut longest) = (0.0, 0.0_f64);
    while !lab.agenda.is_empty() {
        let took = lab.decide()?;
        all += took;
        longest = longest.max(took);
    }
    add(figures, "100,000 tasks looked at, nothing to change".to_owned(), "s", all / 1000.0);
    add(figures, "100,000 tasks looked at, longest slice".to_owned(), "ms", longest);
    Ok(())
}

/// 10,000 tasks in stacks that have a network each.
fn network_each(figures: &mut Figures) -> anyhow::Result<()> {
    let mut lab = Lab::new(FEW_NODES)?;
    for stack in 0..1000 / OF_A_STACK {
        lab.deploy(&format!("s{stack}"), vec![service("v1", TASKS, true); OF_A_STACK], true)?;
    }
    let (all, longest) = lab.settle()?;
    ensure!(lab.running() == 10_000, "{} run", lab.running());
    add(figures, "10,000 tasks, a network for each stack, placed".to_owned(), "s", all / 1000.0);
    add(figures, "10,000 tasks, a network for each stack, longest slice".to_owned(), "ms", longest);
    Ok(())
}

/// One task of many ends, and others have waited for addresses.
fn full_network(figures: &mut Figures) -> anyhow::Result<()> {
    let mut lab = Lab::new(MANY_NODES)?;
    lab.deploy("web", vec![service("v1", MORE_THAN_ADDRESSES, true)], true)?;
    let (_, longest) = lab.settle()?;
    ensure!(lab.running() < MORE_THAN_ADDRESSES as usize, "the network is full");
    add(figures, "a network that fills up, longest slice".to_owned(), "ms", longest);
    let (mut all, mut longest) = (0.0, 0.0_f64);
    lab.fail_one()?;
    while !lab.agenda.is_empty() {
        let took = lab.decide()?;
        all += took;
        longest = longest.max(took);
    }
    add(figures, "a network that is full, one task ends".to_owned(), "ms", all);
    Ok(())
}

fn service(image: &str, replicas: u32, networked: bool) -> ServiceSpec {
    let on = NetworkAttachment {
        network: "default".parse().expect("a name"),
        aliases: Vec::new(),
        external: None,
    };
    ServiceSpec {
        mode: Mode::Replicated { replicas },
        container: ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() },
        networks: if networked { vec![on] } else { Vec::new() },
        ports: Vec::new(),
        endpoint_mode: Default::default(),
        restart: Default::default(),
        placement: Default::default(),
        resources: Default::default(),
        labels: BTreeMap::new(),
        update: Default::default(),
        rollback: Default::default(),
        routing: Default::default(),
        order: Default::default(),
        depends_on: BTreeMap::new(),
        any_ports: Vec::new(),
        build: None,
    }
}

fn info(number: u64) -> NodeInfo {
    // Nodes have addresses of their own; here from 172.16.0.0/12.
    let address = std::net::Ipv4Addr::from(0xac10_0000 | (number as u32 & 0xf_ffff));
    NodeInfo {
        hostname: format!("node-{number}"),
        control: (address, 7238).into(),
        underlay: address.into(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        version: "0.1.0".to_owned(),
        level: Default::default(),
        platform: Platform {
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            engine: Some("28.5.2".to_owned()),
            memory: MemBytes(1 << 40),
            cpu: CpuMillis(64_000),
            ..Platform::default()
        },
        deaf: Vec::new(),
        troubles: Vec::new(),
    }
}

struct Lab {
    world: World,
    agenda: Agenda,
    ids: Ids,
    now: UnixMillis,
}

impl Lab {
    fn new(nodes: u64) -> anyhow::Result<Self> {
        let now = UnixMillis(1_000_000);
        let first = plan::init::First {
            id: ClusterId::from_random(1),
            pool: "10.0.0.0/8".parse()?,
            managers: Managers::Auto,
            fabric: FabricMode::Wireguard,
            ca_certificate: Vec::new(),
            ca_key_sealed: Vec::new(),
            tokens: TokenHashes { manager: [0; 32], worker: [0; 32], sealed: Vec::new() },
            info: info(1),
        };
        let mut lab = Self { world: World::default(), agenda: Agenda::default(), ids: Ids::seeded(1), now };
        lab.apply(&plan::init::cluster(first, now)?)?;
        for number in 1..=nodes {
            if number > 1 {
                let request = JoinRequest {
                    secret: [0; 16],
                    role: Role::Worker,
                    csr: Vec::new(),
                    info: info(number),
                    attempt: number,
                };
                let (set, _) = plan::nodes::admit(lab.cluster(), &request, now)?;
                lab.apply(&set)?;
            }
            let set = plan::nodes::heard(lab.cluster(), NodeId::new(number), Some(&info(number)), now)?;
            lab.apply(&set)?;
        }
        Ok(lab)
    }

    fn cluster(&self) -> &Cluster {
        self.world.cluster()
    }

    fn deploy(&mut self, stack: &str, services: Vec<ServiceSpec>, network: bool) -> anyhow::Result<()> {
        let named = services.into_iter().enumerate();
        let networks = if network { vec![("default".parse()?, NetworkSpec::default())] } else { Vec::new() };
        let spec = StackSpec {
            name: stack.parse::<StackName>()?,
            services: named
                .map(|(index, spec)| Ok((format!("s{index}").parse()?, spec)))
                .collect::<anyhow::Result<_>>()?,
            networks: networks.into_iter().collect(),
            volumes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
        };
        let deploy = Deploy { spec, credentials: BTreeMap::new(), keep: false };
        let (set, _) = plan::stacks::deploy(
            self.world.cluster(),
            &deploy,
            Vec::new(),
            &Default::default(),
            &Default::default(),
            self.now,
            &mut self.ids,
        )?;
        self.apply(&set)
    }

    fn apply(&mut self, set: &ChangeSet) -> anyhow::Result<()> {
        if set.is_empty() {
            return Ok(());
        }
        let before = self.world.cluster();
        let after = apply(before, before.revision.0 + 1, set)?;
        let keys: Vec<_> = set.changes.iter().map(|change| change.key()).collect();
        self.agenda.merge(self.world.advance(&after, &keys));
        Ok(())
    }

    /// One decision over what is on the agenda, carried out; how long the decision took, in milliseconds.
    fn decide(&mut self) -> anyhow::Result<f64> {
        let agenda = std::mem::take(&mut self.agenda);
        let begun = Instant::now();
        let plan = plan::decide(&self.world, &agenda, Facts::default(), self.now, &mut self.ids);
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        self.agenda.merge(plan.left);
        self.agenda.services.extend(plan.due.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| *id));
        self.apply(&plan.set)?;
        Ok(took)
    }

    /// A look at everything that changes nothing, in milliseconds.
    fn look(&mut self) -> f64 {
        let all = Agenda::everything(self.world.cluster());
        let begun = Instant::now();
        let plan = plan::decide(&self.world, &all, Facts::default(), self.now, &mut self.ids);
        assert!(plan.set.is_empty(), "there is something to do");
        begun.elapsed().as_secs_f64() * 1000.0
    }

    /// Each task that is assigned runs, each that is told to stop has stopped.
    fn act(&mut self) -> anyhow::Result<()> {
        let mut reports = BTreeMap::new();
        for task in self.cluster().tasks.values() {
            let Some(node) = task.node.filter(|_| !task.status.state.is_over()) else { continue };
            let state = match task.desired {
                raftup_daemon::model::Desired::Run => TaskState::Running,
                raftup_daemon::model::Desired::Drain => continue,
                raftup_daemon::model::Desired::Stop | raftup_daemon::model::Desired::Remove => {
                    TaskState::Shutdown
                }
            };
            if task.status.state != state {
                reports.insert((node, task.id), TaskStatus::new(state, self.now));
            }
        }
        let set = plan::nodes::reports(self.cluster(), &reports, self.now);
        self.apply(&set)
    }

    fn fail_one(&mut self) -> anyhow::Result<()> {
        let mut tasks = self.cluster().tasks.values();
        let task = tasks.find(|task| task.is_ready()).context("a task that runs")?;
        let status = TaskStatus { exit_code: Some(1), ..TaskStatus::new(TaskState::Failed, self.now) };
        let reports = BTreeMap::from([((task.node.context("a node")?, task.id), status)]);
        let set = plan::nodes::reports(self.cluster(), &reports, self.now);
        self.apply(&set)
    }

    /// Until nothing is left to do; all that the decisions took, and the longest, in milliseconds.
    fn settle(&mut self) -> anyhow::Result<(f64, f64)> {
        let (mut all, mut longest) = (0.0, 0.0_f64);
        loop {
            while !self.agenda.is_empty() {
                let took = self.decide()?;
                all += took;
                longest = longest.max(took);
            }
            self.act()?;
            if self.agenda.is_empty() {
                return Ok((all, longest));
            }
        }
    }

    fn running(&self) -> usize {
        self.cluster().tasks.values().filter(|task| task.is_ready()).count()
    }
}
