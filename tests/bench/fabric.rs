//! What one container sends to another on the next host over encrypted links, and what the cipher alone could.
//!
//! Both hosts share the machine's cores, so each byte is encrypted and decrypted by the same ones.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};
use raftup_tests::lab::{Host, wait_for};
use serde_json::Value;

use crate::{
    cluster::{Engines, PATIENCE, lab, raftup, share, well},
    table::{Row, Target, note},
};

const SECONDS: &str = "5";

/// Bytes of a packet inside of the encrypted links, where the link between hosts takes 1500.
const PACKET: usize = 1420;

/// How long the cipher is measured in each round.
const CIPHER: Duration = Duration::from_secs(2);

const STACK: &str = "services:
  sink:
    image: raftup/helper:1
    command: bench-sink 9000
    deploy: {placement: {constraints: [node.hostname == h2]}}
  source:
    image: raftup/helper:1
    deploy: {placement: {constraints: [node.hostname == h1]}}
";

pub(crate) fn measure(rounds: u32) -> anyhow::Result<Vec<Row>> {
    let lab = lab()?;
    raftup(&lab, &[])?;
    let file = share(&lab, "fabric.yaml", STACK)?;
    let h1 = lab.host("h1");
    well(h1, &["raftup", "stack", "deploy", "-c", &file.display().to_string(), "fabric"])?;
    Engines::new("dev.raftup.stack=fabric")?.last_start(&lab, 2)?;
    let source = h1.sh("docker ps -q -f name=fabric_source")?.trim().to_owned();
    wait_for(PATIENCE, "first byte", || send(h1, &source, "0.1").map(Some))?;
    let (mut carried, mut ciphers) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        ciphers.push(cipher_on_all_cores()?);
        carried.push(send(h1, &source, SECONDS)?);
        let last = |figures: &[f64]| figures.last().copied().unwrap_or_default();
        note(&format!(
            "fabric {round}/{rounds}: {:.2} Gbit/s, the cipher alone {:.2}",
            last(&carried),
            last(&ciphers)
        ));
    }
    let what = "container to container on another host, encrypted in a process, one stream";
    Ok(vec![Row::new(what, "Gbit/s", carried).target(Target::AtLeast(2.0)).beside(
        "the cipher alone, all cores",
        ciphers,
        None,
    )])
}

/// Gbit/s from the container to the one on the other host.
fn send(host: &Host, source: &str, seconds: &str) -> anyhow::Result<f64> {
    let argv = ["docker", "exec", source, "/helper", "bench-source", "tasks.sink:9000", seconds];
    let said: Value = serde_json::from_str(&well(host, &argv)?)?;
    Ok(said["mb_per_s"].as_f64().with_context(|| format!("the source said {said}"))? * 8e-3)
}

/// Gbit/s that all cores together encrypt and decrypt again.
fn cipher_on_all_cores() -> anyhow::Result<f64> {
    let cores = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(cipher)).collect();
        let each = threads.into_iter().map(|thread| match thread.join() {
            Ok(figure) => figure,
            Err(_) => bail!("a thread panicked"),
        });
        each.sum()
    })
}

/// Gbit/s of packets that one thread encrypts and decrypts again.
fn cipher() -> anyhow::Result<f64> {
    let [one, two] = [[1; 32], [2; 32]].map(StaticSecret::from);
    let [public_one, public_two] = [&one, &two].map(PublicKey::from);
    let mut here = Tunn::new(one, public_two, None, None, 1, None);
    let mut there = Tunn::new(two, public_one, None, None, 2, None);
    let (mut out, mut back, mut last) = (vec![0; 2048], vec![0; 2048], vec![0; 2048]);
    let sent = |result: TunnResult<'_>| {
        let TunnResult::WriteToNetwork(message) = result else { bail!("no message of a handshake") };
        Ok(message.to_vec())
    };
    let init = sent(here.format_handshake_initiation(&mut out, true))?;
    let response = sent(there.decapsulate(None, &init, &mut back))?;
    let keepalive = sent(here.decapsulate(None, &response, &mut last))?;
    there.decapsulate(None, &keepalive, &mut back);
    let mut packet = vec![0; PACKET];
    packet[..4].copy_from_slice(&[0x45, 0, (PACKET >> 8) as u8, PACKET as u8]);
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < CIPHER {
        let TunnResult::WriteToNetwork(message) = here.encapsulate(&packet, &mut out) else {
            bail!("not encrypted")
        };
        let plain = there.decapsulate(None, message, &mut back);
        ensure!(matches!(plain, TunnResult::WriteToTunnelV4(..)), "not decrypted: {plain:?}");
        count += 1;
    }
    Ok(f64::from(count) * PACKET as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9)
}
