//! The few fields of raw records that the capture itself needs. Everything else is decoded by the core.

use std::mem::offset_of;

use tracer_abi::conn::Direction;
use tracer_abi::event::{DataRecord, EventKind, Header, flags};
use tracer_abi::task::Tgid;
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

/// The record says that a process has ended.
pub(super) fn is_process_end(record: &[u8]) -> bool {
    let flags = bytes(record, offset_of!(Header, flags)).map_or(0, u16::from_ne_bytes);
    kind(record) == Some(EventKind::TaskExited) && flags & flags::PROCESS_GONE != 0
}

/// A record without the room behind it: the kernel half reserves in a few sizes.
pub(super) fn trimmed(slot: &[u8]) -> &[u8] {
    let len = bytes(slot, offset_of!(Header, len_bytes)).map_or(0, u32::from_ne_bytes);
    slot.get(..len as usize).unwrap_or(slot)
}

/// Which way a data record's bytes moved.
pub(super) fn direction(record: &[u8]) -> Option<Direction> {
    bytes(record, offset_of!(DataRecord, direction)).and_then(|[code]| code.try_into().ok())
}

/// Bytes behind the fixed part of a record of type `T`.
pub(super) fn payload<T>(record: &[u8]) -> &[u8] {
    record.get(size_of::<T>()..).unwrap_or_default()
}
