//! MariaDB and MySQL: what is read of them once, and what must be so there.

use std::collections::BTreeMap;

use crate::{
    config::{Side, Sync, Target},
    database::{
        catalogue::{describe, labels},
        mysql::{Flavor, MysqlSession, MysqlUrl, cell, quote, quote_table, text},
    },
    error::FlowError,
    mapping::Mapping,
    source::mysql::shape::Kind,
};

use super::{
    Check, Findings,
    facts::{At, Column, Facts, Place, Subject, tables_on, written_on},
    flow_into,
    types::{MysqlType, Type},
};

/// What was read.
pub(super) struct MysqlPlace {
    flavor: Flavor,
    version: (u16, u16, u16),
    /// As `user@host`.
    user: String,
    settings: BTreeMap<String, String>,
    grants: Grants,
    /// By the table's name in the file.
    tables: BTreeMap<String, TableFacts>,
    /// Of the outbox.
    pub(super) outbox_engine: Option<String>,
    /// Whether the flow into this database has begun to fill its tables.
    pub(super) has_begun: Vec<(String, String, String)>,
}

/// What only these servers have of a table.
pub(super) struct TableFacts {
    engine: String,
    kind: String,
    /// Foreign keys of this table whose action changes its rows when their parent changes.
    cascades: Vec<String>,
    /// Name and text.
    triggers: Vec<(String, String)>,
    /// At most [`ENOUGH`].
    rows: u64,
    /// Columns of text whose character set cannot be carried.
    bad_charsets: Vec<(String, String)>,
    /// Key columns that do not tell upper from lower case.
    folding: Vec<String>,
}

/// What the user may do, by scope as SHOW GRANTS writes it without quotes: `*.*`, `shop.*`, `shop.payments`.
#[derive(Default)]
struct Grants {
    list: Vec<(String, Vec<String>)>,
    has_roles: bool,
}

/// Counting stops here.
pub(super) const ENOUGH: u64 = 10_000;

/// Oldest MariaDB with `binlog_row_metadata`, and oldest MySQL.
const OLDEST_MARIADB: (u16, u16, u16) = (10, 5, 0);
const OLDEST_MYSQL: (u16, u16, u16) = (8, 0, 1);

