//! Numbers as the formats write them. Nothing here skips signs, blanks or prefixes.

use std::ops::RangeInclusive;

use crate::span::{SpanId, TraceId};

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

/// A number in hexadecimal of either case, of so many digits.
pub(super) fn hex(digits: &[u8], len: RangeInclusive<usize>) -> Option<u128> {
    if !len.contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0_u128, |number, &digit| {
        let digit = u128::from(hex_digit(digit)?);
        Some(number.checked_mul(16)? | digit)
    })
}

/// Hexadecimal of either case; leading zeros may be missing.
pub(super) fn trace_id(digits: &[u8]) -> Option<TraceId> {
    TraceId::new(hex(digits, 1..=32)?.to_be_bytes())
}

/// As for a trace id.
pub(super) fn span_id(digits: &[u8]) -> Option<SpanId> {
    SpanId::new(u64::try_from(hex(digits, 1..=16)?).ok()?.to_be_bytes())
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
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

    #[test]
    fn hex_and_decimal_numbers() {
        assert_eq!(hex(b"fF", 1..=2), Some(0xff));
        assert_eq!(hex(&[b'f'; 32], 1..=32), Some(u128::MAX));
        assert_eq!(hex(&[b'f'; 33], 1..=64), None);
        assert_eq!(hex(b"", 1..=2), None);
        assert_eq!(hex(b"0x1", 1..=4), None);
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal(b"000000000000000000000000001"), Some(1));
        for malformed in ["", "18446744073709551616", "+1", "-1", "1a", " 1"] {
            assert_eq!(decimal(malformed.as_bytes()), None, "{malformed:?}");
        }
        assert_eq!(trace_id(b"1").unwrap().to_string(), "00000000000000000000000000000001");
        assert_eq!(span_id(b"A").unwrap().to_string(), "000000000000000a");
        assert_eq!((trace_id(b"0"), span_id(b"0")), (None, None));
        assert_eq!(span_id(b"00000000000000001"), None);
    }
}
