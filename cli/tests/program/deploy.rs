//! Changes that are waited for: deploy, update, rollback, scale, drain, removal.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use expect_test::expect;
use raftup_proto::{
    api::{
        Action, Availability, ChangeView, Deployed, NodeState, NodeView, Outcome, Progress, ServiceProgress,
        UpdateState, UpdateStatus,
    },
    id::NodeId,
    peer::{Platform, Role},
    refusal::{Code, Refusal},
    unit::UnixMillis,
    view::Revision,
};
use serde_json::json;

use crate::{
    daemon::{Daemon, Reply},
    run::{end, program, run, run_in},
};

const COMPOSE: &str = "services: {web: {image: nginx, deploy: {replicas: 2}}}\n";
const PROGRESS: &str = "GET /progress?stack=shop&revision=7";
const DEPLOY: [&str; 5] = ["stack", "deploy", "-c", "compose.yaml", "shop"];

/// A directory with a compose file.
fn project(compose: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("compose.yaml"), compose).unwrap();
    dir
}

fn deployed(action: Action) -> Reply {
    let change =
        ChangeView { kind: "service".to_owned(), name: "shop_web".to_owned(), action, version: None };
    Reply::json(Deployed { revision: Revision(7), changes: vec![change], warnings: Vec::new() })
}

fn at(running: u32, waiting: &[&str], outcome: Outcome) -> Progress {
    let waiting = waiting.iter().map(|reason| (*reason).to_owned()).collect();
    let web = ServiceProgress {
        name: "shop_web".to_owned(),
        running,
        complete: 0,
        desired: 2,
        waiting,
        update: None,
        problems: Vec::new(),
    };
    Progress { services: vec![web], outcome }
}

fn accepting() -> Daemon {
    Daemon::start().on("PUT /stacks/shop", [deployed(Action::Created)])
}

