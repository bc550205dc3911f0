//! `redirect:` and `respond:` to what a route answers by itself.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Compiler;
use crate::{
    config,
    table::{Itself, Problem, itself::Redirect},
};

/// Bytes of the longest body that a route may say by itself.
const LARGEST_BODY: usize = 64 << 10;

impl Compiler<'_> {
    pub(super) fn itself(&mut self, at: &str, route: &config::Route) -> Option<Box<Itself>> {
        let redirect = route.redirect.as_ref().map(|redirect| self.redirect(&format!("{at}.redirect"), redirect));
        let respond = route.respond.as_ref().map(|respond| self.respond(&format!("{at}.respond"), respond));
        redirect.or(respond).map(Box::new)
    }

    pub(super) fn redirect(&mut self, at: &str, redirect: &config::Redirect) -> Itself {
        for (key, path) in [("path", &redirect.path), ("path_prefix", &redirect.path_prefix)] {
            let Some(path) = path else { continue };
            let at = format!("{at}.{key}");
            if path.starts_with('/') {
                self.normal_form(&at, path);
            } else {
                self.problems.push(Problem::error(at, "a path must begin with `/`"));
            }
        }
        if let Some(host) = &redirect.host
            && (self.host(&format!("{at}.host"), host).is_some() && host.contains(':') && !host.ends_with(']'))
        {
            self.problems.push(
                Problem::error(format!("{at}.host"), "a redirect's host is without a port")
                    .hint("it has a key: `port`"),
            );
        }
        Itself::Redirect(Redirect {
            status: StatusCode::from_u16(redirect.status.get()).unwrap_or(StatusCode::FOUND),
            scheme: redirect.scheme,
            host: redirect.host.as_deref().map(Into::into),
            port: redirect.port,
            path: redirect.path.as_deref().map(Into::into),
            prefix: redirect.path_prefix.as_deref().map(|prefix| prefix.strip_suffix('/').unwrap_or(prefix).into()),
        })
    }

    pub(super) fn respond(&mut self, at: &str, respond: &config::Respond) -> Itself {
        let status = StatusCode::from_u16(respond.status).ok().filter(|status| (200..=599).contains(&status.as_u16()));
        if status.is_none() {
            self.problems.push(
                Problem::error(format!("{at}.status"), format!("`{}` is no status of an answer", respond.status))
                    .hint("expected 200 to 599"),
            );
        }
        let status = status.unwrap_or(StatusCode::OK);
        let body = respond.body.as_deref().unwrap_or_default();
        if body.len() > LARGEST_BODY {
            self.problems.push(
                Problem::error(
                    format!("{at}.body"),
                    format!("the body has {} bytes, and 64 KiB are allowed", body.len()),
                )
                .hint("let an upstream answer what is so large"),
            );
        } else if !body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
            self.problems.push(
                Problem::error(format!("{at}.body"), format!("an answer with status {} has no body", status.as_u16()))
                    .hint("leave `body` out"),
            );
        }
        let lines = self.lines(&format!("{at}.headers"), &respond.headers);
        let mut headers: HeaderMap = lines.into_iter().collect();
        if !body.is_empty() {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            headers.entry(http::header::CONTENT_TYPE).or_insert(text);
        }
        Itself::Respond { head: (status, headers), body: Bytes::copy_from_slice(body.as_bytes()) }
    }
}
