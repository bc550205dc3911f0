//! The position row: how far a flow has written, held by one lock and one lease, moved by compare-and-set with the rows it speaks of.

use std::time::SystemTime;

use tokio_postgres::{Statement, types::PgLsn};

use super::{load, origin, pipe::Pipe};
use crate::{
    database::postgres::Session,
    error::{COMMITTING, FlowError},
    names::{FlowNames, literal},
    owner,
    plan::Plan,
    position::{Generation, Phase},
    status::Role,
    tables,
    target::applied::{Applied, LEASE_SECONDS, LOADING},
};

/// The right to move the row.
pub(crate) struct Holder {
    names: FlowNames,
    lease: String,
    check: Statement,
    advance: Statement,
}

const COLUMNS: &str = "generation, phase, applied, ordinal, kafka_offset, record, role, epoch, system_id, timeline, slot, source_time, tables, followed";

/// Takes the lock, then the lease, then reads the row.
pub(crate) async fn take(plan: &Plan, session: Session) -> Result<(Pipe, Holder, Applied), FlowError> {
    let doing = "taking the position row";
    let sql = |error: &tokio_postgres::Error| FlowError::sql(doing, error);
    let names = plan.names.clone();
    tables::postgres(&session).await?;
    lock(&session, &names).await?;
    origin::take(&session, &names.slot()).await?;
    let lease = owner::nonce();
    let flow = names.flow.as_str();
    session
        .execute(
            "INSERT INTO banyan.position (install, sync, flow, partition, generation, phase, applied, ordinal, kafka_offset, record, role, epoch, \
             system_id, timeline, slot, source_time, lease, lease_until) \
             VALUES ($1, $2, $3, 0, 0, 'snapshot', '0/0', 0, 0, '', '', 0, '', 0, '', 'epoch', '', now()) ON CONFLICT DO NOTHING",
            &[&names.install, &names.sync, &flow],
        )
        .await
        .map_err(|e| sql(&e))?;
    let take = format!(
        "UPDATE banyan.position SET lease = $4, lease_until = now() + interval '{LEASE_SECONDS} s' \
         WHERE install = $1 AND sync = $2 AND flow = $3 AND partition = 0 RETURNING {COLUMNS}"
    );
    let row = session.query_one(&take, &[&names.install, &names.sync, &flow, &lease]).await.map_err(|e| sql(&e))?;
    let role = match row.get::<_, &str>(6) {
        "applying" => Some(Role::Applying),
        "watching" => Some(Role::Watching),
        _ => None,
    };
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
        role,
        epoch: row.get(7),
        system_id: row.get(8),
        timeline: row.get(9),
        followed: row.get(13),
        slot: row.get(10),
        source_time: row.get(11),
        tables: plan.tables_of(row.get(12)),
        loading: load::loading(&session, &names).await?,
    };
    let (check, advance) = prepare(&session, &names, &lease).await.map_err(|e| sql(&e))?;
    Ok((Pipe::new(session), Holder { names, lease, check, advance }, applied))
}

async fn prepare(
    session: &Session,
    names: &FlowNames,
    lease: &str,
) -> Result<(Statement, Statement), tokio_postgres::Error> {
    let mine = format!(
        "install = {} AND sync = {} AND flow = '{}' AND partition = 0 AND lease = '{lease}' AND generation = $1 AND applied = $2 AND ordinal = $3",
        literal(&names.install),
        literal(&names.sync),
        names.flow,
    );
    let check = session.prepare(&format!("SELECT 1 FROM banyan.position WHERE {mine} FOR UPDATE")).await?;
    let advance = session
        .prepare(&format!(
            "UPDATE banyan.position SET generation = $4, phase = $5, applied = $6, ordinal = $7, kafka_offset = $8, record = $9, role = $10, \
             epoch = $11, system_id = $12, timeline = $13, slot = $14, source_time = $15, tables = $16, followed = $17, lease_until = now() + interval '{LEASE_SECONDS} s' WHERE {mine}"
        ))
        .await?;
    Ok((check, advance))
}

/// Whoever holds the lock lives, or its connection is not yet known to be dead. When its lease is over it may be ended, unless it is at
/// work: a long transaction cannot renew the lease before its end, and two processes would end one another for ever.
async fn lock(session: &Session, names: &FlowNames) -> Result<(), FlowError> {
    let doing = "taking the position row";
    let sql = |error: &tokio_postgres::Error| FlowError::sql(doing, error);
    let key = names.lock("apply");
    let row = session.query_one("SELECT pg_try_advisory_lock($1)", &[&key]).await.map_err(|e| sql(&e))?;
    if row.get(0) {
        return Ok(());
    }
    let ended = session
        .query(
            &format!("SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid), banyan.position p \
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND ((l.classid::bigint << 32) | l.objid::bigint) = $1 \
             AND p.install = $2 AND p.sync = $3 AND p.flow = $4 AND p.partition = 0 AND p.lease_until < now() \
             AND a.state <> 'active' AND a.state_change < now() - interval '{LEASE_SECONDS} s'"),
            &[&key, &names.install, &names.sync, &names.flow.as_str()],
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
