//! The only reader of kernel socket structures.
//!
//! Stream sockets of three families are told apart from all others; datagrams, raw and netlink sockets carry no
//! connection that this tracer follows.

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use tracer_abi::conn::{Endpoint, Family, Role};
use tracer_abi::limits::UNIX_PATH_BYTES;

use crate::kernel::{Task, field, probe};
use crate::maps::offset;

const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const RCV_SHUTDOWN: u8 = 1;
/// `SOCK_DONE` of `sk_flags`: the peer's FIN has come.
const FIN_RECEIVED: u64 = 1 << 1;
/// Both directions, as `close` sets them.
const SHUTDOWN_MASK: u8 = 3;
const O_NONBLOCK: u32 = 0o4000;
/// `sockaddr_un` starts with its family.
const SUN_PATH: u32 = 2;

/// A `struct sock` that the verifier tracks.
#[derive(Clone, Copy)]
pub(crate) struct Sock(pub(crate) *const c_void);

/// A `struct tcp_sock`, made from a [`Sock`] by the kernel's own check.
#[derive(Clone, Copy)]
pub(crate) struct Tcp(*const c_void);

/// A `struct unix_sock`.
#[derive(Clone, Copy)]
pub(crate) struct Unix(*const c_void);

/// A stream socket that can be followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Inet,
    Inet6,
    Unix,
}

impl Stream {
    pub(crate) const fn family(self) -> Family {
        match self {
            Self::Inet => Family::Inet,
            Self::Inet6 => Family::Inet6,
            Self::Unix => Family::Unix,
        }
    }

    pub(crate) const fn is_unix(self) -> bool {
        matches!(self, Self::Unix)
    }
}

impl Sock {
    #[inline(always)]
    fn family(self) -> u16 {
        // SAFETY: a socket and a field of it.
        unsafe { field(self.0, offset!(sk_family)) }
    }

    /// `None` for sockets that are not byte streams of a known family.
    #[inline(always)]
    pub(crate) fn stream(self) -> Option<Stream> {
        // SAFETY: as above.
        let kind: u16 = unsafe { field(self.0, offset!(sk_type)) };
        if kind != SOCK_STREAM {
            return None;
        }
        let family = self.family();
        if family == Family::Inet.code() {
            Some(Stream::Inet)
        } else if family == Family::Inet6.code() {
            Some(Stream::Inet6)
        } else if family == Family::Unix.code() {
            Some(Stream::Unix)
        } else {
            None
        }
    }

    /// A Unix stream socket with a peer: no listener, no datagram socket.
    #[inline(always)]
    pub(crate) fn is_connected_unix_stream(self) -> bool {
        // SAFETY: as above; the caller has a `unix_sock`, which begins with its `sock`.
        unsafe {
            field::<u16>(self.0, offset!(sk_type)) == SOCK_STREAM
                && !field::<*const c_void>(self.0, offset!(unix_peer)).is_null()
        }
    }

    /// The flags of the open file behind the socket. `None`: no program holds the socket, the kernel itself does.
    #[inline(always)]
    pub(crate) fn file_flags(self) -> Option<u32> {
        // SAFETY: as above; loads through a null pointer give zero.
        unsafe {
            let socket: *const c_void = field(self.0, offset!(sk_socket));
            let file: *const c_void = field(socket, offset!(socket_file));
            if file.is_null() { None } else { Some(field(file, offset!(file_f_flags))) }
        }
    }

    #[inline(always)]
    fn shutdown(self) -> u8 {
        // SAFETY: as above.
        unsafe { field(self.0, offset!(sk_shutdown)) }
    }

    /// No more bytes will arrive.
    #[inline(always)]
    pub(crate) fn receive_ended(self) -> bool {
        self.shutdown() & RCV_SHUTDOWN != 0
    }

    /// The peer's FIN has come, whatever else has ended the direction: a reset has no place among its bytes.
    #[inline(always)]
    fn fin_received(self) -> bool {
        // SAFETY: as above.
        unsafe { field::<u64>(self.0, offset!(sk_flags)) & FIN_RECEIVED != 0 }
    }

