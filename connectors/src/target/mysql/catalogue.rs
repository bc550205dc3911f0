//! Whether the target's tables are still those that were looked up: people alter them while rows are applied.

use std::time::Instant;

use crate::{
    database::{
        catalogue::{PAUSE, TRIES},
        mysql::{MysqlSession, cell, text},
    },
    error::FlowError,
    plan::PlanTable,
    target::AGE,
};

/// The tables as they were looked up.
pub(crate) struct Catalogue {
    question: Question,
    /// Its answer then.
    sum: String,
    looked: Instant,
}

/// For the sum of all columns and keys of the tables, and how many tables it has found.
struct Question {
    sql: String,
    tables: usize,
}

/// The sum of all columns and keys of the tables.
pub(crate) async fn read(session: &mut MysqlSession, tables: &[PlanTable]) -> Result<String, FlowError> {
    Question::of(tables).ask(session).await
}

// === impl Question ===

impl Question {
    fn of(tables: &[PlanTable]) -> Self {
        let one = |table: &PlanTable| {
            let (database, name) = table.target.split_once('.').unwrap_or(("", &table.target));
            format!("(TABLE_SCHEMA = {} AND TABLE_NAME = {})", text(database), text(name))
        };
        let places: Vec<String> = tables.iter().map(one).collect();
        let sql = format!(
            "SELECT concat('', coalesce(sum(crc32(concat_ws(' ', TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, ORDINAL_POSITION, COLUMN_TYPE, COLLATION_NAME, COLUMN_KEY, EXTRA))), 0)), \
             count(DISTINCT TABLE_SCHEMA, TABLE_NAME) FROM information_schema.COLUMNS WHERE {}",
            if places.is_empty() { "false".to_owned() } else { places.join(" OR ") }
        );
        Self { sql, tables: tables.len() }
    }

    async fn ask(&self, session: &mut MysqlSession) -> Result<String, FlowError> {
        let mut tries = 0;
        loop {
            let row = session.first("reading the target's columns", &self.sql).await?;
            let found = row.as_ref().and_then(|row| cell::<usize>(row, 1)).unwrap_or_default();
            tries += 1;
            if found >= self.tables || tries == TRIES {
                return Ok(row.as_ref().and_then(|row| cell(row, 0)).unwrap_or_default());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

// === impl Catalogue ===

impl Catalogue {
    /// To be taken before the tables are looked up.
    pub(super) async fn take(session: &mut MysqlSession, tables: &[PlanTable]) -> Result<Self, FlowError> {
        let question = Question::of(tables);
        let sum = question.ask(session).await?;
        Ok(Self { question, sum, looked: Instant::now() })
    }

    pub(crate) fn sum(&self) -> &str {
        &self.sum
    }

    /// Before a transaction begins.
    pub(super) async fn check(&mut self, session: &mut MysqlSession) -> Result<(), FlowError> {
        if self.looked.elapsed() < AGE {
            return Ok(());
        }
        self.looked = Instant::now();
        if self.question.ask(session).await? == self.sum {
            return Ok(());
        }
        Err(FlowError::Busy("a table of the target was altered: its columns are read anew".into()))
    }
}
