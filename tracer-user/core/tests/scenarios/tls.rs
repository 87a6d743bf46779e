//! What is encrypted gives the spans that it gives in clear.

use std::collections::BTreeMap;

use bytes::Bytes;
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::event::RecordStart;
use tracer_abi::python::TaskId;
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tid};
use tracer_core::EngineConfig;
use tracer_core::event::{
    CiphertextMoved, DataMoved, Event, IoOutcome, PlaintextMoved, RecordSealed, SealedPlace, Thread,
};
use tracer_core::span::{Span, SpanKind, Value};

use crate::host::{End, Host, T, lines, run, task};

/// What a record has beside its plaintext, with the header.
const MORE: u32 = 17;
const HEADER: u32 = 5;

/// The same host, whose programs speak TLS: every operation is a record, made inside of a call of the connection's session.
fn encrypted(events: &[Event], noise: bool) -> Vec<Event> {
    let mut seqs: BTreeMap<(SocketCookie, Direction), u32> = BTreeMap::new();
    let mut out = Vec::new();
    for event in events {
        if let Event::ConnOpened(opened) = event {
            seqs.insert((opened.cookie, Direction::Egress), opened.egress_seq);
            seqs.insert((opened.cookie, Direction::Ingress), opened.ingress_seq);
        }
        if let Event::TaskIdentified(told) = event {
            let mut told = told.clone();
            told.cookie = SocketCookie(session(told.cookie));
            told.of_plaintext = true;
            out.push(Event::TaskIdentified(told));
            continue;
        }
        let Event::DataMoved(data) = event else {
            out.push(event.clone());
            continue;
        };
        let IoOutcome::Moved(len) = data.outcome else {
            out.push(event.clone());
            continue;
        };
        let seq = seqs.entry((data.cookie, data.direction)).or_default();
        if noise {
            // A socket that is not known to be TLS yet: its bytes are told of, too.
            out.push(Event::DataMoved(DataMoved {
                payload: Bytes::from(vec![0x17; len as usize]),
                class: Class::Unknown,
                tcp_seq_end: seq.wrapping_add(len),
                thread: numbered(data.thread, 2 * data.thread.seq - 1),
                ..data.clone()
            }));
        }
        let number = if noise { 2 * data.thread.seq } else { data.thread.seq };
        out.extend(record(data, len, number, seq));
    }
    out
}

/// Any number that is the connection's in its process.
const fn session(cookie: SocketCookie) -> u64 {
    cookie.0 * 4096
}

fn numbered(thread: Thread, seq: u32) -> Thread {
    Thread { seq, ..thread }
}

fn record(data: &DataMoved, len: u32, number: u32, seq: &mut u32) -> [Event; 2] {
    let op_len = HEADER + len + MORE;
    let process: ProcessKey = data.thread.process;
    let session = session(data.cookie);
    *seq = seq.wrapping_add(op_len);
    let ciphertext = CiphertextMoved {
        time: data.time,
        process,
        cookie: data.cookie,
        session: Some(session),
        direction: data.direction,
        tcp_seq_end: *seq,
        op_len,
        starts: vec![RecordStart { at: 0, len: (len + MORE) as u16, kind: 23, version: 3 }],
        more: false,
        lost: false,
        hello: Bytes::new(),
    };
    let plaintext = PlaintextMoved {
        session,
        filled: false,
        at: 0,
        total: len,
        reached: None,
        record_end: None,
        moved_to: Some(*seq),
        seal: None,
        data: DataMoved {
            cookie: SocketCookie(0),
            tcp_seq_end: 0,
            thread: numbered(data.thread, number),
            ..data.clone()
        },
    };
    [Event::CiphertextMoved(Box::new(ciphertext)), Event::PlaintextMoved(Box::new(plaintext))]
}

/// A client, a server of two, and its own server.
fn chain() -> Host {
    let mut host = Host::new();
    let [client, shop, stock] = ["client", "shop", "stock"].map(|name| host.process(name));
    let front = host.connect(Some(client), Some(shop));
    let back = host.connect(Some(shop), Some(stock));
    for n in 0..3 {
        exchange(&mut host, [client, shop, stock], front, back, n);
    }
    host
}

