//! Text → tree, by serde-saphyr: syntax, aliases and their bounds, depth. The only file that knows serde-saphyr.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    DefaultMessageFormatter, MessageFormatter, Spanned,
    options::{DuplicateKeyPolicy, NonFiniteFloatPolicy},
};

use super::{
    node::{Entry, Id, Kind, Node, Scalar, Step},
    report::Diagnostic,
    span::{Span, Text},
};

/// Lists and maps within each other; routes.yaml needs six.
const DEEPEST: usize = 32;
/// Values that aliases may stand for, all of them together.
const REPLAYED: usize = 20_000;

/// What serde-saphyr tells of a value, before the file's text is asked how it was written.
enum Raw {
    Null,
    Text(String),
    /// A number or a truth value; its text is taken from the file.
    Typed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

/// Gives nodes their ids, and finds keys that stand twice.
struct Builder<'t> {
    text: &'t Text,
    next: Id,
    path: Vec<Step>,
    errors: Vec<Diagnostic>,
}

/// The tree of a text, and what is wrong with its keys.
pub(super) fn parse(text: &Text) -> Result<(Node, Vec<Diagnostic>), Box<Diagnostic>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            max_nodes: 200_000,
            max_events: 400_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            flow_nesting_limit: DEEPEST,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED, max_replay_stack_depth: 16 },
        // Told by the builder, all of them.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        emit_comments: false,
        with_snippet: false,
    };
    let root: Spanned<Raw> = serde_saphyr::from_str_with_options(text.as_str(), options)
        .map_err(|error| Box::new(syntax_error(&error, text)))?;
    let mut builder = Builder { text, next: 0, path: Vec::new(), errors: Vec::new() };
    let root = builder.node(root);
    Ok((root, builder.errors))
}

fn syntax_error(error: &serde_saphyr::Error, text: &Text) -> Diagnostic {
    use serde_saphyr::Error as E;
    let inner = error.without_snippet();
    let inner = match inner {
        E::AliasError { error, .. } => error,
        other => other,
    };
    let said = DefaultMessageFormatter.format_message(inner);
    let (message, hint) = match inner {
        E::AliasReplayLimitExceeded { .. }
        | E::AliasExpansionLimitExceeded { .. }
        | E::AliasReplayStackDepthExceeded { .. } => (
            "aliases repeat more than a file of routes can mean".to_owned(),
            Some("write it out, or divide it into smaller parts"),
        ),
        E::MultipleDocuments { .. } => {
            ("the file holds more than one YAML document".to_owned(), Some("leave out what follows `---`"))
        }
        E::Eof { .. } => ("the file is empty".to_owned(), None),
        _ if said.contains("epth") || said.contains("recursion limit") => (
            format!("lists and maps are nested more than {DEEPEST} deep"),
            Some("no key needs more than eight; is a bracket too many?"),
        ),
        E::Budget { .. } => {
            ("the file holds more than a file of routes can mean".to_owned(), Some("divide it into smaller files"))
        }
        _ => (format!("not readable as YAML: {said}"), None),
    };
    let mut diagnostic = Diagnostic::error(message);
    diagnostic.hint = hint.map(str::to_owned);
    if let Some(location) = error.location() {
        let number = |value| usize::try_from(value).unwrap_or(1).max(1);
        let (line, start) = text.line(number(location.line()));
        let column = number(location.column()) - 1;
        let at = line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
        if diagnostic.hint.is_none() && line.contains("${") {
            diagnostic.hint = Some("put quotes round a value that holds `${`: `\"${NAME}\"`".to_owned());
        }
        diagnostic = diagnostic.at("", Span::new(start + at, 1));
    }
    diagnostic
}

// === impl Raw ===

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Typed(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
                Ok(Raw::Typed(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
                Ok(Raw::Typed(value.to_string()))
            }

            fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
                Ok(Raw::Typed(value.to_string()))
            }

            fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
                Ok(Raw::Typed(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Typed(value.to_string()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Text(value.to_owned()))
            }

            fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
                Ok(Raw::Text(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

// === impl Builder ===

impl Builder<'_> {
    fn node(&mut self, raw: Spanned<Raw>) -> Node {
        let span = span(&raw);
        let id = self.next;
        self.next += 1;
        let kind = match raw.value {
            Raw::Null => Kind::Null,
            Raw::Text(text) => self.scalar(text, span),
            Raw::Typed(text) => {
                let written = self.text.slice(span).trim();
                let plain = !written.is_empty() && !written.starts_with(['"', '\'', '|', '>', '!', '&', '*']);
                let text = if plain { written.to_owned() } else { text };
                Kind::Scalar(Scalar { text, plain: true, written: None })
            }
            Raw::List(items) => {
                let child = |(index, item)| self.child(Step::Index(index), item);
                Kind::List(items.into_iter().enumerate().map(child).collect())
            }
            Raw::Map(entries) => self.map(entries),
        };
        Node { id, span, kind }
    }

    fn child(&mut self, step: Step, raw: Spanned<Raw>) -> Node {
        self.path.push(step);
        let node = self.node(raw);
        self.path.pop();
        node
    }

    fn scalar(&self, text: String, span: Span) -> Kind {
        let plain = !self.text.slice(span).starts_with(['"', '\'', '|', '>', '!']);
        Kind::Scalar(Scalar { text, plain, written: None })
    }

    fn map(&mut self, raw: Vec<(Spanned<Raw>, Spanned<Raw>)>) -> Kind {
        let mut entries: Vec<Entry> = Vec::with_capacity(raw.len());
        let mut first: HashMap<String, Span> = HashMap::with_capacity(raw.len());
        for (raw_key, raw_value) in raw {
            let key_span = span(&raw_key);
            let key = match raw_key.value {
                Raw::Text(text) => text,
                Raw::Typed(text) => match self.text.slice(key_span).trim() {
                    "" => text,
                    written => written.to_owned(),
                },
                Raw::Null | Raw::List(_) | Raw::Map(_) => {
                    self.errors.push(
                        Diagnostic::error("a key must be a plain name")
                            .at(Step::join(&self.path), key_span)
                            .hint("write `name: value`; text that holds `{`, `[` or `: ` wants quotes"),
                    );
                    continue;
                }
            };
            if let Some(first) = first.get(&key) {
                let line = self.text.position(first.start).line;
                self.path.push(Step::Key(key.clone()));
                let path = Step::join(&self.path);
                self.path.pop();
                self.errors.push(
                    Diagnostic::error(format!("`{key}` stands twice in the same map"))
                        .at(path, key_span)
                        .hint(format!("the first one is in line {line}; keep one of them")),
                );
                continue;
            }
            first.insert(key.clone(), key_span);
            let value = self.child(Step::Key(key.clone()), raw_value);
            entries.push(Entry { key, key_span, value });
        }
        Kind::Map(entries)
    }
}

/// An alias is shown where its value was written, since that is where it is mended.
fn span(raw: &Spanned<Raw>) -> Span {
    let span = raw.defined.span();
    let number = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok()).unwrap_or(0);
    Span::new(number(span.byte_offset()), number(span.byte_len()))
}
