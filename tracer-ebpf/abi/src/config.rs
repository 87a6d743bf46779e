//! What the loader writes and the programs read. Frozen before the first program runs, so that the verifier sees
//! constants: switched-off code is pruned and an offset is as good as one in a C program.

use crate::codes;

/// Declares a struct of `u32` words and its form as an array, which is what a loader writes.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: u32,)+ }

        impl $name {
            /// Number of words.
            pub const WORDS: usize = [$(stringify!($field),)+].len();

            /// All fields zero.
            pub const ZERO: Self = Self { $($field: 0,)+ };

            /// The fields in declaration order: the image of the struct in memory.
            pub const fn to_words(self) -> [u32; Self::WORDS] {
                [$(self.$field,)+]
            }
        }
    };
}

words! {
    /// Feature switches and knobs, one `.rodata` global in the kernel half.
    Config {
        /// The tracer's own thread group: never traced, but for the thread that runs the self-test.
        tracer_tgid,
        /// Trace every process but the tracer (1) or only those in the process table (0).
        trace_all,
        /// Report the exec of every process (1), so that user space can match executables that start later.
        watch_exec,
        /// Capture and report processes that come to listen on an awaited port (1), until user space has decided.
        watch_listen,
        /// Payload bytes per turn of a direction; at most [`crate::limits::MAX_HEAD_BUDGET_BYTES`].
        head_budget_bytes,
        /// Size of the data ring: see [`crate::limits::urgent_bytes`].
        data_ring_bytes,
    }
}

words! {
    /// Byte offsets of kernel structure fields, resolved from the running kernel's type information.
    Offsets {
        sk_family,
        sk_dport,
        sk_num,
        inet_sport,
        sk_daddr,
        sk_rcv_saddr,
        sk_v6_daddr,
        sk_v6_rcv_saddr,
        sk_net,
        sk_type,
        sk_protocol,
        sk_socket,
        sk_shutdown,
        sk_flags,
        sk_cookie,
        net_inum,
        socket_sk,
        socket_file,
        file_f_flags,
        file_private_data,
        /// Zero: this kernel has no such field.
        file_f_ep,
        epitem_fllink,
        epitem_descriptor,
        epitem_data,
        tcp_write_seq,
        tcp_copied_seq,
        tcp_rcv_nxt,
        tcp_snd_una,
        tcp_bytes_received,
        tcp_bytes_acked,
        unix_addr,
        unix_peer,
        unix_address_len,
        unix_address_name,
        task_tgid,
        task_pid,
        task_group_leader,
        task_real_parent,
        task_start_boottime,
        task_nvcsw,
        task_exit_code,
        task_signal,
        task_mm,
        task_fsbase,
        task_files,
        files_fdt,
        fdtable_max_fds,
        fdtable_fd,
        signal_live,
        mm_arg_start,
        mm_arg_end,
        bprm_filename,
    }
}

/// State of one traced process, the value of the kernel half's process table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessState {
    /// `group_leader->start_boottime` in nanoseconds; with [`process_flags::START_IN_TICKS`], in ticks.
    pub start_boottime: u64,
    /// [`process_flags`]
    pub flags: u32,
    /// With [`process_flags::SELF_TEST`]: the only thread that is traced. Else zero.
    pub only_tid: u32,
}

/// Bits of [`ProcessState::flags`].
pub mod process_flags {
    /// The start time is known to the tick only, as `/proc/PID/stat` gives it.
    pub const START_IN_TICKS: u32 = 1;
    /// Execed, or began to listen, a moment ago and captured until user space has decided.
    pub const PENDING: u32 = 1 << 1;
    /// The tracer's own thread that proves that capture works.
    pub const SELF_TEST: u32 = 1 << 2;
    /// Entered by the kernel half (fork, exec), which counts it in its own half of the prefilter.
    pub const BY_KERNEL: u32 = 1 << 3;
    /// Not traced, but kept in the table until exit because of [`BY_KERNEL`].
    pub const UNTRACED: u32 = 1 << 4;
}

/// A process whose hand-offs between threads are followed: the value of the kernel half's table of those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Followed {
    /// `group_leader->start_boottime` in nanoseconds, or rounded down to the tick.
    pub start_boottime: u64,
    /// Wake-ups of its threads that were looked at, whoever caused them. Counted by the kernel half, and not exactly
    /// where CPUs count at once.
    pub wakes: u64,
    /// Of them: reported.
    pub reported: u64,
    /// Descriptors below 64 that are event counters (`eventfd`), one bit each, as they were when following began: what
    /// waits for one besides a socket waits for that socket alone, and what waits for nothing else for other threads.
    pub event_fds: u64,
    /// Not zero: a runtime's program may know what its threads wait for.
    pub asked: u64,
}

