//! How exactly this process's timers fire.
//!
//! Owns: the slack that the kernel has for them. Leaves alone: packets and events, which wake the process at once as ever.
//!
//! An idle daemon is woken by its own timers most of all. Where the kernel may fire them late, it fires several together,
//! or with whatever else wakes the process: half of the wakes. While things change, nothing waits for that.

use std::{num::NonZeroU64, time::Duration};

use tokio::{sync::watch, time::timeout};

/// While things change: less than anybody sees.
const PROMPT_NS: NonZeroU64 = NonZeroU64::new(1_000_000).unwrap();

/// While nothing does: far less than an idle cluster waits for anything, heartbeats and elections first.
const CALM_NS: NonZeroU64 = NonZeroU64::new(60_000_000).unwrap();

/// Nothing has changed for so long: it is calm.
const CALM_AFTER: Duration = Duration::from_secs(3);

/// Timers of the calling thread may be late, as those of the threads and processes that it starts later.
pub fn calm() {
    set(CALM_NS);
}

/// Has timers fire promptly while `changes` come, and calmly in between; promptly again when this ends.
///
/// For the runtime's only worker thread: the slack is a thread's own.
pub async fn follow<T>(mut changes: watch::Receiver<T>) {
    let _at_the_end = Prompt;
    loop {
        set(PROMPT_NS);
        while let Ok(changed) = timeout(CALM_AFTER, changes.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        calm();
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Whoever ends while it is calm leaves the next one prompt.
struct Prompt;

impl Drop for Prompt {
    fn drop(&mut self) {
        set(PROMPT_NS);
    }
}

fn set(slack: NonZeroU64) {
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(slack)) {
        tracing::debug!(%error, "timers stay as they are");
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::current_timer_slack;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timers_are_prompt_while_things_change() {
        let slack = || current_timer_slack().unwrap();
        let (change, changes) = watch::channel(());
        let following = tokio::spawn(follow(changes));
        sleep(CALM_AFTER / 2).await;
        assert_eq!(slack(), PROMPT_NS.get());
        sleep(CALM_AFTER).await;
        assert_eq!(slack(), CALM_NS.get());
        change.send_replace(());
        sleep(CALM_AFTER / 2).await;
        assert_eq!(slack(), PROMPT_NS.get());
        sleep(CALM_AFTER).await;
        drop(change);
        following.await.unwrap();
        assert_eq!(slack(), PROMPT_NS.get());
    }
}
