//! The lab itself: real engines run containers, faults do what they say, nothing is left behind.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use raftup_tests::{
    lab::{EngineKind, Host, Lab, Options, What, wait_for},
    load::{Mode, Plan, Running},
};

const SOON: Duration = Duration::from_secs(10);

fn up(id: &str, hosts: u8, engine: EngineKind) -> Lab {
    let options = Options { engine, daemon: false, ..Options::new(id, hosts).unwrap() };
    Lab::up(&options).unwrap_or_else(|error| panic!("{error:#}"))
}

fn docker(host: &Host, args: &str) -> String {
    host.sh(&format!("docker {args}")).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Starts the helper on a published port and waits until the client gets its answer.
fn serve(lab: &Lab, host: &Host) {
    docker(host, "run -d --name web -p 8080:8080 -p 8080:8080/udp raftup/helper:1");
    wait_for(SOON, "answer", || Ok(answers(lab, host).then_some(()))).unwrap();
}

fn answers(lab: &Lab, host: &Host) -> bool {
    let url = format!("http://{}:8080/", host.addr());
    lab.client().exec(&["curl", "-sf", "-m", "1", &url]).unwrap().status.success()
}

/// What of a lab is on the machine: its links, loop devices, cgroups, mounts and files.
fn leftovers(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |path: &str, needle: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        found.extend(text.lines().filter(|line| line.contains(needle)).map(|line| format!("{path}: {line}")));
    };
    let dir = format!("/raftup-lab/{id}/");
    look("/proc/self/mounts", &dir);
    look("/proc/net/dev", &format!("rl-{id}:"));
    for device in fs::read_dir("/sys/block").unwrap().flatten() {
        look(&device.path().join("loop/backing_file").display().to_string(), &dir);
    }
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let cgroups = hierarchies.map(|top| top.join("raftup-lab").join(id)).chain([
        format!("/sys/fs/cgroup/raftup-lab/{id}").into(),
        format!("/var/tmp/raftup-lab/{id}").into(),
        format!("/var/tmp/raftup-lab/{id}.lock").into(),
    ]);
    found.extend(cgroups.filter(|path| path.exists()).map(|path| path.display().to_string()));
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if words.contains(&dir) {
            found.push(words.replace('\0', " "));
        }
    }
    found
}

#[test]
fn both_engines_run_containers_and_publish_ports() {
    let lab = up("itengine", 2, EngineKind::Mixed);
    let versions: Vec<String> =
        lab.hosts().map(|host| docker(host, "version -f '{{.Server.Version}}'")).collect();
    assert_ne!(versions[0], versions[1], "two kinds of engine");
    for host in lab.hosts() {
        serve(&lab, host);
        // A bridge network of its own, names on it, and the way out to another host.
        docker(host, "network create inner");
        docker(host, "run -d --name shop --network inner raftup/nginx:1");
        let page = docker(host, "run --rm --network inner raftup/helper:1 get http://shop/");
        assert!(page.contains("nginx"), "{page}");
        let other = lab.hosts().find(|other| other.name() != host.name()).unwrap();
        docker(host, &format!("run --rm --network inner raftup/busybox:1 ping -c 1 -W 2 {}", other.addr()));
        docker(host, "run -d --name store raftup/redis:1");
        wait_for(SOON, "PONG", || {
            Ok(docker(host, "exec store redis-cli ping || true").contains("PONG").then_some(()))
        })
        .unwrap();
        assert!(docker(host, "run --rm raftup/haproxy:1 haproxy -v").contains("version"));
        assert_eq!(docker(host, "info -f '{{.LiveRestoreEnabled}}'").trim(), "true");
    }
    let machine = |host: &Host| host.sh("cat /etc/machine-id; hostname; docker info -f '{{.ID}}'").unwrap();
    assert_ne!(machine(lab.host("h1")), machine(lab.host("h2")), "each host has its own identity");
}

