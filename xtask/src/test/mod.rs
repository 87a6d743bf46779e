//! `cargo xtask test`: set up, build, run every test, and print how many passed and failed as the last line.
//!
//! Each step runs even if one before it failed, as long as what it needs was built: one run shows all that is wrong.

pub(crate) mod binaries;
mod tally;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::backends::{self, Backend};
use crate::exec::{self, Ended, Interrupt};
use crate::repo::Repo;
use crate::setup::{self, Group};
use crate::{build, vm};
pub(crate) use tally::Tally;

/// Every step has this long; the longest, on a fresh machine with two processors, compiles everything first.
const STEP_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Set up, run every test, and print how many passed and failed
///
/// Tests that need root run only as root; what is left out is said. The last line is always `N passed, N failed`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = "Example: cargo xtask test --only unit")]
pub(crate) struct Options {
    /// Run only these steps
    #[arg(long, value_enum)]
    only: Vec<Step>,
    /// Take the machine as it is
    #[arg(long)]
    no_setup: bool,
}

/// The parts of a whole run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// Everything that needs neither root nor the kernel half
    Unit,
    /// What Jaeger and the OpenTelemetry Collector make of the spans
    Backends,
    /// Real programs on this machine's kernel
    E2e,
    /// Real programs under other kernels
    Vm,
}

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> ExitCode {
    let started = Instant::now();
    let mut report = Report::default();
    steps(repo, options, interrupt, &mut report);
    report.print(started.elapsed());
    if report.total.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn steps(repo: &Repo, options: &Options, interrupt: &Interrupt, report: &mut Report) {
    let wants = |step| options.only.is_empty() || options.only.contains(&step);
    let root = rustix::process::geteuid().is_root();
    if !options.no_setup {
        report.prerequisite("set-up", setup::prepare(repo, &[Group::Build, Group::Demo, Group::Test]));
    }
    let built = report.prerequisite("build", build::run(repo, &build::Options::default()));
    if wants(Step::Unit) {
        let mut cargo = repo.cargo();
        cargo.args(["test", "--workspace", "--exclude", "tracer-ebpf", "--no-fail-fast"]);
        report.step("unit tests", cargo, interrupt);
    }
    let backends = wants(Step::Backends) || (wants(Step::E2e) && root);
    let backends = backends && build_backends(repo, report);
    if wants(Step::Backends) && backends {
        let mut cargo = repo.cargo();
        cargo.args(["test", "--package", "tracer", "--bin", "tracer", "backend_tests", "--", "--ignored"]);
        report.step("backend tests", with_backends(cargo, repo), interrupt);
    }
    if wants(Step::E2e) {
        if !root {
            report.skip("end-to-end tests: they need root");
        } else if built {
            let mut cargo = repo.cargo();
            cargo.args(["test", "--package", "tracer-tests", "--features", "e2e", "--no-fail-fast"]);
            // What traces every process runs in a virtual machine only: here others may be at work.
            cargo.args(["--test", "*", "--", "--skip", "all_processes"]);
            cargo.env("TRACER_BIN", repo.tracer());
            report.step("end-to-end tests", with_backends(cargo, repo), interrupt);
        }
    }
    if wants(Step::Vm) {
        for series in vm::Series::ALL {
            if built {
                report.machine(repo, series, interrupt);
            }
        }
    }
}

/// Whether the backends are there. A machine that cannot build them is no failure.
fn build_backends(repo: &Repo, report: &mut Report) -> bool {
    if let Some(why) = backends::obstacle() {
        report.skip(&format!("tests with Jaeger and the Collector's reader: {why}"));
        return false;
    }
    let mut build = Backend::ALL.into_iter().map(|backend| (backend, backend.build(repo)));
    build.all(|(backend, result)| report.prerequisite(&backend.to_string(), result))
}

fn with_backends(mut cargo: Command, repo: &Repo) -> Command {
    for backend in Backend::ALL {
        let program = backend.program(repo);
        if program.exists() {
            cargo.env(backend.variable(), program);
        }
    }
    cargo
}

/// What ran, how it ended and what did not run.
#[derive(Debug, Default)]
struct Report {
    total: Tally,
    lines: Vec<String>,
}

impl Report {
    /// Something that tests need but that is no test: its failure counts as one.
    fn prerequisite(&mut self, name: &str, result: anyhow::Result<()>) -> bool {
        if let Err(error) = &result {
            eprintln!("{name}: {error:#}");
            self.total.failed += 1;
            self.lines.push(format!("{name}: FAILED: {error:#}"));
        }
        result.is_ok()
    }

    fn step(&mut self, name: &str, mut command: Command, interrupt: &Interrupt) {
        if interrupt.is_set() {
            return self.skip(&format!("{name}: interrupted"));
        }
        println!("== {name}");
        let started = Instant::now();
        let mut tally = Tally::default();
        let ended = exec::stream(&mut command, STEP_LIMIT, interrupt, |line| tally.line(line));
        self.take(name, started.elapsed(), tally, ended);
    }

    fn machine(&mut self, repo: &Repo, series: vm::Series, interrupt: &Interrupt) {
        let name = format!("kernel {}", series.name());
        if interrupt.is_set() {
            return self.skip(&format!("{name}: interrupted"));
        }
        let started = Instant::now();
        let (tally, trouble) = match vm::tests(repo, &[series], false, interrupt) {
            Ok(tally) => (tally, None),
            Err(error) => (Tally::default(), Some(format!("{error:#}"))),
        };
        self.count(&name, started.elapsed(), tally, trouble);
    }

    fn take(&mut self, name: &str, took: Duration, tally: Tally, ended: anyhow::Result<Ended>) {
        let trouble = match ended {
            Ok(Ended::Exited(status)) if status.success() => None,
            Ok(Ended::Exited(status)) => Some(format!("{status}")),
            Ok(Ended::TimedOut) => Some(format!("stopped after {} s", STEP_LIMIT.as_secs())),
            Ok(Ended::Interrupted) => Some("interrupted".to_owned()),
            Err(error) => Some(format!("{error:#}")),
        };
        self.count(name, took, tally, trouble);
    }

    fn count(&mut self, name: &str, took: Duration, mut tally: Tally, trouble: Option<String>) {
        // Failed tests explain an unhappy exit; anything else is a failure of its own.
        if trouble.is_some() && tally.failed == 0 {
            tally.failed = 1;
        }
        let Tally { passed, failed, ignored } = tally;
        let trouble = trouble.map(|text| format!(" ({text})")).unwrap_or_default();
        let took = took.as_secs();
        self.lines
            .push(format!("{name}: {passed} passed, {failed} failed, {ignored} ignored, {took} s{trouble}"));
        self.total.add(tally);
    }

    fn skip(&mut self, what: &str) {
        self.lines.push(format!("skipped: {what}"));
    }

    fn print(&self, took: Duration) {
        println!("== summary");
        for line in &self.lines {
            println!("{line}");
        }
        println!("took {} s", took.as_secs());
        println!("{} passed, {} failed", self.total.passed, self.total.failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_dies_without_a_failed_test_counts_as_failed() {
        let mut report = Report::default();
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'; exit 101"]);
        report.step("dying", command, &Interrupt::default());
        assert_eq!(report.total, Tally { passed: 2, failed: 1, ignored: 0 });
    }

    #[test]
    fn failed_tests_are_not_counted_twice() {
        let mut report = Report::default();
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 'test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured'; exit 101"]);
        report.step("failing", command, &Interrupt::default());
        assert_eq!(report.total, Tally { passed: 2, failed: 3, ignored: 0 });
    }

    #[test]
    fn a_failed_prerequisite_is_a_failure() {
        let mut report = Report::default();
        assert!(!report.prerequisite("build", Err(anyhow::anyhow!("no"))));
        assert!(report.prerequisite("build", Ok(())));
        assert_eq!(report.total.failed, 1);
    }
}
