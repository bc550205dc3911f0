//! The file's `outbox` of a sync: which table of either side holds events to be published.

use garde::Validate;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Side;

/// Each side's table of events. A service inserts a row into it in the transaction of what the event tells of; the row becomes a record on the
/// topic `outbox.event.<aggregatetype>`, as Debezium's outbox event router makes it by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outbox {
    /// `schema.table` in the legacy database (`database.table` in MariaDB and MySQL).
    #[garde(inner(pattern(r"^[^.]+\.[^.]+$")))]
    pub legacy: Option<String>,
    /// `schema.table` in the modern database (`database.table` in MariaDB and MySQL).
    #[garde(inner(pattern(r"^[^.]+\.[^.]+$")))]
    pub modern: Option<String>,
}

// === impl Outbox ===

impl Outbox {
    /// The table of one side, if it has one.
    #[must_use]
    pub fn on(&self, side: Side) -> Option<&str> {
        match side {
            Side::Legacy => self.legacy.as_deref(),
            Side::Modern => self.modern.as_deref(),
        }
    }
}
