//! How whoever asks comes in: with TLS or without, from this machine alone or from others too, and with which tokens.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use banyan_proxy::{Offers, Tls, TlsFileError, table::Problem};
use serde::Serialize;

use super::{Admin, Keys};
use crate::metrics::{Metrics, ReloadResult};

/// What holds of the admin listener from start to end, and its certificates.
pub(crate) struct Door {
    /// Whether there is TLS is decided at the start, as the address is: else a reload could open a port of the network without it.
    tls: Option<ArcSwap<Tls>>,
    /// Only this machine can reach it.
    is_near: bool,
    /// Who may ask.
    pub(crate) keys: Keys,
}

/// What `/api/v1/status` shows of it.
#[derive(Debug, Serialize)]
pub(crate) struct DoorStatus {
    /// Whether it speaks TLS.
    tls: bool,
    /// Why the certificates and keys on disk are not the ones in force; `None` when they are.
    tls_trouble: Option<String>,
}

/// What became of changed files: writes the log line and the metric together.
enum Event<'e> {
    Accepted,
    Refused(&'e TlsFileError),
}

/// Looking works everywhere, also where a link is swapped and where the system tells nothing of changes.
const LOOK: Duration = Duration::from_secs(1);

// === impl Door ===

impl Door {
    /// Of a listener that is bound to this address.
    ///
    /// # Errors
    /// When a file of its TLS cannot be used.
    pub(crate) fn open(admin: &Admin, bound: SocketAddr, keys: Keys) -> anyhow::Result<Self> {
        let opened = admin.tls.as_ref().map(|spec| Tls::open(spec, Offers::Http1)).transpose();
        let tls = opened.map_err(|error| anyhow::anyhow!("`admin.tls`: {}", error.told()))?;
        Ok(Self { tls: tls.map(ArcSwap::from_pointee), is_near: bound.ip().is_loopback(), keys })
    }

    /// Whether anybody who can connect may read, as long as the file names no token for it.
    pub(super) fn is_near(&self) -> bool {
        self.is_near
    }

    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.as_ref().map(ArcSwap::load_full)
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    pub(crate) fn status(&self) -> DoorStatus {
        let tls = self.tls();
        DoorStatus { tls: tls.is_some(), tls_trouble: tls.and_then(|tls| tls.trouble()) }
    }

    /// The TLS of a file that would take the place of the one in force; `None` where it names the same files, or where that has to wait for a
    /// restart.
    ///
    /// # Errors
    /// When one of the files cannot be used.
    pub(crate) fn prepare(&self, admin: &Admin) -> Result<Option<Tls>, Problem> {
        match (self.tls(), &admin.tls) {
            (Some(current), Some(spec)) if current.spec() != spec => {
                Tls::open(spec, Offers::Http1).map(Some).map_err(|error| Problem::error("admin.tls", error.told()))
            }
            _ => Ok(None),
        }
    }

    /// Shows what was prepared from now on.
    pub(crate) fn take(&self, tls: Tls) {
        if let Some(current) = &self.tls {
            current.store(Arc::new(tls));
        }
    }

    /// Takes over files that change, until it is dropped.
    ///
    /// # Errors
    /// When reading them panicked.
    pub(crate) async fn watch(self: Arc<Self>, metrics: Metrics) -> anyhow::Result<()> {
        while let Some(tls) = self.tls() {
            metrics.admin_certificates(&tls.expiries());
            // Reading may block.
            match tokio::task::spawn_blocking(move || tls.look()).await? {
                Some(Ok(())) => Event::Accepted.tell(&metrics),
                Some(Err(error)) => Event::Refused(&error).tell(&metrics),
                None => {}
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

// === impl Event ===

impl Event<'_> {
    fn tell(&self, metrics: &Metrics) {
        match self {
            Self::Accepted => {
                tracing::info!("took over changed files of the admin listener's TLS");
                metrics.admin_tls_reloaded(ReloadResult::Accepted);
            }
            Self::Refused(error) => {
                let error = error.told();
                tracing::error!(error, "refused changed files of the admin listener's TLS, those before stay in force");
                metrics.admin_tls_reloaded(ReloadResult::Refused);
            }
        }
    }
}
