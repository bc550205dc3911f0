//! Why a request is answered by one route and not by another, in words: for `banyan explain`.

use std::{fmt::Write, sync::Arc};

use super::{
    Normal, Route, RouteTable,
    matcher::{HostRule, PathRule, Rule},
};

/// Why a route was found.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The route that answers.
    pub route: Arc<Route>,
    /// What of it matched: `prefix /payments`; `nothing else matches` for `default`.
    pub matched: String,
    /// The other routes that match too, in order of precedence, each with what of it matched; `default` is not among them.
    pub others: Vec<(Arc<Route>, String)>,
    /// The path that was matched.
    pub path: String,
}

pub(super) fn explain(table: &RouteTable, request: &Normal<'_>) -> Explanation {
    let mut matching: Vec<(Arc<Route>, String)> = Vec::new();
    table.matcher.visit(request, &mut |hit| {
        let route = &table.routes[hit.rule.route];
        if !matching.iter().any(|(known, _)| known.index == route.index) {
            matching.push((Arc::clone(route), in_words(hit.rule)));
        }
        true
    });
    let mut matching = matching.into_iter();
    let (route, matched) =
        matching.next().unwrap_or_else(|| (Arc::clone(table.default_route()), "nothing else matches".to_owned()));
    Explanation { route, matched, others: matching.collect(), path: request.path.to_owned() }
}

/// `prefix /payments, host shop.example, method GET, header x-tenant`. Header values stay out.
fn in_words(rule: &Rule) -> String {
    let mut words = match &rule.path {
        PathRule::Exact(path) => format!("path {path}"),
        PathRule::Prefix(prefix) if prefix.is_empty() => "prefix /".to_owned(),
        PathRule::Prefix(prefix) => format!("prefix {prefix}"),
    };
    match &rule.host {
        HostRule::Exact(host) => {
            let _ = write!(words, ", host {host}");
        }
        HostRule::Below(suffix) => {
            let _ = write!(words, ", host *{suffix}");
        }
        HostRule::Any => {}
    }
    for (at, method) in rule.methods.iter().enumerate() {
        let _ = write!(words, "{} {method}", if at == 0 { ", method" } else { " or" });
    }
    for (name, _) in &rule.headers {
        let _ = write!(words, ", header {name}");
    }
    words
}
