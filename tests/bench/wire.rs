//! What one TCP connection carries from h3 to h2: straight, and through HAProxy on h1.

use std::{fs, time::Duration};

use anyhow::Context as _;
use raftup_tests::lab::{Host, Lab, wait_for};

const SECONDS: u32 = 3;
const SINK: u16 = 9000;
const PROXY: u16 = 9001;

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<serde_json::Value> {
    let (h1, h2, h3) = (lab.host("h1"), lab.host("h2"), lab.host("h3"));
    h2.sh(&format!("docker run -d --name sink --network host raftup/helper:1 bench-sink {SINK}"))?;
    let config = lab.share().join("haproxy.cfg");
    let (sink, timeouts) = (h2.addr(), "timeout connect 5s\n timeout client 60s\n timeout server 60s");
    fs::write(
        &config,
        format!(
            "defaults\n mode tcp\n {timeouts}\nlisten sink\n bind :{PROXY}\n server sink {sink}:{SINK}\n"
        ),
    )?;
    let mount = format!("-v {}:/etc/haproxy.cfg:ro", config.display());
    h1.sh(&format!("docker run -d --name proxy --network host {mount} raftup/haproxy:1"))?;
    let straight = source(h3, h2, SINK)?;
    let proxied = source(h3, h1, PROXY)?;
    h1.sh("docker rm -f proxy")?;
    h2.sh("docker rm -f sink")?;
    Ok(serde_json::json!({ "link_mb_per_s": straight, "haproxy_mb_per_s": proxied }))
}

/// MB/s from one host's own network to a port of another's.
fn source(from: &Host, to: &Host, port: u16) -> anyhow::Result<f64> {
    let command =
        format!("docker run --rm --network host raftup/helper:1 bench-source {}:{port} {SECONDS}", to.addr());
    let text = wait_for(Duration::from_secs(10), "connection", || from.sh(&command).map(Some))?;
    let said: serde_json::Value = serde_json::from_str(&text)?;
    said["mb_per_s"].as_f64().with_context(|| format!("the source said {text}"))
}
