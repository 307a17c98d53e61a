//! The agent on an engine, told by hand what a leader would send.

mod hooks;
mod real;
mod session;

use std::{path::Path, time::Duration};

use raftup_proto::{
    peer::{TaskState, TaskStatus},
    spec::{BlobMount, Healthcheck},
    unit::MemBytes,
    view::{Goal, Item, TaskItem},
};

use super::{files::Contents, *};
use crate::engine::{
    Condition, EngineError, Exit, FakeEngine,
    tests::{CLUSTER, IMAGE, network, task},
};

/// Within this, everything has happened.
const SOON: Duration = Duration::from_secs(90);

struct NoCredentials;

#[async_trait]
impl Credentials for NoCredentials {
    async fn credential(&self, _: TaskId) -> Result<Option<Credential>, Refusal> {
        Ok(None)
    }
}

/// The one content that the leader gives away.
const KNOWN: BlobId = BlobId::from_random(1);

#[async_trait]
impl Contents for NoCredentials {
    async fn blob(&self, _: TaskId, blob: BlobId) -> Result<Secret<Vec<u8>>, Refusal> {
        match blob == KNOWN {
            true => Ok(b"of the leader".to_vec().into()),
            false => Err(Refusal::new(Code::Forbidden, "not for this task")),
        }
    }
}

/// An agent, and the ends that its session would hold.
struct Node {
    agent: Agent,
    ends: Ends,
}

