//! The executable and libraries of a process, and the addresses of what they export.
//!
//! Symbols are looked up in the process's memory, as its own dynamic linker does: whatever has become of the files. An
//! ELF image may be malformed on purpose: nothing in it is trusted further than a bounded read.

use std::io;

use super::memory::Bytes;
use crate::process::maps::Maps;
use crate::process::procfs::ProcDir;

const MAX_PROGRAM_HEADERS: u16 = 64;
const MAX_DYNAMIC_ENTRIES: u64 = 512;
/// Symbols whose hashes fall together: a handful in any real table.
const MAX_CHAIN: u64 = 1024;

const ELF_64_LE: [u8; 6] = *b"\x7fELF\x02\x01";
const TYPE_SHARED: u16 = 3;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_LOCAL: u32 = 7;
const SEGMENT_RELOCATED: u32 = 0x6474_e552;
const FLAG_CODE: u32 = 1;
const FLAG_WRITABLE: u32 = 2;
const PROGRAM_HEADER_BYTES: u16 = 56;
const SYMBOL_BYTES: u64 = 24;
/// Relocations of a large library.
const MAX_RELOCATIONS: u64 = 1 << 16;
const RELOCATION_BYTES: u64 = 24;
/// `R_X86_64_DTPMOD64`: the dynamic linker writes the module's number.
const RELOCATION_MODULE: u64 = 16;
const TAG_STRINGS: u64 = 5;
const TAG_SYMBOLS: u64 = 6;
const TAG_RELOCATIONS: u64 = 7;
const TAG_RELOCATIONS_BYTES: u64 = 8;
const TAG_GNU_HASH: u64 = 0x6fff_fef5;

/// Files that are mapped executable or not, each with its first address.
#[derive(Debug)]
pub(super) struct Modules(Vec<(String, u64)>);

impl Modules {
    pub(super) fn of(dir: &ProcDir) -> io::Result<Self> {
        Ok(Self::among(&Maps::of(dir)?))
    }

    /// Of every file, the mapping of its start.
    fn among(maps: &Maps) -> Self {
        let mut found: Vec<(String, u64)> = Vec::new();
        for file in maps.files().filter(|file| file.offset == 0) {
            if !found.iter().any(|(known, _)| known == file.path) {
                found.push((file.path.to_owned(), file.addresses.start));
            }
        }
        Self(found)
    }

    /// The first module with such a path.
    pub(super) fn find(&self, mut is: impl FnMut(&str) -> bool) -> Option<u64> {
        self.0.iter().find(|(path, _)| is(path)).map(|(_, start)| *start)
    }

    /// The executable, which is mapped first.
    pub(super) fn executable(&self) -> Option<u64> {
        self.0.first().map(|(_, start)| *start)
    }

    /// The executable's file name.
    pub(super) fn executable_name(&self) -> Option<&str> {
        self.0.first().and_then(|(path, _)| path.rsplit('/').next())
    }

    /// The modules whose file's name is of a form, and then the executable, which is mapped first.
    pub(super) fn named(&self, mut is: impl FnMut(&str) -> bool) -> impl Iterator<Item = u64> {
        let named = self.0.iter().filter(move |(path, _)| path.rsplit('/').next().is_some_and(&mut is));
        let executable = self.0.first();
        named.chain(executable).map(|(_, start)| *start).collect::<Vec<_>>().into_iter()
    }
}

/// A piece of a module, as its program headers tell.
struct Segment {
    kind: u32,
    flags: u32,
    /// Where it is in memory, how large, and how much of it comes from the file.
    address: u64,
    len: u64,
    file_len: u64,
    align: u64,
}

/// A module's segments, and how far it is from where it was linked to be. `None`: there is no ELF image.
fn segments<M: Bytes>(memory: &M, base: u64) -> Option<(Vec<Segment>, u64)> {
    let header = memory.bytes::<64>(base)?;
    if !header.starts_with(&ELF_64_LE) {
        return None;
    }
    let at = |offset: usize| u16::from_le_bytes([header[offset], header[offset + 1]]);
    let (kind, size, count) = (at(16), at(54), at(56).min(MAX_PROGRAM_HEADERS));
    if size != PROGRAM_HEADER_BYTES {
        return None;
    }
    let headers = base.wrapping_add(memory.word(base.wrapping_add(32)));
    let mut found: Vec<Segment> = (0..u64::from(count))
        .map(|index| {
            let header = headers.wrapping_add(index * u64::from(size));
            let word = |offset| memory.word(header.wrapping_add(offset));
            let [kind, flags] = [0, 4].map(|offset: u64| memory.half(header.wrapping_add(offset)));
            Segment { kind, flags, address: word(16), len: word(40), file_len: word(32), align: word(48) }
        })
        .collect();
    let first = found.iter().find(|segment| segment.kind == SEGMENT_LOAD)?.address;
    let bias = if kind == TYPE_SHARED { base.wrapping_sub(first) } else { 0 };
    for segment in &mut found {
        segment.address = segment.address.wrapping_add(bias);
    }
    Some((found, bias))
}

