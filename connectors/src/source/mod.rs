//! Where changes come from, and what the other tasks of a flow ask of it.

pub(crate) mod mysql;
pub(crate) mod postgres;

use std::time::SystemTime;

use crate::{
    database::{DatabaseUrl, catalogue::describe, mysql::MysqlSession, postgres::Session},
    error::FlowError,
    names::FlowNames,
    plan::Plan,
    position::{Generation, Lsn},
};

/// A session on a flow's source for questions about its capture.
pub(crate) enum SourceLink {
    Postgres(Session),
    Mysql(Box<MysqlSession>),
}

/// What the source remembers of a flow's capture.
pub(crate) struct Remembered {
    pub(crate) generation: Generation,
    pub(crate) nonce: String,
    /// Whether the copy of the tables is complete.
    pub(crate) streaming: bool,
    /// Up to where everything stands in Kafka.
    pub(crate) confirmed: Option<Lsn>,
    /// Where the source's log ends; nothing on a standby.
    pub(crate) end: Option<Lsn>,
}

/// How far the source is.
pub(crate) struct Measured {
    pub(crate) end: Lsn,
    /// By the source's clock.
    pub(crate) now: SystemTime,
    /// Log that it keeps for the flow; nothing where it keeps none for anybody.
    pub(crate) retained: Option<u64>,
    /// Why nothing is kept for the flow any more, until a person has the tables copied anew.
    pub(crate) given_up: Option<String>,
}

// === impl SourceLink ===

impl SourceLink {
    /// Opens a session that shows itself as `part` of the flow.
    pub(crate) async fn connect(plan: &Plan, part: &str) -> Result<Self, FlowError> {
        let application = plan.names.application(part);
        Ok(match &plan.source {
            DatabaseUrl::Postgres(url) => Self::Postgres(url.connect(&application).await?),
            DatabaseUrl::Mysql(url) => Self::Mysql(Box::new(url.connect(&application).await?)),
        })
    }

    /// Whether the server has ended the session.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Postgres(session) => session.is_closed(),
            // Found out by the next question.
            Self::Mysql(_) => false,
        }
    }

    /// Nothing when no capture of the flow was ever begun there.
    pub(crate) async fn ask(&mut self, names: &FlowNames) -> Result<Option<Remembered>, FlowError> {
        match self {
            Self::Postgres(session) => postgres::slot::remembered(session, names).await,
            Self::Mysql(session) => mysql::stored::remembered(session, names).await,
        }
    }

    /// The columns by which a table's rows are told apart in the log; none where nothing tells.
    pub(crate) async fn key(&mut self, table: &str) -> Result<Vec<String>, FlowError> {
        match self {
            Self::Postgres(session) => postgres::key::of(session, table).await,
            Self::Mysql(session) => {
                let columns = describe(session, table).await?;
                Ok(columns.into_iter().filter(|column| column.is_key).map(|column| column.name).collect())
            }
        }
    }

    /// Where the log ends now. Gives the flow's slot up when its server keeps more log for it than the file allows.
    pub(crate) async fn measure(&mut self, plan: &Plan) -> Result<Measured, FlowError> {
        match self {
            Self::Postgres(session) => postgres::retained::measure(session, plan).await,
            Self::Mysql(session) => mysql::stored::measure(session).await,
        }
    }
}
