//! Every map: key → value, who writes, who reads, its bound and why. And the globals that the loader writes.
//!
//! Names are at most 15 characters, so that bpftool shows them whole, and start with `TRACER`, so that a leak would
//! be seen. Nothing is pinned: all of it goes when the tracer's file descriptors go.

use core::ffi::c_void;
use core::ptr::null_mut;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use tracer_abi::config::{Config, Followed, Offsets, PORTS, PREFILTER_SLOTS, ProcessState, runtime_slots};
use tracer_abi::conn::Endpoint;
use tracer_abi::error::KernelLoss;
use tracer_abi::event::DataRecord;
use tracer_abi::golang::GoProcess;
use tracer_abi::greenlet::GreenletProcess;
use tracer_abi::java::JavaProcess;
use tracer_abi::java_waits::JavaWaits;
use tracer_abi::java_work::JavaThread;
use tracer_abi::limits::{GO_CALL_BYTES, SESSION_BYTES, WAKE_RING_BYTES};
use tracer_abi::nginx::NginxProcess;
use tracer_abi::openssl::{MAX_LAYOUTS, OpenSslLayout};
use tracer_abi::python::{PythonProcess, TaskId};
use tracer_abi::python_streams::Written;
use tracer_abi::python_waits::{PythonWaits, Waiting};
use tracer_abi::python_work::Futures;
use tracer_abi::tokio::TokioProcess;

use crate::chunks::Walk;
use crate::framing::{self, Frames};
use crate::identity;
use crate::kernel::Task;
use crate::regs::{ELEMENTS, UserBuffer};
use crate::tls;

/// Set by the loader before the programs load.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Config = Config::ZERO;

/// Set by the loader before the programs load.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::ZERO;

/// A field of [`CONFIG`] as the loader set it; a constant to the verifier.
macro_rules! config {
    ($field:ident) => {
        crate::maps::as_loaded(&crate::maps::CONFIG.$field)
    };
}
pub(crate) use config;

/// A field of [`OFFSETS`] as the loader set it; a constant to the verifier.
macro_rules! offset {
    ($field:ident) => {
        crate::maps::as_loaded(&crate::maps::OFFSETS.$field)
    };
}
pub(crate) use offset;

/// Reads a global that the loader has replaced: the compiler must not fold the value it sees.
#[inline(always)]
pub(crate) fn as_loaded(global: &'static u32) -> u32 {
    // SAFETY: a valid reference.
    unsafe { (&raw const *global).read_volatile() }
}

/// Operations of traced sockets. Written here, read by the tracer. The loader sets the size (8 MiB unless
/// configured): a consumer that is late by 10 ms loses nothing below 800 MB/s of captured bytes.
#[map]
pub(crate) static TRACER_DATA: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Life cycle of processes and connections, apart from the data so that a flood there cannot starve it. Written
/// here, read by the tracer. 512 KiB hold about 2000 connections opened between two reads.
#[map]
pub(crate) static TRACER_CTRL: RingBuf = RingBuf::with_byte_size(512 << 10, 0);

/// `KernelLoss` → count, per CPU. Written here, read by the tracer.
#[map]
static TRACER_STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(KernelLoss::ALL.len() as u32, 0);

/// Thread group id → what is traced. Written by both sides, read here. 16,384 processes: half of the default
/// `pid_max`.
#[map]
pub(crate) static TRACER_PROCS: HashMap<u32, ProcessState> = HashMap::with_max_entries(16 << 10, 0);

/// Which slots of thread group ids the loader has entered into [`TRACER_PROCS`], one bit each. Written by the
/// tracer only, read here.
#[map]
pub(crate) static TRACER_USLOTS: Array<u64> = Array::with_max_entries(PREFILTER_SLOTS / 64, 0);

/// How many entries of [`TRACER_PROCS`] in each slot were made here (fork, exec). Written and read here only: two
/// writers of one word could undo each other's work.
#[map]
pub(crate) static TRACER_KSLOTS: Array<[u32; PREFILTER_SLOTS as usize]> = Array::with_max_entries(1, 0);

/// TCP ports whose new listeners are captured until user space has decided, one bit each. Written by the tracer, read
/// here.
#[map]
pub(crate) static TRACER_PORTS: Array<u64> = Array::with_max_entries(PORTS / 64, 0);

/// Addresses of the tracer's own TCP connections, as their peers see them. A connection whose remote end is in
/// here is never reported. Written and read here. 1024: the exporter holds one or two.
#[map]
pub(crate) static TRACER_SELF: LruHashMap<SelfKey, u8> = LruHashMap::with_max_entries(1024, 0);

