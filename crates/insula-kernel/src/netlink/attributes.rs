//! A writer of netlink attributes for the messages that `netlink-packet-route` does not have.

use netlink_packet_core::NLA_F_NESTED;

/// Attributes one after another, each padded to four bytes:
///
/// ```text
///   0       2       4
///   | len   | kind  | value … | padding |     len counts header and value, not the padding
/// ```
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// No attribute yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds one with these bytes as its value.
    ///
    /// Panics when the value is longer than the format can say (65,531 bytes); all values here are far shorter.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("callers bound what they put into one attribute");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds text with the final NUL that the kernel expects.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value)
    }

    /// Adds one that holds other attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: &Attributes) -> &mut Self {
        self.put(kind | NLA_F_NESTED, &inner.0)
    }

    /// The bytes so far.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_padded_and_lengths_are_not() {
        let mut attributes = Attributes::new();
        attributes.put(7, &[1]).put_text(8, "abc");
        let expected: [&[u8]; 6] = [
            &5u16.to_ne_bytes(),
            &7u16.to_ne_bytes(),
            &[1, 0, 0, 0],
            &8u16.to_ne_bytes(),
            &8u16.to_ne_bytes(),
            b"abc\0",
        ];
        assert_eq!(attributes.as_bytes(), expected.concat());
    }
}
