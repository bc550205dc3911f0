//! Why a flow's attempt ended, and whether trying again can mend it.
//!
//! A server's message and DETAIL may quote values of rows, so only its SQLSTATE is kept.

use rdkafka::error::KafkaError;
use thiserror::Error;

use crate::{config::Side, position::Position};

/// Why `Connectors::start` refused its configuration.
#[derive(Debug, Error)]
pub enum StartError {
    /// There are syncs, but no Kafka between their databases.
    #[error("syncs need `kafka: {{brokers: …}}`")]
    NoKafka,
    /// A database URL that cannot be used. The URL itself holds a password and is not shown.
    #[error("`syncs.{sync}.{side}` names no database that can be used", side = side.as_str())]
    Url {
        /// The sync.
        sync: String,
        /// Which of its databases.
        side: Side,
        /// What is wrong with it.
        source: UrlError,
    },
    /// The metrics could not be registered.
    #[error("metrics")]
    Metrics(#[from] prometheus::Error),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// What is wrong with a database URL.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    /// It does not parse.
    #[error("not a PostgreSQL URL such as `postgres://user:password@host:5432/database`")]
    Syntax,
    /// It does not parse.
    #[error("not a MySQL URL such as `mysql://user:password@host:3306/database`")]
    MysqlSyntax,
    /// There is no URL.
    #[error("names neither `postgres` nor `mysql`")]
    Neither,
    /// There are two URLs.
    #[error("names both `postgres` and `mysql`: one database has one kind")]
    Both,
    /// It names no host, or more than one.
    #[error("names no host, or more than one")]
    Host,
    /// It names no database.
    #[error("names no database")]
    NoDatabase,
    /// It demands TLS, which has a key of its own.
    #[error("the URL asks for TLS, which has a key of its own")]
    Tls,
    /// It names a socket of this machine, and TLS is wanted.
    #[error("leads to a socket of this machine, where no TLS is spoken: leave `tls` out")]
    Socket,
    /// It has a parameter that is not taken.
    #[error("parameters (`?…`) of a MySQL URL are not available in this version")]
    Parameters,
}

/// What a supervisor does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Lost connections and busy servers: try again, later and later.
    Retry,
    /// No retry mends it: stop, with the reason in `status`.
    Stop,
    /// A person is asked first: the task waits for them when it is started again.
    Pause,
    /// The way from the source to here has a hole that nothing closes: stop until the tables are copied anew.
    NeedsSnapshot,
}

/// Why an attempt of a flow ended.
#[derive(Debug, Error)]
pub(crate) enum FlowError {
    /// The connection to a database broke, or could not be made.
    #[error("{doing}: no connection to the database{}", why(*kind))]
    Lost {
        /// What was tried.
        doing: &'static str,
        /// Only the kind of an I/O error: texts may hold values.
        kind: Option<std::io::ErrorKind>,
    },
    /// A database refused a statement.
    #[error("{doing}: SQLSTATE {state}")]
    Sql {
        /// What was tried.
        doing: &'static str,
        /// The five characters of PostgreSQL's error code.
        state: String,
    },
    /// MariaDB or MySQL refused a statement.
    #[error("{doing}: error {code} of the server")]
    Mysql {
        /// What was tried.
        doing: &'static str,
        /// The server's number for the error.
        code: u16,
    },
    /// A row could not be applied: both sides differ.
    #[error("{table} at {position}: {what}")]
    Divergence {
        /// Target table.
        table: String,
        /// Where in the stream.
        position: String,
        /// What did not fit, with the SQLSTATE where there is one.
        what: String,
        /// Another row, or another state of the target, would have gone in: the transaction can be parked.
        of_data: bool,
    },
    /// Kafka failed.
    #[error("{doing}: {source}")]
    Kafka {
        /// What was tried.
        doing: &'static str,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// Kafka refused a message; capture starts again behind what was confirmed.
    #[error("Kafka refused the record at {position}: {source}")]
    Refused {
        /// The record's position.
        position: String,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// Somebody else holds what this task needs; it will be free later.
    #[error("waiting: {0}")]
    Busy(String),
    /// A database and we find no common TLS: waiting helps when somebody mends a file or a server.
    #[error("waiting: {0}")]
    NoTls(String),
    /// Kafka refuses to make a topic of this name.
    #[error(
        "Kafka refuses to make the topic `{0}`: there is one whose name differs in `.` and `_` alone, or a policy of the cluster forbids it"
    )]
    Unnamed(String),
    /// A message that is not as Banyan writes them.
    #[error("{what} at {at}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// A position or an offset.
        at: String,
    },
    /// No more may be parked: the flow goes on when something has gone.
    #[error("{0}")]
    Full(String),
    /// A reason that no retry mends.
    #[error("{0}")]
    Stop(String),
    /// A change of a table's columns that a person must see to; it is noted where the flow goes on from.
    #[error("{0}")]
    Paused(String),
    /// The target's tables are not as the rows are: one that is altered may take them.
    #[error("{0}")]
    Misfit(String),
    /// The tables must be copied anew. A person decides when: it is they who know what reads the target meanwhile.
    #[error(
        "{0}; to copy the tables anew, say `target: keep_matching`, run `UPDATE banyan.capture SET state = 'abandoned'` for this flow in its source, and restart"
    )]
    NeedsSnapshot(String),
}

