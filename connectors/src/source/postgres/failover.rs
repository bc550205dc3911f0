//! The source is another server than before, a standby that was promoted: whether its log goes on where the flow stopped.
//!
//! Only with a copy of the slot that the server before had kept in step there (from 17 on). That nothing was applied of what this server never had is
//! judged by the applier, which is told with each CHECKPOINT where the timelines parted.

use pgwire_replication::ReplicationClient;
use tokio_postgres::types::PgLsn;

use crate::{database::postgres::Session, error::FlowError, owner, plan::Plan, position::Lsn, timeline::Timeline};

const DOING: &str = "following the source to another timeline";

/// Fails while the server is a standby: it writes no timeline that anybody may read. To be asked first, on the session that will stream: what it says of
/// its timeline afterwards stays so.
pub(super) async fn is_primary(replication: &mut ReplicationClient) -> Result<(), FlowError> {
    let asked = replication.simple_query("SELECT pg_is_in_recovery()").await;
    let rows = asked.map_err(|e| FlowError::replication(DOING, &e))?;
    let says = rows.first().and_then(|row| row.first()).and_then(Option::as_ref);
    if says.is_none_or(|says| says.as_ref() != b"f") {
        return Err(FlowError::Busy(
            "the source is a standby: waiting until it is promoted, or the address leads elsewhere".into(),
        ));
    }
    Ok(())
}

/// The timeline of this number, which the server writes.
pub(super) async fn timeline(replication: &mut ReplicationClient, number: i32) -> Result<Timeline, FlowError> {
    if number <= 1 {
        return Ok(Timeline::first(number));
    }
    let asked = replication.simple_query(&format!("TIMELINE_HISTORY {number}")).await;
    let rows = match asked.map_err(|e| FlowError::replication(DOING, &e)) {
        // The file is gone: then nothing is known to have come before.
        Err(FlowError::Sql { state, .. }) if state == "58P01" => return Ok(Timeline::first(number)),
        rows => rows?,
    };
    let history = rows.first().and_then(|row| row.get(1)).and_then(Option::as_ref);
    let history = history.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
    Timeline::parse(number, &history)
        .ok_or_else(|| FlowError::Stop(format!("the source's history of timeline {number} is not understood")))
}

/// Goes on with the slot of a server that has left the timeline `before`. Gives the word by which it is told from others of its timeline.
pub(super) async fn follow(
    session: &Session,
    plan: &Plan,
    before: i32,
    timeline: &Timeline,
) -> Result<String, FlowError> {
    let (names, slot, number) = (&plan.names, plan.names.slot(), timeline.number);
    let lost = |what: String| {
        Err(FlowError::NeedsSnapshot(format!(
            "the source moved from timeline {before} to {number} (a standby was promoted, or a backup restored), and {what}"
        )))
    };
    let Some(parted) = timeline.left(before) else {
        return lost("its log is not the continuation of the one that was read".into());
    };
    let row = session
        .query_opt(
            "SELECT confirmed_flush_lsn, coalesce((to_jsonb(s) ->> 'failover')::bool, false) FROM pg_replication_slots s WHERE slot_name = $1",
            &[&slot],
        )
        .await
        .map_err(|e| FlowError::sql(DOING, &e))?;
    let Some(row) = row else {
        return lost(format!(
            "had no copy of the slot `{slot}`: from PostgreSQL 17 on a standby keeps one with `sync_replication_slots = on`"
        ));
    };
    if !row.get::<_, bool>(1) {
        return lost(format!("its slot `{slot}` is no copy of the one that was read"));
    }
    let confirmed: Lsn = row.get::<_, PgLsn>(0).into();
    if confirmed > parted {
        return lost(format!("somebody has read its slot `{slot}` behind {parted}, where the timelines parted"));
    }
    let followed = owner::nonce();
    let changed = session
        .execute(
            // What a copy notes here may be younger than what its slot has confirmed, and is missing where the standby had the one and not the other.
            "WITH anew AS (UPDATE banyan.snapshot SET state = 'asked' WHERE install = $1 AND sync = $2 AND flow = $3 AND state = 'loading') \
             UPDATE banyan.capture SET timeline = $5, followed = $6 WHERE install = $1 AND sync = $2 AND flow = $3 AND timeline = $4",
            &[&names.install, &names.sync, &names.flow.as_str(), &before, &number, &followed],
        )
        .await
        .map_err(|e| FlowError::sql(DOING, &e))?;
    if changed != 1 {
        return Err(FlowError::Busy("another process follows the source as well".into()));
    }
    let (sync, flow) = (&names.sync, names.flow.as_str());
    tracing::warn!(sync, flow, %parted, from = before, to = number, "the source is a standby that was promoted; the flow goes on there");
    Ok(followed)
}
