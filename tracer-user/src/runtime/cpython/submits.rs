//! The function of C by which a pool's `submit` puts a work item into the pool's queue: `_queue.SimpleQueue.put`.
//!
//! No symbol names it where the interpreter is stripped, but the class does: its dictionary has a descriptor of the method,
//! which leads to the method's definition, and that to the function. Each must be what it is taken for.

use super::waits::TYPE_DICT;
use super::{Python, TYPE};
use crate::runtime::memory::Bytes;

const QUEUES: &str = "_queue";
const CLASS: &[u8] = b"_queue.SimpleQueue\0";
const NAME: &str = "put";

/// From a descriptor: the class that it is of, the definition.
pub(super) const DESCRIPTOR_CLASS: u64 = 16;
pub(super) const DESCRIPTOR_DEFINITION: u64 = 40;

/// From a definition: the name, the function, how it is called.
pub(super) const DEFINITION_FUNCTION: u64 = 8;
pub(super) const DEFINITION_FLAGS: u64 = 16;

/// `METH_FASTCALL | METH_KEYWORDS`: it is called with what `submit` has, and directly.
const FLAGS: u32 = 0x82;

impl<M: Bytes> Python<'_, M> {
    /// Where the function is in memory.
    pub(super) fn put(&self, runtime: u64) -> Option<u64> {
        let (_, modules) = self.interpreter(runtime).ok()?;
        let class = self.module(modules, QUEUES).and_then(|globals| self.get(globals, "SimpleQueue"))?;
        if !self.is_type_named(class, CLASS) {
            return None;
        }
        let scope = self.memory.word(class.wrapping_add(TYPE_DICT));
        let method = if self.is_dict(scope) { self.get(scope, NAME)? } else { return None };
        let is_method =
            self.symbols.find("PyMethodDescr_Type")? == self.memory.word(method.wrapping_add(TYPE));
        let definition = self.memory.word(method.wrapping_add(DESCRIPTOR_DEFINITION));
        let name = self.memory.bytes(self.memory.word(definition))?;
        let fits = is_method
            && self.memory.word(method.wrapping_add(DESCRIPTOR_CLASS)) == class
            && name == *b"put\0"
            && self.memory.half(definition.wrapping_add(DEFINITION_FLAGS)) == FLAGS;
        fits.then(|| self.memory.word(definition.wrapping_add(DEFINITION_FUNCTION)))
    }
}
