//! An authority of the tests' own: certificates in files, and what is shown to a client that trusts it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{backstage, backstage_now};

/// Signs what it is asked to.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

// === impl Authority ===

impl Authority {
    /// With `ca.pem` in a folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(folder.join("ca.pem"), &pem).unwrap();
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), pem }
    }

    /// Writes `NAME.pem` and `NAME.key`, and `NAME.both.pem` with both, for a host.
    pub(crate) fn signs(&self, name: &str, host: &str) {
        self.signs_until(name, host, 4096);
    }

    /// The same, valid to the end of a year.
    pub(crate) fn signs_until(&self, name: &str, host: &str, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        // Else it is called like its issuer, and OpenSSL takes it for self-signed.
        params.distinguished_name.push(DnType::CommonName, host);
        params.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let (signed, key) = (signed.pem(), key.serialize_pem());
        fs::write(self.folder.join(format!("{name}.both.pem")), format!("{signed}{key}")).unwrap();
        fs::write(self.folder.join(format!("{name}.key")), key).unwrap();
        fs::write(self.folder.join(format!("{name}.pem")), signed).unwrap();
    }

    /// A port in the clear that leads to one with TLS, so that every client of plain HTTP can ask it.
    pub(crate) fn leads_to(&self, to: SocketAddr, host: &'static str) -> SocketAddr {
        let config = self.config(&[]);
        let listener = backstage_now(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        backstage(async move {
            while let Ok((mut plain, _)) = listener.accept().await {
                let config = Arc::clone(&config);
                backstage(async move {
                    if let Ok(mut secret) = connect(config, to, host).await {
                        copy_bidirectional(&mut plain, &mut secret).await.ok();
                    }
                });
            }
        });
        address
    }

    /// The certificate that is shown there, with these names of ALPN; an error where there is no handshake.
    pub(crate) async fn shown(&self, to: SocketAddr, host: &str, alpn: &[&str]) -> std::io::Result<Vec<u8>> {
        let stream = connect(self.config(alpn), to, host).await?;
        Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    }

    fn config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|one| one.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

async fn connect(config: Arc<ClientConfig>, to: SocketAddr, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, TcpStream::connect(to).await?).await
}
