//! Accounts: list, show, create.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse as _,
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::{
    Service,
    answer::{Answer, Refusal, page, wants_html},
    password,
    session::Session,
};

const COLUMNS: &str = "id, name, email, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";

/// An account to be made.
#[derive(Deserialize)]
pub(crate) struct NewAccount {
    name: String,
    email: String,
    password: String,
}

pub(crate) async fn list(State(service): State<Arc<Service>>) -> Answer {
    let client = service.database.get().await?;
    let rows = client.query(&format!("SELECT {COLUMNS} FROM accounts ORDER BY id"), &[]).await?;
    Ok(Json(json!({ "accounts": rows.iter().map(account).collect::<Vec<_>>() })).into_response())
}

pub(crate) async fn show(State(service): State<Arc<Service>>, Path(id): Path<i64>) -> Answer {
    let client = service.database.get().await?;
    let row = client.query_opt(&format!("SELECT {COLUMNS} FROM accounts WHERE id = $1"), &[&id]).await?;
    Ok(Json(account(&row.ok_or(Refusal::Missing)?)).into_response())
}

pub(crate) async fn me(State(service): State<Arc<Service>>, headers: HeaderMap, session: Session) -> Answer {
    if !wants_html(&headers) {
        return show(State(service), Path(session.account_id)).await;
    }
    // The log-out form carries what either side accepts: whoever gets it can check it.
    let (name, token) = (&session.name, service.sessions.form_token(&session));
    Ok(page(
        "You",
        &format!(
            "<p>Signed in as {name}.</p><form method=post action=/logout>\
             <input type=hidden name=form_token value=\"{token}\"><button>Sign out</button></form>"
        ),
    ))
}

pub(crate) async fn create(State(service): State<Arc<Service>>, Json(new): Json<NewAccount>) -> Answer {
    // A name goes into the session cookie and into pages as it is.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if new.name.is_empty() || new.name.len() > 32 || !new.name.chars().all(plain) {
        return Err(Refusal::Wrong("a name is 1 to 32 lower-case letters, digits and `_`"));
    }
    let client = service.database.get().await?;
    let insert = format!(
        "INSERT INTO accounts (name, email, password_hash) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING RETURNING {COLUMNS}"
    );
    match client.query_opt(&insert, &[&new.name, &new.email, &password::hash(&new.password)?]).await? {
        Some(row) => Ok((StatusCode::CREATED, Json(account(&row))).into_response()),
        None => Err(Refusal::Wrong("this name is taken")),
    }
}

fn account(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>(0),
        "name": row.get::<_, String>(1),
        "email": row.get::<_, String>(2),
        "created_at": row.get::<_, String>(3),
    })
}
