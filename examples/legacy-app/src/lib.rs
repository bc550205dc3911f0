//! The monolith of the example shop: accounts, payments, orders, inventory and chat, one process over one PostgreSQL database.
//!
//! It has the habits that real ones have: Title-Case headers, amounts as text, a slow report, and money in floats where nobody looked.
//! It knows nothing of Banyan.

mod accounts;
mod answer;
mod chat;
mod inventory;
mod orders;
mod outbox;
mod payments;
mod reports;
mod session;
mod strain;
mod wire;

use std::{env, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    routing::{get, post},
};
use deadpool_postgres::{Manager, Pool};
use tokio::{net::TcpListener, sync::broadcast};
use tokio_postgres::NoTls;

use crate::session::SessionKey;

/// What the monolith must be told.
pub struct Settings {
    /// Where it listens, bound already: whoever starts it knows the port.
    pub listener: std::net::TcpListener,
    /// `postgres://user:password@host:port/database`. Schema and first rows are made if missing.
    pub database: String,
    /// The key of the session cookie, the same as the other services'.
    pub session_key: String,
    /// Writes an event into `outbox` for what others may want to know.
    pub publishes: bool,
    /// How many pages it serves at once as fast as ever; beyond that it collapses, as monoliths do. `None`: as many as the machine can.
    pub capacity: Option<usize>,
}

/// What every page needs.
struct Shop {
    database: Pool,
    sessions: SessionKey,
    publishes: bool,
    chat: broadcast::Sender<String>,
}

/// Serves the shop until the future is dropped.
///
/// # Errors
/// When the database cannot be reached at the start.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let manager = Manager::new(settings.database.parse()?, NoTls);
    let database = Pool::builder(manager).max_size(8).build()?;
    prepare(&database).await.context("cannot prepare the monolith's database")?;
    let shop = Arc::new(Shop {
        database,
        sessions: SessionKey::new(&settings.session_key),
        publishes: settings.publishes,
        chat: broadcast::channel(64).0,
    });
    settings.listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(settings.listener)?;
    wire::serve(listener, strain::under(settings.capacity, pages(shop))).await
}

fn pages(shop: Arc<Shop>) -> Router {
    Router::new()
        .route("/", get(inventory::front_page))
        .route("/login", get(accounts::login_form).post(accounts::login))
        .route("/logout", post(accounts::logout))
        .route("/whoami", get(accounts::whoami))
        .route("/accounts", get(accounts::list).post(accounts::create))
        .route("/accounts/me", get(accounts::me))
        .route("/accounts/{id}", get(accounts::show))
        .route("/payments", get(payments::list).post(payments::create))
        .route("/payments/new", get(payments::form))
        .route("/payments/{id}", get(payments::show))
        .route("/orders", get(orders::list).post(orders::create))
        .route("/inventory", get(inventory::list))
        .route("/inventory/{sku}", get(inventory::show))
        .route("/reports/revenue", get(reports::revenue))
        .route("/chat", get(chat::page))
        .route("/chat/socket", get(chat::socket))
        .route("/livez", get(async || "ok\n"))
        .with_state(shop)
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
    /// From `BIND`, `DATABASE_URL` and `SESSION_KEY`, and `CAPACITY` if there is one; with `PUBLISH_EVENTS=true` it publishes.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong, or the address that is taken.
    pub fn from_env() -> anyhow::Result<Self> {
        let read = |name: &'static str| env::var(name).with_context(|| format!("`{name}` is not set"));
        let bind: SocketAddr = read("BIND")?.parse().context("`BIND` is no address such as 127.0.0.1:7001")?;
        Ok(Self {
            listener: std::net::TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?,
            database: read("DATABASE_URL")?,
            session_key: read("SESSION_KEY")?,
            publishes: env::var("PUBLISH_EVENTS").is_ok_and(|word| word == "true"),
            capacity: env::var("CAPACITY")
                .ok()
                .map(|text| text.parse())
                .transpose()
                .context("`CAPACITY` is no number")?,
        })
    }
}
