//! Which work items threads of CPython have to do with: of real interpreters, and over made-up memory.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use proptest::prelude::*;
use tracer_abi::event::Awaited;
use tracer_abi::python::{Memory, TaskId};
use tracer_abi::python_waits::{FUNCTIONS, Function, MAX_STEPS, PythonWaits, Waiting, function};
use tracer_abi::python_work::{Futures, MAX_FRAMES, MAX_PLACES, Working};
use tracer_abi::task::ProcessKey;

use super::super::memory::{Bytes as _, ProcessMemory};
use super::super::{Code, Waits, examine_waits};
use super::image::{Change, Image, change};
use super::interpreters;
use super::stack::{FUTURE, OTHER, SET, THREAD, WORK, code, known};
use super::waits::stand;

/// Threads that stand still for ever, and say with which items, by their addresses.
const SCRIPT: &str = r#"
import concurrent.futures as futures, inspect, operator, sys, threading, time, types
from concurrent.futures.thread import _WorkItem, ThreadPoolExecutor

pool = ThreadPoolExecutor(20)
inner = ThreadPoolExecutor(20)
said = threading.Lock()
lines = 0

def item():
    frame = inspect.currentframe()
    while frame.f_code is not _WorkItem.run.__code__:
        frame = frame.f_back
    return frame.f_locals["self"]

def says(what, *objects):
    global lines
    with said:
        lines += 1
        print(threading.get_ident(), what, ",".join(str(id(one)) for one in objects) or "0", flush=True)

def works():
    says("works", item(), item().future)
    time.sleep(1000)

def deep(depth=30):
    if depth:
        return list(map(deep, [depth - 1]))
    works()

class Task:
    """Has what an item has, and is another's."""
    def __init__(self): self.future = futures.Future()
    def run(self):
        says("works")
        time.sleep(1000)

class WorkItem(_WorkItem): pass

# Since 3.14 an item runs in a context of its thread's.
since_14 = sys.version_info >= (3, 14)
context = [futures.thread.WorkerContext(None, ())] if since_14 else []

def runs(kind, what):
    task = [(what, (), {})] if since_14 else [what, (), {}]
    kind(futures.Future(), *task).run(*context)

def runs_another():
    # The innermost that runs is that of nobody's class.
    runs(WorkItem, idle)

def idle():
    says("works")
    time.sleep(1000)

def inline():
    runs(_WorkItem, works)

def waits(future, *within):
    says("waits", *(within or [None]), future)
    future.result()

def outer():
    waits(inner.submit(time.sleep, 1000), item().future)

def timed():
    future = inner.submit(time.sleep, 1000)
    says("waits", None, future)
    future.exception(1000)

def several():
    many = [inner.submit(time.sleep, 1000) for _ in range(3)]
    says("waits", None, *many)
    futures.wait(many)

def several_within():
    many = [futures.Future() for _ in range(8)]
    says("waits", item().future, *many)
    for _ in futures.as_completed(many): pass

def own_class():
    class Future(futures.Future): pass
    says("waits")
    Future().result()

taken = threading.Lock()
taken.acquire()

def submits():
    own = ThreadPoolExecutor(1)
    # The queue's `put` is a function of C's; this one calls what is submitted, which does not return.
    own._work_queue = types.SimpleNamespace(put=operator.methodcaller("task" if since_14 else "fn"))
    if since_14: own._resolve_work_item_task = lambda what, args, kwargs: what
    own.submit(taken.acquire)

for way in (works, deep, inline, runs_another, outer, several_within): pool.submit(way)
other = inner.submit(time.sleep, 1000)
for way in (lambda: waits(other), timed, several, idle, Task().run, own_class):
    threading.Thread(target=way, daemon=True).start()

# Who submits holds a lock that all who do need.
while lines < 12: time.sleep(0.01)
submitting = threading.Thread(target=submits, daemon=True)
submitting.start()
def at_submit():
    frame = sys._current_frames()[submitting.ident]
    return frame if frame.f_code is ThreadPoolExecutor.submit.__code__ and "w" in frame.f_locals else None
while not at_submit(): time.sleep(0.01)
with said: print(submitting.ident, "submits", f"{id(None)},{id(at_submit().f_locals['f'])}", flush=True)

