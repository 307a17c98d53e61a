//! A cluster in miniature: the real `decide` and `apply`, agents that do what they are told in small steps, and a clock
//! that only moves when told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use raftup_proto::{
    api::{Availability, Deploy, FabricMode, Managers, NodeState, UpdateState},
    id::{ClusterId, NodeId, ServiceId},
    peer::{JoinRequest, NodeInfo, Platform, Role, TaskState, TaskStatus},
    refusal::Refusal,
    spec::{BlobKind, ContainerSpec, Mode, NetworkAttachment, NetworkSpec, ServiceSpec, StackSpec},
    unit::{CpuMillis, MemBytes, UnixMillis},
    view::Revision,
};

use crate::{
    model::{ChangeSet, Cluster, Desired, ObjectKey, Sealed, Task, TokenHashes},
    plan::{self, Agenda, Facts, Ids, World, check, rollout},
    store::apply,
};

pub(super) struct Sim {
    pub world: World,
    pub now: UnixMillis,
    pub ids: Ids,
    pub spec: StackSpec,
    /// What registries say of images.
    pub pinned: BTreeMap<String, String>,
    /// What the file does not name stays.
    pub keep: bool,
    /// The versions that whoever asks for progress asked for.
    pub asked: plan::progress::Asked,
    /// Nodes whose agents do nothing.
    pub dead: BTreeSet<NodeId>,
    /// Nodes say no more that they have routes in force: this is the newest that they have.
    pub held: Option<Revision>,
    /// The invariants are not looked at: the state is not as it should be, or there is too much of it.
    pub unchecked: bool,
    /// The largest set that was made.
    pub largest: usize,
    agenda: Agenda,
    due: BTreeMap<ServiceId, UnixMillis>,
    /// What happened since it was last taken.
    pub log: Vec<String>,
    attempts: u64,
}

