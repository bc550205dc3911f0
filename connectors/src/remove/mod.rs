//! Takes away all that Banyan made for a sync, and nothing else: in both databases and in Kafka, by names alone, without a running Banyan.
//!
//! Whatever is there is looked for anew each time, so a removal that broke off goes on where it was, and one that is done finds nothing. What
//! cannot be taken away is told with the statement that somebody with more rights may run.

mod mysql;
mod postgres;
mod topics;

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use crate::{
    config::{Config, Side},
    database::DatabaseUrl,
    error::{FlowError, UrlError},
    names::{Flow, FlowNames},
};
use topics::Topics;

/// Where something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The monolith's database.
    Legacy,
    /// The new service's database.
    Modern,
    /// Kafka.
    Topics,
}

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A replication slot.
    Slot,
    /// A publication.
    Publication,
    /// A replication origin.
    Origin,
    /// A table of keys that a snapshot has seen.
    SeenKeys,
    /// The sync's rows in Banyan's own tables.
    Rows,
    /// Banyan's own tables, with their schema or database.
    Tables,
    /// A topic, with all records in it.
    Topic,
}

/// Something that Banyan made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Where it stands.
    pub part: Part,
    /// The same for a person: `legacy database (host:port/name)`.
    pub place: String,
    /// What it is.
    pub kind: Kind,
    /// Its name, or how many rows there are.
    pub name: String,
    /// What takes it away by hand.
    pub statement: String,
}

/// Something that could not be taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// What.
    #[serde(flatten)]
    pub item: Item,
    /// The server's reason.
    pub why: String,
}

/// What there is of a sync, with connections to take it away.
pub struct Removal<'c> {
    databases: Vec<Database>,
    topics: Option<Topics<'c>>,
    items: Vec<Item>,
    notes: Vec<String>,
}

/// Why nothing, or not all, could be looked at or taken away.
#[derive(Debug, Error)]
pub enum RemoveError {
    /// The file has no such sync.
    #[error(
        "there is no sync `{0}` in the file, and where its databases are stands only there: put it back until it is removed"
    )]
    NoSync(String),
    /// A database URL cannot be used.
    #[error("the {} database of the sync", .0.as_str())]
    Url(Side, #[source] UrlError),
    /// Only the databases tell whether somebody runs the sync.
    #[error(
        "with both databases kept nobody can tell whether a Banyan still writes to the topics of this sync: look at one of them, or delete \
         the topics with Kafka's own tools"
    )]
    Blind,
    /// Somebody runs the sync.
    #[error("{place}: {what}: a Banyan runs this sync; stop it, or take the sync out of its file and restart it")]
    Running {
        /// Where that was seen.
        place: String,
        /// What was seen.
        what: String,
    },
    /// A database, or Kafka.
    #[error("{place}: {why}; `--keep {}` leaves what is there as it is", .part.as_str())]
    Place {
        /// Which.
        part: Part,
        /// The same for a person.
        place: String,
        /// What went wrong.
        why: String,
    },
}

/// One of the sync's databases.
enum Database {
    Postgres(Box<postgres::Own>),
    Mysql(Box<mysql::Own>),
}

/// A database as its own part sees it.
struct Seat {
    part: Part,
    place: String,
    /// The flow that reads here.
    reads: FlowNames,
    /// The flow that writes here.
    writes: FlowNames,
}

// === impl Part ===

impl Part {
    /// As the command line writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
            Self::Topics => "topics",
        }
    }
}

// === impl Item ===

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.kind {
            Kind::Slot => write!(f, "replication slot `{name}`"),
            Kind::Publication => write!(f, "publication `{name}`"),
            Kind::Origin => write!(f, "replication origin `{name}`"),
            Kind::SeenKeys => write!(f, "table `banyan.{name}`"),
            Kind::Rows => write!(f, "{name}"),
            Kind::Tables => write!(f, "{name} with Banyan's own tables, which hold nothing of another sync"),
            Kind::Topic => write!(f, "topic `{name}` with its records"),
        }
    }
}

// === impl Removal ===

impl<'c> Removal<'c> {
    /// Looks for all that there is of `sync`, but in the parts that are to be kept. Changes nothing.
    ///
    /// # Errors
    ///
    /// When the file has no such sync, a part does not answer, or only the topics are to go.
    pub async fn find(config: &'c Config, sync: &str, keep: &[Part]) -> Result<Self, RemoveError> {
        let Some(found) = config.syncs.get(sync) else { return Err(RemoveError::NoSync(sync.to_owned())) };
        if [Part::Legacy, Part::Modern].iter().all(|part| keep.contains(part)) && !keep.contains(&Part::Topics) {
            return Err(RemoveError::Blind);
        }
        let mut removal = Self { databases: Vec::new(), topics: None, items: Vec::new(), notes: Vec::new() };
        for flow in Flow::BOTH {
            let side = flow.source();
            let (part, database) = match side {
                Side::Legacy => (Part::Legacy, &found.legacy),
                Side::Modern => (Part::Modern, &found.modern),
            };
            if keep.contains(&part) {
                continue;
            }
            let url = DatabaseUrl::of(database).map_err(|source| RemoveError::Url(side, source))?;
            let seat = Seat {
                part,
                place: format!("{} database ({url})", side.as_str()),
                reads: FlowNames::new(&config.install, sync, flow),
                writes: FlowNames::new(&config.install, sync, flow.opposite()),
            };
            let (part, place) = (seat.part, seat.place.clone());
            let looked = async {
                let mut database = Database::open(&url, seat).await?;
                let items = database.find().await?;
                Ok((database, items))
            };
            let (database, items) = looked.await.map_err(|error: FlowError| error.in_part(part, &place))?;
            removal.databases.push(database);
            removal.items.extend(items);
        }
        for side in [Side::Legacy, Side::Modern] {
            if let Some(outbox) = found.outbox.on(side) {
                removal.notes.push(format!(
                    "the outbox {outbox} of {} and the topics `outbox.event.…` with their events are the services' own, and stay",
                    side.as_str()
                ));
            }
        }
        if let Some(kafka) = config.kafka.as_ref().filter(|_| !keep.contains(&Part::Topics)) {
            let topics = Topics::new(kafka, &config.install, sync, Some(found));
            let items = topics.find().map_err(|error| error.in_part(Part::Topics, &topics.place()))?;
            if kafka.topics.create {
                removal.items.extend(items);
            } else {
                let note = |item: Item| format!("{item} is others' to delete (`kafka.topics.create: false`)");
                removal.notes.extend(items.into_iter().map(note));
            }
            removal.topics = Some(topics);
        }
        Ok(removal)
    }

