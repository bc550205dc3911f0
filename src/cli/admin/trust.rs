//! Whom the command line believes to be Banyan: who shows a certificate that the file names, else who has one of an authority.

use std::{io, path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use super::Place;

/// The file on this machine names the certificate itself: whoever proves to have its key is the one, by whatever name it is asked.
#[derive(Debug)]
struct Known {
    own: Vec<CertificateDer<'static>>,
    /// `None` where this machine knows no authority at all.
    else_by: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// TLS as the command line and the file want it; `own` are the certificates' files that the file names.
pub(super) fn tls(place: &Place, own: &[impl AsRef<Path>]) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    match &place.ca {
        Some(path) => {
            for authority in certificates(path).with_context(|| format!("`--ca {}`", path.display()))? {
                roots.add(authority).with_context(|| format!("`--ca {}`", path.display()))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    // Who names an authority wants that one alone. What cannot be read here is not known here.
    let own = if place.ca.is_some() { &[] } else { own };
    let own = own.iter().filter_map(|path| certificates(path.as_ref()).ok()?.into_iter().next()).collect();
    let algorithms = provider.signature_verification_algorithms;
    let else_by = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().ok();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Known { own, else_by, algorithms }));
    let Some(path) = &place.client_cert else { return Ok(builder.with_no_client_auth()) };
    let named = || format!("`--client-cert {}`", path.display());
    let chain = certificates(path).with_context(named)?;
    let key = PrivateKeyDer::from_pem_file(path).ok().context("no private key stands in it").with_context(named)?;
    builder.with_client_auth_cert(chain, key).with_context(named)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>()?;
    if found.is_empty() {
        bail!("no certificate stands in it");
    }
    Ok(found)
}

/// What to do about an error of TLS.
pub(super) fn hint(error: &io::Error) -> Option<&'static str> {
    use rustls::{AlertDescription, Error};
    Some(match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(_) => "its certificate is not to be trusted; name its authority with `--ca FILE`",
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it asks for a certificate; name one with `--client-cert FILE`"
        }
        Error::InvalidMessage(_) => "what answers there speaks no TLS; without `admin.tls` it is `http://`",
        _ => return None,
    })
}

// === impl Known ===

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.own.contains(end) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.else_by {
            Some(authorities) => authorities.verify_server_cert(end, between, name, ocsp, now),
            None => Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
