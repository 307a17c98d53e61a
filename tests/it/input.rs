//! Bad input, each with its message: what is wrong, where, and what to do.

use expect_test::{Expect, expect};
use raftup_tests::lab::{Host, Lab, Options, What, wait_for};

use crate::cluster::{SOON, WEB, cluster, containers, deploy, form, get, lab, nodes, refused, token, well};

/// What a command answers that is refused.
fn told(lab: &Lab, host: &Host, args: &[&str], expected: Expect) {
    expected.assert_eq(&refused(lab, host.raftup(args).unwrap()));
}

#[test]
fn a_token_that_is_no_good_says_why() {
    let lab = lab(&Options::new("ittoken", 3).unwrap());
    form(&lab, 1);
    let (h1, h2, h3) = (lab.host("h1"), lab.host("h2"), lab.host("h3"));
    let right = token(h1);
    // Whole, and of the cluster, but with a secret that nobody was given.
    well(h1.raftup(&["token", "--rotate", "--quiet"]).unwrap());
    told(
        &lab,
        h2,
        &["join", &right],
        expect![[r#"
        exit 6
        error: the token is not valid any more, or never was
        hint: tokens can be rotated; `raftup token` on a manager prints the current ones
    "#]],
    );
    let right = token(h1);
    told(
        &lab,
        h2,
        &["join", &right[..right.len() - 3]],
        expect![[r#"
        exit 3
        error: token is damaged or cut short
        hint: copy the whole line that `raftup token` prints on a manager
    "#]],
    );
    let (start, end) = right.split_at(40);
    let other = if end.starts_with('A') { "B" } else { "A" };
    told(
        &lab,
        h2,
        &["join", &format!("{start}{other}{}", &end[1..])],
        expect![[r#"
        exit 3
        error: token is damaged or cut short
        hint: copy the whole line that `raftup token` prints on a manager
    "#]],
    );
    told(
        &lab,
        h2,
        &["join", "hello"],
        expect![[r#"
        exit 3
        error: not a raftup token
        hint: a token begins with `RAFTUP-1-`; `raftup token` on a manager prints the current ones
    "#]],
    );

    // A second cluster in the same network.
    well(h3.raftup(&["init"]).unwrap());
    let via = format!("{}:7238", h1.addr());
    told(
        &lab,
        h2,
        &["join", &token(h3), "--via", &via],
        expect![[r#"
        exit 3
        error: the token is of another cluster than 10.99.0.11:7238; its secret was not sent
        hint: `raftup token` on a manager of the cluster that this node should join prints the right one
    "#]],
    );
    let second = refused(&lab, h3.raftup(&["join", &right]).unwrap());
    assert!(second.starts_with("exit 4\nerror: this node is in cluster "), "{second}");
    h1.kill_daemon().unwrap();
    told(
        &lab,
        h2,
        &["join", &right],
        expect![[r#"
        exit 7
        error: no manager answers; tried 10.99.0.11:7238
        hint: is raftupd running there, and is UDP 7238 open from here to there? `--via ADDR:PORT` names another manager
    "#]],
    );
    h1.start_daemon().unwrap();

    // None of it was kept: the right one still is.
    well(h2.raftup(&["join", &right]).unwrap());
    nodes(h1, "Ready", 2);
}

#[test]
fn guessing_tokens_is_slow() {
    let lab = lab(&Options::new("itguess", 2).unwrap());
    form(&lab, 1);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let wrong = token(h1);
    well(h1.raftup(&["token", "--rotate", "--quiet"]).unwrap());
    for _ in 0..5 {
        refused(&lab, h2.raftup(&["join", &wrong]).unwrap());
    }
    told(
        &lab,
        h2,
        &["join", &token(h1)],
        expect![[r#"
        exit 6
        error: too many wrong tokens from 10.99.0.12
        hint: wait a minute, and copy the token from `raftup token` on a manager
    "#]],
    );
}

#[test]
fn a_cluster_that_cannot_be_made_says_why() {
    let lab = lab(&Options::new("itinit", 1).unwrap());
    let host = lab.host("h1");
    told(
        &lab,
        host,
        &["ps"],
        expect![[r#"
        exit 7
        error: this node is in no cluster
        hint: `raftup init` makes one, `raftup join TOKEN` joins one
    "#]],
    );
    told(
        &lab,
        host,
        &["init", "--pool", "10.96.0.0/11"],
        expect![[r#"
        exit 4
        error: pool 10.96.0.0/11 overlaps 10.99.0.0/24, which this host reaches through `eth0`
        hint: `--pool 10.64.0.0/11` is free on this host; check that it is on the others too
    "#]],
    );
    told(
        &lab,
        host,
        &["init", "--pool", "10.128.0.0/24"],
        expect![[r#"
        exit 3
        error: pool 10.128.0.0/24 is too small, it must be a /16 or larger
        hint: the default is 10.64.0.0/11
    "#]],
    );
    host.sh("ip route add 10.70.0.0/16 dev eth0").unwrap();
    told(
        &lab,
        host,
        &["init"],
        expect![[r#"
        exit 4
        error: pool 10.64.0.0/11 overlaps 10.70.0.0/16, which this host reaches through `eth0`
        hint: `--pool 10.128.0.0/11` is free on this host; check that it is on the others too
    "#]],
    );
    host.sh("ip route del 10.70.0.0/16 dev eth0").unwrap();

    host.kill_engine().unwrap();
    let text = refused(&lab, host.raftup(&["init"]).unwrap());
    assert!(
        text.starts_with("exit 7\nerror: Docker Engine does not answer at `/var/run/docker.sock`: "),
        "{text}"
    );
    assert!(text.contains("hint: start it (`systemctl start docker`), or name its socket: "), "{text}");
    host.start_engine().unwrap();

    well(host.raftup(&["init"]).unwrap());
    let second = refused(&lab, host.raftup(&["init"]).unwrap());
    let status = well(host.raftup(&["status", "--json"]).unwrap());
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let cluster = status["member"]["cluster"].as_str().unwrap();
    expect![[r#"
        exit 4
        error: this node is in cluster ID already, as n1
        hint: `raftup leave` first, if it should enter another one
    "#]]
    .assert_eq(&second.replace(cluster, "ID"));
}

#[test]
fn who_is_not_root_is_told_so() {
    let lab = lab(&Options::new("itroot", 1).unwrap());
    let host = lab.host("h1");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let run = |args: &[&str]| refused(&lab, host.exec(&[&nobody[..], args].concat()).unwrap());
    expect![[r#"
        exit 6
        error: you may not use /run/raftup/raftup.sock
        hint: run it as root, or join the socket's group: `sudo usermod -aG raftup $USER`, then log in again
    "#]]
    .assert_eq(&run(&["raftup", "status"]));
    let page = "curl -s -o /dev/null -w '%{http_code}' --unix-socket /run/raftup/raftup.sock \
        -H 'Origin: http://example.com' http://raftup/raftup/v1/status";
    assert_eq!(host.sh(page).unwrap(), "403", "a web page");
    assert_eq!(host.sh("stat -c %a /run/raftup/raftup.sock").unwrap(), "660\n");
    well(host.raftup(&["init"]).unwrap());
    let find = ["find", "/var/lib/raftup", "-type", "f", "-size", "+0", "-readable"];
    let readable = |who: &[&str]| host.exec(&[who, &find].concat()).unwrap().stdout;
    assert!(!readable(&[]).is_empty());
    assert_eq!(String::from_utf8(readable(&nobody)).unwrap(), "", "files that others than root may read");
    expect![[r#"
        exit 1
        error: raftupd must run as root: it manages networks and containers; try `sudo raftupd`
    "#]]
    .assert_eq(&run(&["raftupd", "--data-dir", "/tmp/data", "--run-dir", "/tmp/run"]));
    expect![[r#"
        exit 1
        error: another raftupd uses `/var/lib/raftup`; stop it first, or choose another --data-dir
    "#]]
    .assert_eq(&refused(&lab, host.exec(&["raftupd"]).unwrap()));
    host.kill_daemon().unwrap();
    told(
        &lab,
        host,
        &["status"],
        expect![[r#"
        exit 7
        error: cannot reach raftupd at /run/raftup/raftup.sock; is it running?
        hint: `sudo systemctl start raftupd`
    "#]],
    );
}

/// What is wrong in the file is told with its place, and changes nothing.
#[test]
fn a_compose_file_that_is_wrong_says_where() {
    let lab = cluster("itfile", 1);
    let host = lab.host("h1");
    let told = |from: &str, to: &str, expected: Expect| {
        expected.assert_eq(&refused(&lab, deploy(&lab, host, "bad", &WEB.replace(from, to))));
    };
    told(
        "services:",
        "services: [",
        expect![[r#"
        exit 3
        error: bad.yaml:3:10: services[0]: this is not YAML: while parsing a flow mapping, did not find expected ',' or '}'
         3 |     image: raftup/helper:1
           |          ^

        hint: nothing was changed
    "#]],
    );
    told(
        "image:",
        "imgae:",
        expect![[r#"
        exit 3
        error: bad.yaml:2:3: services.web: has no `image`
         2 |   web:
           |   ^^^

        error: bad.yaml:3:5: services.web.imgae: unknown key `imgae`
         3 |     imgae: raftup/helper:1
           |     ^^^^^
           help: did you mean `image`?

        hint: nothing was changed
    "#]],
    );
    told(
        "'8080:8080'",
        "99999:80",
        expect![[r#"
        exit 3
        error: bad.yaml:4:13: services.web.ports[0]: port 99999 is not between 1 and 65535
         4 |     ports: [99999:80]
           |             ^^^^^^^^

        hint: nothing was changed
    "#]],
    );
    told(
        "replicas: 3",
        "replicas: 1000000000",
        expect![[r#"
        exit 3
        error: bad.yaml:6:24: services.web.deploy.replicas: `1000000000` is not between 0 and 10000
         6 |     deploy: {replicas: 1000000000}
           |                        ^^^^^^^^^^
           help: a service can have up to 10000 replicas

        hint: nothing was changed
    "#]],
    );
    assert_eq!(well(host.raftup(&["service", "ls", "--quiet"]).unwrap()), "");
    well(deploy(&lab, host, "good", WEB));
    expect![[r#"
        exit 4
        error: stack `bad` refused: service `web` publishes port 8080/tcp, taken by service `good_web`
        hint: remove `ports: 8080:8080` from `web`, or `raftup service rm good_web`
    "#]]
    .assert_eq(&refused(&lab, deploy(&lab, host, "bad", WEB)));
}

/// What no node can do is told with the reason of each node, and the deploy fails without waiting for its time-out.
#[test]
fn a_service_that_no_node_can_run_says_why() {
    let lab = cluster("itplace", 2);
    let host = lab.host("h1");
    nodes(host, "Ready", 2);
    let told = |from: &str, to: &str| {
        let text = refused(&lab, deploy(&lab, host, "bad", &WEB.replace(from, to)));
        well(host.raftup(&["stack", "rm", "bad"]).unwrap());
        text
    };
    expect![[r#"
        exit 1
        error: the deploy of stack `bad` failed: service `bad_web`: slot 1: no node fits: 2 not `node.hostname == moon`
        hint: `raftup service ps bad_web` shows the last attempts and why they ended; `raftup service update --force bad_web` tries again
    "#]]
    .assert_eq(&told("replicas: 3", "placement: {constraints: [node.hostname == moon]}"));
    let memory = told("replicas: 3", "resources: {reservations: {memory: 900G}}");
    let most = memory.split_once("most free ").unwrap().1.split_once(')').unwrap().0.to_owned();
    expect![[r#"
        exit 1
        error: the deploy of stack `bad` failed: service `bad_web`: slot 1: no node fits: 2 short of memory (needs 900GiB, most free MOST)
        hint: `raftup service ps bad_web` shows the last attempts and why they ended; `raftup service update --force bad_web` tries again
    "#]]
    .assert_eq(&memory.replace(&most, "MOST"));
    let image = told("raftup/helper:1", "nowhere.invalid/nothing:1");
    let start = "exit 1\nerror: the deploy of stack `bad` failed: service `bad_web`: slot ";
    let reason = " keeps failing: image `nowhere.invalid/nothing:1` cannot be pulled: ";
    assert!(image.starts_with(start) && image.contains(reason), "{image}");
    assert!(
        image.ends_with("hint: `raftup service ps bad_web` shows the last attempts and why they ended; `raftup service update --force bad_web` tries again\n"),
        "{image}"
    );
}

#[test]
fn a_port_that_another_program_has_is_told_on_its_host() {
    let lab = cluster("itport", 2);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    h2.sh("docker run -d --name other --network host raftup/helper:1").unwrap();
    let taken = || Ok(h2.sh("ss -Hltn")?.contains(":8080").then_some(()));
    wait_for(SOON, "another program on port 8080", taken).unwrap();
    well(deploy(&lab, h1, "shop", WEB));
    let problems = |host: &Host| {
        let status: serde_json::Value =
            serde_json::from_str(&well(host.raftup(&["status", "--json"]).unwrap())).unwrap();
        status["problems"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let message = "port 8080/tcp is taken by another program: no service answers on it here";
    let of_service =
        "service shop_web: port 8080/tcp is taken by another program on h2: it does not answer there";
    assert_eq!(problems(h2), [message, of_service]);
    assert_eq!(problems(h1), [of_service]);
    assert!(get(&lab, h1, "8080/").unwrap().contains("\"task\":\"web-"), "the service answers on the other");
    assert!(get(&lab, h2, "8080/").unwrap().contains("\"task\":\"h2\""), "the program keeps its clients");
    h2.sh("docker rm -f other").unwrap();
    wait_for(SOON, "the problem to go", || Ok(problems(h2).is_empty().then_some(()))).unwrap();
    assert!(get(&lab, h2, "8080/").unwrap().contains("\"task\":\"web-"), "the service answers now");
    let second = h2.exec(&["docker", "run", "--rm", "--network", "host", "raftup/helper:1"]).unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("in use"), "the port is held now: {said}");
}

/// Its node says so; its tasks are not called failed, serve on, and are not moved.
#[test]
fn an_engine_that_is_stopped_is_told() {
    let lab = cluster("itstopped", 2);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    well(deploy(&lab, h1, "shop", WEB));
    let before = containers(&lab);
    h2.stop(What::Engine).unwrap();
    nodes(h1, "answer", 1);
    let inspected = well(h1.raftup(&["node", "inspect", "h2"]).unwrap());
    assert!(inspected.contains("Engine:        does not answer"), "{inspected}");
    let status = well(h2.raftup(&["status"]).unwrap());
    assert!(status.contains("Docker Engine does not answer"), "{status}");
    let tasks = well(h1.raftup(&["ps", "--all"]).unwrap());
    assert_eq!(tasks.matches("Running").count(), 6, "wanted and so, each of three: {tasks}");
    for host in lab.hosts() {
        get(&lab, host, "8080/").unwrap();
    }
    let on_h2 = well(h1.raftup(&["node", "ps", "h2", "--quiet"]).unwrap());
    h2.start_engine().unwrap();
    nodes(h1, "answer", 0);
    assert_eq!(well(h1.raftup(&["node", "ps", "h2", "--quiet"]).unwrap()), on_h2, "the same tasks");
    let after = containers(&lab);
    assert!(before.iter().all(|container| after.contains(container)), "nothing was restarted");
}
