//! Tree → structs: a serde deserializer that, when something does not fit, knows which node it was.

use std::fmt::{self, Display};

use banyan_proxy::config::TEXT_OR_MAP;
use serde::{
    Deserializer,
    de::{
        self, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess,
        Visitor,
    },
    forward_to_deserialize_any,
};

use super::node::{Entry, Id, Kind, Node, View};

/// Something that does not fit, and the node that it was.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) what: What,
    pub(super) spot: Option<Spot>,
}

#[derive(Debug)]
pub(super) enum What {
    Message(String),
    /// A required key is missing in the map.
    Missing(&'static str),
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    UnknownValue {
        value: String,
        known: &'static [&'static str],
    },
    Unfit {
        /// `text`, `a number`, …; of a value of the right kind, the value.
        found: String,
        expected: String,
    },
}

/// Where a fault lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// What is left out for the next attempt.
    pub(super) id: Id,
    /// Whether the node's key is meant rather than its value.
    pub(super) on_key: bool,
}

/// One node, as serde sees it.
#[derive(Clone, Copy)]
pub(super) struct NodeDeserializer<'de> {
    node: &'de Node,
    view: &'de View,
}

struct Entries<'de> {
    entries: Box<dyn Iterator<Item = &'de Entry> + 'de>,
    value: Option<&'de Node>,
    view: &'de View,
}

struct Items<'de> {
    items: std::slice::Iter<'de, Node>,
    view: &'de View,
}

struct KeyDeserializer<'de>(&'de Entry);

struct Variant<'de> {
    node: &'de Node,
    name: &'de str,
    value: Option<&'de Node>,
    view: &'de View,
}

enum Typed<'de> {
    Text(&'de str),
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

// === impl Fault ===

impl Fault {
    fn new(what: What) -> Self {
        Self { what, spot: None }
    }

    /// The innermost node that knows of the fault wins.
    fn or_at(mut self, id: Id, on_key: bool) -> Self {
        self.spot.get_or_insert(Spot { id, on_key });
        self
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Message(message) => f.write_str(message),
            What::Missing(key) => write!(f, "missing `{key}`"),
            What::UnknownKey { key, .. } => write!(f, "unknown key `{key}`"),
            What::UnknownValue { value, .. } => write!(f, "unknown value `{value}`"),
            What::Unfit { found, expected } => write!(f, "expected {expected}, found {found}"),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(What::Message(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Unfit { found: kind(&found).to_owned(), expected: expected.to_string() })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let shown = match found {
            Unexpected::Str(text) => format!("`{text}`"),
            Unexpected::Unsigned(number) => format!("`{number}`"),
            Unexpected::Signed(number) => format!("`{number}`"),
            _ => kind(&found).to_owned(),
        };
        Self::new(What::Unfit { found: shown, expected: expected.to_string() })
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(What::Unfit { found: "another number of values".to_owned(), expected: expected.to_string() })
    }

    fn unknown_variant(value: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownValue { value: value.to_owned(), known })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey { key: key.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::Missing(key))
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::new(What::Message(format!("`{key}` stands twice in the same map")))
    }
}

fn kind(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a truth value",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a number",
        Unexpected::Float(_) => "a number with decimals",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map | Unexpected::StructVariant => "a map",
        _ => "text",
    }
}

// === impl NodeDeserializer ===

impl<'de> NodeDeserializer<'de> {
    pub(super) fn new(node: &'de Node, view: &'de View) -> Self {
        Self { node, view }
    }

    fn entries(self, entries: &'de [Entry]) -> Entries<'de> {
        let view = self.view;
        let entries = entries.iter().filter(|entry| !view.pruned.has(entry.value.id)).chain(view.extra(self.node.id));
        Entries { entries: Box::new(entries), value: None, view }
    }

    fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Scalar(scalar) => match Typed::of(&scalar.text, scalar.plain) {
                Typed::Text(text) => visitor.visit_borrowed_str(text),
                Typed::Bool(value) => visitor.visit_bool(value),
                Typed::Unsigned(value) => visitor.visit_u64(value),
                Typed::Signed(value) => visitor.visit_i64(value),
                Typed::Float(value) => visitor.visit_f64(value),
            },
            Kind::List(items) => visitor.visit_seq(Items { items: items.iter(), view: self.view }),
            Kind::Map(entries) => visitor.visit_map(self.entries(entries)),
        }
    }

    /// Where text is wanted, a bare number is its text too: `install: 1`.
    fn visit_text<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Scalar(scalar) => visitor.visit_borrowed_str(&scalar.text),
            _ => self.visit(visitor),
        }
    }

    fn variant<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Self { node, view } = self;
        match &node.kind {
            Kind::Scalar(scalar) => visitor.visit_enum(Variant { node, name: &scalar.text, value: None, view }),
            Kind::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant { node, name: &entry.key, value: Some(&entry.value), view }),
                _ => Err(Fault::new(What::Unfit {
                    found: "a map of another size".to_owned(),
                    expected: "a map with one key".to_owned(),
                })),
            },
            _ => self.visit(visitor),
        }
    }
}

