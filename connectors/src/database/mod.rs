//! A sync's databases: the URL without its password in sight, and sessions whose settings are pinned, one file a kind.

pub(crate) mod catalogue;
pub(crate) mod mysql;
pub(crate) mod postgres;
mod tls;

use std::fmt;

use crate::{config::Database, error::UrlError};

/// Where a database is, and as whom to log in.
#[derive(Clone)]
pub(crate) enum DatabaseUrl {
    Postgres(Box<postgres::PostgresUrl>),
    Mysql(mysql::MysqlUrl),
}

// === impl DatabaseUrl ===

impl DatabaseUrl {
    /// Reads what the file says of one side.
    ///
    /// # Errors
    ///
    /// When it names no database or two, or the URL cannot be used. The error never shows the URL.
    pub(crate) fn of(database: &Database) -> Result<Self, UrlError> {
        match (&database.postgres, &database.mysql) {
            (Some(url), None) => {
                postgres::PostgresUrl::try_new(url, database.tls.as_ref()).map(|url| Self::Postgres(Box::new(url)))
            }
            (None, Some(url)) => mysql::MysqlUrl::try_new(url, database.tls.as_ref()).map(Self::Mysql),
            (None, None) => Err(UrlError::Neither),
            (Some(_), Some(_)) => Err(UrlError::Both),
        }
    }

    /// The database's name.
    #[must_use]
    pub(crate) fn database(&self) -> &str {
        match self {
            Self::Postgres(url) => url.database(),
            Self::Mysql(url) => url.database(),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => url.fmt(f),
            Self::Mysql(url) => url.fmt(f),
        }
    }
}
