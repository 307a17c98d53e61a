//! Requests that another node must answer.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{OriginalUri, Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;
use raftup_proto::{
    id::NodeId,
    peer::Hello,
    refusal::{Code, Refusal},
};
use tracing::debug;

use super::{
    Manager, Member,
    refuse::{Refused, no_leader},
    server::Api,
};
use crate::net::Peer;

/// The node that a request came from, which also tells that it was sent on once, so that two nodes never send one back and forth.
const FORWARDED: HeaderName = HeaderName::from_static("raftup-forwarded");

/// The node that was asked first, for answers that say "this node".
#[derive(Clone, Copy)]
pub(super) struct Asked(pub(super) NodeId);

/// How long a request waits for an election to end.
const LEADER_WAIT: Duration = Duration::from_secs(2);

/// Runs the handler where this node leads, else sends the request to the leader.
///
/// Handlers behind it find the leader's parts in their extensions as [`Manager`] and [`Member`].
pub(super) async fn to_leader(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let Some(member) = api.member() else {
        return Refused(Refusal::no_cluster()).into_response();
    };
    match find(&member).await {
        Found::Here(manager) => {
            let from = request.headers().get(FORWARDED).and_then(|from| from.to_str().ok()?.parse().ok());
            request.extensions_mut().insert(Asked(from.unwrap_or(member.node)));
            request.extensions_mut().insert(manager);
            request.extensions_mut().insert(member);
            next.run(request).await
        }
        Found::There(leader) if !request.headers().contains_key(FORWARDED) => {
            send(&member, leader, request).await.unwrap_or_else(|refusal| Refused(refusal).into_response())
        }
        Found::There(_) | Found::Nowhere => Refused(no_leader()).into_response(),
    }
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
            if let Some(manager) = member.leading() {
                return Found::Here(Box::new(manager));
            }
            let known = *leader.borrow_and_update();
            if let Some(peer) = known.filter(|peer| peer.node != member.node) {
                return Found::There(peer);
            }
            if leader.changed().await.is_err() {
                return Found::Nowhere;
            }
        }
    };
    tokio::time::timeout(LEADER_WAIT, wait).await.unwrap_or(Found::Nowhere)
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
