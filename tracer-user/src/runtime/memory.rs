//! Memory of a running process, read through `/proc/PID/mem`: the process is not stopped and does not notice.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use tracer_abi::python::Memory;

/// What can be read of a process beyond words.
pub(super) trait Bytes: Memory {
    /// Fills the buffer, or says that it could not.
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool;

    fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(address, &mut bytes).then_some(bytes)
    }
}

/// Implements [`Memory`] by [`Bytes`]: what cannot be read is zero.
macro_rules! memory_by_bytes {
    ($memory:ty) => {
        impl tracer_abi::python::Memory for $memory {
            fn word(&self, address: u64) -> u64 {
                self.bytes(address).map_or(0, u64::from_le_bytes)
            }

            fn half(&self, address: u64) -> u32 {
                self.bytes(address).map_or(0, u32::from_le_bytes)
            }

            fn byte(&self, address: u64) -> u8 {
                self.bytes(address).map_or(0, |[byte]| byte)
            }
        }
    };
}
#[cfg(test)]
pub(super) use memory_by_bytes;

#[derive(Debug)]
pub(super) struct ProcessMemory(File);

impl ProcessMemory {
    pub(super) const fn new(mem: File) -> Self {
        Self(mem)
    }
}

impl Bytes for ProcessMemory {
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.0.read_exact_at(buffer, address).is_ok()
    }
}

memory_by_bytes!(ProcessMemory);
