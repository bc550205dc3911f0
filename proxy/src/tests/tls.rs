//! TLS towards clients: names, versions, clients' certificates, files that change, and everything that plain connections do.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Bench, Client, Setup, Upstream, eventually};

/// An authority, and a folder with what it signed.
pub(super) struct Authority {
    folder: tempfile::TempDir,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// How a client greets.
pub(super) struct Hello<'h> {
    pub(super) name: &'h str,
    pub(super) alpn: &'h [&'h [u8]],
    pub(super) most_tls12: bool,
    /// The certificate that it shows, by its name in the folder.
    pub(super) shows: Option<&'h str>,
}

// === impl Authority ===

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let made = Self { folder: tempfile::tempdir().unwrap(), pem, issuer: Issuer::new(params, key) };
        std::fs::write(made.path("ca.pem"), &made.pem).unwrap();
        made
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `<file>.pem` and `<file>.key`, for these names.
    pub(super) fn signs(&self, file: &str, names: &[&str]) -> Value {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let (cert_path, key_path) = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        std::fs::write(&cert_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        json!({ "cert": cert_path, "key": key_path })
    }

    pub(super) async fn connect(&self, to: SocketAddr, hello: &Hello<'_>) -> std::io::Result<TlsStream<TcpStream>> {
        self.over(TcpStream::connect(to).await?, hello).await
    }

    /// Shakes hands on a connection that is there already.
    pub(super) async fn over(&self, stream: TcpStream, hello: &Hello<'_>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let versions: &[_] = if hello.most_tls12 { &[&TLS12] } else { &[&TLS13] };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match hello.shows {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let cert = CertificateDer::from_pem_file(self.path(&format!("{file}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}.key"))).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        config.alpn_protocols = hello.alpn.iter().map(|one| one.to_vec()).collect();
        let name = ServerName::try_from(hello.name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn client(&self, bench: &Bench, name: &str) -> Client<TlsStream<TcpStream>> {
        Client::over(self.connect(bench.proxy.local_addrs()[0], &Hello::to(name)).await.unwrap())
    }
}

// === impl Hello ===

impl<'h> Hello<'h> {
    pub(super) fn to(name: &'h str) -> Self {
        Self { name, alpn: &[], most_tls12: false, shows: None }
    }
}

pub(super) fn with_tls(setup: Setup, tls: Value) -> Setup {
    let mut setup = setup;
    setup.config.listeners[0].tls = Some(serde_json::from_value(tls).unwrap());
    setup
}

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";

#[tokio::test]
async fn a_client_speaks_tls_and_the_upstream_is_told_so() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    let tls = json!({ "certificates": [authority.signs("shop", &["shop.test"])] });
    let bench = with_tls(Setup::new(upstream.address), tls).start();
    let mut client = authority.client(&bench, "shop.test").await;
    client.send(GET).await;
    assert_eq!(client.answer().await.text(), "one");
    assert!(upstream.bytes().contains("X-Forwarded-Proto: https\r\n"), "{}", upstream.bytes());
}

#[tokio::test]
async fn banyans_cookies_are_for_tls_alone_where_they_came_over_it() {
    let authority = Authority::new();
    let (legacy, modern) = (Upstream::named("legacy").await, Upstream::named("modern").await);
    let tls = json!({ "certificates": [authority.signs("shop", &["shop.test"])] });
    let setup = || {
        Setup::new(legacy.address).upstream("modern", modern.address, &json!({})).route(
            json!({ "name": "r", "match": { "path_prefix": "/" }, "legacy": "legacy", "modern": "modern", "weight": 50 }),
        )
    };
    let page = "GET / HTTP/1.1\r\nHost: shop.test\r\nAccept: text/html\r\n\r\n";
    let bench = with_tls(setup(), tls).start();
    let mut client = authority.client(&bench, "shop.test").await;
    client.send(page).await;
    assert!(client.answer().await.header("set-cookie").unwrap().ends_with("; Secure"));
    let plain = setup().start();
    assert!(!plain.ask(page).await.header("set-cookie").unwrap().contains("Secure"));
    let mut trusting = setup();
    trusting.config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let page = page.replace("Accept", "X-Forwarded-Proto: https\r\nAccept");
    assert!(trusting.start().ask(&page).await.header("set-cookie").unwrap().ends_with("; Secure"));
}

#[tokio::test]
async fn the_certificate_is_the_one_that_fits_the_name() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    let certificates =
        [authority.signs("a", &["a.test"]), authority.signs("b", &["b.test"]), authority.signs("w", &["*.w.test"])];
    let bench = with_tls(Setup::new(upstream.address), json!({ "certificates": certificates })).start();
    let at = bench.proxy.local_addrs()[0];
    for name in ["a.test", "b.test", "x.w.test"] {
        // The client holds the certificate against the name.
        authority.connect(at, &Hello::to(name)).await.unwrap();
    }
    authority.connect(at, &Hello::to("c.test")).await.unwrap_err();
}

#[tokio::test]
async fn versions_below_the_least_are_refused() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    for (least, is_accepted) in [("1.2", true), ("1.3", false)] {
        let tls = json!({ "certificates": [authority.signs("shop", &["shop.test"])], "min_version": least });
        let bench = with_tls(Setup::new(upstream.address), tls).start();
        let hello = Hello { most_tls12: true, ..Hello::to("shop.test") };
        assert_eq!(authority.connect(bench.proxy.local_addrs()[0], &hello).await.is_ok(), is_accepted, "{least}");
    }
}

