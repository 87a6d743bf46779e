//! CPython with an asyncio event loop.
//!
//! Which version it is, `Py_Version` says; where that version has its fields, a row of [`VERSIONS`]. To add a version is
//! to add a row, and its name to the tests. Types and dictionaries are found by name, from the symbols that every build
//! exports and the interpreter's own table of modules. What is found must fit together in the running process:
//!
//! | found | must be |
//! |---|---|
//! | the table of modules, and modules' globals | dictionaries |
//! | a thread of the interpreter | one whose thread-specific value leads back to it |
//! | its frames | a chain that ends, each with a code object or of C's |
//! | `_asyncio.Task` | a type of this name |

use tracer_abi::python::{MAX_FRAMES, PythonProcess};
use tracer_abi::task::ProcessKey;

use super::memory::Bytes;
use super::module::{Modules, Symbols};
use super::{Code, Finding, PythonLoop, Runtime, Waits};
use crate::process::procfs::ProcDir;
use versions::{VERSIONS, Version};

mod counter;
mod submits;
mod versions;
mod waits;
mod writes;

const TYPE: u64 = 8;
const TYPE_NAME: u64 = 24;
/// The function that sets up a new object, `tp_init`.
const TYPE_INIT: u64 = 296;
const MODULE_DICT: u64 = 16;
const TEXT_LEN: u64 = 16;

/// Thread-specific values of glibc's first block, behind the thread pointer: a number and the value each.
const SPECIFIC_VALUES: u64 = 0x310;
const SPECIFIC_VALUE_BYTES: u64 = 16;
const SPECIFIC_VALUE_COUNT: u64 = 32;

/// Threads that are looked at to find out how the interpreter knows its threads.
const MAX_THREADS: usize = 64;

/// A thread runs on while its frames are read.
const ATTEMPTS: usize = 5;

/// Entries of a dictionary that are looked through: programs import some thousands of modules at most.
const MAX_ENTRIES: usize = 1 << 16;

pub(super) fn examine<M: Bytes>(process: ProcessKey, modules: &Modules, memory: &M) -> Finding {
    let Some(found) = Interpreter::of(modules, memory) else { return Finding::Nothing };
    let (name, version) = found.version();
    let version = match version {
        Ok(version) => version,
        Err(needed) => return Finding::Unknown(name, needed),
    };
    let python = Python { memory, symbols: &found.symbols, version };
    let runtime = found.runtime;
    match python.process(process, modules, runtime) {
        Ok(found) => {
            let events = python.events(process, modules, &found, runtime);
            Finding::Python(name, Box::new(found), events)
        }
        Err(Failure::NotYet(what)) => Finding::NotYet(name, what),
        Err(failure @ Failure::Unfit(_)) => Finding::Unknown(name, failure.to_string()),
    }
}

/// What a process's threads wait for.
pub(super) fn examine_waits<M: Bytes>(
    process: ProcessKey,
    dir: &ProcDir,
    modules: &Modules,
    memory: &M,
) -> Waits {
    let Some(found) = Interpreter::of(modules, memory) else { return Waits::Nothing };
    let (name, version) = found.version();
    let version = match version {
        Ok(version) => version,
        Err(needed) => return Waits::Unknown(name, needed),
    };
    let python = Python { memory, symbols: &found.symbols, version };
    match python.waits(process, found.runtime, found.runtime_len) {
        Ok(waits) => {
            let put = if waits.knows_futures() {
                let put = python.put(found.runtime).ok_or("its pools' queues are not of the library's kind");
                put.and_then(|put| Code::functions(dir, &[put]))
            } else {
                Err("no pool is loaded")
            };
            Waits::Python(name, Box::new(waits), put)
        }
        Err(Failure::NotYet(what)) => Waits::NotYet(name, what),
        Err(failure @ Failure::Unfit(_)) => Waits::Unknown(name, failure.to_string()),
    }
}

/// An interpreter in a process: its own variables, and what it exports.
struct Interpreter<'m, M> {
    runtime: u64,
    runtime_len: u64,
    symbols: Symbols<'m, M>,
}

impl<'m, M: Bytes> Interpreter<'m, M> {
    fn of(modules: &Modules, memory: &'m M) -> Option<Self> {
        modules.named(|name| name.starts_with("libpython3.")).find_map(|base| {
            let symbols = Symbols::of(memory, base)?;
            let (runtime, runtime_len) = symbols.find_sized("_PyRuntime")?;
            Some(Self { runtime, runtime_len, symbols })
        })
    }

    /// Its name, and its version's row or what it would need.
    fn version(&self) -> (Runtime, Result<&'static Version, String>) {
        // Exported since 3.11, as `sys.hexversion`.
        let Some(hex) = self.symbols.word("Py_Version") else {
            let name = Runtime("CPython before 3.11".to_owned());
            return (name, Err(format!("tasks are known from 3.{} on", VERSIONS[0].minor)));
        };
        let [_, micro, minor, major] = (hex as u32).to_le_bytes();
        let name = Runtime(format!("CPython {major}.{minor}.{micro}"));
        let version = VERSIONS.iter().find(|version| major == 3 && version.minor == minor);
        let known = || VERSIONS.iter().map(|version| format!("3.{}", version.minor)).collect::<Vec<_>>();
        let needed = || format!("it needs a row in the table of versions, which has {}", known().join(", "));
        (name, version.ok_or_else(needed))
    }
}

