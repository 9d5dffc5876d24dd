//! The superblock's checksum: CRC-32C without the final inversion, as the kernel's `crc32c(~0, ...)`.

/// Reversed Castagnoli polynomial.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Checksum of `bytes`. Bit by bit: it covers 3 KiB, once per image.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_of_the_catalogue_of_crcs_holds() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }
}
