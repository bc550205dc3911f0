//! `webhook:` — a call for each thing that happens to a rollout, for a chat room or a pager.
//!
//! Calls are made one after the other, in order, beside everything else; each is signed, and tried again for about half a minute. What cannot
//! be delivered is counted and logged, and holds nothing up.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use banyan_proxy::{rollout::Event, split::Signer};
use garde::Validate;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{
        Mutex,
        broadcast::{Receiver, error::RecvError},
    },
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracing::warn;

use crate::{admin::hex, app::App, metrics::Delivery};

/// Where what happens to rollouts is told.
#[derive(Debug, Clone, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webhook {
    /// Gets a `POST` of JSON for each event; `http://` or `https://`, which is checked against the system's authorities.
    #[garde(skip)]
    pub(crate) url: String,
    /// 32 bytes or more, with which each call is signed: `X-Banyan-Signature: t=SECONDS,v1=HEX` is the HMAC-SHA-256 of `SECONDS.BODY`.
    #[garde(skip)]
    #[schemars(with = "String")]
    pub(crate) secret: SecretString,
}

/// The body of a call.
#[derive(Serialize)]
struct Call<'e> {
    /// The same at each try.
    id: String,
    install: &'e str,
    event: &'e Event,
}

/// One try, from connecting to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between tries; there is one more of them.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];
/// Of that, behind the head of the answer.
const REST: Duration = Duration::from_secs(1);
/// What an answer says is read, so that the peer can send it, and no farther.
const ANSWER: usize = 64 << 10;

/// What is wrong with a URL, if anything.
pub(crate) fn wrong_with(url: &str) -> Option<&'static str> {
    let Ok(uri) = url.parse::<Uri>() else { return Some("is no URL") };
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    match uri.scheme_str() {
        Some("http" | "https") if authority.is_empty() => Some("names no host"),
        // It would stand in every log of a proxy on the way.
        Some("http" | "https") if authority.contains('@') => Some("has credentials in it; the secret signs the calls"),
        Some("http" | "https") => None,
        _ => Some("is neither `http://` nor `https://`"),
    }
}

/// Tells every event to whom the file in force names, until it is dropped.
///
/// # Errors
/// When there is no client of TLS to be had.
pub(crate) async fn tell(app: Arc<App>, events: Arc<Mutex<Receiver<Event>>>) -> anyhow::Result<()> {
    let mut events = events.lock().await;
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                if app.file().loaded.webhook.is_some() {
                    warn!(missed, "calls of the webhook were left out: it is slower than what happens");
                    app.metrics.webhook(Delivery::Dropped, missed);
                }
                continue;
            }
            Err(RecvError::Closed) => return Ok(()),
        };
        let (webhook, install) = {
            let file = app.file();
            (file.loaded.webhook.clone(), file.loaded.connectors.install.clone())
        };
        let Some(webhook) = webhook else { continue };
        match deliver(&webhook, &install, &event).await {
            Ok(()) => app.metrics.webhook(Delivery::Delivered, 1),
            Err(error) => {
                warn!(route = event.route, "a call of the webhook was given up: {error:#}");
                app.metrics.webhook(Delivery::Failed, 1);
            }
        }
    }
}

async fn deliver(webhook: &Webhook, install: &str, event: &Event) -> anyhow::Result<()> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    let body = serde_json::to_vec(&Call { id: hex(&id), install, event })?;
    let mut pauses = PAUSES.into_iter();
    loop {
        let tried =
            timeout(PATIENCE, call(webhook, &body)).await.unwrap_or_else(|_| bail!("no answer in {PATIENCE:?}"));
        match (tried, pauses.next()) {
            (Ok(()), _) => return Ok(()),
            (Err(error), None) => return Err(error),
            (Err(_), Some(pause)) => tokio::time::sleep(pause).await,
        }
    }
}

/// One try. Errors name neither the URL, which may hold a secret in its path, nor what was answered.
async fn call(webhook: &Webhook, body: &[u8]) -> anyhow::Result<()> {
    let uri: Uri = webhook.url.parse().ok().context("its URL is none")?;
    let authority = uri.authority().context("its URL names no host")?.clone();
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_tls = uri.scheme_str() == Some("https");
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let signer = Signer::try_new(webhook.secret.expose_secret().as_bytes())?;
    let signed = [format!("{now}.").as_bytes(), body].concat();
    let request = Request::post(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
        .header(header::HOST, authority.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("banyan/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .header("x-banyan-signature", format!("t={now},v1={}", hex(&signer.sign(&signed))))
        .body(Full::new(Bytes::copy_from_slice(body)))?;
    let stream = TcpStream::connect((host.as_str(), port)).await.context("it cannot be reached")?;
    if !is_tls {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host)?;
    let stream = TlsConnector::from(Arc::new(tls()?)).connect(name, stream).await.context("no TLS with it")?;
    send(stream, request).await
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let conversation = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut read = 0;
        let rest = async {
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > ANSWER {
                    break;
                }
            }
        };
        // The status has said it: a body that does not come to its end must not have the call made again.
        let _ = timeout(REST, rest).await;
        drop(body);
        if status.is_success() { Ok(()) } else { bail!("it answered {}", status.as_u16()) }
    };
    let (answered, _) = tokio::join!(conversation, connection);
    answered
}

fn tls() -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn a_url_is_judged_by_its_form() {
    for right in ["http://127.0.0.1:9/x", "https://hooks.example/banyan?room=1", "https://[::1]:8443/"] {
        assert_eq!(wrong_with(right), None, "{right}");
    }
    for wrong in ["hooks.example", "ftp://hooks.example/", "https://ann:secret@hooks.example/", "http://", ""] {
        assert!(wrong_with(wrong).is_some(), "{wrong}");
    }
}

#[tokio::test]
async fn an_answer_without_end_does_not_make_a_call_that_was_taken_fail() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let endless = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"400\r\n").await.is_ok()
            && stream.write_all(&[b'x'; 0x400]).await.is_ok()
            && stream.write_all(b"\r\n").await.is_ok()
        {}
    });
    let webhook = Webhook { url, secret: "hook-secret-0123456789abcdef0123456789".to_owned().into() };
    timeout(PATIENCE, call(&webhook, b"{}")).await.unwrap().unwrap();
    endless.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_stops_behind_its_head_was_given() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let webhook = Webhook { url, secret: "hook-secret-0123456789abcdef0123456789".to_owned().into() };
    timeout(PATIENCE, call(&webhook, b"{}")).await.unwrap().unwrap();
    silent.await.unwrap();
}
