//! Reads the chunks: each in a snapshot of its own, then its mark; no faster than the file and the target allow.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use tokio_postgres::{SimpleQueryMessage, types::PgLsn};

use super::{
    Chunk, Chunks, Want, kept,
    table::{ChunkTable, Key},
    touched::Visible,
};
use crate::{
    database::{
        DatabaseUrl,
        postgres::{PostgresUrl, Session},
    },
    error::FlowError,
    failpoint::{self, Point},
    names::{literal, quote_table},
    owner,
    plan::Plan,
    position::{Generation, Lsn},
    source::postgres::line::Line,
    status::Board,
};

const DOING: &str = "copying a table";
/// How often the target is asked while they do, and how often it is looked who keeps a copy from beginning.
const LOOK: Duration = Duration::from_millis(200);

/// One after the other, from a session of its own.
struct Reader<'a> {
    plan: &'a Plan,
    generation: Generation,
    chunks: &'a Chunks,
    board: &'a Board,
    session: Session,
    /// On the target; opened when it is needed.
    target: Option<Session>,
    /// What the marks of this process begin with.
    nonce: String,
    count: u64,
    /// Rows of a chunk at most, and what they should weigh at most.
    most: usize,
    weight: usize,
    /// Bytes of a row, as the last chunk had them.
    width: usize,
    /// No row is to be read before.
    next: Instant,
}

