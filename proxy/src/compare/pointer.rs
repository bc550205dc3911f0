//! JSON pointers (RFC 6901): those of the file's rules, and how a place is written down.

use std::fmt::Write;

use super::json::Json;
use crate::config::Pointer;

/// A longer member name is data, not shape.
const LONGEST_NAME: usize = 48;

/// A place that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `*`
    Any,
    /// `**`, at most once in a pattern.
    Deep,
    Name(String),
}

/// One step down from a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Member(&'a str),
    Index(usize),
}

// === impl Pattern ===

impl Pattern {
    pub(super) fn new(pointer: &Pointer) -> Self {
        let part = |text: &str| match text {
            "*" => Part::Any,
            "**" => Part::Deep,
            name => Part::Name(name.replace("~1", "/").replace("~0", "~")),
        };
        Self(pointer.as_str().split('/').skip(1).map(part).collect())
    }

    /// Whether this place is it.
    pub(super) fn is(&self, place: &[Step<'_>]) -> bool {
        fits(&self.0, place, |rest| rest.is_empty())
    }

    /// Whether this place is it, or lies below it.
    pub(super) fn covers(&self, place: &[Step<'_>]) -> bool {
        fits(&self.0, place, |_| true)
    }

    /// What stands there, below a value. A `*` or `**` stands for nothing in a value's own place.
    pub(super) fn find<'j, 'a>(&self, json: &'j Json<'a>) -> Option<&'j Json<'a>> {
        self.0.iter().try_fold(json, |json, part| match (part, json) {
            (Part::Name(name), Json::Object(members)) => {
                let at = members.binary_search_by(|(member, _)| member.as_ref().cmp(name)).ok()?;
                members.get(at).map(|(_, value)| value)
            }
            (Part::Name(name), Json::Array(items)) => items.get(name.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// Whether it is `""`.
    pub(super) fn is_itself(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a place begins with these parts, and what is left of it will do.
fn fits(parts: &[Part], place: &[Step<'_>], will_do: fn(&[Step<'_>]) -> bool) -> bool {
    match parts.split_first() {
        None => will_do(place),
        Some((Part::Deep, rest)) => (0..=place.len()).any(|skipped| fits(rest, &place[skipped..], will_do)),
        Some((part, rest)) => {
            place.split_first().is_some_and(|(step, below)| part.matches(step) && fits(rest, below, will_do))
        }
    }
}

impl Part {
    fn matches(&self, step: &Step<'_>) -> bool {
        match (self, step) {
            (Self::Any | Self::Deep, _) => true,
            (Self::Name(name), Step::Member(member)) => name == member,
            (Self::Name(name), Step::Index(index)) => name.parse() == Ok(*index),
        }
    }
}

/// A place written down: `/items/*/price`. Indexes are `*`, and so are member names that look like data (only digits, long, with an `@`, or
/// like a UUID), since a map may be keyed by them.
pub(super) fn folded(place: &[Step<'_>]) -> String {
    let mut pointer = String::new();
    for step in place {
        match step {
            Step::Member(name) if is_shape(name) => {
                let _ = write!(pointer, "/{}", name.replace('~', "~0").replace('/', "~1"));
            }
            _ => pointer.push_str("/*"),
        }
    }
    pointer
}

fn is_shape(name: &str) -> bool {
    let hex = name.bytes().filter(u8::is_ascii_hexdigit).count();
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    let is_id = name.len() >= 12 && digits > 0 && hex + name.bytes().filter(|b| *b == b'-').count() == name.len();
    name.len() <= LONGEST_NAME && !name.contains(['@', '\n']) && !name.is_empty() && digits != name.len() && !is_id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(pointer: &str) -> Pattern {
        Pattern::new(&serde_json::from_value(pointer.into()).unwrap())
    }

    #[test]
    fn two_stars_stand_for_any_number_of_steps() {
        let at = [Step::Member("a"), Step::Index(3), Step::Member("at")];
        for (pointer, is, covers) in [
            ("/**/at", true, true),
            ("/a/**/at", true, true),
            ("/**/3", false, true),
            ("/**", true, true),
            ("/**/a", false, true),
            ("/**/b", false, false),
            ("/a/3/at/**", true, true),
            ("/a/3/at/**/x", false, false),
            ("", false, true),
        ] {
            assert_eq!((pattern(pointer).is(&at), pattern(pointer).covers(&at)), (is, covers), "{pointer}");
        }
    }

    #[test]
    fn a_star_stands_for_any_one_member_or_index() {
        let pattern = pattern("/items/*/at");
        assert!(pattern.covers(&[Step::Member("items"), Step::Index(3), Step::Member("at")]));
        assert!(pattern.covers(&[Step::Member("items"), Step::Member("x"), Step::Member("at"), Step::Index(0)]));
        assert!(!pattern.covers(&[Step::Member("items"), Step::Member("at")]));
        assert!(!pattern.covers(&[Step::Member("items"), Step::Index(3)]));
    }

    #[test]
    fn escapes_of_pointers_are_understood() {
        assert!(pattern("/a~1b/~0").covers(&[Step::Member("a/b"), Step::Member("~")]));
        assert_eq!(folded(&[Step::Member("a/b"), Step::Member("~")]), "/a~1b/~0");
    }

    #[test]
    fn names_that_look_like_data_are_folded() {
        for name in ["42", "ann@shop.example", "7b1f3a52-9c0e-4a44-8a55-0c2d8f6a1e90", &"x".repeat(49), ""] {
            assert_eq!(folded(&[Step::Member("by"), Step::Member(name)]), "/by/*", "{name}");
        }
        assert_eq!(folded(&[Step::Member("line2"), Step::Index(7)]), "/line2/*");
    }
}
