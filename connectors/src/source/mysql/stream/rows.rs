//! The rows of the log: whose they are, under which columns, and what becomes of them.

use super::{
    super::{
        charset::Charsets,
        event::{BadEvent, Change, Cursor, Rows, TableMap, is_null},
        outbox::{self, OutboxReader},
        schema::{Announced as AnnouncedColumn, Here},
        shape,
        snapshot::{Cells, frame, used_charsets},
        value::{self, Reader},
    },
    Announced, Stream, Whose, first,
};
use crate::{
    database::mysql::MysqlSession,
    error::FlowError,
    failpoint::{self, Point},
    owner,
    record::{
        Kind,
        envelope::{Op, Stamp, Value},
    },
};

// === impl Stream ===

impl Stream<'_> {
    pub(super) async fn table_map(&mut self, data: &[u8], session: &mut MysqlSession) -> Result<(), FlowError> {
        let bad = |_: BadEvent| FlowError::Malformed {
            what: "a table that is not the binlog's",
            at: self.read_to.to_string(),
        };
        let id = Cursor(data).little(6).map_err(bad)?;
        if self.maps.get(&id).is_some_and(|known| known.bytes == data) {
            return Ok(());
        }
        let map = TableMap::decode(data).map_err(bad)?;
        let name = format!("{}.{}", map.database, map.table);
        let mut events = None;
        let whose = match self.names.iter().position(|own| *own == name) {
            Some(at) if at >= self.shape.len() => {
                if self.outboxes.at(&name, self.here()).is_none() {
                    // It may be one in the next transaction: then the same bytes must not be passed by.
                    let other = Announced { bytes: Vec::new(), columns: map.columns, whose: Whose::Other, events };
                    self.maps.insert(id, other);
                    return Ok(());
                }
                let shape = self.outbox_shapes[at - self.shape.len()].as_ref();
                events = Some(OutboxReader::new(&name, &map, shape, &self.charsets, &self.here().to_string())?);
                Whose::Outbox(at)
            }
            Some(table) => {
                self.announced(table, &map, session).await?;
                Whose::Ours(table)
            }
            None if name == "banyan.mark" => Whose::Mark,
            None => Whose::Other,
        };
        self.maps.insert(id, Announced { bytes: data.to_vec(), columns: map.columns, whose, events });
        Ok(())
    }

    /// Rows are read by the announced columns from here on, if the flow can carry them.
    async fn announced(&mut self, table: usize, map: &TableMap, session: &mut MysqlSession) -> Result<(), FlowError> {
        let name = &self.names[table];
        let at = self.here();
        if !map.is_full {
            return Err(FlowError::Stop(format!(
                "{name} at {at}: the binlog does not name the columns; set `binlog_row_metadata = FULL`"
            )));
        }
        let columns: Vec<AnnouncedColumn> =
            map.columns.iter().map(|column| (column.name.clone(), shape::wire(column, &self.charsets))).collect();
        let place = self.open.as_ref().map_or((self.read_to, 0), |open| (open.commit_lsn, open.ordinal));
        let plan = self.plan;
        let here = Here { at: place, drained: self.last_end, is_open: self.side_is_open };
        if !self.schema.is_known(table, place, &columns) {
            // All before it gets to the target, should the flow have to wait.
            self.outlet.settle().await?;
        }
        let shape = self.schema.announced(session, plan, table, here, &columns).await?;
        if shape != self.shape[table] {
            let used = used_charsets(std::slice::from_ref(&shape));
            let charsets = Charsets::read(session, used.iter().map(String::as_str)).await?;
            self.readers[table] = shape.columns.iter().map(|column| Reader::new(column, &charsets)).collect();
            self.frames[table] = frame(plan, session.flavor, &shape);
            self.shape[table] = shape;
        }
        Ok(())
    }

    pub(super) async fn rows(&mut self, rows: Rows<'_>) -> Result<(), FlowError> {
        let Some(announced) = self.maps.get(&rows.table) else {
            return Err(self.malformed("rows of a table that was not announced"));
        };
        if announced.whose == Whose::Other || self.open.as_ref().is_some_and(|open| open.echo) {
            return Ok(());
        }
        if let Whose::Outbox(at) = announced.whose
            && self.outboxes.at(&self.names[at], self.here()).is_none()
        {
            // It was one when it was announced.
            return Ok(());
        }
        if announced.columns.len() != rows.columns {
            return Err(self.malformed("rows with another number of columns than their table"));
        }
        let whose = announced.whose;
        let table = match whose {
            Whose::Ours(table) | Whose::Outbox(table) => Some(table),
            _ => None,
        };
        if let Some(table) = table {
            let name = &self.names[table];
            if !rows.is_whole {
                return Err(FlowError::Stop(format!(
                    "{name} at {}: the binlog has parts of rows alone; set `binlog_row_image = FULL`",
                    self.read_to
                )));
            }
            if self.open.as_ref().is_some_and(|open| open.prepared) {
                return Err(FlowError::Stop(format!(
                    "{name} at {}: a distributed (XA) transaction changed it, which cannot be followed",
                    self.read_to
                )));
            }
        }
        if let Whose::Outbox(table) = whose {
            return self.events(table, &rows);
        }
        let mut images = Cursor(rows.images);
        while !images.0.is_empty() {
            match whose {
                Whose::Ours(table) => {
                    let op = match rows.change {
                        Change::Insert => Op::Create,
                        Change::Update => Op::Update,
                        Change::Delete => Op::Delete,
                    };
                    if op != Op::Create {
                        self.image(table, rows.table, &mut images, true)?;
                    }
                    if op != Op::Delete {
                        self.image(table, rows.table, &mut images, false)?;
                    }
                    self.row(table, op).await?;
                }
                _ => self.mark(&rows, &mut images).await?,
            }
        }
        Ok(())
    }

    /// Keeps new rows of an outbox until their transaction's end.
    fn events(&mut self, table: usize, rows: &Rows<'_>) -> Result<(), FlowError> {
        let (at, most) = (self.read_to.to_string(), self.plan.budget / 3);
        let name = &self.names[table];
        let Some(Announced { columns, events: Some(reader), .. }) = self.maps.get(&rows.table) else { return Ok(()) };
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let mut images = Cursor(rows.images);
        while !images.0.is_empty() {
            match rows.change {
                Change::Insert => open.events.take(reader, columns, &mut images, name, &at, most)?,
                Change::Update => {
                    outbox::skip(columns, &mut images, &at)?;
                    outbox::skip(columns, &mut images, &at)?;
                    self.outlet.outbox_updated(name, first(self.generation, open.commit_lsn));
                }
                // Whoever deletes at once what was inserted has published it all the same.
                Change::Delete => return Ok(()),
            }
        }
        Ok(())
    }

    /// Reads one image of a row.
    fn image(&mut self, table: usize, id: u64, from: &mut Cursor<'_>, before: bool) -> Result<(), FlowError> {
        let bad =
            |_: BadEvent| FlowError::Malformed { what: "a row that is not the binlog's", at: self.read_to.to_string() };
        let columns = self.maps.get(&id).map_or(&[][..], |announced| &announced.columns);
        let shape = &self.shape[table];
        let cells = if before { &mut self.before } else { &mut self.after };
        cells.clear();
        let nulls = from.take(columns.len().div_ceil(8)).map_err(bad)?;
        for (at, column) in columns.iter().enumerate() {
            if shape.columns[at].is_generated {
                if !is_null(nulls, at) {
                    value::skip(column, from).map_err(bad)?;
                }
            } else if is_null(nulls, at) {
                cells.places.push(None);
            } else {
                let start = cells.text.len();
                self.readers[table][at]
                    .read(column, from, &mut cells.text)
                    .map_err(|bad| bad.at(&shape.name, &shape.columns[at].name, &self.read_to.to_string()))?;
                cells.places.push(Some((start, cells.text.len())));
            }
        }
        Ok(())
    }

    /// A row of `banyan.mark`: what PostgreSQL's log has messages for.
    async fn mark(&mut self, rows: &Rows<'_>, images: &mut Cursor<'_>) -> Result<(), FlowError> {
        let read_to = self.read_to;
        let bad = |_: BadEvent| FlowError::Malformed { what: "a mark that is not Banyan's", at: read_to.to_string() };
        let columns = self.maps.get(&rows.table).map_or(&[][..], |announced| &announced.columns);
        let (mut word, mut content) = (String::new(), Vec::new());
        for _ in 0..if rows.change == Change::Update { 2 } else { 1 } {
            let nulls = images.take(columns.len().div_ceil(8)).map_err(bad)?;
            for (_, column) in columns.iter().enumerate().filter(|(at, _)| !is_null(nulls, *at)) {
                let start = images.0;
                value::skip(column, images).map_err(bad)?;
                let wide = if column.meta > 255 { 2 } else { 1 };
                let text = || start.get(wide..start.len() - images.0.len()).unwrap_or_default();
                match column.name.as_str() {
                    "word" => word = String::from_utf8_lossy(text()).into_owned(),
                    "content" => content = text().to_vec(),
                    _ => {}
                }
            }
        }
        let names = &self.plan.names;
        match word.as_str() {
            _ if rows.change == Change::Delete => Ok(()),
            "applied" if owner::is_echo(&content, names) => {
                if let Some(open) = self.open.as_mut().filter(|open| open.ordinal == 0) {
                    open.echo = true;
                }
                Ok(())
            }
            "open" | "fence" => {
                let Some(epoch) = owner::mark_epoch(&content, names) else { return Ok(()) };
                self.epoch = epoch;
                self.side_is_open = word == "open";
                let (head, _) = self.head(if self.side_is_open { Kind::Open } else { Kind::Fence })?;
                self.outlet.send(head, &word, &[], &content, None).await
            }
            _ => Ok(()),
        }
    }

    /// Sends the row that was just read.
    pub(super) async fn row(&mut self, table: usize, op: Op) -> Result<(), FlowError> {
        if self.open.as_ref().is_some_and(|open| open.echo) {
            return Ok(());
        }
        let (head, stamp) = self.head(Kind::Row)?;
        let stamp = Stamp { op, ..stamp };
        failpoint::reached(Point::RowRead);
        let frame = &self.frames[table];
        // Whether a row was one of the sync's is told by its old values; and a function may make use of them.
        let own = &self.plan.tables[table];
        let tells_all = own.is_function || own.mapping.has_filter();
        let (before, after) = match op {
            Op::Create => (None, Some(&self.after)),
            // The old key is said where it changed.
            Op::Update => ((tells_all || self.moves_key(table)).then_some(&self.before), Some(&self.after)),
            Op::Delete => (Some(&self.before), None),
            Op::Truncate | Op::Read => (None, None),
        };
        self.key.clear();
        self.value.clear();
        if let Some(cells) = after.or(before) {
            frame.write_key(&mut self.key, cells.values());
        }
        frame.write(&mut self.value, before.map(|cells| (cells.values(), tells_all)), after.map(Cells::values), stamp);
        self.outlet.send(head, &self.names[table], &self.key, &self.value, None).await
    }

    fn moves_key(&self, table: usize) -> bool {
        let sent = self.shape[table].columns.iter().filter(|column| !column.is_generated);
        let differ = |(before, after): (Value<'_>, Value<'_>)| before != after;
        sent.zip(self.before.values().zip(self.after.values())).any(|(column, pair)| column.is_key && differ(pair))
    }
}
