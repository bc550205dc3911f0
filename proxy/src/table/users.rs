//! What a `force`, a `pin` or a `rate_limit` can get wrong although every value by itself is right.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Problem, checks::cookie_name};
use crate::config::{self, Pin, RateKey};

/// A shorter one can be guessed.
const LEAST_SECRET: usize = 16;

/// Rules about one route.
pub(super) fn check(at: &str, route: &config::Route, problems: &mut Vec<Problem>) {
    let has_both = route.legacy.is_some() && route.modern.is_some();
    // Told there.
    let is_itself = route.redirect.is_some() || route.respond.is_some();
    let keys = [
        ("force", route.force.is_some()),
        ("pin", route.pin.is_some()),
        ("fallback_on", !route.fallback_on.is_empty()),
    ];
    for (key, is_set) in keys {
        if is_set && !has_both && !is_itself {
            problems.push(
                Problem::error(format!("{at}.{key}"), format!("`{key}` needs both sides: there is nothing to choose"))
                    .hint(format!("name both `legacy` and `modern`, or leave `{key}` out")),
            );
        }
    }
    if let Some(limit) = &route.rate_limit {
        check_limit(&format!("{at}.rate_limit"), limit, problems);
    }
    if let Some(force) = &route.force {
        check_force(&format!("{at}.force"), force, problems);
    }
    if let Some(pins) = &route.pin {
        check_pins(&format!("{at}.pin"), pins, problems);
    }
}

fn check_limit(at: &str, limit: &config::RateLimit, problems: &mut Vec<Problem>) {
    let day = Duration::from_secs(24 * 60 * 60);
    if limit.every > day || (limit.every / limit.requests.max(1)).is_zero() {
        problems.push(
            Problem::error(
                format!("{at}.every"),
                "the time must be a day at most, and a nanosecond a request at least",
            )
            .hint("for example `{requests: 10, every: 1s}`"),
        );
    }
    for (number, key) in limit.key.iter().enumerate() {
        match key {
            RateKey::Cookie(name) => cookie_name(&format!("{at}.key[{number}].cookie"), name, problems),
            RateKey::ClientAddress if number + 1 < limit.key.len() => problems.push(
                Problem::warning(
                    format!("{at}.key[{number}]"),
                    "what stands behind `client_address` is never looked at",
                )
                .hint("put it last; every client has an address"),
            ),
            RateKey::Header(_) | RateKey::ClientAddress => {}
        }
    }
}

fn check_force(at: &str, force: &config::Force, problems: &mut Vec<Problem>) {
    if force.allow.get().is_empty() && force.secret.is_none() {
        problems.push(
            Problem::error(at, "nobody may use this `force`")
                .hint("name networks in `allow`, or a `secret` that testers present in the header `x-banyan-secret`"),
        );
    }
    if let Some(secret) = &force.secret
        && secret.expose_secret().len() < LEAST_SECRET
    {
        let length = secret.expose_secret().len();
        problems.push(
            Problem::error(
                format!("{at}.secret"),
                format!("the secret has {length} bytes, and {LEAST_SECRET} are needed"),
            )
            .hint("for example the output of `openssl rand -hex 16`"),
        );
    }
}

fn check_pins(at: &str, pins: &config::Pins, problems: &mut Vec<Problem>) {
    for (side, list) in [("modern", &pins.modern), ("legacy", &pins.legacy)] {
        for (number, pin) in list.iter().enumerate() {
            let at = format!("{at}.{side}[{number}]");
            let names: Vec<(&str, &str, bool)> = match pin {
                Pin::Header(headers) => {
                    headers.iter().map(|(name, values)| ("header", name.as_str(), values.is_empty())).collect()
                }
                Pin::Cookie(cookies) => {
                    cookies.iter().map(|(name, values)| ("cookie", name.as_str(), values.is_empty())).collect()
                }
                Pin::Client(nets) => vec![("client", "", nets.get().is_empty())],
            };
            for (kind, name, is_empty) in &names {
                if *kind == "cookie" {
                    cookie_name(&format!("{at}.cookie"), name, problems);
                }
                if *is_empty {
                    problems.push(
                        Problem::warning(format!("{at}.{kind}"), "an empty list pins nobody")
                            .hint("name the values, or leave it out"),
                    );
                }
            }
            if names.is_empty() {
                problems.push(
                    Problem::warning(at.clone(), "this pins nobody").hint("for example `{header: {x-tenant: [acme]}}`"),
                );
            }
        }
    }
    twice(at, pins, problems);
}

/// The same value on both sides is a slip: nobody writes it on purpose.
fn twice(at: &str, pins: &config::Pins, problems: &mut Vec<Problem>) {
    let all = |list: &[Pin]| -> Vec<(usize, String)> {
        let values = |number: usize, pin: &Pin| -> Vec<(usize, String)> {
            let texts: Vec<String> = match pin {
                Pin::Header(map) => map
                    .iter()
                    .flat_map(|(name, values)| {
                        values.iter().map(move |value| format!("header `{}`\0{value}", name.as_str()))
                    })
                    .collect(),
                Pin::Cookie(map) => map
                    .iter()
                    .flat_map(|(name, values)| values.iter().map(move |value| format!("cookie `{name}`\0{value}")))
                    .collect(),
                Pin::Client(nets) => nets.get().iter().map(|net| format!("network `{net}`\0")).collect(),
            };
            texts.into_iter().map(|text| (number, text)).collect()
        };
        list.iter().enumerate().flat_map(|(number, pin)| values(number, pin)).collect()
    };
    let modern: std::collections::BTreeSet<String> = all(&pins.modern).into_iter().map(|(_, text)| text).collect();
    for (number, text) in all(&pins.legacy).into_iter().filter(|(_, text)| modern.contains(text)) {
        let what = match text.split_once('\0') {
            Some((place, "")) => place.to_owned(),
            Some((place, _)) => format!("a value of {place}"),
            None => text,
        };
        problems.push(
            Problem::error(format!("{at}.legacy[{number}]"), format!("{what} is pinned to both sides"))
                .hint("leave it out on one of them"),
        );
    }
}
