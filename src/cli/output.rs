//! What a verb prints: data to stdout, as text or JSON; errors to stderr; colours only on a terminal.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::config::Report;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Writes data to stdout.
pub(crate) fn data(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Writes data to stdout as JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(data(&serde_json::to_string_pretty(value)?)?)
}

/// Says something to the person, on stderr. When nobody listens any more, nothing is lost.
pub(crate) fn say(text: &str) {
    let mut out = io::stderr().lock();
    let _ =
        out.write_all(text.as_bytes()).and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
}

/// `error: …`, with the causes behind it.
pub(crate) fn error(error: &anyhow::Error) {
    let word = if colour(&io::stderr()) { "\x1b[1;31merror\x1b[0m" } else { "error" };
    say(&format!("{word}: {error:#}"));
}

/// All that is wrong with a file, and the closing count.
pub(crate) fn report(report: &Report, closing: &str) {
    say(&format!("{}{}{closing}", report.render(colour(&io::stderr())), report.count()));
}

/// Whether a stream gets colours: a terminal, and nobody said `NO_COLOR`.
pub(crate) fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `2026-11-26 12:03:11`, in UTC.
pub(crate) fn moment(unix: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.trim_end_matches('Z').replace('T', " ")
}

/// `1,204`.
pub(crate) fn grouped(number: f64) -> String {
    // `abs`: an empty sum of floats is -0.
    let digits = format!("{:.0}", number.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `banyan status | head`: the reader has seen enough.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
