//! The router, and the two places that it answers at: the local socket and streams from other nodes.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    body::to_bytes,
    extract::{DefaultBodyLimit, Request},
    http::{
        HeaderMap, HeaderValue,
        header::{HOST, ORIGIN},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use raftup_proto::refusal::{Code, Refusal};
use tokio::{net::UnixListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Lifecycle, Member, native, refuse::Refused};
use crate::{net::Stream, unix_socket};

/// Largest body of a request, in bytes. A stack of thousands of services fits.
pub(super) const BODY_MAX: usize = 16 << 20;

/// Largest head of a request, in bytes.
const HEAD_MAX: usize = 64 << 10;

/// Time for the head of a request, and for the next request of a connection.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Time for the body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(30);

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
        serve(listener, self.local_router(), stop).await;
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
        self.finish(all).layer(middleware::from_fn(take_in))
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

/// Answers connections until `stop`. Requests that run then are finished.
async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_MAX);
    let open = GracefulShutdown::new();
    // Cancel-safe: a connection is taken or not.
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a connection to the API was lost");
                tokio::time::sleep(Duration::from_millis(50)).await; // out of files: give others time to close some
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection to the API ended early");
            }
        });
    }
    open.shutdown().await;
}

/// Takes a request in whole, unless it is one of a page in a browser, which has no business here, whatever proxy it came
/// through.
async fn take_in(request: Request, next: Next) -> Response {
    if is_of_a_page(request.headers()) {
        return Refused(Refusal::new(Code::Forbidden, "requests of web pages are refused")).into_response();
    }
    let (head, body) = request.into_parts();
    let refusal = match timeout(BODY_WITHIN, to_bytes(body, BODY_MAX)).await {
        Ok(Ok(body)) => return next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(_)) => {
            Refusal::new(Code::Invalid, format!("the request broke off, or has more than {BODY_MAX} bytes"))
        }
        Err(_) => {
            let limit_s = BODY_WITHIN.as_secs();
            Refusal::new(Code::Invalid, format!("the request did not arrive within {limit_s} s"))
        }
    };
    Refused(refusal).into_response()
}

/// A page says where it is from; one that was made to believe that this is its own server names that one, by a domain.
fn is_of_a_page(headers: &HeaderMap) -> bool {
    let domain = |host: &HeaderValue| {
        let host = host.to_str().unwrap_or(".");
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name.contains('.') && name.parse::<IpAddr>().is_err()
    };
    headers.contains_key(ORIGIN) || headers.get(HOST).is_some_and(domain)
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

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;

    /// What is answered to these bytes, with time running on while nothing happens; none if the connection just ends.
    async fn answer(sent: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = bind(&path, "no such group").await.unwrap();
        let echo = post(|body: String| async move { body.len().to_string() });
        let router = Router::new().route("/", echo).layer(middleware::from_fn(take_in));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, router, stop.clone()));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        stop.cancel();
        serving.await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        (!text.is_empty()).then(|| text.lines().next().unwrap_or_default().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_and_large_requests_end() {
        let head = |more: &str| format!("POST / HTTP/1.1\r\nhost: raftup\r\nconnection: close\r\n{more}\r\n");
        let said = answer(format!("{}hello", head("content-length: 5\r\n")).as_bytes()).await;
        assert_eq!(said.as_deref(), Some("HTTP/1.1 200 OK"));
        // Nothing, half a head, half a body: each ends in time.
        assert_eq!(answer(b"").await, None);
        let half = answer(b"POST / HTTP/1.1\r\nhost: raft").await;
        assert!(half.is_none_or(|said| said.contains("408")));
        let said = answer(format!("{}hell", head("content-length: 5\r\n")).as_bytes()).await;
        assert_eq!(said.as_deref(), Some("HTTP/1.1 400 Bad Request"));
        let large = head(&format!("content-length: {}\r\n", BODY_MAX + 1));
        assert_eq!(answer(large.as_bytes()).await.as_deref(), Some("HTTP/1.1 400 Bad Request"));
        let said = answer(head(&format!("x: {}\r\n", "x".repeat(2 * HEAD_MAX))).as_bytes()).await;
        assert!(said.as_ref().is_some_and(|said| said.contains("431")), "{said:?}");
    }

    #[test]
    fn requests_of_pages_are_told_from_those_of_programs() {
        let headers = |name, value: &str| HeaderMap::from_iter([(name, value.parse().unwrap())]);
        for host in
            ["raftup", "localhost", "localhost:8080", "127.0.0.1", "192.0.2.1:80", "[::1]:80", "docker", ""]
        {
            assert!(!is_of_a_page(&headers(HOST, host)), "{host}");
        }
        for host in ["example.com", "rebound.example.com:2375", "a.b"] {
            assert!(is_of_a_page(&headers(HOST, host)), "{host}");
        }
        assert!(is_of_a_page(&headers(ORIGIN, "null")));
        assert!(!is_of_a_page(&HeaderMap::new()));
    }
}
