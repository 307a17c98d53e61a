//! Commands that are run in a task's container: after its start (`post_start`), and before it is told to stop
//! (`pre_stop`).
//!
//! Owns: when they end, and what is said of them. Leaves alone: which step they are part of (`launch`).
//! Holds: those of the end take no longer than the grace period; a container that does not run is passed over.

use std::time::Duration;

use raftup_proto::spec::Hook;
use tokio::time::{Instant, timeout_at};

use super::launch::{Job, Launcher};
use crate::engine::{EngineError, Ran};

/// What came of hooks.
pub(super) enum Outcome {
    /// All were run.
    Done,
    /// The container does not run any more.
    Dead,
    /// One of them failed: why.
    Failed(String),
}

impl Launcher {
    /// Runs the hooks of the start, one after the other, up to the first that fails. The engine may go away meanwhile: the
    /// hook is then run again.
    pub(super) async fn post_start(
        &self,
        job: &Job,
        container: &str,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Outcome {
        for hook in &job.item.container.post_start {
            say(format!("runs {}", shown("post_start", hook)));
            let ran = self.answered(|| self.engine.exec(container, hook)).await;
            match judged("post_start", hook, ran) {
                Outcome::Done => {}
                outcome @ (Outcome::Dead | Outcome::Failed(_)) => return outcome,
            }
        }
        Outcome::Done
    }

    /// Runs the hooks of the end, as far as the grace period lasts. Answers what is left of it, where any were run, and what
    /// is to be said of them.
    pub(super) async fn pre_stop(&self, job: &Job, container: &str) -> (Option<Duration>, Option<String>) {
        let hooks = &job.item.container.pre_stop;
        if hooks.is_empty() {
            return (None, None);
        }
        let until = Instant::now() + job.grace;
        let mut said = None;
        for hook in hooks {
            let outcome = match timeout_at(until, self.engine.exec(container, hook)).await {
                Ok(ran) => judged("pre_stop", hook, ran),
                Err(_) => {
                    let why = format!("{} did not end within {:?}", shown("pre_stop", hook), job.grace);
                    Outcome::Failed(why)
                }
            };
            match outcome {
                Outcome::Done => {}
                Outcome::Dead => break,
                Outcome::Failed(why) => {
                    tracing::warn!(task = %job.task, "{why}");
                    said = Some(why);
                    break;
                }
            }
        }
        (Some(until.saturating_duration_since(Instant::now())), said)
    }
}

fn judged(kind: &str, hook: &Hook, ran: Result<Ran, EngineError>) -> Outcome {
    let name = shown(kind, hook);
    match ran {
        Ok(Ran { code: 0, .. }) => Outcome::Done,
        Ok(Ran { code, output }) if output.is_empty() => {
            Outcome::Failed(format!("{name} failed: exit status {code}"))
        }
        Ok(Ran { code, output }) => Outcome::Failed(format!("{name} failed: exit status {code}: {output}")),
        Err(EngineError::NotFound { .. } | EngineError::Conflict { .. }) => Outcome::Dead,
        Err(error) => Outcome::Failed(format!("{name} failed: {error}")),
    }
}

/// Most letters of a hook's command that a message shows.
const SHOWN: usize = 60;

fn shown(kind: &str, hook: &Hook) -> String {
    let line = hook.command.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(SHOWN).collect();
    let dots = if short.len() < line.len() { ".." } else { "" };
    format!("{kind} hook `{short}{dots}`")
}
