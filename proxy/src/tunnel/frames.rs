//! Where WebSocket frames begin (RFC 6455, 5.2), as far as it takes to say goodbye between two of them. Nothing of their content is looked at.

/// Follows the bytes of one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; 14],
    have: usize,
    /// Bytes of the payload that are still to come.
    left: u64,
}

/// A close frame to a client: 1012, "service restart" (IANA's registry of close codes).
pub(super) const RESTART: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];

// === impl Frames ===

impl Frames {
    /// These bytes were passed on.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have >= 2 && self.have == self.head_length() {
                self.left = self.payload();
                self.have = 0;
            }
        }
    }

    /// Whether a frame of our own may be put in here.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    fn head_length(&self) -> usize {
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn payload(&self) -> u64 {
        match self.head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.head[2], self.head[3]])),
            127 => self.head[2..10].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            short => u64::from(short),
        }
    }
}

/// The first byte says where the others are cut: it makes no difference.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let [mut whole, mut halves, mut single] = [(); 3].map(|()| Frames::default());
    whole.pass(bytes);
    halves.pass(first);
    halves.pass(second);
    bytes.iter().for_each(|byte| single.pass(&[*byte]));
    let state = |frames: &Frames| (frames.is_between(), frames.have, frames.left);
    assert_eq!(state(&whole), state(&halves));
    assert_eq!(state(&whole), state(&single));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0x88; length + if is_masked { 4 } else { 0 }]);
        frame
    }

    proptest! {
        #[test]
        fn only_whole_frames_leave_it_between(
            lengths in prop::collection::vec((prop_oneof![0usize..300, 65_500usize..65_600], any::<bool>()), 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let frames: Vec<Vec<u8>> = lengths.iter().map(|(length, is_masked)| frame(*length, *is_masked)).collect();
            let stream = frames.concat();
            let cut = cut.index(stream.len() + 1);
            let mut borders = vec![0];
            for frame in &frames {
                borders.push(borders[borders.len() - 1] + frame.len());
            }
            let mut seen = Frames::default();
            seen.pass(&stream[..cut]);
            prop_assert_eq!(seen.is_between(), borders.contains(&cut));
            seen.pass(&stream[cut..]);
            prop_assert!(seen.is_between());
        }
    }
}
