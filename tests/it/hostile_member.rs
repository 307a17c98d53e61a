//! A member with a worker's certificate that sends what no node would send: on every kind of stream malformed, oversized,
//! forged and replayed frames. No daemon ends, memory stays bounded, and what others run and say stays as it is.

mod anybody;
mod forger;

use std::{
    env,
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use quinn::{Connection, Endpoint, crypto::rustls::QuicClientConfig};
use raftup_proto::{codec, peer::ALPN};
use raftup_tests::lab::{Host, Lab, Options, What, wait_for};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde::Deserialize;
use tokio::time::timeout;

use self::{anybody::Anybody, forger::Forger};
use crate::cluster::{SOON, WEB, deploy, form, get, lab, nodes, well};

/// How many messages are sent, unless [`MESSAGES`] says otherwise; `make hostile` sends 100,000.
const MESSAGES_USUAL: u32 = 10_000;
const MESSAGES: &str = "HOSTILE_MESSAGES";

/// What a daemon may grow by, in bytes.
const GROWTH_MAX: u64 = 32 << 20;

/// Tells the second process what to attack, with which identity, and which tasks are those of others.
const TARGET: &str = "RAFTUP_IT_TARGET";
const IDENTITY: &str = "RAFTUP_IT_IDENTITY";
const TASKS: &str = "RAFTUP_IT_TASKS";

#[test]
fn a_hostile_member_harms_nobody() {
    let lab = lab(&Options::new("ithostile", 2).unwrap());
    form(&lab, 1);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let token = well(h1.raftup(&["token", "--worker", "--quiet"]).unwrap());
    well(h2.raftup(&["join", token.trim()]).unwrap());
    well(deploy(&lab, h1, "shop", WEB));
    // The node stays a member while a program of its owner speaks in its place.
    h2.kill_daemon().unwrap();
    let moved = || {
        let here = h1.sh("docker ps -q --filter label=dev.raftup.cluster")?;
        Ok((here.lines().count() == 3).then_some(()))
    };
    wait_for(SOON, "all tasks on the other node", moved).unwrap();
    let tasks = || -> Vec<(String, String)> {
        let json = well(h1.raftup(&["stack", "ps", "shop", "--json"]).unwrap());
        let tasks: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let live = tasks.iter().filter(|task| text(&task["node"]["hostname"]).contains("h1"));
        live.map(|task| (text(&task["id"]), text(&task["status"]["state"]))).collect()
    };
    let before = (tasks(), h1.pid(What::Daemon));
    let idle = h1.daemon_stats().unwrap().rss_bytes;

    let mut attacker = attack_from(&lab, h2, h1, &before.0);
    let (mut most, mut asked) = (idle, 0);
    let status = loop {
        if let Some(status) = attacker.try_wait().unwrap() {
            break status;
        }
        get(&lab, h1, "8080/").unwrap();
        most = most.max(h1.daemon_stats().unwrap().rss_bytes);
        asked += 1;
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(status.success(), "the attack was carried out");
    assert_eq!((tasks(), h1.pid(What::Daemon)), before, "tasks of the other node, and its daemon");
    let grown = most - idle;
    println!("{} messages; {asked} requests answered; {} KiB more at most", messages(), grown >> 10);
    assert!(grown < GROWTH_MAX, "{grown} bytes");
    // The owner's daemon is heard again.
    h2.start_daemon().unwrap();
    nodes(h1, "Ready", 2);
}

fn messages() -> u32 {
    env::var(MESSAGES).ok().map_or(MESSAGES_USUAL, |text| text.parse().unwrap())
}

/// Starts the second process, in the network of `from`.
fn attack_from(lab: &Lab, from: &Host, target: &Host, tasks: &[(String, String)]) -> std::process::Child {
    let identity = lab.share().join("identity.json");
    let text = from.sh("cat /var/lib/raftup/identity.json").unwrap();
    std::fs::write(&identity, text).unwrap();
    let mut command = from.command(&[&env::current_exe().unwrap().display().to_string()]).unwrap();
    let tasks: Vec<&str> = tasks.iter().map(|(id, _)| id.as_str()).collect();
    command
        .args(["--exact", "hostile_member::attacker", "--ignored", "--nocapture"])
        .env(TARGET, format!("{}:7238", target.addr()))
        .env(IDENTITY, identity)
        .env(TASKS, tasks.join(","))
        .stdin(Stdio::null());
    command.spawn().unwrap()
}

/// Attacks what [`TARGET`] names; does nothing without it.
#[test]
#[ignore = "the second process of the test above"]
fn attacker() {
    let Ok(target) = env::var(TARGET) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seed = rand::random();
    println!("seed {seed}");
    runtime.block_on(attack(target.parse().unwrap(), seed));
}

/// What `net::Identity` keeps on disk.
#[derive(Deserialize)]
struct Kept {
    ca: String,
    certificate: String,
    key: String,
}

fn client() -> quinn::ClientConfig {
    let kept: Kept = serde_json::from_slice(&std::fs::read(env::var(IDENTITY).unwrap()).unwrap()).unwrap();
    let bytes = |text: &str| BASE64.decode(text.as_bytes()).unwrap();
    let ca = CertificateDer::from(bytes(&kept.ca));
    let chain = vec![CertificateDer::from(bytes(&kept.certificate)), ca.clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(bytes(&kept.key)));
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_client_auth_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// Sends all messages. A connection that is closed is begun anew, as the process of before.
async fn attack(target: SocketAddr, seed: u64) {
    let mut endpoint = Endpoint::client(([0, 0, 0, 0], 0).into()).unwrap();
    endpoint.set_default_client_config(client());
    let tasks = env::var(TASKS).unwrap().split(',').filter_map(|id| id.parse().ok()).collect();
    let mut forger = Forger::new(seed, tasks);
    let messages = messages();
    let (mut sent, mut connections, start) = (0, 0_u32, Instant::now());
    while sent < messages {
        assert!(start.elapsed() < Duration::from_secs(600), "{sent} messages only");
        let Some(connection) = dial(&endpoint, target).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        connections += 1;
        while sent < messages {
            match timeout(Duration::from_secs(2), forger.send(&connection)).await {
                Ok(Some(count)) => sent += count,
                // Closed by the other side, or nothing more is taken on it: streams are reset, and begun anew.
                Ok(None) | Err(_) => break,
            }
        }
        connection.close(0_u32.into(), b"");
    }
    println!("{sent} messages over {connections} connections in {:?}", start.elapsed());
}

/// A connection on which both sides have greeted.
async fn dial(endpoint: &Endpoint, target: SocketAddr) -> Option<Connection> {
    let connecting = endpoint.connect(target, "raftup").unwrap();
    let connection = timeout(Duration::from_secs(3), connecting).await.ok()?.ok()?;
    let mut greeting = connection.open_uni().await.ok()?;
    // `Greeting::V1` of process 1, which has not moved.
    greeting.write_all(&codec::frame(&(0_u32, 1_u64, 0_u32), 64).unwrap()).await.ok()?;
    greeting.finish().ok()?;
    let mut heard = timeout(Duration::from_secs(3), connection.accept_uni()).await.ok()?.ok()?;
    timeout(Duration::from_secs(3), heard.read_to_end(256)).await.ok()?.ok()?;
    Some(connection)
}
