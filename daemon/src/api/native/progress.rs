//! How far a change has come, line by line as it moves.

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::Query,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::Stream;
use raftup_proto::{
    api::{AskedVersion, Outcome, Progress},
    refusal::{Code, Refusal},
    view::Revision,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::{
    api::{Manager, refuse::Refused},
    compute,
    control::{Edition, Interest},
    model::Cluster,
    plan::{
        find,
        progress::{Asked, Selector, progress},
    },
};

/// A node that does not say that it leads to the new tasks is waited for so long; it says itself what is wrong.
const IN_FORCE_LIMIT: Duration = Duration::from_secs(10);

/// A leader's loops begin so soon after it leads.
const REIGN_LIMIT: Duration = Duration::from_secs(2);

/// What is followed.
#[derive(Deserialize)]
pub(in crate::api) struct Follow {
    stack: Option<String>,
    service: Option<String>,
    node: Option<String>,
    #[serde(default)]
    revision: Revision,
    /// The versions that were asked for, as `ID:NUMBER,..`.
    #[serde(default)]
    versions: String,
}

/// Answers with the state now, then each that differs, until one is final or the object is gone. Done is said when every
/// node leads to what runs.
pub(in crate::api) async fn follow(
    Extension(manager): Extension<Box<Manager>>,
    Query(follow): Query<Follow>,
) -> Result<Response, Refused> {
    let cluster = manager.store.read().await?;
    let asked = asked(&follow.versions)?;
    let subject = subject(&cluster, &follow)?;
    let edition = timeout_at(Instant::now() + REIGN_LIMIT, manager.control.edition()).await.ok().flatten();
    let edition = edition.ok_or_else(|| Refusal::new(Code::Unavailable, "this node does not lead"))?;
    // The loops may be a little behind what was read just now.
    let from = follow.revision.max(cluster.revision);
    let start = State { manager, edition, subject, asked, from, shown: None, done: None, over: false };
    Ok(lines(futures_util::stream::unfold(start, next)))
}

fn subject(cluster: &Cluster, follow: &Follow) -> Result<Selector, Refusal> {
    match (&follow.stack, &follow.service, &follow.node) {
        (_, Some(name), _) => Ok(Selector::Service(find::service(cluster, name)?.id)),
        (Some(name), None, _) => Ok(Selector::Stack(find::stack(cluster, name)?.id)),
        (None, None, Some(name)) => Ok(Selector::Node(find::node(cluster, name)?.id)),
        (None, None, None) => {
            let message = "progress is that of a `stack`, a `service` or a `node`; name one";
            Err(Refusal::new(Code::Invalid, message))
        }
    }
}

fn asked(versions: &str) -> Result<Asked, Refusal> {
    let parts = versions.split(',').filter(|part| !part.is_empty());
    let parse = |part: &str| part.parse().map_err(|error: String| Refusal::new(Code::Invalid, error));
    parts.map(|part| parse(part).map(|AskedVersion { service, number }| (service, number))).collect()
}

struct State {
    manager: Box<Manager>,
    edition: Edition,
    subject: Selector,
    asked: Asked,
    from: Revision,
    shown: Option<Progress>,
    /// All tasks are where they should be: since which revision, and until when routes to them are waited for.
    done: Option<(Revision, Instant)>,
    over: bool,
}

/// A leader that lost its place ends the stream; the caller asks again and is led to the new one.
async fn next(mut state: State) -> Option<(Progress, State)> {
    if state.over {
        return None;
    }
    loop {
        let world = state.edition.world();
        let at = world.cluster().revision;
        let mut interest = Interest::Everything;
        if at >= state.from {
            // What is gone has nothing left to wait for, unless something was to run.
            let outcome = match state.asked.is_empty() {
                true => Outcome::Done,
                false => Outcome::Failed { reason: "it was removed meanwhile".to_owned() },
            };
            let gone = Progress { services: Vec::new(), outcome };
            let now = compute::in_place(|| progress(&world, state.subject, &state.asked)).unwrap_or(gone);
            interest = interest_in(world.cluster(), state.subject);
            drop(world);
            let wait = match (&now.outcome, state.done) {
                (Outcome::Done, None) => Some((at, Instant::now() + IN_FORCE_LIMIT)),
                (Outcome::Done, known) => known,
                (Outcome::Running | Outcome::Failed { .. }, _) => None,
            };
            state.done = wait;
            if let Some((reached, until)) = wait {
                // Watches lose nothing when a wait on them is dropped.
                tokio::select! {
                    _ = timeout_at(until, state.manager.control.in_force(reached)) => {}
                    goes_on = state.edition.touched(&interest, at) => {
                        if goes_on { continue }
                        return None;
                    }
                }
            }
            if state.shown.as_ref() != Some(&now) {
                state.over = now.outcome != Outcome::Running;
                state.shown = Some(now.clone());
                return Some((now, state));
            }
        }
        if !state.edition.touched(&interest, at).await {
            return None;
        }
    }
}

/// What may change the progress of `subject`.
fn interest_in(cluster: &Cluster, subject: Selector) -> Interest {
    match subject {
        Selector::Stack(id) => {
            let own = cluster.services.values().filter(|service| service.stack == id);
            Interest::Services(Some(id), own.map(|service| service.id).collect())
        }
        Selector::Service(id) => Interest::Services(None, [id].into()),
        Selector::Node(_) => Interest::Everything,
    }
}

/// One JSON value a line.
pub(super) fn lines<T: Serialize + Send + 'static>(
    items: impl Stream<Item = T> + Send + 'static,
) -> Response {
    use futures_util::StreamExt;
    let bytes = items.filter_map(|item| async move {
        let mut line = serde_json::to_vec(&item).ok()?;
        line.push(b'\n');
        Some(Ok::<_, Infallible>(Bytes::from(line)))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(bytes)).into_response()
}
