//! Everything that the story needs, started in order, and taken down in order.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ureq::Agent;

use super::{
    Options, Venue,
    admin::Admin,
    file::RoutesFile,
    kafka::Kafka,
    part::Part,
    ports::Ports,
    postgres::{self, Prepared, Server},
    programs::Programs,
    screen::{GivenUp, Screen},
    shop,
    traffic::Traffic,
};

/// The shop, Banyan before it, and what is between the databases. Fields are dropped from top to bottom: first who asks, last who is asked.
pub(crate) struct Stage {
    pub(crate) traffic: Option<Traffic>,
    pub(crate) banyan: Part,
    pub(crate) payments: Part,
    _accounts: Part,
    _legacy: Part,
    _modern_server: Server,
    _legacy_server: Server,
    kafka: Kafka,
    pub(crate) databases: Databases,
    pub(crate) file: RoutesFile,
    pub(crate) agent: Agent,
    pub(crate) admin: Admin,
    /// Where customers go: `http://127.0.0.1:8080`.
    pub(crate) base: String,
    admin_base: String,
    restart: Restart,
}

/// The databases as the shop's own role reaches them, for looking.
pub(crate) struct Databases {
    pub(crate) legacy: tokio_postgres::Client,
    pub(crate) payments: tokio_postgres::Client,
}

