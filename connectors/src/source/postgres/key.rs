//! What the log has of a row that goes: the columns of the replica identity's index, or of the primary key.

use crate::{database::postgres::Session, error::FlowError, names::quote_table};

/// In the order of the table; the primary key where the log has whole rows.
pub(crate) async fn of(session: &Session, table: &str) -> Result<Vec<String>, FlowError> {
    let row = session
        .query_one(
            "SELECT ARRAY(SELECT a.attname::text FROM pg_class c \
                 JOIN pg_index i ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END \
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
                 WHERE c.oid = to_regclass($1) ORDER BY a.attnum)",
            &[&quote_table(table)],
        )
        .await
        .map_err(|e| FlowError::sql("asking for a table's key", &e))?;
    Ok(row.get(0))
}
