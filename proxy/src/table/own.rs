//! An upstream's own address in its answers: `Location`, `Content-Location` and cookies that carry it are said of the public one.
//!
//! Its own address is one of its endpoints, or the `host` that the side is asked as, on its port, on the scheme's usual one or on an
//! endpoint's; under it, the prefix that the side's rewrite puts in place of the public one. What is relative to the request stays as it is.

use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_LOCATION, LOCATION, SET_COOKIE},
};

/// What one side of a route calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    endpoints: Box<[Place]>,
    host: Option<Place>,
    is_tls: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: Box<str>,
    port: Option<u16>,
}

/// What the client knows the same by.
#[derive(Debug, Clone, Copy)]
pub struct Public<'p> {
    /// `http` or `https`.
    pub scheme: &'p str,
    /// The host, with its port where the client said one.
    pub authority: &'p str,
    /// The prefix that matched, without a trailing slash.
    pub prefix: &'p str,
}

// === impl Own ===

impl Own {
    /// `endpoints` are addresses such as `http://payments.internal:7002`, `host` is what the side is asked as.
    #[must_use]
    pub fn new<'u>(endpoints: impl Iterator<Item = &'u str>, host: Option<&str>) -> Self {
        let mut is_tls = false;
        let mut place = |url: &str| {
            let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
            is_tls |= scheme == "https";
            let place = Place::of(rest.split('/').next().unwrap_or_default());
            Place { port: place.port.or(Some(usual_port(scheme))), ..place }
        };
        Self { endpoints: endpoints.map(&mut place).collect(), host: host.map(Place::of), is_tls }
    }

    /// Says all of it of the public address. `rewrite` is what stands in place of the public prefix.
    #[cold]
    pub(super) fn make_public(&self, headers: &mut HeaderMap, rewrite: Option<&str>, public: &Public<'_>) {
        for name in [LOCATION, CONTENT_LOCATION] {
            if let Some(line) = headers.get_mut(&name)
                && let Some(told) = text(line).and_then(|line| self.location(line, rewrite, public))
                && let Ok(told) = HeaderValue::try_from(told)
            {
                *line = told;
            }
        }
        let mut is_changed = false;
        let cookie = |line: &HeaderValue| {
            let told = text(line).and_then(|line| self.cookie(line, rewrite, public))?;
            is_changed = true;
            HeaderValue::try_from(told).ok()
        };
        let mut cookie = cookie;
        let cookies: Vec<HeaderValue> =
            headers.get_all(SET_COOKIE).iter().map(|line| cookie(line).unwrap_or_else(|| line.clone())).collect();
        if is_changed {
            headers.remove(SET_COOKIE);
            for line in cookies {
                headers.append(SET_COOKIE, line);
            }
        }
    }

    /// `None`: it stays as it is.
    fn location(&self, told: &str, rewrite: Option<&str>, public: &Public<'_>) -> Option<String> {
        let (scheme, rest) = match told.split_once("//") {
            Some(("", rest)) => ("", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http:") => ("http", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https:") => ("https", rest),
            _ if told.starts_with('/') => return public_path(told, rewrite?, public.prefix),
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let leg = if self.is_tls { "https" } else { "http" };
        if public.authority.is_empty() || !self.is(authority, usual_port(if scheme.is_empty() { leg } else { scheme }))
        {
            return None;
        }
        let path =
            rewrite.and_then(|rewrite| public_path(path, rewrite, public.prefix)).unwrap_or_else(|| path.to_owned());
        // An upstream that is asked over HTTP and points to HTTPS means it: with HTTP in its place its client would come back for ever.
        Some(if scheme == "https" && leg == "http" && public.scheme == "http" {
            format!("https://{}{path}", Place::of(public.authority).host)
        } else if scheme.is_empty() {
            format!("//{}{path}", public.authority)
        } else {
            format!("{}://{}{path}", public.scheme, public.authority)
        })
    }

    /// `None`: it stays as it is. `Path=/` is everywhere, on either side of a rewrite: a cookie for the whole site stays one.
    fn cookie(&self, told: &str, rewrite: Option<&str>, public: &Public<'_>) -> Option<String> {
        let mut is_changed = false;
        let parts: Vec<String> = told
            .split(';')
            .enumerate()
            .map(|(at, part)| {
                let attribute = part.split_once('=').filter(|_| at > 0);
                let changed = attribute.and_then(|(name, value)| {
                    let (bare, value) = (name.trim(), value.trim());
                    if bare.eq_ignore_ascii_case("domain") {
                        let host = value.strip_prefix('.').unwrap_or(value);
                        let is_own = self.places().any(|place| place.host.eq_ignore_ascii_case(host));
                        (is_own && !public.authority.is_empty())
                            .then(|| format!("{name}={}", Place::of(public.authority).host))
                    } else if bare.eq_ignore_ascii_case("path") && value != "/" {
                        public_path(value, rewrite?, public.prefix).map(|path| format!("{name}={path}"))
                    } else {
                        None
                    }
                });
                is_changed |= changed.is_some();
                changed.unwrap_or_else(|| part.to_owned())
            })
            .collect();
        is_changed.then(|| parts.join(";"))
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.endpoints.iter().chain(&self.host)
    }

    fn is(&self, authority: &str, usual: u16) -> bool {
        let given = Place::of(authority);
        let port = given.port.unwrap_or(usual);
        let is_at = |place: &Place| place.host.eq_ignore_ascii_case(&given.host);
        let is_endpoints_port = || self.endpoints.iter().any(|place| place.port == Some(port));
        self.endpoints.iter().any(|place| is_at(place) && place.port == Some(port))
            || self.host.as_ref().is_some_and(|place| {
                let is_expected = place.port.map_or(port == usual, |expected| expected == port);
                is_at(place) && (is_expected || is_endpoints_port())
            })
    }
}

