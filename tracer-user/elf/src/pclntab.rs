//! Go's table of functions, which every program has, stripped or not: the runtime itself needs it.
//!
//! Its layout is that of 1.20 and later (`src/debug/gosym/pclntab.go`, `src/runtime/symtab.go`):
//!
//! ```text
//! header: magic, 0, 0, least instruction, bytes of a pointer, functions, files, text, offsets of:
//!         names, compilation units, files, program counters, functions
//! functions: (entry, description)…, end      entry: bytes behind the beginning of Go's code
//! description: entry, name, …                name: bytes behind the beginning of names
//! ```
//!
//! Where Go's code begins the header says up to 1.25, unless the file is to be loaded anywhere. Else it is looked for: the
//! one place from which on every function that is wanted begins as functions of Go do.
//!
//! The file may be anyone's: what is read is bounded, and nothing of it is trusted further than that.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, bail, ensure};

use super::elf::{self, Function, Segment};
use super::place::begins_as_go_does;

/// Magic number of 1.20 and later, two zeroes, and what x86-64 has of the rest.
const HEADER: [u8; 8] = [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
const HEADER_BYTES: usize = 72;

const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];

/// Where there is no section of that name, as far as a program's constants are looked through.
const MAX_SCANNED: u64 = 256 << 20;
const PIECE: usize = 1 << 20;
/// What begins as a table does is looked at so often: a program has one.
const MAX_BEGINNINGS: usize = 64;

/// Tables of large programs have 200,000 functions, and 10 MiB of names.
const MAX_FUNCTIONS: u64 = 1 << 20;
const MAX_NAMES: u64 = 64 << 20;

/// Descriptions are read in pieces. In a table that is in order each piece is read once.
const MAX_PIECES: usize = 1024;

/// How far behind the beginning of code that of Go's may be: what C's linker puts before it is short.
const MAX_BEFORE: u64 = 64 << 10;
/// What it is aligned to at the least.
const ALIGN: u64 = 16;

/// Bytes of a function that tell that it begins.
const BEGINNING: usize = 16;

#[derive(Debug)]
struct Table<'f> {
    file: &'f File,
    /// In the file.
    start: u64,
    functions: u64,
    text: u64,
    names: u64,
    names_end: u64,
    entries: u64,
}

/// Of a function: its place in Go's code, and where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    name: &'static str,
    start: u32,
    end: u32,
}

