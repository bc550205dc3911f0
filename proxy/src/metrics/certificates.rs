//! Until when the listeners' certificates are valid, when `/metrics` is read.

use std::{collections::BTreeMap, sync::Arc};

use prometheus::{
    core::{Collector, Desc},
    proto,
};

use super::{
    LABEL_CERT, LABEL_LISTENER, TLS_EXPIRY,
    collector::{Families, Family, descs},
};
use crate::listen::Shared;

/// Renders the certificates of the listeners of the file in force.
pub(crate) struct Certificates {
    shared: Arc<Shared>,
    descs: Vec<Desc>,
}

const FAMILIES: [Family; 1] = [(
    TLS_EXPIRY,
    "Until when a certificate is valid, in seconds since 1970",
    proto::MetricType::GAUGE,
    &[LABEL_LISTENER, LABEL_CERT],
)];

// === impl Certificates ===

impl Certificates {
    pub(crate) fn new(shared: Arc<Shared>) -> prometheus::Result<Self> {
        Ok(Self { shared, descs: descs(&FAMILIES)? })
    }
}

impl Collector for Certificates {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus counts in doubles")]
    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut families = Families(BTreeMap::new());
        for listener in self.shared.listeners.load().iter() {
            let bind = listener.bind.to_string();
            for expiry in listener.door().tls.iter().flat_map(|tls| tls.expiries()) {
                let cert = expiry.cert.display().to_string();
                families.gauge(TLS_EXPIRY, &[(LABEL_LISTENER, &bind), (LABEL_CERT, &cert)], expiry.at as f64);
            }
        }
        families.into_proto(&FAMILIES)
    }
}
