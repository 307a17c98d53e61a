//! Whole clusters, and words to talk to them.

use std::{path::PathBuf, process::Output, time::Duration};

use raftup_tests::{
    lab::{Host, Lab, Options, wait_for},
    load::{Class, Mode, Plan, Report, Running},
};

/// Longest wait for anything that takes seconds on a machine that has nothing else to do.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Load that nobody stops ends by itself after that.
const LONGEST: Duration = Duration::from_secs(1800);

/// A service that says who answers, from the lab's own image.
pub(crate) const WEB: &str = "services:
  web:
    image: raftup/helper:1
    ports: ['8080:8080']
    healthcheck: {disable: true}
    deploy: {replicas: 3}
";

/// Hosts with daemons, in no cluster.
pub(crate) fn lab(options: &Options) -> Lab {
    Lab::up(options).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Hosts that form one cluster.
pub(crate) fn cluster(id: &str, hosts: u8) -> Lab {
    let lab = lab(&Options::new(id, hosts).unwrap());
    form(&lab, usize::from(hosts));
    lab
}

/// Makes a cluster of the first `hosts` hosts.
pub(crate) fn form(lab: &Lab, hosts: usize) {
    let first = lab.host("h1");
    well(first.raftup(&["init"]).unwrap());
    for host in lab.hosts().take(hosts).skip(1) {
        join(first, host);
    }
}

/// Lets `host` into the cluster of `member`.
pub(crate) fn join(member: &Host, host: &Host) {
    well(host.raftup(&["join", &token(member)]).unwrap());
}

/// The token of the cluster that this host is in.
pub(crate) fn token(host: &Host) -> String {
    well(host.raftup(&["token", "--quiet"]).unwrap()).trim().to_owned()
}

/// What a command printed; it must have succeeded.
pub(crate) fn well(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// What a command answered that was refused: its exit status, and its messages from the first error on. The lab's own
/// addresses and paths are told as those of any lab.
pub(crate) fn refused(lab: &Lab, output: Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let code = output.status.code().unwrap_or(-1);
    format!("exit {code}\n{}", plain(lab, errors(&String::from_utf8_lossy(&output.stderr))))
}

/// From the first error on: what comes before is progress, which differs from run to run.
fn errors(text: &str) -> &str {
    let at = if text.starts_with("error:") { Some(0) } else { text.find("\nerror:").map(|at| at + 1) };
    at.map_or(text, |at| &text[at..])
}

/// Text without what differs between labs.
pub(crate) fn plain(lab: &Lab, text: &str) -> String {
    let [a, b, c, _] = lab.client().addr().octets();
    let share = format!("{}/", lab.share().display());
    text.replace(&share, "").replace(&format!("{a}.{b}.{c}."), "10.99.0.")
}

pub(crate) fn write(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = lab.share().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Deploys a file with this text as a stack.
pub(crate) fn deploy(lab: &Lab, host: &Host, stack: &str, file: &str) -> Output {
    let path = write(lab, &format!("{stack}.yaml"), file);
    host.raftup(&["stack", "deploy", "-c", &path.display().to_string(), stack]).unwrap()
}

/// What the outside client gets for a path at a host's port. Errors: no good answer.
pub(crate) fn get(lab: &Lab, host: &Host, port_and_path: &str) -> anyhow::Result<String> {
    lab.client().sh(&format!("curl -sS -f -m 2 'http://{}:{port_and_path}'", host.addr()))
}

/// Load on port 8080 of hosts, each request over a connection of its own.
pub(crate) fn load(lab: &Lab, hosts: &[&str]) -> Running {
    load_in(Mode::Fresh, lab, hosts)
}

/// Load on port 8080 of hosts until it is stopped.
pub(crate) fn load_in(mode: Mode, lab: &Lab, hosts: &[&str]) -> Running {
    load_within(Duration::from_secs(5), mode, lab, hosts)
}

/// The same; a request that takes longer than `within` is lost.
pub(crate) fn load_within(within: Duration, mode: Mode, lab: &Lab, hosts: &[&str]) -> Running {
    load_at(8080, within, mode, lab, hosts)
}

/// The same on another port.
pub(crate) fn load_at(port: u16, within: Duration, mode: Mode, lab: &Lab, hosts: &[&str]) -> Running {
    let targets: Vec<String> =
        hosts.iter().map(|host| format!("http://{}:{port}/", lab.host(host).addr())).collect();
    let plan = Plan { timeout_s: within.as_secs_f64(), ..Plan::new(mode, &targets, 100.0, LONGEST) };
    Running::start(lab, &plan).unwrap()
}

/// Names that lead to the service `web` of the stack `shop`.
const NAMES: [&str; 4] = ["web", "shop_web", "tasks.web", "web.shop.internal"];

/// Questions for these names from within a task of `shop_web` on a host: at the engine's resolver, and at ours.
pub(crate) struct Asking {
    through_engine: Running,
    ours: Running,
}

impl Asking {
    pub(crate) fn start(lab: &Lab, host: &Host) -> Self {
        let look = "docker inspect -f '{{.State.Pid}}{{range .NetworkSettings.Networks}} {{.Gateway}}{{end}}' \
            $(docker ps -q -f name=shop_web | head -1)";
        let said = host.sh(look).unwrap();
        let (process, gateway) = said.trim().split_once(' ').unwrap();
        let ask = |server: &str| {
            let targets = NAMES.map(|name| format!("{server}:53/{name}"));
            let plan = Plan::new(Mode::Dns, &targets, 200.0, LONGEST);
            Running::start_beside(lab, host, process, &plan).unwrap()
        };
        Self { through_engine: ask("127.0.0.11"), ours: ask(gateway) }
    }

    /// Every question had its answer.
    pub(crate) fn all_answered(self, least: u64) {
        lossless(&self.ours.stop().unwrap(), least);
        lossless(&self.through_engine.stop().unwrap(), least);
    }

    /// As [`Asking::all_answered`], but the engine was away, and its resolver with it.
    pub(crate) fn all_answered_but_by_the_engine(self, least: u64) {
        lossless(&self.ours.stop().unwrap(), least);
        let report = self.through_engine.stop().unwrap();
        assert!(!report.classes.contains_key(&Class::NoName), "{:?}", report.classes);
    }
}

pub(crate) fn lossless(report: &Report, least: u64) {
    assert!(report.ok >= least, "too little load to tell: {} requests", report.ok);
    assert_eq!(report.failed, 0, "of {}: {:?} {:?}", report.sent, report.classes, report.failures);
}

/// Containers of the cluster on all hosts that are on, by host and id.
pub(crate) fn containers(lab: &Lab) -> Vec<String> {
    let on = lab.hosts().filter(|host| host.is_on());
    let mut all: Vec<String> = on
        .flat_map(|host| {
            let ids = host.sh("docker ps -q --no-trunc --filter label=dev.raftup.cluster").unwrap();
            ids.lines().map(|id| format!("{} {id}", host.name())).collect::<Vec<_>>()
        })
        .collect();
    all.sort();
    all
}

/// Waits until the cluster takes a change through this host.
pub(crate) fn writable(host: &Host, service: &str, replicas: u8) {
    let scale = format!("{service}={replicas}");
    let asked = || {
        let output = host.raftup(&["service", "scale", &scale])?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Some(()))
    };
    wait_for(SOON, "a change that is taken", asked).unwrap();
}

/// What `raftup node ls` prints at this host. Errors: nobody can tell now.
fn list(host: &Host) -> anyhow::Result<String> {
    let output = host.raftup(&["node", "ls"])?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until `raftup node ls`, asked at this host, shows so many lines with this word.
pub(crate) fn nodes(host: &Host, word: &str, count: usize) {
    let seen = || {
        let shown = list(host)?;
        Ok((shown.lines().filter(|line| line.split_whitespace().any(|cell| cell == word)).count() == count)
            .then_some(()))
    };
    wait_for(SOON, &format!("{count} nodes that are {word}"), seen).unwrap();
}

/// The host whose daemon leads.
pub(crate) fn leader<'a>(lab: &'a Lab, asked: &Host) -> &'a Host {
    let found = || {
        let shown = list(asked)?;
        let line = shown.lines().find(|line| line.contains(" Leader "));
        Ok(line.and_then(|line| lab.hosts().find(|host| line.contains(&format!(" {} ", host.name())))))
    };
    wait_for(SOON, "leader", found).unwrap()
}

/// The start of an answer to an HTTP request by name, from within a task of `shop_asker` on a host. (Programs that are
/// linked statically against glibc, as `wget` of the test images is, cannot resolve names.)
pub(crate) fn ask_by_name(host: &Host, name: &str) -> anyhow::Result<String> {
    let asker = "docker exec -i $(docker ps -q -f name=shop_asker)";
    host.sh(&format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | {asker} nc -w 2 {name} 8080"))
}

/// What containers, networks, links, routes, rules, held ports and neighbours there are on a host.
pub(crate) fn traces(host: &Host) -> Vec<String> {
    let look = "docker ps -aq; docker network ls --format '{{.Name}}'; \
        ip -o link | cut -d: -f2 | cut -d@ -f1; ip -o -4 addr | cut -c4-60; ip route; ip rule; \
        ip neigh show dev ru-fabric; bridge fdb show dev ru-fabric; \
        nft -s list ruleset; ss -Hltun | awk '{print $1, $5}'";
    let seen = host.sh(look).unwrap();
    // The generation of the rules is counted up for ever.
    let counts_up = |line: &str| line.trim().starts_with("elements = { 0x0");
    // iptables makes its chain with the first rule there, and never removes it; what is in it is looked at.
    let built_in = |line: &str| {
        let heads = ["\tchain INPUT {", "\t\ttype filter hook input priority filter; policy accept;"];
        heads.contains(&line) || ["", "}"].contains(&line.trim())
    };
    let lines = seen.lines().filter(|line| !counts_up(line) && !built_in(line));
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    // The kernel lists neighbours in no order.
    lines.sort();
    lines
}

/// What is on all hosts of the lab now, to be compared after all stacks are gone.
pub(crate) struct Before(Vec<(Host, Vec<String>)>);

impl Before {
    /// Waits until a cluster without stacks has come to rest, and looks.
    pub(crate) fn of(lab: &Lab) -> Self {
        let look = || lab.hosts().map(|host| (host.clone(), traces(host))).collect::<Vec<_>>();
        let names =
            |all: &[(Host, Vec<String>)]| all.iter().map(|(_, lines)| lines.clone()).collect::<Vec<_>>();
        let mut last = look();
        let rest = || {
            let now = look();
            let same = names(&now) == names(&last);
            last = now;
            Ok(same.then_some(()))
        };
        wait_for(SOON, "rest", rest).unwrap();
        Self(last)
    }

    /// Waits until nothing else is there any more.
    pub(crate) fn again(&self) {
        for (host, before) in &self.0 {
            let same = || {
                let now = traces(host);
                let more: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
                let less: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
                anyhow::ensure!(now == *before, "{}: left {more:#?}, missing {less:#?}", host.name());
                Ok(Some(()))
            };
            wait_for(SOON, "end of all traces", same).unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}
