//! Sessions for writers and readers that must outlive their server: of either kind of database, and no panic when a connection breaks.

use mysql_async::{Conn, Opts, prelude::Queryable as _};
use tokio::task::JoinHandle;
use tokio_postgres::SimpleQueryMessage;

use super::{Half, secs};

/// Where to write, as the server's administrator.
pub(crate) enum Pen {
    Mariadb(String),
    Postgres(String),
}

/// A session.
pub(crate) enum Line {
    Mariadb(Box<Conn>),
    Postgres(tokio_postgres::Client, JoinHandle<()>),
}

// === impl Pen ===

impl Pen {
    pub(crate) fn of(half: &Half) -> Self {
        match half {
            Half::Mariadb(schema) => Self::Mariadb(schema.url("root", "")),
            Half::Postgres(database) => Self::Postgres(database.url("postgres", "none")),
        }
    }

    pub(crate) fn is_mariadb(&self) -> bool {
        matches!(self, Self::Mariadb(_))
    }

    /// Nothing when the server does not answer.
    pub(crate) async fn open(&self) -> Option<Line> {
        match self {
            Self::Mariadb(url) => {
                let opening = Conn::new(Opts::from_url(url).unwrap());
                let conn = tokio::time::timeout(secs(5), opening).await.ok()?.ok()?;
                Some(Line::Mariadb(Box::new(conn)))
            }
            Self::Postgres(url) => {
                let opening = tokio_postgres::connect(url, tokio_postgres::NoTls);
                let (client, connection) = tokio::time::timeout(secs(5), opening).await.ok()?.ok()?;
                let driver = tokio::spawn(async move { drop(connection.await) });
                Some(Line::Postgres(client, driver))
            }
        }
    }
}

// === impl Line ===

impl Line {
    /// Whether it was done; `None` when the connection is gone.
    pub(crate) async fn run(&mut self, sql: &str) -> Option<bool> {
        match self {
            Self::Mariadb(conn) => match conn.query_drop(sql).await {
                Ok(()) => Some(true),
                Err(mysql_async::Error::Server(error)) if error.code != 1053 && error.code != 1927 => Some(false),
                Err(_) => None,
            },
            Self::Postgres(client, _) => match client.batch_execute(sql).await {
                Ok(()) => Some(true),
                Err(error) if error.code().is_some() && !client.is_closed() => Some(false),
                Err(_) => None,
            },
        }
    }

    /// The first column of every row, without NULLs; `None` when it is not answered.
    pub(crate) async fn lines(&mut self, sql: &str) -> Option<Vec<String>> {
        match self {
            Self::Mariadb(conn) => {
                let rows: Vec<Option<String>> = conn.query(sql).await.ok()?;
                Some(rows.into_iter().flatten().collect())
            }
            Self::Postgres(client, _) => {
                let rows = client.simple_query(sql).await.ok()?;
                let first = |message: &SimpleQueryMessage| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                };
                Some(rows.iter().filter_map(first).collect())
            }
        }
    }

    /// The first column of the first row as a number; `None` when there is none, or it is not answered.
    pub(crate) async fn number(&mut self, sql: &str) -> Option<i64> {
        match self {
            Self::Mariadb(conn) => conn.query_first::<Option<i64>, _>(sql).await.ok()?.flatten(),
            Self::Postgres(..) => self.lines(sql).await?.first()?.parse().ok(),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Self::Postgres(_, driver) = self {
            driver.abort();
        }
    }
}
