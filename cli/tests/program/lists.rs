//! Commands that ask once and show what they were told.

use expect_test::expect;
use raftup_proto::{
    api::{LogLine, Membership, StackView, Status, TaskView, Tokens},
    id::{ClusterId, NodeId, ServiceId, StackId, TaskId},
    peer::TaskState,
    unit::UnixMillis,
};
use serde_json::json;

use crate::{
    daemon::{Daemon, Reply},
    run::run,
};

fn status() -> Status {
    let member = Membership {
        cluster: ClusterId::from_random(77),
        node: NodeId::new(1),
        manager: true,
        leader: Some(NodeId::new(1)),
    };
    Status { version: "0.1.0".to_owned(), member: Some(member), problems: Vec::new() }
}

fn tokens() -> Tokens {
    Tokens { manager: "TOKEN-M".to_owned().into(), worker: "TOKEN-W".to_owned().into() }
}

fn task(state: TaskState) -> TaskView {
    TaskView {
        id: TaskId::from_random(42),
        service: ServiceId::from_random(11),
        stack: "shop".parse().unwrap(),
        service_name: "web".parse().unwrap(),
        slot: 1,
        image: "nginx".to_owned(),
        node: None,
        hostname: None,
        desired: !state.is_over(),
        lost: false,
        state,
        since: UnixMillis(0),
        message: None,
        container: None,
        exit_code: None,
    }
}

