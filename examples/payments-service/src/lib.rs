//! The new payments service of the example shop. It is in motion: it reads a copy of the monolith's `payments`, which the sync keeps, and is
//! ready to write them on the day when it becomes their owner.
//!
//! One difference from the monolith is planted, for a compare to find: see `payments::refunded_amount`.

mod answer;
mod outbox;
mod payments;
mod session;

use std::{env, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{Router, routing::get};
use deadpool_postgres::{Manager, Pool};
use tokio::net::TcpListener;
use tokio_postgres::NoTls;

use crate::session::SessionKey;

/// What the service must be told.
pub struct Settings {
    /// Where it listens, bound already: whoever starts it knows the port.
    pub listener: std::net::TcpListener,
    /// `postgres://user:password@host:port/database`. The schema is made if missing.
    pub database: String,
    /// The key of the session cookie, the same as the monolith's.
    pub session_key: String,
    /// Writes an event into `outbox` for what others may want to know.
    pub publishes: bool,
    /// For the demo, in which something has to go wrong: every third payment cannot be read.
    pub is_bad_build: bool,
}

/// What every handler needs.
struct Service {
    database: Pool,
    sessions: SessionKey,
    publishes: bool,
    is_bad_build: bool,
}

/// Serves payments until the future is dropped.
///
/// # Errors
/// When the database cannot be reached at the start.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let manager = Manager::new(settings.database.parse()?, NoTls);
    let database = Pool::builder(manager).max_size(8).build()?;
    let schema = async { anyhow::Ok(database.get().await?.batch_execute(include_str!("schema.sql")).await?) };
    schema.await.context("cannot prepare the payments database")?;
    let service = Arc::new(Service {
        database,
        sessions: SessionKey::new(&settings.session_key),
        publishes: settings.publishes,
        is_bad_build: settings.is_bad_build,
    });
    settings.listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(settings.listener)?;
    let pages = Router::new()
        .route("/payments", get(payments::list).post(payments::create))
        .route("/payments/new", get(payments::form))
        .route("/payments/{id}", get(payments::show))
        .route("/livez", get(async || "ok\n"))
        .with_state(service);
    Ok(axum::serve(listener, pages).await?)
}

// === impl Settings ===

impl Settings {
    /// From `BIND`, `DATABASE_URL` and `SESSION_KEY`; with `PUBLISH_EVENTS=true` it publishes.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong, or the address that is taken.
    pub fn from_env() -> anyhow::Result<Self> {
        let read = |name: &'static str| env::var(name).with_context(|| format!("`{name}` is not set"));
        let bind: SocketAddr = read("BIND")?.parse().context("`BIND` is no address such as 127.0.0.1:7002")?;
        Ok(Self {
            listener: std::net::TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?,
            database: read("DATABASE_URL")?,
            session_key: read("SESSION_KEY")?,
            publishes: env::var("PUBLISH_EVENTS").is_ok_and(|word| word == "true"),
            is_bad_build: false,
        })
    }
}
