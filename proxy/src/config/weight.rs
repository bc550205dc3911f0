//! Bare numbers that are percentages.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

/// Percent of a route's users whose reads modern answers: 0 to 100 with at most two decimals, kept as hundredths.
///
/// Default 0: everything stays on legacy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Weight(u16);

/// A share that is no weight, for example of shadowed requests. Same bounds as [`Weight`].
pub type Percent = Weight;

// === impl Weight ===

impl Weight {
    /// Everything stays on legacy.
    pub const ZERO: Self = Self(0);
    /// Everything goes to modern.
    pub const FULL: Self = Self(10_000);

    /// The weight of so many percent.
    ///
    /// # Errors
    /// When it is outside 0–100 or has more than two decimals; the text says which.
    pub fn try_new(percent: f64) -> Result<Self, String> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("`{percent}` is not between 0 and 100"));
        }
        let hundredths = (percent * 100.0).round();
        if (percent * 100.0 - hundredths).abs() > 1e-6 {
            return Err(format!("`{percent}` has more than two decimals"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000 by the check above")]
        Ok(Self(hundredths as u16))
    }

    /// For defaults in the code: hundredths of a percent, at most 10,000.
    pub(crate) const fn hundredths(hundredths: u16) -> Self {
        assert!(hundredths <= 10_000, "more than all");
        Self(hundredths)
    }

    /// So much less; 0 at the least.
    pub(crate) const fn less(self, by: Self) -> Self {
        Self(self.0.saturating_sub(by.0))
    }

    /// The number of buckets of 10,000 that are modern's.
    #[must_use]
    pub fn buckets(self) -> u16 {
        self.0
    }

    /// As a percentage.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.percent())
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Weight;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number between 0 and 100, with at most two decimals and without `%`")
            }

            fn visit_f64<E: de::Error>(self, percent: f64) -> Result<Weight, E> {
                Weight::try_new(percent).map_err(|why| {
                    E::custom(format_args!("{why}; expected a number between 0 and 100, with at most two decimals"))
                })
            }

            #[expect(clippy::cast_precision_loss, reason = "what it loses is far outside 0 to 100")]
            fn visit_u64<E: de::Error>(self, percent: u64) -> Result<Weight, E> {
                self.visit_f64(percent as f64)
            }

            #[expect(clippy::cast_precision_loss, reason = "what it loses is far outside 0 to 100")]
            fn visit_i64<E: de::Error>(self, percent: i64) -> Result<Weight, E> {
                self.visit_f64(percent as f64)
            }
        }
        deserializer.deserialize_any(Number)
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.percent())
    }
}

impl JsonSchema for Weight {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.01 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_keeps_two_decimals_and_refuses_a_third() {
        assert_eq!(Weight::try_new(12.34).unwrap().buckets(), 1234);
        assert_eq!(Weight::try_new(0.07).unwrap().buckets(), 7);
        assert!(Weight::try_new(0.001).is_err());
    }

    #[test]
    fn a_weight_outside_0_to_100_is_refused() {
        for bad in [-0.01, 100.01, f64::NAN, f64::INFINITY] {
            assert!(Weight::try_new(bad).is_err(), "{bad}");
        }
    }
}
