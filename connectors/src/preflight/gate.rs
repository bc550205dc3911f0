//! Where a new sync's flows wait until preflight has found nothing in their way. Passed once; nothing is made before.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::{
    config::{Kafka, Sync},
    error::FlowError,
};

/// A reason has room for so many findings; `banyan check --connect` shows all.
const SHOWN: usize = 3;

/// One a sync, shared by its flows.
#[derive(Debug)]
pub(crate) struct Gate {
    install: String,
    name: String,
    sync: Sync,
    kafka: Arc<Kafka>,
    passed: OnceCell<()>,
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new(install: &str, name: &str, sync: &Sync, kafka: &Arc<Kafka>) -> Self {
        Self {
            install: install.to_owned(),
            name: name.to_owned(),
            sync: sync.clone(),
            kafka: Arc::clone(kafka),
            passed: OnceCell::new(),
        }
    }

    /// Checks the sync, unless that was done. Servers that are away are asked again by the next attempt; all else needs a person.
    pub(crate) async fn pass(&self) -> Result<(), FlowError> {
        self.passed.get_or_try_init(|| self.check()).await.copied()
    }

    async fn check(&self) -> Result<(), FlowError> {
        let findings = super::check_sync(&self.install, &self.name, &self.sync, Some(&self.kafka)).await;
        let (errors, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(super::Finding::is_error);
        let (away, lasting): (Vec<_>, Vec<_>) = errors.into_iter().partition(super::Finding::may_pass);
        let told = |findings: &[super::Finding]| {
            let shown: Vec<String> = findings.iter().take(SHOWN).map(ToString::to_string).collect();
            let more = match findings.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" | and {more} more: `banyan check --connect` shows all"),
            };
            format!("{}{more}", shown.join(" | "))
        };
        if !lasting.is_empty() {
            return Err(FlowError::Stop(told(&lasting)));
        }
        if !away.is_empty() {
            return Err(FlowError::Busy(told(&away)));
        }
        for warning in warnings {
            tracing::warn!(sync = self.name, "{warning}");
        }
        Ok(())
    }
}
