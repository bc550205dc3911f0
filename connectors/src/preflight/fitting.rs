//! Whether a table takes rows of a shape that the other side's stream has announced: the same questions as before a sync begins, asked again in
//! its middle.

use super::{
    Severity, columns,
    facts::{Column, Facts},
    mysql,
    types::{PostgresType, Type},
};
use crate::{
    database::{
        DatabaseUrl,
        mysql::{MysqlSession, quote as mysql_quote, quote_table as mysql_quote_table},
        postgres::Session,
    },
    error::FlowError,
    names::{quote, quote_table},
    plan::PlanTable,
    source::postgres::schema::Shape,
};

const DOING: &str = "comparing both sides' tables";

/// Where rows of a shape come from.
pub(crate) enum Source<'a> {
    Postgres {
        session: &'a Session,
        shape: &'a Shape,
    },
    /// The columns that are sent, and which are key.
    Mysql {
        session: &'a mut MysqlSession,
        table: &'a str,
        columns: &'a [(String, bool)],
    },
}

/// What of the shape `target` does not take in its table, each with what would be right; nothing when all fits.
pub(crate) async fn misfits(
    source: Source<'_>,
    target: &DatabaseUrl,
    own: &PlanTable,
    application: &str,
) -> Result<Vec<String>, FlowError> {
    if own.is_function {
        // It takes whatever columns there are.
        return Ok(Vec::new());
    }
    let (table, mapping) = (own.target.as_str(), &own.mapping);
    let Some(facts) = facts(target, table, application).await? else {
        return Ok(vec![format!("the target has no table {table}: create it there")]);
    };
    let (announced, sent) = match source {
        Source::Postgres { session, shape } => match announced(session, shape).await? {
            Ok(columns) => {
                let sent = shape.columns.iter().map(|column| (column.name.clone(), column.is_key)).collect();
                (columns, sent)
            }
            Err(missing) => return Ok(vec![missing]),
        },
        Source::Mysql { session, table, columns } => {
            let known =
                mysql::table_facts(session, table, "true", false).await?.map_or(Vec::new(), |(_, facts)| facts.columns);
            (
                known.into_iter().filter(|column| columns.iter().any(|(name, _)| *name == column.name)).collect(),
                columns.to_vec(),
            )
        }
    };
    let unfit = columns::misfits(&announced, &facts.columns, mapping)
        .into_iter()
        .filter(|(severity, ..)| *severity == Severity::Error);
    let mut list: Vec<String> = unfit.map(|(_, what, fix)| format!("the target's {table} {what}: {fix}")).collect();
    for (source, _) in &sent {
        let Some(name) = mapping.target(source) else { continue };
        // The catalogue is ahead of the log, and no longer has it.
        let is_known = announced.iter().any(|column| column.name == *source);
        if !is_known && !facts.columns.iter().any(|column| column.name == *name) {
            list.push(format!("the target's {table} has no column `{name}`, which the other side has: add it"));
        }
    }
    let sent: Vec<(String, bool)> =
        sent.into_iter().map(|(name, is_key)| (mapping.target(&name).unwrap_or(&name).to_owned(), is_key)).collect();
    list.extend(key(&sent, &facts, table));
    Ok(list)
}

/// Whether the catalogue of MariaDB or MySQL says of all these columns that they may be NULL and have no default.
pub(crate) async fn takes_no_default(
    session: &mut MysqlSession,
    table: &str,
    columns: &[&str],
) -> Result<bool, FlowError> {
    let facts = mysql::table_facts(session, table, "true", false).await?;
    Ok(facts.is_some_and(|(_, facts)| columns.iter().all(|name| is_plain(&facts, name))))
}

/// Whether what these columns of the source are in the target holds nothing but NULL, and rows that do not say get NULL.
pub(crate) async fn is_null_throughout(
    target: &DatabaseUrl,
    own: &PlanTable,
    columns: &[&str],
    application: &str,
) -> Result<bool, FlowError> {
    let table = own.target.as_str();
    let columns: Vec<&str> = columns.iter().filter_map(|name| own.mapping.target(name)).collect();
    if columns.is_empty() {
        return Ok(true);
    }
    let facts = facts(target, table, application).await?;
    if !facts.is_some_and(|facts| columns.iter().all(|name| is_plain(&facts, name))) {
        return Ok(false);
    }
    match target {
        DatabaseUrl::Postgres(url) => {
            let session = url.connect(application).await?;
            let any: Vec<String> = columns.iter().map(|name| format!("x.{} IS NOT NULL", quote(name))).collect();
            let its = own.mapping.target_rows("x").unwrap_or_else(|| "true".to_owned());
            let (place, any) = (quote_table(table), any.join(" OR "));
            let sql = format!("SELECT NOT EXISTS (SELECT FROM {place} AS x WHERE ({any}) AND {its})");
            Ok(session.query_one(&sql, &[]).await.map_err(|e| FlowError::sql(DOING, &e))?.get(0))
        }
        DatabaseUrl::Mysql(url) => {
            let mut session = url.connect(application).await?;
            let any: Vec<String> = columns.iter().map(|name| format!("{} IS NOT NULL", mysql_quote(name))).collect();
            let its = own.mapping.target_rows_in_mysql().unwrap_or_else(|| "true".to_owned());
            let (place, any) = (mysql_quote_table(table), any.join(" OR "));
            let sql = format!("SELECT NOT EXISTS (SELECT 1 FROM {place} WHERE ({any}) AND {its})");
            Ok(session.value::<i64>(DOING, &sql).await? == Some(1))
        }
    }
}

