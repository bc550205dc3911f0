//! Everything that the story needs, started in order, and taken down in order.

use std::{env, fs, net::TcpListener, path::Path, time::Duration};

use ureq::Agent;

use super::{
    Options, Venue,
    admin::Admin,
    file::RoutesFile,
    kafka::Kafka,
    part::Part,
    ports,
    postgres::{self, Servers},
    screen::GivenUp,
    services::Services,
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

/// How long Banyan may take until it is ready.
const START: Duration = Duration::from_secs(30);

// === impl Stage ===

impl Stage {
    pub(crate) fn set(options: &Options, venue: &Venue<'_>) -> anyhow::Result<Self> {
        let &Venue { screen, runtime, folder, stop } = venue;
        let servers = Servers::start(venue, options.fetch)?;
        let install = install(options)?;
        let kafka = Kafka::start(options.kafka.as_deref(), &install, &["payments", "accounts"])?;
        screen.say(&format!("  Kafka             {}", kafka.describe()));
        let agent = shop::agent();
        let services = Services::start(venue, &servers, &secret()?, &agent)?;

        let values = [
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
        let (banyan, file, base, admin) = start_banyan(venue, &values, &agent)?;
        screen.say(&format!("  banyan            {base:<23} routes.yaml: {}", shown(file.path())));
        // Behind `#` it is sent to nobody; the page takes it out of the address and signs in with it.
        let token = fs::read_to_string(crate::admin::token_path(&folder.file("state"))).unwrap_or_default();
        screen.say(&format!("  page              {}/#token={}", admin.base(), token.trim()));

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

/// Writes the file, with ports that are free, and starts Banyan on it. A port that somebody else takes in between gives the next free one.
fn start_banyan(
    venue: &Venue<'_>,
    values: &[(&str, String)],
    agent: &Agent,
) -> anyhow::Result<(Part, RoutesFile, String, Admin)> {
    let (program, path) = (env::current_exe()?.display().to_string(), venue.folder.file("routes.yaml"));
    let mut attempts = 0;
    loop {
        attempts += 1;
        let [bind, admin_bind] = [ports::listen(8080)?.local_addr()?, ports::listen(9901)?.local_addr()?];
        let binds = [("BANYAN_BIND", bind.to_string()), ("BANYAN_ADMIN", admin_bind.to_string())];
        let file = RoutesFile::write(path.clone(), &[values, &binds].concat())?;
        let file_name = file.path().display().to_string();
        let role = ["keeper", "--", &program, "run", "-c", &file_name];
        let mut part = Part::start("banyan", venue.folder.path(), &role, &[])?;
        let admin = Admin::new(agent, &format!("http://{admin_bind}"));
        let up = venue.screen.until("banyan to be ready", START, || {
            part.must_live()?;
            // It must be ours that answers, not another demo's that was quicker on this port.
            let status = admin.status()?;
            Ok((status["ready"] == true && status["file"]["path"] == file_name).then_some(()))
        });
        let was_taken = |address| TcpListener::bind(address).is_err();
        match up {
            Ok(()) => return Ok((part, file, format!("http://{bind}"), admin)),
            Err(error) if error.is::<GivenUp>() && attempts < 5 && (was_taken(bind) || was_taken(admin_bind)) => {}
            Err(error) => return Err(error),
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