    /// What will be taken away, in this order.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// What is there and stays, in words.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Takes it away, and gives what had to be left.
    ///
    /// # Errors
    ///
    /// When a Banyan runs the sync: then nothing is touched. When a connection breaks: the next call goes on from there.
    pub async fn run(mut self) -> Result<Vec<Left>, RemoveError> {
        for database in &mut self.databases {
            if let Err(error) = database.lock().await {
                let Seat { part, place, .. } = database.seat();
                return Err(match error {
                    FlowError::Busy(what) => RemoveError::Running { place: place.clone(), what },
                    error => error.in_part(*part, place),
                });
            }
        }
        let mut left = Vec::new();
        for item in self.items {
            let removed = match (&mut self.topics, item.part) {
                (Some(topics), Part::Topics) => topics.remove(&item).await,
                (_, part) => match self.databases.iter_mut().find(|database| database.seat().part == part) {
                    Some(database) => database.remove(&item).await,
                    None => Ok(()),
                },
            };
            match removed {
                Ok(()) => {}
                Err(error @ FlowError::Lost { .. }) => return Err(error.in_part(item.part, &item.place)),
                Err(error) => left.push(Left { why: error.reason(), item }),
            }
        }
        Ok(left)
    }
}

// === impl Database ===

impl Database {
    async fn open(url: &DatabaseUrl, seat: Seat) -> Result<Self, FlowError> {
        let application = seat.reads.application("remove");
        Ok(match url {
            DatabaseUrl::Postgres(url) => {
                Self::Postgres(Box::new(postgres::Own { session: url.connect(&application).await?, seat }))
            }
            DatabaseUrl::Mysql(url) => {
                Self::Mysql(Box::new(mysql::Own { session: url.connect(&application).await?, seat }))
            }
        })
    }

    fn seat(&self) -> &Seat {
        match self {
            Self::Postgres(own) => &own.seat,
            Self::Mysql(own) => &own.seat,
        }
    }

    async fn find(&mut self) -> Result<Vec<Item>, FlowError> {
        match self {
            Self::Postgres(own) => own.find().await,
            Self::Mysql(own) => own.find().await,
        }
    }

    /// Takes every lock that a running Banyan holds, so that none begins meanwhile.
    async fn lock(&mut self) -> Result<(), FlowError> {
        match self {
            Self::Postgres(own) => own.lock().await,
            Self::Mysql(own) => own.lock().await,
        }
    }

    async fn remove(&mut self, item: &Item) -> Result<(), FlowError> {
        match self {
            Self::Postgres(own) => own.remove(item).await,
            Self::Mysql(own) => own.remove(item).await,
        }
    }
}

// === impl Seat ===

impl Seat {
    fn item(&self, kind: Kind, name: impl Into<String>, statement: impl Into<String>) -> Item {
        Item { part: self.part, place: self.place.clone(), kind, name: name.into(), statement: statement.into() }
    }

    /// How many rows there are, in words; `parked` of them are transactions that wait for a person.
    fn rows(&self, rows: u64, parked: u64, statement: String) -> Item {
        let parked = match parked {
            0 => String::new(),
            1 => ", among them a parked transaction, which was never applied".to_owned(),
            more => format!(", among them {more} parked transactions, which were never applied"),
        };
        self.item(Kind::Rows, format!("{rows} rows in Banyan's own tables{parked}"), statement)
    }

    /// Whether a table of the schema or database `banyan` collects the keys that a snapshot of this sync has seen.
    fn is_seen(&self, table: &str) -> bool {
        let number = table.strip_prefix(&self.writes.seen());
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

impl FlowError {
    fn in_part(self, part: Part, place: &str) -> RemoveError {
        RemoveError::Place { part, place: place.to_owned(), why: self.reason() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_syncs_own_sets_of_keys_are_taken() {
        let names = |flow| FlowNames::new("banyan", "pay", flow);
        let seat = Seat {
            part: Part::Modern,
            place: String::new(),
            reads: names(Flow::ModernToLegacy),
            writes: names(Flow::LegacyToModern),
        };
        assert!(seat.is_seen("seen_banyan_pay_l2m_0_12") && seat.is_seen("seen_banyan_pay_l2m_0_00c0ffee00c0ffee"));
        for other in [
            "seen_banyan_pay_l2m_0_",
            "seen_banyan_pay_m2l_0_1",
            "seen_banyan_pay_l2m_0_1x",
            "seen_banyan_payments_l2m_0_1",
        ] {
            assert!(!seat.is_seen(other), "{other}");
        }
    }
}
