//! The walks through CPython's memory: over the memory of real interpreters that stand still at the place in question,
//! and over made-up memory, in which anything may be anything.

mod image;
mod stack;
mod streams;
mod waits;
mod work;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tracer_abi::python::{
    CHAIN_TASKS, Frames, MAX_FRAMES, Memory, NUMBER_BITS, OWN, PythonProcess, Scratch, TaskId,
};
use tracer_abi::python_chain::{Chain, MAX_CHAIN_STEPS, chain_end};
use tracer_abi::python_suspended::{MAX_AWAITS, Suspended};
use tracer_abi::python_thread::{self, Item};
use tracer_abi::task::{ProcessKey, Tgid};

use super::memory::ProcessMemory;
use super::{Finding, Modules, cpython, examine, greenlet};
use crate::process::procfs::ProcDir;

/// Stands still inside the innermost of tasks that wait for each other, and says which they are.
const SCRIPT: &str = r#"
import asyncio, concurrent.futures, gc, operator, sys, threading, time, types

chain = []

def entered():
    if asyncio.current_task() not in chain:
        chain.insert(0, asyncio.current_task())

def stand_still():
    tasks = " ".join(f"{id(task)}:{id(task.get_coro().cr_code)}:{number(task)}" for task in chain)
    loop = asyncio._get_running_loop()
    youngest = number(loop.create_task(other())) if loop else 0
    print(threading.get_ident(), youngest, tasks, flush=True)

def number(task):
    return task.get_name().removeprefix("Task-")

async def deeper():
    async with asyncio.Lock():
        stand_still()
        time.sleep(1000)

async def at_once():
    entered()
    list(map(lambda _: stand_still(), [0]))
    time.sleep(1000)

async def leaf():
    entered()
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    await deeper()

async def other():
    await asyncio.sleep(1000)

async def group():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other())
        tasks.create_task(leaf())

async def nested():
    entered()
    await asyncio.gather(other(), leaf())

async def reads(reader, writer):
    chain.append(asyncio.current_task())
    # The next bytes are read by a function that stands still, as if it were the system call.
    writer.transport._sock = types.SimpleNamespace(recv=time.sleep, fileno=writer.transport._sock.fileno)
    asyncio.get_running_loop().call_later(0.05, stand_still)
    await reader.readexactly(5)

async def reads_after(reader, writer):
    chain.append(asyncio.current_task())
    writer.transport._sock = types.SimpleNamespace(recv=time.sleep, fileno=writer.transport._sock.fileno)
    asyncio.get_running_loop().call_later(0.05, stand_still)
    await asyncio.sleep(1000)

async def connects(serve):
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.2)
    writer.write(b"hello")
    await asyncio.sleep(1000)

def in_thread():
    stand_still()
    time.sleep(1000)

class Holder:
    """Has what an item has, and is another's."""
    def __init__(self, future): self.future = future
    def run(self): in_thread()

class WorkerThread:
    """Has the same future as AnyIO's, and is of another file."""
    def begin(self, future): threading.Thread(target=self.run, args=(0, 0, 0, 0, future), daemon=True).start()
    def run(self, item, context, func, args, future): in_thread()

