//! uvloop: the types of its connections, and the functions of C by which tasks write to them.
//!
//! Its loop sends later than they do, so that no task is seen where it does. No symbol names the functions where the library
//! is stripped, but the class does, as in [`super::submits`]; what its dictionary has is a descriptor, or from Cython 3 on a
//! function of Cython's own, which leads to its definition in another place.

use super::submits::{DEFINITION_FLAGS, DEFINITION_FUNCTION, DESCRIPTOR_CLASS, DESCRIPTOR_DEFINITION};
use super::waits::TYPE_DICT;
use super::{Python, TYPE};
use crate::process::procfs::ProcDir;
use crate::runtime::Code;
use crate::runtime::memory::Bytes;
use crate::runtime::module::Modules;

const MODULE: &str = "uvloop.loop";
/// Of both kinds of connections, which do not write otherwise.
const BASE: (&str, &[u8]) = ("UVStream", b"uvloop.loop.UVStream\0");
const TYPES: [(&str, &[u8]); 2] =
    [("TCPTransport", b"uvloop.loop.TCPTransport\0"), ("UnixTransport", b"uvloop.loop.UnixTransport\0")];
const WRITERS: [(&str, &[u8]); 2] = [("write", b"write\0"), ("writelines", b"writelines\0")];

/// From a function of Cython's: the definition.
const FUNCTION_DEFINITION: u64 = 16;

/// `METH_O`; `METH_FASTCALL | METH_KEYWORDS`. The connection comes first in both.
const FLAGS: [u32; 2] = [0x8, 0x82];

/// Whether the library is loaded at all.
pub(super) fn is_loaded(files: &Modules) -> bool {
    files.find(|path| path.contains("/uvloop/loop.")).is_some()
}

impl<M: Bytes> Python<'_, M> {
    /// The types of connections; zeroes where they are not known.
    pub(super) fn stream_types(&self, modules: u64) -> [u64; 2] {
        let found = self.module(modules, MODULE).map(|globals| {
            TYPES.map(|(name, full)| self.get(globals, name).filter(|kind| self.is_type_named(*kind, full)))
        });
        match found {
            Some([Some(tcp), Some(unix)]) => [tcp, unix],
            _ => [0; 2],
        }
    }

    /// Where tasks write.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) fn writers(&self, modules: u64, dir: &ProcDir) -> Result<Code, &'static str> {
        const ELSEWHERE: &str = "its loop's connections are not written to as they should be";
        let base = self
            .module(modules, MODULE)
            .and_then(|globals| self.get(globals, BASE.0))
            .filter(|base| self.is_type_named(*base, BASE.1))
            .ok_or("its loop's connections are not of the type that they should be of")?;
        let [write, lines] = WRITERS.map(|(name, text)| self.writer(base, name, text));
        Code::functions(dir, &[write.ok_or(ELSEWHERE)?, lines.ok_or(ELSEWHERE)?])
    }

    fn writer(&self, class: u64, name: &str, text: &[u8]) -> Option<u64> {
        let scope = self.memory.word(class.wrapping_add(TYPE_DICT));
        let method = if self.is_dict(scope) { self.get(scope, name)? } else { return None };
        let word = |offset| self.memory.word(method.wrapping_add(offset));
        let definition = if self.symbols.find("PyMethodDescr_Type")? == word(TYPE) {
            if word(DESCRIPTOR_CLASS) != class {
                return None;
            }
            word(DESCRIPTOR_DEFINITION)
        } else {
            word(FUNCTION_DEFINITION)
        };
        let mut found = vec![0; text.len()];
        let fits = self.memory.fill(self.memory.word(definition), &mut found)
            && found == text
            && FLAGS.contains(&self.memory.half(definition.wrapping_add(DEFINITION_FLAGS)));
        fits.then(|| self.memory.word(definition.wrapping_add(DEFINITION_FUNCTION)))
    }
}