/// Reads what there is to read; ends only with an error.
pub(crate) async fn run(
    plan: &Plan,
    url: &PostgresUrl,
    generation: Generation,
    chunks: &Chunks,
    board: &Board,
) -> Result<(), FlowError> {
    loop {
        if !chunks.is_busy() {
            chunks.wake.notified().await;
            continue;
        }
        let session = url.connect(&plan.names.application("snapshot")).await?;
        let rate = plan.snapshot.rows_per_second.map_or(u32::MAX, std::num::NonZero::get);
        let mut reader = Reader {
            plan,
            generation,
            chunks,
            board,
            session,
            target: None,
            nonce: owner::nonce(),
            count: 0,
            most: plan.snapshot.chunk.get().min(rate) as usize,
            weight: (plan.budget / 12).clamp(64 << 10, 8 << 20),
            width: 0,
            next: Instant::now(),
        };
        reader.read().await?;
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// Until nothing is left.
    async fn read(&mut self) -> Result<(), FlowError> {
        loop {
            self.fence().await?;
            let limit = self.weight.checked_div(self.width).map_or(self.most, |rows| rows.clamp(1, self.most));
            self.hold_back().await?;
            let (index, after, again, is_last) = match self.chunks.want(limit) {
                Want::Nothing => return Ok(()),
                Want::Mark => {
                    self.chunks.wake.notified().await;
                    continue;
                }
                Want::Range(index, after) => (index, after, Vec::new(), false),
                Want::Again(index, keys) => (index, None, keys, false),
                Want::Last(index) => (index, None, Vec::new(), true),
            };
            let Some((table, number)) = self.chunks.table(index) else { continue };
            let statement = match (is_last, again.is_empty()) {
                (true, _) => None,
                (_, true) => Some(table.range(after.as_deref(), limit)),
                (_, false) => Some(table.rows(&again)),
            };
            self.count += 1;
            let mut chunk = self.chunk(statement.as_deref(), &table).await?;
            let is_range = !is_last && again.is_empty();
            let rows = chunk.ends.len();
            (chunk.load, chunk.number) = (index, number);
            (chunk.again, chunk.rest) = if chunk.is_last { (again, Vec::new()) } else { chunk.came(again, &table) };
            if !is_range {
                chunk.last = None;
                chunk.is_last = false;
            } else if chunk.is_last {
                chunk.is_last = rows < limit;
            }
            if let Some(width) = chunk.lines.len().checked_div(rows) {
                self.width = width + 1;
            }
            if let Some(rate) = self.plan.snapshot.rows_per_second {
                self.next =
                    self.next.max(Instant::now()) + Duration::from_secs_f64(rows as f64 / f64::from(rate.get()));
            }
            failpoint::reached(Point::ChunkRead);
            let mark = kept::mark(&self.plan.names, "chunk", &chunk.id.as_str().into());
            self.chunks.push(chunk);
            // The snapshot first, then the mark, in a transaction of its own.
            let end = format!("COMMIT; SELECT pg_logical_emit_message(true, 'banyan.chunk', {})", literal(&mark));
            self.session.batch_execute(&end).await.map_err(|e| FlowError::sql(DOING, &e))?;
            failpoint::reached(Point::ChunkMarked);
        }
    }

    /// Opens the chunk's snapshot and reads. `is_last` says that the server gave all that it was asked for.
    async fn chunk(&self, statement: Option<&str>, table: &ChunkTable) -> Result<Chunk, FlowError> {
        let sql = |e: &tokio_postgres::Error| match FlowError::sql(DOING, e) {
            FlowError::Sql { state, .. } if state.starts_with("42") => {
                FlowError::Busy(format!("`{}` was altered while it is copied: its columns are read anew", table.name))
            }
            other => other,
        };
        // The lock first, which is no more than what reading takes: to a snapshot from before an ALTER that rewrites the table it is empty.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE; SELECT pg_current_snapshot()::text",
            quote_table(&table.name)
        );
        let seen = snapshot(&self.session.simple_query(&begin).await.map_err(|e| sql(&e))?)?;
        let id = format!("{}-{}", self.nonce, self.count);
        let mut chunk = Chunk {
            id,
            load: 0,
            number: 0,
            seen,
            lines: Vec::new(),
            ends: Vec::new(),
            last: None,
            is_last: true,
            again: Vec::new(),
            rest: Vec::new(),
        };
        let Some(statement) = statement else { return Ok(chunk) };
        let rows = self.session.copy_out(statement).await.map_err(|e| sql(&e))?;
        let mut rows = std::pin::pin!(rows);
        while let Some(line) = rows.try_next().await.map_err(|e| sql(&e))? {
            chunk.lines.extend_from_slice(&line);
            chunk.ends.push(chunk.lines.len());
            // The rest is asked for anew.
            if chunk.lines.len() > self.weight {
                chunk.is_last = false;
                break;
            }
        }
        chunk.last = last_key(&chunk, table);
        Ok(chunk)
    }

    /// Before the first chunk of a copy in this process all transactions must have ended that the stream may not tell of whole: those
    /// that were open when the table came into the publication, and those that stood in Kafka before and may not be seen yet.
    async fn fence(&mut self) -> Result<(), FlowError> {
        let open = self.chunks.unfenced();
        if open.is_empty() {
            return Ok(());
        }
        let until = self.now().await?.xmax();
        loop {
            let now = self.now().await?;
            self.chunks.forget(&now);
            if now.xmin() >= until {
                break;
            }
            let running = "SELECT coalesce(string_agg(pid::text, ', '), '') FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()";
            let row = self.session.query_one(running, &[]).await.map_err(|e| FlowError::sql(DOING, &e))?;
            let pids: &str = row.get(0);
            self.board.waiting(Some(if pids.is_empty() {
                // Prepared ones have no process.
                "the copy waits for open transactions of the source: see pg_prepared_xacts there".to_owned()
            } else {
                format!("the copy waits for open transactions of the server processes {pids} of the source")
            }));
            tokio::time::sleep(LOOK).await;
        }
        self.board.waiting(None);
        self.chunks.fenced(&open);
        Ok(())
    }

    /// Waits while the target has too much to do, or the file says so.
    async fn hold_back(&mut self) -> Result<(), FlowError> {
        loop {
            let wait = self.next.saturating_duration_since(Instant::now());
            let is_behind = self.chunks.is_ahead(None) && {
                let applied = self.applied().await;
                self.chunks.is_ahead(applied)
            };
            if wait.is_zero() && !is_behind {
                return Ok(());
            }
            tokio::time::sleep(if is_behind { LOOK } else { wait.min(LOOK * 5) }).await;
            let now = self.now().await?;
            self.chunks.forget(&now);
        }
    }

    /// Up to where the target has applied this generation; nothing when it cannot be asked.
    async fn applied(&mut self) -> Option<Lsn> {
        let names = &self.plan.names;
        let DatabaseUrl::Postgres(url) = &self.plan.target else { return None };
        let kept = self.target.take().filter(|session| !session.is_closed());
        let asking = async {
            let session = match kept {
                Some(session) => session,
                None => url.connect(&names.application("snapshot")).await.ok()?,
            };
            let sql = "SELECT applied FROM banyan.position WHERE install = $1 AND sync = $2 AND flow = $3 AND generation = $4 ORDER BY applied LIMIT 1";
            let row = session
                .query_opt(sql, &[&names.install, &names.sync, &names.flow.as_str(), &self.generation.get()])
                .await
                .ok()?;
            Some((session, row.map(|row| row.get::<_, PgLsn>(0).into())))
        };
        let (session, applied) = tokio::time::timeout(LOOK * 10, asking).await.ok()??;
        self.target = Some(session);
        applied
    }

    async fn now(&self) -> Result<Visible, FlowError> {
        let asked = self.session.simple_query("SELECT pg_current_snapshot()::text").await;
        snapshot(&asked.map_err(|e| FlowError::sql(DOING, &e))?)
    }
}

// === impl Chunk ===

impl Chunk {
    /// Of the keys that were asked for: those whose rows came before there were too many bytes, and the others.
    fn came(&self, keys: Vec<Key>, table: &ChunkTable) -> (Vec<Key>, Vec<Key>) {
        let (mut line, mut start, mut here) = (Line::default(), 0, HashSet::new());
        for end in &self.ends {
            line.parse(&self.lines[start..*end]);
            start = *end;
            here.insert(table.key_of(&line.values()));
        }
        keys.into_iter().partition(|key| here.contains(key))
    }
}

fn snapshot(answer: &[SimpleQueryMessage]) -> Result<Visible, FlowError> {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.and_then(|text| text.parse().ok())
        .ok_or_else(|| FlowError::Stop("the server's answer to pg_current_snapshot() is not understood".into()))
}

fn last_key(chunk: &Chunk, table: &ChunkTable) -> Option<Key> {
    let end = *chunk.ends.last()?;
    let start = chunk.ends.iter().rev().nth(1).copied().unwrap_or(0);
    let mut line = Line::default();
    line.parse(&chunk.lines[start..end]);
    Some(table.key_of(&line.values()))
}
