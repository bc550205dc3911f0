//! The part of shadowing that runs on the answering path: draw, count, hand over. It never waits.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::request::Parts;

use super::{
    SHADOW_REQUESTS, Shadow, Ticket,
    buffer::Buffer,
    counts::{Outcome, RouteCounts},
    job::{Again, Job, SeenAs},
    origin::{Origin, Origins},
    record::{Asked, NoRecording, RecordLimits, Recorder, Recording, Secrets, Told},
    request,
    ticket::content_length,
    waiting::Waiting,
};
use crate::{
    compare::{CompareStatus, Report, Rules},
    config::{self, Config, Of, Percent},
    links::Owner,
    split::{BUCKETS, Choice, bucket, find_key, keyless, shadow_seed},
    stations::Public,
    table::{Found, Route, RouteTable},
};

/// The shadows of one compiled table; swapped with it.
#[derive(Debug)]
pub struct Shadows {
    shadow: Arc<Shadow>,
    /// By the route's index.
    routes: Box<[Option<Arc<ShadowRoute>>]>,
}

/// What a route shadows, and how.
#[derive(Debug)]
pub(super) struct ShadowRoute {
    pub(super) settings: config::Shadow,
    /// `None`: the answer is dropped.
    pub(super) rules: Option<Rules>,
    pub(super) counts: Arc<RouteCounts>,
    legacy: Arc<Origin>,
    modern: Arc<Origin>,
    /// Share of the copies that go to the side which answers, too.
    resend: Option<Percent>,
    /// What the next draw comes from.
    draws: AtomicU64,
    /// Of the users' buckets.
    seed: u64,
    /// The file allows recordings.
    records: bool,
    secrets: Arc<Secrets>,
}

/// One of so many copies that may be under way.
#[derive(Debug)]
pub(super) struct Slot(Arc<AtomicUsize>);

/// A request as it goes to the side that answers.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'r> {
    /// Its route, and where the prefix that matched ends.
    pub found: Found<'r>,
    /// Its head, with the headers that the answering side gets.
    pub head: &'r Parts,
    /// Its path in normal form.
    pub path: &'r str,
    /// The side that answers.
    pub choice: &'r Choice,
    /// It carries a body.
    pub has_body: bool,
    /// Who sent it, after `trusted_proxies`.
    pub client: IpAddr,
}

// === impl Shadow ===

impl Shadow {
    /// Compiles the shadows of a table that was compiled from this config.
    #[must_use]
    pub fn compile(self: &Arc<Self>, config: &Config, table: &RouteTable) -> Shadows {
        let mut origins = Origins::new(config, table.trusts(), &self.connections);
        let secrets = Arc::new(Secrets::of(config));
        let route = |route: &Arc<Route>| self.route(route, &mut origins, &secrets).map(Arc::new);
        let routes = table.routes().iter().map(route).collect();
        Shadows { shadow: Arc::clone(self), routes }
    }

    fn route(&self, route: &Route, origins: &mut Origins<'_>, secrets: &Arc<Secrets>) -> Option<ShadowRoute> {
        let settings = route.shadow.clone()?;
        let counts = self.counts(&route.name);
        if let Some(compare) = &route.compare {
            counts.compare_by(compare);
        }
        let records = route.compare.as_ref().is_some_and(|compare| compare.record);
        if !records {
            counts.end_recording();
        }
        Some(ShadowRoute {
            settings,
            rules: route.compare.as_ref().map(Rules::new),
            resend: route.compare.as_ref().and_then(|compare| compare.noise).map(|noise| noise.resend),
            counts,
            legacy: origins.get(route.legacy.as_ref()?, Owner::Legacy)?,
            modern: origins.get(route.modern.as_ref()?, Owner::Modern)?,
            draws: AtomicU64::new(getrandom::u64().unwrap_or(route.group.seed)),
            seed: shadow_seed(&route.group.name),
            records,
            secrets: Arc::clone(secrets),
        })
    }
}

// === impl Shadows ===

