//! Runs a target on mutated seeds, so that every `cargo test` fuzzes a little, on stable and with the same inputs each time. It sees no coverage:
//! `cargo fuzz` does. With `BANYAN_FUZZ_SECONDS=60` it runs so long, with other inputs each time.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A generator whose every state gives another number (SplitMix64).
struct Dice(u64);

/// Shows the input when the target panics.
struct Shown<'i>(&'i str, &'i [u8]);

/// Bytes at which parsers turn.
const PIECES: [&[u8]; 24] = [
    b"\0",
    b"\xff",
    b"\r\n",
    b"\n",
    b" ",
    b"/",
    b"..",
    b"%",
    b"%2f",
    b"%00",
    b";",
    b":",
    b",",
    b"=",
    b"\"",
    b"\\",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"9223372036854775808",
    b"-",
];
/// Longer inputs only take time.
const LONGEST: usize = 4096;

/// The files of a folder.
pub(crate) fn seeds(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no seed", folder.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Each seed as it is, then `rounds` mutations.
pub(crate) fn run(name: &str, seeds: &[Vec<u8>], rounds: usize, target: impl Fn(&[u8])) {
    let try_one = |input: &[u8]| {
        let _shown = Shown(name, input);
        target(input);
    };
    seeds.iter().for_each(|seed| try_one(seed));
    let seconds = std::env::var("BANYAN_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut dice = Dice(if end.is_some() { now() } else { 1 });
    let mut round = 0;
    while end.map_or(round < rounds, |end| Instant::now() < end) {
        let mut input = seeds[dice.below(seeds.len())].clone();
        for _ in 0..=dice.below(6) {
            dice.mutate(&mut input, seeds);
        }
        input.truncate(LONGEST);
        try_one(&input);
        round += 1;
    }
}

// === impl Dice ===

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A range of some bytes.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..(start + self.below(17)).min(length)
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let range = self.range(input.len());
        match self.below(6) {
            0 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] ^= 1 << self.below(8);
            }
            1 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] = self.next() as u8;
            }
            2 => drop(input.drain(range)),
            3 => {
                let again = input[range.clone()].repeat(1 + self.below(8));
                input.splice(range.start..range.start, again);
            }
            4 => {
                let other = &seeds[self.below(seeds.len())];
                let piece = other[self.range(other.len())].to_vec();
                input.splice(range, piece);
            }
            _ => {
                let piece = PIECES[self.below(PIECES.len())];
                input.splice(range.start..range.start, piece.iter().copied());
            }
        }
    }
}

// === impl Shown ===

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input of `{}` was: b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}