/// Connects and reads all that the checks look at; changes nothing.
pub(super) async fn read(
    url: &MysqlUrl,
    address: String,
    application: &str,
    sync: &Sync,
    side: Side,
) -> Result<Place, FlowError> {
    let doing = "reading the catalog";
    let mut session = url.connect(application).await?;
    session.run(doing, "SET SESSION TRANSACTION READ ONLY").await?;
    let settings: BTreeMap<String, String> = session
        .rows(
            doing,
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'binlog_row_image', 'binlog_row_metadata', \
             'binlog_row_value_options', 'binlog_transaction_compression', 'log_bin_compress', 'server_id', 'expire_logs_days', \
             'binlog_expire_logs_seconds', 'sql_mode', 'binlog_do_db', 'binlog_ignore_db')",
        )
        .await?
        .iter()
        .map(|row| (cell(row, 0).unwrap_or_default(), cell(row, 1).unwrap_or_default()))
        .collect();
    let user: String = session.value(doing, "SELECT CURRENT_USER()").await?.unwrap_or_default();
    let grants = Grants::read(&mut session).await?;
    let mode = settings.get("sql_mode").cloned().unwrap_or_default();
    let zero_dates =
        !mode.contains("NO_ZERO_DATE") || !mode.contains("STRICT_") || mode.contains("ALLOW_INVALID_DATES");
    let (mut tables, mut facts) = (BTreeMap::new(), BTreeMap::new());
    for (table, name) in tables_on(sync, side) {
        let mapping = Mapping::of(table, flow_into(side));
        let rows = mapping.target_rows_in_mysql().unwrap_or_else(|| "true".to_owned());
        let Some((own, common)) = table_facts(&mut session, name, &rows, zero_dates).await? else { continue };
        tables.insert(name.to_owned(), own);
        facts.insert(name.to_owned(), common);
    }
    let outbox = match sync.outbox.on(side) {
        Some(name) => table_facts(&mut session, name, "true", zero_dates).await?,
        None => None,
    };
    let (outbox_engine, outbox) = outbox.map_or((None, None), |(own, common)| (Some(own.engine), Some(common)));
    let has_begun = match session
        .rows(doing, "SELECT install, sync, flow FROM banyan.position WHERE generation > 0")
        .await
    {
        Ok(rows) => rows
            .iter()
            .map(|row| {
                (cell(row, 0).unwrap_or_default(), cell(row, 1).unwrap_or_default(), cell(row, 2).unwrap_or_default())
            })
            .collect(),
        // No such table, database or privilege: then nothing has begun.
        Err(FlowError::Mysql { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let (flavor, version) = (session.flavor, session.version);
    let place = MysqlPlace { flavor, version, user, settings, grants, tables, outbox_engine, has_begun };
    Ok(Place::new(side, address, url.database().to_owned(), facts, outbox, At::Mysql(Box::new(place))))
}

pub(super) async fn table_facts(
    session: &mut MysqlSession,
    name: &str,
    own_rows: &str,
    zero_dates: bool,
) -> Result<Option<(TableFacts, Facts)>, FlowError> {
    let doing = "reading the catalog";
    let columns = describe(session, name).await?;
    if columns.is_empty() {
        return Ok(None);
    }
    let (database, table) = name.split_once('.').unwrap_or(("", name));
    let (database, table) = (text(database), text(table));
    let word = |row: &mysql_async::Row, at| cell::<String>(row, at).unwrap_or_default();
    let row = session
        .first(
            doing,
            &format!("SELECT TABLE_TYPE, coalesce(ENGINE, '') FROM information_schema.TABLES WHERE TABLE_SCHEMA = {database} AND TABLE_NAME = {table}"),
        )
        .await?;
    let (kind, engine) = row.map_or_else(Default::default, |row| (word(&row, 0), word(&row, 1)));
    let cascades = session
        .rows(
            doing,
            &format!(
                "SELECT CONSTRAINT_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = {database} AND TABLE_NAME = {table} \
                 AND (DELETE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT') OR UPDATE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT'))"
            ),
        )
        .await?;
    let triggers = session
        .rows(
            doing,
            &format!(
                "SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = {database} AND EVENT_OBJECT_TABLE = {table}"
            ),
        )
        .await?;
    let wide: Vec<String> = session
        .rows(doing, "SELECT CHARACTER_SET_NAME FROM information_schema.CHARACTER_SETS WHERE MAXLEN > 1")
        .await?
        .iter()
        .map(|row| word(row, 0))
        .collect();
    let rows: Option<u64> = match session
        .value(
            doing,
            &format!(
                "SELECT count(*) FROM (SELECT 1 FROM {} WHERE {own_rows} LIMIT {ENOUGH}) AS found",
                quote_table(name)
            ),
        )
        .await
    {
        Ok(rows) => rows,
        // What may not be read is another check's finding.
        Err(FlowError::Mysql { .. }) => None,
        Err(error) => return Err(error),
    };
    let bad_charset =
        |charset: &str| wide.iter().any(|wide| wide == charset) && !crate::source::mysql::is_unicode(charset);
    let flavor = session.flavor;
    let is_table = matches!(kind.as_str(), "BASE TABLE");
    let facts = TableFacts {
        engine,
        kind,
        cascades: cascades.iter().map(|row| word(row, 0)).collect(),
        triggers: triggers.iter().map(|row| (word(row, 0), word(row, 1))).collect(),
        rows: rows.unwrap_or(0),
        bad_charsets: columns
            .iter()
            .filter(|column| bad_charset(&column.charset))
            .map(|column| (column.name.clone(), column.charset.clone()))
            .collect(),
        folding: columns
            .iter()
            .filter(|column| column.is_key && !column.collation.is_empty() && !column.collation.ends_with("_bin"))
            .map(|column| column.name.clone())
            .collect(),
    };
    let key: Vec<String> = columns.iter().filter(|column| column.is_key).map(|column| column.name.clone()).collect();
    let columns = columns
        .into_iter()
        .map(|column| Column {
            type_: Type::Mysql(MysqlType {
                flavor,
                is_unsigned: column.column_type.contains("unsigned") || column.column_type.contains("zerofill"),
                length: column.length(),
                precision: column.precision,
                scale: column.scale,
                fraction: column.fraction,
                labels: if matches!(column.data_type.as_str(), "enum" | "set") {
                    labels(&column.column_type)
                } else {
                    Vec::new()
                },
                zero_dates,
                is_known: !matches!(column.kind(flavor).0, Kind::Unknown(_)),
                name: column.data_type,
                whole: column.column_type,
                charset: column.charset,
            }),
            name: column.name,
            is_not_null: !column.is_nullable,
            has_default: column.has_default,
            is_generated: column.is_generated,
        })
        .collect();
    let common = Facts {
        oid: 0,
        kind: if is_table { 'r' } else { 'v' },
        is_logged: true,
        identity: 'd',
        primary: key.clone(),
        key,
        is_owner: true,
        hides_rows: false,
        lacks: Vec::new(),
        columns,
    };
    Ok(Some((facts, common)))
}

// === impl Grants ===

impl Grants {
    async fn read(session: &mut MysqlSession) -> Result<Self, FlowError> {
        let rows = session.rows("reading the catalog", "SHOW GRANTS").await?;
        let mut grants = Self::default();
        for line in rows.iter().filter_map(|row| cell::<String>(row, 0)) {
            grants.add(&line);
        }
        Ok(grants)
    }

    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("GRANT ") else { return };
        match rest.split_once(" ON ") {
            Some((words, rest)) => {
                let scope =
                    rest.split_once(" TO ").map_or(rest, |(scope, _)| scope).replace('`', "").replace("\\_", "_");
                let words = words.split(',').map(|word| word.trim().to_ascii_uppercase()).collect();
                self.list.push((scope, words));
            }
            None => self.has_roles = true,
        }
    }

    /// Whether `word` is granted on one of `scopes`; unknown is yes, where roles may have it.
    fn have(&self, word: &str, scopes: &[&str]) -> bool {
        self.has_roles
            || self.list.iter().any(|(scope, words)| {
                scopes.contains(&scope.as_str()) && words.iter().any(|own| own == word || own == "ALL PRIVILEGES")
            })
    }
}

/// The checks of a sync's places that are MariaDB or MySQL.
pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for place in subject.places() {
        let Some(own) = place.mysql() else { continue };
        log(place, own, findings);
        privileges(subject, place, own, findings);
        for (table, name) in tables_on(subject.sync, place.side) {
            if let Some(facts) = own.tables.get(name) {
                on_table(subject, place, name, facts, findings);
                existing(subject, place, own, table, facts, findings);
            }
        }
    }
}

