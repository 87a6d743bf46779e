//! Of whom the kernel half reports: all of a traced process and its descendants, nothing of anybody else.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tracer_abi::conn::Direction;
use tracer_abi::task::Tgid;
use tracer_tests::raw::{FillWith, Peer, Place, Put, Step, Take, play};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::Tracer;

use crate::recorded::{Recorded, process_of, read, run_python};

const PEER: &str = env!("CARGO_BIN_EXE_raw_peer");
const LISTEN: Place =
    Place::ListenTcp(std::net::SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0)));

/// Requests in the order of their sending: path, process, number of the event on its thread.
fn requests(seen: &Recorded) -> Vec<(String, Tgid, u32)> {
    let sent = seen.data.iter().filter(|data| data.direction == Direction::Egress);
    sent.map(|data| {
        assert_eq!(data.offset, 0, "not the first byte: {data:?}");
        let text = String::from_utf8_lossy(&data.payload);
        let path = text.split(' ').nth(1).unwrap_or_else(|| panic!("no request: {data:?}"));
        (path.to_owned(), data.thread.process.tgid, data.thread.seq)
    })
    .collect()
}

#[test]
fn the_first_byte_of_every_descendant() {
    let dir = TempDir::new().unwrap();
    let seen = run_python("descendants.py", &[], &dir);
    let sent = requests(&seen);
    let paths: Vec<&str> = sent.iter().map(|(path, ..)| path.as_str()).collect();
    assert_eq!(paths, ["/child", "/great-grandchild", "/executed", "/thread"]);
    assert!(sent.iter().all(|&(.., number)| number == 1), "not the thread's first event: {sent:?}");
    let processes: BTreeSet<Tgid> = sent.iter().map(|&(_, process, _)| process).collect();
    assert_eq!(processes.len(), 4, "each by a process of its own: {sent:?}");
    // The parent received all of them, and is the one whose thread sent the last.
    let received = seen.data.iter().filter(|data| data.direction == Direction::Ingress);
    let receivers: Vec<Tgid> = received.map(|data| data.thread.process.tgid).collect();
    assert_eq!(receivers, [sent[3].1; 4]);
}

fn read_all(text: &str) -> Step {
    Step::Read { len: text.len() as u64, how: Take::Read }
}

fn write(text: &str) -> Step {
    Step::Write { bytes: text.as_bytes().to_vec(), how: Put::Once }
}

/// A request, and a response with a body too large for one operation.
fn exchange(client: &mut Peer, server: &mut Peer) {
    let (request, response) =
        ("GET /x HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n");
    let fill = Step::Fill { len: 300_000, how: FillWith::Write };
    let body = Step::Read { len: 300_000, how: Take::Read };
    let client_steps = [write(request), read_all(response), body];
    let server_steps = [read_all(request), write(response), fill];
    let (client, server, _) = play((client, &client_steps), (server, &server_steps), LISTEN).unwrap();
    assert!(client.error.is_none() && server.error.is_none(), "{client:?} {server:?}");
}

fn peer(program: &Path) -> Peer {
    Peer::from_command(Command::new(program)).unwrap()
}

/// All processes that anything is told of.
fn processes(seen: &Recorded) -> BTreeSet<Tgid> {
    seen.events.iter().filter_map(process_of).collect()
}

/// Neither one on the other end of a traced connection, nor one that talks to its like.
#[test]
fn nothing_of_an_untraced_process() {
    let dir = TempDir::new().unwrap();
    let recording = dir.join("recording");
    let mut peers = [(); 4].map(|()| peer(Path::new(PEER)));
    let [traced, other_end, client, server] = &mut peers;
    let options = ["--record", recording.to_str().unwrap()];
    let tracer = Tracer::attach_with(&[traced.pid()], &options).unwrap();
    for _ in 0..3 {
        exchange(client, server);
        exchange(traced, other_end);
        exchange(other_end, traced);
        exchange(server, other_end);
    }
    let traced = Tgid(traced.pid());
    tracer.finish().unwrap();
    let seen = read(&recording);
    assert_eq!(processes(&seen), [traced].into());
    assert_eq!(seen.opened.len(), 6, "connections of the traced process");
}

/// A program that may be meant is captured from its exec on, and reported only if it is: also when the tracer comes to
/// decide only after the program's end.
#[test]
fn who_execs_is_captured_until_it_is_known_who_it_is() {
    let dir = TempDir::new().unwrap();
    let recording = dir.join("recording");
    let (meant, other) = (dir.join("meant_peer"), dir.join("other_peer"));
    for copy in [&meant, &other] {
        std::fs::copy(PEER, copy).unwrap();
    }
    let options = ["--exe", "meant_peer", "--record", recording.to_str().unwrap()];
    let mut tracer = Tracer::attach_to(&options.map(str::to_owned)).unwrap();

    // Stopped, it cannot decide.
    tracer.program().signal(Signal::STOP).unwrap();
    let mut lasting = [&meant, &other, &other].map(|program| peer(program));
    let mut passing = [&meant, &other, &other].map(|program| peer(program));
    for [meant, other, another] in [&mut lasting, &mut passing] {
        exchange(meant, other);
        exchange(other, another);
    }
    let (early, late) = (Tgid(passing[0].pid()), Tgid(lasting[0].pid()));
    drop(passing);
    tracer.program().signal(Signal::CONT).unwrap();

    let [meant, other, another] = &mut lasting;
    // Once decided, and for good.
    let opened = |tracer: &Tracer| tracer.spans_so_far().unwrap().len();
    tracer.wait_spans(std::time::Duration::from_secs(30), |spans| spans.len() >= 2).unwrap();
    let before = opened(&tracer);
    exchange(meant, other);
    exchange(other, another);
    let report = tracer.finish().unwrap();
    assert_eq!((before, report.spans.len()), (2, 3), "{:#?}\n{}", report.spans, report.log);
    let seen = read(&recording);
    assert_eq!(processes(&seen), [early, late].into());
    let sent: Vec<Tgid> = requests(&seen).into_iter().map(|(_, process, _)| process).collect();
    assert_eq!(sent.iter().filter(|&&tgid| tgid == early).count(), 1);
    assert_eq!(sent.iter().filter(|&&tgid| tgid == late).count(), 2);
}
