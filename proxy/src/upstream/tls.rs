//! TLS to an upstream: whom Banyan trusts, who it says it is, and the handshake.
//!
//! Certificates are always verified. What the files say is read when a config is compiled, and again when they change: connections that are
//! open then stay as they are, new ones use what the files say now. Sessions are resumed over all workers: the store is the config's.

use std::{fs, io, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject},
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::pool::{HTTP1, HTTP2};
use crate::{
    config::{self, Protocol, UpstreamTls},
    error::Fault,
    table::Problem,
};

/// One upstream's TLS.
pub(crate) struct Trust {
    upstream: String,
    settings: UpstreamTls,
    protocol: Protocol,
    current: ArcSwap<Material>,
}

/// What the files said when they were last read.
struct Material {
    client: Arc<ClientConfig>,
    /// The same, where the peer may choose HTTP/2 and must not.
    http1: Arc<ClientConfig>,
    /// Of all that was read: whether a file has changed.
    digest: [u8; 32],
}

/// The bytes of the files.
struct Files {
    /// `None`: the system's.
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

// === impl Trust ===

impl Trust {
    /// Reads the files of an upstream that is spoken to over TLS.
    ///
    /// # Errors
    /// The first thing that is wrong with them, at its key.
    pub(crate) fn load(name: &str, upstream: &config::Upstream) -> Result<Self, Problem> {
        let settings = upstream.tls.clone().unwrap_or_default();
        let protocol = upstream.protocol;
        let material = Material::new(name, &settings, protocol, &Files::read(name, &settings)?)?;
        Ok(Self { upstream: name.to_owned(), settings, protocol, current: ArcSwap::from_pointee(material) })
    }

    pub(crate) fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Takes over what another one has read, which was made from the same keys.
    pub(crate) fn adopt(&self, fresh: &Self) {
        if self.current.load().digest != fresh.current.load().digest {
            self.current.store(fresh.current.load_full());
        }
    }

    /// Reads the files again; says whether they had changed.
    ///
    /// # Errors
    /// What is wrong with them now; the last good ones stay in force.
    pub(crate) fn refresh(&self) -> Result<bool, Problem> {
        if self.settings.ca.is_none() && self.settings.client_cert.is_none() {
            return Ok(false);
        }
        let files = Files::read(&self.upstream, &self.settings)?;
        if files.digest() == self.current.load().digest {
            return Ok(false);
        }
        let material = Material::new(&self.upstream, &self.settings, self.protocol, &files)?;
        self.current.store(Arc::new(material));
        Ok(true)
    }

    /// The name that an endpoint's certificate must be for. `authority` is `host:port`.
    fn server_name(&self, authority: &str) -> Option<ServerName<'static>> {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = self.settings.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name).ok().map(|name| name.to_owned())
    }

    /// Makes a connection secret and sure of whom it leads to. `protocol`: the upstream's, or HTTP/1.1 where it may choose.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        authority: &str,
        protocol: Protocol,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        // The name in an endpoint's address can be no certificate's.
        let server = self.server_name(authority).ok_or(Fault::Certificate)?;
        let current = self.current.load();
        let client = Arc::clone(if protocol == self.protocol { &current.client } else { &current.http1 });
        TlsConnector::from(client).connect(server, stream).await.map_err(|error| fault(&error))
    }
}

/// Two of the same keys are the same: what the files say is looked at apart.
impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        (&self.upstream, &self.settings, self.protocol) == (&other.upstream, &other.settings, other.protocol)
    }
}

impl Eq for Trust {}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

fn fault(error: &io::Error) -> Fault {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => Fault::Certificate,
        _ => Fault::Tls,
    }
}

// === impl Material ===