fn info() -> NodeInfo {
    NodeInfo {
        hostname: "ant".to_owned(),
        control: "127.0.0.1:7238".parse().unwrap(),
        underlay: "127.0.0.1".parse().unwrap(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        version: "0".to_owned(),
        level: crate::plan::level::NEWEST,
        platform: Platform::default(),
        deaf: Vec::new(),
        troubles: Vec::new(),
    }
}

fn config(dir: &Path) -> AgentConfig {
    AgentConfig {
        dir: dir.to_owned(),
        run_dir: dir.to_owned(),
        cluster: CLUSTER,
        node: NodeId::new(1),
        info: info(),
        seeds: Vec::new(),
        first: None,
    }
}

impl Node {
    fn start(dir: &Path, engine: &(impl Engine + Clone)) -> Self {
        let files = Files::unmounted(dir, Arc::new(NoCredentials));
        let (agent, ends) =
            Agent::build(config(dir), Arc::new(engine.clone()), Arc::new(NoCredentials), files);
        agent.mtu.send_replace([(Lane::Main, 1400)].into());
        Self { agent, ends }
    }

    /// A manager sends this view.
    fn tell(&self, items: impl IntoIterator<Item = Item>) {
        self.ends.view.send_modify(|view| {
            *view = Arc::new(View::of(Revision(view.generation.0 + 1), items));
        });
        self.ends.fresh.send_replace(true);
    }

    fn tell_tasks(&self, tasks: &[&TaskItem]) {
        self.tell(tasks.iter().map(|task| Item::Task(Box::new((*task).clone()))));
    }

    async fn until(&self, task: &TaskItem, wanted: impl Fn(&TaskStatus) -> bool) -> TaskStatus {
        let mut moved = self.ends.reports.moved();
        let look = async {
            loop {
                moved.mark_unchanged();
                let status = self.ends.reports.get(task.task);
                if let Some(status) = status.filter(|status| wanted(status)) {
                    return status;
                }
                moved.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(SOON, look).await {
            Ok(status) => status,
            Err(_) => panic!("{:?} stays {:?}", task.task, self.ends.reports.get(task.task)),
        }
    }

    async fn until_state(&self, task: &TaskItem, state: TaskState) -> TaskStatus {
        let status = self.until(task, |status| status.state >= state).await;
        assert_eq!(status.state, state, "{status:?}");
        status
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look = async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, look).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn stopped(task: &TaskItem) -> TaskItem {
    TaskItem { goal: Goal::Stop, ..task.clone() }
}

fn fake() -> FakeEngine {
    let engine = FakeEngine::new();
    engine.add_image(IMAGE);
    engine
}

#[tokio::test(start_paused = true)]
async fn tasks_start_stop_and_are_forgotten() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (net, mut web, other) = (network(1), task(1, "sleep 1000"), task(2, "sleep 1000"));
    web.networks = vec![(net.network, "10.99.32.70".parse().unwrap())];
    let items = |web: &TaskItem| {
        [Item::Network(net.clone()), Item::Task(Box::new(web.clone())), Item::Task(Box::new(other.clone()))]
    };
    node.tell(items(&web));
    let status = node.until_state(&web, TaskState::Running).await;
    assert_eq!((status.message, status.exit_code), (None, None));
    assert!(status.container.is_some());
    node.until_state(&other, TaskState::Running).await;
    node.tell(items(&stopped(&web)));
    let status = node.until_state(&web, TaskState::Shutdown).await;
    assert_eq!(status.message, None);
    node.until(&web, |status| status.exit_code == Some(143)).await;
    assert_eq!(engine.names().len(), 2, "kept until it is forgotten");
    assert_eq!(engine.networks().await.unwrap()[0].name, "shop_net1");
    node.tell_tasks(&[&other]);
    eventually("container removed", async || engine.names().len() == 1).await;
    eventually("network removed", async || engine.networks().await.unwrap().is_empty()).await;
    eventually("report forgotten", async || node.ends.reports.get(web.task).is_none()).await;
    assert_eq!(engine.starts(&other.container_name()), 1);
    node.agent.leave().await.unwrap();
    assert!(engine.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn files_of_secrets_are_there_while_the_task_may_run() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let reader = |number, id| {
        let mut task = task(number, "sleep 1000");
        let (source, name) = ("key".parse().unwrap(), "shop_key".to_owned());
        let target = "/run/secrets/key".to_owned();
        let secret = BlobMount { source, name, target, uid: 0, gid: 0, mode: 0o400, id: Some(id) };
        task.container.secrets.push(secret);
        task
    };
    let (web, foreign) = (reader(1, KNOWN), reader(2, BlobId::from_random(2)));
    let file = dir.path().join("secrets").join(web.task.to_string()).join("0-key");
    node.tell_tasks(&[&web, &foreign]);
    node.until_state(&web, TaskState::Running).await;
    assert_eq!(std::fs::read(&file).unwrap(), b"of the leader");
    let status = node.until_state(&foreign, TaskState::Rejected).await;
    assert_eq!(status.message.unwrap(), "secret `shop_key` cannot be had: not for this task");

    // A later process leaves them alone, and removes what no task has any more.
    node.agent.shutdown().await;
    let left = dir.path().join("secrets").join(TaskId::from_random(9).to_string());
    std::fs::create_dir(&left).unwrap();
    let node = Node::start(dir.path(), &engine);
    node.tell_tasks(&[&web]);
    node.until_state(&web, TaskState::Running).await;
    eventually("the files of no task are removed", async || !left.exists()).await;
    assert_eq!(std::fs::read(&file).unwrap(), b"of the leader");
    assert_eq!(engine.starts(&web.container_name()), 1);
    node.tell_tasks(&[&stopped(&web)]);
    node.until_state(&web, TaskState::Shutdown).await;
    eventually("its files are removed", async || !file.exists()).await;
    node.agent.leave().await.unwrap();
    assert!(!dir.path().join("secrets").exists());
}

#[tokio::test(start_paused = true)]
async fn ends_are_told_with_their_reason() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (good, bad, mut missing, mut ill) =
        (task(1, "exit 0"), task(2, "exit 3"), task(3, "exit 0"), task(4, "sleep 1000"));
    missing.image = "nowhere:1".to_owned();
    let second = Some(Duration::from_secs(1));
    ill.container.healthcheck = Some(Healthcheck::Check {
        test: Some(["CMD-SHELL", "echo no answer; exit 1"].map(str::to_owned).into()),
        interval: second,
        timeout: second,
        retries: Some(2),
        start_period: None,
        start_interval: None,
    });
    let hog = task(5, "sleep 1000");
    node.tell_tasks(&[&good, &bad, &missing, &ill, &hog]);
    assert_eq!(node.until_state(&good, TaskState::Complete).await.exit_code, Some(0));
    let status = node.until_state(&bad, TaskState::Failed).await;
    assert_eq!((status.exit_code, status.message.as_deref()), (Some(3), Some("exit status 3")));
    let message = node.until_state(&missing, TaskState::Rejected).await.message.unwrap();
    assert!(message.starts_with("image `nowhere:1` cannot be pulled: pull access denied"), "{message}");
    let status = node.until(&ill, |status| status.state == TaskState::Starting).await;
    assert!(status.message.is_none());
    let status = node.until_state(&ill, TaskState::Failed).await;
    assert_eq!(status.message.as_deref(), Some("unhealthy: no answer"));
    let name = ill.container_name();
    eventually("stopped", async || matches!(engine.inspect(&name).await, Ok(Some(Condition::Exited(_)))))
        .await;
    node.until_state(&hog, TaskState::Running).await;
    engine.exit(&hog.container_name(), Exit { code: 137, out_of_memory: true, ..Exit::default() });
    let message = node.until_state(&hog, TaskState::Failed).await.message.unwrap();
    assert_eq!(message, "killed: the host was out of memory");
}

/// An engine tells of the end and of its reason in either order, and may not know the reason when it is asked.
#[tokio::test(start_paused = true)]
async fn used_up_memory_is_named_whenever_the_engine_says_so() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let [before, after, never] = [1, 2, 3].map(|number| {
        let mut task = task(number, "sleep 1000");
        task.resources.limits.memory = Some(MemBytes(16 << 20));
        task
    });
    node.tell_tasks(&[&before, &after, &never]);
    for task in [&before, &after, &never] {
        node.until_state(task, TaskState::Running).await;
    }
    let killed = || Exit { code: 137, ..Exit::default() };
    engine.out_of_memory(&before.container_name());
    engine.exit(&before.container_name(), killed());
    engine.exit(&after.container_name(), killed());
    engine.exit(&never.container_name(), killed());
    sleep(Duration::from_millis(50)).await;
    engine.out_of_memory(&after.container_name());
    for (task, words) in [
        (&before, "killed: it used up its 16MiB of memory"),
        (&after, "killed: it used up its 16MiB of memory"),
        (&never, "killed (exit status 137)"),
    ] {
        let status = node.until_state(task, TaskState::Failed).await;
        assert_eq!(status.message.as_deref(), Some(words));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_overtakes_a_pull() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    engine.add_remote_image("big:1", Duration::from_secs(3600));
    let node = Node::start(dir.path(), &engine);
    let mut big = task(1, "sleep 1000");
    big.image = "big:1".to_owned();
    node.tell_tasks(&[&big]);
    let status = node.until(&big, |status| status.message.is_some()).await;
    assert_eq!(
        (status.state, status.message.as_deref()),
        (TaskState::Preparing, Some("image `big:1` is pulled"))
    );
    node.tell_tasks(&[&stopped(&big)]);
    node.until_state(&big, TaskState::Shutdown).await;
    assert!(engine.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_takes_what_it_finds() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (keep, quits, gone) = (task(1, "sleep 1000"), task(2, "sleep 1000"), task(3, "sleep 1000"));
    let mut missing = task(4, "exit 0");
    missing.image = "nowhere:1".to_owned();
    node.tell_tasks(&[&keep, &quits, &gone, &missing]);
    for task in [&keep, &quits, &gone] {
        node.until_state(task, TaskState::Running).await;
    }
    node.until_state(&missing, TaskState::Rejected).await;
    let since = node.ends.reports.get(keep.task).unwrap();
    node.agent.shutdown().await;
    engine.exit(&quits.container_name(), Exit { code: 2, ..Exit::default() });
    // What could not be made is not tried again: a task is one attempt.
    engine.add_image("nowhere:1");

    let node = Node::start(dir.path(), &engine);
    let status = node.until_state(&quits, TaskState::Failed).await;
    assert_eq!(status.message.as_deref(), Some("exit status 2"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(engine.names().len(), 3, "nothing is removed on the strength of the disk alone");
    assert_eq!(node.ends.reports.get(keep.task), Some(since));
    node.tell_tasks(&[&keep, &missing]);
    eventually("removed", async || engine.names().len() == 1).await;
    assert_eq!(engine.starts(&keep.container_name()), 1);
    assert_eq!(node.ends.reports.get(missing.task).unwrap().state, TaskState::Rejected);

    // Without its file it finds the same.
    node.agent.shutdown().await;
    std::fs::remove_file(dir.path().join(saved::FILE)).unwrap();
    let node = Node::start(dir.path(), &engine);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(engine.names().len(), 1);
    node.tell_tasks(&[&keep]);
    node.until_state(&keep, TaskState::Running).await;
    assert_eq!(engine.starts(&keep.container_name()), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_known_while_the_engine_is_away() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (keep, dies, late) = (task(1, "sleep 10000"), task(2, "sleep 10000"), task(3, "sleep 10000"));
    node.tell_tasks(&[&keep, &dies]);
    let before = node.until_state(&keep, TaskState::Running).await;
    node.until_state(&dies, TaskState::Running).await;
    engine.set_down(true);
    eventually("noticed", async || !node.agent.problems().is_empty()).await;
    engine.exit(&dies.container_name(), Exit { code: 9, ..Exit::default() });
    node.tell_tasks(&[&keep, &dies, &late]);
    sleep(Duration::from_secs(600)).await;
    for task in [&keep, &dies] {
        assert_eq!(node.ends.reports.get(task.task).unwrap().state, TaskState::Running);
    }
    assert!(node.ends.reports.get(late.task).unwrap().state < TaskState::Starting);
    engine.set_down(false);
    assert_eq!(node.until_state(&dies, TaskState::Failed).await.exit_code, Some(9));
    node.until_state(&late, TaskState::Running).await;
    assert_eq!(node.ends.reports.get(keep.task), Some(before));
    assert_eq!(engine.starts(&keep.container_name()), 1);
}

#[tokio::test(start_paused = true)]
async fn networks_of_others_are_left_alone() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let item = network(1);
    let foreign = crate::engine::NetworkSettings {
        name: "shop_net1".to_owned(),
        labels: Default::default(),
        bridge: "br0".to_owned(),
        subnet: "10.1.0.0/16".parse().unwrap(),
        range: "10.1.0.0/16".parse().unwrap(),
        gateway: "10.1.0.1".parse().unwrap(),
        mtu: 1500,
    };
    engine.create_network(&foreign).await.unwrap();
    let node = Node::start(dir.path(), &engine);
    let mut web = task(1, "sleep 10000");
    web.networks = vec![(item.network, "10.99.32.70".parse().unwrap())];
    // The task comes before its network, and before the packet size is known.
    node.agent.mtu.send_replace(Default::default());
    node.tell_tasks(&[&web]);
    let status = node.until(&web, |status| status.message.is_some()).await;
    assert_eq!(status.message.unwrap(), format!("network {} is not there yet", item.network));
    node.tell([Item::Network(item.clone()), Item::Task(Box::new(web.clone()))]);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(engine.networks().await.unwrap().len(), 1);
    node.agent.mtu.send_replace([(Lane::Main, 1400)].into());
    node.until_state(&web, TaskState::Running).await;
    let names: Vec<_> = engine.networks().await.unwrap().into_iter().map(|network| network.name).collect();
    assert_eq!(names, ["shop_net1".to_owned(), format!("shop_net1_{}", item.network)]);
    node.agent.leave().await.unwrap();
    assert_eq!(engine.networks().await.unwrap().len(), 1);
    assert!(matches!(engine.create(&settings_of(&web)).await, Err(EngineError::NotFound { .. })));
}

/// An engine from 28 on closes networks that an older one made to other hosts.
#[tokio::test(start_paused = true)]
async fn networks_of_an_older_engine_are_made_anew_once_nothing_is_on_them() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let item = network(1);
    let web = |number: u64, address: &str| {
        let mut web = task(number, "sleep 1000");
        web.networks = vec![(item.network, address.parse().unwrap())];
        web
    };
    let (first, second, third) = (web(1, "10.99.32.70"), web(2, "10.99.32.71"), web(3, "10.99.32.72"));
    let tell = |tasks: &[&TaskItem]| {
        let tasks = tasks.iter().map(|task| Item::Task(Box::new((*task).clone())));
        node.tell(std::iter::once(Item::Network(item.clone())).chain(tasks));
    };
    tell(&[&first]);
    node.until_state(&first, TaskState::Running).await;
    let before = engine.networks().await.unwrap()[0].id.clone();
    let upgrade = async |version: &str| {
        engine.set_down(true);
        node.agent.up.clone().wait_for(|up| !*up).await.unwrap();
        engine.upgrade(version);
        engine.set_down(false);
        node.agent.up.clone().wait_for(|up| *up).await.unwrap();
    };
    upgrade("28.0.0").await;
    tell(&[&first, &second]);
    node.until_state(&second, TaskState::Running).await;
    assert_eq!(engine.networks().await.unwrap()[0].id, before, "a container is on it");
    tell(&[&stopped(&first), &stopped(&second)]);
    node.until_state(&first, TaskState::Shutdown).await;
    node.until_state(&second, TaskState::Shutdown).await;
    upgrade("28.1.0").await;
    tell(&[&third]);
    node.until_state(&third, TaskState::Running).await;
    let after = engine.networks().await.unwrap();
    assert_eq!(after.len(), 1);
    assert!(after[0].id != before && !after[0].outdated, "{after:?}");
}

fn settings_of(task: &TaskItem) -> crate::engine::ContainerSettings {
    let gone = crate::engine::Attachment {
        network: "gone".to_owned(),
        address: "10.99.32.70".parse().unwrap(),
        options: Default::default(),
    };
    crate::engine::ContainerSettings::of(CLUSTER, NodeId::new(1), task, vec![gone], None)
}

#[tokio::test(start_paused = true)]
async fn logs_are_followed_over_a_gap() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let talks = task(1, "echo one; sleep 10; echo two");
    node.tell_tasks(&[&talks]);
    node.until_state(&talks, TaskState::Running).await;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let lines: Vec<_> =
        node.agent.logs(talks.task, options).unwrap().map(|line| line.unwrap().line).collect().await;
    assert_eq!(lines, ["one", "two"]);
    let Err(refusal) = node.agent.logs(TaskId::from_random(9), options) else { panic!("it is not here") };
    assert!(refusal.message.contains("is not on node ant"));
}

#[tokio::test(start_paused = true)]
async fn the_agent_ends_though_the_engine_is_away() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (web, late) = (task(1, "sleep 10000"), task(2, "sleep 10000"));
    node.tell_tasks(&[&web]);
    node.until_state(&web, TaskState::Running).await;
    engine.set_down(true);
    node.tell_tasks(&[&stopped(&web), &late]);
    sleep(Duration::from_secs(10)).await;
    tokio::time::timeout(Duration::from_secs(5), node.agent.shutdown()).await.expect("it ends");
    engine.set_down(false);
    let node = Node::start(dir.path(), &engine);
    node.until_state(&web, TaskState::Shutdown).await;
    node.until_state(&late, TaskState::Running).await;
}

/// What somebody does to our containers with the engine's own commands.
#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_starts_again_is_stopped() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (web, done) = (task(1, "sleep 1000"), task(2, "exit 0"));
    node.tell_tasks(&[&web, &done]);
    node.until_state(&web, TaskState::Running).await;
    node.until_state(&done, TaskState::Complete).await;
    // `docker restart`.
    engine.stop(&web.container_name(), Duration::ZERO, None).await.unwrap();
    engine.start(&web.container_name()).await.unwrap();
    let status = node.until_state(&web, TaskState::Failed).await;
    assert_eq!(status.message.as_deref(), Some("somebody stopped its container by hand (exit status 143)"));
    let ended = async |task: &TaskItem| {
        matches!(engine.inspect(&task.container_name()).await, Ok(Some(Condition::Exited(_))))
    };
    eventually("stopped again", async || ended(&web).await).await;
    // The news of a start may be missed with the engine away.
    engine.set_down(true);
    eventually("noticed", async || !node.agent.problems().is_empty()).await;
    engine.set_down(false);
    engine.start(&web.container_name()).await.unwrap();
    eventually("found and stopped", async || ended(&web).await).await;
    assert_eq!(node.ends.reports.get(done.task).unwrap().state, TaskState::Complete);
    assert_eq!(engine.starts(&web.container_name()), 3);
}

#[tokio::test(start_paused = true)]
async fn a_container_with_another_name_is_stopped_and_removed() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let talks = task(1, "echo one; sleep 1000");
    node.tell_tasks(&[&talks]);
    node.until_state(&talks, TaskState::Running).await;
    engine.rename(&talks.container_name(), "mine");
    let options = LogOptions { tail: Some(1), ..LogOptions::default() };
    let lines: Vec<_> =
        node.agent.logs(talks.task, options).unwrap().map(|line| line.unwrap().line).collect().await;
    assert_eq!(lines, ["one"]);
    node.tell_tasks(&[&stopped(&talks)]);
    node.until_state(&talks, TaskState::Shutdown).await;
    assert!(matches!(engine.inspect("mine").await, Ok(Some(Condition::Exited(_)))));
    node.tell_tasks(&[]);
    eventually("removed", async || engine.names().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_container_goes_on_and_one_without_its_network_is_replaced() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (net, mut web) = (network(1), task(1, "sleep 1000"));
    web.networks = vec![(net.network, "10.99.32.70".parse().unwrap())];
    node.tell([Item::Network(net), Item::Task(Box::new(web.clone()))]);
    node.until_state(&web, TaskState::Running).await;
    let name = web.container_name();
    engine.pause(&name);
    assert!(engine.is_paused(&name));
    eventually("it goes on", async || !engine.is_paused(&name)).await;
    engine.disconnect(&name);
    let status = node.until_state(&web, TaskState::Failed).await;
    let why = "somebody took its container off network `shop_net1` by hand";
    assert_eq!(status.message.as_deref(), Some(why));
}

/// An engine without `live-restore` stops all containers with itself; some end with status 0.
#[tokio::test(start_paused = true)]
async fn an_end_with_the_engine_is_no_end_of_the_task() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    engine.end_containers_with_it();
    let node = Node::start(dir.path(), &engine);
    let (web, own) = (task(1, "sleep 1000"), task(2, "sleep 1000"));
    node.tell_tasks(&[&web, &own]);
    node.until_state(&web, TaskState::Running).await;
    node.until_state(&own, TaskState::Running).await;
    engine.exit(&own.container_name(), Exit::default());
    node.until_state(&own, TaskState::Complete).await;
    engine.stop_with_containers(0);
    eventually("noticed", async || !node.agent.problems().is_empty()).await;
    engine.set_down(false);
    let status = node.until_state(&web, TaskState::Orphaned).await;
    let why = "ended because Docker Engine or the host was stopped";
    assert_eq!((status.message.as_deref(), status.exit_code), (Some(why), Some(0)));
    assert_eq!(node.ends.reports.get(own.task).unwrap().state, TaskState::Complete);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_the_engine_holds_is_told() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (net, mut web) = (network(1), task(1, "sleep 1000"));
    web.networks = vec![(net.network, "10.99.32.70".parse().unwrap())];
    node.tell([Item::Network(net), Item::Task(Box::new(web.clone()))]);
    node.until_state(&web, TaskState::Running).await;
    // A container that is none of ours is on it as well.
    let id = engine.networks().await.unwrap()[0].id.clone();
    let on = crate::engine::Attachment {
        network: id,
        address: "10.99.32.99".parse().unwrap(),
        options: Default::default(),
    };
    let foreign = crate::engine::ContainerSettings {
        name: "foreign".to_owned(),
        labels: Default::default(),
        ..crate::engine::ContainerSettings::of(
            CLUSTER,
            NodeId::new(1),
            &task(9, "sleep 1000"),
            vec![on],
            None,
        )
    };
    let foreign = engine.create(&foreign).await.unwrap();
    engine.start(&foreign).await.unwrap();
    node.tell([]);
    eventually("it is told", async || {
        node.agent.problems().iter().any(|problem| problem.contains("still holds network `shop_net1`"))
    })
    .await;
    engine.remove(&foreign).await.unwrap();
    eventually("it is gone", async || engine.networks().await.unwrap().is_empty()).await;
    assert!(node.agent.problems().is_empty());
}
