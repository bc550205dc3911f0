//! The report that everybody waits for, once a month.

use std::sync::Arc;

use axum::{Json, extract::State, response::IntoResponse as _};
use serde_json::json;

use crate::{Shop, answer::Answer};

/// Revenue by month, read the slow way and summed in floats.
pub(crate) async fn revenue(State(shop): State<Arc<Shop>>) -> Answer {
    let client = shop.database.get().await?;
    // Stands for the join over nine tables that a real one would do here.
    client.execute("SELECT pg_sleep(1.5)", &[]).await?;
    let rows = client
        .query(
            "SELECT to_char(date_trunc('month', created_at), 'YYYY-MM'), sum(amount::float8) \
             FROM payments WHERE status <> 'refunded' GROUP BY 1 ORDER BY 1",
            &[],
        )
        .await?;
    let months: Vec<_> =
        rows.iter().map(|row| json!({ "month": row.get::<_, String>(0), "revenue": row.get::<_, f64>(1) })).collect();
    Ok(Json(json!({ "revenue": months })).into_response())
}
