//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B), byte by byte.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and longer ones follow
//! shorter ones. The lengths alone tell all of it.

use super::Broken;

const SYMBOLS: usize = 257;
/// Ends no string: it is there so that the bits that fill the last byte have a meaning.
const EOS: u16 = 256;
const SHORTEST: u8 = 5;
const LONGEST: u8 = 30;

#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Codes of one length.
#[derive(Clone, Copy)]
struct Group {
    /// The code behind the last of them.
    end: u32,
    /// Added to a code it gives the place of its symbol in [`Code::symbols`], modulo 2^32.
    place: u32,
}

struct Code {
    groups: [Group; LONGEST as usize + 1],
    /// By code.
    symbols: [u16; SYMBOLS],
}

const CODE: Code = {
    let mut code = Code { groups: [Group { end: 0, place: 0 }; LONGEST as usize + 1], symbols: [0; SYMBOLS] };
    let (mut next, mut placed, mut len) = (0_u32, 0, 1);
    while len <= LONGEST as usize {
        next <<= 1;
        let place = (placed as u32).wrapping_sub(next);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == len {
                code.symbols[placed] = symbol as u16;
                placed += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.groups[len] = Group { end: next, place };
        len += 1;
    }
    // The code is complete: every sequence of bits is one of symbols.
    assert!(placed == SYMBOLS && next == 1 << LONGEST);
    code
};

/// Bits that are not a whole code yet.
#[derive(Debug, Default)]
pub(super) struct Huffman {
    bits: u64,
    count: u8,
}

impl Huffman {
    /// Hands on the symbols that end with this byte: at most two.
    pub(super) fn feed(&mut self, byte: u8, mut symbol: impl FnMut(u8)) -> Result<(), Broken> {
        self.bits = self.bits << 8 | u64::from(byte);
        self.count += 8;
        while let Some((found, len)) = self.first() {
            self.count -= len;
            self.bits &= (1 << self.count) - 1;
            // RFC 7541 section 5.2: a string that has the symbol for the end in it is an error.
            symbol(u8::try_from(found).map_err(|_| Broken::Huffman)?);
        }
        Ok(())
    }

    /// Whether a string may end here: less than a byte is left, all ones.
    pub(super) fn may_end(&self) -> bool {
        self.count < 8 && self.bits == (1 << self.count) - 1
    }

    fn first(&self) -> Option<(u16, u8)> {
        for len in SHORTEST..=LONGEST.min(self.count) {
            let code = (self.bits >> (self.count - len)) as u32;
            let group = CODE.groups[usize::from(len)];
            if code < group.end {
                let symbol = CODE.symbols.get(code.wrapping_add(group.place) as usize).copied();
                return Some((symbol.unwrap_or(EOS), len));
            }
        }
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut huffman, mut out) = (Huffman::default(), Vec::new());
        for &byte in bytes {
            huffman.feed(byte, |symbol| out.push(symbol)).ok()?;
        }
        huffman.may_end().then_some(out)
    }

    /// By how many codes come before a symbol's in the canonical order.
    pub(in super::super) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for &byte in text {
            let len = LENGTHS[usize::from(byte)];
            let shorter: u64 =
                LENGTHS.iter().filter(|&&other| other < len).map(|&other| 1_u64 << (30 - other)).sum();
            let same = LENGTHS[..usize::from(byte)].iter().filter(|&&other| other == len).count() as u64;
            bits += &format!("{:0width$b}", (shorter >> (30 - len)) + same, width = usize::from(len));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        (0..bits.len() / 8).map(|at| u8::from_str_radix(&bits[at * 8..at * 8 + 8], 2).unwrap()).collect()
    }

    #[test]
    fn every_byte_is_decoded() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        for byte in all {
            assert_eq!(decode(&encode(&[byte])).unwrap(), [byte], "{byte}");
        }
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541 appendix C.4 and C.6.
        let check = |hex: &str, want: &str| {
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap())
                .collect();
            assert_eq!(decode(&bytes).as_deref(), Some(want.as_bytes()), "{want}");
            assert_eq!(encode(want.as_bytes()), bytes, "{want}");
        };
        check("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com");
        check("a8eb10649cbf", "no-cache");
        check("25a849e95ba97d7f", "custom-key");
        check("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT");
    }

    #[test]
    fn only_ones_fill_the_last_byte() {
        assert_eq!(decode(&[]).unwrap(), b"");
        // "0" is 00000.
        assert_eq!(decode(&[0b0000_0111]).unwrap(), b"0");
        assert_eq!(decode(&[0b0000_0110]), None);
        assert_eq!(decode(&[0b0000_0111, 0xff]), None);
        // The symbol for the end.
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff]), None);
    }
}
