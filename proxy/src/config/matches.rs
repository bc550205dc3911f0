//! `match:` — which requests a route answers.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::IpAddr,
};

use garde::Validate;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use super::{Short, ShortOr};

/// What a route answers: all that is given must hold. Paths are matched in normalised form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The request's host, without port; case does not count. `*.shop.example` is every name below `shop.example`.
    #[garde(inner(length(min = 1, max = 253)))]
    pub host: Option<String>,
    /// Exactly this path, in normal form.
    #[garde(inner(pattern(r"^/")))]
    pub path: Option<String>,
    /// This path and everything below it, on segment borders: `/pay` does not match `/payments`. In normal form.
    #[garde(inner(pattern(r"^/")))]
    pub path_prefix: Option<String>,
    /// The whole path, in normal form, fits this pattern: `/payments/[0-9]+` does not match `/payments/7/lines`.
    #[garde(skip)]
    pub path_regex: Option<String>,
    /// One of these methods.
    #[garde(skip)]
    pub methods: Option<Vec<Method>>,
    /// Each header must have exactly this value, on one of its lines; or `{regex: …}`, `{present: true}`, `{present: false}`.
    #[garde(skip)]
    pub headers: BTreeMap<HeaderName, ShortOr<Wanted>>,
    /// Each query parameter, decoded, must have exactly this value; or `{regex: …}`, `{present: true}`, `{present: false}`. Of a repeated
    /// one the first counts.
    #[garde(skip)]
    pub query: BTreeMap<String, ShortOr<Wanted>>,
    /// The client's address, behind `trusted_proxies`, is in this network or in one of these: `10.0.0.0/8`, `192.0.2.7`.
    #[garde(skip)]
    pub client: Option<Networks>,
}

/// What a header or a query parameter must be: its text, or one of these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// Exactly this value: the long form of a bare text.
    pub exact: Option<String>,
    /// The whole value fits this pattern.
    pub regex: Option<String>,
    /// `true`: it is there, whatever its value. `false`: it is not.
    pub present: Option<bool>,
}

/// Networks of clients: one as text, or a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks(Vec<IpNet>);

/// A header's name, checked and in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderName(String);

/// A method, checked; in capitals as on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method(http::Method);

// === impl Match ===

impl Match {
    /// In short, for `status` and the page: methods, host and path, and of all else only the names.
    #[must_use]
    pub fn told(&self) -> String {
        let methods = self.methods.iter().flatten().map(|method| method.get().as_str());
        let mut told = methods.collect::<Vec<_>>().join(",");
        if !told.is_empty() {
            told.push(' ');
        }
        told.push_str(self.host.as_deref().unwrap_or_default());
        match (&self.path, &self.path_prefix, &self.path_regex) {
            (Some(path), ..) => {
                let _ = write!(told, "{path} (exactly)");
            }
            (None, Some(prefix), _) => told.push_str(prefix),
            (None, None, Some(regex)) => {
                let _ = write!(told, "{regex} (pattern)");
            }
            (None, None, None) => told.push('/'),
        }
        let headers = self.headers.keys().map(|name| format!("header {}", name.as_str()));
        let query = self.query.keys().map(|name| format!("query {name}"));
        let client = self.client.as_ref().map(|_| "client".to_owned());
        for one in headers.chain(query).chain(client) {
            let _ = write!(told, " + {one}");
        }
        told
    }
}

// === impl Wanted ===

impl Short for Wanted {
    const EXPECTING: &'static str = "text, or a map with `regex` or `present`";

    fn short(text: &str) -> Result<Self, String> {
        Ok(Self { exact: Some(text.to_owned()), ..Self::default() })
    }
}

impl garde::Validate for Wanted {
    type Context = ();

    fn validate_into(&self, (): &(), _: &mut dyn FnMut() -> garde::Path, _: &mut garde::Report) {}
}

// === impl Networks ===

impl Networks {
    /// In the file's order.
    #[must_use]
    pub fn get(&self) -> &[IpNet] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Vec<IpNet>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network such as `10.0.0.0/8`, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<IpNet>, E> {
                network(text).map(|net| vec![net]).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<IpNet>, A::Error> {
                let mut networks = Vec::new();
                while let Some(Network(net)) = list.next_element()? {
                    networks.push(net);
                }
                Ok(networks)
            }
        }
        deserializer.deserialize_any(Form).map(Self)
    }
}

/// One network, or one address.
struct Network(IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        network(&text).map(Self).map_err(de::Error::custom)
    }
}

/// IPv4 addresses mapped into IPv6 are IPv4, as a client's address is.
fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical())));
    net.map_err(|_| {
        format!("`{text}` is no network; expected an address, or one with a length: `10.0.0.0/8`, `192.0.2.7`")
    })
}

impl JsonSchema for Networks {
    fn schema_name() -> Cow<'static, str> {
        "Networks".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}

// === impl HeaderName ===

impl HeaderName {
    /// One of Banyan's own names, in lower case.
    pub(crate) fn known(name: &'static str) -> Self {
        Self(name.to_owned())
    }

    /// In lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HeaderName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match http::HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Ok(Self(name.as_str().to_owned())),
            Err(_) => {
                Err(de::Error::custom(format_args!("`{text}` is no header name; expected letters, digits and `-`")))
            }
        }
    }
}

impl JsonSchema for HeaderName {
    fn schema_name() -> Cow<'static, str> {
        "HeaderName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$" })
    }
}

// === impl Method ===

impl Method {
    /// As the `http` crate knows it.
    #[must_use]
    pub fn get(&self) -> &http::Method {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match http::Method::from_bytes(text.as_bytes()) {
            Ok(method) if !text.bytes().any(|b| b.is_ascii_lowercase()) => Ok(Self(method)),
            _ => Err(de::Error::custom(format_args!("`{text}` is no method; expected capitals such as `GET`"))),
        }
    }
}

impl JsonSchema for Method {
    fn schema_name() -> Cow<'static, str> {
        "Method".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Z!#$%&'*+.^_`|~0-9-]+$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_told_without_any_value_of_a_header() {
        for (file, told) in [
            (r#"{"path_prefix": "/pay"}"#, "/pay"),
            (r#"{"host": "a.example", "path": "/pay", "methods": ["GET", "PUT"]}"#, "GET,PUT a.example/pay (exactly)"),
            (r#"{"path_regex": "/p/[0-9]+", "headers": {"x-key": "hidden"}}"#, "/p/[0-9]+ (pattern) + header x-key"),
            (r#"{"query": {"beta": "1"}, "client": "10.0.0.0/8"}"#, "/ + query beta + client"),
        ] {
            assert_eq!(serde_json::from_str::<Match>(file).unwrap().told(), told);
        }
    }
}