/// Which Unix sockets a walk lists: those whose cookie under the mask in the lower half is the upper half. Written by
/// the tracer before each walk, read here.
#[map]
pub(crate) static TRACER_WALK: Array<u64> = Array::with_max_entries(1, 0);

/// What this CPU last did to have the data ring read. Written and read here.
#[map]
pub(crate) static TRACER_WAKE: PerCpuArray<Wake> = PerCpuArray::with_max_entries(1, 0);

/// Thread group id → where CPython keeps its tasks. Written by the tracer, but for what looking cost; read here. 4096:
/// processes that run an event loop, at 280 bytes each.
#[map]
pub(crate) static TRACER_PYTHON: HashMap<u32, PythonProcess> = HashMap::with_max_entries(4096, 0);

/// Address of a socket → who has written what it sends next, of loops that send later. Written and read here. 4096: those that
/// are written to in one turn of a loop, at 160 bytes each; what is pushed out has no parent.
#[map]
pub(crate) static TRACER_PYWROTE: LruHashMap<u64, Written> = LruHashMap::with_max_entries(4096, 0);

/// Thread group id → where Go keeps its goroutines. As [`TRACER_PYTHON`], at 80 bytes each.
#[map]
pub(crate) static TRACER_GO: HashMap<u32, GoProcess> = HashMap::with_max_entries(4096, 0);

/// Thread group id → where tokio keeps its tasks, written by the tracer, and what was learned of them, written here. 1024, at
/// 400 bytes each.
#[map]
pub(crate) static TRACER_TOKIO: HashMap<u32, TokioProcess> = HashMap::with_max_entries(1024, 0);

/// Thread group id → where greenlets are kept. As [`TRACER_PYTHON`], at 40 bytes each.
#[map]
pub(crate) static TRACER_GREENLET: HashMap<u32, GreenletProcess> = HashMap::with_max_entries(4096, 0);

/// Thread group id → where HotSpot keeps its threads. As [`TRACER_PYTHON`], at 64 bytes each.
#[map]
pub(crate) static TRACER_JAVA: HashMap<u32, JavaProcess> = HashMap::with_max_entries(4096, 0);

/// Thread group id → a process of nginx, written by the tracer, and what was found in it, written here. 4096, at 40 bytes
/// each.
#[map]
pub(crate) static TRACER_NGINX: HashMap<u32, NginxProcess> = HashMap::with_max_entries(4096, 0);

/// Thread group id → where CPython keeps what its threads wait for. Written by the tracer, but for what looking cost; read
/// here. As many as there are in [`TRACER_HANDOFF`].
#[map]
pub(crate) static TRACER_PYWAITS: HashMap<u32, PythonWaits> = HashMap::with_max_entries(1024, 0);

/// Thread group id → where HotSpot keeps what its threads wait for. As [`TRACER_PYWAITS`].
#[map]
pub(crate) static TRACER_JVWAITS: HashMap<u32, JavaWaits> = HashMap::with_max_entries(1024, 0);

/// Which slots of thread group ids are in [`TRACER_PYTHON`] and its like: see [`runtime_slots`]. Written by the tracer, read
/// here.
#[map]
pub(crate) static TRACER_RTSLOTS: Array<u64> = Array::with_max_entries(runtime_slots::WORDS, 0);

/// Socket → its streams. Written and read here; lives and dies with the socket.
#[btf_map]
static TRACER_SOCKS: LocalStorage<SockState, { bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize }> =
    LocalStorage::new();

/// Thread → its event number. Written and read here; lives and dies with the thread.
#[btf_map]
static TRACER_TASKS: LocalStorage<TaskState, { bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize }> =
    LocalStorage::new();

/// Wake-ups of threads by others of their process, apart from the data so that a flood here cannot starve it. Written
/// here, read by the tracer.
#[map]
pub(crate) static TRACER_WOKEN: RingBuf = RingBuf::with_byte_size(WAKE_RING_BYTES, 0);

/// Thread group id → a process whose hand-offs are followed. Entered and removed by the tracer, read here, counts
/// written here. 1024: each costs something at every wake-up, which is what bounds their number in practice.
#[map]
pub(crate) static TRACER_HANDOFF: HashMap<u32, Followed> = HashMap::with_max_entries(1024, 0);

