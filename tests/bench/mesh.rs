//! Bytes and requests from outside through h1 to a task on h2, by every way there is; and between containers of
//! two hosts.
//!
//! One TCP connection for bytes, closed loops for requests. All hosts share the machine's cores, both ends and
//! the proxies, so that CPU time spent anywhere shows in every figure.
//!
//! A proxy leads to what it would lead to without raftup: a container's port that its engine publishes. One more leads to
//! a program of the host itself, which spares it the way into a container that every task has.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use raftup_tests::lab::{Host, Lab, wait_for};
use serde_json::Value;

use crate::{
    cluster::{Engines, image_id, lab_for_both, raftup, share, swarm, well},
    table::{Row, Target, note},
};

const SECONDS: &str = "3";
const CLIENTS: &str = "16";
/// Fewer answers would say nothing of the hundredth part.
const LEAST_REQUESTS: f64 = 1000.0;
/// Fewer would be less than a connection's beginning.
const LEAST_BYTES: f64 = 50e6;
/// Until a way's first byte: proxies start, routes spread.
const REACHED: Duration = Duration::from_secs(20);
/// Kernel ticks per second in `/proc/stat`: fixed on Linux for user space.
const TICKS: f64 = 100.0;

/// The ways, in the order of their ports: bytes at 9000 and up, requests at 9100 and up.
const WAYS: [(&str, u16); 6] = [
    ("bare link", 0),
    ("HAProxy", 1),
    ("HAProxy, no container", 5),
    ("nginx stream", 2),
    ("engine's own port", 3),
    ("raftup", 4),
];

/// What one way carried, once.
#[derive(Clone, Copy, Default)]
struct Figures {
    mb_per_s: f64,
    cpu_s_per_gbit: f64,
    kept: Requests,
    fresh: Requests,
}

#[derive(Clone, Copy, Default)]
struct Requests {
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

pub(crate) fn measure(rounds: u32) -> anyhow::Result<Vec<Row>> {
    let lab = lab_for_both()?;
    // As Swarm does by itself: not encrypted. `fabric` measures what is.
    raftup(&lab, &["--fabric", "plain"])?;
    swarm(&lab)?;
    set_up(&lab)?;
    let helper = lab.share().join("helper").display().to_string();
    let mut ways: [Vec<Figures>; WAYS.len()] = Default::default();
    let mut inside: [Vec<Figures>; 2] = Default::default();
    for round in 1..=rounds {
        for ((name, number), figures) in WAYS.iter().zip(&mut ways) {
            let host = lab.host(if matches!(number, 0 | 3) { "h2" } else { "h1" });
            let way = [9000 + number, 9100 + number].map(|port| format!("{}:{port}", host.addr()));
            figures.push(one(lab.client(), &[&helper], &way).with_context(|| format!("through {name}"))?);
        }
        for (label, figures) in
            ["dev.raftup.stack=mesh", "com.docker.stack.namespace=swarm"].iter().zip(&mut inside)
        {
            let script = format!("docker ps -q -f label={label} -f name=_from");
            let from = lab.host("h1").sh(&script)?.trim().to_owned();
            // The tasks themselves: without IPVS in the kernel, Swarm has no addresses of services.
            let way = ["tasks.sink:9000", "tasks.web:8080"].map(str::to_owned);
            let argv = ["docker", "exec", &from, "/helper"];
            figures.push(
                one(lab.host("h1"), &argv, &way).with_context(|| format!("between containers, {label}"))?,
            );
        }
        note(&format!("mesh {round}/{rounds}: done"));
    }
    Ok(rows(&ways, &inside))
}

fn rows(ways: &[Vec<Figures>; WAYS.len()], inside: &[Vec<Figures>; 2]) -> Vec<Row> {
    let take = |figures: &[Figures], get: fn(&Figures) -> f64| figures.iter().map(get).collect::<Vec<f64>>();
    let outside = |what: &str, unit, get: fn(&Figures) -> f64, targets: &[(&str, Target)]| {
        let own = take(&ways[WAYS.len() - 1], get);
        let mut row = Row::new(format!("port on h1, task on h2: {what}"), unit, own);
        for ((name, _), figures) in WAYS.iter().zip(ways).take(WAYS.len() - 1) {
            let target = targets.iter().find(|(of, _)| of == name).map(|(_, target)| *target);
            row = row.beside(name, take(figures, get), target);
        }
        row
    };
    let between = |what: &str, unit, get: fn(&Figures) -> f64, target| {
        Row::new(format!("container to container on another host: {what}"), unit, take(&inside[0], get))
            .beside("Swarm's overlay", take(&inside[1], get), target)
    };
    let bytes = [("bare link", Target::AtLeast(0.55)), ("HAProxy", Target::AtLeast(2.5))];
    vec![
        outside("bytes", "MB/s", |figures| figures.mb_per_s, &bytes),
        outside("CPU, all ends", "s/Gbit", |figures| figures.cpu_s_per_gbit, &[]),
        outside("requests, kept", "1/s", |figures| figures.kept.per_s, &[]),
        outside("requests, kept, p50", "ms", |figures| figures.kept.p50_ms, &[]),
        outside("requests, kept, p99", "ms", |figures| figures.kept.p99_ms, &[]),
        outside("requests, fresh", "1/s", |figures| figures.fresh.per_s, &[]),
        outside("requests, fresh, p50", "ms", |figures| figures.fresh.p50_ms, &[]),
        outside("requests, fresh, p99", "ms", |figures| figures.fresh.p99_ms, &[]),
        between("bytes", "MB/s", |figures| figures.mb_per_s, Some(Target::AtLeast(0.95))),
        between("CPU, all ends", "s/Gbit", |figures| figures.cpu_s_per_gbit, None),
        between("requests, kept", "1/s", |figures| figures.kept.per_s, None),
        between("requests, kept, p99", "ms", |figures| figures.kept.p99_ms, None),
        between("requests, fresh", "1/s", |figures| figures.fresh.per_s, None),
        between("requests, fresh, p99", "ms", |figures| figures.fresh.p99_ms, None),
    ]
}

/// Starts both ends of every way.
fn set_up(lab: &Lab) -> anyhow::Result<()> {
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let helper = lab.share().join("helper").display().to_string();
    h1.sh(&format!(
        "docker create --name copy raftup/helper:1 && docker cp copy:/helper {helper} && docker rm copy"
    ))?;
    for command in [
        "--network host raftup/helper:1 bench-sink 9000",
        "--network host -e HELPER_PORT=9100 raftup/helper:1",
        "-p 9003:9000 raftup/helper:1 bench-sink 9000",
        "-p 9103:8080 raftup/helper:1",
    ] {
        h2.sh(&format!("docker run -d {command}"))?;
    }
    let to = h2.addr();
    let haproxy = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         listen bytes\n bind :9001\n server h2 {to}:9003\nlisten requests\n bind :9101\n server h2 {to}:9103\n\
         listen host-bytes\n bind :9005\n server h2 {to}:9000\n\
         listen host-requests\n bind :9105\n server h2 {to}:9100\n"
    );
    let nginx = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\nworker_processes auto;\n\
         error_log stderr;\npid /run/nginx.pid;\nevents {{ worker_connections 4096; }}\nstream {{\n \
         server {{ listen 9002; proxy_pass {to}:9003; }}\n server {{ listen 9102; proxy_pass {to}:9103; }}\n}}\n"
    );
    let proxy = |name: &str, config: &Path, at: &str| {
        h1.sh(&format!("docker run -d --network host -v {}:{at}:ro raftup/{name}:1", config.display()))
    };
    proxy("haproxy", &share(lab, "haproxy.cfg", &haproxy)?, "/etc/haproxy.cfg")?;
    proxy("nginx", &share(lab, "nginx.conf", &nginx)?, "/etc/nginx/nginx.conf")?;

    let ours = share(lab, "mesh.yaml", &stack("raftup/helper:1", "", true))?.display().to_string();
    well(h1, &["raftup", "stack", "deploy", "-c", &ours, "mesh"])?;
    let theirs = stack(&format!("'{}'", image_id(lab)?), ", endpoint_mode: dnsrr", false);
    let theirs = share(lab, "swarm.yaml", &theirs)?.display().to_string();
    well(h1, &["docker", "stack", "deploy", "--resolve-image", "never", "-c", &theirs, "swarm"])?;
    for label in ["dev.raftup.stack=mesh", "com.docker.stack.namespace=swarm"] {
        Engines::new(label)?.last_start(lab, 3)?;
    }
    Ok(())
}