fn log(place: &Place, own: &MysqlPlace, findings: &mut Findings<'_>) {
    let setting = |name: &str| own.settings.get(name).map_or("", String::as_str);
    let mut wants = |name: &str, wanted: &str, fix: &str| {
        let is_known = own.settings.contains_key(name);
        if is_known && !setting(name).eq_ignore_ascii_case(wanted) && !(wanted == "OFF" && setting(name) == "0") {
            let wanted = if wanted.is_empty() { "nothing" } else { wanted };
            findings.error(
                Check::Log,
                None,
                place.name(),
                format!("`{name}` is `{}`, and capture needs `{wanted}`", setting(name)),
                fix.to_owned(),
            );
        }
    };
    wants("log_bin", "ON", "start the server with `log_bin`");
    wants(
        "binlog_format",
        "ROW",
        "run `SET GLOBAL binlog_format = ROW`, write it into the server's configuration, and let its clients connect anew",
    );
    wants(
        "binlog_row_image",
        "FULL",
        "run `SET GLOBAL binlog_row_image = FULL`, write it into the server's configuration, and let its clients connect anew",
    );
    wants(
        "binlog_row_metadata",
        "FULL",
        "run `SET GLOBAL binlog_row_metadata = FULL` and write it into the server's configuration",
    );
    wants(
        "binlog_row_value_options",
        "",
        "run `SET GLOBAL binlog_row_value_options = ''` and write it into the server's configuration",
    );
    wants(
        "binlog_transaction_compression",
        "OFF",
        "run `SET GLOBAL binlog_transaction_compression = OFF` and write it into the server's configuration",
    );
    wants(
        "log_bin_compress",
        "OFF",
        "run `SET GLOBAL log_bin_compress = OFF` and write it into the server's configuration",
    );
    wants("binlog_do_db", "", "start the server without it: what is filtered is in no log");
    wants("binlog_ignore_db", "", "start the server without it: what is filtered is in no log");
    if setting("server_id") == "0" {
        findings.error(
            Check::Log,
            None,
            place.name(),
            "`server_id` is 0, with which nobody can read the binlog",
            "set it to another number",
        );
    }
    let (oldest, name) = match own.flavor {
        Flavor::Mariadb => (OLDEST_MARIADB, "MariaDB"),
        Flavor::Mysql => (OLDEST_MYSQL, "MySQL"),
    };
    if own.version < oldest {
        let (major, minor, _) = own.version;
        findings.error(
            Check::Log,
            None,
            place.name(),
            format!("{name} {major}.{minor} is older than {}.{}", oldest.0, oldest.1),
            "upgrade the server",
        );
    }
    let number = |name: &str| setting(name).parse::<f64>().unwrap_or(0.0);
    let seconds = number("binlog_expire_logs_seconds").max(number("expire_logs_days") * 86_400.0);
    if seconds > 0.0 && seconds < 172_800.0 {
        findings.warning(
            Check::Log,
            None,
            place.name(),
            format!("the binlog is deleted after {:.1} hours, whether it was read or not", seconds / 3600.0),
            "keep it for as long as Banyan or Kafka may ever be away (`binlog_expire_logs_seconds`); what is deleted too early means copying the tables anew",
        );
    }
}

