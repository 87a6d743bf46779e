//! Real programs of all sorts under load, briefly: not one parent may be wrong. How many are right is measured by
//! `cargo xtask accuracy`, with loads from 1 to 64 and many more edges; here it is only noticed when parents are gone that
//! nothing but their way to be found can take away.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Once;

use tracer_tests::accuracy::workloads::{Class, Workload, all};
use tracer_tests::accuracy::{Cell, Effort, measure_with};
use tracer_tests::service::NotFetched;
use tracer_tests::{scale, tracer};

/// Requests at a time: as many as the smaller pools have threads, and more than the smallest queues hold.
const LOAD: usize = 16;

/// Edges per program.
const EDGES: usize = 200;

const RUNTIMES: [&str; 9] = ["nginx", "python", "java", "node", "go", "rust", "ruby", "php", "shell"];

/// Measures all programs of a runtime, those that deceive apart.
fn programs(runtime: &str, deceivers: bool) {
    let binary = tracer::binary().expect("tracer");
    let effort = Effort { min_edges: scale::count(EDGES), seeds: 1 };
    let mut failures = Vec::new();
    for workload in all() {
        if workload.runtime != runtime || (workload.class == Class::Adversarial) != deceivers {
            continue;
        }
        let mut notes = Vec::new();
        let note = |note: &str| notes.push(note.to_owned());
        let cell =
            measure_with(&binary, &NO_RESTS, &workload, LOAD, effort, false, note).map(|(cell, _)| cell);
        let cell = match cell {
            Err(error) if error.downcast_ref::<NotFetched>().is_some() => {
                let _ = writeln!(std::io::stderr(), "skipped: {}: {error:#}", workload.name());
                continue;
            }
            cell => cell.unwrap_or_else(|error| panic!("{}: {error:#}", workload.name())),
        };
        print_row(&cell);
        if cell.wrong() > 0 {
            failures.push(format!("wrong: {cell}\n{}", notes.join("\n")));
        }
        let floor = floor(&workload, &cell);
        if cell.in_process.recall_percent() < floor {
            failures.push(format!("less than {floor} %: {cell}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// So that nothing keeps a runtime from being asked but that it cannot be.
const NO_RESTS: [&str; 2] = ["--identity-budget", "100"];

/// Loops that reach no goal, of which one way to find parents alone finds a half of them or all: tasks that begin while they
/// are made, long chains of coroutines, threads of pools.
const IN_NO_CLASS: [&str; 9] = [
    "aiohttp",
    "FastAPI, def",
    "FastAPI, mixed",
    "executor, tasks",
    "uvloop, executor",
    "3.14, aiohttp",
    "3.14, FastAPI",
    "3.14, FastAPI, uvloop",
    "3.14, executor",
];

/// How many parents in a hundred are found whatever else the machine does.
fn floor(workload: &Workload, cell: &Cell) -> usize {
    match workload.class {
        Class::ThreadPerRequest | Class::ProcessPerRequest | Class::Proxy | Class::SubmitAndWait => {
            cell.goal.div_ceil(2)
        }
        Class::EventLoop if workload.runtime == "python" => 75,
        Class::Reported if IN_NO_CLASS.contains(&workload.model) => 75,
        Class::EventLoop | Class::Reported => 0,
        Class::ServerWithPools | Class::FanOut | Class::Adversarial => 0,
    }
}

/// Prints to standard error itself, which the test harness does not hold back: the table is of interest when all is
/// well, too.
fn print_row(cell: &Cell) {
    static HEADER: Once = Once::new();
    HEADER.call_once(|| {
        let _ = writeln!(std::io::stderr(), "{}", Cell::header());
    });
    let _ = writeln!(std::io::stderr(), "{cell}");
}

#[test]
fn nginx_is_never_wrong() {
    programs("nginx", false);
}

#[test]
fn python_is_never_wrong() {
    programs("python", false);
}

#[test]
fn python_that_deceives_is_never_wrong() {
    programs("python", true);
}

#[test]
fn java_is_never_wrong() {
    programs("java", false);
}

#[test]
fn java_that_deceives_is_never_wrong() {
    programs("java", true);
}

#[test]
fn node_is_never_wrong() {
    programs("node", false);
}

#[test]
fn go_is_never_wrong() {
    programs("go", false);
}

#[test]
fn go_that_deceives_is_never_wrong() {
    programs("go", true);
}

#[test]
fn rust_is_never_wrong() {
    programs("rust", false);
}

#[test]
fn rust_that_deceives_is_never_wrong() {
    programs("rust", true);
}

#[test]
fn ruby_is_never_wrong() {
    programs("ruby", false);
}

#[test]
fn ruby_that_deceives_is_never_wrong() {
    programs("ruby", true);
}

#[test]
fn php_is_never_wrong() {
    programs("php", false);
}

#[test]
fn shell_scripts_are_never_wrong() {
    programs("shell", false);
}

#[test]
fn no_runtime_is_left_out() {
    let known: BTreeSet<&str> = RUNTIMES.into();
    assert_eq!(all().iter().map(|workload| workload.runtime).collect::<BTreeSet<_>>(), known);
    let deceivers = all().into_iter().filter(|workload| workload.class == Class::Adversarial);
    assert!(
        deceivers
            .map(|workload| workload.runtime)
            .all(|runtime| ["go", "python", "java", "ruby", "rust"].contains(&runtime))
    );
}

/// Asking costs these some percent of their time, which is more than they are allowed here: they are asked, left alone, and
/// asked again.
#[test]
fn who_is_asked_for_a_part_of_the_time_only_is_never_wrong() {
    let binary = tracer::binary().expect("tracer");
    for (name, percent, edges, told) in [
        ("asyncio", "1", 16_000, "its tasks are known"),
        ("pool", "0.5", 16_000, "what its threads wait for is known"),
    ] {
        let workload = all().into_iter().find(|of| of.runtime == "python" && of.model == name).expect(name);
        let effort = Effort { min_edges: scale::count(edges), seeds: 1 };
        let options = ["--identity-budget", percent, "-v"];
        let measured = measure_with(&binary, &options, &workload, LOAD, effort, false, |_| {});
        let (cell, log) = measured.expect("measured");
        print_row(&cell);
        assert_eq!(cell.wrong(), 0, "{cell}");
        let (before, _) = log.split_once(&format!(" that it ran, more than {percent} %")).expect(&log);
        let pid =
            before.rsplit("process ").next().and_then(|begin| begin.split(':').next()).expect("a process");
        let known =
            log.lines().filter(|line| line.contains(&format!("process {pid}: ")) && line.ends_with(told));
        assert!(known.count() > 1, "{log}");
    }
}
