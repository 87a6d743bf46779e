//! The two ends of the same bytes.

use std::time::Duration;

use tracer_abi::time::KernelInstant;
use tracer_core::event::{Event, Thread};
use tracer_core::{Engine, EngineConfig};

use crate::frames::{PREFACE, ask, frame, settings};
use crate::host::{Host, T, Wiring, lines, run};

const NOBODY: Option<T> = None;

fn joined_by(wiring: Wiring) -> Vec<String> {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect_as(Some(curl), Some(shop), wiring);
    for path in ["/a", "/b"] {
        host.asks(curl, conn, shop, path);
        host.answers(curl, conn, shop);
    }
    host.lines()
}

#[test]
fn tcp_ends_are_joined_by_sequence_number() {
    assert_eq!(
        joined_by(Wiring::default()),
        [
            "curl client /a",
            "shop server /a < curl client /a (tcp-sequence)",
            "curl client /b",
            "shop server /b < curl client /b (tcp-sequence)"
        ]
    );
}

/// What the ends of connections show is known without rules about the processes between them.
#[test]
fn without_rules_ends_are_joined_all_the_same() {
    let spans = |rules| {
        let mut host = Host::new();
        let (curl, shop, stock) = (host.process("curl"), host.process("shop"), host.process("stock"));
        let (front, back) = (host.connect(Some(curl), Some(shop)), host.connect(Some(shop), Some(stock)));
        host.asks(curl, front, shop, "/a");
        host.asks(shop, back, stock, "/a1");
        host.waits(shop);
        host.answers(shop, back, stock);
        host.answers(curl, front, shop);
        host.sleep(Duration::from_secs(2));
        let config = EngineConfig { rules, ..EngineConfig::default() };
        run(&host.events, config, host.clock)
    };
    let joined = ["curl client /a", "shop server /a < curl client /a (tcp-sequence)"];
    let below = "stock server /a1 < shop client /a1 (tcp-sequence)";
    let with = spans(true);
    assert_eq!(lines(&with), [&joined[..], &["shop client /a1 < shop server /a (thread)", below]].concat());
    let without = spans(false);
    assert_eq!(lines(&without), [&joined[..], &["shop client /a1 - rules-off", below]].concat());
}

#[test]
fn ends_older_than_the_tracer_are_joined_too() {
    let lines = joined_by(Wiring { preexisting: true, ..Wiring::default() });
    assert_eq!(lines.iter().filter(|line| line.contains("(tcp-sequence)")).count(), 2, "{lines:?}");
}

#[test]
fn translated_ends_are_joined_by_all_four_positions() {
    let lines = joined_by(Wiring { translated: true, ..Wiring::default() });
    assert_eq!(lines.iter().filter(|line| line.contains("(tcp-sequence)")).count(), 2, "{lines:?}");
}

#[test]
fn translated_ends_that_disagree_anywhere_are_not_joined() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect_as(Some(curl), Some(shop), Wiring { translated: true, ..Wiring::default() });
    host.asks(curl, conn, shop, "/a");
    host.response(shop, conn.1);
    // The client gives up after the first bytes of the response.
    host.read_some(curl, conn.0, 30);
    host.close(curl, conn.0);
    let lines = host.lines();
    assert_eq!(lines[1], "shop server /a", "{lines:?}");
}

#[test]
fn a_second_candidate_under_translation_means_no_join() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect_as(Some(curl), Some(shop), Wiring { translated: true, ..Wiring::default() });
    host.asks(curl, conn, shop, "/a");
    host.answers(curl, conn, shop);
    // The same numbers in another process, as if the connection had been seen twice.
    let twin = host.process("twin");
    let copies: Vec<Event> = host
        .events
        .iter()
        .filter_map(|event| {
            let Event::DataMoved(moved) = event else { return None };
            let mut copy = moved.clone();
            copy.cookie.0 += 1000;
            copy.thread.process = crate::host::key(twin.process);
            copy.thread.tid.0 = twin.tid;
            (moved.thread.tid.0 == curl.tid).then_some(Event::DataMoved(copy))
        })
        .collect();
    host.events.extend(copies);
    assert!(host.lines().contains(&"shop server /a - peer-ambiguous".to_owned()), "{:?}", host.lines());
}

#[test]
fn unix_ends_are_joined_by_peer_and_offset() {
    assert_eq!(
        joined_by(Wiring { unix: true, ..Wiring::default() }),
        [
            "curl client /a",
            "shop server /a < curl client /a (unix-peer)",
            "curl client /b",
            "shop server /b < curl client /b (unix-peer)"
        ]
    );
}