fn is_plain(facts: &Facts, name: &str) -> bool {
    let column = facts.columns.iter().find(|column| column.name == name);
    column.is_some_and(|column| !column.has_default && !column.is_not_null && !column.is_generated)
}

async fn facts(database: &DatabaseUrl, table: &str, application: &str) -> Result<Option<Facts>, FlowError> {
    match database {
        DatabaseUrl::Postgres(url) => {
            let session = url.connect(application).await?;
            Facts::read(&session, table).await.map_err(|e| FlowError::sql(DOING, &e))
        }
        DatabaseUrl::Mysql(url) => {
            let mut session = url.connect(application).await?;
            Ok(mysql::table_facts(&mut session, table, "true", false).await?.map(|(_, facts)| facts))
        }
    }
}

/// Rows are found by the primary key: the log must say it of every row, and no two rows may share it.
fn key(columns: &[(String, bool)], target: &Facts, table: &str) -> Option<String> {
    let mut sent: Vec<&str> = columns.iter().filter(|(_, is_key)| *is_key).map(|(name, _)| name.as_str()).collect();
    if sent.is_empty() {
        // Rows can only come in: the server refuses to change or delete what it cannot tell apart.
        return None;
    }
    let is_whole = sent.len() == columns.len();
    sent.sort_unstable();
    let is_the_key = |key: &[String]| {
        let mut key: Vec<&str> = key.iter().map(String::as_str).collect();
        key.sort_unstable();
        key == sent
    };
    let is_same = is_whole || is_the_key(&target.primary) || is_the_key(&target.key);
    if !target.primary.is_empty() && target.primary.iter().all(|column| sent.contains(&column.as_str())) && is_same {
        return None;
    }
    Some(format!(
        "the target's {table} has the primary key ({}), and rows are told apart by ({}) now: make it the same on both sides",
        target.primary.join(", "),
        sent.join(", ")
    ))
}

/// The columns in the catalogue's words; or what is not there any more. NULLs are taken for possible where the catalogue still has the column and
/// allows them.
async fn announced(session: &Session, shape: &Shape) -> Result<Result<Vec<Column>, String>, FlowError> {
    let names: Vec<&str> = shape.columns.iter().map(|column| column.name.as_str()).collect();
    let types: Vec<u32> = shape.columns.iter().map(|column| column.type_id).collect();
    let modifiers: Vec<i32> = shape.columns.iter().map(|column| column.modifier).collect();
    let rows = session
            .query(
                "SELECT u.name, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL), \
                     CASE WHEN t.typbasetype <> 0 THEN t.typtypmod ELSE u.modifier END, \
                     ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder), \
                     coalesce(a.attnotnull, true), t.oid IS NOT NULL \
                 FROM unnest($1::text[], $2::oid[], $3::int[]) WITH ORDINALITY AS u (name, type_id, modifier, n) \
                 LEFT JOIN pg_type t ON t.oid = u.type_id \
                 LEFT JOIN pg_attribute a ON a.attrelid = to_regclass($4) AND a.attname = u.name AND a.attnum > 0 AND NOT a.attisdropped \
                 ORDER BY u.n",
                &[&names, &types, &modifiers, &quote_table(&shape.table)],
            )
            .await
            .map_err(|e| FlowError::sql(DOING, &e))?;
    let mut columns = Vec::with_capacity(rows.len());
    for row in rows {
        let name: String = row.get(0);
        if !row.get::<_, bool>(5) {
            return Ok(Err(format!("the type of `{name}` is gone from the source: nothing tells what it held")));
        }
        columns.push(Column {
            name,
            type_: Type::Postgres(PostgresType { name: row.get(1), modifier: row.get(2), labels: row.get(3) }),
            is_not_null: row.get(4),
            has_default: false,
            is_generated: false,
        });
    }
    Ok(Ok(columns))
}
