//! Certificates, keys and authorities as they stand in PEM files, made into what rustls answers with.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::{
    InForce,
    expiry::{self, Expiry},
};
use crate::config::{CertificateFiles, ListenerTls, TlsVersion};

/// Why a file of a listener's TLS cannot be used. Nothing of its content is told.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// It is not there, or may not be read.
    #[error("`{}` cannot be read", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// No PEM block that it should have.
    #[error("`{}` holds no {wanted} in PEM form", .path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What should stand there.
        wanted: &'static str,
    },
    /// The certificate or the key is of no use, or one is not the other's.
    #[error("`{}` and its key cannot be used: {cause}", .path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls says.
        #[source]
        cause: rustls::Error,
    },
    /// The authorities for clients' certificates.
    #[error("`{}` holds no authority that can be used", .path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
    },
    /// The whole of it.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// What a listener offers to speak within TLS (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offers {
    /// HTTP/1.1 alone: the admin listener.
    Http1,
    /// HTTP/2 and HTTP/1.1.
    Both,
}

/// When and how large the files were: a change of any of them is seen by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::listen) struct Stamp(Vec<Option<(SystemTime, u64)>>);

/// The certificates of a listener, in the file's order.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

/// HTTP/2 over TLS, as ALPN names it (RFC 9113, 3.2).
pub(in crate::listen) const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Reads all files.
pub(super) fn read(spec: &ListenerTls, offers: Offers) -> Result<InForce, TlsFileError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = spec.certificates.iter().map(|files| certificate(files, &provider));
    let certificates = ByName(certificates.collect::<Result<_, _>>()?);
    let ends = spec.certificates.iter().zip(&certificates.0);
    let ends =
        ends.filter_map(|(files, key)| Some(Expiry { cert: files.cert.clone(), at: expiry::of_chain(&key.cert)? }));
    let expiries = ends.collect();
    let versions: &[_] = match spec.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(TlsFileError::Setup)?;
    let builder = match &spec.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = || TlsFileError::Authorities { path: path.clone() };
            let mut roots = RootCertStore::empty();
            for authority in chain(path)? {
                roots.add(authority).map_err(|_| unusable())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|_| unusable())?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = match offers {
        Offers::Http1 => vec![HTTP1.to_vec()],
        Offers::Both => vec![H2.to_vec(), HTTP1.to_vec()],
    };
    // A client that comes back shakes hands at a fraction of the cost, and nothing is kept for it meanwhile.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsFileError::Setup)?;
    Ok(InForce { config: Arc::new(config), expiries })
}

fn certificate(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsFileError> {
    let chain = chain(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?)
        .map_err(|_| TlsFileError::Empty { path: files.key.clone(), wanted: "private key" })?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(|cause| TlsFileError::Unusable { path: files.cert.clone(), cause })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let empty = || TlsFileError::Empty { path: path.to_owned(), wanted: "certificate" };
    let chain = CertificateDer::pem_slice_iter(&bytes(path)?).collect::<Result<Vec<_>, _>>().map_err(|_| empty())?;
    if chain.is_empty() { Err(empty()) } else { Ok(chain) }
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    fs::read(path).map_err(|cause| TlsFileError::Unreadable { path: path.to_owned(), cause })
}

// === impl TlsFileError ===

impl TlsFileError {
    /// With its cause, in one line.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Unreadable { cause, .. } => format!("{self}: {cause}"),
            Self::Setup(cause) => format!("{self}: {cause}"),
            _ => self.to_string(),
        }
    }

    /// Whether another user, or another moment, might read what this one cannot.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable { .. })
    }
}

// === impl Stamp ===

impl Stamp {
    pub(super) fn of(spec: &ListenerTls) -> Self {
        let pairs = spec.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
        let stamp = |path: &PathBuf| {
            let about = fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len()))
        };
        Self(pairs.chain(&spec.client_ca).map(stamp).collect())
    }
}

// === impl ByName ===

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_sign = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |one: &&Arc<CertifiedKey>| {
            let Some((name, end)) = name.as_ref().zip(one.cert.first()) else { return false };
            ParsedCertificate::try_from(end).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
        };
        let mut usable = self.0.iter().filter(can_sign);
        let first = usable.clone().next();
        usable.find(fits).or(first).cloned()
    }
}
