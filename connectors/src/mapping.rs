//! How the columns of a table become those of the other side's table, as one flow sees it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{config::Table, names::Flow};

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
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
