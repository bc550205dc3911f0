//! TLS to the databases.

use std::{fs, os::unix::fs::chown, path::PathBuf};

use banyan_connectors::{
    State,
    preflight::{self, Check},
};
use serde_json::{Value, json};

use crate::{
    data_basic::Running,
    harness::{Authority, Half, MariaDb, Postgres, Twin, eventually, secs, watchdog},
};

const POSTGRES: &str = "CREATE TABLE items (id bigint PRIMARY KEY, word text)";
const MARIADB: &str = "CREATE TABLE items (id bigint PRIMARY KEY, word text)";
/// The uid and gid of `nobody`, under which the servers run when the tests run as root.
const NOBODY: u32 = 65_534;

/// An authority and what it has signed, where the servers can read it.
struct Files(PathBuf);

impl Files {
    /// Certificates for the server, of this host, and for Banyan.
    fn new(host: &str) -> Self {
        let folder = watchdog::folder("authority");
        let authority = Authority::new(&folder);
        authority.signs("server", host);
        authority.signs("banyan", "banyan");
        let open = "host all postgres 127.0.0.1/32 trust\nhost replication postgres 127.0.0.1/32 trust\n";
        let closed = "hostssl all banyan 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\nhostnossl all banyan 127.0.0.1/32 reject\n";
        fs::write(folder.join("hba.conf"), format!("{open}{closed}")).unwrap();
        // PostgreSQL takes no key that others may read.
        let mode = std::process::Command::new("chmod").arg("600").arg(folder.join("server.key")).status();
        assert!(mode.unwrap().success());
        if watchdog::is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
            for file in fs::read_dir(&folder).unwrap() {
                chown(file.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A server that lets Banyan in with a certificate alone.
    fn postgres(&self) -> Postgres {
        let [ca, cert, key, hba] = ["ca.pem", "server.pem", "server.key", "hba.conf"].map(|name| self.path(name));
        Postgres::with_settings(&format!(
            "ssl = on\nssl_ca_file = '{ca}'\nssl_cert_file = '{cert}'\nssl_key_file = '{key}'\nhba_file = '{hba}'\n"
        ))
    }

    fn mariadb(&self) -> MariaDb {
        let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| self.path(name));
        MariaDb::with_settings(&[&format!("--ssl-ca={ca}"), &format!("--ssl-cert={cert}"), &format!("--ssl-key={key}")])
    }

    /// The key `tls` that shows Banyan's certificate.
    fn tls(&self) -> Value {
        let [ca, cert, key] = ["ca.pem", "banyan.pem", "banyan.key"].map(|name| self.path(name));
        json!({"ca": ca, "client_cert": cert, "client_key": key})
    }
}

fn start(twin: &Twin, sides: [&Value; 2]) -> Running {
    Running::sync(&twin.install, json!({"brokers": twin.brokers}), sync(twin, sides), &json!({}))
}

fn sync(twin: &Twin, [legacy, modern]: [&Value; 2]) -> Value {
    let mut sync = twin.sync("legacy");
    sync["legacy"]["tls"] = legacy.clone();
    sync["modern"]["tls"] = modern.clone();
    sync
}

async fn until_equal(twin: &Twin, rows: usize) {
    eventually(secs(30), "both sides are equal", async || twin.equal().await).await;
    assert_eq!(twin.legacy.lines("SELECT id FROM items").await.len(), rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_let_nobody_in_without_tls_and_a_certificate_are_kept_in_step() {
    let (named, numbered) = (Files::new("localhost"), Files::new("127.0.0.1"));
    let (postgres, mariadb) = (numbered.postgres(), named.mariadb());
    let (legacy, modern) = (Half::postgres(&postgres, POSTGRES).await, Half::mariadb(&mariadb, MARIADB).await);
    modern.batch("ALTER USER banyan@'%' REQUIRE X509").await;
    let mut twin = Twin::new(legacy, modern, &[("items", "id, word", "id, word")]);
    twin.modern_url = twin.modern_url.replace("127.0.0.1", "localhost");
    twin.legacy.batch("INSERT INTO items VALUES (1, 'copied')").await;
    // The file of an authority comes late.
    let late = named.path("late.pem");
    let mut tls = named.tls();
    tls["ca"] = json!(late);
    let running = start(&twin, [&numbered.tls(), &tls]);
    eventually(secs(30), "the flow says which file it waits for", async || {
        let told = running.status().flows[0].last_error.clone().unwrap_or_default();
        if told.contains("`tls.ca`") && told.contains("late.pem") { Ok(()) } else { Err(told) }
    })
    .await;
    fs::copy(named.path("ca.pem"), late).unwrap();
    running.until([State::Applying, State::Watching]).await;
    twin.legacy.batch("INSERT INTO items VALUES (2, 'streamed')").await;
    until_equal(&twin, 2).await;
    // A violation shows that the other log is read, too.
    twin.modern.batch("INSERT INTO items VALUES (3, 'behind the back')").await;
    eventually(secs(30), "the violation is seen", async || running.status().flows[1].violations == 1).await;
    let Half::Postgres(database) = &twin.legacy else { panic!("it is PostgreSQL") };
    let sessions = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'banyan'";
    assert_eq!(database.number(&format!("{sessions} AND NOT ssl")).await, 0);
    assert_eq!(database.number(&format!("{sessions} AND backend_type = 'walsender'")).await, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_the_one_that_was_meant_is_told_apart_before_any_word_is_said_to_it() {
    let (files, other) = (Files::new("localhost"), Files::new("localhost"));
    let (postgres, mariadb) = (files.postgres(), files.mariadb());
    let twin = async |postgres: &Postgres, mariadb: &MariaDb| {
        let (legacy, modern) = (Half::postgres(postgres, POSTGRES).await, Half::mariadb(mariadb, MARIADB).await);
        Twin::new(legacy, modern, &[("items", "id, word", "id, word")])
    };
    let plain = twin(Postgres::shared_legacy(), MariaDb::shared()).await;
    let secured = twin(&postgres, &mariadb).await;
    let mut named = twin(&postgres, &mariadb).await;
    for url in [&mut named.legacy_url, &mut named.modern_url] {
        *url = url.replace("127.0.0.1", "localhost");
    }
    let mut no_key = files.tls();
    no_key["client_key"] = json!(files.path("banyan.pem"));
    let mut no_authority = files.tls();
    no_authority["ca"] = json!(files.path("banyan.key"));
    let cases = [
        (&named, other.tls(), ["invalid peer certificate", "invalid peer certificate"]),
        // Its certificate is for `localhost`.
        (&secured, files.tls(), ["not valid for name", "not valid for name"]),
        (&plain, files.tls(), ["server does not support TLS", "the server speaks none"]),
        (&named, no_key, ["`tls.client_key`", ""]),
        (&named, no_authority, ["`tls.ca`", "it holds no certificate"]),
        // The system's authorities have signed neither.
        (&named, json!({}), ["UnknownIssuer", "UnknownIssuer"]),
    ];
    for (twin, tls, words) in cases {
        let config =
            Running::config(&twin.install, json!({"brokers": twin.brokers}), sync(twin, [&tls, &tls]), &json!({}));
        let findings = preflight::check(&config).await;
        let found: Vec<_> = findings.iter().filter(|finding| finding.check == Check::Connect).collect();
        assert_eq!(found.len(), 2, "{findings:#?}");
        for ((finding, word), side) in found.iter().zip(words).zip(["legacy", "modern"]) {
            let says = finding.what.contains(word) && finding.fix == format!("put `syncs.shop.{side}.tls` right");
            assert!(says || word.is_empty(), "{word}: {finding:?}");
        }
    }
    // Who speaks in the clear where that is not allowed is refused by the server.
    let config = Running::config(&named.install, json!({"brokers": named.brokers}), named.sync("legacy"), &json!({}));
    let findings = preflight::check(&config).await;
    let refused = findings.iter().find(|finding| finding.check == Check::Connect).unwrap();
    assert!(refused.what.contains("28000") && refused.fix.contains("`tls`"), "{refused:?}");
}
