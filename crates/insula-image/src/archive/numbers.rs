//! Numbers as tar headers and PAX records write them.

use crate::attributes::Mtime;

/// A number of a header field: octal digits ended by space or NUL, or, when the first bit is set, big-endian two's
/// complement in the rest of the field (GNU). `None` when it is neither or does not fit.
pub(super) fn parse_field(field: &[u8]) -> Option<i64> {
    match field.first()? {
        0x80 | 0xff => {
            let negative = field[0] == 0xff;
            let mut value = if negative { -1i64 } else { 0 };
            for byte in &field[1..] {
                value = value.checked_mul(256)?.checked_add(i64::from(*byte))?;
            }
            Some(value)
        }
        first if first & 0x80 != 0 => None,
        _ => parse_octal(field),
    }
}

fn parse_octal(field: &[u8]) -> Option<i64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = field[start..].split(is_blank).next().unwrap_or_default();
    let rest = &field[start + digits.len()..];
    if !rest.iter().all(is_blank) {
        return None;
    }
    digits.iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

/// A decimal number without sign.
pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A PAX time: decimal seconds, perhaps negative, perhaps with a fraction, of which nine digits count.
pub(super) fn parse_time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let whole = i64::try_from(parse_decimal(whole)?).ok()?;
    let digit = |index: usize| fraction.get(index).map_or(0, |byte| u32::from(byte - b'0'));
    let nanoseconds = (0..9).fold(0, |value, index| value * 10 + digit(index));
    Some(match (negative, nanoseconds) {
        (false, _) => Mtime { seconds: whole, nanoseconds },
        (true, 0) => Mtime { seconds: -whole, nanoseconds: 0 },
        (true, _) => Mtime { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Writes a time as [`parse_time`] reads it.
pub(super) fn format_time(time: Mtime) -> String {
    let fraction = |nanoseconds: u32| format!(".{nanoseconds:09}").trim_end_matches('0').to_owned();
    match (time.seconds, time.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanoseconds) => format!("{seconds}{}", fraction(nanoseconds)),
        (seconds, nanoseconds) => format!("-{}{}", -(seconds + 1), fraction(1_000_000_000 - nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_octal_or_binary() {
        assert_eq!(parse_field(b"0000755\0"), Some(0o755));
        assert_eq!(parse_field(b"   755 \0"), Some(0o755));
        assert_eq!(parse_field(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(parse_field(b"0000859\0"), None);
        assert_eq!(parse_field(b"07 5\0\0\0\0"), None);
        assert_eq!(parse_field(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(parse_field(&[0xff; 12]), Some(-1));
        assert_eq!(parse_field(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(parse_field(&[0xc0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn times_keep_nanoseconds_and_sign() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1700000000", 1_700_000_000, 0),
            ("1.5", 1, 500_000_000),
            ("1.000000001", 1, 1),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
        ] {
            let time = Mtime { seconds, nanoseconds };
            assert_eq!(parse_time(text.as_bytes()), Some(time), "{text}");
            assert_eq!(format_time(time), text);
        }
        for bad in ["", "-", ".5", "1.x", "99999999999999999999", "+1", "1e3"] {
            assert_eq!(parse_time(bad.as_bytes()), None, "{bad}");
        }
    }
}