fn privileges(subject: &Subject<'_>, place: &Place, own: &MysqlPlace, findings: &mut Findings<'_>) {
    let to = own
        .user
        .split_once('@')
        .map_or_else(|| own.user.clone(), |(user, host)| format!("{}@{}", text(user), text(host)));
    let mut lacks = |what: String, fix: String| {
        findings.error(Check::Privileges, None, place.name(), format!("the user `{}` lacks {what}", own.user), fix);
    };
    if !own.grants.have("REPLICATION SLAVE", &["*.*"]) {
        lacks(
            "REPLICATION SLAVE, with which the binlog is read".into(),
            format!("run `GRANT REPLICATION SLAVE ON *.* TO {to}`"),
        );
    }
    if own.flavor == Flavor::Mysql {
        for (word, what) in [
            ("REPLICATION CLIENT", "the binlog's place is asked for"),
            ("RELOAD", "writers are held for the moment in which the snapshot begins"),
        ] {
            if !own.grants.have(word, &["*.*"]) {
                lacks(format!("{word}, with which {what}"), format!("run `GRANT {word} ON *.* TO {to}`"));
            }
        }
    }
    for word in ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP"] {
        if !own.grants.have(word, &["*.*", "banyan.*"]) {
            lacks(
                format!("{word} in the database `banyan`, which holds Banyan's own tables"),
                format!("run `CREATE DATABASE IF NOT EXISTS banyan; GRANT ALL ON banyan.* TO {to}`"),
            );
            break;
        }
    }
    for (table, name) in tables_on(subject.sync, place.side) {
        let database = name.split_once('.').map_or("", |(database, _)| database);
        let scopes = ["*.*", &format!("{database}.*"), name];
        let needs: &[&str] =
            if table.apply.is_some() { &["SELECT"] } else { &["SELECT", "INSERT", "UPDATE", "DELETE"] };
        let missing: Vec<&str> = needs.iter().copied().filter(|word| !own.grants.have(word, &scopes)).collect();
        if !missing.is_empty() && place.tables.contains_key(name) {
            let missing = missing.join(", ");
            findings.error(
                Check::Privileges,
                None,
                place.table(name),
                format!("the user `{}` lacks {missing}", own.user),
                format!("run `GRANT {missing} ON {} TO {to}`", quote_table(name)),
            );
        }
    }
}

