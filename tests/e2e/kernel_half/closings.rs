//! Who closes a TCP connection: a program, or a packet.

use std::collections::BTreeMap;

use tracer_abi::conn::{Direction, Role};
use tracer_core::event::{Event, IoOutcome};
use tracer_tests::temp::TempDir;

use crate::recorded::run_python;

#[test]
fn a_reset_is_of_no_program_and_what_is_being_sent_comes_after_it() {
    let dir = TempDir::new().unwrap();
    let seen = run_python("closings.py", &[], &dir);
    let mut paths = BTreeMap::new();
    for data in seen.data.iter().filter(|data| data.offset == 0) {
        let line = String::from_utf8_lossy(&data.payload);
        if let Some(path) = line.strip_prefix("GET /").and_then(|rest| rest.split(' ').next()) {
            paths.insert(data.cookie, path.to_owned());
        }
    }
    let mut closed = BTreeMap::new();
    let mut sent_after = BTreeMap::new();
    let mut events: Vec<&Event> = seen.events.iter().collect();
    events.sort_by_key(|event| event.time());
    for event in events {
        if let Event::ConnClosed(end) = event {
            let (path, role) = (paths[&end.cookie].as_str(), seen.opened[&end.cookie].role);
            let last = closed.insert((path, role == Role::Server), !end.by_packet);
            assert_eq!(last, None, "{path} was closed twice");
        } else if let Event::DataMoved(data) = event
            && data.direction == Direction::Egress
            && let IoOutcome::Moved(len) = data.outcome
        {
            let end = (paths[&data.cookie].as_str(), seen.opened[&data.cookie].role == Role::Server);
            if closed.contains_key(&end) {
                sent_after.insert(end, len);
            }
        }
    }
    let by_program = [
        (("closed", false), true),
        (("closed", true), true),
        (("reset", false), true),
        (("reset", true), false),
        (("reset-amid", false), true),
        (("reset-amid", true), false),
    ];
    assert_eq!(closed, BTreeMap::from(by_program));
    assert_eq!(sent_after.keys().collect::<Vec<_>>(), [&("reset-amid", true)]);
    assert!(sent_after[&("reset-amid", true)] > 0);
}
