//! Functions of an ELF file that it exports, or names otherwise: where each begins in the file, and its bytes; and how the
//! file is loaded.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, ensure};
use object::read::ReadCache;
use object::read::elf::{ElfFile64, ProgramHeader as _, SectionHeader as _};
use object::{LittleEndian, Object as _, ObjectSection as _, elf};

/// Symbols that are looked at: `node` has 70,000.
const MAX_SYMBOLS: u64 = 1 << 20;

/// Their names: those of `node` take 4 MB.
const MAX_NAME_BYTES: u64 = 64 << 20;

/// No function that is looked for is longer by far.
const MAX_FUNCTION_BYTES: u64 = 16 << 10;

const MAX_SEGMENTS: usize = 64;
const MAX_SECTIONS: usize = 1024;

/// `st_name`, `st_info`, `st_other`, `st_shndx`, `st_value`, `st_size` (System V ABI).
const SYMBOL_BYTES: usize = 24;

/// A function as the file holds it.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    /// Where it begins in the file, which is how the kernel names a probe's place.
    pub(super) offset: u64,
    /// Where it begins in memory, but for where the file is loaded.
    pub(super) address: u64,
    pub(super) code: Vec<u8>,
}

impl Function {
    /// Whether a place in memory is inside of it.
    pub(super) fn has(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|inside| inside < self.code.len() as u64)
    }
}

/// A part of the file that is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) offset: u64,
    /// How much of it the file has.
    pub(super) len: u64,
    pub(super) code: bool,
    pub(super) writable: bool,
}

/// Of a section: where it is in memory and in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub(super) address: u64,
    pub(super) offset: u64,
}

/// A symbol that has one of the wanted names.
struct Found {
    name: &'static str,
    address: u64,
    size: u64,
}

/// The functions of these names; what the file exports counts before what it only names.
///
/// # Errors
/// When it is not an ELF file for this machine, or damaged.
pub(super) fn functions(file: &File, names: &[&'static str]) -> anyhow::Result<Vec<Function>> {
    let cache = ReadCache::new(file);
    let elf = open(&cache)?;
    let segments = segments_of(&elf);
    let mut found: Vec<Function> = Vec::new();
    for kind in [elf::SHT_DYNSYM, elf::SHT_SYMTAB] {
        let sections = elf.elf_section_table();
        let Some(table) = sections.iter().find(|section| section.sh_type(LittleEndian) == kind) else {
            continue;
        };
        let strings = sections.iter().nth(table.sh_link(LittleEndian) as usize);
        let Some(strings) = strings else { continue };
        let bytes = |section: &elf::SectionHeader64<LittleEndian>, most: u64| {
            let (offset, size) = (section.sh_offset(LittleEndian), section.sh_size(LittleEndian));
            ensure!(size <= most, "it holds more than is looked at");
            read(file, offset, size)
        };
        let symbols = bytes(table, MAX_SYMBOLS * SYMBOL_BYTES as u64);
        let (Ok(symbols), Ok(strings)) = (symbols, bytes(strings, MAX_NAME_BYTES)) else { continue };
        for Found { name, address, size } in
            symbols.as_chunks::<SYMBOL_BYTES>().0.iter().filter_map(|symbol| defined(symbol, &strings, names))
        {
            if !found.iter().any(|known| known.name == name) {
                found.extend(function(file, &segments, name, address, size)?);
            }
        }
    }
    Ok(found)
}

/// What the file has at a place in memory. `None`: no function can be there.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn function(
    file: &File,
    segments: &[Segment],
    name: &'static str,
    address: u64,
    size: u64,
) -> anyhow::Result<Option<Function>> {
    if size == 0 || size > MAX_FUNCTION_BYTES {
        return Ok(None);
    }
    let code: Vec<Segment> = segments.iter().copied().filter(|segment| segment.code).collect();
    let Some(offset) = offset(&code, address, size) else { return Ok(None) };
    let code = read(file, offset, size)?;
    Ok(Some(Function { name, offset, address, code }))
}