fn exchange(host: &mut Host, [client, shop, stock]: [T; 3], front: (End, End), back: (End, End), n: u32) {
    host.asks(client, front, shop, &format!("/a{n}"));
    host.asks(shop, back, stock, &format!("/b{n}"));
    host.answers(shop, back, stock);
    host.answers(client, front, shop);
}

fn scheme(span: &Span) -> Option<String> {
    span.attributes.iter().find_map(|(key, value)| match (*key, value) {
        ("url.scheme", Value::Str(text)) => Some(text.to_string()),
        ("url.full", Value::Str(text)) => text.split("://").next().map(str::to_owned),
        _ => None,
    })
}

#[test]
fn spans_and_parents_are_those_of_the_same_in_clear() {
    let host = chain();
    let clear = host.lines();
    assert_eq!(clear.len(), 12, "{clear:#?}");
    assert!(clear.iter().skip(1).any(|line| line.contains('<')), "{clear:#?}");
    for noise in [false, true] {
        let spans = run(&encrypted(&host.events, noise), EngineConfig::default(), host.clock);
        assert_eq!(lines(&spans), clear, "noise {noise}");
        let schemes: Vec<Option<String>> = spans.iter().map(scheme).collect();
        assert_eq!(schemes, vec![Some("https".to_owned()); 12]);
    }
}

#[test]
fn without_the_socket_there_are_spans_and_no_joins() {
    let host = chain();
    let mut events = encrypted(&host.events, false);
    events.retain(|event| !matches!(event, Event::CiphertextMoved(_)));
    let spans = run(&events, EngineConfig::default(), host.clock);
    assert_eq!(spans.len(), 12);
    for span in &spans {
        let key = |wanted: &str| span.attributes.iter().any(|(key, _)| *key == wanted);
        assert!(!key("network.peer.address") && !key("network.local.port"), "{span:#?}");
    }
    let joined = lines(&spans).iter().filter(|line| line.contains("(tcp")).count();
    assert_eq!(joined, 0, "{:#?}", lines(&spans));
}

fn text<'s>(span: &'s Span, wanted: &str) -> Option<&'s str> {
    span.attributes.iter().find_map(|(key, value)| {
        if let (true, Value::Str(text)) = (*key == wanted, value) { Some(text.as_str()) } else { None }
    })
}

/// A client and a server with two exchanges on a connection, which the client closes; and what both ends say of the second
/// one, without the events that `keep` leaves out.
fn second_exchange(keep: impl Fn(usize, &Event) -> bool) -> Vec<(Option<String>, Option<String>)> {
    let mut host = Host::new();
    let [client, shop] = ["client", "shop"].map(|name| host.process(name));
    let front = host.connect(Some(client), Some(shop));
    for path in ["/a", "/b"] {
        host.asks(client, front, shop, path);
        host.answers(client, front, shop);
    }
    host.close(client, front.0);
    host.close(shop, front.1);
    let mut told = 0;
    let mut events = encrypted(&host.events, false);
    events.retain(|event| {
        told += usize::from(matches!(event, Event::PlaintextMoved(_)));
        keep(told, event)
    });
    let spans = run(&events, EngineConfig::default(), host.clock);
    let of_second = spans.iter().filter(|span| text(span, "url.path").is_none_or(|path| path == "/b"));
    let of_second = of_second.filter(|span| text(span, "url.full").is_none_or(|url| url.ends_with("/b")));
    let said = |span: &Span, key| text(span, key).map(str::to_owned);
    of_second.map(|span| (said(span, "error.type"), said(span, "tracer.incomplete"))).collect()
}

/// Its record moved.
#[test]
fn an_answer_that_is_not_told_of_is_no_error() {
    assert_eq!(second_exchange(|_, _| true), vec![(None, None); 2]);
    // Of eight operations the last two are of the second answer.
    let untold = |told: usize, event: &Event| told <= 6 || !matches!(event, Event::PlaintextMoved(_));
    let incomplete = (None, Some("events_lost".to_owned()));
    assert_eq!(second_exchange(untold), vec![incomplete; 2]);
    // Where it did not move it was not given.
    let ungiven = |told: usize, event: &Event| {
        told <= 6 && !matches!(event, Event::CiphertextMoved(_))
            || told < 6
            || matches!(event, Event::ConnClosed(_))
    };
    assert_eq!(second_exchange(ungiven), vec![(Some("connection_closed".to_owned()), None); 2]);
}

