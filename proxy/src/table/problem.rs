//! One thing that is wrong with a config, told so that a person can mend it.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong, or that deserves a second look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it stands in the file: `routes[2].modern`.
    pub path: String,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    /// Whether the file is refused.
    pub severity: Severity,
}

/// Whether a problem refuses the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file works; this is worth knowing.
    Warning,
    /// The file is refused.
    Error,
}

// === impl Problem ===

impl Problem {
    /// A problem that refuses the file.
    #[must_use]
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), hint: None, severity: Severity::Error }
    }

    /// A problem that is only told.
    #[must_use]
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, message) }
    }

    /// Says what would be right.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An unknown name of a `kind` (`upstream`, `sync`), with the nearest known one as the hint.
    #[must_use]
    pub fn unknown<'n>(
        path: impl Into<String>,
        kind: &str,
        name: &str,
        known: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        let problem = Self::error(path, format!("unknown {kind} `{name}`"));
        let known: Vec<&str> = known.into_iter().collect();
        match nearest(name, known.iter().copied()) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => problem.hint(format!("the file names no {kind}")),
            None => {
                let names: Vec<String> = known.iter().take(8).map(|name| format!("`{name}`")).collect();
                let more = if known.len() > 8 { ", …" } else { "" };
                problem.hint(format!("expected one of {}{more}", names.join(", ")))
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// The known name that a slip of the pen most likely meant: at most a third of its letters differ, two swapped ones count once.
#[must_use]
pub fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let allowed = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_name_that_was_meant() {
        assert_eq!(nearest("paymnets", ["orders", "payments"]), Some("payments"));
        assert_eq!(nearest("py", ["orders", "payments"]), None);
    }

    #[test]
    fn an_unknown_name_far_from_all_lists_what_is_known() {
        let problem = Problem::unknown("default", "upstream", "zzz", ["a_long_one", "b_long_one"]);
        assert_eq!(problem.hint.as_deref(), Some("expected one of `a_long_one`, `b_long_one`"));
    }
}
