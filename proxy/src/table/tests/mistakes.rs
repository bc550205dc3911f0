//! What a config gets wrong is told once, where it stands.

use super::*;

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
