//! Banyan's own tables: in the schema `banyan` of a PostgreSQL database, in the database `banyan` of a MariaDB or MySQL server.

use crate::{
    database::{
        mysql::{MysqlSession, cell},
        postgres::Session,
    },
    error::FlowError,
};

/// Made once; a DBA may make them beforehand, and then no privilege to create anything is needed.
const POSTGRES: &str = "
CREATE SCHEMA IF NOT EXISTS banyan;
-- Who may write a sync's tables; one row a database. `state` is about this database: open or closed for writes.
CREATE TABLE IF NOT EXISTS banyan.owner (
    install text, sync text, side text,
    owner text NOT NULL, epoch bigint NOT NULL, state text NOT NULL,
    PRIMARY KEY (install, sync, side));
-- What a flow reads from this database: its slot, the shape of the tables when it was made, and whether the copy of the tables is
-- complete. `since` is the first of the attempts that led to this generation, none of them complete. `reason` is why the slot was dropped.
CREATE TABLE IF NOT EXISTS banyan.capture (
    install text, sync text, flow text,
    generation bigint NOT NULL, since bigint NOT NULL, nonce text NOT NULL, state text NOT NULL, slot text NOT NULL,
    system_id text NOT NULL, timeline int NOT NULL, shape text NOT NULL, reason text,
    PRIMARY KEY (install, sync, flow));
ALTER TABLE banyan.capture ADD COLUMN IF NOT EXISTS reason text;
-- What the catalogue said of the tables when the shape was stored: numbers of columns, files of rows.
ALTER TABLE banyan.capture ADD COLUMN IF NOT EXISTS facts jsonb;
-- With `order: key`: over how many lanes the rows are spread, and by which columns of each table.
ALTER TABLE banyan.capture ADD COLUMN IF NOT EXISTS lanes text;
-- Changes of this database's tables that a flow has met in its stream, at the record with `lsn` and `ordinal`. `state` is paused (the flow waits
-- before it), resumed (a person has said that it may go on), taken, unverified (rows may have changed without an event) or verified.
-- `drained` is the end of the transaction before, `split`: rows of the table stand in the same transaction before it, `target` is the other
-- side's table at that moment, `copies`: the table was copied again. The row stays as the record of who did what and why.
CREATE TABLE IF NOT EXISTS banyan.schema_change (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    install text NOT NULL, sync text NOT NULL, flow text NOT NULL, generation bigint NOT NULL, source_table text NOT NULL,
    lsn pg_lsn NOT NULL, ordinal bigint NOT NULL, before text NOT NULL, after text NOT NULL, what text NOT NULL,
    drained pg_lsn NOT NULL, split boolean NOT NULL DEFAULT false, target jsonb, copies boolean NOT NULL DEFAULT false,
    state text NOT NULL, seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text, why text, resumed_at timestamptz, ended_at timestamptz);
CREATE INDEX IF NOT EXISTS schema_change_of ON banyan.schema_change (install, sync, flow, generation);
-- How far a flow has written into this database; moves in the transaction that writes the rows. `tables` names, as a JSON array, the
-- tables of the source whose copy has at least begun here.
CREATE TABLE IF NOT EXISTS banyan.position (
    install text, sync text, flow text, partition int,
    generation bigint NOT NULL, phase text NOT NULL, applied pg_lsn NOT NULL, ordinal bigint NOT NULL,
    kafka_offset bigint NOT NULL, record text NOT NULL,
    role text NOT NULL, epoch bigint NOT NULL,
    system_id text NOT NULL, timeline int NOT NULL, slot text NOT NULL, source_time timestamptz NOT NULL,
    lease text NOT NULL, lease_until timestamptz NOT NULL, tables text,
    PRIMARY KEY (install, sync, flow, partition));
ALTER TABLE banyan.position ADD COLUMN IF NOT EXISTS tables text;
-- With `order: key` a row (`partition`) is a lane's, of so many `lanes`. `topics` is how far each table's topic was read; at `barrier` the lane waits for all others.
ALTER TABLE banyan.position ADD COLUMN IF NOT EXISTS topics text;
ALTER TABLE banyan.position ADD COLUMN IF NOT EXISTS barrier text NOT NULL DEFAULT '';
ALTER TABLE banyan.position ADD COLUMN IF NOT EXISTS lanes int NOT NULL DEFAULT 1;
-- Here and in `capture`: by which two servers of one timeline are told apart.
ALTER TABLE banyan.position ADD COLUMN IF NOT EXISTS followed text NOT NULL DEFAULT '';
ALTER TABLE banyan.capture ADD COLUMN IF NOT EXISTS followed text NOT NULL DEFAULT '';
-- Changes found in the stream of a side that was closed for writes. No values: only which table, and where.
CREATE TABLE IF NOT EXISTS banyan.violation (
    install text, sync text, flow text,
    generation bigint, lsn pg_lsn, ordinal bigint,
    source_table text NOT NULL, op text NOT NULL, epoch bigint NOT NULL, seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (install, sync, flow, generation, lsn, ordinal));
