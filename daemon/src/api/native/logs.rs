//! What containers wrote: fetched from the nodes that have them, merged by time.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, Request, State},
    response::Response,
};
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream, Peekable, SelectAll},
};
use raftup_proto::{
    api::LogLine,
    id::{ServiceId, TaskId},
    refusal::{Code, Refusal},
    unit::UnixMillis,
};
use serde::Deserialize;
use tokio_util::io::StreamReader;
use tracing::debug;

use super::progress::lines;
use crate::{
    api::{Manager, Member, forward, refuse::Refused, server::Api},
    engine::LogOptions,
    model::{Cluster, Task},
    net::Peer,
    plan::find,
};

/// Longest line that is passed on, in bytes; engines cut lines far earlier.
const LINE_MAX: usize = 1 << 20;

/// Which lines are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct Wanted {
    /// Go on as lines come; what counts is that it is there.
    follow: Option<String>,
    /// So many of the newest lines of each task.
    tail: Option<u32>,
    /// Lines from then on.
    since: Option<UnixMillis>,
}

impl Wanted {
    fn options(&self) -> LogOptions {
        LogOptions { follow: self.follow.is_some(), tail: self.tail, since: self.since }
    }

    fn query(&self) -> String {
        let tail = self.tail.map(|lines| format!("&tail={lines}"));
        let since = self.since.map(|UnixMillis(at)| format!("&since={at}"));
        let follow = self.follow.as_ref().map(|_| "&follow".to_owned());
        [tail, since, follow].into_iter().flatten().collect()
    }
}

