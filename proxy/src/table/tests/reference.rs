//! The index against a reference that looks at every match.

use proptest::prelude::*;

use super::*;

/// One match of the reference.
#[derive(Debug, Clone)]
struct Naive {
    host: Option<&'static str>,
    path: Option<(Kind, String)>,
    methods: Vec<&'static str>,
    headers: Vec<&'static str>,
    query: Vec<&'static str>,
    /// The one client that asks is in it, or not.
    client: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    /// The path with any byte in place of each `b`.
    Regex,
    Prefix,
}

// === impl Naive ===

impl Naive {
    fn json(&self) -> Value {
        let mut matches = serde_json::Map::new();
        if let Some(host) = self.host {
            matches.insert("host".into(), host.into());
        }
        if let Some((kind, path)) = &self.path {
            let (key, path) = match kind {
                Kind::Exact => ("path", path.clone()),
                Kind::Regex => ("path_regex", path.replace('b', ".")),
                Kind::Prefix => ("path_prefix", path.clone()),
            };
            matches.insert(key.into(), path.into());
        }
        if !self.methods.is_empty() {
            matches.insert("methods".into(), json!(self.methods));
        }
        if !self.headers.is_empty() {
            let headers: serde_json::Map<_, _> = self.headers.iter().map(|name| ((*name).into(), "1".into())).collect();
            matches.insert("headers".into(), headers.into());
        }
        if !self.query.is_empty() {
            let query: serde_json::Map<_, _> =
                self.query.iter().map(|name| ((*name).into(), json!({"regex": "[1-3]"}))).collect();
            matches.insert("query".into(), query.into());
        }
        if let Some(is_in) = self.client {
            matches.insert("client".into(), if is_in { "192.0.2.0/24" } else { "10.0.0.0/8" }.into());
        }
        matches.into()
    }

    /// How well it matches; the greatest wins, the first of equals.
    fn rank(&self, method: &str, host: &str, path: &str, headers: &[&str], query: &[&str]) -> Option<impl Ord + use<>> {
        let host_rank = match self.host {
            None => 0,
            Some(name) => match name.strip_prefix('*') {
                Some(suffix) if host.ends_with(suffix) && host.len() > suffix.len() => suffix.len(),
                Some(_) => return None,
                None if name == host => 1000,
                None => return None,
            },
        };
        let path_rank = match &self.path {
            None => 0,
            Some((Kind::Exact, exact)) if exact == path => 10_000,
            Some((Kind::Regex, pattern)) => {
                let fits = |(wanted, given): (char, char)| wanted == 'b' || wanted == given;
                if pattern.len() != path.len() || !pattern.chars().zip(path.chars()).all(fits) {
                    return None;
                }
                5_000
            }
            Some((Kind::Exact, _)) => return None,
            Some((Kind::Prefix, prefix)) => {
                let prefix = prefix.trim_end_matches('/');
                let rest = path.strip_prefix(prefix)?;
                if !rest.is_empty() && !rest.starts_with('/') {
                    return None;
                }
                prefix.len()
            }
        };
        let is_method = self.methods.is_empty() || self.methods.contains(&method);
        let has_all = |wanted: &[&str], given: &[&str]| wanted.iter().all(|name| given.contains(name));
        let holds =
            is_method && has_all(&self.headers, headers) && has_all(&self.query, query) && self.client.unwrap_or(true);
        holds.then_some((
            host_rank,
            path_rank,
            !self.methods.is_empty(),
            self.headers.len(),
            self.query.len(),
            self.client.is_some(),
        ))
    }
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_match() -> impl Strategy<Value = Naive> {
    (
        prop::option::of(prop::sample::select(vec!["h.x", "*.x", "*.h.x", "g"])),
        prop::option::of((prop::sample::select(vec![Kind::Exact, Kind::Regex, Kind::Prefix]), any_path())),
        prop::sample::subsequence(vec!["GET", "PUT"], 0..=2),
        prop::sample::subsequence(vec!["x-a", "x-b"], 0..=2),
        prop::sample::subsequence(vec!["qa", "q b"], 0..=2),
        prop::option::weighted(0.2, any::<bool>()),
    )
        .prop_map(|(host, path, methods, headers, query, client)| Naive { host, path, methods, headers, query, client })
        .prop_filter("an empty match is refused", |naive| naive.json() != json!({}))
}

proptest! {
    #[test]
    fn the_index_finds_what_looking_at_every_match_finds(
        matches in prop::collection::vec(any_match(), 0..12),
        method in prop::sample::select(vec!["GET", "PUT", "POST"]),
        host in prop::sample::select(vec!["h.x", "a.h.x", "x", "g", "z"]),
        path in any_path(),
        headers in prop::sample::subsequence(vec!["x-a", "x-b"], 0..=2),
        query in prop::sample::subsequence(vec!["qa", "q b"], 0..=2),
    ) {
        let routes: Vec<Value> = matches.iter().enumerate().map(|(at, one)| route(&format!("r{at}"), &one.json())).collect();
        let table = table(routes.into());
        let expected = matches
            .iter()
            .enumerate()
            .filter_map(|(at, one)| Some((one.rank(method, host, &path, &headers, &query)?, std::cmp::Reverse(at))))
            .max()
            .map_or("default".to_owned(), |(_, std::cmp::Reverse(at))| format!("r{at}"));
        let given: Vec<(&'static str, &'static str)> = headers.iter().map(|name| (*name, "1")).collect();
        let pairs: Vec<String> = query.iter().map(|name| format!("{}=2", name.replace(' ', "+"))).collect();
        let path = format!("{path}?{}", pairs.join("&"));
        prop_assert_eq!(found(&table, method, host, &path, &given), expected);
    }
}