codes! {
    /// Which call of a TLS library begins where a probe sits: the lowest byte of the cookie of its attachment, unless that
    /// is one of [`tls_site`].
    "TLS call" TlsCall: u32 {
        /// `SSL_read(ssl, buffer, size) → moved`
        Read = 1,
        /// `SSL_read_ex(ssl, buffer, size, &moved) → done`
        ReadEx = 2,
        /// `SSL_write(ssl, buffer, size) → moved`
        Write = 3,
        /// `SSL_write_ex(ssl, buffer, size, &moved) → done`
        WriteEx = 4,
        /// Moves no plaintext, but may send and receive: `SSL_do_handshake(ssl)`, `SSL_peek(ssl, …)`,
        /// `SSL_shutdown(ssl)`, `(*Conn).clientHandshake`.
        Other = 5,
        /// Hands out plaintext in memory of the library's own, of which the length alone is told:
        /// `gnutls_record_recv_packet(session, &packet) → moved`
        ReadAside = 6,
        /// `SSL_write_ex2(ssl, buffer, size, flags, &moved) → done`
        WriteEx2 = 7,
    }
}

/// What else passing a probe may mean: the lowest byte of the cookie of its attachment.
pub mod tls_site {
    pub const MASK: u64 = 0xff;
    /// Beside that byte: the library is part of the program, which it may call back in the middle of a call. Whatever moves
    /// on a socket then is not of the call's session for that.
    pub const CALLS_BACK: u64 = 1 << 8;
    /// Above these bits: where the library keeps what it knows, as a number in the table of layouts; zero: not known.
    pub const LAYOUT_SHIFT: u32 = 16;

    /// The call has its result and ends.
    pub const ENDS: u64 = 16;
    /// The same, if the processor's zero flag is set: a branch that is taken unless it is.
    pub const ENDS_IF_ZERO: u64 = 17;
    pub const ENDS_IF_NOT_ZERO: u64 = 18;
    /// The session is freed.
    pub const FREES: u64 = 19;
    /// A goroutine begins to serve a stream of HTTP/2, or to send the request of one: for another program than the others.
    pub const STREAM_SERVES: u64 = 20;
    pub const STREAM_CALLS: u64 = 21;
    /// The same in grpc-go, where one has been given the number that it sends a request with.
    pub const GRPC_SERVES: u64 = 22;
    pub const GRPC_CALLS: u64 = 23;
}

/// A place in a program of Go, as the cookie of its probe has it: what passing it means, which is a [`TlsCall`] or one of
/// [`tls_site`], and where the program's version has two fields, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoTlsSite {
    pub site: u32,
    /// From a goroutine: its number.
    pub number: u16,
    /// From a `tls.Conn`: `rawInput`, the `bytes.Buffer` of what it has read and not looked at.
    pub unread: u16,
}

impl GoTlsSite {
    pub const fn to_cookie(self) -> u64 {
        self.site as u64 | (self.number as u64) << 32 | (self.unread as u64) << 48
    }

    pub const fn of_cookie(cookie: u64) -> Self {
        Self { site: cookie as u32, number: (cookie >> 32) as u16, unread: (cookie >> 48) as u16 }
    }
}

/// A place in grpc-go, as the cookie of its probe has it: what passing it means, which is one of [`tls_site`], and where the
/// module's version has its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcSite {
    pub site: u8,
    pub fields: GrpcFields,
}

/// From a stream of grpc-go's server or client, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcFields {
    /// What both sorts of streams have is an object of its own, whose address a stream begins with.
    pub is_apart: bool,
    /// From there: the stream's number.
    pub number: u16,
    /// The address of the connection's `http2Server` or `http2Client`.
    pub transport: u16,
}

impl GrpcSite {
    pub const fn to_cookie(self) -> u64 {
        let GrpcFields { is_apart, number, transport } = self.fields;
        self.site as u64 | (is_apart as u64) << 8 | (number as u64) << 16 | (transport as u64) << 32
    }

    pub const fn of_cookie(cookie: u64) -> Self {
        let fields = GrpcFields {
            is_apart: cookie >> 8 & 1 != 0,
            number: (cookie >> 16) as u16,
            transport: (cookie >> 32) as u16,
        };
        Self { site: cookie as u8, fields }
    }
}

/// A place in GnuTLS, as the cookie of its probe has it: what passing it means, which is a [`TlsCall`] or one of
/// [`tls_site`], how far the stack has grown there since the function began, and where a session has what ties it to its
/// socket, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GnuTlsSite {
    pub site: u8,
    /// In words of eight bytes.
    pub depth: u8,
    /// 32 random bytes of the client's hello, and of the server's directly behind them.
    pub hellos: u16,
    /// 32 bits: [`GNUTLS_SERVER`], or the client's.
    pub role: u16,
    /// 32 bits: whether what is to be sent is gathered, as one of [`GNUTLS_CORKED`].
    pub corked: u16,
}

/// `gnutls/gnutls.h`.
pub const GNUTLS_SERVER: u32 = 1;

/// `RECORD_SEND_CORKED` and `RECORD_SEND_CORKED_TO_KU` (`lib/gnutls_int.h`): what is sent then comes to no record yet.
pub const GNUTLS_CORKED: [u32; 2] = [1, 2];

impl GnuTlsSite {
    pub const fn to_cookie(self) -> u64 {
        self.site as u64
            | (self.depth as u64) << 8
            | (self.hellos as u64) << 16
            | (self.role as u64) << 32
            | (self.corked as u64) << 48
    }

