//! `/api/v1/stream`: the status once a second, a line of JSON each, for as long as somebody reads it.
//!
//! One task renders for all readers, and only while there is one. A reader who is slow misses lines and holds up nobody.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::gate::problem;
use crate::app::App;

/// What all readers see.
pub(crate) struct Live {
    lines: watch::Sender<Bytes>,
    places: Arc<Semaphore>,
}

/// Cancelled when a connection takes no further request: what it streams ends, so that its end is a whole answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Closing(pub(super) CancellationToken);

/// One reader.
struct Reader {
    app: Arc<App>,
    lines: watch::Receiver<Bytes>,
    closing: CancellationToken,
    is_first: bool,
    _place: OwnedSemaphorePermit,
}

/// Readers at once, each at most as long as a connection may be open.
const READERS: usize = 16;
const EVERY: Duration = Duration::from_secs(1);

// === impl Live ===

impl Default for Live {
    fn default() -> Self {
        Self { lines: watch::Sender::default(), places: Arc::new(Semaphore::new(READERS)) }
    }
}

/// Renders while somebody reads, until it is dropped.
///
/// # Errors
/// When the status cannot be rendered.
pub(crate) async fn feed(app: Arc<App>) -> anyhow::Result<()> {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if app.live.lines.receiver_count() > 0 {
            let line = line(&app).await?;
            app.live.lines.send_replace(line);
        }
    }
}

/// `GET /api/v1/stream`
pub(super) async fn stream(State(app): State<Arc<App>>, Extension(Closing(closing)): Extension<Closing>) -> Response {
    if !app.is_ready() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "stopping", "Banyan is stopping");
    }
    let Ok(place) = Arc::clone(&app.live.places).try_acquire_owned() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "readers", "as many readers as there may be are here already");
    };
    let mut lines = app.live.lines.subscribe();
    // What was rendered for others before, perhaps long ago.
    lines.mark_unchanged();
    let reader = Reader { app, lines, closing, is_first: true, _place: place };
    let lines = futures_util::stream::unfold(reader, |mut reader| async move {
        let line = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), reader))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response()
}

// === impl Reader ===

impl Reader {
    /// The next line; `None` when it is over.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.is_first) {
            return line(&self.app).await.ok();
        }
        if !self.app.is_ready() {
            return None;
        }
        tokio::select! {
            () = self.closing.cancelled() => None,
            changed = self.lines.changed() => {
                changed.ok()?;
                Some(self.lines.borrow_and_update().clone())
            }
        }
    }
}

async fn line(app: &App) -> anyhow::Result<Bytes> {
    let _turn = app.gathers.acquire().await;
    let mut line = serde_json::to_vec(&app.status())?;
    line.push(b'\n');
    Ok(line.into())
}
