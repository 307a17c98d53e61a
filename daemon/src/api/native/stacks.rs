//! Stacks, their services and tasks: deployed, shown, changed, removed.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query},
};
use raftup_proto::{
    api::{Deploy, Deployed, Rollback, ServiceUpdate, ServiceView, StackView, TaskView},
    compose,
    refusal::{Code, Refusal},
    spec::PullPolicy,
};
use serde::Deserialize;

use super::times::Times;
use crate::{
    api::{Manager, Member, refuse::Answer, strict::Strict},
    compute,
    control::{blobs, credentials},
    model::{Cluster, RequestKey},
    plan::{Ids, find, services, show, stacks},
};

/// Which objects a list shows; what is not given does not matter.
#[derive(Deserialize)]
pub(in crate::api) struct Filter {
    stack: Option<String>,
    service: Option<String>,
    node: Option<String>,
}

pub(in crate::api) async fn list(Extension(manager): Extension<Box<Manager>>) -> Answer<Vec<StackView>> {
    let cluster = manager.store.read().await?;
    Ok(Json(Times::of(&manager.store).stacks(compute::in_place(|| show::stacks(&cluster)))))
}

pub(in crate::api) async fn deploy(
    Extension(manager): Extension<Box<Manager>>,
    Extension(member): Extension<Arc<Member>>,
    Extension(request): Extension<RequestKey>,
    Path(name): Path<String>,
    Strict(deploy): Strict<Deploy>,
) -> Answer<Deployed> {
    if deploy.spec.name.as_str() != name {
        let message = format!("path names stack `{name}`, body names `{}`", deploy.spec.name);
        return Err(Refusal::new(Code::Invalid, message).into());
    }
    // What may not be pulled comes from no registry.
    let services = deploy.spec.services.values();
    let pulled = services.filter(|service| service.container.pull_policy != PullPolicy::Never);
    let images = pulled.map(|service| service.container.image.clone());
    let images = images.map(|image| {
        let credential = credentials::for_image(&deploy.credentials, &image);
        (image, credential)
    });
    let (pinned, warnings) = member.agent.pin(images.collect()).await;
    let mut ids = Ids::seeded(rand::random());
    let change = |cluster: &Cluster, now| {
        let sealed = credentials::seal(cluster, &manager.key, &deploy.spec.name, &deploy.credentials);
        let contents = blobs::seal_stack(cluster, &manager.key, &deploy.spec);
        stacks::deploy(cluster, &deploy, sealed, &contents, &pinned, now, &mut ids)
    };
    let (revision, changes) = manager.store.change_once(request, change).await?;
    Ok(Json(Deployed { revision, changes, warnings }))
}

pub(in crate::api) async fn remove(
    Extension(manager): Extension<Box<Manager>>,
    Extension(request): Extension<RequestKey>,
    Path(name): Path<String>,
) -> Answer<Deployed> {
    let change = |cluster: &_, now| {
        let stack = find::stack(cluster, &name)?;
        stacks::remove(cluster, stack.id, now)
    };
    let (revision, changes) = manager.store.change_once(request, change).await?;
    Ok(Json(Deployed { revision, changes, warnings: Vec::new() }))
}

pub(in crate::api) async fn services(
    Extension(manager): Extension<Box<Manager>>,
    Query(filter): Query<Filter>,
) -> Answer<Vec<ServiceView>> {
    let cluster = manager.store.read().await?;
    let stack = filter.stack.map(|name| find::stack(&cluster, &name)).transpose()?.map(|stack| stack.id);
    let views = compute::in_place(|| show::services(&cluster, stack));
    Ok(Json(Times::of(&manager.store).services(views)))
}

pub(in crate::api) async fn service(
    Extension(manager): Extension<Box<Manager>>,
    Path(name): Path<String>,
) -> Answer<ServiceView> {
    let cluster = manager.store.read().await?;
    let service = find::service(&cluster, &name)?.id;
    let gone = || Refusal::new(Code::NotFound, format!("service `{name}` has just been removed"));
    let view = show::service(&cluster, service).ok_or_else(gone)?;
    Ok(Json(Times::of(&manager.store).service(view)))
}

pub(in crate::api) async fn update_service(
    Extension(manager): Extension<Box<Manager>>,
    Extension(member): Extension<Arc<Member>>,
    Extension(request): Extension<RequestKey>,
    Path(name): Path<String>,
    Strict(update): Strict<ServiceUpdate>,
) -> Answer<Deployed> {
    // What cannot be an image is refused below.
    let image = update.image.as_deref().and_then(|image| compose::image(image).ok());
    let (pinned, warnings) = match image {
        Some(image) => {
            let cluster = manager.store.read().await?;
            let service = find::service(&cluster, &name)?;
            let known = credentials::of_stack(&cluster, &manager.key, service.stack)?;
            let credential = credentials::for_image(&known, &image);
            member.agent.pin([(image, credential)].into()).await
        }
        None => Default::default(),
    };
    let change = |cluster: &_, now| {
        let service = find::service(cluster, &name)?;
        services::update(cluster, service.id, &update, &pinned, now)
    };
    let (revision, changes) = manager.store.change_once(request, change).await?;
    Ok(Json(Deployed { revision, changes, warnings }))
}

pub(in crate::api) async fn roll_back_service(
    Extension(manager): Extension<Box<Manager>>,
    Extension(request): Extension<RequestKey>,
    Path(name): Path<String>,
    Strict(rollback): Strict<Rollback>,
) -> Answer<Deployed> {
    let change = |cluster: &_, now| {
        let service = find::service(cluster, &name)?;
        services::rollback(cluster, service.id, rollback.to, now)
    };
    let (revision, changes) = manager.store.change_once(request, change).await?;
    Ok(Json(Deployed { revision, changes, warnings: Vec::new() }))
}

pub(in crate::api) async fn remove_service(
    Extension(manager): Extension<Box<Manager>>,
    Extension(request): Extension<RequestKey>,
    Path(name): Path<String>,
) -> Answer<Deployed> {
    let change = |cluster: &_, now| {
        let service = find::service(cluster, &name)?;
        services::remove(cluster, service.id, now)
    };
    let (revision, changes) = manager.store.change_once(request, change).await?;
    Ok(Json(Deployed { revision, changes, warnings: Vec::new() }))
}

pub(in crate::api) async fn tasks(
    Extension(manager): Extension<Box<Manager>>,
    Query(filter): Query<Filter>,
) -> Answer<Vec<TaskView>> {
    let cluster = manager.store.read().await?;
    let stack = filter.stack.map(|name| find::stack(&cluster, &name)).transpose()?;
    let service = filter.service.map(|name| find::service(&cluster, &name)).transpose()?;
    let node = filter.node.map(|name| find::node(&cluster, &name)).transpose()?;
    let wanted = show::TaskFilter {
        stack: stack.map(|stack| stack.id),
        service: service.map(|service| service.id),
        node: node.map(|node| node.id),
    };
    let views = compute::in_place(|| show::tasks(&cluster, wanted));
    Ok(Json(Times::of(&manager.store).tasks(views)))
}
