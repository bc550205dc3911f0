//! Every route's walk in one process: follows the file, looks at what was counted, and does what people ask for.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use super::{
    Act, Cap, Counts, Event, Refusal, Replicas, Standing, TICK,
    gates::Lag,
    metrics::Metrics,
    shared::{self, Among, Others},
    store::{Demands, Standings},
    unix_now,
    walk::{Found, Here, Seen},
};
use crate::{
    config::{Config, Rollout, Weight},
    listen::Shared,
    table::{Route, RouteTable},
    upstream::CircuitState,
};

#[derive(Default)]
pub(super) struct Walks {
    pub(super) routes: BTreeMap<Arc<str>, Walk>,
    /// Of routes that have no rollout now.
    pub(super) rest: Standings,
    /// Why nobody knows what there was before the start; until the first config has been followed.
    pub(super) unknown: Option<String>,
    pub(super) has_begun: bool,
    pub(super) others: Option<Others>,
    /// Of routes that are not followed yet.
    pub(super) demands: Demands,
}

/// One route's.
pub(super) struct Walk {
    pub(super) spec: Rollout,
    pub(super) ceiling: Weight,
    pub(super) cap: Arc<Cap>,
    pub(super) standing: Standing,
    /// All that was counted until the last look; `None`: what was counted until now is not this step's.
    pub(super) counted: Option<Counts>,
    pub(super) looked: Instant,
    /// Since then.
    pub(super) lag: Lag,
    pub(super) circuit_was_open: bool,
    /// For whoever asks.
    pub(super) last_lag: Lag,
    /// At the last look.
    pub(super) had_open_circuit: bool,
    /// Its standing is more than a guess.
    pub(super) is_known: bool,
    /// What it is among replicas.
    pub(super) among: Option<Among>,
}

/// Standings of routes without a rollout that are kept, for the day when they have one again.
const MOST_REST: usize = 1000;

/// What a look came to.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) has_looked: bool,
    pub(super) events: Vec<Event>,
}

// === impl Walks ===

impl Walks {
    pub(super) fn follow(&mut self, config: &Config, table: &RouteTable, decides: bool) -> Vec<Event> {
        let mut told = Vec::new();
        let now = unix_now();
        let wanted = |name: &str| config.routes.iter().find(|route| route.name == name && route.rollout.is_some());
        for (name, walk) in std::mem::take(&mut self.routes) {
            if wanted(&name).is_some() {
                self.routes.insert(name, walk);
            } else {
                self.rest.insert(name.to_string(), walk.standing);
            }
        }
        for (route, spec) in config.routes.iter().filter_map(|route| Some((route, route.rollout.as_ref()?))) {
            let Some(cap) = table.routes().iter().find(|known| *known.name == *route.name).and_then(|r| r.cap.clone())
            else {
                continue;
            };
            let ceiling = route.weight.unwrap_or_default();
            let here = Here { route: &route.name, spec, ceiling, now };
            if let Some(walk) = self.routes.get_mut(&*route.name) {
                let before = walk.effective(&route.name);
                (walk.spec, walk.ceiling, walk.cap) = (spec.clone(), ceiling, cap);
                // Among replicas, the one that decides follows the file.
                let event = if walk.among.is_none() { here.follow(&mut walk.standing) } else { None };
                if event.is_some() || walk.effective(&route.name) != before {
                    walk.begin_anew();
                }
                told.extend(event);
            } else {
                let (kept, is_shared) = (self.rest.remove(&route.name), self.others.is_some());
                let is_known = kept.is_some() || !is_shared;
                let standing = match (kept, &self.unknown) {
                    (Some(kept), _) if is_shared => kept,
                    (None, _) if is_shared => here.begin(Found::Unknown("the replicas' state was not read yet")).0,
                    (Some(mut kept), _) => {
                        told.extend(here.follow(&mut kept));
                        kept
                    }
                    (None, why) => {
                        let found = why.as_deref().filter(|_| !self.has_begun).map_or(Found::New, Found::Unknown);
                        let (standing, event) = here.begin(found);
                        told.push(event);
                        standing
                    }
                };
                let demand = self.demands.remove(&route.name);
                let is_heard = is_known && self.others.as_ref().is_some_and(|others| others.is_current);
                let among = is_shared.then(|| Among::new(&standing, demand, !self.has_begun, is_heard));
                let walk = Walk {
                    is_known,
                    among,
                    had_open_circuit: false,
                    spec: spec.clone(),
                    ceiling,
                    cap,
                    standing,
                    counted: None,
                    looked: Instant::now(),
                    lag: Lag::Unseen,
                    circuit_was_open: false,
                    last_lag: Lag::Unseen,
                };
                self.routes.insert(route.name.as_str().into(), walk);
            }
        }
        self.has_begun = true;
        self.forget_the_oldest();
        self.cap();
        // Else it is told when this process decides, if it still holds then.
        if decides { told } else { Vec::new() }
    }

    /// What the process before this one has decided since this one began; gives what this one's file makes of it.
    pub(super) fn adopt(&mut self, mut kept: Standings, mut demands: Demands) -> Vec<Event> {
        let mut told = Vec::new();
        for (name, walk) in &mut self.routes {
            let (kept, demand) = (kept.remove(&**name), demands.remove(&**name));
            walk.begin_anew();
            if let Some(among) = &mut walk.among {
                // The log may have said more meanwhile.
                if let Some(kept) = kept.filter(|kept| !walk.is_known || kept.revision > walk.standing.revision) {
                    (walk.standing, walk.is_known) = (kept, true);
                }
                among.demand = among.demand.take().or(demand);
                continue;
            }
            let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
            if let Some(kept) = kept {
                walk.standing = kept;
                told.extend(here.follow(&mut walk.standing));
            } else {
                // It began here, and nobody was told.
                let history = &walk.standing.history;
                told.extend(history.back().filter(|event| history.len() == 1 && event.by == "start").cloned());
            }
        }
        self.rest.extend(kept);
        self.forget_the_oldest();
        self.cap();
        told
    }

