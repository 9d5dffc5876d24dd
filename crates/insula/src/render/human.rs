//! Amounts and times as people read them.

use jiff::Timestamp;

/// Bytes in the greatest binary unit of which there is at least one: `12.3 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|&&(_, shift)| bytes >> shift != 0) {
        Some((unit, shift)) => {
            // Tenths, cut and not rounded: 1023.99 KiB is not 1 MiB.
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// How long ago `time` was: `5 s`, `3 min`, `2 h`, `4 d`; a time in the future is `0 s`.
#[must_use]
pub fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(time.as_second()).max(0);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_cut_to_a_tenth() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (u64::MAX, "16777215.9 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (ago, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (200_000, "2 d"), (-5, "0 s")] {
            assert_eq!(age(Timestamp::from_second(1_000_000 - ago).unwrap(), now), text);
        }
    }
}
