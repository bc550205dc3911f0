//! TLS of the upstreams whose endpoints begin with `https://`: the one part of a config for which files beside it are read.

use std::{collections::BTreeMap, sync::Arc};

use super::{Problem, Severity};
use crate::{
    config::{Config, Protocol, Upstream},
    upstream::Trust,
};

/// By the upstream's name; none for those that are spoken to in the clear.
#[derive(Debug, Default)]
pub(crate) struct Trusts(BTreeMap<String, Arc<Trust>>);

// === impl Trusts ===

impl Trusts {
    pub(super) fn compile(config: &Config, problems: &mut Vec<Problem>) -> Self {
        let mut trusts = Self::default();
        for (name, upstream) in &config.upstreams {
            let before = errors(problems);
            rules(name, upstream, problems);
            if !upstream.is_tls() || errors(problems) > before {
                continue;
            }
            match Trust::load(name, upstream) {
                Ok(trust) => {
                    trusts.0.insert(name.clone(), Arc::new(trust));
                }
                Err(problem) => problems.push(problem),
            }
        }
        trusts
    }

    pub(crate) fn of(&self, upstream: &str) -> Option<&Arc<Trust>> {
        self.0.get(upstream)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Trust>> {
        self.0.values()
    }

    /// Connections and sessions outlive a reload that leaves the keys as they were; what the files say now counts all the same.
    pub(super) fn follow(&mut self, before: &Self) {
        for (name, trust) in &mut self.0 {
            if let Some(old) = before.0.get(name)
                && old == trust
            {
                old.adopt(trust);
                *trust = Arc::clone(old);
            }
        }
    }
}

fn errors(problems: &[Problem]) -> usize {
    problems.iter().filter(|problem| problem.severity == Severity::Error).count()
}

fn rules(name: &str, upstream: &Upstream, problems: &mut Vec<Problem>) {
    let at = format!("upstreams.{name}");
    let clear = upstream.endpoints.iter().position(|endpoint| !endpoint.0.is_tls());
    match (upstream.is_tls(), clear) {
        (true, Some(index)) => problems.push(
            Problem::error(
                format!("{at}.endpoints[{index}]"),
                format!("some endpoints of `{name}` begin with `https://`, and this one does not"),
            )
            .hint("begin all of them with `https://`, or make two upstreams"),
        ),
        (false, _) if upstream.tls.is_some() => problems.push(
            Problem::error(
                format!("{at}.tls"),
                format!("`tls` is given, but no endpoint of `{name}` begins with `https://`"),
            )
            .hint("begin the endpoints with `https://`, or leave `tls` out"),
        ),
        _ => {}
    }
    if upstream.protocol == Protocol::Auto && !upstream.is_tls() {
        problems.push(
            Problem::warning(
                format!("{at}.protocol"),
                "`auto` is chosen in the TLS handshake: without `https://` it is HTTP/1.1",
            )
            .hint("say `http2` for HTTP/2 in the clear, or leave it out"),
        );
    }
    let Some(tls) = &upstream.tls else { return };
    let half = match (&tls.client_cert, &tls.client_key) {
        (Some(_), None) => Some(("client_cert", "client_key")),
        (None, Some(_)) => Some(("client_key", "client_cert")),
        _ => None,
    };
    if let Some((has, lacks)) = half {
        problems.push(
            Problem::error(format!("{at}.tls.{has}"), format!("`{has}` is given without `{lacks}`"))
                .hint("name both files, or neither"),
        );
    }
}
