//! What the checks look at: both databases of a sync and the catalog's word on its tables, read once.

use std::collections::BTreeMap;

use crate::{
    config::{Side, Sync},
    database::{
        DatabaseUrl,
        postgres::{PostgresUrl, Session},
    },
    error::FlowError,
    names::{Flow, quote_table},
};

use super::{
    Check, Findings, flow_into,
    mysql::{self, MysqlPlace},
    types::{PostgresType, Type},
};

/// One sync, with both its databases open for reading.
pub(super) struct Subject<'c> {
    pub(super) install: String,
    pub(super) name: &'c str,
    pub(super) sync: &'c Sync,
    legacy: Place,
    modern: Place,
}

/// One database of a sync.
pub(super) struct Place {
    pub(super) side: Side,
    /// Host, port and database.
    address: String,
    pub(super) database: String,
    /// By their name in the file; a table that is not there has no facts.
    pub(super) tables: BTreeMap<String, Facts>,
    /// Of the outbox, if the file names one here and it is there.
    pub(super) outbox: Option<Facts>,
    pub(super) at: At,
}

/// What only one kind of database has.
pub(super) enum At {
    Postgres(Box<PostgresPlace>),
    Mysql(Box<MysqlPlace>),
}

/// A session on PostgreSQL, for further questions.
pub(super) struct PostgresPlace {
    pub(super) session: Session,
    pub(super) server: Server,
}

/// The server and what Banyan's role is on it.
pub(super) struct Server {
    /// The same for two databases of one server, and for no two servers.
    pub(super) identity: String,
    pub(super) version: i32,
    pub(super) wal_level: String,
    pub(super) role: String,
    pub(super) is_superuser: bool,
    /// The attribute, or membership in what managed servers have instead.
    pub(super) may_replicate: bool,
    pub(super) may_create: bool,
    pub(super) has_own_tables: bool,
}

/// One table.
pub(super) struct Facts {
    pub(super) oid: u32,
    /// `relkind`: `r` a table, `p` a partitioned one.
    pub(super) kind: char,
    pub(super) is_logged: bool,
    /// `relreplident`: `d` primary key, `i` an index, `f` the whole row, `n` nothing.
    pub(super) identity: char,
    /// The columns of the primary key or of the replica identity's index, in the order of the table.
    pub(super) key: Vec<String>,
    /// The columns of the primary key alone.
    pub(super) primary: Vec<String>,
    pub(super) is_owner: bool,
    /// Row security hides rows from Banyan's role.
    pub(super) hides_rows: bool,
    /// Of SELECT, INSERT, UPDATE, DELETE, TRUNCATE: which are missing.
    pub(super) lacks: Vec<&'static str>,
    pub(super) columns: Vec<Column>,
}

/// One column.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) type_: Type,
    pub(super) is_not_null: bool,
    pub(super) has_default: bool,
    pub(super) is_generated: bool,
}

/// What a role may need to do with a table.
const ACTIONS: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"];

const SERVER: &str = "SELECT pg_postmaster_start_time()::text || '/' || current_setting('port'), \
     current_setting('server_version_num')::int, current_setting('wal_level'), current_user::text, r.rolsuper, \
     r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_roles m WHERE m.rolname IN ('rds_replication') \
         AND pg_has_role(m.oid, 'MEMBER')), \
     has_database_privilege(current_database(), 'CREATE'), \
     to_regclass('banyan.owner') IS NOT NULL AND to_regclass('banyan.capture') IS NOT NULL \
         AND to_regclass('banyan.position') IS NOT NULL AND to_regclass('banyan.violation') IS NOT NULL, \
     current_database()::text \
     FROM pg_roles r WHERE r.rolname = current_user";