fn on_table(subject: &Subject<'_>, place: &Place, name: &str, facts: &TableFacts, findings: &mut Findings<'_>) {
    let where_ = place.table(name);
    if facts.kind == "BASE TABLE" && !facts.engine.eq_ignore_ascii_case("InnoDB") {
        findings.error(
            Check::Identity,
            None,
            &where_,
            format!("its engine is {}, which has no transactions and no snapshot", facts.engine),
            format!("run `ALTER TABLE {} ENGINE=InnoDB`", quote_table(name)),
        );
    }
    let is_origin = subject.sync.apply_as == crate::config::ApplyAs::Origin;
    for cascade in &facts.cascades {
        let what =
            format!("the foreign key `{cascade}` changes rows of it by itself, and such changes are in no binlog");
        if is_origin {
            findings.warning(
                Check::Triggers,
                Some(flow_into(place.side.other())),
                &where_,
                what,
                "give the other side the same foreign key with the same action: it must change the rows there",
            );
        } else {
            findings.error(
                Check::Triggers,
                Some(flow_into(place.side.other())),
                &where_,
                what,
                "let the application delete the rows (ON DELETE RESTRICT), or write `apply_as: origin` and give the other side the same foreign key",
            );
        }
    }
    let synced: Vec<&str> = written_on(subject.sync, place.side).map(|(_, name)| name).collect();
    let fires_for_us = synced.contains(&name);
    for (trigger, body) in facts.triggers.iter().filter(|_| fires_for_us) {
        let fires = format!(
            "the trigger `{trigger}` fires for applied rows, whatever `apply_as` says: this server cannot leave it out"
        );
        let flow = Some(flow_into(place.side));
        match synced.iter().find(|table| super::triggers::writes(body, table)) {
            Some(written) if flow == Some(subject.applying()) => findings.error(
                Check::Triggers,
                flow,
                &where_,
                format!("{fires}, and writes {written}, whose changes come from the other side too"),
                "drop the trigger, or take the table it writes out of the sync",
            ),
            _ => findings.warning(
                Check::Triggers,
                flow,
                &where_,
                fires,
                "make sure that it is meant for rows that come from the other side too",
            ),
        }
    }
    for (column, charset) in &facts.bad_charsets {
        findings.error(
            Check::Columns,
            Some(flow_into(place.side.other())),
            &where_,
            format!("`{column}` is text in the character set `{charset}`, which cannot be carried"),
            format!("run `ALTER TABLE {} MODIFY {} … CHARACTER SET utf8mb4`", quote_table(name), quote(column)),
        );
    }
    for column in &facts.folding {
        findings.warning(
            Check::Identity,
            None,
            &where_,
            format!("the key column `{column}` has a collation that takes different texts for the same key"),
            "keep keys that differ in case, accents or trailing blanks alone off the other side, or give the column a `_bin` collation",
        );
    }
}

fn existing(
    subject: &Subject<'_>,
    place: &Place,
    own: &MysqlPlace,
    table: &crate::config::Table,
    facts: &TableFacts,
    findings: &mut Findings<'_>,
) {
    let flow = subject.applying();
    let begun = own.has_begun.iter().any(|(install, sync, own_flow)| {
        (install.as_str(), sync.as_str(), own_flow.as_str()) == (subject.install.as_str(), subject.name, flow.as_str())
    });
    let refuses = table.target.unwrap_or(subject.sync.target) == Target::Refuse;
    let is_written = table.apply.is_none();
    if flow.target() != place.side || begun || !refuses || !is_written || facts.rows == 0 {
        return;
    }
    super::existing::found(subject, flow, place, table.on(place.side).unwrap_or_default(), facts.rows, findings);
}