# Where the queue's function is: what it does when it is called there.
import ctypes, queue
class Definition(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p)]
definition = ctypes.c_void_p.from_address(id(queue.SimpleQueue.__dict__["put"]) + 40).value
put = Definition.from_address(definition).function
kind = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p)
one, many = queue.SimpleQueue(), (ctypes.py_object * 1)("item")
kind(put)(one, ctypes.addressof(many), 1, None)
assert one.get_nowait() == "item"
print(0, "none", f"{id(None)},{put}", flush=True)
print("end", flush=True)
time.sleep(1000)
"#;

/// Item and future.
fn works(memory: &impl Memory, known: &PythonWaits, thread_pointer: u64) -> TaskId {
    let mut working = Working::begin(memory, known, thread_pointer);
    for _ in 0..MAX_FRAMES {
        if !working.step(memory, known) {
            break;
        }
    }
    working.work
}

/// What the kernel half does: the futures, the first the one inside of which the thread is.
fn futures(memory: &impl Memory, known: &PythonWaits, woken: u64, own: u64) -> (Awaited, Vec<u64>) {
    let mut waiting = Waiting::begin(memory, known, woken);
    for _ in 0..MAX_STEPS {
        if !waiting.step(memory, known) {
            break;
        }
    }
    let awaited = Awaited::try_from(waiting.awaited()).unwrap();
    let mut found = Futures::default();
    let more = awaited == Awaited::Result && found.await_results(memory, known, &waiting);
    if awaited != Awaited::Result {
        found.submit(memory, known, own);
    }
    for _ in 0..MAX_PLACES {
        if !more || !found.step(memory, known) {
            break;
        }
    }
    for _ in 0..MAX_FRAMES {
        if !found.any() || !found.within.step(memory, known) {
            break;
        }
    }
    let futures = found.futures.into_iter().filter(|future| *future != 0);
    let within = found.any().then_some(found.within.work.number);
    (awaited, within.into_iter().chain(futures).collect())
}

/// Whether a place is that of a function at an address: as the kernel's table of mappings has it, and what is there.
fn is_at(code: &Code, function: u64, process: ProcessKey, memory: &ProcessMemory) -> bool {
    let file = File::open(code.handle()).unwrap();
    let inode = format!(" {} ", file.metadata().unwrap().ino());
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.tgid)).unwrap();
    let hex = |number: &str| u64::from_str_radix(number, 16).unwrap();
    let offset = maps.lines().filter(|line| line.contains(&inode)).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let offset = fields.nth(1)?;
        (hex(start)..hex(end)).contains(&function).then(|| function - hex(start) + hex(offset))
    });
    let mut there = [0; 16];
    let &[place] = code.offsets.as_slice() else { panic!("{code:?}") };
    file.read_exact_at(&mut there, place).unwrap();
    let behind = place - offset.unwrap();
    // Behind an `endbr64` at most.
    matches!(behind, 0 | 4) && memory.bytes(function + behind) == Some(there)
}

#[test]
fn real_threads_say_which_items_they_have_to_do_with() {
    for python in interpreters() {
        let (_child, threads, process, memory) = stand(&python, SCRIPT);
        let Waits::Python(_, known, put) = examine_waits(process) else { panic!("{python:?}") };
        assert!(known.knows_futures());
        let (none, function) = threads.last().unwrap().2.split_once(',').unwrap();
        let none: u64 = none.parse().unwrap();
        let put = put.unwrap_or_else(|reason| panic!("{python:?}: {reason}"));
        assert!(is_at(&put, function.parse().unwrap(), process, &memory), "{python:?}: {put:?}");
        assert_eq!(threads.len(), 14, "{python:?}: {threads:?}");
        for (pointer, what, objects) in &threads[..13] {
            let objects = objects.split(',').map(|object| object.parse().unwrap());
            let mut want: Vec<u64> = objects.map(|object| if object == none { 0 } else { object }).collect();
            want.get_mut(1..).unwrap_or_default().sort_unstable();
            want.resize(want.len().max(2), 0);
            let mut found = Vec::new();
            let right = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                let awaited;
                (awaited, found) = futures(&memory, &known, *pointer, *pointer);
                if what == "works" {
                    let TaskId { address, number } = works(&memory, &known, *pointer);
                    found = vec![address, number];
                }
                // Those of a set are in an order of its own.
                found.get_mut(1..).unwrap_or_default().sort_unstable();
                found.resize(found.len().max(want.len()), 0);
                found == want && (what != "waits" || awaited == Awaited::Result)
            });
            assert!(right, "{python:?} {what}: {found:x?}, not {want:x?}");
        }
    }
}

