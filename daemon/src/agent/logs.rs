//! What a task of this node writes.

use std::sync::Arc;

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use raftup_proto::{
    api::LogLine,
    id::TaskId,
    refusal::{Code, Refusal},
    unit::UnixMillis,
    view::View,
};
use tokio::sync::watch;

use crate::engine::{Engine, EngineError, LogOptions, LogPart};

/// The lines of a task of this node, oldest first. With `follow` the stream goes on until the container ends, over
/// an engine that goes away and comes back. Errors: the task is not here; later, what the engine says.
pub(super) fn logs(
    engine: Arc<dyn Engine>,
    up: watch::Receiver<bool>,
    view: &View,
    hostname: String,
    (task, container): (TaskId, Option<String>),
    options: LogOptions,
) -> Result<BoxStream<'static, Result<LogLine, Refusal>>, Refusal> {
    let item = view.tasks().find(|item| item.task == task);
    let none = || Refusal::new(Code::NotFound, format!("task {task} is not on node {hostname}"));
    let item = item.ok_or_else(none)?.clone();
    let source = format!("{}_{}.{}", item.stack, item.name, item.slot);
    let container = container.unwrap_or_else(|| item.container_name());
    let reader =
        Reader { engine, up, container, options, last_nanos: i64::MIN, skip_before: i64::MIN, open: None };
    let parts = stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) });
    let lines = parts.map(move |part| {
        part.map(|LogPart { stderr, at_nanos, line }| LogLine {
            task,
            source: source.clone(),
            hostname: hostname.clone(),
            stderr,
            at_nanos,
            line,
        })
        .map_err(|error| match error {
            EngineError::NotFound { .. } => {
                Refusal::new(Code::NotFound, format!("task {task} has no container"))
            }
            error @ (EngineError::Down { .. }
            | EngineError::Conflict { .. }
            | EngineError::Refused { .. }) => {
                Refusal::new(Code::Unavailable, format!("logs of task {task} cannot be read: {error}"))
            }
        })
    });
    Ok(lines.boxed())
}

struct Reader {
    engine: Arc<dyn Engine>,
    up: watch::Receiver<bool>,
    container: String,
    options: LogOptions,
    last_nanos: i64,
    /// Older lines were handed out before the engine went away.
    skip_before: i64,
    open: Option<BoxStream<'static, Result<LogPart, EngineError>>>,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<LogPart, EngineError>> {
        loop {
            let open = self.open.get_or_insert_with(|| self.engine.logs(&self.container, self.options));
            match open.next().await? {
                Ok(part) if part.at_nanos < self.skip_before => {}
                Ok(part) => {
                    self.last_nanos = part.at_nanos;
                    return Some(Ok(part));
                }
                Err(error) if error.is_down() && self.options.follow => {
                    self.open = None;
                    if self.last_nanos > i64::MIN {
                        // The engine takes whole seconds: what it says again is skipped.
                        self.skip_before = self.last_nanos.saturating_add(1);
                        let millis = u64::try_from(self.last_nanos / 1_000_000).unwrap_or_default();
                        self.options =
                            LogOptions { since: Some(UnixMillis(millis)), tail: None, ..self.options };
                    }
                    tokio::time::sleep(super::follow::RETRY).await;
                    self.up.wait_for(|up| *up).await.ok()?;
                }
                Err(error) => {
                    return Some(Err(error));
                }
            }
        }
    }
}
