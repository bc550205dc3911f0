//! The admin listener with TLS, from everywhere: who may ask, what the command line believes, files that change; and the listener for probes.

use std::{fs, net::SocketAddr, process::Output};

use crate::harness::{Authority, Banyan, Raw, Upstream, client::Answer, eventually, ports, secs};

const VIEW: &str = "view-0123456789abcdef0123456789abcdef";
const HOST: &str = "banyan.internal";
const MARKS: &str = "Content-Type: application/json\r\nX-Banyan-Request: 1\r\n";

fn yaml(monolith: &Upstream) -> String {
    format!("upstreams:\n  monolith: {{endpoints: [\"{}\"]}}\ndefault: monolith\n", monolith.url())
}

fn keys(probes: SocketAddr, more: &str) -> String {
    format!("probes: \"{probes}\", tls: {{certificates: [{{cert: banyan.pem, key: banyan.key}}]{more}}}")
}

/// Not started yet; with a certificate for `HOST`.
fn with_tls(monolith: &Upstream, more_tls: &str, more: &str) -> (Banyan, Authority) {
    let probes = SocketAddr::from(([127, 0, 0, 1], ports::reserve()));
    let banyan = Banyan::with_admin(&format!("{}{more}", keys(probes, more_tls)), &yaml(monolith)).probed_at(probes);
    let authority = Authority::new(banyan.folder());
    authority.signs("banyan", HOST);
    (banyan, authority)
}

async fn call(to: SocketAddr, line: &str, headers: &str, body: &str) -> Answer {
    let host = if headers.contains("Host: ") { String::new() } else { format!("Host: {to}\r\n") };
    let length = if line.starts_with("GET") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    Raw::once(to, &format!("{line} HTTP/1.1\r\n{host}{headers}{length}Connection: close\r\n\r\n{body}")).await
}

fn kept(banyan: &Banyan) -> String {
    fs::read_to_string(banyan.folder().join("state/admin.token")).unwrap().trim().to_owned()
}