    /// The process gave up both directions.
    #[inline(always)]
    pub(crate) fn both_ended(self) -> bool {
        self.shutdown() & SHUTDOWN_MASK == SHUTDOWN_MASK
    }

    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        // SAFETY: a tracked socket pointer.
        unsafe { helpers::bpf_get_socket_cookie(self.0.cast_mut()) }
    }

    /// The TCP part; `None` for other protocols (MPTCP among them: its sequence numbers are its subflows').
    #[inline(always)]
    pub(crate) fn tcp(self) -> Option<Tcp> {
        // SAFETY: a tracked socket pointer.
        let tcp = unsafe { helpers::bpf_skc_to_tcp_sock(self.0.cast_mut()) };
        if tcp.is_null() { None } else { Some(Tcp(tcp.cast_const().cast())) }
    }

    #[inline(always)]
    pub(crate) fn unix(self) -> Option<Unix> {
        // SAFETY: a tracked socket pointer.
        let unix = unsafe { helpers::bpf_skc_to_unix_sock(self.0.cast_mut()) };
        if unix.is_null() { None } else { Some(Unix(unix.cast_const().cast())) }
    }

    /// Inode number of the network namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        let net: u64 = probe(self.0, offset!(sk_net));
        probe(net as *const c_void, offset!(net_inum))
    }

    /// Local address and port. Zero address while a listener is not bound to one.
    #[inline(always)]
    pub(crate) fn local(self) -> Endpoint {
        let port: u16 = probe(self.0, offset!(sk_num));
        // A socket that is over, as after a reset, has given its port back, and still says to its peer which it was.
        let port_be = if port == 0 { probe(self.0, offset!(inet_sport)) } else { port.to_be_bytes() };
        if self.family() == Family::Inet.code() {
            Endpoint::from_kernel_v4(probe(self.0, offset!(sk_rcv_saddr)), port_be)
        } else {
            Endpoint::from_kernel_v6(probe(self.0, offset!(sk_v6_rcv_saddr)), port_be)
        }
    }

    #[inline(always)]
    pub(crate) fn remote(self) -> Endpoint {
        let port_be: [u8; 2] = probe(self.0, offset!(sk_dport));
        if self.family() == Family::Inet.code() {
            Endpoint::from_kernel_v4(probe(self.0, offset!(sk_daddr)), port_be)
        } else {
            Endpoint::from_kernel_v6(probe(self.0, offset!(sk_v6_daddr)), port_be)
        }
    }
}

impl Tcp {
    /// Sequence number of the next byte that the process will send.
    #[inline(always)]
    pub(crate) fn write_seq(self) -> u32 {
        // SAFETY: a TCP socket and a field of it.
        unsafe { field(self.0, offset!(tcp_write_seq)) }
    }

    /// Sequence number of the next byte that the process will read. The peer's FIN, once read, is not counted.
    #[inline(always)]
    pub(crate) fn copied_seq(self, sock: Sock) -> u32 {
        // SAFETY: as above.
        let (copied, rcv_nxt): (u32, u32) =
            unsafe { (field(self.0, offset!(tcp_copied_seq)), field(self.0, offset!(tcp_rcv_nxt))) };
        if copied == rcv_nxt && sock.fin_received() { copied.wrapping_sub(1) } else { copied }
    }

    /// Sequence numbers of the first byte ever sent and ever received, as the kernel's own byte counts give them.
    /// A handshake or an end counts as one byte there at times, so each may be off by one.
    #[inline(always)]
    pub(crate) fn first_seqs(self) -> (u32, u32) {
        let acked: u64 = probe(self.0, offset!(tcp_bytes_acked));
        let received: u64 = probe(self.0, offset!(tcp_bytes_received));
        let snd_una: u32 = probe(self.0, offset!(tcp_snd_una));
        let rcv_nxt: u32 = probe(self.0, offset!(tcp_rcv_nxt));
        (snd_una.wrapping_sub(acked as u32), rcv_nxt.wrapping_sub(received as u32))
    }
}

/// What is known of the two ends of a Unix connection.
pub(crate) struct UnixEnds {
    pub(crate) role: Role,
    pub(crate) peer_cookie: u64,
    pub(crate) path_len: u8,
}

impl Unix {
    /// Reads both ends, and the bound name of the server's end into `path`. This one's cookie must have been asked for: then
    /// at least one of two ends that are read at the same time has the other one's.
    ///
    /// A listener's name is inherited by the sockets that it accepts, and a program seldom binds the end that
    /// connects: the end with a name is the server's.
    #[inline(always)]
    pub(crate) fn ends(self, path: &mut [u8; UNIX_PATH_BYTES]) -> UnixEnds {
        // SAFETY: a Unix socket and fields of it. A stream socket keeps a reference to its peer until it is
        // itself released, which an operation on it prevents.
        let (own, peer): (*const c_void, *const c_void) =
            unsafe { (field(self.0, offset!(unix_addr)), field(self.0, offset!(unix_peer))) };
        // Some kernels give no cookie to a socket that a program was led to. Once the peer has been told of it has one.
        let peer_cookie: u64 = if peer.is_null() { 0 } else { probe(peer, offset!(sk_cookie)) };
        let peer_addr: u64 = if peer.is_null() { 0 } else { probe(peer, offset!(unix_addr)) };
        let (role, address) = if !own.is_null() {
            (if peer_addr == 0 { Role::Server } else { Role::Unknown }, own)
        } else if peer_addr != 0 {
            (Role::Client, peer_addr as *const c_void)
        } else {
            return UnixEnds { role: Role::Unknown, peer_cookie, path_len: 0 };
        };
        let address_len: u32 = probe(address, offset!(unix_address_len));
        let wanted = address_len.saturating_sub(SUN_PATH);
        let len = if wanted > UNIX_PATH_BYTES as u32 { UNIX_PATH_BYTES as u32 } else { wanted };
        // SAFETY: `len` is at most the size of `path`; the helper checks the source.
        let failed = unsafe {
            helpers::bpf_probe_read_kernel(
                path.as_mut_ptr().cast(),
                crate::emit::at_most::<{ UNIX_PATH_BYTES as u64 }>(u64::from(len)) as u32,
                address.cast::<u8>().add((offset!(unix_address_name) + SUN_PATH) as usize).cast(),
            )
        };
        // A name in the file system is stored with its NUL; an abstract one starts with NUL and has no end mark.
        let end_mark = if path[0] == 0 { 0 } else { 1 };
        let path_len = if failed == 0 { len.saturating_sub(end_mark) as u8 } else { 0 };
        UnixEnds { role, peer_cookie, path_len }
    }
}