const TABLE: &str = "SELECT c.oid, c.relkind::text, c.relpersistence = 'p', c.relreplident::text, \
     coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a \
         WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])), '{}'), \
     coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index p JOIN pg_attribute a \
         ON a.attrelid = p.indrelid AND a.attnum = ANY ((p.indkey::int2[])[0:p.indnkeyatts - 1]) WHERE p.indrelid = c.oid AND p.indisprimary), '{}'), \
     pg_has_role(c.relowner, 'USAGE'), row_security_active(c.oid), \
     ARRAY(SELECT has_table_privilege(c.oid, action) FROM unnest($2::text[]) WITH ORDINALITY AS u (action, n) ORDER BY n) \
     FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
         AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END \
     WHERE c.oid = to_regclass($1)";

const COLUMNS: &str = "SELECT a.attname::text, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL), \
     CASE WHEN t.typbasetype <> 0 THEN t.typtypmod ELSE a.atttypmod END, \
     ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder), \
     a.attnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' \
     FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

// === impl Subject ===

impl<'c> Subject<'c> {
    /// Connects to both databases and reads what there is; `None` when one cannot be read, which is then a finding.
    pub(super) async fn open(
        install: &str,
        name: &'c str,
        sync: &'c Sync,
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        let legacy = Place::open(install, sync, Side::Legacy, findings).await;
        let modern = Place::open(install, sync, Side::Modern, findings).await;
        Some(Self { install: install.to_owned(), name, sync, legacy: legacy?, modern: modern? })
    }

    pub(super) fn places(&self) -> [&Place; 2] {
        [&self.legacy, &self.modern]
    }

    pub(super) fn place(&self, side: Side) -> &Place {
        match side {
            Side::Legacy => &self.legacy,
            Side::Modern => &self.modern,
        }
    }

    /// The flow away from the owner: the one that applies.
    pub(super) fn applying(&self) -> Flow {
        flow_into(self.sync.owner.other())
    }
}

// === impl Place ===

impl Place {
    async fn open(install: &str, sync: &Sync, side: Side, findings: &mut Findings<'_>) -> Option<Self> {
        let database = match side {
            Side::Legacy => &sync.legacy,
            Side::Modern => &sync.modern,
        };
        let kind = database.kind();
        let key = format!("`syncs.{}.{}.{kind}`", findings.sync, side.as_str());
        let url = match DatabaseUrl::of(database) {
            Ok(url) => url,
            Err(error) => {
                let fix = format!("write it as `{kind}://user:password@host:port/database`");
                findings.error(Check::Connect, None, key, error.to_string(), fix);
                return None;
            }
        };
        let address = url.to_string();
        let application = format!("{install}/check");
        let read = match &url {
            DatabaseUrl::Postgres(url) => Self::read(url, address.clone(), &application, sync, side).await,
            DatabaseUrl::Mysql(url) => mysql::read(url, address.clone(), &application, sync, side).await,
        };
        match read {
            Ok(place) => Some(place),
            Err(error) => {
                let fix = match &error {
                    FlowError::Lost { .. } => "start the server, or correct host and port".to_owned(),
                    FlowError::NoTls(_) => format!("put `syncs.{}.{}.tls` right", findings.sync, side.as_str()),
                    _ if kind == "mysql" => {
                        format!("correct user, password or database in {key}, or the user's host on the server")
                    }
                    // It lets nobody in like this.
                    FlowError::Sql { state, .. } if state == "28000" && database.tls.is_none() => {
                        format!(
                            "add `tls` beside {key} if the server demands it, or correct user or database there, or pg_hba.conf of the server"
                        )
                    }
                    _ => format!("correct user, password or database in {key}, or pg_hba.conf of the server"),
                };
                let where_ = format!("{} database ({address})", side.as_str());
                findings.error(Check::Connect, None, where_, format!("cannot be read: {}", error.reason()), fix);
                None
            }
        }
    }

