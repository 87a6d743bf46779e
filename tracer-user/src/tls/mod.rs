//! Where TLS libraries hand over plaintext: which of them a process has mapped, and where in them probes go.
//!
//! Libraries are files of programs that may be anyone's: what is read of them is bounded, checked, and never executed. A
//! library about which something does not fit is left alone, and why is told. It names nothing of the kernel half's
//! programs; see `capture::tls` for their attachment.

mod accessor;
mod elf;
mod follow;
mod gnutls;
mod golang;
mod grpc_go;
mod library;
mod mapped;
mod openssl;
mod pclntab;
mod place;

pub(crate) use self::library::{Library, Stack, standard};
pub(crate) use self::mapped::{Known, Mapped, look};
pub(crate) use self::place::{Gate, Point, Site};

#[cfg(test)]
mod tests;
