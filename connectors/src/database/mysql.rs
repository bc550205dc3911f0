//! MariaDB and MySQL: the URL, and sessions whose settings are pinned. One key of the file for both: the server says which it is.

use std::{fmt, time::Duration};

use mysql_async::{
    Conn, Opts, OptsBuilder, Row,
    prelude::{FromValue, Queryable as _},
};
use secrecy::{ExposeSecret, SecretString};

use super::tls;
use crate::{
    config::Tls,
    error::{FlowError, UrlError},
};

/// How long a server may take to let us in.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take over a statement. Long, since some empty a table; it is what ends a session whose other end is gone without a word.
const ANSWER: Duration = Duration::from_secs(600);

/// Settings on which the form of values depends, and what becomes of those that do not fit. What a source holds must go in as it is:
/// zero dates, impossible dates and 0 in an AUTO_INCREMENT column too; anything that would be changed on its way is an error instead.
/// The server ends a session that says nothing for a minute: who holds a lock and is gone must not hold it for long.
const PINNED: &str = "SET NAMES utf8mb4, time_zone = '+00:00', \
     sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_BACKSLASH_ESCAPES,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES', \
     autocommit = 1, wait_timeout = 60, net_read_timeout = 600, net_write_timeout = 600, \
     sql_safe_updates = 0, sql_select_limit = DEFAULT, tx_isolation = 'REPEATABLE-READ', sql_notes = 1";

/// Which of both the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavor {
    Mariadb,
    Mysql,
}

/// Where a database is, and as whom to log in.
#[derive(Clone)]
pub(crate) struct MysqlUrl {
    opts: Opts,
    host: String,
    port: u16,
    database: String,
    tls: Option<Tls>,
}

/// A connection; dropping it closes it, which rolls back whatever was open.
pub(crate) struct MysqlSession {
    pub(crate) conn: Conn,
    pub(crate) flavor: Flavor,
    /// Major, minor, patch.
    pub(crate) version: (u16, u16, u16),
}

// === impl MysqlUrl ===

impl MysqlUrl {
    /// Reads `mysql://user:password@host:port/database`. Nothing of `tls` is read yet.
    ///
    /// # Errors
    ///
    /// When it does not parse, or asks for what is not there. The error never shows the URL.
    pub(crate) fn try_new(url: &SecretString, tls: Option<&Tls>) -> Result<Self, UrlError> {
        match url.expose_secret().split_once('?') {
            Some((_, parameters)) if parameters.contains("ssl") => return Err(UrlError::Tls),
            Some(_) => return Err(UrlError::Parameters),
            None => {}
        }
        let opts = Opts::from_url(url.expose_secret()).map_err(|_| UrlError::MysqlSyntax)?;
        let host = opts.ip_or_hostname().to_owned();
        if host.is_empty() || host.contains(',') {
            return Err(UrlError::Host);
        }
        let database = opts.db_name().filter(|name| !name.is_empty()).ok_or(UrlError::NoDatabase)?.to_owned();
        let port = opts.tcp_port();
        Ok(Self { opts, host, port, database, tls: tls.cloned() })
    }

    /// Opens a session that shows itself as `application`.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses the log-in.
    pub(crate) async fn connect(&self, application: &str) -> Result<MysqlSession, FlowError> {
        let doing = "connecting";
        let opts = OptsBuilder::from_opts(self.opts.clone())
            .prefer_socket(false)
            // An UPDATE of a row that is as it should be already has found it.
            .client_found_rows(true)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            .wait_timeout(Some(28_800))
            .max_allowed_packet(Some(1 << 30))
            .stmt_cache_size(32)
            .connect_attribute("program_name", application)
            .ssl_opts(self.tls.as_ref().map(tls::mysql).transpose()?);
        let opening = async {
            let mut conn = Conn::new(opts).await?;
            let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
            Ok::<_, mysql_async::Error>((conn, version.unwrap_or_default()))
        };
        let opened = tokio::time::timeout(CONNECT, opening).await;
        let (conn, version) = opened
            .map_err(|_| FlowError::Lost { doing, kind: Some(std::io::ErrorKind::TimedOut) })?
            .map_err(|error| FlowError::mysql(doing, &error))?;
        let flavor = if version.contains("MariaDB") { Flavor::Mariadb } else { Flavor::Mysql };
        let mut session = MysqlSession { conn, flavor, version: numbers(&version) };
        let isolation = if flavor == Flavor::Mysql { "transaction_isolation" } else { "tx_isolation" };
        session.run(doing, &PINNED.replace("tx_isolation", isolation)).await?;
        Ok(session)
    }

    /// The database's name.
    #[must_use]
    pub(crate) fn database(&self) -> &str {
        &self.database
    }
}

