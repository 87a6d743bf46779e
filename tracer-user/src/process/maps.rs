//! What a process has mapped of files: the lines of its `maps` (proc_pid_maps(5)).

use std::fs::File;
use std::io;
use std::ops::Range;

use super::procfs::ProcDir;

/// The kernel allows 65,530 mappings by default; a line is about 100 bytes.
const MAX_BYTES: usize = 8 << 20;

/// The text, to be read line by line.
#[derive(Debug)]
pub(crate) struct Maps(String);

/// A mapping of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping<'a> {
    pub(crate) addresses: Range<u64>,
    pub(crate) executable: bool,
    /// Of the file, what is mapped at the first address.
    pub(crate) offset: u64,
    /// Where the file was, and ` (deleted)` if it is there no more.
    pub(crate) path: &'a str,
}

impl Maps {
    /// # Errors
    /// `ESRCH` when the process has ended.
    pub(crate) fn of(dir: &ProcDir) -> io::Result<Self> {
        let (bytes, _) = dir.read("maps", MAX_BYTES)?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Mappings of files, in the order of their addresses.
    pub(crate) fn files(&self) -> impl Iterator<Item = Mapping<'_>> {
        self.0.lines().filter_map(Mapping::parse)
    }
}

impl<'a> Mapping<'a> {
    /// `start-end perms offset device inode path`; `None` for one of no file.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (text, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let path = fields.nth(2)?.trim_start();
        let (start, end) = text.split_once('-')?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let (addresses, offset) = (number(start)?..number(end)?, number(offset)?);
        let executable = permissions.contains('x');
        path.starts_with('/').then_some(Self { addresses, executable, offset, path })
    }

    /// The file itself, whatever has become of its path.
    ///
    /// # Errors
    /// When the process has ended, or has the mapping no more.
    pub(crate) fn open(&self, dir: &ProcDir) -> io::Result<File> {
        dir.file(&self.link())
    }

    /// Unlike in `maps`, a low address has no zeros before it there.
    fn link(&self) -> String {
        format!("map_files/{:x}-{:x}", self.addresses.start, self.addresses.end)
    }

    /// The file's name without its folder.
    pub(crate) fn name(&self) -> &'a str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(self.path);
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Where in the file the byte is that is mapped at an address; `None` if that is outside.
    pub(crate) fn place(&self, address: u64) -> Option<u64> {
        let inside = address.checked_sub(self.addresses.start).filter(|_| address < self.addresses.end)?;
        self.offset.checked_add(inside)
    }
}

#[cfg(test)]
impl From<&str> for Maps {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use tracer_abi::task::Tgid;

    use super::*;

    #[test]
    fn mappings_of_files_and_of_nothing_else() {
        let maps = Maps::from(
            "\
00400000-00420000 r--p 00000000 fe:00 1                                  /usr/bin/a b
00420000-00600000 r-xp 00020000 fe:00 1                                  /usr/bin/a b
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
7f0000003000-7f0000004000 r-xp 00001000 fe:00 2                          /lib/libssl-8.so.3 (deleted)
7fff00000000-7fff00001000 rw-p 00000000 00:00 0                          [stack]
rubbish
5000-zzzz r-xp 00000000 fe:00 2 /lib/odd.so
5000-6000 r-xp
6000-7000 r-xp fffffffffffffff0 fe:00 2 /lib/odd.so
",
        );
        let files: Vec<_> =
            maps.files().map(|file| (file.addresses.start, file.executable, file.name())).collect();
        let expected = [
            (0x40_0000, false, "a b"),
            (0x42_0000, true, "a b"),
            (0x7f00_0000_3000, true, "libssl-8.so.3"),
            (0x6000, true, "odd.so"),
        ];
        assert_eq!(files, expected);
        assert_eq!(maps.files().next().unwrap().link(), "map_files/400000-420000");
        let places = |address| maps.files().filter_map(|file| file.place(address)).collect::<Vec<_>>();
        assert_eq!(places(0x40_0000), [0]);
        assert_eq!(places(0x42_0010), [0x2_0010]);
        // Nothing is behind the last mapping's end, nor beyond what a number can say.
        assert!([0x60_0000, 0x6010, 0].into_iter().all(|address| places(address).is_empty()));
    }

    #[test]
    fn the_file_is_the_one_that_is_mapped() {
        let own = ProcDir::open(Tgid(std::process::id())).unwrap();
        let maps = Maps::of(&own).unwrap();
        let code = the_file_is_the_one_that_is_mapped as fn() as usize as u64;
        let (place, file) = maps.files().find_map(|file| Some((file.place(code)?, file))).unwrap();
        assert!(file.executable && place > 0);
        let found = file.open(&own).unwrap().metadata().unwrap();
        let executable = std::fs::metadata("/proc/self/exe").unwrap();
        assert_eq!(found.len(), executable.len());
    }
}
