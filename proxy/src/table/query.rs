//! A request's query parameters, read as forms are (WHATWG URL, `application/x-www-form-urlencoded`): pairs divided by `&`, a name ends at
//! the first `=`, `+` is a space, `%XX` is a byte, and a `%` without two hexadecimal digits is itself. Nothing is copied until it must be.

use std::borrow::Cow;

/// A name or a value as it stands in the query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoded<'q>(&'q [u8]);

/// The value of the first parameter of this name; empty where no `=` follows it.
pub(super) fn first<'q>(query: &'q str, name: &str) -> Option<Encoded<'q>> {
    query.as_bytes().split(|b| *b == b'&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        Encoded(&pair[..end]).is(name.as_bytes()).then(|| Encoded(pair.get(end + 1..).unwrap_or_default()))
    })
}

// === impl Encoded ===

impl<'q> Encoded<'q> {
    /// Whether this is how `text` is written.
    pub(super) fn is(self, text: &[u8]) -> bool {
        self.bytes().eq(text.iter().copied())
    }

    pub(super) fn decoded(self) -> Cow<'q, [u8]> {
        if memchr::memchr2(b'%', b'+', self.0).is_none() {
            return Cow::Borrowed(self.0);
        }
        self.bytes().collect()
    }

    fn bytes(self) -> impl Iterator<Item = u8> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            Some(match byte {
                b'+' => b' ',
                b'%' => match *tail {
                    [high, low, ref tail @ ..] => match (hex(high), hex(low)) {
                        (Some(high), Some(low)) => {
                            rest = tail;
                            high << 4 | low
                        }
                        _ => b'%',
                    },
                    _ => b'%',
                },
                other => other,
            })
        })
    }
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = Encoded(pair.split('=').next().unwrap_or_default().as_bytes());
        assert!(name.is(&name.decoded()));
        let decoded = name.decoded();
        let Ok(name) = std::str::from_utf8(&decoded) else { continue };
        // A name that is there is found; of several the first counts.
        let value = first(query, name);
        assert!(value.is_some_and(|value| value.is(&value.decoded())), "{name}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(query: &str, name: &str) -> Option<String> {
        first(query, name).map(|value| String::from_utf8_lossy(&value.decoded()).into_owned())
    }

    #[test]
    fn names_and_values_are_decoded_one_by_one() {
        for (query, expected) in [
            ("a=1", Some("1")),
            ("b=2&a=1", Some("1")),
            ("b=2&&a=1", Some("1")),
            ("%61=1", Some("1")),
            ("a=1&a=2", Some("1")),
            ("a", Some("")),
            ("a=", Some("")),
            ("a=b=c", Some("b=c")),
            ("a=b%26a%3Dc", Some("b&a=c")),
            ("a=x+y%20z%2B", Some("x y z+")),
            ("a=%zz%4", Some("%zz%4")),
            ("a=%e2%82%ac", Some("€")),
            ("aa=1&b=a", None),
            ("b=1;a=2", None),
            ("%2561=1", None),
            ("A=1", None),
            ("", None),
        ] {
            assert_eq!(value(query, "a").as_deref(), expected, "{query}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(text in "\\PC{0,12}") {
            let encoded: String = text.bytes().map(|b| format!("%{b:02x}")).collect();
            let query = format!("{encoded}={encoded}&x=1&y=2");
            if !text.is_empty() {
                prop_assert_eq!(value(&query, &text), Some(text));
            }
        }

        #[test]
        fn no_query_makes_it_panic(query in "[a=&%+0-9é]{0,16}") {
            drop(value(&query, "a"));
        }
    }
}
