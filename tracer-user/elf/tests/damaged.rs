//! Real programs and libraries that are damaged, and files that claim to be enormous: looking at one neither panics nor
//! takes long, nor more memory than its size allows.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tracer_elf::Library;

/// What one look may take, on a machine that does other things besides, of code that is not optimized.
const MAX_TIME: Duration = Duration::from_secs(20);

/// What it may hold at a time, beside what it reads of the file: that is read in parts, none of which is kept for long.
const MAX_BYTES: usize = 8 << 20;

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn holds(more: usize, less: usize) {
    HELD.set(HELD.get().saturating_add(more).saturating_sub(less));
    MOST.set(MOST.get().max(HELD.get()));
}

// SAFETY: everything is the system's allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        holds(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        holds(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        holds(0, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        holds(size, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Looks at a file in every way, and says how much it held at most.
fn look(path: &Path) -> usize {
    let open = || File::open(path).expect("a file");
    let begun = Instant::now();
    let before = HELD.get();
    MOST.set(before);
    let len = open().metadata().expect("a file").len();
    let found = [
        Library::inside(open(), path).ok().flatten(),
        Library::open(open(), Some(&open()), path).ok(),
        Library::boringssl(open(), path).ok(),
        Library::gnutls(open(), path).ok(),
    ];
    for point in found.iter().flatten().flat_map(|library| &library.points) {
        assert!(point.offset < len, "{point}");
    }
    drop(found);
    let took = begun.elapsed();
    assert!(took < MAX_TIME, "{took:?}");
    MOST.get() - before
}

/// Looks at the file damaged, `cases` times: each time some of its bytes are others, most of them where its tables are.
fn damage(path: &Path, cases: u32) {
    let whole = std::fs::read(path).expect("a file");
    let file = OpenOptions::new().write(true).open(path).expect("a file");
    // Headers, the program's variables and tables, and code are all within these of any of its sections' beginnings.
    let near = beginnings(&whole);
    assert!(near.len() > 4, "{near:?}");
    let place = prop_oneof![
        0_usize..0x400,
        (0..near.len(), 0_usize..0x200).prop_map({
            let near = near.clone();
            move |(section, inside)| near[section] + inside
        }),
        0..whole.len(),
    ];
    let value = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f)];
    let changes = prop::collection::vec((place, value, 1_usize..9), 1..12);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&changes, |changes| {
        for (at, value, len) in &changes {
            let end = whole.len().min(at + len);
            if *at < end {
                file.write_all_at(&vec![*value; end - at], *at as u64).expect("a file");
            }
        }
        let held = look(path);
        for (at, _, len) in &changes {
            let end = whole.len().min(at + len);
            if *at < end {
                file.write_all_at(&whole[*at..end], *at as u64).expect("a file");
            }
        }
        // Two files at a time, of each its table of symbols and their names.
        prop_assert!(held <= 2 * whole.len() + MAX_BYTES, "{held} bytes of {}", whole.len());
        Ok(())
    });
    result.expect("a look");
}

/// Where a file's sections are, as its undamaged header says.
fn beginnings(elf: &[u8]) -> Vec<usize> {
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().expect("eight bytes")) as usize;
    let count = usize::from(u16::from_le_bytes([elf[0x3c], elf[0x3d]]));
    let table = word(0x28);
    let sections = (0..count).map(|n| word(table + 64 * n + 24));
    sections.chain([table]).filter(|at| at + 0x200 < elf.len()).collect()
}

/// A copy in a folder of the test's.
fn copy(dir: &Path, of: &str) -> PathBuf {
    let path = dir.join("copy");
    std::fs::copy(of, &path).expect("a file");
    path
}

#[test]
fn a_damaged_library_is_survived() {
    let dir = tempfile::tempdir().expect("a file");
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/elf/");
    for name in ["library", "gnutls"] {
        damage(&copy(dir.path(), &format!("{corpus}{name}")), 1000);
    }
}

#[test]
fn a_damaged_program_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("program.c");
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let program = dir.path().join("program");
    let built = Command::new("cc").arg("-o").args([&program, &source]).status();
    assert!(built.is_ok_and(|status| status.success()), "Rust programs are linked by it");
    damage(&program, 300);
}

/// With its symbols, and with Go's own table only.
#[test]
fn a_damaged_program_of_go_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let source =
        "package main\n\nimport \"net/http\"\n\nfunc main() {\n\thttp.Get(\"https://127.0.0.1:1\")\n}\n";
    std::fs::write(dir.path().join("program.go"), source).unwrap();
    for flags in [&[][..], &["-ldflags=-s -w"]] {
        let mut go = Command::new("go");
        go.args(["build", "-o", "program"]).args(flags).arg("program.go").current_dir(dir.path());
        if !go.env("GOPROXY", "off").status().is_ok_and(|status| status.success()) {
            eprintln!("there is no Go on this host");
            return;
        }
        damage(&dir.path().join("program"), 30);
    }
}

/// Each place costs the kernel: one that returns wherever it is looked at gets no probe.
#[test]
fn a_library_that_is_nothing_but_ends_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("library.c");
    let code = |name: &str| format!("void {name}(void) {{ asm(\".fill 8000, 1, 0xc3\"); }}\n");
    std::fs::write(&source, ["SSL_read", "SSL_write", "SSL_free"].map(code).concat()).unwrap();
    let library = dir.path().join("library.so");
    let built = Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(built.is_ok_and(|status| status.success()), "Rust programs are linked by it");
    let error = Library::open(File::open(&library).unwrap(), None, &library).unwrap_err();
    assert!(error.to_string().contains("more places"), "{error:#}");
}

/// A file may claim to be as long as a file system allows, and take no room at all.
#[test]
fn a_file_that_is_empty_and_enormous_is_refused() {
    const LEN: u64 = 1 << 40;
    let dir = tempfile::tempdir().unwrap();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/elf/library");
    let whole = std::fs::read(corpus).unwrap();
    let table = u64::from_le_bytes(whole[0x28..0x30].try_into().unwrap());
    let sections = u64::from(u16::from_le_bytes([whole[0x3c], whole[0x3d]]));
    let sizes = (0..sections).map(|n| (table + 64 * n + 32, (1_u64 << 36).to_le_bytes().to_vec()));
    // Each section's size; how many there are, by a number that may be any; how many segments, in the same way.
    let many = [vec![(0x3c, vec![0; 2]), (table + 32, (1_u64 << 30).to_le_bytes().to_vec())]];
    let segments = [vec![(0x38, vec![0xff; 2]), (table + 44, vec![0xff; 4])]];
    for changes in sizes.map(|change| vec![change]).chain(many).chain(segments) {
        let path = copy(dir.path(), corpus);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(LEN).unwrap();
        for (at, bytes) in &changes {
            file.write_all_at(bytes, *at).unwrap();
        }
        let held = look(&path);
        assert!(held <= MAX_BYTES, "{held} bytes after {changes:x?}");
    }
}
