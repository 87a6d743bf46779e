//! Functions of an ELF file that it exports, or names otherwise: where each begins in the file, and its bytes; and how the
//! file is loaded.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, ensure};
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable};
use object::{LittleEndian, elf};

/// Symbols that are looked at: `node` has 70,000.
const MAX_SYMBOLS: u64 = 1 << 20;

/// Their names: those of `node` take 4 MB.
const MAX_NAME_BYTES: u64 = 64 << 20;

/// A name that is looked for is shorter by far; those of large generic functions take some thousands.
const MAX_NAME: usize = 1024;

/// No function that is looked for is longer by far.
const MAX_FUNCTION_BYTES: u64 = 16 << 10;

const MAX_SEGMENTS: usize = 64;
const MAX_SECTIONS: usize = 1024;

/// `st_name`, `st_info`, `st_other`, `st_shndx`, `st_value`, `st_size` (System V ABI).
const SYMBOL_BYTES: usize = 24;

/// A function as the file holds it.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// Where it begins in the file, which is how the kernel names a probe's place.
    pub(crate) offset: u64,
    /// Where it begins in memory, but for where the file is loaded.
    pub(crate) address: u64,
    pub(crate) code: Vec<u8>,
}

impl Function {
    /// Whether a place in memory is inside of it.
    pub(crate) fn has(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|inside| inside < self.code.len() as u64)
    }
}

/// A part of the file that is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) address: u64,
    pub(crate) offset: u64,
    /// How much of it the file has.
    pub(crate) len: u64,
    pub(crate) code: bool,
    pub(crate) writable: bool,
}

/// Of a section: where it is in memory and in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    pub(crate) address: u64,
    pub(crate) offset: u64,
}

