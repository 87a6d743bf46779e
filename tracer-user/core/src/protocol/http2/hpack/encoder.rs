//! An encoder for tests: every way that RFC 7541 knows to write a field, as told.

use std::collections::VecDeque;

use super::huffman;
use super::statics::STATIC;

pub(in super::super) type Fields = Vec<(String, String)>;

/// Keeps the whole table.
#[derive(Debug)]
pub(in super::super) struct Encoder {
    table: VecDeque<(String, String)>,
    max: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), max: 4096 }
    }
}

impl Encoder {
    /// A size update.
    pub(in super::super) fn resize(&mut self, max: usize, out: &mut Vec<u8>) {
        self.max = max;
        self.evict();
        integer(0x20, 5, max, out);
    }

    /// One field; the bits of `how` choose among the ways to write it.
    pub(in super::super) fn field(&mut self, name: &str, value: &str, how: u8, out: &mut Vec<u8>) {
        let of_static = STATIC.iter().map(|&(name, value)| (name, value));
        let of_table = self.table.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let entries: Vec<_> = of_static.chain(of_table).collect();
        let whole = entries.iter().position(|&entry| entry == (name, value));
        if let (Some(at), true) = (whole, how & 3 != 0) {
            return integer(0x80, 7, at + 1, out);
        }
        let mut named = entries.iter().enumerate().filter(|(_, (other, _))| *other == name).map(|(at, _)| at);
        let named = if how & 0x80 == 0 { named.next() } else { named.next_back() };
        let at = named.filter(|_| how & 4 == 0);
        let (first, bits) = match how >> 3 & 3 {
            0 => (0x00, 4),
            1 => (0x10, 4),
            _ => (0x40, 6),
        };
        integer(first, bits, at.map_or(0, |at| at + 1), out);
        if at.is_none() {
            string(name, how & 0x20 != 0, out);
        }
        string(value, how & 0x40 != 0, out);
        if first == 0x40 {
            self.table.push_front((name.to_owned(), value.to_owned()));
            self.evict();
        }
    }

    fn evict(&mut self) {
        let size = |table: &VecDeque<(String, String)>| -> usize {
            table.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
        };
        while size(&self.table) > self.max {
            self.table.pop_back();
        }
    }
}

fn string(text: &str, huffman: bool, out: &mut Vec<u8>) {
    if huffman {
        let code = huffman::tests::encode(text.as_bytes());
        integer(0x80, 7, code.len(), out);
        out.extend(code);
    } else {
        integer(0, 7, text.len(), out);
        out.extend(text.bytes());
    }
}

/// RFC 7541 section 5.1.
pub(in super::super) fn integer(first: u8, bits: u8, mut value: usize, out: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    value -= most;
    while value >= 0x80 {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}
