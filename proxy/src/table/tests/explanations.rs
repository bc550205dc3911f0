//! Why a route matches, and why each other one does not.

use super::*;

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
