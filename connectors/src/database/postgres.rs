//! PostgreSQL: the URL, and sessions whose settings are pinned.

use std::{fmt, ops::Deref, ops::DerefMut, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tokio::task::JoinHandle;
use tokio_postgres::{
    Client, Config, NoTls,
    config::{Host, SslMode},
};

use super::tls;
use crate::{
    config::Tls,
    error::{FlowError, UrlError},
};

/// Settings on which the text form of values depends, the same for the session that reads and the one that writes; and no time limits
/// that a role's defaults may have set. A client that is gone is noticed by the server too, for what it held.
pub(crate) const PINNED: &str = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 \
     -c bytea_output=hex -c lc_monetary=C -c search_path= -c statement_timeout=0 -c lock_timeout=0 \
     -c idle_in_transaction_session_timeout=0 -c row_security=off \
     -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=3 -c tcp_keepalives_count=3 -c tcp_user_timeout=20000";

/// Where a database is, and how to log in.
#[derive(Clone)]
pub(crate) struct PostgresUrl {
    config: Config,
    host: String,
    port: u16,
    user: String,
    password: SecretString,
    database: String,
    tls: Option<Tls>,
}

/// A connection and the task that drives it; dropping it closes the connection at once, which rolls back whatever was open.
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

// === impl PostgresUrl ===

impl PostgresUrl {
    /// Reads `postgres://user:password@host:port/database`. Nothing of `tls` is read yet.
    ///
    /// # Errors
    ///
    /// When it does not parse, or asks for what is not there. The error never shows the URL.
    pub(crate) fn try_new(url: &SecretString, tls: Option<&Tls>) -> Result<Self, UrlError> {
        let mut config = Config::from_str(url.expose_secret()).map_err(|_| UrlError::Syntax)?;
        if matches!(config.get_ssl_mode(), SslMode::Require) && tls.is_none() {
            return Err(UrlError::Tls);
        }
        let host = match config.get_hosts() {
            [Host::Tcp(host)] => host.clone(),
            [Host::Unix(_)] if tls.is_some() => return Err(UrlError::Socket),
            [Host::Unix(path)] => path.to_str().ok_or(UrlError::Syntax)?.to_owned(),
            _ => return Err(UrlError::Host),
        };
        let user = config.get_user().unwrap_or("postgres").to_owned();
        config.user(&user);
        let database = config.get_dbname().ok_or(UrlError::NoDatabase)?.to_owned();
        let password = config.get_password().map(|p| String::from_utf8_lossy(p).into_owned()).unwrap_or_default();
        let port = config.get_ports().first().copied().unwrap_or(5432);
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .connect_timeout(Duration::from_secs(5))
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(20));
        Ok(Self { config, host, port, user, password: password.into(), database, tls: tls.cloned() })
    }

    /// Opens a session that shows itself as `application`.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses the log-in.
    pub(crate) async fn connect(&self, application: &str) -> Result<Session, FlowError> {
        let mut config = self.config.clone();
        let options = match config.get_options() {
            Some(own) => format!("{own} {PINNED}"),
            None => PINNED.to_owned(),
        };
        config.options(options).application_name(application);
        let failed = |error: tokio_postgres::Error| FlowError::sql("connecting", &error);
        // The driver ends with the session that owns it.
        let (client, driver) = match &self.tls {
            Some(tls) => {
                let (client, connection) = config.connect(tls::postgres(tls)?).await.map_err(failed)?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
            None => {
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
        };
        Ok(Session { client, driver })
    }

    /// The same place for the replication protocol.
    pub(crate) fn replication(
        &self,
        slot: &str,
        publication: &str,
        application: &str,
    ) -> pgwire_replication::ReplicationConfig {
        let in_the_clear = pgwire_replication::TlsConfig::disabled;
        let tls = self.tls.as_ref().map_or_else(in_the_clear, |tls| tls::replication(tls, &self.host));
        pgwire_replication::ReplicationConfig::new(
            self.host.as_str(),
            self.user.as_str(),
            self.password.expose_secret(),
            self.database.as_str(),
            slot,
            publication,
        )
        .with_port(self.port)
        .with_tls(tls)
        .with_options(PINNED)
        .with_application_name(application)
    }

    /// The database's name.
    #[must_use]
    pub(crate) fn database(&self) -> &str {
        &self.database
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

// === impl Session ===

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_and_no_debug_shows_the_password() {
        let url = |text: &str| PostgresUrl::try_new(&text.to_owned().into(), None);
        let good = url("postgres://shop:hunter2@db.example:6432/shop").unwrap();
        assert_eq!(format!("{good:?} {good}"), "db.example:6432/shop db.example:6432/shop");
        for (bad, error) in [
            ("postgres://shop:hunter2@db.example:port/shop", UrlError::Syntax),
            ("postgres://shop:hunter2@db.example", UrlError::NoDatabase),
            ("postgres://shop:hunter2@a,b/shop", UrlError::Host),
            ("postgres://shop:hunter2@a/shop?sslmode=require", UrlError::Tls),
        ] {
            let found = url(bad).unwrap_err();
            assert_eq!(found, error);
            assert!(!format!("{found} {found:?}").contains("hunter2"));
        }
    }
}
