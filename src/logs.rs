//! One event, one line, on stderr: `2026-11-22T12:03:11Z WARN rolled back route=payments …`.

use std::io;

use tracing_subscriber::{EnvFilter, fmt::time::SystemTime};

use crate::cli::output;

/// What is logged when nothing else is asked for. librdkafka and the HTTP libraries speak only when something is wrong.
const DEFAULT: &str = "info,hyper=warn,librdkafka=error,rdkafka=error";

/// Starts logging for the whole process; `BANYAN_LOG` says what, in `tracing`'s words (`debug`, `banyan_proxy=debug,info`).
pub(crate) fn start() {
    let wanted = std::env::var("BANYAN_LOG").ok();
    let filter = wanted.as_deref().and_then(|wanted| EnvFilter::try_new(wanted).ok());
    let refused = wanted.is_some() && filter.is_none();
    let filter = filter.unwrap_or_else(|| EnvFilter::new(DEFAULT));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(output::colour(&io::stderr()))
        .with_target(false)
        .with_timer(SystemTime);
    // A second start in one process keeps the first.
    if subscriber.try_init().is_ok() && refused {
        tracing::warn!("`BANYAN_LOG` is not understood; expected for example `debug` or `banyan_proxy=debug,info`");
    }
}
