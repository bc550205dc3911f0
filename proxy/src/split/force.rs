//! Testers who name their side themselves. From everybody else the header says nothing; no upstream ever sees it.

use std::{io, net::IpAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use secrecy::ExposeSecret;

use super::Signer;
use crate::{config, links::Owner};

/// Where a tester presents the secret.
pub const FORCE_SECRET: HeaderName = HeaderName::from_static("x-banyan-secret");

/// Who may name a side, and in which header.
#[derive(Debug)]
pub struct Force {
    header: HeaderName,
    allow: Box<[IpNet]>,
    secret: Option<Presented>,
}

/// A secret that is known only by its signature under a key drawn at start: comparing takes the same time whatever is presented, and the
/// secret itself is not kept.
#[derive(Debug)]
struct Presented {
    signer: Signer,
    expected: [u8; 32],
}

// === impl Force ===

impl Force {
    /// The file's form of it; `None` for a header that cannot be one, which the file's own check refuses.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn new(force: &config::Force) -> io::Result<Option<Self>> {
        let Ok(header) = HeaderName::from_bytes(force.header.as_str().as_bytes()) else { return Ok(None) };
        let secret =
            force.secret.as_ref().map(|secret| Presented::new(secret.expose_secret().as_bytes())).transpose()?;
        Ok(Some(Self { header, allow: force.allow.get().into(), secret }))
    }

    /// The side that this request asks for, if it may. `said` is where clients' `X-Banyan-*` are.
    #[must_use]
    pub fn wish(&self, said: &HeaderMap, headers: &HeaderMap, client: IpAddr) -> Option<Owner> {
        let value = said.get(&self.header).or_else(|| headers.get(&self.header))?;
        let side = match value.as_bytes().trim_ascii() {
            value if value.eq_ignore_ascii_case(b"legacy") => Owner::Legacy,
            value if value.eq_ignore_ascii_case(b"modern") => Owner::Modern,
            _ => return None,
        };
        let client = client.to_canonical();
        let knows = || {
            let presented = said.get(FORCE_SECRET);
            self.secret.as_ref().zip(presented).is_some_and(|(secret, given)| secret.is(given.as_bytes()))
        };
        (self.allow.iter().any(|net| net.contains(&client)) || knows()).then_some(side)
    }

    /// The header that names the side.
    #[must_use]
    pub fn header(&self) -> &HeaderName {
        &self.header
    }
}

// === impl Presented ===

impl Presented {
    fn new(secret: &[u8]) -> io::Result<Self> {
        let signer = Signer::drawn()?;
        let expected = signer.sign(secret);
        Ok(Self { signer, expected })
    }

    fn is(&self, given: &[u8]) -> bool {
        self.signer.is_signed(given, &self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::headers;

    const SECRET: &str = "a-secret-of-testers";

    fn force(more: serde_json::Value) -> Force {
        Force::new(&serde_json::from_value(more).unwrap()).unwrap().unwrap()
    }

    fn wish(force: &Force, lines: &[(&'static str, &'static str)], client: &str) -> Option<Owner> {
        force.wish(&headers(lines), &HeaderMap::new(), client.parse().unwrap())
    }

    #[test]
    fn a_side_is_named_from_an_allowed_network_alone() {
        let force = force(serde_json::json!({"allow": ["10.0.0.0/8", "2001:db8::/32"]}));
        for client in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
            assert_eq!(wish(&force, &[("x-banyan-side", "modern")], client), Some(Owner::Modern), "{client}");
        }
        assert_eq!(wish(&force, &[("x-banyan-side", " Legacy ")], "10.0.0.1"), Some(Owner::Legacy));
        assert_eq!(wish(&force, &[("x-banyan-side", "both")], "10.0.0.1"), None);
        assert_eq!(wish(&force, &[("x-banyan-side", "modern")], "192.0.2.7"), None);
        assert_eq!(wish(&force, &[("x-banyan-side", "modern"), ("x-banyan-secret", "")], "192.0.2.7"), None);
    }

    #[test]
    fn who_presents_the_secret_may_and_nobody_with_another_one() {
        let force = force(serde_json::json!({"secret": SECRET}));
        let with = |secret| wish(&force, &[("x-banyan-side", "modern"), ("x-banyan-secret", secret)], "192.0.2.7");
        assert_eq!(with(SECRET), Some(Owner::Modern));
        for wrong in ["", "a-secret-of-tester", "a-secret-of-testerz", "A-SECRET-OF-TESTERS"] {
            assert_eq!(with(wrong), None, "{wrong}");
        }
        assert_eq!(wish(&force, &[("x-banyan-side", "modern")], "192.0.2.7"), None);
        assert!(!format!("{force:?}").contains("testers"));
    }

    #[test]
    fn the_header_may_have_another_name() {
        let force = force(serde_json::json!({"header": "x-test-side", "allow": ["10.0.0.0/8"]}));
        let said = headers(&[("x-test-side", "modern")]);
        assert_eq!(force.wish(&HeaderMap::new(), &said, "10.0.0.1".parse().unwrap()), Some(Owner::Modern));
    }
}
