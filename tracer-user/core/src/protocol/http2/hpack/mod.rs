//! HPACK (RFC 7541): a direction's header blocks become fields.
//!
//! A block is read piece by piece, however it is cut into frames and operations; nothing of it is kept but the field in
//! progress and the dynamic table, and of both only fields whose names matter. The table need not be known: see
//! [`table`]. A field that refers to an entry that is not known is an unknown field, never a guess.
//!
//! ```text
//!         index                    literal name                         literal value
//! Start --------> Start    Start -------------> Length --> Text --> Length ------------> Text --> Start
//! ```
//!
//! What it does not do: it judges no field, and checks no size update against what was announced, because the other
//! direction may not have been seen that far. The encoder's word is what both sides act on.

#[cfg(test)]
pub(super) mod encoder;
mod huffman;
mod statics;
mod table;

use self::huffman::Huffman;
use self::statics::STATIC;
use self::table::{ENTRY_BYTES, Lookup, Table, Text};

/// One field of a block whose name matters, or may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// `learned`: by an entry of a table that is known in part only.
    Known { name: &'a [u8], value: &'a [u8], learned: bool },
    /// The value is longer than what is kept.
    Named { name: &'a [u8] },
    /// It refers to an entry that was not seen.
    Unknown,
}

/// Why a block cannot be read: a decoder must give up the connection (RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// An integer larger than any length or index can be.
    Integer,
    /// No such entry.
    Index,
    /// A code that is none, or bits behind the last one that are not its filling.
    Huffman,
    /// A size update behind a field.
    SizeUpdate,
    /// The block ends inside a field.
    Cut,
}

/// How a block ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockEnd {
    /// Bytes of it are missing: the fields are the first ones.
    pub torn: bool,
    pub broken: Option<Broken>,
    /// Fields beyond the limit were left out.
    pub cut: bool,
    /// Entries of the dynamic table that were forgotten for one of these reasons.
    pub forgotten: usize,
}

/// Decoder of one direction.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Which names matter.
    matters: fn(&[u8]) -> bool,
    list: List,
    place: Place,
    form: Form,
    /// The integer in progress, and how many bytes of it came.
    integer: u64,
    integer_bytes: u8,
    name: Reading,
    /// What is known of the name.
    known: Name,
    value: Reading,
    /// A field was seen in the block.
    has_field: bool,
    end: BlockEnd,
}

/// The fields of a block, counted as the RFC does.
#[derive(Debug)]
struct List {
    bytes: u64,
    max_bytes: u64,
}

impl List {
    /// Whether another field may be handed on.
    fn takes(&mut self, size: u64) -> bool {
        self.bytes = self.bytes.saturating_add(size);
        self.bytes <= self.max_bytes
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Index,
    NameLength { more: bool },
    Name,
    ValueLength { more: bool },
    Value,
}

/// RFC 7541 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Indexed,
    Inserting,
    /// Without indexing, or never indexed: for an intermediary these differ.
    Literal,
    SizeUpdate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Kept,
    Passed,
    Unknown,
}

/// A text in progress.
#[derive(Debug, Default)]
struct Reading {
    kept: Vec<u8>,
    /// Of the text; what is not kept is counted too.
    len: u64,
    /// Bytes on the wire that are still to come.
    left: u64,
    huffman: Option<Huffman>,
    /// It matters, and is not too long.
    keeps: bool,
}

/// RFC 7541 section 5.1 leaves the limit to the implementation: no length or index in use needs more.
const MAX_INTEGER: u64 = u32::MAX as u64;
const MAX_INTEGER_BYTES: u8 = 6;

/// Room that is kept for the next field.
const KEPT_ROOM_BYTES: usize = 1024;

impl Decoder {
    /// Of a connection that is seen from its start. `matters` tells which names do; other fields are counted only.
    pub fn new(max_list_bytes: u64, matters: fn(&[u8]) -> bool) -> Self {
        Self {
            table: Table::new(),
            matters,
            list: List { bytes: 0, max_bytes: max_list_bytes },
            place: Place::Start,
            form: Form::Indexed,
            integer: 0,
            integer_bytes: 0,
            name: Reading::default(),
            known: Name::Passed,
            value: Reading::default(),
            has_field: false,
            end: BlockEnd::default(),
        }
    }

