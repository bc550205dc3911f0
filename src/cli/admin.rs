//! The admin listener as the command line asks it: where it is, with which token, and over which TLS.

mod trust;

use std::{error::Error, io, net::IpAddr, path::Path, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{admin, config};

/// Where a Banyan listens that was not told otherwise.
const DEFAULT: &str = "http://127.0.0.1:9901";
const PATIENCE: Duration = Duration::from_secs(15);
/// Wins over the token that the file's `state.dir` holds.
const VARIABLE: &str = "BANYAN_ADMIN_TOKEN";
const NO_TOKEN: &str = "this takes a token: set `BANYAN_ADMIN_TOKEN`, or run it as whoever may read `admin.token` in the file's `state.dir`";
/// A longer answer is none of Banyan's.
const LONGEST: usize = 64 << 20;

/// Which Banyan.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Where the admin listener is. Default: what the file says, else `http://127.0.0.1:9901`. The token is `BANYAN_ADMIN_TOKEN`, else the
    /// one in the file's `state.dir`.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Over TLS: a PEM file with the authority to trust. Default: the system's, and the certificates in the file's `admin.tls` as they are.
    #[arg(long, value_name = "FILE", env = "BANYAN_ADMIN_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// Over TLS: a PEM file with the certificate to show and its key, where `admin.tls.client_ca` asks for one.
    #[arg(long, value_name = "FILE", env = "BANYAN_ADMIN_CERT", hide_env_values = true)]
    client_cert: Option<PathBuf>,
}

/// One running Banyan.
pub(super) struct Client {
    base: String,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    token: Option<SecretString>,
}

// === impl Client ===

