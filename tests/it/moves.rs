//! Hosts whose address changes, and one that others cannot call.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use raftup_tests::{
    lab::{Host, Lab, Options, What, wait_for},
    load::{Mode, Plan, Report, Running},
};

use crate::cluster::{
    SOON, cluster, containers, deploy, form, get, join, lab, leader, lossless, nodes, well,
};

/// Longest gap when an address changes.
const GAP: Duration = Duration::from_secs(5);

/// A node behind a NAT is not silent towards the others for longer. See `KEEPALIVE_S` of the daemon.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// One server on every host.
const STACK: &str = "services:
  web:
    image: raftup/helper:1
    ports: ['8080:8080']
    healthcheck: {disable: true}
    deploy: {mode: global}
";

/// The process of a host's task, and its address.
fn task(host: &Host) -> (String, String) {
    let look = "docker inspect -f '{{.State.Pid}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}' \
        $(docker ps -q -f name=shop_web)";
    let said = host.sh(look).unwrap();
    let (process, address) = said.trim().split_once(' ').unwrap();
    (process.to_owned(), address.to_owned())
}

/// Load from the task of one host to that of another.
struct Between {
    /// A stuck request is no failed one: TCP tries again.
    connections: Running,
    datagrams: Running,
}

impl Between {
    fn start(lab: &Lab, from: &Host, to: &Host) -> Self {
        let ((process, _), (_, address)) = (task(from), task(to));
        let start = |mode, timeout_s| {
            let target = format!("{}{address}:8080", if mode == Mode::Udp { "" } else { "http://" });
            let plan = Plan { timeout_s, ..Plan::new(mode, &[target], 100.0, Duration::from_secs(600)) };
            Running::start_beside(lab, from, &process, &plan).unwrap()
        };
        Self { connections: start(Mode::Keepalive, 30.0), datagrams: start(Mode::Udp, 1.0) }
    }

    /// No connection was lost, and datagrams were for no longer than [`GAP`].
    fn go_on(self, what: &str) {
        let connections = self.connections.stop().unwrap();
        let datagrams = self.datagrams.stop().unwrap();
        let gap = gap(&datagrams);
        eprintln!(
            "{what}: {gap:?} without datagrams ({} of {} lost), slowest answer over a connection {:.0} ms",
            datagrams.failed, datagrams.sent, connections.latency.max_ms
        );
        lossless(&connections, 50);
        assert_eq!(connections.resent, 0, "connections are the same ones");
        assert!(datagrams.ok > 50 && gap < GAP, "{gap:?} {:?}", datagrams.classes);
    }
}

/// From the first datagram that was lost to the last one.
fn gap(report: &Report) -> Duration {
    let at = |failure: Option<&raftup_tests::load::Failure>| failure.map_or(0, |failure| failure.at_ms);
    Duration::from_millis(at(report.failures.last()) - at(report.failures.first()))
}

/// An address that no host of the lab has.
fn another(host: &Host) -> Ipv4Addr {
    let [a, b, c, d] = host.addr().octets();
    Ipv4Addr::new(a, b, c, d + 100)
}

/// Waits until the cluster says, at this host, that `moved` is there.
fn known_at(asked: &Host, moved: &Host, addr: Ipv4Addr) {
    let shown = || {
        let inspected = asked.raftup(&["node", "inspect", moved.name()])?;
        let inspected = String::from_utf8_lossy(&inspected.stdout).contains(&format!("{addr}:7238"));
        let listed = asked.raftup(&["node", "ls"])?;
        let listed = String::from_utf8_lossy(&listed.stdout).lines().any(|line| {
            line.contains(&format!(" {} ", moved.name()))
                && line.contains(" Ready ")
                && line.contains(&addr.to_string())
        });
        Ok((inspected && listed).then_some(()))
    };
    wait_for(SOON, &format!("{} at {addr}", moved.name()), shown).unwrap();
}

fn nobody_was_down(lab: &Lab) {
    for host in lab.hosts() {
        let log = host.log(What::Daemon);
        assert!(!log.contains("node is down"), "{}: {log}", host.name());
    }
}

/// Changes a host's address under load between its task and that of `asked`.
fn move_under_load(lab: &Lab, asked: &Host, moved: &Host, what: &str) {
    let loads = [Between::start(lab, asked, moved), Between::start(lab, moved, asked)];
    get(lab, asked, "8080/").unwrap();
    let begun = Instant::now();
    moved.readdress(another(moved)).unwrap();
    known_at(asked, moved, another(moved));
    let known = begun.elapsed();
    eprintln!("{what}: `node ls` shows it after {:.1} s", known.as_secs_f64());
    assert!(known < GAP, "{known:?}");
    known_at(moved, moved, another(moved));
    meet(asked, moved);
    loads.into_iter().for_each(|load| load.go_on(what));
}

