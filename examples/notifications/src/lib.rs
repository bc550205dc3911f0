//! The notifications of the example shop: a list for each customer, of what they did anywhere in it.
//!
//! It has no database and asks no other service. The monolith and the new services publish what happened through their outboxes, without
//! knowing who reads it; all that is known here is read from those topics, and is read again from the first record whenever somebody asks.

mod model;
mod replay;

use std::{env, net::SocketAddr, sync::Arc, thread};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::replay::Replay;

/// Where the shop's events stand.
const TOPICS: [&str; 2] = ["outbox.event.payment", "outbox.event.account"];

/// What the service must be told.
pub struct Settings {
    /// Where it listens, bound already: whoever starts it knows the port.
    pub listener: std::net::TcpListener,
    /// `host:port`, several divided by commas.
    pub brokers: String,
    /// The topics to read; one that is not there yet is waited for.
    pub topics: Vec<String>,
}

/// Ends the reading with the serving.
struct Ends(Arc<Replay>);

/// Serves notifications until the future is dropped. Kafka may come later.
///
/// # Errors
/// When the socket cannot be used, or no thread can be started.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let replay = Arc::new(Replay::new(settings.brokers, settings.topics));
    let _ends = Ends(Arc::clone(&replay));
    let reader = Arc::clone(&replay);
    thread::Builder::new().name("replay".to_owned()).spawn(move || reader.run())?;
    settings.listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(settings.listener)?;
    let pages = Router::new()
        .route("/notifications", get(all))
        .route("/notifications/{account}", get(of_one))
        .route("/stats", get(stats))
        .route("/rebuild", post(rebuild))
        .route("/livez", get(async || "ok\n"))
        .with_state(replay);
    Ok(axum::serve(listener, pages).await?)
}

/// The whole read model. After a replay it is the same, byte for byte.
async fn all(State(replay): State<Arc<Replay>>) -> Json<Value> {
    Json(replay.model(model::Model::document))
}

async fn of_one(State(replay): State<Arc<Replay>>, Path(account): Path<i64>) -> Json<Value> {
    Json(replay.model(|model| model.of(account)))
}

async fn stats(State(replay): State<Arc<Replay>>) -> Json<Value> {
    Json(replay.stats())
}

/// Forgets everything, and reads it again from offset 0.
async fn rebuild(State(replay): State<Arc<Replay>>) -> (StatusCode, Json<Value>) {
    replay.begin_again();
    (StatusCode::ACCEPTED, Json(json!({ "rebuild": "begun; /stats says when it has caught up" })))
}

// === impl Ends ===

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.stop();
    }
}

// === impl Settings ===

impl Settings {
    /// From `BIND` and `KAFKA_BROKERS`, and `TOPICS`, divided by commas, if others than the shop's.
    ///
    /// # Errors
    /// Names the variable that is missing or wrong, or the address that is taken.
    pub fn from_env() -> anyhow::Result<Self> {
        let read = |name: &'static str| env::var(name).with_context(|| format!("`{name}` is not set"));
        let bind: SocketAddr = read("BIND")?.parse().context("`BIND` is no address such as 127.0.0.1:7004")?;
        let listener = std::net::TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?;
        let topics = env::var("TOPICS").map(|list| list.split(',').map(str::to_owned).collect());
        Ok(Self { topics: topics.unwrap_or_else(|_| Self::shop()), ..Self::at(listener, read("KAFKA_BROKERS")?) })
    }

    /// The shop's own topics.
    #[must_use]
    pub fn at(listener: std::net::TcpListener, brokers: String) -> Self {
        Self { listener, brokers, topics: Self::shop() }
    }

    fn shop() -> Vec<String> {
        TOPICS.map(str::to_owned).to_vec()
    }
}
