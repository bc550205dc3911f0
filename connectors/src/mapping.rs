//! How the columns of a table become those of the other side's table, as one flow sees it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::Table,
    database::mysql,
    names::{Flow, literal, quote},
    record::{
        envelope::{Envelope, Op},
        json::BadJson,
    },
};

/// Nothing in it: every column has the same name on both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// By the source's name.
    renamed: BTreeMap<String, String>,
    /// Of the source: not sent.
    left_out: BTreeSet<String>,
    /// Of the target: not written, or set to a constant.
    untouched: BTreeSet<String>,
    constants: BTreeMap<String, Option<String>>,
    rows: Vec<Only>,
}

/// What a column must have in a row of the sync.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Only {
    source: String,
    target: String,
    values: BTreeSet<Option<String>>,
}

/// What of a change concerns the sync.
#[derive(Debug)]
pub(crate) enum Part<'e> {
    Its(Envelope<'e>),
    Others,
    /// The record does not tell.
    Untold,
}

// === impl Only ===

impl Only {
    /// As a condition. `column` is an identifier, `text` its value as text.
    fn condition(&self, column: &str, text: &str, literal: impl Fn(&str) -> String) -> String {
        let values: Vec<String> = self.values.iter().flatten().map(|value| literal(value)).collect();
        let mut ways = Vec::new();
        if !values.is_empty() {
            ways.push(format!("{text} IN ({})", values.join(", ")));
        }
        if self.values.contains(&None) {
            ways.push(format!("{column} IS NULL"));
        }
        format!("({})", ways.join(" OR "))
    }
}

// === impl Mapping ===

impl Mapping {
    pub(crate) fn of(table: &Table, flow: Flow) -> Self {
        let (source, target) = (flow.source(), flow.target());
        let renamed = table.rename.iter().map(|(legacy, modern)| match flow {
            Flow::LegacyToModern => (legacy.clone(), modern.clone()),
            Flow::ModernToLegacy => (modern.clone(), legacy.clone()),
        });
        Self {
            renamed: renamed.collect(),
            left_out: table.left_out(source).iter().chain(table.constants(source).keys()).cloned().collect(),
            untouched: table.left_out(target).iter().cloned().collect(),
            constants: table.constants(target).clone(),
            rows: Vec::new(),
        }
        .with_rows(table, flow)
    }

    fn with_rows(self, table: &Table, flow: Flow) -> Self {
        let only = |(legacy, values): (&String, &Vec<Option<String>>)| {
            let modern = table.rename.get(legacy).unwrap_or(legacy).clone();
            let values = values.iter().cloned().collect();
            match flow {
                Flow::LegacyToModern => Only { source: legacy.clone(), target: modern, values },
                Flow::ModernToLegacy => Only { source: modern, target: legacy.clone(), values },
            }
        };
        Self { rows: table.rows.iter().map(only).collect(), ..self }
    }

    /// Whether rows of the table may be none of the sync's.
    pub(crate) fn has_filter(&self) -> bool {
        !self.rows.is_empty()
    }

