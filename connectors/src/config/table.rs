//! A table of a sync: its names on both sides, and how its columns differ there.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use garde::Validate;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Side, Target};

/// One table, by the same name on both sides (`public.payments`) or by one name a side.
#[derive(Debug, Clone, PartialEq, Eq, Validate, JsonSchema)]
#[schemars(with = "TableForms")]
pub struct Table {
    /// `schema.table` in the legacy database (`database.table` in MariaDB and MySQL).
    #[garde(pattern(r"^[^.]+\.[^.]+$"))]
    pub legacy: String,
    /// `schema.table` in the modern database (`database.table` in MariaDB and MySQL).
    #[garde(pattern(r"^[^.]+\.[^.]+$"))]
    pub modern: String,
    /// What a snapshot does with rows that the target table already has; wins over the sync's.
    #[garde(skip)]
    pub target: Option<Target>,
    /// Columns with another name in modern, by their name in legacy.
    #[garde(skip)]
    pub rename: BTreeMap<String, String>,
    /// Columns that only one side has, or whose values stay there.
    #[garde(skip)]
    pub leave_out: LeftOut,
    /// Columns that only one side has, with the value that they get in each row that comes from the other.
    #[garde(skip)]
    pub set: Constants,
    /// Only rows that have one of these values in each of these columns, by their names in legacy; empty is all rows.
    #[garde(skip)]
    pub rows: BTreeMap<String, Vec<Option<String>>>,
}

/// Columns of each side that are neither sent to the other nor written by what comes from there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LeftOut {
    /// By their names in legacy.
    pub legacy: Vec<String>,
    /// By their names in modern.
    pub modern: Vec<String>,
}

/// What columns of each side are set to in rows that come from the other; `null` is NULL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Constants {
    /// By their names in legacy, as text that the column's type takes.
    #[schemars(with = "BTreeMap<String, Option<Scalar>>")]
    pub legacy: BTreeMap<String, Option<String>>,
    /// By their names in modern, as text that the column's type takes.
    #[schemars(with = "BTreeMap<String, Option<Scalar>>")]
    pub modern: BTreeMap<String, Option<String>>,
}

/// Only for the JSON schema: in the file a number is its own text.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "describes a value to the schema generator")]
enum Scalar {
    /// Text.
    Text(String),
    /// A number, taken as it is written.
    Number(f64),
    /// A truth value, taken as it is written.
    Truth(bool),
}

/// The long form of a table, and the schema of both forms.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LongTable {
    /// `schema.table` in the legacy database.
    legacy: String,
    /// `schema.table` in the modern database.
    modern: String,
    /// What a snapshot does with rows that the target table already has; wins over the sync's.
    #[serde(default)]
    target: Option<Target>,
    /// Columns with another name in modern, by their name in legacy: `{mail: email}`.
    #[serde(default)]
    rename: BTreeMap<String, String>,
    /// Columns that only one side has, or whose values stay there: `{legacy: [password_md5]}`. They are neither sent nor written.
    #[serde(default)]
    leave_out: LeftOut,
    /// Columns that only one side has, with the value that they get in each row that comes from the other: `{modern: {source: shop}}`.
    #[serde(default)]
    set: Constants,
    /// Only rows that have one of these values in each of these columns, by their names in legacy: `{country: [de, at]}`; `null` is NULL. All
    /// others are not the sync's, on either side.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<Option<Scalar>>>")]
    rows: BTreeMap<String, Vec<Option<String>>>,
}

/// Only for the JSON schema; never deserialized, so that no line number is lost.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "describes the two forms to the schema generator")]
enum TableForms {
    /// `schema.table`, the same on both sides.
    Short(String),
    /// One name a side.
    Long(LongTable),
}

// === impl Table ===

impl Table {
    /// The first column of which the file says two things, as `(key, what)`: the key below this table, and what is wrong with it.
    #[must_use]
    pub fn contradiction(&self) -> Option<(String, String)> {
        let mut into: BTreeMap<&str, &str> = BTreeMap::new();
        for (legacy, modern) in &self.rename {
            let key = format!("rename.{legacy}");
            if let Some(other) = into.insert(modern, legacy) {
                return Some((key, format!("`{modern}` of modern already takes `{other}` of legacy")));
            }
            for (side, column) in [(Side::Legacy, legacy), (Side::Modern, modern)] {
                if let Some(place) = self.stays(side, column) {
                    let what = format!("`{column}` of {} is renamed, and stands in `{place}` as well", side.as_str());
                    return Some((key, what));
                }
            }
        }
        for (column, values) in &self.rows {
            let key = format!("rows.{column}");
            if values.is_empty() {
                return Some((key, format!("no row has a value of an empty list in `{column}`")));
            }
            if let Some(place) = self.stays(Side::Legacy, column) {
                let what =
                    format!("`{column}` tells the sync's rows apart on both sides, and stands in `{place}` as well");
                return Some((key, what));
            }
        }
        for side in [Side::Legacy, Side::Modern] {
            let twice = self.constants(side).keys().find(|column| self.left_out(side).contains(column));
            if let Some(column) = twice {
                let what = format!("`{column}` of {0} is set, and left out in `leave_out.{0}`", side.as_str());
                return Some((format!("set.{}.{column}", side.as_str()), what));
            }
        }
        None
    }

    /// The key by which a column has no counterpart on the other side.
    fn stays(&self, side: Side, column: &String) -> Option<String> {
        if self.left_out(side).contains(column) {
            return Some(format!("leave_out.{}", side.as_str()));
        }
        self.constants(side).contains_key(column).then(|| format!("set.{}", side.as_str()))
    }

    pub(crate) fn left_out(&self, side: Side) -> &[String] {
        match side {
            Side::Legacy => &self.leave_out.legacy,
            Side::Modern => &self.leave_out.modern,
        }
    }

    pub(crate) fn constants(&self, side: Side) -> &BTreeMap<String, Option<String>> {
        match side {
            Side::Legacy => &self.set.legacy,
            Side::Modern => &self.set.modern,
        }
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form(PhantomData<()>);
        impl<'de> Visitor<'de> for Form {
            type Value = Table;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as `public.payments`, or a map with `legacy` and `modern`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Table, E> {
                Ok(Table {
                    legacy: name.to_owned(),
                    modern: name.to_owned(),
                    target: None,
                    rename: BTreeMap::new(),
                    leave_out: LeftOut::default(),
                    set: Constants::default(),
                    rows: BTreeMap::new(),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table, A::Error> {
                let LongTable { legacy, modern, target, rename, leave_out, set, rows } =
                    LongTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Table { legacy, modern, target, rename, leave_out, set, rows })
            }
        }
        deserializer.deserialize_any(Form(PhantomData))
    }
}
