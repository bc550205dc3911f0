//! What is never recorded. Headers are recorded by name, and none that looks like a secret; a read whose query has one is left out.

use std::collections::HashSet;

use http::HeaderName;

use crate::config::{Config, Pin};

/// Parts of the names of headers that are a secret, or stand for one.
const IN_HEADERS: [&str; 16] = [
    "auth",
    "token",
    "secret",
    "sess",
    "cookie",
    "passw",
    "pwd",
    "credential",
    "key",
    "csrf",
    "xsrf",
    "jwt",
    "sign",
    "bearer",
    "otp",
    "assertion",
];
/// The same of query parameters, among whose names there are more that only look like it: `author`, `keyword`, `design`.
const IN_QUERIES: [&str; 17] = [
    "authoriz",
    "oauth",
    "token",
    "secret",
    "sess",
    "cookie",
    "passw",
    "pwd",
    "credential",
    "apikey",
    "api_key",
    "api-key",
    "csrf",
    "xsrf",
    "jwt",
    "signature",
    "bearer",
];
/// Whole names of query parameters.
const WHOLE: [&str; 9] = ["auth", "key", "code", "sig", "sid", "pin", "otp", "nonce", "ticket"];

/// Headers that the file names as something only one who knows them can say.
#[derive(Debug, Default, Clone)]
pub(in crate::shadow) struct Secrets(HashSet<String>);

// === impl Secrets ===

impl Secrets {
    /// What the file's matches want of headers, and what it pins users by.
    pub(in crate::shadow) fn of(config: &Config) -> Self {
        let mut names = HashSet::new();
        for route in &config.routes {
            names
                .extend(route.matches.0.iter().flat_map(|one| one.headers.keys()).map(|name| name.as_str().to_owned()));
            let pins = route.pin.iter().flat_map(|pins| pins.modern.iter().chain(&pins.legacy));
            for pin in pins {
                if let Pin::Header(headers) = pin {
                    names.extend(headers.keys().map(|name| name.as_str().to_owned()));
                }
            }
            names.extend(route.force.iter().map(|force| force.header.as_str().to_owned()));
        }
        Self(names)
    }

    /// Whether a header of this name is never recorded.
    pub(in crate::shadow) fn has_header(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        name.starts_with("x-banyan-") || self.0.contains(name) || has_part(name, &IN_HEADERS)
    }
}

fn has_part(name: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| name.contains(part))
}

/// Whether a parameter of the query looks like a secret.
pub(super) fn is_in_query(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(name, _)| {
        let name = name.to_ascii_lowercase();
        has_part(&name, &IN_QUERIES) || WHOLE.contains(&name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::tests::config;

    #[test]
    fn no_header_that_looks_like_a_secret_or_that_the_file_knows_users_by_is_recorded() {
        let secrets = Secrets::of(&config(json!([{
            "name": "r", "match": {"path_prefix": "/r", "headers": {"x-partner": "acme"}}, "legacy": "monolith",
            "modern": "payments", "pin": {"modern": [{"header": {"x-customer": ["acme"]}}]},
        }])));
        let has = |name: &str| secrets.has_header(&name.parse().unwrap());
        for secret in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-auth-token",
            "x-csrf-token",
            "x-session-id",
            "x-amz-security-token",
            "signature",
            "x-banyan-secret",
            "x-partner",
            "x-customer",
        ] {
            assert!(has(secret), "{secret}");
        }
        for plain in ["accept", "content-type", "host", "x-user-id", "x-tenant", "content-encoding", "location"] {
            assert!(!has(plain), "{plain}");
        }
    }

    #[test]
    fn a_query_that_looks_as_if_a_secret_stood_in_it_is_known() {
        for secret in
            ["token=x", "a=1&access_token=x", "ApiKey=x", "a&key=1", "pass%77ord=x", "code=7", "X-Amz-Signature=x"]
        {
            assert!(is_in_query(secret), "{secret}");
        }
        for plain in ["", "q=1", "author=eco", "keyword=shoes", "design=2", "country_code=de"] {
            assert!(!is_in_query(plain), "{plain}");
        }
    }
}
