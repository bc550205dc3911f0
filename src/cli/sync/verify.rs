//! `banyan sync verify`: are both sides equal? On connections of its own, so that it works wherever the file and the databases are.

use std::{fmt::Write as _, io::IsTerminal as _, num::NonZeroU32, path::Path, process::ExitCode};

use banyan_connectors::verify::{self, Counts, Difference, Event, Options, Outcome, What};
use serde::Serialize;

use crate::{
    cli::{FAILED, Format, output},
    config,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The sync.
    sync: String,
    /// Only this table, `schema.table` as the owner's side calls it; may be given several times.
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,
    /// Rows a second that are read of either side at most.
    #[arg(long, value_name = "NUMBER")]
    rate: Option<NonZeroU32>,
    /// Write the owner's row to the other side wherever they differ, and delete there what the owner has not.
    #[arg(long, requires = "reason")]
    repair: bool,
    /// Why; it is kept beside the number of rows in `banyan.repair` of the other side.
    #[arg(long, value_name = "TEXT", requires = "repair", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// Begin anew, also where an earlier run was interrupted.
    #[arg(long)]
    restart: bool,
    /// Rows to list at most; all are counted.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    limit: usize,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The result for programs.
#[derive(Serialize)]
struct Answer<'a> {
    equal: bool,
    #[serde(flatten)]
    outcome: &'a Outcome,
    differences: &'a [Difference],
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = match config::load(path) {
        Ok(accepted) => accepted.loaded,
        Err(report) => {
            output::report(&report, "");
            return Ok(ExitCode::from(FAILED));
        }
    };
    let options =
        Options { tables: args.tables.clone(), rate: args.rate, repair: args.reason.clone(), restart: args.restart };
    let mut differences = Vec::new();
    let mut screen = Screen { live: std::io::stderr().is_terminal(), shown: false };
    let mut tell = |event| match event {
        Event::Found(difference) if differences.len() < args.limit => differences.push(difference),
        Event::Found(_) => {}
        Event::Resumed { table, rows } => {
            screen.clear();
            output::say(&format!(
                "{table}: goes on behind {} rows of an interrupted run; --restart begins anew",
                count(rows)
            ));
        }
        Event::Progress { table, rows, of } => screen.show(&table, rows, of),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(verify::run(&loaded.connectors, &args.sync, &options, &mut tell));
    screen.clear();
    let outcome = outcome?;
    let sum = |of: fn(&Counts) -> u64| outcome.tables.values().map(of).sum::<u64>();
    let (unequal, undecided) = (sum(Counts::unequal), sum(|counts| counts.undecided));
    let equal = unequal == 0 && undecided == 0;
    match args.output {
        Format::Json => output::json(&Answer { equal, outcome: &outcome, differences: &differences })?,
        Format::Text => output::data(&told(&outcome, &differences))?,
    }
    if undecided > 0 && unequal == 0 {
        output::say("hint: undecided rows changed each time they were looked at; ask again when fewer are written");
    }
    if unequal > 0 && !args.repair {
        output::say("hint: `--repair --reason TEXT` writes the owner's rows to the other side");
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn count(rows: u64) -> String {
    output::grouped(rows as f64)
}

/// One line a row that differs, then one a table.
fn told(outcome: &Outcome, differences: &[Difference]) -> String {
    let mut out = String::new();
    for difference in differences {
        let key: Vec<String> = difference.key.iter().map(|(column, value)| format!("{column}={value}")).collect();
        let what = match difference.what {
            What::Missing => "missing on the other side".to_owned(),
            What::Extra => "only on the other side".to_owned(),
            What::Differs if difference.columns.is_empty() => "differs".to_owned(),
            What::Differs => format!("differs in {}", difference.columns.join(", ")),
        };
        let repaired = if difference.repaired { "; repaired" } else { "" };
        let _ = writeln!(out, "{}  {}  {what}{repaired}", difference.table, key.join(" "));
    }
    for (table, counts) in &outcome.tables {
        let Counts { rows, missing, extra, differing, undecided, repaired } = *counts;
        let parts = [
            (missing, "missing"),
            (extra, "only on the other side"),
            (differing, "differing"),
            (undecided, "undecided"),
            (repaired, "repaired"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
        let verdict = if parts.is_empty() { "all equal".to_owned() } else { parts.join(", ") };
        let _ = writeln!(out, "{table}: {} rows, {verdict}", count(rows));
    }
    for table in &outcome.not_compared {
        let _ = writeln!(out, "{table}: not compared, its rows go to a function");
    }
    out
}

/// One line that is written over, where somebody looks on.
struct Screen {
    live: bool,
    shown: bool,
}

// === impl Screen ===

impl Screen {
    fn show(&mut self, table: &str, rows: u64, of: u64) {
        if self.live {
            eprint(&format!("\r\x1b[K{table}  {} of about {} rows", count(rows), count(of)));
            self.shown = true;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint("\r\x1b[K");
        }
    }
}

fn eprint(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_row_has_a_line_and_a_table_its_counts() {
        let difference = Difference {
            table: "public.payments".into(),
            key: BTreeMap::from([("id".to_owned(), "42".to_owned())]),
            what: What::Differs,
            columns: vec!["amount".into(), "note".into()],
            repaired: true,
        };
        let counts = Counts { rows: 1_204, differing: 1, repaired: 1, ..Counts::default() };
        let equal = Counts { rows: 3, ..Counts::default() };
        let outcome = Outcome {
            tables: BTreeMap::from([("public.accounts".to_owned(), equal), ("public.payments".to_owned(), counts)]),
            not_compared: vec!["public.users".to_owned()],
        };
        assert_eq!(
            told(&outcome, &[difference]),
            "public.payments  id=42  differs in amount, note; repaired\npublic.accounts: 3 rows, all equal\n\
             public.payments: 1,204 rows, 1 differing, 1 repaired\npublic.users: not compared, its rows go to a function\n"
        );
    }
}
