//! The new accounts service of the example shop. It has already taken over: it owns `accounts` and `sessions`, and the monolith reads copies.

mod accounts;
mod answer;
mod outbox;
mod password;
mod session;
mod sign_in;

use std::{env, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    routing::{get, post},
};
use deadpool_postgres::{Manager, Pool};
use tokio::net::TcpListener;
use tokio_postgres::NoTls;

use crate::session::SessionKey;

/// What the service must be told.
pub struct Settings {
    /// Where it listens, bound already: whoever starts it knows the port.
    pub listener: std::net::TcpListener,
    /// `postgres://user:password@host:port/database`. Schema and first rows are made if missing.
    pub database: String,
    /// The key of the session cookie, the same as the monolith's.
    pub session_key: String,
    /// Writes an event into `outbox` for what others may want to know.
    pub publishes: bool,
}

/// What every handler needs.
struct Service {
    database: Pool,
    sessions: SessionKey,
    publishes: bool,
}

/// Serves accounts until the future is dropped.
///
/// # Errors
/// When the database cannot be reached at the start.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let manager = Manager::new(settings.database.parse()?, NoTls);
    let database = Pool::builder(manager).max_size(8).build()?;
    prepare(&database).await.context("cannot prepare the accounts database")?;
    let service =
        Arc::new(Service { database, sessions: SessionKey::new(&settings.session_key), publishes: settings.publishes });
    settings.listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(settings.listener)?;
    let pages = Router::new()
        .route("/login", get(sign_in::form).post(sign_in::login))
        .route("/logout", post(sign_in::logout))
        .route("/accounts", get(accounts::list).post(accounts::create))
        .route("/accounts/me", get(accounts::me))
        .route("/accounts/{id}", get(accounts::show))
        .route("/livez", get(async || "ok\n"))
        .with_state(service);
    Ok(axum::serve(listener, pages).await?)
}

async fn prepare(database: &Pool) -> anyhow::Result<()> {
    let mut client = database.get().await?;
    client.batch_execute(include_str!("schema.sql")).await?;
    let transaction = client.transaction().await?;
    let empty: bool = transaction.query_one("SELECT NOT EXISTS (SELECT FROM accounts)", &[]).await?.get(0);
    if empty {
        transaction.batch_execute(include_str!("seed.sql")).await?;
    }
    transaction.commit().await?;
    Ok(())
}

// === impl Settings ===

impl Settings {
    /// From `BIND`, `DATABASE_URL` and `SESSION_KEY`; with `PUBLISH_EVENTS=true` it publishes.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong, or the address that is taken.
    pub fn from_env() -> anyhow::Result<Self> {
        let read = |name: &'static str| env::var(name).with_context(|| format!("`{name}` is not set"));
        let bind: SocketAddr = read("BIND")?.parse().context("`BIND` is no address such as 127.0.0.1:7003")?;
        Ok(Self {
            listener: std::net::TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?,
            database: read("DATABASE_URL")?,
            session_key: read("SESSION_KEY")?,
            publishes: env::var("PUBLISH_EVENTS").is_ok_and(|word| word == "true"),
        })
    }
}
