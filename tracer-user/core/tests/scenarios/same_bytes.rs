//! The two ends of the same bytes.

use std::time::Duration;

use tracer_abi::time::KernelInstant;
use tracer_core::EngineConfig;
use tracer_core::event::Event;

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
    let mut times: Vec<KernelInstant> = host.events.iter().map(Event::time).collect();
    let end = times.len();
    times.swap(end - 4, end - 3);
    times.swap(end - 2, end - 1);
    for (event, time) in host.events.iter_mut().zip(times) {
        if let Event::DataMoved(moved) = event {
            moved.time = time;
        }
    }
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
    let conn = host.connect(Some(curl), Some(shop));
    let Some(Event::ConnOpened(mut accepted)) = host.events.pop() else { panic!("no connection") };
    host.request(curl, conn.0, "/late");
    host.close(curl, conn.0);
    host.sleep(Duration::from_secs(25));
    // Something must happen for time to pass.
    let other = host.connect(None, Some(shop));
    host.asks(NOBODY, other, shop, "/now");
    host.answers(NOBODY, other, shop);
    accepted.origin.time = host.tick();
    host.events.push(Event::ConnOpened(accepted));
    host.read(shop, conn.1);
    host.response(shop, conn.1);
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
