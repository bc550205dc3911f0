//! How many requests an upstream can take at once, found from how long it takes: at a peak it is kept at the load that it can serve.
//!
//! A gradient, as in Netflix' concurrency-limits (`GradientLimit`) and Envoy's adaptive concurrency filter: the limit is multiplied by how much
//! longer answers take than at little load, and some room is added so that it can grow. The time at little load is what the best window of the
//! recent past had; from time to time, while the limit is pressed, a few windows at a quarter of it measure it anew. Neither a hard-coded time nor
//! a number of requests must be known beforehand.

use std::time::Duration;

use tokio::time::Instant;

use super::Sum;
use crate::config;

/// Finds the limit. Lives as long as the upstream's settings.
#[derive(Debug)]
pub(super) struct Gradient {
    rules: config::Adaptive,
    /// The limit, not rounded.
    limit: f64,
    /// Seconds to an answer's head at little load.
    base: Option<f64>,
    last: Sum,
    /// What was counted since the present window began: it is closed when it has enough.
    window: Sum,
    ticks: u32,
    /// Most that were under way or waited in the window.
    pressed: usize,
    probe: Probe,
}

/// Measuring the time at little load.
#[derive(Debug)]
enum Probe {
    /// The next one is due then, if the limit is pressed.
    At(Instant),
    /// Until the old load is gone: nothing is measured.
    Drains(Instant),
    /// Measures, and ends then at the latest.
    Measures(Instant),
}

/// A window says something from so many answers on; after so many ticks it is closed whatever it has.
const ANSWERS: u64 = 10;
const TICKS: u32 = 10;
/// How much of a window's verdict is taken over at once: the rest of the noise is smoothed away.
const SMOOTHING: f64 = 0.3;
/// Of the square root of the limit, once answers take longer.
const LITTLE_ROOM: f64 = 0.15;
/// A single window at most halves it.
const LEAST_GRADIENT: f64 = 0.5;
/// A probe runs at this share of the limit.
const PROBE_SHARE: f64 = 0.25;
const PROBE_EVERY: Duration = Duration::from_secs(60);
/// After one that found a much shorter time: there may be a shorter one still.
const PROBE_AGAIN: Duration = Duration::from_secs(2);
/// A time is much shorter from here on.
const NEWS: f64 = 0.9;
/// The first one, after the limit was first pressed.
const FIRST_PROBE: Duration = Duration::from_millis(500);
const PROBE_DRAINS: Duration = Duration::from_millis(200);
const PROBE_MEASURES: Duration = Duration::from_millis(500);

// === impl Gradient ===

impl Gradient {
    pub(super) fn new(rules: config::Adaptive, seen: Sum, now: Instant) -> Self {
        let limit = size(rules.start.min(rules.max).max(rules.min));
        let probe = Probe::At(now + FIRST_PROBE);
        Self { rules, limit, base: None, last: seen, window: Sum::default(), ticks: 0, pressed: 0, probe }
    }

    /// One tick: `seen` is all that was ever counted, `busy` who is under way and waits. Gives the limit that holds from now on.
    pub(super) fn decide(&mut self, seen: Sum, busy: usize, now: Instant) -> usize {
        let tick = seen.since(self.last);
        self.last = seen;
        self.window.timed += tick.timed;
        self.window.micros += tick.micros;
        self.window.lost += tick.lost;
        self.pressed = self.pressed.max(busy);
        self.ticks += 1;
        let is_full = self.window.timed >= ANSWERS || self.ticks >= TICKS;
        match self.probe {
            Probe::At(due) => {
                if is_full {
                    let window = self.close();
                    if self.judge(&window) {
                        self.probe = Probe::At(due.max(now + PROBE_EVERY));
                    }
                }
                if let Probe::At(due) = self.probe
                    && now >= due
                    && busy * 2 >= self.rounded()
                {
                    self.probe = Probe::Drains(now + PROBE_DRAINS);
                }
            }
            Probe::Drains(until) => {
                // What was begun under the old limit has been answered; answers from now on are the probe's.
                if now >= until {
                    self.close();
                    self.probe = Probe::Measures(now + PROBE_MEASURES);
                }
            }
            Probe::Measures(until) => {
                if self.window.timed >= ANSWERS || now >= until {
                    let mut is_news = false;
                    if let Some(time) = self.close().time {
                        is_news = self.base.is_none_or(|base| time < base * NEWS);
                        self.base = Some(time);
                    }
                    self.probe = Probe::At(now + if is_news { PROBE_AGAIN } else { PROBE_EVERY });
                }
            }
        }
        match self.probe {
            Probe::At(_) => self.rounded(),
            Probe::Drains(_) | Probe::Measures(_) => rounded(self.limit * PROBE_SHARE).max(self.rules.min),
        }
    }