    /// Of one that was joined in its middle.
    pub fn joined(max_list_bytes: u64, matters: fn(&[u8]) -> bool) -> Self {
        Self { table: Table::unknown(), ..Self::new(max_list_bytes, matters) }
    }

    /// SETTINGS_HEADER_TABLE_SIZE of the other side.
    pub fn announce(&mut self, size: u32) {
        self.table.announce(size);
    }

    /// Whole blocks are missing, or may be. Returns how many entries are forgotten.
    pub fn doubt(&mut self) -> usize {
        self.begin_block();
        self.table.doubt()
    }

    /// Every entry of the table is known.
    pub fn is_certain(&self) -> bool {
        self.table.is_certain()
    }

    pub fn held_bytes(&self) -> usize {
        self.name.kept.len() + self.value.kept.len() + self.table.held_bytes()
    }

    pub fn begin_block(&mut self) {
        self.place = Place::Start;
        self.has_field = false;
        self.list.bytes = 0;
        self.end = BlockEnd::default();
        self.name.kept.clear();
        self.value.kept.clear();
    }

    /// Bytes of the block are missing here: what follows them cannot be told apart.
    pub fn tear(&mut self) {
        if self.is_readable() {
            self.end.forgotten += self.table.doubt();
        }
        self.end.torn = true;
    }

    /// The list is as long as it may be: further fields are left out.
    pub fn cut(&mut self) {
        self.list.bytes = u64::MAX;
    }

    pub fn end_block(&mut self) -> BlockEnd {
        if self.is_readable() && self.place != Place::Start {
            self.fail(Broken::Cut);
        }
        let cut = self.list.bytes > self.list.max_bytes;
        let end = BlockEnd { cut, ..self.end };
        self.begin_block();
        self.name.kept.shrink_to(KEPT_ROOM_BYTES);
        self.value.kept.shrink_to(KEPT_ROOM_BYTES);
        end
    }

