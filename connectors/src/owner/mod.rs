//! Who owns a sync: a row with an epoch in each database, written before the first slot is made.
//!
//! The file's `owner` counts only until the rows exist. Moving the owner later is a switch, never an edit of the file.

pub(crate) mod mysql;
pub(crate) mod postgres;

use crate::{
    config::Side,
    database::{DatabaseUrl, mysql::MysqlSession, postgres::Session},
    error::FlowError,
    names::FlowNames,
    preflight::Gate,
    tables,
};

/// What one database says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerRow {
    pub(crate) owner: Side,
    pub(crate) epoch: i64,
    /// Whether this database is open for writes.
    pub(crate) open: bool,
}

/// A session on one of the databases.
enum Seat {
    Postgres(Session),
    Mysql(Box<MysqlSession>),
}

/// Both databases of a sync, and what the file wishes.
#[derive(Debug)]
pub(crate) struct Owners {
    pub(crate) install: String,
    pub(crate) sync: String,
    pub(crate) legacy: DatabaseUrl,
    pub(crate) modern: DatabaseUrl,
    pub(crate) wish: Side,
    /// Before anything is made.
    pub(crate) gate: Gate,
}

/// What the columns of an owner row say.
pub(crate) fn parse(owner: &str, epoch: i64, state: &str) -> Result<OwnerRow, FlowError> {
    let owner = [Side::Legacy, Side::Modern].into_iter().find(|side| side.as_str() == owner);
    match (owner, state) {
        (Some(owner), "open" | "closed") => Ok(OwnerRow { owner, epoch, open: state == "open" }),
        _ => Err(FlowError::Stop("banyan.owner says what this version does not know".into())),
    }
}

/// What both databases say together: the higher epoch wins, and of two alike the one that is open.
pub(crate) fn latest(rows: impl IntoIterator<Item = OwnerRow>) -> Option<OwnerRow> {
    rows.into_iter().max_by_key(|row| (row.epoch, row.open))
}

// === impl Owners ===

impl Owners {
    fn url(&self, side: Side) -> &DatabaseUrl {
        match side {
            Side::Legacy => &self.legacy,
            Side::Modern => &self.modern,
        }
    }

    /// The row of `side`, made when the sync is new. Needs the other database only then.
    pub(crate) async fn ensure(&self, side: Side) -> Result<OwnerRow, FlowError> {
        let mut here = self.connect(side).await?;
        let row = match here.read(&self.install, &self.sync, side).await? {
            Some(row) => row,
            None => {
                self.gate.pass().await?;
                here.make_tables().await?;
                self.make(&mut here, side).await?
            }
        };
        if row.owner != self.wish {
            return Err(FlowError::Stop(format!(
                "the databases say that {} owns the sync `{}`, the file says {}; changing `owner` needs a switch, which is not available in this version",
                row.owner.as_str(),
                self.sync,
                self.wish.as_str(),
            )));
        }
        Ok(row)
    }

    async fn make(&self, here: &mut Seat, side: Side) -> Result<OwnerRow, FlowError> {
        let mut there = self.connect(side.other()).await?;
        there.make_tables().await?;
        let (owner, epoch) = match there.read(&self.install, &self.sync, side.other()).await? {
            Some(row) => (row.owner, row.epoch),
            None => (self.wish, 1),
        };
        // The owner's row first: a crash in between leaves the side that may write marked, and never two.
        let (first, second) = if side == owner { (&mut *here, &mut there) } else { (&mut there, &mut *here) };
        first.insert(&self.install, &self.sync, owner, owner, epoch).await?;
        second.insert(&self.install, &self.sync, owner.other(), owner, epoch).await?;
        here.read(&self.install, &self.sync, side)
            .await?
            .ok_or_else(|| FlowError::Stop("banyan.owner lost the row that was just written".into()))
    }

    async fn connect(&self, side: Side) -> Result<Seat, FlowError> {
        let application = format!("{}/owner", self.install);
        Ok(match self.url(side) {
            DatabaseUrl::Postgres(url) => Seat::Postgres(url.connect(&application).await?),
            DatabaseUrl::Mysql(url) => Seat::Mysql(Box::new(url.connect(&application).await?)),
        })
    }
}

// === impl Seat ===

impl Seat {
    async fn make_tables(&mut self) -> Result<(), FlowError> {
        match self {
            Self::Postgres(session) => tables::postgres(session).await,
            Self::Mysql(session) => tables::mysql(session).await,
        }
    }

    async fn read(&mut self, install: &str, sync: &str, side: Side) -> Result<Option<OwnerRow>, FlowError> {
        match self {
            Self::Postgres(session) => postgres::read(session, install, sync, side).await,
            Self::Mysql(session) => mysql::read(session, install, sync, side).await,
        }
    }

    /// Opening a side for writes says `banyan.open` in the transaction that opens it.
    async fn insert(
        &mut self,
        install: &str,
        sync: &str,
        side: Side,
        owner: Side,
        epoch: i64,
    ) -> Result<(), FlowError> {
        match self {
            Self::Postgres(session) => postgres::insert(session, install, sync, side, owner, epoch).await,
            Self::Mysql(session) => mysql::insert(session, install, sync, side, owner, epoch).await,
        }
    }
}

/// What `banyan.open` and `banyan.fence` carry.
fn mark(install: &str, sync: &str, epoch: i64) -> String {
    serde_json::json!({"install": install, "sync": sync, "epoch": epoch, "nonce": nonce()}).to_string()
}

/// The epoch of an open or fence mark, if it is of the sync of `names`.
pub(crate) fn mark_epoch(content: &[u8], names: &FlowNames) -> Option<i64> {
    let mark: serde_json::Value = serde_json::from_slice(content).ok()?;
    (mark["install"] == names.install.as_str() && mark["sync"] == names.sync.as_str())
        .then(|| mark["epoch"].as_i64())
        .flatten()
}

/// What the loop mark `banyan.applied` of a flow's transactions carries.
pub(crate) fn applied_mark(names: &FlowNames, generation: i64, lease: &str) -> String {
    serde_json::json!({"install": names.install, "sync": names.sync, "flow": names.flow, "generation": generation, "nonce": lease})
        .to_string()
}

/// Whether a loop mark is of exactly the flow opposite to that of `names`. All other marks pass: other syncs' changes must go on.
pub(crate) fn is_echo(content: &[u8], names: &FlowNames) -> bool {
    serde_json::from_slice(content).is_ok_and(|mark: serde_json::Value| {
        mark["install"] == names.install.as_str()
            && mark["sync"] == names.sync.as_str()
            && mark["flow"] == names.flow.opposite().as_str()
    })
}

/// A name that no one else has.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Flow;

    #[test]
    fn only_the_opposite_flow_of_the_same_sync_is_an_echo() {
        let names = |install, sync, flow| FlowNames::new(install, sync, flow);
        let mine = names("banyan", "payments", Flow::LegacyToModern);
        let mark = |names: &FlowNames| applied_mark(names, 1, "x").into_bytes();
        assert!(is_echo(&mark(&names("banyan", "payments", Flow::ModernToLegacy)), &mine));
        for other in [
            mine.clone(),
            names("banyan", "orders", Flow::ModernToLegacy),
            names("other", "payments", Flow::ModernToLegacy),
        ] {
            assert!(!is_echo(&mark(&other), &mine), "{other:?}");
        }
        assert!(!is_echo(b"not json", &mine));
        assert_eq!(mark_epoch(super::mark("banyan", "payments", 7).as_bytes(), &mine), Some(7));
        assert_eq!(mark_epoch(super::mark("banyan", "orders", 7).as_bytes(), &mine), None);
    }
}