/// How a program has an epoll instance watch a socket.
pub(crate) struct Watch {
    /// The socket's descriptor, by which it was added.
    pub(crate) descriptor: u32,
    /// What the program wants to be told when something happens.
    pub(crate) data: u64,
}

impl Watch {
    /// By the instance that watches a file since last. `None`: none does, or this kernel does not say. Another thread may change
    /// it meanwhile: what is found is to be compared with what it must be.
    #[inline(always)]
    fn of(file: u64) -> Option<Self> {
        if offset!(file_f_ep) == 0 || file == 0 {
            return None;
        }
        let watches = pointer(file, offset!(file_f_ep));
        let first = pointer(watches, 0);
        if watches == 0 || first == 0 {
            return None;
        }
        let entry = first.wrapping_sub(u64::from(offset!(epitem_fllink))) as *const c_void;
        Some(Self {
            descriptor: probe(entry, offset!(epitem_descriptor)),
            data: probe(entry, offset!(epitem_data)),
        })
    }
}

impl Sock {
    #[inline(always)]
    pub(crate) fn watch(self) -> Option<Watch> {
        // SAFETY: as above; loads through a null pointer give zero.
        let file: *const c_void = unsafe {
            let socket: *const c_void = field(self.0, offset!(sk_socket));
            field(socket, offset!(socket_file))
        };
        Watch::of(file as u64)
    }
}

/// A socket that a process has open. Its pointers are not tracked, and only read with care.
pub(crate) struct OpenSocket {
    file: u64,
    sk: u64,
}

impl OpenSocket {
    /// Of the task's process. The table of descriptors may change meanwhile: who asks must know that the descriptor was not
    /// closed.
    #[inline(always)]
    pub(crate) fn of(task: Task, descriptor: u32) -> Option<Self> {
        let files = pointer(task.0 as u64, offset!(task_files));
        let table = pointer(files, offset!(files_fdt));
        let room: u32 = probe(table as *const c_void, offset!(fdtable_max_fds));
        if files == 0 || table == 0 || descriptor >= room {
            return None;
        }
        let places = pointer(table, offset!(fdtable_fd));
        let file = pointer(places.wrapping_add(8 * u64::from(descriptor)), 0);
        let socket = pointer(file, offset!(file_private_data));
        // A socket has the file that has it; nothing else does at this place.
        if file == 0 || socket == 0 || pointer(socket, offset!(socket_file)) != file {
            return None;
        }
        let sk = pointer(socket, offset!(socket_sk));
        if sk == 0 { None } else { Some(Self { file, sk }) }
    }

    /// Zero: it was not asked for its cookie yet.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        pointer(self.sk, offset!(sk_cookie))
    }

    /// The kernel's address of it: that of no other while it is open.
    #[inline(always)]
    pub(crate) fn address(&self) -> u64 {
        self.sk
    }

    /// TCP: sequence number of the next byte that the process will send. Zero elsewhere.
    #[inline(always)]
    pub(crate) fn write_seq(&self) -> u32 {
        let sk = self.sk as *const c_void;
        let family: u16 = probe(sk, offset!(sk_family));
        let protocol: u16 = probe(sk, offset!(sk_protocol));
        let is_tcp = protocol == IPPROTO_TCP && family != Family::Unix.code();
        if is_tcp { probe(sk, offset!(tcp_write_seq)) } else { 0 }
    }

    #[inline(always)]
    pub(crate) fn watch(&self) -> Option<Watch> {
        Watch::of(self.file)
    }
}

#[inline(always)]
fn pointer(object: u64, offset: u32) -> u64 {
    probe(object as *const c_void, offset)
}

/// Whether an operation on a file with these flags, called with these message flags, cannot wait.
#[inline(always)]
pub(crate) const fn nonblocking(file_flags: u32, message_flags: u32) -> bool {
    file_flags & O_NONBLOCK != 0 || message_flags & crate::io::MSG_DONTWAIT != 0
}
