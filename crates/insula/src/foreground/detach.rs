//! Finding the detach keys in what is typed.

/// Remembers how many of the keys were typed in a row. The keys are held back until it is clear that they are not
/// the whole sequence.
#[derive(Debug)]
pub(super) struct DetachMatcher {
    keys: Vec<u8>,
    matched: usize,
}

/// What typed bytes come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Typed {
    /// What the container is to get.
    pub(super) forwarded: Vec<u8>,
    /// Whether the sequence was completed; what came after it is dropped.
    pub(super) detached: bool,
}

impl DetachMatcher {
    pub(super) fn new(keys: &[u8]) -> Self {
        Self { keys: keys.to_vec(), matched: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Typed {
        if self.keys.is_empty() {
            return Typed { forwarded: bytes.to_vec(), detached: false };
        }
        let mut forwarded = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte != self.keys[self.matched] {
                // The longest end of what was held back that is again a beginning stays held back.
                let mut held: Vec<u8> = self.keys[..self.matched].to_vec();
                held.push(byte);
                let keep = (0..held.len()).find(|&from| self.keys.starts_with(&held[from..])).unwrap_or(held.len());
                forwarded.extend_from_slice(&held[..keep]);
                self.matched = held.len() - keep;
            } else {
                self.matched += 1;
            }
            if self.matched == self.keys.len() {
                return Typed { forwarded, detached: true };
            }
        }
        Typed { forwarded, detached: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(keys: &[u8], chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut matcher = DetachMatcher::new(keys);
        let mut all = Vec::new();
        for chunk in chunks {
            let Typed { forwarded, detached } = matcher.push(chunk);
            all.extend(forwarded);
            if detached {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_everything_else_passes() {
        assert_eq!(typed(&[16, 17], &[b"ab\x10", b"\x11c"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[16, 17], &[b"ab\x10", b"x\x10\x10\x11"]), (b"ab\x10x\x10".to_vec(), true));
        assert_eq!(typed(b"aab", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[], &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }

    proptest! {
        #[test]
        fn matching_is_the_first_place_of_the_sequence(
            keys in prop::collection::vec(0u8..3, 1..4), text in prop::collection::vec(0u8..3, 0..30), cut in 1usize..5,
        ) {
            let chunks: Vec<&[u8]> = text.chunks(cut).collect();
            let (forwarded, detached) = typed(&keys, &chunks);
            match text.windows(keys.len()).position(|window| window == keys) {
                Some(at) => { prop_assert!(detached); prop_assert_eq!(&forwarded[..], &text[..at]); }
                None => { prop_assert!(!detached); prop_assert!(text.starts_with(&forwarded)); }
            }
        }
    }
}
