//! gevent: greenlets on CPython.
//!
//! | found | must be |
//! |---|---|
//! | gevent and its `_greenlet` library | loaded |
//! | the library's number among those with thread-local variables | what the dynamic linker has written where the library's relocations say |
//! | the type of types | exported, and its own type |
//!
//! What the library keeps per thread has been the same since greenlet 2. Programs that use greenlets otherwise
//! (SQLAlchemy's, below asyncio) are not asked for them.

#[cfg(test)]
mod tests;

use tracer_abi::greenlet::GreenletProcess;
use tracer_abi::task::ProcessKey;

use super::memory::Bytes;
use super::module::{Modules, Symbols, local_module};
use super::{Finding, Runtime};

/// Libraries with thread-local variables in one process.
const MAX_MODULES: u64 = 1 << 16;

pub(super) fn examine<M: Bytes>(process: ProcessKey, modules: &Modules, memory: &M) -> Finding {
    let library = modules.find(|path| path.contains("/greenlet/_greenlet."));
    let is_gevent = modules.find(|path| path.contains("/gevent/_gevent_cgreenlet.")).is_some();
    let (Some(library), true) = (library, is_gevent) else { return Finding::Nothing };
    let name = Runtime("gevent".to_owned());
    let type_type = modules
        .named(|name| name.starts_with("libpython3"))
        .find_map(|base| Symbols::of(memory, base)?.find("PyType_Type"))
        .filter(|kind| memory.word(kind.wrapping_add(8)) == *kind);
    let module = local_module(memory, library).filter(|module| (1..MAX_MODULES).contains(module));
    let (Some(type_type), Some(module)) = (type_type, module) else {
        let needed = "its greenlet library keeps what belongs to a thread elsewhere".to_owned();
        return Finding::Unknown(name, needed);
    };
    let known = GreenletProcess {
        start_boottime: process.start_boottime,
        module,
        type_type,
        ..GreenletProcess::default()
    };
    Finding::Greenlet(name, Box::new(known))
}