/// Where in the file is what is loaded at a place in memory.
pub(super) fn offset(segments: &[Segment], address: u64, size: u64) -> Option<u64> {
    segments.iter().find_map(|segment| {
        let inside = address.checked_sub(segment.address)?;
        let fits = inside.checked_add(size)? <= segment.len;
        fits.then(|| segment.offset.checked_add(inside)).flatten()
    })
}

/// What is loaded there.
///
/// # Errors
/// When it is not in the file.
pub(super) fn at(file: &File, segments: &[Segment], address: u64, size: u64) -> anyhow::Result<Vec<u8>> {
    let offset = offset(segments, address, size).context("nothing is loaded there")?;
    read(file, offset, size)
}

/// # Errors
/// As [`functions`].
pub(super) fn segments(file: &File) -> anyhow::Result<Vec<Segment>> {
    let cache = ReadCache::new(file);
    Ok(segments_of(&open(&cache)?))
}

/// The first section with one of these names.
pub(super) fn section(file: &File, names: &[&str]) -> Option<Section> {
    let cache = ReadCache::new(file);
    let elf = open(&cache).ok()?;
    let mut sections = elf.sections().take(MAX_SECTIONS);
    let section = sections.find(|section| section.name().is_ok_and(|name| names.contains(&name)))?;
    let (offset, _) = section.file_range()?;
    Some(Section { address: section.address(), offset })
}

type Cache<'f> = ReadCache<&'f File>;

fn open<'c, 'f>(cache: &'c Cache<'f>) -> anyhow::Result<ElfFile64<'c, LittleEndian, &'c Cache<'f>>> {
    let elf = ElfFile64::<LittleEndian, _>::parse(cache).context("read the ELF headers")?;
    ensure!(elf.elf_header().e_machine.get(LittleEndian) == elf::EM_X86_64, "not for this machine");
    Ok(elf)
}

fn segments_of<'c>(elf: &ElfFile64<'c, LittleEndian, &'c Cache<'_>>) -> Vec<Segment> {
    let loaded = elf.elf_program_headers().iter().take(MAX_SEGMENTS);
    let loaded = loaded.filter(|segment| segment.p_type(LittleEndian) == elf::PT_LOAD);
    loaded
        .map(|segment| {
            let flags = segment.p_flags(LittleEndian);
            Segment {
                address: segment.p_vaddr(LittleEndian),
                offset: segment.p_offset(LittleEndian),
                len: segment.p_filesz(LittleEndian),
                code: flags & elf::PF_X != 0,
                writable: flags & elf::PF_W != 0,
            }
        })
        .collect()
}

/// A part of the file, in one go. It may claim to be longer than the file: nothing is allocated for that.
///
/// # Errors
/// When it is not there.
pub(super) fn read(file: &File, offset: u64, size: u64) -> anyhow::Result<Vec<u8>> {
    let there = file.metadata().context("ask for the file's size")?.len();
    let fits = offset.checked_add(size).is_some_and(|end| end <= there);
    ensure!(fits, "it says that it holds more than it does");
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, offset).context("read the file")?;
    Ok(bytes)
}

/// A symbol that is one of the wanted functions, and in the file.
fn defined(symbol: &[u8; SYMBOL_BYTES], strings: &[u8], names: &[&'static str]) -> Option<Found> {
    const SECTION_NONE: u16 = 0;
    let [n0, n1, n2, n3, info, _other, s0, s1, rest @ ..] = symbol;
    if info & 0xf != elf::STT_FUNC || u16::from_le_bytes([*s0, *s1]) == SECTION_NONE {
        return None;
    }
    let own = strings.get(u32::from_le_bytes([*n0, *n1, *n2, *n3]) as usize..)?;
    let is = |name: &&&str| own.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0));
    let name = names.iter().find(is)?;
    let (address, size) = rest.split_at_checked(8)?;
    let word = |bytes: &[u8]| Some(u64::from_le_bytes(*bytes.first_chunk()?));
    Some(Found { name, address: word(address)?, size: word(size)? })
}
