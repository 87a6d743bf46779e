//! How full a ring is, for a thread that does not read it.

use std::ffi::c_void;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

/// The position pages of a BPF ring: `consumer_pos` is at the start of its first page, `producer_pos` at that of the
/// second (kernel/bpf/ringbuf.c, `struct bpf_ringbuf`). Mapped for reading only, and for as long as this lives.
pub(super) struct Fill {
    pages: NonNull<c_void>,
    page_len: usize,
    /// Bytes that wait from which on they are not to wait longer.
    urgent: u64,
}

// SAFETY: the mapping belongs to nobody else, and is only read, atomically.
unsafe impl Send for Fill {}

// SAFETY: as above.
unsafe impl Sync for Fill {}

impl Fill {
    /// Of a ring that is not to be kept waiting once it holds `urgent` bytes.
    ///
    /// # Errors
    ///
    /// When the ring cannot be mapped.
    pub(super) fn of(ring: BorrowedFd<'_>, urgent: u64) -> io::Result<Self> {
        // SAFETY: takes no memory.
        let page_len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        // SAFETY: a new mapping of what the kernel allows to read, wherever there is room.
        let pages = unsafe {
            libc::mmap(ptr::null_mut(), 2 * page_len, libc::PROT_READ, libc::MAP_SHARED, ring.as_raw_fd(), 0)
        };
        match NonNull::new(pages) {
            Some(pages) if pages.as_ptr() != libc::MAP_FAILED => Ok(Self { pages, page_len, urgent }),
            Some(_) | None => Err(io::Error::last_os_error()),
        }
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.waiting() >= self.urgent
    }

    fn waiting(&self) -> u64 {
        let consumer = self.position(0);
        // Read after the consumer's, which is never ahead of it.
        self.position(self.page_len).wrapping_sub(consumer)
    }

    fn position(&self, at: usize) -> u64 {
        // SAFETY: the start of one of the two pages, which are aligned, mapped, and written by atomic stores.
        let position = unsafe { AtomicU64::from_ptr(self.pages.as_ptr().byte_add(at).cast()) };
        position.load(Ordering::Acquire)
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and nothing refers to it any more.
        unsafe { libc::munmap(self.pages.as_ptr(), 2 * self.page_len) };
    }
}

impl fmt::Debug for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fill").field("urgent", &self.urgent).finish_non_exhaustive()
    }
}
