//! The replication slot: made with its publication, found again after a restart, and refused when it is not what it was.
//!
//! Whoever holds the advisory lock on the source may make or drop the slot; whoever streams from it holds the slot itself.

use std::{collections::BTreeMap, time::Duration};

use pgwire_replication::ReplicationClient;
use tokio_postgres::types::PgLsn;

use super::{
    chunks::kept,
    failover, lanes, outbox, retained,
    schema::{self, Shape},
};
use crate::{
    database::postgres::{PostgresUrl, Session},
    error::FlowError,
    failpoint::{self, Point},
    names::{FlowNames, quote, quote_table},
    owner,
    plan::{Plan, PlanTable},
    position::{Generation, Lsn},
    preflight::Gate,
    record::control::Load,
    source::Remembered,
    status::Board,
    tables,
    timeline::Timeline,
};

/// How often a flow that waits for a person asks whether it may go on.
const LOOK: Duration = Duration::from_millis(500);

/// A capture that may begin: the SQL session holds the lock, the replication session has not started to stream.
pub(crate) struct Opened {
    pub(crate) session: Session,
    pub(crate) replication: ReplicationClient,
    pub(crate) generation: Generation,
    pub(crate) timeline: Timeline,
    pub(crate) shape: String,
    /// By which columns `order: key` tells each table's rows apart.
    pub(crate) keys: BTreeMap<String, Vec<String>>,
    /// Present when the slot was just made: START, and the snapshot if there is one, come first.
    pub(crate) fresh: Option<Fresh>,
}

/// A slot that was just made.
pub(crate) struct Fresh {
    /// The first of the attempts, none complete, of which this is the last.
    pub(crate) since: i64,
    pub(crate) snapshot: String,
    pub(crate) consistent_point: Lsn,
    pub(crate) nonce: String,
    pub(crate) system_id: String,
    pub(crate) timeline: i32,
}

/// What `banyan.capture` says.
pub(super) struct Stored {
    pub(super) generation: i64,
    since: i64,
    state: String,
    system_id: String,
    timeline: i32,
    followed: String,
    shape: String,
    reason: Option<String>,
    lanes: Option<String>,
}

