//! The one rule that puts a user on a side, the same on every replica and with nothing stored; `docs/reference/buckets.md` has it with golden
//! vectors, for others who want to compute it.

use xxhash_rust::xxh64::xxh64;

/// A weight of one percent is a hundred buckets.
pub const BUCKETS: u16 = 10_000;

/// What tells one group's buckets from another's: XXH64 of the group's UTF-8 bytes, with seed 0.
#[must_use]
pub fn seed(group: &str) -> u64 {
    xxh64(group.as_bytes(), 0)
}

/// The same for whose requests are copied, where that goes by user: XXH64 with seed 1, so that it says nothing of the side that a user is on.
#[must_use]
pub fn shadow_seed(group: &str) -> u64 {
    xxh64(group.as_bytes(), 1)
}

/// The bucket of a key: XXH64 of its raw bytes with the group's seed, modulo 10,000. Modern answers iff it is below weight × 100.
#[must_use]
pub fn bucket(seed: u64, key: &[u8]) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "below 10,000")]
    let bucket = (xxh64(key, seed) % u64::from(BUCKETS)) as u16;
    bucket
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Weight;

    #[test]
    fn the_same_user_stays_on_the_same_side_on_every_replica_and_version() {
        // Golden: a change here moves users of running migrations.
        for (group, key, expected) in GOLDEN {
            assert_eq!(bucket(seed(group), key), *expected, "{group} {key:?}");
        }
    }

    #[test]
    fn the_vectors_in_the_docs_are_the_golden_ones() {
        let page = include_str!("../../../docs/reference/buckets.md");
        let (sides, shadows) = page.split_once("## Shadows").unwrap();
        for (part, golden) in [(sides, GOLDEN), (shadows, SHADOWED)] {
            let rows: Vec<(&str, Vec<u8>, u16)> = part.lines().filter_map(row).collect();
            let golden: Vec<(&str, Vec<u8>, u16)> =
                golden.iter().map(|(group, key, bucket)| (*group, key.to_vec(), *bucket)).collect();
            assert_eq!(rows, golden);
        }
    }

    #[test]
    fn the_same_users_are_copied_on_every_replica_and_version() {
        for (group, key, expected) in SHADOWED {
            assert_eq!(bucket(shadow_seed(group), key), *expected, "{group} {key:?}");
        }
    }

    #[test]
    fn whose_requests_are_copied_says_nothing_of_their_side() {
        let (sides, shadows) = (seed("payments"), shadow_seed("payments"));
        let both = (0..100_000)
            .map(|user| format!("user-{user}"))
            .filter(|user| bucket(sides, user.as_bytes()) < 1000 && bucket(shadows, user.as_bytes()) < 1000)
            .count();
        assert!((874..=1_126).contains(&both), "{both}");
    }

    /// `| `payments` | `ann` | 285 |`, or with `bytes `ff 00` ` or `address `192.0.2.7` ` as the key.
    fn row(line: &str) -> Option<(&str, Vec<u8>, u16)> {
        let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
        let (group, key, bucket) = (cells.next()?.trim_matches('`'), cells.next()?, cells.next()?);
        let (kind, text) = key.strip_suffix('`')?.split_once('`')?;
        let key = match kind.trim() {
            "" => text.as_bytes().to_vec(),
            "bytes" => text.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect(),
            "address" => crate::split::address_key(text.parse().unwrap()),
            other => panic!("{other}"),
        };
        Some((group, key, bucket.parse().unwrap()))
    }

    const GOLDEN: &[(&str, &[u8], u16)] = &[
        ("payments", b"ann", 285),
        ("payments", b"bob", 3068),
        ("payments", b"42", 3913),
        ("payments", b"\xff\x00\x7f", 1907),
        ("payments", b"7b1f3a52-9c0e-4a44-8a55-0c2d8f6a1e90", 6325),
        ("accounts", b"ann", 9533),
        ("accounts", b"42", 111),
        ("überweisung", b"ann", 4004),
        // 192.0.2.7, and every address of 2001:db8:0:1::/64.
        ("payments", b"\xc0\x00\x02\x07", 6667),
        ("payments", b"\x20\x01\x0d\xb8\x00\x00\x00\x01", 2708),
    ];

    const SHADOWED: &[(&str, &[u8], u16)] = &[
        ("payments", b"ann", 3870),
        ("payments", b"bob", 1957),
        ("payments", b"42", 9228),
        ("payments", b"\xff\x00\x7f", 7188),
        ("accounts", b"ann", 3460),
        ("payments", b"\xc0\x00\x02\x07", 1960),
    ];

    #[test]
    fn five_percent_of_many_users_are_five_percent() {
        let seed = seed("payments");
        let modern = (0..100_000).filter(|user| bucket(seed, format!("user-{user}").as_bytes()) < 500).count();
        // Four standard deviations of a fair draw: 4 × √(100,000 × 0.05 × 0.95) ≈ 276.
        assert!((4_724..=5_276).contains(&modern), "{modern}");
    }

    #[test]
    fn groups_draw_independently() {
        let (a, b) = (seed("payments"), seed("accounts"));
        let both = (0..100_000)
            .map(|user| format!("user-{user}"))
            .filter(|user| bucket(a, user.as_bytes()) < 1000 && bucket(b, user.as_bytes()) < 1000)
            .count();
        assert!((874..=1_126).contains(&both), "{both}");
    }

    proptest! {
        #[test]
        fn raising_the_weight_moves_nobody_back(key in any::<Vec<u8>>(), low in 0u32..=10_000, high in 0u32..=10_000) {
            let (low, high) = (low.min(high), low.max(high));
            let is_modern = |hundredths: u32| {
                bucket(seed("g"), &key) < Weight::try_new(f64::from(hundredths) / 100.0).unwrap().buckets()
            };
            prop_assert!(!is_modern(low) || is_modern(high));
        }
    }
}