#[tokio::test]
async fn a_client_without_the_certificate_that_is_asked_for_gets_nothing() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let upstream = Upstream::named("one").await;
    let tls = json!({
        "certificates": [authority.signs("shop", &["shop.test"])],
        "client_ca": authority.path("ca.pem"),
    });
    let bench = with_tls(Setup::new(upstream.address), tls).start();
    let at = bench.proxy.local_addrs()[0];
    authority.signs("friend", &["friend.test"]);
    stranger.signs("stranger", &["friend.test"]);
    for end in ["pem", "key"] {
        let name = format!("stranger.{end}");
        std::fs::copy(stranger.path(&name), authority.path(&name)).unwrap();
    }
    for (shows, is_served) in [(None, false), (Some("stranger"), false), (Some("friend"), true)] {
        // TLS 1.3 tells a client of its refusal only with the first answer.
        let stream = authority.connect(at, &Hello { shows, ..Hello::to("shop.test") }).await.unwrap();
        let mut client = Client::over(stream);
        drop(tokio::io::AsyncWriteExt::write_all(&mut client.stream, GET.as_bytes()).await);
        assert_eq!(client.try_answer(false).await.is_some(), is_served, "{shows:?}");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn changed_files_are_taken_over_and_bad_ones_change_nothing() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    let files = authority.signs("shop", &["old.test"]);
    let bench = with_tls(Setup::new(upstream.address), json!({ "certificates": [files] })).start();
    let at = bench.proxy.local_addrs()[0];
    let mut open = authority.client(&bench, "old.test").await;

    std::fs::write(authority.path("shop.key"), "no key").unwrap();
    let refused = || bench.metric("banyan_tls_reloads_total", &[("result", "refused")]) > 0.0;
    eventually("the bad file is refused", refused).await;
    let status = bench.proxy.status();
    let trouble = status.listeners[0].tls_trouble.as_deref().unwrap();
    assert!(trouble.contains("shop.key") && trouble.contains("private key"), "{trouble}");
    authority.connect(at, &Hello::to("old.test")).await.unwrap();

    authority.signs("shop", &["new.test"]);
    // The certificate and its key are two files: the first look may fall between them.
    let accepted = || bench.metric("banyan_tls_reloads_total", &[("result", "accepted")]) > 0.0;
    eventually("the new files are in force", accepted).await;
    authority.connect(at, &Hello::to("new.test")).await.unwrap();
    authority.connect(at, &Hello::to("old.test")).await.unwrap_err();
    assert_eq!(bench.proxy.status().listeners[0].tls_trouble, None);
    // Who was there before stays.
    open.send(GET).await;
    assert_eq!(open.answer().await.text(), "one");
}

#[tokio::test]
async fn a_config_whose_files_cannot_be_used_changes_nothing() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    let good = json!({ "certificates": [authority.signs("shop", &["shop.test"])] });
    let bench = with_tls(Setup::new(upstream.address), good).start();
    let bind = bench.proxy.status().listeners[0].bind;
    let other = authority.signs("other", &["other.test"]);
    let crossed = json!({ "certificates": [{ "cert": authority.path("shop.pem"), "key": other["key"] }] });
    let mut bad = with_tls(Setup::new(upstream.address), crossed);
    bad.config.listeners[0].bind = bind;
    let problems = bench.proxy.reload(&bad.config, &bad.links).unwrap_err();
    assert_eq!(problems[0].path, "listeners[0].tls");
    assert!(problems[0].message.contains("shop.pem"), "{}", problems[0].message);
    authority.client(&bench, "shop.test").await;
}

#[tokio::test]
async fn tls_connections_are_parked_and_come_back_wherever_the_bytes_are_cut() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    let tls = json!({ "certificates": [authority.signs("shop", &["shop.test"])] });
    let bench = with_tls(Setup::new(upstream.address), tls).park_at_once(true).start();
    let mut client = authority.client(&bench, "shop.test").await;
    let two = format!("{GET}{GET}");
    for cut in [1, GET.len() - 1, GET.len(), GET.len() + 1, two.len() - 2, two.len()] {
        // Each write is a record of its own.
        client.send(&two[..cut]).await;
        if cut >= GET.len() {
            assert_eq!(client.answer().await.text(), "one");
        }
        client.send(&two[cut..]).await;
        for _ in 0..if cut >= GET.len() { 1 } else { 2 } {
            assert_eq!(client.answer().await.text(), "one", "{cut}");
        }
    }
    eventually("it is parked", || bench.proxy.status().idle_connections == 1).await;
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_ended() {
    let authority = Authority::new();
    let upstream = Upstream::named("one").await;
    let tls = json!({ "certificates": [authority.signs("shop", &["shop.test"])] });
    let setup = with_tls(Setup::new(upstream.address), tls);
    let bench = setup.limits(|limits| limits.head_time = Duration::from_millis(200)).start();
    for first in [&b""[..], b"\x16\x03\x01\x02"] {
        let mut client = bench.client().await;
        client.send(first).await;
        assert!(client.is_closed().await);
    }
}
