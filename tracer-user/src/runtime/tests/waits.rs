//! What threads of CPython wait for: of real interpreters whose threads wait in every way, and over made-up memory.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use tracer_abi::event::Awaited;
use tracer_abi::python::Memory;
use tracer_abi::python_waits::{MAX_STEPS, PythonWaits, Waiting, function};
use tracer_abi::task::{ProcessKey, Tgid};

use super::super::memory::ProcessMemory;
use super::super::{Waits, examine_waits};
use super::image::{Change, Image, change};
use super::interpreters;
use super::stack::{Frame, OTHER, THREAD, code, known};
use crate::process::procfs::ProcDir;

/// Threads that wait for ever, each in its own way, and say which.
const SCRIPT: &str = r#"
import concurrent.futures as futures, functools, queue, sys, threading, time

never = futures.Future()
others = [futures.Future(), futures.Future()]
full = queue.Queue(1)
full.put(0)
taken = threading.Lock()
taken.acquire()
empty = threading.Semaphore(0)
pool = futures.ThreadPoolExecutor(1)
thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
thread.start()

def exception(): never.exception()
def timed(): never.result(1000)
def called_through_c(): list(map(futures.Future.result, [never]))
def iterates():
    for _ in futures.as_completed(others): pass
def maps():
    for _ in pool.map(time.sleep, [1000]): pass
def condition():
    own = threading.Condition()
    with own: own.wait()
def waits_for():
    own = threading.Condition()
    with own: own.wait_for(lambda: False)

class Future:
    """Has the name, and is another's."""
    def __init__(self): self.done = threading.Condition()
    def result(self):
        with self.done: self.done.wait()

class Condition(threading.Condition):
    def wait(self, timeout=None): taken.acquire()

class Own(futures.Future):
    def __init__(self):
        super().__init__()
        self._condition = Condition()

WAYS = {
    "Result": [never.result, exception, timed, called_through_c, functools.partial(futures.wait, others), iterates, maps,
               thread.join],
    "Other": [threading.Event().wait, queue.Queue().get, queue.SimpleQueue().get, functools.partial(full.put, 1),
              taken.acquire, empty.acquire, condition, waits_for, Future().result, Own().result,
              threading.Barrier(2).wait, full.join],
}

for want, ways in WAYS.items():
    for way in ways:
        # Before it holds what this takes.
        name = getattr(way, "__qualname__", repr(way)).replace(" ", "")
        waits = threading.Thread(target=way, daemon=True)
        waits.start()
        print(waits.ident, want, name, flush=True)
print("end", flush=True)
time.sleep(1000)
"#;

/// Ends with the test.
pub(super) struct Standing(Child);

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the kernel half does.
fn awaited(memory: &impl Memory, known: &PythonWaits, thread_pointer: u64) -> Awaited {
    let mut waiting = Waiting::begin(memory, known, thread_pointer);
    for _ in 0..MAX_STEPS {
        if !waiting.step(memory, known) {
            break;
        }
    }
    Awaited::try_from(waiting.awaited()).unwrap()
}

/// What a script's threads say: their pointer, and two words.
pub(super) fn stand(
    python: &PathBuf,
    script: &str,
) -> (Standing, Vec<(u64, String, String)>, ProcessKey, ProcessMemory) {
    let mut child = Command::new(python).args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let child = Standing(child);
    let mut threads = Vec::new();
    for line in out.lines().map(Result::unwrap).take_while(|line| line != "end") {
        let [pointer, want, name] = line.split_ascii_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{python:?}: {line}")
        };
        threads.push((pointer.parse().unwrap(), want.to_owned(), name.to_owned()));
    }
    let dir = ProcDir::open(Tgid(child.0.id())).unwrap();
    let start_boottime = dir.stat().unwrap().start.0 * 10_000_000;
    let process = ProcessKey { tgid: Tgid(child.0.id()), start_boottime };
    let memory = ProcessMemory::new(dir.file("mem").unwrap());
    (child, threads, process, memory)
}

#[test]
fn real_threads_say_what_they_wait_for() {
    for python in interpreters() {
        let (_child, threads, process, memory) = stand(&python, SCRIPT);
        assert_eq!(threads.len(), 20, "{python:?}");
        let Waits::Python(_, known, _) = examine_waits(process) else { panic!("{python:?}") };
        assert!(known.knows_futures());
        for (pointer, want, name) in threads {
            let mut found = None;
            let right = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                format!("{:?}", found.insert(awaited(&memory, &known, pointer))) == want
            });
            assert!(right, "{python:?} {name}: {found:?}, not {want}");
        }
        // No thread of the interpreter's.
        assert_eq!(awaited(&memory, &known, known.own), Awaited::Unknown);
    }
}

