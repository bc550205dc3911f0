//! Serde structs to compiled routes, and everything that is wrong with them at once.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    DEFAULT, Group, KeySource, Problem, Route, RouteTable, Severity, SyncRoute, Target, Trusts, checks,
    matcher::Matcher,
    normalise,
    pattern::Pattern,
    rule::{HostRule, PathRule, Rare, Rule, Value},
    unreachable::unreachable,
};
use crate::{
    config::{self, Config, Fallback, Match, Wanted, Weight},
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
    let Compiler { mut problems, rules, .. } = compiler;
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        return Err(problems);
    }
    let routes = routes.into_iter().map(Arc::new).collect();
    Ok((RouteTable { routes, matcher: Matcher::new(rules), trusts }, problems))
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
        let legacy = route.legacy.as_ref().and_then(|side| self.target(&format!("{at}.legacy"), &side.0));
        let modern = route.modern.as_ref().and_then(|side| self.target(&format!("{at}.modern"), &side.0));
        let weight = match route.legacy {
            None => Weight::FULL,
            Some(_) => route.weight.unwrap_or_default(),
        };
        let group = route.group.as_ref().or(route.sync.as_ref()).unwrap_or(&route.name);
        Route {
            index,
            name: route.name.as_str().into(),
            legacy,
            modern,
            weight,
            group: Group::new(group),
            sticky: route.sticky.iter().filter_map(KeySource::of).collect(),
            keyless: route.keyless,
            pins: route.pin.as_ref().and_then(Pins::new).map(Box::new),
            force: self.force(&at, route),
            rate_limit: route.rate_limit.as_ref().and_then(RateLimit::new).map(Box::new),
            sync: route.sync.as_ref().and_then(|name| self.sync(&at, name)),
            timeout: route.timeout,
            deadline: route.deadline,
            lowered: None,
            fallback: route.fallback.unwrap_or_else(|| default_fallback(route, weight)),
            expose: route.expose,
            shadow: route.shadow.clone(),
            compare: route.compare.clone(),
        }
    }

    /// Legacy, unchanged.
    fn default_route(&mut self) -> Route {
        let legacy = self.upstream("default", &self.config.default).map(|(upstream, index)| Target {
            upstream,
            index,
            rewrite: None,
        });
        Route {
            index: self.config.routes.len(),
            name: DEFAULT.into(),
            legacy,
            modern: None,
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
            fallback: Fallback::None,
            expose: false,
            shadow: None,
            compare: None,
        }
    }

    fn target(&mut self, at: &str, side: &config::Side) -> Option<Target> {
        let rewrite = side.rewrite.as_ref().map(|rewrite| {
            let text = &rewrite.path_prefix;
            self.normal_form(&format!("{at}.rewrite.path_prefix"), text);
            text.strip_suffix('/').unwrap_or(text).into()
        });
        let (upstream, index) = self.upstream(at, &side.upstream)?;
        Some(Target { upstream, index, rewrite })
    }

    fn upstream(&mut self, at: &str, name: &str) -> Option<(Arc<str>, usize)> {
        let found = self.config.upstreams.keys().position(|known| known == name);
        if found.is_none() {
            let known = self.config.upstreams.keys().map(String::as_str);
            self.problems.push(Problem::unknown(at, "upstream", name, known));
        }
        found.map(|index| (name.into(), index))
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

    fn matches(&mut self, index: usize, at: &str, route: &config::Route) {
        let matches = &route.matches.0;
        if matches.is_empty() {
            let nothing = Problem::error(format!("{at}.match"), "an empty list matches nothing");
            self.problems.push(nothing.hint("for example `match: {path_prefix: /payments}`"));
        }
        for (number, one) in matches.iter().enumerate() {
            let at = if matches.len() == 1 { format!("{at}.match") } else { format!("{at}.match[{number}]") };
            let rule = self.rule(&at, one, index, number);
            self.rules.extend(rule);
        }
    }

    /// `None` when its path is wrong: nothing can be said of what it would match.
    fn rule(&mut self, at: &str, one: &Match, route: usize, index: usize) -> Option<Rule> {
        checks::one_match(at, one, &mut self.problems);
        let path = self.path(at, one);
        let host = match one.host.as_deref().map(str::to_ascii_lowercase) {
            None => HostRule::Any,
            Some(host) => match host.strip_prefix('*') {
                Some(suffix) => HostRule::Below(suffix.into()),
                None => HostRule::Exact(host.into()),
            },
        };
        let mut headers = Vec::new();
        let mut rare = Rare::default();
        for (name, wanted) in &one.headers {
            let value = self.value(&format!("{at}.headers.{}", name.as_str()), &wanted.0);
            match (http::HeaderName::from_bytes(name.as_str().as_bytes()), value) {
                (Ok(name), Some(Value::Exact(value))) => headers.push((name, value)),
                (Ok(name), Some(value)) => rare.headers.push((name, value)),
                _ => {}
            }
        }
        for (name, wanted) in &one.query {
            let value = self.value(&format!("{at}.query.{name}"), &wanted.0);
            rare.query.extend(value.map(|value| (name.as_str().into(), value)));
        }
        rare.client = one.client.as_ref().map(|client| client.get().to_vec()).unwrap_or_default();
        let methods = one.methods.iter().flatten().map(|method| method.get().clone()).collect();
        let rare = (rare != Rare::default()).then(|| Box::new(rare));
        Some(Rule { host, path: path?, methods, headers, rare, route, index })
    }

    fn path(&mut self, at: &str, one: &Match) -> Option<PathRule> {
        if let Some(path) = &one.path {
            self.normal_form(&format!("{at}.path"), path);
            return Some(PathRule::Exact(path.as_str().into()));
        }
        if let Some(prefix) = &one.path_prefix {
            self.normal_form(&format!("{at}.path_prefix"), prefix);
            return Some(PathRule::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).into()));
        }
        match &one.path_regex {
            Some(text) => self.pattern(&format!("{at}.path_regex"), text).map(PathRule::Regex),
            None => Some(PathRule::Prefix("".into())),
        }
    }

    fn value(&mut self, at: &str, wanted: &Wanted) -> Option<Value> {
        match wanted {
            Wanted { exact: Some(text), .. } => Some(Value::Exact(text.as_bytes().into())),
            Wanted { regex: Some(text), .. } => self.pattern(&format!("{at}.regex"), text).map(Value::Fits),
            Wanted { present, .. } => present.map(Value::Present),
        }
    }

    fn pattern(&mut self, at: &str, text: &str) -> Option<Pattern> {
        let pattern = Pattern::try_new(text);
        if let Err(error) = &pattern {
            self.problems.push(
                Problem::error(at, error.to_string())
                    .hint("patterns are those of Rust's `regex`, without look-around; the whole value must fit"),
            );
        }
        pattern.ok()
    }

    /// A path in the file must stand in the form that requests are matched in.
    fn normal_form(&mut self, at: &str, path: &str) {
        if !path.starts_with('/') {
            return; // The file's own check says so.
        }
        match normalise(path) {
            Ok(normal) if normal == path => {}
            Ok(normal) => self.problems.push(
                Problem::error(at, format!("`{path}` is not in normal form, so that no request would match it"))
                    .hint(format!("write `{normal}`")),
            ),
            Err(why) => self.problems.push(Problem::error(at, why.to_string())),
        }
    }
}

/// Reads on a synced route at any weight; `unsent` below 100 and nothing at 100 on the others.
fn default_fallback(route: &config::Route, weight: Weight) -> Fallback {
    match (&route.legacy, &route.modern, &route.sync) {
        (None, _, _) | (_, None, _) => Fallback::None,
        (_, _, Some(_)) => Fallback::Reads,
        _ if weight == Weight::FULL => Fallback::None,
        _ => Fallback::Unsent,
    }
}

/// How often each of some names occurs: the later ones are the wrong ones.
pub(super) fn first_seen<'n>(names: impl Iterator<Item = &'n str>) -> BTreeMap<&'n str, usize> {
    let mut first = BTreeMap::new();
    for (at, name) in names.enumerate() {
        first.entry(name).or_insert(at);
    }
    first
}