/// A thread closes the socket inside of another one's call, which is told of when it returns: with the whole of the answer,
/// or with the rest of it.
#[test]
fn an_answer_that_is_told_of_after_the_close_was_given() {
    for rest in [false, true] {
        let mut host = Host::new();
        let [client, shop] = ["client", "shop"].map(|name| host.process(name));
        let front = host.connect(Some(client), Some(shop));
        host.asks(client, front, shop, "/a");
        host.response_of(shop, front.1, 500);
        if rest {
            host.read_some(client, front.0, 100);
        }
        host.read(client, front.0);
        host.close(client, front.0);
        host.close(shop, front.1);
        let mut events = encrypted(&host.events, false);
        let told = |event: &Event| matches!(event, Event::PlaintextMoved(_));
        let closes = |event: &Event| matches!(event, Event::ConnClosed(_));
        let last = events.iter().rposition(told).expect("an answer");
        let close = events.iter().position(closes).expect("a close");
        events.swap(last, close);
        let [Event::ConnClosed(closed), Event::PlaintextMoved(told)] =
            events.get_disjoint_mut([last, close]).expect("two of them")
        else {
            panic!("a close and an answer")
        };
        std::mem::swap(&mut closed.origin.time, &mut told.data.time);
        let spans = run(&events, EngineConfig::default(), host.clock);
        let said: Vec<_> =
            spans.iter().map(|span| (text(span, "error.type"), text(span, "tracer.incomplete"))).collect();
        assert_eq!(said, [(None, None); 2], "{rest}: {spans:?}");
    }
}

/// Its answer is told of elsewhere.
#[test]
fn a_session_that_is_on_two_sockets_has_left_no_error_behind() {
    let mut host = Host::new();
    let [client, shop] = ["client", "shop"].map(|name| host.process(name));
    let front = host.connect(Some(client), Some(shop));
    host.asks(client, front, shop, "/a");
    host.answers(client, front, shop);
    host.close(client, front.0);
    host.close(shop, front.1);
    let mut events = encrypted(&host.events, false);
    let asked = events.iter().position(|event| matches!(event, Event::PlaintextMoved(_))).expect("a request");
    let Event::CiphertextMoved(moved) = &events[asked - 1] else { panic!("no record before {asked}") };
    let elsewhere = CiphertextMoved { cookie: SocketCookie(moved.cookie.0 + 100), ..*moved.clone() };
    events.insert(asked + 1, Event::CiphertextMoved(Box::new(elsewhere)));
    let mut spans = run(&events, EngineConfig::default(), host.clock);
    spans.sort_by_key(|span| span.kind == SpanKind::Server);
    let said: Vec<_> =
        spans.iter().map(|span| (text(span, "error.type"), text(span, "tracer.incomplete"))).collect();
    assert_eq!(said, [(None, Some("events_lost")), (None, None)]);
}

/// Goroutines go from thread to thread: which one it was says nothing, and what the sockets say holds.
#[test]
fn what_goroutines_do_is_of_no_thread() {
    let host = chain();
    let mut events = encrypted(&host.events, false);
    for event in &mut events {
        if let Event::PlaintextMoved(plaintext) = event {
            plaintext.data.thread = nobodys(plaintext.data.thread);
        }
    }
    let spans = run(&events, EngineConfig::default(), host.clock);
    let joined = |lines: &[String], how: &str| lines.iter().filter(|line| line.contains(how)).count();
    let (clear, found) = (host.lines(), lines(&spans));
    assert_eq!(found.len(), 12, "{found:#?}");
    assert_eq!(joined(&found, "(tcp"), joined(&clear, "(tcp"), "{found:#?}");
    assert!(joined(&clear, "(thread") > 0 && joined(&found, "(thread") == 0, "{clear:#?} {found:#?}");
}