    /// The columns that tell the sync's rows apart, by the source's names.
    pub(crate) fn filter_columns(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|only| only.source.as_str())
    }

    /// What of a change concerns the sync: a row that comes into it is inserted, and one that leaves it is deleted. Nothing, when neither
    /// the old row nor the new one is the sync's.
    pub(crate) fn part_of<'e>(&self, envelope: Envelope<'e>) -> Result<Part<'e>, BadJson> {
        if self.rows.is_empty() || envelope.op == Op::Truncate {
            return Ok(Part::Its(envelope));
        }
        let (mut old, mut new) = (vec![None; self.rows.len()], vec![None; self.rows.len()]);
        let judge = |into: &mut Vec<Option<bool>>, name: &str, value: Option<&str>| {
            for (only, into) in self.rows.iter().zip(into).filter(|(only, _)| only.source == name) {
                *into = Some(only.values.iter().any(|wanted| wanted.as_deref() == value));
            }
        };
        envelope.before(|name, value| judge(&mut old, name, value))?;
        envelope.after(|name, value| judge(&mut new, name, value))?;
        // What the new row does not say has not changed; what the old one does not say nobody knows.
        let is = new.iter().zip(&old).map(|(new, old)| new.or(*old)).collect::<Option<Vec<bool>>>();
        let was = old.into_iter().collect::<Option<Vec<bool>>>();
        let all = |these: Option<Vec<bool>>| these.map(|these| these.into_iter().all(|fits| fits));
        let (was, is) = (all(was), all(is));
        let part = match envelope.op {
            Op::Create | Op::Read => is.map(|is| is.then_some(envelope)),
            Op::Delete => was.map(|was| was.then_some(envelope)),
            _ => was.zip(is).map(|both| match both {
                (true, true) => Some(envelope),
                (true, false) => Some(envelope.leaves()),
                (false, true) => Some(envelope.comes()),
                (false, false) => None,
            }),
        };
        Ok(match part {
            Some(Some(envelope)) => Part::Its(envelope),
            Some(None) => Part::Others,
            None => Part::Untold,
        })
    }

    /// The sync's rows of the target, as a condition of PostgreSQL on `alias`.
    pub(crate) fn target_rows(&self, alias: &str) -> Option<String> {
        self.condition(|only| postgres(only, &only.target, alias))
    }

    /// The sync's rows of the source, as a condition of PostgreSQL on `alias`.
    pub(crate) fn source_rows(&self, alias: &str) -> Option<String> {
        self.condition(|only| postgres(only, &only.source, alias))
    }

    /// The sync's rows of the target, as a condition of MariaDB and MySQL.
    pub(crate) fn target_rows_in_mysql(&self) -> Option<String> {
        self.condition(|only| in_mysql(only, &only.target))
    }

    /// The sync's rows of the source, as a condition of MariaDB and MySQL.
    pub(crate) fn source_rows_in_mysql(&self) -> Option<String> {
        self.condition(|only| in_mysql(only, &only.source))
    }

    fn condition(&self, one: impl Fn(&Only) -> String) -> Option<String> {
        let all: Vec<String> = self.rows.iter().map(one).collect();
        (!all.is_empty()).then(|| all.join(" AND "))
    }

    /// The target's name of a column of the source; nothing when it is not sent.
    pub(crate) fn target<'n>(&'n self, source: &'n str) -> Option<&'n str> {
        if self.left_out.contains(source) {
            return None;
        }
        let name = self.renamed.get(source).map_or(source, String::as_str);
        (!self.is_own(name)).then_some(name)
    }

    /// The source's name of a column of the target; nothing when none is sent into it.
    pub(crate) fn source<'n>(&'n self, target: &'n str) -> Option<&'n str> {
        if self.is_own(target) {
            return None;
        }
        if let Some((source, _)) = self.renamed.iter().find(|(_, name)| *name == target) {
            return Some(source);
        }
        let is_sent = !self.left_out.contains(target) && !self.renamed.contains_key(target);
        is_sent.then_some(target)
    }

    /// Whether nothing that comes from the source is written into this column of the target.
    pub(crate) fn is_own(&self, target: &str) -> bool {
        self.untouched.contains(target) || self.constants.contains_key(target)
    }

    /// Whether a column of the source is not sent because the file says so.
    pub(crate) fn leaves_out(&self, source: &str) -> bool {
        self.left_out.contains(source)
    }

    /// Columns with another name in the target: the source's name, and the target's.
    pub(crate) fn renamed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.renamed.iter().map(|(source, target)| (source.as_str(), target.as_str()))
    }

    /// Columns of the target that are left as they are.
    pub(crate) fn untouched(&self) -> impl Iterator<Item = &str> {
        self.untouched.iter().map(String::as_str)
    }

    /// What columns of the target are set to; nothing is NULL.
    pub(crate) fn constants(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.constants.iter().map(|(column, value)| (column.as_str(), value.as_deref()))
    }
}

fn postgres(only: &Only, column: &str, alias: &str) -> String {
    let column = format!("{alias}.{}", quote(column));
    only.condition(&column, &format!("{column}::text COLLATE \"C\""), literal)
}