// === impl Place ===

impl Place {
    /// `host`, `host:port`, `[::1]:port`.
    fn of(authority: &str) -> Self {
        let port = authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match port {
            Some((host, port)) => Self { host: host.into(), port: Some(port) },
            None => Self { host: authority.into(), port: None },
        }
    }
}

/// The public form of a path that begins with the side's own prefix, on a segment border. `None` for any other, for one with `..`, which
/// may lead out of it, and where the rest would name a host.
fn public_path(path: &str, own: &str, public: &str) -> Option<String> {
    let bare = &path[..path.find(['?', '#']).unwrap_or(path.len())];
    if bare.contains("/..") {
        return None;
    }
    let rest = path.strip_prefix(own)?;
    if !(rest.is_empty() || rest.starts_with(['/', '?', '#', ';'])) {
        return None;
    }
    let told = format!("{public}{rest}");
    match told.chars().next() {
        Some('/') => (!told.starts_with("//")).then_some(told),
        _ => Some(format!("/{told}")),
    }
}

fn usual_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

fn text(line: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(line.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Public<'static> = Public { scheme: "https", authority: "shop.example", prefix: "/pay" };

    fn own() -> Own {
        Own::new(["http://10.0.0.2:7002", "http://payments.internal"].into_iter(), Some("pay.internal"))
    }

    #[test]
    fn an_own_location_becomes_the_public_one_and_any_other_stays() {
        for (told, rewrite, expected) in [
            ("http://10.0.0.2:7002/x?a=b#c", None, Some("https://shop.example/x?a=b#c")),
            ("HTTP://Payments.Internal:80/x", None, Some("https://shop.example/x")),
            ("http://payments.internal", None, Some("https://shop.example")),
            ("//payments.internal/x", None, Some("//shop.example/x")),
            ("https://pay.internal/x", None, Some("https://shop.example/x")),
            ("http://pay.internal:7002/x", None, Some("https://shop.example/x")),
            ("http://pay.internal:9/x", None, None),
            ("http://10.0.0.2/x", None, None),
            ("http://10.0.0.2:7003/x", None, None),
            ("http://payments.internal@evil.example/x", None, None),
            ("http://payments.internal.evil.example/x", None, None),
            ("http://shop.example/x", None, None),
            ("ftp://payments.internal/x", None, None),
            ("/x", None, None),
            ("x/y", None, None),
            ("/v2/7?a", Some("/v2"), Some("/pay/7?a")),
            ("/v2", Some("/v2"), Some("/pay")),
            ("/v2?a", Some("/v2"), Some("/pay?a")),
            ("/v20/7", Some("/v2"), None),
            ("/login", Some("/v2"), None),
            ("/v2/../login", Some("/v2"), None),
            ("7/lines", Some("/v2"), None),
            ("?page=2", Some(""), None),
            ("/7", Some(""), Some("/pay/7")),
            ("/", Some(""), Some("/pay/")),
            ("http://payments.internal/v2/7", Some("/v2"), Some("https://shop.example/pay/7")),
            ("http://payments.internal/login", Some("/v2"), Some("https://shop.example/login")),
            ("http://payments.internal", Some(""), Some("https://shop.example/pay")),
        ] {
            assert_eq!(own().location(told, rewrite, &PUBLIC).as_deref(), expected, "{told} {rewrite:?}");
        }
    }

    #[test]
    fn a_rest_that_would_name_a_host_stays() {
        let root = Public { prefix: "", ..PUBLIC };
        assert_eq!(own().location("/v2//evil.example/x", Some("/v2"), &root), None);
        assert_eq!(own().location("/v2/x", Some("/v2"), &root).as_deref(), Some("/x"));
        assert_eq!(own().location("/v2", Some("/v2"), &root).as_deref(), Some("/"));
    }

    #[test]
    fn a_step_up_to_https_is_kept() {
        let public = Public { scheme: "http", authority: "shop.example:8080", prefix: "" };
        let told = |location| own().location(location, None, &public).unwrap();
        assert_eq!(told("https://pay.internal/x"), "https://shop.example/x");
        assert_eq!(told("http://pay.internal/x"), "http://shop.example:8080/x");
        let tls = Own::new(["https://payments.internal"].into_iter(), None);
        assert_eq!(tls.location("https://payments.internal/x", None, &public).unwrap(), "http://shop.example:8080/x");
    }

    #[test]
    fn cookies_keep_all_but_the_own_domain_and_path() {
        for (told, rewrite, expected) in [
            ("a=1; Domain=.Payments.Internal; Path=/", None, Some("a=1; Domain=shop.example; Path=/")),
            (
                "a=domain=pay.internal;domain=pay.internal;Secure",
                None,
                Some("a=domain=pay.internal;domain=shop.example;Secure"),
            ),
            ("a=1; Domain=internal; HttpOnly", None, None),
            ("a=1; Path=/v2/x; HttpOnly", Some("/v2"), Some("a=1; Path=/pay/x; HttpOnly")),
            ("a=1; path=/v2", Some("/v2"), Some("a=1; path=/pay")),
            ("a=1; Path=/", Some("/v2"), None),
            ("a=1; Path=/", Some(""), None),
            ("a=1; Path=/x", Some(""), Some("a=1; Path=/pay/x")),
            ("a=1; Path=/v2", None, None),
            ("path=/v2/x", Some("/v2"), None),
        ] {
            assert_eq!(own().cookie(told, rewrite, &PUBLIC).as_deref(), expected, "{told} {rewrite:?}");
        }
    }

    #[test]
    fn lines_keep_their_order_and_foreign_ones_stay() {
        let mut headers = HeaderMap::new();
        for line in ["a=1; Domain=pay.internal", "b=2", "c=3; Domain=pay.internal"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(line));
        }
        headers.insert(CONTENT_LOCATION, HeaderValue::from_static("http://pay.internal/x"));
        own().make_public(&mut headers, None, &PUBLIC);
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; Domain=shop.example", "b=2", "c=3; Domain=shop.example"]);
        assert_eq!(headers[CONTENT_LOCATION], "https://shop.example/x");
    }
}
