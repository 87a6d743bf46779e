//! The few fields of raw records that the capture itself needs. Everything else is decoded by the core.

use std::mem::offset_of;

use tracer_abi::conn::{Direction, Family, SocketCookie};
use tracer_abi::event::{
    ConnClosedRecord, ConnRecord, DataRecord, EventKind, ForkRecord, Header, IdentityRecord, Runtime, flags,
};
use tracer_abi::python::CHAIN_TASKS;
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;

fn bytes<const N: usize>(record: &[u8], at: usize) -> Option<[u8; N]> {
    record.get(at..at + N)?.try_into().ok()
}

pub(super) fn kind(record: &[u8]) -> Option<EventKind> {
    bytes(record, offset_of!(Header, kind)).and_then(|code| u16::from_ne_bytes(code).try_into().ok())
}

/// When the record was made; zero when it is too short to say.
pub(super) fn time(record: &[u8]) -> KernelInstant {
    let nanos = bytes(record, offset_of!(Header, time)).map_or(0, u64::from_ne_bytes);
    KernelInstant::from_nanos(nanos)
}

pub(super) fn tgid(record: &[u8]) -> Option<Tgid> {
    bytes(record, offset_of!(Header, tgid)).map(|number| Tgid(u32::from_ne_bytes(number)))
}

/// In whose context it was made.
pub(super) fn process(record: &[u8]) -> Option<ProcessKey> {
    let tgid = tgid(record).filter(|tgid| *tgid != Tgid(0))?;
    let start_boottime = bytes(record, offset_of!(Header, process_start_boottime)).map(u64::from_ne_bytes)?;
    Some(ProcessKey { tgid, start_boottime })
}

/// The record says that a process has ended.
pub(super) fn is_process_end(record: &[u8]) -> bool {
    let flags = bytes(record, offset_of!(Header, flags)).map_or(0, u16::from_ne_bytes);
    kind(record) == Some(EventKind::TaskExited) && flags & flags::PROCESS_GONE != 0
}

/// Of an exec record: the process was traced before.
pub(super) fn is_traced(record: &[u8]) -> bool {
    bytes(record, offset_of!(Header, flags)).map_or(0, u16::from_ne_bytes) & flags::TRACED != 0
}

/// Of a fork record: who was created.
pub(super) fn child(record: &[u8]) -> Option<ProcessKey> {
    let tgid = bytes(record, offset_of!(ForkRecord, child)).map(|number| Tgid(u32::from_ne_bytes(number)))?;
    let start_boottime =
        bytes(record, offset_of!(ForkRecord, child_start_boottime)).map(u64::from_ne_bytes)?;
    Some(ProcessKey { tgid, start_boottime })
}

/// Of a data record: bytes of TLS.
pub(super) fn is_tls(record: &[u8]) -> bool {
    bytes(record, offset_of!(DataRecord, class)) == Some([Class::Tls.code()])
}

/// The socket of a data record or of one of a connection's life: it lies right behind the header in each.
pub(super) fn cookie(record: &[u8]) -> Option<SocketCookie> {
    bytes(record, size_of::<Header>()).map(|cookie| SocketCookie(u64::from_ne_bytes(cookie)))
}

const _: () = {
    assert!(offset_of!(DataRecord, cookie) == size_of::<Header>());
    assert!(offset_of!(ConnRecord, cookie) == size_of::<Header>());
};

/// What tokio told: how the walk ended, and the tasks as words.
pub(super) fn tokio(record: &[u8]) -> Option<(u64, [u64; 2 * CHAIN_TASKS])> {
    let byte = |at: usize| record.get(at).copied();
    if byte(offset_of!(IdentityRecord, runtime))? != Runtime::Tokio.code() {
        return None;
    }
    let tasks: [u8; 16 * CHAIN_TASKS] = bytes(record, offset_of!(IdentityRecord, tasks))?;
    let mut words = [0; 2 * CHAIN_TASKS];
    let len = usize::from(byte(offset_of!(IdentityRecord, len))?);
    for (word, bytes) in words.iter_mut().zip(tasks.as_chunks().0).take(2 * len) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Some((byte(offset_of!(IdentityRecord, end))?.into(), words))
}

