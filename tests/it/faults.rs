//! Daemons, engines and hosts that die under load.
//!
//! Load goes through two hosts; what dies is on the third. Tasks run on all three.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant, SystemTime},
};

use raftup_tests::{
    lab::{Host, Lab, Options, What, wait_for},
    load::{Class, Failure, Mode, Report, Running},
};

use crate::cluster::{
    Asking, SOON, WEB, cluster, containers, deploy, get, lab, leader, load, load_at, load_in, load_within,
    lossless, nodes, well, writable,
};

/// New connections may fail for that long after a host has died.
const BLIND: Duration = Duration::from_secs(2);

/// Longest time until a client's connection to a host that died is reset: with the first packet that it repeats after the
/// connection is cut, 6.2 s after the first one at the latest; as much again for a busy machine.
const CUT: Duration = Duration::from_secs(13);

/// Three managers, and a task of a service on each.
fn served(id: &str) -> Lab {
    let lab = cluster(id, 3);
    nodes(lab.host("h1"), "Reachable", 2);
    well(deploy(&lab, lab.host("h1"), "shop", WEB));
    assert_eq!(containers(&lab).len(), 3);
    lab
}

fn both(lab: &Lab, hosts: &[&str]) -> [Running; 2] {
    [load(lab, hosts), load_in(Mode::Keepalive, lab, hosts)]
}

/// New connections for each request, and kept ones whose client waits until they are cut, and comes again.
fn patient(lab: &Lab, hosts: &[&str]) -> [Running; 2] {
    [load(lab, hosts), load_within(CUT, Mode::Keepalive, lab, hosts)]
}

fn all_lossless(load: [Running; 2], least: u64) {
    for running in load {
        lossless(&running.stop().unwrap(), least);
    }
}

/// The names of the other two hosts.
fn others(lab: &Lab, one: &Host) -> Vec<String> {
    lab.hosts().map(|host| host.name().to_owned()).filter(|name| name != one.name()).collect()
}

