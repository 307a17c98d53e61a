//! The daemon's HTTP API over its socket.
//!
//! Owns: connections (one a request), the words for a daemon that cannot be reached. Leaves alone: what answers
//! mean. Holds: every error is a [`Refusal`], with a hint where the user can do something.

mod host;
mod path;
mod stream;

use std::{io, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use raftup_proto::refusal::{Code, Refusal};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

pub(crate) use host::Host;
pub(crate) use path::Path;
pub(crate) use stream::Lines;

/// Longest time until an answer begins. The daemon gives up by itself long before; this is for one that hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Largest answer that is read, in bytes: some ten thousand services.
const ANSWER_MAX: usize = 64 << 20;

/// A daemon, asked over its socket.
pub(crate) struct Client {
    host: Host,
}

impl Client {
    /// The daemon at `host`; nothing is connected yet.
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }

    /// What is at `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: Path) -> Result<T, Refusal> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    /// Sends `body` to `path`.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: Path,
        body: &impl Serialize,
    ) -> Result<T, Refusal> {
        self.ask(method, path, Some(body)).await
    }

    /// Removes what is at `path`.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: Path) -> Result<T, Refusal> {
        self.ask(Method::DELETE, path, None::<&()>).await
    }

    /// The stream at `path`, one value a line.
    pub(crate) async fn stream<T: DeserializeOwned>(&self, path: Path) -> Result<Lines<T>, Refusal> {
        let answer = self.begin(Method::GET, &path, None::<&()>).await?;
        Ok(Lines::new(answer.into_body()))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: Path,
        body: Option<&impl Serialize>,
    ) -> Result<T, Refusal> {
        let answer = self.begin(method, &path, body).await?;
        let bytes = whole(answer).await?;
        // An answer without content reads as JSON's nothing.
        let json: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(json).map_err(|error| strange(&path, error))
    }

    /// Sends a request and waits for the head of its answer. Errors: also what the daemon refused.
    async fn begin(
        &self,
        method: Method,
        path: &Path,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, Refusal> {
        let request = request(method, path, body)?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.exchange(request)).await.map_err(|_| {
            let seconds = ANSWER_WITHIN.as_secs();
            Refusal::new(Code::Unavailable, format!("raftupd did not answer within {seconds} s"))
                .hint("`journalctl -u raftupd` shows what it is doing")
        })??;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = whole(answer).await?;
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| unknown(path, status)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Refusal> {
        let stream = UnixStream::connect(self.host.path()).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|_| broken_off())?;
        // It ends with the answer; what goes wrong in it is seen there.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|_| broken_off())
    }

    fn unreachable(&self, error: &io::Error) -> Refusal {
        let path = self.host.path().display();
        let kind = error.kind();
        if kind == io::ErrorKind::PermissionDenied {
            return Refusal::new(Code::Forbidden, format!("you may not use {path}")).hint(
                "run it as root, or join the socket's group: `sudo usermod -aG raftup $USER`, then log in again",
            );
        }
        let absent = matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        let why = if absent { "; is it running?".to_owned() } else { format!(": {error}") };
        let hint = if self.host.is_default() {
            "`sudo systemctl start raftupd`"
        } else {
            "check `--host` and RAFTUP_HOST, or start the daemon: `sudo systemctl start raftupd`"
        };
        Refusal::new(Code::Unavailable, format!("cannot reach raftupd at {path}{why}")).hint(hint)
    }
}

fn request(
    method: Method,
    path: &Path,
    body: Option<&impl Serialize>,
) -> Result<Request<Full<Bytes>>, Refusal> {
    let builder = Request::builder()
        .method(method)
        .uri(path.as_str())
        .header(header::HOST, "raftup")
        .header(header::USER_AGENT, concat!("raftup/", env!("CARGO_PKG_VERSION")));
    let defect =
        |error: &dyn std::fmt::Display| Refusal::new(Code::Internal, format!("bad request: {error}"));
    match body {
        None => builder.body(Full::default()).map_err(|error| defect(&error)),
        Some(body) => {
            let json = serde_json::to_vec(body).map_err(|error| defect(&error))?;
            builder
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(json)))
                .map_err(|error| defect(&error))
        }
    }
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, Refusal> {
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(|_| broken_off())?;
    Ok(body.to_bytes())
}

/// The daemon went away in the middle of an answer.
fn broken_off() -> Refusal {
    Refusal::new(Code::Unavailable, "raftupd closed the connection before it had answered")
        .hint("`systemctl status raftupd` shows whether it runs; a change may have been made all the same")
}

fn strange(path: &Path, error: serde_json::Error) -> Refusal {
    Refusal::new(Code::Internal, format!("the answer to {} cannot be read: {error}", path.as_str()))
        .hint("`raftup --version` and `raftupd --version` should be the same")
}

fn unknown(path: &Path, status: StatusCode) -> Refusal {
    Refusal::new(Code::Internal, format!("raftupd answered {status} to {}, without a reason", path.as_str()))
        .hint("`raftup --version` and `raftupd --version` should be the same")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_cannot_be_reached_is_explained() {
        let client = |host: &str| Client::new(host.parse().unwrap());
        let usual = client(Host::DEFAULT);
        let refused = usual.unreachable(&io::ErrorKind::PermissionDenied.into());
        assert_eq!(refused.code, Code::Forbidden);
        assert_eq!(refused.message, "you may not use /run/raftup/raftup.sock");
        let missing = usual.unreachable(&io::ErrorKind::NotFound.into());
        assert_eq!(missing.message, "cannot reach raftupd at /run/raftup/raftup.sock; is it running?");
        assert_eq!(missing.hint.as_deref(), Some("`sudo systemctl start raftupd`"));
        let other = client("unix:///tmp/x.sock").unreachable(&io::ErrorKind::ConnectionRefused.into());
        assert!(other.hint.is_some_and(|hint| hint.contains("RAFTUP_HOST")));
    }
}
