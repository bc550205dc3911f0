//! What `banyan.capture` on the source remembers of a flow: where its capture is, and whether it may go on from there.
//!
//! There is no slot: the server keeps its log for as long as it is told to, for everybody. So capture itself notes up to where
//! everything stands in Kafka, and whoever starts looks whether the log from there on is still there, and still the same.

use std::time::{Duration, SystemTime};

use super::{
    outboxes::Outboxes,
    schema,
    shape::{self, TableShape},
};
use crate::{
    database::mysql::{Flavor, MysqlSession, MysqlUrl, cell, text},
    error::FlowError,
    failpoint::{self, Point},
    names::FlowNames,
    owner,
    plan::Plan,
    position::{Generation, Lsn},
    source::{Measured, Remembered},
    status::Board,
    tables,
};

/// How often a flow that waits for a person asks whether it may go on.
const LOOK: Duration = Duration::from_millis(500);

/// A capture that may begin: the session holds the lock.
pub(crate) struct Opened {
    pub(crate) session: MysqlSession,
    pub(crate) lock: String,
    pub(crate) generation: Generation,
    pub(crate) shape: Vec<TableShape>,
    pub(crate) outboxes: Outboxes,
    /// The log's files without their number.
    pub(crate) log: String,
    /// From where to read.
    pub(crate) from: Lsn,
    /// Present when the generation is new: START, and the snapshot if there is one, come first.
    pub(crate) fresh: Option<Fresh>,
}

/// A generation that was just begun.
pub(crate) struct Fresh {
    /// The first of the attempts, none complete, of which this is the last.
    pub(crate) since: i64,
    /// A transaction that sees the tables as they are at `Opened::from`.
    pub(crate) snapshot: MysqlSession,
    pub(crate) nonce: String,
    pub(crate) system_id: String,
}

/// A place in the log: `mariadb-bin.000042` and an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) log: String,
    pub(crate) lsn: Lsn,
}

struct Stored {
    generation: i64,
    since: i64,
    state: String,
    system_id: String,
    log: String,
    shape: String,
    /// Nothing where a version has noted it that knew of none that had been one.
    outboxes: Option<String>,
    confirmed: Lsn,
    gtid: String,
}

/// Takes the lock, and finds where to go on, or begins a generation.
pub(crate) async fn open(plan: &Plan, url: &MysqlUrl, board: &Board) -> Result<Opened, FlowError> {
    let names = &plan.names;
    let mut session = url.connect(&names.application("capture")).await?;
    tables::mysql(&mut session).await?;
    let lock = names.application("capture");
    session.lock(&lock, "capture").await?;
    wait_for_a_person(&mut session, plan, &lock, board).await?;
    check_settings(&mut session).await?;
    let system_id = system_id(&mut session).await?;
    let stored = stored(&mut session, names).await?;
    if let Some(stored) = stored.as_ref().filter(|stored| stored.state == "streaming") {
        let lost = |what: String| Err(FlowError::NeedsSnapshot(what));
        if stored.system_id != system_id {
            return lost("the source is another database system than the one that was copied".into());
        }
        let shape: Vec<TableShape> = serde_json::from_str(&stored.shape)
            .map_err(|_| FlowError::Stop("banyan.capture says what this version does not know".into()))?;
        let known: Vec<&String> = shape.iter().map(|table| &table.name).collect();
        if known != plan.tables.iter().map(|table| &table.source).collect::<Vec<_>>() {
            return Err(FlowError::Stop(
                "the file names other tables than were copied; adding tables to a running sync is not available in this version"
                    .into(),
            ));
        }
        if let Some(what) = is_gone(&mut session, stored).await? {
            return lost(what);
        }
        let generation = Generation::new(stored.generation);
        let (log, from) = (stored.log.clone(), stored.confirmed);
        let outboxes = match &stored.outboxes {
            Some(outboxes) => serde_json::from_str(outboxes)
                .map_err(|_| FlowError::Stop("banyan.capture says what this version does not know".into()))?,
            None => Outboxes::begin(plan.outbox.as_ref()),
        };
        let now = place(&mut session).await?.lsn;
        let outboxes =
            note_outboxes(&mut session, plan, generation, outboxes.turned(plan.outbox.as_ref(), from, now)).await?;
        return Ok(Opened { session, lock, generation, shape, outboxes, log, from, fresh: None });
    }

    // No generation is complete: the next begins.
    let nonce = owner::nonce();
    let generation = stored.as_ref().map_or(0, |stored| stored.generation) + 1;
    let since = stored.filter(|stored| stored.state == "creating").map_or(generation, |stored| stored.since);
    note(
        &mut session,
        names,
        generation,
        since,
        &nonce,
        &system_id,
        &Place { log: String::new(), lsn: Lsn::ZERO },
        "",
        "[]",
    )
    .await?;
    failpoint::reached(Point::GenerationNoted);
    let (snapshot, place) = snapshot(plan, url).await?;
    // Read behind the snapshot's beginning: what changes in between shows itself in the log.
    let shape = shape::read(&mut session, plan).await?;
    let text = serde_json::to_string(&shape)
        .map_err(|_| FlowError::Stop("the tables' columns could not be written".into()))?;
    let gtid = gtid_at(&mut session, &place).await?.unwrap_or_default();
    note(&mut session, names, generation, since, &nonce, &system_id, &place, last_of(&gtid), &text).await?;
    failpoint::reached(Point::GenerationMade);
    let fresh = Some(Fresh { since, snapshot, nonce, system_id });
    let generation = Generation::new(generation);
    let outboxes = note_outboxes(&mut session, plan, generation, Outboxes::begin(plan.outbox.as_ref())).await?;
    Ok(Opened { session, lock, generation, shape, outboxes, log: place.log, from: place.lsn, fresh })
}

