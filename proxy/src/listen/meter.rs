//! Follows the frames that an HTTP/2 client sends (RFC 9113, 4.1), and counts those that cost it nothing and Banyan something. Nothing of
//! their content is looked at; what h2 bounds by itself (concurrent streams, windows, the size of a header list) is not counted again.

use super::Tick;

#[derive(Debug)]
pub(super) struct Meter {
    /// Of the client's preface, which is no frame.
    preface_left: usize,
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the present frame's payload that are still to come.
    left: usize,
    kind: u8,
    /// A header block was begun and not ended.
    in_block: bool,
    continuations: u32,
    counts: Counts,
    /// When the counts began.
    since: Tick,
    resets: u32,
    last_stream: u32,
}

#[derive(Debug, Default)]
struct Counts {
    resets: u32,
    pings: u32,
    settings: u32,
    empty: u32,
    /// Priorities, and frames of kinds that nobody knows.
    others: u32,
}

/// Too much of something that is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flood;

const HEAD: usize = 9;
const SECOND: Tick = 1000;
/// Of each a second and connection.
const PINGS: u32 = 100;
const SETTINGS: u32 = 50;
const EMPTY: u32 = 100;
const OTHERS: u32 = 1000;
/// In one header block.
const CONTINUATIONS: u32 = 20;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

// === impl Meter ===

impl Meter {
    /// `preface`: its length; `resets`: how many a second are allowed.
    pub(super) fn new(preface: usize, resets: u32, now: Tick) -> Self {
        Self {
            preface_left: preface,
            head: [0; HEAD],
            have: 0,
            left: 0,
            kind: kind::DATA,
            in_block: false,
            continuations: 0,
            counts: Counts::default(),
            since: now,
            resets,
            last_stream: 0,
        }
    }

    /// These bytes came.
    pub(super) fn pass(&mut self, mut bytes: &[u8], now: Tick) -> Result<(), Flood> {
        if now.wrapping_sub(self.since) >= SECOND {
            (self.counts, self.since) = (Counts::default(), now);
        }
        skip(&mut self.preface_left, &mut bytes);
        while !bytes.is_empty() {
            if self.left > 0 {
                skip(&mut self.left, &mut bytes);
                continue;
            }
            let count = bytes.len().min(HEAD - self.have);
            self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have == HEAD {
                self.have = 0;
                self.begin()?;
            }
        }
        Ok(())
    }

    /// Something was begun that holds up the whole connection until it is ended. A body does not.
    pub(super) fn is_in_head(&self) -> bool {
        self.preface_left > 0 || self.in_block || self.have > 0 || (self.left > 0 && self.kind != kind::DATA)
    }

    /// The last stream that the client opened.
    pub(super) fn last_stream(&self) -> u32 {
        self.last_stream
    }

    fn begin(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.kind = kind;
        let counts = &mut self.counts;
        let (count, most) = match kind {
            kind::HEADERS => {
                self.last_stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
                self.continuations = 0;
                self.in_block = flags & END_HEADERS == 0;
                return Ok(());
            }
            kind::CONTINUATION => {
                self.in_block = flags & END_HEADERS == 0;
                (&mut self.continuations, CONTINUATIONS)
            }
            kind::DATA if self.left > 0 || flags & END_STREAM != 0 => return Ok(()),
            kind::DATA => (&mut counts.empty, EMPTY),
            kind::RST_STREAM => (&mut counts.resets, self.resets),
            kind::SETTINGS => (&mut counts.settings, SETTINGS),
            kind::PING => (&mut counts.pings, PINGS),
            // As many as there is data; h2 bounds what they can do.
            kind::WINDOW_UPDATE | kind::GOAWAY => return Ok(()),
            _ => (&mut counts.others, OTHERS),
        };
        *count += 1;
        if *count > most { Err(Flood) } else { Ok(()) }
    }
}

fn skip(left: &mut usize, bytes: &mut &[u8]) {
    let skipped = (*left).min(bytes.len());
    *left -= skipped;
    *bytes = &bytes[skipped..];
}

/// However the bytes are cut, the same is counted.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let [mut whole, mut single] = [(); 2].map(|()| Meter::new(0, 3, 0));
    let at_once = whole.pass(data, 0);
    let one_by_one = data.iter().try_for_each(|byte| single.pass(&[*byte], 0));
    assert_eq!(at_once, one_by_one);
    if at_once.is_ok() {
        assert_eq!(whole.last_stream(), single.last_stream());
        assert_eq!(whole.is_in_head(), single.is_in_head());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = (length as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(vec![0xff; length]);
        frame
    }

    fn most(kind: u8, flags: u8, length: usize) -> usize {
        let mut meter = Meter::new(0, 7, 0);
        (0..10_000).take_while(|_| meter.pass(&frame(kind, flags, 1, length), 0).is_ok()).count()
    }

    #[test]
    fn what_costs_a_client_nothing_is_counted() {
        assert_eq!(most(kind::RST_STREAM, 0, 4), 7);
        assert_eq!(most(kind::PING, 0, 8), 100);
        assert_eq!(most(kind::SETTINGS, 0, 0), 50);
        assert_eq!(most(kind::DATA, 0, 0), 100);
        assert_eq!(most(kind::CONTINUATION, 0, 5), 20);
        assert_eq!(most(2, 0, 5), 1000);
        for (kind, flags, length) in [(kind::DATA, 0, 1), (kind::DATA, END_STREAM, 0), (kind::HEADERS, END_HEADERS, 9)]
        {
            assert_eq!(most(kind, flags, length), 10_000);
        }
    }

    #[test]
    fn every_second_begins_anew() {
        let mut meter = Meter::new(0, 1, 0);
        let reset = frame(kind::RST_STREAM, 0, 1, 4);
        assert_eq!(meter.pass(&reset, 0), Ok(()));
        assert_eq!(meter.pass(&reset, 999), Err(Flood));
        assert_eq!(meter.pass(&reset, 1000), Ok(()));
    }

    proptest! {
        #[test]
        fn frames_are_found_wherever_the_bytes_are_cut(
            frames in prop::collection::vec((0u8..10, any::<bool>(), 0usize..300), 1..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
            let mut stream = preface.to_vec();
            let mut last = 0;
            for (number, (kind, ends, length)) in frames.iter().enumerate() {
                stream.extend(frame(*kind, if *ends { END_HEADERS } else { 0 }, number as u32, *length));
                if *kind == kind::HEADERS {
                    last = number as u32;
                }
            }
            let (first, second) = stream.split_at(cut.index(stream.len() + 1));
            let mut meter = Meter::new(preface.len(), 100, 0);
            let whole = meter.pass(first, 0).and_then(|()| meter.pass(second, 0));
            prop_assert!(whole == Ok(()));
            prop_assert_eq!(meter.last_stream(), last);
            prop_assert_eq!((meter.have, meter.left, meter.preface_left), (0, 0, 0));
        }
    }
}
