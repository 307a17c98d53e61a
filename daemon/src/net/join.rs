//! How a node gets in: the asking side, and the gate of the answering side.
//!
//! The asking side sends the token's secret only to one whose certificate is of the CA that the token names, and a
//! manager. The answering side never says which part of a token was wrong.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use quinn::Connection;
use raftup_proto::{
    codec,
    id::NodeId,
    peer::{Admission, Hello, JoinAnswer, JoinRequest, NodeInfo, Role},
    refusal::{Code, Refusal},
    token::Token,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::{sleep, timeout};

use super::{
    FrameError, Identity, Net, NetError, Peer, Stream,
    ca::{self, KeyRequest},
    error::Close,
    quic,
    tls::{self, Trust},
};
use crate::model::TokenHashes;

/// Most bytes of the answer; it holds the node's first view.
pub(super) const ANSWER_CAP: u64 = 64 << 20;

/// How long one manager may take to be reached.
const DIAL_TIME: Duration = Duration::from_secs(3);

/// How long the next manager waits for the one before it.
const NEXT_DIAL: Duration = Duration::from_millis(300);

/// How long a manager may take to answer; the change has to reach a majority.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// Wrong tokens from one address in [`FAILURES_WINDOW`]; further requests are not looked at.
const MAX_FAILURES: usize = 5;

/// See [`MAX_FAILURES`].
const FAILURES_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose failures are remembered; while there are more, nobody new gets in.
const MAX_FAILING: usize = 4096;

/// Asks the managers that the token names (or `managers`, if any are given) to admit this node.
///
/// The answer's identity is checked, and neither kept nor used yet. Errors: each kind of failure has its own message
/// with what to check; the node may have been admitted when an answer was lost.
pub async fn ask(
    net: &Net,
    token: &Token,
    managers: &[SocketAddr],
    info: NodeInfo,
) -> Result<(Identity, Admission), Refusal> {
    let managers = if managers.is_empty() { &token.managers[..] } else { managers };
    let key = KeyRequest::generate().map_err(internal)?;
    let KeyRequest { key, csr } = key;
    let request = JoinRequest { secret: token.secret, role: token.role, csr, info, attempt: rand::random() };
    let (admission, ca) = ask_any(net, token, managers, &request).await?;
    let identity = Identity::new(admission.certificate.clone(), ca, key).map_err(internal)?;
    check(&identity, token.role, admission.node)?;
    Ok((identity, admission))
}

/// The answer of the first manager that gives a final one, and the CA's certificate.
async fn ask_any(
    net: &Net,
    token: &Token,
    managers: &[SocketAddr],
    request: &JoinRequest,
) -> Result<(Admission, Vec<u8>), Refusal> {
    let dials = managers.iter().zip(0_u32..).map(async |(manager, place)| {
        sleep(NEXT_DIAL * place).await;
        (*manager, dial(net, token, *manager).await)
    });
    let mut dials: FuturesUnordered<_> = dials.collect();
    let (mut errors, mut unavailable) = (Vec::new(), None);
    while let Some((manager, dialled)) = dials.next().await {
        let asked = match dialled {
            Ok(connection) => {
                exchange(&connection, manager, request).await.map(|answer| (answer, connection))
            }
            Err(error) => Err(error),
        };
        match asked {
            Ok((Ok(admission), connection)) => {
                let ca =
                    pinned(&connection, &token.ca_digest).ok_or_else(|| internal("no CA certificate"))?;
                connection.close(Close::Unused.code(), b"joined");
                return Ok((admission, ca));
            }
            Ok((Err(refusal), _)) if refusal.code == Code::Unavailable => unavailable = Some(refusal),
            Ok((Err(refusal), _)) => return Err(refusal),
            Err(error) => errors.push(error),
        }
    }
    Err(unavailable.unwrap_or_else(|| explain(managers, &errors)))
}

async fn dial(net: &Net, token: &Token, manager: SocketAddr) -> Result<Connection, NetError> {
    let trust = Trust::Pinned { ca_digest: token.ca_digest };
    // The id is not known yet and not looked at: any manager of the CA will do.
    let peer = Peer { node: NodeId::new(0), addr: manager };
    let connecting = quic::connect(&net.inner, None, trust, peer);
    timeout(DIAL_TIME, connecting).await.unwrap_or(Err(NetError::Silent { addr: manager }))
}

async fn exchange(
    connection: &Connection,
    manager: SocketAddr,
    request: &JoinRequest,
) -> Result<JoinAnswer, NetError> {
    let talk = async {
        let (mut send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
        let hello = codec::frame(&Hello::Join, Hello::Join.cap()).map_err(|error| error.to_string())?;
        send.write_all(&hello).await.map_err(|error| error.to_string())?;
        send_request(&mut Stream::quic(send, recv, None), request).await.map_err(|error| error.to_string())
    };
    match timeout(ANSWER_TIME, talk).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(message)) => match connection.close_reason() {
            Some(reason) => Err(NetError::from_loss(manager, &reason)),
            None => Err(NetError::Lost { addr: manager, message }),
        },
        Err(_) => Err(NetError::Lost { addr: manager, message: format!("no answer within {ANSWER_TIME:?}") }),
    }
}

