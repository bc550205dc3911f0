//! Serde structs to compiled routes, and everything that is wrong with them at once.

mod identity;
mod itself;
mod matches;
mod reads;
mod sides;

use std::{collections::BTreeMap, sync::Arc};

use super::{
    DEFAULT, Group, KeySource, Problem, Renames, Route, RouteTable, Severity, SyncRoute, Target, Trusts, checks,
    matcher::Matcher, rule::Rule, unreachable::unreachable,
};
use crate::{
    config::{self, Config, Fallback, Weight},
    links::DataLinks,
    rate::RateLimit,
    split::{Force, Pins},
};

pub(super) fn compile(config: &Config, links: &dyn DataLinks) -> Result<(RouteTable, Vec<Problem>), Vec<Problem>> {
    let mut compiler = Compiler { config, links, problems: Vec::new(), rules: Vec::new() };
    let mut routes: Vec<Route> =
        config.routes.iter().enumerate().map(|(index, route)| compiler.route(index, route)).collect();
    routes.push(compiler.default_route());
    checks::routes(config, &mut compiler.problems);
    unreachable(config, &compiler.rules, &mut compiler.problems);
    let trusts = Trusts::compile(config, &mut compiler.problems);
    let identity = compiler.identity();
    let Compiler { mut problems, rules, .. } = compiler;
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        return Err(problems);
    }
    let routes = routes.into_iter().map(Arc::new).collect();
    Ok((RouteTable { routes, matcher: Matcher::new(rules), trusts, identity }, problems))
}

struct Compiler<'c> {
    config: &'c Config,
    links: &'c dyn DataLinks,
    problems: Vec<Problem>,
    rules: Vec<Rule>,
}

// === impl Compiler ===

impl Compiler<'_> {
    fn route(&mut self, index: usize, route: &config::Route) -> Route {
        let at = format!("routes[{index}]");
        self.matches(index, &at, route);
        let renames = |of: fn(&config::Cookies) -> &config::SideCookies| {
            route.cookies.as_ref().map_or_else(Renames::default, |cookies| Renames::new(&of(cookies).rename))
        };
        let (of_legacy, of_modern) = (renames(|cookies| &cookies.legacy), renames(|cookies| &cookies.modern));
        let legacy = route.legacy.as_ref().and_then(|side| self.target(&format!("{at}.legacy"), &side.0, of_legacy));
        let modern = route.modern.as_ref().and_then(|side| self.target(&format!("{at}.modern"), &side.0, of_modern));
        let weight = match route.legacy {
            None if route.modern.is_none() => Weight::ZERO,
            None => Weight::FULL,
            Some(_) => route.weight.unwrap_or_default(),
        };
        let group = route.group.as_ref().or(route.sync.as_ref()).unwrap_or(&route.name);
        Route {
            index,
            name: route.name.as_str().into(),
            matched: route.matches.0.iter().map(config::Match::told).collect(),
            legacy,
            modern,
            itself: self.itself(&at, route),
            weight,
            group: Group::new(group),
            sticky: route.sticky.iter().filter_map(KeySource::of).collect(),
            keyless: route.keyless,
            pins: route.pin.as_ref().and_then(Pins::new).map(Box::new),
            force: self.force(&at, route),
            rate_limit: self.rate_limit(route),
            sync: route.sync.as_ref().and_then(|name| self.sync(&at, name)),
            timeout: route.timeout,
            deadline: route.deadline,
            lowered: None,
            fallback: route.fallback.or_else(|| default_fallback(route, weight)),
            fallback_on: route
                .fallback_on
                .iter()
                .filter_map(|status| http::StatusCode::from_u16(*status).ok())
                .collect(),
            expose: route.expose,
            reads: route.reads.as_ref().map(|reads| Box::new(self.reads(&format!("{at}.reads"), reads))),
            shadow: route.shadow.clone(),
            compare: route.compare.clone(),
            cap: route.rollout.as_ref().map(|_| Arc::default()),
        }
    }

    /// Legacy, unchanged.
    fn default_route(&mut self) -> Route {
        let legacy = self.upstream("default", &self.config.default).map(|(upstream, index)| Target {
            own: self.own(&upstream, None),
            upstream,
            index,
            rewrite: None,
            shaping: None,
        });
        Route {
            index: self.config.routes.len(),
            name: DEFAULT.into(),
            matched: Box::default(),
            legacy,
            modern: None,
            itself: None,
            weight: Weight::ZERO,
            group: Group::new(DEFAULT),
            sticky: Box::default(),
            keyless: config::Keyless::default(),
            pins: None,
            force: None,
            rate_limit: None,
            sync: None,
            timeout: None,
            deadline: None,
            lowered: None,
            fallback: Some(Fallback::None),
            fallback_on: Box::default(),
            expose: false,
            reads: None,
            shadow: None,
            compare: None,
            cap: None,
        }
    }

    fn rate_limit(&self, route: &config::Route) -> Option<Box<RateLimit>> {
        let copied = self.config.identity.as_ref().map_or(&[][..], |identity| &identity.copy);
        RateLimit::new(route.rate_limit.as_ref()?, copied).map(Box::new)
    }

    fn force(&mut self, at: &str, route: &config::Route) -> Option<Box<Force>> {
        Force::new(route.force.as_ref()?).map(|force| force.map(Box::new)).unwrap_or_else(|error| {
            let message = format!("the system has no randomness to give: {error}");
            self.problems.push(Problem::error(format!("{at}.force"), message));
            None
        })
    }

    fn sync(&mut self, at: &str, name: &str) -> Option<SyncRoute> {
        let (Some(rules), Some(link)) = (self.config.syncs.get(name), self.links.sync(name)) else {
            let known = self.config.syncs.keys().map(String::as_str);
            self.problems.push(Problem::unknown(format!("{at}.sync"), "sync", name, known));
            return None;
        };
        Some(SyncRoute { name: name.into(), link, read_your_writes: rules.read_your_writes, max_lag: rules.max_lag })
    }
}

/// Reads on a synced route at any weight; `unsent` below 100 and nothing at 100 on the others. `None` where a rollout moves the weight.
fn default_fallback(route: &config::Route, weight: Weight) -> Option<Fallback> {
    Some(match (&route.legacy, &route.modern, &route.sync) {
        (None, _, _) | (_, None, _) => Fallback::None,
        (_, _, Some(_)) => Fallback::Reads,
        _ if route.rollout.is_some() => return None,
        _ if weight == Weight::FULL => Fallback::None,
        _ => Fallback::Unsent,
    })
}

/// How often each of some names occurs: the later ones are the wrong ones.
pub(super) fn first_seen<'n>(names: impl Iterator<Item = &'n str>) -> BTreeMap<&'n str, usize> {
    let mut first = BTreeMap::new();
    for (at, name) in names.enumerate() {
        first.entry(name).or_insert(at);
    }
    first
}