    pub const fn of_cookie(cookie: u64) -> Self {
        Self {
            site: cookie as u8,
            depth: (cookie >> 8) as u8,
            hellos: (cookie >> 16) as u16,
            role: (cookie >> 32) as u16,
            corked: (cookie >> 48) as u16,
        }
    }
}

/// A place in rustls, as the cookie of its probe has it: what passing it means, which is a [`TlsCall`] or one of
/// [`tls_site`], and how far the stack has grown there since the function began.
///
/// The functions encrypt or decrypt one record of TLS, for whichever cipher:
/// `MessageEncrypter::encrypt(&mut self, OutboundPlainMessage, sequence) → Result<OutboundOpaqueMessage, Error>` and
/// `MessageDecrypter::decrypt(&mut self, InboundOpaqueMessage, sequence) → Result<InboundPlainMessage, Error>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RustlsSite {
    pub site: u8,
    /// In words of eight bytes.
    pub depth: u8,
}

impl RustlsSite {
    pub const fn to_cookie(self) -> u64 {
        self.site as u64 | (self.depth as u64) << 8
    }

    pub const fn of_cookie(cookie: u64) -> Self {
        Self { site: cookie as u8, depth: (cookie >> 8) as u8 }
    }
}

/// Bits of what the kernel half's table has of a process whose TLS is watched.
pub mod tls_stacks {
    /// A library whose calls are of threads.
    pub const OF_THREADS: u8 = 1;
    /// Go's, whose calls are of goroutines.
    pub const OF_GOROUTINES: u8 = 1 << 1;
    /// rustls, whose records are told apart by their bytes.
    pub const OF_RECORDS: u8 = 1 << 2;
}

/// Nanoseconds in the tick (`USER_HZ` = 100) in which `/proc/PID/stat` gives a start time.
pub const NANOS_PER_TICK: u64 = 10_000_000;

/// Number of TCP ports.
pub const PORTS: u32 = 1 << 16;

/// Slots of the prefilter: thread group ids that agree in their low 16 bits share one.
pub const PREFILTER_SLOTS: u32 = 1 << 16;

/// Places of the runtimes' programs in the tables through which a hook's program goes on with them.
pub mod identity_slot {
    pub const PYTHON: u32 = 0;
    pub const GO: u32 = 1;
    pub const TOKIO: u32 = 2;
    pub const GREENLET: u32 = 3;
    pub const JAVA: u32 = 4;
    /// Pools of CPython.
    pub const PYTHON_WORK: u32 = 5;
    /// Pools of Java.
    pub const JAVA_WORK: u32 = 6;
    pub const NGINX: u32 = 7;
    pub const COUNT: u32 = 8;
}

/// The table of processes whose runtimes are asked, by slot of their thread group id ([`PREFILTER_SLOTS`]): the first place
/// of [`identity_slot`] where one is, and what is asked behind that is asked as well.
pub mod runtime_slots {
    use super::{PREFILTER_SLOTS, identity_slot};

    /// Words of sixteen slots, four bits each.
    pub const WORDS: u32 = PREFILTER_SLOTS / 16;

    const BITS: u64 = 0xf;

    /// The word and the bit from which on it has this thread group.
    pub const fn place(tgid: u32) -> (u32, u32) {
        let slot = tgid & (PREFILTER_SLOTS - 1);
        (slot >> 4, (slot & 15) * 4)
    }

    /// The first place, from a word. `None`: nobody of this slot is asked.
    #[inline(always)]
    pub const fn first(word: u64, bit: u32) -> Option<u32> {
        match (word >> bit & BITS) as u32 {
            0 => None,
            first => Some(first - 1),
        }
    }

    /// The word with another first place.
    pub const fn with_first(word: u64, bit: u32, first: Option<u32>) -> u64 {
        let new = match first {
            None => 0,
            Some(place) => place as u64 + 1,
        };
        word & !(BITS << bit) | new << bit
    }

    const _: () = assert!((identity_slot::COUNT as u64) < BITS);
}

/// In the same tables, the place of the program that sees the records of TLS.
pub const RECORDS_SLOT: u32 = identity_slot::COUNT;

/// Places of such a table.
pub const TAIL_CALLS: u32 = RECORDS_SLOT + 1;

#[cfg(test)]
mod tests {
    use super::runtime_slots::{first, place, with_first};

    #[test]
    fn a_slot_keeps_its_first_place_and_no_neighbour_s() {
        let (word, bit) = place(0x1_0012);
        assert_eq!((word, bit), place(0x0012));
        assert_eq!(place(0x0013), (word, bit + 4));
        let held = with_first(with_first(0, bit, Some(7)), bit + 4, Some(0));
        assert_eq!([first(held, bit), first(held, bit + 4), first(held, bit + 8)], [Some(7), Some(0), None]);
        let left = with_first(with_first(held, bit, Some(5)), bit + 4, None);
        assert_eq!([first(left, bit), first(left, bit + 4)], [Some(5), None]);
        assert_eq!(with_first(left, bit, None), 0);
    }
}