/// How many processes are followed, so that operations of others look nothing up. Written by the tracer, read here.
#[map]
pub(crate) static TRACER_FOLLOWS: Array<u32> = Array::with_max_entries(1, 0);

/// Thread → its sleep. Written and read here; lives and dies with the thread.
#[btf_map]
static TRACER_SLEEPS: LocalStorage<SleepState, { bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize }> =
    LocalStorage::new();

/// What the kernel half remembers of a thread of a process whose hand-offs are followed.
#[repr(C)]
pub(crate) struct SleepState {
    /// Since when it sleeps. Zero: it runs or may run, or it was not seen to fall asleep.
    pub(crate) since: u64,
    /// Number of the last wake-up that it caused and that was to be reported.
    pub(crate) woke: u32,
    /// What it slept for since it used a socket last that is reported: bits of `io_flags`.
    pub(crate) waits: u32,
    /// One more than the descriptor that it last slept for alone. Zero: it has used a socket since.
    pub(crate) awaited: u32,
    pub(crate) reserved: u32,
    /// For the programs that say what a thread that it wakes has waited for.
    pub(crate) waiting: Waiting,
    pub(crate) futures: Futures,
}

/// Thread of HotSpot → what is remembered of it. Apart from its sleep, which is noted of all that are woken: the kernel has
/// room at hand there for several small entries, and for hardly more than one large one.
#[btf_map]
static TRACER_JVTHREADS: LocalStorage<JavaThread, { bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize }> =
    LocalStorage::new();

/// Value of [`TRACER_WAKE`]: times.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Wake {
    /// When the consumer was woken.
    pub(crate) woken: u64,
    /// When it was found out how much waits for it.
    pub(crate) looked: u64,
}

/// Thread group ids of processes whose TLS library is watched → `tls_stacks`. Written by the tracer, read here. 16,384, as
/// [`TRACER_PROCS`].
#[map]
pub(crate) static TRACER_TLS: HashMap<u32, u8> = HashMap::with_max_entries(16 << 10, 0);

/// Number of a layout → it, from 1 on. Written by the tracer, read here.
#[map]
pub(crate) static TRACER_OPENSSL: Array<OpenSslLayout> = Array::with_max_entries(MAX_LAYOUTS, 0);

/// TLS session → its plaintext streams. Written and read here; the tracer removes those of processes that ended. Of the
/// 65,536 only those in use take memory: connections held open by a busy server.
#[map]
pub(crate) static TRACER_SESSION: HashMap<SessionKey, SockState> =
    HashMap::with_max_entries(64 << 10, BPF_F_NO_PREALLOC);

const _: () = assert!(size_of::<SockState>() == SESSION_BYTES);

/// What encrypts or decrypts for rustls → the streams of that direction, which are a session's of their own. Written and read
/// here. Nothing is seen of their end, so the oldest give way; one that comes back begins anew. 8,192 take 3 MB: those of
/// 4,096 connections in use at once.
#[map]
pub(crate) static TRACER_HALVES: LruHashMap<SessionKey, SockState> = LruHashMap::with_max_entries(8 << 10, 0);

/// Goroutine → the call of `crypto/tls` that it is in. Written and read here; the tracer removes those of processes that
/// ended. As many as sessions: each may have one that waits for what comes next.
#[map]
pub(crate) static TRACER_GOCALL: HashMap<GoroutineKey, tls::GoCall> =
    HashMap::with_max_entries(64 << 10, BPF_F_NO_PREALLOC);

const _: () = assert!(size_of::<tls::GoCall>() == GO_CALL_BYTES);

/// Key of [`TRACER_GOCALL`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct GoroutineKey {
    /// Its address in the process.
    pub(crate) goroutine: u64,
    pub(crate) tgid: u32,
    pub(crate) reserved: u32,
}

/// Key of [`TRACER_SESSION`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct SessionKey {
    /// Its address in the process.
    pub(crate) session: u64,
    pub(crate) tgid: u32,
    pub(crate) reserved: u32,
}

/// Key of [`TRACER_SELF`].
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct SelfKey {
    pub(crate) endpoint: Endpoint,
    /// Namespace inode for loopback addresses, which mean another host in every namespace; else zero.
    pub(crate) netns: u32,
}

