//! The dynamic table of HPACK (RFC 7541 sections 2.3.2 and 4), of which not all need be known.
//!
//! An index counts back from the entry that was inserted last. So after a loss, or when the connection was joined in
//! its middle, what was there before is gone, but every entry that was seen being inserted since has its certain index,
//! whatever the size of the table is: the size only tells which of the oldest entries are still there. Where it is not
//! known, every insertion is taken to have happened. An entry too large for the table empties it instead (section 4.4),
//! and no valid index reaches behind it.
//!
//! The text of an entry is kept only if its name matters.

use std::collections::VecDeque;

/// Bytes of entries, counted as the RFC does, that are kept at most. Browsers and proxies announce 4 to 64 KiB; what an
/// encoder keeps beyond is not known here.
const MAX_BYTES: u64 = 64 * 1024;

/// RFC 7541 section 4.1.
pub(super) const ENTRY_BYTES: u64 = 32;

/// RFC 9113 section 6.5.2.
const DEFAULT_SIZE: u32 = 4096;

#[derive(Debug)]
pub(super) struct Table {
    /// The last one inserted first.
    entries: VecDeque<Entry>,
    /// Of all of them, as the RFC counts.
    size: u64,
    /// `None`: not known.
    max: Option<u32>,
    /// The most that was announced to the encoder, as far as is known.
    ceiling: u32,
    /// There may be entries before the oldest one known.
    older: bool,
    held: usize,
}

#[derive(Debug)]
struct Entry {
    /// As the RFC counts; at least so much, where the name is that of an entry that is not known.
    size: u64,
    name_len: u64,
    text: Text,
}

/// What is known of a field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// A name that matters, and its value.
    Kept { name: usize, bytes: Box<[u8]> },
    /// A name that matters, and a value too long to be kept.
    Named { name: Box<[u8]> },
    /// A name that does not matter.
    Passed,
    /// Its name was that of an entry that is not known.
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup<'t> {
    Found {
        text: &'t Text,
        name_len: u64,
        size: u64,
    },
    Unknown,
    /// There is no such entry.
    Absent,
}

impl Table {
    /// Of a connection that is seen from its start.
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: Some(DEFAULT_SIZE),
            ceiling: DEFAULT_SIZE,
            older: false,
            held: 0,
        }
    }

    /// Nothing is known of it.
    pub(super) fn unknown() -> Self {
        Self { max: None, ceiling: u32::MAX, older: true, ..Self::new() }
    }

    /// What was inserted is not known any more, nor how large the table is. Returns how many entries are forgotten.
    pub(super) fn doubt(&mut self) -> usize {
        let count = self.entries.len();
        self.clear();
        self.older = true;
        self.max = None;
        count
    }

    /// The decoder allows the encoder a table of this size. The encoder says itself when it makes use of that.
    pub(super) fn announce(&mut self, size: u32) {
        self.ceiling = self.ceiling.max(size);
    }

    /// Place 0 is that of the entry inserted last.
    pub(super) fn look_up(&self, place: u64) -> Lookup<'_> {
        match usize::try_from(place).ok().and_then(|place| self.entries.get(place)) {
            Some(Entry { text: Text::Unknown, .. }) => Lookup::Unknown,
            Some(Entry { text, name_len, size }) => Lookup::Found { text, name_len: *name_len, size: *size },
            None if self.older => Lookup::Unknown,
            None => Lookup::Absent,
        }
    }

    pub(super) fn is_certain(&self) -> bool {
        !self.older && self.max.is_some()
    }

    /// The encoder says how large its table is.
    pub(super) fn resize(&mut self, max: u32) {
        self.max = Some(max);
        self.evict();
    }

    pub(super) fn insert(&mut self, text: Text, name_len: u64, value_len: u64) {
        let size = name_len.saturating_add(value_len).saturating_add(ENTRY_BYTES);
        if self.max.is_some_and(|max| size > u64::from(max)) {
            self.clear();
            self.older = false;
            return;
        }
        let room = self.room();
        let entry = if size > room {
            Entry { size: room, name_len, text: Text::Unknown }
        } else {
            Entry { size, name_len, text }
        };
        self.size += entry.size;
        self.held += entry.text.held();
        self.entries.push_front(entry);
        self.evict();
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held + self.entries.len() * size_of::<Entry>()
    }

    /// Bytes of entries that are kept.
    fn room(&self) -> u64 {
        u64::from(self.max.unwrap_or(self.ceiling)).min(MAX_BYTES)
    }

    fn evict(&mut self) {
        let room = self.room();
        // Beyond what is kept here, the encoder may keep more.
        let all_kept = self.max.is_some_and(|max| u64::from(max) <= MAX_BYTES);
        while self.size > room
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size;
            self.held -= entry.text.held();
            self.older |= !all_kept;
        }
        // No entry fits in besides those that are known.
        if all_kept && self.size + ENTRY_BYTES > room {
            self.older = false;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.size = 0;
        self.held = 0;
    }
}

