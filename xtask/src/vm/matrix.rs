//! Which tests run under every kernel: enough to prove each way of capture, few enough for an emulated processor.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};

use tracer_tests::service;

use crate::exec::Interrupt;
use crate::repo::Repo;
use crate::test::{Tally, binaries};
use crate::vm::kernel::{Kernel, Series};
use crate::vm::machine::{self, Job, Outcome};

/// A machine's whole share of a test run: twice what it takes on two idle processors.
const LIMIT: Duration = Duration::from_secs(16 * 60);

/// One way of capture, and what proves it: test targets and the filters of their tests; no filter: all of them.
struct Pass {
    rung: &'static str,
    tests: &'static [(&'static str, &'static [&'static str])],
}

/// Everything that depends on the kernel, once per kernel.
const WHOLE: &[(&str, &[&str])] = &[
    ("kernel_half", &[]),
    ("http_cases", &["bodies", "endings", "message_forms", "transports"]),
    ("http2", &["frames_in_pieces", "long_bodies"]),
    // What is read of runtimes depends on the kernel's helpers.
    ("runtimes", &["go_on_one_processor", "python_asyncio"]),
    // Probes are attached one by one before 6.10.
    ("tls", &["python_asks_nginx", "asyncio_asks_asyncio"]),
    ("demo", &[]),
    ("topology", &[]),
    // Nowhere else: it traces every process, and only here are all of them its own.
    ("host_wide", &[]),
];

/// What depends on the rung: each kind of operation on each kind of socket.
const OPERATIONS: &[(&str, &[&str])] = &[
    ("kernel_half", &["calls"]),
    ("http_cases", &["transports"]),
    ("http2", &["frames"]),
    ("topology", &["unix"]),
];

/// Every rung that the kernel has, the one that it uses by itself first.
fn passes(series: Series) -> &'static [Pass] {
    match series {
        Series::V6_1 => &[Pass { rung: "B", tests: WHOLE }],
        Series::V6_12 => &[Pass { rung: "A", tests: WHOLE }, Pass { rung: "B", tests: OPERATIONS }],
    }
}

/// Test programs that every machine runs.
#[derive(Debug)]
pub(crate) struct Tests {
    programs: BTreeMap<String, PathBuf>,
}

impl Tests {
    /// Builds them here; the machines have no compiler.
    pub(crate) fn build(repo: &Repo) -> anyhow::Result<Self> {
        let mut cargo = repo.cargo();
        cargo.args(["test", "--package", "tracer-tests", "--features", "e2e"]);
        service::go_service().context("build the service in Go")?;
        Ok(Self { programs: binaries::build(cargo)? })
    }

    fn script(&self, repo: &Repo, series: Series) -> anyhow::Result<String> {
        let mut script = format!("export TRACER_BIN='{}'\nfailed=0\n", repo.tracer().display());
        script
            .push_str("export TRACER_TESTS_OWN_MACHINE=1 TRACER_TESTS_VOLUME=0.2 TRACER_TESTS_SLOWNESS=10\n");
        script.push_str("\"$TRACER_BIN\" doctor || failed=1\n");
        for Pass { rung, tests } in passes(series) {
            writeln!(script, "export TRACER_TESTS_RUNG={rung}")?;
            for (name, filters) in *tests {
                let program =
                    self.programs.get(*name).with_context(|| format!("no test target {name} was built"))?;
                writeln!(script, "echo '-- rung {rung}: {name}'; begun=$(date +%s)")?;
                // One at a time: the emulated processor is slow, and tests wait for programs with a deadline.
                write!(script, "'{}' --color never --test-threads 1", program.display())?;
                for filter in *filters {
                    write!(script, " '{filter}'")?;
                }
                script.push_str(" || failed=1\n");
                writeln!(script, "echo \"-- rung {rung}: {name} took $(($(date +%s) - begun)) s\"")?;
            }
        }
        script.push_str("exit $failed\n");
        Ok(script)
    }
}

/// Runs the tests under one kernel. A machine that ends badly without a failed test counts as one failure.
pub(crate) fn run(
    repo: &Repo,
    series: Series,
    newest: bool,
    tests: &Tests,
    interrupt: &Interrupt,
) -> anyhow::Result<Tally> {
    let kernel = Kernel::obtain(repo, series, newest)?;
    println!("== {} ({})", series.name(), kernel.package);
    let job = Job { script: tests.script(repo, series)?, limit: LIMIT };
    let mut tally = Tally::default();
    let outcome = machine::run(repo, &kernel, &job, interrupt, |line| tally.line(line))?;
    if outcome == Outcome::Interrupted {
        bail!("interrupted");
    }
    if outcome.is_unexplained() {
        eprintln!("{}", machine::console_tail(repo, &kernel));
    }
    if outcome != Outcome::Exited(0) {
        println!("{}: {outcome}", series.name());
        tally.failed = tally.failed.max(1);
    }
    Ok(tally)
}