/// Of a ConnOpened record.
pub(super) fn family(record: &[u8]) -> Option<Family> {
    bytes(record, offset_of!(ConnRecord, family)).and_then(|code| u16::from_ne_bytes(code).try_into().ok())
}

/// Of a ConnOpened record.
pub(super) fn netns(record: &[u8]) -> Option<u32> {
    bytes(record, offset_of!(ConnRecord, netns)).map(u32::from_ne_bytes)
}

/// Of a data record: where in the stream its operation ended. `None` when no bytes moved.
pub(super) fn stream_end(record: &[u8]) -> Option<u64> {
    let offset = bytes(record, offset_of!(DataRecord, offset)).map(u64::from_ne_bytes)?;
    let result = bytes(record, offset_of!(DataRecord, result)).map(i32::from_ne_bytes)?;
    let moved = u64::try_from(result).ok().filter(|&moved| moved > 0)?;
    offset.checked_add(moved)
}

/// A ConnClosed record of no process, as the kernel half would make it.
pub(super) fn conn_closed(time: KernelInstant, cookie: SocketCookie, egress: u64, ingress: u64) -> Vec<u8> {
    let mut record = vec![0; size_of::<ConnClosedRecord>()];
    let mut put = |at: usize, field: &[u8]| record[at..at + field.len()].copy_from_slice(field);
    put(offset_of!(Header, kind), &EventKind::ConnClosed.code().to_ne_bytes());
    put(offset_of!(Header, len_bytes), &(size_of::<ConnClosedRecord>() as u32).to_ne_bytes());
    put(offset_of!(Header, time), &time.as_nanos().to_ne_bytes());
    put(offset_of!(ConnClosedRecord, cookie), &cookie.0.to_ne_bytes());
    put(offset_of!(ConnClosedRecord, egress_bytes), &egress.to_ne_bytes());
    put(offset_of!(ConnClosedRecord, ingress_bytes), &ingress.to_ne_bytes());
    record
}

/// A record without the room behind it: the kernel half reserves in a few sizes.
pub(super) fn trimmed(slot: &[u8]) -> &[u8] {
    let len = bytes(slot, offset_of!(Header, len_bytes)).map(u32::from_ne_bytes);
    len.and_then(|len| slot.get(..len as usize)).unwrap_or(slot)
}

/// Which way a data record's bytes moved.
pub(super) fn direction(record: &[u8]) -> Option<Direction> {
    bytes(record, offset_of!(DataRecord, direction)).and_then(|[code]| code.try_into().ok())
}

/// Bytes behind the fixed part of a record of type `T`.
pub(super) fn payload<T>(record: &[u8]) -> &[u8] {
    record.get(size_of::<T>()..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_core::decode::decode;
    use tracer_core::event::Event;

    #[test]
    fn a_made_up_close_is_one_that_the_core_understands() {
        let time = KernelInstant::from_nanos(7);
        let record = conn_closed(time, SocketCookie(9), 11, 13);
        let Ok(Event::ConnClosed(closed)) = decode(&record) else { panic!("{:?}", decode(&record)) };
        assert_eq!((closed.origin.time, closed.origin.thread, closed.cookie), (time, None, SocketCookie(9)));
        assert_eq!((closed.egress_bytes, closed.ingress_bytes), (11, 13));
        assert_eq!(cookie(&record), Some(SocketCookie(9)));
    }

    #[test]
    fn short_records_have_no_fields() {
        for len in 0..size_of::<Header>() {
            let record = vec![1; len];
            assert_eq!((cookie(&record), stream_end(&record), direction(&record)), (None, None, None));
            assert!(!is_process_end(&record));
            let _ = (kind(&record), time(&record), tgid(&record), family(&record), netns(&record));
        }
        assert_eq!(trimmed(&[0; 3]), [0; 3]);
    }
}
