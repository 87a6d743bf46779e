//! Numbers as the formats write them. Nothing here skips signs, blanks or prefixes.

/// `N` bytes in lower-case hexadecimal.
pub(super) fn lower_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        if high.is_ascii_uppercase() || low.is_ascii_uppercase() {
            return None;
        }
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(bytes)
}

pub(super) const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_hex_is_exact() {
        assert_eq!(lower_hex(b"00fa"), Some([0, 0xfa]));
        for malformed in ["", "00f", "00fA", "00f ", "00fg", "00fa0", "+0fa"] {
            assert_eq!(lower_hex::<2>(malformed.as_bytes()), None, "{malformed:?}");
        }
    }
}
