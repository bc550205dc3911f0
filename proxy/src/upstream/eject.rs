//! Leaves out endpoints that fail request after request, for a while: decided in the background from what all workers met.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::{UpstreamSpec, UpstreamState, event::Event};

/// Who is out, and how often it was. Lives as long as the upstream's settings.
#[derive(Debug, Default)]
pub(super) struct Ejections(HashMap<SocketAddr, Ejected>);

#[derive(Debug)]
struct Ejected {
    /// In turn again from then on.
    until: Instant,
    /// How often without a quiet time in between.
    times: u32,
    is_out: bool,
}

/// Each time it is out for longer, up to so many times as long.
const MOST_TIMES: u32 = 10;

// === impl Ejections ===

impl Ejections {
    /// One tick.
    pub(super) fn decide(&mut self, spec: &UpstreamSpec, state: &UpstreamState, now: Instant) {
        let Some(rules) = &spec.ejection else { return };
        let endpoints = state.endpoints();
        self.0.retain(|address, _| endpoints.iter().any(|endpoint| endpoint.address == *address));
        let mut out = self.0.values().filter(|ejected| ejected.is_out).count();
        for endpoint in endpoints.iter() {
            match self.0.get_mut(&endpoint.address) {
                Some(ejected) if ejected.is_out => {
                    if now < ejected.until {
                        continue;
                    }
                    ejected.is_out = false;
                    out -= 1;
                    endpoint.set_ejected(false, !spec.slow_start.is_zero());
                    state.changed();
                    Event::Returned(&endpoint.authority).tell(&spec.name, &state.events);
                }
                // It behaved for as long as it was out: what was is forgotten.
                Some(ejected) if now >= ejected.until + rules.time * ejected.times.min(MOST_TIMES) => {
                    self.0.remove(&endpoint.address);
                }
                _ => {}
            }
            let errors = endpoint.errors();
            let share = f64::from(u32::try_from(out + 1).unwrap_or(u32::MAX)) * 100.0;
            let most = rules.at_most_percent.percent() * f64::from(u32::try_from(endpoints.len()).unwrap_or(u32::MAX));
            if errors < rules.after || share > most {
                continue;
            }
            let times = self.0.get(&endpoint.address).map_or(0, |ejected| ejected.times) + 1;
            let until = now + (rules.time * times.min(MOST_TIMES)).max(Duration::from_millis(1));
            self.0.insert(endpoint.address, Ejected { until, times, is_out: true });
            out += 1;
            endpoint.set_ejected(true, false);
            state.changed();
            Event::Ejected(&endpoint.authority, errors).tell(&spec.name, &state.events);
        }
    }
}
