//! A row of an outbox as an event: the table's columns and the event's shape are those that Debezium's outbox event router has by default.
//!
//! <https://debezium.io/documentation/reference/stable/transformations/outbox-event-router.html>, with `type:header:eventType` as its one
//! additional placement, without which nobody could tell events of one aggregate apart. Values are texts as they stand: what that router gives
//! with `table.expand.json.payload` off and Kafka Connect's `StringConverter`.

use crate::{config::Side, position::Position, record::envelope::Value};

/// The columns, in this order.
pub(crate) const COLUMNS: [&str; 5] = ["id", "aggregatetype", "aggregateid", "type", "payload"];
/// What the topics of events begin with.
pub(crate) const PREFIX: &str = "outbox.event.";
/// Kafka's limit on the name of a topic.
const LONGEST: usize = 249;

/// What a row breaks whose table has not all of [`COLUMNS`].
const MISSING: [&str; 5] = [
    "the outbox has no column `id`",
    "the outbox has no column `aggregatetype`",
    "the outbox has no column `aggregateid`",
    "the outbox has no column `type`",
    "the outbox has no column `payload`",
];

/// Where a table has the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Columns([Option<usize>; 5]);

/// One row's values as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(crate) id: Option<&'a [u8]>,
    pub(crate) aggregate_type: Option<&'a [u8]>,
    pub(crate) aggregate_id: Option<&'a [u8]>,
    pub(crate) kind: Option<&'a [u8]>,
    pub(crate) payload: Option<&'a [u8]>,
    /// What its table lacks.
    missing: Option<&'static str>,
}

/// A row that was inserted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'a> {
    pub(crate) row: Row<'a>,
    pub(crate) table: &'a str,
    /// Its transaction's; the ordinal counts the transaction's events.
    pub(crate) position: Position,
    pub(crate) origin: Side,
    /// Microseconds since 1970, of the commit at the source.
    pub(crate) at: i64,
}

/// Where events of a flow stand that no other topic takes; `topic` is the flow's own.
pub(crate) fn unrouted(topic: &str) -> String {
    format!("{topic}.unrouted")
}

// === impl Row ===

impl Row<'_> {
    /// The topic of the aggregate's events, or the rule that the row breaks.
    pub(crate) fn topic(&self) -> Result<String, &'static str> {
        if let Some(missing) = self.missing {
            return Err(missing);
        }
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        match self.aggregate_type.map(|name| (name, std::str::from_utf8(name))) {
            None => Err("`aggregatetype` is NULL"),
            Some((b"", _)) => Err("`aggregatetype` is empty"),
            Some((name, _)) if name.len() > LONGEST - PREFIX.len() => Err("`aggregatetype` is longer than 236 bytes"),
            Some((name, Ok(text))) if name.iter().all(legal) => Ok(format!("{PREFIX}{text}")),
            Some(_) => {
                Err("`aggregatetype` has more than letters, digits, `.`, `_` and `-`, which alone a topic's name takes")
            }
        }
    }
}

// === impl Columns ===

impl Columns {
    /// Finds them among a table's columns.
    pub(crate) fn find<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let mut places = [None; 5];
        for (at, name) in names.enumerate() {
            if let Some(column) = COLUMNS.iter().position(|column| *column == name) {
                places[column] = Some(at);
            }
        }
        Self(places)
    }

    /// Which of a table's columns are among them.
    pub(crate) fn has(&self, at: usize) -> bool {
        self.0.contains(&Some(at))
    }

    /// A row's values by their columns.
    pub(crate) fn row<'v>(&self, values: impl Iterator<Item = Value<'v>>) -> Row<'v> {
        let mut found = [None; 5];
        for (at, value) in values.enumerate() {
            if let (Some(column), Value::Text(text)) = (self.0.iter().position(|place| *place == Some(at)), value) {
                found[column] = Some(text);
            }
        }
        let missing = self.0.iter().position(Option::is_none).map(|column| MISSING[column]);
        let [id, aggregate_type, aggregate_id, kind, payload] = found;
        Row { id, aggregate_type, aggregate_id, kind, payload, missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_named_by_the_aggregate_or_a_rule_says_why_not() {
        let topic = |aggregate_type| Row { aggregate_type, ..Row::default() }.topic();
        assert_eq!(topic(Some(b"payment")).unwrap(), "outbox.event.payment");
        let longest = "a".repeat(236);
        assert_eq!(topic(Some(longest.as_bytes())).unwrap().len(), 249);
        let longer = format!("{longest}a");
        let bad = [&b""[..], b"a b", "ä".as_bytes(), b"\xff", b"a/b", longer.as_bytes()];
        for bad in bad.map(Some).into_iter().chain([None]) {
            let rule = topic(bad).unwrap_err();
            assert!(rule.starts_with("`aggregatetype`"), "{rule}");
        }
    }

    #[test]
    fn columns_are_found_wherever_they_stand() {
        let names = ["extra", "payload", "type", "aggregateid", "aggregatetype", "id"];
        let values = [b"0", b"5", b"4", b"3", b"2", b"1"].map(|text| Value::Text(text));
        let row = Columns::find(names.into_iter()).row(values.into_iter());
        let texts = [row.id, row.aggregate_type, row.aggregate_id, row.kind, row.payload];
        assert_eq!(texts, [b"1", b"2", b"3", b"4", b"5"].map(|text| Some(&text[..])));
        assert_eq!(row.topic(), Ok("outbox.event.2".to_owned()));
        // One that is missing is no reason to lose what there is.
        let row = Columns::find(names[..5].iter().copied()).row(values.into_iter());
        assert_eq!((row.kind, row.topic()), (Some(&b"4"[..]), Err("the outbox has no column `id`")));
        assert!(COLUMNS.iter().zip(MISSING).all(|(column, rule)| rule.ends_with(&format!(" `{column}`"))));
    }
}
