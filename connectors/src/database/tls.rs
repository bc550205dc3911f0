//! TLS to databases: what three clients (PostgreSQL's of queries and of replication, MariaDB's) are told of the same files. Each verifies the certificate
//! and the name in it; there is no half of it.

use std::{fs, io, path::Path, path::PathBuf};

use mysql_async::{ClientIdentity, SslOpts};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{config::Tls, error::FlowError};

/// For sessions of PostgreSQL.
pub(super) fn postgres(tls: &Tls) -> Result<MakeRustlsConnect, FlowError> {
    let mut roots = RootCertStore::empty();
    // A system may have one that nobody understands any more.
    roots.add_parsable_certificates(authorities(tls)?);
    let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| FlowError::no_tls("connecting", &error.to_string()))?
        .with_root_certificates(roots);
    let config = match own(tls) {
        Some((chain, key)) => {
            let chain = certificates("client_cert", chain)?;
            let bad = |what: String| unusable("client_key", key, &what);
            let key =
                PrivateKeyDer::from_pem_slice(&read("client_key", key)?).map_err(|error| bad(error.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| bad(error.to_string()))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

/// For the replication protocol, whose client reads the files itself.
pub(super) fn replication(tls: &Tls, host: &str) -> pgwire_replication::TlsConfig {
    install();
    let authorities = tls.ca.clone().or_else(|| openssl_probe::probe().cert_file);
    // An address stands for itself: without this the client wants names alone.
    let config = pgwire_replication::TlsConfig::verify_full(authorities).with_sni_hostname(host);
    match own(tls) {
        Some((chain, key)) => config.with_client_cert(chain, key),
        None => config,
    }
}

/// For sessions of MariaDB and MySQL.
pub(super) fn mysql(tls: &Tls) -> Result<SslOpts, FlowError> {
    install();
    let mut known = RootCertStore::empty();
    // The client takes all of them or none.
    let usable = authorities(tls)?.into_iter().filter(|authority| known.add(authority.clone()).is_ok());
    let roots = usable.map(|authority| authority.to_vec().into()).collect();
    let own = own(tls).map(|(chain, key)| -> Result<ClientIdentity, FlowError> {
        certificates("client_cert", chain)?;
        Ok(ClientIdentity::new(chain.clone().into(), read("client_key", key)?.into()))
    });
    Ok(SslOpts::default()
        .with_disable_built_in_roots(true)
        .with_root_certs(roots)
        .with_client_identity(own.transpose()?))
}

/// These clients take the process's provider, and one of them would install another.
fn install() {
    // That there is one already is as good.
    drop(aws_lc_rs::default_provider().install_default());
}

fn own(tls: &Tls) -> Option<(&PathBuf, &PathBuf)> {
    tls.client_cert.as_ref().zip(tls.client_key.as_ref())
}

fn authorities(tls: &Tls) -> Result<Vec<CertificateDer<'static>>, FlowError> {
    match &tls.ca {
        Some(path) => certificates("ca", path),
        None => Ok(rustls_native_certs::load_native_certs().certs),
    }
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, FlowError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(key, path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(key, path, "it holds no certificate")),
        Err(error) => Err(unusable(key, path, &error.to_string())),
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, FlowError> {
    fs::read(path).map_err(|error: io::Error| unusable(key, path, &error.to_string()))
}

fn unusable(key: &str, path: &Path, what: &str) -> FlowError {
    FlowError::NoTls(format!("connecting: `tls.{key}`, {}: {what}", path.display()))
}
