//! How often something may happen, in all or for each key; pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// So many events at once, and one more after each interval. Source: the generic cell rate algorithm (ITU-T I.371).
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Events that may come at once.
    pub burst: u32,
    /// Time after which one more may come.
    pub interval: Duration,
}

/// How much of a rate is used up: when all of it is free again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used(Option<Instant>);

impl Rate {
    /// Whether one more event may come now.
    pub fn allows(self, used: Used, now: Instant) -> bool {
        let free = used.0.map_or(Duration::ZERO, |free| free.saturating_duration_since(now));
        free + self.interval <= self.interval * self.burst
    }

    /// Counts an event if it may come now.
    pub fn take(self, used: &mut Used, now: Instant) -> bool {
        let allowed = self.allows(*used, now);
        if allowed {
            used.0 = Some(used.0.map_or(now, |free| free.max(now)) + self.interval);
        }
        allowed
    }
}

impl Used {
    /// No event of before counts any more.
    pub fn is_free(self, now: Instant) -> bool {
        self.0.is_none_or(|free| free <= now)
    }
}

/// A rate for each key. Keys without a recent event take no memory for long.
#[derive(Debug)]
pub struct Rates<K> {
    rate: Rate,
    /// Keys from which on those without a recent event are dropped.
    many: usize,
    used: BTreeMap<K, Used>,
}

impl<K: Ord> Rates<K> {
    /// No events yet. At most `many` keys are remembered at a time; with more, all events of new keys are refused.
    pub fn new(rate: Rate, many: usize) -> Self {
        Self { rate, many, used: BTreeMap::new() }
    }

    /// Counts an event of the key if it may come now.
    pub fn take(&mut self, key: K, now: Instant) -> bool {
        if self.used.len() >= self.many {
            self.used.retain(|_, used| !used.is_free(now));
            if self.used.len() >= self.many && !self.used.contains_key(&key) {
                return false;
            }
        }
        self.rate.take(self.used.entry(key).or_default(), now)
    }
}

/// Counts events of which only some are logged.
#[derive(Debug)]
pub struct Unlogged {
    rate: Rate,
    used: Used,
    count: u64,
}

impl Unlogged {
    /// Logs at most as often as `rate` allows.
    pub fn new(rate: Rate) -> Self {
        Self { rate, used: Used::default(), count: 0 }
    }

    /// Counts an event. If a line may be logged now: how many events it is about, this one included.
    pub fn note(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        self.rate.take(&mut self.used, now).then(|| std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, interval: Duration::from_secs(1) };

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let (mut used, start) = (Used::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let taken =
            [0, 0, 0, 0, 999, 1000, 1000, 5000, 5000, 5000, 5000].map(|ms| RATE.take(&mut used, at(ms)));
        assert_eq!(taken, [true, true, true, false, false, true, false, true, true, true, false]);
        assert!(!used.is_free(at(7999)));
        assert!(used.is_free(at(8000)));
    }

    #[test]
    fn keys_are_apart_and_forgotten() {
        let (mut rates, start) = (Rates::new(RATE, 2), Instant::now());
        assert!([1, 1, 1, 2].into_iter().all(|key| rates.take(key, start)));
        assert!(!rates.take(1, start), "its burst is used up");
        assert!(!rates.take(3, start), "too many keys");
        assert!(rates.take(3, start + Duration::from_secs(1)), "2 is forgotten");
        assert_eq!(rates.used.len(), 2);
    }

    #[test]
    fn what_is_not_logged_is_counted() {
        let mut log = Unlogged::new(Rate { burst: 1, interval: Duration::from_secs(60) });
        let start = Instant::now();
        assert_eq!(log.note(start), Some(1));
        assert!((0..99).all(|_| log.note(start).is_none()));
        assert_eq!(log.note(start + Duration::from_secs(60)), Some(100));
    }
}
