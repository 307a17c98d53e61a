//! How a node gets in: the asking side, and the gate of the answering side.
//!
//! The asking side sends the token's secret only to one whose certificate is of the CA that the token names, and a
//! manager. The answering side never says which part of a token was wrong.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
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
    handshakes, quic,
    rate::{Rate, Unlogged},
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

/// Wrong tokens from one address (of IPv6, one network of 64 bits) in [`FAILURES_WINDOW`]; further requests are not looked
/// at. There is no limit for all addresses together, with which one could keep all others out: a secret has 128 bits, and
/// how often strangers may call at all is limited before the handshake.
const MAX_FAILURES: usize = 5;

/// See [`MAX_FAILURES`].
const FAILURES_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose failures are remembered; with more, those that failed longest ago are forgotten.
const MAX_FAILING: usize = 4096;

/// Wrong tokens are logged that often, whatever they come from.
const LOG: Rate = Rate { burst: 16, interval: Duration::from_secs(10) };

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

/// Passes a request on to the leader, over this manager's own connection to it. `from` is the address that asked.
pub async fn forward(net: &Net, leader: Peer, from: SocketAddr, request: &JoinRequest) -> JoinAnswer {
    let hello = Hello::ForwardedJoin { from };
    let mut stream = net.open(leader, hello).await.map_err(|error| error.refusal())?;
    let unavailable = |message: String| Refusal::new(Code::Unavailable, message);
    match timeout(ANSWER_TIME, send_request(&mut stream, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err(unavailable(format!("the leader {} does not answer: {error}", leader.node))),
        Err(_) => Err(unavailable(format!("the leader {} takes too long", leader.node))),
    }
}

/// Checks tokens, and keeps an address from guessing. One for the life of a manager.
#[derive(Debug)]
pub struct Gate(Mutex<Failures>);

#[derive(Debug)]
struct Failures {
    by_address: BTreeMap<IpAddr, VecDeque<Instant>>,
    log: Unlogged,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Mutex::new(Failures { by_address: BTreeMap::new(), log: Unlogged::new(LOG) }))
    }
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

    /// Passes a request on with `forward`, and counts those that the leader refuses for their token.
    ///
    /// Errors: too many wrong tokens came from the address; what the leader refuses.
    pub async fn pass_on(
        &self,
        from: SocketAddr,
        request: &JoinRequest,
        forward: impl AsyncFnOnce() -> JoinAnswer,
    ) -> JoinAnswer {
        self.open(from.ip())?;
        let answer = forward().await;
        if matches!(&answer, Err(refusal) if refusal.code == Code::Forbidden) {
            self.failures().add(from.ip(), request.role, Instant::now());
        }
        answer
    }

    /// Errors: too many wrong tokens came from the address.
    pub fn open(&self, from: IpAddr) -> Result<(), Refusal> {
        self.failures().open(from, Instant::now())
    }

    fn check(
        &self,
        from: IpAddr,
        request: &JoinRequest,
        tokens: &TokenHashes,
        now: Instant,
    ) -> Result<(), Refusal> {
        let mut failures = self.failures();
        failures.open(from, now)?;
        if is_valid(request, tokens) {
            return Ok(());
        }
        failures.add(from, request.role, now);
        Err(Refusal::new(Code::Forbidden, "the token is not valid any more, or never was")
            .hint("tokens can be rotated; `raftup token` on a manager prints the current ones"))
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failures {
    fn open(&mut self, from: IpAddr, now: Instant) -> Result<(), Refusal> {
        let Some(times) = self.by_address.get_mut(&handshakes::network(from)) else { return Ok(()) };
        times.retain(|time| now.duration_since(*time) < FAILURES_WINDOW);
        if times.len() < MAX_FAILURES {
            return Ok(());
        }
        Err(Refusal::new(Code::Forbidden, format!("too many wrong tokens from {from}"))
            .hint("wait a minute, and copy the token from `raftup token` on a manager"))
    }

    fn add(&mut self, from: IpAddr, role: Role, now: Instant) {
        let address = handshakes::network(from);
        if self.by_address.len() >= MAX_FAILING && !self.by_address.contains_key(&address) {
            self.make_room(now);
        }
        let times = self.by_address.entry(address).or_default();
        if times.len() >= MAX_FAILURES {
            times.pop_front();
        }
        times.push_back(now);
        if let Some(count) = self.log.note(now) {
            tracing::warn!(%from, %role, count, "a node asked to join with a wrong token");
        }
    }

    fn make_room(&mut self, now: Instant) {
        let last = |times: &VecDeque<Instant>| times.back().copied();
        self.by_address
            .retain(|_, times| last(times).is_some_and(|last| now.duration_since(last) < FAILURES_WINDOW));
        if self.by_address.len() >= MAX_FAILING {
            let oldest = self.by_address.iter().min_by_key(|(_, times)| last(times));
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.by_address.remove(&oldest);
            }
        }
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
            troubles: Vec::new(),
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
    fn many_who_guess_keep_nobody_out() {
        let gate = Gate::default();
        let (start, right) = (Instant::now(), request([1; 16], Role::Manager));
        let wrong = request([9; 16], Role::Manager);
        let at = |n: usize| IpAddr::from((0x0b00_0000_u32 + n as u32).to_be_bytes());
        for n in 0..2 * MAX_FAILING {
            for _ in 0..MAX_FAILURES {
                assert!(
                    gate.check(at(n), &wrong, &tokens(), start + Duration::from_millis(n as u64)).is_err()
                );
            }
        }
        let now = start + Duration::from_secs(10);
        assert!(gate.check([10, 0, 0, 2].into(), &right, &tokens(), now).is_ok());
        assert!(
            gate.check(at(2 * MAX_FAILING - 1), &right, &tokens(), now).is_err(),
            "they stay out themselves"
        );
        assert_eq!(gate.failures().by_address.len(), MAX_FAILING);
        let six = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, host]);
        (0..5).for_each(|host| assert!(gate.check(six(host), &wrong, &tokens(), now).is_err()));
        let refusal = gate.check(six(99), &right, &tokens(), now).unwrap_err();
        assert!(refusal.message.starts_with("too many"), "a network of IPv6 is one address: {refusal}");
    }

    #[tokio::test]
    async fn a_manager_that_passes_requests_on_counts_the_wrong_ones() {
        let (gate, request) = (Gate::default(), request([9; 16], Role::Worker));
        let (guesser, other) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into());
        let answer = async |from, code| {
            let mut asked = false;
            let forward = async || {
                asked = true;
                JoinAnswer::Err(Refusal::new(code, "no"))
            };
            assert!(gate.pass_on(from, &request, forward).await.is_err());
            asked
        };
        for _ in 0..2 * MAX_FAILURES {
            assert!(answer(guesser, Code::Unavailable).await, "no leader: nothing is counted");
        }
        for _ in 0..MAX_FAILURES {
            assert!(answer(guesser, Code::Forbidden).await);
        }
        assert!(!answer(guesser, Code::Forbidden).await, "the leader is not troubled any more");
        assert!(answer(other, Code::Forbidden).await);
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
