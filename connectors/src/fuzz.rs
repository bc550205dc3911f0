//! What `fuzz/` runs on arbitrary bytes, and `cargo test` on mutated seeds. Only with the feature `fuzz`, and in tests.

use crate::{
    position::{Lsn, Position},
    record::{
        control::{Checkpoint, Commit},
        envelope::Envelope,
    },
    source::{
        mysql::fuzz::binlog,
        postgres::pgoutput::{Message, Old, Tuple},
    },
};

#[cfg(test)]
#[path = "../../fuzz/mutate.rs"]
mod mutate;

/// Takes any bytes; panics when something that must hold does not.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `fuzz/seeds`.
pub const TARGETS: [(&str, Target); 4] =
    [("pgoutput", pgoutput), ("binlog", binlog), ("record", record), ("position", position)];

/// Runs one of them.
pub fn run(name: &str, data: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(data);
    }
}

/// A tuple that was decoded has as many values as it says.
fn pgoutput(data: &[u8]) {
    let whole = |tuple: &Tuple<'_>| assert_eq!(tuple.values().count(), tuple.len());
    let whole_old = |old: &Old<'_>| match old {
        Old::None => {}
        Old::Key(tuple) | Old::Row(tuple) => whole(tuple),
    };
    match Message::decode(data) {
        Ok(Message::Insert { new, .. }) => whole(&new),
        Ok(Message::Update { old, new, .. }) => {
            whole_old(&old);
            whole(&new);
        }
        Ok(Message::Delete { old, .. }) => whole_old(&old),
        _ => {}
    }
}

/// A row is read to its end, and control records as they were written.
fn record(data: &[u8]) {
    if let Ok(envelope) = Envelope::parse(data) {
        let _ = envelope.before(|_, _| {});
        let _ = envelope.after(|_, _| {});
    }
    let mut written = Vec::new();
    if let Ok(commit) = Commit::parse(data) {
        commit.write(&mut written);
        assert!(Commit::parse(&written) == Ok(commit));
    }
    written.clear();
    if let Ok(checkpoint) = Checkpoint::parse(data) {
        checkpoint.write(&mut written);
        assert!(Checkpoint::parse(&written) == Ok(checkpoint));
    }
}

/// What is read is written the same way.
fn position(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse::<Lsn>().ok(), Some(lsn));
    }
    if let Ok(position) = text.parse::<Position>() {
        assert!(position.to_string().parse::<Position>().is_ok_and(|again| again == position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_holds_for_its_seeds_and_what_comes_of_them() {
        for (name, target) in TARGETS {
            let folder = format!("{}/../fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
            mutate::run(name, &mutate::seeds(folder.as_ref()), 50_000, target);
        }
    }
}
