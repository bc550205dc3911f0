//! A PostgreSQL server of the demo's own: its data in a temporary folder, its port from the system, its password made up.

use std::{fs, os::unix::fs::chown, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio_postgres::{Client, NoTls};

use super::programs::Programs;
use crate::demo::{Venue, folder, part::Part, ports};

/// A server that answers.
pub(crate) struct Server {
    part: Part,
    port: u16,
    password: String,
}

/// A data directory, ready for a server. Removed if none ever starts there.
pub(crate) struct Prepared {
    folder: Option<PathBuf>,
    password: String,
}

/// The role that owns the shop's databases.
const SHOP: &str = "shop";
/// The role that Banyan comes as; a superuser, as it may be on a machine of one's own.
const BANYAN: &str = "banyan";

// === impl Prepared ===

impl Prepared {
    /// initdb into a new temporary folder. Takes about a second; several may run at once.
    pub(crate) fn new(programs: &Programs) -> anyhow::Result<Self> {
        let mut random = [0; 12];
        getrandom::fill(&mut random)?;
        let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let prepared = Self { folder: Some(folder::temporary()?), password };
        let Some(folder) = &prepared.folder else { unreachable!("set one line above") };
        let (data, words) = (folder.join("data"), folder.join("password"));
        fs::write(&words, &prepared.password)?;
        if let Some(run_as) = programs.run_as {
            for path in [folder, &words] {
                chown(path, Some(run_as.uid), Some(run_as.gid))?;
            }
        }
        let words = format!("--pwfile={}", words.display());
        let data = data.display().to_string();
        let arguments = ["-D", &data, "-U", "postgres", "--auth=scram-sha-256", &words];
        programs.run("initdb", &[&arguments[..], &["--encoding=UTF8", "--locale=C", "--no-sync"]].concat())?;
        Ok(prepared)
    }

    /// Starts the server and makes `databases` in it.
    pub(crate) fn start(
        mut self,
        name: &'static str,
        programs: &Programs,
        databases: &[&str],
        venue: &Venue<'_>,
    ) -> anyhow::Result<Server> {
        let port = ports::any()?;
        let folder = self.folder.take().context("a data directory serves one server")?;
        let (data, port_setting) = (folder.join("data").display().to_string(), format!("port={port}"));
        let ended_by = [&*programs.path("pg_ctl"), "-D", &data, "-m", "immediate", "stop"].join("\n");
        let (postgres, run_as) = (programs.path("postgres"), programs.run_as.map(|user| user.to_string()));
        let folder = folder.display().to_string();
        let mut role = vec!["keeper", "--remove", &folder, "--ended-by", &ended_by];
        if let Some(run_as) = &run_as {
            role.extend(["--run-as", run_as]);
        }
        role.extend(["--", &postgres, "-D", &data, "-c", &port_setting]);
        // Nothing here outlives the demo, so nothing need survive a power cut.
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "wal_level=logical",
            "max_connections=60",
            "max_replication_slots=16",
            "max_wal_senders=16",
            "shared_buffers=32MB",
            "fsync=off",
        ] {
            role.extend(["-c", setting]);
        }
        let mut part = Part::start(name, venue.folder.path(), &role, &[])?;
        let password = std::mem::take(&mut self.password);
        let admin = url("postgres", &password, port, "postgres");
        let client = venue.screen.until(&format!("{name} to start"), Duration::from_secs(30), || {
            part.must_live()?;
            Ok(Some(venue.runtime.block_on(connect(&admin))?))
        })?;
        let server = Server { part, port, password };
        venue.runtime.block_on(server.furnish(&client, databases)).with_context(|| format!("cannot furnish {name}"))?;
        Ok(server)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

// === impl Server ===

impl Server {
    /// The URL of one of its databases, for the shop.
    pub(crate) fn for_shop(&self, database: &str) -> String {
        url(SHOP, &self.password, self.port, database)
    }

    /// The URL of one of its databases, for Banyan.
    pub(crate) fn for_banyan(&self, database: &str) -> String {
        url(BANYAN, &self.password, self.port, database)
    }

    /// It ends by itself from now on.
    pub(crate) fn let_go(&mut self) {
        self.part.let_go();
    }

    async fn furnish(&self, client: &Client, databases: &[&str]) -> Result<(), tokio_postgres::Error> {
        let password = &self.password;
        client.batch_execute(&format!("CREATE ROLE {SHOP} LOGIN PASSWORD '{password}'")).await?;
        client.batch_execute(&format!("CREATE ROLE {BANYAN} SUPERUSER LOGIN PASSWORD '{password}'")).await?;
        for database in databases {
            client.batch_execute(&format!("CREATE DATABASE {database} OWNER {SHOP}")).await?;
        }
        Ok(())
    }
}

/// A connection whose other half is driven by the runtime.
pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

fn url(role: &str, password: &str, port: u16, database: &str) -> String {
    format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}")
}