impl fmt::Display for MysqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// `10.11.14-MariaDB-0+deb12u2` → (10, 11, 14); what is no number is 0.
fn numbers(version: &str) -> (u16, u16, u16) {
    // MariaDB before 11 calls itself 5.5.5-10.x to old replicas.
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

// === impl MysqlSession ===

impl MysqlSession {
    /// Runs one statement without an answer; how many rows it matched.
    pub(crate) async fn run(&mut self, doing: &'static str, sql: &str) -> Result<u64, FlowError> {
        in_time(doing, async { self.conn.query_drop(sql).await.map_err(|error| FlowError::mysql(doing, &error)) })
            .await?;
        Ok(self.conn.affected_rows())
    }

    /// All rows of a short answer.
    pub(crate) async fn rows(&mut self, doing: &'static str, sql: &str) -> Result<Vec<Row>, FlowError> {
        in_time(doing, async { self.conn.query(sql).await.map_err(|error| FlowError::mysql(doing, &error)) }).await
    }

    /// The first row.
    pub(crate) async fn first(&mut self, doing: &'static str, sql: &str) -> Result<Option<Row>, FlowError> {
        Ok(self.rows(doing, sql).await?.into_iter().next())
    }

    /// The first column of the first row.
    pub(crate) async fn value<T: FromValue>(&mut self, doing: &'static str, sql: &str) -> Result<Option<T>, FlowError> {
        Ok(self.first(doing, sql).await?.and_then(|row| cell(&row, 0)))
    }

    /// A user lock of the server, or [`FlowError::Busy`]. It goes with the session.
    pub(crate) async fn lock(&mut self, name: &str, part: &str) -> Result<(), FlowError> {
        let taken: Option<i64> = self.value("taking the lock", &format!("SELECT GET_LOCK({}, 0)", text(name))).await?;
        if taken == Some(1) {
            return Ok(());
        }
        Err(FlowError::Busy(format!("another process holds the {part} of this flow")))
    }

    /// The same of a lock that nobody holds for long, waiting up to `seconds` for it.
    pub(crate) async fn lock_in(&mut self, name: &str, seconds: u32) -> Result<(), FlowError> {
        let take = format!("SELECT GET_LOCK({}, {seconds})", text(name));
        match self.value::<i64>("taking the lock", &take).await? {
            Some(1) => Ok(()),
            _ => Err(FlowError::Busy(format!("another process holds the lock `{name}` of the server"))),
        }
    }

    /// Gives a lock back before the session ends.
    pub(crate) async fn unlock(&mut self, name: &str) -> Result<(), FlowError> {
        self.value::<i64>("giving the lock back", &format!("SELECT RELEASE_LOCK({})", text(name))).await.map(drop)
    }

    /// The lock must still be ours: who holds it may lose it with its session, and not know.
    pub(crate) async fn still_locked(&mut self, name: &str) -> Result<(), FlowError> {
        let mine: Option<i64> = self
            .value("looking at the lock", &format!("SELECT IS_USED_LOCK({}) = CONNECTION_ID()", text(name)))
            .await?;
        if mine == Some(1) { Ok(()) } else { Err(FlowError::Lost { doing: "looking at the lock", kind: None }) }
    }
}

/// Ends what takes longer than [`ANSWER`].
pub(crate) async fn in_time<T>(
    doing: &'static str,
    asking: impl Future<Output = Result<T, FlowError>>,
) -> Result<T, FlowError> {
    let late = FlowError::Lost { doing, kind: Some(std::io::ErrorKind::TimedOut) };
    tokio::time::timeout(ANSWER, asking).await.unwrap_or(Err(late))
}

/// A cell of a row; nothing when it is NULL or of another kind.
pub(crate) fn cell<T: FromValue>(row: &Row, at: usize) -> Option<T> {
    row.get_opt::<Option<T>, _>(at)?.ok().flatten()
}

/// `name` as an identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `database.table` as an identifier.
pub(crate) fn quote_table(name: &str) -> String {
    match name.split_once('.') {
        Some((database, table)) => format!("{}.{}", quote(database), quote(table)),
        None => quote(name),
    }
}

/// `value` as a literal, under the pinned `NO_BACKSLASH_ESCAPES`.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_and_no_debug_shows_the_password() {
        let url = |text: &str| MysqlUrl::try_new(&text.to_owned().into(), None);
        let good = url("mysql://shop:hunter2@db.example:3307/shop").unwrap();
        assert_eq!(good.to_string(), "db.example:3307/shop");
        for (bad, error) in [
            ("postgres://shop:hunter2@db.example/shop", UrlError::MysqlSyntax),
            ("mysql://shop:hunter2@db.example", UrlError::NoDatabase),
            ("mysql://shop:hunter2@a/shop?require_ssl=true", UrlError::Tls),
            ("mysql://shop:hunter2@a/shop?compression=fast", UrlError::Parameters),
        ] {
            let found = url(bad).err().unwrap();
            assert_eq!(found, error);
            assert!(!format!("{found} {found:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_version_is_three_numbers() {
        assert_eq!(numbers("10.11.14-MariaDB-0+deb12u2-log"), (10, 11, 14));
        assert_eq!(numbers("8.0.36"), (8, 0, 36));
        assert_eq!(numbers("5.5.5-10.5.23-MariaDB"), (10, 5, 23));
    }
}
