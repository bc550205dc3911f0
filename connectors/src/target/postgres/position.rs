//! The position row: how far a flow has written, held by one lock and one lease, moved by compare-and-set with the rows it speaks of.

use std::{collections::BTreeMap, time::SystemTime};

use tokio_postgres::{Statement, types::PgLsn};

use super::{load, origin, pipe::Pipe};
use crate::{
    database::postgres::Session,
    error::{COMMITTING, FlowError},
    names::{FlowNames, literal},
    owner,
    plan::Plan,
    position::{Generation, Lsn, Phase, Position},
    status::Role,
    tables,
    target::applied::{Applied, LEASE_SECONDS, LOADING, Place},
};

/// The right to move the row.
pub(crate) struct Holder {
    names: FlowNames,
    /// In the order of the plan.
    tables: Vec<String>,
    lease: String,
    check: Statement,
    advance: Statement,
}

const COLUMNS: &str = "generation, phase, applied, ordinal, kafka_offset, record, role, epoch, system_id, timeline, slot, source_time, tables, \
     topics, barrier, followed";

/// Takes the lock, then the lease, then reads the row.
pub(crate) async fn take(plan: &Plan, session: Session) -> Result<(Pipe, Holder, Applied), FlowError> {
    let doing = "taking the position row";
    let sql = |error: &tokio_postgres::Error| FlowError::sql(doing, error);
    let names = plan.names.clone();
    tables::postgres(&session).await?;
    let (partition, lanes) = (plan.partition(), i32::try_from(plan.lanes.unwrap_or(1)).unwrap_or(i32::MAX));
    lock(&session, plan).await?;
    origin::take(&session, &plan.of_lane(&names.slot(), '_')).await?;
    let lease = owner::nonce();
    let flow = names.flow.as_str();
    session
        .execute(
            "INSERT INTO banyan.position (install, sync, flow, partition, generation, phase, applied, ordinal, kafka_offset, record, role, epoch, \
             system_id, timeline, slot, source_time, lease, lease_until) \
             VALUES ($1, $2, $3, $4, 0, 'snapshot', '0/0', 0, 0, '', '', 0, '', 0, '', 'epoch', '', now()) ON CONFLICT DO NOTHING",
            &[&names.install, &names.sync, &flow, &partition],
        )
        .await
        .map_err(|e| sql(&e))?;
    let take = format!(
        "UPDATE banyan.position SET lease = $4, lease_until = now() + interval '{LEASE_SECONDS} s', lanes = $6 \
         WHERE install = $1 AND sync = $2 AND flow = $3 AND partition = $5 RETURNING {COLUMNS}"
    );
    let row = session
        .query_one(&take, &[&names.install, &names.sync, &flow, &lease, &partition, &lanes])
        .await
        .map_err(|e| sql(&e))?;
    let applied = Applied {
        generation: Generation::new(row.get(0)),
        phase: match row.get::<_, &str>(1) {
            LOADING => Phase::Stream,
            phase => phase
                .parse()
                .map_err(|_| FlowError::Stop("banyan.position says what this version does not know".into()))?,
        },
        applied: row.get::<_, PgLsn>(2).into(),
        ordinal: row.get::<_, i64>(3).cast_unsigned(),
        offset: row.get(4),
        record: row.get(5),
        role: role(row.get(6)),
        epoch: row.get(7),
        system_id: row.get(8),
        timeline: row.get(9),
        followed: row.get(15),
        slot: row.get(10),
        source_time: row.get(11),
        tables: plan.tables_of(row.get(12)),
        loading: load::loading(&session, &names).await?,
        topics: topics_of(plan, row.get(13))?,
        barrier: row.get(14),
    };
    let (check, advance) = prepare(&session, plan, &lease).await.map_err(|e| sql(&e))?;
    let tables = plan.tables.iter().filter(|_| plan.lanes.is_some()).map(|table| table.source.clone()).collect();
    Ok((Pipe::new(session), Holder { names, tables, lease, check, advance }, applied))
}

/// `topics` of the row: by table, the next offset and what the record before it carries.
fn topics_of(plan: &Plan, said: Option<&str>) -> Result<Vec<Option<Place>>, FlowError> {
    let unknown = |()| FlowError::Stop("banyan.position says what this version does not know".into());
    let said: BTreeMap<String, (i64, String)> = match said {
        Some(said) => serde_json::from_str(said).map_err(|_| unknown(()))?,
        None => BTreeMap::new(),
    };
    let one = |(offset, record): &(i64, String)| {
        record.parse().map(|position| Place { offset: *offset, position }).map_err(|_| unknown(()))
    };
    plan.tables.iter().map(|table| said.get(&table.source).map(one).transpose()).collect()
}

