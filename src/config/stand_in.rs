//! Values that stand in for required keys that are missing or wrong, so that the rest of their map is read and checked all the same. A
//! file with a stand-in in it is never used.

use super::{
    known,
    node::{Id, Kind, Node, Scalar, Step, View},
};

/// Puts a stand-in for a key into a map; false when there is none for it.
pub(super) fn add(view: &mut View, map: Id, path: &[Step], key: &str) -> bool {
    let path = [path, &[Step::Key(key.to_owned())]].concat();
    let Some(form) = known::stand_in(&path) else { return false };
    view.stand_in(map, key, |node| match form {
        Form::Text(value) => text(node, value),
        Form::Unique(prefix) => text(node, &format!("{prefix}{map}")),
        Form::EmptyMap => node(Kind::Map(Vec::new())),
        Form::EmptyList => node(Kind::List(Vec::new())),
        Form::One(value) => {
            let item = text(node, value);
            node(Kind::List(vec![item]))
        }
        Form::Map(key, value) => entry(node, key, value),
        Form::UniqueMap(key, prefix) => entry(node, key, &format!("{prefix}{map}")),
        Form::OneMap(key, value) => {
            let item = entry(node, key, value);
            node(Kind::List(vec![item]))
        }
    })
}

/// What a stand-in looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Text(&'static str),
    /// A text that no other stand-in has.
    Unique(&'static str),
    EmptyMap,
    EmptyList,
    /// A list of one text.
    One(&'static str),
    /// A map of one key.
    Map(&'static str, &'static str),
    UniqueMap(&'static str, &'static str),
    /// A list of one map of one key.
    OneMap(&'static str, &'static str),
}

fn text(node: &mut dyn FnMut(Kind) -> Node, text: &str) -> Node {
    node(Kind::Scalar(Scalar { text: text.to_owned(), plain: true, written: None }))
}

fn entry(node: &mut dyn FnMut(Kind) -> Node, key: &str, value: &str) -> Node {
    let value = text(node, value);
    node(Kind::Map(vec![super::node::Entry { key: key.to_owned(), key_span: super::span::Span::default(), value }]))
}
