//! Secrets and configs on whole clusters: read by the tasks that use them, and found nowhere else; a change replaces their
//! readers alone; they are there after a daemon and a host were started anew.

use std::{
    io::Write,
    process::{Output, Stdio},
};

use expect_test::expect;
use raftup_tests::lab::{Host, Lab, What, wait_for};

use crate::cluster::{SOON, cluster, deploy, refused, well, write};

/// Made up of what nothing else has in it.
const PLANTED: &str = "planted-7f3c9a51e2b84d06";
const PLANTED_BASE64: &str = "cGxhbnRlZC03ZjNjOWE1MWUyYjg0ZDA2";
const LATER: &str = "planted-b1d84c0e9a6f2375";

const READERS: &str = "services:
  web:
    image: raftup/busybox:1
    command: sleep 100000
    stop_grace_period: 0s
    secrets: [token, {source: key, target: own, uid: '1000', gid: '1000', mode: 0400}]
    configs: [{source: site, target: /etc/site.conf}]
    deploy: {replicas: 2}
  user:
    image: raftup/busybox:1
    command: sleep 100000
    user: '1000:1000'
    read_only: true
    stop_grace_period: 0s
    secrets: [{source: key, target: own, uid: '1000', mode: 0400}, {source: key, target: roots, mode: 0400}]
  none:
    image: raftup/busybox:1
    command: sleep 100000
    stop_grace_period: 0s
secrets:
  token: {external: true}
  key: {file: ./key.txt}
configs:
  site: {content: 'port=1'}
";

/// Runs a command on a host with this on its standard input, so that it is in no list of processes.
fn with_input(host: &Host, argv: &[&str], input: &str) -> Output {
    let mut command = host.command(argv).unwrap();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The containers of a service on a host, by id.
fn of(host: &Host, service: &str) -> Vec<String> {
    let listed = host.sh(&format!("docker ps --no-trunc -q -f name=^{service}\\\\.")).unwrap();
    let mut all: Vec<_> = listed.split_whitespace().map(str::to_owned).collect();
    all.sort();
    all
}

/// The same on all hosts, with the host of each.
fn everywhere<'a>(lab: &'a Lab, service: &str) -> Vec<(&'a Host, String)> {
    let hosts = lab.hosts().filter(|host| host.is_on());
    hosts.flat_map(|host| of(host, service).into_iter().map(move |id| (host, id))).collect()
}

fn cat((host, container): &(&Host, String), path: &str) -> String {
    host.sh(&format!("docker exec {container} cat {path}")).unwrap()
}

/// Where on a host one of the words is found: files of the daemon, the engine and the system, the disk itself, logs,
/// processes, and all that the engine says of its containers.
fn found(host: &Host, words: &[&str]) -> String {
    let words = words.join("\n");
    let look = "exec 2>/dev/null
        cat > /dev/shm/words
        grep -r -a -l -F -f /dev/shm/words --devices=skip --exclude-dir=secrets /var/lib/raftup /var/lib/docker /run/raftup /etc
        find /run -xdev -type f -not -path '/run/raftup/secrets/*' -print0 | xargs -0 grep -a -l -F -f /dev/shm/words
        tr '\\0' '\\n' < \"$(findmnt -n -o SOURCE /var/lib/raftup | sed 's/\\[.*//')\" | grep -a -c -F -f /dev/shm/words | \
            grep -v '^0$' | sed 's/^/lines of the disk: /'
        for process in /proc/[0-9]*; do
            grep -a -l -F -f /dev/shm/words $process/cmdline $process/environ
        done
        ids=$(docker ps -aq)
        test -z \"$ids\" || docker inspect $ids | grep -F -f /dev/shm/words | sed 's/^/docker inspect: /'
        for id in $ids; do docker exec $id env | grep -F -f /dev/shm/words | sed 's/^/env: /'; done
        raftup service inspect shop_web --json | grep -F -f /dev/shm/words | sed 's/^/service inspect: /'
        raftup secret inspect token shop_key --json | grep -F -f /dev/shm/words | sed 's/^/secret inspect: /'
        rm /dev/shm/words";
    let output = with_input(host, &["sh", "-c", look], &words);
    let mut found = String::from_utf8_lossy(&output.stdout).into_owned();
    for what in [What::Daemon, What::Engine] {
        if words.lines().any(|word| host.log(what).contains(word)) {
            found += &format!("log of {what}\n");
        }
    }
    found
}

