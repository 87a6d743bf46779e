//! Which sockets of a process carried the hellos that a session says are its own.
//!
//! 32 random bytes of each side make a hello the one of its session. The same hello may come to a process twice all the same,
//! where it passes TLS on to a server of its own: then it is not said which of the sockets is the session's. A process that
//! calls itself has it at either end of one connection, where its bytes have the same sequence number.

use std::collections::BTreeMap;

use tracer_abi::conn::SocketCookie;
use tracer_abi::task::ProcessKey;

use super::hello::Random;
use super::make_room;

/// Of one hello in one process: two where it calls itself. More than a few is nobody's honest connection.
const MAX_CARRIERS: usize = 4;

#[derive(Clone, Copy, Debug)]
pub(super) struct Carrier {
    pub(super) cookie: SocketCookie,
    /// The hello is the client's, and was sent here.
    pub(super) is_client: bool,
    /// Sequence number of its first byte.
    pub(super) seq: u32,
}

#[derive(Debug, Default)]
pub(super) struct Carriers {
    table: BTreeMap<(ProcessKey, Random), Vec<Carrier>>,
}

impl Carriers {
    /// A client's hello was sent or received.
    pub(super) fn met(&mut self, process: ProcessKey, hello: Random, carrier: Carrier, max: usize) {
        let key = (process, hello);
        make_room(&mut self.table, &key, max);
        let carriers = self.table.entry(key).or_default();
        if carriers.len() < MAX_CARRIERS {
            carriers.push(carrier);
        }
    }

    /// The one socket that the hello was sent on, or received.
    pub(super) fn find(&self, process: ProcessKey, hello: Random, is_client: bool) -> Option<SocketCookie> {
        let carriers = self.table.get(&(process, hello)).filter(|carriers| carriers.len() < MAX_CARRIERS)?;
        let mut own = carriers.iter().filter(|carrier| carrier.is_client == is_client);
        let found = own.next().filter(|_| own.next().is_none())?;
        let other_end = carriers.iter().all(|carrier| carrier.seq == found.seq);
        other_end.then_some(found.cookie)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// None of the hello's sockets is open any more.
    pub(super) fn over(
        &mut self,
        process: ProcessKey,
        hello: Random,
        is_open: impl Fn(SocketCookie) -> bool,
    ) {
        let over = |carriers: &Vec<Carrier>| !carriers.iter().any(|carrier| is_open(carrier.cookie));
        if self.table.get(&(process, hello)).is_some_and(over) {
            self.table.remove(&(process, hello));
        }
    }
}
