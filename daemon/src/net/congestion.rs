//! Congestion control of the connections between nodes: by delivery rate and round trip, not by loss.
//!
//! Owns: how many bytes may be in flight. Leaves alone: pacing and retransmission, which QUIC does.
//! Holds: twice what the link carries in a round trip is in flight at most, so no queue on the way grows beyond one round trip;
//! a lost packet alone changes nothing, a fifth of all packets lost does.
//!
//! Source: the model of BBR ("BBR: Congestion-Based Congestion Control", 2016). Quinn's own BBR takes lost packets for a full
//! queue: with 5 % lost and a round trip of 200 ms it sent 37 KB/s on a link that carries ten times that.

use std::{
    any::Any,
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Bytes in flight at first, in packets.
const INITIAL: u64 = 12;

/// Fewest bytes in flight, in packets: so many are needed to notice a loss without a timer.
const LEAST: u64 = 4;

/// Most bytes in flight.
const MOST: u64 = 16 << 20;

/// What may be in flight, of what the link carries in a round trip.
const GAIN: f64 = 2.0;

/// Added to the round trip: acknowledgements are collected for as long, and small round trips would leave the link idle.
const SLACK: Duration = Duration::from_millis(10);

/// Rounds whose highest rate counts.
const ROUNDS: usize = 10;

/// A lowest round trip that is older is measured again.
const STALE: Duration = Duration::from_secs(10);

/// How long less is in flight for that, beside a round trip.
const DRAIN: Duration = Duration::from_millis(100);

/// At the start the window doubles each round until the rate grows by less than this.
const GROWTH: f64 = 1.25;

/// More than this part lost in a round means that the link carries less than it did.
const TOO_MUCH_LOST: f64 = 0.2;

/// Makes a [`Steady`] for each connection.
#[derive(Debug, Default)]
pub(super) struct SteadyConfig;

impl ControllerFactory for SteadyConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Steady::new(now, u64::from(current_mtu)))
    }
}

/// What was acknowledged since a moment, for about one round trip.
#[derive(Clone, Copy, Debug)]
struct Round {
    begun: Instant,
    acked: u64,
    lost: u64,
    /// There was less to send than the window allowed.
    limited: bool,
    /// Every round trip in it was much longer than the lowest.
    queued: bool,
}

impl Round {
    fn new(begun: Instant) -> Self {
        Self { begun, acked: 0, lost: 0, limited: false, queued: true }
    }
}

/// The controller of one connection.
#[derive(Clone, Debug)]
struct Steady {
    mtu: u64,
    window: u64,
    /// The lowest round trip, and when it was seen.
    lowest: Option<(Duration, Instant)>,
    round: Round,
    /// Rates of the last rounds, in bytes a second.
    rates: VecDeque<f64>,
    /// The window still doubles; the highest rate so far.
    starting: Option<f64>,
    /// The window is small until then, to see the round trip without a queue.
    draining: Option<Instant>,
}

impl Steady {
    fn new(now: Instant, mtu: u64) -> Self {
        Self {
            mtu,
            window: INITIAL * mtu,
            lowest: None,
            round: Round::new(now),
            rates: VecDeque::new(),
            starting: Some(0.0),
            draining: None,
        }
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn see(&mut self, trip: Duration, now: Instant) {
        let (lowest, seen) = self.lowest.unwrap_or((trip, now));
        let stale = now.duration_since(seen) > STALE;
        if trip <= lowest || (stale && self.draining.is_some()) {
            self.lowest = Some((trip, now));
        } else if stale {
            self.draining = Some(now + DRAIN + trip);
        }
        if trip < lowest * 3 / 2 + SLACK {
            self.round.queued = false;
        }
        if self.draining.is_some_and(|until| now >= until) {
            self.draining = None;
        }
    }

    fn end_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::new(now));
        let elapsed = now.duration_since(round.begun).as_secs_f64();
        let rate = round.acked as f64 / elapsed.max(1e-6);
        if round.lost as f64 > TOO_MUCH_LOST * (round.lost + round.acked) as f64
            && round.lost > LEAST * self.mtu
        {
            self.rates.clear();
            self.starting = None;
        }
        // A round with little to send, or a small window, says nothing of what the link carries, unless that is more.
        if (!round.limited && self.draining.is_none()) || rate > self.rate() {
            self.rates.push_back(rate);
            if self.rates.len() > ROUNDS {
                self.rates.pop_front();
            }
        }
        if let Some(best) = self.starting
            && !round.limited
        {
            let grows = rate > best * GROWTH;
            self.starting = (grows && !round.queued).then_some(rate.max(best));
        }
    }

    fn update(&mut self) {
        let least = LEAST * self.mtu;
        let Some((lowest, _)) = self.lowest else { return };
        let carried = self.rate() * (lowest + SLACK).as_secs_f64();
        if self.draining.is_some() {
            self.window = (carried / 2.0) as u64;
        } else if self.starting.is_some() {
            self.window = self.window.max(INITIAL * self.mtu);
        } else {
            self.window = (carried * GAIN) as u64;
        }
        self.window = self.window.clamp(least, MOST);
    }
}

impl Controller for Steady {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _: &RttEstimator) {
        self.see(now.saturating_duration_since(sent), now);
        self.round.acked += bytes;
        self.round.limited |= app_limited;
        if self.starting.is_some() && !app_limited {
            self.window += bytes;
        }
    }

    fn on_end_acks(&mut self, now: Instant, _: u64, _: bool, _: Option<u64>) {
        let trip = self.lowest.map_or(Duration::ZERO, |(lowest, _)| lowest);
        if now.saturating_duration_since(self.round.begun) >= trip.max(SLACK) {
            self.end_round(now);
        }
        self.update();
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.round.lost += lost_bytes;
        if is_persistent_congestion {
            // Nothing gets through: what the link carried is history.
            *self = Self { window: LEAST * self.mtu, lowest: self.lowest, ..Self::new(now, self.mtu) };
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(LEAST * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