/// The kernel says who is at the other end only when it has been told of that one.
#[test]
fn one_unix_end_that_knows_the_other_is_enough() {
    let joined = |client_knows, server_knows, server_first| {
        let mut host = Host::new();
        let (curl, shop) = (host.process("curl"), host.process("shop"));
        let wiring = Wiring { unix: true, ..Wiring::default() };
        for _ in 0..2 {
            let first = host.events.len();
            let conn = host.connect_as(Some(curl), Some(shop), wiring);
            for (event, knows) in host.events[first..].iter_mut().zip([client_knows, server_knows]) {
                let Event::ConnOpened(opened) = event else { panic!("{event:?}") };
                opened.peer_cookie = opened.peer_cookie.filter(|_| knows);
            }
            if server_first {
                host.events.swap(first, first + 1);
            }
            host.asks(curl, conn, shop, "/a");
            host.answers(curl, conn, shop);
        }
        host.lines().iter().filter(|line| line.ends_with("/a < curl client /a (unix-peer)")).count()
    };
    for server_first in [false, true] {
        assert_eq!(joined(true, true, server_first), 2);
        assert_eq!(joined(true, false, server_first), 2);
        assert_eq!(joined(false, true, server_first), 2);
        assert_eq!(joined(false, false, server_first), 0);
    }
}

#[test]
fn unix_offsets_of_older_sockets_do_not_compare() {
    let lines = joined_by(Wiring { unix: true, preexisting: true, ..Wiring::default() });
    assert_eq!(lines.iter().filter(|line| line.contains('<')).count(), 0, "{lines:?}");
}

#[test]
fn pipelined_requests_are_joined_one_by_one() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect(Some(curl), Some(shop));
    host.request(curl, conn.0, "/a");
    host.request(curl, conn.0, "/b");
    host.read(shop, conn.1);
    host.response(shop, conn.1);
    host.response(shop, conn.1);
    host.read(curl, conn.0);
    assert_eq!(
        host.lines(),
        [
            "curl client /a",
            "curl client /b",
            "shop server /a < curl client /a (tcp-sequence)",
            "shop server /b < curl client /b (tcp-sequence)"
        ]
    );
}

/// The kernel stamps operations at their end, on any CPU: a read may come before its write.
#[test]
fn either_end_may_be_seen_first() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect(Some(curl), Some(shop));
    host.asks(curl, conn, shop, "/a");
    host.answers(curl, conn, shop);
    swap_last_exchange(&mut host);
    let spans = run(&host.events, EngineConfig::default(), host.clock);
    let mut found = lines(&spans);
    found.sort();
    assert_eq!(found, ["curl client /a", "shop server /a < curl client /a (tcp-sequence)"]);
    // The call began no later than its bytes arrived.
    assert_eq!(spans[0].start, spans[1].start);
}

fn swap_last_exchange(host: &mut Host) {
    let end = host.events.len();
    swap_times(host, &[(end - 4, end - 3), (end - 2, end - 1)]);
}

fn swap_times(host: &mut Host, pairs: &[(usize, usize)]) {
    let mut times: Vec<KernelInstant> = host.events.iter().map(Event::time).collect();
    for (one, other) in pairs {
        times.swap(*one, *other);
    }
    for (event, time) in host.events.iter_mut().zip(times) {
        if let Event::DataMoved(moved) = event {
            moved.time = time;
        }
    }
}

/// Nothing more is to come of it, but the request at its other end is not yet understood.
#[test]
fn a_call_given_up_at_once_began_before_it_was_read() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let (near, far) = host.connect(Some(curl), Some(shop));
    host.write(curl, near, &[PREFACE, &settings()].concat());
    host.read(shop, far);
    let (asked, reset) = (ask(1, "/a", true), frame(3, 0, 1, &[0, 0, 0, 8]));
    host.write(curl, near, &asked[..5]);
    host.read(shop, far);
    let read = host.events.len() - 1;
    swap_times(&mut host, &[(read - 1, read)]);
    host.write(curl, near, &[&asked[5..], &reset].concat());
    host.read(shop, far);
    let spans = run(&host.events, EngineConfig::default(), host.clock);
    assert_eq!(lines(&spans), ["curl client /a", "shop server /a < curl client /a (tcp-sequence)"]);
    assert_eq!(spans[0].start, spans[1].start);
}

/// Requests from outside are not noted for a join while nothing on the host calls.
#[test]
fn a_call_finds_its_other_end_after_a_long_time_without_calls() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect(Some(curl), Some(shop));
    let outside = host.connect(None, Some(shop));
    host.asks(curl, conn, shop, "/a");
    host.answers(curl, conn, shop);
    host.sleep(Duration::from_secs(30));
    host.asks(NOBODY, outside, shop, "/outside");
    host.answers(NOBODY, outside, shop);
    host.asks(curl, conn, shop, "/b");
    host.answers(curl, conn, shop);
    swap_last_exchange(&mut host);
    let mut found = host.lines();
    found.sort();
    assert_eq!(
        found,
        [
            "curl client /a",
            "curl client /b",
            "shop server /a < curl client /a (tcp-sequence)",
            "shop server /b < curl client /b (tcp-sequence)",
            "shop server /outside",
        ]
    );
}

