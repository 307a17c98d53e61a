//! The cluster as a whole: its state, members, tokens and controllers.

use std::net::SocketAddr;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use raftup_proto::{
    api::{ControllerView, Finding, Init, Join, Leave, Membership, Status, Tokens},
    peer::Role,
    refusal::{Code, Refusal},
    token::{MAX_MANAGERS, Token},
};

use crate::{
    api::{Manager, refuse::Answer, server::Api, strict::Strict},
    control::tokens,
    model::{Cluster, RequestKey},
    net::ca,
};

pub(in crate::api) async fn status(State(api): State<Api>) -> Json<Status> {
    let member = api.member().map(|member| Membership {
        cluster: member.cluster,
        node: member.node,
        manager: member.manager.borrow().is_some(),
        leader: member.leader.borrow().as_ref().map(|leader| leader.node),
    });
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(Status { version, member, problems: api.node().problems() })
}

pub(in crate::api) async fn doctor(State(api): State<Api>) -> Json<Vec<Finding>> {
    Json(api.node().examine().await)
}

pub(in crate::api) async fn init(State(api): State<Api>, Strict(init): Strict<Init>) -> Answer<Status> {
    api.node().init(init).await?;
    Ok(status(State(api)).await)
}

pub(in crate::api) async fn join(State(api): State<Api>, Strict(join): Strict<Join>) -> Answer<Status> {
    api.node().join(join).await?;
    Ok(status(State(api)).await)
}

pub(in crate::api) async fn leave(State(api): State<Api>, Strict(leave): Strict<Leave>) -> Answer<()> {
    api.node().leave(leave).await?;
    Ok(Json(()))
}

pub(in crate::api) async fn tokens(Extension(manager): Extension<Box<Manager>>) -> Answer<Tokens> {
    let cluster = manager.store.read().await?;
    Ok(Json(print(&manager, &cluster)?))
}

pub(in crate::api) async fn rotate(
    Extension(manager): Extension<Box<Manager>>,
    Extension(request): Extension<RequestKey>,
    Path(role): Path<Role>,
) -> Answer<Tokens> {
    tokens::rotate(&manager.store, &manager.key, role, request).await?;
    let cluster = manager.store.read().await?;
    Ok(Json(print(&manager, &cluster)?))
}

pub(in crate::api) async fn controllers(
    Extension(manager): Extension<Box<Manager>>,
) -> Json<Vec<ControllerView>> {
    Json(manager.control.controllers())
}

fn print(manager: &Manager, cluster: &Cluster) -> Result<Tokens, Refusal> {
    let missing = || Refusal::new(Code::Internal, "the cluster has no settings yet");
    let info = cluster.info.as_deref().ok_or_else(missing)?;
    let managers: Vec<SocketAddr> = cluster
        .nodes
        .values()
        .filter(|node| node.membership.is_some())
        .map(|node| node.info.control)
        .take(MAX_MANAGERS)
        .collect();
    let secrets = tokens::open(info, &manager.key)?;
    let ca_digest = ca::digest(&info.ca_certificate);
    let text =
        |role, secret| Token { ca_digest, role, secret, managers: managers.clone() }.to_string().into();
    Ok(Tokens { manager: text(Role::Manager, secrets.manager), worker: text(Role::Worker, secrets.worker) })
}