impl Text {
    pub(super) fn kept(name: &[u8], value: &[u8]) -> Self {
        Self::Kept { name: name.len(), bytes: [name, value].concat().into() }
    }

    fn held(&self) -> usize {
        match self {
            Self::Kept { bytes, .. } => bytes.len(),
            Self::Named { name } => name.len(),
            Self::Passed | Self::Unknown => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of `size` bytes whose name is one letter.
    fn insert(table: &mut Table, name: u8, size: u64) {
        table.insert(Text::kept(&[name], b""), 1, size - 1 - ENTRY_BYTES);
    }

    /// The names from the newest on; `?` for what is not known, and a stop where there is nothing.
    fn check(table: &Table, want: &str) {
        let mut got = String::new();
        for place in 0..8 {
            match table.look_up(place) {
                Lookup::Found { text: Text::Kept { bytes, .. }, .. } => got.push(char::from(bytes[0])),
                Lookup::Found { .. } => got.push('.'),
                Lookup::Unknown => got.push('?'),
                Lookup::Absent => break,
            }
        }
        let want = want.strip_suffix('*').map_or(want.to_owned(), |known| format!("{known:?<8}"));
        assert_eq!(got, want);
        assert_eq!(table.size, table.entries.iter().map(|entry| entry.size).sum::<u64>());
        assert_eq!(table.held, table.entries.iter().map(|entry| entry.text.held()).sum::<usize>());
    }

    #[test]
    fn a_known_table_evicts_as_its_encoder_does() {
        let mut table = Table::new();
        table.resize(100);
        insert(&mut table, b'a', 40);
        insert(&mut table, b'b', 40);
        check(&table, "ba");
        insert(&mut table, b'c', 40);
        check(&table, "cb");
        table.resize(50);
        check(&table, "c");
        table.resize(100);
        check(&table, "c");
        insert(&mut table, b'd', 101);
        check(&table, "");
        assert!(table.is_certain());
    }

    #[test]
    fn what_was_inserted_since_a_doubt_has_its_index() {
        let mut table = Table::new();
        insert(&mut table, b'a', 40);
        assert_eq!(table.doubt(), 1);
        check(&table, "*");
        insert(&mut table, b'b', 40);
        insert(&mut table, b'c', 400);
        check(&table, "cb*");
        // Of any size: it is there, or nothing behind it is.
        insert(&mut table, b'd', 4097);
        check(&table, "?*");
        insert(&mut table, b'e', 40);
        check(&table, "e?*");
        table.resize(4096);
        insert(&mut table, b'f', 40);
        check(&table, "fe*");
    }

    #[test]
    fn certainty_comes_back_when_nothing_else_fits_in() {
        let mut table = Table::unknown();
        insert(&mut table, b'a', 40);
        table.resize(80);
        check(&table, "a*");
        insert(&mut table, b'b', 40);
        check(&table, "ba");
        assert!(table.is_certain());
        let mut table = Table::unknown();
        insert(&mut table, b'a', 40);
        table.resize(0);
        check(&table, "");
        assert!(table.is_certain());
    }

    #[test]
    fn a_huge_table_is_kept_in_part_and_what_is_left_out_is_unknown() {
        let mut table = Table::new();
        table.announce(u32::MAX);
        table.resize(u32::MAX);
        for _ in 0..10_000 {
            insert(&mut table, b'a', 40);
        }
        assert!(table.size <= MAX_BYTES);
        assert_eq!(table.look_up(9_999), Lookup::Unknown);
        insert(&mut table, b'b', u64::from(u32::MAX));
        check(&table, "?*");
        insert(&mut table, b'c', 40);
        check(&table, "c?*");
    }
}