/// The functions of these names; what the file exports counts before what it only names.
///
/// # Errors
/// When it is not an ELF file for this machine, or damaged.
pub(crate) fn functions(file: &File, names: &[&'static str]) -> anyhow::Result<Vec<Function>> {
    let mut found: Vec<Function> = Vec::new();
    let segments = segments(file)?;
    each_symbol(file, |own, address, size| {
        if let Some(name) = names.iter().find(|name| name.as_bytes() == own)
            && !found.iter().any(|known| known.name == *name)
        {
            found.extend(function(file, &segments, name, address, size)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The functions, each once, that `wanted` has a name for by their own; as many as that at most.
///
/// # Errors
/// As [`functions`], and when there are more.
pub(crate) fn functions_by(
    file: &File,
    wanted: impl Fn(&[u8]) -> Option<&'static str>,
    most: usize,
) -> anyhow::Result<Vec<Function>> {
    let mut found: Vec<Function> = Vec::new();
    let segments = segments(file)?;
    each_symbol(file, |own, address, size| {
        if let Some(name) = wanted(own)
            && !found.iter().any(|known| known.address == address)
        {
            ensure!(found.len() < most, "more functions have such names than are looked at");
            found.extend(function(file, &segments, name, address, size)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Whether it names functions that it does not export.
pub(crate) fn has_symbols(file: &File) -> bool {
    let cache = ReadCache::new(file);
    let is_table =
        |section: &elf::SectionHeader64<LittleEndian>| section.sh_type(LittleEndian) == elf::SHT_SYMTAB;
    open(&cache).is_ok_and(|headers| headers.sections.iter().any(is_table))
}

/// Name, address and size of each function that is in the file, those that it exports first.
///
/// # Errors
/// When it is not an ELF file for this machine, or `each` fails.
fn each_symbol(
    file: &File,
    mut each: impl FnMut(&[u8], u64, u64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let cache = ReadCache::new(file);
    let Headers { sections, .. } = open(&cache)?;
    for kind in [elf::SHT_DYNSYM, elf::SHT_SYMTAB] {
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
        for symbol in symbols.as_chunks::<SYMBOL_BYTES>().0 {
            if let Some((name, address, size)) = defined(symbol, &strings) {
                each(name, address, size)?;
            }
        }
    }
    Ok(())
}

/// What the file has at a place in memory. `None`: no function can be there.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn function(
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
pub(crate) fn offset(segments: &[Segment], address: u64, size: u64) -> Option<u64> {
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
pub(crate) fn at(file: &File, segments: &[Segment], address: u64, size: u64) -> anyhow::Result<Vec<u8>> {
    let offset = offset(segments, address, size).context("nothing is loaded there")?;
    read(file, offset, size)
}

/// # Errors
/// As [`functions`].
pub(crate) fn segments(file: &File) -> anyhow::Result<Vec<Segment>> {
    let cache = ReadCache::new(file);
    Ok(open(&cache)?.segments)
}

/// The first section with one of these names.
pub(crate) fn section(file: &File, names: &[&str]) -> Option<Section> {
    let cache = ReadCache::new(file);
    let Headers { sections, .. } = open(&cache).ok()?;
    let is_named = |section: &&elf::SectionHeader64<LittleEndian>| {
        let name = sections.section_name(LittleEndian, section);
        name.is_ok_and(|own| names.iter().any(|name| name.as_bytes() == own))
    };
    let section = sections.iter().take(MAX_SECTIONS).find(is_named)?;
    let (offset, _) = section.file_range(LittleEndian)?;
    Some(Section { address: section.sh_addr(LittleEndian), offset })
}

type Cache<'f> = ReadCache<&'f File>;

/// How a file is loaded, and the table of its sections.
struct Headers<'c, 'f> {
    segments: Vec<Segment>,
    sections: SectionTable<'c, elf::FileHeader64<LittleEndian>, &'c Cache<'f>>,
}

fn open<'c, 'f>(cache: &'c Cache<'f>) -> anyhow::Result<Headers<'c, 'f>> {
    let header = elf::FileHeader64::<LittleEndian>::parse(cache).context("read the ELF header")?;
    let is_of_this_machine = header.endian().is_ok() && header.e_machine(LittleEndian) == elf::EM_X86_64;
    ensure!(is_of_this_machine, "not for this machine");
    // More are counted elsewhere, by a number that may be any. Without a section there is no such number.
    let has_more = header.e_phnum(LittleEndian) == elf::PN_XNUM
        || header.e_shnum(LittleEndian) == 0 && header.e_shoff(LittleEndian) != 0;
    ensure!(!has_more, "it has more parts than are looked at");
    let loaded = header.program_headers(LittleEndian, cache).context("read how it is loaded")?;
    let loaded = loaded.iter().take(MAX_SEGMENTS);
    let loaded = loaded.filter(|segment| segment.p_type(LittleEndian) == elf::PT_LOAD);
    let segments = loaded.map(|segment| {
        let flags = segment.p_flags(LittleEndian);
        Segment {
            address: segment.p_vaddr(LittleEndian),
            offset: segment.p_offset(LittleEndian),
            len: segment.p_filesz(LittleEndian),
            code: flags & elf::PF_X != 0,
            writable: flags & elf::PF_W != 0,
        }
    });
    let sections = header.sections(LittleEndian, cache).context("read its sections")?;
    Ok(Headers { segments: segments.collect(), sections })
}

/// A part of the file, in one go. It may claim to be longer than the file: nothing is allocated for that.
///
/// # Errors
/// When it is not there.
pub(crate) fn read(file: &File, offset: u64, size: u64) -> anyhow::Result<Vec<u8>> {
    let there = file.metadata().context("ask for the file's size")?.len();
    let fits = offset.checked_add(size).is_some_and(|end| end <= there);
    ensure!(fits, "it says that it holds more than it does");
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, offset).context("read the file")?;
    Ok(bytes)
}

/// A symbol that is a function, and in the file: its name, where it is, and its size.
fn defined<'s>(symbol: &[u8; SYMBOL_BYTES], strings: &'s [u8]) -> Option<(&'s [u8], u64, u64)> {
    const SECTION_NONE: u16 = 0;
    let [n0, n1, n2, n3, info, _other, s0, s1, rest @ ..] = symbol;
    if info & 0xf != elf::STT_FUNC || u16::from_le_bytes([*s0, *s1]) == SECTION_NONE {
        return None;
    }
    let own = strings.get(u32::from_le_bytes([*n0, *n1, *n2, *n3]) as usize..)?;
    let own = own.get(..MAX_NAME).unwrap_or(own);
    let name = own.get(..memchr::memchr(0, own)?)?;
    let (address, size) = rest.split_at_checked(8)?;
    let word = |bytes: &[u8]| Some(u64::from_le_bytes(*bytes.first_chunk()?));
    Some((name, word(address)?, word(size)?))
}
