//! CPython's own functions in which threads wait for each other, as [`tracer_abi::python_waits`] is to know them.
//!
//! They are found by name, through the interpreter's own table of modules. What is found must be a function of that name,
//! of a file of the library's: a program may have put anything in its place. What is not loaded yet is not known.

use tracer_abi::python_waits::{CODE_NAME, FUNCTIONS, Function, PythonWaits, THREAD_INTERPRETER, function};
use tracer_abi::task::ProcessKey;

use super::{Failure, Python, TEXT_LEN, TYPE};
use crate::runtime::memory::Bytes;

/// From a class: the dictionary of what it has.
pub(super) const TYPE_DICT: u64 = 264;
const FUNCTION_CODE: u64 = 48;
const CODE_FILE: u64 = 112;

/// Longest path of a file that is looked at.
const MAX_TEXT: u64 = 4096;

const THREADING: &str = "threading";
const FUTURES: &str = "concurrent.futures._base";
pub(super) const POOLS: &str = "concurrent.futures.thread";

/// Of a place in `PythonWaits::functions`: the module, the class or none, the function.
const KNOWN: [(usize, &str, Option<&str>, &str); FUNCTIONS] = [
    (function::CONDITION_WAIT, THREADING, Some("Condition"), "wait"),
    (function::EVENT_WAIT, THREADING, Some("Event"), "wait"),
    (function::FUTURE_RESULT, FUTURES, Some("Future"), "result"),
    (function::FUTURE_EXCEPTION, FUTURES, Some("Future"), "exception"),
    (function::FUTURES_WAIT, FUTURES, None, "wait"),
    (function::AS_COMPLETED, FUTURES, None, "as_completed"),
    (function::THREAD_JOIN, THREADING, Some("Thread"), "join"),
    (function::THREAD_ENDS, THREADING, Some("Thread"), "_wait_for_tstate_lock"),
    (function::WORK_RUN, POOLS, Some("_WorkItem"), "run"),
    (function::SUBMIT, POOLS, Some("ThreadPoolExecutor"), "submit"),
];

impl<M: Bytes> Python<'_, M> {
    /// `len`: of the interpreter's own variables.
    pub(super) fn waits(&self, process: ProcessKey, runtime: u64, len: u64) -> Result<PythonWaits, Failure> {
        let version = self.version;
        let (interpreter, modules) = self.interpreter(runtime)?;
        let own_end = runtime.saturating_add(len);
        if !(runtime..own_end).contains(&interpreter) {
            return Err(Failure::Unfit("its lock is not among its own variables"));
        }
        if self.module(modules, THREADING).is_none() {
            return Err(Failure::NotYet("it has one thread only"));
        }
        let code_type = self.symbols.find("PyCode_Type");
        let code_type = code_type.ok_or(Failure::Unfit("it exports fewer types than others"))?;
        let mut layout = version.layout;
        layout.thread_slot = self.thread_slot(interpreter)?;
        let thread = self.memory.word(interpreter.wrapping_add(version.threads));
        if self.memory.word(thread.wrapping_add(THREAD_INTERPRETER)) != interpreter {
            return Err(Failure::Unfit("its threads are not where they should be"));
        }
        let mut functions = [Function::default(); FUNCTIONS];
        for (place, module, class, name) in KNOWN {
            functions[place] = self.function(modules, code_type, module, class, name).unwrap_or_default();
        }
        if functions[function::CONDITION_WAIT] == Function::default() {
            return Err(Failure::Unfit("its conditions are not of the library's kind"));
        }
        Ok(PythonWaits {
            start_boottime: process.start_boottime,
            own: runtime,
            own_end,
            interpreter,
            code_type,
            work_type: self.class(modules, POOLS, "_WorkItem").unwrap_or(0),
            future_type: self.class(modules, FUTURES, "Future").unwrap_or(0),
            set_type: self.symbols.find("PySet_Type").unwrap_or(0),
            sees_submits: 0,
            spent_nanos: 0,
            looks: 0,
            functions,
            layout,
        })
    }

    /// A class that the library defines.
    pub(super) fn class(&self, modules: u64, module: &str, name: &str) -> Option<u64> {
        let class = self.module(modules, module).and_then(|globals| self.get(globals, name))?;
        self.is_type_named(class, format!("{name}\0").as_bytes()).then_some(class)
    }

    pub(super) fn function(
        &self,
        modules: u64,
        code_type: u64,
        module: &str,
        class: Option<&str>,
        name: &str,
    ) -> Option<Function> {
        let mut scope = self.module(modules, module)?;
        let mut qualified = name.to_owned();
        if let Some(class) = class {
            scope = self.memory.word(self.get(scope, class)?.wrapping_add(TYPE_DICT));
            qualified = format!("{class}.{name}");
        }
        let function = if self.is_dict(scope) { self.get(scope, name)? } else { return None };
        let is_function =
            self.symbols.find("PyFunction_Type")? == self.memory.word(function.wrapping_add(TYPE));
        let code = self.memory.word(function.wrapping_add(FUNCTION_CODE));
        let name = self.memory.word(code.wrapping_add(CODE_NAME));
        let file = self.text(self.memory.word(code.wrapping_add(CODE_FILE)))?;
        let path = format!("/{}.py", module.replace('.', "/"));
        let fits = is_function
            && self.memory.word(code.wrapping_add(TYPE)) == code_type
            && self.is_text(name, &qualified)
            && file.ends_with(path.as_bytes());
        fits.then_some(Function { code, name })
    }

    fn text(&self, object: u64) -> Option<Vec<u8>> {
        let len = self.memory.word(object.wrapping_add(TEXT_LEN));
        let mut text = vec![0; usize::try_from(len).ok().filter(|_| len <= MAX_TEXT)?];
        let at = object.wrapping_add(self.version.layout.text.into());
        self.memory.fill(at, &mut text).then_some(text)
    }
}
