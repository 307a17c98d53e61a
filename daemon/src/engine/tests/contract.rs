//! What engines of several versions take and refuse, as far as we ask for it.
//!
//! Each is a small server that keeps to the documented contract of its version, for versions that cannot be installed
//! beside the tests. Sources: the engine's release notes and its API's version history.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// What a version does.
#[derive(Clone, Copy)]
struct Contract {
    version: &'static str,
    /// Newest and oldest version of the API that it speaks: minor numbers.
    api: (u32, u32),
    /// Gateway modes of bridges that it knows; before 27 the option is ignored, as any unknown one.
    modes: Option<&'static [&'static str]>,
    /// What drops packets from other hosts to a container: all modes but these, and where there is none the rules that
    /// ours come before.
    open: Option<&'static str>,
}

const CONTRACTS: [Contract; 5] = [
    Contract { version: "20.10.24+dfsg1", api: (41, 12), modes: None, open: None },
    Contract { version: "26.1.5+dfsg1", api: (45, 24), modes: None, open: None },
    Contract { version: "27.5.1", api: (47, 24), modes: Some(&["nat", "routed"]), open: None },
    Contract {
        version: "28.5.2",
        api: (51, 24),
        modes: Some(&["nat", "nat-unprotected", "routed", "isolated"]),
        open: Some("nat-unprotected"),
    },
    Contract {
        version: "29.1.0",
        api: (52, 44),
        modes: Some(&["nat", "nat-unprotected", "routed", "isolated"]),
        open: Some("nat-unprotected"),
    },
];

impl Contract {
    /// The answer to one request.
    fn answer(&self, method: &str, path: &str, body: &Value, networks: &mut Vec<Value>) -> (u16, Value) {
        let refusal = |message: String| (400, json!({ "message": message }));
        let (newest, oldest) = self.api;
        let asked = path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/'));
        let path = match asked {
            None => path,
            Some((minor, rest)) => {
                let minor: u32 = minor.parse().unwrap();
                if minor < oldest {
                    return refusal(format!(
                        "client version 1.{minor} is too old. Minimum supported API version is 1.{oldest}"
                    ));
                }
                if minor > newest {
                    return refusal(format!(
                        "client version 1.{minor} is too new. Maximum supported API version is 1.{newest}"
                    ));
                }
                &path[path.len() - rest.len() - 1..]
            }
        };
        match (method, path.split('?').next().unwrap_or_default()) {
            ("GET", "/version") => (
                200,
                json!({ "Version": self.version, "ApiVersion": format!("1.{newest}"), "MinAPIVersion": format!("1.{oldest}") }),
            ),
            ("GET", "/networks") => (200, Value::Array(networks.clone())),
            ("POST", "/networks/create") => {
                let mode = body["Options"]["com.docker.network.bridge.gateway_mode_ipv4"].as_str();
                let known = self.modes.zip(mode).is_none_or(|(modes, mode)| modes.contains(&mode));
                if !known {
                    return refusal(format!("unknown gateway mode {}", mode.unwrap_or_default()));
                }
                let id = format!("{:064x}", networks.len() + 1);
                let network = json!({
                    "Id": id, "Name": body["Name"], "Labels": body["Labels"], "Options": body["Options"], "Driver": "bridge",
                });
                networks.push(network);
                (201, json!({ "Id": id, "Warning": "" }))
            }
            other => panic!("{}: nobody asks for {other:?}", self.version),
        }
    }

    /// Whether other hosts reach containers of a network with this option once rules of ours accept them.
    fn lets_in(&self, network: &Value) -> bool {
        let mode = network["Options"]["com.docker.network.bridge.gateway_mode_ipv4"].as_str();
        self.open.is_none_or(|open| mode == Some(open))
    }
}

/// An engine that keeps to a contract; what is in it stays when another version takes its place.
struct Server {
    networks: Arc<std::sync::Mutex<Vec<Value>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    fn start(contract: Contract, socket: &Path, networks: Vec<Value>) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let networks = Arc::new(std::sync::Mutex::new(networks));
        let shared = Arc::clone(&networks);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(contract, stream, Arc::clone(&shared)));
            }
        });
        Self { networks, _task: AbortOnDropHandle::new(task) }
    }

    fn networks(&self) -> Vec<Value> {
        self.networks.lock().unwrap().clone()
    }
}

/// Answers requests on one connection until it ends.
async fn serve(contract: Contract, stream: UnixStream, networks: Arc<std::sync::Mutex<Vec<Value>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if stream.read_line(&mut first).await.unwrap_or_default() == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (status, answer) = contract.answer(method, path, &body, &mut networks.lock().unwrap());
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        if stream.write_all(format!("{head}{answer}").as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn every_version_makes_networks_that_other_hosts_reach() {
    let dir = tempfile::tempdir().unwrap();
    for contract in CONTRACTS {
        let socket = dir.path().join(contract.version);
        let server = Server::start(contract, &socket, Vec::new());
        let engine = DockerEngine::new(&socket);
        let id = engine.create_network(&network_settings(&network(1))).await;
        let id = id.unwrap_or_else(|error| panic!("{}: {error}", contract.version));
        let made = server.networks();
        assert!(contract.lets_in(&made[0]), "{}: {made:?}", contract.version);
        let listed = engine.networks().await.unwrap();
        assert_eq!((listed[0].id.as_str(), listed[0].outdated), (id.as_str(), false), "{}", contract.version);
    }
}

#[tokio::test]
async fn an_upgraded_engine_is_asked_in_its_own_words_and_its_old_networks_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let engine = DockerEngine::new(&socket);
    let mut networks = Vec::new();
    for (number, contract) in (1..).zip(CONTRACTS) {
        let server = Server::start(contract, &socket, networks);
        // The first call may meet the connection to the engine of before.
        let mut listed = engine.networks().await;
        if listed.as_ref().is_err_and(EngineError::is_down) {
            listed = engine.networks().await;
        }
        let listed = listed.unwrap_or_else(|error| panic!("{}: {error}", contract.version));
        for (listed, made) in listed.iter().zip(server.networks()) {
            assert_eq!(listed.outdated, !contract.lets_in(&made), "{}: {made}", contract.version);
        }
        let created = engine.create_network(&network_settings(&network(number))).await;
        created.unwrap_or_else(|error| panic!("{}: {error}", contract.version));
        networks = server.networks();
        assert!(contract.lets_in(networks.last().unwrap()), "{}", contract.version);
    }
    assert_eq!(networks.len(), CONTRACTS.len());
}
