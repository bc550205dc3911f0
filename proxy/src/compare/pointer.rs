//! JSON pointers (RFC 6901): those to ignore, and how a place is written down.

use std::fmt::Write;

/// A longer member name is data, not shape.
const LONGEST_NAME: usize = 48;

/// A place to ignore, with everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `*`
    Any,
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
    pub(super) fn new(pointer: &str) -> Self {
        let part = |text: &str| match text {
            "*" => Part::Any,
            name => Part::Name(name.replace("~1", "/").replace("~0", "~")),
        };
        Self(pointer.split('/').skip(1).map(part).collect())
    }

    /// Whether this place, or one above it, is ignored.
    pub(super) fn covers(&self, place: &[Step<'_>]) -> bool {
        self.0.len() <= place.len() && self.0.iter().zip(place).all(|(part, step)| part.matches(step))
    }
}

impl Part {
    fn matches(&self, step: &Step<'_>) -> bool {
        match (self, step) {
            (Self::Any, _) => true,
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

    #[test]
    fn a_star_stands_for_any_one_member_or_index() {
        let pattern = Pattern::new("/items/*/at");
        assert!(pattern.covers(&[Step::Member("items"), Step::Index(3), Step::Member("at")]));
        assert!(pattern.covers(&[Step::Member("items"), Step::Member("x"), Step::Member("at"), Step::Index(0)]));
        assert!(!pattern.covers(&[Step::Member("items"), Step::Member("at")]));
        assert!(!pattern.covers(&[Step::Member("items"), Step::Index(3)]));
    }

    #[test]
    fn escapes_of_pointers_are_understood() {
        assert!(Pattern::new("/a~1b/~0").covers(&[Step::Member("a/b"), Step::Member("~")]));
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
