//! Keeps the cluster's clock in the state, also while nothing else happens.
//!
//! A manager knows the clock from the newest entry and the time since it applied it. One that was restarted meanwhile does
//! not know that time, so the clock may stand still for it, for no longer than since the last entry.

use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use super::reign::Reign;

/// Longest time without an entry that has the clock.
const PERIOD: Duration = Duration::from_secs(600);

/// Ticks for as long as the reign lasts.
pub(super) async fn run(reign: &Reign) {
    loop {
        sleep(PERIOD).await;
        if let Err(error) = reign.store.tick(PERIOD).await {
            debug!(%error, "the clock was not noted");
        }
    }
}
