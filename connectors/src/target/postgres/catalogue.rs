//! Whether the target's tables and functions are still those that were looked up: people alter them while rows are applied, and a cast to the type that a
//! column had would change values without a word.

use std::time::Instant;

use tokio_postgres::Statement;

use super::{function, pipe::Pipe, position::Parameter};
use crate::{
    database::postgres::Session,
    error::FlowError,
    names::{literal, quote_table},
    plan::PlanTable,
    target::AGE,
};

/// The tables as they were looked up.
pub(crate) struct Catalogue {
    /// Two different ones have different sums.
    sum: String,
    same: Statement,
    looked: Instant,
}

/// The sum of all columns, keys and unique indexes of the tables, and of the functions, as an expression.
fn sum(all: &[PlanTable]) -> String {
    let names: Vec<String> = all
        .iter()
        .filter(|table| !table.is_function)
        .map(|table| format!("to_regclass({})::oid", literal(&quote_table(&table.target))))
        .collect();
    let tables = format!("ARRAY[{}]::oid[]", names.join(", "));
    let functions: Vec<String> = all.iter().filter(|table| table.is_function).map(function::is_it).collect();
    let functions = match functions.as_slice() {
        [] => String::new(),
        functions => format!(
            " || '/' || (SELECT coalesce(sum(hashtextextended(concat_ws(' ', p.oid, p.xmin, n.xmin), 0)), 0) \
             FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {})::text",
            functions.join(" OR ")
        ),
    };
    format!(
        "(SELECT coalesce(sum(hashtextextended(concat_ws(' ', a.attrelid, a.attnum, a.atttypid, a.attname, a.attgenerated, a.attidentity), 0)), 0) \
             FROM pg_attribute a WHERE a.attrelid = ANY ({tables}) AND a.attnum > 0 AND NOT a.attisdropped)::text || '/' || \
         (SELECT coalesce(sum(hashtextextended(concat_ws(' ', i.indexrelid, i.indkey, i.indisprimary), 0)), 0) \
             FROM pg_index i WHERE i.indrelid = ANY ({tables}) AND (i.indisunique OR i.indisexclusion))::text{functions}"
    )
}

pub(crate) async fn read(session: &Session, tables: &[PlanTable]) -> Result<String, FlowError> {
    let row = session.query_one(&format!("SELECT {}", sum(tables)), &[]).await;
    Ok(row.map_err(|e| FlowError::sql("reading the target's columns", &e))?.get(0))
}

// === impl Catalogue ===

impl Catalogue {
    /// To be taken before the tables are looked up.
    pub(super) async fn take(session: &Session, tables: &[PlanTable]) -> Result<Self, FlowError> {
        let now = read(session, tables).await?;
        let same = session
            .prepare(&format!("SELECT 1 WHERE {} = {}", sum(tables), literal(&now)))
            .await
            .map_err(|e| FlowError::sql("reading the target's columns", &e))?;
        Ok(Self { sum: now, same, looked: Instant::now() })
    }

    pub(crate) fn sum(&self) -> &str {
        &self.sum
    }

    /// In a transaction that was just begun, before its first row.
    pub(super) async fn check(&mut self, pipe: &mut Pipe) -> Result<(), FlowError> {
        if self.looked.elapsed() < AGE { Ok(()) } else { self.ask(pipe).await }
    }

    /// Behind calls of functions, in their transaction: one that was made STRICT a moment ago would not have been called, without a word.
    pub(super) async fn ask(&mut self, pipe: &mut Pipe) -> Result<(), FlowError> {
        self.looked = Instant::now();
        pipe.execute(self.same.clone(), Vec::<Parameter>::new(), 0, |found| match found {
            Ok(1) => Ok(()),
            Ok(_) => Err(FlowError::Busy("a table of the target was altered: its columns are read anew".into())),
            Err(error) => Err(FlowError::sql("reading the target's columns", &error)),
        })
        .await
    }
}
