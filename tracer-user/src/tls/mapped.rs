//! Which TLS libraries a process has mapped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tracer_abi::task::ProcessKey;

use super::library::{Inode, Library, inode};
use crate::process::procfs::ProcDir;

/// The kernel allows 65,530 mappings by default; a line is about 100 bytes.
const MAX_MAPS_BYTES: usize = 8 << 20;

/// `status` is about 1500 bytes, the tracer's pid in its first lines.
const MAX_STATUS_BYTES: usize = 4096;

/// Files that were looked at, whatever came of it.
pub(crate) type Known = BTreeMap<Inode, Result<Option<Arc<Library>>, String>>;

/// What was found in a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mapped {
    pub(crate) libraries: Vec<Arc<Library>>,
    /// What has plaintext and does not show it: name, and why.
    pub(crate) refused: Vec<(String, String)>,
    /// It switches or moves stacks: returns must not be caught.
    pub(crate) moves_stacks: bool,
}

/// Looks at a process. `None`: it has ended.
pub(crate) fn look(process: ProcessKey, known: &mut Known) -> Option<Mapped> {
    let dir = ProcDir::open_exactly(process).ok()?;
    let (maps, _) = dir.read("maps", MAX_MAPS_BYTES).ok()?;
    let mut mapped = Mapped::default();
    let maps = String::from_utf8_lossy(&maps);
    for line in Line::executable(&maps) {
        mapped.moves_stacks |= moves_stacks(line.name());
        if let Some(other) = other_stack(line.name()) {
            let reason = format!("{other} is not watched");
            if !mapped.refused.iter().any(|(path, _)| path == line.path) {
                mapped.refused.push((line.path.to_owned(), reason));
            }
        }
        // The mapping's own file, whatever has become of the path.
        let file = |line: &Line<'_>| dir.file(&format!("map_files/{}", line.range));
        if is_gnutls(line.name()) {
            let Ok(library) = file(&line) else { continue };
            let open = |library| Library::gnutls(library, Path::new(line.path)).map(Some);
            mapped.add(line.path, examine(library, known, open));
            continue;
        }
        if is_boringssl(line.name()) {
            let Ok(library) = file(&line) else { continue };
            let open = |library| Library::boringssl(library, Path::new(line.path)).map(Some);
            mapped.add(line.path, examine(library, known, open));
            continue;
        }
        if !is_openssl(line.name()) {
            continue;
        }
        let Ok(library) = file(&line) else { continue };
        let crypto = Line::executable(&maps).find(|other| other.is_beside(&line, "libcrypto"));
        let crypto = crypto.and_then(|line| file(&line).ok());
        let found = examine(library, known, |library| {
            Library::open(library, crypto.as_ref(), Path::new(line.path)).map(Some)
        });
        mapped.add(line.path, found);
    }
    if let (Ok(program), Ok(path)) = (dir.file("exe"), dir.link("exe")) {
        let found = examine(program, known, |program| Library::inside(program, &path));
        mapped.add(&path.to_string_lossy(), found);
    }
    if !mapped.libraries.is_empty() && is_debugged(&dir) {
        let reason = "another program debugs the process".to_owned();
        let names = mapped.libraries.drain(..).map(|library| library.path.display().to_string());
        mapped.refused.extend(names.map(|name| (name, reason.clone())).collect::<Vec<_>>());
    }
    Some(mapped)
}

impl Mapped {
    fn add(&mut self, path: &str, found: Result<Option<Arc<Library>>, String>) {
        match found {
            Ok(Some(library)) => {
                if !self.libraries.iter().any(|other| other.inode == library.inode) {
                    self.libraries.push(library);
                }
            }
            Ok(None) => {}
            Err(reason) => self.refused.push((path.to_owned(), reason)),
        }
    }
}

