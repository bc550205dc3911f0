//! Whom to trust, and what to show: the same words for Kafka and for databases.

use std::path::PathBuf;

use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

/// TLS to servers whose certificates must be for the names that they are reached by. The files are read whenever a flow begins again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// A PEM file of the CAs that may sign the servers' certificates. Default: the system's.
    #[garde(skip)]
    pub ca: Option<PathBuf>,
    /// A PEM file with Banyan's own certificate and what it was signed by, for servers that ask who is there.
    #[garde(skip)]
    pub client_cert: Option<PathBuf>,
    /// A PEM file with that certificate's key; both or neither.
    #[garde(skip)]
    pub client_key: Option<PathBuf>,
}

// === impl Tls ===

impl Tls {
    /// The files that it names, by their keys.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let files = [("ca", &self.ca), ("client_cert", &self.client_cert), ("client_key", &self.client_key)];
        files.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?)))
    }

    /// The key of a certificate and of its key of which there is one without the other, and the missing one.
    #[must_use]
    pub fn half(&self) -> Option<(&'static str, &'static str)> {
        match (&self.client_cert, &self.client_key) {
            (Some(_), None) => Some(("client_cert", "client_key")),
            (None, Some(_)) => Some(("client_key", "client_cert")),
            _ => None,
        }
    }
}
