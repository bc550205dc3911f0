//! Statements sent together and judged one by one: one way to the server and back for many.
//!
//! The server runs them in order and stops at the first that fails. A warning counts as a failure where rows are written: it is how this
//! server says that it has cut, rounded or replaced a value.

use mysql_async::prelude::Queryable as _;

use crate::{
    database::mysql::{MysqlSession, in_time},
    error::FlowError,
    position::Position,
};

/// A batch is sent when its text is so long.
const BYTES: usize = 1 << 20;
/// And when it has so many statements.
const STATEMENTS: usize = 2_000;

/// What must come of a statement.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Nothing in particular.
    Anything { doing: &'static str },
    /// Exactly one row: the position row is still ours.
    Held,
    /// So many rows, all of which are in the target.
    Rows { table: String, rows: u64, first: Position, last: Position },
    /// Rows that may be there already.
    Written { table: String, first: Position },
}

/// Statements that were not sent yet.
#[derive(Default)]
pub(crate) struct Batch {
    sql: Vec<u8>,
    wanted: Vec<Wanted>,
}

// === impl Batch ===

impl Batch {
    /// Adds a statement; `write` appends its text.
    pub(crate) fn push(&mut self, wanted: Wanted, statement: &[u8]) {
        if !self.sql.is_empty() {
            self.sql.push(b';');
        }
        self.sql.extend_from_slice(statement);
        self.wanted.push(wanted);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.sql.len() >= BYTES || self.wanted.len() >= STATEMENTS
    }

    pub(crate) fn clear(&mut self) {
        self.sql.clear();
        self.wanted.clear();
    }

    /// Sends all of it, and judges every answer.
    pub(crate) async fn send(&mut self, session: &mut MysqlSession) -> Result<(), FlowError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let sql = std::mem::take(&mut self.sql);
        let outcome = in_time("applying", Self::judge(&sql, &self.wanted, session)).await;
        self.sql = sql;
        self.clear();
        outcome
    }

    async fn judge(sql: &[u8], wanted: &[Wanted], session: &mut MysqlSession) -> Result<(), FlowError> {
        let mut all = wanted.iter();
        let Some(mut at) = all.next() else { return Ok(()) };
        let mut answers = match session.conn.query_iter(sql).await {
            Ok(answers) => answers,
            Err(error) => return Err(at.failed(&error)),
        };
        let mut earlier = Ok(());
        let mut latest = at.judge(answers.affected_rows(), answers.warnings());
        // Whatever was found wrong, all answers are read: the session goes on with ROLLBACK. The library tells of a statement's failure when
        // the next answer is asked for, so an error is always the latest statement's.
        for next in all {
            if let Err(error) = answers.next().await {
                return earlier.and(Err(at.failed(&error)));
            }
            earlier = earlier.and(latest);
            at = next;
            latest = at.judge(answers.affected_rows(), answers.warnings());
        }
        match answers.drop_result().await {
            Ok(()) => earlier.and(latest),
            Err(error) => earlier.and(Err(at.failed(&error))),
        }
    }
}

// === impl Wanted ===

impl Wanted {
    fn failed(&self, error: &mysql_async::Error) -> FlowError {
        match self {
            Self::Anything { doing } => FlowError::mysql(doing, error),
            Self::Held => FlowError::mysql("moving the position row", error),
            Self::Rows { table, first, .. } | Self::Written { table, first } => {
                FlowError::mysql("applying", error).at(table, *first)
            }
        }
    }

    fn judge(&self, found: u64, warnings: u16) -> Result<(), FlowError> {
        match self {
            Self::Anything { .. } => Ok(()),
            Self::Held if found == 1 => Ok(()),
            Self::Held => Err(FlowError::Busy("another applier has moved the position row".into())),
            Self::Rows { table, first, .. } | Self::Written { table, first } if warnings > 0 => {
                Err(FlowError::Divergence {
                    of_data: false,
                    table: table.clone(),
                    position: first.to_string(),
                    what: "a value does not fit its column: the server would have changed it".into(),
                })
            }
            Self::Rows { rows, .. } if found == *rows => Ok(()),
            Self::Rows { table, rows, first, last } => Err(FlowError::Divergence {
                of_data: false,
                table: table.clone(),
                position: if *rows == 1 { first.to_string() } else { format!("{first} to {last}") },
                what: format!(
                    "{} of {rows} changed rows are not in the target: both sides differ",
                    rows - found.min(*rows)
                ),
            }),
            Self::Written { .. } => Ok(()),
        }
    }
}