def submits():
    """For ever in the queue's `put`, which is a function of C's: it calls what is submitted. Another thread says with which future."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    since_14 = sys.version_info >= (3, 14)
    pool._work_queue = types.SimpleNamespace(put=operator.methodcaller("task" if since_14 else "fn"))
    if since_14: pool._resolve_work_item_task = lambda what, args, kwargs: what
    taken, own = threading.Lock(), threading.get_ident()
    taken.acquire()
    def says():
        while True:
            frame = sys._current_frames()[own]
            if frame.f_code is type(pool).submit.__code__ and "w" in frame.f_locals: break
            time.sleep(0.01)
        print(own, 0, f"{id(frame.f_locals['f'])}:0:0", flush=True)
    threading.Thread(target=says, daemon=True).start()
    pool.submit(taken.acquire)

async def threads():
    entered()
    await asyncio.to_thread(lambda: list(map(lambda _: in_thread(), [0])))

async def main(way):
    loop = asyncio.get_running_loop()
    if way not in ("reads", "reads_after", "several", "submits", "submitted", "held", "shared", "anyio_held"):
        entered()
    if way == "thread":
        await threads()
    elif way == "thread_gathered":
        await asyncio.gather(other(), threads())
    elif way == "thread_task":
        task = asyncio.create_task(asyncio.to_thread(in_thread))
        chain.insert(0, task)
        await asyncio.wait_for(asyncio.shield(task), 1000)
    elif way == "submitted":
        await loop.run_in_executor(None, in_thread)
    elif way == "submits":
        submits()
    elif way == "held":
        # Beside the item, on a thread of the program's own.
        task = asyncio.create_task(asyncio.to_thread(time.sleep, 1000))
        await asyncio.sleep(0.1)
        future = next(one for one in gc.get_objects() if type(one) is concurrent.futures.Future)
        threading.Thread(target=Holder(future).run, daemon=True).start()
        await task
    elif way == "shared":
        # Several loops' futures are set when it is done.
        future = concurrent.futures.ThreadPoolExecutor().submit(lambda: (time.sleep(0.1), in_thread()))
        await asyncio.gather(asyncio.wrap_future(future), asyncio.wrap_future(future))
    elif way == "anyio":
        import anyio.to_thread
        await anyio.to_thread.run_sync(lambda: list(map(lambda _: in_thread(), [0])))
    elif way == "anyio_held":
        import anyio.to_thread
        task = asyncio.create_task(anyio.to_thread.run_sync(time.sleep, 1000))
        await asyncio.sleep(0.1)
        WorkerThread().begin(task._fut_waiter)
        await task
    if way.startswith(("thread", "anyio")) or way in ("submitted", "held", "shared"):
        return
    if way == "alone":
        await leaf()
    elif way == "task":
        await asyncio.create_task(leaf())
    elif way == "gather":
        await asyncio.gather(other(), leaf())
    elif way == "nested":
        await asyncio.gather(nested(), other())
    elif way == "wait":
        await asyncio.wait([asyncio.create_task(leaf()), asyncio.create_task(other())])
    elif way == "wait_for":
        await asyncio.wait_for(asyncio.create_task(leaf()), 1000)
    elif way == "shield":
        await asyncio.shield(asyncio.create_task(leaf()))
    elif way == "group":
        await group()
    elif way == "at_once":
        if sys.version_info < (3, 12):
            await at_once()
        await asyncio.Task(at_once(), loop=loop, eager_start=True)
    elif way == "nested_loop":
        # As if a loop ran inside of a task of another's: what it runs is not that task's.
        asyncio.tasks._leave_task(loop, asyncio.current_task())
        asyncio._set_running_loop(None)
        asyncio.new_event_loop().run_until_complete(leaf())
    elif way == "several":
        task = asyncio.create_task(leaf())
        async def waits():
            await task
        await asyncio.gather(waits(), waits())
    elif way == "callback":
        task = asyncio.create_task(leaf())
        task.add_done_callback(lambda done: None)
        chain.clear()
        await asyncio.sleep(1000)
    elif way == "forgotten":
        task = asyncio.create_task(leaf())
        chain.clear()
        await asyncio.sleep(1000)
    elif way == "reads":
        await connects(reads)
    elif way == "reads_after":
        await connects(reads_after)

if sys.argv[1] == "fresh":
    stand_still()
    time.sleep(1000)
asyncio.run(main(sys.argv[1]))
"#;

/// Ends with the test.
struct Standing {
    child: Child,
    thread_pointer: u64,
    /// The number of the youngest task; zero on a thread that may not make one.
    youngest: u64,
    /// As they are told.
    tasks: Vec<TaskId>,
    memory: ProcessMemory,
    process: ProcessKey,
}

impl Standing {
    fn start(python: &PathBuf, way: &str) -> Self {
        let mut child =
            Command::new(python).args(["-c", SCRIPT, way]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split_ascii_whitespace();
        let mut number = || words.next().unwrap_or_else(|| panic!("{python:?} {way}")).parse().unwrap();
        let (thread_pointer, youngest) = (number(), number());
        let task = |word: &str| {
            let numbers: Vec<u64> = word.split(':').map(|number| number.parse().unwrap()).collect();
            let &[address, code, number] = numbers.as_slice() else { panic!("{word}") };
            let kind = code >> 4 & ((OWN >> NUMBER_BITS) - 1);
            TaskId { address, number: number | kind << NUMBER_BITS }
        };
        let tasks = words.map(task).collect();
        let dir = ProcDir::open(Tgid(child.id())).unwrap();
        let start_boottime = dir.stat().unwrap().start.0 * 10_000_000;
        let process = ProcessKey { tgid: Tgid(child.id()), start_boottime };
        let memory = ProcessMemory::new(dir.file("mem").unwrap());
        Self { child, thread_pointer, youngest, tasks, memory, process }
    }

    /// It says that it stands still a moment before it does.
    fn becomes(&self, mut so: impl FnMut(&PythonProcess) -> bool) -> bool {
        let known = self.known();
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            so(&known)
        })
    }

    /// In the system call that `time.sleep` is, whose number comes first.
    fn child_sleeps(&self) -> bool {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.child.id())).unwrap_or_default();
        call.starts_with("230 ")
    }

    fn known(&self) -> PythonProcess {
        let finding = examine(self.process);
        let Finding::Python(_, known, _) = finding else { panic!("{finding:?}") };
        *known
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel half does when a thread sends: the chain, and how it ends.
fn sent(memory: &impl Memory, known: &PythonProcess, thread_pointer: u64) -> (Vec<TaskId>, u8) {
    sent_by(memory, known, thread_pointer, 0)
}

/// The same, where the task that runs is the one that was made last, by this one.
fn sent_by(
    memory: &impl Memory,
    known: &PythonProcess,
    thread_pointer: u64,
    maker: u64,
) -> (Vec<TaskId>, u8) {
    let mut scratch = Scratch::default();
    let mut frames = Frames::begin(memory, known, thread_pointer, &mut scratch);
    for _ in 0..MAX_FRAMES {
        if !frames.step(memory, known, &mut scratch) {
            break;
        }
    }
    frames.among_current(memory, known, &mut scratch);
    let mut chain = Chain::default();
    let mut future = 0;
    if frames.task == 0 {
        let mut item = Item::begin(memory, known, thread_pointer);
        for _ in 0..python_thread::MAX_FRAMES {
            if !item.step(memory, known) {
                break;
            }
        }
        future = item.chained(memory, known);
        chain.begin_at(memory, future, &mut scratch);
    } else {
        chain.begin(memory, known, &mut scratch);
        let mut more = maker != 0 && frames.begin_within(memory, known);
        for _ in 0..MAX_FRAMES {
            more = more && frames.step_within(memory, known);
        }
        if frames.is_within == 1 {
            chain.is_made_by(memory, known, maker, &mut scratch);
        }
    }
    if frames.task == 0 && future == 0 {
        return (Vec::new(), chain_end::NOBODY);
    }
    for _ in 0..MAX_CHAIN_STEPS {
        if !chain.step(memory, known, &mut scratch) {
            break;
        }
    }
    assert!(chain.len as usize <= CHAIN_TASKS);
    if future != 0 {
        let Some(mut suspended) = Suspended::begin(memory, known, chain.tasks[0], &mut scratch) else {
            return (Vec::new(), chain_end::NOBODY);
        };
        for _ in 0..MAX_AWAITS {
            if !suspended.step(memory, known) {
                break;
            }
        }
        if !python_thread::is_own(memory, known, &chain, future, &suspended) {
            return (Vec::new(), chain_end::NOBODY);
        }
    }
    (chain.tasks[..chain.len as usize].to_vec(), chain.end as u8)
}

/// What it does when one receives.
fn waited(memory: &impl Memory, known: &PythonProcess, thread_pointer: u64, task: TaskId) -> bool {
    let mut scratch = Scratch::default();
    let Some(mut suspended) = Suspended::begin(memory, known, task, &mut scratch) else { return false };
    for _ in 0..MAX_AWAITS {
        if !suspended.step(memory, known) {
            break;
        }
    }
    suspended.waits_for_bytes(memory, known, thread_pointer)
}

/// Interpreters of every version that this machine has: the system's own, those of pyenv, and those that set-up has fetched.
fn interpreters() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let root = std::env::var_os("PYENV_ROOT").map_or_else(|| home.join(".pyenv"), PathBuf::from);
    let mut found: Vec<PathBuf> = ["python3.11", "python3.12", "python3.13"]
        .iter()
        .map(|name| PathBuf::from("/usr/bin").join(name))
        .filter(|path| path.exists())
        .collect();
    for minor in 11..=13 {
        let versions = std::fs::read_dir(root.join("versions")).into_iter().flatten().flatten();
        let of_minor = versions
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("3.{minor}.")))
            .map(|entry| entry.path().join("bin/python3"));
        found.extend(of_minor.filter(|path| path.exists()).max());
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/workloads/python/usr/bin");
    for name in ["python3.14", "python3.15"] {
        let path = fetched.join(name);
        if path.exists() {
            found.push(path);
        } else {
            eprintln!("skipped: {name} has not been fetched");
        }
    }
    if found.is_empty() {
        eprintln!("skipped: no CPython 3.11, 3.12 or 3.13 here");
    }
    found
}

#[test]
fn real_interpreters_say_who_runs_and_who_waits() {
    // How the chain ends, and which tasks of it were made by what waits for them.
    const WAYS: &[(&str, u8, u8)] = &[
        ("alone", chain_end::FOREIGN, 0b0),
        ("task", chain_end::FOREIGN, 0b0),
        ("gather", chain_end::FOREIGN, 0b1),
        ("nested", chain_end::FOREIGN, 0b11),
        ("wait", chain_end::FOREIGN, 0b0),
        ("wait_for", chain_end::FOREIGN, 0b0),
        ("shield", chain_end::FOREIGN, 0b0),
        ("group", chain_end::FOREIGN, 0b1),
        ("at_once", chain_end::FOREIGN, 0b1),
        ("several", chain_end::SEVERAL, 0b0),
        ("callback", chain_end::FOREIGN, 0b0),
        ("forgotten", chain_end::NOBODY, 0b0),
        ("thread", chain_end::FOREIGN, 0b0),
        ("thread_gathered", chain_end::FOREIGN, 0b1),
        ("thread_task", chain_end::FOREIGN, 0b0),
        ("submitted", chain_end::NOBODY, 0b0),
        ("held", chain_end::NOBODY, 0b0),
        ("shared", chain_end::NOBODY, 0b0),
        ("anyio", chain_end::SEVERAL, 0b0),
        ("anyio_held", chain_end::NOBODY, 0b0),
    ];
    for python in interpreters() {
        let with_anyio = Command::new(&python).args(["-c", "import anyio"]).stderr(Stdio::null()).status();
        let with_anyio = with_anyio.unwrap().success();
        if !with_anyio {
            eprintln!("skipped: {python:?} has no AnyIO");
        }
        for (way, end, own) in WAYS.iter().filter(|(way, ..)| with_anyio || !way.starts_with("anyio")) {
            let standing = Standing::start(&python, way);
            // Nobody waits for the last one; before 3.12 no task begins at once.
            let own = own & ((1 << (standing.tasks.len().max(1) - 1)) - 1);
            // That the one that waits has made the other last is not enough to be the one inside of which that runs.
            let maker = standing.tasks.get(1).map_or(0, |task| task.address);
            // What started the loop waits with a callback of its own.
            let told = |(place, task): (usize, &TaskId)| TaskId {
                number: if own >> place & 1 == 0 { task.number } else { task.number | OWN },
                ..*task
            };
            let wanted = (standing.tasks.iter().enumerate().map(told).collect(), *end);
            let mut found = None;
            let right = standing.becomes(|known| {
                *found.insert(sent_by(&standing.memory, known, standing.thread_pointer, maker)) == wanted
                    && [0, standing.memory.word(known.task_counter)].contains(&standing.youngest)
            });
            assert!(right, "{python:?} {way}: {found:?}, not {wanted:?}");
        }
    }
}

#[test]
fn what_a_loop_inside_of_a_task_runs_is_not_that_tasks() {
    for python in interpreters() {
        let standing = Standing::start(&python, "nested_loop");
        let &[inner, outer] = standing.tasks.as_slice() else { panic!("{:?}", standing.tasks) };
        let mut found = None;
        let right = standing.becomes(|known| {
            *found.insert(sent_by(&standing.memory, known, standing.thread_pointer, outer.address))
                == (vec![inner], chain_end::FOREIGN)
        });
        assert!(right, "{python:?}: {found:?}");
    }
}

#[test]
fn another_task_before_all_has_room_or_the_chain_is_cut() {
    let id = |address| TaskId { address, number: 0 };
    let mut chain = Chain::default();
    for len in 1..=CHAIN_TASKS as u64 + 2 {
        chain.begins_with(id(len));
        let kept = len.min(CHAIN_TASKS as u64);
        assert_eq!(u64::from(chain.len), kept);
        assert!(chain.tasks[..kept as usize].iter().copied().eq((0..kept).map(|n| id(len - n))));
        assert_eq!(chain.end == u32::from(chain_end::CUT), len > CHAIN_TASKS as u64);
    }
}

#[test]
fn real_interpreters_say_what_they_submit() {
    for python in interpreters() {
        let standing = Standing::start(&python, "submits");
        let &[TaskId { address: future, .. }] = standing.tasks.as_slice() else { panic!("{python:?}") };
        let submitted = |known: &PythonProcess| {
            python_thread::submitted(&standing.memory, known, standing.thread_pointer)
        };
        assert!(standing.becomes(|known| submitted(known) == future), "{python:?}");
        let elsewhere = PythonProcess { submit: Default::default(), ..standing.known() };
        assert_eq!(submitted(&elsewhere), 0, "{python:?}: no pool is known");
        // A thread that is elsewhere submits nothing.
        let other = Standing::start(&python, "alone");
        let found = python_thread::submitted(&other.memory, &other.known(), other.thread_pointer);
        assert_eq!(found, 0, "{python:?}");
    }
}

/// A program is examined when it has loaded an event loop, which may be before that has run.
#[test]
fn tasks_are_counted_before_there_is_one() {
    for python in interpreters() {
        let standing = Standing::start(&python, "fresh");
        let counter = standing.known().task_counter;
        assert!(counter != 0 && standing.memory.word(counter) == 0, "{python:?} {counter:#x}");
    }
}

#[test]
fn real_interpreters_say_who_waited_for_bytes() {
    for python in interpreters() {
        for (way, waits) in [("reads", true), ("reads_after", false)] {
            let standing = Standing::start(&python, way);
            let known = standing.known();
            let &[task] = standing.tasks.as_slice() else { panic!("{:?}", standing.tasks) };
            let found = |task| waited(&standing.memory, &known, standing.thread_pointer, task);
            let stands = || standing.child_sleeps();
            assert!(standing.becomes(|_| found(task) == waits && stands()), "{python:?} {way}");
            assert_eq!(found(task), waits, "{python:?} {way}");
            assert!(!found(TaskId { number: task.number + 1, ..task }), "{python:?} {way}: another task");
            assert!(!found(TaskId { address: known.task_type, number: 0 }), "{python:?} {way}: no task");
        }
    }
}

#[test]
fn what_is_not_an_interpreter_is_left_alone() {
    let own = ProcDir::open(Tgid(std::process::id())).unwrap().stat().unwrap();
    let process = ProcessKey { tgid: Tgid(std::process::id()), start_boottime: own.start.0 * 10_000_000 };
    let dir = ProcDir::open(process.tgid).unwrap();
    let memory = ProcessMemory::new(dir.file("mem").unwrap());
    let modules = Modules::of(&dir).unwrap();
    assert!(matches!(cpython::examine(process, &modules, &memory), Finding::Nothing));
    assert!(matches!(greenlet::examine(process, &modules, &memory), Finding::Nothing));
}