#[test]
fn faults_do_what_they_say() {
    let lab = up("itfault", 2, EngineKind::Debian);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    serve(&lab, h1);
    serve(&lab, h2);

    h1.cut().unwrap();
    assert!(!answers(&lab, h1) && answers(&lab, h2), "only the host that was cut off is gone");
    h1.heal().unwrap();
    wait_for(SOON, "answer after healing", || Ok(answers(&lab, h1).then_some(()))).unwrap();

    h1.freeze().unwrap();
    assert!(!answers(&lab, h1), "a frozen host does not answer");
    h1.thaw().unwrap();
    assert!(answers(&lab, h1));

    let before = docker(h1, "ps -q");
    h1.kill_engine().unwrap();
    assert!(answers(&lab, h1), "containers live without their engine");
    assert!(h1.stats(What::Engine).is_err());
    h1.start_engine().unwrap();
    assert_eq!(docker(h1, "ps -q"), before, "the engine takes its containers up again");
    assert!(h1.stats(What::Engine).unwrap().rss_bytes > 1 << 20);

    h1.sh("echo kept > /var/lib/raftup/note && sync").unwrap();
    h1.power_off().unwrap();
    assert!(!h1.is_on() && !answers(&lab, h1) && answers(&lab, h2));
    assert!(h1.exec(&["true"]).is_err(), "nothing runs on a host that is off");
    h1.power_on().unwrap();
    assert_eq!(h1.sh("cat /var/lib/raftup/note").unwrap(), "kept\n");
    docker(h1, "start web");
    wait_for(SOON, "answer after power", || Ok(answers(&lab, h1).then_some(()))).unwrap();
}

#[test]
fn load_is_counted_and_classed() {
    let lab = up("itload", 1, EngineKind::Debian);
    let host = lab.host("h1");
    serve(&lab, host);
    let plan = |mode, target: String| Plan::new(mode, &[target], 200.0, Duration::from_secs(60));
    let url = format!("http://{}:8080/", host.addr());
    let udp = Running::start(&lab, &plan(Mode::Udp, format!("{}:8080", host.addr()))).unwrap();
    let keepalive = Running::start(&lab, &plan(Mode::Keepalive, url)).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    docker(host, "stop web");
    let stopped = SystemTime::now();
    std::thread::sleep(Duration::from_millis(500));

    let report = keepalive.stop().unwrap();
    assert!(report.ok >= 100 && report.ok + report.failed == report.sent, "{report:?}");
    assert!(report.clients.contains_key(&lab.client().addr().to_string()), "{:?}", report.clients);
    assert_eq!(report.tasks.len(), 1);
    assert_eq!(report.classes.keys().map(|class| format!("{class:?}")).collect::<String>(), "Refused");
    assert!(!report.failures_after(stopped, Duration::ZERO).is_empty());
    assert!(udp.stop().unwrap().ok >= 100);
}

#[test]
fn a_lab_that_was_killed_hinders_nobody() {
    let id = "itkilled";
    let tool = env!("CARGO_BIN_EXE_raftup-lab");
    let lab = |args: &[&str]| {
        let mut command = Command::new(tool);
        command.args(["--id", id]).args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // Killed at several points on the way up, each time on top of what the one before left.
    for after_ms in [30, 150, 400, 900] {
        let mut child = lab(&["up", "--hosts", "2", "--no-daemon"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let whole = up(id, 2, EngineKind::Debian);
    serve(&whole, whole.host("h2"));
    whole.host("h1").freeze().unwrap();
    let in_use =
        Lab::up(&Options::new(id, 1).unwrap()).err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(in_use.contains("in use by a process that runs"), "{in_use}");
    drop(whole);
    assert_eq!(leftovers(id), Vec::<String>::new());

    assert!(lab(&["up", "--hosts", "1", "--no-daemon"]).status().unwrap().success());
    assert!(lab(&["exec", "h1", "--", "true"]).status().unwrap().success());
    assert_eq!(lab(&["exec", "h1", "--", "sh", "-c", "exit 7"]).status().unwrap().code(), Some(7));
    assert!(lab(&["down"]).status().unwrap().success());
    assert_eq!(leftovers(id), Vec::<String>::new());
}

#[test]
fn two_labs_live_side_by_side() {
    let (one, two) = (up("itone", 1, EngineKind::Debian), up("ittwo", 1, EngineKind::Debian));
    assert_ne!(one.host("h1").addr(), two.host("h1").addr());
    drop(one);
    assert!(leftovers("itone").is_empty());
    assert_eq!(two.host("h1").sh("hostname").unwrap(), "h1\n");
    assert!(Path::new(&two.host("h1").engine_socket()).exists());
}