-- The copies of this database's tables that a flow makes or made; `state` is asked, loading or loaded, `number` counts the copies of the
-- table in this generation. `after` is the key up to where all stands in Kafka, `again` the keys before it that are read again.
CREATE TABLE IF NOT EXISTS banyan.snapshot (
    install text, sync text, flow text, source_table text,
    state text NOT NULL, number bigint NOT NULL DEFAULT 1, after jsonb, again jsonb NOT NULL DEFAULT '[]',
    rows bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0, estimate bigint,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(), ended_at timestamptz, who text, why text,
    PRIMARY KEY (install, sync, flow, source_table));
-- With `order: key`: where TRUNCATE emptied the table, until the copy that makes up for it stands in Kafka as begun.
ALTER TABLE banyan.snapshot ADD COLUMN IF NOT EXISTS emptied text;
-- Tables of this database that are being filled: their rows may not be there yet. Moves with the position. `keeps`: what is there and does
-- not come goes at the end. `columns` is how many a whole row of the source has.
CREATE TABLE IF NOT EXISTS banyan.loading (
    install text, sync text, flow text, source_table text,
    columns int NOT NULL, keeps boolean NOT NULL,
    PRIMARY KEY (install, sync, flow, source_table));
-- Source transactions that this database refused, and those that follow one; `state` is parked, retry or skip (asked for), or how it ended:
-- applied, skipped, cleared. The row stays as the record of who did what and why.
CREATE TABLE IF NOT EXISTS banyan.parked (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    install text NOT NULL, sync text NOT NULL, flow text NOT NULL,
    generation bigint NOT NULL, commit_lsn pg_lsn NOT NULL, end_lsn pg_lsn, source_time timestamptz,
    rows bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0, reason text NOT NULL, tries int NOT NULL, follows bigint,
    parked_at timestamptz NOT NULL DEFAULT now(), tried_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'parked', who text, why text, asked_at timestamptz, ended_at timestamptz,
    UNIQUE (install, sync, flow, generation, commit_lsn));
CREATE INDEX IF NOT EXISTS parked_open ON banyan.parked (install, sync, flow, id) WHERE state IN ('parked', 'retry', 'skip');
-- Their changes as they stand in Kafka, with all values; gone when it has ended.
CREATE TABLE IF NOT EXISTS banyan.parked_row (
    parked bigint, ordinal bigint, target_table text NOT NULL, op text NOT NULL, record bytea NOT NULL,
    PRIMARY KEY (parked, ordinal));
