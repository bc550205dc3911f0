//! Both protocols on both legs, to the upstream in the clear and over TLS: what passes is the same on all of them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Bench, Setup, client::Client, secure::Authority};

/// An upstream of one protocol; dropping it ends it.
struct Far {
    settings: Value,
    _ca: Authority,
    _accepts: JoinSet<()>,
}

/// The client's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near {
    Http1,
    Http2,
}

/// What a client was told.
#[derive(Debug)]
struct Told {
    status: u16,
    headers: HeaderMap,
    body: String,
    trailers: HeaderMap,
}

struct Ask {
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Option<&'static str>,
    trailers: &'static [(&'static str, &'static str)],
}

const ASK: Ask = Ask { method: "GET", path: "/plain", headers: &[], body: None, trailers: &[] };

// === impl Far ===

impl Far {
    async fn start(is_http2: bool, is_tls: bool) -> Self {
        let ca = Authority::new();
        let alpn: &[&str] = if is_http2 { &["h2"] } else { &[] };
        let acceptor = is_tls.then(|| TlsAcceptor::from(Arc::new(ca.server(&["localhost"], alpn, None))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                wires.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, is_http2).await;
                            }
                        }
                        None => serve(stream, is_http2).await,
                    }
                });
            }
        });
        let scheme = if is_tls { "https" } else { "http" };
        let mut settings = json!({
            "endpoints": [format!("{scheme}://localhost:{port}")],
            "protocol": if is_http2 { "http2" } else { "http1" },
        });
        if is_tls {
            settings["tls"] = json!({ "ca": ca.ca() });
        }
        Self { settings, _ca: ca, _accepts: accepts }
    }

    fn bench(&self) -> Bench {
        let nowhere = "127.0.0.1:1".parse().unwrap();
        Setup::new(nowhere).upstream("legacy", nowhere, &self.settings).workers(1).start()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, is_http2: bool) {
    let (io, service) = (TokioIo::new(stream), service_fn(answer));
    if is_http2 {
        drop(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
    } else {
        drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<UnsyncBoxBody<Bytes, hyper::Error>>, Infallible> {
    let full = |text: &'static str| Full::from(text).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut answer = Response::new(full(""));
    match request.uri().path() {
        // hyper's HTTP/2 server would send it all the same.
        "/plain" if request.method() == Method::HEAD => {
            answer.headers_mut().insert("content-length", "5".parse().unwrap());
        }
        "/plain" => *answer.body_mut() = full("plain"),
        "/204" => *answer.status_mut() = StatusCode::NO_CONTENT,
        "/304" => *answer.status_mut() = StatusCode::NOT_MODIFIED,
        "/only" => drop(answer.headers_mut().insert("grpc-status", "12".parse().unwrap())),
        "/early" => {
            *answer.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            *answer.body_mut() = full("big");
        }
        _ => {
            let (length, trailer) = (request.headers().get("content-length"), request.headers().get("trailer"));
            if let Some(length) = length {
                answer.headers_mut().insert("content-length", length.clone());
                answer.headers_mut().insert("x-got-length", length.clone());
            }
            if let Some(trailer) = trailer {
                answer.headers_mut().insert("trailer", trailer.clone());
            }
            *answer.body_mut() = request.into_body().boxed_unsync();
        }
    }
    Ok(answer)
}

// === impl Near ===

impl Near {
    async fn ask(self, bench: &Bench, ask: &Ask) -> Told {
        match self {
            Self::Http1 => ask_http1(bench, ask).await,
            Self::Http2 => ask_http2(bench, ask).await,
        }
    }
}

async fn ask_http1(bench: &Bench, ask: &Ask) -> Told {
    let mut client = bench.client().await;
    let mut request = format!("{} {} HTTP/1.1\r\nHost: shop.example\r\nTE: trailers\r\n", ask.method, ask.path);
    ask.headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
    match ask.body {
        Some(body) if !ask.trailers.is_empty() => {
            request.push_str(&format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n", body.len()));
            ask.trailers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
            request.push_str("\r\n");
        }
        Some(body) => request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len())),
        None => request.push_str("\r\n"),
    }
    client.send(request).await;
    let answer = if ask.method == "HEAD" { client.head_answer().await } else { client.answer().await };
    let map = |lines: &str| -> HeaderMap {
        let pairs = lines.lines().filter_map(|line| line.split_once(": "));
        pairs.map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    };
    Told {
        status: answer.status,
        headers: map(&answer.head),
        body: answer.text().to_owned(),
        trailers: map(&answer.trailers),
    }
}

/// A client's HTTP/2 connection; its driver ends with the set.
pub(super) async fn http2(bench: &Bench) -> (SendRequest<Bytes>, JoinSet<()>) {
    let stream = TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    (sender.ready().await.unwrap(), driver)
}

async fn ask_http2(bench: &Bench, ask: &Ask) -> Told {
    let (mut sender, _driver) = http2(bench).await;
    let method: Method = ask.method.parse().unwrap();
    let mut request = Request::builder().method(method).uri(format!("http://shop.example{}", ask.path));
    for (name, value) in ask.headers.iter().chain(&[("te", "trailers")]) {
        request = request.header(*name, *value);
    }
    if let Some(body) = ask.body.filter(|_| ask.trailers.is_empty()) {
        request = request.header("content-length", body.len());
    }
    let (answer, mut stream) = sender.send_request(request.body(()).unwrap(), ask.body.is_none()).unwrap();
    if let Some(body) = ask.body {
        stream.send_data(body.into(), ask.trailers.is_empty()).unwrap();
        if !ask.trailers.is_empty() {
            let trailers = ask.trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            stream.send_trailers(trailers.collect::<HeaderMap>()).unwrap();
        }
    }
    let (head, mut incoming) = answer.await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = incoming.data().await {
        body.extend(chunk.unwrap());
    }
    let trailers = incoming.trailers().await.unwrap().unwrap_or_default();
    Told { status: head.status.as_u16(), headers: head.headers, body: String::from_utf8(body).unwrap(), trailers }
}

/// Every client's protocol against every upstream's, plain and over TLS.
async fn on_all_legs(mut test: impl AsyncFnMut(Near, &Bench)) {
    for (is_http2, is_tls) in [(false, false), (true, false), (false, true), (true, true)] {
        let far = Far::start(is_http2, is_tls).await;
        let bench = far.bench();
        for near in [Near::Http1, Near::Http2] {
            println!("{near:?} to HTTP/{}{}", 1 + usize::from(is_http2), if is_tls { " over TLS" } else { "" });
            test(near, &bench).await;
        }
    }
}

fn get<'t>(told: &'t HeaderMap, name: &str) -> Option<&'t str> {
    told.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn lengths_heads_and_empty_answers_are_the_same_on_all_legs() {
    on_all_legs(async |near, bench| {
        let told = near.ask(bench, &ASK).await;
        assert_eq!((told.status, told.body.as_str(), get(&told.headers, "content-length")), (200, "plain", Some("5")));
        let told = near.ask(bench, &Ask { method: "HEAD", ..ASK }).await;
        assert_eq!((told.status, told.body.as_str(), get(&told.headers, "content-length")), (200, "", Some("5")));
        for (path, status) in [("/204", 204), ("/304", 304)] {
            let told = near.ask(bench, &Ask { path, ..ASK }).await;
            assert_eq!((told.status, told.body.as_str()), (status, ""));
        }
        let sent = Ask { method: "POST", path: "/echo", body: Some("body"), ..ASK };
        let told = near.ask(bench, &sent).await;
        assert_eq!((told.status, told.body.as_str(), get(&told.headers, "x-got-length")), (200, "body", Some("4")));
    })
    .await;
}

#[tokio::test]
async fn trailers_pass_both_ways_on_all_legs() {
    on_all_legs(async |near, bench| {
        let headers = &[("trailer", "x-sum")];
        let sent = Ask { method: "POST", path: "/echo", headers, body: Some("body"), trailers: &[("x-sum", "7")] };
        let told = near.ask(bench, &sent).await;
        assert_eq!(
            (told.status, told.body.as_str(), get(&told.trailers, "x-sum")),
            (200, "body", Some("7")),
            "{told:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_answer_of_trailers_alone_is_a_head_on_all_legs() {
    on_all_legs(async |near, bench| {
        let told = near.ask(bench, &Ask { path: "/only", ..ASK }).await;
        assert_eq!((told.status, told.body.as_str(), get(&told.headers, "grpc-status")), (200, "", Some("12")));
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_arrives_on_all_legs() {
    on_all_legs(async |near, bench| {
        let told = match near {
            // The rest of the body is never sent.
            Near::Http1 => {
                let mut client = bench.client().await;
                client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nsome of it").await;
                let answer = client.answer().await;
                assert!(client.is_closed().await);
                (answer.status, answer.text().to_owned())
            }
            Near::Http2 => {
                let (mut sender, _driver) = http2(bench).await;
                let request = Request::post("http://shop.example/early").body(()).unwrap();
                let (answer, mut stream) = sender.send_request(request, false).unwrap();
                stream.send_data("some of it".into(), false).unwrap();
                let mut answer = answer.await.unwrap();
                let body = answer.body_mut().data().await.unwrap().unwrap();
                (answer.status().as_u16(), String::from_utf8(body.to_vec()).unwrap())
            }
        };
        assert_eq!(told, (413, "big".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once_on_all_legs() {
    on_all_legs(async |near, bench| {
        let within = |what| tokio::time::timeout(Duration::from_secs(10), what);
        match near {
            Near::Http1 => {
                let mut client: Client = bench.client().await;
                client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n").await;
                client.head().await.unwrap();
                assert_eq!(client.take(9).await.unwrap(), b"4\r\nping\r\n");
                client.send("4\r\npong\r\n0\r\n\r\n").await;
                assert_eq!(client.take(14).await.unwrap(), b"4\r\npong\r\n0\r\n\r\n");
            }
            Near::Http2 => {
                let (mut sender, _driver) = http2(bench).await;
                let request = Request::post("http://shop.example/echo").body(()).unwrap();
                let (answer, mut stream) = sender.send_request(request, false).unwrap();
                stream.send_data("ping".into(), false).unwrap();
                let mut body = within(answer).await.unwrap().unwrap().into_body();
                let mut next = async || tokio::time::timeout(Duration::from_secs(10), body.data()).await.unwrap();
                assert_eq!(next().await.unwrap().unwrap(), "ping");
                stream.send_data("pong".into(), true).unwrap();
                assert_eq!(next().await.unwrap().unwrap(), "pong");
                assert!(next().await.is_none_or(|rest| rest.unwrap().is_empty()));
            }
        }
    })
    .await;
}
