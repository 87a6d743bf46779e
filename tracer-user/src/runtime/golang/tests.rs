//! The walks through Go's memory: over that of real programs of every version that this machine has, and over made-up
//! memory, in which anything may be anything.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;
use tracer_abi::golang::{Connection, MAX_STACK_WORDS, Waiter, last_number, running, unused};
use tracer_abi::python::{Memory, TaskId};
use tracer_abi::task::Tgid;

use super::super::memory::ProcessMemory;
use super::*;
use crate::process::procfs::ProcDir;

/// A goroutine that main starts calls a server that never answers.
const PROGRAM: &str = r#"
package main

import (
	"fmt"
	"net"
	"net/http"
	"time"
)

func main() {
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	go func() {
		http.Get("http://" + listener.Addr().String())
	}()
	conn, _ := listener.Accept()
	conn.Read(make([]byte, 1))
	time.Sleep(100 * time.Millisecond)
	fmt.Println("stands")
	time.Sleep(time.Hour)
}
"#;

/// Ends with the test.
pub(super) struct Standing(pub(super) Child);

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who waits for the call of a goroutine's connection, as the kernel half finds out.
fn waiter(memory: &impl Memory, known: &GoProcess, goroutine: TaskId) -> Option<Waiter> {
    let mut connection = Connection::begin(memory, goroutine);
    for _ in 0..MAX_STACK_WORDS {
        if !connection.step(memory, known) {
            break;
        }
    }
    connection.waiter(memory, known)
}