/// Notes which tables are outboxes, and gives them back. A row that is as it was to be is not written, and stands not in the log.
async fn note_outboxes(
    session: &mut MysqlSession,
    plan: &Plan,
    generation: Generation,
    outboxes: Outboxes,
) -> Result<Outboxes, FlowError> {
    let noted = serde_json::to_string(&outboxes)
        .map_err(|_| FlowError::Stop("the outboxes of the flow could not be written".into()))?;
    let sql = format!("UPDATE banyan.capture SET outboxes = {} WHERE {}", text(&noted), mine(&plan.names, generation));
    session.run("noting which tables are outboxes", &sql).await?;
    Ok(outboxes)
}

/// While the flow waits before a change of a table's columns: until somebody says that it may go on.
async fn wait_for_a_person(
    session: &mut MysqlSession,
    plan: &Plan,
    lock: &str,
    board: &Board,
) -> Result<(), FlowError> {
    while let Some(stored) = stored(session, &plan.names).await?.filter(|stored| stored.state == "streaming") {
        match schema::waits(session, &plan.names, Generation::new(stored.generation)).await? {
            Some(why) => board.paused(&why.to_string()),
            None => break,
        }
        tokio::time::sleep(LOOK).await;
        session.still_locked(lock).await?;
    }
    Ok(())
}

/// Notes that START (and the snapshot) stand in Kafka: from here on the generation is kept.
pub(crate) async fn complete(opened: &mut Opened, plan: &Plan) -> Result<(), FlowError> {
    let sql = format!("UPDATE banyan.capture SET state = 'streaming' WHERE {}", mine(&plan.names, opened.generation));
    match opened.session.run("noting that the snapshot is complete", &sql).await? {
        1 => Ok(()),
        _ => Err(FlowError::Busy("another process has begun the next generation".into())),
    }
}

/// Notes up to where everything stands in Kafka, and the transaction before that place.
pub(crate) async fn confirm(opened: &mut Opened, plan: &Plan, upto: Lsn, gtid: &str) -> Result<(), FlowError> {
    let doing = "noting what stands in Kafka";
    opened.session.still_locked(&opened.lock).await?;
    let sql = format!(
        "UPDATE banyan.capture SET confirmed = {}, gtid = {} WHERE {}",
        upto.get(),
        text(gtid),
        mine(&plan.names, opened.generation)
    );
    match opened.session.run(doing, &sql).await? {
        1 => Ok(()),
        _ => Err(FlowError::Busy("another process has begun the next generation".into())),
    }
}

/// What the source remembers of the flow's capture.
pub(crate) async fn remembered(session: &mut MysqlSession, names: &FlowNames) -> Result<Option<Remembered>, FlowError> {
    let doing = "asking the source for its generation";
    let sql =
        format!("SELECT generation, nonce, state = 'streaming', confirmed FROM banyan.capture WHERE {}", flow(names));
    let Some(row) = session.first(doing, &sql).await? else { return Ok(None) };
    let end = place(session).await?.lsn;
    Ok(Some(Remembered {
        generation: Generation::new(cell(&row, 0).unwrap_or(0)),
        nonce: cell(&row, 1).unwrap_or_default(),
        streaming: cell::<i64>(&row, 2) == Some(1),
        confirmed: cell(&row, 3).map(Lsn::new),
        end: Some(end),
    }))
}

/// Where the log ends.
pub(crate) async fn measure(session: &mut MysqlSession) -> Result<Measured, FlowError> {
    let end = place(session).await?.lsn;
    let now = now(session).await?;
    Ok(Measured { end, now, retained: None, given_up: None })
}

/// The server's clock.
pub(crate) async fn now(session: &mut MysqlSession) -> Result<SystemTime, FlowError> {
    let micros: Option<u64> =
        session.value("asking for the time", "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED)").await?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_micros(micros.unwrap_or(0)))
}

