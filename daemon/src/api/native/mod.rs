//! The native API; `raftup_proto::api` has the table of its paths.

mod blobs;
mod cluster;
mod logs;
mod networks;
mod nodes;
mod progress;
mod stacks;
mod times;

use axum::{
    Router, middleware,
    routing::{get, patch, post, put},
};

use raftup_proto::spec::BlobKind;

use super::{forward, server::Api};

/// What each node answers for itself, to anyone who may ask at all.
pub(super) fn this_node() -> Router<Api> {
    Router::new().route("/status", get(cluster::status)).route("/tasks/{task}/logs", get(logs::task))
}

/// What can only be asked on the node itself.
pub(super) fn local_only() -> Router<Api> {
    Router::new()
        .route("/init", post(cluster::init))
        .route("/join", post(cluster::join))
        .route("/doctor", get(cluster::doctor))
        .route("/leave", post(cluster::leave))
}

/// What the leader answers, wherever it was asked.
pub(super) fn leader(api: &Api) -> Router<Api> {
    Router::new()
        .route("/tokens", get(cluster::tokens))
        .route("/tokens/{role}/rotate", post(cluster::rotate))
        .route("/problems", get(nodes::problems))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{node}", get(nodes::inspect).patch(nodes::update).delete(nodes::remove))
        .route("/stacks", get(stacks::list))
        .route("/stacks/{stack}", put(stacks::deploy).delete(stacks::remove))
        .route("/networks", get(networks::list).post(networks::create))
        .route("/networks/{network}", get(networks::inspect).delete(networks::remove))
        .route("/services", get(stacks::services))
        .route("/services/{service}", get(stacks::service).delete(stacks::remove_service))
        .route("/services/{service}", patch(stacks::update_service))
        .route("/services/{service}/rollback", post(stacks::roll_back_service))
        .route("/services/{service}/logs", get(logs::service))
        .route("/tasks", get(stacks::tasks))
        .merge(blobs::routes(BlobKind::Secret))
        .merge(blobs::routes(BlobKind::Config))
        .route("/progress", get(progress::follow))
        .route("/debug/controllers", get(cluster::controllers))
        .route_layer(middleware::from_fn_with_state(api.clone(), forward::to_leader))
}
