//! Which TLS libraries a process has mapped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tracer_abi::task::ProcessKey;

use crate::process::maps::{Mapping, Maps};
use crate::process::procfs::ProcDir;
use tracer_elf::{Inode, Library, inode};

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
    let maps = Maps::of(&dir).ok()?;
    let code = || maps.files().filter(|file| file.executable);
    let mut mapped = Mapped::default();
    for file in code() {
        mapped.moves_stacks |= moves_stacks(file.name());
        if let Some(other) = other_stack(file.name()) {
            let reason = format!("{other} is not watched");
            if !mapped.refused.iter().any(|(path, _)| path == file.path) {
                mapped.refused.push((file.path.to_owned(), reason));
            }
        }
        if is_gnutls(file.name()) {
            let Ok(library) = file.open(&dir) else { continue };
            let open = |library| Library::gnutls(library, Path::new(file.path)).map(Some);
            mapped.add(file.path, examine(library, known, open));
            continue;
        }
        if is_boringssl(file.name()) {
            let Ok(library) = file.open(&dir) else { continue };
            let open = |library| Library::boringssl(library, Path::new(file.path)).map(Some);
            mapped.add(file.path, examine(library, known, open));
            continue;
        }
        if !is_openssl(file.name()) {
            continue;
        }
        let Ok(library) = file.open(&dir) else { continue };
        let crypto = code().find(|other| is_beside(other, &file, "libcrypto"));
        let crypto = crypto.and_then(|file| file.open(&dir).ok());
        let found = examine(library, known, |library| {
            Library::open(library, crypto.as_ref(), Path::new(file.path)).map(Some)
        });
        mapped.add(file.path, found);
    }
    if let (Ok(program), Ok(path)) = (dir.file("exe"), dir.link("exe")) {
        let found = examine(program, known, |program| Library::inside(program, &path));
        mapped.add(&path.to_string_lossy(), found);
    }
    if !mapped.libraries.is_empty() && dir.is_debugged() {
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

/// A file whose name begins so, in the same folder.
fn is_beside(file: &Mapping<'_>, other: &Mapping<'_>, start: &str) -> bool {
    file.name().starts_with(start) && Path::new(file.path).parent() == Path::new(other.path).parent()
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
        let maps = Maps::from(maps);
        let code = maps.files().filter(|file| file.executable);
        let names: Vec<&str> = code.map(|file| file.name()).collect();
        assert_eq!(names, ["libssl.so.3", "libssl-81ffa89e.so.3"]);
        assert!(names.into_iter().all(is_openssl));
        assert!(!is_openssl("libssl3.so") && !is_openssl("libsslcommon.so") && !is_openssl("libcrypto.so.3"));
    }
}