/// A kind of I/O error in brackets, when it says something.
fn why(kind: Option<std::io::ErrorKind>) -> String {
    use std::io::ErrorKind as K;
    match kind {
        Some(
            kind @ (K::ConnectionRefused
            | K::ConnectionReset
            | K::ConnectionAborted
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::BrokenPipe
            | K::TimedOut
            | K::UnexpectedEof
            | K::NotFound
            | K::PermissionDenied),
        ) => format!(" ({kind})"),
        _ => String::new(),
    }
}

// === impl FlowError ===

impl FlowError {
    /// From a tokio-postgres error, keeping neither message nor DETAIL.
    pub(crate) fn sql(doing: &'static str, error: &tokio_postgres::Error) -> Self {
        if let Some(state) = error.code() {
            return Self::Sql { doing, state: state.code().to_owned() };
        }
        let source = std::error::Error::source(error);
        if error.to_string().starts_with("error performing TLS handshake") {
            return Self::no_tls(doing, &source.map(ToString::to_string).unwrap_or_default());
        }
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        let text = error.to_string();
        if io.is_some() || error.is_closed() || text.starts_with("error connecting") || text.starts_with("timeout") {
            return Self::Lost { doing, kind: io.map(std::io::Error::kind) };
        }
        // What is left is between the library and us: parameters and columns by number, never a value.
        Self::Stop(format!("{doing}: {text}"))
    }

    /// `what` a TLS library said; never a value.
    pub(crate) fn no_tls(doing: &'static str, what: &str) -> Self {
        Self::NoTls(format!("{doing}: there is no TLS with the database ({what}); put the database's `tls` right"))
    }