fn told(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[tokio::test]
async fn from_everywhere_the_admin_listener_speaks_tls_alone_and_reading_takes_a_token() {
    let monolith = Upstream::named("legacy");
    let (banyan, authority) = with_tls(&monolith, "", ", hosts: [banyan.internal]");
    let banyan = banyan.everywhere().start().await;
    let admin = authority.leads_to(banyan.admin(), HOST);
    let bearer = format!("Authorization: Bearer {}\r\n", kept(&banyan));
    for path in ["/metrics", "/api/v1/status", "/api/v1/session"] {
        assert_eq!(call(admin, &format!("GET {path}"), "", "").await.status, 401, "{path}");
        assert_eq!(call(admin, &format!("GET {path}"), &bearer, "").await.status, 200, "{path}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(call(admin, &format!("GET {path}"), "", "").await.status, 200, "{path}");
    }
    for (host, status) in [("evil.example", 421), (HOST, 200)] {
        let headers = format!("Host: {host}\r\n{bearer}");
        assert_eq!(call(admin, "GET /metrics", &headers, "").await.status, status, "{host}");
    }
    assert!(authority.shown(banyan.admin(), HOST, &["http/1.1"]).await.is_ok());
    assert!(authority.shown(banyan.admin(), HOST, &["h2"]).await.is_err(), "HTTP/2 is not offered");
    let mut plain = Raw::connect(banyan.admin()).await;
    plain.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let said = plain.rest().await.unwrap_or_default();
    assert!(!said.starts_with(b"HTTP/"), "nothing is answered in the clear: {said:?}");
}

#[tokio::test]
async fn a_session_over_tls_is_never_sent_without() {
    let monolith = Upstream::named("legacy");
    let (banyan, authority) = with_tls(&monolith, "", &format!(", tokens: {{view: {VIEW}}}"));
    let banyan = banyan.start().await;
    let admin = authority.leads_to(banyan.admin(), HOST);
    let body = format!("{{\"token\": \"{VIEW}\"}}");
    let sign_in = async |scheme: &str| {
        call(admin, "POST /api/v1/session", &format!("{MARKS}Origin: {scheme}://{admin}\r\n"), &body).await
    };
    assert_eq!(sign_in("http").await.status, 403, "a page that came in the clear is another site's");
    let session = sign_in("https").await;
    assert_eq!(session.status, 200, "{}", session.text());
    let cookie = session.header("set-cookie").unwrap();
    for attribute in ["; Secure", "; HttpOnly", "; SameSite=Strict", "Path=/api/v1;"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(call(admin, "GET /api/v1/session", &cookie, "").await.json()["role"], "view");
}

#[tokio::test]
async fn on_loopback_reading_takes_no_token_with_tls_either() {
    let monolith = Upstream::named("legacy");
    let (banyan, authority) = with_tls(&monolith, "", "");
    let banyan = banyan.start().await;
    let admin = authority.leads_to(banyan.admin(), HOST);
    assert_eq!(call(admin, "GET /metrics", "", "").await.status, 200);
    let status = call(admin, "GET /api/v1/status", "", "").await.json();
    assert_eq!((&status["admin"]["tls"], &status["admin"]["tls_trouble"]), (&true.into(), &serde_json::Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_trusts_the_files_own_certificate_or_a_named_authority_and_nobody_else() {
    let monolith = Upstream::named("legacy");
    let (banyan, authority) = with_tls(&monolith, "", "");
    let banyan = banyan.everywhere().start().await;
    let port = banyan.admin().port();
    let (by_address, by_name) = (format!("https://127.0.0.1:{port}"), format!("https://localhost:{port}"));

    // As the file says: neither the name nor an authority of this machine fits, but it is the file's own certificate.
    for verb in [&["status"][..], &["reload"]] {
        let done = banyan.verb(verb);
        assert!(done.status.success(), "{verb:?}: {}", told(&done));
    }
    assert!(banyan.verb(&["status", "--admin", &by_name]).status.success());

    // Another file knows another certificate, and this machine's authorities know neither.
    fs::copy(banyan.folder().join("banyan.pem"), banyan.folder().join("kept.pem")).unwrap();
    authority.signs("other", HOST);
    let file = fs::read_to_string(banyan.file()).unwrap();
    fs::write(banyan.folder().join("other.yaml"), file.replace("banyan.pem", "other.pem")).unwrap();
    let done = banyan.verb(&["status", "-c", "other.yaml"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        told(&done).contains("its certificate is not to be trusted; name its authority with `--ca FILE`"),
        "{}",
        told(&done)
    );

    // A named authority is the only one: the name has to fit, too.
    let done = banyan.verb(&["status", "--admin", &by_name, "--ca", "ca.pem"]);
    assert!(told(&done).contains("not to be trusted"), "{}", told(&done));
    authority.signs("banyan", "localhost");
    eventually(secs(20), "the new certificate is shown", async || {
        authority.shown(banyan.admin(), "localhost", &[]).await.is_ok()
    })
    .await;
    let done = banyan.verb(&["status", "--admin", &by_name, "--ca", "ca.pem"]);
    assert!(done.status.success(), "{}", told(&done));
    let done = banyan.verb(&["status", "--admin", &by_name, "--ca", "no-such.pem"]);
    assert!(told(&done).contains("--ca no-such.pem"), "{}", told(&done));

    let done = banyan.verb(&["status", "--admin", &by_address.replace("https", "http")]);
    assert!(told(&done).contains("with `admin.tls` it is `https://`"), "{}", told(&done));
    let done = banyan.verb(&["status", "--admin", &format!("https://{}", banyan.http())]);
    assert!(told(&done).contains("speaks no TLS"), "{}", told(&done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_clients_must_show_a_certificate_the_command_line_shows_the_one_it_is_given() {
    let monolith = Upstream::named("legacy");
    let (banyan, authority) = with_tls(&monolith, ", client_ca: ca.pem", "");
    authority.signs("me", "me.internal");
    let banyan = banyan.everywhere().start().await;
    let done = banyan.verb(&["status"]);
    assert!(told(&done).contains("it asks for a certificate; name one with `--client-cert FILE`"), "{}", told(&done));
    let done = banyan.verb(&["status", "--client-cert", "me.both.pem"]);
    assert!(done.status.success(), "{}", told(&done));
    let done = banyan.verb(&["status", "--client-cert", "me.pem"]);
    assert!(told(&done).contains("no private key"), "{}", told(&done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_of_the_admin_listener_are_taken_over_and_bad_ones_change_nothing() {
    let monolith = Upstream::named("legacy");
    let (banyan, authority) = with_tls(&monolith, "", "");
    let banyan = banyan.start().await;
    let admin = authority.leads_to(banyan.admin(), HOST);
    let shown = async || authority.shown(banyan.admin(), HOST, &[]).await.unwrap();
    let reloads = async |result: &str| {
        let text = call(admin, "GET /metrics", "", "").await.text();
        let line = format!("banyan_admin_tls_reloads_total{{result=\"{result}\"}} ");
        text.lines().find_map(|one| one.strip_prefix(&line)?.parse::<u32>().ok()).expect("it is counted")
    };
    let first = shown().await;
    authority.signs("banyan", HOST);
    eventually(secs(20), "the new certificate is shown", async || shown().await != first).await;
    let second = shown().await;
    // Between the two files of a pair a look may see one of them alone.
    assert!(reloads("accepted").await >= 1);

    let before = reloads("refused").await;
    fs::write(banyan.folder().join("banyan.key"), "no key").unwrap();
    eventually(secs(20), "it is refused", async || reloads("refused").await > before).await;
    let status = call(admin, "GET /api/v1/status", "", "").await.json();
    assert!(status["admin"]["tls_trouble"].as_str().unwrap().contains("banyan.key"), "{status}");
    assert_eq!(shown().await, second);

    // Another file of routes names other files; and one without TLS has to wait for a restart.
    authority.signs("other", HOST);
    let text = fs::read_to_string(banyan.file()).unwrap();
    fs::write(banyan.file(), text.replace("banyan.pem", "other.pem").replace("banyan.key", "other.key")).unwrap();
    eventually(secs(20), "the other certificate is shown", async || shown().await != second).await;
    let third = shown().await;
    fs::write(banyan.file(), text.replace("tls: {certificates: [{cert: banyan.pem, key: banyan.key}]}", "")).unwrap();
    eventually(secs(20), "it waits for a restart", async || {
        call(admin, "GET /api/v1/status", "", "").await.json()["file"]["restart_needed"]
            == serde_json::json!(["admin.tls"])
    })
    .await;
    assert_eq!(shown().await, third);
}

#[tokio::test]
async fn the_listener_for_probes_answers_them_and_nothing_else() {
    let monolith = Upstream::named("legacy");
    let probes = SocketAddr::from(([127, 0, 0, 1], ports::reserve()));
    let keys = format!("probes: \"{probes}\", tokens: {{view: {VIEW}}}");
    let banyan = Banyan::with_admin(&keys, &yaml(&monolith)).probed_at(probes).start().await;
    for path in ["/livez", "/readyz"] {
        let answer = call(probes, &format!("GET {path}"), "Host: 10.1.2.3\r\n", "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(["alive\n", "ready\n"].contains(&answer.text().as_str()));
    }
    let bearer = format!("Authorization: Bearer {}\r\n", kept(&banyan));
    for line in [
        "GET /",
        "GET /page/app.js",
        "GET /api/v1/stream",
        "GET /metrics",
        "GET /api/v1/status",
        "GET /api/v1/session",
        "POST /api/v1/session",
        "DELETE /api/v1/session",
        "POST /api/v1/reload",
        "GET /livez/",
        "GET //livez",
    ] {
        let answer = call(probes, line, &format!("{MARKS}{bearer}"), "{}").await;
        assert_eq!(answer.status, 404, "{line}");
    }
    assert_eq!(call(probes, "POST /livez", "", "").await.status, 405);
    assert_eq!(call(banyan.admin(), "GET /metrics", &bearer, "").await.status, 200);
}
