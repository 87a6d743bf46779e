//! rustls, which is compiled into the program: where it encrypts and decrypts records.
//!
//! Most of its functions are gone from an optimised program, into those that call them. Those that encrypt and decrypt are
//! called by a table (`dyn MessageEncrypter`, `dyn MessageDecrypter`), one implementation for each sort of cipher, so they
//! are there as they were written, whatever was optimised, and are found by their names. A program whose symbols are taken
//! away has them without a name.

use std::collections::BTreeSet;
use std::fs::File;

use anyhow::{Context as _, bail, ensure};
use tracer_abi::config::TlsCall;

use super::elf::{self, Segment};
use super::follow;
use super::place::{self, Point};

/// The versions whose functions are known to be such.
const KNOWN: &str = "0.23.";

/// A program's text constants hold the paths of its sources, as panics tell them: `…/rustls-0.23.36/src/…`.
const CRATE: &[u8] = b"/rustls-";
const SOURCES: &[u8] = b"/src/";
const MAX_VERSION: usize = 24;

/// How much of a part of a file is searched for them: the constants of large programs are some tens of MB.
const MAX_CONSTANTS: u64 = 128 << 20;
/// At a time, and how much of it again with the next: longer than what is looked for.
const PIECE: u64 = 1 << 20;
const OVERLAP: u64 = 64;

/// How often it is named in a piece: once for each of its source files that may panic.
const MAX_MENTIONS: usize = 1024;

/// The names of what is probed, by what it does.
const ENCRYPT: &str = "MessageEncrypter::encrypt";
const DECRYPT: &str = "MessageDecrypter::decrypt";

/// Implementations: three sorts of ciphers, of two libraries, and those of others.
const MAX_FUNCTIONS: usize = 64;

/// Longest name that is looked at.
const MAX_NAME: usize = 512;

/// Its version, as the program's own constants say it: one that is known rather than another. Nothing: it has no rustls, as
/// far as that is seen.
pub(crate) fn version(file: &File) -> Option<String> {
    let mut segments = elf::segments(file).ok()?;
    segments.retain(|segment| !segment.writable);
    // Some linkers put them beside the code.
    let is_apart = |segment: &Segment| !segment.code && segment.offset > 0;
    if segments.iter().any(is_apart) {
        segments.retain(|segment| !segment.code);
    }
    let mut versions = BTreeSet::new();
    for segment in segments {
        let len = segment.len.min(MAX_CONSTANTS);
        let mut at = 0;
        while at < len {
            let bytes = elf::read(file, segment.offset.checked_add(at)?, PIECE.min(len - at)).ok()?;
            versions.extend(versions_in(&bytes));
            at += PIECE - OVERLAP;
        }
    }
    let known = versions.iter().find(|version| version.starts_with(KNOWN));
    known.or_else(|| versions.first()).cloned()
}

/// Those that are named, few of which can be there.
pub(crate) fn versions_in(bytes: &[u8]) -> BTreeSet<String> {
    let version = |at: usize| {
        let rest = bytes.get(at + CRATE.len()..)?;
        let len = rest.iter().take(MAX_VERSION).position(|byte| *byte == b'/')?;
        let (version, behind) = rest.split_at(len);
        let is_version = version.first()?.is_ascii_digit()
            && version.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(byte));
        (is_version && behind.starts_with(SOURCES)).then(|| String::from_utf8_lossy(version).into_owned())
    };
    memchr::memmem::find_iter(bytes, CRATE).take(MAX_MENTIONS).filter_map(version).collect()
}

/// # Errors
/// When a function is missing, or not understood.
pub(crate) fn points(file: &File, version: &str) -> anyhow::Result<Vec<Point>> {
    ensure!(version.starts_with(KNOWN), "this version of rustls is not known");
    let mut functions = elf::functions_by(file, wanted, MAX_FUNCTIONS)?;
    functions.sort_by_key(|function| function.name);
    if functions.is_empty() {
        let reason =
            if elf::has_symbols(file) { "no function of it has a name" } else { "no symbol to probe" };
        bail!("{reason}");
    }
    let segments = elf::segments(file)?;
    let mut points: Vec<Point> = Vec::new();
    for function in &functions {
        let name = function.name;
        let call = if name == ENCRYPT { TlsCall::Write } else { TlsCall::Read };
        let begins = place::sealing(function, call).with_context(|| format!("{name} is not understood"))?;
        let depth = follow::depth(function, &begins)
            .with_context(|| format!("the stack of {name} is not understood"))?;
        points.push(Point { depth, ..begins });
        let ends = follow::returns(file, &segments, function);
        points.extend(ends.with_context(|| format!("{name} may end in ways that are not seen"))?);
    }
    for name in [ENCRYPT, DECRYPT] {
        ensure!(functions.iter().any(|function| function.name == name), "it has no {name}");
    }
    // What is alike may have been made one.
    let mut seen = BTreeSet::new();
    points.retain(|point| seen.insert(point.offset));
    Ok(points)
}

/// The function that a symbol is of, if that is one to be probed.
fn wanted(symbol: &[u8]) -> Option<&'static str> {
    // Before it is taken apart: nearly all are none.
    let may_be = symbol.len() <= MAX_NAME && memchr::memmem::find(symbol, b"crypter").is_some();
    let symbol = std::str::from_utf8(symbol).ok().filter(|_| may_be)?;
    implements(&format!("{:#}", rustc_demangle::try_demangle(symbol).ok()?))
}

/// Of a name as the language writes it: `<TYPE as rustls::crypto::cipher::MessageEncrypter>::encrypt`.
pub(crate) fn implements(name: &str) -> Option<&'static str> {
    let (of, function) = name.strip_prefix('<')?.rsplit_once(">::")?;
    let (implementation, of) = of.rsplit_once(" as ")?;
    // What is there before there are keys encrypts nothing.
    if implementation.ends_with("::InvalidMessageEncrypter")
        || implementation.ends_with("::InvalidMessageDecrypter")
    {
        return None;
    }
    match (of, function) {
        ("rustls::crypto::cipher::MessageEncrypter", "encrypt") => Some(ENCRYPT),
        ("rustls::crypto::cipher::MessageDecrypter", "decrypt") => Some(DECRYPT),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
