//! What every engine must do: one list, carried out on the fake and on a real engine.

mod contract;
pub(crate) mod real;

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use raftup_proto::{
    id::{ClusterId, NetworkId, NodeId, ServiceId, TaskId},
    spec::{ContainerSpec, Healthcheck},
    unit::UnixMillis,
    view::{Goal, NetworkItem, TaskItem},
};

use super::*;

pub(crate) const IMAGE: &str = "busybox:test";
pub(crate) const CLUSTER: ClusterId = ClusterId::from_random(7);
/// Within this, everything has happened.
const SOON: Duration = Duration::from_secs(30);

/// A task that runs a shell line.
pub(crate) fn task(number: u64, line: &str) -> TaskItem {
    TaskItem {
        task: TaskId::from_random(number),
        service: ServiceId::from_random(1),
        stack: "shop".parse().unwrap(),
        name: "web".parse().unwrap(),
        slot: number,
        goal: Goal::Run,
        container: ContainerSpec {
            image: IMAGE.to_owned(),
            command: Some(["/bin/sh", "-c", line].map(str::to_owned).into()),
            init: true,
            ..ContainerSpec::default()
        },
        image: IMAGE.to_owned(),
        resources: Default::default(),
        networks: Vec::new(),
        volumes: BTreeMap::new(),
    }
}

pub(crate) fn network(number: u64) -> NetworkItem {
    NetworkItem {
        network: NetworkId::from_random(number),
        stack: Some("shop".parse().unwrap()),
        name: format!("net{number}").parse().unwrap(),
        subnet: format!("10.99.{}.0/19", number * 32).parse().unwrap(),
        internal: false,
        attachable: false,
        plain: false,
    }
}

pub(crate) fn settings(task: &TaskItem) -> ContainerSettings {
    ContainerSettings::of(CLUSTER, NodeId::new(1), task, Vec::new(), None)
}

fn network_settings(item: &NetworkItem) -> NetworkSettings {
    NetworkSettings {
        name: item.engine_name(),
        labels: labels::of_network(CLUSTER, item),
        bridge: item.bridge(),
        subnet: item.subnet,
        range: item.subnet,
        gateway: item.gateway(),
        mtu: 1400,
    }
}

