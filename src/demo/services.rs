//! The shop's three programs as processes of the demo.

use std::{path::Path, time::Duration};

use ureq::Agent;

use super::{
    Venue,
    part::Part,
    ports::Ports,
    postgres::Servers,
    screen::{GivenUp, Screen},
};

/// The monolith and what replaces it.
pub(crate) struct Services {
    pub(crate) legacy: Service,
    pub(crate) payments: Service,
    pub(crate) accounts: Service,
}

/// One of them; it can be started again where it was.
pub(crate) struct Service {
    name: &'static str,
    bind: String,
    environment: [(&'static str, String); 2],
    part: Part,
}

/// How long a process may take until it answers.
const START: Duration = Duration::from_secs(30);

// === impl Services ===

impl Services {
    /// Starts all three, says so, and waits until they answer: by then they have made their tables.
    pub(crate) fn start(
        venue: &Venue<'_>,
        ports: &mut Ports,
        servers: &Servers,
        key: &str,
        agent: &Agent,
    ) -> anyhow::Result<Self> {
        let mut start = |name, port, database, what: &str| {
            let bind = ports.next_free(port)?.to_string();
            venue.screen.say(&format!("  {name:<17} http://{bind:<16} {what}"));
            Service::start(
                name,
                bind,
                [("DATABASE_URL", database), ("SESSION_KEY", key.to_owned())],
                venue.folder.path(),
            )
        };
        let (legacy, modern) = (&servers.legacy, &servers.modern);
        let what = "the monolith: accounts, payments, orders, inventory, chat";
        let mut services = Self {
            legacy: start("legacy-app", 7001, legacy.for_shop("legacy"), what)?,
            payments: start("payments-service", 7002, modern.for_shop("payments"), "new, with one bug in it")?,
            accounts: start("accounts-service", 7003, modern.for_shop("accounts"), "new, already moved")?,
        };
        for service in [&mut services.legacy, &mut services.payments, &mut services.accounts] {
            service.wait(venue.screen, agent)?;
        }
        Ok(services)
    }
}

// === impl Service ===

impl Service {
    fn start(
        name: &'static str,
        bind: String,
        environment: [(&'static str, String); 2],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let part = Self::play(name, &bind, &environment, folder)?;
        Ok(Self { name, bind, environment, part })
    }

    fn play(name: &'static str, bind: &str, environment: &[(&str, String)], folder: &Path) -> anyhow::Result<Part> {
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        // The role is named as the program is.
        Part::start(name, folder, &[name, "--bind", bind], &environment)
    }

    /// `http://127.0.0.1:7001`
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.bind)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.part.pid()
    }

    /// As a crash would.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.part.kill()
    }

    /// Starts it where it was, and waits until it answers.
    pub(crate) fn revive(&mut self, venue: &Venue<'_>, agent: &Agent) -> anyhow::Result<()> {
        self.part = Self::play(self.name, &self.bind, &self.environment, venue.folder.path())?;
        self.wait(venue.screen, agent)
    }

    fn wait(&mut self, screen: &Screen, agent: &Agent) -> anyhow::Result<()> {
        let url = format!("{}/livez", self.base());
        answers(screen, agent, &mut self.part, &url)
    }
}

/// Waits until `url` answers 200, or gives up when the part has ended.
pub(crate) fn answers(screen: &Screen, agent: &Agent, part: &mut Part, url: &str) -> anyhow::Result<()> {
    screen.until(&format!("{url} to answer"), START, || {
        if let Some(obituary) = part.obituary() {
            return Err(GivenUp(obituary).into());
        }
        Ok((agent.get(url).call()?.status() == 200).then_some(()))
    })
}
