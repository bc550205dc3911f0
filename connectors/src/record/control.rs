//! The values of records that are no rows: COMMIT, CHECKPOINT, START, END, LOAD, LOADED.

use serde::{Deserialize, Serialize};

use super::json::{BadJson, Reader, write_number, write_string};
use crate::{
    position::Lsn,
    timeline::{Timeline, Written},
};

/// COMMIT: where the transaction ends, and how many records it has; those of a lane, and how many of them stand in which table's topic, with
/// `order: key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) end: Lsn,
    pub(crate) count: u64,
    /// Microseconds since 1970, by the source's clock.
    pub(crate) at: i64,
}

/// CHECKPOINT: up to its position nothing is left to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Microseconds since 1970, by the source's clock.
    pub(crate) at: i64,
    /// Of the server that was read.
    pub(crate) timeline: Timeline,
}

/// Its text.
#[derive(Serialize, Deserialize)]
struct CheckpointText {
    ts_us: i64,
    #[serde(flatten)]
    timeline: Written,
}

/// START: the first record of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// Made with the generation; tells a record of a source that is no more.
    pub(crate) nonce: String,
    /// The first of the attempts, none complete, of which this generation is the last.
    pub(crate) since: i64,
    /// The slot's consistent point.
    pub(crate) consistent_point: String,
    /// Whether rows follow, up to END.
    pub(crate) snapshot: bool,
    /// Whether the source's owner row said open, inside the exported snapshot.
    pub(crate) open: bool,
    /// `IDENTIFY_SYSTEM` of the source.
    pub(crate) system_id: String,
    /// `IDENTIFY_SYSTEM` of the source.
    pub(crate) timeline: i32,
    /// The slot's name.
    pub(crate) slot: String,
    /// Microseconds since 1970, by the source's clock.
    pub(crate) at: i64,
    /// Tables whose copy begins here and comes in chunks of the stream; then no rows follow at once.
    #[serde(default)]
    pub(crate) loads: Vec<Load>,
    /// With `order: key` over how many lanes the rows are spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lanes: Option<u32>,
}

/// LOAD: a table's copy begins; until LOADED its changes may meet rows that have not come yet. In the source's log it is the message
/// `banyan.load` with the same text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// `schema.table` of the source.
    pub(crate) table: String,
    /// Which copy of the table in this generation, from 1 on.
    pub(crate) number: i64,
    /// How many columns a record of the table has when it has all of them.
    pub(crate) columns: usize,
}

/// END: the last record of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Rows between START and here.
    pub(crate) count: u64,
    /// The slot's consistent point, again.
    pub(crate) consistent_point: String,
    /// Microseconds since 1970, by the source's clock.
    pub(crate) at: i64,
}

// === impl Commit ===

impl Commit {
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"end\":");
        write_number(out, self.end.get());
        out.extend_from_slice(b",\"count\":");
        write_number(out, self.count);
        out.extend_from_slice(b",\"ts_us\":");
        write_number(out, self.at);
        out.push(b'}');
    }

    /// The same of a lane, with how many of its rows stand in the topics of which tables.
    pub(crate) fn write_with_rows<'t>(self, out: &mut Vec<u8>, rows: impl Iterator<Item = (&'t str, u64)>) {
        self.write(out);
        out.pop();
        out.extend_from_slice(b",\"rows\":{");
        for (at, (table, count)) in rows.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_string(out, table.as_bytes());
            out.push(b':');
            write_number(out, count);
        }
        out.extend_from_slice(b"}}");
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadJson> {
        let [end, count, at] = numbers(bytes, ["end", "count", "ts_us"])?;
        let [end, count] = [end, count].map(|number| u64::try_from(number).map_err(|_| BadJson));
        Ok(Self { end: Lsn::new(end?), count: count?, at })
    }
}

// === impl Checkpoint ===

impl Checkpoint {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let text = CheckpointText { ts_us: self.at, timeline: self.timeline.written() };
        out.extend_from_slice(serde_json::json!(text).to_string().as_bytes());
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadJson> {
        let text: CheckpointText = serde_json::from_slice(bytes).map_err(|_| BadJson)?;
        Ok(Self { at: text.ts_us, timeline: text.timeline.into() })
    }
}

fn numbers<const N: usize>(bytes: &[u8], names: [&str; N]) -> Result<[i64; N], BadJson> {
    let mut found = [None; N];
    let mut reader = Reader::new(bytes);
    reader.expect(b'{')?;
    let mut first = true;
    while reader.member(&mut first)? {
        let key = reader.key()?;
        match names.iter().position(|name| *name == key) {
            Some(i) => found[i] = Some(reader.number()?),
            None => drop(reader.skip()?),
        }
    }
    let mut all = [0; N];
    for (slot, value) in all.iter_mut().zip(found) {
        *slot = value.ok_or(BadJson)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_survives() {
        let commit = Commit { end: Lsn::new(0x1_6b37_4800), count: 3, at: 1_795_380_591_000_000 };
        let mut out = Vec::new();
        commit.write(&mut out);
        assert_eq!(Commit::parse(&out), Ok(commit));
        assert_eq!(Commit::parse(b"{\"end\":1}"), Err(BadJson));
    }

    #[test]
    fn a_checkpoint_survives_and_one_of_an_earlier_version_has_no_timeline() {
        let mut timeline = Timeline::parse(3, "1\t0/50\n2\t1/60").unwrap();
        timeline.followed = "x".into();
        let checkpoint = Checkpoint { at: 7, timeline };
        let mut out = Vec::new();
        checkpoint.write(&mut out);
        assert_eq!(Checkpoint::parse(&out), Ok(checkpoint));
        let none = Checkpoint { at: 5, timeline: Timeline::default() };
        assert_eq!(Checkpoint::parse(b"{\"ts_us\":5}"), Ok(none));
    }
}
