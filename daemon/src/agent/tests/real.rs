//! The agent on a real engine.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use raftup_proto::{
    spec::{Mount, MountSource},
    unit::MemBytes,
};

use super::*;
use crate::engine::tests::real::Host;

const COUNT: u64 = 20;

fn many() -> Vec<TaskItem> {
    let address = |number| std::net::Ipv4Addr::from(u32::from(network(1).gateway()) + 64 + number);
    let web = |number: u64| {
        let mut web = task(number, "sleep 1000");
        web.networks = vec![(network(1).network, address(u32::try_from(number).unwrap()))];
        web
    };
    (1..=COUNT).map(web).collect()
}

fn items(tasks: &[TaskItem]) -> Vec<Item> {
    let tasks = tasks.iter().map(|task| Item::Task(Box::new(task.clone())));
    std::iter::once(Item::Network(network(1))).chain(tasks).collect()
}

/// The same containers, started in parallel through the engine's API and nothing else.
async fn plainly(engine: &crate::engine::DockerEngine, tasks: &[TaskItem], at_a_time: usize) -> Duration {
    let view = watch::channel(Arc::default()).1;
    let whose = (CLUSTER, NodeId::new(1));
    let networks = Networks::new(
        Arc::new(engine.clone()),
        whose,
        view,
        watch::channel([(Lane::Main, 1400)].into()).1,
        watch::channel(Platform::default()).1,
    );
    let id = networks.ensure(&network(1)).await.unwrap();
    let begin = Instant::now();
    stream::iter(tasks)
        .for_each_concurrent(at_a_time, |task| {
            let attachment = crate::engine::Attachment {
                network: id.clone(),
                address: task.networks[0].1,
                options: Default::default(),
            };
            let settings =
                crate::engine::ContainerSettings::of(CLUSTER, NodeId::new(1), task, vec![attachment], None);
            async move {
                let id = engine.create(&settings).await.unwrap();
                engine.start(&id).await.unwrap();
            }
        })
        .await;
    let took = begin.elapsed();
    stream::iter(tasks)
        .for_each_concurrent(8, |task| async { engine.remove(&task.container_name()).await.unwrap() })
        .await;
    took
}

/// Leaves the containers that the agent has started.
async fn compare(host: &Host, node: &Node, tasks: &[TaskItem]) {
    let plain = plainly(&host.engine, tasks, tasks.len()).await;
    let begin = Instant::now();
    node.tell(items(tasks));
    for task in tasks {
        node.until_state(task, TaskState::Running).await;
    }
    eprintln!(
        "{COUNT} containers: {plain:?} in parallel through the API, {:?} by the agent",
        begin.elapsed()
    );
}

