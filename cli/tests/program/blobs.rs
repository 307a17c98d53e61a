//! `raftup secret` and `raftup config`.

use std::collections::BTreeMap;

use expect_test::expect;
use raftup_proto::{
    api::BlobView,
    id::BlobId,
    spec::{BlobData, BlobKind},
    unit::UnixMillis,
};
use serde_json::json;

use crate::{
    daemon::{Daemon, Reply},
    run::{run, run_in},
};

fn view(kind: BlobKind, data: Option<BlobData>) -> BlobView {
    BlobView {
        id: BlobId::from_random(7),
        kind,
        name: "site".to_owned(),
        stack: Some("shop".parse().unwrap()),
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        used_by: vec!["shop_web".to_owned()],
        created: UnixMillis(0),
        updated: UnixMillis(0),
        data,
    }
}

#[tokio::test]
async fn a_secret_is_made_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), b"hunter2").unwrap();
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    std::fs::write(dir.path().join("large"), vec![b'x'; BlobKind::Secret.bytes_max() + 1]).unwrap();
    let daemon = Daemon::start().on("POST /secrets", [Reply::json(view(BlobKind::Secret, None))]);
    let ran = run_in(&daemon, dir.path(), &["secret", "create", "-l", "team=a", "site", "key"]).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("000000000007\n", ""));
    let body = json!({"name": "site", "labels": {"team": "a"}, "data": "aHVudGVyMg=="});
    assert_eq!(daemon.asked()[0].body, body);
    let mut refused = String::new();
    for file in ["empty", "large", "missing"] {
        refused += &run_in(&daemon, dir.path(), &["secret", "create", "site", file]).await.stderr;
    }
    expect![[r#"
        error: `empty` is empty
        error: `large` is larger than the 500 KB (512000 bytes) of a secret
        error: `missing` cannot be read: No such file or directory (os error 2)
    "#]]
    .assert_eq(&refused);
    assert_eq!(daemon.asked().len(), 1);
}

#[tokio::test]
async fn a_config_is_shown_with_its_content() {
    let content = BlobData::from(b"port 80\n\x1b[31mred\n".to_vec());
    let daemon = Daemon::start()
        .on("GET /configs/site", [Reply::json(view(BlobKind::Config, Some(content)))])
        .on("DELETE /configs/site", [Reply::empty()]);
    let shown = run(&daemon, &["config", "inspect", "site"]).await.stdout;
    assert!(shown.contains("Used by:  shop_web\n"), "{shown}");
    assert!(shown.contains("Data:     port 80\n") && !shown.contains('\x1b'), "{shown}");
    assert_eq!(run(&daemon, &["config", "rm", "site"]).await.stdout, "site\n");
}

#[tokio::test]
async fn lists_are_aligned() {
    let daemon = Daemon::start().on(
        "GET /secrets",
        [Reply::json([view(BlobKind::Secret, None)]), Reply::json([view(BlobKind::Secret, None)])],
    );
    let shown = run(&daemon, &["secret", "ls"]).await.stdout;
    let head = shown.lines().next().unwrap();
    assert_eq!(head, "ID             NAME   STACK   CREATED        UPDATED");
    assert!(shown.lines().nth(1).unwrap().starts_with("000000000007   site   shop    "), "{shown}");
    assert_eq!(run(&daemon, &["secret", "ls", "-q"]).await.stdout, "000000000007\n");
}
