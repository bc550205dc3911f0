//! Metrics of the process as a whole: build, file, tasks. The halves' own are in `proxy/` and `connectors/`.

use banyan_proxy::{
    Expiry,
    metrics::{LABEL_CERT, LABEL_LISTENER, LABEL_ROUTE, TLS_EXPIRY},
};
use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    proto::{LabelPair, MetricFamily},
};

const BUILD_INFO: &str = "banyan_build_info";
const RELOADS: &str = "banyan_config_reloads_total";
const LAST_RELOAD: &str = "banyan_config_last_reload_successful";
const ADMIN_TLS_RELOADS: &str = "banyan_admin_tls_reloads_total";
const WEBHOOK_CALLS: &str = "banyan_webhook_calls_total";
const TASK_RESTARTS: &str = "banyan_task_restarts_total";

/// What became of a reload: the values of `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReloadResult {
    /// The new file is in force.
    Accepted,
    /// It has errors; nothing changed.
    Refused,
}

/// What became of a call of the webhook: the values of `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It was answered with 2xx.
    Delivered,
    /// It was tried until it was given up.
    Failed,
    /// It was never tried: too much happened at once.
    Dropped,
}

/// The process's own metrics, in a registry of their own: the halves count restarts of their tasks under the same name.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    reloads: IntCounterVec,
    last_reload: IntGauge,
    admin_tls: IntCounterVec,
    webhook: IntCounterVec,
    admin_certificates: IntGaugeVec,
    task_restarts: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    /// Registers them, and the process's (CPU, memory, descriptors).
    pub(crate) fn register() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let build =
            IntGaugeVec::new(Opts::new(BUILD_INFO, "Always 1; the label says which Banyan this is."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let reloads =
            IntCounterVec::new(Opts::new(RELOADS, "Changes of the file, by what became of them."), &["result"])?;
        let help = "Changed files of the admin listener's TLS, by what became of them.";
        let admin_tls = IntCounterVec::new(Opts::new(ADMIN_TLS_RELOADS, help), &["result"])?;
        for result in [ReloadResult::Accepted, ReloadResult::Refused] {
            reloads.with_label_values(&[result.as_str()]);
            admin_tls.with_label_values(&[result.as_str()]);
        }
        let help = "Until when a certificate is valid, in seconds since 1970";
        let admin_certificates = IntGaugeVec::new(Opts::new(TLS_EXPIRY, help), &[LABEL_LISTENER, LABEL_CERT])?;
        let last_reload =
            IntGauge::new(LAST_RELOAD, "1 while the file on disk is the one in force, 0 after one was refused.")?;
        last_reload.set(1);
        let help = "Calls of the webhook, by what became of them.";
        let webhook = IntCounterVec::new(Opts::new(WEBHOOK_CALLS, help), &["outcome"])?;
        for outcome in [Delivery::Delivered, Delivery::Failed, Delivery::Dropped] {
            webhook.with_label_values(&[outcome.as_str()]);
        }
        let task_restarts = IntCounterVec::new(
            Opts::new(TASK_RESTARTS, "Times that a background task failed and was started again."),
            &["task"],
        )?;
        registry.register(Box::new(build))?;
        registry.register(Box::new(reloads.clone()))?;
        registry.register(Box::new(last_reload.clone()))?;
        registry.register(Box::new(admin_tls.clone()))?;
        registry.register(Box::new(webhook.clone()))?;
        registry.register(Box::new(admin_certificates.clone()))?;
        registry.register(Box::new(task_restarts.clone()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, reloads, last_reload, admin_tls, webhook, admin_certificates, task_restarts })
    }

    /// Everything, with the halves' metrics; a name that both have is one family. Without routes that `is_known` does not know: whoever counts for
    /// one that the file has no more is not to be asked by how many files there were.
    pub(crate) fn gather(&self, halves: &Registry, is_known: impl Fn(&str) -> bool) -> Vec<MetricFamily> {
        let mut families = halves.gather();
        for family in &mut families {
            let is_gone = |label: &LabelPair| label.name() == LABEL_ROUTE && !is_known(label.value());
            family.mut_metric().retain(|metric| !metric.get_label().iter().any(is_gone));
        }
        families.retain(|family| !family.get_metric().is_empty());
        for mut own in self.registry.gather() {
            match families.iter_mut().find(|family| family.name() == own.name()) {
                Some(family) => family.mut_metric().append(own.mut_metric()),
                None => families.push(own),
            }
        }
        families.sort_by(|a, b| a.name().cmp(b.name()));
        families
    }

    pub(crate) fn reloaded(&self, result: ReloadResult) {
        self.reloads.with_label_values(&[result.as_str()]).inc();
        self.last_reload.set(i64::from(result == ReloadResult::Accepted));
    }

    pub(crate) fn admin_tls_reloaded(&self, result: ReloadResult) {
        self.admin_tls.with_label_values(&[result.as_str()]).inc();
    }

    pub(crate) fn webhook(&self, outcome: Delivery, calls: u64) {
        self.webhook.with_label_values(&[outcome.as_str()]).inc_by(calls);
    }

    /// Until when the certificates of the admin listener are valid.
    pub(crate) fn admin_certificates(&self, expiries: &[Expiry]) {
        // Files that a reload has replaced go with it.
        self.admin_certificates.reset();
        for expiry in expiries {
            let labels = ["admin", &expiry.cert.display().to_string()];
            self.admin_certificates.with_label_values(&labels).set(i64::try_from(expiry.at).unwrap_or(i64::MAX));
        }
    }

    /// Makes a task's counter visible at 0.
    pub(crate) fn task(&self, task: &'static str) {
        self.task_restarts.with_label_values(&[task]);
    }

    pub(crate) fn task_restarted(&self, task: &'static str) {
        self.task_restarts.with_label_values(&[task]).inc();
    }
}

// === impl Delivery ===

impl Delivery {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

// === impl ReloadResult ===

impl ReloadResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
        }
    }
}