async fn prepare(session: &Session, plan: &Plan, lease: &str) -> Result<(Statement, Statement), tokio_postgres::Error> {
    let (names, partition) = (&plan.names, plan.partition());
    let mine = format!(
        "install = {} AND sync = {} AND flow = '{}' AND partition = {partition} AND lease = '{lease}' AND generation = $1 AND applied = $2 AND ordinal = $3",
        literal(&names.install),
        literal(&names.sync),
        names.flow,
    );
    let check = session.prepare(&format!("SELECT 1 FROM banyan.position WHERE {mine} FOR UPDATE")).await?;
    let advance = session
        .prepare(&format!(
            "UPDATE banyan.position SET generation = $4, phase = $5, applied = $6, ordinal = $7, kafka_offset = $8, record = $9, role = $10, \
             epoch = $11, system_id = $12, timeline = $13, slot = $14, source_time = $15, tables = $16, topics = $17, barrier = $18, followed = $19, lease_until = now() + interval '{LEASE_SECONDS} s' WHERE {mine}"
        ))
        .await?;
    Ok((check, advance))
}

/// Whoever holds the lock lives, or its connection is not yet known to be dead. When its lease is over it may be ended, unless it is at
/// work: a long transaction cannot renew the lease before its end, and two processes would end one another for ever.
async fn lock(session: &Session, plan: &Plan) -> Result<(), FlowError> {
    let (names, partition) = (&plan.names, plan.partition());
    let doing = "taking the position row";
    let sql = |error: &tokio_postgres::Error| FlowError::sql(doing, error);
    let key = names.lock(&plan.of_lane("apply", '/'));
    let row = session.query_one("SELECT pg_try_advisory_lock($1)", &[&key]).await.map_err(|e| sql(&e))?;
    if row.get(0) {
        return Ok(());
    }
    let ended = session
        .query(
            &format!("SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid), banyan.position p \
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND ((l.classid::bigint << 32) | l.objid::bigint) = $1 \
             AND p.install = $2 AND p.sync = $3 AND p.flow = $4 AND p.partition = $5 AND p.lease_until < now() \
             AND a.state <> 'active' AND a.state_change < now() - interval '{LEASE_SECONDS} s'"),
            &[&key, &names.install, &names.sync, &names.flow.as_str(), &partition],
        )
        .await
        .map_err(|e| sql(&e))?;
    let what = if ended.is_empty() { "holds" } else { "held beyond its lease" };
    Err(FlowError::Busy(format!("another process {what} the position row of this flow")))
}

/// What the row is compared by.
fn parameters(at: &Applied) -> [Parameter; 3] {
    [Parameter::Int(at.generation.get()), Parameter::Lsn(at.applied.into()), Parameter::Int(at.ordinal.cast_signed())]
}

/// A parameter that outlives the call, because statements are pipelined.
#[derive(Debug)]
pub(crate) enum Parameter {
    Int(i64),
    Int4(i32),
    Lsn(PgLsn),
    Text(String),
    Maybe(Option<String>),
    /// Its text.
    Json(Option<String>),
    Time(SystemTime),
    Ints(Vec<i64>),
    Texts(Vec<String>),
    Bytes(Vec<Vec<u8>>),
}