#[test]
fn a_changed_address_is_followed() {
    let lab = cluster("itmove", 3);
    let first = lab.host("h1");
    nodes(first, "Reachable", 2);
    well(deploy(&lab, first, "shop", STACK));
    let before = containers(&lab);
    assert_eq!(before.len(), 3);
    // One that follows, then the one that leads.
    let leads = leader(&lab, first);
    let follows = lab.hosts().find(|host| host.name() != leads.name()).unwrap();
    let asked = lab.hosts().find(|host| ![leads.name(), follows.name()].contains(&host.name())).unwrap();
    for (moved, what) in [(follows, "a follower moved"), (leads, "the leader moved")] {
        move_under_load(&lab, asked, moved, what);
        well(asked.raftup(&["node", "update", "--label-add", "moved=yes", moved.name()]).unwrap());
    }
    nobody_was_down(&lab);
    // While its daemon is away.
    let loads = [Between::start(&lab, leads, asked), Between::start(&lab, asked, leads)];
    asked.kill_daemon().unwrap();
    asked.readdress(another(asked)).unwrap();
    asked.start_daemon().unwrap();
    known_at(leads, asked, another(asked));
    meet(leads, asked);
    loads.into_iter().for_each(|load| load.go_on("one without a daemon moved"));
    nodes(leads, "Reachable", 2);
    nobody_was_down(&lab);
    assert_eq!(containers(&lab), before, "nothing was restarted");
}

/// One datagram from the task of one host to that of another, and back, soon: one that is lost is not waited for.
fn reaches(from: &Host, to: &Host) -> anyhow::Result<()> {
    let helper = "timeout 1 docker exec $(docker ps -q -f name=shop_web) /helper";
    from.sh(&format!("{helper} udp {}:8080", task(to).1)).map(drop)
}

/// Waits until tasks of two hosts reach each other.
fn meet(one: &Host, other: &Host) {
    for (from, to) in [(one, other), (other, one)] {
        let reached = || reaches(from, to).map(Some);
        wait_for(SOON, &format!("{} from {}", to.name(), from.name()), reached).unwrap();
    }
}

/// As soon as the others have heard of it from the leader.
#[test]
fn a_changed_address_is_followed_without_encryption() {
    let lab = lab(&Options::new("itmovepl", 2).unwrap());
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    well(h1.raftup(&["init", "--fabric", "plain"]).unwrap());
    join(h1, h2);
    well(deploy(&lab, h1, "shop", STACK));
    move_under_load(&lab, h1, h2, "a node of a plain fabric moved");
    nobody_was_down(&lab);
}

/// One that cannot be called by whom it does not know has to call, and nobody but gossip tells it where.
#[test]
fn where_nobody_leads_gossip_says_where_a_node_is() {
    let lab = lab(&Options::new("ithint", 3).unwrap());
    let (h1, h2, h3) = (lab.host("h1"), lab.host("h2"), lab.host("h3"));
    well(h1.raftup(&["init", "--managers", "1"]).unwrap());
    [h2, h3].into_iter().for_each(|host| join(h1, host));
    well(deploy(&lab, h1, "shop", STACK));
    meet(h2, h3);
    h1.kill_daemon().unwrap();
    h3.sh(
        "nft 'table ip deaf { chain input { type filter hook input priority 0; udp dport 7239 ct state new drop; }; }'",
    )
    .unwrap();
    meet(h2, h3);
    let begun = Instant::now();
    h2.readdress(another(h2)).unwrap();
    let reached = || reaches(h2, h3).map(Some);
    wait_for(GAP, "h3 from h2", reached).unwrap();
    eprintln!("without a leader, h2 reached h3 again after {:.1} s", begun.elapsed().as_secs_f64());
    reaches(h3, h2).unwrap();
}

#[test]
fn a_host_behind_a_nat_is_a_node() {
    let lab = lab(&Options::new("itnat", 3).unwrap());
    let (h1, h3) = (lab.host("h1"), lab.host("h3"));
    let (router, inside) = h3.put_behind_nat().unwrap();
    // As short as routers have it.
    router.sh("sysctl -q -w net.netfilter.nf_conntrack_udp_timeout=30 net.netfilter.nf_conntrack_udp_timeout_stream=30").unwrap();
    form(&lab, 3);
    well(deploy(&lab, h1, "shop", STACK));
    known_at(h1, h3, inside);
    meet(h3, h1);
    meet(h3, lab.host("h2"));
    // Through the mesh, whichever task answers.
    (0..12).for_each(|_| _ = get(&lab, h1, "8080/").unwrap());
    // Without a word of any container, the way is kept open.
    let quiet = Instant::now();
    let look = format!("sleep 1; conntrack -L -p udp --dport 7239 2>/dev/null | grep -c src={inside}");
    while quiet.elapsed() < Duration::from_secs(45) {
        let open = router.sh(&look).unwrap();
        assert_eq!(open.trim(), "2", "ways to the other two after {:?}", quiet.elapsed());
    }
    reaches(h1, h3).unwrap();
    reaches(lab.host("h2"), h3).unwrap();
    // The router forgets everything, as when it is started anew.
    router.sh("conntrack -F").unwrap();
    let begun = Instant::now();
    for from in ["h1", "h2"] {
        let reached = || reaches(lab.host(from), h3).map(Some);
        wait_for(KEEPALIVE + GAP, &format!("h3 from {from} again"), reached).unwrap();
        eprintln!(
            "{from} reached h3 again {:.1} s after the router forgot it",
            begun.elapsed().as_secs_f64()
        );
    }
    meet(h3, h1);
    meet(h3, lab.host("h2"));
    nodes(h1, "Ready", 3);
    nobody_was_down(&lab);
}
