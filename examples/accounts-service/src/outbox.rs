//! Events: a row of `outbox` in the transaction of what it tells of, so that both are there or neither is.

use serde_json::Value;
use tokio_postgres::{Error, Transaction};

/// Notes that something happened to one aggregate: it goes to the topic `outbox.event.<aggregate>`, in order with all that happens to this one.
pub(crate) async fn publish(
    transaction: &Transaction<'_>,
    aggregate: &str,
    id: i64,
    kind: &str,
    payload: &Value,
) -> Result<(), Error> {
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ($1, $2, $3, $4)";
    transaction.execute(insert, &[&aggregate, &id.to_string(), &kind, payload]).await?;
    Ok(())
}
