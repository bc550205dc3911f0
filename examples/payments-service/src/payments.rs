//! Payments: list, show, create, for people and for programs, as the monolith did it.

use std::sync::Arc;

use axum::{
    Form, Json,
    extract::{FromRequest as _, FromRequestParts as _, Path, Request, State},
    response::{AppendHeaders, IntoResponse as _, Redirect},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::{
    Service,
    answer::{Answer, Refusal, escape, page, wants_html},
    outbox,
    session::Session,
};

const COLUMNS: &str = "id, account_id, amount::text, currency, status, note, \
                       to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
                       to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// The status whose payments differ from the monolith's.
const REFUNDED: &str = "refunded";

/// A payment to be made. A person's form carries a `form_token`; a program posts JSON and needs neither token nor session.
#[derive(Deserialize)]
pub(crate) struct NewPayment {
    account_id: Option<i64>,
    amount: String,
    #[serde(default)]
    note: String,
    #[serde(default)]
    form_token: String,
}

pub(crate) async fn list(State(service): State<Arc<Service>>, headers: HeaderMap) -> Answer {
    let client = service.database.get().await?;
    let rows = client.query(&format!("SELECT {COLUMNS} FROM payments ORDER BY id DESC LIMIT 20"), &[]).await?;
    if !wants_html(&headers) {
        return Ok(Json(json!({ "payments": rows.iter().map(payment).collect::<Vec<_>>() })).into_response());
    }
    let lines: String = rows.iter().map(|row| format!("<li>{}\n", line(row))).collect();
    Ok(page("Payments", &format!("<ul>\n{lines}</ul>\n<p><a href=/payments/new>New payment</a></p>")))
}

pub(crate) async fn show(State(service): State<Arc<Service>>, Path(id): Path<i64>, headers: HeaderMap) -> Answer {
    if service.is_bad_build && id % 3 == 0 {
        return Err(Refusal::Broken(anyhow::anyhow!("this build cannot read every third payment")));
    }
    let client = service.database.get().await?;
    let row = client.query_opt(&format!("SELECT {COLUMNS} FROM payments WHERE id = $1"), &[&id]).await?;
    let row = row.ok_or(Refusal::Missing)?;
    if wants_html(&headers) { Ok(page("Payment", &line(&row))) } else { Ok(Json(payment(&row)).into_response()) }
}

pub(crate) async fn form(State(service): State<Arc<Service>>, session: Session) -> Answer {
    let token = service.sessions.form_token(&session);
    Ok(page(
        "New payment",
        &format!(
            "<form method=post action=/payments>\n<input type=hidden name=form_token value=\"{token}\">\n\
             <input name=amount placeholder=19.90>\n<input name=note>\n<button>Pay</button>\n</form>"
        ),
    ))
}

pub(crate) async fn create(State(service): State<Arc<Service>>, request: Request) -> Answer {
    let json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if json {
        let Ok(Json(new)) = Json::<NewPayment>::from_request(request, &()).await else {
            return Err(Refusal::Wrong("a payment is {\"account_id\": 1, \"amount\": \"19.90\", \"note\": \"\"}"));
        };
        let account_id = new.account_id.ok_or(Refusal::Wrong("whose payment? `account_id` is missing"))?;
        let row = insert(&service, account_id, &new).await?;
        let location = format!("/payments/{}", row.get::<_, i64>(0));
        return Ok(
            (StatusCode::CREATED, AppendHeaders([(header::LOCATION, location)]), Json(payment(&row))).into_response()
        );
    }
    let (mut parts, body) = request.into_parts();
    let session = Session::from_request_parts(&mut parts, &service).await?;
    let Ok(Form(new)) = Form::<NewPayment>::from_request(Request::from_parts(parts, body), &()).await else {
        return Err(Refusal::Wrong("the form is incomplete"));
    };
    if !service.sessions.accepts_form(&session, &new.form_token) {
        return Err(Refusal::Wrong("this form is not from a page of the shop"));
    }
    let row = insert(&service, session.account_id, &new).await?;
    Ok(Redirect::to(&format!("/payments/{}", row.get::<_, i64>(0))).into_response())
}

async fn insert(service: &Service, account_id: i64, new: &NewPayment) -> Result<Row, Refusal> {
    if !is_amount(&new.amount) {
        return Err(Refusal::Wrong("an amount is a text such as \"19.90\""));
    }
    let mut client = service.database.get().await?;
    let transaction = client.transaction().await?;
    let insert = format!(
        "INSERT INTO payments (account_id, amount, note) VALUES ($1, $2::text::numeric, $3) RETURNING {COLUMNS}"
    );
    let row = transaction.query_one(&insert, &[&account_id, &new.amount, &new.note]).await?;
    if service.publishes {
        let id: i64 = row.get(0);
        let (amount, currency): (String, String) = (row.get(2), row.get(3));
        let made = json!({ "payment_id": id, "account_id": account_id, "amount": amount, "currency": currency });
        outbox::publish(&transaction, "payment", id, "PaymentMade", &made).await?;
    }
    transaction.commit().await?;
    Ok(row)
}

/// Up to nine digits, and two more behind a point if there is one.
fn is_amount(text: &str) -> bool {
    let (whole, cents) = text.split_once('.').unwrap_or((text, "00"));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    (1..=9).contains(&whole.len()) && (1..=2).contains(&cents.len()) && digits(whole) && digits(cents)
}

fn payment(row: &Row) -> Value {
    let amount: String = row.get(2);
    let status: String = row.get(4);
    let amount = if status == REFUNDED { refunded_amount(&amount) } else { Value::String(amount) };
    json!({
        "id": row.get::<_, i64>(0),
        "account_id": row.get::<_, i64>(1),
        "amount": amount,
        "currency": row.get::<_, String>(3),
        "status": status,
        "note": row.get::<_, String>(5),
        "created_at": row.get::<_, String>(6),
        "generated_at": row.get::<_, String>(7),
    })
}

/// The planted difference: refunds were written on another day, and their amount is a number, 19.9 where the monolith says "19.90".
fn refunded_amount(amount: &str) -> Value {
    amount.parse::<f64>().map_or(Value::Null, Value::from)
}

fn line(row: &Row) -> String {
    let (id, amount, currency): (i64, String, String) = (row.get(0), row.get(2), row.get(3));
    let (status, note): (String, String) = (row.get(4), row.get(5));
    format!("<a href=/payments/{id}>{id}</a>: {amount} {currency}, {status}, {}", escape(&note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_digits_with_at_most_two_cents() {
        for good in ["0", "19.9", "19.90", "123456789.00"] {
            assert!(is_amount(good), "{good}");
        }
        for bad in ["", ".", "1.", ".5", "-1", "1.999", "1e3", "1234567890", "1,5"] {
            assert!(!is_amount(bad), "{bad}");
        }
    }
}
