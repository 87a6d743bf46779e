//! What files of programs and libraries say: whose TLS they hold, and where in their functions probes go.
//!
//! They may be anyone's: what is read of them is bounded in bytes and in work, checked, and never executed. A library about
//! which something does not fit is left alone, and why is told. Nothing here names a process, or the kernel half's
//! programs.

mod accessor;
mod elf;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gnutls;
pub mod go_version;
mod golang;
mod grpc_go;
mod library;
mod openssl;
mod pclntab;
mod place;
mod rustls;

pub use self::library::{Inode, Library, Stack, inode, standard};
pub use self::place::{Gate, Point, Site};

#[cfg(test)]
mod tests;
