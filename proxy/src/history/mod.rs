//! How each route fared in the last hour, in steps of ten seconds, so that a page that is just opened has something to draw; and the last ten
//! to twenty seconds, for `status`.
//!
//! A task in the background reads the workers' counts; the answering path knows nothing of it. Memory: 72 bytes a step in which something
//! happened, at most 26 KiB a route and 26 MB in all: with more than a thousand routes the past is shorter.

mod reading;
mod recent;
mod ring;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::listen::{Compiled, Shared};
use reading::Reading;
pub use recent::{Recent, SideRecent};
use ring::Ring;
pub use ring::Slot;

/// The history of a process; dropping it ends the task that writes it.
pub(crate) struct History {
    past: Arc<Mutex<Past>>,
    _ends: DropGuard,
}

/// What is kept.
struct Past {
    /// The last two looks, the older one first: what came since that one is recent.
    looks: [Look; 2],
    rings: BTreeMap<Arc<str>, Ring>,
}

/// All routes at one moment.
#[derive(Clone)]
struct Look {
    at: Instant,
    routes: BTreeMap<Arc<str>, Reading>,
}

/// One route's last hour.
#[derive(Debug, Clone, Serialize)]
pub struct RouteHistory {
    /// Seconds of a slot.
    pub step: u64,
    /// Seconds since 1970 at which the newest slot ends.
    pub until: u64,
    /// The oldest first; those in which nothing happened are left out.
    pub slots: Vec<Slot>,
}

/// Seconds of a slot.
const STEP: u64 = 10;

// === impl History ===

impl History {
    pub(crate) fn start(background: &Handle, shared: Arc<Shared>) -> Self {
        // Nothing was counted before the start.
        let look = Look {
            at: Instant::now(),
            routes: look(&shared).into_keys().map(|name| (name, Reading::default())).collect(),
        };
        let past = Arc::new(Mutex::new(Past { looks: [look.clone(), look], rings: BTreeMap::new() }));
        let token = CancellationToken::new();
        background.spawn(token.clone().run_until_cancelled_owned(run(shared, Arc::clone(&past))));
        Self { past, _ends: token.drop_guard() }
    }

    /// What a route did in the last ten to twenty seconds; `None` for one that came with a reload a moment ago.
    pub(crate) fn recent(&self, shared: &Shared, current: &Compiled, route: usize) -> Option<Recent> {
        let route = current.table.routes().get(route)?;
        let now = Reading::of(shared, current, route);
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let Look { at, routes } = &past.looks[0];
        Some(Recent::of(&now.since(routes.get(&route.name)?), at.elapsed()))
    }

    /// Its last hour.
    pub(crate) fn of(&self, route: &str) -> RouteHistory {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = past.rings.get(route).map(Ring::slots).unwrap_or_default();
        RouteHistory { step: STEP, until: unix() / STEP * STEP, slots }
    }
}

/// Where slots begin, on the wall clock: pages of several replicas show the same ones.
async fn run(shared: Arc<Shared>, past: Arc<Mutex<Past>>) {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let next = Duration::from_secs((now.as_secs() / STEP + 1) * STEP);
        tokio::time::sleep(next.saturating_sub(now)).await;
        let look = Look { at: Instant::now(), routes: look(&shared) };
        past.lock().unwrap_or_else(PoisonError::into_inner).add(look, next.as_secs());
    }
}

fn look(shared: &Shared) -> BTreeMap<Arc<str>, Reading> {
    let current = shared.current.load_full();
    let routes = current.table.routes().iter();
    routes.map(|route| (Arc::clone(&route.name), Reading::of(shared, &current, route))).collect()
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

// === impl Past ===

impl Past {
    /// One more look, at this second.
    fn add(&mut self, look: Look, at: u64) {
        let most = ring::most(look.routes.len());
        self.rings.retain(|route, _| look.routes.contains_key(route));
        for (route, reading) in &look.routes {
            // One that came with a reload has no look to count from yet.
            let Some(before) = self.looks[1].routes.get(route) else { continue };
            self.rings.entry(Arc::clone(route)).or_default().add(Slot::of(at - STEP, &reading.since(before)), most);
        }
        self.looks.swap(0, 1);
        self.looks[1] = look;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_with(compared: &[(&str, u64)]) -> Look {
        let reading = |count: u64| Reading { compared: count, ..Reading::default() };
        let routes = compared.iter().map(|(name, count)| ((*name).into(), reading(*count)));
        Look { at: Instant::now(), routes: routes.collect() }
    }

    #[test]
    fn a_slot_holds_what_came_between_two_looks() {
        let start = look_with(&[("old", 0)]);
        let mut past = Past { looks: [start.clone(), start], rings: BTreeMap::new() };
        let slots = |past: &Past, route: &str| -> Vec<(u64, u32)> {
            past.rings
                .get(route)
                .map(Ring::slots)
                .unwrap_or_default()
                .iter()
                .map(|slot| (slot.at, slot.compared))
                .collect()
        };
        past.add(look_with(&[("old", 5)]), 20);
        past.add(look_with(&[("old", 5), ("new", 9)]), 30);
        assert_eq!(slots(&past, "old"), [(10, 5)], "nothing is told of ten seconds in which nothing happened");
        assert_eq!(slots(&past, "new"), [], "nobody knows since when it counts");
        // Other rules of comparing begin at zero.
        past.add(look_with(&[("old", 2), ("new", 12)]), 40);
        assert_eq!((slots(&past, "old"), slots(&past, "new")), (vec![(10, 5), (30, 2)], vec![(30, 3)]));
        // What is recent counts from the look before the last one.
        assert_eq!(past.looks[0].routes["new"].compared, 9);
        past.add(look_with(&[("new", 12)]), 50);
        assert_eq!(slots(&past, "old"), [], "a route that is gone is forgotten");
    }
}