/// Sources on h1, what they talk to on h2.
fn stack(image: &str, mode: &str, publish: bool) -> String {
    let service = |name: &str, host: &str, command: &str, ports: &str| {
        let ports =
            if publish && !ports.is_empty() { format!("    ports: ['{ports}']\n") } else { String::new() };
        format!(
            "  {name}:\n    image: {image}\n    command: {command}\n{ports}    deploy: \
             {{placement: {{constraints: ['node.hostname == {host}']}}{mode}}}\n"
        )
    };
    format!(
        "version: '3.8'\nservices:\n{}{}{}",
        service("from", "h1", "serve", ""),
        service("sink", "h2", "bench-sink 9000", "9004:9000"),
        service("web", "h2", "serve", "9104:8080")
    )
}

/// Measures one way once; `helper` is how its program is called there.
fn one(from: &Host, helper: &[&str], [bytes, requests]: &[String; 2]) -> anyhow::Result<Figures> {
    let call = |args: &[&str]| -> anyhow::Result<Value> {
        let said = well(from, &[helper, args].concat())?;
        serde_json::from_str(&said).with_context(|| format!("the helper said {said}"))
    };
    wait_for(REACHED, "first byte", || call(&["bench-source", bytes, "0.1"]).map(Some))?;
    let before = busy()?;
    let said = call(&["bench-source", bytes, SECONDS])?;
    let cpu = busy()? - before;
    let carried = number(&said, "bytes")?;
    ensure!(carried >= LEAST_BYTES, "only {carried} bytes went to {bytes}");
    let ask = |mode: &str| -> anyhow::Result<Requests> {
        let said = call(&["bench-requests", requests, SECONDS, CLIENTS, mode])?;
        ensure!(number(&said, "requests")? >= LEAST_REQUESTS, "too few requests to tell: {said}");
        let [per_s, p50_ms, p99_ms] = ["per_s", "p50_ms", "p99_ms"].map(|key| number(&said, key));
        Ok(Requests { per_s: per_s?, p50_ms: p50_ms?, p99_ms: p99_ms? })
    };
    Ok(Figures {
        mb_per_s: number(&said, "mb_per_s")?,
        cpu_s_per_gbit: cpu / (carried * 8e-9),
        kept: ask("keep")?,
        fresh: ask("fresh")?,
    })
}

fn number(said: &Value, key: &str) -> anyhow::Result<f64> {
    said[key].as_f64().with_context(|| format!("no `{key}` in {said}"))
}

/// Seconds that the machine's cores have worked since it started.
fn busy() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq
    let worked = [0, 1, 2, 5, 6].iter().map(|index| ticks.get(*index).copied().unwrap_or_default());
    Ok(worked.sum::<f64>() / TICKS)
}
