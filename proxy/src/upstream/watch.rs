//! Looks at the TLS files of the upstreams, so that a certificate that was renewed is used without a reload.

use std::{sync::Arc, time::Duration};

use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::Trust;
use crate::{listen::Shared, table::Problem};

/// How often; who renews a certificate leaves the old one valid for longer.
const LOOK: Duration = Duration::from_secs(2);

/// Ends the watch when it is dropped.
pub(crate) struct TrustWatch {
    _ends: DropGuard,
}

// === impl TrustWatch ===

impl TrustWatch {
    pub(crate) fn start(shared: Arc<Shared>, background: &Handle) -> Self {
        let token = CancellationToken::new();
        background.spawn(token.clone().run_until_cancelled_owned(look(shared)));
        Self { _ends: token.drop_guard() }
    }
}

async fn look(shared: Arc<Shared>) {
    // Files that stay bad are told of once; and those that were bad in one look alone, not at all: somebody was writing them.
    let (mut before, mut told): (Vec<Problem>, Vec<Problem>) = (Vec::new(), Vec::new());
    loop {
        tokio::time::sleep(LOOK).await;
        let trusts: Vec<Arc<Trust>> = shared.current.load().table.trusts().iter().map(Arc::clone).collect();
        if trusts.is_empty() {
            continue;
        }
        let looked = tokio::task::spawn_blocking(move || {
            trusts.into_iter().map(|trust| (trust.refresh(), trust)).collect::<Vec<_>>()
        });
        // Cancelled with the runtime.
        let Ok(looked) = looked.await else { return };
        let mut bad = Vec::new();
        for (refreshed, trust) in looked {
            match refreshed {
                Ok(false) => {}
                Ok(true) => info!(upstream = trust.upstream(), "took over the TLS files of an upstream"),
                Err(problem) => bad.push(problem),
            }
        }
        told.retain(|problem| bad.contains(problem));
        for problem in bad.iter().filter(|problem| before.contains(problem)) {
            if !told.contains(problem) {
                warn!(
                    key = problem.path,
                    "a TLS file of an upstream is wrong, the old ones stay in force: {}", problem.message
                );
                told.push(problem.clone());
            }
        }
        before = bad;
    }
}