/// What payments-service is started with, for the second time too.
struct Restart {
    bind: String,
    environment: [(&'static str, String); 2],
}

/// How long a part may take until it answers.
const START: Duration = Duration::from_secs(30);

// === impl Stage ===

impl Stage {
    pub(crate) fn set(options: &Options, venue: &Venue<'_>) -> anyhow::Result<Self> {
        let &Venue { screen, runtime, folder, stop } = venue;
        let mut ports = Ports::default();
        let programs = Programs::find_or_fetch(screen, runtime, options.fetch)?;
        let (first, second) = thread::scope(|scope| {
            let second = scope.spawn(|| Prepared::new(&programs));
            (Prepared::new(&programs), second.join())
        });
        let second = second.map_err(|_| anyhow::anyhow!("preparing PostgreSQL panicked"))?;
        let mut serve = |prepared: Prepared, name, databases: &[&str]| {
            prepared.start(name, &programs, &mut ports, databases, venue)
        };
        let legacy_server = serve(first?, "postgres-legacy", &["legacy"])?;
        let modern_server = serve(second?, "postgres-modern", &["payments", "accounts"])?;

        let install = install(options)?;
        let kafka = Kafka::start(options.kafka.as_deref(), &install, &["payments", "accounts"])?;
        screen.say(&format!("  Kafka             {}", kafka.describe()));

        let key = secret()?;
        let agent = shop::agent();
        let mut open = |name, role, wanted, database, what: &str| -> anyhow::Result<(Part, String, Restart)> {
            let bind = ports.next_free(wanted)?.to_string();
            let restart = Restart { bind, environment: [("DATABASE_URL", database), ("SESSION_KEY", key.clone())] };
            let part = restart.start(name, role, folder.path())?;
            let base = format!("http://{}", restart.bind);
            screen.say(&format!("  {name:<17} {base:<23} {what}"));
            Ok((part, base, restart))
        };
        let what = "the monolith: accounts, payments, orders, inventory, chat";
        let (mut legacy, legacy_base, _) =
            open("legacy-app", "legacy-app", 7001, legacy_server.for_shop("legacy"), what)?;
        let what = "new, with one bug in it";
        let database = modern_server.for_shop("payments");
        let (mut payments, payments_base, restart) =
            open("payments-service", "payments-service", 7002, database, what)?;
        let what = "new, already moved";
        let database = modern_server.for_shop("accounts");
        let (mut accounts, accounts_base, _) = open("accounts-service", "accounts-service", 7003, database, what)?;
        let parts = [(&mut legacy, &legacy_base), (&mut payments, &payments_base), (&mut accounts, &accounts_base)];
        for (part, base) in parts {
            answers(screen, &agent, part, &format!("{base}/livez"))?;
        }

        let (bind, admin_bind) = (ports.next_free(8080)?.to_string(), ports.next_free(9901)?.to_string());
        let values = [
            ("BANYAN_BIND", bind.clone()),
            ("BANYAN_ADMIN", admin_bind.clone()),
            ("BANYAN_STATE", folder.file("state").display().to_string()),
            ("BANYAN_INSTALL", install),
            ("LEGACY_APP", legacy_base),
            ("PAYMENTS_SERVICE", payments_base),
            ("ACCOUNTS_SERVICE", accounts_base),
            ("KAFKA_BROKERS", kafka.brokers()),
            ("LEGACY_DB_URL", legacy_server.for_banyan("legacy")),
            ("PAYMENTS_DB_URL", modern_server.for_banyan("payments")),
            ("ACCOUNTS_DB_URL", modern_server.for_banyan("accounts")),
        ];
        let file = RoutesFile::write(folder.file("routes.yaml"), &values)?;
        let path = file.path().display().to_string();
        let program = std::env::current_exe()?.display().to_string();
        let mut banyan = Part::start("banyan", folder.path(), &["keeper", "--", &program, "run", "-c", &path], &[])?;
        let (base, admin_base) = (format!("http://{bind}"), format!("http://{admin_bind}"));
        screen.say(&format!("  banyan            {base:<23} routes.yaml: {}", shown(file.path())));
        answers(screen, &agent, &mut banyan, &format!("{admin_base}/readyz"))?;

        let databases = runtime.block_on(async {
            anyhow::Ok(Databases {
                legacy: postgres::connect(&legacy_server.for_shop("legacy")).await?,
                payments: postgres::connect(&modern_server.for_shop("payments")).await?,
            })
        })?;
        let traffic = Traffic::start(&agent, &base, Admin::new(&agent, &admin_base), stop.clone());
        let admin = Admin::new(&agent, &admin_base);
        Ok(Self {
            traffic: Some(traffic),
            banyan,
            payments,
            _accounts: accounts,
            _legacy: legacy,
            _modern_server: modern_server,
            _legacy_server: legacy_server,
            kafka,
            databases,
            file,
            agent,
            admin,
            base,
            admin_base,
            restart,
        })
    }

    /// Where Banyan's admin listener is.
    pub(crate) fn admin_base(&self) -> &str {
        &self.admin_base
    }

    /// Starts payments-service again where it was, and waits until it answers.
    pub(crate) fn revive_payments(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let folder = self.payments.log().parent().context("a log lies in a folder")?.to_owned();
        self.payments = self.restart.start("payments-service", "payments-service", &folder)?;
        answers(screen, &self.agent, &mut self.payments, &format!("http://{}/livez", self.restart.bind))
    }

    /// Ends everything, and removes from a real Kafka what was put there.
    pub(crate) fn strike(mut self, runtime: &tokio::runtime::Runtime) {
        drop(self.traffic.take());
        self.banyan.stop();
        if let Err(error) = self.kafka.clean_up(runtime) {
            tracing::warn!("topics of the demo are left in Kafka: {error:#}");
        }
    }
}

// === impl Restart ===

impl Restart {
    fn start(&self, name: &'static str, role: &str, folder: &Path) -> anyhow::Result<Part> {
        let environment = self.environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        Part::start(name, folder, &[role, "--bind", &self.bind], &environment)
    }
}

/// Waits until `url` answers 200, or gives up when the part has ended.
fn answers(screen: &Screen, agent: &Agent, part: &mut Part, url: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    screen.until(&format!("{url} to answer"), START, || {
        if let Some(obituary) = part.obituary() {
            return Err(GivenUp(obituary).into());
        }
        Ok((agent.get(url).call()?.status() == 200).then_some(()))
    })?;
    tracing::debug!(url, took = ?began.elapsed(), "up");
    Ok(())
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
    let here = std::env::current_dir().and_then(fs::canonicalize).ok();
    match here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf)) {
        Some(below) => format!("./{}", below.display()),
        None => path.display().to_string(),
    }
}