    async fn read(
        url: &PostgresUrl,
        address: String,
        application: &str,
        sync: &Sync,
        side: Side,
    ) -> Result<Self, FlowError> {
        let session = url.connect(application).await?;
        let doing = "reading the catalog";
        let sql = |error: tokio_postgres::Error| FlowError::sql(doing, &error);
        // Whatever a check runs, the server will not let it change anything.
        session.batch_execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY").await.map_err(sql)?;
        let row = session.query_one(SERVER, &[]).await.map_err(sql)?;
        let server = Server {
            identity: row.get(0),
            version: row.get(1),
            wal_level: row.get(2),
            role: row.get(3),
            is_superuser: row.get(4),
            may_replicate: row.get(5),
            may_create: row.get(6),
            has_own_tables: row.get(7),
        };
        let database = row.get(8);
        let mut tables = BTreeMap::new();
        for (_, name) in tables_on(sync, side) {
            if let Some(facts) = Facts::read(&session, name).await.map_err(sql)? {
                tables.insert(name.to_owned(), facts);
            }
        }
        let outbox = match sync.outbox.on(side) {
            Some(name) => Facts::read(&session, name).await.map_err(sql)?,
            None => None,
        };
        let at = At::Postgres(Box::new(PostgresPlace { session, server }));
        Ok(Self { side, address, database, tables, outbox, at })
    }

    pub(super) fn new(
        side: Side,
        address: String,
        database: String,
        tables: BTreeMap<String, Facts>,
        outbox: Option<Facts>,
        at: At,
    ) -> Self {
        Self { side, address, database, tables, outbox, at }
    }

    /// What is there to ask PostgreSQL further, when it is one.
    pub(super) fn postgres(&self) -> Option<&PostgresPlace> {
        match &self.at {
            At::Postgres(place) => Some(place),
            At::Mysql(_) => None,
        }
    }

    /// What was read of MariaDB or MySQL, when it is one.
    pub(super) fn mysql(&self) -> Option<&MysqlPlace> {
        match &self.at {
            At::Postgres(_) => None,
            At::Mysql(place) => Some(place),
        }
    }

    /// `legacy database (host:port/name)`.
    pub(super) fn name(&self) -> String {
        format!("{} database ({})", self.side.as_str(), self.address)
    }

    /// `modern function crm.customer_changed (host:port/name)`.
    pub(super) fn function(&self, function: &str) -> String {
        format!("{} function {function} ({})", self.side.as_str(), self.address)
    }

    /// `legacy table public.payments (host:port/name)`.
    pub(super) fn table(&self, table: &str) -> String {
        format!("{} table {table} ({})", self.side.as_str(), self.address)
    }
}

// === impl Facts ===

impl Facts {
    pub(super) async fn read(session: &Session, name: &str) -> Result<Option<Self>, tokio_postgres::Error> {
        let Some(row) = session.query_opt(TABLE, &[&quote_table(name), &ACTIONS.as_slice()]).await? else {
            return Ok(None);
        };
        let letter = |column: usize| row.get::<_, &str>(column).chars().next().unwrap_or(' ');
        let oid: u32 = row.get(0);
        let may: Vec<bool> = row.get(8);
        let columns = session.query(COLUMNS, &[&oid]).await?;
        Ok(Some(Self {
            oid,
            kind: letter(1),
            is_logged: row.get(2),
            identity: letter(3),
            key: row.get(4),
            primary: row.get(5),
            is_owner: row.get(6),
            hides_rows: row.get(7),
            lacks: ACTIONS.into_iter().zip(may).filter(|(_, may)| !may).map(|(action, _)| action).collect(),
            columns: columns
                .iter()
                .map(|row| Column {
                    name: row.get(0),
                    type_: Type::Postgres(PostgresType { name: row.get(1), modifier: row.get(2), labels: row.get(3) }),
                    is_not_null: row.get(4),
                    has_default: row.get(5),
                    is_generated: row.get(6),
                })
                .collect(),
        }))
    }

    /// An ordinary or a partitioned table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.kind, 'r' | 'p')
    }
}

/// The names of a sync's tables on one side.
pub(super) fn tables_on(sync: &Sync, side: Side) -> impl Iterator<Item = (&crate::config::Table, &str)> {
    sync.tables.iter().filter_map(move |table| Some((table, table.on(side)?)))
}

/// The same of those that are written there, too: not of those whose changes go to a function of the other side.
pub(super) fn written_on(sync: &Sync, side: Side) -> impl Iterator<Item = (&crate::config::Table, &str)> {
    tables_on(sync, side).filter(|(table, _)| table.apply.is_none())
}