/// Which server it is. MariaDB has no number of its own that no other server has; the transaction's number at the place where we stopped
/// tells the rest.
pub(crate) async fn system_id(session: &mut MysqlSession) -> Result<String, FlowError> {
    let doing = "asking which server it is";
    let id: Option<String> = match session.flavor {
        Flavor::Mariadb => session.value(doing, "SELECT concat('mariadb-', @@global.server_id)").await?,
        Flavor::Mysql => session.value(doing, "SELECT concat('mysql-', @@global.server_uuid)").await?,
    };
    Ok(id.unwrap_or_default())
}

/// Where the log ends now; in MariaDB, inside a consistent snapshot, where that snapshot stands. Needs no privilege there.
pub(crate) async fn place(session: &mut MysqlSession) -> Result<Place, FlowError> {
    let doing = "asking where the binlog is";
    if session.flavor == Flavor::Mariadb {
        let rows = session.rows(doing, "SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
        let find = |name: &str| {
            rows.iter()
                .find(|row| cell::<String>(row, 0).is_some_and(|found| found.eq_ignore_ascii_case(name)))
                .and_then(|row| cell::<String>(row, 1))
                .unwrap_or_default()
        };
        return Place::of(&find("binlog_snapshot_file"), find("binlog_snapshot_position").parse().unwrap_or(0));
    }
    let statement = if session.version >= (8, 2, 0) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    match session.first(doing, statement).await? {
        Some(row) => Place::of(&cell::<String>(&row, 0).unwrap_or_default(), cell(&row, 1).unwrap_or(0)),
        None => Place::of("", 0),
    }
}

/// What capture cannot do without, looked at before each start: some of it may be changed while the server runs.
pub(crate) async fn check_settings(session: &mut MysqlSession) -> Result<(), FlowError> {
    let doing = "looking at the binlog's settings";
    let sql = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'binlog_row_image', 'binlog_row_metadata', \
               'binlog_row_value_options', 'binlog_transaction_compression', 'log_bin_compress')";
    for row in session.rows(doing, sql).await? {
        let (name, value): (String, String) = (cell(&row, 0).unwrap_or_default(), cell(&row, 1).unwrap_or_default());
        let wanted = match name.as_str() {
            "log_bin" => "ON",
            "binlog_format" => "ROW",
            "binlog_row_image" | "binlog_row_metadata" => "FULL",
            "binlog_row_value_options" => "",
            _ => "OFF",
        };
        let is_off = wanted == "OFF" && value == "0";
        if !is_off && !value.eq_ignore_ascii_case(wanted) {
            let wanted = if wanted.is_empty() { "empty" } else { wanted };
            return Err(FlowError::Stop(format!("the source's `{name}` is `{value}`, and capture needs it {wanted}")));
        }
    }
    Ok(())
}

