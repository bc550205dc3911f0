//! What a `cookies` can get wrong although every value by itself is right.

use std::collections::BTreeMap;

use super::{DEFAULT, Problem, checks::cookie_name};
use crate::{
    config::{self, Config},
    split::{ID_COOKIE, WRITES_COOKIE},
};

/// Names that say what a browser makes sure of (draft-ietf-httpbis-rfc6265bis, 4.1.3); in any case.
const PREFIXES: [&str; 4] = ["__secure-", "__host-", "__http-", "__host-http-"];

/// Rules about one route.
pub(super) fn check(at: &str, route: &config::Route, problems: &mut Vec<Problem>) {
    let Some(cookies) = &route.cookies else { return };
    for (number, name) in cookies.shared.iter().enumerate() {
        cookie_name(&format!("{at}.cookies.shared[{number}]"), name, problems);
    }
    let sides = [
        ("legacy", route.legacy.is_some(), &cookies.legacy.rename),
        ("modern", route.modern.is_some(), &cookies.modern.rename),
    ];
    let mut publics: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for (side, is_there, rename) in sides {
        let at = format!("{at}.cookies.{side}");
        if !rename.is_empty() && !is_there {
            problems.push(
                Problem::error(&at, format!("the route has no `{side}` whose cookies could be renamed"))
                    .hint(format!("name an upstream in `{side}`, or leave `cookies.{side}` out")),
            );
        }
        for (own, public) in rename {
            let at = format!("{at}.rename.{own}");
            one(&at, own, public, problems);
            if let Some((other_side, other)) = publics.insert(public, (side, own)) {
                problems.push(
                    Problem::error(at, format!("`{public}` is what `{other}` of {other_side} is renamed to already"))
                        .hint("clients need a name of its own for each"),
                );
            }
        }
    }
}

fn one(at: &str, own: &str, public: &str, problems: &mut Vec<Problem>) {
    cookie_name(at, own, problems);
    cookie_name(at, public, problems);
    if let Some(name) = [own, public].into_iter().find(|name| [ID_COOKIE, WRITES_COOKIE].contains(name)) {
        problems.push(
            Problem::error(at, format!("`{name}` is Banyan's own cookie")).hint("choose a name without `banyan_`"),
        );
    }
    if own == public {
        problems.push(Problem::error(at, format!("`{own}` would keep its name")).hint("leave it out"));
    }
    if prefix(own) != prefix(public) {
        problems.push(
            Problem::error(at, format!("browsers make sure of other things for `{own}` than for `{public}`")).hint(
                "`__Host-` and `__Secure-` must stand before both names, or before neither: `__Host-sid: __Host-m_sid`",
            ),
        );
    }
}

fn prefix(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    PREFIXES.into_iter().filter(|prefix| name.starts_with(prefix)).max_by_key(|prefix| prefix.len())
}

/// What an upstream sets on one route must be understood on all of its routes.
pub(super) fn together(config: &Config, problems: &mut Vec<Problem>) {
    let none = BTreeMap::new();
    let mut first: BTreeMap<&str, (&str, &BTreeMap<String, String>)> = BTreeMap::new();
    first.insert(&config.default, (DEFAULT, &none));
    for (index, route) in config.routes.iter().enumerate() {
        let cookies = route.cookies.as_ref();
        let sides = [
            (&route.legacy, cookies.map_or(&none, |cookies| &cookies.legacy.rename)),
            (&route.modern, cookies.map_or(&none, |cookies| &cookies.modern.rename)),
        ];
        for (side, rename) in sides {
            let Some(side) = side else { continue };
            let upstream = side.0.upstream.as_str();
            let (other, expected) = *first.entry(upstream).or_insert((&route.name, rename));
            if rename != expected {
                let message = format!(
                    "cookies of upstream `{upstream}` have other names here than on route `{other}`: what it sets on one, it does not \
                     find on the other"
                );
                let hint = "rename the same on all routes of an upstream";
                problems.push(Problem::warning(format!("routes[{index}]"), message).hint(hint));
            }
        }
    }
}
