//! Protobuf's binary form, as far as OTLP's messages need it: fields into a buffer
//! (<https://protobuf.dev/programming-guides/encoding/>).
//!
//! It knows no message. Absent fields are the caller's matter, except where a function says that it leaves out defaults.

/// The wire type of a number of variable length.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// The first byte of a length-delimited field with a number up to 15.
pub(super) const fn delimited_key(field: u8) -> u8 {
    assert!(field < 16, "the key of a higher field takes two bytes");
    field << 3 | DELIMITED
}

/// Bytes of a number.
pub(super) const fn varint_len(value: u64) -> usize {
    // Seven bits a byte; zero takes one too.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes of a length-delimited field with a number up to 15, key and length included.
pub(super) const fn delimited_len(content: usize) -> usize {
    1 + varint_len(content as u64) + content
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Key and length of a length-delimited field: the content is the caller's to append.
#[inline]
pub(super) fn delimited_head(key: u8, content: usize, out: &mut Vec<u8>) {
    match u8::try_from(content) {
        Ok(length) if length < 0x80 => out.extend_from_slice(&[key, length]),
        _ => {
            out.push(key);
            varint(content as u64, out);
        }
    }
}

/// A length-delimited field, even when it is empty.
#[inline]
pub(super) fn delimited(field: u8, content: &[u8], out: &mut Vec<u8>) {
    delimited_head(delimited_key(field), content.len(), out);
    out.extend_from_slice(content);
}

/// A string; left out when it is empty.
#[inline]
pub(super) fn string(field: u8, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        delimited(field, text.as_bytes(), out);
    }
}

#[inline]
pub(super) fn uint(field: u8, value: u64, out: &mut Vec<u8>) {
    out.push(field << 3 | VARINT);
    varint(value, out);
}

/// Left out when it is zero.
#[inline]
pub(super) fn fixed64(field: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(field << 3 | FIXED64);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// With a field number of any size.
#[inline]
pub(super) fn fixed32(field: u8, value: u32, out: &mut Vec<u8>) {
    varint(u64::from(field) << 3 | u64::from(FIXED32), out);
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_what_is_written() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit]).chain([u64::MAX]);
        for value in edges {
            let mut out = Vec::new();
            varint(value, &mut out);
            assert_eq!(varint_len(value), out.len(), "{value}");
        }
        for len in [0, 1, 127, 128, 300, 16_383, 16_384] {
            let mut out = Vec::new();
            delimited(1, &vec![0; len], &mut out);
            assert_eq!(delimited_len(len), out.len(), "{len}");
        }
    }
}