    pub(super) fn act(&mut self, route: &str, act: Act, by: &str, why: &str) -> Result<Event, Refusal> {
        let (name, walk) = self.routes.iter_mut().find(|(name, _)| &***name == route).ok_or(Refusal::NoRollout)?;
        let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
        let event = here.act(&mut walk.standing, act, by, why, walk.last_lag).map_err(Refusal::NotNow)?;
        walk.cap.set(here.effective(&walk.standing));
        walk.begin_anew();
        Ok(event)
    }

    pub(super) fn look(&mut self, shared: &Shared, metrics: &Metrics, replicas: Option<&dyn Replicas>) -> Looked {
        let current = shared.current.load();
        let (now, mut looked, mut due) = (Instant::now(), Looked::default(), Vec::new());
        for (name, walk) in &mut self.routes {
            let Some(route) = current.table.routes().iter().find(|route| route.name == *name) else { continue };
            walk.sample(route, shared);
            // A tick comes a little early or late.
            let took = now.duration_since(walk.looked);
            let is_due = took + TICK / 2 >= walk.spec.interval;
            if !is_due && walk.counted.is_some() {
                continue;
            }
            let (legacy, modern) = shared.shards.judged(name);
            let (compared, differ) = current.shadows.compared(route);
            let counted = Counts { legacy, modern, compared, differ };
            let before = walk.counted.get_or_insert_with(|| counted.clone());
            if !is_due {
                continue;
            }
            let seen = Seen {
                took,
                counts: counted.since(before),
                lag: std::mem::take(&mut walk.lag),
                circuit_was_open: std::mem::take(&mut walk.circuit_was_open),
            };
            (walk.counted, walk.looked, walk.last_lag) = (Some(counted), now, seen.lag);
            walk.had_open_circuit = seen.circuit_was_open;
            looked.has_looked = true;
            if walk.among.is_some() {
                due.push((name.to_string(), seen));
                continue;
            }
            let here = Here { route: name, spec: &walk.spec, ceiling: walk.ceiling, now: unix_now() };
            let event = here.look(&mut walk.standing, &seen);
            metrics.judged(here, &walk.standing, event.as_ref(), seen.lag);
            walk.cap.set(here.effective(&walk.standing));
            looked.events.extend(event);
        }
        if let Some(replicas) = replicas {
            for (name, seen) in &due {
                self.watch_own(replicas, name, seen);
            }
            if !due.is_empty() {
                self.publish(replicas);
            }
            self.decide(replicas, &due, metrics);
        }
        looked
    }

    pub(super) fn cap(&self) {
        for (name, walk) in &self.routes {
            walk.cap.set(walk.effective(name));
        }
    }

    /// What outlives the process.
    pub(super) fn kept(&self) -> (Standings, Demands) {
        let walking = self.routes.iter().filter(|(_, walk)| walk.is_known);
        let walking = walking.map(|(name, walk)| (name.to_string(), walk.standing.clone()));
        let demands = self.routes.iter().filter_map(|(name, walk)| {
            let demand = walk.among.as_ref()?.demand.clone()?;
            Some((name.to_string(), demand))
        });
        (
            self.rest.clone().into_iter().chain(walking).collect(),
            self.demands.clone().into_iter().chain(demands).collect(),
        )
    }

    pub(super) fn forget_the_oldest(&mut self) {
        while self.rest.len() > MOST_REST {
            let oldest = self.rest.iter().min_by_key(|(_, standing)| standing.since).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.rest.remove(&name));
        }
    }
}

// === impl Walk ===

impl Walk {
    pub(super) fn here<'w>(&'w self, name: &'w str) -> Here<'w> {
        Here { route: name, spec: &self.spec, ceiling: self.ceiling, now: unix_now() }
    }

    /// What holds of the weight.
    pub(super) fn effective(&self, name: &str) -> Weight {
        shared::effective(self, self.here(name))
    }

    /// What was seen until now belongs to what held until now.
    pub(super) fn begin_anew(&mut self) {
        (self.counted, self.looked) = (None, Instant::now());
        (self.lag, self.circuit_was_open) = (Lag::Unseen, false);
    }

    /// What is no count: how its upstream and its sync are now.
    pub(super) fn sample(&mut self, route: &Route, shared: &Shared) {
        if let (Some(modern), Some(legacy)) = (&route.modern, &route.legacy)
            && modern.index != legacy.index
        {
            let circuit = shared.upstream_state(&modern.upstream).circuit.state();
            self.circuit_was_open |= circuit == CircuitState::Open;
        }
        if let Some(sync) = route.sync.as_ref().filter(|_| self.spec.gates.sync_lag.is_some()) {
            self.lag = match (self.lag, sync.link.lag()) {
                (_, None) | (Lag::Unknown, _) => Lag::Unknown,
                (Lag::Unseen, Some(lag)) => Lag::Known { least: lag, last: lag },
                (Lag::Known { least, .. }, Some(lag)) => Lag::Known { least: least.min(lag), last: lag },
            };
        }
    }
}
