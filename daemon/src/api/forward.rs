//! Requests that another node must answer.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{OriginalUri, Request, State},
    http::{HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;
use raftup_proto::{
    id::NodeId,
    peer::{Hello, Role},
    refusal::{Code, Refusal},
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::{
    Manager, Member,
    refuse::{NO_LEADER, Refused, no_leader},
    server::{Api, BODY_MAX},
};
use crate::{model::RequestKey, net::Peer};

/// The node that a request came from, which also tells that it was sent on once, so that two nodes never send one back and forth.
const FORWARDED: HeaderName = HeaderName::from_static("raftup-forwarded");

/// Names a request of a client, drawn by it at random: whoever asks again under the same name is not served twice. The node
/// that is asked first gives a request one that has none.
const REQUEST: HeaderName = HeaderName::from_static("raftup-request");

/// Longest name of a request.
const REQUEST_MAX: usize = 64;

/// The node that was asked first, for answers that say "this node".
#[derive(Clone, Copy)]
pub(super) struct Asked(pub(super) NodeId);

/// How long a request waits for an election to end.
const LEADER_WAIT: Duration = Duration::from_secs(2);

/// For so long after it came, a request is asked again of the next leader. Without a majority, managers go on to name the
/// one that is gone.
const ASK_AGAIN: Duration = Duration::from_secs(4);

/// Runs the handler where this node leads, else sends the request to the leader, and to the next one if that is lost
/// before it answers.
///
/// A leader that is lost may have done what was asked. The next one is asked all the same: a change is remembered in the
/// state by the name of its request, so it is made once.
///
/// Handlers behind it find the leader's parts in their extensions as [`Manager`] and [`Member`]; those of changes also the [`RequestKey`].
pub(super) async fn to_leader(State(api): State<Api>, request: Request, next: Next) -> Response {
    let Some(member) = api.member() else {
        return Refused(Refusal::no_cluster()).into_response();
    };
    let (mut parts, body) = request.into_parts();
    let body = match to_bytes(body, BODY_MAX).await {
        Ok(body) => body,
        Err(error) => return Refused(incomplete(&error)).into_response(),
    };
    let sent_on = parts.headers.contains_key(FORWARDED);
    // Only changes are remembered by their key; a read has none.
    if !parts.method.is_safe() {
        match request_key(&mut parts, &body) {
            Ok(key) => drop(parts.extensions.insert(key)),
            Err(refusal) => return Refused(refusal).into_response(),
        }
    }
    let begun = Instant::now();
    loop {
        match find(&member).await {
            Found::Here(manager) => {
                let from = parts.headers.get(FORWARDED).and_then(|from| from.to_str().ok()?.parse().ok());
                parts.extensions.insert(Asked(from.unwrap_or(member.node)));
                parts.extensions.insert(manager);
                parts.extensions.insert(member);
                return next.run(Request::from_parts(parts, Body::from(body))).await;
            }
            Found::There(leader) if is_worker(&member) => return Refused(not_here(leader)).into_response(),
            Found::There(leader) if !sent_on => {
                let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
                let refusal = tokio::select! {
                    answer = send(&member, leader, request) => match answer {
                        Ok(answer) => return answer,
                        Err(refusal) => refusal,
                    },
                    () = deposed(&member, leader) => leader_lost(leader.node),
                };
                let again = refusal.code == Code::Unavailable
                    && begun.elapsed() < ASK_AGAIN
                    && timeout(LEADER_WAIT, deposed(&member, leader)).await.is_ok();
                if !again {
                    let lost = refusal.code == Code::Unavailable;
                    return Refused(if lost { refusal.hint(NO_LEADER) } else { refusal }).into_response();
                }
            }
            Found::There(_) | Found::Nowhere => return Refused(no_leader()).into_response(),
        }
    }
}

/// What the request is remembered by: its name, and all that it asks, so that a name used twice for different things
/// hides neither. Errors: a name that is too long.
fn request_key(parts: &mut Parts, body: &[u8]) -> Result<RequestKey, Refusal> {
    let name = match parts.headers.get(REQUEST) {
        Some(name) if name.len() > REQUEST_MAX => {
            let what = format!("`{REQUEST}` is longer than {REQUEST_MAX} characters");
            return Err(Refusal::new(Code::Invalid, what));
        }
        Some(name) => name.clone(),
        None => HeaderValue::try_from(format!("{:032x}", rand::random::<u128>())).expect("hexadecimal"),
    };
    let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |whole| &whole.0);
    let mut hash = Sha256::new();
    for part in [name.as_bytes(), parts.method.as_str().as_bytes(), uri.to_string().as_bytes(), body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    parts.headers.insert(REQUEST, name);
    Ok(RequestKey(key))
}

/// Waits until `leader` is not known as such any more.
async fn deposed(member: &Member, leader: Peer) {
    let mut known = member.leader.clone();
    let lost = known.wait_for(|now| now.is_none_or(|now| now.node != leader.node)).await.is_ok();
    if !lost {
        // The node ends, and the request with it.
        std::future::pending().await
    }
}

fn is_worker(member: &Member) -> bool {
    member.net.identity().is_some_and(|identity| identity.role() == Role::Worker)
}

fn not_here(leader: Peer) -> Refusal {
    let what = "this node is a worker: it runs tasks, and neither sees nor changes the cluster";
    let where_else = format!("ask on a manager: node {}, at {}, leads now", leader.node, leader.addr.ip());
    Refusal::new(Code::Forbidden, what).hint(where_else)
}

fn incomplete(error: &axum::Error) -> Refusal {
    let what = format!("the request did not arrive whole, or is larger than {} MiB: {error}", BODY_MAX >> 20);
    Refusal::new(Code::Invalid, what)
}

fn leader_lost(leader: NodeId) -> Refusal {
    let what =
        format!("the leader, node {leader}, was lost before it answered; whether it did this is not known");
    Refusal::new(Code::Unavailable, what).hint("see whether it is done, and ask again if it is not")
}

enum Found {
    Here(Box<Manager>),
    There(Peer),
    Nowhere,
}

async fn find(member: &Member) -> Found {
    let mut leader = member.leader.clone();
    let wait = async {
        loop {
            // Taken before the look, so that nothing is missed: a node is known to lead before it can answer.
            let mut own = member.manager.borrow().as_ref().map(|manager| manager.store.leadership());
            if let Some(manager) = member.leading() {
                return Found::Here(Box::new(manager));
            }
            let known = *leader.borrow_and_update();
            if let Some(peer) = known.filter(|peer| peer.node != member.node) {
                return Found::There(peer);
            }
            let here = async {
                match &mut own {
                    Some(own) => own.changed().await,
                    None => std::future::pending().await,
                }
            };
            // Watch channels lose nothing when a wait on them is dropped.
            let moved = tokio::select! {
                moved = leader.changed() => moved,
                moved = here => moved,
            };
            if moved.is_err() {
                return Found::Nowhere;
            }
        }
    };
    timeout(LEADER_WAIT, wait).await.unwrap_or(Found::Nowhere)
}

/// Sends `request` to another node's API and gives its answer; bodies are passed on as they come.
///
/// Errors: the node cannot be reached, or ends the connection before its answer.
pub(super) async fn send(member: &Member, to: Peer, mut request: Request) -> Result<Response, Refusal> {
    let node = to.node;
    let unreachable = |error: &dyn std::fmt::Display| {
        Refusal::new(Code::Unavailable, format!("node {node} does not answer: {error}"))
            .hint("try again; `raftup node ls` says which nodes are up")
    };
    let opened = member.net.open(to, Hello::Api).await;
    let stream =
        opened.map_err(|error| if error.is_final() { error.refusal() } else { unreachable(&error) })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%node, error = %error, "forwarded request ended early");
        }
    });
    // Nested routers see the rest of a path only; the other node needs all of it.
    if let Some(OriginalUri(whole)) = request.extensions().get().cloned() {
        *request.uri_mut() = whole;
    }
    let from = HeaderValue::try_from(member.node.to_string()).expect("ids are ASCII");
    request.headers_mut().insert(FORWARDED, from);
    request.headers_mut().insert(axum::http::header::HOST, HeaderValue::from_static("raftup"));
    let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
    Ok(answer.map(Body::new))
}