async fn send_request(stream: &mut Stream, request: &JoinRequest) -> Result<JoinAnswer, FrameError> {
    stream.write_frame(request, Hello::Join.cap()).await?;
    stream.send.finish().await?;
    stream.read_frame(ANSWER_CAP).await
}

fn pinned(connection: &Connection, ca_digest: &[u8; 32]) -> Option<Vec<u8>> {
    let chain = tls::shown(connection)?;
    chain.iter().find(|certificate| ca::digest(certificate) == *ca_digest).map(|ca| ca.to_vec())
}

/// Errors: the certificate is not what was asked for, or this node's clock finds it not valid.
fn check(identity: &Identity, role: Role, node: NodeId) -> Result<(), Refusal> {
    if identity.node() != node || identity.role() != role {
        return Err(internal("the manager made a certificate for another node or role"));
    }
    tls::server(identity).map_err(internal)?;
    let now = ca::now();
    if now < identity.not_before() || now > identity.not_after() {
        return Err(Refusal::new(
            Code::Unavailable,
            "the certificate that this node was given is not valid by its own clock",
        )
        .hint("set the clocks of this node and of the managers (`timedatectl`), remove the node that was admitted (`raftup node rm`), and join again"));
    }
    Ok(())
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, error)
}

/// The most telling of the errors, with what to check.
fn explain(managers: &[SocketAddr], errors: &[NetError]) -> Refusal {
    let find = |telling: fn(&NetError) -> bool| errors.iter().find(|error| telling(error));
    let clock =
        |error: &NetError| matches!(error, NetError::ClockBehind { .. } | NetError::PeerExpired { .. });
    if let Some(NetError::ForeignCluster { addr }) = find(|e| matches!(e, NetError::ForeignCluster { .. })) {
        let message = format!("the token is of another cluster than {addr}; its secret was not sent");
        return Refusal::new(Code::Invalid, message).hint(
            "`raftup token` on a manager of the cluster that this node should join prints the right one",
        );
    }
    if let Some(error) = find(clock) {
        return error.refusal().hint("`timedatectl` shows and sets the clock");
    }
    if managers.is_empty() {
        return Refusal::new(Code::Invalid, "the token names no manager")
            .hint("name one with `--via ADDR:PORT`");
    }
    let silent = |error: &NetError| matches!(error, NetError::Silent { .. } | NetError::Refused { .. });
    if let Some(error) = find(|_| true).filter(|error| !silent(error)) {
        return error.refusal();
    }
    let tried: Vec<String> = managers.iter().map(ToString::to_string).collect();
    let ports: std::collections::BTreeSet<u16> = managers.iter().map(SocketAddr::port).collect();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    Refusal::new(Code::Unavailable, format!("no manager answers; tried {}", tried.join(", "))).hint(format!(
        "is raftupd running there, and is UDP {} open from here to there? `--via ADDR:PORT` names another manager",
        ports.join(", ")
    ))
}