async fn inspected(engine: &dyn Engine, name: &str, wanted: impl Fn(&Condition) -> bool) -> Condition {
    let look = async {
        loop {
            let found = engine.inspect(name).await.unwrap().expect("it is there");
            if wanted(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, look).await.expect("in time")
}

fn ended(condition: &Condition) -> bool {
    matches!(condition, Condition::Exited(_))
}

async fn lives_and_dies(engine: &dyn Engine) {
    let task = task(1, "echo one; sleep 1000");
    let name = task.container_name();
    // An engine tells of every network that a container leaves.
    let mut events = engine.events(CLUSTER, UnixMillis(0)).filter(|event| {
        std::future::ready(!event.as_ref().is_ok_and(|event| event.kind == EventKind::Detached))
    });
    let id = engine.create(&settings(&task)).await.unwrap();
    assert_eq!(engine.create(&settings(&task)).await.unwrap(), id, "made once");
    let listed = engine.containers(CLUSTER).await.unwrap();
    let container = Container {
        id: id.clone(),
        task: task.task,
        condition: Condition::Created,
        paused: false,
        networks: listed.iter().flat_map(|one| one.networks.clone()).collect(),
    };
    assert_eq!(listed, [container]);
    engine.start(&name).await.unwrap();
    engine.start(&name).await.unwrap();
    assert_eq!(engine.inspect(&name).await.unwrap(), Some(Condition::Running(Health::Unchecked)));
    assert_eq!(engine.containers(ClusterId::from_random(8)).await.unwrap(), []);
    engine.stop(&name, Duration::from_secs(10), None).await.unwrap();
    let Some(Condition::Exited(exit)) = engine.inspect(&name).await.unwrap() else { panic!("it runs") };
    assert_eq!((exit.code, exit.out_of_memory), (143, false));
    engine.stop(&name, Duration::from_secs(10), None).await.unwrap();
    engine.remove(&name).await.unwrap();
    engine.remove(&name).await.unwrap();
    engine.stop(&name, Duration::from_secs(10), None).await.unwrap();
    assert_eq!(engine.inspect(&name).await.unwrap(), None);
    let kinds = [
        EventKind::Started,
        EventKind::Signalled { signal: 15 },
        EventKind::Died { code: 143 },
        EventKind::Removed,
    ];
    for kind in kinds {
        let event = tokio::time::timeout(SOON, events.next()).await.expect("in time").unwrap().unwrap();
        assert_eq!(event, Event { container: id.clone(), task: Some(task.task), kind });
    }
}

async fn writes_and_exits(engine: &dyn Engine) {
    let task = task(2, "echo one; echo two; exit 3");
    let name = task.container_name();
    engine.create(&settings(&task)).await.unwrap();
    engine.start(&name).await.unwrap();
    let mut log = engine.logs(&name, LogOptions { follow: true, ..LogOptions::default() });
    let mut lines = Vec::new();
    while let Some(part) = tokio::time::timeout(SOON, log.next()).await.expect("in time") {
        let part = part.unwrap();
        assert!(part.at_nanos > 0);
        lines.push(part.line);
    }
    assert_eq!(lines, ["one", "two"]);
    let Condition::Exited(exit) = inspected(engine, &name, ended).await else { panic!("it runs") };
    assert_eq!(exit.code, 3);
    let tail = LogOptions { tail: Some(1), ..LogOptions::default() };
    let last: Vec<_> = engine.logs(&name, tail).map(|part| part.unwrap().line).collect().await;
    assert_eq!(last, ["two"]);
    let listed = engine.containers(CLUSTER).await.unwrap();
    assert!(matches!(&listed[..], [Container { condition: Condition::Exited(Exit { code: 3, .. }), .. }]));
    engine.remove(&name).await.unwrap();
}

async fn is_checked(engine: &dyn Engine) {
    for (number, test) in [(3, "exit 0"), (4, "echo no answer; exit 1")] {
        let mut task = task(number, "sleep 1000");
        let test = Some(["CMD-SHELL", test].map(str::to_owned).into());
        let second = Some(Duration::from_secs(1));
        task.container.healthcheck = Some(Healthcheck::Check {
            test,
            interval: second,
            timeout: second,
            retries: Some(1),
            start_period: None,
            start_interval: None,
        });
        let name = task.container_name();
        let mut events = engine.events(CLUSTER, UnixMillis(0)).skip_while(move |event| {
            let ours = event.as_ref().is_ok_and(|event| {
                event.task == Some(TaskId::from_random(number)) && event.kind != EventKind::Started
            });
            std::future::ready(!ours)
        });
        engine.create(&settings(&task)).await.unwrap();
        engine.start(&name).await.unwrap();
        let first = engine.inspect(&name).await.unwrap();
        assert_eq!(first, Some(Condition::Running(Health::Starting)));
        let event = tokio::time::timeout(SOON, events.next()).await.expect("in time").unwrap().unwrap();
        let now = engine.inspect(&name).await.unwrap();
        if number == 3 {
            assert_eq!(event.kind, EventKind::Healthy);
            assert_eq!(now, Some(Condition::Running(Health::Healthy)));
        } else {
            assert_eq!(event.kind, EventKind::Unhealthy);
            let output = "no answer".to_owned();
            assert_eq!(now, Some(Condition::Running(Health::Unhealthy { output })));
        }
        let listed = engine.containers(CLUSTER).await.unwrap();
        assert_eq!(listed.first().map(|first| first.condition.clone()), now);
        engine.remove(&name).await.unwrap();
    }
}

async fn is_on_networks(engine: &dyn Engine) {
    let mut task = task(5, "sleep 1000");
    let mut attachments = Vec::new();
    for number in [1, 2] {
        let item = network(number);
        let id = engine.create_network(&network_settings(&item)).await.unwrap();
        let address = Ipv4Addr::from(u32::from(item.gateway()) + 70);
        task.networks.push((item.network, address));
        attachments.push(Attachment { network: id, address, options: Default::default() });
    }
    let found = engine.networks().await.unwrap();
    let of = Some((CLUSTER, NetworkId::from_random(1)));
    let name = "shop_net1".to_owned();
    assert!(found.contains(&Network { id: attachments[0].network.clone(), name, of, outdated: false }));
    let first = network(1);
    let settings =
        ContainerSettings::of(CLUSTER, NodeId::new(1), &task, attachments.clone(), Some(first.gateway()));
    engine.create(&settings).await.unwrap();
    engine.create(&settings).await.unwrap();
    engine.start(&settings.name).await.unwrap();
    let refused = engine.remove_network(&attachments[1].network).await;
    assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");
    engine.remove(&settings.name).await.unwrap();
    for attachment in attachments {
        engine.remove_network(&attachment.network).await.unwrap();
        engine.remove_network(&attachment.network).await.unwrap();
    }
    let overlap =
        NetworkSettings { subnet: "10.99.0.0/16".parse().unwrap(), ..network_settings(&network(1)) };
    let id = engine.create_network(&overlap).await.unwrap();
    let refused = engine.create_network(&network_settings(&network(2))).await;
    assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");
    engine.remove_network(&id).await.unwrap();
}

async fn says_what_is_missing(engine: &dyn Engine) {
    assert!(engine.info().await.unwrap().engine.is_some());
    engine.ping().await.unwrap();
    assert_eq!(engine.image(IMAGE).await.unwrap(), Some(Image { checked: false }));
    let nowhere = "127.0.0.1:9/none:1";
    assert_eq!(engine.image(nowhere).await.unwrap(), None);
    let mut task = task(6, "exit 0");
    task.image = nowhere.to_owned();
    let created = engine.create(&settings(&task)).await;
    assert!(matches!(created, Err(EngineError::NotFound { .. })), "{created:?}");
    let pulled = engine.pull(nowhere, None, None).await;
    assert!(pulled.as_ref().is_err_and(|error| !error.is_down()), "{pulled:?}");
    let started = engine.start("nobody").await;
    assert!(matches!(started, Err(EngineError::NotFound { .. })), "{started:?}");
}

async fn all(engine: &dyn Engine) {
    says_what_is_missing(engine).await;
    lives_and_dies(engine).await;
    writes_and_exits(engine).await;
    is_checked(engine).await;
    is_on_networks(engine).await;
    assert_eq!(engine.containers(CLUSTER).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn fake_engine_does_it_all() {
    let engine = FakeEngine::new();
    engine.add_image(IMAGE);
    all(&engine).await;
}

#[tokio::test]
async fn real_engine_does_it_all() {
    let Some(host) = real::Host::start("verbs").await else { return };
    all(&host.engine).await;
}