    /// From a session with MariaDB or MySQL, keeping neither message nor value.
    pub(crate) fn mysql(doing: &'static str, error: &mysql_async::Error) -> Self {
        use mysql_async::{DriverError, Error as E, IoError};
        match error {
            E::Server(error) => Self::Mysql { doing, code: error.code },
            E::Io(IoError::Tls(error)) => Self::no_tls(doing, &error.to_string()),
            // What rustls says of the other end.
            E::Io(IoError::Io(error))
                if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) =>
            {
                Self::no_tls(doing, &error.to_string())
            }
            E::Driver(DriverError::NoClientSslFlagFromServer) => Self::no_tls(doing, "the server speaks none"),
            E::Io(IoError::Io(error)) => Self::Lost { doing, kind: Some(error.kind()) },
            E::Driver(DriverError::ConnectionClosed | DriverError::PacketOutOfOrder) => {
                Self::Lost { doing, kind: None }
            }
            E::Driver(DriverError::UnknownAuthPlugin { .. }) => {
                Self::Stop(format!("{doing}: the server asks for a way to log in that this version does not have"))
            }
            E::Driver(DriverError::PacketTooLarge) => {
                Self::Stop(format!("{doing}: a statement or row is larger than `max_allowed_packet`"))
            }
            _ => Self::Stop(format!("{doing}: the server's answer is not understood")),
        }
    }

    /// From the replication session, keeping the SQLSTATE alone.
    pub(crate) fn replication(doing: &'static str, error: &pgwire_replication::PgWireError) -> Self {
        use pgwire_replication::PgWireError as E;
        match error {
            E::Server(text) | E::Auth(text) => {
                match text.rsplit_once("SQLSTATE ").and_then(|(_, tail)| tail.get(..5)) {
                    Some(state) => Self::Sql { doing, state: state.to_owned() },
                    None => Self::Stop(format!("{doing}: the server refused the log-in of the replication session")),
                }
            }
            E::Tls(what) => Self::no_tls(doing, what.trim_start_matches("TLS handshake failed: ")),
            E::Io(error) => Self::Lost { doing, kind: Some(error.kind()) },
            E::MessageTooLarge { payload_bytes, limit_bytes } => Self::Stop(format!(
                "{doing}: a change of {payload_bytes} bytes is larger than the {limit_bytes} that fit"
            )),
            _ => Self::Lost { doing, kind: None },
        }
    }

    /// Places a database's refusal at a table and a position.
    pub(crate) fn at(self, table: &str, position: Position) -> Self {
        match self {
            Self::Sql { state, .. } if verdict_of_state(&state) == Verdict::Stop => Self::Divergence {
                table: table.to_owned(),
                position: position.to_string(),
                what: format!("SQLSTATE {state}"),
                of_data: is_of_data(&state),
            },
            Self::Mysql { code, .. } if verdict_of_code(code) == Verdict::Stop => Self::Divergence {
                table: table.to_owned(),
                position: position.to_string(),
                what: format!("error {code} of the server"),
                of_data: false,
            },
            other => other,
        }
    }

    /// Why, without the word that a flow waits: for those who are no flow.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Busy(what) | Self::NoTls(what) => what.clone(),
            other => other.to_string(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Lost { .. } | Self::Kafka { .. } | Self::Refused { .. } | Self::Busy(_) | Self::NoTls(_) => {
                Verdict::Retry
            }
            Self::Sql { state, .. } => verdict_of_state(state),
            Self::Mysql { code, .. } => verdict_of_code(*code),
            Self::Divergence { .. }
            | Self::Malformed { .. }
            | Self::Full(_)
            | Self::Unnamed(_)
            | Self::Stop(_)
            | Self::Misfit(_) => Verdict::Stop,
            Self::Paused(_) => Verdict::Pause,
            Self::NeedsSnapshot(_) => Verdict::NeedsSnapshot,
        }
    }

    /// Whether another table in the target might take what was refused.
    #[must_use]
    pub(crate) fn is_of_schema(&self) -> bool {
        match self {
            Self::Misfit(_) => true,
            // No such column, no such table, no default.
            Self::Mysql { code, .. } => matches!(code, 1054 | 1146 | 1364),
            Self::Sql { state, .. } => state.starts_with("42") && state != "42501",
            Self::Divergence { what, of_data: false, .. } => {
                what.starts_with("SQLSTATE 42") && !what.ends_with("42501")
            }
            _ => false,
        }
    }

    /// Whether the row is the reason, and not the schema, a privilege, the server or the way to it.
    #[must_use]
    pub(crate) fn is_of_data(&self) -> bool {
        match self {
            Self::Divergence { of_data, .. } => *of_data,
            // A constraint that is checked at the end.
            Self::Sql { doing: COMMITTING, state } => is_of_data(state),
            _ => false,
        }
    }
}

