//! Base64 (RFC 4648 section 4) as it comes: byte for byte, and padded in its middle where a sender flushed.

/// Characters of a group of four that were seen, without the bits that are out already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    bits: u16,
    /// How many characters of the group have been seen, padding included.
    at: u8,
    /// No more than padding may come in this group.
    padded: bool,
}

/// What one more character gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Byte(u8),
    Nothing,
    /// It is no Base64.
    Invalid,
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self { bits: 0, at: 0, padded: false }
    }

    pub(super) fn take(&mut self, character: u8) -> Decoded {
        let at = self.at;
        self.at = (at + 1) % 4;
        if character == b'=' {
            // Two characters make a byte, and three make two.
            let fits = at >= 2;
            self.padded = fits && self.at != 0;
            self.bits = 0;
            return if fits { Decoded::Nothing } else { Decoded::Invalid };
        }
        let (Some(value), false) = (value(character), self.padded) else { return Decoded::Invalid };
        self.bits = self.bits << 6 | u16::from(value);
        match at {
            0 => Decoded::Nothing,
            at => Decoded::Byte((self.bits >> (6 - 2 * at)) as u8),
        }
    }

    /// Nothing more is needed.
    pub(super) const fn is_whole(self) -> bool {
        self.at == 0
    }
}

const fn value(character: u8) -> Option<u8> {
    Some(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Option<Vec<u8>> {
        let mut decoder = Decoder::new();
        let mut bytes = Vec::new();
        for character in text.bytes() {
            match decoder.take(character) {
                Decoded::Byte(byte) => bytes.push(byte),
                Decoded::Nothing => {}
                Decoded::Invalid => return None,
            }
        }
        decoder.is_whole().then_some(bytes)
    }

    #[test]
    fn groups_and_padding() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zg==Zm8=Zm9vZg==", Some(b"ffofoof")),
            ("+/+/", Some(&[0xfb, 0xff, 0xbf])),
            ("Zm9", None),
            ("Z===", None),
            ("=m9v", None),
            ("Zg=v", None),
            ("Zg=", None),
            ("Zm9v\n", None),
        ] {
            assert_eq!(decode(text).as_deref(), bytes, "{text}");
        }
    }
}
