//! What the shop sells, and its front page.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse as _,
};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::{
    Shop,
    answer::{Answer, Refusal, escape, page, wants_html},
};

const COLUMNS: &str = "sku, title, price::text, stock";

pub(crate) async fn front_page(State(shop): State<Arc<Shop>>) -> Answer {
    let body = goods(&shop).await?;
    Ok(page(
        "Fig & Co",
        &format!("{body}\n<p><a href=/login>Sign in</a> (ann, ben, cem, ...; everybody's password is banyan)</p>"),
    ))
}

pub(crate) async fn list(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Answer {
    if wants_html(&headers) {
        return Ok(page("Inventory", &goods(&shop).await?));
    }
    let client = shop.database.get().await?;
    let rows = client.query(&format!("SELECT {COLUMNS} FROM inventory ORDER BY sku"), &[]).await?;
    Ok(Json(json!({ "inventory": rows.iter().map(item).collect::<Vec<_>>() })).into_response())
}

pub(crate) async fn show(State(shop): State<Arc<Shop>>, Path(sku): Path<String>) -> Answer {
    let client = shop.database.get().await?;
    match client.query_opt(&format!("SELECT {COLUMNS} FROM inventory WHERE sku = $1"), &[&sku]).await? {
        Some(row) => Ok(Json(item(&row)).into_response()),
        None => Err(Refusal::Missing("we do not sell that")),
    }
}

async fn goods(shop: &Shop) -> Result<String, Refusal> {
    let client = shop.database.get().await?;
    let rows = client.query(&format!("SELECT {COLUMNS} FROM inventory ORDER BY sku"), &[]).await?;
    let lines: String = rows
        .iter()
        .map(|row| {
            let (sku, title, price): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            format!("<li><a href=/inventory/{sku}>{}</a> {price} EUR, {} left\n", escape(&title), row.get::<_, i32>(3))
        })
        .collect();
    Ok(format!("<ul>\n{lines}</ul>"))
}

fn item(row: &Row) -> Value {
    json!({ "sku": row.get::<_, String>(0), "title": row.get::<_, String>(1), "price": row.get::<_, String>(2), "stock": row.get::<_, i32>(3) })
}
