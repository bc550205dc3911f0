//! What is wrong with a file, and how a person is told: message, place, source line with `^^^^`, path, hint, and at the end the count.

use std::fmt::Write as _;

use serde::Serialize;

use super::span::{Position, Span, Text};

/// More errors, or warnings, than a person reads in one go.
pub(super) const MOST: usize = 100;

/// Whether the file may be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Diagnostic {
    pub(crate) severity: Severity,
    pub(crate) message: String,
    /// `routes[2].weight`; empty when the file as a whole is meant.
    pub(crate) path: String,
    #[serde(flatten)]
    pub(crate) position: Option<Position>,
    pub(crate) hint: Option<String>,
    #[serde(skip)]
    pub(crate) span: Option<Span>,
}

/// All that is wrong with one file.
#[derive(Debug)]
pub(crate) struct Report {
    /// As it was named on the command line.
    pub(crate) file: String,
    pub(crate) text: Text,
    /// Values that no message may show: where they stand.
    pub(crate) secrets: Vec<Span>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// More errors were found than are listed.
    pub(crate) cut: bool,
}

/// How a report looks on a terminal.
struct Paint {
    colour: bool,
}

// === impl Diagnostic ===

impl Diagnostic {
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            path: String::new(),
            position: None,
            hint: None,
            span: None,
        }
    }

    pub(crate) fn at(mut self, path: impl Into<String>, span: Span) -> Self {
        self.path = path.into();
        self.span = Some(span);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

// === impl Report ===

impl Report {
    pub(crate) fn new(file: impl Into<String>, text: Text) -> Self {
        Self { file: file.into(), text, secrets: Vec::new(), diagnostics: Vec::new(), cut: false }
    }

    /// Adds one, unless the same was said of the same place, or [`MOST`] of its kind are there.
    pub(crate) fn push(&mut self, mut diagnostic: Diagnostic) {
        if self.diagnostics.iter().filter(|one| one.severity == diagnostic.severity).count() >= MOST {
            self.cut = true;
            return;
        }
        diagnostic.position = diagnostic.span.map(|span| self.text.position(span.start));
        let told = |one: &Diagnostic| one.span == diagnostic.span && one.message == diagnostic.message;
        if diagnostic.span.is_some() && self.diagnostics.iter().any(told) {
            return;
        }
        self.diagnostics.push(diagnostic);
    }

    /// Adds what the proxy found only when it took the file over.
    pub(crate) fn add(&mut self, problem: &banyan_proxy::table::Problem) {
        let mut diagnostic = Diagnostic::error(&problem.message);
        diagnostic.path.clone_from(&problem.path);
        diagnostic.hint.clone_from(&problem.hint);
        self.push(diagnostic);
    }

    pub(crate) fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|one| one.severity == Severity::Error).count()
    }

    pub(crate) fn warnings(&self) -> usize {
        self.diagnostics.len() - self.errors()
    }

    /// In the order of the file; what has no place comes first.
    pub(crate) fn sort(&mut self) {
        self.diagnostics.sort_by_key(|one| one.span.map(|span| span.start));
    }

    /// The first error in one line, for a log.
    pub(crate) fn first_error(&self) -> Option<String> {
        let error = self.diagnostics.iter().find(|one| one.severity == Severity::Error)?;
        Some(match error.position {
            Some(at) => format!("{}:{}:{}: {}", self.file, at.line, at.column, error.message),
            None if error.path.is_empty() => format!("{}: {}", self.file, error.message),
            None => format!("{}: {}: {}", self.file, error.path, error.message),
        })
    }

    /// `2 errors, 1 warning in routes.yaml`.
    pub(crate) fn count(&self) -> String {
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut text = match (self.errors(), self.warnings()) {
            (0, warnings) => plural(warnings, "warning"),
            (errors, 0) => plural(errors, "error"),
            (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        };
        if self.cut {
            text.push_str(" (there are more)");
        }
        let _ = write!(text, " in {}", self.file);
        text
    }

    /// All diagnostics as a person reads them, without the closing count.
    pub(crate) fn render(&self, colour: bool) -> String {
        let paint = Paint { colour };
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            self.render_one(diagnostic, &paint, &mut out);
            out.push('\n');
        }
        out
    }

    fn render_one(&self, one: &Diagnostic, paint: &Paint, out: &mut String) {
        let (word, code) = match one.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "1;33"),
        };
        let _ = writeln!(out, "{}: {}", paint.with(code, word), paint.with("1", &visible(&one.message)));
        match (one.span, one.position) {
            (Some(span), Some(at)) => {
                let arrow = paint.with("34", "-->");
                let _ = writeln!(out, "  {arrow} {}:{}:{}", self.file, at.line, at.column);
                self.snippet(span, at, code, &one.path, paint, out);
            }
            _ => {
                let _ = writeln!(out, "  {} {}", paint.with("34", "-->"), self.file);
            }
        }
        if let Some(hint) = &one.hint {
            let _ = writeln!(out, "{}: {}", paint.with("36", "hint"), visible(hint));
        }
    }

    fn snippet(&self, span: Span, at: Position, code: &str, path: &str, paint: &Paint, out: &mut String) {
        let width = at.line.to_string().len();
        let bar = paint.with("34", "|");
        let _ = writeln!(out, "{:width$} {bar}", "");
        let before = at.line.saturating_sub(1);
        if before > 0 && !self.text.line(before).0.trim().is_empty() {
            let (line, _) = self.shown(before, span);
            let _ = writeln!(out, "{:>width$} {bar} {line}", paint.with("34", &format!("{before:>width$}")));
        }
        let (line, marks) = self.shown(at.line, span);
        let _ = writeln!(out, "{} {bar} {line}", paint.with("34", &format!("{:>width$}", at.line)));
        let marked = paint.with(code, &"^".repeat(marks.end - marks.start));
        let gap = if path.is_empty() { "" } else { " " };
        let _ = writeln!(out, "{:width$} {bar} {:indent$}{marked}{gap}{}", "", "", visible(path), indent = marks.start);
    }

    /// A line as it may be shown, secrets left out, and the columns of it that the span covers.
    fn shown(&self, number: usize, span: Span) -> (String, Span) {
        const LONGEST: usize = 160;
        let (line, start) = self.text.line(number);
        let mut shown = String::new();
        let mut columns = Span::default();
        let mut column = 0;
        let mut hidden = false;
        for (offset, letter) in line.char_indices() {
            let at = start + offset;
            if at <= span.start {
                columns.start = column;
            }
            if at < span.end {
                columns.end = column + 1;
            }
            let secret = self.secrets.iter().any(|secret| (secret.start..secret.end).contains(&at));
            if secret && !hidden {
                shown.push_str("***");
                column += 3;
            } else if !secret && column < LONGEST {
                // A tab is one column wide in a snippet, a control character never reaches a terminal.
                shown.push(if letter.is_control() { ' ' } else { letter });
                column += 1;
            }
            hidden = secret;
        }
        if column >= LONGEST {
            shown.push('…');
        }
        if start + line.len() <= span.start {
            columns.start = column;
        }
        columns.end = columns.end.min(column).max(columns.start + 1);
        (shown.trim_end().to_owned(), columns)
    }
}

// === impl Paint ===

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Keys and names come from the file; none of their control characters reaches a terminal.
fn visible(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut out: String =
        text.chars().take(LONGEST).map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}