impl Shadows {
    /// Offers a request to the side that does not answer it. Never waits: it is taken, or counted and dropped. With a ticket, the answer must
    /// be recorded.
    #[must_use]
    pub fn offer(&self, offer: &Offer<'_>) -> Option<Ticket> {
        let shadowed = self.routes.get(offer.found.route.index)?.as_ref()?;
        if !shadowed.is_copied(offer) || !shadowed.is_in_share(offer) {
            return None;
        }
        match self.try_offer(shadowed, offer) {
            Ok(ticket) => Some(ticket),
            Err(why) => {
                shadowed.counts.copy(why);
                None
            }
        }
    }

    fn try_offer(&self, shadowed: &Arc<ShadowRoute>, offer: &Offer<'_>) -> Result<Ticket, Outcome> {
        let max_body = usize::try_from(shadowed.settings.max_body.as_u64()).unwrap_or(usize::MAX);
        let length = if offer.has_body { content_length(&offer.head.headers) } else { None };
        let length = usize::try_from(length.unwrap_or_default()).unwrap_or(usize::MAX);
        if length > max_body {
            return Err(Outcome::BodyTooLong);
        }
        let of_route = Slot::take(&shadowed.counts.busy, shadowed.settings.concurrency).ok_or(Outcome::DroppedBusy)?;
        let of_all = Slot::take(&self.shadow.busy, SHADOW_REQUESTS).ok_or(Outcome::DroppedRequests)?;
        let waits = offer.has_body || offer.choice.is_write;
        let permit = if waits { None } else { Some(self.shadow.jobs.try_reserve().map_err(|_| Outcome::DroppedBusy)?) };
        let route = offer.found.route;
        let to = offer.choice.side.other();
        let target = route.target(to).ok_or(Outcome::Error)?;
        let head = self.shadow.budget.head(&offer.head.headers).ok_or(Outcome::DroppedBudget)?;
        let request = request::copy(offer.head, target, offer.path, offer.found.prefix_end).ok_or(Outcome::Error)?;
        let is_head = request.method() == http::Method::HEAD;
        let bound = shadowed.rules.as_ref().map(|_| max_body);
        let (mut ticket, control) = Ticket::new(Arc::clone(&self.shadow.budget), bound, is_head);
        let seen_as = shadowed.rules.as_ref().map(|_| {
            let (public, path) = (Public::told(&offer.head.headers), offer.path.to_owned());
            Box::new(SeenAs { route: Arc::clone(route), public, path, prefix_end: offer.found.prefix_end })
        });
        // A read only, and where a recording goes on.
        let told = (!offer.choice.is_write && shadowed.records && shadowed.counts.is_recorded()).then(|| {
            match offer.has_body {
                true => Told::WithBody,
                false => Told::Read(Box::new(Asked::of(offer, &shadowed.secrets))),
            }
        });
        let is_read = request.method().is_safe() && !waits;
        let is_resent = is_read && shadowed.resend.is_some_and(|percent| shadowed.is_drawn(percent));
        let again = if is_resent { self.again(shadowed, offer) } else { None };
        let job = Job {
            route: Arc::clone(shadowed),
            to,
            origin: shadowed.origin(to),
            again,
            told,
            sync: route.sync.clone(),
            request,
            control,
            budget: Arc::clone(&self.shadow.budget),
            max_body,
            seen_as,
            _held: (of_route, of_all, head),
        };
        match permit {
            Some(permit) => permit.send(job),
            None => {
                let body = offer.has_body.then(|| Buffer::new(Arc::clone(&self.shadow.budget), max_body));
                ticket.wait(Waiting::new(job, self.shadow.jobs.clone(), body, offer.choice.is_write));
            }
        }
        Ok(ticket)
    }

    /// The same request once more for the side that answers; `None` when there is no room for it.
    fn again(&self, shadowed: &ShadowRoute, offer: &Offer<'_>) -> Option<Box<Again>> {
        let side = offer.choice.side;
        let held = self.shadow.budget.head(&offer.head.headers)?;
        let target = offer.found.route.target(side)?;
        let request = request::copy(offer.head, target, offer.path, offer.found.prefix_end)?;
        Some(Box::new(Again { origin: shadowed.origin(side), request, side, _held: held }))
    }

