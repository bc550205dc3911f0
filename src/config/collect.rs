//! Every error of a file, not only the first: what does not fit is told, left out, and the rest is read again, until it reads.

use serde::Deserialize;

use super::{
    de::{Fault, NodeDeserializer, Spot, What},
    known,
    node::{Entry, Id, Kind, Node, Pruned, Scalar, Step, View},
    report::{Diagnostic, MOST},
    stand_in, suggest,
};

/// What was found by reading the tree into `T`.
pub(super) struct Collected<T> {
    /// `T` from what is left; `None` when nothing could be read at all.
    pub(super) value: Option<T>,
    /// What was left out, and what stands in for what is missing.
    pub(super) view: View,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// There were more than [`MOST`].
    pub(super) cut: bool,
}

/// Reads a tree into `T`.
pub(super) fn collect<T: for<'t> Deserialize<'t>>(root: &Node, pruned: Pruned) -> Collected<T> {
    let mut found = Collected { value: None, view: View::without(pruned), diagnostics: Vec::new(), cut: false };
    // Keys that were most likely meant by an unknown one beside them: they are not missing too.
    let mut meant: Vec<(Id, &str)> = Vec::new();
    loop {
        let fault = match T::deserialize(NodeDeserializer::new(root, &found.view)) {
            Ok(value) => {
                found.value = Some(value);
                return found;
            }
            Err(fault) => fault,
        };
        if found.diagnostics.len() >= MOST {
            found.cut = true;
            return found;
        }
        let Some((spot, path)) = fault.spot.and_then(|spot| Some((spot, root.path_to(spot.id)?))) else {
            found.diagnostics.push(Diagnostic::error(fault.to_string()));
            return found;
        };
        let at = root.at(&path).unwrap_or((root, None));
        let untold = match &fault.what {
            // Its value was left out, and that was told.
            What::Missing(key) => at.0.get(key).is_none() && !meant.contains(&(spot.id, *key)),
            _ => true,
        };
        if let What::UnknownKey { key, known } = &fault.what
            && let Some((map, _)) = path.split_last().and_then(|(_, map)| root.at(map))
            && let Some(near) = suggest::nearest(key, known)
        {
            meant.push((map.id, near));
        }
        if untold {
            found.diagnostics.push(describe(&fault, spot, &path, at));
        }
        let mended = match fault.what {
            What::Missing(key) => stand_in::add(&mut found.view, spot.id, &path, key),
            _ => false,
        };
        if !mended && !prune(root, &path, &mut found.view.pruned) {
            return found;
        }
    }
}

/// Leaves out the node at a path, or the nearest one above it that is not left out yet.
fn prune(root: &Node, path: &[Step], pruned: &mut Pruned) -> bool {
    (1..=path.len()).rev().any(|len| root.at(&path[..len]).is_some_and(|(node, _)| pruned.add(node.id)))
}

fn describe(fault: &Fault, spot: Spot, path: &[Step], (node, entry): (&Node, Option<&Entry>)) -> Diagnostic {
    let span = match (&node.kind, entry) {
        (_, Some(entry)) if spot.on_key => entry.key_span,
        (Kind::Scalar(_), _) => node.span,
        (_, Some(entry)) => entry.key_span,
        (Kind::Map(entries), None) => entries.first().map_or(node.span, |first| first.key_span),
        _ => node.span,
    };
    let name = Step::join(path);
    let key = path.iter().rev().find_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    });
    let of_key = |message: String| match key {
        Some(key) if message.contains(&format!("`{key}`")) => message,
        Some(key) if message.starts_with("must ") => format!("`{key}` {message}"),
        Some(key) => format!("`{key}`: {message}"),
        None => message,
    };
    let diagnostic = match &fault.what {
        What::Missing(key) if path.is_empty() => {
            let diagnostic = Diagnostic::error(format!("missing `{key}`"));
            return Diagnostic { hint: known::example(&[Step::Key((*key).to_owned())]), ..diagnostic };
        }
        What::Missing(missing) => {
            let whole = [path, &[Step::Key((*missing).to_owned())]].concat();
            let mut diagnostic = Diagnostic::error(format!("missing `{missing}`"));
            diagnostic.hint = known::example(&whole);
            diagnostic
        }
        What::UnknownKey { key, .. } if known::later_key(path) => {
            Diagnostic::error(format!("`{key}` is known, not available in this version")).hint("leave it out for now")
        }
        What::UnknownKey { key, known } => {
            let mut diagnostic = Diagnostic::error(format!("unknown key `{key}`"));
            diagnostic.hint = suggest::hint(key, known.iter().copied());
            diagnostic
        }
        What::UnknownValue { value, known } if spot.on_key => {
            let mut diagnostic = Diagnostic::error(format!("unknown key `{value}`"));
            diagnostic.hint = suggest::hint(value, known.iter().copied());
            diagnostic
        }
        What::UnknownValue { value, known } => {
            let mut diagnostic = Diagnostic::error(of_key(format!("unknown value `{value}`")));
            diagnostic.hint = suggest::hint(value, known.iter().copied());
            diagnostic
        }
        What::Unfit { found, expected } => {
            let (expected, hint) = known::plain_words(expected);
            let mut diagnostic = Diagnostic::error(of_key(format!("expected {expected}, found {found}")));
            let quoted =
                matches!(&node.kind, Kind::Scalar(scalar) if !scalar.plain && scalar.text.parse::<f64>().is_ok());
            diagnostic.hint = match quoted && expected.contains("number") {
                true => Some("write it without quotes".to_owned()),
                false => known::example(path).or(hint),
            };
            diagnostic
        }
        What::Message(message) => {
            let (message, hint) = known::split_hint(message);
            let mut diagnostic = Diagnostic::error(of_key(message));
            diagnostic.hint = hint.or_else(|| known::example(path));
            diagnostic
        }
    };
    let mut diagnostic = diagnostic.at(name, span);
    if let Kind::Scalar(scalar) = &node.kind {
        diagnostic.message = as_written(&diagnostic.message, scalar);
        diagnostic.hint = diagnostic.hint.map(|hint| as_written(&hint, scalar));
    }
    diagnostic
}

/// A message in which an expanded value, should it occur, stands as it was written: `${NAME}`.
pub(super) fn as_written(message: &str, scalar: &Scalar) -> String {
    let Some(written) = &scalar.written else { return message.to_owned() };
    if scalar.text.is_empty() {
        return message.to_owned();
    }
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find(scalar.text.as_str()) {
        let (before, from) = rest.split_at(at);
        let behind = &from[scalar.text.len()..];
        let word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
        let inside_a_word = scalar.text.len() < 4 && (word(before.chars().last()) || word(behind.chars().next()));
        out.push_str(before);
        out.push_str(if inside_a_word { &scalar.text } else { written });
        rest = behind;
    }
    out.push_str(rest);
    out
}
