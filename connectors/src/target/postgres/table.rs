//! A target table as its catalogue shows it, and the statements that write runs of rows to it.

use std::collections::HashMap;

use prometheus::IntCounter;
use tokio_postgres::Statement;

use crate::{
    database::postgres::Session,
    error::FlowError,
    mapping::Mapping,
    metrics::FlowMetrics,
    names::{quote, quote_table},
    plan::PlanTable,
    record::envelope::Op,
    target::row::{self, Layout},
};

/// A target table.
pub(crate) struct TargetTable {
    pub(crate) plan: PlanTable,
    pub(crate) columns: Vec<Column>,
    /// Which columns are the primary key.
    pub(crate) key: Vec<usize>,
    constants: Vec<(usize, Option<String>)>,
    /// A unique index beside the primary key: rows must be written in event order.
    pub(crate) other_unique: bool,
    /// Those of them that are of whole columns and of all rows.
    pub(crate) uniques: Vec<Unique>,
    statements: HashMap<Shape, Statement>,
    counters: HashMap<Op, IntCounter>,
}

/// A column of a target table.
pub(crate) struct Column {
    pub(crate) name: String,
    /// Without its modifier: an explicit cast to `varchar(5)` would cut what assigning refuses.
    cast: String,
    /// The server makes its value.
    pub(crate) generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: can be inserted, never set.
    pub(crate) identity_always: bool,
}

/// A unique index beside the primary key.
pub(crate) struct Unique {
    pub(crate) columns: Vec<usize>,
    /// NULLS NOT DISTINCT.
    nulls_are_equal: bool,
}

/// What a run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    Insert,
    Update,
    Delete,
    /// A snapshot's row over one that may be there: equal rows stay untouched.
    Merge,
    /// Notes the key of a snapshot's row.
    Seen,
    /// Finds rows that have the key of one of these, and are none of the sync's.
    Others,
    /// Deletes rows from before a copy, not seen in it, that stand in the way of a row by this one of the other unique indexes.
    Free(usize),
}

/// A statement's identity: the kind, the columns it carries, and whether the key itself is set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) write: Write,
    pub(crate) columns: Vec<usize>,
    pub(crate) moves_key: bool,
}

// === impl TargetTable ===

