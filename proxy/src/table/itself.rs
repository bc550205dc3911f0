//! What a route answers by itself, without any upstream: a redirect, or always the same.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Public;
use crate::config;

/// Compiled `redirect:` or `respond:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Itself {
    /// Elsewhere.
    Redirect(Redirect),
    /// Always the same.
    Respond {
        /// With these headers, without its length.
        head: (StatusCode, HeaderMap),
        /// Perhaps empty.
        body: Bytes,
    },
}

/// What of a URL a redirect replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub(super) status: StatusCode,
    pub(super) scheme: Option<config::Scheme>,
    pub(super) host: Option<Box<str>>,
    pub(super) port: Option<u16>,
    pub(super) path: Option<Box<str>>,
    /// Without a trailing slash.
    pub(super) prefix: Option<Box<str>>,
}

/// The request, as far as a redirect needs it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'r> {
    /// As the client wrote it.
    pub raw_path: &'r str,
    /// In normal form.
    pub path: &'r str,
    /// Where the prefix that matched ends in it.
    pub prefix_end: usize,
    /// Without `?`.
    pub query: Option<&'r str>,
    /// Scheme and authority that the client knows this place by.
    pub public: Public<'r>,
}

/// A whole answer of Banyan's own.
pub type Said = (StatusCode, HeaderMap, Bytes);

// === impl Itself ===

impl Itself {
    /// The answer.
    #[must_use]
    pub fn answer(&self, asked: &Asked<'_>) -> Said {
        match self {
            Self::Respond { head: (status, headers), body } => (*status, headers.clone(), body.clone()),
            Self::Redirect(redirect) => {
                let mut headers = HeaderMap::with_capacity(1);
                // A path in another character set cannot come: hyper refuses it.
                if let Ok(location) = HeaderValue::try_from(redirect.location(asked)) {
                    headers.insert(header::LOCATION, location);
                }
                (redirect.status, headers, Bytes::new())
            }
        }
    }

    /// In words: `308 to https://shop.example/…`, `410`.
    #[must_use]
    pub fn in_words(&self, asked: &Asked<'_>) -> String {
        match self {
            Self::Respond { head: (status, _), .. } => status.as_u16().to_string(),
            Self::Redirect(redirect) => format!("{} to {}", redirect.status.as_u16(), redirect.location(asked)),
        }
    }
}

// === impl Redirect ===

impl Redirect {
    fn location(&self, asked: &Asked<'_>) -> String {
        let public = &asked.public;
        let scheme = match self.scheme {
            Some(scheme) => scheme.as_str(),
            None => public.scheme,
        };
        let (host, port) = match public.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port.parse::<u16>().ok()),
            _ => (public.authority, None),
        };
        let port = self.port.or(port.filter(|_| self.scheme.is_none()));
        let mut out = String::new();
        let host = self.host.as_deref().unwrap_or(host);
        // An old client may have named none: then it is here.
        if !host.is_empty() {
            out = format!("{scheme}://{host}");
            let usual = if scheme == "https" { 443 } else { 80 };
            if let Some(port) = port.filter(|port| *port != usual) {
                out.push_str(&format!(":{port}"));
            }
        }
        match (&self.path, &self.prefix) {
            (Some(path), _) => out.push_str(path),
            (None, Some(prefix)) => {
                let rest = asked.path.get(asked.prefix_end..).unwrap_or_default();
                out.push_str(prefix);
                out.push_str(if prefix.is_empty() && rest.is_empty() { "/" } else { rest });
            }
            // As it came it could begin with two slashes, which name a host.
            (None, None) if host.is_empty() => out.push_str(asked.path),
            (None, None) => out.push_str(asked.raw_path),
        }
        if let Some(query) = asked.query {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_replaces_what_it_names_and_keeps_the_query() {
        let redirect = |more: serde_json::Value| {
            let file: config::Redirect = serde_json::from_value(more).unwrap();
            Redirect {
                status: StatusCode::FOUND,
                scheme: file.scheme,
                host: file.host.map(Into::into),
                port: file.port,
                path: file.path.map(Into::into),
                prefix: file.path_prefix.map(|prefix| prefix.trim_end_matches('/').into()),
            }
        };
        let asked = |authority, query| Asked {
            raw_path: "/old//%37",
            path: "/old/7",
            prefix_end: 4,
            query,
            public: Public { scheme: "http", authority, prefix: "/old" },
        };
        use serde_json::json;
        for (authority, file, expected) in [
            ("shop:8080", json!({"scheme": "https"}), "https://shop/old//%37?a=b"),
            ("shop:8080", json!({"scheme": "https", "port": 8443}), "https://shop:8443/old//%37?a=b"),
            ("shop:8080", json!({"host": "new"}), "http://new:8080/old//%37?a=b"),
            ("shop:80", json!({"host": "new"}), "http://new/old//%37?a=b"),
            ("", json!({"path": "/new"}), "/new?a=b"),
            ("", json!({"scheme": "https"}), "/old/7?a=b"),
            ("shop", json!({"port": 80}), "http://shop/old//%37?a=b"),
            ("[::1]:8080", json!({"port": 81}), "http://[::1]:81/old//%37?a=b"),
            ("[::1]", json!({"port": 81}), "http://[::1]:81/old//%37?a=b"),
            ("shop", json!({"path": "/new"}), "http://shop/new?a=b"),
            ("shop", json!({"path_prefix": "/new/"}), "http://shop/new/7?a=b"),
            ("shop", json!({"path_prefix": "/"}), "http://shop/7?a=b"),
        ] {
            assert_eq!(redirect(file.clone()).location(&asked(authority, Some("a=b"))), expected, "{file}");
        }
        let whole = Asked { path: "/old", query: None, ..asked("shop", None) };
        assert_eq!(redirect(json!({"path_prefix": "/"})).location(&whole), "http://shop/");
    }
}
