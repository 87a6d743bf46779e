//! Sessions of a TLS library, whatever they carry.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tracer_core::event::Event;
use tracer_tests::program::Program;
use tracer_tests::service::workload;
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::Tracer;

use crate::recorded::{PYTHON, read};

const PATIENCE: Duration = Duration::from_secs(60);

/// The next session may be at the same address, on another socket.
#[test]
fn the_end_of_a_session_that_carried_nothing_is_told() {
    let dir = TempDir::new().unwrap();
    let recording = dir.join("recording");
    let mut command = Command::new(PYTHON);
    command.arg(workload("tls_unused.py")).stdin(Stdio::piped());
    let mut program = Program::spawn("tls_unused.py", command).unwrap();
    program.wait_stdout("ready", PATIENCE).unwrap();
    let tracer = Tracer::attach_with(&[program.pid()], &["--record", recording.to_str().unwrap()]).unwrap();
    program.stdin().unwrap().write_all(b"go\n").unwrap();
    program.wait_stdout("done", PATIENCE).unwrap();
    let report = tracer.finish().unwrap();
    // Session → the sockets that it was on, and how often it ended.
    let mut sessions: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    let mut last = None;
    for event in read(&recording).events {
        if let Event::CiphertextMoved(moved) = &event
            && let Some(session) = moved.session
            && last.replace(moved.cookie) != Some(moved.cookie)
        {
            sessions.entry(session).or_default().0 += 1;
        }
        if let Event::SessionEnded(ended) = &event {
            sessions.entry(ended.session).or_default().1 += 1;
        }
        assert!(!matches!(event, Event::PlaintextMoved(_)), "{event:?}");
    }
    let sockets: usize = sessions.values().map(|(sockets, _)| sockets).sum();
    assert_eq!(sockets, 3, "{sessions:?}\n{}", report.log);
    assert!(sessions.values().all(|(sockets, ends)| sockets == ends), "{sessions:?}");
}
