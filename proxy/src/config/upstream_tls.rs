//! `upstreams.….tls:` — whom Banyan trusts behind an `https://` address, and who it says it is. A certificate is always verified.

use std::path::PathBuf;

use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

/// TLS to an upstream. The files are read again when they change, and at a reload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// A PEM file of the CAs that may sign the upstream's certificate. Default: the system's.
    #[garde(skip)]
    pub ca: Option<PathBuf>,
    /// A PEM file with Banyan's own certificate and what it was signed by, for upstreams that ask who is there.
    #[garde(skip)]
    pub client_cert: Option<PathBuf>,
    /// A PEM file with that certificate's key; both or neither.
    #[garde(skip)]
    pub client_key: Option<PathBuf>,
    /// The name that is asked for (SNI) and that the certificate must be for. Default: the endpoint's host.
    #[garde(inner(custom(host_name)))]
    pub server_name: Option<String>,
}

fn host_name(name: &str, (): &()) -> garde::Result {
    match rustls::pki_types::ServerName::try_from(name) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(garde::Error::new("no host name; expected a name without scheme and port, such as `payments.internal`"))
        }
    }
}
