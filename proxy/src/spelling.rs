//! Header names that a server behind may take for one: CGI and its kin read `x_forwarded_for` as `x-forwarded-for`.

/// Whether a name begins so, with `_` for any `-` of the prefix. For nearly every name the first letters tell.
pub(crate) fn begins(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len() && prefix.bytes().zip(name.bytes()).all(|(b, a)| a == b || (b == b'-' && a == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underscore_stands_for_a_dash_and_for_nothing_else() {
        for name in ["x-banyan-side", "x_banyan_side", "x-banyan_side", "x_banyan-", "x-banyan-a_b"] {
            assert!(begins(name, "x-banyan-"), "{name}");
        }
        for name in ["x-banyan", "xbanyan-side", "x-bananas", "x+banyan-side", "y_banyan_side", ""] {
            assert!(!begins(name, "x-banyan-"), "{name}");
        }
    }
}