    /// Reads the next bytes of the block. Of a block that is torn or broken nothing more is read.
    pub fn decode(&mut self, mut input: &[u8], field: &mut impl FnMut(Field<'_>)) {
        while self.is_readable()
            && let Some((&byte, rest)) = input.split_first()
        {
            let result = match self.place {
                Place::Name | Place::Value => self.text(&mut input, field),
                Place::Start | Place::Index | Place::NameLength { .. } | Place::ValueLength { .. } => {
                    input = rest;
                    self.byte(byte, field)
                }
            };
            if let Err(broken) = result {
                self.fail(broken);
            }
        }
    }

    fn is_readable(&self) -> bool {
        !self.end.torn && self.end.broken.is_none()
    }

    fn fail(&mut self, broken: Broken) {
        self.end.broken = Some(broken);
        self.end.forgotten += self.table.doubt();
    }

    fn byte(&mut self, byte: u8, field: &mut impl FnMut(Field<'_>)) -> Result<(), Broken> {
        let (prefix, text) = match self.place {
            Place::Start => {
                let (form, prefix) = match byte {
                    0x80.. => (Form::Indexed, 0x7f),
                    0x40.. => (Form::Inserting, 0x3f),
                    0x20.. => (Form::SizeUpdate, 0x1f),
                    _ => (Form::Literal, 0x0f),
                };
                self.form = form;
                (Some(prefix), None)
            }
            Place::NameLength { more: false } => (Some(0x7f), Some(&mut self.name)),
            Place::ValueLength { more: false } => (Some(0x7f), Some(&mut self.value)),
            Place::Index
            | Place::NameLength { more: true }
            | Place::ValueLength { more: true }
            | Place::Name
            | Place::Value => (None, None),
        };
        if let Some(text) = text {
            text.huffman = (byte & 0x80 != 0).then(Huffman::default);
        }
        let done = match prefix {
            Some(prefix) => {
                self.integer = u64::from(byte & prefix);
                self.integer_bytes = 0;
                byte & prefix < prefix
            }
            None => self.add_to_integer(byte)?,
        };
        match (self.place, done) {
            (Place::Start | Place::Index, true) => self.have_index(field),
            (Place::Start | Place::Index, false) => {
                self.place = Place::Index;
                Ok(())
            }
            (Place::NameLength { .. }, false) => {
                self.place = Place::NameLength { more: true };
                Ok(())
            }
            (Place::ValueLength { .. }, false) => {
                self.place = Place::ValueLength { more: true };
                Ok(())
            }
            (Place::NameLength { .. }, true) => {
                self.name.begin(self.integer, true);
                self.place = Place::Name;
                if self.integer == 0 { self.have_text(field) } else { Ok(()) }
            }
            (Place::ValueLength { .. }, true) => {
                self.value.begin(self.integer, self.known == Name::Kept);
                self.place = Place::Value;
                if self.integer == 0 { self.have_text(field) } else { Ok(()) }
            }
            (Place::Name | Place::Value, _) => Ok(()),
        }
    }

    /// Whether that was its last byte.
    fn add_to_integer(&mut self, byte: u8) -> Result<bool, Broken> {
        let bits = u64::from(byte & 0x7f) << (7 * u32::from(self.integer_bytes));
        self.integer_bytes += 1;
        self.integer += bits;
        if self.integer > MAX_INTEGER || self.integer_bytes > MAX_INTEGER_BYTES {
            return Err(Broken::Integer);
        }
        Ok(byte & 0x80 == 0)
    }

    /// An index, a place of a name or a size is complete.
    fn have_index(&mut self, field: &mut impl FnMut(Field<'_>)) -> Result<(), Broken> {
        let index = self.integer;
        self.place = Place::Start;
        match self.form {
            Form::SizeUpdate if self.has_field => return Err(Broken::SizeUpdate),
            Form::SizeUpdate => self.table.resize(index as u32),
            Form::Indexed => {
                self.has_field = true;
                return self.indexed(index, field);
            }
            Form::Inserting | Form::Literal => {
                self.has_field = true;
                self.place = Place::NameLength { more: false };
                if index > 0 {
                    self.indexed_name(index)?;
                    self.place = Place::ValueLength { more: false };
                }
            }
        }
        Ok(())
    }

    fn indexed(&mut self, index: u64, field: &mut impl FnMut(Field<'_>)) -> Result<(), Broken> {
        let learned = !self.table.is_certain();
        let (size, found) = if let Some(&(name, value)) = static_entry(index) {
            let size = (name.len() + value.len()) as u64 + ENTRY_BYTES;
            let (name, value) = (name.as_bytes(), value.as_bytes());
            (size, (self.matters)(name).then_some(Field::Known { name, value, learned: false }))
        } else {
            match self.table.look_up(place(index)?) {
                Lookup::Absent => return Err(Broken::Index),
                Lookup::Unknown => (ENTRY_BYTES, Some(Field::Unknown)),
                Lookup::Found { text, size, .. } => match text {
                    Text::Kept { name, bytes } => {
                        let (name, value) = bytes.split_at(*name);
                        (size, Some(Field::Known { name, value, learned }))
                    }
                    Text::Named { name } => (size, Some(Field::Named { name })),
                    Text::Passed | Text::Unknown => (size, None),
                },
            }
        };
        if self.list.takes(size)
            && let Some(found) = found
        {
            field(found);
        }
        Ok(())
    }

    fn indexed_name(&mut self, index: u64) -> Result<(), Broken> {
        self.name.begin(0, true);
        if let Some(&(name, _)) = static_entry(index) {
            self.name.kept.extend_from_slice(name.as_bytes());
            self.name.len = name.len() as u64;
            self.known = if (self.matters)(name.as_bytes()) { Name::Kept } else { Name::Passed };
            return Ok(());
        }
        let (text, name_len) = match self.table.look_up(place(index)?) {
            Lookup::Absent => return Err(Broken::Index),
            Lookup::Unknown => (&Text::Unknown, 0),
            Lookup::Found { text, name_len, .. } => (text, name_len),
        };
        self.name.len = name_len;
        self.known = match text {
            Text::Unknown => Name::Unknown,
            Text::Passed => Name::Passed,
            Text::Kept { name, bytes } => {
                self.name.kept.extend_from_slice(&bytes[..*name]);
                Name::Kept
            }
            Text::Named { name } => {
                self.name.kept.extend_from_slice(name);
                Name::Kept
            }
        };
        Ok(())
    }

    /// Takes what there is of the text in progress.
    fn text(&mut self, input: &mut &[u8], field: &mut impl FnMut(Field<'_>)) -> Result<(), Broken> {
        let max = self.list.max_bytes;
        let text = if self.place == Place::Name { &mut self.name } else { &mut self.value };
        let len = input.len().min(usize::try_from(text.left).unwrap_or(usize::MAX));
        let (bytes, rest) = input.split_at(len);
        *input = rest;
        text.left -= len as u64;
        text.take(bytes, max)?;
        if text.left == 0 { self.have_text(field) } else { Ok(()) }
    }

    fn have_text(&mut self, field: &mut impl FnMut(Field<'_>)) -> Result<(), Broken> {
        if self.place == Place::Name {
            self.name.finish()?;
            let kept = self.name.keeps && (self.matters)(&self.name.kept);
            self.known = if kept { Name::Kept } else { Name::Passed };
            self.place = Place::ValueLength { more: false };
            return Ok(());
        }
        self.value.finish()?;
        self.place = Place::Start;
        let size = self.name.len.saturating_add(self.value.len).saturating_add(ENTRY_BYTES);
        let name = self.name.kept.as_slice();
        let value = self.value.keeps.then_some(self.value.kept.as_slice());
        let found = match (self.known, value) {
            (Name::Kept, Some(value)) => Some(Field::Known { name, value, learned: false }),
            (Name::Kept, None) => Some(Field::Named { name }),
            (Name::Passed, _) => None,
            (Name::Unknown, _) => Some(Field::Unknown),
        };
        if self.list.takes(size)
            && let Some(found) = found
        {
            field(found);
        }
        if self.form == Form::Inserting {
            let text = match (self.known, value) {
                (Name::Kept, Some(value)) => Text::kept(name, value),
                (Name::Kept, None) => Text::Named { name: name.into() },
                (Name::Passed, _) => Text::Passed,
                (Name::Unknown, _) => Text::Unknown,
            };
            self.table.insert(text, self.name.len, self.value.len);
        }
        Ok(())
    }
}

impl Reading {
    /// `len` bytes on the wire follow.
    fn begin(&mut self, len: u64, keeps: bool) {
        self.kept.clear();
        self.len = 0;
        self.left = len;
        self.keeps = keeps;
    }

    /// What is longer than `max` is not kept.
    fn take(&mut self, bytes: &[u8], max: u64) -> Result<(), Broken> {
        let Self { kept, len, huffman, keeps, .. } = self;
        match huffman {
            Some(huffman) => {
                for &byte in bytes {
                    huffman.feed(byte, |symbol| {
                        *len += 1;
                        if *keeps && *len <= max {
                            kept.push(symbol);
                        }
                    })?;
                }
            }
            None => {
                *len += bytes.len() as u64;
                if *keeps && *len <= max {
                    kept.extend_from_slice(bytes);
                }
            }
        }
        if *len > max {
            *keeps = false;
            kept.clear();
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), Broken> {
        match &self.huffman {
            Some(huffman) if !huffman.may_end() => Err(Broken::Huffman),
            Some(_) | None => Ok(()),
        }
    }
}

fn static_entry(index: u64) -> Option<&'static (&'static str, &'static str)> {
    STATIC.get(usize::try_from(index.checked_sub(1)?).ok()?)
}

/// Of an entry in the dynamic table.
fn place(index: u64) -> Result<u64, Broken> {
    index.checked_sub(1 + STATIC.len() as u64).ok_or(Broken::Index)
}

#[cfg(test)]
mod tests;