/// Passes a request on to the leader, over this manager's own connection to it.
pub async fn forward(net: &Net, leader: Peer, request: &JoinRequest) -> JoinAnswer {
    let mut stream = net.open(leader, Hello::Join).await.map_err(|error| error.refusal())?;
    let unavailable = |message: String| Refusal::new(Code::Unavailable, message);
    match timeout(ANSWER_TIME, send_request(&mut stream, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err(unavailable(format!("the leader {} does not answer: {error}", leader.node))),
        Err(_) => Err(unavailable(format!("the leader {} takes too long", leader.node))),
    }
}

/// Checks tokens, and keeps an address from guessing. One for the life of a manager.
#[derive(Debug, Default)]
pub struct Gate {
    failures: Mutex<BTreeMap<IpAddr, VecDeque<Instant>>>,
}

impl Gate {
    /// Carries out `admit` if the request's secret is that of the current token of its role.
    ///
    /// Errors: the token is wrong or was rotated; too many wrong ones came from the address; what `admit` refuses.
    pub async fn admit(
        &self,
        from: SocketAddr,
        request: &JoinRequest,
        tokens: &TokenHashes,
        admit: impl AsyncFnOnce() -> JoinAnswer,
    ) -> JoinAnswer {
        self.check(from.ip(), request, tokens, Instant::now())?;
        admit().await
    }

    fn check(
        &self,
        from: IpAddr,
        request: &JoinRequest,
        tokens: &TokenHashes,
        now: Instant,
    ) -> Result<(), Refusal> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, times| {
            times.retain(|time| now.duration_since(*time) < FAILURES_WINDOW);
            !times.is_empty()
        });
        let here = failures.get(&from).map_or(0, VecDeque::len);
        if here >= MAX_FAILURES || (here == 0 && failures.len() >= MAX_FAILING) {
            return Err(Refusal::new(Code::Forbidden, format!("too many wrong tokens from {from}"))
                .hint("wait a minute, and copy the token from `raftup token` on a manager"));
        }
        if is_valid(request, tokens) {
            return Ok(());
        }
        failures.entry(from).or_default().push_back(now);
        tracing::warn!(%from, role = %request.role, "a node asked to join with a wrong token");
        Err(Refusal::new(Code::Forbidden, "the token is not valid any more, or never was")
            .hint("tokens can be rotated; `raftup token` on a manager prints the current ones"))
    }
}

fn is_valid(request: &JoinRequest, tokens: &TokenHashes) -> bool {
    let wanted = match request.role {
        Role::Manager => &tokens.manager,
        Role::Worker => &tokens.worker,
    };
    let digest: [u8; 32] = Sha256::digest(request.secret).into();
    digest.ct_eq(wanted).into()
}

#[cfg(test)]
mod tests {
    use raftup_proto::peer::Platform;

    use super::*;

    fn request(secret: [u8; 16], role: Role) -> JoinRequest {
        let info = NodeInfo {
            hostname: "ant".to_owned(),
            control: ([10, 0, 0, 1], 7238).into(),
            underlay: [10, 0, 0, 1].into(),
            fabric_port: 7239,
            fabric_keys: Vec::new(),
            version: "0.1.0".to_owned(),
            level: Default::default(),
            platform: Platform::default(),
            deaf: Vec::new(),
        };
        JoinRequest { secret, role, csr: Vec::new(), info, attempt: 1 }
    }

    fn tokens() -> TokenHashes {
        let hash = |secret: [u8; 16]| Sha256::digest(secret).into();
        TokenHashes { manager: hash([1; 16]), worker: hash([2; 16]), sealed: Vec::new() }
    }

    #[test]
    fn a_secret_is_good_for_its_role_alone() {
        let gate = Gate::default();
        let now = Instant::now();
        for (secret, role, good) in [
            ([1; 16], Role::Manager, true),
            ([2; 16], Role::Worker, true),
            ([1; 16], Role::Worker, false),
            ([2; 16], Role::Manager, false),
            ([0; 16], Role::Worker, false),
        ] {
            let from = [10, 0, 0, secret[0]].into();
            let checked = gate.check(from, &request(secret, role), &tokens(), now);
            assert_eq!(checked.is_ok(), good, "{secret:?} {role}");
            if let Err(refusal) = checked {
                assert_eq!(refusal.code, Code::Forbidden);
            }
        }
    }

    #[test]
    fn guessing_is_slow() {
        let gate = Gate::default();
        let (start, from) = (Instant::now(), IpAddr::from([10, 0, 0, 1]));
        let right = request([1; 16], Role::Manager);
        for _ in 0..MAX_FAILURES {
            assert!(gate.check(from, &request([9; 16], Role::Manager), &tokens(), start).is_err());
        }
        let refusal = gate.check(from, &right, &tokens(), start).unwrap_err();
        assert!(refusal.message.starts_with("too many"), "{refusal}");
        assert!(
            gate.check([10, 0, 0, 2].into(), &right, &tokens(), start).is_ok(),
            "others are not kept out"
        );
        assert!(gate.check(from, &right, &tokens(), start + FAILURES_WINDOW).is_ok());
    }

    #[test]
    fn the_most_telling_error_is_told() {
        let addr: SocketAddr = ([10, 0, 0, 1], 7238).into();
        let silent = NetError::Silent { addr };
        let told = explain(&[addr], &[silent.clone(), NetError::ForeignCluster { addr }]);
        assert!(told.message.contains("another cluster"), "{told}");
        let told = explain(&[addr], &[silent.clone(), NetError::ClockBehind { addr }]);
        assert!(told.message.contains("clock"), "{told}");
        let told = explain(&[addr], &[silent]);
        assert!(told.message.contains("10.0.0.1:7238"), "{told}");
        assert!(told.hint.unwrap().contains("UDP 7238 open"));
    }
}