impl Image {
    /// An item and its future, at fixed addresses.
    fn item(&mut self, at: u64) -> (u64, u64) {
        let (work, values, future) = (at, at + 0x100, at + 0x200);
        self.put(work + 8, WORK);
        self.put(work - 24, values - 1);
        self.put(values, future);
        self.put(future + 8, FUTURE);
        (work, future)
    }
}

const ITEM: u64 = 0x50_0000;
const OUTER: u64 = 0x51_0000;

/// It calls inside of an item that is inside of another one.
fn calls() -> Image {
    let item = |at| (Some(function::WORK_RUN), [at, 0, 0, 0, 0, 0]);
    let other = (Some(OTHER), [OUTER; 6]);
    let mut image = Image::stacked(&[other, other, item(ITEM), other, item(OUTER)]);
    image.item(ITEM);
    image.item(OUTER);
    image
}

#[test]
fn the_innermost_item_is_told_or_none() {
    assert_eq!(works(&calls(), &known(), THREAD), TaskId { address: ITEM, number: ITEM + 0x200 });
    // Of another class, without a future, with one of another class, of which the values are elsewhere; freed code.
    let changes =
        [(ITEM + 8, 7), (ITEM + 0x100, 0), (ITEM + 0x208, 7), (ITEM - 24, ITEM + 0x100), (code(8) + 128, 7)];
    for (at, word) in changes {
        let mut image = calls();
        image.put(at, word);
        assert_eq!(works(&image, &known(), THREAD), TaskId::default(), "{at:x}");
    }
    // A library that is not loaded.
    let none = PythonWaits { functions: [Function::default(); FUNCTIONS], ..known() };
    assert_eq!(works(&calls(), &none, THREAD), TaskId::default());
    assert_eq!(works(&calls(), &PythonWaits { work_type: 0, ..known() }, THREAD), TaskId::default());
}

#[test]
fn a_set_of_any_size_is_looked_through_as_far_as_is_told() {
    for (places, held, told) in [(8_u64, 3_u64, 3_usize), (32, 18, 8), (u64::MAX, 18, 8), (0, 3, 0)] {
        let wait = (Some(function::FUTURES_WAIT), [0x60_0000, 0, 0, 0, 0, 0]);
        let inner = [function::CONDITION_WAIT, function::EVENT_WAIT].map(|inner| (Some(inner), [0; 6]));
        let mut image = Image::stacked(&[inner[0], inner[1], wait]);
        image.put(0x60_0008, SET);
        image.put(0x60_0000 + 32, places.wrapping_sub(1));
        image.put(0x60_0000 + 40, 0x61_0000);
        for n in 0..held {
            image.put(0x61_0000 + 16 * n, 0x62_0000 + 0x100 * n);
            image.put(0x62_0000 + 0x100 * n + 8, FUTURE);
        }
        let (awaited, found) = futures(&image, &known(), THREAD, 0);
        assert_eq!((awaited, found.len().saturating_sub(1)), (Awaited::Result, told), "{places:x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the memory holds, the walks end; and one wrong word names no other item, unless it is one of the words that
    /// say in which functions the thread is, and with what.
    #[test]
    fn one_wrong_word_names_no_other_item(
        change in change(),
        more in prop::collection::vec(change(), 0..30),
    ) {
        let mut image = calls();
        let before = works(&image, &known(), THREAD);
        let says = image.says();
        // Where it says that its future is, and that it is one: both would have to be another future's.
        let values = [ITEM - 24, ITEM + 0x100];
        if !matches!(change, Change::Unreadable(_)) {
            image.change(&change, |at| !says.contains(&at) && !values.contains(&at));
        }
        let after = works(&image, &known(), THREAD);
        prop_assert!(after == before || after == TaskId::default(), "{after:x?}");
        for change in &more {
            image.change(change, |_| true);
        }
        let _ = works(&image, &known(), THREAD);
        let _ = futures(&image, &known(), THREAD, THREAD);
    }
}
