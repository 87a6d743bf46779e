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
    /// One of each function.
    pub(crate) offsets: Vec<u64>,
}

impl Code {
    /// Where the functions of one library begin that a process has at these addresses.
    ///
    /// # Errors
    /// When no probe can be there.
    pub(super) fn functions(dir: &ProcDir, addresses: &[u64]) -> Result<Self, &'static str> {
        if dir.is_debugged() {
            // Its breakpoints are somebody else's.
            return Err("another program debugs the process");
        }
        Self::find(dir, addresses).ok_or("the function is in no file")
    }

    fn find(dir: &ProcDir, addresses: &[u64]) -> Option<Self> {
        let maps = Maps::of(dir).ok()?;
        let mut code = maps.files().filter(|file| file.executable);
        let (first, _) = addresses.split_first()?;
        let mapped = code.find(|file| file.place(*first).is_some())?;
        let file = mapped.open(dir).ok()?;
        let begins = |address: &u64| {
            let offset = mapped.place(*address)?;
            let mut begin = [0; ENDBR64.len()];
            file.read_exact_at(&mut begin, offset).ok()?;
            Some(offset + if begin == ENDBR64 { ENDBR64.len() as u64 } else { 0 })
        };
        let offsets = addresses.iter().map(begins).collect::<Option<_>>()?;
        Some(Self { file, offsets })
    }

    /// A path to exactly this file, for as long as this is there.
    pub(crate) fn handle(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}