fn examine(
    file: File,
    known: &mut Known,
    open: impl FnOnce(File) -> anyhow::Result<Option<Library>>,
) -> Result<Option<Arc<Library>>, String> {
    let inode = inode(&file).map_err(|error| format!("{error:#}"))?;
    let found = known.entry(inode).or_insert_with(|| {
        open(file).map(|library| library.map(Arc::new)).map_err(|error| format!("{error:#}"))
    });
    found.clone()
}

/// A line of `maps`: `start-end perms offset device inode path`.
struct Line<'a> {
    range: &'a str,
    path: &'a str,
}

impl<'a> Line<'a> {
    fn executable(maps: &'a str) -> impl Iterator<Item = Self> {
        maps.lines().filter_map(|line| {
            let mut fields = line.splitn(6, ' ');
            let (range, permissions) = (fields.next()?, fields.next()?);
            let path = fields.nth(3)?.trim_start();
            (permissions.contains('x') && path.starts_with('/')).then_some(Self { range, path })
        })
    }

    /// A file whose name begins so, in the same folder.
    fn is_beside(&self, other: &Line<'_>, start: &str) -> bool {
        let folder = |line: &Line<'_>| Path::new(line.path).parent().map(Path::to_owned);
        self.name().starts_with(start) && folder(self) == folder(other)
    }

    fn name(&self) -> &'a str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(self.path);
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// `libssl.so.3`, and the copies that packages of other languages carry: `libssl-81ffa89e.so.3`.
fn is_openssl(name: &str) -> bool {
    name.strip_prefix("libssl")
        .is_some_and(|rest| rest.starts_with(".so") || rest.starts_with('-') && rest.contains(".so"))
}

/// Not `libgnutlsxx.so.30` and `libgnutls-dane.so.0`, which call it.
fn is_gnutls(name: &str) -> bool {
    name.starts_with("libgnutls.so")
}

/// netty's, which unpacks it under a name of its own each time.
fn is_boringssl(name: &str) -> bool {
    name.starts_with("libnetty_tcnative")
}

/// Libraries whose calls are not known here.
fn other_stack(name: &str) -> Option<&'static str> {
    const STACKS: [(&str, &str); 4] = [
        ("libssl3.so", "NSS"),
        ("libmbedtls.so", "Mbed TLS"),
        ("libwolfssl.so", "wolfSSL"),
        ("libjvm.so", "the Java runtime's own TLS"),
    ];
    STACKS.into_iter().find(|(start, _)| name.starts_with(start)).map(|(_, stack)| stack)
}

/// Libraries of coroutines that copy stacks, or give them to other threads.
fn moves_stacks(name: &str) -> bool {
    ["_greenlet", "libbrpc", "libbthread"].iter().any(|library| name.starts_with(library))
}

/// Its breakpoints are somebody else's.
pub(crate) fn is_debugged(dir: &ProcDir) -> bool {
    let Ok((status, _)) = dir.read("status", MAX_STATUS_BYTES) else { return false };
    let status = String::from_utf8_lossy(&status);
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_mappings_of_files_have_a_name() {
        let maps = "\
7f0000000000-7f0000001000 r--p 00000000 fe:00 2                    /lib/libssl.so.3
7f0000001000-7f0000002000 r-xp 00001000 fe:00 2                    /lib/libssl.so.3
7f0000003000-7f0000004000 r-xp 00001000 fe:00 2                    /a b/libssl-81ffa89e.so.3 (deleted)
7f0000005000-7f0000006000 r-xp 00000000 00:00 0                    [vdso]
rubbish
";
        let lines: Vec<(&str, &str)> = Line::executable(maps).map(|line| (line.range, line.name())).collect();
        assert_eq!(
            lines,
            [
                ("7f0000001000-7f0000002000", "libssl.so.3"),
                ("7f0000003000-7f0000004000", "libssl-81ffa89e.so.3")
            ]
        );
        assert!(lines.iter().all(|(_, name)| is_openssl(name)));
        assert!(!is_openssl("libssl3.so") && !is_openssl("libsslcommon.so") && !is_openssl("libcrypto.so.3"));
    }
}
