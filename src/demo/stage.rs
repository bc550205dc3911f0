//! Everything that the story needs, started in order, and taken down in order.

use std::{env, fs, path::Path};

use ureq::Agent;

use super::{
    Options, Venue,
    admin::Admin,
    file::RoutesFile,
    kafka::Kafka,
    part::Part,
    ports::Ports,
    postgres::{self, Servers},
    services::{Services, answers},
    shop,
    traffic::Traffic,
};

/// The shop, Banyan before it, and what is between the databases. Fields are dropped from top to bottom: first who asks, last who is asked.
pub(crate) struct Stage {
    pub(crate) traffic: Traffic,
    pub(crate) banyan: Part,
    pub(crate) services: Services,
    _servers: Servers,
    kafka: Kafka,
    pub(crate) databases: Databases,
    pub(crate) file: RoutesFile,
    pub(crate) agent: Agent,
    pub(crate) admin: Admin,
    /// Where customers go: `http://127.0.0.1:8080`.
    pub(crate) base: String,
}

/// The databases as the shop's own role reaches them, for looking.
pub(crate) struct Databases {
    pub(crate) legacy: tokio_postgres::Client,
    pub(crate) payments: tokio_postgres::Client,
}

// === impl Stage ===

impl Stage {
    pub(crate) fn set(options: &Options, venue: &Venue<'_>) -> anyhow::Result<Self> {
        let &Venue { screen, runtime, folder, stop } = venue;
        let mut ports = Ports::default();
        let servers = Servers::start(venue, &mut ports, options.fetch)?;
        let install = install(options)?;
        let kafka = Kafka::start(options.kafka.as_deref(), &install, &["payments", "accounts"])?;
        screen.say(&format!("  Kafka             {}", kafka.describe()));
        let agent = shop::agent();
        let services = Services::start(venue, &mut ports, &servers, &secret()?, &agent)?;

        let (bind, admin_bind) = (ports.next_free(8080)?.to_string(), ports.next_free(9901)?.to_string());
        let (base, admin) = (format!("http://{bind}"), Admin::new(&agent, &format!("http://{admin_bind}")));
        let values = [
            ("BANYAN_BIND", bind),
            ("BANYAN_ADMIN", admin_bind),
            ("BANYAN_STATE", folder.file("state").display().to_string()),
            ("BANYAN_INSTALL", install),
            ("LEGACY_APP", services.legacy.base()),
            ("PAYMENTS_SERVICE", services.payments.base()),
            ("ACCOUNTS_SERVICE", services.accounts.base()),
            ("KAFKA_BROKERS", kafka.brokers()),
            ("LEGACY_DB_URL", servers.legacy.for_banyan("legacy")),
            ("PAYMENTS_DB_URL", servers.modern.for_banyan("payments")),
            ("ACCOUNTS_DB_URL", servers.modern.for_banyan("accounts")),
        ];
        let file = RoutesFile::write(folder.file("routes.yaml"), &values)?;
        let (program, path) = (env::current_exe()?.display().to_string(), file.path().display().to_string());
        let mut banyan = Part::start("banyan", folder.path(), &["keeper", "--", &program, "run", "-c", &path], &[])?;
        screen.say(&format!("  banyan            {base:<23} routes.yaml: {}", shown(file.path())));
        answers(screen, &agent, &mut banyan, &format!("{}/readyz", admin.base()))?;

        let databases = runtime.block_on(async {
            anyhow::Ok(Databases {
                legacy: postgres::connect(&servers.legacy.for_shop("legacy")).await?,
                payments: postgres::connect(&servers.modern.for_shop("payments")).await?,
            })
        })?;
        let traffic = Traffic::start(&agent, &base, admin.clone(), stop.clone());
        Ok(Self { traffic, banyan, services, _servers: servers, kafka, databases, file, agent, admin, base })
    }

    /// Ends everything, and removes from a real Kafka what was put there.
    pub(crate) fn strike(mut self, venue: &Venue<'_>) {
        self.traffic.stop();
        self.banyan.stop();
        if let Err(error) = self.kafka.clean_up(venue.runtime) {
            venue.screen.say(&format!("The demo's topics are left in Kafka: {error:#}"));
        }
    }
}

/// A real Kafka may hold another demo's topics: there each demo has names of its own.
fn install(options: &Options) -> anyhow::Result<String> {
    match options.kafka {
        Some(_) => Ok(format!("demo_{}", &secret()?[..8])),
        None => Ok("banyan".to_owned()),
    }
}

fn secret() -> anyhow::Result<String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A path as a person in this folder would type it.
pub(crate) fn shown(path: &Path) -> String {
    let here = env::current_dir().and_then(fs::canonicalize).ok();
    match here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf)) {
        Some(below) => format!("./{}", below.display()),
        None => path.display().to_string(),
    }
}
