//! The admin listener: who may ask what, what a page of another site cannot do, what a hostile client cannot take, and that no answer shows a
//! secret.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, process::Output};

use serde_json::Value;

use crate::harness::{Banyan, Raw, Upstream, client::Answer, eventually, secs};

const VIEW: &str = "view-0123456789abcdef0123456789abcdef";
const OPERATE: &str = "operate-0123456789abcdef0123456789abcdef";
const MARKS: &str = "Content-Type: application/json\r\nX-Banyan-Request: 1\r\n";

fn yaml(monolith: &Upstream, admin: &str, weight: &str) -> String {
    format!(
        "{admin}upstreams:\n  monolith: {{endpoints: [\"{0}\"]}}\n  service: {{endpoints: [\"{0}\"]}}\ndefault: monolith\nsecret: cookie-secret-0123456789abcdef0123456789\n\
         routes:\n  - {{name: moving, match: {{path_prefix: /moving}}, legacy: monolith, modern: service, weight: {weight}}}\n",
        monolith.url()
    )
}

/// With both tokens from the environment.
async fn with_tokens(monolith: &Upstream) -> Banyan {
    Banyan::with_admin(
        "tokens: {view: \"${VIEW}\", operate: \"${OPERATE}\"}, hosts: [banyan.internal]",
        &yaml(monolith, "", "5"),
    )
    .env("VIEW", VIEW)
    .env("OPERATE", OPERATE)
    .start()
    .await
}

