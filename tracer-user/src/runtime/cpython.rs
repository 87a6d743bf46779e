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

use tracer_abi::python::{PythonLayout, PythonProcess};
use tracer_abi::python_waits::Function;
use tracer_abi::task::ProcessKey;

use super::memory::Bytes;
use super::module::{Modules, Symbols};
use super::{Code, Finding, PythonLoop, Runtime, Waits};
use crate::process::procfs::ProcDir;
use versions::{Description, VERSIONS, Version};
use waits::POOLS;

mod counter;
mod slot;
mod submits;
mod versions;
mod waits;
mod writes;

const OTHER_QUEUES: &str = "its pools' queues are not of the library's kind";

/// What `_Py_DebugOffsets` begins with, and where it says that the interpreter is built without its lock.
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");
const WITHOUT_LOCK: u64 = 16;

const TYPE: u64 = 8;
const TYPE_NAME: u64 = 24;
/// The function that sets up a new object, `tp_init`.
const TYPE_INIT: u64 = 296;
const MODULE_DICT: u64 = 16;
const DICT_KEYS: u64 = 32;
/// The kind of keys that classes have for their instances.
const IN_CLASSES: u8 = 2;
const TEXT_LEN: u64 = 16;

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
                let put = python.put(found.runtime).ok_or(OTHER_QUEUES);
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
        self.attributes(modules, &mut layout);
        let symbol =
            |name| self.symbols.find(name).ok_or(Failure::Unfit("it exports fewer types than others"));
        let code_type = symbol("PyCode_Type")?;
        let to_thread = self.function(modules, code_type, "asyncio.threads", None, "to_thread");
        let submit = self.function(modules, code_type, POOLS, Some("ThreadPoolExecutor"), "submit");
        let handle_run = self.function(modules, code_type, "asyncio.events", Some("Handle"), "_run");
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
            submit: submit.unwrap_or_default(),
            handle_run: handle_run.unwrap_or_default(),
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
        let hands = (found.submit != Function::default()).then(|| {
            let put = self.put(runtime).ok_or(OTHER_QUEUES)?;
            Code::functions(dir?, &[put])
        });
        PythonLoop { makes, writes, hands }
    }

    /// The first interpreter, and its table of modules.
    fn interpreter(&self, runtime: u64) -> Result<(u64, u64), Failure> {
        let version = self.version;
        if version.describes_itself.as_ref().is_some_and(|places| !self.describes_itself_so(runtime, places))
        {
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

    fn describes_itself_so(&self, runtime: u64, places: &Description) -> bool {
        let word = |offset| self.memory.word(runtime + offset);
        let (version, layout) = (self.version, &self.version.layout);
        let said = [
            (WITHOUT_LOCK, 0),
            (places.interpreters, version.interpreters),
            (places.threads, version.threads),
            (places.modules, version.modules),
            (places.thread_next, version.thread_next),
            (places.thread_frame, layout.thread_frame.into()),
            (places.thread_id, version.thread_id),
            (places.frame_previous, layout.frame_previous.into()),
            (places.frame_code, layout.frame_code.into()),
            (places.frame_locals, layout.frame_locals.into()),
            (places.frame_owner, layout.frame_owner.into()),
        ];
        word(0) == COOKIE && said.iter().all(|(at, want)| word(*at) == *want)
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

    /// Which of their values are attributes of what this version keeps in an order of its own.
    fn attributes(&self, modules: u64, layout: &mut PythonLayout) {
        const KNOWN: [(&str, &str, &str); 4] = [
            ("asyncio.taskgroups", "TaskGroup", "_parent_task"),
            ("asyncio.streams", "StreamReader", "_waiter"),
            ("asyncio.streams", "StreamReader", "_transport"),
            ("concurrent.futures._base", "Future", "_done_callbacks"),
        ];
        let Some(class_keys) = self.version.class_keys else { return };
        let places = [
            &mut layout.group_parent,
            &mut layout.reader_waiter,
            &mut layout.reader_transport,
            &mut layout.future_callbacks,
        ];
        for (place, (module, class, name)) in places.into_iter().zip(KNOWN) {
            let class = self.class(modules, module, class);
            let keys = class.map(|class| self.memory.word(class.wrapping_add(class_keys)));
            if let Some((index, _)) = keys.and_then(|keys| self.entry(keys, name, IN_CLASSES)) {
                *place = index as u32;
            }
        }
    }

    /// What a dictionary has under a name.
    fn get(&self, dict: u64, name: &str) -> Option<u64> {
        // Instances share keys and are not looked into.
        self.entry(self.memory.word(dict.wrapping_add(DICT_KEYS)), name, 0).map(|(_, value)| value)
    }

    /// Which entry of keys, of this kind if it is not zero, has a name, and the value beside that.
    fn entry(&self, keys: u64, name: &str, of_kind: u8) -> Option<(usize, u64)> {
        // `dk_log2_index_bytes`, `dk_kind`, `dk_nentries`, and the entries behind the indices.
        let [_, index_bytes, kind] = self.memory.bytes(keys.wrapping_add(8))?;
        let entries = usize::try_from(self.memory.word(keys.wrapping_add(24))).ok()?.min(MAX_ENTRIES);
        // General entries have a hash before the key.
        let (size, key_at) = match (kind, of_kind) {
            (0, 0) => (24, 8),
            (1, 0) => (16, 0),
            (IN_CLASSES, IN_CLASSES) => (16, 0),
            _ => return None,
        };
        let first = keys.wrapping_add(32).wrapping_add(1_u64.checked_shl(index_bytes.into())?);
        let mut table = vec![0; entries * size];
        if !self.memory.fill(first, &mut table) {
            return None;
        }
        table.chunks_exact(size).enumerate().find_map(|(index, entry)| {
            let word = |at: usize| entry.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
            let (key, value) = (word(key_at)?, word(key_at + 8)?);
            // Where something was taken out, nothing is beside the name.
            ((value != 0 || of_kind == IN_CLASSES) && self.is_text(key, name)).then_some((index, value))
        })
    }

    fn is_text(&self, object: u64, text: &str) -> bool {
        let mut found = vec![0; text.len()];
        self.memory.word(object.wrapping_add(TEXT_LEN)) == text.len() as u64
            && self.memory.fill(object.wrapping_add(self.version.layout.text.into()), &mut found)
            && found == text.as_bytes()
    }
}
