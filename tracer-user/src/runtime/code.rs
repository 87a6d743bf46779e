//! A place in the code of a process, as the kernel names one for a probe: a file, and where in it.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::process::procfs::ProcDir;
use crate::tls::is_debugged;

/// The kernel allows 65,530 mappings by default; a line is about 100 bytes.
const MAX_MAPS_BYTES: usize = 8 << 20;

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
        if is_debugged(dir) {
            // Its breakpoints are somebody else's.
            return Err("another program debugs the process");
        }
        Self::find(dir, address).ok_or("what submits to its pools is no code of a file")
    }

    fn find(dir: &ProcDir, address: u64) -> Option<Self> {
        let (maps, _) = dir.read("maps", MAX_MAPS_BYTES).ok()?;
        let maps = String::from_utf8_lossy(&maps);
        let (range, offset) = find(&maps, address)?;
        // The mapping's own file, whatever has become of the path.
        let file = dir.file(&format!("map_files/{range}")).ok()?;
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

/// Of lines `start-end perms offset device inode path`: the executable mapping of a file that has the address, and where in
/// the file that is.
fn find(maps: &str, address: u64) -> Option<(&str, u64)> {
    maps.lines().find_map(|line| {
        let mut fields = line.splitn(6, ' ');
        let (range, permissions) = (fields.next()?, fields.next()?);
        let (start, end) = range.split_once('-')?;
        let [start, end, offset] =
            [start, end, fields.next()?].map(|number| u64::from_str_radix(number, 16).ok());
        let inside = address.checked_sub(start?).filter(|_| end.is_some_and(|end| address < end))?;
        let is_file = fields.nth(2)?.trim_start().starts_with('/');
        (is_file && permissions.contains('x')).then_some((range, offset?.checked_add(inside)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_the_code_of_a_file_has_a_place_in_it() {
        let maps = "\
1000-2000 r--p 00000000 fe:00 2                    /lib/queue.so
2000-3000 r-xp 00001000 fe:00 2                    /lib/queue.so
3000-4000 r-xp 00000000 00:00 0                    [vdso]
rubbish
5000-6000 r-xp fffffffffffffff0 fe:00 2            /lib/odd.so
";
        assert_eq!(find(maps, 0x2010), Some(("2000-3000", 0x1010)));
        assert_eq!([0, 0x1010, 0x3000, 0x4000, 0x5010].map(|address| find(maps, address)), [None; 5]);
    }
}
