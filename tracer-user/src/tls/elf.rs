//! Exported functions of an ELF file: where each begins in the file, and its bytes.

use std::fs::File;

use anyhow::{Context as _, ensure};
use object::read::ReadCache;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{LittleEndian, Object as _, ObjectSymbol as _, SymbolKind, elf};

/// Symbols that are looked at: `node` has 70,000.
const MAX_SYMBOLS: usize = 1 << 20;

/// No function that is looked for is longer by far.
const MAX_FUNCTION_BYTES: u64 = 16 << 10;

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

/// The functions of these names that the file exports.
///
/// # Errors
/// When it is not an ELF file for this machine, or damaged.
pub(super) fn functions(file: &File, names: &[&'static str]) -> anyhow::Result<Vec<Function>> {
    let cache = ReadCache::new(file);
    let elf = ElfFile64::<LittleEndian, _>::parse(&cache).context("read the ELF headers")?;
    let header = elf.elf_header();
    ensure!(header.e_machine.get(LittleEndian) == elf::EM_X86_64, "not for this machine");
    let mut found: Vec<Function> = Vec::new();
    for symbol in elf.dynamic_symbols().take(MAX_SYMBOLS) {
        if symbol.kind() != SymbolKind::Text || symbol.is_undefined() {
            continue;
        }
        let Ok(name) = symbol.name() else { continue };
        let Some(name) = names.iter().find(|known| **known == name) else { continue };
        let (address, size) = (symbol.address(), symbol.size());
        if found.iter().any(|known| known.name == *name) || size == 0 || size > MAX_FUNCTION_BYTES {
            continue;
        }
        let segment = elf.elf_program_headers().iter().find_map(|segment| {
            let start = segment.p_vaddr(LittleEndian);
            let inside = address.checked_sub(start)?;
            let fits = segment.p_type(LittleEndian) == elf::PT_LOAD
                && segment.p_flags(LittleEndian) & elf::PF_X != 0
                && inside.checked_add(size)? <= segment.p_filesz(LittleEndian);
            fits.then(|| segment.p_offset(LittleEndian).checked_add(inside)).flatten()
        });
        let Some(offset) = segment else { continue };
        let mut code = vec![0; size as usize];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut code, offset).context("read a function")?;
        found.push(Function { name, offset, address, code });
    }
    Ok(found)
}