/// What the kernel half remembers of a socket.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct SockState {
    /// Zero: not asked for yet.
    pub(crate) cookie: u64,
    pub(crate) egress: StreamState,
    pub(crate) ingress: StreamState,
    /// `sock_flags`
    pub(crate) flags: u32,
    /// Payload bytes that this turn may still capture.
    pub(crate) head_left: u32,
    /// Last error reported, so that a program that retries in a loop is reported once.
    pub(crate) last_error: i32,
    /// Turns in a row that did not look like HTTP.
    pub(crate) odd_turns: u32,
    /// 1 + `Direction` of the current turn; zero before the first.
    pub(crate) turn: u8,
    /// `Class` of the current turn.
    pub(crate) turn_class: u8,
    /// `Class` of the socket.
    pub(crate) class: u8,
    /// `Role`
    pub(crate) role: u8,
    /// Valid bytes of `prefix`.
    pub(crate) prefix_len: u32,
    /// First bytes of the current turn, the first one lowest.
    pub(crate) prefix: u64,
    /// The task that began the last turn of egress; of a runtime whose tasks are known. Of nginx: what epoll was given for the
    /// socket, and its descriptor.
    pub(crate) sender: TaskId,
    /// Of a TLS connection: where the records of each direction are. Indexed by `Direction`.
    pub(crate) records: [tls::Place; 2],
}

/// One direction of a socket.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct StreamState {
    /// Bytes moved since stream position 0.
    pub(crate) bytes: u64,
    /// TCP: sequence number of the next byte.
    pub(crate) next_seq: u32,
    /// Bytes moved but not yet reported, because the kernel announced that more of the same call follow.
    pub(crate) unreported: u32,
    /// HTTP/2.
    pub(crate) frames: Frames,
}

/// Bits of [`SockState::flags`].
pub(crate) mod sock_flags {
    /// `next_seq` of both directions is that of stream position 0.
    pub(crate) const OPEN_SEEN: u32 = 1;
    /// ConnOpened was emitted.
    pub(crate) const ANNOUNCED: u32 = 1 << 1;
    /// Only byte counters are kept.
    pub(crate) const MUTED: u32 = 1 << 2;
    /// Stream position 0 is not the first byte.
    pub(crate) const PREEXISTING: u32 = 1 << 3;
    /// The end of the ingress stream was reported.
    pub(crate) const ENDED: u32 = 1 << 4;
    /// It is over: ConnClosed was emitted, if it was announced.
    pub(crate) const CLOSED: u32 = 1 << 5;
    /// The other end is the tracer.
    pub(crate) const SELF: u32 = 1 << 6;
    /// Of a TLS session: SessionSecured was emitted.
    pub(crate) const SECURED: u32 = 1 << 7;
    /// Of a TLS session of Go: a goroutine is in a call that sends.
    pub(crate) const SENDS: u32 = 1 << 8;
    /// The same, and what it sent may have been answered: something was received meanwhile.
    pub(crate) const ANSWERED: u32 = 1 << 9;
}

/// What the kernel half remembers of a thread.
#[repr(C)]
pub(crate) struct TaskState {
    /// Number of the last event.
    pub(crate) seq: u32,
    /// Which message of a `sendmmsg` or `recvmmsg` comes next, and of which array.
    pub(crate) mmsg_index: u32,
    pub(crate) mmsg_array: u64,
    /// The operation that is being reported.
    pub(crate) op: Operation,
    /// For the programs that say whose work it was.
    pub(crate) walk: identity::Walk,
    pub(crate) polled: identity::Polled,
    /// The call of a TLS library that it is in.
    pub(crate) call: tls::Call,
    /// That of a goroutine which begins on it.
    pub(crate) go_call: tls::GoCall,
    pub(crate) ciphertext: tls::Report,
    /// A record that rustls encrypts or decrypts on it.
    pub(crate) sealing: tls::Sealing,
}

/// Bytes of an operation that is captured in one piece: holds most heads.
pub(crate) const SHORT: usize = 1024;