async fn asked(daemon: &Daemon, line: &str) {
    while !daemon.lines().iter().any(|asked| asked == line) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_deploy_is_watched_until_it_runs() {
    let daemon = accepting().on(
        PROGRESS,
        [Reply::lines([
            at(0, &["slot 1 pulls nginx", "slot 2 pulls nginx"], Outcome::Running),
            at(0, &["slot 1 pulls nginx", "slot 2 pulls nginx"], Outcome::Running),
            at(1, &["slot 2 pulls nginx"], Outcome::Running),
            at(2, &[], Outcome::Done),
        ])],
    );
    let dir = project(COMPOSE);
    expect![[r#"
        Creating service shop_web
        -- stderr
        shop_web: 0/2 running; slot 1 pulls nginx; slot 2 pulls nginx
        shop_web: 1/2 running; slot 2 pulls nginx
        shop_web: 2/2 running
        stack `shop` runs: 2 tasks of 1 service
        -- status 0
    "#]]
    .assert_eq(&run_in(&daemon, dir.path(), &DEPLOY).await.to_string());
    let body = &daemon.asked()[0].body;
    assert_eq!(body["spec"]["services"]["web"]["mode"], json!({"replicated": {"replicas": 2}}));
    assert_eq!(body["credentials"], json!({}));
}

#[tokio::test]
async fn a_deploy_that_is_not_watched() {
    let daemon = accepting();
    let dir = project(&format!("name: shop\n{COMPOSE}"));
    expect![[r#"
        Creating service shop_web
        -- stderr
        -- status 0
    "#]]
    .assert_eq(&run_in(&daemon, dir.path(), &["stack", "deploy", "-d"]).await.to_string());
    assert_eq!(daemon.lines(), ["PUT /stacks/shop"]);
}

#[tokio::test]
async fn a_deploy_that_fails_says_why_and_where_to_look() {
    let reason = "shop_web: image `nginx` exists nowhere".to_owned();
    let daemon = accepting().on(PROGRESS, [Reply::lines([at(0, &[], Outcome::Failed { reason })])]);
    let dir = project(COMPOSE);
    expect![[r#"
        Creating service shop_web
        -- stderr
        shop_web: 0/2 running
        error: the deploy of stack `shop` failed: shop_web: image `nginx` exists nowhere
        hint: `raftup service ps shop_web` shows the last attempts and why they ended; `raftup service update --force shop_web` tries again
        -- status 1
    "#]]
    .assert_eq(&run_in(&daemon, dir.path(), &DEPLOY).await.to_string());
}

#[tokio::test]
async fn a_stream_that_breaks_is_asked_for_again() {
    let half = Reply::lines([at(0, &[], Outcome::Running)]);
    let busy = Refusal::new(Code::Unavailable, "no leader is known");
    let daemon = accepting().on(
        PROGRESS,
        [half.clone().broken(), Reply::refusal(busy), half, Reply::lines([at(2, &[], Outcome::Done)])],
    );
    let dir = project(COMPOSE);
    expect![[r#"
        Creating service shop_web
        -- stderr
        trying again for 30 s: raftupd closed the connection before it had answered
        shop_web: 0/2 running
        trying again for 30 s: raftupd stopped telling how it stands
        shop_web: 2/2 running
        stack `shop` runs: 2 tasks of 1 service
        -- status 0
    "#]]
    .assert_eq(&run_in(&daemon, dir.path(), &DEPLOY).await.to_string());
    assert_eq!(daemon.lines().len(), 5);
}

#[tokio::test]
async fn a_daemon_that_is_restarted_is_waited_for() {
    let half = Reply::lines([at(1, &[], Outcome::Running)]).open();
    let mut daemon = accepting().on(PROGRESS, [half, Reply::lines([at(2, &[], Outcome::Done)])]);
    let dir = project(COMPOSE);
    let child = program(&daemon.socket(), dir.path(), &DEPLOY).spawn().unwrap();
    asked(&daemon, PROGRESS).await;
    daemon.stop().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.listen();
    let ran = end(child).await;
    assert_eq!(ran.status, Some(0), "{ran}");
    assert!(ran.stderr.contains("trying again for 30 s: "), "{ran}");
    assert!(ran.stderr.ends_with("stack `shop` runs: 2 tasks of 1 service\n"), "{ran}");
}

#[tokio::test]
async fn a_deploy_that_takes_too_long_goes_on() {
    let daemon = accepting().on(PROGRESS, [Reply::lines([at(1, &[], Outcome::Running)]).open()]);
    let dir = project(COMPOSE);
    let args = ["stack", "deploy", "--timeout", "300ms", "shop"];
    expect![[r#"
        Creating service shop_web
        -- stderr
        shop_web: 1/2 running
        error: the deploy of stack `shop` is not done after 300ms; it goes on in the background
        hint: `raftup stack ps shop` shows how it stands, `--timeout` waits longer
        -- status 1
    "#]]
    .assert_eq(&run_in(&daemon, dir.path(), &args).await.to_string());
}

#[tokio::test]
async fn ctrl_c_stops_the_watching_alone() {
    let daemon = accepting().on(PROGRESS, [Reply::lines([at(1, &[], Outcome::Running)]).open()]);
    let dir = project(COMPOSE);
    let child = program(&daemon.socket(), dir.path(), &DEPLOY).spawn().unwrap();
    asked(&daemon, PROGRESS).await;
    let id = child.id().unwrap().to_string();
    let kill = tokio::process::Command::new("kill").args(["-INT", &id]).status().await.unwrap();
    assert!(kill.success());
    let ran = end(child).await;
    assert_eq!(ran.status, Some(130), "{ran}");
    let told = "not watched any more; the deploy goes on, and `raftup stack ps shop` shows how it stands\n";
    assert!(ran.stderr.ends_with(told), "{ran}");
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing() {
    let daemon = accepting();
    let dir = project("services:\n  web:\n    image: nginx\n    ports: [\"99999:80\"]\n    colour: red\n");
    expect![[r#"
        -- stderr
        error: compose.yaml:4:13: services.web.ports[0]: port 99999 is not between 1 and 65535
         4 |     ports: ["99999:80"]
           |             ^^^^^^^^^^

        error: compose.yaml:5:5: services.web.colour: unknown key `colour`
         5 |     colour: red
           |     ^^^^^^

        hint: nothing was changed
        -- status 3
    "#]]
    .assert_eq(&run_in(&daemon, dir.path(), &DEPLOY).await.to_string());
    assert!(daemon.asked().is_empty());
}

#[tokio::test]
async fn files_come_from_where_the_user_says() {
    let daemon = accepting();
    let dir = project("services: {web: {image: \"nginx:${TAG}\"}}\n");
    fs::write(dir.path().join("compose.override.yaml"), "services: {web: {command: a}}\n").unwrap();
    fs::write(dir.path().join(".env"), "TAG=1\n").unwrap();
    fs::write(dir.path().join("prod.env"), "TAG=2\n").unwrap();
    let deploy = async |more: &[&str]| {
        let ran = run_in(&daemon, dir.path(), &[&["stack", "deploy", "-d"], more, &["shop"]].concat()).await;
        assert_eq!(ran.status, Some(0), "{ran}");
        let container = daemon.asked().last().unwrap().body["spec"]["services"]["web"]["container"].clone();
        (container["image"].clone(), container["command"].clone())
    };
    assert_eq!(deploy(&[]).await, (json!("nginx:1"), json!(["a"])));
    assert_eq!(deploy(&["--env-file", "prod.env"]).await, (json!("nginx:2"), json!(["a"])));
    assert_eq!(deploy(&["-c", "compose.yaml"]).await, (json!("nginx:1"), json!(null)));

    let empty = tempfile::tempdir().unwrap();
    let ran = run_in(&daemon, empty.path(), &["stack", "deploy"]).await;
    assert_eq!(ran.status, Some(3));
    assert!(ran.stderr.contains("there is no compose.yaml in"), "{ran}");
    let ran = run_in(&daemon, empty.path(), &["stack", "deploy", "-c", "gone.yaml", "shop"]).await;
    assert_eq!(ran.status, Some(3), "{ran}");
    assert!(ran.stderr.contains("gone.yaml"), "{ran}");
}

#[tokio::test]
async fn a_file_from_standard_input() {
    let daemon = accepting();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("elsewhere");
    fs::write(&file, COMPOSE).unwrap();
    let child = program(&daemon.socket(), dir.path(), &["stack", "deploy", "-d", "-c", "-", "shop"])
        .stdin(fs::File::open(file).unwrap())
        .spawn()
        .unwrap();
    let ran = end(child).await;
    assert_eq!(ran.status, Some(0), "{ran}");
}

/// A credential helper that is a script.
fn helper(dir: &Path, name: &str, script: &str) {
    let path = dir.join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn credentials_come_from_the_users_docker() {
    let daemon = accepting();
    let dir = project(
        "services: {a: {image: nginx}, b: {image: \"reg.example.com:5000/b\"}, c: {image: ghcr.io/x/c}, d: {image: quay.io/d}}\n",
    );
    helper(dir.path(), "hub", r#"echo "{\"ServerURL\":\"x\",\"Username\":\"ann\",\"Secret\":\"$(cat)\"}""#);
    helper(dir.path(), "none", "echo 'credentials not found in native keychain'; exit 1");
    fs::create_dir(dir.path().join(".docker")).unwrap();
    let config = json!({
        "auths": {"ghcr.io": {"auth": "Ym9iOnB3"}, "unused.example.com": {"auth": "Ym9iOnB3"}},
        "credsStore": "none",
        "credHelpers": {"https://index.docker.io/v1/": "hub", "quay.io": "missing"},
    });
    fs::write(dir.path().join(".docker/config.json"), config.to_string()).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let deploy = async |more: &[&str]| {
        let args = [&["stack", "deploy", "-d"], more, &["shop"]].concat();
        let child = program(&daemon.socket(), dir.path(), &args).env("PATH", &path).spawn().unwrap();
        let ran = end(child).await;
        (ran.stderr, daemon.asked().last().unwrap().body["credentials"].clone())
    };
    let (stderr, credentials) = deploy(&[]).await;
    let expected = json!({
        "docker.io": {"username": "ann", "secret": "https://index.docker.io/v1/", "identity_token": false},
        "ghcr.io": {"username": "bob", "secret": "pw", "identity_token": false},
    });
    assert_eq!(credentials, expected);
    expect![[r#"
        warning: no credentials for quay.io: `docker-credential-missing` cannot be run: No such file or directory (os error 2)
    "#]].assert_eq(&stderr);
    assert_eq!(deploy(&["--with-registry-auth=false"]).await, (String::new(), json!({})));
}

#[tokio::test]
async fn what_does_not_answer_is_told_at_the_end() {
    let mut done = at(2, &[], Outcome::Done);
    done.services[0].problems =
        vec!["port 8080/tcp is taken by another program on h2: it does not answer there".to_owned()];
    let daemon = accepting().on(PROGRESS, [Reply::lines([done])]);
    let dir = project(COMPOSE);
    expect![[r#"
        Creating service shop_web
        -- stderr
        shop_web: 2/2 running
        stack `shop` runs: 2 tasks of 1 service
        warning: shop_web: port 8080/tcp is taken by another program on h2: it does not answer there
        -- status 0
    "#]]
    .assert_eq(&run_in(&daemon, dir.path(), &DEPLOY).await.to_string());
}

#[tokio::test]
async fn services_are_scaled_together() {
    let progress = |name: &str, running| {
        let service = ServiceProgress {
            name: name.to_owned(),
            running,
            complete: 0,
            desired: running,
            waiting: Vec::new(),
            update: None,
            problems: Vec::new(),
        };
        Reply::lines([Progress { services: vec![service], outcome: Outcome::Done }])
    };
    let gone = Refusal::new(Code::NotFound, "there is no service `shop_x`");
    let daemon = Daemon::start()
        .on("PATCH /services/shop_web", [deployed(Action::Updated)])
        .on("PATCH /services/shop_db", [deployed(Action::Updated)])
        .on("PATCH /services/shop_x", [Reply::refusal(gone)])
        .on("GET /progress?service=shop_web&revision=7", [progress("shop_web", 3)])
        .on("GET /progress?service=shop_db&revision=7", [progress("shop_db", 1)]);
    let ran = run(&daemon, &["service", "scale", "shop_x=2", "shop_web=3", "shop_db=1"]).await;
    let mut stderr: Vec<&str> = ran.stderr.lines().collect();
    stderr.sort_unstable();
    expect![[r#"
        error: there is no service `shop_x`
        service `shop_db` runs: 1 task
        service `shop_web` runs: 3 tasks
        shop_db: 1/1 running
        shop_web: 3/3 running"#]]
    .assert_eq(&stderr.join("\n"));
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(5), "shop_web scaled to 3\nshop_db scaled to 1\n"));
    assert_eq!(daemon.asked()[1].body, json!({"replicas": 3}));
}

#[tokio::test]
async fn a_removal_is_watched_until_nothing_is_left() {
    let gone = Reply::refusal(Refusal::new(Code::NotFound, "there is no stack `shop`"));
    let daemon = Daemon::start()
        .on("DELETE /stacks/shop", [deployed(Action::Removed)])
        .on(PROGRESS, [Reply::lines([at(2, &[], Outcome::Running), at(0, &[], Outcome::Running)]), gone]);
    expect![[r#"
        Removing service shop_web
        -- stderr
        shop_web: 2 still running
        shop_web: stopped
        trying again for 30 s: raftupd stopped telling how it stands
        stack `shop` is gone
        -- status 0
    "#]]
    .assert_eq(&run(&daemon, &["stack", "rm", "shop"]).await.to_string());

    let done = Reply::lines([Progress { services: Vec::new(), outcome: Outcome::Done }]);
    let daemon = Daemon::start().on("DELETE /stacks/shop", [deployed(Action::Removed)]).on(PROGRESS, [done]);
    expect![[r#"
        Removing service shop_web
        -- stderr
        stack `shop` is gone
        -- status 0
    "#]]
    .assert_eq(&run(&daemon, &["stack", "down", "shop"]).await.to_string());
}

const WEB: &str = "GET /progress?service=shop_web&revision=7";

fn updating(running: u32, state: UpdateState, message: &str, outcome: Outcome) -> Progress {
    let mut progress = at(running, &[], outcome);
    progress.services[0].update =
        Some(UpdateStatus { state, started: UnixMillis(1), completed: None, message: message.to_owned() });
    progress
}

#[tokio::test]
async fn an_update_is_watched_until_it_is_complete() {
    let daemon = Daemon::start().on("PATCH /services/shop_web", [deployed(Action::Updated)]).on(
        WEB,
        [Reply::lines([
            updating(1, UpdateState::Updating, "update in progress", Outcome::Running),
            updating(2, UpdateState::Completed, "update completed", Outcome::Done),
        ])],
    );
    let flags = [
        "service",
        "update",
        "--image",
        "nginx:2",
        "--env-add",
        "A=b=c",
        "--env-rm",
        "OLD",
        "--replicas",
        "4",
        "--update-parallelism",
        "0",
        "--update-delay",
        "1m30s",
        "--update-order",
        "start-first",
        "--update-monitor",
        "0",
        "--update-failure-action",
        "rollback",
        "--update-max-failure-ratio",
        "0.25",
        "--rollback-parallelism",
        "2",
        "--rollback-order",
        "stop-first",
        "--rollback-failure-action",
        "continue",
        "--rollback-delay",
        "1s",
        "--rollback-monitor",
        "20s",
        "--rollback-max-failure-ratio",
        "1",
        "--force",
        "shop_web",
    ];
    expect![[r#"
        Updating service shop_web
        -- stderr
        shop_web: 1/2 running
        shop_web: 2/2 running
        service `shop_web` runs: 2 tasks
        -- status 0
    "#]]
    .assert_eq(&run(&daemon, &flags).await.to_string());
    let seconds = |secs: u64| json!({"secs": secs, "nanos": 0});
    let body = json!({
        "replicas": 4, "image": "nginx:2", "env_add": {"A": "b=c"}, "env_rm": ["OLD"], "force": true,
        "update": {
            "parallelism": 0, "delay": seconds(90), "order": "start-first", "monitor": seconds(0),
            "failure_action": "rollback", "max_failure_ratio": 250_000,
        },
        "rollback": {
            "parallelism": 2, "delay": seconds(1), "order": "stop-first", "monitor": seconds(20),
            "failure_action": "continue", "max_failure_ratio": 1_000_000,
        },
    });
    assert_eq!(daemon.asked()[0].body, body);
}

#[tokio::test]
async fn an_update_that_was_undone_fails() {
    let why = "update rolled back due to failure or early termination of task 0a: unhealthy";
    let reason = format!("service `shop_web`: rollback completed; {why}");
    let daemon = Daemon::start().on("PATCH /services/shop_web", [deployed(Action::Updated)]).on(
        WEB,
        [Reply::lines([
            updating(1, UpdateState::RollbackStarted, why, Outcome::Running),
            updating(2, UpdateState::RollbackCompleted, "rollback completed", Outcome::Failed { reason }),
        ])],
    );
    expect![[r#"
        Updating service shop_web
        -- stderr
        shop_web: 1/2 running; rollback_started: update rolled back due to failure or early termination of task 0a: unhealthy
        shop_web: 2/2 running; rollback_completed: rollback completed
        error: the update of service `shop_web` failed: service `shop_web`: rollback completed; update rolled back due to failure or early termination of task 0a: unhealthy
        hint: `raftup service ps shop_web` shows the last attempts and why they ended; `raftup service update --force shop_web` tries again
        -- status 1
    "#]].assert_eq(&run(&daemon, &["service", "update", "--force", "shop_web"]).await.to_string());
}

#[tokio::test]
async fn services_are_rolled_back() {
    let daemon = Daemon::start().on("POST /services/shop_web/rollback", [deployed(Action::Updated)]).on(
        WEB,
        [Reply::lines([updating(2, UpdateState::RollbackCompleted, "rollback completed", Outcome::Done)])],
    );
    expect![[r#"
        Updating service shop_web
        -- stderr
        shop_web: 2/2 running; rollback_completed: rollback completed
        service `shop_web` runs: 2 tasks
        -- status 0
    "#]]
    .assert_eq(&run(&daemon, &["service", "rollback", "--to", "3", "shop_web"]).await.to_string());
    assert_eq!(daemon.asked()[0].body, json!({"to": 3}));
    expect![[r#"
        Updating service shop_web
        -- stderr
        -- status 0
    "#]]
    .assert_eq(&run(&daemon, &["service", "update", "--rollback", "-d", "shop_web"]).await.to_string());
    let both = ["service", "update", "--rollback", "--update-delay", "1s", "shop_web"];
    expect![[r#"
        -- stderr
        error: `--rollback` takes no other change beside it
        hint: roll back first, then update
        -- status 3
    "#]]
    .assert_eq(&run(&daemon, &both).await.to_string());
}

#[tokio::test]
async fn a_node_is_watched_until_it_is_empty() {
    let left = |running| Progress {
        services: vec![ServiceProgress {
            name: "shop_web".to_owned(),
            running,
            complete: 0,
            desired: 0,
            waiting: vec!["1 starting".to_owned()],
            update: None,
            problems: Vec::new(),
        }],
        outcome: Outcome::Running,
    };
    let done = Progress { services: Vec::new(), outcome: Outcome::Done };
    let path = "GET /progress?node=web3&revision=0";
    let daemon = || Daemon::start().on("PATCH /nodes/web3", [Reply::json(node())]);
    let drain = ["node", "update", "--availability", "drain", "web3"];
    let watched = daemon().on(path, [Reply::lines([left(2), left(1), done])]);
    expect![[r#"
        web3
        -- stderr
        shop_web: 2 still running; 1 starting
        shop_web: 1 still running; 1 starting
        shop_web: gone
        node `web3` runs nothing any more
        -- status 0
    "#]]
    .assert_eq(&run(&watched, &drain).await.to_string());
    let reason = "service `shop_web`: slot 1: no node fits: 1 drained".to_owned();
    let stuck = Progress { outcome: Outcome::Failed { reason }, ..left(1) };
    expect![[r#"
        web3
        -- stderr
        shop_web: 1 still running; 1 starting
        error: the draining of node `web3` failed: service `shop_web`: slot 1: no node fits: 1 drained
        hint: `raftup node ps web3` shows what stays; it stays as it is until a node can take it
        -- status 1
    "#]]
    .assert_eq(&run(&daemon().on(path, [Reply::lines([stuck])]), &drain).await.to_string());
    let pause = ["node", "update", "--availability", "pause", "web3"];
    expect![[r#"
        web3
        -- stderr
        -- status 0
    "#]]
    .assert_eq(&run(&daemon(), &pause).await.to_string());
}

fn node() -> NodeView {
    NodeView {
        id: NodeId::new(3),
        hostname: "web3".to_owned(),
        state: NodeState::Ready,
        message: None,
        availability: Availability::Drain,
        role: Role::Manager,
        pinned: None,
        manager: None,
        addr: "192.0.2.3:7238".parse().unwrap(),
        labels: Default::default(),
        version: "0.1.0".to_owned(),
        platform: Platform::default(),
        tasks: 0,
        created: UnixMillis(1),
        problems: Vec::new(),
        this: false,
    }
}
