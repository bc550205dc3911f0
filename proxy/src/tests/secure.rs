//! An upstream behind TLS, and the certificates for it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A CA, and a folder for its files.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate and its key, as PEM.
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// What one handshake came to.
#[derive(Debug, Clone)]
pub(crate) struct Greeted {
    pub(crate) server_name: Option<String>,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) is_resumed: bool,
    pub(crate) has_client_cert: bool,
}

/// Answers each request with its body and counts the handshakes.
pub(crate) struct Secure {
    pub(crate) port: u16,
    greeted: Arc<Mutex<Vec<Greeted>>>,
    _accepts: JoinSet<()>,
}

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key), dir: tempfile::tempdir().unwrap() }
    }

    /// A certificate for these names, IP addresses among them.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        // As a careful person does: another file, moved over the old one.
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    }

    /// The file that names this CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.file("ca.pem", &self.pem)
    }

    /// A server's config; with `clients`, only for those whose certificate that CA has signed.
    pub(crate) fn server(&self, names: &[&str], alpn: &[&str], clients: Option<&Self>) -> ServerConfig {
        let issued = self.issue(names);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = match clients {
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.unwrap().with_client_cert_verifier(verifier)
            }
            None => builder.unwrap().with_no_client_auth(),
        };
        let chain = vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

// === impl Secure ===

impl Secure {
    /// Answers `body` to each request; `keeps`: more than one a connection.
    pub(crate) async fn start(config: ServerConfig, body: &'static str, keeps: bool) -> Self {
        Self::scripted(config, move |mut stream| async move {
            let mut read = Vec::new();
            loop {
                while !read.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                read.clear();
                let close = if keeps { "" } else { "connection: close\r\n" };
                let answer = format!("HTTP/1.1 200 OK\r\n{close}content-length: {}\r\n\r\n{body}", body.len());
                drop(stream.write_all(answer.as_bytes()).await);
                if !keeps {
                    drop(stream.shutdown().await);
                    return;
                }
            }
        })
        .await
    }

    /// Runs a script on each connection.
    pub(crate) async fn scripted<F>(
        config: ServerConfig,
        script: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let greeted: Arc<Mutex<Vec<Greeted>>> = Arc::default();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let all = Arc::clone(&greeted);
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, all, script) = (acceptor.clone(), Arc::clone(&all), script.clone());
                wires.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let tls = stream.get_ref().1;
                    all.lock().unwrap().push(Greeted {
                        server_name: tls.server_name().map(str::to_owned),
                        alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
                        is_resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
                        has_client_cert: tls.peer_certificates().is_some(),
                    });
                    script(stream).await;
                });
            }
        });
        Self { port, greeted, _accepts: accepts }
    }

    pub(crate) fn greeted(&self) -> Vec<Greeted> {
        self.greeted.lock().unwrap().clone()
    }
}
