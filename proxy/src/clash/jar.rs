//! One route's cookies: where they may be seen, and which ones were.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::set_cookie::SetCookie;
use crate::{
    config::{self, Cookies},
    links::Owner,
    table::DEFAULT,
};

/// What of the file decides which cookies clash. A reload that leaves it as it is forgets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) route: Arc<str>,
    legacy: Option<String>,
    modern: Option<String>,
    cookies: Cookies,
    /// `.shop.example` is every host below; `None` is any host.
    hosts: Vec<Option<String>>,
    /// Paths under which the route answers.
    paths: Vec<String>,
}

/// What was seen on one route.
#[derive(Debug)]
pub(super) struct Jar {
    pub(super) place: Place,
    /// Hashes of what was handed over; 0 is free. Full, nothing more is looked at.
    seen: [AtomicU64; SEEN],
}

/// Cookies of a route that are looked at, both sides' together; the same name with another path counts as another one.
const SEEN: usize = 64;

// === impl Place ===

impl Place {
    pub(super) fn of(route: &config::Route) -> Self {
        let upstream = |side: &Option<config::ShortOr<config::Side>>| side.as_ref().map(|side| side.0.upstream.clone());
        let matches = &route.matches.0;
        let host = |host: &str| host.strip_prefix('*').unwrap_or(host).to_ascii_lowercase();
        let path = |one: &config::Match| one.path.clone().or_else(|| one.path_prefix.clone());
        Self {
            route: route.name.as_str().into(),
            legacy: upstream(&route.legacy),
            modern: upstream(&route.modern),
            cookies: route.cookies.clone().unwrap_or_default(),
            hosts: matches.iter().map(|one| one.host.as_deref().map(host)).collect(),
            paths: matches.iter().map(|one| path(one).unwrap_or_else(|| "/".to_owned())).collect(),
        }
    }

    /// What no route matches.
    pub(super) fn default(upstream: &str) -> Self {
        Self {
            route: DEFAULT.into(),
            legacy: Some(upstream.to_owned()),
            modern: None,
            cookies: Cookies::default(),
            hosts: vec![None],
            paths: vec!["/".to_owned()],
        }
    }

    fn upstream(&self, side: Owner) -> Option<&str> {
        match side {
            Owner::Legacy => self.legacy.as_deref(),
            Owner::Modern => self.modern.as_deref(),
        }
    }

    /// Whether one browser would keep but one of both, or send both where one is meant, and nobody says that this is meant.
    pub(super) fn clashes(&self, cookie: &SetCookie, other: &Self, theirs: &SetCookie) -> bool {
        let is_shared = |place: &Self| place.cookies.shared.iter().any(|name| **name == *cookie.name);
        cookie.name == theirs.name
            && cookie.side != theirs.side
            && self.upstream(cookie.side) != other.upstream(theirs.side)
            && !is_shared(self)
            && !is_shared(other)
            && self.hosts_meet(cookie, other, theirs)
            && self.paths(cookie).any(|path| other.paths(theirs).any(|other| paths_meet(path, other)))
    }

    fn hosts_meet(&self, cookie: &SetCookie, other: &Self, theirs: &SetCookie) -> bool {
        let covers = |domain: &str, place: &Self| {
            let below = Some(format!(".{domain}"));
            place.hosts.iter().any(|host| host.as_deref() == Some(domain) || meet(&below, host))
        };
        match (&cookie.domain, &theirs.domain) {
            (None, None) => self.hosts.iter().any(|host| other.hosts.iter().any(|other| meet(host, other))),
            (Some(domain), None) => covers(domain, other),
            (None, Some(domain)) => covers(domain, self),
            (Some(one), Some(other)) => {
                one == other || is_below(one, &format!(".{other}")) || is_below(other, &format!(".{one}"))
            }
        }
    }

    fn paths<'p>(&'p self, cookie: &'p SetCookie) -> impl Iterator<Item = &'p str> {
        let own = cookie.path.iter().map(|path| &**path);
        own.chain(self.paths.iter().filter(|_| cookie.path.is_none()).map(String::as_str))
    }
}

/// Whether some host is both. One that begins with a dot is every host below it.
fn meet(one: &Option<String>, other: &Option<String>) -> bool {
    match (one, other) {
        (None, _) | (_, None) => true,
        (Some(one), Some(other)) => one == other || is_below(one, other) || is_below(other, one),
    }
}

fn is_below(host: &str, all: &str) -> bool {
    all.starts_with('.') && host.ends_with(all)
}

