//! Base64 (RFC 4648 section 4), as two formats carry bytes in it. With padding or without; nothing else is skipped, and
//! bits that are left over must be zero, so that each value has one spelling.

/// The bytes. `None` for what is not base64, or is longer than `max` bytes.
pub(super) fn decode(text: &[u8], max: usize) -> Option<Vec<u8>> {
    let digits = match text {
        [digits @ .., b'=', b'='] | [digits @ .., b'='] if text.len().is_multiple_of(4) => digits,
        digits => digits,
    };
    // Three bytes of four digits; a digit alone is no byte.
    if digits.len() % 4 == 1 || digits.len() / 4 * 3 > max {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits {
        bits = bits << 6 | u32::from(value(*digit)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0 && bytes.len() <= max).then_some(bytes)
}

const fn value(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_padding_and_without() {
        for (text, want) in [
            ("", &b""[..]),
            ("Zg", b"f"),
            ("Zg==", b"f"),
            ("Zm8", b"fo"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYg", b"foob"),
            ("+/+/", &[0xfb, 0xff, 0xbf]),
        ] {
            assert_eq!(decode(text.as_bytes(), 4).as_deref(), Some(want), "{text:?}");
        }
        for malformed in [
            "Z", "=", "==", "Zg=", "Zg===", "Zm9v=", "Zm9v==", "Zm9v====", "Zh", "Zm9", "Zm 9v", "Zm-_",
            "Zm9vYmE",
        ] {
            assert_eq!(decode(malformed.as_bytes(), 4), None, "{malformed:?}");
        }
    }
}
