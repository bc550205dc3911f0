//! Takes what the answering path has seen for the first time, and tells of clashes: once each, from the background.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};

use http::{HeaderMap, header::SET_COOKIE};
use prometheus::{IntGauge, Registry};
use serde::Serialize;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    jar::{Jar, Place},
    set_cookie::{SetCookie, Shown},
};
use crate::{config::Config, links::Owner, metrics::COOKIE_CLASHES};

/// A cookie that both sides set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CookieClash {
    /// Its name, as browsers know it.
    pub cookie: String,
    /// A route on which legacy sets it.
    pub legacy_route: String,
    /// A route on which modern does.
    pub modern_route: String,
}

/// The watch over a process's cookies. Dropping it ends what runs in the background.
pub(crate) struct Watch {
    tell: mpsc::Sender<Found>,
    state: Arc<Mutex<State>>,
    _ends: DropGuard,
}

/// The cookies of one compiled table; swapped with it.
#[derive(Debug)]
pub(crate) struct Jars {
    tell: mpsc::Sender<Found>,
    /// By the route's index.
    jars: Box<[Arc<Jar>]>,
}

/// Set for the first time.
#[derive(Debug)]
struct Found {
    jar: Arc<Jar>,
    cookie: SetCookie,
}

/// Never locked on the answering path.
struct State {
    routes: Vec<(Arc<Jar>, Vec<SetCookie>)>,
    clashes: Vec<Clash>,
    count: IntGauge,
}

struct Clash {
    cookie: Box<str>,
    legacy: Arc<Jar>,
    modern: Arc<Jar>,
}

/// What waits to be looked at; what comes on top is seen again with the next answer.
const QUEUE: usize = 256;
/// Clashes that are told; who has more of them has read the first ones.
const MOST: usize = 64;

// === impl Watch ===

impl Watch {
    pub(crate) fn start(background: &Handle, registry: &Registry) -> prometheus::Result<Self> {
        let count = IntGauge::new(COOKIE_CLASHES, "Cookies that both sides set under one name")?;
        registry.register(Box::new(count.clone()))?;
        let state = Arc::new(Mutex::new(State { routes: Vec::new(), clashes: Vec::new(), count }));
        let (tell, mut found) = mpsc::channel::<Found>(QUEUE);
        let token = CancellationToken::new();
        let known = Arc::clone(&state);
        background.spawn(token.clone().run_until_cancelled_owned(async move {
            while let Some(found) = found.recv().await {
                lock(&known).take(found);
            }
        }));
        Ok(Self { tell, state, _ends: token.drop_guard() })
    }

    /// What a new table's routes set. Routes that are as they were keep what is known of them.
    pub(crate) fn compile(&self, config: &Config) -> Jars {
        let places = config.routes.iter().map(Place::of).chain([Place::default(&config.default)]);
        let mut state = lock(&self.state);
        let mut before = std::mem::take(&mut state.routes);
        for place in places {
            let kept = before.iter().position(|(jar, _)| jar.place == place);
            let route = kept.map(|at| before.swap_remove(at));
            state.routes.push(route.unwrap_or_else(|| (Arc::new(Jar::new(place)), Vec::new())));
        }
        let State { routes, clashes, .. } = &mut *state;
        let is_there = |jar: &Arc<Jar>| routes.iter().any(|(known, _)| Arc::ptr_eq(known, jar));
        clashes.retain(|clash| is_there(&clash.legacy) && is_there(&clash.modern));
        state.recount();
        Jars { tell: self.tell.clone(), jars: state.routes.iter().map(|(jar, _)| Arc::clone(jar)).collect() }
    }

    pub(crate) fn clashes(&self) -> Vec<CookieClash> {
        lock(&self.state).clashes.iter().map(Clash::told).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Jars ===

impl Jars {
    /// A side's answer passes, with the names that clients know. Never waits.
    pub(crate) fn saw(&self, route: usize, side: Owner, headers: &HeaderMap) {
        let Some(jar) = self.jars.get(route) else { return };
        for line in headers.get_all(SET_COOKIE) {
            let Some(shown) = Shown::of(line.as_bytes()) else { continue };
            let hash = shown.hash(side);
            let Some(place) = jar.is_new(hash) else { continue };
            let Ok(permit) = self.tell.try_reserve() else { return };
            // Another worker may have seen it at the same moment, or taken the place for another one: that one comes again.
            if place.compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                permit.send(Found { jar: Arc::clone(jar), cookie: shown.keep(side) });
            }
        }
    }
}

// === impl State ===

impl State {
    fn take(&mut self, found: Found) {
        let Some(at) = self.routes.iter().position(|(jar, _)| Arc::ptr_eq(jar, &found.jar)) else { return };
        let Found { jar, cookie } = found;
        for (other, cookies) in &self.routes {
            if self.clashes.len() >= MOST {
                break;
            }
            if !cookies.iter().any(|theirs| jar.place.clashes(&cookie, &other.place, theirs)) {
                continue;
            }
            let (legacy, modern) = match cookie.side {
                Owner::Legacy => (&jar, other),
                Owner::Modern => (other, &jar),
            };
            let clash = Clash { cookie: cookie.name.clone(), legacy: Arc::clone(legacy), modern: Arc::clone(modern) };
            if !self.clashes.iter().any(|known| known.is(&clash)) {
                clash.tell();
                self.clashes.push(clash);
            }
        }
        self.routes[at].1.push(cookie);
        self.recount();
    }

    fn recount(&self) {
        self.count.set(i64::try_from(self.clashes.len()).unwrap_or(i64::MAX));
    }
}

// === impl Clash ===

impl Clash {
    fn is(&self, other: &Self) -> bool {
        self.cookie == other.cookie
            && Arc::ptr_eq(&self.legacy, &other.legacy)
            && Arc::ptr_eq(&self.modern, &other.modern)
    }

    fn told(&self) -> CookieClash {
        CookieClash {
            cookie: self.cookie.to_string(),
            legacy_route: self.legacy.place.route.to_string(),
            modern_route: self.modern.place.route.to_string(),
        }
    }

    fn tell(&self) {
        let CookieClash { cookie, legacy_route, modern_route } = self.told();
        tracing::warn!(
            cookie,
            legacy_route,
            modern_route,
            "both sides set this cookie: in the browser the later one wins; rename it (`cookies`), or say that it is shared"
        );
    }
}
