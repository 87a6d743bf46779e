//! Raw facts of the kernel half, read from recordings: which bytes it reports, where in their streams, of whom.
//!
//! What becomes of them is the matter of other tests.

#![expect(clippy::unwrap_used, reason = "tests may state what cannot fail")]

mod calls;
mod closings;
mod recorded;
mod scope;
mod tls;
mod unix_sockets;
mod wake_ups;
