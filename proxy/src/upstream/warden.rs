//! Tends every upstream from the background runtime: what is decided once a process and not once a worker is decided here, every 100 ms, from
//! what the workers count.
//!
//! One task an upstream; one that panics is started again after a second and hurts no other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Sum, UpstreamSpec, UpstreamState,
    adaptive::Gradient,
    budget::Refill,
    circuit::{Breaker, CircuitState},
    eject::Ejections,
    event::Event,
    health::check,
    resolve::resolve,
};
use crate::listen::Shared;

/// Dropping it ends what it does.
pub(crate) struct Warden {
    _ends: DropGuard,
}

/// An upstream under its eye.
struct Ward {
    spec: Arc<UpstreamSpec>,
    task: AbortHandle,
}

/// How often everything is decided.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Who takes connections and answers nobody in so many ticks with requests is dead too; a reset or two may happen to the living.
const DEAD_TICKS: u32 = 5;
/// After a panic.
const PAUSE: Duration = Duration::from_secs(1);

// === impl Warden ===

impl Warden {
    pub(crate) fn start(background: &Handle, shared: Arc<Shared>) -> Self {
        let token = CancellationToken::new();
        background.spawn(token.clone().run_until_cancelled_owned(watch(shared)));
        Self { _ends: token.drop_guard() }
    }
}

/// Keeps one task for each upstream of the present config.
async fn watch(shared: Arc<Shared>) {
    let (mut tasks, mut wards) = (JoinSet::new(), BTreeMap::<String, Ward>::new());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let current = shared.current.load_full();
        wards.retain(|name, ward| {
            let is_kept = current.upstreams.iter().any(|spec| spec.name == *name && *spec == ward.spec);
            if !is_kept {
                ward.task.abort();
            }
            is_kept
        });
        for spec in &current.upstreams {
            if !wards.contains_key(&spec.name) {
                let state = shared.upstream_state(&spec.name);
                let task = tasks.spawn(tend(Arc::clone(spec), state));
                wards.insert(spec.name.clone(), Ward { spec: Arc::clone(spec), task });
            }
        }
        while let Some(ended) = tasks.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                tracing::error!("what tends an upstream panicked; it goes on in a second");
                tokio::time::sleep(PAUSE).await;
            }
        }
        wards.retain(|_, ward| !ward.task.is_finished());
    }
}

/// Everything about one upstream, until it is aborted.
async fn tend(spec: Arc<UpstreamSpec>, state: Arc<UpstreamState>) {
    let deciding = async {
        let mut decider = Decider::new(&spec, &state);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            decider.tick(&spec, &state);
        }
    };
    tokio::join!(resolve(Arc::clone(&spec), Arc::clone(&state)), check(&spec, &state), deciding);
}

/// What is decided every 100 ms, one after the other.
struct Decider {
    /// Ticks in a row in which something failed and nothing was answered; none between them was answered either.
    silent: u32,
    ejections: Ejections,
    breaker: Option<Breaker>,
    gradient: Option<Gradient>,
    refill: Refill,
}

// === impl Decider ===

impl Decider {
    fn new(spec: &UpstreamSpec, state: &UpstreamState) -> Self {
        let (seen, now) = (state.looked(), Instant::now());
        let adaptive = spec.limits.as_ref().and_then(|limits| {
            let rules = limits.adaptive()?.clone();
            Some(crate::config::Adaptive {
                max: limits.in_flight.unwrap_or(rules.max).min(rules.max).max(rules.min),
                ..rules
            })
        });
        Self {
            silent: 0,
            ejections: Ejections::default(),
            breaker: spec.circuit.clone().map(|rules| Breaker::new(rules, seen, now)),
            gradient: adaptive.map(|rules| Gradient::new(rules, seen, now)),
            refill: Refill::new(spec.retries.clone()),
        }
    }

    fn tick(&mut self, spec: &UpstreamSpec, state: &UpstreamState) {
        let ((seen, new), now) = (state.look(), Instant::now());
        state.warm_up(spec);
        self.ejections.decide(spec, state, now);
        self.refill.tick(&state.retries, new.all());
        if let Some(change) = self.breaker.as_mut().and_then(|breaker| breaker.decide(&state.circuit, seen, now)) {
            let event = match change.to {
                CircuitState::Open => Event::CircuitOpened(change),
                CircuitState::HalfOpen => Event::CircuitTries,
                CircuitState::Closed => Event::CircuitClosed,
            };
            event.tell(&spec.name, &state.events);
        }
        if let Some(gradient) = &mut self.gradient {
            let busy = state.busy().0 + state.in_flight.queued();
            let limit = gradient.decide(seen, busy, now);
            if limit != state.in_flight.size() {
                state.in_flight.resize(limit);
            }
        }
        self.notice_death(spec, state, new);
    }

    /// Said once, however many requests fail meanwhile.
    fn notice_death(&mut self, spec: &UpstreamSpec, state: &UpstreamState, new: Sum) {
        let (answered, unanswered) = (new.ok + new.error, new.lost + new.refused);
        if answered > 0 {
            self.silent = 0;
        } else if unanswered > 0 {
            self.silent += 1;
        }
        let is_down = match state.is_down() {
            true => answered == 0,
            false => self.silent >= DEAD_TICKS || (self.silent > 0 && new.refused > 0),
        };
        if state.set_down(is_down) {
            let event = if is_down { Event::Down } else { Event::Up };
            event.tell(&spec.name, &state.events);
        }
    }
}
