//! The position row in MariaDB and MySQL: held by one lock and one lease, moved by compare-and-set with the rows it speaks of.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::batch::{Batch, Wanted};
use crate::{
    database::mysql::{MysqlSession, cell, text},
    error::FlowError,
    names::FlowNames,
    owner,
    plan::Plan,
    position::{Generation, Lsn},
    source::mysql::moment,
    status::Role,
    tables,
    target::applied::{Applied, LEASE_SECONDS},
};

/// The right to move the row.
pub(crate) struct Holder {
    names: FlowNames,
    lease: String,
    mine: String,
}

/// Takes the lock, then the lease, then reads the row. The server ends a session that says nothing for a minute, so a holder that is gone
/// does not hold it for long.
pub(crate) async fn take(plan: &Plan, session: &mut MysqlSession) -> Result<(Holder, Applied), FlowError> {
    let doing = "taking the position row";
    let names = plan.names.clone();
    tables::mysql(session).await?;
    session.lock(&names.application("apply"), "position row").await?;
    let lease = owner::nonce();
    let row = format!(
        "install = {} AND sync = {} AND flow = {} AND part = 0",
        text(&names.install),
        text(&names.sync),
        text(names.flow.as_str())
    );
    session
        .run(
            doing,
            &format!(
                "INSERT IGNORE INTO banyan.position (install, sync, flow, part, generation, phase, applied, ordinal, kafka_offset, record, role, \
                 epoch, system_id, timeline, slot, source_time, lease, lease_until) \
                 VALUES ({}, {}, {}, 0, 0, 'snapshot', 0, 0, 0, '', '', 0, '', 0, '', '1970-01-01', '', SYSDATE(6))",
                text(&names.install),
                text(&names.sync),
                text(names.flow.as_str())
            ),
        )
        .await?;
    let until = format!("SYSDATE(6) + INTERVAL {LEASE_SECONDS} SECOND");
    session
        .run(doing, &format!("UPDATE banyan.position SET lease = {}, lease_until = {until} WHERE {row}", text(&lease)))
        .await?;
    let found = session
        .first(
            doing,
            &format!(
                "SELECT generation, phase, applied, ordinal, kafka_offset, record, role, epoch, system_id, timeline, slot, \
                 TIMESTAMPDIFF(MICROSECOND, '1970-01-01', source_time), tables, followed FROM banyan.position WHERE {row}"
            ),
        )
        .await?
        .ok_or_else(|| FlowError::Busy("the position row was just removed".into()))?;
    let word = |at| cell::<String>(&found, at).unwrap_or_default();
    let applied = Applied {
        generation: Generation::new(cell(&found, 0).unwrap_or(0)),
        phase: word(1)
            .parse()
            .map_err(|_| FlowError::Stop("banyan.position says what this version does not know".into()))?,
        applied: Lsn::new(cell(&found, 2).unwrap_or(0)),
        ordinal: cell(&found, 3).unwrap_or(0),
        offset: cell(&found, 4).unwrap_or(0),
        record: word(5),
        role: match word(6).as_str() {
            "applying" => Some(Role::Applying),
            "watching" => Some(Role::Watching),
            _ => None,
        },
        epoch: cell(&found, 7).unwrap_or(0),
        system_id: word(8),
        timeline: cell(&found, 9).unwrap_or(0),
        followed: word(13),
        slot: word(10),
        source_time: SystemTime::UNIX_EPOCH + Duration::from_micros(cell(&found, 11).unwrap_or(0)),
        tables: plan.tables_of(cell::<String>(&found, 12).as_deref()),
        // Into a database of this kind tables are copied in one piece.
        topics: Vec::new(),
        barrier: String::new(),
        loading: BTreeMap::new(),
    };
    let mine = format!("{row} AND lease = {}", text(&lease));
    Ok((Holder { names, lease, mine }, applied))
}

// === impl Holder ===

impl Holder {
    fn at(&self, applied: &Applied) -> String {
        format!(
            "{} AND generation = {} AND applied = {} AND ordinal = {}",
            self.mine,
            applied.generation,
            applied.applied.get(),
            applied.ordinal
        )
    }

    /// Opens a target transaction: the row is ours and where we left it, and our mark comes before the first row.
    pub(crate) fn begin(&self, batch: &mut Batch, at: &Applied) {
        batch.push(Wanted::Anything { doing: "opening a transaction" }, b"BEGIN");
        let hold = format!(
            "UPDATE banyan.position SET lease_until = SYSDATE(6) + INTERVAL {LEASE_SECONDS} SECOND WHERE {}",
            self.at(at)
        );
        // Whoever reads the log finds the mark before any row, so it comes before this one too.
        let mark = owner::applied_mark(&self.names, at.generation.get(), &self.lease);
        let names = &self.names;
        let say = owner::mysql::say(&names.install, &names.sync, names.flow.as_str(), "applied", &mark);
        batch.push(Wanted::Anything { doing: "writing the loop mark" }, say.as_bytes());
        batch.push(Wanted::Held, hold.as_bytes());
    }

    /// Moves the row from `old` to `new`.
    pub(crate) fn advance(&self, batch: &mut Batch, old: &Applied, new: &Applied) {
        let advance = format!(
            "UPDATE banyan.position SET generation = {}, phase = '{}', applied = {}, ordinal = {}, kafka_offset = {}, record = {}, role = '{}', \
             epoch = {}, system_id = {}, timeline = {}, slot = {}, source_time = '{}', tables = {}, followed = {}, \
             lease_until = SYSDATE(6) + INTERVAL {LEASE_SECONDS} SECOND WHERE {}",
            new.generation,
            new.phase.as_str(),
            new.applied.get(),
            new.ordinal,
            new.offset,
            text(&new.record),
            new.role.map_or("", Role::as_str),
            new.epoch,
            text(&new.system_id),
            new.timeline,
            text(&new.slot),
            moment(new.source_time),
            text(&new.tables_text()),
            text(&new.followed),
            self.at(old)
        );
        batch.push(Wanted::Held, advance.as_bytes());
    }
}