impl Material {
    fn new(upstream: &str, settings: &UpstreamTls, protocol: Protocol, files: &Files) -> Result<Self, Problem> {
        let roots = match (&files.ca, &settings.ca) {
            (Some(pem), Some(path)) => roots(&at(upstream, "ca"), path, pem)?,
            _ => system_roots(upstream)?,
        };
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Problem::error(at(upstream, ""), error.to_string()))?
            .with_root_certificates(roots);
        let mut client = match (&files.client, &settings.client_cert, &settings.client_key) {
            (Some((cert, key)), Some(cert_path), Some(key_path)) => {
                let chain = certificates(&at(upstream, "client_cert"), cert_path, cert)?;
                let key = private_key(&at(upstream, "client_key"), key_path, key)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| mismatch(upstream, key_path, &error))?
            }
            _ => builder.with_no_client_auth(),
        };
        client.alpn_protocols = match protocol {
            Protocol::Http1 => Vec::new(),
            Protocol::Http2 => vec![HTTP2.to_vec()],
            Protocol::Auto => vec![HTTP2.to_vec(), HTTP1.to_vec()],
        };
        let mut http1 = client.clone();
        http1.alpn_protocols = vec![HTTP1.to_vec()];
        Ok(Self { client: Arc::new(client), http1: Arc::new(http1), digest: files.digest() })
    }
}

fn at(upstream: &str, key: &str) -> String {
    let dot = if key.is_empty() { "" } else { "." };
    format!("upstreams.{upstream}.tls{dot}{key}")
}

fn roots(at: &str, path: &Path, pem: &[u8]) -> Result<RootCertStore, Problem> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(at, path, pem)?.into_iter().enumerate() {
        store.add(certificate).map_err(|_| {
            let number = index + 1;
            Problem::error(at, format!("certificate {number} in `{}` cannot be used as a CA", path.display()))
                .hint("expected a PEM file of CA certificates")
        })?;
    }
    Ok(store)
}

/// The system's, so that a company's own CA counts where it is installed, and one that was withdrawn goes with the system's updates.
fn system_roots(upstream: &str) -> Result<RootCertStore, Problem> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(Problem::error(
            format!("upstreams.{upstream}"),
            "an endpoint begins with `https://`, but this system has no CA certificates",
        )
        .hint("install them (`ca-certificates` on most systems), or name a file in `tls: {ca: …}`"));
    }
    Ok(store)
}

fn certificates(at: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, pem::Error>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Problem::error(at, format!("`{}` holds no certificate", path.display()))
            .hint("expected PEM: `-----BEGIN CERTIFICATE-----`")),
    }
}

fn private_key(at: &str, path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        Problem::error(at, format!("`{}` holds no private key", path.display()))
            .hint("expected PEM without a passphrase: `-----BEGIN PRIVATE KEY-----`")
    })
}

fn mismatch(upstream: &str, path: &Path, error: &rustls::Error) -> Problem {
    let path = path.display();
    let message = match error {
        rustls::Error::InconsistentKeys(_) => format!("the key in `{path}` is not the certificate's"),
        _ => format!("the key in `{path}` cannot be used"),
    };
    Problem::error(at(upstream, "client_key"), message).hint("name the key that `client_cert` was made for")
}

// === impl Files ===

impl Files {
    fn read(upstream: &str, settings: &UpstreamTls) -> Result<Self, Problem> {
        let read = |key: &str, path: &Path| {
            fs::read(path).map_err(|error| {
                let problem =
                    Problem::error(at(upstream, key), format!("`{}` cannot be read: {}", path.display(), why(&error)));
                problem.hint("a path that does not begin with `/` starts where Banyan was started")
            })
        };
        let ca = settings.ca.as_deref().map(|path| read("ca", path)).transpose()?;
        let client = match (&settings.client_cert, &settings.client_key) {
            (Some(cert), Some(key)) => Some((read("client_cert", cert)?, read("client_key", key)?)),
            _ => None,
        };
        Ok(Self { ca, client })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let client = self.client.as_ref();
        for part in [self.ca.as_ref(), client.map(|client| &client.0), client.map(|client| &client.1)] {
            let part = part.map_or(&[][..], Vec::as_slice);
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

/// Without the number that Rust puts behind it.
fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.kind().to_string(),
    }
}
