//! Secrets and configs: made, shown, removed.

use axum::{Extension, Json, Router, extract::Path, routing::get};
use raftup_proto::{
    api::{BlobCreate, BlobView},
    refusal::{Code, Refusal},
    spec::BlobKind,
};

use super::times::Times;
use crate::{
    api::{Manager, refuse::Answer, server::Api, strict::Strict},
    control::blobs as sealed,
    model::RequestKey,
    plan::{Ids, blobs, find},
};

/// The paths of one kind.
pub(super) fn routes(kind: BlobKind) -> Router<Api> {
    let all = format!("/{}", kind.plural());
    let one = format!("{all}/{{blob}}");
    Router::new()
        .route(
            &all,
            get(async move |Extension(manager): Extension<Box<Manager>>| list(&manager, kind).await).post(
                async move |Extension(manager): Extension<Box<Manager>>,
                            Extension(request): Extension<RequestKey>,
                            Strict(asked): Strict<BlobCreate>| {
                    create(&manager, request, (kind, asked)).await
                },
            ),
        )
        .route(
            &one,
            get(async move |Extension(manager): Extension<Box<Manager>>, Path(name): Path<String>| {
                inspect(&manager, kind, &name).await
            })
            .delete(
                async move |Extension(manager): Extension<Box<Manager>>,
                            Extension(request): Extension<RequestKey>,
                            Path(name): Path<String>| {
                    remove(&manager, request, (kind, &name)).await
                },
            ),
        )
}

async fn list(manager: &Manager, kind: BlobKind) -> Answer<Vec<BlobView>> {
    let cluster = manager.store.read().await?;
    let times = Times::of(&manager.store);
    Ok(Json(blobs::list(&cluster, kind).into_iter().map(|view| times.blob(view)).collect()))
}

async fn create(
    manager: &Manager,
    request: RequestKey,
    (kind, asked): (BlobKind, BlobCreate),
) -> Answer<BlobView> {
    let mut ids = Ids::seeded(rand::random());
    let change = |cluster: &_, now| {
        let content = sealed::seal(cluster, &manager.key, (kind, &asked.name), &asked.data);
        let (set, view) = blobs::create(cluster, (kind, &asked), content, now, &mut ids)?;
        Ok((set, Some(view)))
    };
    let (_, view) = manager.store.change_once(request, change).await?;
    let unknown = || Refusal::new(Code::Internal, "the answer to this request was not kept");
    Ok(Json(Times::of(&manager.store).blob(view.ok_or_else(unknown)?)))
}

/// A config is shown with its content, a secret never.
async fn inspect(manager: &Manager, kind: BlobKind, name: &str) -> Answer<BlobView> {
    let cluster = manager.store.read().await?;
    let blob = find::blob(&cluster, kind, name)?;
    let mut view = blobs::show(&cluster, blob);
    view.data = match kind {
        BlobKind::Secret => None,
        BlobKind::Config => Some(sealed::open(&manager.key, blob)?),
    };
    Ok(Json(Times::of(&manager.store).blob(view)))
}

async fn remove(manager: &Manager, request: RequestKey, (kind, name): (BlobKind, &str)) -> Answer<()> {
    let change = |cluster: &_, now| {
        let blob = find::blob(cluster, kind, name)?;
        Ok((blobs::remove(cluster, blob, now)?, ()))
    };
    manager.store.change_once(request, change).await?;
    Ok(Json(()))
}