#[test]
fn a_daemon_that_is_killed_ten_times_costs_nothing() {
    let lab = served("itten");
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    let before = containers(&lab);
    let (load, names) = (both(&lab, &["h1", "h2"]), Asking::start(&lab, h3));
    for _ in 0..10 {
        h3.kill_daemon().unwrap();
        h3.start_daemon().unwrap();
        let asked = || Ok(h3.raftup(&["ps", "--quiet"])?.status.success().then_some(()));
        wait_for(SOON, "an answer of the cluster through h3", asked).unwrap();
        // Each kill hits a daemon that is back in full.
        nodes(h1, "Ready", 3);
        nodes(h1, "Reachable", 2);
    }
    writable(h1, "shop_web", 3);
    nodes(h1, "Ready", 3);
    all_lossless(load, 100);
    names.all_answered(100);
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

#[test]
fn all_daemons_killed_at_once_cost_nothing() {
    let lab = served("itkill");
    let before = containers(&lab);
    let (load, names) = (both(&lab, &["h1", "h2", "h3"]), Asking::start(&lab, lab.host("h2")));
    for host in lab.hosts() {
        host.kill_daemon().unwrap();
    }
    for host in lab.hosts() {
        host.start_daemon().unwrap();
    }
    writable(lab.host("h2"), "shop_web", 3);
    nodes(lab.host("h2"), "Ready", 3);
    all_lossless(load, 30);
    names.all_answered(30);
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

#[test]
fn an_engine_that_is_killed_costs_nothing() {
    let lab = served("itdockerd");
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    let before = containers(&lab);
    let (load, names) = (both(&lab, &["h1", "h2"]), Asking::start(&lab, h3));
    h3.kill_engine().unwrap();
    nodes(h1, "answer", 1);
    writable(h1, "shop_web", 3);
    h3.start_engine().unwrap();
    nodes(h1, "answer", 0);
    writable(h1, "shop_web", 3);
    all_lossless(load, 30);
    names.all_answered_but_by_the_engine(30);
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

/// For so long that its node counts as down, while its containers serve on.
#[test]
fn a_leader_that_is_killed_costs_nothing() {
    let lab = served("itleader");
    let first = leader(&lab, lab.host("h1"));
    let others = others(&lab, first);
    let other = lab.host(&others[0]);
    let load = both(&lab, &[&others[0], &others[1]]);
    let names = [Asking::start(&lab, first), Asking::start(&lab, other)];
    let died = Instant::now();
    first.kill_daemon().unwrap();
    // On its way to a leader that is gone, it is asked again of the next one.
    well(other.raftup(&["node", "update", "--label-add", "asked=once", other.name()]).unwrap());
    writable(other, "shop_web", 3);
    eprintln!(
        "a change was taken {:.1} s after the leader's daemon was killed",
        died.elapsed().as_secs_f64()
    );
    nodes(other, "Down", 1);
    // Where no daemon is, names are answered for as long as containers run.
    names.into_iter().for_each(|names| names.all_answered(100));
    first.start_daemon().unwrap();
    nodes(other, "Ready", 3);
    writable(other, "shop_web", 3);
    let settled = || Ok((containers(&lab).len() == 3).then_some(()));
    wait_for(SOON, "three containers", settled).unwrap();
    all_lossless(load, 60);
}

/// How long nobody leads in tests of that: longer than any time-out of a cluster. `RAFTUP_ABSENCE` says another number of
/// seconds.
fn absence() -> Duration {
    let seconds = std::env::var("RAFTUP_ABSENCE").map_or(20, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Two of three managers are gone: nobody can change anything, and everything serves on.
#[test]
fn without_a_majority_nothing_is_lost() {
    let lab = served("itminority");
    let before = containers(&lab);
    let first = leader(&lab, lab.host("h1"));
    let others = others(&lab, first);
    let last = lab.host(&others[1]);
    let load = both(&lab, &["h1", "h2", "h3"]);
    let names = [Asking::start(&lab, first), Asking::start(&lab, last)];
    for host in [first, lab.host(&others[0])] {
        host.kill_daemon().unwrap();
    }
    let length = absence();
    thread::sleep(length / 2);
    for refused in [&["service", "scale", "shop_web=4"][..], &["node", "ls"]] {
        let asked = Instant::now();
        let said = last.raftup(refused).unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(!said.status.success() && text.contains("a majority of them must be up"), "{text}");
        assert!(asked.elapsed() < REFUSED, "it took {:?}", asked.elapsed());
    }
    // One that starts with nobody to lead it takes over what is in force.
    last.kill_daemon().unwrap();
    last.start_daemon().unwrap();
    thread::sleep(length / 2);
    for host in [first, lab.host(&others[0])] {
        host.start_daemon().unwrap();
    }
    nodes(last, "Ready", 3);
    writable(last, "shop_web", 3);
    all_lossless(load, 500);
    names.into_iter().for_each(|names| names.all_answered(500));
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

/// The only manager loses its power, for so long as nobody decides anything: its tasks are led to no more, the others
/// serve on.
#[test]
fn without_any_manager_the_others_serve_on() {
    let lab = lab(&Options::new("itnomanager", 3).unwrap());
    let (h1, h2, h3) = (lab.host("h1"), lab.host("h2"), lab.host("h3"));
    well(h1.raftup(&["init"]).unwrap());
    let token = well(h1.raftup(&["token", "--worker", "--quiet"]).unwrap());
    for host in [h2, h3] {
        well(host.raftup(&["join", token.trim()]).unwrap());
    }
    well(deploy(&lab, h1, "shop", WEB));
    let (load, names) = (patient(&lab, &["h2", "h3"]), Asking::start(&lab, h2));
    // Long enough for connections to be kept to all tasks.
    thread::sleep(Duration::from_secs(1));
    let died = SystemTime::now();
    h1.power_off().unwrap();
    thread::sleep(absence());
    for running in load {
        fails_only_at_first(&running.stop().unwrap(), died);
    }
    names.all_answered(500);
    h1.power_on().unwrap();
    nodes(h1, "Ready", 3);
    writable(h1, "shop_web", 4);
    let said = h2.raftup(&["service", "ls"]).unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("this node is a worker") && text.contains(&h1.addr().to_string()), "{text}");
}

#[test]
fn a_lost_host_is_replaced() {
    let lab = served("itlost");
    let first = leader(&lab, lab.host("h1"));
    let lost = lab.hosts().find(|host| host.name() != first.name()).unwrap();
    lose(&lab, lost);
}

#[test]
fn a_lost_leader_is_replaced() {
    let lab = served("itlostlead");
    lose(&lab, leader(&lab, lab.host("h1")));
}

/// Takes the power of a host away under load and gives it back.
fn lose(lab: &Lab, lost: &Host) {
    let others = others(lab, lost);
    let other = lab.host(&others[0]);
    let alone = WEB
        .replace("8080:", "8081:")
        .replace("replicas: 3", &format!("placement: {{constraints: [node.hostname == {}]}}", lost.name()));
    well(deploy(lab, other, "alone", &alone));
    let (load, names) = (patient(lab, &[&others[0], &others[1]]), Asking::start(lab, other));
    let at_the_lost = load_at(8081, CUT, Mode::Keepalive, lab, &[other.name()]);
    // Long enough for connections to be kept to all tasks.
    thread::sleep(Duration::from_secs(1));
    let (died, at) = (SystemTime::now(), Instant::now());
    lost.power_off().unwrap();
    let replaced = || Ok((containers(lab).len() == 3).then_some(()));
    wait_for(SOON, "replacements", replaced).unwrap();
    eprintln!("replacements ran {:.1} s after {} lost its power", at.elapsed().as_secs_f64(), lost.name());
    writable(other, "shop_web", 4);
    eprintln!("a change was carried out {:.1} s after that", at.elapsed().as_secs_f64());
    for running in load {
        fails_only_at_first(&running.stop().unwrap(), died);
    }
    names.all_answered(100);
    // Nothing takes its place, and still nobody hangs.
    let report = at_the_lost.stop().unwrap();
    let told = |class: &Class| matches!(class, Class::Refused | Class::Reset);
    assert!(report.classes.keys().all(told), "{:?} {:?}", report.classes, report.failures);
    assert!(report.failed > 0 && report.resent > 0, "some were reset, and refused when they came again");
    assert!(report.ok > 50, "too little load to tell: {}", report.ok);
    lost.power_on().unwrap();
    nodes(other, "Ready", 3);
    let back = || Ok((containers(lab).len() == 5).then_some(()));
    wait_for(SOON, "the old tasks to go", back).unwrap();
}

/// No request failed that began later than [`BLIND`] after a host died.
fn fails_only_at_first(report: &Report, died: SystemTime) {
    let late = report.failures_after(died, BLIND);
    let since = died.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let last =
        report.failures.last().map(|one| i128::from(report.started_unix_ms + one.at_ms) - since as i128);
    eprintln!("{} of {} failed, the last {last:?} ms after", report.failed, report.sent);
    assert!(late.is_empty(), "{late:?}");
    let stuck = |one: &Failure| one.class == Class::Timeout && one.detail.contains("kept");
    assert!(!report.failures.iter().any(stuck), "a connection was not cut: {:?}", report.failures);
    assert!(report.ok > 100, "too little load to tell: {}", report.ok);
}

/// Longest time until a node that has missed news has the tables of the others.
const CONVERGED: Duration = Duration::from_secs(5);

/// Longest time until somebody is told that nobody leads.
const REFUSED: Duration = Duration::from_secs(20);

/// What is done to a host.
type Act<'a> = &'a dyn Fn();

/// The tasks that a host leads connections to.
fn led_to(host: &Host) -> anyhow::Result<BTreeSet<Ipv4Addr>> {
    let map = host.sh("nft list map ip raftup vip_endpoints")?;
    let ends = map.lines().flat_map(|line| line.split(',')).filter_map(|element| element.split_once(" : "));
    Ok(ends.filter_map(|(_, to)| to.trim_end_matches([' ', '}']).parse().ok()).collect())
}

#[test]
fn who_has_missed_news_has_the_tables_of_the_others_within_seconds() {
    let lab = served("itmissed");
    let first = leader(&lab, lab.host("h1"));
    let others = others(&lab, first);
    let (deaf, last) = (lab.host(&others[0]), lab.host(&others[1]));
    let stop = || deaf.signal(What::Daemon, "STOP").unwrap();
    let go_on = || deaf.signal(What::Daemon, "CONT").unwrap();
    let cut = || {
        deaf.cut().unwrap();
        nodes(first, "Down", 1);
    };
    let heal = || deaf.heal().unwrap();
    let away: [(&str, Act<'_>, Act<'_>, &str); 2] =
        [("stopped", &stop, &go_on, "shop_web=6"), ("cut off", &cut, &heal, "shop_web=9")];
    for (what, go, come_back, scale) in away {
        let before = led_to(deaf).unwrap();
        assert_eq!(before, led_to(last).unwrap());
        go();
        well(first.raftup(&["service", "scale", "--detach", scale]).unwrap());
        let more = || Ok(led_to(last)?.difference(&before).next().is_some().then_some(()));
        wait_for(SOON, "news on another host", more).unwrap();
        assert_eq!(led_to(deaf).unwrap().difference(&before).count(), 0, "it is {what}");
        come_back();
        let back = Instant::now();
        let same = || {
            let (there, here) = (led_to(last)?, led_to(deaf)?);
            anyhow::ensure!(there == here, "there {there:?}, here {here:?}");
            Ok(Some(()))
        };
        wait_for(CONVERGED, "equal tables", same).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        eprintln!(
            "tables were equal {:.1} s after a node that was {what} came back",
            back.elapsed().as_secs_f64()
        );
        nodes(first, "Ready", 3);
        writable(first, "shop_web", 3);
        let settled = || Ok((led_to(deaf)?.len() == 3 && led_to(deaf)? == led_to(last)?).then_some(()));
        wait_for(SOON, "three endpoints", settled).unwrap();
    }
}

/// Longest time until rules that someone took away are back.
const REPAIRED: Duration = Duration::from_secs(5);

/// What others do to a host, and what the daemon says of it.
const DISTURBANCES: [(&str, &str); 9] = [
    ("nft flush ruleset", RULES),
    ("nft delete table ip raftup", RULES),
    ("iptables -F DOCKER-USER", RULES),
    // As a firewall does that is loaded anew.
    ("for table in filter nat mangle; do iptables -t $table -F; iptables -t $table -X; done", RULES),
    ("ip route flush dev ru-fabric", WAYS),
    ("ip neigh flush dev ru-fabric nud permanent; ip rule del pref 7239", WAYS),
    ("ip link set ru-fabric down", WAYS),
    ("ip link del ru-fabric", WAYS),
    ("ip link del ru-wire", WAYS),
];
const RULES: &str = "someone else has changed rules of ours";
const WAYS: &str = "someone else has removed links or routes of ours";

#[test]
fn what_someone_takes_away_comes_back() {
    let lab = cluster("itflush", 2);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    well(deploy(&lab, h1, "shop", WEB));
    // All of it, but for what differs from time to time: numbers of devices and of generations.
    let ours = || -> anyhow::Result<String> {
        h1.sh("nft list map ip raftup ports; iptables -S DOCKER-USER | grep ru- | sort; iptables -S FORWARD | grep -c DOCKER-USER; \
            ip -4 -o addr show dev ru-wire | cut -d: -f2; ip -o link show ru-wire | grep -o UP,LOWER_UP; \
            ip -4 -o addr show dev ru-fabric | cut -d: -f2; ip -o link show ru-fabric | grep -o UP,LOWER_UP; \
            ip -4 route show table all dev ru-fabric | sort; ip rule; \
            ip neigh show dev ru-fabric | sort; bridge fdb show dev ru-fabric | sort")
    };
    let before = ours().unwrap();
    for (disturb, said) in DISTURBANCES {
        let told = || h1.log(What::Daemon).matches(said).count();
        let earlier = told();
        h1.sh(disturb).unwrap();
        let whole = || {
            let now = ours()?;
            let less: Vec<_> = before.lines().filter(|line| !now.lines().any(|one| one == *line)).collect();
            let more: Vec<_> = now.lines().filter(|line| !before.lines().any(|one| one == *line)).collect();
            anyhow::ensure!(now == before, "missing {less:#?}, and there is {more:#?}");
            Ok(Some(()))
        };
        wait_for(REPAIRED, disturb, whole).unwrap_or_else(|error| panic!("{disturb}: {error:#}"));
        assert!(told() > earlier, "{disturb}: nothing was said");
        // From outside through this host, and from the other one to the tasks of this one.
        let all = |host| {
            (0..6).try_for_each(|_| get(&lab, host, "8080/").map(drop))?;
            Ok(Some(()))
        };
        for host in [h1, h2] {
            wait_for(REPAIRED, "answers of all tasks", || all(host))
                .unwrap_or_else(|error| panic!("{disturb}: {error:#}"));
        }
    }
}
