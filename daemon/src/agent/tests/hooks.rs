//! Commands in containers after their start and before their stop.

use futures_util::TryStreamExt;
use raftup_proto::spec::Hook;
use tokio::time::Instant;

use super::*;
use crate::engine::LogOptions;

fn hook(line: &str) -> Hook {
    Hook { command: ["sh", "-c", line].map(str::to_owned).into(), ..Hook::default() }
}

async fn log(engine: &FakeEngine, task: &TaskItem) -> Vec<String> {
    let parts = engine.logs(&task.container_name(), LogOptions::default());
    parts.map_ok(|part| part.line).try_collect().await.unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn the_start_is_over_once_its_hooks_are() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let (mut web, mut bad) = (task(1, "sleep 1000"), task(2, "sleep 1000"));
    web.container.healthcheck = Some(Healthcheck::Check {
        test: Some(["CMD-SHELL", "exit 0"].map(str::to_owned).into()),
        interval: Some(Duration::from_secs(1)),
        timeout: None,
        retries: None,
        start_period: None,
        start_interval: None,
    });
    web.container.post_start = vec![hook("echo first"), hook("sleep 30")];
    bad.container.post_start = vec![hook("echo no disk; exit 4"), hook("echo never")];
    let began = Instant::now();
    node.tell_tasks(&[&web, &bad]);
    let status =
        node.until(&web, |status| status.message.as_deref().is_some_and(|said| said.contains("sleep"))).await;
    assert_eq!(status.state, TaskState::Starting);
    assert_eq!(status.message.as_deref(), Some("runs post_start hook `sh -c sleep 30`"));
    let status = node.until_state(&web, TaskState::Running).await;
    assert!(began.elapsed() >= Duration::from_secs(30), "not by its health alone: {:?}", began.elapsed());
    assert_eq!(status.message, None);
    assert_eq!(log(&engine, &web).await, ["first"]);

    let status = node.until_state(&bad, TaskState::Failed).await;
    let why = "post_start hook `sh -c echo no disk; exit 4` failed: exit status 4: no disk";
    assert_eq!(status.message.as_deref(), Some(why));
    let name = bad.container_name();
    eventually("stopped", async || matches!(engine.inspect(&name).await, Ok(Some(Condition::Exited(_)))))
        .await;
    assert_eq!(log(&engine, &bad).await, ["no disk"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_overtakes_the_hooks_of_the_start() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let mut web = task(1, "sleep 1000");
    web.container.post_start = vec![hook("sleep 3600")];
    node.tell_tasks(&[&web]);
    node.until(&web, |status| status.message.is_some()).await;
    let began = Instant::now();
    node.tell_tasks(&[&stopped(&web)]);
    node.until_state(&web, TaskState::Shutdown).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn hooks_of_the_end_share_the_grace_period() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let [mut web, mut stuck, mut bad] = [1, 2, 3].map(|number| task(number, "sleep 1000"));
    let mut over = task(4, "exit 0");
    web.container.pre_stop = vec![hook("echo bye; sleep 3"), hook("echo gone")];
    stuck.container.pre_stop = vec![hook("sleep 1000"), hook("echo never")];
    stuck.container.stop_grace = Some(Duration::from_secs(5));
    bad.container.pre_stop = vec![hook("echo no peer; exit 2")];
    over.container.pre_stop = vec![hook("echo never")];
    node.tell_tasks(&[&web, &stuck, &bad, &over]);
    for task in [&web, &stuck, &bad] {
        node.until_state(task, TaskState::Running).await;
    }
    node.until_state(&over, TaskState::Complete).await;
    let began = Instant::now();
    node.tell_tasks(&[&stopped(&web), &stopped(&stuck), &stopped(&bad), &stopped(&over)]);
    let status = node.until_state(&bad, TaskState::Shutdown).await;
    let why = "pre_stop hook `sh -c echo no peer; exit 2` failed: exit status 2: no peer";
    assert_eq!(
        node.until(&bad, |status| status.message.is_some()).await.message.as_deref(),
        Some(why),
        "{status:?}"
    );
    node.until_state(&web, TaskState::Shutdown).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(log(&engine, &web).await, ["bye", "gone"]);
    node.until_state(&stuck, TaskState::Shutdown).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(7), "{took:?}");
    let why = "pre_stop hook `sh -c sleep 1000` did not end within 5s";
    assert_eq!(node.until(&stuck, |status| status.message.is_some()).await.message.as_deref(), Some(why));
    assert!(log(&engine, &stuck).await.is_empty() && log(&engine, &over).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_was_cut_off_runs_its_hooks_again() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), fake());
    let node = Node::start(dir.path(), &engine);
    let mut web = task(1, "sleep 1000");
    web.container.post_start = vec![hook("echo first; sleep 30")];
    node.tell_tasks(&[&web]);
    eventually("begun", async || log(&engine, &web).await == ["first"]).await;
    node.agent.shutdown().await;
    let node = Node::start(dir.path(), &engine);
    node.until_state(&web, TaskState::Running).await;
    assert_eq!(log(&engine, &web).await, ["first", "first"]);
    // One that was over is not done again.
    node.agent.shutdown().await;
    let node = Node::start(dir.path(), &engine);
    node.tell_tasks(&[&web]);
    node.until_state(&web, TaskState::Running).await;
    assert_eq!(log(&engine, &web).await.len(), 2);
    assert_eq!(engine.starts(&web.container_name()), 1);
}
