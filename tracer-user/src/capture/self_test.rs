//! Proof that a rung captures: a connection that the tracer makes to itself must come back as events, with payload, in
//! both directions.
//!
//! The tracer never traces itself, so one thread is exempted for that moment.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tracer_abi::conn::Direction;
use tracer_abi::event::{DataRecord, EventKind};
use tracer_abi::task::{ProcessKey, Tgid};

use super::processes::Processes;
use super::record;
use super::ring::Rings;

/// How long the events may take: they are there when the calls return, except on a very busy machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs the test. Returns records of others that came in meanwhile.
///
/// # Errors
///
/// When an expected event is missing; the message says which.
pub(super) fn run(rings: &mut Rings, processes: &mut Processes) -> anyhow::Result<VecDeque<Vec<u8>>> {
    let tracer = ProcessKey { tgid: Tgid(std::process::id()), start_boottime: own_start_boottime()? };
    let nonce = format!("{:x}-{:x}", std::process::id(), crate::clock::now().as_nanos());
    let (request, response) =
        (format!("GET /{nonce} HTTP/1.1\r\n\r\n"), format!("HTTP/1.1 200 {nonce}\r\n\r\n"));

    let (tid_sender, tid) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let thread = {
        let (request, response) = (request.clone(), response.clone());
        std::thread::Builder::new().name("self-test".to_owned()).spawn(move || {
            // Fails only when the other side has given up.
            let _ = tid_sender.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
            if gone.recv().is_ok() { converse(request.as_bytes(), response.as_bytes()) } else { Ok(()) }
        })
    }
    .context("start a thread")?;
    let tid = tid.recv().context("the test's thread ended early")?;
    processes.trace_self_test(tracer, tid)?;
    let _ = go.send(());
    let conversed = thread.join();
    processes.untrace(tracer);
    conversed.map_err(|_| anyhow::anyhow!("the test's thread panicked"))?.context("talk over loopback")?;

    let mut expected = vec![
        (Direction::Egress, request.as_bytes(), "request sent"),
        (Direction::Ingress, request.as_bytes(), "request received"),
        (Direction::Egress, response.as_bytes(), "response sent"),
        (Direction::Ingress, response.as_bytes(), "response received"),
    ];
    let mut others = VecDeque::new();
    let deadline = Instant::now() + DEADLINE;
    loop {
        rings.drain(|record| {
            if record::tgid(record) != Some(tracer.tgid) {
                others.push_back(record.to_vec());
            } else if record::kind(record) == Some(EventKind::DataMoved) {
                let payload = record::payload::<DataRecord>(record);
                let direction = record::direction(record);
                expected.retain(|&(way, bytes, _)| Some(way) != direction || bytes != payload);
            }
        });
        if expected.is_empty() {
            return Ok(others);
        }
        let missing: Vec<&str> = expected.iter().map(|&(_, _, what)| what).collect();
        ensure!(Instant::now() < deadline, "no event came back for: {}", missing.join(", "));
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One request and one response over loopback, from both ends.
fn converse(request: &[u8], response: &[u8]) -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(request)?;
    server.read_exact(&mut vec![0; request.len()])?;
    server.write_all(response)?;
    client.read_exact(&mut vec![0; response.len()])
}

/// This process's start in nanoseconds, rounded down to the tick.
fn own_start_boottime() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    // The second field is a name in parentheses that may hold anything; the 22nd is the start.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
    let ticks = after_name
        .and_then(|rest| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok());
    let ticks: u64 = ticks.context("/proc/self/stat has no start time")?;
    Ok(ticks.saturating_mul(tracer_abi::config::NANOS_PER_TICK))
}
