//! Signing in and out: the only code of the shop that writes `sessions`.

use std::sync::Arc;

use axum::{
    Form,
    extract::State,
    response::{AppendHeaders, IntoResponse as _, Redirect},
};
use http::header;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Service,
    answer::{Answer, Refusal, page},
    outbox, password,
    session::Session,
};

/// The fields of the log-in form, here and at the monolith.
#[derive(Deserialize)]
pub(crate) struct Login {
    name: String,
    password: String,
}

/// The one field of the log-out form, here and at the monolith.
#[derive(Deserialize)]
pub(crate) struct Logout {
    form_token: String,
}

pub(crate) async fn form() -> Answer {
    Ok(page(
        "Sign in",
        "<form method=post action=/login><input name=name placeholder=name><input name=password type=password>\
         <button>Sign in</button></form>",
    ))
}

pub(crate) async fn login(State(service): State<Arc<Service>>, Form(login): Form<Login>) -> Answer {
    let mut client = service.database.get().await?;
    let row = client.query_opt("SELECT id, password_hash FROM accounts WHERE name = $1", &[&login.name]).await?;
    let Some(row) = row.filter(|row| password::fits(&login.password, row.get(1))) else { return Err(Refusal::SignIn) };
    let session = Session::begin(row.get(0), &login.name)?;
    let expires = i64::try_from(session.expires)?;
    let insert = "INSERT INTO sessions (id, account_id, expires_at) VALUES ($1, $2, to_timestamp($3::bigint))";
    let transaction = client.transaction().await?;
    transaction.execute(insert, &[&session.id, &session.account_id, &expires]).await?;
    if service.publishes {
        let signed_in = json!({ "account_id": session.account_id, "name": login.name });
        outbox::publish(&transaction, "account", session.account_id, "SignedIn", &signed_in).await?;
    }
    transaction.commit().await?;
    let cookie = AppendHeaders([(header::SET_COOKIE, session.cookie(&service.sessions))]);
    Ok((cookie, Redirect::to("/accounts/me")).into_response())
}

/// Revokes the session for every side that looks at `sessions`, and takes the cookie back.
pub(crate) async fn logout(State(service): State<Arc<Service>>, session: Session, Form(form): Form<Logout>) -> Answer {
    if !service.sessions.accepts_form(&session, &form.form_token) {
        return Err(Refusal::Wrong("this form is not from a page of the shop"));
    }
    let client = service.database.get().await?;
    // An upsert, because a session that the monolith signed has no row yet.
    let revoke = "INSERT INTO sessions (id, account_id, expires_at, revoked_at) VALUES ($1, $2, to_timestamp($3::bigint), now()) \
                  ON CONFLICT (id) DO UPDATE SET revoked_at = excluded.revoked_at";
    client.execute(revoke, &[&session.id, &session.account_id, &i64::try_from(session.expires)?]).await?;
    Ok((AppendHeaders([(header::SET_COOKIE, Session::cleared())]), Redirect::to("/")).into_response())
}
