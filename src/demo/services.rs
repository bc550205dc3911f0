//! The shop's three programs as processes of the demo.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::bail;

use ureq::Agent;

use super::{Venue, part::Part, postgres::Servers, screen::Screen};

/// The monolith and what replaces it.
pub(crate) struct Services {
    pub(crate) legacy: Service,
    pub(crate) payments: Service,
    pub(crate) accounts: Service,
}

/// One of them; it can be started again where it was.
pub(crate) struct Service {
    name: &'static str,
    address: SocketAddr,
    environment: [(&'static str, String); 2],
    part: Part,
}

/// How long a process may take until it answers.
const START: Duration = Duration::from_secs(30);

// === impl Services ===

impl Services {
    /// Starts all three, says so, and waits until they answer: by then they have made their tables.
    pub(crate) fn start(venue: &Venue<'_>, servers: &Servers, key: &str, agent: &Agent) -> anyhow::Result<Self> {
        let start = |name, port, database, what: &str| {
            let environment = [("DATABASE_URL", database), ("SESSION_KEY", key.to_owned())];
            let service = Service::start(venue, name, port, environment)?;
            venue.screen.say(&format!("  {name:<17} {:<23} {what}", service.base()));
            anyhow::Ok(service)
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
        venue: &Venue<'_>,
        name: &'static str,
        port: u16,
        environment: [(&'static str, String); 2],
    ) -> anyhow::Result<Self> {
        let (part, address) = Self::play(venue, name, port, &environment, false)?;
        Ok(Self { name, address, environment, part })
    }

    /// Returns when it listens.
    fn play(
        venue: &Venue<'_>,
        name: &'static str,
        port: u16,
        environment: &[(&str, String)],
        is_bad: bool,
    ) -> anyhow::Result<(Part, SocketAddr)> {
        let tell = venue.folder.file(&format!("{name}.address"));
        let _ = fs::remove_file(&tell);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        // The role is named as the program is.
        let (port, address) = (port.to_string(), tell.display().to_string());
        let mut role = vec![name, "--port", &port, "--tell", &address];
        if is_bad {
            role.push("--bad-build");
        }
        let mut part = Part::start(name, venue.folder.path(), &role, &environment)?;
        let address = venue.screen.until(&format!("{name} to listen"), START, || {
            part.must_live()?;
            Ok(Some(fs::read_to_string(&tell)?.parse()?))
        })?;
        Ok((part, address))
    }

    /// `http://127.0.0.1:7001`
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
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
        self.begin(venue, agent, false)
    }

    /// Another build in its place, which may be a bad one.
    pub(crate) fn replace(&mut self, venue: &Venue<'_>, agent: &Agent, is_bad: bool) -> anyhow::Result<()> {
        self.part.stop();
        self.begin(venue, agent, is_bad)
    }

    fn begin(&mut self, venue: &Venue<'_>, agent: &Agent, is_bad: bool) -> anyhow::Result<()> {
        let address;
        (self.part, address) = Self::play(venue, self.name, self.address.port(), &self.environment, is_bad)?;
        if address != self.address {
            bail!("somebody took port {} while {} was down", self.address.port(), self.name);
        }
        self.wait(venue.screen, agent)
    }

    fn wait(&mut self, screen: &Screen, agent: &Agent) -> anyhow::Result<()> {
        let url = format!("{}/livez", self.base());
        screen.until(&format!("{} to answer", self.name), START, || {
            self.part.must_live()?;
            Ok((agent.get(&url).call()?.status() == 200).then_some(()))
        })
    }
}
