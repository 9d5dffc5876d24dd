//! Files with holes in tar archives: stored segments become the whole file again, zeros between them.

use std::io::{self, Read};

use super::tar_reader::ReadArchiveCause;

/// Most segments of a file.
pub(super) const SEGMENTS_MAX: usize = 1 << 16;

/// Where the stored bytes of a file belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    size: u64,
    /// Offset and length, ascending, none overlapping, all within the size.
    segments: Vec<(u64, u64)>,
}

impl SparseMap {
    /// Checks a map against the file's size and the stored bytes.
    pub(super) fn new(size: u64, stored: u64, segments: Vec<(u64, u64)>) -> Result<Self, ReadArchiveCause> {
        let mut end = 0;
        let mut sum = 0u64;
        for (offset, length) in &segments {
            let segment_end = offset.checked_add(*length).ok_or(ReadArchiveCause::SparseMap)?;
            if *offset < end || segment_end > size {
                return Err(ReadArchiveCause::SparseMap);
            }
            end = segment_end;
            sum += length;
        }
        if sum != stored || segments.len() > SEGMENTS_MAX {
            return Err(ReadArchiveCause::SparseMap);
        }
        Ok(Self { size, segments })
    }

    /// From numbers in pairs.
    pub(super) fn from_numbers(size: u64, stored: u64, numbers: &[u64]) -> Result<Self, ReadArchiveCause> {
        let (pairs, []) = numbers.as_chunks::<2>() else { return Err(ReadArchiveCause::SparseMap) };
        Self::new(size, stored, pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
    }

    /// Bytes of the file, holes counted.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// Progress through a file with holes.
#[derive(Debug)]
pub(super) struct SparseCursor {
    map: SparseMap,
    segment: usize,
    position: u64,
}

impl SparseCursor {
    pub(super) fn new(map: SparseMap) -> Self {
        Self { map, segment: 0, position: 0 }
    }

    /// Reads the next bytes of the file; `stored` gives the stored ones.
    pub(super) fn read(&mut self, stored: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
        while self.map.segments.get(self.segment).is_some_and(|(offset, length)| offset + length <= self.position) {
            self.segment += 1;
        }
        let (hole_end, segment_end) = match self.map.segments.get(self.segment) {
            Some((offset, length)) => (*offset, offset + length),
            None => (self.map.size, self.map.size),
        };
        let rest = if self.position < hole_end { hole_end } else { segment_end } - self.position;
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let count = if self.position < hole_end {
            buffer[..length].fill(0);
            length
        } else {
            stored.read(&mut buffer[..length])?
        };
        self.position += u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_holes_make_the_whole_file() {
        let map = SparseMap::from_numbers(12, 5, &[2, 3, 7, 2, 12, 0]).unwrap();
        let mut cursor = SparseCursor::new(map);
        let mut stored = &b"abcde"[..];
        let mut file = Vec::new();
        let mut piece = [0xff; 4];
        loop {
            let count = cursor.read(&mut stored, &mut piece).unwrap();
            if count == 0 {
                break;
            }
            file.extend_from_slice(&piece[..count]);
        }
        assert_eq!(file, b"\0\0abc\0\0de\0\0\0");
    }

    #[test]
    fn maps_that_overlap_or_lie_outside_are_refused() {
        for numbers in [&[0, 3, 2, 3][..], &[9, 6], &[u64::MAX, 6], &[0, 5], &[0], &[6, 3, 0, 3]] {
            assert!(SparseMap::from_numbers(12, 6, numbers).is_err(), "{numbers:?}");
        }
    }
}