/// One operation, while the parts of the core hand it on. It lives in the thread's own storage, where nothing else can
/// touch it. There is a second reason: the verifier follows every combination of values that it knows, and what it
/// loads from a map it does not know. On the stack, the same code takes it twenty times as long.
#[repr(C)]
pub(crate) struct Operation {
    pub(crate) record: DataRecord,
    /// Of a short operation, its bytes. Twice the room: the verifier sees that neither place nor length of a piece exceeds
    /// [`SHORT`], but not that their sum does not.
    pub(crate) payload: [u8; 2 * SHORT],
    pub(crate) buffer: UserBuffer,
    /// Result of the operation, or of the several that are reported as one.
    pub(crate) ret: i32,
    /// Bytes moved.
    pub(crate) total: u32,
    /// Of these, moved by operations before this one.
    pub(crate) gathered: u32,
    /// Message flags that the trigger knows.
    pub(crate) message_flags: u32,
    /// Those that say that bytes were discarded instead of copied.
    pub(crate) discard_flags: u32,
    /// Not zero: it was reported, and whose work it was is worth knowing.
    pub(crate) identify: u32,
    /// Flags of the socket's open file.
    pub(crate) file_flags: u32,
    /// The first elements of the scatter-gather array, empty ones where there is none or it could not be read.
    pub(crate) elements: [[u64; 2]; ELEMENTS as usize],
    /// Its first bytes once they are copied, the first one lowest, and how many.
    pub(crate) start: u64,
    pub(crate) start_len: u32,
    /// Not zero: what of it is captured was decided.
    pub(crate) planned: u32,
    pub(crate) walk: Walk,
    pub(crate) frame_walk: framing::Walk,
}

/// Counts a loss.
#[inline(always)]
pub(crate) fn count(loss: KernelLoss) {
    if let Some(counter) = TRACER_STATS.get_ptr_mut(loss.code()) {
        // SAFETY: a valid slot of this CPU. A preempting program may race with the addition; what is lost then
        // is one count, never memory safety.
        unsafe { *counter += 1 };
    }
}

/// State of a socket; `create` makes it when absent.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier tracks.
#[inline(always)]
pub(crate) unsafe fn sock_state(sk: *const c_void, create: bool) -> Option<&'static mut SockState> {
    let flags = if create { u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: the caller promises a tracked pointer. The reference is not exclusive: another CPU may use the same
    // socket at the same time. All fields are plain integers, and a torn update costs accuracy of one operation.
    unsafe {
        helpers::bpf_sk_storage_get(
            (&raw const TRACER_SOCKS).cast_mut().cast(),
            sk.cast_mut(),
            null_mut(),
            flags,
        )
        .cast::<SockState>()
        .as_mut()
    }
}

/// State of the current thread, made when absent. `task` must be the current one.
#[inline(always)]
pub(crate) fn task_state(task: Task) -> Option<&'static mut TaskState> {
    // SAFETY: the current task is a tracked pointer; only its own thread uses its state.
    unsafe {
        helpers::bpf_task_storage_get(
            (&raw const TRACER_TASKS).cast_mut().cast(),
            task.0.cast_mut().cast(),
            null_mut(),
            u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE),
        )
        .cast::<TaskState>()
        .as_mut()
    }
}

/// Sleep of a thread; `create` makes its state when absent.
///
/// # Safety
///
/// `task` must be a pointer that the verifier tracks. Making states allocates memory, which must not be done while a run
/// queue is locked: an allocation may wake the kernel's page reclaim.
#[inline(always)]
pub(crate) unsafe fn sleep_state(task: Task, create: bool) -> Option<&'static mut SleepState> {
    let flags = if create { u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: as the caller promises. The reference is not exclusive; all fields are plain integers, and each is
    // written in one context only: `since` while the thread is switched, the others by the thread itself.
    unsafe {
        helpers::bpf_task_storage_get(
            (&raw const TRACER_SLEEPS).cast_mut().cast(),
            task.0.cast_mut().cast(),
            null_mut(),
            flags,
        )
        .cast::<SleepState>()
        .as_mut()
    }
}

/// What is remembered of a thread of HotSpot. None: nothing, and no room.
///
/// # Safety
///
/// As [`sleep_state`].
#[inline(always)]
pub(crate) unsafe fn java_thread(task: Task, create: bool) -> Option<&'static mut JavaThread> {
    let flags = if create { u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: as the caller promises. The reference is not exclusive; all fields are plain integers.
    unsafe {
        helpers::bpf_task_storage_get(
            (&raw const TRACER_JVTHREADS).cast_mut().cast(),
            task.0.cast_mut().cast(),
            null_mut(),
            flags,
        )
        .cast::<JavaThread>()
        .as_mut()
    }
}

/// Definition of a map whose values are attached to kernel objects, in the form that loaders read from type
/// information. aya-ebpf has one for sockets, usable in one program type only, and none for tasks.
#[repr(C)]
struct LocalStorage<T, const TYPE: usize> {
    r#type: *const [i32; TYPE],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

impl<T, const TYPE: usize> LocalStorage<T, TYPE> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

// SAFETY: the pointers are placeholders that nothing dereferences.
unsafe impl<T, const TYPE: usize> Sync for LocalStorage<T, TYPE> {}
