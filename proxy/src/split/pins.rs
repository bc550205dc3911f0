//! Users who are on one side whatever the weight: one customer first, one customer back. Values are looked up in hash sets, whatever their
//! number; a route without pins has none of this.

use std::{collections::HashMap, fmt, net::IpAddr};

use http::HeaderMap;
use ipnet::IpNet;

use super::cookie;
use crate::{
    config::{self, Pin},
    links::Owner,
    table::KeySource,
};

/// All pins of a route.
#[derive(Debug, Default)]
pub struct Pins {
    places: Vec<Place>,
    hosts: HashMap<IpAddr, Owner>,
    nets: Vec<(IpNet, Owner)>,
}

/// One header or cookie, and the values that are pinned in it.
#[derive(Debug)]
struct Place {
    source: KeySource,
    values: HashMap<Box<[u8]>, Owner>,
}

/// Why a request is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned<'p> {
    /// To which side.
    pub side: Owner,
    /// By what; `None` is the client's address.
    pub by: Option<&'p KeySource>,
}

// === impl Pins ===

impl Pins {
    /// The file's form of them; `None` when nobody is pinned, so that nobody pays.
    pub(crate) fn new(pins: &config::Pins) -> Option<Self> {
        let mut compiled = Self::default();
        for (side, list) in [(Owner::Modern, &pins.modern), (Owner::Legacy, &pins.legacy)] {
            for pin in list {
                compiled.add(pin, side);
            }
        }
        (!compiled.places.is_empty() || !compiled.hosts.is_empty() || !compiled.nets.is_empty()).then_some(compiled)
    }

    fn add(&mut self, pin: &Pin, side: Owner) {
        match pin {
            Pin::Header(headers) => {
                for (name, values) in headers {
                    if let Ok(name) = http::HeaderName::from_bytes(name.as_str().as_bytes()) {
                        self.values(KeySource::Header(name), values, side);
                    }
                }
            }
            Pin::Cookie(cookies) => {
                for (name, values) in cookies {
                    self.values(KeySource::Cookie(name.as_str().into()), values, side);
                }
            }
            Pin::Client(nets) => {
                for net in nets.get() {
                    if net.prefix_len() == net.max_prefix_len() {
                        self.hosts.insert(net.addr().to_canonical(), side);
                    } else {
                        self.nets.push((*net, side));
                    }
                }
            }
        }
    }

    fn values(&mut self, source: KeySource, values: &[String], side: Owner) {
        let known = self.places.iter().position(|place| place.source == source);
        let at = known.unwrap_or_else(|| {
            self.places.push(Place { source, values: HashMap::new() });
            self.places.len() - 1
        });
        // Legacy comes last, and wins.
        self.places[at].values.extend(values.iter().map(|value| (value.as_bytes().into(), side)));
    }

    /// Whether this request is pinned; where it is to both sides, to legacy.
    #[must_use]
    pub fn find(&self, headers: &HeaderMap, client: IpAddr) -> Option<Pinned<'_>> {
        let mut found: Option<Pinned<'_>> = None;
        for place in &self.places {
            match place.find(headers) {
                Some(Owner::Legacy) => return Some(Pinned { side: Owner::Legacy, by: Some(&place.source) }),
                Some(Owner::Modern) => {
                    found.get_or_insert(Pinned { side: Owner::Modern, by: Some(&place.source) });
                }
                None => {}
            }
        }
        match self.by_address(client) {
            Some(side) if side == Owner::Legacy || found.is_none() => Some(Pinned { side, by: None }),
            _ => found,
        }
    }

    fn by_address(&self, client: IpAddr) -> Option<Owner> {
        if self.hosts.is_empty() && self.nets.is_empty() {
            return None;
        }
        let client = client.to_canonical();
        let nets = self.nets.iter().filter(|(net, _)| net.contains(&client)).map(|(_, side)| *side);
        nets.chain(self.hosts.get(&client).copied()).max_by_key(|side| *side == Owner::Legacy)
    }
}

// === impl Place ===

impl Place {
    fn find(&self, headers: &HeaderMap) -> Option<Owner> {
        match &self.source {
            KeySource::Header(name) => {
                let sides = headers.get_all(name).iter().filter_map(|value| self.values.get(value.as_bytes()).copied());
                sides.max_by_key(|side| *side == Owner::Legacy)
            }
            KeySource::Cookie(name) => self.values.get(cookie::find(headers, name)?).copied(),
        }
    }
}

// === impl Pinned ===

impl fmt::Display for Pinned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by {
            Some(source) => source.fmt(f),
            None => f.write_str("the client's address"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::tests::headers;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn compiled(form: serde_json::Value) -> Pins {
        Pins::new(&serde_json::from_value(form).unwrap()).unwrap()
    }

    fn side(pins: &Pins, lines: &[(&'static str, &'static str)]) -> Option<Owner> {
        pins.find(&headers(lines), CLIENT).map(|pinned| pinned.side)
    }

    #[test]
    fn a_user_is_pinned_by_header_cookie_or_address() {
        let form = serde_json::json!({
            "modern": [{"header": {"x-tenant": ["acme", "initech"]}}, {"cookie": {"tenant": ["acme"]}}],
            "legacy": [{"header": {"x-user-id": ["17"]}}, {"client": ["198.51.100.0/24", "2001:db8::1"]}],
        });
        let pins = compiled(form);
        assert_eq!(side(&pins, &[("x-tenant", "acme")]), Some(Owner::Modern));
        assert_eq!(side(&pins, &[("x-tenant", "other"), ("x-tenant", "initech")]), Some(Owner::Modern));
        assert_eq!(side(&pins, &[("cookie", "a=b; tenant=acme")]), Some(Owner::Modern));
        assert_eq!(side(&pins, &[("x-user-id", "17")]), Some(Owner::Legacy));
        for none in
            [&[][..], &[("x-tenant", "acme2")], &[("x-tenant", "Acme")], &[("cookie", "tenant=")], &[("x-tenant", "")]]
        {
            assert_eq!(side(&pins, none), None, "{none:?}");
        }
        let by_address = |client: IpAddr| pins.find(&HeaderMap::new(), client).map(|pinned| pinned.side);
        assert_eq!(by_address("::ffff:198.51.100.9".parse().unwrap()), Some(Owner::Legacy));
        assert_eq!(by_address(Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]).into()), Some(Owner::Legacy));
        assert_eq!(by_address(CLIENT), None);
    }

    #[test]
    fn who_is_pinned_to_both_sides_is_on_legacy() {
        let form = serde_json::json!({
            "modern": [{"header": {"x-tenant": ["acme"]}}, {"client": ["192.0.2.7/32"]}],
            "legacy": [{"header": {"x-user-id": ["17"]}}, {"client": ["192.1.0.0/16"]}],
        });
        let pins = compiled(form);
        assert_eq!(side(&pins, &[("x-tenant", "acme"), ("x-user-id", "17")]), Some(Owner::Legacy));
        assert_eq!(side(&pins, &[]), Some(Owner::Modern), "192.1.0.0/16 is another network");
        let both = serde_json::json!({"modern": [{"client": ["192.0.2.0/24"]}], "legacy": [{"client": "192.0.2.7"}]});
        assert_eq!(side(&compiled(both), &[]), Some(Owner::Legacy));
    }

    #[test]
    fn a_route_that_pins_nobody_has_no_pins() {
        assert!(Pins::new(&config::Pins::default()).is_none());
        let empty = serde_json::from_value(serde_json::json!({"modern": [{"client": []}]})).unwrap();
        assert!(Pins::new(&empty).is_none());
    }
}
