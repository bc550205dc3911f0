//! How much log the server keeps for a flow's slot, and the end of the slot when that is more than the file allows.
//!
//! A slot that nobody reads keeps log until the disk is full, and then the whole server stops, the application with it. Copying tables anew
//! costs hours; so the slot goes, and says so. The note in `banyan.capture` comes first: whoever finds it finishes the dropping, and nobody
//! makes another slot before a person has seen it.

use bytesize::ByteSize;
use tokio_postgres::{Row, error::SqlState, types::PgLsn};

use crate::{config::OnExceed, database::postgres::Session, error::FlowError, plan::Plan, source::Measured};

/// The state in `banyan.capture` of a flow whose slot was dropped; `reason` is beside it.
pub(super) const DROPPED: &str = "dropped";

/// The slot as the server and `banyan.capture` show it.
struct Standing {
    state: String,
    generation: i64,
    reason: Option<String>,
    /// There is such a slot in this database.
    exists: bool,
    /// The server has deleted log that it needs.
    is_lost: bool,
    /// Why, where the server says so (17 on).
    why_lost: Option<String>,
}

/// Where the log ends, and how much of it is kept for the slot.
pub(crate) async fn measure(session: &Session, plan: &Plan) -> Result<Measured, FlowError> {
    let row = session
        .query_one(
            "SELECT pg_current_wal_lsn(), clock_timestamp(), \
                 (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $1), \
                 to_regclass('banyan.capture') IS NOT NULL",
            &[&plan.names.slot()],
        )
        .await
        .map_err(|e| FlowError::sql("measuring", &e))?;
    let retained = row.get::<_, Option<i64>>(2).map(|bytes| u64::try_from(bytes).unwrap_or(0));
    let given_up = if row.get(3) { given_up(session, plan, retained).await? } else { None };
    Ok(Measured { end: row.get::<_, PgLsn>(0).into(), now: row.get(1), retained, given_up })
}

/// What a person reads of a slot that was dropped.
pub(super) fn reason(noted: Option<String>) -> String {
    noted.unwrap_or_else(|| "the slot was dropped".into())
}

/// Why nothing is kept for the flow any more; ends the slot when its time has come.
async fn given_up(session: &Session, plan: &Plan, retained: Option<u64>) -> Result<Option<String>, FlowError> {
    let Some(standing) = Standing::read(session, plan).await? else { return Ok(None) };
    if standing.state == DROPPED {
        let why = reason(standing.reason);
        return if standing.exists { finish(session, plan, why).await.map(Some) } else { Ok(Some(why)) };
    }
    let Some(why) = standing.is_over(plan, retained) else { return Ok(None) };
    let names = &plan.names;
    let noted = session
        .execute(
            "UPDATE banyan.capture SET state = $1, reason = $2 \
             WHERE install = $3 AND sync = $4 AND flow = $5 AND generation = $6 AND state = $7",
            &[&DROPPED, &why, &names.install, &names.sync, &names.flow.as_str(), &standing.generation, &standing.state],
        )
        .await
        .map_err(|e| FlowError::sql("noting that the slot is dropped", &e))?;
    if noted == 0 {
        return Ok(None);
    }
    tracing::error!(sync = names.sync, flow = names.flow.as_str(), retained, why, "the flow's slot is given up");
    finish(session, plan, why).await.map(Some)
}

/// Drops a slot that is given up. One that its server does not let go is told with the reason, and tried again with the next measurement.
async fn finish(session: &Session, plan: &Plan, why: String) -> Result<String, FlowError> {
    match drop_slot(session, plan).await {
        Ok(()) => Ok(why),
        Err(error @ FlowError::Sql { .. }) => Ok(format!("{why}; it is still there ({error})")),
        Err(error) => Err(error),
    }
}

