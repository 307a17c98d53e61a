//! Networks: listed, and those of no stack created and removed.

use axum::{Extension, Json, extract::Path};
use raftup_proto::api::{Deployed, NetworkCreate, NetworkView};

use super::times::Times;
use crate::{
    api::{Manager, refuse::Answer, strict::Strict},
    compute,
    model::{Cluster, RequestKey},
    plan::{Ids, find, networks},
};

pub(in crate::api) async fn list(Extension(manager): Extension<Box<Manager>>) -> Answer<Vec<NetworkView>> {
    let cluster = manager.store.read().await?;
    Ok(Json(Times::of(&manager.store).networks(compute::in_place(|| networks::all(&cluster)))))
}

pub(in crate::api) async fn inspect(
    Extension(manager): Extension<Box<Manager>>,
    Path(name): Path<String>,
) -> Answer<NetworkView> {
    let cluster = manager.store.read().await?;
    let view = networks::view(&cluster, find::network(&cluster, &name)?);
    Ok(Json(Times::of(&manager.store).network(view)))
}

pub(in crate::api) async fn create(
    Extension(manager): Extension<Box<Manager>>,
    Extension(request): Extension<RequestKey>,
    Strict(create): Strict<NetworkCreate>,
) -> Answer<Deployed> {
    let mut ids = Ids::seeded(rand::random());
    let change = |cluster: &Cluster, now| networks::create(cluster, &create, now, &mut ids);
    let (revision, changes) = manager.store.change_once(request, change).await?;
    Ok(Json(Deployed { revision, changes, warnings: Vec::new() }))
}

pub(in crate::api) async fn remove(
    Extension(manager): Extension<Box<Manager>>,
    Extension(request): Extension<RequestKey>,
    Path(name): Path<String>,
) -> Answer<Deployed> {
    let change = |cluster: &Cluster, now| networks::remove(cluster, find::network(cluster, &name)?, now);
    let (revision, changes) = manager.store.change_once(request, change).await?;
    Ok(Json(Deployed { revision, changes, warnings: Vec::new() }))
}