pub(super) fn service(image: &str, mode: Mode) -> ServiceSpec {
    ServiceSpec {
        mode,
        container: ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() },
        networks: vec![NetworkAttachment {
            network: "default".parse().unwrap(),
            aliases: Vec::new(),
            external: None,
        }],
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

fn info(hostname: &str, number: u64, memory: MemBytes, cpu: CpuMillis) -> NodeInfo {
    let address = std::net::Ipv4Addr::from(0xac10_0000 + u32::try_from(number).unwrap());
    NodeInfo {
        hostname: hostname.to_owned(),
        control: (address, 7238).into(),
        underlay: address.into(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        version: "0.1.0".to_owned(),
        level: crate::plan::level::NEWEST,
        platform: Platform {
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            engine: Some("28.5.2".to_owned()),
            memory,
            cpu,
            ..Platform::default()
        },
        deaf: Vec::new(),
        troubles: Vec::new(),
    }
}

impl Sim {
    /// A cluster with one node, `n1`.
    pub(super) fn new(hostname: &str, memory: MemBytes, pool: &str) -> Self {
        let now = UnixMillis(1_000_000);
        let first = plan::init::First {
            id: ClusterId::from_random(1),
            pool: pool.parse().unwrap(),
            managers: Managers::Auto,
            fabric: FabricMode::Wireguard,
            ca_certificate: Vec::new(),
            ca_key_sealed: Vec::new(),
            tokens: TokenHashes { manager: [0; 32], worker: [0; 32], sealed: Vec::new() },
            info: info(hostname, 0, memory, CpuMillis(4000)),
        };
        let spec = StackSpec {
            name: "s".parse().unwrap(),
            services: BTreeMap::new(),
            networks: BTreeMap::from([("default".parse().unwrap(), NetworkSpec::default())]),
            volumes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
        };
        let mut sim = Self {
            world: World::default(),
            now,
            ids: Ids::counted(),
            spec,
            pinned: BTreeMap::new(),
            keep: false,
            asked: BTreeMap::new(),
            dead: BTreeSet::new(),
            held: None,
            unchecked: false,
            largest: 0,
            agenda: Agenda::default(),
            due: BTreeMap::new(),
            log: Vec::new(),
            attempts: 0,
        };
        sim.apply(plan::init::cluster(first, now).unwrap());
        sim.hear(plan::init::FIRST_NODE);
        sim
    }

    pub(super) fn cluster(&self) -> &Cluster {
        self.world.cluster()
    }

    pub(super) fn join(&mut self, hostname: &str, memory: MemBytes) -> NodeId {
        self.attempts += 1;
        let request = JoinRequest {
            secret: [0; 16],
            role: Role::Manager,
            csr: Vec::new(),
            info: info(hostname, self.attempts, memory, CpuMillis(4000)),
            attempt: self.attempts,
        };
        let (set, id) = plan::nodes::admit(self.cluster(), &request, self.now).unwrap();
        self.apply(set);
        let again = plan::nodes::admit(self.cluster(), &request, self.now).unwrap();
        assert_eq!((again.0.is_empty(), again.1), (true, id), "a repeated attempt is the same node");
        self.hear(id);
        id
    }

    pub(super) fn hear(&mut self, node: NodeId) {
        self.dead.remove(&node);
        let info = self.cluster().nodes[&node].info.clone();
        let set = plan::nodes::heard(self.cluster(), node, Some(&info), self.now).unwrap();
        self.apply(set);
    }

    /// The node says that its engine is of this version, or does not answer.
    pub(super) fn engine(&mut self, node: NodeId, version: Option<&str>) {
        self.say(node, |info| info.platform.engine = version.map(str::to_owned));
    }

    /// The node says something else of itself than before.
    pub(super) fn say(&mut self, node: NodeId, change: impl FnOnce(&mut NodeInfo)) {
        let mut info = self.cluster().nodes[&node].info.clone();
        change(&mut info);
        let set = plan::nodes::heard(self.cluster(), node, Some(&info), self.now).unwrap();
        self.apply(set);
    }

    pub(super) fn lose(&mut self, node: NodeId) {
        self.dead.insert(node);
        let set = plan::nodes::down(self.cluster(), node, "not heard of", self.now);
        self.apply(set);
    }

    pub(super) fn availability(&mut self, node: NodeId, availability: Availability) {
        let update = raftup_proto::api::NodeUpdate { availability: Some(availability), ..Default::default() };
        let set = plan::nodes::update(self.cluster(), node, &update, self.now).unwrap();
        self.apply(set);
    }

    /// Deploys the stack as it stands in `spec`; says what that did to each object that is not as it was.
    pub(super) fn deploy(&mut self) -> Result<(), Refusal> {
        let deploy = Deploy { spec: self.spec.clone(), credentials: BTreeMap::new(), keep: self.keep };
        let contents = contents(&deploy.spec);
        let (set, views) = plan::stacks::deploy(
            self.world.cluster(),
            &deploy,
            Vec::new(),
            &contents,
            &self.pinned,
            self.now,
            &mut self.ids,
        )?;
        for view in views.iter().filter(|view| view.action != raftup_proto::api::Action::Unchanged) {
            self.log.push(format!("{} {} {:?}", view.kind, view.name, view.action).to_lowercase());
        }
        self.apply(set);
        let again = plan::stacks::deploy(
            self.world.cluster(),
            &deploy,
            Vec::new(),
            &contents,
            &self.pinned,
            self.now,
            &mut self.ids,
        )?;
        assert!(again.0.is_empty(), "deploying the same again changes nothing: {:?}", again.0);
        Ok(())
    }

    pub(super) fn apply(&mut self, set: ChangeSet) {
        if set.is_empty() {
            return;
        }
        let before = self.cluster().clone();
        let keys: Vec<ObjectKey> = set.changes.iter().map(|change| change.key()).collect();
        let after = apply(&before, before.revision.0 + 1, &set).unwrap();
        if !self.unchecked {
            let mut wrong = check::step(&before, &after);
            wrong.extend(check::state(&after));
            assert!(wrong.is_empty(), "{wrong:#?}\nafter {set:#?}");
        }
        self.agenda.merge(self.world.advance(&after, &keys));
    }

    /// One decision over what is on the agenda or due; says whether it changed anything.
    pub(super) fn decide(&mut self) -> bool {
        let due = self.due.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| *id);
        self.agenda.services.extend(due);
        self.agenda.services.extend(self.world.handing_over());
        let agenda = std::mem::take(&mut self.agenda);
        let facts = self.facts();
        let plan = plan::decide(&self.world, &agenda, facts, self.now, &mut self.ids);
        for id in &agenda.services {
            self.due.remove(id);
        }
        self.due.extend(plan.due);
        let changed = !plan.set.is_empty() || !plan.left.is_empty();
        self.largest = self.largest.max(plan.set.changes.len());
        self.agenda.merge(plan.left);
        self.check_handovers(&plan.set);
        self.tell(&plan.set);
        self.apply(plan.set);
        changed
    }

    /// No task that serves leaves the routes before the one that replaces it is in all of them, or a node was silent for
    /// too long.
    fn check_handovers(&self, set: &ChangeSet) {
        use crate::model::{Change, Object};
        for change in &set.changes {
            let Change::Update(Object::Task(left)) = change else { continue };
            let tasks = &self.cluster().tasks;
            let served = tasks.get(&left.id).is_some_and(|task| task.is_ready());
            let successor = tasks.values().find(|task| task.is_ready() && task.replaces == Some(left.id));
            let Some(successor) = successor.filter(|_| served && left.desired == Desired::Drain) else {
                continue;
            };
            let goes_too = set.changes.iter().any(|change| {
                matches!(change, Change::Update(Object::Task(task))
                    if task.id == successor.id && task.desired != Desired::Run)
            });
            let in_force = self.facts().in_force >= Some(successor.meta.revision);
            let silent = successor.ready.is_some_and(|at| self.now >= at.plus(rollout::HANDOVER_LIMIT));
            assert!(goes_too || in_force || silent, "{} leaves before {} is reached", left.id, successor.id);
        }
    }

    fn facts(&self) -> Facts {
        Facts { in_force: Some(self.held.unwrap_or(self.cluster().revision)) }
    }

    /// The container of the newest task that runs in a slot ends with a failure.
    pub(super) fn crash(&mut self, service: ServiceId, slot: u32) {
        self.end(service, slot, TaskState::Failed, 1);
    }

    /// The container of the newest task that runs in a slot ends because its engine was stopped.
    pub(super) fn stop_engine(&mut self, service: ServiceId, slot: u32) {
        self.end(service, slot, TaskState::Orphaned, 0);
    }

    fn end(&mut self, service: ServiceId, slot: u32, state: TaskState, code: i64) {
        let tasks = self.cluster().tasks_of(service).filter(|task| task.is_ready());
        let of_slot = tasks.filter(|task| task.slot == crate::model::Slot::Replica(slot));
        let task = of_slot.max_by_key(|task| task.id).expect("a task that runs").clone();
        let status = TaskStatus { exit_code: Some(code), ..TaskStatus::new(state, self.now) };
        self.log.push(format!("  {} {}", self.name(&task), status_text(&status)));
        let reports = BTreeMap::from([((task.node.expect("it runs somewhere"), task.id), status)]);
        let set = plan::nodes::reports(self.cluster(), &reports, self.now);
        self.apply(set);
    }

    /// The agent of a task says that it failed, in whatever state it is.
    pub(super) fn fail(&mut self, task: &Task, why: &str) {
        let status = TaskStatus::new(TaskState::Failed, self.now).because(why);
        let reports = BTreeMap::from([((task.node.expect("it has a node"), task.id), status)]);
        let set = plan::nodes::reports(self.cluster(), &reports, self.now);
        self.apply(set);
    }

    /// The tasks that should run, by service and slot.
    pub(super) fn wanted(&self) -> Vec<Task> {
        let wanted = self.cluster().tasks.values().filter(|task| task.desired == Desired::Run);
        let mut wanted: Vec<Task> = wanted.map(|task| Task::clone(task)).collect();
        wanted.sort_by_key(|task| (task.service, task.slot, task.id));
        wanted
    }

    /// A service of the stack is asked to be this.
    pub(super) fn ask(&mut self, name: &str, spec: &ServiceSpec) {
        self.spec.services.insert(name.parse().unwrap(), spec.clone());
        self.deploy().unwrap();
    }

    /// How the update of a service stands, and what is said of it.
    pub(super) fn update(&self, name: &str) -> (Option<UpdateState>, String) {
        let rollout = self.cluster().services[&self.find(name)].rollout.as_ref();
        let said = rollout.map(|rollout| rollout.status.message.clone()).unwrap_or_default();
        (rollout.map(|rollout| rollout.status.state), said)
    }

    /// Each agent takes each of its tasks one step; says whether anything moved.
    pub(super) fn act(&mut self) -> bool {
        let mut reports = BTreeMap::new();
        for task in self.cluster().tasks.clone().values() {
            let Some(node) = task.node.filter(|node| !self.dead.contains(node)) else { continue };
            if let Some(status) = self.next_status(task) {
                self.log.push(format!("  {} {}", self.name(task), status_text(&status)));
                reports.insert((node, task.id), status);
            }
        }
        let set = plan::nodes::reports(self.cluster(), &reports, self.now);
        let changed = !set.is_empty();
        self.apply(set);
        changed
    }

    /// What a container does follows from the name of its image.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most states have nothing to do")]
    fn next_status(&self, task: &Task) -> Option<TaskStatus> {
        let state = task.status.state;
        let version = self.cluster().services.get(&task.service)?.version(task.version)?;
        let image = version.image.as_str();
        let at = |state| TaskStatus::new(state, self.now);
        match state {
            _ if state.is_over() => None,
            _ if task.desired >= Desired::Stop => Some(at(TaskState::Shutdown)),
            TaskState::Assigned if image == format!("not-on-{}", self.hostname(task.node?)) => {
                Some(at(TaskState::Rejected).because(format!("no such image: {image}")))
            }
            TaskState::Assigned if image.contains("absent") => {
                Some(at(TaskState::Rejected).because(format!("no such image: {image}")))
            }
            TaskState::Assigned => Some(at(TaskState::Starting)),
            TaskState::Starting if image.contains("slow") => None,
            TaskState::Starting if image.contains("sick") => {
                Some(at(TaskState::Failed).because("unhealthy: no answer"))
            }
            TaskState::Starting => Some(at(TaskState::Running)),
            TaskState::Running if image.contains("crash") => {
                Some(TaskStatus { exit_code: Some(1), ..at(TaskState::Failed) })
            }
            TaskState::Running if image.contains("job") => {
                Some(TaskStatus { exit_code: Some(0), ..at(TaskState::Complete) })
            }
            _ => None,
        }
    }

    /// Decides and acts until nothing moves; time stands still.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            let decided = self.decide();
            if !self.act() && !decided {
                let all = Agenda::everything(self.cluster());
                let facts = self.facts();
                let plan = plan::decide(&self.world, &all, facts, self.now, &mut self.ids.clone());
                assert!(plan.set.is_empty(), "settled, but there is more to do: {:#?}", plan.set);
                assert!(self.world == World::new(self.cluster().clone()), "an index is not of the cluster");
                return;
            }
        }
        panic!("does not settle: {:#?}", self.log);
    }

    /// Settles, again and again whenever something is due, for so long.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now.plus(time);
        self.settle();
        while let Some(next) = self.due.values().min().copied().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.log
                .push(format!("  (+{}s)", self.now.since(UnixMillis(1_000_000)).as_millis() as f64 / 1000.0));
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Any node.
    pub(super) fn node_here(&self) -> NodeId {
        *self.cluster().nodes.keys().next().expect("there is always a node")
    }

    pub(super) fn node(&self, hostname: &str) -> NodeId {
        let found = self.cluster().nodes.values().find(|node| node.info.hostname == hostname);
        found.unwrap_or_else(|| panic!("no node {hostname}")).id
    }

    pub(super) fn find(&self, name: &str) -> ServiceId {
        plan::find::service(self.cluster(), name).unwrap().id
    }

    fn hostname(&self, node: NodeId) -> String {
        self.cluster().nodes.get(&node).map_or_else(|| node.to_string(), |node| node.info.hostname.clone())
    }

    pub(super) fn name(&self, task: &Task) -> String {
        let service = self.cluster().services.get(&task.service);
        let service = service.map_or_else(|| "?".to_owned(), |service| service.name.to_string());
        let slot = match task.slot {
            crate::model::Slot::Replica(slot) => slot.to_string(),
            crate::model::Slot::Node(node) => self.hostname(node),
        };
        let id = task.id.to_string();
        format!("{service}.{slot} #{} v{}", id.trim_start_matches('0'), task.version)
    }

    /// Puts what a decision changes into words.
    fn tell(&mut self, set: &ChangeSet) {
        use crate::model::{Change, Object};
        let mut lines = Vec::new();
        for change in &set.changes {
            match change {
                Change::Create(Object::Task(task)) => {
                    lines.push(format!("new {}", self.task_line(None, task)))
                }
                Change::Update(Object::Task(task)) => {
                    let old = self.cluster().tasks.get(&task.id).cloned();
                    lines.push(self.task_line(old.as_deref(), task));
                }
                Change::Update(Object::Service(service)) => {
                    let was = &self.cluster().services[&service.id];
                    if was.rollout != service.rollout
                        && let Some(rollout) = &service.rollout
                    {
                        let failed = match rollout.failed.len() {
                            0 => String::new(),
                            n => format!(", {n} of {} failed", rollout.slots),
                        };
                        let status = &rollout.status;
                        lines.push(format!("{} {}: {}{failed}", service.name, status.state, status.message));
                    }
                    if was.waiting != service.waiting {
                        let now = if service.waiting.is_empty() {
                            "nothing".to_owned()
                        } else {
                            service.waiting.join("; ")
                        };
                        lines.push(format!("{} waits for: {now}", service.name));
                    }
                }
                Change::Delete(ObjectKey::Task(id), _) => {
                    lines.push(format!("forget {}", self.name(&self.cluster().tasks[id])));
                }
                Change::Delete(key, _) => lines.push(format!("forget {}", key_text(*key))),
                Change::Create(_) | Change::Update(_) => {}
            }
        }
        self.log.extend(lines);
    }

    fn task_line(&self, old: Option<&Task>, new: &Task) -> String {
        let mut words = vec![self.name(new)];
        if old.is_some_and(|old| old.desired != new.desired) {
            words.push(format!("{:?}", new.desired).to_lowercase());
        }
        if let Some(node) = new.node.filter(|_| old.is_none_or(|old| old.node.is_none())) {
            let addresses: Vec<_> = new.networks.iter().map(|(_, address)| address.to_string()).collect();
            words.push(format!("-> {} {}", self.hostname(node), addresses.join(" ")));
        } else if old.is_none_or(|old| old.status != new.status) {
            words.push(status_text(&new.status));
        }
        if let Some(at) = new.not_before.filter(|_| old.is_none()) {
            words.push(format!("(in {}s)", at.since(self.now).as_millis() as f64 / 1000.0));
        }
        words.join(" ")
    }

    /// The tasks, one a line.
    pub(super) fn show(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for view in plan::show::tasks(self.cluster(), Default::default()) {
            let task: &Task = &self.cluster().tasks[&view.id];
            let node = view.hostname.unwrap_or_else(|| "-".to_owned());
            let desired = format!("{:?}", task.desired).to_lowercase();
            lines.push(format!("{} {node} {desired} {}", self.name(task), status_text(&task.status)));
        }
        for node in self.cluster().nodes.values() {
            let blocks: Vec<_> = node.blocks.values().flatten().map(|block| block.to_string()).collect();
            let state = if node.state == NodeState::Ready { "" } else { " down" };
            lines.push(format!("{}{state} {}", node.info.hostname, blocks.join(" ")).trim_end().to_owned());
        }
        lines
    }

    pub(super) fn progress(&self) -> Vec<String> {
        let Some(stack) = self.cluster().stacks.values().next() else { return vec!["no stack".to_owned()] };
        self.progress_of(plan::progress::Selector::Stack(stack.id))
    }

    /// Whoever asks for progress has asked for the newest version of this service.
    pub(super) fn note_asked(&mut self, service: ServiceId) {
        self.asked.insert(service, self.cluster().services[&service].current().number);
    }

    pub(super) fn progress_of(&self, selector: plan::progress::Selector) -> Vec<String> {
        let progress =
            plan::progress::progress(&plan::World::new(self.cluster().clone()), selector, &self.asked)
                .unwrap();
        let line = |service: &raftup_proto::api::ServiceProgress| {
            let waiting = service.waiting.join("; ");
            format!("{} {}/{} {waiting}", service.name, service.running, service.desired)
                .trim_end()
                .to_owned()
        };
        let mut lines: Vec<_> = progress.services.iter().map(line).collect();
        lines.push(format!("{:?}", progress.outcome));
        lines
    }

    pub(super) fn revision(&self) -> Revision {
        self.cluster().revision
    }
}

fn status_text(status: &TaskStatus) -> String {
    let exit = status.exit_code.map(|code| format!(" {code}")).unwrap_or_default();
    let why = status.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
    format!("{}{exit}{why}", status.state)
}

/// The contents of a stack; nothing seals them here.
fn contents(spec: &StackSpec) -> plan::blobs::Contents {
    let mut contents = plan::blobs::Contents::new();
    for kind in BlobKind::ALL {
        for (name, blob) in spec.blobs(kind) {
            if let Some(data) = &blob.data {
                contents.insert((kind, name.clone()), Sealed(data.expose().to_vec()));
            }
        }
    }
    contents
}

fn key_text(key: ObjectKey) -> &'static str {
    match key {
        ObjectKey::Cluster => "cluster",
        ObjectKey::Node(_) => "node",
        ObjectKey::Stack(_) => "stack",
        ObjectKey::Service(_) => "service",
        ObjectKey::Task(_) => "task",
        ObjectKey::Network(_) => "network",
        ObjectKey::Volume(_) => "volume",
        ObjectKey::Blob(_) => "blob",
    }
}