    /// Says whether the window was one at little load, by itself.
    fn judge(&mut self, window: &Window) -> bool {
        let Some(time) = window.time else { return false };
        // Who does not use half of it says nothing about what lies beyond, and all about the time at little load.
        if size(window.pressed) < self.limit / 2.0 {
            self.base = Some(self.base.map_or(time, |base| time.min(base + (time - base) * SMOOTHING)));
            return true;
        }
        let base = self.base.map_or(time, |base| base.min(time));
        self.base = Some(base);
        let mut gradient = (self.rules.tolerance * base / time).clamp(LEAST_GRADIENT, 1.0);
        if window.is_losing {
            gradient = LEAST_GRADIENT;
        }
        // Room to grow, where it is wanted: much while answers come as fast as ever, little once they do not.
        let room = match gradient < 1.0 {
            _ if window.pressed < self.rounded() => 0.0,
            true => self.limit.sqrt() * LITTLE_ROOM,
            false => self.limit.sqrt(),
        };
        let wanted = self.limit * gradient + room;
        let limit = self.limit + (wanted - self.limit) * SMOOTHING;
        self.limit = limit.clamp(size(self.rules.min), size(self.rules.max));
        false
    }

    /// Ends the window.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a second")]
    fn close(&mut self) -> Window {
        let Sum { timed, micros, lost, .. } = std::mem::take(&mut self.window);
        self.ticks = 0;
        Window {
            time: (timed > 0).then(|| micros as f64 / timed as f64 / 1e6),
            pressed: std::mem::take(&mut self.pressed),
            is_losing: lost * 10 > timed,
        }
    }

    fn rounded(&self) -> usize {
        rounded(self.limit)
    }
}

/// What a window showed.
struct Window {
    /// Mean seconds to the head of an answer.
    time: Option<f64>,
    pressed: usize,
    /// More than a tenth of the requests got no answer.
    is_losing: bool,
}

#[expect(clippy::cast_precision_loss, reason = "a number of requests")]
fn size(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a number of requests")]
fn rounded(limit: f64) -> usize {
    limit.round() as usize
}

#[cfg(test)]
mod tests {
    use super::{super::warden::TICK, *};

    /// An upstream that serves up to `best` at once in the same time, and takes the longer the more it has beyond that: its throughput falls.
    struct Upstream {
        best: f64,
        time: f64,
        seen: Sum,
        served: f64,
    }

    impl Upstream {
        /// One tick with so many under way all the time.
        fn serve(&mut self, busy: f64) {
            let over = (busy / self.best).max(1.0);
            let time = self.time * over * over;
            self.served += busy / time * TICK.as_secs_f64();
            let answers = self.served as u64 - self.seen.timed;
            self.seen.timed += answers;
            self.seen.micros += (time * 1e6) as u64 * answers;
        }
    }

    /// Throughput against the best, in percent, after it has settled; and the limit.
    fn run(best: f64, time: f64, offered: usize, start: usize) -> (f64, usize) {
        let rules: config::Adaptive = serde_json::from_value(serde_json::json!({ "start": start })).unwrap();
        let mut now = Instant::now();
        let mut upstream = Upstream { best, time, seen: Sum::default(), served: 0.0 };
        let mut gradient = Gradient::new(rules, Sum::default(), now);
        let (mut limit, mut settled) = (start, 0.0);
        for tick in 0..1200 {
            upstream.serve(size(limit.min(offered)));
            limit = gradient.decide(upstream.seen, offered, now);
            now += TICK;
            if tick == 300 {
                settled = upstream.served;
            }
        }
        let possible = best / time * 900.0 * TICK.as_secs_f64();
        ((upstream.served - settled) * 100.0 / possible, limit)
    }

    #[test]
    fn an_upstream_that_collapses_keeps_nine_tenths_of_its_best() {
        for (best, time, start) in
            [(20.0, 0.02, 20), (20.0, 0.02, 100), (8.0, 0.005, 20), (100.0, 0.1, 20), (40.0, 0.01, 5)]
        {
            let (percent, limit) = run(best, time, 3 * best as usize, start);
            assert!(percent >= 90.0, "{percent:.1} % at {limit}, best at {best}");
        }
    }

    #[test]
    fn who_is_not_pressed_keeps_its_limit() {
        let (_, limit) = run(50.0, 0.01, 4, 20);
        assert!(limit >= 20, "{limit}");
    }
}
