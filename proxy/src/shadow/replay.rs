//! Sends recorded reads again, to one side of a route in a config, and compares what comes with what was recorded: by the same rules, over the
//! same connections and with the same head as a shadow's copy.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use garde::Validate as _;
use http::{HeaderMap, Method, Request, Uri};

use super::{
    SHADOW_MEMORY,
    budget::{Budget, Charge},
    connections::Connections,
    job::{SeenAs, fetch},
    origin::{Origin, Origins},
    record::{BadLine, Read, Secrets, headers},
    request,
};
use crate::{
    compare::{Answer, Compared, Report, Rules, Tally},
    config::{Config, Endpoint, ShortOr},
    links::{DataLinks, Owner},
    stations::Public,
    table::{Problem, Route, RouteTable, normalise},
};

/// Who gets the reads.
#[derive(Debug, Clone)]
pub enum Against {
    /// A side's upstream.
    Side(Owner),
    /// Another place, `http://host:port`, asked as modern is.
    At(String),
}

/// A recording's reads on their way to one side of a route.
#[derive(Debug)]
pub struct Replay {
    route: Arc<Route>,
    side: Owner,
    origin: Arc<Origin>,
    rules: Rules,
    budget: Arc<Budget>,
    max_body: usize,
    timeout: Duration,
    /// Added to every request.
    more: HeaderMap,
    tally: Mutex<Tally>,
}

/// What became of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Played {
    /// It was answered and compared.
    Compared,
    /// There was no whole answer within the time.
    Failed,
}

/// Why nothing can be replayed.
#[derive(Debug, thiserror::Error)]
pub enum NoReplay {
    /// The config does not compile.
    #[error("the routes do not compile")]
    Config(Vec<Problem>),
    /// It names no such route.
    #[error("there is no route of that name")]
    NoRoute,
    /// It has no such side.
    #[error("the route has no such side")]
    NoSide,
    /// The place is none.
    #[error("that is no place to send to; it is like `http://127.0.0.1:7002`")]
    NoPlace,
    /// It compares nothing.
    #[error("the route has no `shadow` with `compare`, which says how answers are compared")]
    NotCompared,
}

// === impl Replay ===

impl Replay {
    /// Of a route of this config; `more` is added to every request.
    ///
    /// # Errors
    /// When the config, or its route, is none that reads can be replayed with.
    pub fn try_new(
        mut config: Config,
        links: &dyn DataLinks,
        name: &str,
        against: &Against,
        more: HeaderMap,
    ) -> Result<Self, NoReplay> {
        let side = match against {
            Against::Side(side) => *side,
            Against::At(url) => {
                let endpoint = Endpoint { url: url.clone(), weight: 1 };
                endpoint.validate().map_err(|_| NoReplay::NoPlace)?;
                let route = config.routes.iter().find(|route| route.name == name).ok_or(NoReplay::NoRoute)?;
                let modern = route.modern.as_ref().ok_or(NoReplay::NoSide)?.0.upstream.clone();
                if let Some(upstream) = config.upstreams.get_mut(&modern) {
                    upstream.endpoints = vec![ShortOr(endpoint)];
                }
                Owner::Modern
            }
        };
        let (table, _) = RouteTable::compile(&config, links).map_err(NoReplay::Config)?;
        let route = table.routes().iter().find(|route| *route.name == *name).ok_or(NoReplay::NoRoute)?;
        let (Some(shadow), Some(compare)) = (&route.shadow, &route.compare) else { return Err(NoReplay::NotCompared) };
        let budget = Arc::new(Budget::new(SHADOW_MEMORY));
        let connections = Arc::new(Connections::new(Arc::clone(&budget)));
        let target = route.target(side).ok_or(NoReplay::NoSide)?;
        let origin = Origins::new(&config, table.trusts(), &connections).get(target, side).ok_or(NoReplay::NoSide)?;
        let secrets = Secrets::of(&config);
        Ok(Self {
            side,
            origin,
            // What is not recorded is not missing.
            rules: Rules::new(compare).without_headers(|name| secrets.has_header(name)),
            budget,
            max_body: usize::try_from(shadow.max_body.as_u64()).unwrap_or(usize::MAX),
            timeout: shadow.timeout,
            more,
            tally: Mutex::new(Tally::new(0)),
            route: Arc::clone(route),
        })
    }

    /// Sends one read, and compares its answer with the recorded one.
    ///
    /// # Errors
    /// When the line says something that cannot be sent or compared.
    pub async fn play(&self, read: &Read) -> Result<Played, BadLine> {
        let (status, control_headers, body) = read.answer()?;
        let control = Answer { status, headers: &control_headers, body: read.body.body(&body)? };
        let method = Method::from_bytes(read.method.as_bytes()).map_err(|_| BadLine::Value("method"))?;
        let uri: Uri = read.target.parse().map_err(|_| BadLine::Value("target"))?;
        let path = normalise(uri.path()).map_err(|_| BadLine::Value("target"))?.into_owned();
        let mut head = Request::new(()).into_parts().0;
        (head.method, head.uri) = (method.clone(), uri);
        head.headers = headers(&read.headers).ok_or(BadLine::Value("headers"))?;
        for (name, value) in &self.more {
            head.headers.insert(name, value.clone());
        }
        let target = self.route.target(self.side).ok_or(BadLine::Value("side"))?;
        let request = request::copy(&head, target, &path, read.prefix).ok_or(BadLine::Value("target"))?;
        let public = Public::told(&head.headers);
        let seen_as = SeenAs { route: Arc::clone(&self.route), public, path, prefix_end: read.prefix };
        let answered = fetch(&self.origin, request, &self.budget, self.max_body, true);
        let Ok(Ok(mut candidate)) = tokio::time::timeout(self.timeout, answered).await else {
            return Ok(Played::Failed);
        };
        seen_as.shape(self.side, &mut candidate.headers);
        let room = &mut Charge::new(Arc::clone(&self.budget));
        let Ok(joined) = candidate.body.joined(room) else { return Ok(Played::Failed) };
        let Some(answer) = candidate.answer(&joined) else { return Ok(Played::Failed) };
        let Ok(verdict) = self.rules.compare_in(&control, &answer, room) else { return Ok(Played::Failed) };
        let control_took = Duration::try_from_secs_f64(read.took_ms / 1000.0).map_err(|_| BadLine::Value("took_ms"))?;
        let (legacy, modern) = match self.side {
            Owner::Modern => (control_took, candidate.took),
            Owner::Legacy => (candidate.took, control_took),
        };
        let compared = Compared { method, verdict, legacy, modern };
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).add(compared, SystemTime::now());
        Ok(Played::Compared)
    }

    /// What comparing has come to.
    #[must_use]
    pub fn report(&self) -> Report {
        const DAY: Duration = Duration::from_secs(86_400);
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).report(DAY, SystemTime::now())
    }
}
