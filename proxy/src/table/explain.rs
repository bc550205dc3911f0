//! Why a request is answered by one route and not by another, in words: for `banyan explain`. Never a value of the request, and of what a
//! match wants of headers and query parameters only the names.

use std::{cmp::Reverse, fmt::Write, sync::Arc};

use super::{
    Route, RouteTable,
    matcher::Matcher,
    rule::{HostRule, Normal, PathRule, Rule, Unmet},
};

/// Why a route was found.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The route that answers.
    pub route: Arc<Route>,
    /// What of it matched: `prefix /payments`; `nothing else matches` for `default`.
    pub matched: String,
    /// The other routes that match too, in order of precedence, each with what of it matched and why it comes behind; `default` is not
    /// among them.
    pub others: Vec<(Arc<Route>, String)>,
    /// The routes that do not match, the nearest first; `default` is not among them.
    pub misses: Vec<Miss>,
    /// The path that was matched.
    pub path: String,
}

/// Why a route does not match; of several matches, why the one that came nearest does not.
#[derive(Debug, Clone)]
pub struct Miss {
    /// The route.
    pub route: Arc<Route>,
    /// What did not hold.
    pub by: MissedBy,
    /// In words: `the path is not under /orders`.
    pub why: String,
}

/// What of a match did not hold, in the order in which it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedBy {
    /// Another host.
    Host,
    /// Another path.
    Path,
    /// Another method.
    Method,
    /// A header that is missing, another, or should not be there.
    Header,
    /// A query parameter likewise.
    Query,
    /// The client is in none of the networks.
    Client,
}

pub(super) fn explain(table: &RouteTable, request: &Normal<'_>) -> Explanation {
    let mut matching: Vec<(Arc<Route>, String)> = Vec::new();
    let mut first = None;
    table.matcher.visit(request, &mut |hit| {
        let route = &table.routes[hit.rule.route];
        let first = *first.get_or_insert(hit.rule);
        if !matching.iter().any(|(known, _)| known.index == route.index) {
            let behind =
                if matching.is_empty() { String::new() } else { format!("; {}", comes_behind(hit.rule, first)) };
            matching.push((Arc::clone(route), in_words(hit.rule) + &behind));
        }
        true
    });
    let mut misses: Vec<Miss> = Vec::new();
    for rule in table.matcher.rules() {
        let route = &table.routes[rule.route];
        if matching.iter().any(|(known, _)| known.index == route.index) {
            continue;
        }
        let (by, why) = missed(rule, request);
        match misses.iter_mut().find(|miss| miss.route.index == route.index) {
            Some(known) if known.by < by => (known.by, known.why) = (by, why),
            Some(_) => {}
            None => misses.push(Miss { route: Arc::clone(route), by, why }),
        }
    }
    misses.sort_by_key(|miss| Reverse(miss.by));
    let mut matching = matching.into_iter();
    let (route, matched) =
        matching.next().unwrap_or_else(|| (Arc::clone(table.default_route()), "nothing else matches".to_owned()));
    Explanation { route, matched, others: matching.collect(), misses, path: request.path.to_owned() }
}

/// The first thing of a rule that does not hold. Host and path are asked of an index of that rule alone, so that they mean the same here.
fn missed(rule: &Rule, request: &Normal<'_>) -> (MissedBy, String) {
    let is_met = |path: PathRule| {
        let bare =
            Rule { host: rule.host.clone(), path, methods: Vec::new(), headers: Vec::new(), rare: None, ..*rule };
        Matcher::new(vec![bare]).find(request).is_some()
    };
    if !is_met(PathRule::Prefix("".into())) {
        return (MissedBy::Host, format!("the host is not {}", host_in_words(&rule.host)));
    }
    if !is_met(rule.path.clone()) {
        let why = match &rule.path {
            PathRule::Exact(path) => format!("the path is not {path}"),
            PathRule::Regex(pattern) => format!("the path does not fit the pattern {}", pattern.as_str()),
            PathRule::Prefix(prefix) => format!("the path is not under {prefix}"),
        };
        return (MissedBy::Path, why);
    }
    match rule.unmet(request) {
        Some(Unmet::Header(name)) => (MissedBy::Header, format!("header {name} is not as it wants")),
        Some(Unmet::Query(name)) => (MissedBy::Query, format!("query parameter {name} is not as it wants")),
        Some(Unmet::Client) => (MissedBy::Client, "the client's address is in none of its networks".to_owned()),
        Some(Unmet::Method) | None => {
            let methods: Vec<&str> = rule.methods.iter().map(http::Method::as_str).collect();
            (MissedBy::Method, format!("the method is not {}", methods.join(" or ")))
        }
    }
}

/// Why a rule that holds too is asked after the one that answers: the order of the table's precedence.
fn comes_behind(rule: &Rule, first: &Rule) -> &'static str {
    let kind = |rule: &Rule| match rule.path {
        PathRule::Exact(_) => 0,
        PathRule::Regex(_) => 1,
        PathRule::Prefix(_) => 2,
    };
    let counts = |rule: &Rule| {
        let (headers, query) = rule.rare.as_ref().map_or((0, 0), |rare| (rare.headers.len(), rare.query.len()));
        (headers + rule.headers.len(), query)
    };
    let has_client = |rule: &Rule| rule.rare.as_ref().is_some_and(|rare| !rare.client.is_empty());
    if rule.host != first.host {
        "a less specific host"
    } else if kind(rule) != kind(first) {
        if kind(first) == 0 { "an exact path comes first" } else { "a pattern comes before prefixes" }
    } else if matches!(rule.path, PathRule::Prefix(_)) && rule.path != first.path {
        "a shorter prefix"
    } else if rule.methods.is_empty() != first.methods.is_empty() {
        "no methods"
    } else if counts(rule).0 != counts(first).0 {
        "fewer headers"
    } else if counts(rule).1 != counts(first).1 {
        "fewer query parameters"
    } else if has_client(rule) != has_client(first) {
        "no client"
    } else {
        "later in the file"
    }
}

fn host_in_words(host: &HostRule) -> String {
    match host {
        HostRule::Exact(host) => host.to_string(),
        HostRule::Below(suffix) => format!("*{suffix}"),
        HostRule::Any => "*".to_owned(),
    }
}

/// `prefix /payments, host shop.example, method GET, header x-tenant, query v, client`.
fn in_words(rule: &Rule) -> String {
    let mut words = match &rule.path {
        PathRule::Exact(path) => format!("path {path}"),
        PathRule::Regex(pattern) => format!("pattern {}", pattern.as_str()),
        PathRule::Prefix(prefix) if prefix.is_empty() => "prefix /".to_owned(),
        PathRule::Prefix(prefix) => format!("prefix {prefix}"),
    };
    if rule.host != HostRule::Any {
        let _ = write!(words, ", host {}", host_in_words(&rule.host));
    }
    for (at, method) in rule.methods.iter().enumerate() {
        let _ = write!(words, "{} {method}", if at == 0 { ", method" } else { " or" });
    }
    let rare = rule.rare.as_deref();
    let names = rule.headers.iter().map(|(name, _)| name);
    for name in names.chain(rare.into_iter().flat_map(|rare| &rare.headers).map(|(name, _)| name)) {
        let _ = write!(words, ", header {name}");
    }
    for (name, _) in rare.into_iter().flat_map(|rare| &rare.query) {
        let _ = write!(words, ", query {name}");
    }
    if rare.is_some_and(|rare| !rare.client.is_empty()) {
        words.push_str(", client");
    }
    words
}
