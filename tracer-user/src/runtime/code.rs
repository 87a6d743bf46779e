//! A place in the code of a process, as the kernel names one for a probe: a file, and where in it.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::process::maps::Maps;
use crate::process::procfs::ProcDir;

/// What compilers begin functions with that may be called through a pointer. The kernel does not emulate it under a probe,
/// but what comes behind it, as a rule.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

#[derive(Debug)]
pub(crate) struct Code {
    file: File,
    pub(crate) offset: u64,
}

impl Code {
    /// Where a function begins that a process has at an address.
    ///
    /// # Errors
    /// When no probe can be there.
    pub(super) fn function(dir: &ProcDir, address: u64) -> Result<Self, &'static str> {
        if dir.is_debugged() {
            // Its breakpoints are somebody else's.
            return Err("another program debugs the process");
        }
        Self::find(dir, address).ok_or("the function is in no file")
    }

    fn find(dir: &ProcDir, address: u64) -> Option<Self> {
        let maps = Maps::of(dir).ok()?;
        let mut code = maps.files().filter(|file| file.executable);
        let (file, offset) = code.find_map(|file| {
            let offset = file.place(address)?;
            Some((file.open(dir), offset))
        })?;
        let file = file.ok()?;
        let mut begin = [0; ENDBR64.len()];
        file.read_exact_at(&mut begin, offset).ok()?;
        let behind = if begin == ENDBR64 { ENDBR64.len() as u64 } else { 0 };
        Some(Self { file, offset: offset + behind })
    }

    /// A path to exactly this file, for as long as this is there.
    pub(crate) fn handle(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}
