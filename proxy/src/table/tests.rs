//! The table's rules, and its index against a reference that looks at every match.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{MissedBy, Normal, Problem, RouteTable, Severity};
use crate::{
    config::{Config, Fallback, State, SyncRules, Weight},
    links::{DataLinks, Moment, Owner, SyncLink},
};

/// Who asks.
const CLIENT: [u8; 4] = [192, 0, 2, 7];

/// A config with upstreams `monolith` (the default) and `payments`, syncs `money` (owner legacy) and `users` (owner modern), and these routes.
pub(crate) fn config(routes: Value) -> Config {
    let upstream =
        |port: u16| serde_json::from_value(json!({"endpoints": [format!("http://127.0.0.1:{port}")]})).unwrap();
    let sync = |owner| SyncRules {
        owner,
        read_your_writes: std::time::Duration::from_secs(2),
        max_lag: std::time::Duration::from_secs(5),
    };
    Config {
        identity: None,
        workers: None,
        listeners: Vec::new(),
        state: State::default(),
        secret: Some("0123456789abcdef0123456789abcdef".to_owned().into()),
        trusted_proxies: Vec::new(),
        upstreams: [("monolith".to_owned(), upstream(1)), ("payments".to_owned(), upstream(2))].into(),
        default: "monolith".to_owned(),
        routes: serde_json::from_value(routes).unwrap(),
        syncs: [("money".to_owned(), sync(Owner::Legacy)), ("users".to_owned(), sync(Owner::Modern))].into(),
        observe: crate::config::Observe::default(),
    }
}

/// The links of a config before any database has answered: its own owners, and an unknown lag.
pub(crate) struct FileLinks(BTreeMap<String, Owner>);

/// What the config says of one sync.
struct FileLink(Owner);

// === impl FileLinks ===

impl FileLinks {
    pub(crate) fn of(config: &Config) -> Self {
        Self(config.syncs.iter().map(|(name, sync)| (name.clone(), sync.owner)).collect())
    }
}

impl DataLinks for FileLinks {
    fn sync(&self, name: &str) -> Option<Arc<dyn SyncLink>> {
        self.0.get(name).map(|owner| Arc::new(FileLink(*owner)) as Arc<dyn SyncLink>)
    }
}

// === impl FileLink ===

impl SyncLink for FileLink {
    fn owner(&self) -> Owner {
        self.0
    }

    fn lag(&self) -> Option<std::time::Duration> {
        None
    }

    fn watermark(&self) -> Moment {
        Moment::NEVER
    }

    fn wrote(&self, _: Moment) {}

    fn hold(&self) -> &std::sync::Arc<crate::links::Hold> {
        crate::tests::never_held()
    }
}

pub(crate) fn compile(routes: Value) -> Result<(RouteTable, Vec<Problem>), Vec<Problem>> {
    let config = config(routes);
    RouteTable::compile(&config, &FileLinks::of(&config))
}

fn table(routes: Value) -> RouteTable {
    compile(routes).unwrap().0
}

/// Path, severity and message of every problem.
fn problems(routes: Value) -> Vec<(String, Severity, String)> {
    let found = match compile(routes) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    found.into_iter().map(|problem| (problem.path, problem.severity, problem.message)).collect()
}

/// There is exactly one problem, of this severity, here, saying this.
fn one(routes: Value, severity: Severity, path: &str, says: &str) {
    let found = problems(routes);
    let [(at, how, message)] = found.as_slice() else { panic!("expected one problem at {path}: {found:#?}") };
    assert_eq!((at.as_str(), *how), (path, severity), "{message}");
    assert!(message.contains(says), "{message}");
}

fn error(routes: Value, path: &str, says: &str) {
    one(routes, Severity::Error, path, says);
}

fn warning(routes: Value, path: &str, says: &str) {
    one(routes, Severity::Warning, path, says);
}

fn found(table: &RouteTable, method: &str, host: &str, path: &str, headers: &[(&'static str, &'static str)]) -> String {
    let headers: HeaderMap =
        headers.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
    let method: Method = method.parse().unwrap();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let path = super::normalise(path).unwrap();
    let normal = Normal { method: &method, host, path: &path, query, headers: &headers, client: CLIENT.into() };
    table.find(&normal).route.name.to_string()
}

fn normal<'r>(method: &'r Method, path: &'r str, headers: &'r HeaderMap) -> Normal<'r> {
    Normal { method, host: "h", path, query: None, headers, client: CLIENT.into() }
}