/// Takes the lock, and finds or makes the slot.
pub(crate) async fn open(plan: &Plan, url: &PostgresUrl, gate: &Gate, board: &Board) -> Result<Opened, FlowError> {
    let names = &plan.names;
    let session = url.connect(&names.application("capture")).await?;
    tables::postgres(&session).await?;
    lock(&session, names.lock("capture"), "capture").await?;
    wait_for_a_person(&session, plan, board).await?;
    let slot = names.slot();
    let config = url
        .replication(&quote(&slot), &names.publication(), &names.application("slot"))
        // Few: they may be large. The server is told every half second what stands in Kafka.
        .with_buffer_size(32)
        .with_max_message_size((plan.budget / 2).max(plan.kafka.topics.max_record()))
        .with_status_interval(Duration::from_millis(500));
    let mut replication = ReplicationClient::connect_gated(config)
        .await
        .map_err(|e| FlowError::replication("connecting for replication", &e))?;
    failover::is_primary(&mut replication).await?;
    let system =
        replication.identify_system().await.map_err(|e| FlowError::replication("connecting for replication", &e))?;
    let timeline = i32::try_from(system.timeline).unwrap_or(i32::MAX);
    let mut timeline = failover::timeline(&mut replication, timeline).await?;
    let stored = stored(&session, plan).await?;
    if let Some(stored) = stored.as_ref().filter(|stored| stored.state == retained::DROPPED) {
        return Err(FlowError::NeedsSnapshot(retained::reason(stored.reason.clone())));
    }
    let found = session
        .query_opt(
            "SELECT active, coalesce(wal_status, '') = 'lost', database = current_database(), coalesce(plugin, ''), \
                 to_jsonb(s) ->> 'invalidation_reason' FROM pg_replication_slots s WHERE slot_name = $1",
            &[&slot],
        )
        .await
        .map_err(|e| FlowError::sql("looking for the slot", &e))?;

    if let Some(stored) = stored.as_ref().filter(|stored| stored.state == "streaming") {
        let lost = |what: String| Err(FlowError::NeedsSnapshot(what));
        if stored.system_id != system.system_id {
            return lost("the source is another database system than the one that was copied".into());
        }
        timeline.followed = if stored.timeline == timeline.number {
            stored.followed.clone()
        } else {
            failover::follow(&session, plan, stored.timeline, &timeline).await?
        };
        let Some(row) = found else {
            return lost(format!("the slot `{slot}` is gone from the source, and with it the changes since"));
        };
        let (active, wal_lost, here): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if wal_lost {
            return lost(retained::lost(&slot, row.get::<_, Option<&str>>(4)));
        }
        if !here || row.get::<_, &str>(3) != "pgoutput" {
            return lost(format!("the slot `{slot}` is not ours"));
        }
        if active {
            return Err(FlowError::Busy(format!("another session still reads the slot `{slot}`")));
        }
        let shape = take_new_tables(&session, plan, stored, gate).await?;
        let shape = outbox::take(&session, plan, stored, shape, gate).await?;
        check_publication(&session, plan, false).await?;
        let keys = lanes::take(&session, plan, Some(stored.lanes.as_deref())).await?;
        let generation = Generation::new(stored.generation);
        return Ok(Opened { session, replication, generation, timeline, shape, keys, fresh: None });
    }

    // No generation is complete: whatever is left of the last attempt goes, and the next begins.
    if let Some(row) = found {
        if stored.is_none() || !row.get::<_, bool>(2) || row.get::<_, &str>(3) != "pgoutput" {
            return Err(FlowError::Stop(format!("the source has a slot `{slot}` that Banyan did not make")));
        }
        if row.get(0) {
            return Err(FlowError::Busy(format!("another session still reads the slot `{slot}`")));
        }
        session
            .execute("SELECT pg_drop_replication_slot($1)", &[&slot])
            .await
            .map_err(|e| FlowError::sql("dropping the slot of an unfinished snapshot", &e))?;
    }
    check_publication(&session, plan, true).await?;
    let facts = serde_json::json!(schema::all_facts(&session, plan).await?).to_string();
    let mut shape = Shape::lines(&shape(&session, plan).await?);
    if let Some(line) = outbox::line(plan) {
        shape = format!("{shape}\n{line}");
    }
    let nonce = owner::nonce();
    let generation = stored.as_ref().map_or(0, |stored| stored.generation) + 1;
    let since = stored.filter(|stored| stored.state == "creating").map_or(generation, |stored| stored.since);
    session
        .execute(
            "INSERT INTO banyan.capture (install, sync, flow, generation, nonce, state, slot, system_id, timeline, shape, since, facts) \
             VALUES ($1, $2, $3, $4, $5, 'creating', $6, $7, $8, $9, $10, $11::text::jsonb) ON CONFLICT (install, sync, flow) DO UPDATE SET \
             generation = excluded.generation, nonce = excluded.nonce, state = excluded.state, slot = excluded.slot, facts = excluded.facts, \
             system_id = excluded.system_id, timeline = excluded.timeline, shape = excluded.shape, since = excluded.since, reason = NULL, followed = ''",
            &[&names.install, &names.sync, &names.flow.as_str(), &generation, &nonce, &slot, &system.system_id, &timeline.number, &shape, &since, &facts],
        )
        .await
        .map_err(|e| FlowError::sql("noting the next generation", &e))?;
    let keys = lanes::take(&session, plan, None).await?;
    failpoint::reached(Point::GenerationNoted);
    let (consistent_point, snapshot) = create(&session, &mut replication, &slot, board).await?;
    failpoint::reached(Point::GenerationMade);
    let fresh = Some(Fresh {
        since,
        snapshot,
        consistent_point,
        nonce,
        system_id: system.system_id,
        timeline: timeline.number,
    });
    Ok(Opened { session, replication, generation: Generation::new(generation), timeline, shape, keys, fresh })
}

