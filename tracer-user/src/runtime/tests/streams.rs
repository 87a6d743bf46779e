//! uvloop's connections: of real interpreters that have them, and made up.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;
use tracer_abi::python::{Memory, PythonProcess, Scratch, TaskId};
use tracer_abi::python_chain::Chain;
use tracer_abi::python_streams::{Stream, Written};
use tracer_abi::python_suspended::{MAX_AWAITS, Suspended};
use tracer_abi::task::{ProcessKey, Tgid};

use super::image::{Change, Image, change};
use super::interpreters;
use crate::process::procfs::ProcDir;
use crate::runtime::memory::ProcessMemory;
use crate::runtime::{Code, Finding, PythonLoop, examine};

/// A task waits for the bytes of a connection: its task, the connection and the descriptor; and those of one of the other kind.
const SCRIPT: &str = r#"
import asyncio, importlib, os, sys, tempfile

async def waits(reader, writer):
    transport = writer.transport
    descriptor = transport.get_extra_info("socket").fileno()
    task = asyncio.current_task()
    said.append((id(task), task.get_name().removeprefix("Task-"), id(transport), descriptor))
    if len(said) == 2:
        asyncio.get_running_loop().call_later(0.1, lambda: print(*(word for line in said for word in line), flush=True))
    await reader.readexactly(5)

said = []

async def main():
    path = tempfile.mkdtemp() + "/socket"
    server = await asyncio.start_server(waits, "127.0.0.1", 0)
    local = await asyncio.start_unix_server(waits, path)
    one = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.1)
    other = await asyncio.open_unix_connection(path)
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    await asyncio.sleep(1000)

library = importlib.import_module(sys.argv[1])
if hasattr(library, "install"):
    library.install()
asyncio.run(main())
"#;

struct Waiting {
    child: Child,
    process: ProcessKey,
    memory: ProcessMemory,
    /// Of each connection: the task, the connection, the descriptor.
    connections: Vec<(TaskId, u64, u32)>,
}

impl Waiting {
    /// `None`: it has no such library.
    fn start(python: &PathBuf, library: &str) -> Option<Self> {
        let mut child = Command::new(python)
            .args(["-W", "ignore", "-c", SCRIPT, library])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<u64> = line.split_ascii_whitespace().map(|word| word.parse().unwrap()).collect();
        if words.is_empty() {
            child.wait().unwrap();
            eprintln!("skipped: {python:?} has no {library}");
            return None;
        }
        let connections = words.chunks_exact(4).map(|words| {
            let &[address, number, transport, descriptor] = words else { unreachable!("chunks of four") };
            (TaskId { address, number }, transport, descriptor as u32)
        });
        let connections = connections.collect();
        let dir = ProcDir::open(Tgid(child.id())).unwrap();
        let start_boottime = dir.stat().unwrap().start.0 * 10_000_000;
        let process = ProcessKey { tgid: Tgid(child.id()), start_boottime };
        let memory = ProcessMemory::new(dir.file("mem").unwrap());
        Some(Self { child, process, memory, connections })
    }

    fn examine(&self) -> (PythonProcess, Option<Result<Code, &'static str>>) {
        let finding = examine(self.process);
        let Finding::Python(_, known, PythonLoop { writes, .. }) = finding else { panic!("{finding:?}") };
        (*known, writes)
    }