/// A server that is behind accepts the connection when its client has long given up.
#[test]
fn a_call_given_up_long_ago_is_joined_when_it_is_read() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let (near, far, accepted) = host.dial(curl, shop);
    host.request(curl, near, "/late");
    host.close(curl, near);
    host.sleep(Duration::from_secs(25));
    // Something must happen for time to pass.
    let other = host.connect(None, Some(shop));
    host.asks(NOBODY, other, shop, "/now");
    host.answers(NOBODY, other, shop);
    host.accept(accepted);
    host.read(shop, far);
    host.response(shop, far);
    let mut found = host.lines();
    found.sort();
    assert_eq!(
        found,
        ["curl client /late", "shop server /late < curl client /late (tcp-sequence)", "shop server /now"]
    );
}

#[test]
fn a_peer_whose_side_was_lost_leaves_the_question_open() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect(Some(curl), Some(shop));
    host.asks(curl, conn, shop, "/a");
    host.answers(curl, conn, shop);
    host.events.retain(|event| !matches!(event, Event::DataMoved(moved) if moved.thread.tid.0 == curl.tid));
    assert_eq!(host.lines(), ["shop server /a - peer-unseen"]);
}

#[test]
fn an_untraced_client_leaves_a_plain_root() {
    let mut host = Host::new();
    let shop = host.process("shop");
    let conn = host.connect(None, Some(shop));
    host.asks(NOBODY, conn, shop, "/a");
    host.answers(NOBODY, conn, shop);
    assert_eq!(host.lines(), ["shop server /a"]);
}

/// Responses that begin at different places cannot be the same bytes.
#[test]
fn responses_that_contradict_mean_no_join() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect(Some(curl), Some(shop));
    host.asks(curl, conn, shop, "/a");
    host.answers(curl, conn, shop);
    let Some(Event::DataMoved(received)) = host.events.last_mut() else { panic!("no response") };
    received.tcp_seq_end = received.tcp_seq_end.wrapping_add(7);
    assert_eq!(host.lines(), ["curl client /a", "shop server /a - contradiction"]);
}

/// The other end is waited for once on a connection while nothing on the host calls.
#[test]
fn requests_of_a_client_that_was_waited_for_in_vain_leave_with_their_answers() {
    let config = EngineConfig::default();
    let window = config.reorder_window;
    let mut host = Host::new();
    let shop = host.process("shop");
    let conn = host.connect(None, Some(shop));
    let mut engine = Engine::new(config, [7; 32]);
    for (path, at_once) in [("/a", false), ("/b", true), ("/c", true)] {
        host.asks(NOBODY, conn, shop, path);
        host.answers(NOBODY, conn, shop);
        host.events.drain(..).for_each(|event| engine.handle_event(event));
        engine.handle_timeout(host.clock.plus(window));
        assert_eq!(engine.poll_span().is_some(), at_once, "{path}");
        host.sleep(Duration::from_millis(100));
        engine.handle_timeout(host.clock);
        assert_eq!(engine.poll_span().is_some(), !at_once, "{path}");
    }
}

/// Its socket shows at its first operation, which may be stamped behind what was done with it.
#[test]
fn a_client_that_is_traced_from_its_second_call_on_is_joined_at_once() {
    let mut host = Host::new();
    let (curl, shop) = (host.process("curl"), host.process("shop"));
    let conn = host.connect_as(Some(curl), Some(shop), Wiring { preexisting: true, ..Wiring::default() });
    let is_curl = |thread: &Thread| thread.tid.0 == curl.tid;
    let of_curl = |event: &Event| {
        let moved = matches!(event, Event::DataMoved(moved) if is_curl(&moved.thread));
        moved
            || matches!(event, Event::ConnOpened(opened) if opened.origin.thread.as_ref().is_some_and(is_curl))
    };
    host.asks(curl, conn, shop, "/a");
    host.answers(curl, conn, shop);
    let opened = host.events.iter().find(|event| of_curl(event)).cloned();
    let Some(Event::ConnOpened(mut opened)) = opened else { panic!("{opened:?}") };
    host.events.retain(|event| !of_curl(event));
    host.sleep(Duration::from_millis(100));
    let before = host.events.len();
    host.asks(curl, conn, shop, "/b");
    host.answers(curl, conn, shop);
    swap_last_exchange(&mut host);
    for event in &mut host.events[before..] {
        let own = of_curl(event);
        if let (Event::DataMoved(moved), true) = (event, own) {
            // Its positions are counted from here.
            moved.offset = 0;
        }
    }
    opened.origin.time = host.events[before].time();
    host.events.insert(before, Event::ConnOpened(opened));
    let found = host.lines();
    let joined = "shop server /b < curl client /b (tcp-sequence)";
    assert!(found.iter().any(|line| line == joined), "{found:?}");
}