/// A module's variables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writable {
    pub(super) start: u64,
    pub(super) len: u64,
    /// Those that begin as the file has them, which come first.
    pub(super) file_len: u64,
}

/// Where a module has its variables: behind what is written once, when it is loaded.
pub(super) fn writable<M: Bytes>(memory: &M, base: u64) -> Option<Writable> {
    let (segments, _) = segments(memory, base)?;
    let is = |segment: &&Segment| segment.kind == SEGMENT_LOAD && segment.flags & FLAG_WRITABLE != 0;
    let &Segment { address: start, len, file_len, .. } = segments.iter().rev().find(is)?;
    Some(Writable { start, len, file_len })
}

/// The parts of an executable that do not change, each with its first address and its length.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) read_only: Vec<(u64, u64)>,
    /// Constants that have addresses, which the linker writes once.
    pub(super) relocated: Option<(u64, u64)>,
    pub(super) code: Option<(u64, u64)>,
    /// What its thread-local variables take below each thread's pointer, in bytes.
    pub(super) local: Option<u64>,
}

impl Program {
    /// `None`: there is no ELF image.
    pub(super) fn of<M: Bytes>(memory: &M, base: u64) -> Option<Self> {
        let (segments, _) = segments(memory, base)?;
        let place = |segment: &Segment| {
            let end = segment.address.checked_add(segment.len)?;
            (segment.address >= base && end > segment.address).then_some((segment.address, segment.len))
        };
        let load = |flags: u32| {
            let of_kind = segments.iter().filter(move |segment| {
                segment.kind == SEGMENT_LOAD && segment.flags & (FLAG_WRITABLE | FLAG_CODE) == flags
            });
            of_kind.filter_map(place)
        };
        let find = |kind: u32| segments.iter().find(|segment| segment.kind == kind);
        let local = find(SEGMENT_LOCAL)
            .and_then(|segment| segment.len.checked_next_multiple_of(segment.align.clamp(1, 1 << 12)));
        Some(Self {
            read_only: load(0).collect(),
            relocated: find(SEGMENT_RELOCATED).and_then(place),
            code: load(FLAG_CODE).next(),
            local: local.filter(|len| *len > 0),
        })
    }
}

/// The number that the dynamic linker has given to a module with thread-local variables.
pub(super) fn local_module<M: Bytes>(memory: &M, base: u64) -> Option<u64> {
    let (segments, bias) = segments(memory, base)?;
    let dynamic = segments.iter().find(|segment| segment.kind == SEGMENT_DYNAMIC)?.address;
    let (mut relocations, mut bytes) = (0, 0);
    for index in 0..MAX_DYNAMIC_ENTRIES {
        let entry = dynamic.wrapping_add(16 * index);
        let value = memory.word(entry.wrapping_add(8));
        match memory.word(entry) {
            0 => break,
            // As of [`Symbols::of`].
            TAG_RELOCATIONS => relocations = if value < base { value.wrapping_add(bias) } else { value },
            TAG_RELOCATIONS_BYTES => bytes = value,
            _ => {}
        }
    }
    let count = (bytes / RELOCATION_BYTES).min(MAX_RELOCATIONS);
    let at = (0..count).map(|index| relocations.wrapping_add(RELOCATION_BYTES * index));
    let found = at.filter(|at| memory.word(at.wrapping_add(8)) & 0xffff_ffff == RELOCATION_MODULE);
    let place = found.map(|at| memory.word(at).wrapping_add(bias)).next()?;
    Some(memory.word(place))
}

/// The table of a module's exported symbols.
#[derive(Debug)]
pub(super) struct Symbols<'m, M> {
    memory: &'m M,
    bias: u64,
    strings: u64,
    symbols: u64,
    buckets: u32,
    first_symbol: u32,
    bucket_table: u64,
    chain_table: u64,
}

impl<'m, M: Bytes> Symbols<'m, M> {
    /// `None`: there is no ELF image with such a table.
    pub(super) fn of(memory: &'m M, base: u64) -> Option<Self> {
        let (segments, bias) = segments(memory, base)?;
        let dynamic = segments.iter().find(|segment| segment.kind == SEGMENT_DYNAMIC)?.address;
        let (mut strings, mut symbols, mut hash) = (0, 0, 0);
        for index in 0..MAX_DYNAMIC_ENTRIES {
            let entry = dynamic.wrapping_add(16 * index);
            let value = memory.word(entry.wrapping_add(8));
            // The dynamic linker has made addresses of them, or has not.
            let address = if value < base { value.wrapping_add(bias) } else { value };
            match memory.word(entry) {
                0 => break,
                TAG_STRINGS => strings = address,
                TAG_SYMBOLS => symbols = address,
                TAG_GNU_HASH => hash = address,
                _ => {}
            }
        }
        let [buckets, first_symbol, bloom_words] =
            [0, 4, 8].map(|offset: u64| memory.half(hash.wrapping_add(offset)));
        let bucket_table = hash.wrapping_add(16 + 8 * u64::from(bloom_words));
        (hash != 0 && strings != 0 && symbols != 0 && buckets != 0).then(|| Self {
            memory,
            bias,
            strings,
            symbols,
            buckets,
            first_symbol,
            bucket_table,
            chain_table: bucket_table.wrapping_add(4 * u64::from(buckets)),
        })
    }