/// The interpreter's lock, for which a thread that runs always waits somewhere, is among its own variables.
#[test]
fn the_interpreters_own_lock_is_known() {
    for python in interpreters() {
        let script = "import threading\ndef spin():\n while True: pass\n\
                      [threading.Thread(target=spin, daemon=True).start() for _ in range(3)]\n\
                      print(flush=True)\nspin()";
        let mut child = Command::new(&python).args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let child = Standing(child);
        let pid = child.0.id();
        let start_boottime = ProcDir::open(Tgid(pid)).unwrap().stat().unwrap().start.0 * 10_000_000;
        let process = ProcessKey { tgid: Tgid(pid), start_boottime };
        let mut known = None;
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(20));
            if let Waits::Python(_, found, _) = examine_waits(process) {
                known = Some(found);
                break;
            }
        }
        let known = known.unwrap_or_else(|| panic!("{python:?}: {:?}", examine_waits(process)));
        let mut futexes = 0;
        for _ in 0..200 {
            for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
                // `202 0xADDRESS 0xOPERATION …` while it sleeps in futex.
                let call = std::fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
                let mut words = call.split_ascii_whitespace();
                if words.next() == Some("202")
                    && let Some(address) = words.next().and_then(|word| word.strip_prefix("0x"))
                {
                    let address = u64::from_str_radix(address, 16).unwrap();
                    assert!(known.is_own(address), "{python:?}: {address:x}");
                    futexes += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(futexes > 100, "{python:?}: {futexes}");
    }
}

/// A thread in these functions, the innermost first; `None` is one of C's.
fn stands_in(functions: &[Option<usize>]) -> Image {
    let frames: Vec<Frame> = functions.iter().map(|function| (*function, [0; 6])).collect();
    Image::stacked(&frames)
}

#[test]
fn functions_say_what_is_waited_for() {
    use function::{
        AS_COMPLETED, CONDITION_WAIT, EVENT_WAIT, FUTURE_RESULT, FUTURES_WAIT, THREAD_ENDS, THREAD_JOIN,
    };
    let cases: [(&[Option<usize>], Awaited); 10] = [
        (&[Some(CONDITION_WAIT), Some(FUTURE_RESULT), Some(OTHER)], Awaited::Result),
        (&[None, Some(CONDITION_WAIT), None, None, Some(FUTURE_RESULT)], Awaited::Result),
        (&[Some(CONDITION_WAIT), Some(EVENT_WAIT), Some(FUTURES_WAIT)], Awaited::Result),
        (&[Some(CONDITION_WAIT), Some(EVENT_WAIT), Some(AS_COMPLETED)], Awaited::Result),
        (&[Some(THREAD_ENDS), Some(THREAD_JOIN)], Awaited::Result),
        (&[Some(CONDITION_WAIT), Some(EVENT_WAIT), Some(OTHER), Some(FUTURES_WAIT)], Awaited::Other),
        (&[Some(OTHER), Some(CONDITION_WAIT), Some(FUTURE_RESULT)], Awaited::Other),
        (&[Some(FUTURE_RESULT), Some(CONDITION_WAIT)], Awaited::Other),
        (&[Some(CONDITION_WAIT)], Awaited::Other),
        (&[], Awaited::Unknown),
    ];
    for (functions, want) in cases {
        assert_eq!(awaited(&stands_in(functions), &known(), THREAD), want, "{functions:?}");
    }
    // Freed, and something else in its place.
    let waits = [Some(CONDITION_WAIT), Some(FUTURE_RESULT), Some(OTHER)];
    for (at, word, want) in
        [(code(FUTURE_RESULT) + 128, 7, Awaited::Other), (code(FUTURE_RESULT) + 8, 7, Awaited::Unknown)]
    {
        let mut image = stands_in(&waits);
        image.put(at, word);
        assert_eq!(awaited(&image, &known(), THREAD), want);
    }
    // A thread of another interpreter.
    let another = PythonWaits { interpreter: 7, ..known() };
    assert_eq!(awaited(&stands_in(&waits), &another, THREAD), Awaited::Unknown);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the memory holds, the walk ends, with one of its answers; and one wrong word makes no wait a result's,
    /// unless it is the word that says in which function the thread is.
    #[test]
    fn one_wrong_word_makes_no_result(
        functions in prop::collection::vec(prop::option::weighted(0.9, 0..=OTHER), 0..6),
        change in change(),
        more in prop::collection::vec(change(), 0..30),
    ) {
        let mut image = stands_in(&functions);
        let before = awaited(&image, &known(), THREAD);
        let says = image.says();
        if !matches!(change, Change::Unreadable(_)) {
            image.change(&change, |at| !says.contains(&at));
        }
        let after = awaited(&image, &known(), THREAD);
        prop_assert!(after != Awaited::Result || before == Awaited::Result, "{before:?} to {after:?}");
        for change in &more {
            image.change(change, |_| true);
        }
        let _ = awaited(&image, &known(), THREAD);
    }
}
