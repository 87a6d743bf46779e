//! Runs the tracer under test and reads what it wrote.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::program::{Program, describe_exit};
use crate::spans::{self, Span};
use crate::temp::TempDir;

/// The binary under test: `TRACER_BIN`, else the one that lies beside the test's own build.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRACER_BIN") {
        return Ok(PathBuf::from(path));
    }
    let test = std::env::current_exe().context("own executable")?;
    // target/<profile>/deps/<test>
    let beside = test.parent().and_then(|deps| deps.parent()).map(|profile| profile.join("tracer"));
    match beside {
        Some(path) if path.exists() => Ok(path),
        _ => bail!("no tracer binary: set TRACER_BIN, or run `cargo xtask test`"),
    }
}

/// A command line of the tracer under test, up to its subcommand: `run`, `attach`. `TRACER_TESTS_RUNG` names the one way
/// of capture that tests use, where a kernel offers several.
fn command_line(binary: &Path, subcommand: &str) -> Command {
    let mut command = Command::new(binary);
    command.arg(subcommand);
    if let Some(rung) = std::env::var_os("TRACER_TESTS_RUNG") {
        command.arg("--rung").arg(rung);
    }
    command
}

/// A tracer at work, writing to a file of its own.
#[derive(Debug)]
pub struct Tracer {
    program: Program,
    output: PathBuf,
    _dir: TempDir,
}

/// What a tracer left behind.
#[derive(Debug)]
pub struct Report {
    pub spans: Vec<Span>,
    /// Standard error: the live line, warnings, the exit summary.
    pub log: String,
    pub exit: ExitStatus,
}

/// How long the tracer may take until it says that capture is live.
const LIVE_PATIENCE: Duration = Duration::from_secs(60);

impl Tracer {
    /// `tracer attach --pid …` for these processes; returns once it says that capture is live.
    pub fn attach(pids: &[u32]) -> anyhow::Result<Self> {
        Self::attach_with(pids, &[])
    }

    pub fn attach_with(pids: &[u32], options: &[&str]) -> anyhow::Result<Self> {
        let mut selectors: Vec<String> =
            pids.iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]).collect();
        selectors.extend(options.iter().map(|option| (*option).to_owned()));
        Self::attach_to(&selectors)
    }

    /// `tracer attach` with these selectors and options.
    pub fn attach_to(options: &[String]) -> anyhow::Result<Self> {
        Self::attach_binary(&binary()?, options)
    }

    /// The same with this binary.
    pub fn attach_binary(binary: &Path, options: &[String]) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let output = dir.join("spans.jsonl");
        let mut command = command_line(binary, "attach");
        command.args(["--format", "otlp-json", "--output"]).arg(&output).args(options);
        let program = Program::spawn_dying_by("tracer", command, Signal::TERM)?;
        program.wait_stderr(is_live, LIVE_PATIENCE)?;
        Ok(Self { program, output, _dir: dir })
    }

    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Spans written so far: complete lines only.
    pub fn spans_so_far(&self) -> anyhow::Result<Vec<Span>> {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        spans::parse(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }

    /// Waits until `enough` says so of the spans written so far; returns them.
    pub fn wait_spans(
        &self,
        patience: Duration,
        enough: impl Fn(&[Span]) -> bool,
    ) -> anyhow::Result<Vec<Span>> {
        let deadline = Instant::now() + patience;
        loop {
            let spans = self.spans_so_far()?;
            if enough(&spans) {
                return Ok(spans);
            }
            if Instant::now() > deadline {
                bail!("not enough spans in {patience:?}: {spans:#?}\n{}", self.program.stderr());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it with SIGINT and reads its output. It must end well.
    pub fn finish(mut self) -> anyhow::Result<Report> {
        let exit = self.program.stop(Signal::INT)?;
        let log = self.program.stderr();
        if !exit.success() {
            bail!("the tracer ended with {}:\n{log}", describe_exit(exit));
        }
        Ok(Report { spans: spans::read_file(&self.output)?, log, exit })
    }
}

/// Does this line of standard error say that capture has begun?
fn is_live(line: &str) -> bool {
    line.contains("capture is live")
}

/// `tracer run -- COMMAND` to its end, whatever its exit code.
pub fn run<I, S>(options: &[&str], command: I) -> anyhow::Result<Report>
where
    I: IntoIterator<Item = S>,
    S: Into<OsString>,
{
    let dir = TempDir::new()?;
    let output = dir.join("spans.jsonl");
    let mut tracer = command_line(&binary()?, "run");
    tracer.args(["--format", "otlp-json", "--output"]).arg(&output).args(options).arg("--");
    tracer.args(command.into_iter().map(Into::into));
    let mut program = Program::spawn_dying_by("tracer run", tracer, Signal::TERM)?;
    let exit = program.wait(Duration::from_secs(120))?;
    program.wait_output_end(Duration::from_secs(2));
    let spans = if output.exists() { spans::read_file(&output)? } else { Vec::new() };
    Ok(Report { spans, log: program.stderr(), exit })
}
