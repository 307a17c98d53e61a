//! A daemon that answers each path with what it was told, and keeps what it was asked.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use raftup_proto::refusal::Refusal;
use serde::Serialize;
use serde_json::Value;
use tokio::{net::UnixListener, task::JoinHandle};

/// An answer.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    chunks: Vec<Bytes>,
    end: End,
}

/// How an answer ends.
#[derive(Clone, Copy)]
enum End {
    /// As it should.
    Whole,
    /// The connection breaks.
    Broken,
    /// It stays open.
    Open,
}

impl Reply {
    pub(crate) fn json(value: impl Serialize) -> Self {
        Self { status: 200, chunks: vec![serde_json::to_vec(&value).unwrap().into()], end: End::Whole }
    }

    pub(crate) fn empty() -> Self {
        Self { status: 204, chunks: Vec::new(), end: End::Whole }
    }

    pub(crate) fn text(status: u16, text: &'static str) -> Self {
        Self { status, chunks: vec![Bytes::from(text)], end: End::Whole }
    }

    pub(crate) fn refusal(refusal: Refusal) -> Self {
        Self { status: refusal.code.http_status(), ..Self::json(refusal) }
    }

    /// A stream of lines; two lines share a chunk and one is cut in half, as it happens on a socket.
    pub(crate) fn lines<T: Serialize>(values: impl IntoIterator<Item = T>) -> Self {
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend(serde_json::to_vec(&value).unwrap());
            bytes.push(b'\n');
        }
        let tail = bytes.split_off(bytes.len() / 2);
        Self { status: 200, chunks: vec![bytes.into(), tail.into()], end: End::Whole }
    }

    pub(crate) fn broken(self) -> Self {
        Self { end: End::Broken, ..self }
    }

    pub(crate) fn open(self) -> Self {
        Self { end: End::Open, ..self }
    }

    fn body(self) -> UnsyncBoxBody<Bytes, io::Error> {
        let chunks = stream::iter(self.chunks).map(|chunk| Ok(Frame::data(chunk)));
        let end = match self.end {
            End::Whole => stream::empty().boxed(),
            End::Broken => stream::iter([Err(io::ErrorKind::ConnectionReset.into())]).boxed(),
            End::Open => stream::pending().boxed(),
        };
        StreamBody::new(chunks.chain(end)).boxed_unsync()
    }
}

/// What was asked: method and path with its query, and the body.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) body: Value,
}

#[derive(Default)]
struct State {
    replies: BTreeMap<String, VecDeque<Reply>>,
    asked: Vec<Asked>,
}

/// The daemon; it stops when dropped.
pub(crate) struct Daemon {
    dir: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    task: Option<JoinHandle<()>>,
}

impl Daemon {
    /// A daemon that knows no path yet.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Self { dir, state: Arc::default(), task: None };
        daemon.listen();
        daemon
    }

    /// Answers `line`, such as `GET /nodes`, with each of `replies` in turn, and with the last one for ever.
    pub(crate) fn on(self, line: &str, replies: impl IntoIterator<Item = Reply>) -> Self {
        self.state.lock().unwrap().replies.insert(line.to_owned(), replies.into_iter().collect());
        self
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("raftup.sock")
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The lines of what was asked so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// As if it was killed: all connections break, and the socket is gone.
    pub(crate) async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        std::fs::remove_file(self.socket()).unwrap();
    }

    /// Starts to listen.
    pub(crate) fn listen(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        self.task = Some(tokio::spawn(serve(listener, self.state.clone())));
    }
}

async fn serve(listener: UnixListener, state: Arc<Mutex<State>>) {
    // Connections end with this task.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let service = service_fn(move |request| answer(request, state.clone()));
        connections.spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<UnsyncBoxBody<Bytes, io::Error>>, Infallible> {
    let path = request.uri().path_and_query().unwrap().as_str();
    let line = format!("{} {}", request.method(), path.strip_prefix("/raftup/v1").unwrap_or(path));
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let mut state = state.lock().unwrap();
    state.asked.push(Asked { line: line.clone(), body });
    let reply = match state.replies.get_mut(&line) {
        Some(replies) if replies.len() > 1 => replies.pop_front(),
        Some(replies) => replies.front().cloned(),
        None => None,
    };
    let reply = reply.unwrap_or_else(|| Reply::text(404, "no such route"));
    Ok(Response::builder().status(reply.status).body(reply.body()).unwrap())
}
