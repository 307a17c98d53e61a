//! Answers that keep coming: one JSON value a line.

use std::{collections::VecDeque, marker::PhantomData};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use raftup_proto::refusal::{Code, Refusal};
use serde::de::DeserializeOwned;

/// Longest line, in bytes: the progress of thousands of services.
const LINE_MAX: usize = 16 << 20;

/// The values of a stream, in order.
pub(crate) struct Lines<T> {
    body: Incoming,
    /// Whole lines that have come and were not asked for yet.
    ready: VecDeque<Vec<u8>>,
    /// The beginning of the next line.
    rest: Vec<u8>,
    values: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, ready: VecDeque::new(), rest: Vec::new(), values: PhantomData }
    }

    /// The next value; none at the end. Errors: the connection broke, or what came is no such value.
    ///
    /// Cancel-safe: what has arrived is kept.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Refusal> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return serde_json::from_slice(&line).map(Some).map_err(|error| unreadable(&error));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(broken_off()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.take(&data)?;
                    }
                }
            }
        }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Refusal> {
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.len() > LINE_MAX {
                return Err(unreadable(&"a line without an end"));
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.rest);
                if !line.trim_ascii().is_empty() {
                    self.ready.push_back(line);
                }
            }
        }
        Ok(())
    }
}

fn broken_off() -> Refusal {
    Refusal::new(Code::Unavailable, "the connection broke: raftupd ended here, or on the node that leads")
        .hint("`systemctl status raftupd` shows whether it runs here, `raftup node ls` who leads")
}

fn unreadable(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, format!("what raftupd sends cannot be read: {error}"))
        .hint("`raftup --version` and `raftupd --version` should be the same")
}
