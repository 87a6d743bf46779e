//! What HotSpot says of its own structures: the tables that `libjvm.so` exports for debuggers (`vmStructs.hpp`).
//!
//! | table | an entry |
//! |---|---|
//! | `gHotSpotVMStructs` | a field of a structure: where it is in it, or a variable: its address |
//! | `gHotSpotVMTypes` | a structure: how large it is |
//!
//! Where an entry has what, further variables say (`gHotSpotVMStructEntryOffsetOffset`). An entry without a name ends a
//! table. It believes nothing of what they say beyond that: who uses it confirms it.

use std::collections::BTreeMap;

use crate::runtime::memory::Bytes;

/// Entries of a table: HotSpot 25 has about two thousand.
const MAX_ENTRIES: u64 = 1 << 14;

/// Largest entry; it has five or six words.
const MAX_STRIDE: u64 = 256;

/// Longest name that is told from others.
const MAX_NAME: usize = 128;

/// A field of a structure, or a variable of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Its type, as the source has it.
    pub(super) kind: String,
    /// From the structure; of a variable, its address.
    pub(super) at: u64,
    pub(super) is_variable: bool,
}

#[derive(Debug)]
pub(super) struct Structs {
    fields: BTreeMap<(String, String), Field>,
    sizes: BTreeMap<String, u64>,
}

impl Structs {
    /// `exported`: the value of a variable of the module's. `None`: it exports no such tables. Those of a machine that is
    /// being loaded are empty.
    pub(super) fn of<M: Bytes>(exported: impl Fn(&str) -> Option<u64>, memory: &M) -> Option<Self> {
        let mut names = Names { memory, known: BTreeMap::new() };
        let mut fields = BTreeMap::new();
        let entry = |name: &str| exported(&format!("gHotSpotVMStructEntry{name}"));
        let [structure, name, kind, is_variable, offset, address] =
            ["TypeName", "FieldName", "TypeString", "IsStatic", "Offset", "Address"]
                .map(|field| entry(&format!("{field}Offset")));
        let (structure, name, kind) = (structure?, name?, kind?);
        let (is_variable, offset, address) = (is_variable?, offset?, address?);
        for at in Entries::of(memory, exported("gHotSpotVMStructs")?, entry("ArrayStride")?, structure) {
            let text = |names: &mut Names<'_, M>, field: u64| names.at(memory.word(at.wrapping_add(field)));
            let (Some(structure), Some(name)) = (text(&mut names, structure), text(&mut names, name)) else {
                continue;
            };
            let is_variable = memory.half(at.wrapping_add(is_variable)) != 0;
            let place = memory.word(at.wrapping_add(if is_variable { address } else { offset }));
            let kind = text(&mut names, kind).unwrap_or_default();
            fields.insert((structure, name), Field { kind, at: place, is_variable });
        }
        let entry = |name: &str| exported(&format!("gHotSpotVMTypeEntry{name}"));
        let (name, size) = (entry("TypeNameOffset")?, entry("SizeOffset")?);
        let types = Entries::of(memory, exported("gHotSpotVMTypes")?, entry("ArrayStride")?, name);
        let sizes = types.filter_map(|at| {
            let name = names.at(memory.word(at.wrapping_add(name)))?;
            Some((name, memory.word(at.wrapping_add(size))))
        });
        let sizes = sizes.collect();
        Some(Self { fields, sizes })
    }

    fn get(&self, structure: &str, name: &str) -> Option<&Field> {
        self.fields.get(&(structure.to_owned(), name.to_owned()))
    }

    /// Where a field is in its structure, by the first of these names that it has.
    pub(super) fn field(&self, structure: &str, names: &[&str]) -> Option<u32> {
        let found = names.iter().find_map(|name| self.get(structure, name))?;
        u32::try_from(found.at).ok().filter(|_| !found.is_variable)
    }

    /// The address of a variable, by the first of these names that it has.
    pub(super) fn variable(&self, structure: &str, names: &[&str]) -> Option<u64> {
        let found = names.iter().find_map(|name| self.get(structure, name))?;
        (found.is_variable && found.at != 0).then_some(found.at)
    }

    /// The type of a field, as the source has it.
    pub(super) fn kind(&self, structure: &str, name: &str) -> Option<&str> {
        Some(&self.get(structure, name)?.kind)
    }

    /// How large a structure is, in bytes.
    pub(super) fn size(&self, structure: &str) -> Option<u32> {
        self.sizes.get(structure).and_then(|size| u32::try_from(*size).ok())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty() || self.sizes.is_empty()
    }
}

/// The addresses of a table's entries, to the first one without a name.
struct Entries<'m, M> {
    memory: &'m M,
    next: u64,
    left: u64,
    stride: u64,
    name: u64,
}

impl<'m, M: Bytes> Entries<'m, M> {
    fn of(memory: &'m M, table: u64, stride: u64, name: u64) -> Self {
        let sane = (1..=MAX_STRIDE).contains(&stride) && table != 0;
        Self { memory, next: table, left: if sane { MAX_ENTRIES } else { 0 }, stride, name }
    }
}

impl<M: Bytes> Iterator for Entries<'_, M> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let entry = self.next;
        if self.left == 0 || self.memory.word(entry.wrapping_add(self.name)) == 0 {
            return None;
        }
        self.left -= 1;
        self.next = entry.wrapping_add(self.stride);
        Some(entry)
    }
}

/// Texts of the machine's, of which many entries have the same.
struct Names<'m, M> {
    memory: &'m M,
    known: BTreeMap<u64, Option<String>>,
}

impl<M: Bytes> Names<'_, M> {
    fn at(&mut self, address: u64) -> Option<String> {
        if address == 0 {
            return None;
        }
        self.known.entry(address).or_insert_with(|| text(self.memory, address)).clone()
    }
}

/// A text that ends with a zero byte.
pub(super) fn text<M: Bytes>(memory: &M, address: u64) -> Option<String> {
    let mut found = [0; MAX_NAME];
    // It may end where what can be read ends.
    let len = [MAX_NAME, 64, 32, 16].into_iter().find(|len| memory.fill(address, &mut found[..*len]))?;
    let text = found[..len].split(|byte| *byte == 0).next().filter(|text| text.len() < len)?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}
