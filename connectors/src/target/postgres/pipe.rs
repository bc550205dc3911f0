//! Statements sent one behind the other without waiting for each answer; the answers are checked in order, at the latest before COMMIT.

use std::{pin::Pin, rc::Rc};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesOrdered};
use tokio_postgres::{Statement, types::ToSql};

use crate::{database::postgres::Session, error::FlowError};

/// So many statements, and so many bytes of parameters, may be on their way.
const DEPTH: usize = 128;
const BYTES: usize = 2 << 20;

/// Gives back the statement's weight.
type Answer = Pin<Box<dyn Future<Output = Result<usize, FlowError>>>>;

/// A session whose statements are pipelined.
pub(crate) struct Pipe {
    session: Rc<Session>,
    answers: FuturesOrdered<Answer>,
    bytes: usize,
}

// === impl Pipe ===

impl Pipe {
    pub(crate) fn new(session: Session) -> Self {
        Self { session: Rc::new(session), answers: FuturesOrdered::new(), bytes: 0 }
    }

    /// For statements whose answer is awaited at once. Drain first.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Sends a prepared statement; `check` judges the number of rows it touched. `weight` is the size of its parameters.
    pub(crate) async fn execute<P: ToSql + 'static>(
        &mut self,
        statement: Statement,
        parameters: Vec<P>,
        weight: usize,
        check: impl FnOnce(Result<u64, tokio_postgres::Error>) -> Result<(), FlowError> + 'static,
    ) -> Result<(), FlowError> {
        let session = Rc::clone(&self.session);
        let answer = async move {
            check(session.execute_raw(&statement, parameters.iter().map(as_sql)).await)?;
            Ok(weight)
        };
        self.push(Box::pin(answer), weight).await
    }

    /// Sends a text of one or more statements.
    pub(crate) async fn simple(&mut self, doing: &'static str, sql: String) -> Result<(), FlowError> {
        let session = Rc::clone(&self.session);
        let answer = async move {
            session.batch_execute(&sql).await.map_err(|error| FlowError::sql(doing, &error))?;
            Ok(0)
        };
        self.push(Box::pin(answer), 0).await
    }

    /// A future is sent when it is first polled.
    async fn push(&mut self, answer: Answer, weight: usize) -> Result<(), FlowError> {
        self.answers.push_back(answer);
        self.bytes += weight;
        while let Some(Some(answer)) = self.answers.next().now_or_never() {
            self.bytes -= answer?;
        }
        while self.answers.len() >= DEPTH || self.bytes > BYTES {
            let Some(answer) = self.answers.next().await else { break };
            self.bytes -= answer?;
        }
        Ok(())
    }

    /// Waits for all answers; gives the first error.
    pub(crate) async fn drain(&mut self) -> Result<(), FlowError> {
        while let Some(answer) = self.answers.next().await {
            self.bytes -= answer?;
        }
        Ok(())
    }

    /// Waits for all answers, whatever they are: the transaction is rolled back anyway.
    pub(crate) async fn discard(&mut self) {
        while self.answers.next().await.is_some() {}
        self.bytes = 0;
    }

    /// Prepares a statement. When it fails because an earlier one did, the earlier error is given.
    pub(crate) async fn prepare(&mut self, doing: &'static str, sql: &str) -> Result<Statement, FlowError> {
        match self.session.prepare(sql).await {
            Ok(statement) => Ok(statement),
            Err(error) => {
                self.drain().await?;
                Err(FlowError::sql(doing, &error))
            }
        }
    }
}

fn as_sql<P: ToSql>(parameter: &P) -> &dyn ToSql {
    parameter
}
