//! "Did you mean": the known name that is nearest to a wrong one, or all of them when none is near.

/// What to write instead of a name that is unknown.
pub(crate) fn hint<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    const MOST: usize = 12;
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(name) = nearest(wrong, &known) {
        return Some(format!("did you mean `{name}`?"));
    }
    if known.is_empty() {
        return None;
    }
    let shown: Vec<String> = known.iter().take(MOST).map(|name| format!("`{name}`")).collect();
    let more = if known.len() > MOST { ", …" } else { "" };
    Some(format!("known here: {}{more}", shown.join(", ")))
}

/// The known name that a slip of the pen most likely meant.
pub(crate) fn nearest<'n>(wrong: &str, known: &[&'n str]) -> Option<&'n str> {
    let far = wrong.chars().count().div_ceil(3).max(1);
    let lower = wrong.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase().replace('-', "_")), *name))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_mended_and_a_stranger_gets_the_list() {
        assert_eq!(hint("paymnets", ["orders", "payments"]).unwrap(), "did you mean `payments`?");
        assert_eq!(hint("Path-Prefix", ["path_prefix"]).unwrap(), "did you mean `path_prefix`?");
        assert_eq!(hint("zzz", ["a_name", "another"]).unwrap(), "known here: `a_name`, `another`");
        assert_eq!(hint("x", []), None);
    }
}