fn in_mysql(only: &Only, column: &str) -> String {
    let column = mysql::quote(column);
    only.condition(&column, &format!("CAST(CAST({column} AS CHAR CHARACTER SET utf8mb4) AS BINARY)"), mysql::text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_comes_into_the_sync_is_inserted_and_one_that_leaves_it_deleted() {
        let table: Table = serde_json::from_value(serde_json::json!({
            "legacy": "a.b", "modern": "c.d", "rename": {"land": "country"}, "rows": {"land": ["de", null], "kind": ["x"]}
        }))
        .unwrap();
        let mapping = Mapping::of(&table, Flow::LegacyToModern);
        let op = |op: &str, before: &str, after: &str| {
            let record = format!(
                "{{\"before\":{before},\"after\":{after},\"op\":\"{op}\",\"source\":{{\"schema\":\"a\",\"table\":\"b\"}}}}"
            );
            match mapping.part_of(Envelope::parse(record.as_bytes()).unwrap()).unwrap() {
                Part::Its(envelope) => Some(envelope.op),
                Part::Others => None,
                Part::Untold => Some(Op::Truncate),
            }
        };
        let (of, none, other, half) = (
            r#"{"id":"1","land":"de","kind":"x"}"#,
            r#"{"id":"1","land":null,"kind":"x"}"#,
            r#"{"id":"1","land":"fr","kind":"x"}"#,
            r#"{"id":"1","land":"de"}"#,
        );
        assert_eq!(
            [op("c", "null", of), op("c", "null", none), op("r", "null", other)],
            [Some(Op::Create), Some(Op::Create), None]
        );
        assert_eq!([op("d", of, "null"), op("d", other, "null")], [Some(Op::Delete), None]);
        let updates =
            [op("u", of, none), op("u", of, other), op("u", other, of), op("u", other, other), op("u", other, half)];
        assert_eq!(updates, [Some(Op::Update), Some(Op::Delete), Some(Op::Create), None, Some(Op::Create)]);
        assert_eq!(op("t", "null", "null"), Some(Op::Truncate));
        // Here it stands for what nobody knows.
        let untold =
            [op("u", "null", other), op("u", half, of), op("d", r#"{"id":"1"}"#, "null"), op("c", "null", half)];
        assert_eq!(untold, [Some(Op::Truncate); 4]);
        let condition = r#"(x."kind"::text COLLATE "C" IN ('x')) AND (x."country"::text COLLATE "C" IN ('de') OR x."country" IS NULL)"#;
        assert_eq!(mapping.target_rows("x").as_deref(), Some(condition));
    }

    #[test]
    fn both_directions_see_the_same_table() {
        let table: Table = serde_json::from_value(serde_json::json!({
            "legacy": "a.b", "modern": "c.d", "rename": {"mail": "email", "b": "a"},
            "leave_out": {"legacy": ["md5"], "modern": ["search"]}, "set": {"modern": {"tenant": "acme", "gone": null}}
        }))
        .unwrap();
        let there = Mapping::of(&table, Flow::LegacyToModern);
        let targets = ["id", "mail", "b", "md5", "tenant"].map(|source| there.target(source));
        assert_eq!(targets, [Some("id"), Some("email"), Some("a"), None, None]);
        let sources = ["id", "email", "mail", "a", "b", "search", "tenant"].map(|target| there.source(target));
        assert_eq!(sources, [Some("id"), Some("mail"), None, Some("b"), None, None, None]);
        assert_eq!(there.constants().collect::<Vec<_>>(), [("gone", None), ("tenant", Some("acme"))]);
        let back = Mapping::of(&table, Flow::ModernToLegacy);
        let targets = ["id", "email", "a", "search", "tenant"].map(|source| back.target(source));
        assert_eq!(targets, [Some("id"), Some("mail"), Some("b"), None, None]);
        assert_eq!(["mail", "md5"].map(|target| back.source(target)), [Some("email"), None]);
        assert_eq!(back.constants().count(), 0);
    }
}