/// Host's directories of tasks that have files.
fn files(host: &Host) -> usize {
    host.sh("ls /run/raftup/secrets 2>/dev/null | wc -l").unwrap().trim().parse().unwrap()
}

#[test]
fn secrets_are_read_by_their_tasks_and_found_nowhere_else() {
    let lab = cluster("itsecret", 3);
    let h1 = lab.host("h1");
    let create = ["raftup", "secret", "create", "-l", "team=a", "token", "-"];
    well(with_input(h1, &create, PLANTED));
    // Where everybody deploys from; no host's disk.
    write(&lab, "key.txt", LATER);
    well(deploy(&lab, h1, "shop", READERS));
    let (web, user, none) =
        (everywhere(&lab, "shop_web"), everywhere(&lab, "shop_user"), everywhere(&lab, "shop_none"));
    assert_eq!((web.len(), user.len(), none.len()), (2, 1, 1));
    for task in &web {
        assert_eq!(cat(task, "/run/secrets/token"), PLANTED);
        assert_eq!(cat(task, "/run/secrets/own"), LATER);
        assert_eq!(cat(task, "/etc/site.conf"), "port=1");
        let (host, id) = task;
        let shown = host.sh(&format!(
            "docker exec {id} stat -c '%a %u %g' /run/secrets/token /run/secrets/own /etc/site.conf; docker exec {id} sh -c \
             'echo x > /run/secrets/own' 2>&1 || true"
        ));
        let shown = shown.unwrap();
        assert!(shown.starts_with("444 0 0\n400 1000 1000\n444 0 0\n"), "{shown}");
        assert!(shown.contains("Read-only file system"), "{shown}");
    }
    let (host, id) = &user[0];
    assert_eq!(cat(&user[0], "/run/secrets/own"), LATER, "a user of the container reads what is his");
    let denied = host.sh(&format!("docker exec {id} cat /run/secrets/roots 2>&1 || true")).unwrap();
    assert!(denied.contains("Permission denied"), "{denied}");

    // In memory of the nodes that run readers, for root alone.
    for host in lab.hosts() {
        let here = web.iter().chain(&user).filter(|(on, _)| on.name() == host.name()).count();
        assert_eq!(files(host), here, "{}", host.name());
        if here > 0 {
            let mounted =
                host.sh("findmnt -n -o FSTYPE,OPTIONS /run/raftup/secrets; stat -c %a /run/raftup/secrets");
            let mounted = mounted.unwrap();
            assert!(
                mounted.starts_with("tmpfs") && mounted.contains("noexec") && mounted.ends_with("700\n"),
                "{mounted}"
            );
        }
    }
    let needles = [PLANTED, PLANTED_BASE64, LATER];
    for host in lab.hosts() {
        assert_eq!(found(host, &needles), "", "on {}", host.name());
    }
    // The search finds what is there.
    h1.sh(&format!("printf %s {PLANTED} > /var/lib/raftup/canary && sync")).unwrap();
    let canary = found(h1, &needles);
    assert!(canary.contains("/var/lib/raftup/canary") && canary.contains("lines of the disk"), "{canary}");
    h1.sh("rm /var/lib/raftup/canary").unwrap();

    expect![[r#"
        exit 4
        error: secret `token` is used by service shop_web
        hint: take it out of their `secrets` and deploy them first
    "#]]
    .assert_eq(&refused(&lab, h1.raftup(&["secret", "rm", "token"]).unwrap()));
    let config = well(h1.raftup(&["config", "inspect", "shop_site"]).unwrap());
    assert!(config.contains("port=1") && config.contains("shop_web"), "{config}");

    well(h1.raftup(&["stack", "rm", "shop"]).unwrap());
    for host in lab.hosts() {
        wait_for(SOON, "no files of tasks", || Ok((files(host) == 0).then_some(()))).unwrap();
    }
    let left = well(h1.raftup(&["secret", "ls", "--quiet"]).unwrap());
    assert_eq!(left.lines().count(), 1, "the one that the stack did not own: {left}");
    well(h1.raftup(&["secret", "rm", "token"]).unwrap());
}

#[test]
fn a_changed_secret_replaces_its_readers_alone_and_outlives_restarts() {
    let lab = cluster("itsecrets", 2);
    let h1 = lab.host("h1");
    well(with_input(h1, &["raftup", "secret", "create", "token", "-"], PLANTED));
    write(&lab, "key.txt", "one");
    well(deploy(&lab, h1, "shop", READERS));
    let all = |service: &str| everywhere(&lab, service).into_iter().map(|(_, id)| id).collect::<Vec<_>>();
    let before = ["shop_web", "shop_user", "shop_none"].map(&all);
    well(deploy(&lab, h1, "shop", READERS));
    assert_eq!(["shop_web", "shop_user", "shop_none"].map(&all), before, "the same again changes nothing");

    // The config has one reader, the secret two.
    well(deploy(&lab, h1, "shop", &READERS.replace("port=1", "port=2")));
    let after = ["shop_web", "shop_user", "shop_none"].map(&all);
    assert!(after[0].iter().all(|id| !before[0].contains(id)));
    assert_eq!(after[1..], before[1..]);
    everywhere(&lab, "shop_web").iter().for_each(|task| assert_eq!(cat(task, "/etc/site.conf"), "port=2"));
    write(&lab, "key.txt", "two");
    well(deploy(&lab, h1, "shop", &READERS.replace("port=1", "port=2")));
    let readers = || [everywhere(&lab, "shop_web"), everywhere(&lab, "shop_user")].concat();
    readers().iter().for_each(|task| assert_eq!(cat(task, "/run/secrets/own"), "two"));
    assert_eq!(all("shop_none"), before[2]);
    well(h1.raftup(&["service", "rollback", "shop_user"]).unwrap());
    everywhere(&lab, "shop_user").iter().for_each(|task| assert_eq!(cat(task, "/run/secrets/own"), "one"));
    everywhere(&lab, "shop_web").iter().for_each(|task| assert_eq!(cat(task, "/run/secrets/own"), "two"));

    // A daemon that starts anew touches no container, and no file.
    let running = ["shop_web", "shop_user", "shop_none"].map(&all);
    let listed = |host: &Host| {
        host.sh("cd /run/raftup/secrets 2>/dev/null && find . -type f | xargs -r ls -li").unwrap()
    };
    let files: Vec<_> = lab.hosts().map(listed).collect();
    for host in lab.hosts() {
        host.kill_daemon().unwrap();
        host.start_daemon().unwrap();
    }
    well(h1.raftup(&["service", "ls"]).unwrap());
    assert_eq!(["shop_web", "shop_user", "shop_none"].map(&all), running);
    assert_eq!(lab.hosts().map(listed).collect::<Vec<_>>(), files);
    everywhere(&lab, "shop_web").iter().for_each(|task| assert_eq!(cat(task, "/run/secrets/token"), PLANTED));

    // Nor does an engine or a host that was off lose them: whatever runs then, reads.
    for host in lab.hosts() {
        host.power_off().unwrap();
    }
    for host in lab.hosts() {
        host.power_on().unwrap();
    }
    let all_read = || {
        let web = everywhere(&lab, "shop_web");
        let read = |(host, id): &(&Host, String)| {
            host.sh(&format!("docker exec {id} cat /run/secrets/token /run/secrets/own"))
                .is_ok_and(|read| read == format!("{PLANTED}two"))
        };
        Ok((web.len() == 2 && web.iter().all(read)).then_some(()))
    };
    wait_for(SOON, "both tasks, with their secrets", all_read).unwrap();
}
