//! TLS libraries of processes: which of them one has mapped. What they are, and where in them probes go, `tracer-elf` says.
//!
//! It names nothing of the kernel half's programs; see `capture::tls` for their attachment.

mod mapped;

pub(crate) use tracer_elf::{Gate, Library, Point, Site, Stack, standard};

pub(crate) use self::mapped::{Known, Mapped, look};

#[cfg(test)]
mod tests;
