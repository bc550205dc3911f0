//! Free replication slots and WAL senders: one of each a flow, on the server that it reads; and a replication origin on the server that it
//! writes, where Banyan's role may take one.
//!
//! They belong to the server, so what all syncs of a file still need on it is counted together, and two databases of
//! one server too.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::FlowError,
    names::{Flow, FlowNames},
};

use super::{
    Check, Finding, Findings,
    facts::{Place, PostgresPlace, Subject},
};

/// What one server has, and what is wanted of it.
struct Need<'s, 'c> {
    subject: &'s Subject<'c>,
    place: &'s Place,
    own: &'s PostgresPlace,
    slots: BTreeSet<String>,
    origins: BTreeSet<String>,
}

/// Free ones, and the settings that bound them.
struct Room {
    slots: i64,
    max_slots: i64,
    senders: i64,
    max_senders: i64,
    /// Those of the wanted slots that already stand, and those that are being read.
    standing: i64,
    reading: i64,
    /// Nothing when the role may not take an origin: then none is wanted.
    origins: Option<i64>,
    max_origins: i64,
    standing_origins: i64,
    /// Standbys that read the server's log, and those that slots do not run ahead of; nothing before 17.
    standbys: i64,
    synchronized: Option<String>,
}

const ROOM: &str = "SELECT current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots), \
     current_setting('max_replication_slots')::int8, \
     current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'), \
     current_setting('max_wal_senders')::int8, \
     (SELECT count(*) FROM pg_replication_slots WHERE slot_name::text = ANY ($1)), \
     (SELECT count(*) FROM pg_replication_slots WHERE slot_name::text = ANY ($1) AND active), \
     CASE WHEN has_function_privilege('pg_replication_origin_session_setup(text)', 'EXECUTE') \
         THEN m.origins - (SELECT count(*) FROM pg_replication_origin) END, m.origins, \
     (SELECT count(*) FROM pg_replication_origin WHERE roname = ANY ($2)), \
     (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical' AND active), \
     current_setting('synchronized_standby_slots', true) \
     FROM (SELECT coalesce(current_setting('max_active_replication_origins', true), \
         current_setting('max_replication_slots'))::int8) AS m (origins)";

/// Looks at the servers of all these syncs.
pub(super) async fn check(subjects: &[Subject<'_>]) -> Vec<Finding> {
    let mut servers: BTreeMap<&str, Need<'_, '_>> = BTreeMap::new();
    for subject in subjects {
        for flow in Flow::BOTH {
            let name = FlowNames::new(&subject.install, subject.name, flow).slot();
            for side in [flow.source(), flow.target()] {
                let place = subject.place(side);
                let Some(own) = place.postgres() else { continue };
                let need = servers.entry(&own.server.identity);
                let need = need.or_insert_with(|| Need {
                    subject,
                    place,
                    own,
                    slots: BTreeSet::new(),
                    origins: BTreeSet::new(),
                });
                let names = if side == flow.source() { &mut need.slots } else { &mut need.origins };
                names.insert(name.clone());
            }
        }
    }
    let mut list = Vec::new();
    for need in servers.values() {
        let mut findings = Findings { sync: need.subject.name, list: Vec::new() };
        match room(need).await {
            Ok(room) => compare(need, &room, &mut findings),
            Err(error) => findings.unfinished(Check::Slots, &error),
        }
        list.append(&mut findings.list);
    }
    list
}

async fn room(need: &Need<'_, '_>) -> Result<Room, FlowError> {
    let slots: Vec<&String> = need.slots.iter().collect();
    let origins: Vec<&String> = need.origins.iter().collect();
    let row = need.own.session.query_one(ROOM, &[&slots, &origins]).await;
    let row = row.map_err(|error| FlowError::sql("counting replication slots", &error))?;
    Ok(Room {
        slots: row.get(0),
        max_slots: row.get(1),
        senders: row.get(2),
        max_senders: row.get(3),
        standing: row.get(4),
        reading: row.get(5),
        origins: row.get(6),
        max_origins: row.get(7),
        standing_origins: row.get(8),
        standbys: row.get(9),
        synchronized: row.get(10),
    })
}

fn compare(need: &Need<'_, '_>, room: &Room, findings: &mut Findings<'_>) {
    let wanted = i64::try_from(need.slots.len()).unwrap_or(i64::MAX);
    let kinds = [
        ("replication slots", "max_replication_slots", room.slots, room.max_slots, wanted - room.standing),
        ("WAL senders", "max_wal_senders", room.senders, room.max_senders, wanted - room.reading),
    ];
    for (kind, setting, free, most, wanted) in kinds {
        if free < wanted {
            findings.error(
                Check::Slots,
                None,
                need.place.name(),
                format!("Banyan needs {wanted} more {kind} on this server, and {} of {most} are free", free.max(0)),
                format!(
                    "run `ALTER SYSTEM SET {setting} = {}` and restart the server, or drop what nobody reads any more",
                    most + wanted - free
                ),
            );
        }
    }
    if room.standbys > 0 && room.synchronized.as_deref() == Some("") {
        findings.warning(
            Check::Slots,
            None,
            need.place.name(),
            format!(
                "{} standby{} this server's log, and `synchronized_standby_slots` names none: one that is promoted may lack what stands in Kafka already, and then the tables must be copied anew",
                room.standbys,
                if room.standbys == 1 { " reads" } else { "s read" },
            ),
            "run `ALTER SYSTEM SET synchronized_standby_slots = '…'` with the slots of those that may be promoted, and `sync_replication_slots = on` there",
        );
    }
    let wanted = i64::try_from(need.origins.len()).unwrap_or(i64::MAX) - room.standing_origins;
    if let Some(free) = room.origins.filter(|free| *free < wanted) {
        findings.warning(
            Check::Slots,
            None,
            need.place.name(),
            format!(
                "Banyan would take {wanted} more replication origins on this server, and {} of {} are free",
                free.max(0),
                room.max_origins
            ),
            "nothing has to be done: it applies without; other readers of this server's log then cannot tell its writes by their origin",
        );
    }
}