/// The functions of these names; none if there is not the first one.
///
/// # Errors
/// When there is no such table, or it is damaged.
pub(crate) fn functions(
    file: &File,
    segments: &[Segment],
    names: &[&'static str],
) -> anyhow::Result<Vec<Function>> {
    let table =
        Table::find(file, segments).context("neither symbols nor Go's table of functions is there")?;
    let found = table.find_functions(names)?;
    // Others do not tell where the code begins: they may all be alike.
    if !found.iter().any(|found| names.first() == Some(&found.name)) {
        return Ok(Vec::new());
    }
    let text = table.text(segments, &found).context("where Go's code begins is not known")?;
    let functions = found.iter().map(|found| {
        let address = text.wrapping_add(found.start.into());
        elf::function(file, segments, found.name, address, u64::from(found.end.saturating_sub(found.start)))
    });
    Ok(functions.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

impl<'f> Table<'f> {
    fn find(file: &'f File, segments: &[Segment]) -> Option<Self> {
        if let Some(section) = elf::section(file, &SECTIONS)
            && let Some(table) = Self::at(file, section.offset)
        {
            return Some(table);
        }
        let mut left = MAX_SCANNED;
        let mut beginnings = 0;
        segments.iter().filter(|segment| !segment.code).find_map(|segment| {
            let len = segment.len.min(left);
            left -= len;
            let mut at = 0;
            while at < len {
                let piece =
                    elf::read(file, segment.offset.checked_add(at)?, (len - at).min(PIECE as u64)).ok()?;
                let mut places = piece.chunks(ALIGN as usize).zip(0_u64..);
                let found = places.find_map(|(bytes, n)| {
                    let offset = segment.offset.checked_add(at)?.checked_add(n * ALIGN)?;
                    let begins = bytes.starts_with(&HEADER) && beginnings < MAX_BEGINNINGS;
                    beginnings += usize::from(begins);
                    begins.then(|| Self::at(file, offset)).flatten()
                });
                if found.is_some() {
                    return found;
                }
                at += PIECE as u64;
            }
            None
        })
    }

    fn at(file: &'f File, start: u64) -> Option<Self> {
        let header = elf::read(file, start, HEADER_BYTES as u64).ok()?;
        if !header.starts_with(&HEADER) {
            return None;
        }
        let words = header.as_chunks::<8>().0;
        let word = |index: usize| words.get(index).map_or(0, |word| u64::from_le_bytes(*word));
        let [functions, text, names, names_end, entries] = [word(1), word(3), word(4), word(5), word(8)];
        let fits = (1..=MAX_FUNCTIONS).contains(&functions)
            && names < names_end
            && names_end - names <= MAX_NAMES
            && entries < 1 << 40
            && names_end < 1 << 40;
        fits.then_some(Self { file, start, functions, text, names, names_end, entries })
    }

    fn find_functions(&self, names: &[&'static str]) -> anyhow::Result<Vec<Found>> {
        let at = |offset: u64| self.start.checked_add(offset).context("outside of the file");
        let all =
            elf::read(self.file, at(self.names)?, self.names_end - self.names).context("read the names")?;
        let mut wanted: Vec<(u32, &'static str)> = Vec::new();
        let mut place = 0_usize;
        for name in all.split(|byte| *byte == 0) {
            // The linker has each once.
            if let Some(known) = names.iter().find(|known| known.as_bytes() == name)
                && !wanted.iter().any(|(_, other)| other == known)
            {
                wanted.push((u32::try_from(place)?, known));
            }
            place += name.len() + 1;
        }
        drop(all);
        let mut found: Vec<Found> = Vec::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        let list =
            elf::read(self.file, at(self.entries)?, self.functions * 8 + 4).context("read the functions")?;
        let half = |bytes: &[u8], at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
        };
        let mut window: (u64, Vec<u8>) = (0, Vec::new());
        let mut pieces = 0;
        for entry in (0..self.functions as usize).map(|index| 8 * index) {
            let (Some(start), Some(description), Some(end)) =
                (half(&list, entry), half(&list, entry + 4), half(&list, entry + 8))
            else {
                break;
            };
            let description = u64::from(description);
            let inside = description.checked_sub(window.0).and_then(|inside| usize::try_from(inside).ok());
            let mut name = inside.and_then(|inside| half(&window.1, inside.checked_add(4)?));
            if name.is_none() {
                pieces += 1;
                ensure!(pieces <= MAX_PIECES, "the functions are in no order");
                let offset = at(self.entries.saturating_add(description))?;
                window = (description, read_some(self.file, offset, PIECE));
                name = half(&window.1, 4);
            }
            let Some(name) = name else { bail!("a function is outside of the file") };
            if let Some((_, name)) = wanted.iter().find(|(place, _)| *place == name)
                && !found.iter().any(|known| known.name == *name)
            {
                found.push(Found { name, start, end });
            }
        }
        Ok(found)
    }

    /// Where Go's code begins in memory.
    fn text(&self, segments: &[Segment], found: &[Found]) -> Option<u64> {
        let code = segments.iter().find(|segment| segment.code)?;
        let section = elf::section(self.file, &[".text"]).map_or(code.address, |section| section.address);
        if self.text != 0 && self.begin(code, found, self.text) {
            return Some(self.text);
        }
        // One read for each function, of all places where it may be.
        let len = MAX_BEFORE + BEGINNING as u64;
        let from = section.max(code.address);
        let windows: Vec<Vec<u8>> = found
            .iter()
            .map(|found| {
                let inside = (from - code.address).checked_add(found.start.into())?;
                Some(read_some(self.file, code.offset.checked_add(inside)?, len as usize))
            })
            .collect::<Option<_>>()?;
        let mut places = (0..MAX_BEFORE as usize)
            .step_by(ALIGN as usize)
            .filter(|at| windows.iter().all(|window| window.get(*at..).is_some_and(begins_as_go_does)));
        let place = places.next()?;
        places.next().is_none().then(|| from + place as u64)
    }

    fn begin(&self, code: &Segment, found: &[Found], text: u64) -> bool {
        found.iter().all(|found| {
            let inside = text.checked_add(found.start.into()).and_then(|at| at.checked_sub(code.address));
            let offset = inside.and_then(|inside| code.offset.checked_add(inside));
            offset.is_some_and(|offset| begins_as_go_does(&read_some(self.file, offset, BEGINNING)))
        })
    }
}

/// As much as there is, up to so many bytes.
fn read_some(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let got = file.read_at(&mut bytes, offset).unwrap_or(0);
    bytes.truncate(got);
    bytes
}
