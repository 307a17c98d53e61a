//! Waiting for a state, with a deadline and a reason.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How often a condition is looked at: small against every time that the lab measures.
const STEP: Duration = Duration::from_millis(20);

/// Asks `condition` until it answers `Some`, at most for `within`.
///
/// A condition that errs is asked again: what is being waited for may not be there yet. Errors: the time ran
/// out; the message has `what`, and the last error of the condition as its source.
pub fn wait_for<T>(
    within: Duration,
    what: &str,
    mut condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let last = match condition() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() >= within {
            let late = format!("no {what} within {within:?}");
            match last {
                Some(error) => return Err(error).context(late),
                None => bail!(late),
            }
        }
        std::thread::sleep(STEP);
    }
}
