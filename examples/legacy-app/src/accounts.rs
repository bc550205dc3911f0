//! Accounts, and signing in with the monolith itself.
//!
//! Since accounts-service answers `/accounts`, `/login` and `/logout`, the pages here are what a rollback would bring back. They sign the
//! same cookie; they do not write `sessions`, which is not theirs.

use std::sync::Arc;

use axum::{
    Form, Json,
    extract::{Path, State},
    response::{AppendHeaders, IntoResponse},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio_postgres::Row;

use crate::{
    Shop,
    answer::{Answer, Refusal, escape, page, see, wants_html},
    session::Session,
};

const COLUMNS: &str = "id, name, email, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";

#[derive(Deserialize)]
pub(crate) struct Login {
    name: String,
    password: String,
}

#[derive(Deserialize)]
pub(crate) struct FormToken {
    form_token: String,
}

pub(crate) async fn login_form() -> Answer {
    Ok(page(
        "Sign in",
        "<form method=post action=/login>\n<input name=name placeholder=name>\n<input name=password type=password>\n\
         <button>Sign in</button>\n</form>",
    ))
}

pub(crate) async fn login(State(shop): State<Arc<Shop>>, Form(login): Form<Login>) -> Answer {
    let client = shop.database.get().await?;
    let row = client.query_opt("SELECT id, password_hash FROM accounts WHERE name = $1", &[&login.name]).await?;
    let Some(row) = row.filter(|row| fits(&login.password, row.get(1))) else { return Err(Refusal::SignIn) };
    let session = Session::begin(row.get(0), &login.name)?;
    Ok((AppendHeaders([(header::SET_COOKIE, session.cookie(&shop.sessions))]), see("/accounts/me")).into_response())
}

pub(crate) async fn logout(State(shop): State<Arc<Shop>>, session: Session, Form(form): Form<FormToken>) -> Answer {
    if !shop.sessions.accepts_form(&session, &form.form_token) {
        return Err(Refusal::Wrong("this form is not from a page of the shop"));
    }
    Ok((AppendHeaders([(header::SET_COOKIE, Session::cleared())]), see("/")).into_response())
}

pub(crate) async fn list(State(shop): State<Arc<Shop>>) -> Answer {
    let client = shop.database.get().await?;
    let rows = client.query(&format!("SELECT {COLUMNS} FROM accounts ORDER BY id"), &[]).await?;
    Ok(Json(json!({ "accounts": rows.iter().map(account).collect::<Vec<_>>() })).into_response())
}

pub(crate) async fn show(State(shop): State<Arc<Shop>>, Path(id): Path<i64>) -> Answer {
    let client = shop.database.get().await?;
    match client.query_opt(&format!("SELECT {COLUMNS} FROM accounts WHERE id = $1"), &[&id]).await? {
        Some(row) => Ok(Json(account(&row)).into_response()),
        None => Err(Refusal::Missing("no such account")),
    }
}

pub(crate) async fn me(State(shop): State<Arc<Shop>>, headers: HeaderMap, session: Session) -> Answer {
    if !wants_html(&headers) {
        return show(State(shop), Path(session.account_id)).await;
    }
    let token = shop.sessions.form_token(&session);
    let name = escape(&session.name);
    Ok(page(
        "You",
        &format!(
            "<p>Signed in as {name}.</p>\n<form method=post action=/logout>\n\
             <input type=hidden name=form_token value=\"{token}\">\n<button>Sign out</button>\n</form>"
        ),
    ))
}

/// Who the bearer of the cookie is, for whoever stands in front of the shop: a header, and 401 for nobody.
pub(crate) async fn whoami(session: Session) -> Answer {
    Ok((StatusCode::NO_CONTENT, AppendHeaders([("x-user-id", session.account_id.to_string())])).into_response())
}

#[derive(Deserialize)]
pub(crate) struct NewAccount {
    name: String,
    email: String,
    password: String,
}

pub(crate) async fn create(State(shop): State<Arc<Shop>>, Json(new): Json<NewAccount>) -> Answer {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if new.name.is_empty() || new.name.len() > 32 || !new.name.chars().all(plain) {
        return Err(Refusal::Wrong("a name is 1 to 32 lower-case letters, digits and `_`"));
    }
    let client = shop.database.get().await?;
    let insert = format!(
        "INSERT INTO accounts (name, email, password_hash) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING RETURNING {COLUMNS}"
    );
    match client.query_opt(&insert, &[&new.name, &new.email, &hash(&new.password, &new.name)]).await? {
        Some(row) => Ok((StatusCode::CREATED, Json(account(&row))).into_response()),
        None => Err(Refusal::Wrong("this name is taken")),
    }
}

fn account(row: &Row) -> Value {
    json!({ "id": row.get::<_, i64>(0), "name": row.get::<_, String>(1), "email": row.get::<_, String>(2), "created_at": row.get::<_, String>(3) })
}

/// `pbkdf2$<rounds>$<salt>$<hex>`, PBKDF2-HMAC-SHA-256 (RFC 8018, 5.2) with one block. A thousand rounds is what people thought enough when
/// the monolith was young.
fn hash(password: &str, salt: &str) -> String {
    format!("pbkdf2$1000${salt}${}", pbkdf2(password, salt, 1000))
}

fn fits(password: &str, stored: &str) -> bool {
    let mut fields = stored.split('$');
    let (Some("pbkdf2"), Some(rounds), Some(salt), Some(hex)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    rounds.parse().is_ok_and(|rounds| pbkdf2(password, salt, rounds) == hex)
}

fn pbkdf2(password: &str, salt: &str, rounds: u32) -> String {
    let keyed = Hmac::<Sha256>::new_from_slice(password.as_bytes()).expect("HMAC takes keys of any length");
    let step = |message: &[u8]| -> [u8; 32] { keyed.clone().chain_update(message).finalize().into_bytes().into() };
    let mut last = step(&[salt.as_bytes(), &[0, 0, 0, 1]].concat());
    let mut sum = last;
    for _ in 1..rounds {
        last = step(&last);
        sum.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_hash_and_no_other() {
        let seeded = "pbkdf2$1000$shop-seed$0dae3faff7f8d11936393a049c6a43ca69784a2d45ea8ef886cba51ac95f43d8";
        assert!(fits("banyan", seeded));
        assert!(!fits("banyaN", seeded));
        assert!(fits("fig", &hash("fig", "salt")));
    }
}
