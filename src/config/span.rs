//! Where something stands in the file: a range of bytes, and the line and column that a person sees.

/// A range of bytes in the file's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    /// First byte.
    pub(crate) start: usize,
    /// Behind the last byte.
    pub(crate) end: usize,
}

/// A line and a column, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// The text of a file, with the beginnings of its lines.
#[derive(Debug)]
pub(crate) struct Text {
    text: String,
    lines: Vec<usize>,
}

// === impl Span ===

impl Span {
    pub(crate) fn new(start: usize, len: usize) -> Self {
        Self { start, end: start.saturating_add(len) }
    }
}

// === impl Text ===

impl Text {
    pub(crate) fn new(text: String) -> Self {
        let mut lines = vec![0];
        lines.extend(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1));
        Self { text, lines }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The text of a span; empty when the span does not lie within the text.
    pub(crate) fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end.min(self.text.len())).unwrap_or("")
    }

    pub(crate) fn position(&self, at: usize) -> Position {
        let at = at.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..at).map_or(1, |before| before.chars().count() + 1);
        Position { line, column }
    }

    /// A line without its end, and where it begins; empty when there is none.
    pub(crate) fn line(&self, line: usize) -> (&str, usize) {
        let Some(start) = line.checked_sub(1).and_then(|index| self.lines.get(index)).copied() else { return ("", 0) };
        let end = self.lines.get(line).copied().unwrap_or(self.text.len());
        let text = self.text.get(start..end).unwrap_or("");
        (text.trim_end_matches(['\n', '\r']), start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_line_and_a_column_counted_in_characters() {
        let text = Text::new("a\nöö: x\n\nlast".to_owned());
        let x = text.as_str().find('x').unwrap();
        assert_eq!(text.position(x), Position { line: 2, column: 5 });
        assert_eq!(text.position(0), Position { line: 1, column: 1 });
        assert_eq!(text.position(10_000).line, 4);
        assert_eq!(text.line(2).0, "öö: x");
        assert_eq!(text.line(9).0, "");
    }
}