impl TargetTable {
    /// Reads the catalogue.
    pub(crate) async fn load(session: &Session, plan: &PlanTable) -> Result<Self, FlowError> {
        let doing = "reading the target's columns";
        let name = quote_table(&plan.target);
        let rows = session
            .query(
                "SELECT a.attname::text, format_type(a.atttypid, -1), a.attgenerated <> '', a.attidentity = 'a', \
                 coalesce(array_position((i.indkey::int2[])[0:i.indnkeyatts - 1], a.attnum)::int, -1) \
                 FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary \
                 WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
                &[&name],
            )
            .await
            .map_err(|e| FlowError::sql(doing, &e))?;
        if rows.is_empty() {
            return Err(FlowError::Stop(format!("the target has no table `{}`", plan.target)));
        }
        let mut key: Vec<(i32, usize)> = Vec::new();
        let mut columns = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            let place: i32 = row.get(4);
            if place >= 0 {
                key.push((place, i));
            }
            columns.push(Column {
                name: row.get(0),
                cast: row.get(1),
                generated: row.get(2),
                identity_always: row.get(3),
            });
        }
        key.sort_unstable();
        if key.is_empty() {
            return Err(FlowError::Stop(format!("the target's table `{}` has no primary key", plan.target)));
        }
        let row = session
            .query_one(
                "SELECT EXISTS (SELECT 1 FROM pg_index WHERE indrelid = to_regclass($1) AND (indisunique OR indisexclusion) AND NOT indisprimary)",
                &[&name],
            )
            .await
            .map_err(|e| FlowError::sql(doing, &e))?;
        // Whole columns are numbered from 1; an expression is 0. NULLS NOT DISTINCT is there from 15 on.
        let found = session
            .query(
                "SELECT ARRAY(SELECT a.attname::text FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(n, at) \
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.at), \
                 coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) \
                 FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND NOT i.indisprimary AND i.indpred IS NULL AND i.indexprs IS NULL",
                &[&name],
            )
            .await
            .map_err(|e| FlowError::sql(doing, &e))?;
        let place = |name: &String| columns.iter().position(|column| column.name == *name);
        let unique = |row: &tokio_postgres::Row| Unique {
            columns: row.get::<_, Vec<String>>(0).iter().filter_map(place).collect(),
            nulls_are_equal: row.get(1),
        };
        let uniques = found.iter().map(unique).collect();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let constants = row::constants(&plan.target, &plan.mapping, &names)?;
        Ok(Self {
            plan: plan.clone(),
            constants,
            columns,
            uniques,
            key: key.into_iter().map(|(_, i)| i).collect(),
            other_unique: row.get(0),
            statements: HashMap::new(),
            counters: HashMap::new(),
        })
    }

    pub(crate) fn statement(&self, shape: &Shape) -> Option<&Statement> {
        self.statements.get(shape)
    }

    pub(crate) fn remember(&mut self, shape: Shape, statement: Statement) {
        // Every mix of unchanged columns is a shape of its own.
        if self.statements.len() >= 64 {
            self.statements.clear();
        }
        self.statements.insert(shape, statement);
    }

    pub(crate) fn count(&mut self, metrics: &FlowMetrics, op: Op, rows: u64) {
        let plan = &self.plan;
        self.counters.entry(op).or_insert_with(|| metrics.changes(&plan.target, op)).inc_by(rows);
    }

    /// Whether no part of the key can be set by an UPDATE.
    pub(crate) fn has_fixed_key(&self) -> bool {
        self.key.iter().all(|&i| self.columns[i].identity_always)
    }

    /// The columns that an UPDATE of this shape sets.
    pub(crate) fn settable<'s>(&'s self, shape: &'s Shape) -> impl Iterator<Item = usize> + 's {
        shape.columns.iter().copied().filter(|&i| {
            let column = &self.columns[i];
            !column.generated && !column.identity_always && (shape.moves_key || !self.key.contains(&i))
        })
    }

    /// The statement of a shape. Its parameters are `text[]`: the old key's columns (UPDATE, DELETE), then the row's.
    pub(crate) fn sql(&self, shape: &Shape, seen: &str) -> String {
        let name = quote_table(&self.plan.target);
        let casts = |prefix: &str, columns: &[usize]| -> Vec<String> {
            columns.iter().map(|&i| format!("u.{prefix}{i}::{}", self.columns[i].cast)).collect()
        };
        let names =
            |columns: &[usize]| -> Vec<String> { columns.iter().map(|&i| quote(&self.columns[i].name)).collect() };
        let unnest = |old: &[usize], new: &[usize]| {
            let count = old.len() + new.len();
            let arrays: Vec<String> = (1..=count).map(|i| format!("${i}::text[]")).collect();
            let labels: Vec<String> =
                old.iter().map(|i| format!("k{i}")).chain(new.iter().map(|i| format!("a{i}"))).collect();
            format!("unnest({}) AS u({})", arrays.join(", "), labels.join(", "))
        };
        let same_key = || {
            let pairs = self.key.iter().zip(casts("k", &self.key));
            let pairs: Vec<String> =
                pairs.map(|(&i, cast)| format!("x.{} = {cast}", quote(&self.columns[i].name))).collect();
            pairs.join(" AND ")
        };
        let columns = &shape.columns;
        // A row that has the same key and is none of the sync's is not touched: it counts as not found.
        let own = self.plan.mapping.target_rows("x").map_or_else(String::new, |rows| format!(" AND {rows}"));
        match shape.write {
            Write::Others => {
                let same: Vec<String> = columns
                    .iter()
                    .zip(casts("a", columns))
                    .map(|(&i, cast)| format!("x.{} = {cast}", quote(&self.columns[i].name)))
                    .collect();
                let rows = self.plan.mapping.target_rows("x").unwrap_or_else(|| "true".to_owned());
                format!(
                    "SELECT FROM {name} AS x JOIN {} ON {} WHERE ({rows}) IS NOT TRUE LIMIT 1",
                    unnest(&[], columns),
                    same.join(" AND ")
                )
            }
            Write::Insert => format!(
                "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
                names(columns).join(", "),
                casts("a", columns).join(", "),
                unnest(&[], columns)
            ),
            Write::Merge => {
                let others: Vec<&Column> =
                    columns.iter().filter(|i| !self.key.contains(i)).map(|&i| &self.columns[i]).collect();
                let settable: Vec<String> = others
                    .iter()
                    .filter(|column| !column.identity_always)
                    .map(|column| format!("{0} = excluded.{0}", quote(&column.name)))
                    .collect();
                // As text: not every type can be compared (json).
                let differ: Vec<String> = others
                    .iter()
                    .map(|column| format!("x.{0}::text IS DISTINCT FROM excluded.{0}::text", quote(&column.name)))
                    .collect();
                let action = if settable.is_empty() {
                    "NOTHING".to_owned()
                } else {
                    format!("UPDATE SET {} WHERE ({}){own}", settable.join(", "), differ.join(" OR "))
                };
                format!(
                    "INSERT INTO {name} AS x ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} ON CONFLICT ({}) DO {action}",
                    names(columns).join(", "),
                    casts("a", columns).join(", "),
                    unnest(&[], columns),
                    names(&self.key).join(", "),
                )
            }
            Write::Seen => format!(
                "INSERT INTO {seen} ({}) SELECT {} FROM {} ON CONFLICT DO NOTHING",
                names(&self.key).join(", "),
                casts("a", &self.key).join(", "),
                unnest(&[], columns)
            ),
            Write::Free(unique) => {
                let Unique { columns: unique, nulls_are_equal } = &self.uniques[unique];
                let equal = |columns: &[usize], sign: &str| -> Vec<String> {
                    let pairs = columns.iter().zip(casts("a", columns));
                    pairs.map(|(&i, cast)| format!("x.{} {sign} {cast}", quote(&self.columns[i].name))).collect()
                };
                let seen_key: Vec<String> = names(&self.key).iter().map(|key| format!("s.{key} = x.{key}")).collect();
                format!(
                    "DELETE FROM {name} AS x USING {} WHERE {} AND NOT ({}) AND NOT EXISTS (SELECT FROM {seen} s WHERE {}){own}",
                    unnest(&[], columns),
                    equal(unique, if *nulls_are_equal { "IS NOT DISTINCT FROM" } else { "=" }).join(" AND "),
                    equal(&self.key, "=").join(" AND "),
                    seen_key.join(" AND ")
                )
            }
            Write::Update => {
                let set: Vec<String> = self
                    .settable(shape)
                    .map(|i| format!("{} = u.a{i}::{}", quote(&self.columns[i].name), self.columns[i].cast))
                    .collect();
                // What cannot be set must be equal already, or the row counts as not found: both sides differ.
                let fixed = columns
                    .iter()
                    .filter(|i| self.columns[**i].identity_always)
                    .map(|&i| format!(" AND x.{} = u.a{i}::{}", quote(&self.columns[i].name), self.columns[i].cast));
                format!(
                    "UPDATE {name} AS x SET {} FROM {} WHERE {}{}{own}",
                    set.join(", "),
                    unnest(&self.key, columns),
                    same_key(),
                    fixed.collect::<String>()
                )
            }
            Write::Delete => {
                format!("DELETE FROM {name} AS x USING {} WHERE {}{own}", unnest(&self.key, &[]), same_key())
            }
        }
    }
}

impl Layout for TargetTable {
    fn name(&self) -> &str {
        &self.plan.target
    }

    fn mapping(&self) -> &Mapping {
        &self.plan.mapping
    }

    fn constants(&self) -> &[(usize, Option<String>)] {
        &self.constants
    }

    fn column(&self, name: &str, hint: usize) -> Option<usize> {
        if self.columns.get(hint).is_some_and(|column| column.name == name) {
            return Some(hint);
        }
        self.columns.iter().position(|column| column.name == name)
    }

    fn is_generated(&self, column: usize) -> bool {
        self.columns[column].generated
    }

    fn key(&self) -> &[usize] {
        &self.key
    }
}
