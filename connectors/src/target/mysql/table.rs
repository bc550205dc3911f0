//! A target table as MariaDB's or MySQL's catalogue shows it.

use std::collections::HashMap;

use prometheus::IntCounter;

use super::literal::Class;
use crate::{
    database::{
        catalogue::{describe, primary_key},
        mysql::{MysqlSession, quote, quote_table},
    },
    error::FlowError,
    mapping::Mapping,
    metrics::FlowMetrics,
    plan::PlanTable,
    record::envelope::Op,
    target::row::{self, Layout},
};

/// A target table.
pub(crate) struct TargetTable {
    pub(crate) plan: PlanTable,
    /// Quoted.
    pub(crate) sql_name: String,
    pub(crate) columns: Vec<Column>,
    /// Which columns are the primary key.
    pub(crate) key: Vec<usize>,
    constants: Vec<(usize, Option<String>)>,
    counters: HashMap<Op, IntCounter>,
}

/// A column of a target table.
pub(crate) struct Column {
    pub(crate) name: String,
    /// Quoted.
    pub(crate) sql_name: String,
    pub(crate) class: Class,
    /// The server makes its value.
    pub(crate) generated: bool,
}

// === impl TargetTable ===

impl TargetTable {
    /// Reads the catalogue.
    pub(crate) async fn load(session: &mut MysqlSession, plan: &PlanTable) -> Result<Self, FlowError> {
        let columns: Vec<Column> = describe(session, &plan.target)
            .await?
            .into_iter()
            .map(|column| Column {
                sql_name: quote(&column.name),
                class: Class::of(&column.data_type),
                generated: column.is_generated,
                name: column.name,
            })
            .collect();
        if columns.is_empty() {
            return Err(FlowError::Stop(format!("the target has no table `{}`", plan.target)));
        }
        let names = primary_key(session, &plan.target).await?;
        let key: Vec<usize> =
            names.iter().filter_map(|name| columns.iter().position(|own| own.name == *name)).collect();
        if key.is_empty() {
            return Err(FlowError::Stop(format!("the target's table `{}` has no primary key", plan.target)));
        }
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let constants = row::constants(&plan.target, &plan.mapping, &names)?;
        let sql_name = quote_table(&plan.target);
        Ok(Self { sql_name, plan: plan.clone(), columns, key, constants, counters: HashMap::new() })
    }

    /// Whether this is `schema.table` of the source.
    pub(crate) fn is(&self, schema: &str, table: &str) -> bool {
        self.plan.source.split_once('.') == Some((schema, table))
    }

    /// Which rows of the table are the sync's.
    pub(crate) fn own_rows(&self) -> String {
        self.plan.mapping.target_rows_in_mysql().unwrap_or_else(|| "true".to_owned())
    }

    /// Rows of one kind were committed.
    pub(crate) fn count(&mut self, metrics: &FlowMetrics, op: Op, rows: u64) {
        let plan = &self.plan;
        self.counters.entry(op).or_insert_with(|| metrics.changes(&plan.target, op)).inc_by(rows);
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
