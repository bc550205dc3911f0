//! PostgreSQL for the demo: two servers, as the monolith's and the new services' would be. No running server is ever touched.

mod programs;
mod server;

use std::thread;

pub(crate) use self::server::{Server, connect};

use self::{programs::Programs, server::Prepared};
use super::Venue;

/// The monolith's server, and the new services'.
pub(crate) struct Servers {
    /// With the database `legacy`.
    pub(crate) legacy: Server,
    /// With the databases `payments` and `accounts`.
    pub(crate) modern: Server,
}

// === impl Servers ===

impl Servers {
    /// Finds the programs, or fetches them, and starts both servers on new data directories.
    pub(crate) fn start(venue: &Venue<'_>, always_fetch: bool) -> anyhow::Result<Self> {
        let programs = Programs::find_or_fetch(venue.screen, venue.runtime, always_fetch)?;
        let (legacy, modern) = thread::scope(|scope| {
            let modern = scope.spawn(|| Prepared::new(&programs));
            (Prepared::new(&programs), modern.join())
        });
        let modern = modern.map_err(|_| anyhow::anyhow!("preparing PostgreSQL panicked"))?;
        Ok(Self {
            legacy: legacy?.start("postgres-legacy", &programs, &["legacy"], venue)?,
            modern: modern?.start("postgres-modern", &programs, &["payments", "accounts"], venue)?,
        })
    }
}

impl Drop for Servers {
    /// Both at once; their own drops wait for them.
    fn drop(&mut self) {
        self.legacy.let_go();
        self.modern.let_go();
    }
}
