//! The walk to the current greenlet: over the memory of a real program, and over made-up memory, in which anything may be
//! anything.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;
use tracer_abi::greenlet::current;
use tracer_abi::python::{Memory, TaskId};
use tracer_abi::task::Tgid;

use super::super::memory::ProcessMemory;
use super::*;
use crate::process::procfs::ProcDir;

/// Says where its thread is, and which greenlet runs, and stands.
const PROGRAM: &str = "
import ctypes, time
import gevent
libc = ctypes.CDLL(None)
libc.pthread_self.restype = ctypes.c_ulong
def stands():
    print(libc.pthread_self(), id(gevent.getcurrent()), flush=True)
    time.sleep(3600)
gevent.spawn(stands).join()
";

/// Ends with the test.
struct Standing(Child);

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_program_says_which_greenlet_runs() {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", PROGRAM]).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: no Python here");
        return;
    };
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let standing = Standing(child);
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let &[thread, greenlet] = numbers.as_slice() else {
        eprintln!("skipped: no gevent here");
        return;
    };
    let pid = Tgid(standing.0.id());
    let dir = ProcDir::open(pid).unwrap();
    let process = ProcessKey { tgid: pid, start_boottime: dir.stat().unwrap().start.0 * 10_000_000 };
    let finding = super::super::examine(process);
    let Finding::Greenlet(_, known) = finding else { panic!("{finding:?}") };
    let memory = ProcessMemory::new(dir.file("mem").unwrap());
    let wanted = TaskId { address: greenlet, number: greenlet };
    assert_eq!(current(&memory, &known, thread), Some(wanted));
    assert_eq!(current(&memory, &known, thread + 8), None);
    assert_eq!(current(&memory, &GreenletProcess { module: known.module + 50, ..*known }, thread), None);
}

/// Words at addresses. The rest cannot be read.
#[derive(Clone, Debug, Default)]
struct Image(BTreeMap<u64, u64>);

impl Memory for Image {
    fn word(&self, address: u64) -> u64 {
        if address.is_multiple_of(8) { self.0.get(&address).copied().unwrap_or(0) } else { 0 }
    }

    fn half(&self, address: u64) -> u32 {
        (self.word(address & !7) >> (8 * (address & 4))) as u32
    }

    fn byte(&self, address: u64) -> u8 {
        (self.word(address & !7) >> (8 * (address & 7))) as u8
    }
}

const THREAD: u64 = 0x7f00_0000_0000;
const TYPES: u64 = 0x90_0000;
const RUNS: u64 = 0x7f00_0005_0000;

fn image() -> Image {
    let (vector, block, state, first, kind) =
        (0x55_0000_1000, 0x55_0000_2000, 0x55_0000_3000, 0x7f00_0004_0000, 0x7f00_0006_0000);
    let words = [
        (THREAD + 8, vector),
        (vector + 16 * 3, block),
        (block + 8, state),
        (state, first),
        (state + 8, RUNS),
        (first, 2),
        (first + 8, kind),
        (RUNS, 3),
        (RUNS + 8, kind),
        (kind + 8, TYPES),
        (TYPES + 8, TYPES),
    ];
    Image(words.into_iter().collect())
}

fn known() -> GreenletProcess {
    GreenletProcess { module: 3, type_type: TYPES, ..GreenletProcess::default() }
}

#[test]
fn what_is_made_up_is_found() {
    assert_eq!(current(&image(), &known(), THREAD), Some(TaskId { address: RUNS, number: RUNS }));
}

proptest! {
    /// Whatever changes on the way: an object of Python's, or none.
    #[test]
    fn changed_memory_names_no_rubbish(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<bool>()), 1..6),
    ) {
        let mut image = image();
        let places: Vec<u64> = image.0.keys().copied().collect();
        for (at, word, of_image) in changes {
            let value = if of_image { places[word as usize % places.len()] } else { word };
            image.0.insert(places[at.index(places.len())], value);
        }
        if let Some(found) = current(&image, &known(), THREAD) {
            let kind = image.word(found.address + 8);
            prop_assert!(image.half(found.address) > 0 && kind != 0);
            let of_kind = image.word(kind.wrapping_add(8));
            prop_assert!(of_kind == TYPES || image.word(of_kind.wrapping_add(8)) == TYPES);
        }
    }
}
