//! START, and the copy of the tables as one consistent snapshot sees them.
//!
//! Only the side that is open for writes is copied. Both are read inside the snapshot: the rows, and whether the side is open.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;

use super::{
    charset::Charsets,
    shape::TableShape,
    stored::{self, Fresh, Opened},
    value::Reader,
};
use crate::{
    database::mysql::{Flavor, MysqlSession, quote, quote_table},
    error::FlowError,
    failpoint::{self, Point},
    kafka::produce::Outlet,
    owner,
    plan::Plan,
    position::{Lsn, Phase, Position},
    record::{
        FIRST_TIMELINE, Head, Kind,
        control::{End, Start},
        envelope::{Connector, Op, Stamp, TableFrame, Value},
    },
    status::Board,
};

const DOING: &str = "copying the tables";
/// How often the lock is looked at meanwhile.
const LOOK: Duration = Duration::from_secs(10);

/// A row's values as text, one behind the other.
#[derive(Default)]
pub(crate) struct Cells {
    pub(crate) text: Vec<u8>,
    /// Where each value stands in `text`; `None` is NULL.
    pub(crate) places: Vec<Option<(usize, usize)>>,
}

// === impl Cells ===

impl Cells {
    /// Bytes that it holds.
    pub(crate) fn weight(&self) -> usize {
        self.text.capacity() + self.places.capacity() * size_of::<Option<(usize, usize)>>() + size_of::<Self>()
    }

    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.places.clear();
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = Value<'_>> + Clone {
        self.places.iter().map(|place| place.map_or(Value::Null, |(start, end)| Value::Text(&self.text[start..end])))
    }
}

/// Which connector's name the records carry.
pub(crate) fn connector(flavor: Flavor) -> Connector {
    match flavor {
        Flavor::Mariadb => Connector::Mariadb,
        Flavor::Mysql => Connector::Mysql,
    }
}

/// The frame of a table's records: what the server makes itself is left out.
pub(crate) fn frame(plan: &Plan, flavor: Flavor, table: &TableShape) -> TableFrame {
    let (database, name) = table.name.split_once('.').unwrap_or(("", &table.name));
    let columns = table.columns.iter().filter(|column| !column.is_generated);
    TableFrame::new(
        connector(flavor),
        &plan.names.topic(),
        database,
        database,
        name,
        columns.map(|column| (column.name.as_str(), column.is_key)),
    )
}

/// Writes START and, when the source is open for writes, every row and END. Returns when all of it stands in Kafka.
pub(crate) async fn run(
    plan: &Plan,
    opened: &mut Opened,
    mut fresh: Fresh,
    outlet: &mut Outlet,
    board: &Board,
) -> Result<(), FlowError> {
    let source = plan.names.flow.source();
    let session = &mut fresh.snapshot;
    let Some(row) = owner::mysql::read(session, &plan.names.install, &plan.names.sync, source).await? else {
        return Err(FlowError::Stop("the owner's row is not in the snapshot".into()));
    };
    let now = stored::now(session).await?.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = i64::try_from(now.as_micros()).unwrap_or(0);
    let mut head = Head {
        kind: Kind::Start,
        position: Position { generation: opened.generation, phase: Phase::Snapshot, lsn: Lsn::ZERO, ordinal: 0 },
        from: Lsn::ZERO,
        epoch: row.epoch,
        origin: source,
        timeline: FIRST_TIMELINE,
    };
    let start = Start {
        nonce: fresh.nonce.clone(),
        since: fresh.since,
        consistent_point: opened.from.to_string(),
        snapshot: row.open,
        open: row.open,
        system_id: fresh.system_id.clone(),
        timeline: 0,
        slot: opened.log.clone(),
        at,
        lanes: None,
        loads: Vec::new(),
    };
    outlet.send(head, "START", &[], &json(&start)?, None).await?;
    if row.open {
        board.capture_snapshot();
        head.kind = Kind::Row;
        let used = used_charsets(&opened.shape);
        let charsets = Charsets::read(&mut opened.session, used.iter().map(String::as_str)).await?;
        // Text comes in the column's own character set, as the log has it: one decoder for both.
        session.run(DOING, "SET character_set_results = NULL").await?;
        for table in &opened.shape {
            copy(plan, session, table, &charsets, outlet, &mut head, at, &mut opened.session, &opened.lock).await?;
        }
        failpoint::reached(Point::CopyEnd);
        head.kind = Kind::End;
        let end = End { count: head.position.ordinal, consistent_point: start.consistent_point, at };
        outlet.send(head, "END", &[], &json(&end)?, None).await?;
    }
    outlet.settle().await
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, FlowError> {
    serde_json::to_vec(value).map_err(|_| FlowError::Stop("a record could not be written".into()))
}

/// The character sets of all text columns, and of labels.
pub(crate) fn used_charsets(shape: &[TableShape]) -> Vec<String> {
    let columns = shape.iter().flat_map(|table| &table.columns);
    columns.map(|column| column.charset.clone()).filter(|charset| !charset.is_empty()).collect()
}

#[expect(clippy::too_many_arguments, reason = "what one table's copy needs, and the lock to keep meanwhile")]
async fn copy(
    plan: &Plan,
    session: &mut MysqlSession,
    table: &TableShape,
    charsets: &Charsets,
    outlet: &mut Outlet,
    head: &mut Head,
    at: i64,
    keeper: &mut MysqlSession,
    lock: &str,
) -> Result<(), FlowError> {
    let columns: Vec<_> = table.columns.iter().filter(|column| !column.is_generated).collect();
    let readers: Vec<Reader> = columns.iter().map(|column| Reader::new(column, charsets)).collect();
    let names: Vec<String> = columns.iter().map(|column| quote(&column.name)).collect();
    let frame = frame(plan, session.flavor, table);
    let sql = |error: &mysql_async::Error| FlowError::mysql(DOING, error);
    let statement = format!("SELECT {} FROM {}", names.join(", "), quote_table(&table.name));
    let mut rows = session.conn.exec_iter(statement, ()).await.map_err(|e| sql(&e))?;
    let stamp = Stamp { op: Op::Read, committed: at, xid: 0, lsn: Lsn::ZERO };
    let (mut cells, mut key, mut value) = (Cells::default(), Vec::new(), Vec::new());
    let mut looked = Instant::now();
    while let Some(row) = rows.next().await.map_err(|e| sql(&e))? {
        if looked.elapsed() > LOOK {
            // The server ends a session that says nothing, and the lock goes with it.
            keeper.still_locked(lock).await?;
            looked = Instant::now();
        }
        cells.clear();
        for (at, reader) in readers.iter().enumerate() {
            let place = match row.as_ref(at) {
                None | Some(mysql_async::Value::NULL) => None,
                Some(found) => {
                    let start = cells.text.len();
                    reader
                        .read_client(found, &mut cells.text)
                        .map_err(|bad| bad.at(&table.name, &columns[at].name, "the snapshot"))?;
                    Some((start, cells.text.len()))
                }
            };
            cells.places.push(place);
        }
        key.clear();
        value.clear();
        frame.write_key(&mut key, cells.values());
        frame.write(&mut value, None::<(std::iter::Empty<Value<'_>>, bool)>, Some(cells.values()), stamp);
        failpoint::reached(Point::CopyRow);
        outlet.send(*head, &table.name, &key, &value, None).await?;
        head.position.ordinal += 1;
    }
    Ok(())
}