/// Why tasks are not known.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    NotYet(&'static str),
    Unfit(&'static str),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotYet(what) => f.write_str(what),
            Self::Unfit(what) => write!(f, "{what}: a build whose layout is another one"),
        }
    }
}

struct Python<'p, M> {
    memory: &'p M,
    symbols: &'p Symbols<'p, M>,
    version: &'p Version,
}

impl<M: Bytes> Python<'_, M> {
    fn process(&self, process: ProcessKey, files: &Modules, runtime: u64) -> Result<PythonProcess, Failure> {
        let version = self.version;
        let (interpreter, modules) = self.interpreter(runtime)?;
        let asyncio = self.module(modules, "_asyncio").ok_or(Failure::NotYet("no event loop is loaded"))?;
        let loading = Failure::NotYet("the event loop's library is being loaded");
        let Some(tasks) = self.module(modules, "asyncio.tasks") else { return Err(loading) };
        let Some(task_type) = self.get(asyncio, "Task") else { return Err(loading) };
        if !self.is_type_named(task_type, b"_asyncio.Task\0") {
            return Err(Failure::Unfit("its tasks are not of the type that they should be of"));
        }
        let mut layout = version.layout;
        layout.thread_slot = self.thread_slot(interpreter)?;
        let symbol =
            |name| self.symbols.find(name).ok_or(Failure::Unfit("it exports fewer types than others"));
        let code_type = symbol("PyCode_Type")?;
        let to_thread = self.function(modules, code_type, "asyncio.threads", None, "to_thread");
        let partial = self.module(modules, "_functools").and_then(|globals| self.get(globals, "partial"));
        Ok(PythonProcess {
            start_boottime: process.start_boottime,
            function_type: symbol("PyFunction_Type")?,
            builtin_type: symbol("PyCFunction_Type")?,
            method_type: symbol("PyMethod_Type")?,
            coroutine_type: symbol("PyCoro_Type")?,
            int_type: symbol("PyLong_Type")?,
            task_type,
            partial_type: partial.unwrap_or(0),
            tasks_globals: tasks,
            groups_globals: self.module(modules, "asyncio.taskgroups").unwrap_or(0),
            futures_globals: self.module(modules, "asyncio.futures").unwrap_or(0),
            loop_future_type: self
                .get(asyncio, "Future")
                .filter(|future| self.is_type_named(*future, b"_asyncio.Future\0"))
                .unwrap_or(0),
            pool_future_type: self.class(modules, "concurrent.futures._base", "Future").unwrap_or(0),
            code_type,
            to_thread: to_thread.unwrap_or_default(),
            current_tasks: self
                .get(asyncio, "_current_tasks")
                .filter(|dict| self.is_dict(*dict))
                .unwrap_or(0),
            task_counter: self.task_counter(modules, files).unwrap_or(0),
            stream_types: self.stream_types(modules),
            spent_nanos: 0,
            looks: 0,
            layout,
        })
    }

    /// What probes see of its loops.
    fn events(
        &self,
        process: ProcessKey,
        files: &Modules,
        found: &PythonProcess,
        runtime: u64,
    ) -> PythonLoop {
        let dir = ProcDir::open_exactly(process).map_err(|_| "the process is gone");
        let dir = dir.as_ref().map_err(|reason| *reason);
        let init = self.memory.word(found.task_type.wrapping_add(TYPE_INIT));
        let makes = dir.and_then(|dir| Code::functions(dir, &[init]));
        let writes = writes::is_loaded(files).then(|| {
            let (_, modules) = self.interpreter(runtime).map_err(|_| "the interpreter is starting")?;
            self.writers(modules, dir?)
        });
        PythonLoop { makes, writes }
    }

    /// The first interpreter, and its table of modules.
    fn interpreter(&self, runtime: u64) -> Result<(u64, u64), Failure> {
        let version = self.version;
        if version.describes_itself && !self.describes_itself_so(runtime) {
            return Err(Failure::Unfit("it describes itself in another way than its version does"));
        }
        let interpreter = self.memory.word(runtime + version.interpreters);
        let modules = self.memory.word(interpreter.wrapping_add(version.modules));
        if interpreter == 0 || modules == 0 {
            return Err(Failure::NotYet("the interpreter is starting"));
        }
        if !self.is_dict(modules) {
            return Err(Failure::Unfit("its table of modules is not where it should be"));
        }
        Ok((interpreter, modules))
    }

    /// `_Py_DebugOffsets` of 3.13: a cookie, the version, whether it is built without the lock, then the offsets.
    fn describes_itself_so(&self, runtime: u64) -> bool {
        let word = |offset| self.memory.word(runtime + offset);
        let (version, layout) = (self.version, &self.version.layout);
        let said = [
            (16, 0),
            (40, version.interpreters),
            (72, version.threads),
            (88, version.modules),
            (168, version.thread_next),
            (184, layout.thread_frame.into()),
            (192, version.thread_id),
            (232, layout.frame_previous.into()),
            (240, layout.frame_code.into()),
            (256, layout.frame_locals.into()),
            (264, layout.frame_owner.into()),
        ];
        word(0) == u64::from_le_bytes(*b"xdebugpy") && said.iter().all(|(at, want)| word(*at) == *want)
    }

    /// Where, from a thread's pointer, its state is: as one thread of the interpreter shows whose frames make sense.
    fn thread_slot(&self, interpreter: u64) -> Result<u32, Failure> {
        let mut failure = Failure::Unfit("its threads are not where they should be");
        let mut thread = self.memory.word(interpreter.wrapping_add(self.version.threads));
        for _ in 0..MAX_THREADS {
            if thread == 0 {
                break;
            }
            let pointer = self.memory.word(thread.wrapping_add(self.version.thread_id));
            let slot = (0..SPECIFIC_VALUE_COUNT)
                .map(|index| SPECIFIC_VALUES + SPECIFIC_VALUE_BYTES * index + 8)
                .find(|slot| pointer != 0 && self.memory.word(pointer.wrapping_add(*slot)) == thread);
            match slot {
                Some(slot) if (0..ATTEMPTS).any(|_| self.frames_make_sense(thread)) => return Ok(slot as u32),
                Some(_) => failure = Failure::Unfit("its frames make no sense"),
                None => {}
            }
            thread = self.memory.word(thread.wrapping_add(self.version.thread_next));
        }
        Err(failure)
    }

    fn frames_make_sense(&self, thread: u64) -> bool {
        let layout = &self.version.layout;
        let Some(code_type) = self.symbols.find("PyCode_Type") else { return false };
        let mut frame = self.memory.word(thread.wrapping_add(layout.thread_frame.into()));
        if layout.is_indirect == 1 {
            frame = self.memory.word(frame.wrapping_add(layout.indirect_frame.into()));
        }
        let mut functions = 0;
        for _ in 0..MAX_FRAMES * 4 {
            if frame == 0 {
                return functions > 0;
            }
            match self.memory.byte(frame.wrapping_add(layout.frame_owner.into())) {
                0..=2 => {
                    let code = self.memory.word(frame.wrapping_add(layout.frame_code.into()));
                    if self.memory.word(code.wrapping_add(TYPE)) != code_type {
                        return false;
                    }
                    functions += 1;
                }
                3 => {}
                _ => return false,
            }
            frame = self.memory.word(frame.wrapping_add(layout.frame_previous.into()));
        }
        false
    }

    /// The globals of a module that is loaded.
    fn module(&self, modules: u64, name: &str) -> Option<u64> {
        let module = self.module_object(modules, name)?;
        let globals = self.memory.word(module.wrapping_add(MODULE_DICT));
        self.is_dict(globals).then_some(globals)
    }

    fn module_object(&self, modules: u64, name: &str) -> Option<u64> {
        let module = self.get(modules, name)?;
        let of_modules = self.memory.word(module.wrapping_add(TYPE)) == self.symbols.find("PyModule_Type")?;
        of_modules.then_some(module)
    }

    fn is_dict(&self, object: u64) -> bool {
        object != 0 && self.symbols.find("PyDict_Type") == Some(self.memory.word(object.wrapping_add(TYPE)))
    }

    fn is_type_named(&self, object: u64, name: &[u8]) -> bool {
        let mut found = vec![0; name.len()];
        let text = self.memory.word(object.wrapping_add(TYPE_NAME));
        self.memory.fill(text, &mut found) && found == name
    }

    /// What a dictionary has under a name.
    fn get(&self, dict: u64, name: &str) -> Option<u64> {
        // `ma_keys`; in those `dk_log2_index_bytes`, `dk_kind`, `dk_nentries`, and the entries behind the indices.
        let keys = self.memory.word(dict.wrapping_add(32));
        let [_, index_bytes, kind] = self.memory.bytes(keys.wrapping_add(8))?;
        let entries = usize::try_from(self.memory.word(keys.wrapping_add(24))).ok()?.min(MAX_ENTRIES);
        // General entries have a hash before the key. Instances share keys and are not looked into.
        let (size, key_at) = match kind {
            0 => (24, 8),
            1 => (16, 0),
            _ => return None,
        };
        let first = keys.wrapping_add(32).wrapping_add(1_u64.checked_shl(index_bytes.into())?);
        let mut table = vec![0; entries * size];
        if !self.memory.fill(first, &mut table) {
            return None;
        }
        table.chunks_exact(size).find_map(|entry| {
            let word = |at: usize| entry.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
            let (key, value) = (word(key_at)?, word(key_at + 8)?);
            (value != 0 && self.is_text(key, name)).then_some(value)
        })
    }

    fn is_text(&self, object: u64, text: &str) -> bool {
        let mut found = vec![0; text.len()];
        self.memory.word(object.wrapping_add(TEXT_LEN)) == text.len() as u64
            && self.memory.fill(object.wrapping_add(self.version.layout.text.into()), &mut found)
            && found == text.as_bytes()
    }
}
