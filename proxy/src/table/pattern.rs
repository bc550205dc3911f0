//! A regular expression of the file, which the whole of a value must fit. In time linear in the value, whatever the pattern, and bounded in
//! size, so that neither a client nor a slip of the pen makes matching slow.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::literal::Extractor;

/// Bytes that a compiled pattern may take; about a thousand classes and letters.
const LARGEST: usize = 256 << 10;
/// Bytes of the states that are kept a thread while matching.
const CACHE: usize = 256 << 10;

/// A pattern that holds for a value as a whole.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: Box<str>,
    regex: Regex,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    /// In the `regex` crate's words.
    #[error("this is no pattern: {0}")]
    Syntax(String),
    /// It would take too much memory.
    #[error("the pattern is too large")]
    TooLarge,
}

// === impl Pattern ===

impl Pattern {
    /// Compiles a pattern. It is matched on bytes: `.` is any byte but a line's end, `\d` is `0` to `9`.
    pub(super) fn try_new(text: &str) -> Result<Self, PatternError> {
        // By itself first, so that no unbalanced bracket can reach beyond it.
        build(text)?;
        let regex = build(&format!(r"\A(?:{text})\z"))?;
        Ok(Self { text: text.into(), regex })
    }

    pub(super) fn fits(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is a plain text that fits nothing but itself.
    pub(super) fn is_literal(&self) -> bool {
        self.text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_~!%&',:;=@ ".contains(&b))
    }

    /// Whether it certainly fits every path that begins with `/`; and every other, if `all`.
    pub(super) fn fits_every_path(&self, all: bool) -> bool {
        let text = self.text.strip_prefix('^').unwrap_or(&self.text);
        let text = text.strip_suffix('$').unwrap_or(text);
        text == ".*" || (text == "/.*" && !all)
    }

    /// Whether it certainly fits no path: all that it fits begins with something else than paths do.
    pub(super) fn fits_no_path(&self) -> bool {
        let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
        let Ok(hir) = parser.parse(&self.text) else { return false };
        let prefixes = Extractor::new().extract(&hir);
        // `*` is the target of `OPTIONS *`.
        let is_other = |start: &[u8]| start.first().is_some_and(|first| !matches!(first, b'/' | b'*'));
        prefixes.literals().is_some_and(|starts| starts.iter().all(|start| is_other(start.as_bytes())))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

fn build(text: &str) -> Result<Regex, PatternError> {
    let built = RegexBuilder::new(text).unicode(false).size_limit(LARGEST).dfa_size_limit(CACHE).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
        other => {
            // A drawing of the place stands before the last line.
            let told = other.to_string();
            let why = told.lines().last().unwrap_or_default();
            PatternError::Syntax(why.strip_prefix("error: ").unwrap_or(why).to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_new(text).unwrap()
    }

    #[test]
    fn the_whole_value_must_fit() {
        for (text, value, expected) in [
            ("/a|/ab", "/ab", true),
            ("/a", "/ab", false),
            ("/a", "x/a", false),
            ("^/a$", "/a", true),
            ("(?i)/A", "/a", true),
            (r"/\d+", "/7", true),
            (r"/\d+", "/7/", false),
            ("/a", "/a\n", false),
        ] {
            assert_eq!(pattern(text).fits(value.as_bytes()), expected, "{text} {value:?}");
        }
        assert!(pattern(".+").fits(b"\xff"));
    }

    #[test]
    fn a_pattern_cannot_reach_beyond_itself_nor_grow_without_end() {
        for (text, why) in [
            ("/a)|(/b", "this is no pattern: unopened group"),
            ("/(", "this is no pattern: unclosed group"),
            ("/[a", "this is no pattern: unclosed character class"),
            ("(?=/a)", "this is no pattern: look-around, including look-ahead and look-behind, is not supported"),
            ("(a{1000}){1000}", "the pattern is too large"),
        ] {
            assert_eq!(Pattern::try_new(text).unwrap_err().to_string(), why, "{text}");
        }
    }

    #[test]
    fn what_fits_no_path_is_known_where_it_is_certain() {
        for none in ["payments", "payments/.*", "^(a|b)/", "", "[a-c]x"] {
            assert_eq!(pattern(none).fits_no_path(), !none.is_empty(), "{none}");
        }
        for some in ["/a", ".*", "(/a|b)", "x?/a", r"\S+", r"\*", "(?i)/A"] {
            assert!(!pattern(some).fits_no_path(), "{some}");
        }
    }
}
