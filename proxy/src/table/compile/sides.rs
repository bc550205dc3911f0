//! `legacy:` and `modern:` to targets: upstream, own address, prefix, host and headers.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderValue, uri::Authority};

use super::Compiler;
use crate::{
    config,
    table::{Changes, Own, Problem, Renames, Shaping, Target},
};

impl Compiler<'_> {
    pub(super) fn target(&mut self, at: &str, side: &config::Side, cookies: Renames) -> Option<Target> {
        let rewrite = side.rewrite.as_ref().map(|rewrite| {
            let text = &rewrite.path_prefix;
            self.normal_form(&format!("{at}.rewrite.path_prefix"), text);
            text.strip_suffix('/').unwrap_or(text).into()
        });
        let shaping = self.shaping(at, side, cookies);
        let (upstream, index) = self.upstream(at, &side.upstream)?;
        Some(Target { own: self.own(&upstream, side.host.as_deref()), upstream, index, rewrite, shaping })
    }

    pub(super) fn own(&self, upstream: &str, host: Option<&str>) -> Own {
        let endpoints = self.config.upstreams.get(upstream).into_iter().flat_map(|upstream| &upstream.endpoints);
        Own::new(endpoints.map(|endpoint| endpoint.0.url.as_str()), host)
    }

    pub(super) fn shaping(&mut self, at: &str, side: &config::Side, cookies: Renames) -> Option<Box<Shaping>> {
        let host = side.host.as_ref().and_then(|host| self.host(&format!("{at}.host"), host));
        let request = self.changes(&format!("{at}.headers.request"), &side.headers.request);
        let response = self.changes(&format!("{at}.headers.response"), &side.headers.response);
        let shaping = Shaping { host, cookies, request, response };
        (shaping != Shaping::default()).then(|| Box::new(shaping))
    }

    pub(super) fn host(&mut self, at: &str, host: &str) -> Option<HeaderValue> {
        let authority = host.parse::<Authority>().ok().filter(|authority| {
            !authority.host().is_empty() && !host.contains('@') && (authority.port().is_some() || !host.ends_with(':'))
        });
        if authority.is_none() {
            self.problems.push(
                Problem::error(at, format!("`{host}` is no host"))
                    .hint("expected a name, with a port if need be: `payments.internal`, `payments.internal:8080`"),
            );
        }
        authority.and_then(|_| HeaderValue::from_str(host).ok())
    }

    pub(super) fn changes(&mut self, at: &str, changes: &config::HeaderChanges) -> Changes {
        let remove = changes.remove.iter().enumerate();
        let remove =
            remove.filter_map(|(number, name)| self.changeable(&format!("{at}.remove[{number}]"), name)).collect();
        let set = self.lines(&format!("{at}.set"), &changes.set).into();
        Changes { remove, set, add: self.lines(&format!("{at}.add"), &changes.add).into() }
    }

    pub(super) fn lines(
        &mut self,
        at: &str,
        lines: &BTreeMap<config::HeaderName, String>,
    ) -> Vec<(http::HeaderName, HeaderValue)> {
        let line = |(name, value): (&config::HeaderName, &String)| {
            let at = format!("{at}.{}", name.as_str());
            let name = self.changeable(&at, name)?;
            let value = HeaderValue::from_str(value);
            if value.is_err() {
                self.problems.push(Problem::error(&at, "the value holds control characters"));
            }
            Some((name, value.ok()?))
        };
        lines.iter().filter_map(line).collect()
    }

    /// Not what frames a message or belongs to one hop (RFC 9110, 7.6.1), and not what only Banyan may say.
    pub(super) fn changeable(&mut self, at: &str, name: &config::HeaderName) -> Option<http::HeaderName> {
        let (why, hint) = match name.as_str() {
            "host" => ("is not changed as a header", "a side of a route has a key for it: `host: payments.internal`"),
            "content-length" | "transfer-encoding" | "trailer" | "expect" => {
                ("says how a message is framed", "Banyan frames both legs itself; leave it out")
            }
            "connection" | "keep-alive" | "proxy-connection" | "te" | "upgrade" => {
                ("belongs to one connection", "Banyan says it itself on each leg; leave it out")
            }
            ours if ours.starts_with("x-banyan-") => ("is Banyan's own word", "choose a name without `x-banyan-`"),
            _ => return http::HeaderName::from_bytes(name.as_str().as_bytes()).ok(),
        };
        self.problems.push(Problem::error(at, format!("`{}` {why}", name.as_str())).hint(hint));
        None
    }

    pub(super) fn upstream(&mut self, at: &str, name: &str) -> Option<(Arc<str>, usize)> {
        let found = self.config.upstreams.keys().position(|known| known == name);
        if found.is_none() {
            let known = self.config.upstreams.keys().map(String::as_str);
            self.problems.push(Problem::unknown(at, "upstream", name, known));
        }
        found.map(|index| (name.into(), index))
    }
}