/// Builds the program with a version, if that is here: nothing is downloaded.
pub(super) fn build(dir: &Path, version: &str, flags: &[&str]) -> bool {
    let mut command = Command::new("go");
    command.args(["build", "-o", "program"]).args(flags).arg("program.go").current_dir(dir);
    command.env("GOTOOLCHAIN", version).env("GOPROXY", "off").stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn check(dir: &Path) {
    let mut child = Command::new(dir.join("program")).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let standing = Standing(child);
    let pid = Tgid(standing.0.id());
    let dir = ProcDir::open(pid).unwrap();
    let process = ProcessKey { tgid: pid, start_boottime: dir.stat().unwrap().start.0 * 10_000_000 };
    let finding = super::super::examine(process);
    let Finding::Go(name, known) = finding else { panic!("{finding:?}") };
    let memory = ProcessMemory::new(dir.file("mem").unwrap());

    let place = writable(&memory, Modules::of(&dir).unwrap().executable().unwrap()).unwrap();
    let text = version_text(&memory, place).unwrap();
    let minor = text.split('.').nth(1).unwrap().parse::<u8>().unwrap();
    let go = Go { memory: &memory, version: VERSIONS.iter().find(|version| version.minor == minor).unwrap() };
    let variables = Variables::read(&memory, place);
    let all = variables.slices().find(|slice| go.are_goroutines(slice)).unwrap();
    let goroutines: Vec<TaskId> = (0..all.len)
        .map(|place| memory.word(all.first + 8 * place))
        .map(|address| TaskId { address, number: go.word(address, known.layout.number) })
        // Those that have ended have no stack.
        .filter(|goroutine| goroutine.number != 0 && memory.word(goroutine.address + 8) != 0)
        .collect();
    let waiters: Vec<Waiter> =
        goroutines.iter().filter_map(|goroutine| waiter(&memory, &known, *goroutine)).collect();
    // One goroutine of the connection reads, the other writes.
    let &[one, other] = waiters.as_slice() else { panic!("{name}: {waiters:?}") };
    assert_eq!(one, other, "{name}");
    assert_eq!(one.parent, 1, "{name}");
    assert!(goroutines.contains(&one.task) && one.started_at != 0, "{name}: {one:?}");
    for goroutine in &goroutines {
        let (low, high) = (memory.word(goroutine.address), memory.word(goroutine.address + 8));
        assert_eq!(running(&memory, &known, goroutine.address, high - 64), Some(*goroutine), "{name}");
        assert_eq!(running(&memory, &known, goroutine.address, low), None, "{name}");
    }

    let last = last_number(&memory, &known);
    let most = goroutines.iter().map(|goroutine| goroutine.number).max().unwrap();
    assert!(last >= most && last < most + 1000, "{name}: {last} for {most}");
    for index in 0..MAX_PROCESSORS {
        let (first, count) = (unused(&memory, &known, index) >> 8, unused(&memory, &known, index) & 0xff);
        let taken = goroutines.iter().any(|goroutine| (first..first + count).contains(&goroutine.number));
        assert!(!taken && first + count <= last + 1, "{name}: {first} and {count} more");
    }
}

#[test]
fn real_programs_say_who_waits_for_a_call() {
    let dir = std::env::temp_dir().join(format!("tracer-go-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("program.go"), PROGRAM).unwrap();
    let mut built = 0;
    for version in ["go1.22.12", "go1.23.12", "go1.24.13", "go1.25.5", "local", "go1.27.3"] {
        for flags in [&[][..], &["-ldflags=-s -w"], &["-ldflags=-s -w", "-buildmode=pie"]] {
            if build(&dir, version, flags) {
                built += 1;
                check(&dir);
            }
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
    if built == 0 {
        eprintln!("skipped: no Go here");
    }
}

#[test]
fn what_is_not_go_is_left_alone() {
    let pid = Tgid(std::process::id());
    let dir = ProcDir::open(pid).unwrap();
    let memory = ProcessMemory::new(dir.file("mem").unwrap());
    let process = ProcessKey { tgid: pid, start_boottime: 0 };
    assert!(matches!(examine(process, &Modules::of(&dir).unwrap(), &memory), Finding::Nothing));
}

/// Words at addresses. The rest cannot be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Image(pub(super) BTreeMap<u64, u64>);

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

const RUNS: u64 = 0xc0_0001_0000;
const WAITS: u64 = 0xc0_0002_0000;

fn known() -> GoProcess {
    let processors = 0x60_0000;
    GoProcess { processors, scheduler: 0x61_0000, layout: VERSIONS[4].layout, ..GoProcess::default() }
}

/// As 1.26 has it.
fn image() -> Image {
    let mut image = Image::default();
    let mut put = |address: u64, words: &[(u64, u64)]| {
        image.0.extend(words.iter().map(|(offset, word)| (address + offset, *word)));
    };
    let (connection, requests, writes, buffer, responses, waits) =
        (0xc0_0003_0000, 0xc0_0004_0000, 0xc0_0005_0000, 0xc0_0006_0000, 0xc0_0007_0000, 0xc0_0008_0000);
    put(RUNS, &[(0, 0xc0_0010_0000), (8, 0xc0_0010_0800), (152, 21)]);
    put(0xc0_0010_0800 - 56, &[(0, connection)]);
    put(connection, &[(128, requests), (136, writes)]);
    put(requests, &[(0, 1), (8, 1), (16, buffer), (24, 40)]);
    put(writes, &[(8, 1), (24, 24)]);
    put(buffer, &[(8, responses)]);
    put(responses, &[(24, 24), (64, waits)]);
    put(waits, &[(0, WAITS)]);
    put(WAITS, &[(0, 0xc0_0020_0000), (8, 0xc0_0020_0800), (144, 4), (152, 33), (280, 11), (288, 0x48_0000)]);
    put(0x60_0000, &[(0, 0xc0_0030_0000), (8, 2)]);
    put(0xc0_0030_0000, &[(0, 0xc0_0031_0000), (8, 0xc0_0032_0000)]);
    put(0xc0_0031_0000, &[(384, 34), (392, 49)]);
    put(0xc0_0032_0000, &[(384, 65), (392, 65)]);
    put(0x61_0000, &[(0, 64)]);
    image
}

#[test]
fn what_is_made_up_is_found() {
    let (image, known) = (image(), known());
    let runs = running(&image, &known, RUNS, 0xc0_0010_0700).unwrap();
    let found = waiter(&image, &known, runs).unwrap();
    let task = TaskId { address: WAITS, number: 33 };
    assert_eq!(found, Waiter { task, parent: 11, started_at: 0x48_0000 });
    assert_eq!(last_number(&image, &known), 64);
    assert_eq!([0, 1, 2].map(|index| unused(&image, &known, index)), [34 << 8 | 15, 0, 0]);
}

proptest! {
    /// Whatever changes on the way, it ends, and with the goroutine that waits or none.
    #[test]
    fn changed_memory_names_nobody_else(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<bool>()), 1..6),
    ) {
        let (mut image, known) = (image(), known());
        let places: Vec<u64> = image.0.keys().copied().collect();
        for (at, word, of_image) in changes {
            // Some of the words lead from one object into the midst of another.
            let value = if of_image { places[word as usize % places.len()] } else { word };
            image.0.insert(places[at.index(places.len())], value);
        }
        if let Some(runs) = running(&image, &known, RUNS, 0xc0_0010_0700)
            && let Some(found) = waiter(&image, &known, runs)
        {
            prop_assert_eq!(found.task.address, WAITS);
        }
        for index in 0..4 {
            let cache = unused(&image, &known, index);
            prop_assert!(cache & 0xff <= CACHE_NUMBERS);
        }
    }
}
