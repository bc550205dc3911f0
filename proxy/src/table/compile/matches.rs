//! `match:` to rules.

use super::Compiler;
use crate::{
    config::{self, Match, Wanted},
    table::{
        Problem, checks, normalise,
        pattern::Pattern,
        rule::{HostRule, PathRule, Rare, Rule, Value},
    },
};

impl Compiler<'_> {
    pub(super) fn matches(&mut self, index: usize, at: &str, route: &config::Route) {
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
    pub(super) fn rule(&mut self, at: &str, one: &Match, route: usize, index: usize) -> Option<Rule> {
        checks::one_match(at, one, &mut self.problems);
        let path = self.path(at, one);
        let rule = self.rule_of(at, one, path.clone().unwrap_or(PathRule::Prefix("".into())));
        path.map(|_| Rule { route, index, ..rule })
    }

    pub(super) fn rule_of(&mut self, at: &str, one: &Match, path: PathRule) -> Rule {
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
        Rule { host, path, methods, headers, rare, route: 0, index: 0 }
    }

    pub(super) fn path(&mut self, at: &str, one: &Match) -> Option<PathRule> {
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

    pub(super) fn value(&mut self, at: &str, wanted: &Wanted) -> Option<Value> {
        match wanted {
            Wanted { exact: Some(text), .. } => Some(Value::Exact(text.as_bytes().into())),
            Wanted { regex: Some(text), .. } => self.pattern(&format!("{at}.regex"), text).map(Value::Fits),
            Wanted { present, .. } => present.map(Value::Present),
        }
    }

    pub(super) fn pattern(&mut self, at: &str, text: &str) -> Option<Pattern> {
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
    pub(super) fn normal_form(&mut self, at: &str, path: &str) {
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
