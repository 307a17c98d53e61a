//! Data directories that were wiped or copied: refused with the way back, and the leader lives on.

use expect_test::expect;
use raftup_tests::lab::{Host, Lab, Options, What, wait_for};

use crate::cluster::{
    SOON, WEB, cluster, containers, deploy, form, join, lab, leader, nodes, plain, refused, token, well,
    writable,
};

/// Three managers with the first as leader, and a task of a service on each. Answers the leader's process.
fn served(lab: &Lab) -> Option<i32> {
    let h1 = lab.host("h1");
    nodes(h1, "Reachable", 2);
    assert_eq!(leader(lab, h1).name(), "h1");
    well(deploy(lab, h1, "shop", WEB));
    h1.pid(What::Daemon)
}

/// The leader still is one, in the same process, and takes changes.
fn leader_lives(lab: &Lab, process: Option<i32>) {
    let h1 = lab.host("h1");
    writable(h1, "shop_web", 3);
    assert_eq!(leader(lab, h1).name(), "h1");
    assert!(process.is_some());
    assert_eq!(h1.pid(What::Daemon), process);
}

/// The daemon's last words, without their time.
fn last_words(lab: &Lab, host: &Host) -> String {
    let log = host.log(What::Daemon);
    let at = log.rfind("error:").unwrap_or_default();
    plain(lab, &log[at..])
}

#[test]
fn wiped_state_is_refused_and_the_way_back_leads_back() {
    let lab = cluster("itwipe", 3);
    let process = served(&lab);
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    let before = containers(&lab);
    h3.kill_daemon().unwrap();
    h3.sh("rm -r /var/lib/raftup/raft/raft").unwrap();
    assert!(h3.start_daemon().is_err(), "refused");
    expect![[r#"
        error: the replicated state of this manager is gone from /var/lib/raftup/raft/raft: refusing to start (the other managers have everything: on one of them run `raftup node demote NODE`, then remove the directory `raft` in the data directory here, start raftupd, and run `raftup node promote NODE`; its containers keep running meanwhile)
    "#]]
    .assert_eq(&last_words(&lab, h3));
    assert_eq!(containers(&lab), before, "containers run on");
    leader_lives(&lab, process);

    well(h1.raftup(&["node", "demote", "h3"]).unwrap());
    h3.sh("rm -r /var/lib/raftup/raft").unwrap();
    h3.start_daemon().unwrap();
    well(h1.raftup(&["node", "promote", "h3"]).unwrap());
    nodes(h1, "Reachable", 2);
    nodes(h1, "Ready", 3);
    leader_lives(&lab, process);
}

/// Nothing is left of what the node was: it is a new one, and the cluster forgets the old one.
#[test]
fn a_wiped_data_directory_joins_as_a_new_node() {
    let lab = cluster("itwipeall", 3);
    let process = served(&lab);
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    h3.kill_daemon().unwrap();
    h3.sh("rm -r /var/lib/raftup/*").unwrap();
    h3.start_daemon().unwrap();
    expect![[r#"
        exit 7
        error: this node is in no cluster
        hint: `raftup init` makes one, `raftup join TOKEN` joins one
    "#]]
    .assert_eq(&refused(&lab, h3.raftup(&["ps"]).unwrap()));
    nodes(h1, "Down", 1);
    leader_lives(&lab, process);
    join(h1, h3);
    let old = well(h1.raftup(&["node", "ls"]).unwrap());
    let old = old.lines().find(|line| line.contains(" Down ")).unwrap().split_whitespace().next().unwrap();
    well(h1.raftup(&["node", "rm", old]).unwrap());
    nodes(h1, "Reachable", 2);
    leader_lives(&lab, process);
    let orphans = || Ok((containers(&lab).len() == 3).then_some(()));
    wait_for(SOON, "containers of the old node to go", orphans).unwrap();
}

#[test]
fn a_copied_data_directory_is_refused_beside_the_original() {
    let lab = lab(&Options::new("itclone", 4).unwrap());
    form(&lab, 3);
    let process = served(&lab);
    let (h1, h2, h4) = (lab.host("h1"), lab.host("h2"), lab.host("h4"));
    let before = containers(&lab);
    let copy = lab.share().join("copy.tar").display().to_string();
    h2.sh(&format!("tar -C /var/lib/raftup -cf {copy} .")).unwrap();
    h4.kill_daemon().unwrap();
    h4.sh(&format!("rm -rf /var/lib/raftup/* && tar -C /var/lib/raftup -xf {copy}")).unwrap();
    h4.start_daemon().unwrap();

    let refusal = "the cluster refuses this node: this node's identity is in use elsewhere: n2 is ";
    // At first, the engine has not answered yet.
    let problem = || {
        let status = well(h4.raftup(&["status"])?);
        let told = status.lines().find_map(|line| line.strip_prefix("Problems:   "));
        Ok(told.filter(|text| text.starts_with(refusal)).map(str::to_owned))
    };
    let problem = wait_for(SOON, "the refusal among the problems", problem).unwrap();
    let way_back = "`raftup leave --force` here, then `raftup join TOKEN` as a new node";
    assert!(problem.contains(way_back), "{problem}");
    for command in ["ps", "leave"] {
        expect![[r#"
            exit 4
            error: this node's identity is in use elsewhere: n2 is connected from 10.99.0.12:7238, and now from 10.99.0.14:7238
            hint: if this data directory was copied from there: `raftup leave --force` here, then `raftup join TOKEN` as a new node; the original is not affected
        "#]]
        .assert_eq(&refused(&lab, h4.raftup(&[command]).unwrap()));
    }
    leader_lives(&lab, process);
    nodes(h2, "Ready", 3);
    assert_eq!(containers(&lab), before, "the original runs on, and the copy runs nothing");

    // The way back that the message names.
    well(h4.raftup(&["leave", "--force"]).unwrap());
    well(h4.raftup(&["join", &token(h1)]).unwrap());
    nodes(h1, "Ready", 4);
    leader_lives(&lab, process);
    assert_eq!(containers(&lab), before);
}