/// The lines of one task of this node.
pub(in crate::api) async fn task(
    State(api): State<Api>,
    Path(task): Path<TaskId>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refused> {
    let member = api.member().ok_or_else(Refusal::no_cluster)?;
    Ok(lines(here(&member, task, &wanted)?))
}

/// The lines of all tasks of a service, on whatever nodes.
pub(in crate::api) async fn service(
    Extension(manager): Extension<Box<Manager>>,
    Extension(member): Extension<Arc<Member>>,
    Path(name): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refused> {
    let cluster = manager.store.read().await?;
    let service = find::service(&cluster, &name)?.id;
    if wanted.follow.is_some() {
        return Ok(lines(follow(manager, member, service, wanted)));
    }
    let tasks = cluster.tasks_of(service).filter(|task| task.node.is_some()).cloned().collect::<Vec<_>>();
    let sources =
        stream::iter(tasks).map(|task| fetch(&member, &cluster, task, &wanted)).buffer_unordered(16);
    let sources: Vec<_> = sources.map(|source| Box::pin(source.peekable())).collect().await;
    Ok(lines(merge(sources)))
}

/// The lines of a task, or one line that says why there are none.
async fn fetch(
    member: &Member,
    cluster: &Cluster,
    task: Arc<Task>,
    wanted: &Wanted,
) -> BoxStream<'static, LogLine> {
    let Some(node) = task.node.and_then(|id| cluster.nodes.get(&id)) else {
        return stream::empty().boxed();
    };
    let found = if node.id == member.node {
        here(member, task.id, wanted).map(StreamExt::boxed)
    } else {
        let peer = Peer { node: node.id, addr: node.info.control };
        ask(member, peer, task.id, wanted).await.map(StreamExt::boxed)
    };
    found.unwrap_or_else(|refusal| {
        let service = cluster.services.get(&task.service);
        let source = service.map_or_else(String::new, |service| service.full_name());
        let line = LogLine {
            task: task.id,
            source: format!("{source}.{}", task.slot.number()),
            hostname: node.info.hostname.clone(),
            stderr: true,
            at_nanos: 0,
            line: format!("(no lines of this task: {refusal})"),
        };
        stream::once(async { line }).boxed()
    })
}

/// The lines of a task of this node; what the engine does not give is left out.
fn here(
    member: &Member,
    task: TaskId,
    wanted: &Wanted,
) -> Result<impl Stream<Item = LogLine> + use<>, Refusal> {
    let lines = member.agent.logs(task, wanted.options())?;
    Ok(lines.filter_map(move |line| async move {
        line.inspect_err(|error| debug!(%task, %error, "a line of a log is missing")).ok()
    }))
}

async fn ask(
    member: &Member,
    node: Peer,
    task: TaskId,
    wanted: &Wanted,
) -> Result<impl Stream<Item = LogLine> + use<>, Refusal> {
    let broken =
        |error: &dyn std::fmt::Display| Refusal::new(Code::Internal, format!("asking for logs: {error}"));
    let request = Request::get(format!("/raftup/v1/tasks/{task}/logs?{}", wanted.query()))
        .body(Body::empty())
        .map_err(|error| broken(&error))?;
    let answer = forward::send(member, node, request).await?;
    if !answer.status().is_success() {
        let body =
            axum::body::to_bytes(answer.into_body(), LINE_MAX).await.map_err(|error| broken(&error))?;
        return Err(serde_json::from_slice(&body).unwrap_or_else(|error| broken(&error)));
    }
    let bytes = answer.into_body().into_data_stream().map(|chunk| chunk.map_err(std::io::Error::other));
    let codec = tokio_util::codec::LinesCodec::new_with_max_length(LINE_MAX);
    let lines = tokio_util::codec::FramedRead::new(StreamReader::new(bytes), codec);
    Ok(lines.filter_map(|line| async move { serde_json::from_str(&line.ok()?).ok() }))
}

/// Merges streams that are each in order of time.
fn merge(
    sources: Vec<std::pin::Pin<Box<Peekable<BoxStream<'static, LogLine>>>>>,
) -> impl Stream<Item = LogLine> {
    stream::unfold(sources, |mut sources| async move {
        let mut earliest: Option<(usize, i64)> = None;
        for (index, source) in sources.iter_mut().enumerate() {
            if let Some(line) = source.as_mut().peek().await
                && earliest.is_none_or(|(_, at)| line.at_nanos < at)
            {
                earliest = Some((index, line.at_nanos));
            }
        }
        let line = sources[earliest?.0].next().await?;
        Some((line, sources))
    })
}

/// Lines as they come, of tasks that are there and of those that are started later.
fn follow(
    manager: Box<Manager>,
    member: Arc<Member>,
    service: ServiceId,
    wanted: Wanted,
) -> impl Stream<Item = LogLine> {
    let revision = manager.store.watch();
    let state = Following {
        manager,
        member,
        service,
        wanted,
        revision,
        seen: BTreeSet::new(),
        sources: SelectAll::new(),
    };
    stream::unfold(state, |mut state| async move {
        loop {
            state.revision.mark_unchanged();
            let cluster = state.manager.store.snapshot();
            state.open_new(&cluster).await;
            if !cluster.services.contains_key(&state.service) && state.sources.is_empty() {
                return None;
            }
            // `next` on a set of streams and `changed` on a watch channel lose nothing when dropped.
            tokio::select! {
                Some(line) = state.sources.next() => return Some((line, state)),
                changed = state.revision.changed() => changed.ok()?,
            }
        }
    })
}

struct Following {
    manager: Box<Manager>,
    member: Arc<Member>,
    service: ServiceId,
    wanted: Wanted,
    revision: tokio::sync::watch::Receiver<raftup_proto::view::Revision>,
    seen: BTreeSet<TaskId>,
    sources: SelectAll<BoxStream<'static, LogLine>>,
}

impl Following {
    async fn open_new(&mut self, cluster: &Cluster) {
        let started = |task: &&Arc<Task>| task.node.is_some() && task.status.container.is_some();
        let new: Vec<_> = cluster
            .tasks_of(self.service)
            .filter(started)
            .filter(|task| self.seen.insert(task.id))
            .cloned()
            .collect();
        for task in new {
            self.sources.push(fetch(&self.member, cluster, task, &self.wanted).await);
        }
    }
}