/// Begins a transaction that sees one state of all tables, and says where in the log that state stands.
async fn snapshot(plan: &Plan, url: &MysqlUrl) -> Result<(MysqlSession, Place), FlowError> {
    let doing = "beginning the snapshot";
    let mut session = url.connect(&plan.names.application("snapshot")).await?;
    // Its rows may be read for long, and sent on no faster than Kafka takes them.
    session.run(doing, "SET wait_timeout = 86400, net_write_timeout = 86400").await?;
    if session.flavor == Flavor::Mariadb {
        session.run(doing, "START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        let place = place(&mut session).await?;
        return Ok((session, place));
    }
    // MySQL does not say where a snapshot stands: nobody may commit while both are asked for.
    let mut locker = url.connect(&plan.names.application("lock")).await?;
    locker.run(doing, "SET lock_wait_timeout = 5").await?;
    locker.run(doing, "FLUSH TABLES WITH READ LOCK").await?;
    session.run(doing, "START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let place = place(&mut locker).await?;
    locker.run(doing, "UNLOCK TABLES").await?;
    Ok((session, place))
}

/// Why the log cannot be read on from where we stopped; nothing when it can.
async fn is_gone(session: &mut MysqlSession, stored: &Stored) -> Result<Option<String>, FlowError> {
    let at = Place { log: stored.log.clone(), lsn: stored.confirmed };
    let end = place(session).await?;
    if end.log != at.log {
        return Ok(Some(format!("the source's binlog is called `{}` now, and was `{}`", end.log, at.log)));
    }
    if end.lsn < at.lsn {
        return Ok(Some(format!("the source's binlog ends before {}: it went back to an earlier state", at.name())));
    }
    if session.flavor == Flavor::Mysql {
        // That the file is there, says the stream when it begins; which server it is, was compared.
        return Ok(None);
    }
    match gtid_at(session, &at).await? {
        None => Ok(Some(format!("the source has deleted the binlog from {} on, or it is not what it was", at.name()))),
        Some(found) if stored.gtid.is_empty() || found.split(',').any(|gtid| gtid == stored.gtid) => Ok(None),
        Some(_) => Ok(Some(format!(
            "other transactions stand before {} in the source's binlog than those that were read",
            at.name()
        ))),
    }
}

/// The last transaction of each domain before a place; MariaDB alone can say.
async fn gtid_at(session: &mut MysqlSession, at: &Place) -> Result<Option<String>, FlowError> {
    if session.flavor == Flavor::Mysql {
        return Ok(None);
    }
    let sql = format!("SELECT BINLOG_GTID_POS({}, {})", text(&at.file()), at.offset());
    session.value("comparing the binlog with what was read", &sql).await
}

/// Of several domains' transactions none is known to be the last: then nothing is compared.
fn last_of(gtids: &str) -> &str {
    if gtids.contains(',') { "" } else { gtids }
}

#[expect(clippy::too_many_arguments, reason = "the columns of one row")]
async fn note(
    session: &mut MysqlSession,
    names: &FlowNames,
    generation: i64,
    since: i64,
    nonce: &str,
    system_id: &str,
    place: &Place,
    gtid: &str,
    shape: &str,
) -> Result<(), FlowError> {
    let sql = format!(
        "REPLACE INTO banyan.capture (install, sync, flow, generation, since, nonce, state, log, system_id, shape, confirmed, gtid) \
         VALUES ({}, {}, {}, {generation}, {since}, {}, 'creating', {}, {}, {}, {}, {})",
        text(&names.install),
        text(&names.sync),
        text(names.flow.as_str()),
        text(nonce),
        text(&place.log),
        text(system_id),
        text(shape),
        place.lsn.get(),
        text(gtid)
    );
    session.run("noting the next generation", &sql).await.map(drop)
}

async fn stored(session: &mut MysqlSession, names: &FlowNames) -> Result<Option<Stored>, FlowError> {
    let sql = format!(
        "SELECT generation, since, state, system_id, log, shape, confirmed, gtid, outboxes FROM banyan.capture WHERE {}",
        flow(names)
    );
    let row = session.first("reading what was captured", &sql).await?;
    Ok(row.map(|row| {
        let word = |at| cell::<String>(&row, at).unwrap_or_default();
        Stored {
            generation: cell(&row, 0).unwrap_or(0),
            since: cell(&row, 1).unwrap_or(0),
            state: word(2),
            system_id: word(3),
            log: word(4),
            shape: word(5),
            confirmed: Lsn::new(cell(&row, 6).unwrap_or(0)),
            gtid: word(7),
            outboxes: cell(&row, 8),
        }
    }))
}

fn flow(names: &FlowNames) -> String {
    format!(
        "install = {} AND sync = {} AND flow = {}",
        text(&names.install),
        text(&names.sync),
        text(names.flow.as_str())
    )
}

fn mine(names: &FlowNames, generation: Generation) -> String {
    format!("{} AND generation = {generation}", flow(names))
}

// === impl Place ===

impl Place {
    /// From the name of a file, `mariadb-bin.000042`, and an offset in it.
    pub(crate) fn of(file: &str, offset: u64) -> Result<Self, FlowError> {
        let (log, number) = file.rsplit_once('.').unwrap_or((file, ""));
        let number: Option<u32> = number.parse().ok();
        match (number, u32::try_from(offset)) {
            (Some(number), Ok(offset)) => {
                Ok(Self { log: log.to_owned(), lsn: Lsn::new(u64::from(number) << 32 | u64::from(offset)) })
            }
            (Some(_), Err(_)) => Err(FlowError::Stop(format!(
                "the source's binlog file `{file}` is larger than the 4 GiB whose offsets its events can name"
            ))),
            _ => Err(FlowError::Stop("the source writes no binlog (`log_bin`), or does not say where it is".into())),
        }
    }

    /// The file's name, as the server writes it.
    pub(crate) fn file(&self) -> String {
        format!("{}.{:06}", self.log, self.lsn.get() >> 32)
    }

    pub(crate) fn offset(&self) -> u64 {
        self.lsn.get() & 0xffff_ffff
    }

    /// As a person would write it.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.file(), self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_number_and_back() {
        let place = Place::of("mariadb-bin.000042", 4711).unwrap();
        assert_eq!(place.lsn, Lsn::new(42 << 32 | 4711));
        assert_eq!((place.file().as_str(), place.offset()), ("mariadb-bin.000042", 4711));
        assert_eq!(Place::of("b.1234567", 4).unwrap().file(), "b.1234567");
        assert!(Place::of("", 0).is_err());
        assert!(Place::of("b.000001", 1 << 32).is_err());
    }
}
