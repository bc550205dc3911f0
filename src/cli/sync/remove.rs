//! `banyan sync remove`: takes away all that Banyan made for a sync. On connections of its own: it needs no running Banyan, and refuses one.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use banyan_connectors::remove::{Item, Left, Part, Removal};
use serde::Serialize;

use crate::{
    cli::{FAILED, Format, output},
    config,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The sync, which must still be in the file: where its databases are stands only there.
    sync: String,
    /// Show what would be removed, and change nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Remove it.
    #[arg(long)]
    yes: bool,
    /// Leave what is there as it is: topics that others read, a database that is no more. May be given several times.
    #[arg(long, value_name = "PLACE", value_enum)]
    keep: Vec<Place>,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Place {
    /// The monolith's database.
    Legacy,
    /// The new service's database.
    Modern,
    /// The sync's topics in Kafka.
    Topics,
}

/// The result for programs.
#[derive(Serialize)]
struct Answer<'a> {
    /// Whether it was done; else it is what would be.
    removed: bool,
    items: &'a [Item],
    /// What is there and stays.
    notes: &'a [String],
    /// What could not be taken away.
    left: &'a [Left],
}

pub(super) fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = match config::load(path) {
        Ok(accepted) => accepted.loaded,
        Err(report) => {
            output::report(&report, "");
            return Ok(ExitCode::from(FAILED));
        }
    };
    let keep: Vec<Part> = args.keep.iter().map(|place| (*place).into()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let removal = runtime.block_on(Removal::find(&loaded.connectors, &args.sync, &keep))?;
    let (items, notes) = (removal.items().to_vec(), removal.notes().to_vec());
    if matches!(args.output, Format::Text) {
        output::data(&told(&items, &notes))?;
    }
    let left = if args.yes { runtime.block_on(removal.run())? } else { Vec::new() };
    if matches!(args.output, Format::Json) {
        output::json(&Answer { removed: args.yes, items: &items, notes: &notes, left: &left })?;
    }
    for Left { item, why } in &left {
        output::say(&format!(
            "left: {item} of the {}: {why}\nhint: run `{}` there with the rights for it",
            item.place, item.statement
        ));
    }
    if args.yes && left.is_empty() && !items.is_empty() {
        output::say("removed; take the sync out of the file too, or the next start makes it anew");
    }
    if !args.yes && !args.dry_run && !items.is_empty() {
        output::say("nothing is changed yet; `--yes` removes all of it");
        return Ok(ExitCode::from(FAILED));
    }
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// What there is, place by place.
fn told(items: &[Item], notes: &[String]) -> String {
    let mut out = String::new();
    let mut place = "";
    for item in items {
        if item.place != place {
            place = &item.place;
            let _ = writeln!(out, "{place}");
        }
        let _ = writeln!(out, "  {item}");
    }
    if items.is_empty() {
        out.push_str("there is nothing of this sync to remove\n");
    }
    for note in notes {
        let _ = writeln!(out, "stays: {note}");
    }
    out
}

// === impl Place ===

impl From<Place> for Part {
    fn from(place: Place) -> Self {
        match place {
            Place::Legacy => Self::Legacy,
            Place::Modern => Self::Modern,
            Place::Topics => Self::Topics,
        }
    }
}

#[cfg(test)]
mod tests {
    use banyan_connectors::remove::Kind;

    use super::*;

    #[test]
    fn each_place_has_its_lines() {
        let item = |place: &str, kind, name: &str| Item {
            part: Part::Legacy,
            place: place.to_owned(),
            kind,
            name: name.to_owned(),
            statement: String::new(),
        };
        let items = [
            item("legacy database (db:5432/shop)", Kind::Slot, "banyan_pay_l2m_0"),
            item("legacy database (db:5432/shop)", Kind::Tables, "schema `banyan`"),
            item("Kafka (k:9092)", Kind::Topic, "banyan.pay.legacy_to_modern"),
        ];
        assert_eq!(
            told(&items, &[]),
            "legacy database (db:5432/shop)\n  replication slot `banyan_pay_l2m_0`\n  schema `banyan` with Banyan's own tables, which hold \
             nothing of another sync\nKafka (k:9092)\n  topic `banyan.pay.legacy_to_modern` with its records\n"
        );
        assert_eq!(told(&[], &["x".into()]), "there is nothing of this sync to remove\nstays: x\n");
    }
}
