//! What the kernel half has no hook for: the closing of Unix sockets.

use std::collections::BTreeSet;

use tracer_core::event::Event;
use tracer_tests::temp::TempDir;

use crate::recorded::run_python;

/// More sockets than the kernel lists in one go; at the least ten looks are taken at them.
const PAIRS: usize = 2500;

#[test]
fn unix_sockets_are_closed_when_they_are_and_not_before() {
    let dir = TempDir::new().unwrap();
    let seen = run_python("unix_pairs.py", &[&PAIRS.to_string()], &dir);
    let mut used = BTreeSet::new();
    let mut closed = BTreeSet::new();
    for event in &seen.events {
        if let Event::DataMoved(data) = event {
            assert!(!closed.contains(&data.cookie), "closed before it was used again");
            used.insert(data.cookie);
        } else if let Event::ConnClosed(end) = event {
            assert!(closed.insert(end.cookie), "closed twice");
        }
    }
    assert_eq!((used.len(), closed.len()), (2 * PAIRS, 2 * PAIRS), "used, closed");
}
