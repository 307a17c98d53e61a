//! Errors: their words, their exit status.

use std::process::Stdio;

use expect_test::expect;
use raftup_proto::refusal::{Code, Refusal};

use crate::{
    daemon::{Daemon, Reply},
    run::{end, program, run},
};

#[tokio::test]
async fn no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let child = program("/nowhere/raftup.sock".as_ref(), dir.path(), &["node", "ls"]).spawn().unwrap();
    let ran = end(child).await;
    expect![[r#"
        -- stderr
        error: cannot reach raftupd at /nowhere/raftup.sock; is it running?
        hint: check `--host` and RAFTUP_HOST, or start the daemon: `sudo systemctl start raftupd`
        -- status 7
    "#]]
    .assert_eq(&ran.to_string());
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on() {
    let mut daemon = Daemon::start();
    daemon.stop().await;
    drop(std::os::unix::net::UnixListener::bind(daemon.socket()).unwrap());
    let ran = run(&daemon, &["status"]).await;
    assert_eq!(ran.status, Some(7));
    assert!(ran.stderr.contains("is it running?"), "{ran}");
}

#[tokio::test]
async fn a_node_without_a_cluster() {
    let daemon = Daemon::start().on("GET /stacks", [Reply::refusal(Refusal::no_cluster())]);
    expect![[r#"
        -- stderr
        error: this node is in no cluster
        hint: `raftup init` makes one, `raftup join TOKEN` joins one
        -- status 7
    "#]]
    .assert_eq(&run(&daemon, &["stack", "ls"]).await.to_string());
}

#[tokio::test]
async fn each_code_has_its_status() {
    for (code, status) in [
        (Code::Failed, 1),
        (Code::Invalid, 3),
        (Code::Conflict, 4),
        (Code::NotFound, 5),
        (Code::Forbidden, 6),
        (Code::Unavailable, 7),
        (Code::Internal, 70),
    ] {
        let daemon = Daemon::start().on("POST /init", [Reply::refusal(Refusal::new(code, "no"))]);
        let ran = run(&daemon, &["init"]).await;
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(status), "error: no\n"));
    }
}

#[tokio::test]
async fn an_answer_that_is_none() {
    let daemon = Daemon::start()
        .on("GET /status", [Reply::text(200, "<html>")])
        .on("GET /nodes", [Reply::text(200, "[").broken()]);
    expect![[r#"
        -- stderr
        error: the answer to /raftup/v1/status cannot be read: expected value at line 1 column 1
        hint: `raftup --version` and `raftupd --version` should be the same
        -- status 70
    "#]]
    .assert_eq(&run(&daemon, &["status"]).await.to_string());
    expect![[r#"
        -- stderr
        error: raftupd closed the connection before it had answered
        hint: `systemctl status raftupd` shows whether it runs; a change may have been made all the same
        -- status 7
    "#]]
    .assert_eq(&run(&daemon, &["node", "ls"]).await.to_string());
    expect![[r#"
        -- stderr
        error: raftupd answered 404 Not Found to /raftup/v1/debug/controllers, without a reason
        hint: `raftup --version` and `raftupd --version` should be the same
        -- status 70
    "#]]
    .assert_eq(&run(&daemon, &["debug", "controllers"]).await.to_string());
}

#[tokio::test]
async fn wrong_usage() {
    let daemon = Daemon::start();
    for args in [
        &["node", "update", "web1", "--availability", "off"][..],
        &["service", "scale", "shop_web"],
        &["ps", "--filter", "colour=red"],
        &["--host", "tcp://h1:2375", "ps"],
        &["init", "--managers", "2"],
        &["service", "logs", "a", "--since", "yesterday"],
        &["ps", "-q", "--json"],
        &["frobnicate"],
    ] {
        let ran = run(&daemon, args).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {ran}");
        assert!(ran.stderr.starts_with("error: "), "{ran}");
    }
    assert!(daemon.asked().is_empty());
}

#[tokio::test]
async fn one_of_several_that_is_refused_stops_no_other() {
    let gone = Refusal::new(Code::NotFound, "there is no node `web9`").hint("`raftup node ls` lists them");
    let daemon = Daemon::start()
        .on("DELETE /nodes/web9", [Reply::refusal(gone)])
        .on("DELETE /nodes/web3", [Reply::empty()]);
    expect![[r#"
        web3
        -- stderr
        error: there is no node `web9`
        hint: `raftup node ls` lists them
        -- status 5
    "#]]
    .assert_eq(&run(&daemon, &["node", "rm", "web9", "web3"]).await.to_string());
}

#[tokio::test]
async fn a_reader_that_went_away_is_no_error() {
    let daemon = Daemon::start().on("GET /services", [Reply::json([0; 0])]);
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = program(&daemon.socket(), dir.path(), &["service", "ls"])
        .stdout(Stdio::from(writer))
        .spawn()
        .unwrap();
    let ran = end(child).await;
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
}
