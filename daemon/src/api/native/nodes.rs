//! Nodes: shown, changed, removed.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::{Path, Query},
};
use raftup_proto::{
    api::{ManagerState, NodeState, NodeUpdate, NodeView},
    id::NodeId,
    refusal::{Code, Refusal},
};
use serde::Deserialize;

use super::times::Times;
use crate::{
    api::{Manager, forward::Asked, refuse::Answer, strict::Strict},
    model::{Cluster, RequestKey},
    plan::{find, nodes, problems, show},
    store,
};

/// The parts that every handler of the leader finds in its request.
type Here<T> = Extension<T>;

pub(in crate::api) async fn list(
    Extension(manager): Here<Box<Manager>>,
    Extension(asked): Here<Asked>,
) -> Answer<Vec<NodeView>> {
    let cluster = manager.store.read().await?;
    let views = show::nodes(&cluster, asked.0, &managers(&manager, &cluster));
    Ok(Json(Times::of(&manager.store).nodes(views)))
}

/// What is wrong in the whole cluster.
pub(in crate::api) async fn problems(Extension(manager): Here<Box<Manager>>) -> Answer<Vec<String>> {
    let cluster = manager.store.read().await?;
    Ok(Json(crate::compute::in_place(|| problems::problems(&cluster, manager.store.now()))))
}

pub(in crate::api) async fn inspect(
    Extension(manager): Here<Box<Manager>>,
    Extension(asked): Here<Asked>,
    Path(name): Path<String>,
) -> Answer<NodeView> {
    let cluster = manager.store.read().await?;
    let node = find::node(&cluster, &name)?.id;
    let all = show::nodes(&cluster, asked.0, &managers(&manager, &cluster));
    let all = Times::of(&manager.store).nodes(all);
    let gone = || Refusal::new(Code::NotFound, format!("node `{name}` has just been removed"));
    Ok(Json(all.into_iter().find(|view| view.id == node).ok_or_else(gone)?))
}

/// What the members of Raft do, by node.
fn managers(manager: &Manager, cluster: &Cluster) -> BTreeMap<NodeId, ManagerState> {
    let leader = manager.store.leadership().borrow().leader;
    let down = |node| cluster.nodes.get(&node).is_some_and(|node| node.state == NodeState::Down);
    let state = |member: &store::Member| match member.site.node {
        node if Some(node) == leader => ManagerState::Leader,
        _ if !member.voter => ManagerState::Learner,
        node if down(node) => ManagerState::Unreachable,
        _ => ManagerState::Reachable,
    };
    manager.store.members().members.values().map(|member| (member.site.node, state(member))).collect()
}

pub(in crate::api) async fn update(
    Extension(manager): Here<Box<Manager>>,
    Extension(request): Extension<RequestKey>,
    Extension(asked): Here<Asked>,
    Path(name): Path<String>,
    Strict(update): Strict<NodeUpdate>,
) -> Answer<NodeView> {
    let change = |cluster: &_, now| {
        let node = find::node(cluster, &name)?;
        Ok((nodes::update(cluster, node.id, &update, now)?, ()))
    };
    manager.store.change_once(request, change).await?;
    inspect(Extension(manager), Extension(asked), Path(name)).await
}

/// How a node is removed.
#[derive(Deserialize)]
pub(in crate::api) struct Remove {
    /// Also if it is up; what counts is that it is there.
    force: Option<String>,
}

pub(in crate::api) async fn remove(
    Extension(manager): Here<Box<Manager>>,
    Extension(request): Extension<RequestKey>,
    Path(name): Path<String>,
    Query(remove): Query<Remove>,
) -> Answer<()> {
    let change = |cluster: &_, now| {
        let node = find::node(cluster, &name)?;
        Ok((nodes::remove(cluster, node.id, remove.force.is_some(), now)?, ()))
    };
    manager.store.change_once(request, change).await?;
    Ok(Json(()))
}