/// RFC 6265, 5.1.4: a path covers what is below it.
fn paths_meet(one: &str, other: &str) -> bool {
    let covers = |above: &str, below: &str| {
        below.strip_prefix(above.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    covers(one, other) || covers(other, one)
}

// === impl Jar ===

impl Jar {
    pub(super) fn new(place: Place) -> Self {
        Self { place, seen: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// The place where this hash is not written yet; `None` where it is, or where there is no place left.
    pub(super) fn is_new(&self, hash: u64) -> Option<&AtomicU64> {
        for place in self.probe(hash) {
            match place.load(Ordering::Relaxed) {
                0 => return Some(place),
                seen if seen == hash => return None,
                _ => {}
            }
        }
        None
    }

    fn probe(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of places")]
        let first = (hash % SEEN as u64) as usize;
        self.seen.iter().cycle().skip(first).take(SEEN)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clash::set_cookie::Shown;

    fn place(more: &Value) -> Place {
        let mut form = json!({"name": "r", "match": {"path_prefix": "/pay"}, "legacy": "monolith", "modern": "pay"});
        form.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Place::of(&serde_json::from_value(form).unwrap())
    }

    fn clash(one: &Place, legacy: &str, other: &Place, modern: &str) -> bool {
        let set = |line: &str, side| Shown::of(line.as_bytes()).unwrap().keep(side);
        let (legacy, modern) = (set(legacy, Owner::Legacy), set(modern, Owner::Modern));
        let both = [one.clashes(&legacy, other, &modern), other.clashes(&modern, one, &legacy)];
        assert_eq!(both[0], both[1], "it is the same from either end");
        both[0]
    }

    #[test]
    fn the_same_name_clashes_where_a_browser_would_send_both() {
        let (here, default) = (place(&json!({})), Place::default("monolith"));
        for (legacy, modern, expected) in [
            ("sid=1", "sid=2", true),
            ("sid=1; Path=/", "sid=2; Path=/pay", true),
            ("sid=1", "SID=2", false),
            ("sid=1; Path=/admin", "sid=2; Path=/pay", false),
            ("sid=1; Path=/pa", "sid=2; Path=/pay", false),
            ("sid=1; Path=/pay/", "sid=2; Path=/pay", true),
            ("sid=1; Domain=shop.example", "sid=2; Domain=a.shop.example", true),
            ("sid=1; Domain=b.shop.example", "sid=2; Domain=a.shop.example", false),
        ] {
            assert_eq!(clash(&here, legacy, &here, modern), expected, "{legacy} {modern}");
            assert_eq!(clash(&default, legacy, &here, modern), expected, "{legacy} {modern}");
        }
        // Without a path it counts where the route answers.
        assert!(!clash(&place(&json!({"match": {"path": "/orders"}})), "sid=1", &here, "sid=2"));
        assert!(!clash(&default, "sid=1; Path=/orders", &here, "sid=2"));
    }

    #[test]
    fn other_hosts_and_shared_cookies_and_one_upstream_on_both_sides_do_not_clash() {
        let at = |host: &str| place(&json!({"match": {"host": host, "path_prefix": "/"}}));
        for (one, other, lines, expected) in [
            ("a.example", "b.example", ("sid=1", "sid=2"), false),
            ("a.example", "A.example", ("sid=1", "sid=2"), true),
            ("*.example", "a.example", ("sid=1", "sid=2"), true),
            ("a.example", "b.example", ("sid=1; Domain=example", "sid=2"), true),
            ("a.example", "b.example", ("sid=1", "sid=2; Domain=a.example"), true),
            ("a.example", "b.example", ("sid=1; Domain=a.example", "sid=2"), false),
        ] {
            assert_eq!(clash(&at(one), lines.0, &at(other), lines.1), expected, "{one} {other} {lines:?}");
        }
        let shares = place(&json!({"cookies": {"shared": ["sid"]}}));
        assert!(!clash(&Place::default("monolith"), "sid=1", &shares, "sid=2"));
        assert!(clash(&Place::default("monolith"), "tok=1", &shares, "tok=2"));
        let same = place(&json!({"modern": "monolith"}));
        assert!(!clash(&same, "sid=1", &same, "sid=2"));
    }

    #[test]
    fn a_full_jar_takes_no_more() {
        let jar = Jar::new(Place::default("monolith"));
        for hash in 1..=SEEN as u64 {
            jar.is_new(hash).expect("a place").store(hash, Ordering::Relaxed);
            assert!(jar.is_new(hash).is_none());
        }
        assert!(jar.is_new(1000).is_none());
    }
}