-- The keys that they touch. `role` is own, gone (the row leaves this key), ref (a foreign key, under the parent's key) or all (the table).
CREATE TABLE IF NOT EXISTS banyan.parked_key (
    parked bigint NOT NULL, target_table text NOT NULL, key_name text NOT NULL, role text NOT NULL, key text NOT NULL);
CREATE INDEX IF NOT EXISTS parked_key_of ON banyan.parked_key (parked);
-- What the comparison of both sides has found here, and how far one under way is.
CREATE TABLE IF NOT EXISTS banyan.verified (
    install text, sync text, flow text, source_table text,
    run jsonb, found jsonb, ended_at timestamptz,
    PRIMARY KEY (install, sync, flow, source_table));
-- Rows of this database that were made equal to the owner's, and why.
CREATE TABLE IF NOT EXISTS banyan.repair (
    install text NOT NULL, sync text NOT NULL, flow text NOT NULL, source_table text NOT NULL,
    rows bigint NOT NULL, why text NOT NULL,
    who text NOT NULL DEFAULT session_user, at timestamptz NOT NULL DEFAULT clock_timestamp());
";

/// The same for MariaDB and MySQL, where a database is the server's: rows of two databases of one server differ by side and flow.
/// Positions are numbers: the file's in the upper half, the offset in the lower. Names compare byte by byte, as they do in PostgreSQL.
const MYSQL: [&str; 9] = [
    "CREATE DATABASE IF NOT EXISTS banyan CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS banyan.owner (
        install varchar(16), sync varchar(64), side varchar(8),
        owner varchar(8) NOT NULL, epoch bigint NOT NULL, state varchar(8) NOT NULL,
        PRIMARY KEY (install, sync, side)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    // `log` is the name of the binlog's files without their number. There is no slot: what stands in Kafka is noted here. `outboxes` are tables that
    // are or were outboxes, each with the stretch of the log for which it is one.
    "CREATE TABLE IF NOT EXISTS banyan.capture (
        install varchar(16), sync varchar(64), flow varchar(20),
        generation bigint NOT NULL, since bigint NOT NULL, nonce varchar(32) NOT NULL, state varchar(16) NOT NULL,
        log varchar(255) NOT NULL, system_id varchar(128) NOT NULL, shape longtext NOT NULL,
        confirmed bigint unsigned NOT NULL, gtid varchar(255) NOT NULL, outboxes longtext,
        PRIMARY KEY (install, sync, flow)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS banyan.position (
        install varchar(16), sync varchar(64), flow varchar(20), part int,
        generation bigint NOT NULL, phase varchar(16) NOT NULL, applied bigint unsigned NOT NULL, ordinal bigint unsigned NOT NULL,
        kafka_offset bigint NOT NULL, record varchar(255) NOT NULL,
        role varchar(16) NOT NULL, epoch bigint NOT NULL,
        system_id varchar(128) NOT NULL, timeline int NOT NULL, slot varchar(255) NOT NULL, source_time datetime(6) NOT NULL,
        lease varchar(32) NOT NULL, lease_until datetime(6) NOT NULL, tables longtext, followed varchar(32) NOT NULL DEFAULT '',
        PRIMARY KEY (install, sync, flow, part)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS banyan.violation (
        install varchar(16), sync varchar(64), flow varchar(20),
        generation bigint, lsn bigint unsigned, ordinal bigint unsigned,
        source_table varchar(255) NOT NULL, op char(1) NOT NULL, epoch bigint NOT NULL, seen_at timestamp(6) NOT NULL DEFAULT current_timestamp(6),
        PRIMARY KEY (install, sync, flow, generation, lsn, ordinal)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    // The same as in PostgreSQL, without what no proof and no copy needs there. `before` and `after` are words of the language.
    "CREATE TABLE IF NOT EXISTS banyan.schema_change (
        id bigint unsigned AUTO_INCREMENT PRIMARY KEY,
        install varchar(16) NOT NULL, sync varchar(64) NOT NULL, flow varchar(20) NOT NULL, generation bigint NOT NULL,
        source_table varchar(255) NOT NULL, lsn bigint unsigned NOT NULL, ordinal bigint unsigned NOT NULL,
        shape_before longtext NOT NULL, shape_after longtext NOT NULL, what text NOT NULL, drained bigint unsigned NOT NULL,
        state varchar(16) NOT NULL, seen_at timestamp(6) NOT NULL DEFAULT current_timestamp(6),
        who varchar(255), why text, resumed_at timestamp(6) NULL, ended_at timestamp(6) NULL,
        KEY schema_change_of (install, sync, flow, generation)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    // What PostgreSQL's log has messages for: a row that a transaction changes so that whoever reads the log finds the word in it.
    "CREATE TABLE IF NOT EXISTS banyan.mark (
        install varchar(16), sync varchar(64), flow varchar(20), word varchar(16),
        content varchar(1000) NOT NULL, n bigint NOT NULL,
        PRIMARY KEY (install, sync, flow, word)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS banyan.verified (
        install varchar(16), sync varchar(64), flow varchar(20), source_table varchar(255),
        run longtext, found longtext, ended_at datetime(6),
        PRIMARY KEY (install, sync, flow, source_table)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS banyan.repair (
        id bigint unsigned AUTO_INCREMENT PRIMARY KEY,
        install varchar(16) NOT NULL, sync varchar(64) NOT NULL, flow varchar(20) NOT NULL, source_table varchar(255) NOT NULL,
        `rows` bigint NOT NULL, why text NOT NULL, who varchar(255) NOT NULL,
        at timestamp(6) NOT NULL DEFAULT current_timestamp(6)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
];

/// Columns of them that came later.
const MYSQL_LATER: [(&str, &str, &str); 3] = [
    ("position", "tables", "longtext"),
    ("capture", "outboxes", "longtext"),
    ("position", "followed", "varchar(32) NOT NULL DEFAULT ''"),
];

/// Whoever makes or drops these tables holds this advisory lock: `IF NOT EXISTS` is no protection against another session that makes the same
/// at the same time. The number is "banyan".
pub(crate) const LOCK: i64 = 108_171_085_996_398;

/// The same in MariaDB and MySQL: a user lock of the server.
pub(crate) const MYSQL_LOCK: &str = "banyan/tables";

/// The names of Banyan's own tables in PostgreSQL.
pub(crate) fn of_postgres() -> impl Iterator<Item = &'static str> {
    made(POSTGRES)
}

/// The same in MariaDB and MySQL.
pub(crate) fn of_mysql() -> impl Iterator<Item = &'static str> {
    MYSQL.into_iter().flat_map(made)
}

fn made(statements: &'static str) -> impl Iterator<Item = &'static str> {
    statements.split("CREATE TABLE IF NOT EXISTS banyan.").skip(1).filter_map(|rest| rest.split([' ', '(']).next())
}

/// Makes what is not there.
pub(crate) async fn postgres(session: &Session) -> Result<(), FlowError> {
    let doing = "making Banyan's tables";
    let row = session
        .query_one(
            "SELECT to_regclass('banyan.owner') IS NOT NULL AND to_regclass('banyan.capture') IS NOT NULL \
             AND to_regclass('banyan.position') IS NOT NULL AND to_regclass('banyan.violation') IS NOT NULL \
             AND to_regclass('banyan.parked_key') IS NOT NULL \
             AND to_regclass('banyan.snapshot') IS NOT NULL AND to_regclass('banyan.loading') IS NOT NULL \
             AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('banyan.capture') AND attname = 'reason') \
             AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('banyan.position') AND attname = 'tables') \
             AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('banyan.capture') AND attname = 'lanes') \
             AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('banyan.snapshot') AND attname = 'emptied') \
             AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('banyan.position') AND attname = 'lanes') \
             AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('banyan.position') AND attname = 'followed') \
             AND to_regclass('banyan.schema_change') IS NOT NULL \
             AND to_regclass('banyan.verified') IS NOT NULL AND to_regclass('banyan.repair') IS NOT NULL",
            &[],
        )
        .await
        .map_err(|error| FlowError::sql(doing, &error))?;
    if row.get(0) {
        return Ok(());
    }
    session
        .batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK}); {POSTGRES} COMMIT"))
        .await
        .map_err(|error| FlowError::sql(doing, &error))
}

/// Makes what is not there, in MariaDB or MySQL.
pub(crate) async fn mysql(session: &mut MysqlSession) -> Result<(), FlowError> {
    let doing = "making Banyan's tables";
    let (tables, columns) = are_there(session).await?;
    if tables && columns.len() == MYSQL_LATER.len() {
        return Ok(());
    }
    session.lock_in(MYSQL_LOCK, 10).await?;
    let (tables, _) = are_there(session).await?;
    if !tables {
        for statement in MYSQL {
            session.run(doing, statement).await?;
        }
    }
    let (_, columns) = are_there(session).await?;
    for (table, column, kind) in MYSQL_LATER {
        // MySQL knows no ADD COLUMN IF NOT EXISTS.
        if !columns.contains(&format!("{table}.{column}")) {
            session.run(doing, &format!("ALTER TABLE banyan.{table} ADD COLUMN {column} {kind}")).await?;
        }
    }
    session.unlock(MYSQL_LOCK).await
}

/// Whether all tables are there, and which of the columns that came later.
async fn are_there(session: &mut MysqlSession) -> Result<(bool, Vec<String>), FlowError> {
    let doing = "looking for Banyan's tables";
    let tables: Option<i64> = session
        .value(
            doing,
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'banyan' \
             AND table_name IN ('owner', 'capture', 'position', 'violation', 'schema_change', 'mark', 'verified', 'repair')",
        )
        .await?;
    let later: Vec<_> = MYSQL_LATER.iter().map(|(table, column, _)| format!("('{table}', '{column}')")).collect();
    let ask = format!(
        "SELECT concat(table_name, '.', column_name) FROM information_schema.columns WHERE table_schema = 'banyan' \
         AND (table_name, column_name) IN ({})",
        later.join(", ")
    );
    let columns = session.rows(doing, &ask).await?;
    Ok((tables == Some(8), columns.iter().filter_map(|row| cell(row, 0)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_known_by_name() {
        let names: Vec<_> = of_postgres().collect();
        assert!(names.starts_with(&["owner", "capture", "schema_change", "position", "violation"]), "{names:?}");
        assert_eq!(names.len(), POSTGRES.matches("CREATE TABLE").count());
        let names: Vec<_> = of_mysql().collect();
        assert_eq!(names, ["owner", "capture", "position", "violation", "schema_change", "mark", "verified", "repair"]);
    }
}