async fn call(admin: SocketAddr, line: &str, headers: &str, body: &str) -> Answer {
    let host = if headers.contains("Host: ") { String::new() } else { format!("Host: {admin}\r\n") };
    let length = if line.starts_with("GET") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    Raw::once(admin, &format!("{line} HTTP/1.1\r\n{host}{headers}{length}Connection: close\r\n\r\n{body}")).await
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn told(done: &Output) -> String {
    text(&done.stdout) + &text(&done.stderr)
}

#[tokio::test]
async fn what_changes_something_takes_a_token_that_may_operate() {
    let monolith = Upstream::named("legacy");
    let banyan = with_tokens(&monolith).await;
    let kept = fs::read_to_string(banyan.folder().join("state/admin.token")).unwrap();
    let mode = fs::metadata(banyan.folder().join("state/admin.token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (token, status) in [("", 401), ("no", 401), (&VIEW[1..], 401), (VIEW, 403), (OPERATE, 200), (kept.trim(), 200)]
    {
        let given = if token.is_empty() { String::new() } else { bearer(token) };
        let answer = call(banyan.admin(), "POST /api/v1/reload", &format!("{MARKS}{given}"), "{}").await;
        assert_eq!(answer.status, status, "{token}: {}", answer.text());
    }
    let reloads = banyan.metrics_with(VIEW).await.sum("banyan_config_reloads_total", &[("result", "accepted")]);
    assert!((reloads - 2.0).abs() < 0.1, "{reloads}");
}

#[tokio::test]
async fn reading_takes_a_token_where_the_file_names_one_and_probes_never_do() {
    let monolith = Upstream::named("legacy");
    let banyan = with_tokens(&monolith).await;
    for path in ["/metrics", "/api/v1/status", "/api/v1/session", "/api/v1/config", "/api/v1/chart?route=moving"] {
        for (given, status) in [("", 401), (VIEW, 200), (OPERATE, 200), ("no", 401)] {
            let given = if given.is_empty() { String::new() } else { bearer(given) };
            assert_eq!(call(banyan.admin(), &format!("GET {path}"), &given, "").await.status, status, "{path} {given}");
        }
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(call(banyan.admin(), &format!("GET {path}"), "Host: 10.1.2.3:9901\r\n", "").await.status, 200);
        assert_eq!(call(banyan.admin(), &format!("GET {path}"), "Host: any.name\r\n", "").await.status, 200);
    }
    assert_eq!(call(banyan.admin(), "GET /api/v1/stream", "", "").await.status, 401);
    // The page holds no data: whoever has no token is asked for one there.
    let page = call(banyan.admin(), "GET /", "", "").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(page.status == 200 && policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(call(banyan.admin(), "GET /", "Host: evil.example:9901\r\n", "").await.status, 421);
    for outside in ["/page/../status.rs", "/page/nothing.js", "/page/vendor", "/page/vendor/README.md"] {
        assert_eq!(call(banyan.admin(), &format!("GET {outside}"), "", "").await.status, 404, "{outside}");
    }
    assert_eq!(call(banyan.admin(), "GET /api/v1/nothing", &bearer(OPERATE), "").await.status, 404);
    assert_eq!(call(banyan.admin(), "POST /metrics", &format!("{MARKS}{}", bearer(OPERATE)), "").await.status, 405);

    let open = Banyan::with(&yaml(&monolith, "", "5")).start().await;
    assert_eq!(call(open.admin(), "GET /metrics", "", "").await.status, 200);
    assert_eq!(
        call(open.admin(), "GET /metrics", &bearer("no"), "").await.status,
        401,
        "a wrong token is never passed over"
    );
}

#[tokio::test]
async fn a_page_of_another_site_can_neither_ask_nor_change_anything() {
    let monolith = Upstream::named("legacy");
    let banyan = with_tokens(&monolith).await;
    let admin = banyan.admin();
    let view = bearer(VIEW);
    assert_eq!(call(admin, "GET /metrics", &format!("Host: evil.example:9901\r\n{view}"), "").await.status, 421);
    assert_eq!(call(admin, "GET /metrics", &format!("Host: banyan.internal:9901\r\n{view}"), "").await.status, 200);

    let own = format!("Origin: http://{admin}\r\n");
    let sign_in = format!("{{\"token\": \"{OPERATE}\"}}");
    let session = call(admin, "POST /api/v1/session", &format!("{MARKS}{own}"), &sign_in).await;
    assert_eq!(session.status, 200, "{}", session.text());
    let cookie = session.header("set-cookie").unwrap().to_owned();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/api/v1"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let cookie = format!("Cookie: a=b; {}\r\n", cookie.split(';').next().unwrap());
    let reload = async |headers: String| call(admin, "POST /api/v1/reload", &headers, "{}").await;
    assert_eq!(reload(format!("{MARKS}{own}{cookie}")).await.status, 200);
    for (why, headers) in [
        ("no origin", format!("{MARKS}{cookie}")),
        ("another origin", format!("{MARKS}Origin: http://evil.example\r\n{cookie}")),
        ("another port", format!("{MARKS}Origin: http://{}\r\n{cookie}", banyan.http())),
        ("null origin", format!("{MARKS}Origin: null\r\n{cookie}")),
        ("a form", format!("Content-Type: application/x-www-form-urlencoded\r\nX-Banyan-Request: 1\r\n{own}{cookie}")),
        ("no header of ours", format!("Content-Type: application/json\r\n{own}{cookie}")),
    ] {
        let answer = reload(headers).await;
        assert_eq!(answer.status, 403, "{why}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    for (why, headers, body) in [
        ("another site signs somebody in", format!("{MARKS}Origin: http://evil.example\r\n"), sign_in.clone()),
        ("without an origin", MARKS.to_owned(), sign_in.clone()),
    ] {
        assert_eq!(call(admin, "POST /api/v1/session", &headers, &body).await.status, 403, "{why}");
    }
    let refused = call(admin, "POST /api/v1/session", &format!("{MARKS}{own}"), "{\"token\": \"no\"}").await;
    assert_eq!((refused.status, refused.header("set-cookie")), (401, None));
    let preflight = call(admin, "OPTIONS /api/v1/reload", "Origin: http://evil.example\r\n", "").await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (405, None));
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let monolith = Upstream::named("legacy");
    let banyan = Banyan::with_admin(&format!("tokens: {{view: {VIEW}}}"), &yaml(&monolith, "", "5")).start().await;
    let admin = banyan.admin();
    let headers = format!("{MARKS}Origin: http://{admin}\r\n");
    let session = call(admin, "POST /api/v1/session", &headers, &format!("{{\"token\": \"{VIEW}\"}}")).await;
    let cookie = format!("Cookie: {}\r\n", session.header("set-cookie").unwrap().split(';').next().unwrap());
    let shown = call(admin, "GET /api/v1/session", &cookie, "").await;
    assert_eq!((shown.status, &shown.json()["role"]), (200, &Value::from("view")));
    assert_eq!(call(admin, "POST /api/v1/reload", &format!("{headers}{cookie}"), "{}").await.status, 403);
    let forged = cookie.replace(".", "9.");
    assert_eq!(call(admin, "GET /api/v1/session", &forged, "").await.status, 401, "nobody makes a session last longer");
    banyan.rewrite_with_admin(&format!("tokens: {{view: other-{VIEW}}}"), &yaml(&monolith, "", "5"));
    eventually(secs(10), "the session has ended", async || {
        call(admin, "GET /api/v1/session", &cookie, "").await.status == 401
    })
    .await;
}

#[tokio::test]
async fn no_answer_of_the_admin_listener_shows_a_secret() {
    let monolith = Upstream::named("legacy");
    let banyan = with_tokens(&monolith).await;
    let kept = fs::read_to_string(banyan.folder().join("state/admin.token")).unwrap();
    let mut answers = Vec::new();
    let paths = ["/livez", "/readyz", "/", "/page/app.js", "/metrics", "/api/v1/status", "/api/v1/chart?route=moving"];
    for path in paths.into_iter().chain(["/api/v1/config", "/api/v1/session", "/nothing"]) {
        answers.push(call(banyan.admin(), &format!("GET {path}"), &bearer(OPERATE), "").await);
    }
    let marks = format!("{MARKS}{}", bearer(OPERATE));
    answers.push(call(banyan.admin(), "POST /api/v1/reload", &marks, "{}").await);
    let broken = yaml(&monolith, "", "500").replace("cookie-secret", "5 cookie-secret");
    banyan.rewrite_with_admin("tokens: {view: short-secret, operate: short-secret}", &broken);
    let refused = call(banyan.admin(), "POST /api/v1/reload", &marks, "{}").await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    answers.push(refused);
    // With the file in force, the one on disk and its errors.
    let config = call(banyan.admin(), "GET /api/v1/config", &bearer(OPERATE), "").await;
    assert!(config.json()["on_disk"].as_str().unwrap().contains("weight: 500"), "{}", config.text());
    assert!(config.json()["refused"]["report"].as_str().unwrap().contains("`weight` must be between"));
    answers.push(config);
    for answer in answers {
        let all = text(&answer.head) + &answer.text();
        for secret in [VIEW, OPERATE, kept.trim(), "cookie-secret", "short-secret"] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
    }
}

#[tokio::test]
async fn whoever_holds_the_admin_listeners_connections_locks_nobody_out() {
    let monolith = Upstream::named("legacy");
    let banyan = Banyan::with(&yaml(&monolith, "", "5")).start().await;
    let mut held = Vec::new();
    for at in 0..200 {
        let mut raw = Raw::connect(banyan.admin()).await;
        // Some say nothing, some half a head, some half a body.
        raw.send(match at % 3 {
            0 => "",
            1 => "GET /metrics HTTP/1.1\r\nHost: loc",
            _ => "POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nContent-Type: application/json\r\nX-Banyan-Request: 1\r\nContent-Length: 9\r\n\r\n{",
        })
        .await;
        held.push(raw);
    }
    for path in ["/livez", "/readyz", "/metrics", "/api/v1/status"] {
        assert_eq!(Raw::get(banyan.admin(), path).await.status, 200, "{path}");
    }
    assert_eq!(Raw::get(banyan.http(), "/moving").await.status, 200);
    assert!(held[0].is_closed_within(secs(5)).await, "the oldest made room");

    let marks = format!("{MARKS}Origin: http://{}\r\n", banyan.admin());
    let long = "x".repeat(17 * 1024);
    assert_eq!(call(banyan.admin(), "POST /api/v1/session", &marks, &long).await.status, 413);
    let head = format!("X-Long: {long}\r\n");
    assert_eq!(call(banyan.admin(), "GET /livez", &head, "").await.status, 431);
    let mut slow = Raw::connect(banyan.admin()).await;
    slow.send("GET /livez HTTP/1.1\r\nHost: loc").await;
    assert!(slow.is_closed_within(secs(30)).await, "a head takes ten seconds at most");
}

#[tokio::test]
async fn banyan_reload_says_what_became_of_the_file() {
    let monolith = Upstream::named("legacy");
    let banyan = Banyan::with(&yaml(&monolith, "", "5")).start().await;
    let done = banyan.verb(&["reload"]);
    assert!(done.status.success(), "{}", told(&done));
    assert!(text(&done.stdout).starts_with("took over routes.yaml"), "{}", told(&done));

    banyan.rewrite(&yaml(&monolith, "", "500"));
    let done = banyan.verb(&["reload"]);
    assert_eq!(done.status.code(), Some(1));
    let said = text(&done.stderr);
    assert!(said.contains("error: `weight` must be between 0 and 100, not `500`"), "{said}");
    assert!(said.contains("routes.yaml:") && said.ends_with("1 error; the old file stays in force\n"), "{said}");
    assert_eq!(banyan.status().await["file"]["in_force"], false);

    let json: Value = serde_json::from_str(&text(&banyan.verb(&["reload", "-o", "json"]).stdout)).unwrap();
    assert_eq!((&json["outcome"], &json["errors"]), (&"refused".into(), &1.into()));
    // The token of this machine's Banyan goes nowhere else, and a wrong one is told.
    fs::write(banyan.folder().join("state/admin.token"), "not-the-token-0123456789abcdef01234567").unwrap();
    let done = banyan.verb(&["reload"]);
    assert!(text(&done.stderr).contains("takes a token that it knows: set `BANYAN_ADMIN_TOKEN`"), "{}", told(&done));
}