impl<'de> Deserializer<'de> for NodeDeserializer<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(visitor).map_err(|fault| fault.or_at(self.node.id, false))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|fault| fault.or_at(self.node.id, false))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit_text(visitor).map_err(|fault| fault.or_at(self.node.id, false))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.variant(visitor).map_err(|fault| fault.or_at(self.node.id, false))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        if name == TEXT_OR_MAP { self.visit_text(visitor) } else { visitor.visit_newtype_struct(self) }
            .map_err(|fault| fault.or_at(self.node.id, false))
    }

    // An empty value where a list or map stands with a default is that: `routes:` alone is no routes.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.kind {
            Kind::Null => visitor.visit_seq(Items { items: [].iter(), view: self.view }),
            _ => self.visit(visitor),
        }
        .map_err(|fault| fault.or_at(self.node.id, false))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.kind {
            Kind::Null => visitor.visit_map(self.entries(&[])),
            _ => self.visit(visitor),
        }
        .map_err(|fault| fault.or_at(self.node.id, false))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.node.kind {
            // serde would take a list as a struct's fields in their order; nobody means that.
            Kind::List(_) => Err(Fault::new(What::Unfit { found: "a list".to_owned(), expected: "a map".to_owned() })
                .or_at(self.node.id, false)),
            _ => self.deserialize_map(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

// === impl Entries, Items ===

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(&entry.value);
        seed.deserialize(KeyDeserializer(entry)).map(Some).map_err(|fault| fault.or_at(entry.value.id, true))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("a value was asked for before its key"))?;
        seed.deserialize(NodeDeserializer::new(value, self.view)).map_err(|fault| fault.or_at(value.id, false))
    }
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.find(|item| !self.view.pruned.has(item.id)) else { return Ok(None) };
        seed.deserialize(NodeDeserializer::new(item, self.view)).map(Some).map_err(|fault| fault.or_at(item.id, false))
    }
}

// === impl KeyDeserializer ===

impl<'de> Deserializer<'de> for KeyDeserializer<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(&self.0.key).map_err(|fault: Fault| fault.or_at(self.0.value.id, true))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let id = self.0.value.id;
        visitor.visit_newtype_struct(self).map_err(|fault| fault.or_at(id, true))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let key: &str = &self.0.key;
        visitor.visit_enum(key.into_deserializer()).map_err(|fault: Fault| fault.or_at(self.0.value.id, true))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

// === impl Variant ===

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name: de::value::StrDeserializer<'_, Fault> = self.name.into_deserializer();
        let value = seed.deserialize(name).map_err(|fault| match self.value {
            Some(value) => fault.or_at(value.id, true),
            None => fault.or_at(self.node.id, false),
        })?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.value {
            None => Ok(()),
            Some(value) => {
                let expected = format!("only `{}`", self.name);
                Err(Fault::new(What::Unfit { found: "a map".to_owned(), expected }).or_at(value.id, false))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        match self.value {
            Some(value) => {
                seed.deserialize(NodeDeserializer::new(value, self.view)).map_err(|fault| fault.or_at(value.id, false))
            }
            None => {
                let expected = format!("a map such as `{{{}: …}}`", self.name);
                Err(Fault::new(What::Unfit { found: "text".to_owned(), expected }).or_at(self.node.id, false))
            }
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        NodeDeserializer::new(self.value.unwrap_or(self.node), self.view).deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        NodeDeserializer::new(self.value.unwrap_or(self.node), self.view).deserialize_any(visitor)
    }
}

// === impl Typed ===

impl<'de> Typed<'de> {
    /// YAML 1.2's core rules: what stands in quotes is text, `true` and `false` are the only truth values.
    fn of(text: &'de str, plain: bool) -> Self {
        if !plain {
            return Self::Text(text);
        }
        match text {
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            ".nan" | ".NaN" | ".NAN" => return Self::Float(f64::NAN),
            ".inf" | ".Inf" | "+.inf" => return Self::Float(f64::INFINITY),
            "-.inf" | "-.Inf" => return Self::Float(f64::NEG_INFINITY),
            _ => {}
        }
        let radix =
            |prefix, radix| text.strip_prefix(prefix).and_then(|digits| u64::from_str_radix(digits, radix).ok());
        if let Some(value) = radix("0x", 16).or_else(|| radix("0o", 8)) {
            return Self::Unsigned(value);
        }
        let number = text.strip_prefix(['-', '+']).unwrap_or(text);
        if !number.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.')
            || !number.bytes().any(|byte| byte.is_ascii_digit())
        {
            return Self::Text(text);
        }
        if let Ok(value) = text.parse() {
            Self::Unsigned(value)
        } else if let Ok(value) = text.parse() {
            Self::Signed(value)
        } else if let Ok(value) = text.parse() {
            Self::Float(value)
        } else {
            Self::Text(text)
        }
    }
}