/// Who reads a request and who waits for a call is told of the session's operations, before it is known on which socket
/// they are.
#[test]
fn goroutines_are_those_of_the_same_in_clear() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let front = host.connect(None, Some(shop));
    host.request(None, front.0, "/a");
    let mut reads = vec![TaskId::default(); 8];
    reads[0] = task(11);
    reads[1] = TaskId { address: 100, number: 0 };
    host.goes(reads);
    host.read(shop, front.1);
    for (path, waits) in [("/b", 11), ("/bg", 7)] {
        let back = host.connect(Some(shop), None);
        let told = vec![task(50), task(waits), TaskId { address: 0x48_0000, number: 1 }];
        host.goes(told.clone());
        host.asks(shop, back, None, path);
        host.response(None, back.1);
        host.goes(told);
        host.read(shop, back.0);
    }
    host.answers(None, front, shop);
    let mut events = encrypted(&host.events, false);
    for event in &mut events {
        if let Event::PlaintextMoved(plaintext) = event {
            plaintext.data.thread = nobodys(plaintext.data.thread);
        } else if let Event::TaskIdentified(told) = event {
            told.thread = nobodys(told.thread);
        }
    }
    let found = lines(&run(&events, EngineConfig::default(), host.clock));
    let calls: Vec<&str> = found.iter().filter_map(|line| line.strip_prefix("shop client ")).collect();
    assert_eq!(calls, ["/b < shop server /a (runtime-task)", "/bg - task-unrelated"]);
}

/// The same host, whose programs encrypt and decrypt with a library that is asked for single records: what it sends it has
/// encrypted before, what it decrypts it has received before.
fn by_records(events: &[Event], len_of: impl Fn(u32) -> u32) -> Vec<Event> {
    let mut out = Vec::new();
    let mut seal = 0;
    for event in encrypted(events, false) {
        let Event::PlaintextMoved(mut plaintext) = event else {
            out.push(event);
            continue;
        };
        let Some(Event::CiphertextMoved(mut ciphertext)) = out.pop() else { panic!("no record before it") };
        ciphertext.session = None;
        seal += 0x1_0001;
        let DataMoved { time, direction, thread, .. } = plaintext.data;
        let session = 2 * plaintext.session + u64::from(direction.code());
        let sealed = |place, len| {
            let process = thread.process;
            Event::RecordSealed(RecordSealed { time, process, place, direction, seal, len })
        };
        let (cookie, seq) = (ciphertext.cookie, ciphertext.tcp_seq_end.wrapping_sub(ciphertext.op_len));
        let len = ciphertext.starts[0].len;
        let on_socket = [
            sealed(SealedPlace::Socket { cookie, seq }, len_of(u32::from(len)) as u16),
            Event::CiphertextMoved(ciphertext),
        ];
        plaintext.session = session;
        plaintext.seal = Some(seal as u32);
        plaintext.moved_to = None;
        plaintext.data.thread = nobodys(thread);
        let in_library =
            [sealed(SealedPlace::Library { session, birth: 1 }, len), Event::PlaintextMoved(plaintext)];
        match direction {
            Direction::Ingress => out.extend(on_socket.into_iter().chain(in_library)),
            Direction::Egress => out.extend(in_library.into_iter().chain(on_socket)),
        }
    }
    out
}

#[test]
fn what_is_known_by_its_records_is_joined_as_in_clear() {
    let host = chain();
    let spans = run(&by_records(&host.events, |len| len), EngineConfig::default(), host.clock);
    let joined = |lines: &[String]| lines.iter().filter(|line| line.contains("(tcp")).count();
    let (clear, found) = (host.lines(), lines(&spans));
    assert_eq!(found.len(), 12, "{found:#?}");
    assert_eq!(joined(&found), joined(&clear), "{found:#?}");
    assert_eq!(spans.iter().map(scheme).collect::<Vec<_>>(), vec![Some("https".to_owned()); 12]);
    assert!(spans.iter().all(|span| text(span, "tracer.incomplete").is_none()), "{spans:#?}");
}

/// Lengths that do not agree: nothing is said of which connection it is.
#[test]
fn what_is_known_by_no_record_has_no_span() {
    let host = chain();
    let spans = run(&by_records(&host.events, |len| len + 1), EngineConfig::default(), host.clock);
    assert_eq!(lines(&spans), [""; 0]);
}

fn nobodys(thread: Thread) -> Thread {
    Thread { tid: Tid(0), seq: 0, ..thread }
}