    /// The variable that the module exports under this name.
    pub(super) fn word(&self, name: &str) -> Option<u64> {
        self.find(name).map(|address| self.memory.word(address))
    }

    /// The address of what the module exports under this name.
    pub(super) fn find(&self, name: &str) -> Option<u64> {
        self.find_sized(name).map(|(address, _)| address)
    }

    /// The same, and how large it is in bytes.
    pub(super) fn find_sized(&self, name: &str) -> Option<(u64, u64)> {
        let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(byte.into()));
        let bucket = self.bucket_table.wrapping_add(4 * u64::from(hash % self.buckets));
        let index = self.memory.half(bucket);
        if index < self.first_symbol {
            return None;
        }
        for index in u64::from(index)..u64::from(index) + MAX_CHAIN {
            let link = self.chain_table.wrapping_add(4 * (index - u64::from(self.first_symbol)));
            let other = self.memory.half(link);
            if other | 1 == hash | 1 && self.is_named(index, name) {
                let symbol = self.symbols.wrapping_add(SYMBOL_BYTES * index);
                let value = self.memory.word(symbol.wrapping_add(8));
                let size = self.memory.word(symbol.wrapping_add(16));
                return (value != 0).then(|| (value.wrapping_add(self.bias), size));
            }
            if other & 1 != 0 {
                return None;
            }
        }
        None
    }

    fn is_named(&self, index: u64, name: &str) -> bool {
        let symbol = self.symbols.wrapping_add(SYMBOL_BYTES * index);
        let text = self.strings.wrapping_add(u64::from(self.memory.half(symbol)));
        let mut found = vec![1; name.len() + 1];
        self.memory.fill(text, &mut found)
            && found.strip_suffix(&[0]).is_some_and(|found| found == name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use tracer_abi::task::Tgid;

    use super::super::memory::{ProcessMemory, memory_by_bytes};
    use super::*;

    #[test]
    fn of_every_file_the_start_is_known() {
        let maps = "\
00400000-00420000 r--p 00000000 fe:00 1 /usr/bin/a b
00420000-00600000 r-xp 00020000 fe:00 1 /usr/bin/a b
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
7f1000000000-7f1000001000 r--p 00000000 fe:00 2                    /lib/libpython3.11.so.1.0
7fff00000000-7fff00001000 rw-p 00000000 00:00 0                    [stack]
rubbish
";
        let modules = Modules::among(&Maps::from(maps));
        let named: Vec<u64> = modules.named(|name| name.starts_with("libpython")).collect();
        assert_eq!(named, [0x7f10_0000_0000, 0x40_0000]);
        assert_eq!(Modules::among(&Maps::from("")).named(|_| true).next(), None);
    }

    #[test]
    fn what_this_process_exports_is_found() {
        let dir = ProcDir::open(Tgid(std::process::id())).unwrap();
        let modules = Modules::of(&dir).unwrap();
        let memory = ProcessMemory::new(dir.file("mem").unwrap());
        let libc = modules.named(|name| name.starts_with("libc.so")).next().unwrap();
        let symbols = Symbols::of(&memory, libc).unwrap();
        let getpid = symbols.find("getpid").unwrap();
        assert!(getpid > libc && getpid < libc + (64 << 20), "{getpid:x}");
        assert_eq!(symbols.find("no_such_function_at_all"), None);
        assert_eq!(symbols.find(""), None);
    }

    /// Words at addresses; everything else is made up from the address.
    #[derive(Debug)]
    struct Rubbish(BTreeMap<u64, u8>, u64);

    impl Bytes for Rubbish {
        fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
            for (offset, byte) in (0..).zip(buffer.iter_mut()) {
                let at = address.wrapping_add(offset);
                let noise = (at ^ self.1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
                *byte = self.0.get(&at).copied().unwrap_or(noise as u8);
            }
            true
        }
    }

    memory_by_bytes!(Rubbish);

    proptest! {
        /// A look-up in anything ends.
        #[test]
        fn rubbish_has_no_symbols(seed: u64, base: u64, kind in 2_u16..4) {
            let mut image = BTreeMap::new();
            let mut put = |offset: u64, bytes: &[u8]| {
                image.extend((0..).zip(bytes).map(|(n, byte)| (base.wrapping_add(offset + n), *byte)));
            };
            put(0, &ELF_64_LE);
            put(16, &kind.to_le_bytes());
            put(54, &PROGRAM_HEADER_BYTES.to_le_bytes());
            let memory = Rubbish(image, seed);
            if let Some(symbols) = Symbols::of(&memory, base) {
                prop_assert_eq!(symbols.find("_PyRuntime"), None);
            }
        }
    }
}
