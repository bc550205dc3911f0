//! Which route a request finds, and what a route is by default.

use super::*;

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
        let path = crate::table::normalise(raw).unwrap();
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
        table(json!([route])).routes()[0].fallback()
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