/// Ends whoever reads the slot, and drops it. One that is still being read is tried again with the next measurement.
async fn drop_slot(session: &Session, plan: &Plan) -> Result<(), FlowError> {
    let doing = "dropping the slot";
    let names = &plan.names;
    session
        .execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL",
            &[&names.slot()],
        )
        .await
        .map_err(|e| FlowError::sql(doing, &e))?;
    // While the row is held nobody can begin the next generation, whose slot has the same name.
    let dropped = session
        .execute(
            "WITH noted AS MATERIALIZED (SELECT slot FROM banyan.capture \
                 WHERE install = $1 AND sync = $2 AND flow = $3 AND state = $4 FOR UPDATE) \
             SELECT pg_drop_replication_slot(s.slot_name) FROM noted JOIN pg_replication_slots s ON s.slot_name = noted.slot",
            &[&names.install, &names.sync, &names.flow.as_str(), &DROPPED],
        )
        .await;
    match dropped {
        Ok(_) => Ok(()),
        // Still being read; or gone meanwhile.
        Err(error) if matches!(error.code(), Some(&SqlState::OBJECT_IN_USE | &SqlState::UNDEFINED_OBJECT)) => Ok(()),
        Err(error) => Err(FlowError::sql(doing, &error)),
    }
}

// === impl Standing ===

impl Standing {
    async fn read(session: &Session, plan: &Plan) -> Result<Option<Self>, FlowError> {
        let names = &plan.names;
        // Columns that not every server or installation has are read out of the whole row.
        let row = session
            .query_opt(
                "SELECT c.state, c.generation, to_jsonb(c) ->> 'reason', s.slot_name IS NOT NULL, \
                     coalesce(s.wal_status, '') = 'lost', to_jsonb(s) ->> 'invalidation_reason' \
                 FROM banyan.capture c LEFT JOIN pg_replication_slots s ON s.slot_name = c.slot AND s.database = current_database() \
                 WHERE c.install = $1 AND c.sync = $2 AND c.flow = $3",
                &[&names.install, &names.sync, &names.flow.as_str()],
            )
            .await
            .map_err(|e| FlowError::sql("looking at the slot", &e))?;
        let read = |row: Row| Self {
            state: row.get(0),
            generation: row.get(1),
            reason: row.get(2),
            exists: row.get(3),
            is_lost: row.get(4),
            why_lost: row.get(5),
        };
        Ok(row.map(read))
    }

    /// Why the slot must go, if it must. One of an unfinished copy keeps log like any other; whether it is lost shows itself when the copy
    /// begins again.
    fn is_over(&self, plan: &Plan, retained: Option<u64>) -> Option<String> {
        if !self.exists || !matches!(self.state.as_str(), "creating" | "streaming") {
            return None;
        }
        let slot = plan.names.slot();
        if self.is_lost && self.state == "streaming" {
            return Some(lost(&slot, self.why_lost.as_deref()));
        }
        let limit = plan.slot.max_retained.as_u64();
        match retained {
            Some(retained) if retained > limit && plan.slot.on_exceed == OnExceed::Drop => Some(format!(
                "the source kept {} of log for the slot `{slot}`, and `slot.max_retained` is {}: the slot was dropped before the disk fills",
                ByteSize(retained).display().iec(),
                ByteSize(limit).display().iec()
            )),
            _ => None,
        }
    }
}

/// What the server itself has done to a slot.
pub(super) fn lost(slot: &str, why: Option<&str>) -> String {
    match why {
        None | Some("wal_removed") => format!(
            "the source has deleted log that the slot `{slot}` still needed: it keeps no more than its `max_slot_wal_keep_size`"
        ),
        Some(why) => format!("the source has invalidated the slot `{slot}` ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_slot_says_who_took_it() {
        assert!(lost("s", None).ends_with("`max_slot_wal_keep_size`"));
        assert!(lost("s", Some("wal_removed")).ends_with("`max_slot_wal_keep_size`"));
        assert_eq!(lost("s", Some("idle_timeout")), "the source has invalidated the slot `s` (idle_timeout)");
    }
}
