//! The command line's contract, as far as it needs neither root nor a kernel half: usage, exit codes, replay, outputs.

#![expect(clippy::unwrap_used, reason = "tests may state what cannot fail")]

mod golden;
mod recording;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use recording::recording;

/// The tracer, without any variable that the person who runs the tests has set.
fn tracer(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracer"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"OTEL_") || name.as_encoded_bytes().starts_with(b"SUDO_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    of(tracer(arguments).output().unwrap())
}

fn of(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

struct Fixture {
    dir: TempDir,
    file: PathBuf,
}

impl Fixture {
    fn new(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.rec");
        std::fs::write(&file, bytes).unwrap();
        Self { dir, file }
    }

    fn replay(&self, options: &[&str]) -> Command {
        tracer(&[&["replay", self.file.to_str().unwrap()], options].concat())
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn wrong_usage_is_exit_code_64() {
    for (arguments, want) in [
        (&[][..], "Usage"),
        (&["trace"], "unrecognized subcommand"),
        (&["run"], "CMD"),
        (&["run", "--"], "CMD"),
        (&["run", "--no-such-flag", "--", "ls"], "--no-such-flag"),
        (&["attach"], "nothing to trace"),
        (&["attach", "--pid", "x"], "--pid"),
        (&["attach", "--pid", "0"], "--pid"),
        (&["attach", "--port", "65536"], "--port"),
        (&["attach", "--exe", "[", "--pid", "1"], "--exe"),
        (&["attach", "--all", "--duration", "soon"], "--duration"),
        (&["replay"], "FILE"),
        (&["replay", "f", "--format", "xml"], "--format"),
        (&["replay", "f", "--otlp-endpoint", "nowhere"], "--otlp-endpoint"),
        (&["replay", "f", "--otlp-endpoint", "http://h", "--otlp-protocol", "http/json"], "--otlp-protocol"),
        (&["replay", "f", "--seed", "1"], "--seed"),
        (&["attach", "--all", "--record-max-size", "big", "--record", "r"], "--record-max-size"),
        (&["doctor", "--format", "xml"], "--format"),
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (64, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(want), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_documents_every_command_with_an_example() {
    let (code, overview, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in ["run", "attach", "replay", "doctor"] {
        assert!(overview.contains(command), "{overview}");
        let (code, help, stderr) = run(&[command, "--help"]);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(help.contains("Examples:") && help.contains(&format!("tracer {command} ")), "{help}");
    }
    assert_eq!(run(&["--version"]).1, format!("tracer {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_fails_at_run_time_is_exit_code_1() {
    let fixture = Fixture::new(b"not a recording");
    let (code, _, stderr) = of(fixture.replay(&[]).output().unwrap());
    assert!(code == 1 && stderr.contains("not a recording of this tracer"), "{code} {stderr}");
    let (code, _, stderr) = run(&["replay", "/nowhere/x"]);
    assert!(code == 1 && stderr.contains("/nowhere/x"), "{code} {stderr}");
    let fixture = Fixture::new(&recording(1, ""));
    let (code, _, stderr) = of(fixture.replay(&["-o", "/nowhere/x"]).output().unwrap());
    assert!(code == 1 && stderr.contains("/nowhere/x"), "{code} {stderr}");
}

#[test]
fn a_replay_draws_the_trace_on_standard_error() {
    let fixture = Fixture::new(&recording(1, ""));
    let (code, stdout, stderr) = of(fixture.replay(&[]).output().unwrap());
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    for want in
        ["curl", "shop", "GET /item/0", "200", "tracer: 2 spans of 2 processes; parent undecided for 0"]
    {
        assert!(stderr.contains(want), "{want} in {stderr}");
    }
    assert!(!stderr.contains('\x1b'), "colours on a pipe: {stderr}");
}

#[test]
fn the_same_recording_gives_the_same_spans() {
    let fixture = Fixture::new(&recording(20, ""));
    let spans = |name: &str, options: &[&str]| {
        let path = fixture.path(name);
        let options = [&["--format", "otlp-json", "-o", &path], options].concat();
        let (code, _, stderr) = of(fixture.replay(&options).output().unwrap());
        assert_eq!(code, 0, "{stderr}");
        std::fs::read_to_string(path).unwrap()
    };
    let first = spans("a", &[]);
    assert_eq!(first.matches("\"traceId\"").count(), 40, "{first}");
    assert_eq!(first, spans("b", &[]));
    let seed = "01".repeat(32);
    let other = spans("c", &["--seed", &seed]);
    assert_ne!(first, other);
    assert_eq!(other, spans("d", &["--seed", &seed]));
}

#[test]
fn a_recording_cut_anywhere_gives_what_came_before() {
    let whole = recording(2, "");
    let frames = whole.len() - recording(0, "").len();
    for len in (0..whole.len()).step_by(whole.len() / 40) {
        let fixture = Fixture::new(&whole[..len]);
        let (code, _, stderr) = of(fixture.replay(&["--format", "line"]).output().unwrap());
        let in_preamble = len < whole.len() - frames - 400;
        assert!(code == 0 || (code == 1 && in_preamble), "{len} of {}: {code} {stderr}", whole.len());
        assert!(!stderr.contains("panicked"), "{len}: {stderr}");
    }
}

#[test]
fn a_damaged_recording_gives_what_came_before_and_fails() {
    let mut bytes = recording(2, "");
    bytes.extend_from_slice(&[0xff; 100]);
    let (code, _, stderr) = of(Fixture::new(&bytes).replay(&["--format", "line"]).output().unwrap());
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("4 spans") && stderr.contains("damaged"), "{stderr}");
}

#[test]
fn bad_variables_are_named_and_ignored() {
    let fixture = Fixture::new(&recording(1, ""));
    let mut command = fixture.replay(&["--format", "otlp-json"]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=me,service.version=9")
        .env("OTEL_SERVICE_NAME", "me");
    let (code, _, stderr) = of(command.output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    for name in ["OTLP_ENDPOINT", "OTLP_TIMEOUT", "OTLP_HEADERS", "BSP_MAX_QUEUE_SIZE"] {
        let warned = stderr.lines().any(|line| line.contains("warning") && line.contains(name));
        assert!(warned, "{name} in {stderr}");
    }
    assert!(!stderr.contains("OTEL_RESOURCE_ATTRIBUTES is ignored"), "{stderr}");
    // The tracer's own attributes go everywhere, its own name nowhere.
    assert!(stderr.contains("deployment.environment.name"), "{stderr}");
    assert!(!stderr.contains("\"me\"") && !stderr.contains("service.version"), "{stderr}");
    assert!(stderr.contains("\"curl\"") && stderr.contains("\"shop\""), "{stderr}");
}

#[test]
fn unsampled_traces_are_counted_not_exported() {
    let header = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n";
    let fixture = Fixture::new(&recording(3, header));
    let (_, _, stderr) = of(fixture.replay(&["--format", "line"]).output().unwrap());
    assert!(stderr.contains("0 spans") && stderr.contains("6 spans of unsampled traces"), "{stderr}");
    let shown = of(fixture.replay(&["--format", "line", "--include-unsampled"]).output().unwrap()).2;
    assert!(shown.contains("6 spans of 2 processes"), "{shown}");
    assert_eq!(shown.matches("trace=0af7651916cd43dd8448eb211c80319c").count(), 6, "{shown}");
}

#[test]
fn a_closed_output_ends_quietly() {
    let fixture = Fixture::new(&recording(2000, ""));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = fixture.replay(&["--format", "line"]);
    let mut child = command.stderr(OwnedFd::from(writer)).spawn().unwrap();
    drop(command);
    let mut some = [0; 100];
    (&reader).read_exact(&mut some).unwrap();
    drop(reader);
    assert_eq!(wait(&mut child, Duration::from_secs(30)), Some(0));
}

#[test]
fn a_dead_endpoint_is_reported_and_does_not_hold_up_the_end() {
    let fixture = Fixture::new(&recording(2, ""));
    // A port that nothing listens on: bound, and closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let began = Instant::now();
    let (code, _, stderr) = of(fixture.replay(&["--otlp-endpoint", &endpoint]).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(stderr.contains("lost 4") && stderr.contains(&endpoint), "{stderr}");
    assert!(!stderr.contains("GET"), "spans although an endpoint is set: {stderr}");
}

#[test]
fn without_privileges_it_says_so_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let mut command = tracer(&["run", "--", "touch", mark.to_str().unwrap()]);
    if rustix::process::geteuid().is_root() {
        // Nobody's; the binary may lie where nobody can reach it.
        let copy = Path::new("/tmp").join(format!("tracer-cli-test-{}", std::process::id()));
        std::fs::copy(env!("CARGO_BIN_EXE_tracer"), &copy).unwrap();
        let mut unprivileged = Command::new(&copy);
        unprivileged.args(command.get_args()).uid(65534).gid(65534).stdin(Stdio::null());
        let output = unprivileged.output();
        std::fs::remove_file(&copy).unwrap();
        let (code, _, stderr) = of(output.unwrap());
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("rung") || stderr.contains("kernel half"), "{stderr}");
        assert!(!stderr.contains("\\n"), "lines run together: {stderr}");
    } else {
        let (code, _, stderr) = of(command.output().unwrap());
        assert_eq!(code, 1, "{stderr}");
    }
    assert!(!mark.exists());
}

/// Its exit code, or `None` when it had to be killed.
fn wait(child: &mut std::process::Child, patience: Duration) -> Option<i32> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}