    /// What comparing gave; `None` for a route that compares nothing.
    #[must_use]
    pub fn status(&self, route: &Route) -> Option<CompareStatus> {
        let shadowed = self.routes.get(route.index)?.as_ref()?;
        shadowed.rules.as_ref().map(|_| shadowed.counts.status())
    }

    /// How many answers of a route were compared since the start, and how many of these differ in more than noise.
    pub(crate) fn compared(&self, route: &Route) -> (u64, u64) {
        let shadowed = self.routes.get(route.index).and_then(Option::as_ref);
        shadowed.map_or((0, 0), |shadowed| shadowed.counts.net())
    }

    /// Begins to record a route's reads.
    ///
    /// # Errors
    /// When the file does not allow it, or a recording goes on.
    pub fn record(&self, route: &Route, limits: RecordLimits) -> Result<Recording, NoRecording> {
        let shadowed = self.routes.get(route.index).and_then(Option::as_ref).filter(|shadowed| shadowed.records);
        let shadowed = shadowed.ok_or(NoRecording::NotAllowed)?;
        let headers = shadowed.rules.as_ref().map(Rules::headers).unwrap_or_default();
        let (recorder, recording) = Recorder::new(&route.name, limits, headers, &shadowed.secrets);
        if shadowed.counts.record(recorder) { Ok(recording) } else { Err(NoRecording::Busy) }
    }

    /// What comparing gave within the last while; `None` for a route that compares nothing.
    #[must_use]
    pub fn report(&self, route: &Route, within: Duration) -> Option<Report> {
        let shadowed = self.routes.get(route.index)?.as_ref()?;
        shadowed.rules.as_ref().map(|_| shadowed.counts.report(within))
    }
}

// === impl ShadowRoute ===

impl ShadowRoute {
    fn origin(&self, side: Owner) -> Arc<Origin> {
        Arc::clone(if side == Owner::Legacy { &self.legacy } else { &self.modern })
    }

    /// Whether requests like this one are copied: reads, or those of the methods that the file names. What is a write although its method is safe
    /// (an upgrade, or what `reads` says is never one) is not: no method names it.
    fn is_copied(&self, offer: &Offer<'_>) -> bool {
        match &self.settings.methods {
            None => !offer.choice.is_write,
            Some(named) => {
                let method = &offer.head.method;
                named.iter().any(|named| named.get() == method) && !(offer.choice.is_write && method.is_safe())
            }
        }
    }

    /// Whether it is among the percent of requests, or its user among the percent of users.
    fn is_in_share(&self, offer: &Offer<'_>) -> bool {
        let percent = self.settings.percent;
        if self.settings.of == Of::Requests || percent.buckets() >= BUCKETS {
            return self.is_drawn(percent);
        }
        if let Some(id) = &offer.choice.new_id {
            return bucket(self.seed, id.key()) < percent.buckets();
        }
        let route = offer.found.route;
        let key = find_key(route, &offer.head.headers).or_else(|| keyless(route, offer.client));
        key.is_some_and(|key| bucket(self.seed, &key.bytes) < percent.buckets())
    }

    /// Whether this request is among so many percent, by chance (SplitMix64).
    fn is_drawn(&self, percent: Percent) -> bool {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let percent = percent.buckets();
        if percent >= BUCKETS {
            return true;
        }
        let mut draw = self.draws.fetch_add(STEP, Ordering::Relaxed);
        draw = (draw ^ (draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (draw ^ (draw >> 31)) % u64::from(BUCKETS) < u64::from(percent)
    }
}

// === impl Slot ===

impl Slot {
    fn take(busy: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        // Gives it back when it is dropped, also here.
        let slot = Self(Arc::clone(busy));
        (busy.fetch_add(1, Ordering::Relaxed) < most).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
