//! Matches that never get a request: told only where it is certain.
//!
//! Where hosts or paths differ, precedence lets the narrower one win, whatever the order. So a match is hidden by others of the same host and
//! path that come before it and want no more than it does; by an exact path that its pattern spells; or by a pattern that fits every path,
//! since patterns come before prefixes.

use http::{HeaderName, Method};

use super::{
    Problem,
    rule::{PathRule, Rule, Value},
};
use crate::config::Config;

const OURS: &str = "x-banyan-";

/// A match that has no request left, and why.
struct Hidden<'r> {
    /// The rule that takes them; `None` when there is no such request at all.
    by: Option<&'r Rule>,
    why: String,
    hint: &'static str,
}

pub(super) fn unreachable(config: &Config, rules: &[Rule], problems: &mut Vec<Problem>) {
    for rule in rules {
        let Some(hidden) = impossible(rule).or_else(|| hidden(rule, rules)) else { continue };
        let route = &config.routes[rule.route];
        let is_one_of_many = route.matches.0.len() > 1;
        let number = if is_one_of_many { format!("[{}]", rule.index) } else { String::new() };
        let what = if is_one_of_many { "this match of route" } else { "route" };
        let why = match hidden.by {
            Some(by) => format!("route `{}` {}", config.routes[by.route].name, hidden.why),
            None => hidden.why,
        };
        problems.push(
            Problem::warning(
                format!("routes[{}].match{number}", rule.route),
                format!("{what} `{}` never answers: {why}", route.name),
            )
            .hint(hidden.hint),
        );
    }
}

/// A match that no request can meet.
fn impossible(rule: &Rule) -> Option<Hidden<'_>> {
    let never = |why: String, hint| Some(Hidden { by: None, why, hint });
    if let PathRule::Regex(pattern) = &rule.path
        && pattern.fits_no_path()
    {
        let why = format!("no path fits the pattern `{}`", pattern.as_str());
        return never(why, "the whole path must fit, and it begins with `/`");
    }
    if !rule.methods.is_empty() && rule.methods.iter().all(|method| *method == Method::CONNECT) {
        return never("`CONNECT` is refused before any route".to_owned(), "Banyan is no forward proxy");
    }
    let is_stripped =
        |(name, value): &(&HeaderName, Value)| name.as_str().starts_with(OURS) && *value != Value::Present(false);
    let stripped = headers(rule).find(is_stripped);
    stripped.and_then(|(name, _)| {
        never(format!("`{name}` is stripped from every request"), "`X-Banyan-*` is Banyan's word; choose another name")
    })
}

fn hidden<'r>(rule: &Rule, rules: &'r [Rule]) -> Option<Hidden<'r>> {
    let before = || rules.iter().filter(|other| !std::ptr::eq(*other, rule)).filter(|other| comes_before(other, rule));
    let hides = || before().filter(|other| wants_no_more(other, rule));
    let is_taken = |method| hides().any(|other| other.methods.contains(method));
    let is_hidden = hides().any(|other| other.methods.is_empty())
        || (!rule.methods.is_empty() && rule.methods.iter().all(is_taken));
    let by = hides().find(|other| other.route != rule.route).filter(|_| is_hidden)?;
    let path = rule.path.text();
    let (why, hint) = if by.path == rule.path {
        (
            format!("takes the same requests of `{path}` before it"),
            "the earlier one of two equal matches wins; tell them apart by host, method, header, query or client",
        )
    } else {
        (
            format!("takes all requests of `{path}` before it"),
            "an exact path comes before patterns, and patterns come before prefixes",
        )
    };
    Some(Hidden { by: Some(by), why, hint })
}

/// Whether `a` is asked before `b` of any request that both are asked of, and takes every path that `b` takes.
fn comes_before(a: &Rule, b: &Rule) -> bool {
    if a.host != b.host {
        return false;
    }
    let in_order = || a.precedence() < b.precedence();
    match (&a.path, &b.path) {
        (PathRule::Exact(path), PathRule::Regex(pattern)) => pattern.is_literal() && pattern.as_str() == &**path,
        (PathRule::Regex(all), PathRule::Prefix(prefix)) => all.fits_every_path(prefix.is_empty()),
        (PathRule::Regex(one), PathRule::Regex(two)) => (one == two || one.fits_every_path(true)) && in_order(),
        (one, two) => one == two && in_order(),
    }
}

/// Whether all that `a` wants besides methods holds wherever `b` does.
fn wants_no_more(a: &Rule, b: &Rule) -> bool {
    let header =
        |(name, wanted): (&HeaderName, Value)| headers(b).any(|(known, given)| known == name && given.implies(&wanted));
    let rare = a.rare.as_deref();
    let given = b.rare.as_deref();
    let query = |(name, wanted): &(Box<str>, Value)| {
        given.is_some_and(|given| given.query.iter().any(|(known, value)| known == name && value.implies(wanted)))
    };
    let clients = given.map(|given| given.client.as_slice()).unwrap_or_default();
    let is_client = |rare: &super::rule::Rare| {
        let is_within = |net| rare.client.iter().any(|wider| wider.contains(net));
        rare.client.is_empty() || (!clients.is_empty() && clients.iter().all(is_within))
    };
    headers(a).all(header) && rare.is_none_or(|rare| rare.query.iter().all(query) && is_client(rare))
}

/// All that a rule wants of headers.
fn headers(rule: &Rule) -> impl Iterator<Item = (&HeaderName, Value)> {
    let exact = rule.headers.iter().map(|(name, value)| (name, Value::Exact(value.clone())));
    let rare = rule.rare.iter().flat_map(|rare| &rare.headers);
    exact.chain(rare.map(|(name, value)| (name, value.clone())))
}