#[tokio::test]
async fn init_shows_how_others_join() {
    let daemon =
        Daemon::start().on("POST /init", [Reply::json(status())]).on("GET /tokens", [Reply::json(tokens())]);
    let args = ["init", "--advertise-addr", "192.0.2.1", "--pool", "172.28.0.0/14", "--managers", "3"];
    expect![[r#"
        Cluster 000000000025 is made, and this server is its node n1.

        To add a server, run there:

            raftup join TOKEN-M

        `raftup token` shows this command again.
        -- stderr
        -- status 0
    "#]]
    .assert_eq(&run(&daemon, &args).await.to_string());
    let body = json!({"advertise": "192.0.2.1", "pool": "172.28.0.0/14", "fabric": "wireguard", "managers": {"fixed": 3}});
    assert_eq!(daemon.asked()[0].body, body);
}

#[tokio::test]
async fn join_and_leave() {
    let daemon =
        Daemon::start().on("POST /join", [Reply::json(status())]).on("POST /leave", [Reply::empty()]);
    let ran = run(&daemon, &["join", "TOKEN-M", "--via", "192.0.2.1:7238", "--via", "192.0.2.2:7238"]).await;
    expect![[r#"
        This server joined cluster 000000000025 as node n1.
        -- stderr
        -- status 0
    "#]]
    .assert_eq(&ran.to_string());
    let body = json!({"token": "TOKEN-M", "advertise": null, "via": ["192.0.2.1:7238", "192.0.2.2:7238"]});
    assert_eq!(daemon.asked()[0].body, body);
    expect![[r#"
        This server left its cluster.
        -- stderr
        -- status 0
    "#]]
    .assert_eq(&run(&daemon, &["leave", "--force"]).await.to_string());
    assert_eq!(daemon.asked()[1].body, json!({"force": true}));
}

#[tokio::test]
async fn tokens_are_shown_and_rotated() {
    let daemon = Daemon::start()
        .on("GET /tokens", [Reply::json(tokens())])
        .on("POST /tokens/worker/rotate", [Reply::json(tokens())]);
    assert_eq!(run(&daemon, &["token"]).await.stdout, "raftup join TOKEN-M\n");
    assert_eq!(run(&daemon, &["token", "-q"]).await.stdout, "TOKEN-M\n");
    let ran = run(&daemon, &["token", "--worker", "--rotate"]).await;
    assert_eq!(ran.stdout, "raftup join TOKEN-W\n");
    assert_eq!(ran.stderr, "the old worker token is refused from now on\n");
}

#[tokio::test]
async fn json_is_what_the_api_answers() {
    let stack = StackView {
        id: StackId::from_random(5),
        name: "shop".parse().unwrap(),
        services: 1,
        running: 1,
        desired: 1,
        removing: false,
        created: UnixMillis(5),
        updated: UnixMillis(6),
    };
    let daemon = Daemon::start().on("GET /stacks", [Reply::json([&stack])]);
    let ran = run(&daemon, &["stack", "ls", "--json"]).await;
    let list: Vec<StackView> = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(list, [stack]);
    assert_eq!(run(&daemon, &["stack", "ls", "-q"]).await.stdout, "000000000005\n");
}

#[tokio::test]
async fn ps_hides_what_ended_unless_asked() {
    let tasks = Reply::json([task(TaskState::Running), task(TaskState::Failed)]);
    let daemon = Daemon::start()
        .on("GET /tasks", [tasks.clone()])
        .on("GET /tasks?stack=shop", [tasks.clone()])
        .on("GET /tasks?service=shop_web&node=web%2F1", [tasks]);
    let lines = async |args: &[&str]| run(&daemon, args).await.stdout.lines().count();
    assert_eq!(lines(&["ps", "-q"]).await, 1);
    assert_eq!(lines(&["ps", "-q", "-a"]).await, 2);
    assert_eq!(lines(&["ps", "-q", "-f", "desired-state=shutdown"]).await, 1);
    assert_eq!(lines(&["stack", "ps", "-q", "shop"]).await, 2);
    assert_eq!(lines(&["ps", "-qa", "--filter", "service=shop_web,node=web/1"]).await, 2);
}

#[tokio::test]
async fn logs_keep_their_streams_apart() {
    let line = |slot, stderr, line: &str| LogLine {
        task: TaskId::from_random(slot),
        source: format!("shop_web.{slot}"),
        hostname: "web1".to_owned(),
        stderr,
        at_nanos: 1_795_255_320_000_000_000,
        line: line.to_owned(),
    };
    let lines = Reply::lines([line(1, false, "one"), line(2, true, "two"), line(10, false, "three")]);
    let path = "GET /services/shop_web/logs?follow=true&tail=5";
    let daemon = Daemon::start().on(path, [lines.clone(), lines.broken()]);
    let args = ["service", "logs", "-f", "--tail", "5", "shop_web"];
    expect![[r#"
        shop_web.1@web1 | one
        shop_web.10@web1 | three
        -- stderr
        shop_web.2@web1 | two
        -- status 0
    "#]]
    .assert_eq(&run(&daemon, &args).await.to_string());
    expect![[r#"
        -- stderr
        error: raftupd closed the connection before it had answered
        hint: `systemctl status raftupd` shows whether it runs; a change may have been made all the same
        -- status 7
    "#]]
    .assert_eq(&run(&daemon, &args).await.to_string());
}

#[tokio::test]
async fn completion_asks_the_daemon_and_is_silent_without_one() {
    let mut daemon = Daemon::start().on("GET /stacks", [Reply::json([0; 0])]);
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&daemon, &["completion", shell]).await;
        assert_eq!(ran.status, Some(0));
        assert!(ran.stdout.contains("COMPLETE"), "{ran}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut complete =
        crate::run::program(&daemon.socket(), dir.path(), &["--", "raftup", "stack", "rm", ""]);
    complete.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "3").env("_CLAP_COMPLETE_COMP_TYPE", "9");
    complete.env("_CLAP_COMPLETE_SPACE", "true").env("_CLAP_IFS", "\n");
    let ran = crate::run::end(complete.spawn().unwrap()).await;
    assert_eq!(ran.status, Some(0), "{ran}");
    assert_eq!(daemon.lines(), ["GET /stacks"]);
    daemon.stop().await;
    let ran = crate::run::end(complete.spawn().unwrap()).await;
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn text_of_others_controls_no_terminal() {
    const NASTY: &str = "x\u{1b}[2J\u{9b}8m\u{7f}\u{202e}\nforged";
    let mut task = task(TaskState::Failed);
    task.message = Some(NASTY.to_owned());
    task.hostname = Some(NASTY.to_owned());
    let refusal = raftup_proto::refusal::Refusal::new(raftup_proto::refusal::Code::Conflict, NASTY);
    let daemon = Daemon::start()
        .on("GET /tasks", [Reply::json([&task])])
        .on("DELETE /stacks/shop", [Reply::refusal(refusal)]);
    let control = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    for (args, lines) in
        [(&["ps", "-a"][..], 2), (&["ps", "-a", "--json"], 20), (&["stack", "rm", "shop"], 1)]
    {
        let ran = run(&daemon, args).await;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("forged") && !said.contains(control), "{said:?}");
        assert!(said.lines().count() <= lines, "{said}");
    }
    let json = run(&daemon, &["ps", "-a", "--json"]).await.stdout;
    let tasks: Vec<TaskView> = serde_json::from_str(&json).unwrap();
    assert_eq!(tasks, [task]);
}