impl Client {
    /// By the command line, else by the file. What else is wrong with the file does not matter: a running Banyan may have refused it a moment
    /// ago.
    ///
    /// # Errors
    /// When the URL is none, or a file of TLS cannot be used.
    pub(super) fn new(path: &Path, place: &Place) -> anyhow::Result<Self> {
        let told = config::admin_of(path);
        let scheme = if told.certificates.is_some() { "https" } else { "http" };
        let base = match &place.admin {
            Some(admin) if admin.contains("://") => admin.trim_end_matches('/').to_owned(),
            Some(admin) => format!("http://{}", admin.trim_end_matches('/')),
            None => match told.bind {
                Some(mut bind) => {
                    if bind.ip().is_unspecified() {
                        bind.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                    }
                    format!("{scheme}://{bind}")
                }
                None => DEFAULT.replace("http", scheme),
            },
        };
        let uri: Uri = base.parse().ok().with_context(|| no_url(&base))?;
        let host = uri.host().with_context(|| no_url(&base))?.to_owned();
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!(no_url(&base)),
        };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let own = told.certificates.unwrap_or_default();
        let tls = is_tls.then(|| trust::tls(place, &own).map(Arc::new)).transpose()?;
        let token = std::env::var(VARIABLE).ok().filter(|token| !token.is_empty());
        // The token of this machine's Banyan is no other machine's business. Where the file says that Banyan is here, and TLS that it is Banyan,
        // the address may be any.
        let is_here = is_near(&host) || (place.admin.is_none() && is_tls);
        let kept = || std::fs::read_to_string(admin::token_path(&told.state)).ok().filter(|_| is_here);
        let token = token.or_else(kept).map(|token| token.trim().to_owned().into());
        Ok(Self { base, host, port, tls, token })
    }

    /// `http://127.0.0.1:9901`
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The answer of a path that must be 200.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<String> {
        let (status, answer) = self.ask(path)?;
        if status != 200 {
            bail!("{}{path} was answered {status}", self.base);
        }
        Ok(answer)
    }

    /// A call that changes nothing; its status and its answer.
    pub(super) fn ask(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.call(&Method::GET, path, String::new())
    }

    /// A call that changes something; its status and its answer.
    pub(super) fn post(&self, path: &str, body: String) -> anyhow::Result<(u16, String)> {
        if self.token.is_none() {
            bail!(NO_TOKEN);
        }
        self.call(&Method::POST, path, body)
    }

    /// A call that changes something, and whose answer comes as long as `patience` lasts: every piece goes to `take`. `Err` of the status and the
    /// answer where it is not 200.
    pub(super) fn stream(
        &self,
        path: &str,
        patience: Duration,
        take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Result<(), (u16, String)>> {
        if self.token.is_none() {
            bail!(NO_TOKEN);
        }
        let request = self.request(&Method::POST, path, String::new())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let streamed =
            runtime.block_on(async { tokio::time::timeout(patience, self.exchange(request, Some(take))).await });
        let Ok(streamed) = streamed else { bail!("{} did not end within {patience:?}", self.base) };
        let (status, answer) = streamed?;
        self.judge(status, path)?;
        Ok(if status == 200 { Ok(()) } else { Err((status, answer)) })
    }

    fn call(&self, method: &Method, path: &str, body: String) -> anyhow::Result<(u16, String)> {
        let request = self.request(method, path, body)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let none = None::<fn(&[u8]) -> anyhow::Result<()>>;
        let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.exchange(request, none)).await });
        let (status, answer) = match answered {
            Ok(answered) => answered?,
            Err(_) => bail!("{} did not answer within {PATIENCE:?}", self.base),
        };
        self.judge(status, path)?;
        Ok((status, answer))
    }

    /// What is wrong with who asks, or how.
    fn judge(&self, status: u16, path: &str) -> anyhow::Result<()> {
        match status {
            401 => bail!("{}{path} takes a token that it knows: set `{VARIABLE}`", self.base),
            403 => bail!("{}{path} takes a token that may operate", self.base),
            421 => bail!("{} is no name that this Banyan knows; add it to `admin.hosts`", self.base),
            _ => Ok(()),
        }
    }

    fn request(&self, method: &Method, path: &str, body: String) -> anyhow::Result<Request<Full<Bytes>>> {
        let uri: Uri = format!("{}{path}", self.base).parse()?;
        let target = uri.path_and_query().map_or(path, |both| both.as_str());
        let mut request = Request::builder().method(method).uri(target).header(header::CONNECTION, "close");
        if let Some(authority) = uri.authority() {
            request = request.header(header::HOST, authority.as_str());
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        if *method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/json").header("x-banyan-request", "1");
        }
        Ok(request.body(Full::new(Bytes::from(body)))?)
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        take: Option<impl FnMut(&[u8]) -> anyhow::Result<()>>,
    ) -> anyhow::Result<(u16, String)> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let nobody = || format!("no Banyan answers at {}; name another with `--admin URL`", self.base);
        let stream = TcpStream::connect((host, self.port)).await.with_context(nobody)?;
        let Some(tls) = &self.tls else { return self.send(stream, request, take).await };
        let name = ServerName::try_from(host.to_owned())?;
        match TlsConnector::from(Arc::clone(tls)).connect(name, stream).await {
            Ok(stream) => self.send(stream, request, take).await,
            Err(error) => Err(self.failed(error)),
        }
    }

    /// With `take`, the body of a 200 goes there piece by piece.
    async fn send<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
        take: Option<impl FnMut(&[u8]) -> anyhow::Result<()>>,
    ) -> anyhow::Result<(u16, String)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Takes the sender along: with it ends the connection.
        let conversation = async move {
            let answer = sender.send_request(request).await.map_err(|error| self.failed(error))?;
            let status = answer.status().as_u16();
            if let Some(mut take) = take.filter(|_| status == 200) {
                let mut body = answer.into_body();
                while let Some(frame) = body.frame().await {
                    let frame = frame.map_err(|error| self.failed(error))?;
                    frame.data_ref().map_or(Ok(()), |piece| take(piece))?;
                }
                return Ok((status, String::new()));
            }
            let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(|error| anyhow!(error))?;
            Ok((status, String::from_utf8(body.to_bytes().to_vec())?))
        };
        // What is wrong with the connection, the conversation tells.
        let (answered, _) = tokio::join!(conversation, connection);
        answered
    }

    /// With what is to be done, where that is known.
    fn failed(&self, error: impl Error + Send + Sync + 'static) -> anyhow::Error {
        let error = anyhow!(error);
        let hint = error.chain().find_map(|cause| trust::hint(cause.downcast_ref::<io::Error>()?));
        let speaks_something_else =
            |cause: &(dyn Error + 'static)| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
        let hint = hint.unwrap_or_else(|| {
            if self.tls.is_none() && error.chain().any(speaks_something_else) {
                "what answers there speaks no plain HTTP; with `admin.tls` it is `https://`"
            } else {
                "name another with `--admin URL`"
            }
        });
        error.context(format!("no Banyan answers at {}; {hint}", self.base))
    }
}

fn no_url(base: &str) -> String {
    format!("`{base}` is no URL of an admin listener; it is like `https://10.0.0.5:9901`")
}

/// Whether a host is this machine, whatever any DNS says.
fn is_near(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[test]
fn the_kept_token_goes_to_this_machine_alone() {
    let host = |url: &str| url.parse::<Uri>().unwrap().host().unwrap().to_owned();
    for near in ["http://127.0.0.1:9901", "http://localhost:9901/", "http://[::1]:9901"] {
        assert!(is_near(&host(near)), "{near}");
    }
    for far in [
        "http://10.0.0.1:9901",
        "http://127.0.0.1.evil.example:9901",
        "http://localhost@evil.example:80",
        "http://banyan:9901",
    ] {
        assert!(!is_near(&host(far)), "{far}");
    }
}
