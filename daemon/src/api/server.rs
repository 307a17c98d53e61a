//! The router, and the two places that it answers at: the local socket and streams from other nodes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::header::ORIGIN,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use raftup_proto::refusal::{Code, Refusal};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{Lifecycle, Member, native, refuse::Refused};
use crate::{net::Stream, unix_socket};

/// Largest body of a request, in bytes. A stack of thousands of services fits.
pub(super) const BODY_MAX: usize = 16 << 20;

/// The API of one node. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    node: Arc<dyn Lifecycle>,
}

impl Api {
    /// The API of `node`.
    pub fn new(node: Arc<dyn Lifecycle>) -> Self {
        Self { node }
    }

    pub(super) fn node(&self) -> &dyn Lifecycle {
        &*self.node
    }

    pub(super) fn member(&self) -> Option<Arc<Member>> {
        self.node.member()
    }

    /// Answers on the socket until `stop`; requests that run are finished first.
    ///
    /// Errors: another daemon answers there, or the socket cannot be made.
    pub async fn serve_socket(
        self,
        path: PathBuf,
        group: String,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let listener = bind(&path, &group).await?;
        info!(socket = %path.display(), "API is ready");
        let router = self.local_router();
        axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?;
        Ok(())
    }

    /// Answers another node on a stream, until either side ends it.
    pub async fn serve_stream(&self, stream: Stream) {
        let service = TowerToHyperService::new(self.peer_router());
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            debug!(error = %error, "API stream of a node ended early");
        }
    }

    fn local_router(&self) -> Router {
        let all = native::this_node().merge(native::local_only()).merge(native::leader(self));
        self.finish(all).layer(middleware::from_fn(no_browsers))
    }

    fn peer_router(&self) -> Router {
        self.finish(native::this_node().merge(native::leader(self)))
    }

    fn finish(&self, routes: Router<Self>) -> Router {
        Router::new()
            .nest("/raftup/v1", routes)
            .fallback(no_such_path)
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .with_state(self.clone())
    }
}

async fn no_such_path(request: Request) -> Refused {
    let what = format!("there is no `{} {}`", request.method(), request.uri().path());
    Refused(Refusal::new(Code::NotFound, what))
}

/// A page in a browser has no business here, whatever proxy it came through.
async fn no_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return Refused(Refusal::new(Code::Forbidden, "requests of web pages are refused")).into_response();
    }
    next.run(request).await
}

/// Makes the socket: root and the group may use it, nobody else.
async fn bind(path: &Path, group: &str) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        anyhow::bail!("another raftupd answers at `{shown}`; stop it first, or choose another --run-dir");
    }
    let listener = unix_socket::listen(path, 0o660, group_id(group))
        .with_context(|| format!("making the socket `{shown}`"))?;
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

/// Id of a group by name, from the local file; such a group need not exist.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}
