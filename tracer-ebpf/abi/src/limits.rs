//! Every size that both sides share, each with the reason for its value.

/// Payload bytes captured from the start of a direction's turn, unless configured otherwise. Holds a request
/// head with large cookies: a `traceparent` header may lie several kilobytes in.
pub const DEFAULT_HEAD_BUDGET_BYTES: u32 = 8 * 1024;

/// The largest configurable head budget: the largest header block that the HTTP parser accepts.
pub const MAX_HEAD_BUDGET_BYTES: u32 = 64 * 1024;

/// Bytes captured from the end of every operation, whatever the budget: the last chunk of a chunked body
/// and its trailers are short.
pub const TAIL_BYTES: u32 = 256;

/// Payload bytes in one data record at most. Larger captures are split into several records of one operation.
pub const MAX_CHUNK_BYTES: u32 = 4096;

/// `sun_path` of `sockaddr_un` is 108 bytes; rounded up to keep records 8-aligned.
pub const UNIX_PATH_BYTES: usize = 112;

/// `TASK_COMM_LEN` of the kernel.
pub const COMM_BYTES: usize = 16;

/// Bytes of an executable's path carried by an exec record (`PATH_MAX` is 4096; longer ones are cut).
pub const EXEC_FILENAME_BYTES: u32 = 256;

/// Bytes of the argument vector carried by an exec record: enough to tell `python shop.py` from `python cart.py`.
pub const EXEC_ARGV_BYTES: u32 = 512;

/// Size of the data ring unless configured otherwise.
pub const DEFAULT_DATA_RING_BYTES: u32 = 16 << 20;

/// Size of the ring of wake-ups: 58,000 of them, a second's worth of a busy pool's. Their consumer is never woken for
/// them, and looks four times a second at the least.
pub const WAKE_RING_BYTES: u32 = 4 << 20;

/// What has to wait in the data ring for its consumer to be woken at once.
#[inline(always)]
pub const fn urgent_bytes(data_ring_bytes: u32) -> u32 {
    data_ring_bytes / 2
}

/// A CPU wakes the consumer of the data ring at most this often while less than [`urgent_bytes`] wait. The consumer
/// looks by itself for longer than this after it was woken.
pub const WAKE_INTERVAL_NANOS: u64 = 400_000_000;

/// How often a CPU looks whether [`urgent_bytes`] wait, when it wakes the consumer in any case: it may be asleep, and the
/// rest of the ring lasts for many times this at any rate.
pub const LOOK_INTERVAL_NANOS: u64 = 1_000_000;

/// Payload captured per turn of a socket whose traffic does not look like a known protocol, and from the operation
/// with which such a socket is muted: enough to name the protocol later.
pub const ODD_HEAD_BYTES: u32 = 256;

/// Turns in a row that do not look like a known protocol, after which a socket older than the tracer is muted, or a session
/// of TLS: it may have been met in the middle of a body.
pub const ODD_TURNS_UNKNOWN: u32 = 8;

/// The same for a socket that spoke HTTP before: it was upgraded or tunnels something else. Up to then an exchange
/// that talks in both directions at once is followed.
pub const ODD_TURNS_HTTP: u32 = 64;

/// Steps of walking the frames of one operation: some for each frame and each element of a scatter-gather array, so that
/// 64 KiB of the shortest frames are walked.
pub const MAX_FRAME_STEPS: u32 = 16 << 10;

/// Bytes of each direction of an HTTP/2 connection older than the tracer of which nothing is left out: user space finds the
/// place of frames in them, for which it needs more than the longest frame that is usual.
pub const JOINED_WHOLE_BYTES: u32 = 48 << 10;

/// Steps of walking a program's scatter-gather array and emitting what lies there: 16 chunks of the largest head, a
/// tail, and as many elements again as a program plausibly passes.
pub const MAX_CHUNK_STEPS: u32 = 96;

/// Bytes captured from the start of each direction of a TLS connection: they hold the hello of either side, which is not
/// encrypted (RFC 8446 section 4.1).
pub const HELLO_BYTES: u32 = 1024;

/// Headers of TLS records looked for in one operation: as many as short records of 512 bytes in a read of 16 KiB, twice
/// over, and as many seals and pieces of its buffer. Beyond them it is not known where records begin.
pub const MAX_RECORD_STEPS: u32 = 256;

/// What the kernel half keeps of a TLS session. User space only removes it.
pub const SESSION_BYTES: usize = 264;

/// What the kernel half keeps of a goroutine's call of `crypto/tls`. User space only removes it.
pub const GO_CALL_BYTES: usize = 104;
