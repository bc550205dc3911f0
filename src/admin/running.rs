//! `GET /api/v1/config`: the file in force, the one on disk where it is another, and the last one that was refused, without any secret.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    app::{App, Refused},
    config,
};

/// The answer.
#[derive(Serialize)]
struct Shown {
    file: String,
    in_force: bool,
    /// The text in force, with `***` for what is secret and `${NAME}` as it stands there.
    running: String,
    /// The text on disk where it is not in force; `null` where it is, or cannot be read.
    on_disk: Option<String>,
    /// The last file that was refused since the start, also when a better one is in force by now.
    refused: Option<Refused>,
}

pub(super) async fn config(State(app): State<Arc<App>>) -> Response {
    let _turn = app.gathers.acquire().await;
    let shown = {
        let file = app.file();
        let on_disk = file.judged.as_deref().filter(|_| !file.status.in_force);
        Shown {
            file: file.status.path.clone(),
            in_force: file.status.in_force,
            running: config::redacted(&file.loaded.text),
            on_disk: on_disk.map(|bytes| config::redacted(&String::from_utf8_lossy(bytes))),
            refused: file.refused.clone(),
        }
    };
    Json(shown).into_response()
}
