//! Every form of system call, on every family, delivers its bytes at their place.

use std::collections::{BTreeMap, BTreeSet};

use tracer_abi::conn::{Direction, Role, SocketCookie};
use tracer_abi::error::PayloadState;
use tracer_core::event::{ConnOpened, IoOutcome};
use tracer_tests::http::Client;
use tracer_tests::nginx::{Config, Nginx};
use tracer_tests::temp::TempDir;
use tracer_tests::tracer::Tracer;

use crate::recorded::{Recorded, read, run_python};

/// Payload budget per turn, and the tail of every operation.
const HEAD: usize = 8192;

fn by_role(seen: &Recorded, role: Role) -> &ConnOpened {
    let mut of_role = seen.opened.values().filter(|opened| opened.role == role);
    let opened = of_role.next().unwrap_or_else(|| panic!("no {role:?} in {:?}", seen.opened));
    assert!(of_role.next().is_none(), "one connection");
    opened
}

/// Compares all payload of one direction of a socket with what was sent. Returns how many bytes were captured.
fn check_stream(seen: &Recorded, cookie: SocketCookie, direction: Direction, sent: &[u8]) -> usize {
    let mut captured = BTreeSet::new();
    let mut end = 0;
    for data in seen.data.iter().filter(|data| (data.cookie, data.direction) == (cookie, direction)) {
        let IoOutcome::Moved(moved) = data.outcome else { continue };
        let offset = usize::try_from(data.offset).unwrap();
        assert!(offset <= end, "a gap before {offset}, behind {end}");
        end = end.max(offset + moved as usize);
        let at = offset + data.chunk_offset as usize;
        assert_eq!(data.payload, sent[at..at + data.payload.len()], "{direction:?} at {at}");
        captured.extend(at..at + data.payload.len());
        if data.payload_state == PayloadState::Copied && data.head_len + data.tail_len < moved {
            assert!(data.tail_len == 256 && data.head_len as usize <= HEAD, "{data:?}");
        }
    }
    assert_eq!(end, sent.len(), "{direction:?}");
    captured.len()
}

fn check(family: &str) {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().to_str().unwrap();
    let seen = run_python("sockets.py", &[family, folder], &dir);
    let (up, down) = (std::fs::read(dir.join("up")).unwrap(), std::fs::read(dir.join("down")).unwrap());
    let (client, server) = (by_role(&seen, Role::Client), by_role(&seen, Role::Server));
    assert!(!client.preexisting && !server.preexisting);
    if family == "unix" {
        // Who is told of first may not know the other one yet.
        let known = [(client.peer_cookie, server.cookie), (server.peer_cookie, client.cookie)];
        assert!(known.iter().any(|(peer, _)| peer.is_some()), "{known:?}");
        assert!(known.iter().all(|(peer, other)| peer.is_none_or(|peer| peer == *other)), "{known:?}");
        let path = dir.join("socket").into_os_string().into_encoded_bytes();
        assert_eq!((&client.unix_path[..], &server.unix_path[..]), (&path[..], &path[..]));
    } else {
        assert_eq!((client.local, client.remote), (server.remote, server.local));
        assert_eq!((client.egress_seq, client.ingress_seq), (server.ingress_seq, server.egress_seq));
        for data in &seen.data {
            let opened = &seen.opened[&data.cookie];
            let IoOutcome::Moved(moved) = data.outcome else { continue };
            let first =
                if data.direction == Direction::Egress { opened.egress_seq } else { opened.ingress_seq };
            assert_eq!(data.tcp_seq_end, first.wrapping_add(data.offset as u32 + moved), "{data:?}");
        }
    }
    // All but what sendfile and splice sent without a buffer.
    assert_eq!(check_stream(&seen, client.cookie, Direction::Egress, &up), up.len() - 9300);
    // Reads of the file may be larger than what the turn has left.
    assert!(check_stream(&seen, server.cookie, Direction::Ingress, &up) >= up.len() - 9300);
    let heads = HEAD..=HEAD + 256 * seen.data.len();
    assert!(heads.contains(&check_stream(&seen, server.cookie, Direction::Egress, &down)));
    assert!(heads.contains(&check_stream(&seen, client.cookie, Direction::Ingress, &down)));

    let ends: Vec<_> = seen.data.iter().filter(|data| data.outcome == IoOutcome::EndOfStream).collect();
    assert_eq!(ends.len(), 1, "the end is said once");
    assert_eq!((ends[0].cookie, ends[0].direction), (server.cookie, Direction::Ingress));
    assert!(
        !seen.data.iter().any(|data| matches!(data.outcome, IoOutcome::Failed(_))),
        "EAGAIN is no failure"
    );

    // Operations of a thread are numbered without holes, and each is complete.
    let mut numbers: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for data in seen.data.iter().filter(|data| data.last) {
        numbers.entry(data.thread.tid).or_default().push(data.thread.seq);
    }
    for (tid, seqs) in numbers {
        assert_eq!(seqs, (1..=seqs.len() as u32).collect::<Vec<_>>(), "thread {tid}");
    }
}

/// nginx sends files without having their bytes: they are counted, and what follows is where it belongs.
#[test]
fn files_that_nginx_sends() {
    const LEN: usize = 1_234_567;
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.join("large"), vec![b'f'; LEN]).unwrap();
    let server = format!("root {}; sendfile on;", dir.path().display());
    let nginx = Nginx::start(&Config { workers: 1, http: String::new(), server }).unwrap();
    let recording = dir.join("recording");
    let options = ["--record", recording.to_str().unwrap()];
    let tracer = Tracer::attach_with(&nginx.pids().unwrap(), &options).unwrap();
    let mut client = Client::new(nginx.addr);
    for _ in 0..3 {
        assert_eq!(client.get("/large").unwrap().body.len(), LEN);
    }
    let report = tracer.finish().unwrap();
    let sizes: Vec<_> = report.spans.iter().map(|span| span.int("http.response.body.size")).collect();
    assert_eq!(sizes, [Some(LEN as i64); 3], "{:#?}", report.spans);

    let seen = read(&recording);
    let [cookie] = seen.opened.keys().collect::<Vec<_>>()[..] else { panic!("{:?}", seen.opened) };
    let sent = seen.data.iter().filter(|data| (data.cookie, data.direction) == (*cookie, Direction::Egress));
    let (mut end, mut heads) = (0, Vec::new());
    for data in sent.filter(|data| data.last) {
        let IoOutcome::Moved(moved) = data.outcome else { panic!("{data:?}") };
        assert_eq!(data.offset, end, "no hole and no overlap");
        end += u64::from(moved);
        if data.payload.starts_with(b"HTTP/1.1 200 OK") {
            heads.push((data.offset, moved as usize));
        } else {
            assert_eq!(data.payload_state, PayloadState::NoUserBuffer, "{data:?}");
        }
    }
    let [(0, head), (second, _), (third, _)] = heads[..] else { panic!("{heads:?}") };
    assert_eq!(
        (second as usize, third as usize, end as usize),
        (head + LEN, 2 * (head + LEN), 3 * (head + LEN))
    );
}

#[test]
fn every_call_on_tcp() {
    check("tcp");
}

#[test]
fn every_call_on_tcp_over_ipv6() {
    check("tcp6");
}

#[test]
fn every_call_on_unix_sockets() {
    check("unix");
}
