//! Small archives that become large ones.

use std::io::Write;

use super::corpus::begun;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Packer {
    Gzip,
    Zstd,
}

impl Packer {
    /// A member of a stream; members one after another are one stream.
    fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        }
    }
}

/// An archive of one file of `mib` MiB, all of them `byte`.
pub(crate) fn bomb(packer: Packer, byte: u8, mib: usize) -> Vec<u8> {
    let bytes = u64::try_from(mib).unwrap() << 20;
    let mut packed = packer.pack(&begun("bomb", bytes));
    let piece = packer.pack(&vec![byte; 1 << 20]);
    (0..mib).for_each(|_| packed.extend_from_slice(&piece));
    packed.extend_from_slice(&packer.pack(&[0; 1024]));
    packed
}