/// What a commit calls itself.
pub(crate) const COMMITTING: &str = "committing";

/// Data exceptions, violated constraints, and what a trigger or function of the target raised.
pub(crate) fn is_of_data(state: &str) -> bool {
    // What PL/pgSQL raises about rows: RAISE, too few and too many of them, ASSERT; and a query that gives several where one may be.
    matches!(state.get(..2), Some("22" | "23")) || matches!(state, "P0001" | "P0002" | "P0003" | "P0004" | "21000")
}

/// Values that a column does not take, broken constraints, and what a trigger of the target raised; by their numbers.
pub(crate) fn is_of_row(code: u16) -> bool {
    match code {
        // NULL; a key that is there; out of range, cut, no date, no text, no label, too long, no JSON; a check.
        1048 | 1062 | 1586 | 1264 | 1265 | 1292 | 1366 | 1367 | 1406 | 1411 | 1525 | 3140 | 4025 | 3819 => true,
        // Foreign keys; SIGNAL.
        1216 | 1217 | 1451 | 1452 | 1557 | 1644 => true,
        _ => false,
    }
}

/// Classes of <https://www.postgresql.org/docs/current/errcodes-appendix.html> that pass by themselves.
fn verdict_of_state(state: &str) -> Verdict {
    let class = state.get(..2).unwrap_or(state);
    match (class, state) {
        // Connection, resources, operator intervention, system errors; serialization and deadlock; object in use, lock not available;
        // a server that is still a standby.
        ("08" | "53" | "57" | "58" | "40", _) | (_, "55006" | "55P03" | "25006") => Verdict::Retry,
        _ => Verdict::Stop,
    }
}

/// Numbers of <https://mariadb.com/kb/en/mariadb-error-code-reference/> (the same in MySQL) that pass by themselves.
fn verdict_of_code(code: u16) -> Verdict {
    match code {
        // Too many connections, out of memory or threads; shutdown; killed; lost while reading or writing; deadlock, lock wait timeout;
        // read only (a replica that is about to be promoted); a lock that is gone with its session.
        1040
        | 1041
        | 1135
        | 1203
        | 1226
        | 1053
        | 1077
        | 1079
        | 1927
        | 3169
        | 1158..=1161
        | 1213
        | 1205
        | 1317
        | 1290
        | 1792
        | 1836 => Verdict::Retry,
        _ => Verdict::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_retried_and_a_conflict_is_not() {
        for (state, verdict) in [
            ("57P01", Verdict::Retry),
            ("53300", Verdict::Retry),
            ("40P01", Verdict::Retry),
            ("55006", Verdict::Retry),
            ("23505", Verdict::Stop),
            ("42501", Verdict::Stop),
        ] {
            assert_eq!(FlowError::Sql { doing: "x", state: state.into() }.verdict(), verdict, "{state}");
        }
        for (code, verdict) in
            [(1213, Verdict::Retry), (1053, Verdict::Retry), (1062, Verdict::Stop), (1264, Verdict::Stop)]
        {
            assert_eq!(FlowError::Mysql { doing: "x", code }.verdict(), verdict, "{code}");
        }
    }

    #[test]
    fn only_what_another_row_would_mend_can_be_parked() {
        let position = "1:stream:0/1:0".parse().unwrap();
        for (state, parks) in [
            ("23505", true),
            ("23502", true),
            ("22001", true),
            ("P0001", true),
            ("P0002", true),
            ("21000", true),
            ("42703", false),
            ("42501", false),
            ("25006", false),
            ("53100", false),
            ("57P01", false),
        ] {
            let error = FlowError::Sql { doing: "applying", state: state.into() }.at("public.t", position);
            assert_eq!(error.is_of_data(), parks, "{state}");
        }
        assert!(FlowError::Sql { doing: COMMITTING, state: "23503".into() }.is_of_data());
        assert!(!FlowError::Sql { doing: "parking", state: "23503".into() }.is_of_data());
    }
}
