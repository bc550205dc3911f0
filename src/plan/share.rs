//! Shares of the users, in words: `about 1 in 5 users`, `37.5 % of users`, `everybody`.

/// A share of the users, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share(pub(super) u32);

const ALL: u32 = 10_000;

// === impl Share ===

impl Share {
    /// The share of a share; both drawn apart.
    pub(super) fn of(self, other: Self) -> Self {
        Self((self.0 * other.0 + ALL / 2) / ALL)
    }

    /// Who is not in it.
    pub(super) fn rest(self) -> Self {
        Self(ALL - self.0.min(ALL))
    }

    /// As it begins a sentence; `None` for nobody.
    pub(super) fn in_words(self) -> Option<String> {
        if self.0 == 0 {
            return None;
        }
        if self.0 >= ALL {
            return Some("everybody".to_owned());
        }
        let one_in = (ALL + self.0 / 2) / self.0;
        // Only where that says about the same.
        let said = ALL / one_in;
        if one_in > 1 && said.abs_diff(self.0) * 20 <= self.0 {
            return Some(format!("about 1 in {one_in} users"));
        }
        Some(format!("{} % of users", f64::from(self.0) / 100.0))
    }

    /// Whether the sentence goes on with `moves`.
    pub(super) fn is_one(self) -> bool {
        self.0 >= ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_told_as_people_say_it() {
        let told = |hundredths| Share(hundredths).in_words();
        assert_eq!(told(0), None);
        for (share, words) in [
            (10_000, "everybody"),
            (2_000, "about 1 in 5 users"),
            (500, "about 1 in 20 users"),
            (5_000, "about 1 in 2 users"),
            (3_300, "about 1 in 3 users"),
            (4_000, "40 % of users"),
            (7_500, "75 % of users"),
            (1, "about 1 in 10000 users"),
        ] {
            assert_eq!(told(share).as_deref(), Some(words), "{share}");
        }
    }

    #[test]
    fn shares_drawn_apart_are_multiplied() {
        assert_eq!(Share(5_000).of(Share(2_000).rest()), Share(4_000));
    }
}