    fn reads(&self, known: &PythonProcess, task: TaskId) -> Option<u32> {
        // Its kind is told with its number.
        let mut scratch = Scratch::default();
        let mut chain = Chain::default();
        chain.begin_at(&self.memory, task.address, &mut scratch);
        chain.begin(&self.memory, known, &mut scratch);
        let mut suspended = Suspended::begin(&self.memory, known, chain.tasks[0], &mut scratch)?;
        for _ in 0..MAX_AWAITS {
            if !suspended.step(&self.memory, known) {
                break;
            }
        }
        suspended.reads(&self.memory, known).map(|stream| stream.descriptor)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn real_connections_say_which_socket_they_are() {
    for python in interpreters() {
        let Some(waiting) = Waiting::start(&python, "uvloop") else { continue };
        let (known, writes) = waiting.examine();
        let code = writes.expect("uvloop is loaded").expect("a place for a probe");
        assert_eq!(code.offsets.len(), 2, "{python:?}: write and writelines");
        assert_eq!(waiting.connections.len(), 2);
        for (task, connection, descriptor) in &waiting.connections {
            let stream = Stream::of(&waiting.memory, &known, *connection);
            let wanted = Stream { descriptor: *descriptor, is_behind: false };
            assert_eq!(stream, Some(wanted), "{python:?}");
            assert_eq!(waiting.reads(&known, *task), Some(*descriptor), "{python:?}");
        }
        let (task, _, _) = waiting.connections[0];
        assert_eq!(Stream::of(&waiting.memory, &known, task.address), None, "{python:?}: a task is none");
        assert_eq!(Stream::of(&waiting.memory, &known, 0), None);
    }
}

#[test]
fn a_loop_that_sends_at_once_is_not_taken_for_another() {
    for python in interpreters() {
        let Some(waiting) = Waiting::start(&python, "asyncio") else { continue };
        let (known, writes) = waiting.examine();
        assert!(writes.is_none() && known.stream_types == [0; 2], "{python:?}");
        for (task, connection, _) in &waiting.connections {
            assert_eq!(Stream::of(&waiting.memory, &known, *connection), None);
            assert_eq!(waiting.reads(&known, *task), None, "{python:?}");
        }
    }
}

const CONNECTION: u64 = 0x2a00;
const LOCAL: u64 = 0x2b00;

fn known() -> PythonProcess {
    PythonProcess { stream_types: [CONNECTION, LOCAL], ..PythonProcess::default() }
}

/// A connection with this descriptor.
fn connection(image: &mut Image, kind: u64, descriptor: u32) -> u64 {
    let (object, handle) = (image.object(kind), image.object(0));
    image.put(object + 24, handle);
    image.put(handle, object);
    image.put(handle + 16, if kind == LOCAL { 7 } else { 12 });
    image.put(handle + 184, descriptor.into());
    object
}

#[test]
fn what_waits_for_the_other_end_is_seen() {
    let mut image = Image::default();
    let object = connection(&mut image, LOCAL, 9);
    assert_eq!(Stream::of(&image, &known(), object), Some(Stream { descriptor: 9, is_behind: false }));
    let handle = image.word(object + 24);
    image.put(handle + 96, 70_000);
    assert_eq!(Stream::of(&image, &known(), object), Some(Stream { descriptor: 9, is_behind: true }));
    assert_eq!(Stream::of(&image, &PythonProcess::default(), object), None, "no uvloop");
}

proptest! {
    /// One wrong word never makes it another connection's socket, unless it is the one that says which it is, or what is asked
    /// of.
    #[test]
    fn one_wrong_word_is_no_other_socket(change in change()) {
        let mut image = Image::default();
        let [own, other] = [9, 1009].map(|descriptor| connection(&mut image, CONNECTION, descriptor));
        let handle = image.word(own + 24);
        image.change(&change, |at| at != handle + 184);
        let found = Stream::of(&image, &known(), own);
        prop_assert!(found.is_none_or(|found| found.descriptor == 9), "{found:?} by {change:?} ({other:#x})");
    }

    /// Whatever is written, and wherever it is sent from: only the first writer of what is sent at once is named, and only if
    /// nobody else has written that.
    #[test]
    fn who_has_written_is_the_only_one(writes in prop::collection::vec((0..3_u64, 0..3_u32, any::<bool>()), 1..12)) {
        let stream = |is_behind| Stream { descriptor: 3, is_behind };
        let mut note: Option<Written> = None;
        let mut since = Vec::new();
        for (writer, seq, is_behind) in writes {
            let task = TaskId { address: writer, number: writer };
            if !note.as_mut().is_some_and(|note| note.goes_on(task, seq)) {
                let mut chain = Chain::default();
                chain.len = u32::from(writer != 0);
                chain.tasks[0] = task;
                note.get_or_insert_default().begin(&chain, seq, stream(is_behind));
                since = vec![(task, is_behind)];
            } else {
                since.push((task, is_behind));
            }
            let named = note.filter(|note| note.chain.len != 0).map(|note| note.chain.tasks[0]);
            let (first, behind) = since[0];
            let alone = !behind && first.address != 0 && since.iter().all(|(other, _)| *other == first);
            prop_assert_eq!(named, alone.then_some(first));
        }
    }
}

#[test]
fn changes_are_changes() {
    // What the property above rests on: a change reaches the words of a connection.
    let mut image = Image::default();
    let own = connection(&mut image, CONNECTION, 9);
    let handle = image.word(own + 24);
    image.change(&Change::Any(0, 77), |at| at == handle);
    assert_eq!(Stream::of(&image, &known(), own), None);
}