/// While the flow waits before a change of a table's columns: until somebody says that it may go on. The slot keeps the log meanwhile, but no
/// longer than it may.
async fn wait_for_a_person(session: &Session, plan: &Plan, board: &Board) -> Result<(), FlowError> {
    while let Some(stored) = stored(session, plan).await?.filter(|stored| stored.state == "streaming") {
        match schema::waits(session, &plan.names, Generation::new(stored.generation)).await? {
            Some(why) => board.paused(&why.to_string()),
            None => break,
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Notes that START (and the snapshot) stand in Kafka: from here on the slot is kept.
pub(crate) async fn complete(opened: &Opened, plan: &Plan, loads: &[Load]) -> Result<(), FlowError> {
    let names = &plan.names;
    let sql = |e: &tokio_postgres::Error| FlowError::sql("noting that the snapshot is complete", e);
    let begin = kept::begin_all(names, loads);
    opened.session.batch_execute(&format!("BEGIN; {begin}")).await.map_err(|e| sql(&e))?;
    let changed = opened
        .session
        .execute(
            "UPDATE banyan.capture SET state = 'streaming' WHERE install = $1 AND sync = $2 AND flow = $3 AND generation = $4 AND state = 'creating'",
            &[&names.install, &names.sync, &names.flow.as_str(), &opened.generation.get()],
        )
        .await
        .map_err(|e| sql(&e))?;
    if changed != 1 {
        return Err(FlowError::Busy("the slot was dropped, or another process has begun the next generation".into()));
    }
    opened.session.batch_execute("COMMIT").await.map_err(|e| sql(&e))
}

/// The first copies of all tables.
pub(crate) fn loads(opened: &Opened, plan: &Plan) -> Vec<Load> {
    let shapes = Shape::parse_all(&opened.shape);
    let columns = |table: &str| shapes.iter().find(|shape| shape.table == table).map_or(0, |shape| shape.columns.len());
    let one = |table: &PlanTable| Load { table: table.source.clone(), number: 1, columns: columns(&table.source) };
    plan.tables.iter().map(one).collect()
}

/// Starts the stream, and says from where: read while the slot is held, so that nobody can move it any more.
pub(crate) async fn start(opened: &mut Opened, plan: &Plan) -> Result<Lsn, FlowError> {
    let doing = "starting the stream";
    opened.replication.start().await.map_err(|e| FlowError::replication(doing, &e))?;
    opened.replication.wait_started().await.map_err(|e| FlowError::replication(doing, &e))?;
    let row = opened
        .session
        .query_one("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1", &[&plan.names.slot()])
        .await
        .map_err(|e| FlowError::sql(doing, &e))?;
    Ok(Lsn::from(row.get::<_, PgLsn>(0)))
}

/// What the source remembers of the flow's capture.
pub(crate) async fn remembered(session: &Session, names: &FlowNames) -> Result<Option<Remembered>, FlowError> {
    let row = session
        .query_opt(
            "SELECT c.generation, c.nonce, c.state = 'streaming', s.confirmed_flush_lsn, \
                 CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END \
             FROM banyan.capture c LEFT JOIN pg_replication_slots s ON s.slot_name = c.slot \
             WHERE c.install = $1 AND c.sync = $2 AND c.flow = $3",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| FlowError::sql("asking the source for its generation", &e))?;
    Ok(row.map(|row| {
        let lsn = |column: usize| row.get::<_, Option<PgLsn>>(column).map(Lsn::from);
        Remembered {
            generation: Generation::new(row.get(0)),
            nonce: row.get(1),
            streaming: row.get(2),
            confirmed: lsn(3),
            end: lsn(4),
        }
    }))
}

/// The advisory lock of one part of a flow, or [`FlowError::Busy`] with who holds it.
pub(crate) async fn lock(session: &Session, key: i64, part: &str) -> Result<(), FlowError> {
    let row = session
        .query_one("SELECT pg_try_advisory_lock($1)", &[&key])
        .await
        .map_err(|e| FlowError::sql("taking the lock", &e))?;
    if row.get(0) {
        return Ok(());
    }
    Err(FlowError::Busy(format!("another process holds the {part} of this flow")))
}

async fn stored(session: &Session, plan: &Plan) -> Result<Option<Stored>, FlowError> {
    let names = &plan.names;
    let row = session
        .query_opt(
            "SELECT generation, state, system_id, timeline, shape, since, reason, lanes, followed FROM banyan.capture WHERE install = $1 AND sync = $2 AND flow = $3",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| FlowError::sql("reading what was captured", &e))?;
    Ok(row.map(|row| Stored {
        generation: row.get(0),
        state: row.get(1),
        system_id: row.get(2),
        timeline: row.get(3),
        shape: row.get(4),
        since: row.get(5),
        reason: row.get(6),
        lanes: row.get(7),
        followed: row.get(8),
    }))
}

/// Tables that came into the file since: into the publication, and with a word in the log that their copy begins, before any of their
/// changes. Gives the shape with theirs.
async fn take_new_tables(session: &Session, plan: &Plan, stored: &Stored, gate: &Gate) -> Result<String, FlowError> {
    let (doing, names) = ("adding tables to the publication", &plan.names);
    let sql = |e: &tokio_postgres::Error| FlowError::sql(doing, e);
    let mut shapes = Shape::parse_all(&stored.shape);
    let known: Vec<String> = shapes.iter().map(|shape| shape.table.clone()).collect();
    let is_new = |table: &&PlanTable| !known.contains(&table.source);
    let new: Vec<&PlanTable> = plan.tables.iter().filter(is_new).collect();
    if new.is_empty() || !plan.copies_in_chunks() {
        return Ok(stored.shape.clone());
    }
    let published = published(session, names).await?;
    if plan.tables.iter().any(|table| !is_new(&table) && !published.contains(&table.source)) {
        // Changes are missing already: that is not mended by adding the table once more.
        return Ok(stored.shape.clone());
    }
    // A published table without a key refuses its own application's updates.
    gate.pass().await?;
    let whole = shape(session, plan).await?;
    let mut facts = schema::facts::noted(session, names).await?;
    let is_open = owner::postgres::read(session, &names.install, &names.sync, names.flow.source())
        .await?
        .is_some_and(|row| row.open);
    let generation = Generation::new(stored.generation);
    // A transaction each: lanes meet at LOAD, with nothing open.
    for table in new {
        let Some(shape) = whole.iter().find(|shape| shape.table == table.source) else { continue };
        let mut statements = vec!["BEGIN".to_owned()];
        shapes.push(shape.clone());
        facts.extend(schema::facts::read(session, &table.source).await?.map(|facts| (table.source.clone(), facts)));
        if !published.contains(&table.source) {
            let name = quote_table(&table.source);
            statements.push(format!("ALTER PUBLICATION {} ADD TABLE {name}", quote(&names.publication())));
        }
        if is_open {
            let load = Load { table: table.source.clone(), number: 1, columns: shape.columns.len() };
            statements.push(kept::begin(names, &load));
            statements.push(kept::announce(names, &load));
        }
        statements.push(schema::changes::store(names, generation, &shapes, &facts));
        statements.push("COMMIT".to_owned());
        session.batch_execute(&statements.join("; ")).await.map_err(|e| sql(&e))?;
    }
    let tables = Shape::lines(&shapes);
    let lines: Vec<&str> = tables.lines().chain(outbox::lines(&stored.shape)).collect();
    Ok(lines.join("\n"))
}

/// The tables of the publication.
pub(super) async fn published(session: &Session, names: &FlowNames) -> Result<Vec<String>, FlowError> {
    let rows = session
        .query(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = $1",
            &[&names.publication()],
        )
        .await
        .map_err(|e| FlowError::sql("reading the publication", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The publication comes first: a slot that is older never sees it.
pub(super) async fn check_publication(session: &Session, plan: &Plan, may_change: bool) -> Result<(), FlowError> {
    let doing = "making the publication";
    let name = plan.names.publication();
    let sql = |e: &tokio_postgres::Error| FlowError::sql(doing, e);
    // Anything less than every change of every row would be missed in silence. The row filter's column is there from 15 on.
    let exists = session
        .query_opt(
            "SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND p.pubviaroot AND NOT EXISTS \
                 (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND to_jsonb(r) ->> 'prqual' IS NOT NULL) \
             FROM pg_publication p WHERE p.pubname = $1",
            &[&name],
        )
        .await
        .map_err(|e| sql(&e))?;
    let is_whole = exists.as_ref().is_some_and(|row| row.get(0));
    let mut published = published(session, &plan.names).await?;
    let mut wanted: Vec<String> =
        plan.tables.iter().map(|table| table.source.clone()).chain(plan.outbox.clone()).collect();
    published.sort();
    wanted.sort();
    if is_whole && published == wanted {
        return Ok(());
    }
    if !may_change {
        if let Some(outbox) = plan.outbox.as_ref().filter(|outbox| !published.contains(outbox)) {
            return Err(FlowError::Stop(format!(
                "the publication `{name}` does not hold the rows of its outbox `{outbox}` any more: the table was dropped, renamed, made anew, or taken out, and events since then are not sent; \
                 take it out of the file, restart, name it again, and publish by hand what is missing"
            )));
        }
        if let Some(gone) = wanted.iter().find(|table| !published.contains(table)).filter(|_| plan.copies_in_chunks()) {
            return Err(FlowError::Stop(format!(
                "the publication `{name}` does not hold every change of `{gone}` any more: the table was dropped, renamed, made anew, or taken out; copy the tables anew when it is back"
            )));
        }
        let cannot = if plan.copies_in_chunks() { "taking a table out of" } else { "adding a table to" };
        return Err(FlowError::Stop(format!(
            "the publication `{name}` does not hold every change of exactly the sync's tables and its outbox; {cannot} a running sync is not available in this version"
        )));
    }
    let list = |tables: &[String]| tables.iter().map(|table| quote_table(table)).collect::<Vec<_>>().join(", ");
    // Of a flow that carries no table, since all go to functions the other way, the marks in the log are read alone.
    let statement = match (exists.is_some(), wanted.as_slice()) {
        (true, wanted) => {
            let tables = match (wanted, published.as_slice()) {
                ([], []) => String::new(),
                ([], published) => format!("; ALTER PUBLICATION {} DROP TABLE {}", quote(&name), list(published)),
                (wanted, _) => format!("; ALTER PUBLICATION {} SET TABLE {}", quote(&name), list(wanted)),
            };
            format!(
                "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true){tables}",
                quote(&name)
            )
        }
        (false, []) => format!("CREATE PUBLICATION {} WITH (publish_via_partition_root = true)", quote(&name)),
        (false, wanted) => format!(
            "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)",
            quote(&name),
            list(wanted)
        ),
    };
    session.batch_execute(&statement).await.map_err(|e| sql(&e))
}

/// The tables' columns as pgoutput announces them; a stream whose announcement differs has met a schema change.
async fn shape(session: &Session, plan: &Plan) -> Result<Vec<Shape>, FlowError> {
    let doing = "reading the tables' columns";
    let mut shapes = Vec::new();
    for table in &plan.tables {
        let rows = session
            .query(
                "SELECT a.attname::text, a.atttypid, a.atttypmod, c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i \
                     WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
                     AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END) \
                 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                 WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
                &[&quote_table(&table.source)],
            )
            .await
            .map_err(|e| FlowError::sql(doing, &e))?;
        if rows.is_empty() {
            return Err(FlowError::Stop(format!("the source has no table `{}`", table.source)));
        }
        shapes.push(Shape::new(&table.source, rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))));
    }
    Ok(shapes)
}

/// Makes the slot. It waits for every open writer of the server, so meanwhile it is shown whom.
async fn create(
    session: &Session,
    replication: &mut ReplicationClient,
    slot: &str,
    board: &Board,
) -> Result<(Lsn, String), FlowError> {
    let doing = "making the slot";
    let text = |value: Option<&Option<bytes::Bytes>>| {
        value.and_then(Option::as_ref).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let rows =
        replication.simple_query("SELECT pg_backend_pid()").await.map_err(|e| FlowError::replication(doing, &e))?;
    let pid: i32 = text(rows.first().and_then(|row| row.first())).and_then(|pid| pid.parse().ok()).unwrap_or(0);
    let row = session
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .map_err(|e| FlowError::sql(doing, &e))?;
    // From 17 on a standby may keep a copy of the slot, so that it survives a failover.
    let options =
        if row.get::<_, i32>(0) >= 170_000 { "(SNAPSHOT 'export', FAILOVER true)" } else { "EXPORT_SNAPSHOT" };
    let statement = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {options}", quote(slot));
    let making = replication.simple_query(&statement);
    tokio::pin!(making);
    let rows = loop {
        tokio::select! {
            made = &mut making => break made.map_err(|e| FlowError::replication(doing, &e))?,
            () = tokio::time::sleep(Duration::from_secs(1)) => board.waiting(blockers(session, pid).await?),
        }
    };
    board.waiting(None);
    let row = rows.first();
    let point = text(row.and_then(|row| row.get(1))).and_then(|lsn| lsn.parse().ok());
    let snapshot = text(row.and_then(|row| row.get(2)));
    match (point, snapshot) {
        (Some(point), Some(snapshot)) => Ok((point, snapshot)),
        _ => Err(FlowError::Stop("the server's answer to CREATE_REPLICATION_SLOT is not understood".into())),
    }
}

async fn blockers(session: &Session, pid: i32) -> Result<Option<String>, FlowError> {
    let row = session
        .query_one("SELECT array_to_string(pg_blocking_pids($1), ', ')", &[&pid])
        .await
        .map_err(|e| FlowError::sql("asking who holds up the slot", &e))?;
    let pids: &str = row.get(0);
    Ok(Some(if pids.is_empty() {
        "the slot is being made".to_owned()
    } else {
        format!("the slot waits for open transactions of the server processes {pids} of the source")
    }))
}
