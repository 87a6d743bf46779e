//! Connections that are older than the tracer.

use super::*;

/// The first that is seen of a session need not be the start of anything.
#[test]
fn a_session_that_is_met_inside_of_a_body_is_followed_from_the_next_exchange_on() {
    const AFTER: usize = 20;
    let Identity { certificate, key, authority, .. } = &Identity::new();
    let mut command = Command::new(PYTHON);
    command.arg(workload("tls_midway.py")).args([certificate, key, authority]).stdin(Stdio::piped());
    let mut program = Program::spawn("python", command).expect("python");
    program.wait_stdout("midway", PATIENCE).expect("python");
    let tracer = Tracer::attach(&[program.pid()]).expect("attach");
    writeln!(program.stdin().expect("standard input"), "{AFTER}").expect("go");
    program.wait_stdout("done", PATIENCE).expect("answers");
    let report = tracer.finish().expect("tracer");
    for kind in [Kind::Client, Kind::Server] {
        let seen: BTreeSet<&str> =
            report.spans.iter().filter(|span| span.kind == kind).filter_map(Span::path).collect();
        let asked: Vec<String> = (0..AFTER).map(|number| format!("/after/{number}")).collect();
        let missing: Vec<&String> = asked.iter().filter(|path| !seen.contains(path.as_str())).collect();
        assert!(missing.is_empty(), "{kind:?}: {missing:?}\n{}", report.log);
    }
}
