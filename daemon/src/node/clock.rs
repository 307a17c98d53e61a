//! Jumps of this host's wall clock.
//!
//! Owns: noticing them, by the monotonic clock, which never jumps. Leaves alone: how far the clocks of two nodes differ
//! (`doctor`). Holds: only jumps of the last hour are remembered.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use raftup_proto::unit::UnixMillis;

use crate::net::ca;

/// How often the two clocks are compared.
pub(super) const EVERY: Duration = Duration::from_secs(30);

/// A smaller difference is no jump: programs that keep the clock change its speed, not its value.
const JUMP_MS: i64 = 2_000;

/// How long a jump is remembered, and how many of them mean that something keeps setting the clock.
const REMEMBERED: Duration = Duration::from_secs(3600);
const REPEATED: usize = 2;

/// Jumps that are remembered at most.
const MOST: usize = 16;

/// A jump: how far, forward if positive, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Jump {
    pub(super) by_ms: i64,
    at: Instant,
}

impl Jump {
    /// How far and which way.
    pub(super) fn text(self) -> String {
        let way = if self.by_ms < 0 { "back" } else { "forward" };
        let apart = Duration::from_millis(self.by_ms.unsigned_abs());
        format!("{way} by {:.1} s", apart.as_secs_f64())
    }
}

#[derive(Debug, Default)]
struct Seen {
    last: Option<(Instant, UnixMillis)>,
    jumps: Vec<Jump>,
}

/// The wall clock beside the monotonic one.
#[derive(Debug, Default)]
pub(super) struct Clock {
    seen: Mutex<Seen>,
}

impl Clock {
    /// Compares the clocks now. Answers the jumps of the last hour, oldest first.
    pub(super) fn look(&self) -> Vec<Jump> {
        self.look_at(Instant::now(), ca::now())
    }

    /// Why someone should look at the clock, if it is set again and again.
    pub(super) fn problem(&self) -> Option<String> {
        let jumps = self.look();
        let last = jumps.last().filter(|_| jumps.len() >= REPEATED)?;
        Some(format!(
            "the clock of this server was set {} times within an hour, last {}: keep it with one program (`timedatectl`)",
            jumps.len(),
            last.text()
        ))
    }

    fn look_at(&self, now: Instant, wall: UnixMillis) -> Vec<Jump> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, wall_then)) = seen.last {
            let millis = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let passed = i64::try_from(now.duration_since(then).as_millis()).unwrap_or(i64::MAX);
            let by_ms = millis(wall.0).saturating_sub(millis(wall_then.0)).saturating_sub(passed);
            if by_ms.abs() >= JUMP_MS {
                seen.jumps.push(Jump { by_ms, at: now });
            }
        }
        seen.last = Some((now, wall));
        seen.jumps.retain(|jump| now.duration_since(jump.at) < REMEMBERED);
        let more = seen.jumps.len().saturating_sub(MOST);
        seen.jumps.drain(..more);
        seen.jumps.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_told_from_time_that_passed() {
        let clock = Clock::default();
        let begun = Instant::now();
        let look = |after_s: u64, wall_ms: u64| {
            clock.look_at(begun + Duration::from_secs(after_s), UnixMillis(wall_ms))
        };
        assert_eq!(look(0, 1_000_000), []);
        assert_eq!(look(30, 1_031_000), [], "a second more than passed");
        let jumps = look(60, 1_241_000);
        assert_eq!(jumps[0].text(), "forward by 180.0 s");
        assert_eq!(look(90, 1_091_000)[1].text(), "back by 180.0 s");
        assert_eq!(look(3_900, 4_901_000).len(), 0, "after an hour they are forgotten");
    }
}