impl tokio_postgres::types::ToSql for Parameter {
    fn to_sql(
        &self,
        ty: &tokio_postgres::types::Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Int(value) => value.to_sql(ty, out),
            Self::Int4(value) => value.to_sql(ty, out),
            Self::Lsn(value) => value.to_sql(ty, out),
            Self::Text(value) => value.to_sql(ty, out),
            Self::Maybe(value) => value.to_sql(ty, out),
            Self::Json(value) => value.to_sql(ty, out),
            Self::Time(value) => value.to_sql(ty, out),
            Self::Ints(values) => values.to_sql(ty, out),
            Self::Texts(values) => values.to_sql(ty, out),
            Self::Bytes(values) => values.to_sql(ty, out),
        }
    }

    fn accepts(_: &tokio_postgres::types::Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

// === impl Holder ===

impl Holder {
    /// Opens a target transaction: the row is ours and where we left it, and our mark comes before the first row.
    pub(crate) async fn begin(&self, pipe: &mut Pipe, at: &Applied) -> Result<(), FlowError> {
        pipe.simple("opening a transaction", "BEGIN".into()).await?;
        pipe.execute(self.check.clone(), parameters(at).into(), 0, |found| {
            judge(found, "another applier has moved the position row")
        })
        .await?;
        let mark = owner::applied_mark(&self.names, at.generation.get(), &self.lease);
        pipe.simple(
            "writing the loop mark",
            format!("SELECT pg_logical_emit_message(true, 'banyan.applied', {})", literal(&mark)),
        )
        .await
    }

    fn topics(&self, applied: &Applied) -> Option<String> {
        if self.tables.is_empty() {
            return None;
        }
        let places = self.tables.iter().zip(&applied.topics);
        let said: BTreeMap<&str, (i64, String)> = places
            .filter_map(|(table, place)| {
                place.map(|place| (table.as_str(), (place.offset, place.position.to_string())))
            })
            .collect();
        Some(serde_json::json!(said).to_string())
    }

    /// Moves the row from `old` to `new`. Returns when every answer of the transaction is known to be good, before the word that makes it count.
    pub(crate) async fn advance(&self, pipe: &mut Pipe, old: &Applied, new: &Applied) -> Result<(), FlowError> {
        let mut parameters: Vec<Parameter> = parameters(old).into();
        parameters.extend([
            Parameter::Int(new.generation.get()),
            Parameter::Text(new.phase_text().into()),
            Parameter::Lsn(new.applied.into()),
            Parameter::Int(new.ordinal.cast_signed()),
            Parameter::Int(new.offset),
            Parameter::Text(new.record.clone()),
            Parameter::Text(new.role.map_or("", Role::as_str).into()),
            Parameter::Int(new.epoch),
            Parameter::Text(new.system_id.clone()),
            Parameter::Int4(new.timeline),
            Parameter::Text(new.slot.clone()),
            Parameter::Time(new.source_time),
            Parameter::Text(new.tables_text()),
            Parameter::Maybe(self.topics(new)),
            Parameter::Text(new.barrier.clone()),
            Parameter::Text(new.followed.clone()),
        ]);
        pipe.execute(self.advance.clone(), parameters, 0, |found| {
            judge(found, "another applier has taken the position row")
        })
        .await?;
        pipe.drain().await
    }
}

/// The word that makes count what a holder has advanced to.
pub(crate) async fn commit(pipe: &mut Pipe) -> Result<(), FlowError> {
    pipe.simple(COMMITTING, "COMMIT".into()).await?;
    pipe.drain().await
}

fn judge(found: Result<u64, tokio_postgres::Error>, lost: &'static str) -> Result<(), FlowError> {
    match found {
        Ok(1) => Ok(()),
        Ok(_) => Err(FlowError::Busy(lost.into())),
        Err(error) => Err(FlowError::sql("moving the position row", &error)),
    }
}

/// As far as all lanes of `banyan.position q` are that are asked for.
pub(crate) const APPLIED: &str = "(array_agg(q.applied ORDER BY q.applied))[1]";

/// Whether they are all lanes of their flow, of one server. A row of an earlier version is the only one.
pub(crate) const ALL_LANES: &str = "count(*) = max(coalesce((to_jsonb(q) ->> 'lanes')::int, 1)) AND min(q.system_id) = max(q.system_id) \
     AND min(q.timeline) = max(q.timeline)";

fn role(text: &str) -> Option<Role> {
    match text {
        "applying" => Some(Role::Applying),
        "watching" => Some(Role::Watching),
        _ => None,
    }
}

/// Where a lane stands, as all lanes see it, and whoever shows how far they are.
#[derive(Debug, Clone)]
pub(crate) struct LaneRow {
    pub(crate) lane: u32,
    pub(crate) role: Option<Role>,
    pub(crate) epoch: i64,
    pub(crate) generation: Generation,
    pub(crate) phase: String,
    pub(crate) applied: Lsn,
    source_time: SystemTime,
    /// The record at which it waits for the others.
    pub(crate) barrier: Option<Position>,
}

impl LaneRow {
    /// Nothing while tables are being filled.
    pub(crate) fn watermark(&self) -> Option<(Lsn, SystemTime)> {
        (self.phase == Phase::Stream.as_str()).then_some((self.applied, self.source_time))
    }
}

/// The rows of all lanes of a flow that anybody has ever applied.
pub(crate) async fn lanes(session: &Session, names: &FlowNames) -> Result<Vec<LaneRow>, FlowError> {
    let rows = session
        .query(
            "SELECT partition, role, epoch, generation, phase, applied, source_time, barrier FROM banyan.position \
             WHERE install = $1 AND sync = $2 AND flow = $3",
            &[&names.install, &names.sync, &names.flow.as_str()],
        )
        .await
        .map_err(|e| FlowError::sql("asking where the lanes are", &e))?;
    let one = |row: &tokio_postgres::Row| LaneRow {
        lane: u32::try_from(row.get::<_, i32>(0)).unwrap_or(0),
        role: role(row.get(1)),
        epoch: row.get(2),
        generation: Generation::new(row.get(3)),
        phase: row.get(4),
        applied: row.get::<_, PgLsn>(5).into(),
        source_time: row.get(6),
        barrier: row.get::<_, &str>(7).parse().ok(),
    };
    Ok(rows.iter().map(one).collect())
}
