//! A table of a sync: its names on both sides, and how its columns differ there.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use garde::Validate;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Side, Target};

/// One table, by the same name on both sides (`public.payments`) or by one name a side; or of one side alone, with a function on the other.
#[derive(Debug, Clone, PartialEq, Eq, Validate, JsonSchema)]
#[schemars(with = "TableForms")]
pub struct Table {
    /// `schema.table` in the legacy database (`database.table` in MariaDB and MySQL).
    #[garde(inner(pattern(r"^[^.]+\.[^.]+$")))]
    pub legacy: Option<String>,
    /// `schema.table` in the modern database (`database.table` in MariaDB and MySQL).
    #[garde(inner(pattern(r"^[^.]+\.[^.]+$")))]
    pub modern: Option<String>,
    /// What stands for the table on the side that has none; exactly one side has none then, else no side.
    #[garde(dive)]
    pub apply: Option<Apply>,
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

/// What takes the changes of a table of one side on the other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// `schema.function` in the other side's database, which must be PostgreSQL. It is called with each change: `(op text, old jsonb, new jsonb)`.
    #[garde(pattern(r"^[^.]+\.[^.]+$"))]
    pub function: String,
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
    /// `schema.table` in the legacy database. Left out: only modern has the table, and `apply` says what becomes of its changes.
    #[serde(default)]
    legacy: Option<String>,
    /// `schema.table` in the modern database. Left out: only legacy has the table, and `apply` says what becomes of its changes.
    #[serde(default)]
    modern: Option<String>,
    /// Instead of the table of one side: a function there that is called with each change of the other side's: `{function: crm.customer_changed}`.
    #[serde(default)]
    apply: Option<Apply>,
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
    /// Its name on one side, if it is there.
    #[must_use]
    pub fn on(&self, side: Side) -> Option<&str> {
        match side {
            Side::Legacy => self.legacy.as_deref(),
            Side::Modern => self.modern.as_deref(),
        }
    }

    /// The side that has a function instead of the table.
    #[must_use]
    pub fn function_on(&self) -> Option<Side> {
        self.apply.as_ref()?;
        [Side::Legacy, Side::Modern].into_iter().find(|side| self.on(*side).is_none())
    }

    /// What the file says of a table beside `apply` that has no meaning there, as `(key, what)`.
    #[must_use]
    pub fn beside_apply(&self) -> Option<(&'static str, String)> {
        let apply = self.apply.as_ref()?;
        if self.function_on().is_none() {
            let what =
                format!("`{}` takes the place of the table of one side, and both sides name one", apply.function);
            return Some(("apply", what));
        }
        let said = [
            ("rename", !self.rename.is_empty()),
            ("leave_out", self.leave_out != LeftOut::default()),
            ("set", self.set != Constants::default()),
            ("target", self.target.is_some()),
        ];
        let (key, _) = said.into_iter().find(|(_, is_said)| *is_said)?;
        Some((key, format!("`{key}` says how a table of the other side is filled, and `apply` names none")))
    }

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
                    legacy: Some(name.to_owned()),
                    modern: Some(name.to_owned()),
                    apply: None,
                    target: None,
                    rename: BTreeMap::new(),
                    leave_out: LeftOut::default(),
                    set: Constants::default(),
                    rows: BTreeMap::new(),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table, A::Error> {
                let LongTable { legacy, modern, apply, target, rename, leave_out, set, rows } =
                    LongTable::deserialize(MapAccessDeserializer::new(map))?;
                let has_function = apply.is_some();
                match (&legacy, &modern) {
                    (None, Some(_)) if !has_function => return Err(de::Error::missing_field("legacy")),
                    (Some(_), None) if !has_function => return Err(de::Error::missing_field("modern")),
                    (None, None) => return Err(de::Error::missing_field("legacy")),
                    _ => {}
                }
                Ok(Table { legacy, modern, apply, target, rename, leave_out, set, rows })
            }
        }
        deserializer.deserialize_any(Form(PhantomData))
    }
}