#[tokio::test]
async fn many_containers_survive_engine_and_agent() {
    let Some(host) = Host::start("many").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let tasks = many();
    let node = Node::start(dir.path(), &host.engine);
    node.agent.up.clone().wait_for(|up| *up).await.unwrap();
    for _ in 0..std::env::var("RAFTUP_ROUNDS").map_or(0, |rounds| rounds.parse().unwrap()) {
        compare(&host, &node, &tasks).await;
        node.tell([Item::Network(network(1))]);
        eventually("removed", async || host.engine.containers(CLUSTER).await.unwrap().is_empty()).await;
    }
    compare(&host, &node, &tasks).await;
    let alive = || host.inside("ps -o pid,args | grep '[s]leep 1000' | grep -v init | sort").to_owned();
    let before = alive();
    assert_eq!(
        before.lines().filter(|line| line.contains("sleep 1000")).count() as u64 % COUNT,
        0,
        "{before}"
    );

    host.kill();
    eventually("noticed", async || !node.agent.problems().is_empty()).await;
    node.agent.shutdown().await;
    let node = Node::start(dir.path(), &host.engine);
    host.inside("kill -9 $(ps -o pid,args | grep '[s]leep 1000' | head -n 1 | awk '{print $1}')");
    host.revive().await;
    let died = async {
        loop {
            let all = node.ends.reports.all();
            if let Some(failed) = all.iter().find(|report| report.status.state == TaskState::Failed) {
                return failed.clone();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let died = tokio::time::timeout(SOON, died).await.expect("the death of one is reported");
    assert!(died.status.exit_code.is_some());
    let running = |report: &raftup_proto::peer::TaskReport| report.status.state == TaskState::Running;
    assert_eq!(node.ends.reports.all().into_iter().filter(running).count() as u64, COUNT - 1);
    let after = alive();
    let kept = before.lines().filter(|line| after.contains(*line)).count();
    assert!(kept >= before.lines().count() - 2, "no other was touched: {before} {after}");
    let begin = Instant::now();
    node.tell([]);
    eventually("removed", async || host.engine.containers(CLUSTER).await.unwrap().is_empty()).await;
    eprintln!("removed in {:?}", begin.elapsed());
    eventually("network", async || {
        host.engine.networks().await.unwrap().iter().all(|network| network.of.is_none())
    })
    .await;
    node.agent.leave().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_made_is_said() {
    let Some(host) = Host::start("says").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &host.engine);
    let mount = |target: &str, source| Mount::new(target, source);
    let bind = |path: &std::path::Path, create| MountSource::Bind {
        path: path.display().to_string(),
        create,
        propagation: None,
    };
    let (mut hog, mut lost, mut mounts, mut nothing, mut pulled) = (
        task(1, "x=x; while :; do x=$x$x; done"),
        task(2, "sleep 1000"),
        task(3, "echo hi > /data/f; cat /data/f /made/../data/f; ls -d /made /any"),
        task(4, "sleep 1000"),
        task(5, "sleep 1000"),
    );
    hog.resources.limits.memory = Some(MemBytes(16 << 20));
    lost.container.mounts = vec![mount("/data", bind(&host.dir().join("missing"), false))];
    mounts.container.mounts = vec![
        mount("/data", MountSource::Volume { name: "data".parse().unwrap(), nocopy: false }),
        mount("/made", bind(&host.dir().join("made"), true)),
        mount("/any", MountSource::Anonymous),
        mount("/tmp", MountSource::Tmpfs { size: Some(MemBytes(1 << 20)), mode: Some(0o1777) }),
    ];
    mounts.volumes = [("data".parse().unwrap(), "shop_data".to_owned())].into();
    mounts.container.read_only = true;
    nothing.container.command = Some(vec!["/no/such/program".to_owned()]);
    nothing.container.init = false;
    pulled.image = "127.0.0.1:9/none:1".to_owned();
    node.tell_tasks(&[&hog, &lost, &mounts, &nothing, &pulled]);
    for (task, state, words) in [
        (&hog, TaskState::Failed, "used up its 16MiB of memory"),
        (&lost, TaskState::Rejected, "bind source path does not exist"),
        (&nothing, TaskState::Rejected, "/no/such/program"),
        (&pulled, TaskState::Rejected, "127.0.0.1:9"),
    ] {
        let status = node.until(task, |status| status.state.is_over()).await;
        eprintln!("{status:?}");
        assert_eq!(status.state, state, "{status:?}");
        assert!(status.message.as_deref().unwrap_or_default().contains(words), "{status:?}");
    }
    let status = node.until(&mounts, |status| status.state.is_over()).await;
    let lines = node.agent.logs(mounts.task, LogOptions::default()).unwrap();
    let lines: Vec<_> = lines.map(|line| line.unwrap().line).collect().await;
    eprintln!("{status:?} {lines:?}");
    assert_eq!(lines[..2], ["hi", "hi"]);
    node.agent.leave().await.unwrap();
}

/// The engine's own commands, used on our things by somebody who does not know better.
#[tokio::test]
async fn what_is_done_by_hand_does_not_last() {
    let Some(host) = Host::start("hand").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &host.engine);
    let docker = |line: &str| host.inside(&format!("docker -H \"unix://$PWD/docker.sock\" {line}"));
    let address = |number: u32| std::net::Ipv4Addr::from(u32::from(network(1).gateway()) + 64 + number);
    // Ends with 0 when it is told to.
    let polite = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let tasks: Vec<TaskItem> = (1..=6)
        .map(|number| {
            let mut task = task(number, polite);
            task.networks = vec![(network(1).network, address(u32::try_from(number).unwrap()))];
            task
        })
        .collect();
    node.tell(items(&tasks));
    for task in &tasks {
        node.until_state(task, TaskState::Running).await;
    }
    let [restarted, stopped_by_hand, killed, removed, paused, taken_off] = &tasks[..] else { panic!() };
    let name = TaskItem::container_name;
    docker(&format!("restart -t 5 {}", name(restarted)));
    docker(&format!("stop -t 5 {}", name(stopped_by_hand)));
    docker(&format!("kill {}", name(killed)));
    docker(&format!("rm -f {}", name(removed)));
    docker(&format!("pause {}", name(paused)));
    docker(&format!("network disconnect shop_net1 {}", name(taken_off)));
    for (task, words) in [
        (restarted, "somebody stopped its container by hand (exit status 0)"),
        (stopped_by_hand, "somebody stopped its container by hand (exit status 0)"),
        (killed, "somebody stopped its container by hand (exit status 137)"),
        (removed, ""),
        (taken_off, "somebody took its container off network `shop_net1` by hand"),
    ] {
        let status = node.until_state(task, TaskState::Failed).await;
        assert!(status.message.as_deref().unwrap_or_default().contains(words), "{status:?}");
    }
    let running = || docker("ps --format '{{.Names}} {{.Status}}'");
    eventually("what was paused alone runs", async || {
        let all = running();
        all.lines().count() == 1 && all.contains(&name(paused)) && !all.contains("Paused")
    })
    .await;
    assert_eq!(node.ends.reports.get(paused.task).unwrap().state, TaskState::Running);
    docker(&format!("start {}", name(killed)));
    eventually("stopped again", async || running().lines().count() == 1).await;
    // A stop, and a removal, find it by its id, and one that is paused.
    docker(&format!("rename {} mine", name(paused)));
    docker("pause mine");
    node.tell(items(&[stopped(paused)]));
    eventually("stopped under its new name", async || running().is_empty()).await;
    node.tell([]);
    eventually("removed", async || docker("ps -aq").is_empty()).await;
    eventually("network removed", async || !docker("network ls").contains("shop_net1")).await;
    node.agent.leave().await.unwrap();
}

/// As a package's upgrade stops and starts it, without `live-restore`.
#[tokio::test]
async fn ends_that_a_stopped_engine_causes_are_no_ends_of_tasks() {
    let Some(host) = Host::start("stops").await else { return };
    host.set_live_restore(false).await;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &host.engine);
    let (polite, stubborn) =
        (task(1, "trap 'exit 0' TERM; while :; do sleep 0.1; done"), task(2, "sleep 1000"));
    node.tell_tasks(&[&polite, &stubborn]);
    for task in [&polite, &stubborn] {
        node.until_state(task, TaskState::Running).await;
    }
    host.stop().await;
    eventually("noticed", async || !node.agent.problems().is_empty()).await;
    host.revive().await;
    for task in [&polite, &stubborn] {
        let status = node.until_state(task, TaskState::Orphaned).await;
        assert!(status.message.unwrap_or_default().contains("Docker Engine or the host was stopped"));
    }
    assert_eq!(node.ends.reports.get(polite.task).unwrap().exit_code, Some(0));
}
