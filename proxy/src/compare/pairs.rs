//! Items of two arrays whose order does not count, each with the one that it is to be compared with.

use std::collections::{HashMap, VecDeque};

use super::{json::Json, number, pointer::Pattern};

/// The items side by side: first those of the control in their order, then what the candidate alone has. Items are told apart by what stands
/// at `key` in them; those without it, and those with the same, by their order. Where the key is the item itself, what has no equal is
/// compared in its order.
pub(super) fn paired<'a>(
    control: &'a [Json<'a>],
    candidate: &'a [Json<'a>],
    key: &Pattern,
) -> Vec<(Option<&'a Json<'a>>, Option<&'a Json<'a>>)> {
    let mut waiting: HashMap<Option<String>, VecDeque<usize>> = HashMap::new();
    for (index, item) in candidate.iter().enumerate() {
        waiting.entry(identity(item, key)).or_default().push_back(index);
    }
    let mut is_taken = vec![false; candidate.len()];
    let mut pairs: Vec<_> = control
        .iter()
        .map(|item| {
            let index = waiting.get_mut(&identity(item, key)).and_then(VecDeque::pop_front);
            if let Some(index) = index {
                is_taken[index] = true;
            }
            (Some(item), index.map(|index| &candidate[index]))
        })
        .collect();
    let mut left_over = candidate.iter().zip(is_taken).filter(|(_, is_taken)| !is_taken).map(|(item, _)| item);
    if key.is_itself() {
        for (_, alone) in pairs.iter_mut().filter(|(_, candidate)| candidate.is_none()) {
            *alone = left_over.next();
        }
    }
    pairs.extend(left_over.map(|item| (None, Some(item))));
    pairs
}

fn identity(item: &Json<'_>, key: &Pattern) -> Option<String> {
    let mut text = String::new();
    write(key.find(item)?, &mut text);
    Some(text)
}

/// The same text for the same value, and no other.
fn write(json: &Json<'_>, to: &mut String) {
    use std::fmt::Write;
    // Writing to a text cannot fail.
    let _ = match json {
        Json::Null => write!(to, "n"),
        Json::Bool(value) => write!(to, "{value}"),
        Json::Number(text) => write!(to, "{}", number::canonical(text)),
        Json::String(text) => write!(to, "{text:?}"),
        Json::Array(items) => {
            to.push('[');
            for item in items {
                write(item, to);
                to.push(',');
            }
            write!(to, "]")
        }
        Json::Object(members) => {
            to.push('{');
            for (name, value) in members {
                let _ = write!(to, "{name:?}:");
                write(value, to);
                to.push(',');
            }
            write!(to, "}}")
        }
    };
}