fn route(name: &str, matches: &Value) -> Value {
    json!({"name": name, "match": matches, "legacy": "monolith"})
}

#[test]
fn what_no_route_matches_goes_to_the_default() {
    let table = table(json!([route("payments", &json!({"path_prefix": "/payments"}))]));
    assert_eq!(found(&table, "GET", "shop.example", "/orders", &[]), "default");
    assert_eq!(found(&table, "OPTIONS", "shop.example", "*", &[]), "default");
    let default = table.routes().last().unwrap();
    assert_eq!(&*default.legacy.as_ref().unwrap().upstream, "monolith");
    assert!(default.modern.is_none());
}

#[test]
fn a_prefix_ends_on_a_segment_border() {
    let table = table(json!([route("pay", &json!({"path_prefix": "/pay/"}))]));
    for (path, expected) in [
        ("/pay", "pay"),
        ("/pay/", "pay"),
        ("/pay/7", "pay"),
        ("//pay//7", "pay"),
        ("/payments", "default"),
        ("/x/pay", "default"),
        ("/pay;v=1/7", "pay"),
    ] {
        assert_eq!(found(&table, "GET", "h", path, &[]), expected, "{path}");
    }
}

#[test]
fn precedence_is_host_then_exact_then_longest_prefix_then_method_then_headers_then_order() {
    let table = table(json!([
        route("all", &json!({"path_prefix": "/"})),
        route("prefix", &json!({"path_prefix": "/a"})),
        route("longer", &json!({"path_prefix": "/a/b"})),
        route("exact", &json!({"path": "/a/b/c"})),
        route("method", &json!({"path_prefix": "/a/b", "methods": ["PUT", "POST"]})),
        route("header", &json!({"path_prefix": "/a/b", "headers": {"x-tenant": "acme"}})),
        route("headers", &json!({"path_prefix": "/a/b", "headers": {"x-tenant": "acme", "x-beta": "1"}})),
        route("host", &json!({"host": "Shop.Example", "path_prefix": "/"})),
        route("below", &json!({"host": "*.example", "path_prefix": "/"})),
        route("later", &json!({"path_prefix": "/z", "headers": {"x-a": "1"}})),
        route("latest", &json!({"path_prefix": "/z", "headers": {"x-b": "1"}})),
    ]));
    let tenant = ("x-tenant", "acme");
    for (method, host, path, headers, expected) in [
        ("GET", "h", "/x", &[][..], "all"),
        ("GET", "h", "/a/x", &[], "prefix"),
        ("GET", "h", "/a/b/x", &[], "longer"),
        ("GET", "h", "/a/b/c", &[], "exact"),
        ("GET", "h", "/a/b/c/d", &[], "longer"),
        ("POST", "h", "/a/b/x", &[tenant], "method"),
        ("GET", "h", "/a/b/x", &[tenant], "header"),
        ("GET", "h", "/a/b/x", &[tenant, ("x-beta", "1")], "headers"),
        ("GET", "h", "/a/b/x", &[("x-tenant", "other")], "longer"),
        ("GET", "SHOP.example", "/a/b/c", &[], "host"),
        ("GET", "www.shop.example", "/a/b/c", &[], "below"),
        ("GET", "example", "/x", &[], "all"),
        ("GET", "h", "/z", &[("x-a", "1"), ("x-b", "1")], "later"),
    ] {
        assert_eq!(found(&table, method, host, path, headers), expected, "{method} {host} {path} {headers:?}");
    }
}

#[test]
fn an_exact_path_comes_before_patterns_and_patterns_before_prefixes() {
    let table = table(json!([
        route("all", &json!({"path_prefix": "/"})),
        route("prefix", &json!({"path_prefix": "/a/b/c"})),
        route("pattern", &json!({"path_regex": "/a/b/[a-z]+(/.*)?"})),
        route("same", &json!({"path_regex": "/a/b/[a-z]+(/.*)?"})),
        route("put", &json!({"path_regex": "/a/.*", "methods": ["PUT"]})),
        route("exact", &json!({"path": "/a/b/c"})),
        route("host", &json!({"path_prefix": "/", "host": "shop.example"})),
    ]));
    for (method, host, path, expected) in [
        ("GET", "h", "/a/b/c", "exact"),
        ("GET", "h", "/a/b/c/d", "pattern"),
        ("GET", "h", "/a/b/x;v=1/y", "pattern"),
        ("GET", "h", "/a//b/%78", "pattern"),
        ("PUT", "h", "/a/b/c/d", "put"),
        ("GET", "h", "/a/b/7", "all"),
        ("GET", "h", "/x/a/b/c", "all"),
        ("GET", "shop.example", "/a/b/c/d", "host"),
    ] {
        assert_eq!(found(&table, method, host, path, &[]), expected, "{method} {host} {path}");
    }
}

