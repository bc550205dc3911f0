//! Looks at the files of every listener's TLS again and again. Looking works everywhere, also where a link is swapped (Kubernetes) and where
//! the system tells nothing of changes (network file systems).

use std::{sync::Arc, time::Duration};

use prometheus::{IntCounterVec, Opts, Registry};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{super::worker::Shared, TlsFileError};
use crate::metrics::{LABEL_RESULT, TLS_RELOADS};

/// The watch of a process; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watch {
    _ends: DropGuard,
}

/// What became of changed files: writes the log line and the metric together.
enum Event<'e> {
    Accepted,
    Refused(&'e TlsFileError),
}

const LOOK: Duration = Duration::from_secs(1);

// === impl Watch ===

impl Watch {
    /// # Errors
    /// When the metric is registered already.
    pub(crate) fn start(shared: &Arc<Shared>, background: &Handle, registry: &Registry) -> prometheus::Result<Self> {
        let help = "Changed files of listeners' TLS, by what became of them";
        let reloads = IntCounterVec::new(Opts::new(TLS_RELOADS, help), &[LABEL_RESULT])?;
        for result in [Event::ACCEPTED, Event::REFUSED] {
            reloads.with_label_values(&[result]);
        }
        registry.register(Box::new(reloads.clone()))?;
        let token = CancellationToken::new();
        background.spawn(token.clone().run_until_cancelled_owned(run(Arc::clone(shared), reloads)));
        Ok(Self { _ends: token.drop_guard() })
    }
}

async fn run(shared: Arc<Shared>, reloads: IntCounterVec) {
    loop {
        tokio::time::sleep(LOOK).await;
        let open: Vec<_> = shared.listeners.load().iter().filter_map(|listener| listener.door().tls.clone()).collect();
        if open.is_empty() {
            continue;
        }
        let reloads = reloads.clone();
        // Reading may block. Should it panic, the next look does it again.
        let looked = tokio::task::spawn_blocking(move || {
            for tls in open {
                match tls.look() {
                    Some(Ok(())) => Event::Accepted.tell(&reloads),
                    Some(Err(error)) => Event::Refused(&error).tell(&reloads),
                    None => {}
                }
            }
        });
        drop(looked.await);
    }
}

// === impl Event ===

impl Event<'_> {
    const ACCEPTED: &'static str = "accepted";
    const REFUSED: &'static str = "refused";

    fn tell(&self, reloads: &IntCounterVec) {
        match self {
            Self::Accepted => {
                tracing::info!("took over changed files of a listener's TLS");
                reloads.with_label_values(&[Self::ACCEPTED]).inc();
            }
            Self::Refused(error) => {
                let error = error.told();
                tracing::error!(error, "refused changed files of a listener's TLS, those before stay in force");
                reloads.with_label_values(&[Self::REFUSED]).inc();
            }
        }
    }
}
