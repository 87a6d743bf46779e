//! Where OpenSSL keeps what ties a session to the socket that carries it: the random values of its hellos, and how many bytes
//! of records it has read and written.
//!
//! The hellos are on the socket in clear, and 32 bytes of each are random (RFC 8446 section 4.1.2), so a session that has
//! the same ones is that connection's. What is read with an offset that is wrong agrees with no socket.

/// Offsets in a session (`SSL`) and in one of the two objects (`BIO`) through which its records go. The value of the kernel
/// half's table of libraries; all zero: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OpenSslLayout {
    /// In the session: 32 random bytes of each hello.
    pub client_random: u32,
    pub server_random: u32,
    /// Not zero there: it is the server's.
    pub is_server: u32,
    /// Not zero there: it reads as much as it gets, and not one record after the other.
    pub read_ahead: u32,
    /// Where it reads records from, and writes them to, both addresses of a `BIO`.
    pub reads_from: u32,
    pub writes_to: u32,
    /// Not zero there: during a handshake, what it writes is gathered here before.
    pub gathers_in: u32,
    /// In a `BIO`: how many bytes were read from it, and written to it, 64 bits each.
    pub number_read: u32,
    pub number_written: u32,
}

/// Of a hello.
pub const RANDOM_BYTES: usize = 32;

/// Layouts that are told apart at once: versions of the library on one host.
pub const MAX_LAYOUTS: u32 = 64;