#[test]
fn headers_and_query_parameters_match_by_value_pattern_and_presence() {
    let with =
        |key: &str, wanted: Value| table(json!([route("r", &json!({"path_prefix": "/a", key: {"x-v": wanted}}))]));
    type Given = (Option<&'static str>, bool);
    let cases: [(Value, &[Given]); 4] = [
        (json!("2"), &[(Some("2"), true), (Some("20"), false), (Some(""), false), (None, false)]),
        (json!({"regex": "2|3[0-9]"}), &[(Some("2"), true), (Some("31"), true), (Some("3"), false), (None, false)]),
        (json!({"present": true}), &[(Some("2"), true), (Some(""), true), (None, false)]),
        (json!({"present": false}), &[(Some("2"), false), (None, true)]),
    ];
    for (wanted, given) in cases {
        for (value, expected) in given {
            let expected = if *expected { "r" } else { "default" };
            let headers: Vec<(&'static str, &'static str)> = value.iter().map(|value| ("x-v", *value)).collect();
            assert_eq!(
                found(&with("headers", wanted.clone()), "GET", "h", "/a", &headers),
                expected,
                "{wanted} {value:?}"
            );
            let path = value.map_or("/a".to_owned(), |value| format!("/a?b=1&x%2Dv={value}&x-v=other"));
            assert_eq!(found(&with("query", wanted.clone()), "GET", "h", &path, &[]), expected, "{wanted} {path}");
        }
    }
    // A header holds by any of its lines.
    let mut headers = HeaderMap::new();
    headers.append("x-v", HeaderValue::from_static("1"));
    headers.append("x-v", HeaderValue::from_static("2"));
    for wanted in [json!("2"), json!({"regex": "[2-9]"})] {
        let table = with("headers", wanted.clone());
        assert_eq!(&*table.find(&normal(&Method::GET, "/a", &headers)).route.name, "r", "{wanted}");
    }
}

#[test]
fn a_client_matches_by_network() {
    let table = table(json!([
        route("one", &json!({"path_prefix": "/one", "client": "192.0.2.7"})),
        route("many", &json!({"path_prefix": "/many", "client": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.0/24"]})),
        route("none", &json!({"path_prefix": "/none", "client": ["10.0.0.0/8", "192.0.2.8"]})),
    ]));
    for (path, expected) in [("/one", "one"), ("/many", "many"), ("/none", "default")] {
        assert_eq!(found(&table, "GET", "h", path, &[]), expected, "{path}");
    }
}

#[test]
fn of_equal_paths_the_narrower_match_wins_whatever_the_order() {
    let table = table(json!([
        route("plain", &json!({"path": "/a"})),
        route("client", &json!({"path": "/a", "client": "192.0.2.7"})),
        route("query", &json!({"path": "/a", "query": {"v": "1"}})),
        route("queries", &json!({"path": "/a", "query": {"v": "1", "w": {"present": false}}})),
        route("header", &json!({"path": "/a", "headers": {"x": {"present": true}}})),
        route("method", &json!({"path": "/a", "methods": ["PUT"]})),
        route("other", &json!({"path": "/a", "client": "192.0.2.8"})),
    ]));
    for (method, path, headers, expected) in [
        ("GET", "/a", &[][..], "client"),
        ("GET", "/a?v=1&w", &[], "query"),
        ("GET", "/a?v=1", &[], "queries"),
        ("GET", "/a?v=1", &[("x", "1")], "header"),
        ("PUT", "/a?v=1", &[("x", "1")], "method"),
    ] {
        assert_eq!(found(&table, method, "h", path, headers), expected, "{method} {path} {headers:?}");
    }
}

#[test]
fn a_more_specific_host_without_a_match_leaves_the_request_to_the_others() {
    let table = table(json!([
        route("shop", &json!({"host": "shop.example", "path_prefix": "/only"})),
        route("any", &json!({"path_prefix": "/"})),
    ]));
    assert_eq!(found(&table, "GET", "shop.example", "/x", &[]), "any");
}

#[test]
fn a_host_counts_without_its_port() {
    let table = table(json!([route("shop", &json!({"host": "shop.example"}))]));
    for (host, expected) in [
        ("shop.example:8080", "shop"),
        ("shop.example.", "shop"),
        ("shop.example.:80", "shop"),
        ("SHOP.EXAMPLE", "shop"),
        ("[::1]:80", "default"),
        ("[::1]", "default"),
        ("shop.example:x", "default"),
    ] {
        let head = http::Request::get("/x").header("host", host).body(()).unwrap().into_parts().0;
        assert_eq!(&*table.find(&Normal::of(&head, "/x", CLIENT.into())).route.name, expected, "{host}");
    }
}

#[test]
fn a_rewrite_replaces_the_prefix_that_matched() {
    let table = table(json!([{
        "name": "pay", "match": [{"path_prefix": "/pay"}, {"path_prefix": "/api/pay"}], "legacy": "monolith",
        "modern": {"upstream": "payments", "rewrite": {"path_prefix": "/"}},
    }]));
    let rewritten = |raw: &str, query| {
        let path = super::normalise(raw).unwrap();
        let (method, headers) = (Method::GET, HeaderMap::new());
        let found = table.find(&normal(&method, &path, &headers));
        let target = found.route.modern.as_ref().unwrap();
        target.path_and_query(&path, found.prefix_end, query)
    };
    assert_eq!(rewritten("/pay/7", Some("x=1")).as_deref(), Some("/7?x=1"));
    assert_eq!(rewritten("/api/pay", None).as_deref(), Some("/"));
    assert_eq!(rewritten("//%70ay/7", None).as_deref(), Some("/7"));
    assert_eq!(rewritten("/pay;v=1/7;b", None).as_deref(), Some("/7;b"));
    let legacy = table.routes()[0].legacy.as_ref().unwrap();
    assert_eq!(legacy.path_and_query("/pay/7", 4, None), None);
}

#[test]
fn the_default_fallback_depends_on_sync_and_weight() {
    let fallback = |extra: Value| {
        let mut route = json!({"name": "r", "match": {"path": "/r"}, "legacy": "monolith", "modern": "payments"});
        route.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        table(json!([route])).routes()[0].fallback
    };
    assert_eq!(fallback(json!({"sync": "money", "weight": 100})), Fallback::Reads);
    assert_eq!(fallback(json!({"weight": 99})), Fallback::Unsent);
    assert_eq!(fallback(json!({"weight": 100})), Fallback::None);
    assert_eq!(fallback(json!({"weight": 100, "fallback": "reads"})), Fallback::Reads);
}

#[test]
fn a_route_without_legacy_is_retired_and_modern_answers_all() {
    let table = table(json!([{"name": "r", "match": {"path": "/r"}, "modern": "payments"}]));
    assert_eq!(table.routes()[0].weight, Weight::FULL);
    assert_eq!(table.routes()[0].stage().as_str(), "retired");
}

#[test]
fn unknown_names_are_errors_with_the_nearest_known_one() {
    let found = compile(json!([
        {"name": "r", "match": {"path": "/r"}, "legacy": "monolit", "modern": {"upstream": "paymnets"}, "sync": "mony"}
    ]))
    .unwrap_err();
    let told: Vec<_> = found.iter().map(|p| (p.path.as_str(), p.hint.as_deref().unwrap_or_default())).collect();
    assert_eq!(
        told,
        [
            ("routes[0].legacy", "did you mean `monolith`?"),
            ("routes[0].modern", "did you mean `payments`?"),
            ("routes[0].sync", "did you mean `money`?"),
        ]
    );
}

#[test]
fn what_a_config_can_get_wrong_is_told_once_each() {
    let both = |extra: Value| {
        let mut route =
            json!({"name": "r", "match": {"path_prefix": "/r"}, "legacy": "monolith", "modern": "payments"});
        route.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([route])
    };
    let with = |matches: Value| both(json!({"match": matches}));
    error(json!([{"name": "r", "match": {"path": "/r"}}]), "routes[0]", "neither");
    error(json!([{"name": "default", "match": {"path": "/r"}, "legacy": "monolith"}]), "routes[0].name", "taken");
    error(
        json!([route("a", &json!({"path": "/a"})), route("a", &json!({"path": "/b"}))]),
        "routes[1].name",
        "already a route named `a`",
    );
    error(
        json!([{"name": "r", "match": {"path": "/r"}, "modern": "payments", "weight": 30}]),
        "routes[0].weight",
        "no `legacy`",
    );
    error(
        json!([{"name": "r", "match": {"path": "/r"}, "legacy": "monolith", "weight": 30}]),
        "routes[0].weight",
        "no `modern`",
    );
    error(with(json!({})), "routes[0].match", "every request");
    error(with(json!([])), "routes[0].match", "matches nothing");
    error(with(json!([{"path": "/a"}, {}])), "routes[0].match[1]", "every request");
    error(with(json!({"path": "/a", "path_prefix": "/b"})), "routes[0].match.path_prefix", "either");
    error(with(json!({"path_prefix": "/a", "path_regex": "/b"})), "routes[0].match.path_regex", "either");
    error(with(json!({"path_regex": "/b("})), "routes[0].match.path_regex", "unclosed group");
    error(with(json!({"path": "/a", "client": []})), "routes[0].match.client", "matches nobody");
    error(with(json!({"path": "/a", "query": {"": "1"}})), "routes[0].match.query", "has a name");
    error(with(json!({"path": "/a", "query": {"a": {}}})), "routes[0].match.query.a", "exactly one");
    error(with(json!({"path": "/a", "query": {"a": {"regex": "["}}})), "routes[0].match.query.a.regex", "unclosed");
    error(
        with(json!({"path": "/a", "headers": {"x-a": {"regex": "a", "present": true}}})),
        "routes[0].match.headers.x-a",
        "exactly one",
    );
    error(with(json!({"path": "/a", "methods": []})), "routes[0].match.methods", "matches nothing");
    error(with(json!({"path": "/a", "host": "http://x"})), "routes[0].match.host", "no host name");
    error(with(json!({"path": "//a"})), "routes[0].match.path", "normal form");
    error(with(json!({"path_prefix": "/%70ay"})), "routes[0].match.path_prefix", "normal form");
    error(with(json!({"path": "/a/%zz"})), "routes[0].match.path", "hexadecimal");
    error(
        both(json!({"match": {"path": "/r"}, "modern": {"upstream": "payments", "rewrite": {"path_prefix": "/v2"}}})),
        "routes[0].modern.rewrite",
        "path_prefix",
    );
    error(both(json!({"sync": "money", "fallback": "unsent"})), "routes[0].fallback", "change side");
    error(
        json!([{"name": "r", "match": {"path": "/r"}, "legacy": "monolith", "sync": "users"}]),
        "routes[0]",
        "modern owns sync `users`",
    );
    error(both(json!({"compare": {}})), "routes[0].compare", "without `shadow`");
    error(
        json!([{"name": "r", "match": {"path": "/r"}, "legacy": "monolith", "shadow": {"percent": 1}}]),
        "routes[0].shadow",
        "both sides",
    );
    error(
        both(json!({"shadow": {"percent": 1}, "compare": {"ignore": ["/a~2"]}})),
        "routes[0].compare.ignore[0]",
        "no JSON pointer",
    );
    error(both(json!({"timeout": "0s"})), "routes[0].timeout", "no time");
    error(both(json!({"shadow": {"percent": 1, "max_body": "1GiB"}})), "routes[0].shadow.max_body", "32 MiB");
    error(both(json!({"sticky": [{"cookie": "a b"}]})), "routes[0].sticky[0].cookie", "no cookie name");
    warning(both(json!({"sticky": [{"cookie": "JSESSIONID"}]})), "routes[0].sticky[0].cookie", "log-in");
    warning(both(json!({"sticky": [{"header": "authorization"}]})), "routes[0].sticky[0].header", "log-in");
}

#[test]
fn a_route_that_answers_by_itself_has_no_side_and_says_something_that_can_be_said() {
    let with = |extra: Value| {
        let mut route = json!({"name": "r", "match": {"path_prefix": "/r"}});
        route.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([route])
    };
    let gone = json!({"status": 410});
    for (key, value) in
        [("legacy", json!("monolith")), ("weight", json!(5)), ("sync", json!("money")), ("expose", json!(true))]
    {
        error(with(json!({"respond": gone, key: value})), &format!("routes[0].{key}"), "nothing to do");
    }
    error(with(json!({"respond": gone, "redirect": {"path": "/x"}})), "routes[0].respond", "nothing to do");
    error(with(json!({"respond": {"status": 101}})), "routes[0].respond.status", "no status of an answer");
    error(with(json!({"respond": {"status": 204, "body": "x"}})), "routes[0].respond.body", "has no body");
    let large = "x".repeat(65_537);
    error(with(json!({"respond": {"status": 200, "body": large}})), "routes[0].respond.body", "64 KiB");
    error(
        with(json!({"respond": {"status": 200, "headers": {"content-length": "5"}}})),
        "routes[0].respond.headers.content-length",
        "framed",
    );
    error(with(json!({"redirect": {"status": 301}})), "routes[0].redirect", "where it is");
    error(with(json!({"redirect": {"path": "x"}})), "routes[0].redirect.path", "must begin");
    error(with(json!({"redirect": {"path": "/a//b"}})), "routes[0].redirect.path", "normal form");
    error(with(json!({"redirect": {"host": "a:80"}})), "routes[0].redirect.host", "without a port");
    error(with(json!({"redirect": {"path": "/a", "path_prefix": "/b"}})), "routes[0].redirect.path_prefix", "either");
    error(
        with(json!({"match": {"path": "/r"}, "redirect": {"path_prefix": "/b"}})),
        "routes[0].redirect.path_prefix",
        "every match",
    );
    let table = table(with(json!({"redirect": {"path_prefix": "/b"}})));
    assert_eq!((table.routes()[0].stage().as_str(), table.routes()[0].weight), ("banyan", Weight::ZERO));
}

#[test]
fn what_reads_can_get_wrong_is_told() {
    let with =
        |reads: Value| json!([{"name": "r", "match": {"path_prefix": "/"}, "legacy": "monolith", "reads": reads}]);
    error(with(json!({"never": ["logout"]})), "routes[0].reads.never[0]", "must begin");
    error(with(json!({"never": ["/a", "/log*"]})), "routes[0].reads.never[1]", "whole end");
    error(with(json!({"never": ["/*/a"]})), "routes[0].reads.never[0]", "whole end");
    error(with(json!({"never": ["//a"]})), "routes[0].reads.never[0]", "normal form");
    error(with(json!({"also": [{}]})), "routes[0].reads.also[0]", "all the route's requests");
    error(with(json!({"also": [{"methods": ["POST"]}]})), "routes[0].reads.also[0]", "all the route's requests");
    error(with(json!({"also": [{"path": "/a", "grpc": "a.B/C"}]})), "routes[0].reads.also[0].grpc", "either");
    for bad in ["Orders", "/shop.Orders/List", "shop.Orders/", "shop.Orders/L*st", "shop..Orders/List"] {
        error(with(json!({"also": [{"grpc": bad}]})), "routes[0].reads.also[0].grpc", "no gRPC method");
    }
    error(
        with(json!({"also": [{"path": "/a", "query": {"q": {"regex": "("}}}]})),
        "routes[0].reads.also[0].query.q.regex",
        "unclosed",
    );
    error(
        with(json!({"also": [{"path": "/a", "headers": {"x": {}}}]})),
        "routes[0].reads.also[0].headers.x",
        "exactly",
    );
    assert!(problems(with(json!({"also": [{"grpc": "shop.Orders/*"}, {"path": "/*"}], "never": ["/a/*"]}))).is_empty());
}

#[test]
fn weights_that_differ_within_a_group_are_told() {
    let route = |name: &str, weight: f64| {
        json!({"name": name, "match": {"path": format!("/{name}")}, "legacy": "monolith", "modern": "payments",
               "sync": "money", "weight": weight})
    };
    warning(json!([route("a", 5.0), route("b", 50.0), route("c", 5.0)]), "routes[1].weight", "`a`");
    assert!(problems(json!([route("a", 5.0), route("b", 5.0)])).is_empty());
}

#[test]
fn a_route_that_an_earlier_one_makes_unreachable_is_told_with_its_name() {
    let get = json!({"path_prefix": "/a", "methods": ["GET"]});
    let rest = json!({"path_prefix": "/a/", "methods": ["POST", "PUT"]});
    warning(json!([route("one", &get), route("two", &get)]), "routes[1].match", "route `one`");
    warning(
        json!([
            route("one", &get),
            route("two", &rest),
            route("both", &json!({"path_prefix": "/a", "methods": ["PUT", "GET"]}))
        ]),
        "routes[2].match",
        "never answers",
    );
    warning(
        json!([route("one", &get), route("two", &json!([{"path": "/b"}, get]))]),
        "routes[1].match[1]",
        "this match of route `two`",
    );
    for reachable in [
        json!([route("one", &get), route("two", &rest)]),
        json!([route("one", &json!({"path_prefix": "/a"})), route("two", &get)]),
        json!([route("one", &json!({"path_prefix": "/a"})), route("two", &json!({"path_prefix": "/a/b"}))]),
        json!([route("one", &get), route("two", &json!({"path_prefix": "/a", "host": "h"}))]),
    ] {
        assert!(problems(reachable.clone()).is_empty(), "{reachable}");
    }
}

#[test]
fn a_match_that_another_takes_whole_is_told_and_no_other() {
    let of = |matches: Value| {
        let mut whole = json!({"path_prefix": "/a"});
        whole.as_object_mut().unwrap().extend(matches.as_object().unwrap().clone());
        whole
    };
    for (first, second, is_hidden) in [
        (of(json!({"query": {"v": "1"}})), of(json!({"query": {"v": "1"}})), true),
        (of(json!({"query": {"v": "1"}})), of(json!({"query": {"v": "2"}})), false),
        (of(json!({"query": {"v": {"present": true}}})), of(json!({"query": {"v": "2"}})), true),
        (of(json!({"query": {"v": {"regex": "[0-9]"}}})), of(json!({"query": {"v": "2"}})), true),
        (of(json!({"query": {"v": {"regex": "[0-9]"}}})), of(json!({"query": {"v": "x"}})), false),
        (of(json!({"query": {"v": {"regex": "[0-9]"}}})), of(json!({"query": {"v": {"present": true}}})), false),
        (of(json!({"query": {"v": {"present": false}}})), of(json!({"query": {"v": "x"}})), false),
        (of(json!({"headers": {"x": {"present": true}}})), of(json!({"headers": {"x": "2"}})), true),
        (of(json!({"headers": {"x": "2"}})), of(json!({"headers": {"x": {"present": true}}})), false),
        (of(json!({"headers": {"x": "2"}})), of(json!({"headers": {"y": "2"}})), false),
        (of(json!({"client": "10.0.0.0/8"})), of(json!({"client": ["10.1.0.0/16", "10.2.0.1"]})), true),
        (of(json!({"client": "10.0.0.0/8"})), of(json!({"client": ["10.1.0.0/16", "11.2.0.1"]})), false),
        (of(json!({"client": "10.0.0.0/8"})), of(json!({})), false),
        (of(json!({})), of(json!({"client": "10.0.0.0/8"})), false),
        (json!({"path": "/a"}), json!({"path_regex": "/a"}), true),
        (json!({"path": "/a", "methods": ["GET"]}), json!({"path_regex": "/a"}), false),
        (json!({"path": "/a", "methods": ["GET"]}), json!({"path_regex": "/a", "methods": ["GET"]}), true),
        (json!({"path": "/a"}), json!({"path_regex": "/a|/b"}), false),
        (json!({"path": "/a"}), json!({"path_regex": "/."}), false),
        (json!({"path_regex": "/a+"}), json!({"path_regex": "/a+"}), true),
        (json!({"path_regex": "/.*"}), of(json!({"methods": ["PUT"]})), true),
        (json!({"path_regex": "/.*", "methods": ["PUT"]}), of(json!({"methods": ["PUT"]})), true),
        (json!({"path_regex": "/.*", "methods": ["PUT"]}), of(json!({})), false),
        (json!({"path_regex": "/.*"}), json!({"path_prefix": "/"}), false),
        (json!({"path_regex": ".*"}), json!({"path_prefix": "/"}), true),
        (json!({"path_regex": "/.*", "host": "h"}), of(json!({})), false),
        (json!({"path_regex": "/b.*"}), of(json!({})), false),
        (json!({"path_regex": ".*"}), json!({"path_regex": "/a+"}), true),
        (json!({"path_regex": "/a+"}), json!({"path_regex": ".*"}), false),
        (json!({"path_regex": "/.*"}), json!({"path": "/a"}), false),
    ] {
        let routes = json!([route("one", &first), route("two", &second)]);
        let told = problems(routes.clone());
        let expected = if is_hidden { vec!["routes[1].match"] } else { Vec::new() };
        assert_eq!(told.iter().map(|(path, ..)| path.as_str()).collect::<Vec<_>>(), expected, "{routes}: {told:?}");
    }
    // A pattern comes before prefixes, also of routes that stand before it.
    warning(
        json!([route("one", &json!({"path_prefix": "/a"})), route("two", &json!({"path_regex": "^/.*$"}))]),
        "routes[0].match",
        "route `two` takes all requests of `/a` before it",
    );
}

#[test]
fn a_match_that_no_request_can_meet_is_told() {
    let one = |matches: &Value| json!([route("r", matches)]);
    warning(one(&json!({"path_regex": "payments/.*"})), "routes[0].match", "no path fits the pattern");
    warning(one(&json!({"path": "/a", "methods": ["CONNECT"]})), "routes[0].match", "refused before any route");
    warning(one(&json!({"path": "/a", "headers": {"x-banyan-side": "modern"}})), "routes[0].match", "is stripped");
    assert!(problems(one(&json!({"path": "/a", "headers": {"x-banyan-side": {"present": false}}}))).is_empty());
}

#[test]
fn an_explanation_says_why_each_other_route_does_not_match() {
    let table = table(json!([
        route("host", &json!({"host": "*.shop.example", "path_prefix": "/pay"})),
        route("path", &json!({"path_prefix": "/orders"})),
        route("exact", &json!([{"path": "/pay"}, {"host": "g", "path": "/pay/7"}])),
        route("pattern", &json!({"path_regex": "/pay/[a-z]+"})),
        route("method", &json!({"path": "/pay/7", "methods": ["PUT", "POST"]})),
        route(
            "header",
            &json!({"path_prefix": "/pay", "headers": {"x-tenant": "secret-1", "x-b": {"regex": "secret-2"}}})
        ),
        route("query", &json!({"path_prefix": "/pay", "query": {"v": "secret-3"}})),
        route("client", &json!([{"path": "/nowhere"}, {"path_prefix": "/pay", "client": "10.0.0.0/8"}])),
        route("pay", &json!({"path_prefix": "/pay"})),
        route("later", &json!([{"path": "/nowhere"}, {"path_prefix": "/"}])),
    ]));
    let headers: HeaderMap =
        [(http::HeaderName::from_static("x-tenant"), HeaderValue::from_static("secret-1"))].into_iter().collect();
    let explanation = table.explain(&normal(&Method::GET, "/pay/7", &headers));
    assert_eq!((&*explanation.route.name, explanation.others[0].1.as_str()), ("pay", "prefix /; a shorter prefix"));
    let told: Vec<(&str, MissedBy, &str)> =
        explanation.misses.iter().map(|miss| (&*miss.route.name, miss.by, miss.why.as_str())).collect();
    assert_eq!(
        told,
        [
            ("client", MissedBy::Client, "the client's address is in none of its networks"),
            ("query", MissedBy::Query, "query parameter v is not as it wants"),
            ("header", MissedBy::Header, "header x-b is not as it wants"),
            ("method", MissedBy::Method, "the method is not PUT or POST"),
            ("path", MissedBy::Path, "the path is not under /orders"),
            ("exact", MissedBy::Path, "the path is not /pay"),
            ("pattern", MissedBy::Path, "the path does not fit the pattern /pay/[a-z]+"),
            ("host", MissedBy::Host, "the host is not *.shop.example"),
        ]
    );
}

#[test]
fn a_secret_is_wanted_by_synced_routes_alone() {
    let told = |sync: bool, secret: Option<&str>| {
        let mut routes = json!([{"name": "r", "match": {"path": "/r"}, "legacy": "monolith"}]);
        if sync {
            routes[0]["sync"] = "money".into();
        }
        let config = Config { secret: secret.map(|text| text.to_owned().into()), ..config(routes) };
        match RouteTable::compile(&config, &FileLinks::of(&config)) {
            Ok((_, warnings)) => warnings.into_iter().map(|p| (p.path, p.severity)).collect::<Vec<_>>(),
            Err(problems) => problems.into_iter().map(|p| (p.path, p.severity)).collect(),
        }
    };
    assert_eq!(told(true, None), [("secret".to_owned(), Severity::Warning)]);
    assert!(told(false, None).is_empty());
    assert_eq!(told(false, Some("short")), [("secret".to_owned(), Severity::Error)]);
}

#[test]
fn an_explanation_names_what_matched_and_what_else_would() {
    let table = table(json!([
        route("all", &json!({"path_prefix": "/"})),
        route("pay", &json!({"path_prefix": "/pay", "methods": ["GET", "PUT"], "headers": {"x-tenant": "acme"}})),
    ]));
    let headers: HeaderMap =
        [(http::HeaderName::from_static("x-tenant"), HeaderValue::from_static("acme"))].into_iter().collect();
    let explanation = table.explain(&normal(&Method::GET, "/pay/7", &headers));
    assert_eq!(&*explanation.route.name, "pay");
    assert_eq!(explanation.matched, "prefix /pay, method GET or PUT, header x-tenant");
    assert_eq!(explanation.others.len(), 1);
    assert_eq!(explanation.others[0].1, "prefix /; a shorter prefix");
}

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
